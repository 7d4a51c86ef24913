"""The report of a study: what holds, and a page of whatever has run."""

import json
from pathlib import Path

import pytest
from fakes.runs import end_suite, fake_run, fake_suite, variant

from dpet_jax.report.practices import (
    Places,
    answer,
    claims_sheet,
    read_study,
    write_study,
)

#: What `dpet layers` writes, as far as a report reads it.
STEP = {
    "network": "CNN 2+2",
    "batch_size": 64,
    "image_shape": [28, 28, 1],
    "dtype": "float32",
    "layers_share": 0.96,
    "step": {"s": 0.020, "j": None},
    "no_layer": {"s": 0.001, "j": None},
    "kinds": [
        {
            "kind": kind,
            "layers": 2,
            "alone_s": alone,
            "alone_j": None,
            "within_s": within,
            "within_s_low": 0.9 * within,
            "within_s_high": 1.1 * within,
            "within_j": None,
        }
        for kind, alone, within in (
            ("ReLU", 0.004, 0.001),
            ("convolution", 0.01, 0.015),
        )
    ],
}


def searched(folder, areas):
    """Write searches of one trial each, whose accuracy is what they found."""
    asked = {"searches": [*areas], "repeats": 2, "seed": 0, "config": {"name": "cnn"}}
    for name, accuracies in areas.items():
        for seed, accuracy in enumerate(accuracies):
            place = folder / name / f"search{seed}"
            place.mkdir(parents=True)
            first = {"number": 0, "accuracy": accuracy, "epochs": 1.0}
            line = {
                **first,
                "share": 1.0,
                "values": {"rate": "0.1"},
                "flops": 100,
                "seconds": 1.0,
                "wh": None,
                "quality": "unavailable",
                "stopped_by": "finished",
                "folder": "trials/0",
            }
            again = {"number": 1, "epochs": 1.0, "folder": "trials/1"}
            lines = [json.dumps(line), json.dumps(line | again)]
            (place / "stops.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "searches.json").write_text(json.dumps(asked))
    return folder


def crossed(folder, seconds_of):
    """Write a factorial suite; `seconds_of` gives the seconds of a cell."""
    variants = []
    for linear in (3, 7):
        for conv in (1, 4):
            for relu in (True, False):
                name = f"cells/l{linear}-c{conv}-r{relu}"
                for seed in (0, 1):
                    seconds = seconds_of(linear, conv, relu) + 0.01 * seed
                    fake_run(
                        folder / name / f"seed{seed}",
                        [(seconds / 10, 0.6)],  # 10 s an epoch
                        seed=seed,
                        targets=(0.4,),
                    )
                runs = [f"{name}/seed{seed}" for seed in (0, 1)]
                keys = ("model.n_linear", "model.n_conv", "model.relu")
                factors = dict(zip(keys, (linear, conv, relu), strict=True))
                cell = {"of": "cells", "factors": factors}
                row = variant(name, {"0.4": runs}, label=name, arm="cells", cell=cell)
                variants.append(row)
    return fake_suite(folder, variants)


def verdicts(chapters):
    return [claim.verdict for chapter in chapters for claim in chapter.claims]


@pytest.mark.parametrize(
    ("bayesian", "chance", "grid", "verdict"),
    [
        ((0.9, 0.8), (0.7, 0.6), (0.5, 0.4), "holds"),
        ((0.9, 0.8), (0.7, 0.6), (0.7, 0.6), "open"),
        ((0.9, 0.5), (0.7, 0.6), (0.5, 0.4), "open"),
        ((0.6, 0.5), (0.7, 0.6), (0.5, 0.4), "does not hold"),
    ],
)
def test_searches_are_in_the_studys_order_only_if_no_repeat_is_against_it(
    tmp_path, bayesian, chance, grid, verdict
):
    found = {"gp_per_cost": (0.1, 0.1), "gp": bayesian}
    found |= {"random": chance, "grid_values=3_shuffle": grid}
    (chapter,) = read_study(Places(searches=searched(tmp_path, found)))
    assert verdicts([chapter]) == [verdict]
    assert "(gp ≥ random ≥ grid_values=3_shuffle)" in chapter.claims[0].text
    assert chapter.totals == {"epochs": 16.0}


def test_searches_that_are_not_in_question_are_held_against_nothing(tmp_path):
    folder = searched(tmp_path, {"random": (0.5, 0.6), "hyperband": (0.5, 0.7)})
    (chapter,) = read_study(Places(searches=folder))
    assert chapter.claims == ()


@pytest.mark.parametrize(
    ("weights", "verdict"),
    [((1, 10, 0.1), "holds"), ((10, 1, 0.1), "does not hold")],
)
def test_layers_cost_in_the_studys_order_or_not(tmp_path, weights, verdict):
    def seconds(linear, conv, relu):
        return (
            20
            + weights[0] * (linear == 7)
            + weights[1] * (conv == 4)
            + (weights[2] * relu)
        )

    (chapter,) = read_study(Places(factorial=crossed(tmp_path, seconds)))
    assert verdicts([chapter]) == [verdict]
    assert chapter.totals["runs"] == 16
    assert chapter.totals["wh"] is None
    assert chapter.totals["seconds"] == pytest.approx(
        sum(
            2 * seconds(a, b, c) + 0.01
            for a in (3, 7)
            for b in (1, 4)
            for c in (True, False)
        ),
        rel=0.01,
    )


def test_practices_are_sorted_by_what_they_save(tmp_path):
    (chapter,) = read_study(Places(practices=end_suite(tmp_path)))
    first, second = chapter.answer
    assert first == (
        "At 88 % test accuracy, in epochs (full-pass equivalents) against the "
        "baseline: saving_half 50 % cheaper (\N{MINUS SIGN}50 to \N{MINUS SIGN}50 %); "
        "saving 20 % cheaper (\N{MINUS SIGN}20 to \N{MINUS SIGN}20 %)."
    )
    assert second == "These cost more: chance 25 % dearer (+25 to +25 %)."
    assert [s.name for s in chapter.sheets] == [
        *("saving_epochs", "saving_seconds", "equal_validation", "best", "gains")
    ]


def test_a_page_shows_what_has_run_and_names_what_has_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    step = tmp_path / "layers.json"
    step.write_text(json.dumps(STEP))
    places = Places(
        searches=Path("nowhere"),
        layers=step,
        complexity=(Path("unrun"),),
        practices=end_suite(tmp_path / "table"),
    )
    chapters = read_study(places)
    assert [bool(chapter.answer) for chapter in chapters] == [False, True, False, True]
    layers = chapters[1]
    assert layers.answer == (
        "Of a training step of CNN 2+2 (20.0 ms): convolution 75 %, ReLU 5 %; its "
        "parts add up to 96 % of it.",
    )
    assert claims_sheet(chapters) is None
    told = answer(chapters)
    assert "holds no searches to compare" in " ".join(told.split())
    assert max(map(len, told.splitlines())) <= 80
    page = write_study(
        "mine",
        chapters,
        tmp_path / "out",
        statements=("Small <data>.",),
        facts={"a": 1},
    )
    text = page.read_text()
    assert text.count("<svg") == 2
    assert "Small &lt;data&gt;." in text
    assert "unrun: no finished run" in text
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["a"] == 1
    assert [part["totals"].get("runs") for part in record["parts"]] == [
        *(None, None, 0.0, 36.0)
    ]
    assert "![" in (tmp_path / "out" / "report.md").read_text()
