"""Batches, chunks of them, and how long they last."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpet_jax.methods.base import Plan, Span, generator
from dpet_jax.training import chunks
from dpet_jax.training.chunks import Batches, Chunks, Pace
from dpet_jax.training.resolution import Ladder, Level

fast = settings(deadline=None, derandomize=True, max_examples=60)
sizes = st.integers(1, 23)
batch_sizes = st.integers(1, 9)
passes = st.integers(1, 4)


def plan_of(size, num_passes):
    """Positions 100, 103, ...: none equals its own place in the plan."""
    return Plan(100 + 3 * np.arange(size, dtype=np.int32), "x", num_passes)


def by_pass(batches):
    """Return the real rows, a line for each pass."""
    rows = batches.rows(0, batches.num_steps)[: batches.plan.visits]
    return rows.reshape(batches.plan.passes, -1)


@fast
@given(size=sizes, batch_size=batch_sizes, num_passes=passes, seed=st.integers(0, 9))
def test_passes_are_one_stream_and_only_the_last_batch_of_a_plan_is_filled_up(
    size, batch_size, num_passes, seed
):
    plan = plan_of(size, num_passes)
    batches = Batches(plan, batch_size, seed, plan_index=2)
    rows = batches.rows(0, batches.num_steps)
    assert rows.dtype == np.int32
    assert rows.size % batch_size == 0
    assert 0 <= rows.size - size * num_passes < batch_size
    real, fill = rows[: plan.visits], rows[plan.visits :]
    for one in real.reshape(num_passes, size):
        assert sorted(one.tolist()) == plan.index_set.tolist()
    wrapped = [int(one[place % size]) for place in range(fill.size)]
    assert [-1 - int(row) for row in fill] == wrapped


def test_where_passes_are_whole_batches_every_batch_is_of_one_pass():
    """So that such a run is what it was when each pass was filled up by itself."""
    batches = Batches(plan_of(12, 3), 4, seed=5, plan_index=1)
    for index in range(3):
        draw = generator(5, f"order of pass {index}", 1)
        expected = draw.permutation(batches.plan.index_set)
        np.testing.assert_array_equal(batches.rows(3 * index, 3), expected)


def test_set_smaller_than_a_batch_wraps_around_more_than_once():
    rows = Batches(plan_of(2, 1), 5, seed=0, plan_index=0).rows(0, 1)
    first, second = rows[:2]
    assert {int(first), int(second)} == {100, 103}
    assert rows[2:].tolist() == [~first, ~second, ~first]


@fast
@given(
    size=sizes,
    batch_size=batch_sizes,
    num_passes=passes,
    cuts=st.lists(st.integers(1, 7), max_size=30),
)
def test_rows_do_not_depend_on_how_the_steps_are_cut(
    size, batch_size, num_passes, cuts
):
    plan = plan_of(size, num_passes)
    whole = Batches(plan, batch_size, 1, 0)
    rows = whole.rows(0, whole.num_steps)
    pieces = Batches(plan, batch_size, 1, 0)
    step = 0
    for cut in [*cuts, *[7] * whole.num_steps]:
        count = min(cut, whole.num_steps - step)
        if count == 0:
            break
        piece = pieces.rows(step, count)
        wanted = rows[step * batch_size : (step + count) * batch_size]
        np.testing.assert_array_equal(piece, wanted)
        step += count
    assert step == whole.num_steps


def test_rows_of_an_early_step_can_be_had_after_a_late_one():
    batches = Batches(plan_of(10, 3), 4, 0, 0)
    first = batches.rows(0, 1)
    batches.rows(7, 1)
    np.testing.assert_array_equal(batches.rows(0, 1), first)


@fast
@given(size=sizes, batch_size=batch_sizes, num_passes=passes)
def test_visits_before_a_step_count_the_real_rows_before_it(
    size, batch_size, num_passes
):
    batches = Batches(plan_of(size, num_passes), batch_size, 0, 0)
    rows = batches.rows(0, batches.num_steps)
    for step in range(batches.num_steps + 1):
        real = int((rows[: step * batch_size] >= 0).sum())
        assert batches.visits_before(step) == real
    assert batches.visits_before(batches.num_steps) == batches.plan.visits


def test_passes_plans_and_seeds_are_shuffled_differently():
    orders = [
        tuple(row)
        for seed, plan_index in ((0, 0), (1, 0), (0, 1))
        for row in by_pass(Batches(plan_of(40, 2), 8, seed, plan_index)).tolist()
    ]
    assert len(set(orders)) == 6


def test_same_seed_and_plan_give_the_same_rows():
    left, right = (by_pass(Batches(plan_of(40, 2), 8, 3, 4)) for _ in range(2))
    np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("batch_size", [2, 4, 5])
def test_index_set_with_rows_gives_each_pass_its_own_row(batch_size):
    index_set = np.array([[1, 2, 3, 4], [5, 6, 7, 8], [1, 5, 2, 9]], np.int32)
    batches = Batches(Plan(index_set, "x", passes=3), batch_size, 0, 0)
    for real, row in zip(by_pass(batches), index_set, strict=True):
        assert sorted(real.tolist()) == sorted(row.tolist())


@pytest.mark.parametrize(
    ("size", "batch_size", "num_passes", "steps"),
    [(8, 4, 3, 6), (9, 4, 3, 7), (1, 4, 2, 1), (4, 4, 1, 1), (146, 64, 40, 92)],
)
def test_a_plan_takes_as_many_steps_as_its_visits_fill(
    size, batch_size, num_passes, steps
):
    assert Batches(plan_of(size, num_passes), batch_size, 0, 0).num_steps == steps


# pace, on a pretended clock


@pytest.fixture
def time(monkeypatch):
    time = SimpleNamespace(now=10.0)
    time.monotonic = lambda: time.now
    monkeypatch.setattr(chunks, "time", time)
    return time


def train(learned, time, steps, step_s, wh=None):
    dispatched = time.now
    time.now += steps * step_s
    learned.waited(steps, dispatched, wh)


def test_chunks_come_to_last_a_second_growing_fourfold_at_most(time):
    learned, sizes = Pace(), []
    for _ in range(5):
        sizes.append(learned.steps)
        train(learned, time, learned.steps, 0.01)
    assert sizes == [4, 16, 64, 100, 100]
    train(learned, time, learned.steps, 10.0)
    assert learned.steps == 1


def test_a_chunk_that_queued_behind_another_is_timed_from_the_others_end(time):
    learned = Pace()
    learned.waited(4, time.now - 0.04, None)
    queued = time.now - 0.03
    time.now += 0.04
    learned.waited(4, queued, None)
    assert learned.steps == 64  # as 0.01 s a step allows, and not 0.0175
    time.now += 0.64
    learned.waited(64, queued, None)
    assert learned.steps == 100


def test_a_step_uses_what_chunks_used_on_average(time):
    learned = Pace()
    learned.begin(5.0)
    assert learned.step_wh is None
    train(learned, time, 10, 0.1, wh=5.2)
    assert learned.step_wh == pytest.approx(0.02)
    for total in range(20):
        train(learned, time, 10, 0.1, wh=5.2 + 0.5 * (total + 1))
    assert learned.step_wh == pytest.approx(0.05, rel=0.01)


def test_what_something_else_used_in_between_is_not_the_steps(time):
    learned = Pace()
    learned.begin(0.0)
    train(learned, time, 10, 0.1, wh=0.2)
    learned.begin(7.0)
    train(learned, time, 10, 0.1, wh=7.2)
    assert learned.step_wh == pytest.approx(0.02)


def test_without_a_source_nothing_is_foreseen(time):
    learned = Pace()
    learned.begin(None)
    train(learned, time, 10, 0.1, wh=None)
    assert learned.step_wh is None


def test_a_counter_that_stood_still_foresees_nothing_negative(time):
    learned = Pace()
    learned.begin(3.0)
    train(learned, time, 10, 0.1, wh=2.9)
    assert learned.step_wh == 0.0


# chunks


class Queue:
    """A network that trains nothing and writes down what it is told to do."""

    max_steps = 5

    def __init__(self, ladder=None):
        self.log = []
        self.ladder = ladder or Ladder((None,))

    def level(self, span, visits):
        side, left = self.ladder.at(span, visits)
        return Level(side or 1, left)

    def train(self, rows, num_steps, span, visits):
        assert span == Span(0, 30)
        self.log.append(("train", num_steps, visits))
        real = int((rows >= 0).sum())
        return num_steps, 2.0 * real, real

    def wait(self, handle):
        num_steps, loss, visits = handle
        self.log.append(("wait", num_steps))
        return loss, visits // 2, visits


def chunks_of(network, size=10, passes=3, **options):
    plan = Plan(np.arange(size, dtype=np.int32), "x", passes, schedule=Span(0, 30))
    keys = {"batch_size": 4, "seed": 0, "plan_index": 0, "pace": Pace()}
    return Chunks(network, plan, **(keys | options))


def test_one_chunk_runs_while_the_next_one_queues():
    network = Queue()
    course = chunks_of(network)
    assert course.start(2, "first") is None
    ended = course.start(3, "second")
    assert network.log == [("train", 2, 0), ("train", 3, 8), ("wait", 2)]
    assert (ended.num_steps, ended.visits, ended.note) == (2, 8, "first")
    assert (ended.loss, ended.accuracy) == (2.0, 0.5)
    assert course.pending_steps == 3
    (last,) = course.drain()
    assert (last.num_steps, last.visits, last.note) == (3, 20, "second")
    assert course.pending_steps == 0


def test_chunks_end_with_the_plan_and_count_its_visits():
    course = chunks_of(Queue(), first_step=4)
    assert (course.left, course.visits_started) == (4, 16)
    assert course.next_steps(10**9) == 4  # the first chunk is short
    assert course.next_steps(3) == 3
    assert [course.next_visits(steps) for steps in (1, 4)] == [4, 14]
    course.start(4)
    assert (course.left, course.visits_started) == (0, 30)


def test_a_chunk_ends_with_the_step_that_gets_to_another_side():
    pace = Pace()
    pace.steps = 99
    # of 30 visits in batches of 4, the sides begin at visits 0, 9 and 20
    ladder = Ladder((5, 6, 7), (0.0, 0.3, 0.65))
    course = chunks_of(Queue(ladder), pace=pace)
    seen = []
    while course.left:
        steps = course.next_steps(2)
        seen.append((course.level.train_flops, steps))
        course.start(steps)
    assert seen == [(5, 2), (5, 1), (6, 2), (7, 2), (7, 1)]
    # and a run that is resumed inside goes on alike
    course = chunks_of(Queue(ladder), pace=pace, first_step=4)
    assert (course.level.train_flops, course.next_steps(9)) == (6, 1)


def test_a_chunk_is_no_longer_than_the_network_allows():
    pace = Pace()
    pace.steps = 99
    assert chunks_of(Queue(), passes=9, pace=pace).next_steps(10**9) == 5
