from dataclasses import replace

import numpy as np
import pytest
from fakes.runs import fake_run

from dpet_jax.report.plots.curves import accuracy_curve, front, mean_parts, parts_of
from dpet_jax.report.runs import read_run


def runs(tmp_path, *courses, **facts):
    return [
        read_run(fake_run(tmp_path / str(n), course, seed=n, **facts))
        for n, course in enumerate(courses)
    ]


def test_curve_takes_each_seeds_latest_evaluation_and_never_one_between(tmp_path):
    curve = accuracy_curve(
        runs(tmp_path, [(1.0, 0.1), (3.0, 0.5)], [(2.0, 0.3), (4.0, 0.9)]), "epochs"
    )
    # from 2, where both have one; the first has ended at 3 and keeps its last
    np.testing.assert_array_equal(curve.cost, [2.0, 3.0, 4.0])
    np.testing.assert_allclose(curve.low, [0.1, 0.3, 0.5])
    np.testing.assert_allclose(curve.high, [0.3, 0.5, 0.9])
    np.testing.assert_allclose(curve.median, [0.2, 0.4, 0.7])


def test_curve_is_none_without_evaluations_or_measurements(tmp_path):
    found = runs(tmp_path, [(1.0, 0.5)])
    assert accuracy_curve(found, "wh") is None
    assert accuracy_curve([], "epochs") is None


PLANS = (("warm-up", 0.5), ("round 1", 0.25), ("round 2", 0.125), ("other", 0.125))


def test_epochs_are_divided_into_choosing_and_kinds_of_plans(tmp_path):
    (run,) = runs(tmp_path, [(5.0, 0.5)], choosing_epochs=1.0, plans=PLANS)
    assert parts_of(run, "epochs") == pytest.approx(
        {"choosing": 1.0, "warm-up": 2.0, "rounds": 1.5, "training": 0.5}
    )
    assert parts_of(run, "visits") == pytest.approx(
        {"warm-up": 2000.0, "rounds": 1500.0, "training": 500.0}
    )


def test_seconds_and_wh_are_divided_by_phase_and_plan(tmp_path):
    (run,) = runs(
        tmp_path, [(5.0, 0.5)], choosing_epochs=1.0, plans=PLANS, wh_per_epoch=1.0
    )
    seconds = {
        **{"data": 0.5, "choosing": 10.0, "warm-up": 20.0, "rounds": 15.0},
        **{"training": 5.0, "evaluating": 5.0, "compiling": 4.0, "rest": 0.25},
    }
    assert parts_of(run, "seconds") == pytest.approx(seconds)
    assert parts_of(run, "wh") == pytest.approx({k: s / 10 for k, s in seconds.items()})


def test_parts_are_none_where_the_cost_was_not_measured(tmp_path):
    (run,) = runs(tmp_path, [(1.0, 0.5)])
    assert parts_of(run, "wh") is None
    assert mean_parts([run], "wh") is None
    assert mean_parts([], "epochs") is None


def test_training_without_a_recorded_plan_is_not_lost(tmp_path):
    (run,) = runs(tmp_path, [(2.0, 0.5)])
    bare = replace(run, events=tuple(e for e in run.events if e["event"] != "plan"))
    assert parts_of(bare, "epochs") == {"training": 2.0}


def test_mean_counts_a_part_that_a_seed_lacks_as_nought(tmp_path):
    (one,) = runs(tmp_path / "a", [(2.0, 0.5)])
    (two,) = runs(tmp_path / "b", [(2.0, 0.5)], choosing_epochs=1.0)
    assert mean_parts([one, two], "epochs") == pytest.approx(
        {"choosing": 0.5, "training": 1.5}
    )


def test_front_holds_whom_nobody_beats():
    points = [(3.0, 0.9), (1.0, 0.5), (2.0, 0.4), (1.0, 0.6), (4.0, 0.9), (5.0, 0.95)]
    assert front(points) == [(1.0, 0.6), (3.0, 0.9), (5.0, 0.95)]
    assert front([]) == []
