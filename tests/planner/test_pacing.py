"""Pacing: the schedule ends with the clock, whatever the clock does meanwhile."""

import json
from itertools import pairwise

import pytest

from dpet_jax.planner.pacing import Pacing

BUDGET, BATCH, STEP_S = 100.0, 64, 0.01
#: Boundaries lie so many steps apart, a 32nd of what is planned.
STRETCH = round(0.98 * BUDGET / STEP_S / 32)


def steady(_spent):
    return 1.0


def slower(spent):
    return 1.0 if spent < BUDGET / 2 else 1.5


def faster(spent):
    return 1.0 if spent < BUDGET / 2 else 0.5


def planned():
    visits = BATCH * int(0.98 * BUDGET / STEP_S)
    return Pacing.begin(BUDGET, visits, STEP_S / BATCH)


def trained(speed, pause=None, kill_after=None, pacing=None, at=(0, 0.0)):
    """Train on a fake clock; return the pacing, examples, time and progress at each."""
    pacing = pacing or planned()
    visits, spent = at
    progress, boundaries, paused = [pacing.progress(visits)], 0, False
    while left := pacing.left(visits):
        if kill_after == boundaries:
            break
        for _ in range(min(STRETCH, -(-left // BATCH))):
            spent += STEP_S * speed(spent)
            visits += min(BATCH, left)
            left = pacing.left(visits)
            progress.append(pacing.progress(visits))
            if pause is not None and spent >= pause[0] and not paused:
                spent, paused = spent + pause[1], True
        boundaries += 1
        if left:
            pacing = pacing.reset(visits, spent)
    return pacing, visits, spent, progress


@pytest.mark.parametrize(
    ("speed", "pause"),
    [
        (steady, None),
        (slower, None),
        (faster, None),
        (steady, (60.0, 10.0)),
        (slower, (20.0, 15.0)),
    ],
)
def test_a_run_ends_with_its_budget_and_its_schedule(speed, pause):
    _, _, spent, progress = trained(speed, pause)
    assert 0.95 * BUDGET <= spent <= BUDGET
    assert progress[-1] == 1.0


@pytest.mark.parametrize("speed", [slower, faster])
def test_progress_never_jumps_and_never_falls(speed):
    pacing, _, _, progress = trained(speed)
    steps = [after - before for before, after in pairwise(progress)]
    assert min(steps) > 0
    assert max(steps) < 4 * STEP_S / BUDGET
    for reset, earlier in zip(pacing.resets[1:], pacing.resets, strict=False):
        until = Pacing(BUDGET, 0.0, (earlier,))
        assert reset.progress == pytest.approx(until.progress(reset.visits), abs=1e-12)


def test_a_run_that_is_killed_and_resumed_goes_on_as_it_would_have():
    whole = trained(slower)
    killed, visits, spent, before = trained(slower, kill_after=9)
    saved = Pacing.from_json(json.loads(json.dumps(killed.to_json())))
    assert saved == killed
    resumed = trained(slower, pacing=saved, at=(visits, spent))
    assert resumed[0].resets == whole[0].resets
    assert resumed[1:3] == whole[1:3]
    assert before + resumed[3][1:] == whole[3]


def test_a_span_gives_the_schedule_the_same_progress():
    pacing = trained(slower, kill_after=17)[0]
    visits = pacing.last.visits
    start, horizon = pacing.span(visits)
    left = pacing.left(visits)
    for seen in (0, left // 3, left):
        assert (start + seen) / horizon == pytest.approx(
            pacing.progress(visits + seen), abs=1e-5
        )
    assert start + left == horizon


def test_what_is_reserved_for_the_end_is_left_over():
    pacing = Pacing.begin(BUDGET, 10**6, STEP_S / BATCH, reserved=8.0)
    spent = trained(steady, pacing=pacing.reset(0, 0.0))[2]
    assert 0.87 * BUDGET <= spent <= 0.92 * BUDGET


def test_nothing_is_left_once_the_budget_is_spent():
    pacing = planned().reset(BATCH, 99.0)
    assert pacing.left(BATCH) == 0
    assert pacing.progress(BATCH) == 1.0
    assert pacing.span(BATCH) == (1, 1)
