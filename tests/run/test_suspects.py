"""Label errors and duplicates: ranked by what a run's training gave away."""

import csv
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from dpet_jax.cli import main
from dpet_jax.config.load import validate
from dpet_jax.errors import UserError
from dpet_jax.methods.base import TrainResult
from dpet_jax.report.suspects import write_suspects
from dpet_jax.run import experiment
from dpet_jax.run.folder import read_events
from dpet_jax.run.history import LossHistory
from dpet_jax.run.suspects import (
    Duplicates,
    exact_duplicates,
    find_suspects,
    near_duplicates,
    rank_labels,
)

CONFIG = {
    "name": "noisy",
    "data": {"kind": "digits", "label_noise": 0.1},
    "model": {"kind": "linear", "n_linear": 1},
    "train": {
        "batch_size": 32,
        "optimizer": {"kind": "sgd", "learning_rate": 0.05},
        "augment": {"translate": 0},
    },
    "method": {"kind": "standard", "passes": 6},
    "evaluate": {"every": 1},
    "checkpoint": {"every_s": 1000},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("noisy")
    return experiment.run(validate(CONFIG, "test"), out).folder


@pytest.fixture(scope="module")
def found(folder):
    return find_suspects(folder, near=0.97)


# what a run keeps


def looked(losses, margins=None):
    losses = np.asarray(losses, np.float32)
    if margins is not None:
        margins = np.asarray(margins, np.float32)
    no = np.zeros(losses.size)
    return TrainResult(np.arange(losses.size), losses, no > 0, no, margins)


def test_a_history_is_the_mean_over_looks_at_which_an_example_had_a_loss():
    history = LossHistory.begin(3, margins=True)
    history = history.after(looked([2.0, np.inf, np.inf], [1.0, np.inf, np.inf]))
    history = history.after(looked([1.0, 5.0, np.inf], [0.5, 2.0, np.inf]))
    means = history.means()
    np.testing.assert_array_equal(history.looks, [2, 1, 0])
    np.testing.assert_array_equal(means["mean_loss"], [1.5, 5.0, np.nan])
    np.testing.assert_array_equal(means["mean_margin"], [0.75, 2.0, np.nan])
    assert [*LossHistory.begin(3, margins=False).means()] == ["mean_loss"]


def test_a_run_keeps_what_training_said_of_every_example(folder):
    with np.load(folder / "losses.npz") as losses:
        losses = dict(losses)
    assert set(losses) == {
        *("source_rows", "labels", "loss", "correct", "forgetting"),
        *("looks", "mean_loss"),
    }
    looks = [
        e for e in read_events(folder / "events.jsonl") if e["event"] == "evaluate"
    ]
    assert (losses["looks"] == len(looks)).all()
    assert losses["loss"].shape == (1455,)
    # the losses fall, so that the mean of the whole run is above the last one
    assert losses["mean_loss"].mean() > 1.1 * losses["loss"].mean()
    assert (losses["loss"] > 0).all()
    # a step's prediction and its loss are of one forward pass
    assert (losses["loss"][~losses["correct"]] > np.log(2) - 1e-6).all()


# label errors


def test_labels_are_ranked_by_the_best_that_is_known():
    losses = {
        "source_rows": np.array([10, 11, 12, 13]),
        "labels": np.arange(4, dtype=np.int32),
        "loss": np.array([1.0, 3.0, 2.0, np.inf], np.float32),
    }
    ranked, count = rank_labels(losses, 1.0)
    assert (count, ranked.by) == (3, "last loss")
    np.testing.assert_array_equal(ranked.rows, [11, 12, 10])
    np.testing.assert_array_equal(ranked.labels, [1, 2, 0])
    losses["mean_loss"] = np.array([4.0, 1.0, 4.0, np.nan], np.float32)
    ranked, _ = rank_labels(losses, 0.67)
    assert ranked.by == "loss, mean over the run"
    np.testing.assert_array_equal(ranked.rows, [10, 12])  # a tie goes by position
    losses["mean_margin"] = np.array([0.1, 0.2, 2.0, np.nan], np.float32)
    assert rank_labels(losses, 0.01)[0].rows.tolist() == [12]
    losses["mean_loss"] = losses["mean_margin"] = np.full(4, np.nan, np.float32)
    assert rank_labels(losses, 1.0)[0].by == "last loss"
    losses["loss"] = np.full(4, np.nan, np.float32)
    with pytest.raises(UserError, match="diverged"):
        rank_labels(losses, 1.0)


def test_nine_in_ten_of_the_first_tenth_are_labels_that_noise_has_changed(found):
    assert found.num_ranked == 1455
    assert found.ranked.rows.size == 146
    assert found.num_flipped == pytest.approx(146, abs=1)
    # 0.1 by chance
    assert found.precision > 0.85
    with np.load(found.folder / "label_noise.npz") as noise:
        clean = dict(zip(noise["source_rows"], noise["clean_labels"], strict=True))
    caught = found.ranked.rows[found.flipped]
    said = found.predicted[found.flipped]
    right = [clean[row] == label for row, label in zip(caught, said, strict=True)]
    assert np.mean(right) > 0.85
    np.testing.assert_array_equal(
        found.data.labels[found.ranked.positions], found.ranked.labels
    )


# duplicates


def pictures(*images):
    return np.stack(images).astype(np.uint8)


def test_equal_pixels_are_found_and_one_changed_pixel_is_not():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 5, 5, 3), np.uint8)
    images[4] = images[5] = images[1]
    images[3] = images[0]
    images[3, 4, 4, 2] ^= 1
    groups = exact_duplicates(images)
    assert [group.tolist() for group in groups] == [[1, 4, 5]]


def test_near_duplicates_differ_in_brightness_and_noise_alone(monkeypatch):
    monkeypatch.setattr("dpet_jax.run.suspects._BLOCK", 3)  # pairs across blocks
    rng = np.random.default_rng(1)
    one, two, three = rng.integers(40, 160, (3, 16, 17, 1))
    flat = np.full((16, 17, 1), 90)
    images = pictures(
        one, two, flat, one // 2 + 60, three, flat, two + rng.integers(0, 4, two.shape)
    )
    groups = near_duplicates(images, 0.99)
    assert sorted(group.positions.tolist() for group in groups) == [[0, 3], [1, 6]]
    assert all(0.99 <= group.likeness < 1 for group in groups)
    assert near_duplicates(images, 1.0) == []
    many = pictures(*[one] * 50)
    with pytest.raises(UserError, match="pairs an image"):
        near_duplicates(many, 0.9)


# the command


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.images, self.outside = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "img":
            self.images.append(attrs)
        self.outside += [v for k, v in attrs.items() if k in ("href", "src")]


def test_the_command_prints_a_table_and_writes_a_gallery(folder, capsys, tmp_path):
    assert main(["suspects", str(folder), f"--out={tmp_path}", "--share=0.05"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^ *row given predicted +score$", printed, re.MULTILINE)
    assert re.search(
        r"^73 of 1,455 training examples listed, by loss, mean over the run; the model "
        r"disagrees with the label of \d+ of them$",
        printed,
        re.MULTILINE,
    )
    assert re.search(r"^\d+\.\d % of those listed have a label that", printed, re.M)
    with (tmp_path / "suspects.csv").open(encoding="utf-8") as file:
        rows = [*csv.DictReader(file)]
    assert len(rows) == 73
    assert [int(row["rank"]) for row in rows] == [*range(1, 74)]
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert {row["changed"] for row in rows} <= {"true", "false"}
    assert rows[0]["row"] in printed
    text = (tmp_path / "suspects.html").read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.images) == 73
    assert all(link.startswith("data:image/png;base64,") for link in page.outside)
    assert "prefers-color-scheme: dark" in text
    assert f"row {rows[0]['row']}" in text


def test_duplicates_of_two_labels_come_first_with_their_splits(found, tmp_path):
    labels = found.data.labels
    same = next(p for p in range(1, 1455) if labels[p] == labels[0])
    other = next(p for p in range(1, 1455) if labels[p] != labels[0])
    last = len(labels) - 1
    groups = (
        Duplicates(np.array([0, other, last], np.int32), 0.98),
        Duplicates(np.array([0, same], np.int32), 1.0),
    )
    changed = found._replace(duplicates=groups)
    write_suspects(changed, tmp_path)
    lines = (tmp_path / "duplicates.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "group,split,row,label,likeness"
    assert [line.split(",")[:2] for line in lines[1:]] == [
        *(["1", "train"], ["1", "train"], ["1", "test"]),
        *(["2", "train"], ["2", "train"]),
    ]
    text = (tmp_path / "suspects.html").read_text(encoding="utf-8")
    assert (
        "3 duplicates of a likeness of 0.97 in 2 groups; labels differ in 1, 1 have"
        in text
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0.0}, "--share: 0 is no share"),
        ({"share": 1.5}, "--share: 1.5 is no share"),
        ({"near": 0.0}, "--near: 0 is no cosine"),
    ],
)
def test_options_out_of_range_are_refused(options, message, folder):
    with pytest.raises(UserError, match=message):
        find_suspects(folder, **options)


def test_what_is_no_finished_run_or_has_other_data_is_refused(folder, tmp_path):
    with pytest.raises(UserError, match=r"has no losses\.npz, which finished runs"):
        find_suspects(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    config = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(config.replace("split_seed: 0", "split_seed: 1"))
    with pytest.raises(UserError, match="its data are not those"):
        find_suspects(copy)
    (copy / "losses.npz").unlink()
    with pytest.raises(UserError, match="a run writes at its end"):
        find_suspects(copy)
