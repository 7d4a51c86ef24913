"""Each benchmark at toy size, so that none rots; figures are not looked at."""

import argparse
import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from dpet_jax.config.experiment import Config
from dpet_jax.methods.base import Pool
from dpet_jax.report.printed import NONE
from dpet_jax.selection.by_name import Examples
from dpet_jax.selection.geometry import herding

FOLDER = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(FOLDER))
_TINY = ("--toy", "--side=8", "--repeats=1")
TOY = {
    "bench_compile": ["--toy"],
    "bench_coreset": ["--toy"],
    "bench_epoch": [*_TINY, "--widths=1", "--batch=4", "--steps=2"],
    "bench_gradient_norms": [
        *(*_TINY, "--shapes", "1.0x4", "--steps=2", "--jacrev-batch=2"),
    ],
    "bench_export": ["--toy", "--predictions=600", "--repeats=1"],
    "bench_fit": ["--minutes=0.4", "--scales", "0.5", "--seeds=0"],
    "bench_overhead": ["--toy"],
    "bench_pool": ["--toy", "--seeds=0"],
    "bench_scaling": ["--toy"],
    "bench_scores": ["--toy"],
    "bench_selection": ["--toy"],
    "bench_memory": ["--toy"],
    "bench_meter": ["--tiny", "--pairs=1", "--seconds=0.01", "--periods", "0.05"],
    "bench_planner": [],
    "bench_methods": ["--toy"],
    "bench_placement": ["--toy"],
    "bench_pool_size": ["--toy"],
    "bench_prune": [
        *(*_TINY, "--widths", "0.25", "1", "--batch=4", "--steps=2", "--no-kill"),
        "--fractions=0.5",
    ],
    "bench_steps": ["--toy"],
    "bench_submodular": ["--toy"],
    "bench_widths": [
        *(*_TINY, "--widths", "1", "1.1", "1.5", "--batch=4", "--steps=2"),
    ],
    "bench_conv": [
        "--batch=2",
        "--shapes",
        "4x8",
        "2x32",
        "--narrow",
        "3x4",
        "--loops=2",
        "--repeats=1",
    ],
}


def test_every_benchmark_has_a_toy_size():
    assert set(TOY) == {path.stem for path in FOLDER.glob("bench_*.py")}


@pytest.mark.slow  # what they time, the pieces of the GPU suite run too
@pytest.mark.parametrize("name", TOY)
def test_benchmark_writes_its_rows(name, tmp_path):
    out = tmp_path / "result.json"
    rows = importlib.import_module(name).main([*TOY[name], f"--out={out}"])
    saved = json.loads(out.read_text())
    assert saved["rows"] == rows
    assert saved["device"]["platform"] == "cpu"


def test_a_width_is_slow_where_a_wider_network_is_faster():
    bench = importlib.import_module("bench_widths")

    def row(width, ms, multiple=1, **operations):
        kernels = {"kernels": sum(operations.values()), "operations": operations}
        step = {"step_ms": {"median": ms}, "step_flops": 100 * width}
        return {"width": width, "multiple": multiple} | kernels | step

    rows = [
        row(1.0, 10.0, fusion=3),
        row(1.1, 14.0, fusion=3, dot=2),
        row(1.2, 12.0, fusion=3, dot=1),
        row(1.3, 15.0, fusion=4),
        row(1.0, 1.0, multiple=8, fusion=1),
    ]
    (slow,) = bench.slower_than_wider(rows, margin=0.05)
    assert (slow["width"], slow["than"], slow["multiple"]) == (1.1, 1.2, 1)
    assert slow["times_its_time"] == pytest.approx(14 / 12)
    assert slow["more_kernels"] == {"dot": 1}
    assert bench.slower_than_wider(rows, margin=0.2) == []
    assert bench.time_over_flops(rows) == pytest.approx(
        [1.0, 14 / 11, 1.0, 15 / 13, 1.0]
    )


def test_a_coreset_passes_unless_chance_is_better_by_more_than_noise():
    bench = importlib.import_module("bench_coreset")

    def result(accuracy):
        names = ("test_accuracy", "validation_accuracy")
        rest = {"test_loss": 1.0, "epochs": 4.0, "visits": 400, "coreset_size": 30}
        return dict.fromkeys(names, accuracy) | rest

    accuracies = {
        "random": (0.80, 0.82, 0.84),
        "default": (0.79, 0.79, 0.79),
        "el2n": (0.72, 0.74, 0.76),
        "full": (0.86, 0.86, 0.86),
    }
    found = {
        (rule, 1.0 if rule == "full" else 0.3): [result(each) for each in seeds]
        for rule, seeds in accuracies.items()
    }
    rows = {row["rule"]: row for row in bench.compared(found)}
    # variances of the four groups in points: 4, 0, 4, 0; two means of three
    error = (2.0 * 2 / 3) ** 0.5 / 100
    assert rows["default"]["test_standard_error"] == pytest.approx(error)
    assert rows["default"]["test_over_random"] == pytest.approx(-0.03)
    assert not rows["default"]["test_passes"]
    assert rows["el2n"]["test_over_random"] == pytest.approx(-0.08)
    assert "test_passes" not in rows["full"] | rows["random"]
    assert rows["random"]["test_sd"] == pytest.approx(0.02)
    better = found | {("default", 0.3): [result(each) for each in (0.80, 0.81, 0.82)]}
    rows = {row["rule"]: row for row in bench.compared(better)}
    assert rows["default"]["test_passes"]


def test_most_kept_takes_the_share_of_each_class():
    bench = importlib.import_module("bench_coreset")
    labels = np.array([0, 0, 0, 0, 1, 1])
    kept, loss = np.array([1, 3, 3, 0, 0, 2]), np.array([9, 1, 2, 9, 9, 0.1])
    assert bench.most_kept(labels, 3, kept, loss).tolist() == [2, 1, 5]


def test_a_fit_is_held_against_the_default_and_the_best_fixed_scale():
    bench = importlib.import_module("bench_fit")
    rows = [
        {"minutes": minutes, "arm": arm, "test_accuracy": accuracy}
        for minutes, arms in {
            1: {"fit": (0.5, 0.6), "scale 0.5": (0.5, 0.7), "scale 1": (0.2, 0.4)},
            3: {"fit": (0.7,), "scale 0.5": (0.6,), "scale 1": (0.65,)},
        }.items()
        for arm, accuracies in arms.items()
        for accuracy in accuracies
    ]
    short, long = bench.compared(rows)
    assert (short["best_fixed"], long["best_fixed"]) == ("scale 0.5", "scale 1")
    assert short["over_best"] == pytest.approx(-0.05)
    assert short["over_default"] == pytest.approx(0.25)
    assert long["over_best"] == long["over_default"] == pytest.approx(0.05)
    assert bench.table([*rows, short, long]).splitlines()[1].split() == [
        *("1", "55.00", "60.00", "30.00")
    ]


def test_what_a_fit_is_held_against_is_standard_training_by_its_recipe():
    bench = importlib.import_module("bench_fit")
    keys = {"kind": "dpet_anneal", "epochs": 7, "drop": "auto"}
    budget = {"seconds": 50.0, "pace": True}
    tree = {"model": {"kind": "resnet20", "scale": 0.5}, "method": keys}
    fitted = Config.model_validate(tree | {"name": "photos", "budget": budget})
    standard = bench.fixed(fitted, 1.4, 60.0)
    assert standard.model.scale == 1.4
    assert (standard.budget.seconds, standard.budget.pace) == (60.0, True)
    pool = Pool(100, np.zeros(100, np.int32), 2)
    assert standard.method.planned_visits(pool) == 700
    assert standard.method.drop == 0
    assert standard.train == fitted.train


def test_pytorch_trains_the_same_network_on_what_it_is_given():
    torch = pytest.importorskip("torch", reason="PyTorch is not a dependency")
    import torch_resnet

    from dpet_jax.models.resnet import ResidualNetwork

    spec = ResidualNetwork(8, (8,), (1,), num_classes=10, in_channels=3)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 8, 8, 3), np.uint8)
    labels = np.arange(12) % 10
    trainer = torch_resnet.Trainer(
        spec, images, labels, 4, dtype="float32", mode="eager"
    )
    # stem, two convolutions of a block, their norms, the last layer with its bias
    assert torch_resnet.num_parameters(spec) == 216 + 1152 + 48 + 90
    trainer.network.eval()
    with torch.no_grad():
        plain = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        expected = trainer.network((plain - 0.5) / 0.25).numpy()
        given = trainer._logits(torch.arange(12)).numpy()
    np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-6)
    trainer.network.train()
    losses = [float(trainer.step(torch.arange(4))) for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("index", "expected"),
    [([-3, -1, 0, 7, 8, 10], [3, 1, 0, 7, 6, 4]), ([0, 1], [0, 1])],
)
def test_pytorch_reflects_at_the_border_as_numpy_does(index, expected):
    torch = pytest.importorskip("torch", reason="PyTorch is not a dependency")
    import torch_resnet

    padded = np.pad(np.arange(8), 4, mode="reflect")
    assert [padded[i + 4] for i in index] == expected
    assert torch_resnet.reflected(torch.tensor(index), 8).tolist() == expected


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_matrix_peak_counts_what_it_multiplies(dtype, monkeypatch):
    """8 products of side 4 in half a second are 8 * 2 * 4^3 / 0.5 operations."""
    timing = importlib.import_module("timing")
    ticks = iter(0.5 * np.arange(100))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(ticks))
    assert timing.matrix_peak(4, dtype) == pytest.approx(8 * 2 * 64 / 0.5 / 1e12)


@pytest.mark.parametrize(
    "path", sorted(FOLDER.glob("results/*.json")), ids=lambda p: p.stem
)
def test_committed_results_say_where_they_come_from(path):
    saved = json.loads(path.read_text())
    assert saved.keys() >= {"question", "command", "when", "device", "versions", "rows"}


def test_rows_are_flat_and_a_table_holds_what_they_have(capsys, monkeypatch):
    timing = importlib.import_module("timing")
    monkeypatch.setenv("COLUMNS", "80")
    row = timing.flat_row({"way": "mine", "s": {"median": 0.51234}, "seeds": [1, 2]})
    assert row == {"way": "mine", "s.median": 0.51234, "seeds.0": 1, "seeds.1": 2}
    other = {"way": "theirs", "s.median": None, "count": 12345}
    columns = {"way": "way", "seconds": "s.median", "n": "count", "absent": "none"}
    timing.show([row, other], columns)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["way", "seconds", "n"],
        ["mine", "0.512", NONE],
        ["theirs", NONE, "12,345"],
    ]


def test_toy_sizes_give_way_to_what_is_asked_for():
    timing = importlib.import_module("timing")

    def parsed(*arguments):
        parser = argparse.ArgumentParser()
        parser.add_argument("--repeats", type=int, default=5)
        return timing.parsed(parser, arguments, {"repeats": 1}).repeats

    assert [parsed(), parsed("--toy"), parsed("--toy", "--repeats=2")] == [5, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--score=norm"], "argument --score: 'norm' is no import path; write package"),
        (["--score=math:cos"], "'math:cos' is no score: a score is a function of one"),
        (["--selector=math:none"], "cannot import 'math:none'"),
        (["--selector=math:hypot"], "is no selector: a selector is a function of"),
    ],
)
def test_what_is_no_selector_or_score_of_ones_own_is_told(arguments, told, capsys):
    timing = importlib.import_module("timing")
    parser = argparse.ArgumentParser()
    timing.add_own(parser, selectors=True, scores=True)
    with pytest.raises(SystemExit) as exit_:
        parser.parse_args(arguments)
    assert exit_.value.code == 2
    assert told in capsys.readouterr().err


def test_objectives_are_those_of_their_names():
    """A line of points 0, 1, 2, 3 and 4, of which the ends are picked."""
    bench = importlib.import_module("bench_selection")
    features = np.arange(5, dtype=np.float32)[:, None]
    gradients = SimpleNamespace(features=np.concatenate([features, [[99.0]]]))
    pool = SimpleNamespace(gradients=gradients, size=5)
    picks = SimpleNamespace(indices=np.array([0, 3]))
    found = bench.objectives([pool], [picks])
    assert (found["radius"], found["mean_error"]) == (1.0, 0.5)
    width = np.median([1, 1, 1, 1, 2, 2, 2, 3, 3, 4])
    gap = features - features.T
    kernel = np.exp(-(gap**2) / (2 * width**2))
    weights = np.full(5, 1 / 5) - np.array([0.5, 0, 0, 0.5, 0])
    expected = (weights @ kernel @ weights) ** 0.5
    assert found["mmd"] == pytest.approx(expected, rel=1e-6)


def test_coreax_herds_as_ours_where_rows_are_of_one_length():
    pytest.importorskip("coreax", reason="an extra: dpet-jax[peers]")
    peers, _ = importlib.import_module("selection_peers").peers()
    rows = np.random.default_rng(0).normal(size=(30, 4))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    rows = jnp.asarray(rows)
    examples = Examples(rows, rows, np.zeros(30, np.int32), 4)
    theirs = peers["coreax_herding_linear"](examples, 8)
    np.testing.assert_array_equal(theirs, herding(rows, 8).indices)
