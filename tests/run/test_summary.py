"""The gallery of a run and its closing lines; the rest is in test_experiment."""

from types import SimpleNamespace

import numpy as np

from dpet_jax.config.load import validate
from dpet_jax.energy import Energy
from dpet_jax.methods.base import Coreset
from dpet_jax.run import build as parts
from dpet_jax.run import summary
from dpet_jax.run.loop import Loop
from dpet_jax.run.summary import summary_lines


def coreset(size):
    return Coreset(
        np.arange(size, dtype=np.int32)[::-1].copy(),
        np.zeros(size, np.int32),
        np.linspace(1, 0, size).astype(np.float32),
    )


def test_the_gallery_holds_the_first_and_the_last_to_enter():
    data = parts.build_data(validate({}, "test"))
    chosen = coreset(200)
    gallery = summary._gallery(chosen, data)
    np.testing.assert_array_equal(gallery["entered"], [*range(32), *range(168, 200)])
    rows = chosen.indices[gallery["entered"]]
    np.testing.assert_array_equal(gallery["images"], data.images[rows])
    np.testing.assert_array_equal(gallery["score"], chosen.scores[gallery["entered"]])


def test_a_small_gallery_holds_each_example_once():
    data = parts.build_data(validate({}, "test"))
    for size in (0, 1, 40):
        gallery = summary._gallery(coreset(size), data)
        np.testing.assert_array_equal(gallery["entered"], np.arange(size))


# the closing lines


SUMMARY = {
    "coreset_size": 600,
    "num_train": 1437,
    "pruning_ratio": 0.5825,
    "test_accuracy": 0.9671,
    "validation_accuracy": 0.9512,
    "phases": {
        "train": {"s": 7.41, "wh": None, "quality": "unavailable"},
        "select": {"s": 0.84, "wh": None, "quality": "unavailable"},
    },
    "epochs": 23.911,
    "visits": 30580,
    "scored_examples": 7122,
    "fill_share": 0.0004,
    "wall_s": 18.6,
    "wall_s_without_eval": 18.0,
    "energy": {"wh": None, "headline": "not measurable here (no driver)"},
    "budget": {"wh": None},
    "stopped_by": "finished",
    "targets": [
        {"target": 0.9, "reached": True, "epochs": 7.5, "wh": None},
        {"target": 0.99, "reached": False, "epochs": None, "wh": None},
    ],
    "targets_on": "validation",
    "lost": {"seconds": 0.0, "wh": None},
    "warnings": [],
}
MEASURED = {
    "energy": {"wh": 2.0, "headline": "2 Wh [1.9, 2.1] measured (gpu)"},
    "phases": {
        "train": {"s": 7.41, "wh": 1.5, "quality": "measured"},
        "select": {"s": 0.84, "wh": 0.5, "quality": "measured"},
    },
    "budget": {"wh": 1.9, "spent_wh": 2.0, "overshoot_wh": 0.1},
    "lost": {"seconds": 3.0, "wh": 0.25},
}


def lines(**changes):
    return {line[:18].strip(): line[18:] for line in summary_lines(SUMMARY | changes)}


def test_a_run_is_told_in_lines_of_a_name_and_a_value():
    told = lines()
    assert told["test accuracy"] == "0.9671   (validation 0.9512)"
    assert told["coreset"] == "600 of 1,437 (pruned 58 %)"
    assert told["epochs"] == "23.91 full-pass equivalents"
    assert told["examples"] == "30,580 visited   7,122 scored"
    filled = lines(fill_share=0.0312)["examples"]
    assert filled == "30,580 visited   7,122 scored   3.1 % fill rows"
    assert told["seconds"] == "train 7.4   select 0.8"
    assert told["to 0.9"] == "7.50 epochs (validation)"
    assert told["to 0.99"] == "not reached (validation)"


def test_without_a_measurement_the_reason_stands_there():
    assert lines()["energy"] == "not measurable here (no driver) - see dpet doctor"
    assert "Wh" not in lines()
    assert "lost to crashes" not in lines()
    assert "lost to crashes" not in lines(lost={"seconds": 0.001, "wh": None})


def test_energy_is_told_by_phase_with_budget_and_losses():
    told = lines(**MEASURED)
    assert told["energy"] == "2 Wh [1.9, 2.1] measured (gpu)"
    assert told["Wh"] == "train 1.5   select 0.5"
    assert told["Wh budget"] == "2 of 1.9 Wh, evaluation excluded; overshot by 0.1"
    assert told["lost to crashes"] == "3.0 s, 0.25 Wh"
    reached = [{"target": 0.9, "reached": True, "epochs": 7.5, "wh": 0.75}]
    assert lines(targets=reached)["to 0.9"] == "7.50 epochs, 0.75 Wh (validation)"


def test_a_diverged_run_has_no_accuracy():
    assert lines(test_accuracy=None)["test accuracy"].startswith("not finite")


def test_a_method_without_a_coreset_says_so():
    told = lines(coreset_size=None)["coreset"]
    assert told == "none (this method trains on all data)"


def test_a_coreset_that_a_run_on_all_data_left_is_no_pruned_run():
    told = lines(pruning_ratio=None)["coreset"]
    assert told == "600 of 1,437 (left by training on all)"


MODELLED = MEASURED | {
    "energy": {"wh": 2.0, "headline": "≈ 2 Wh", "quality": "modelled"},
    "phases": {
        "train": {"s": 7.41, "wh": 1.5, "wh_k2": [0.5, 3.0], "quality": "modelled"},
        "select": {"s": 0.84, "wh": 0.5, "wh_k2": [0.25, 1.0], "quality": "modelled"},
    },
}


def test_no_wh_of_a_model_is_told_without_its_interval():
    reached = [{"target": 0.9, "reached": True, "epochs": 7.5, "wh": 0.75}]
    told = lines(**MODELLED, targets=reached)
    assert told["Wh"] == "train ≈ 1.5 [0.5, 3]   select ≈ 0.5 [0.25, 1]"
    budget = "≈ 2 [0.75, 4] MODELLED of 1.9 Wh, evaluation excluded"
    assert told["Wh budget"] == budget
    assert told["lost to crashes"] == "3.0 s"
    assert told["to 0.9"] == "7.50 epochs (validation)"


def test_progress_tells_wh_of_a_model_with_their_interval():
    energy = Energy(0.5, "modelled", 0.0, 0.25, 1.0)
    for quality, told in (
        ("measured", "       0.5 Wh"),
        ("modelled", "  ≈ 0.5 Wh [0.25, 1] MODELLED"),
    ):
        meter = SimpleNamespace(quality=quality, energy=lambda: energy)
        loop = SimpleNamespace(parts=SimpleNamespace(meter=meter))
        assert Loop._told_wh(loop, 0.5) == told
