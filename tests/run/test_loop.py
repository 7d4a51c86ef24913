"""The loop with a pretended accelerator: what it counts, when it looks, how it ends."""

import json
import math
import subprocess
import sys
import zlib
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from fakes.clock import FakeClock
from fakes.probe import FakeProbe, power
from rich.console import Console

from dpet_jax.energy import Accelerator, EnergyMeter, Found
from dpet_jax.energy.accounts.state import Accounts, Lost
from dpet_jax.errors import DivergedError
from dpet_jax.methods.active_learning import ActiveLearning
from dpet_jax.methods.base import (
    FRESH,
    MAIN,
    PROXY,
    Auxiliary,
    Method,
    Plan,
    Pool,
    Selection,
    Span,
    TrainResult,
)
from dpet_jax.methods.dpet import Dpet
from dpet_jax.methods.dpet_anneal import DpetAnneal
from dpet_jax.methods.dynamic import (
    EpsilonGreedy,
    InfoBatch,
    LossThreshold,
    StaleSelectiveBackprop,
)
from dpet_jax.methods.one_shot import OneShot
from dpet_jax.methods.rs2 import Rs2
from dpet_jax.methods.selective_backprop import SelectiveBackprop
from dpet_jax.methods.standard import Standard
from dpet_jax.run import loop as loop_module
from dpet_jax.run import selection_cost as selecting
from dpet_jax.run.folder import Recorder, read_events
from dpet_jax.run.interrupt import Interrupt
from dpet_jax.run.limits import Limits
from dpet_jax.run.loop import Loop
from dpet_jax.run.progress import Display
from dpet_jax.run.trainer import Parts, Saver, Trainer
from dpet_jax.training import chunks
from dpet_jax.training.plateau import PlateauConfig
from dpet_jax.training.resolution import Level

N, BATCH, STEPS = 56, 8, 7  # a full pass is 7 steps of 8 rows
FORWARD, TRAIN = 2, 6  # FLOPs of an example
PROXY_FORWARD, PROXY_TRAIN = 1, 3
STEP_FLOPS, FULL = BATCH * TRAIN, STEPS * BATCH * TRAIN
SCORE_BATCH = 10


class State(NamedTuple):
    plans: int
    observed: np.ndarray


class Scripted(Method):
    """A method that gives plans from a list and may score `ask` examples for each."""

    plans: Any
    ask: Any = 0
    proxy: bool = False

    @property
    def scores(self):
        return ("margin",)

    @property
    def auxiliary(self):
        return Auxiliary(PROXY, 0.5) if self.proxy else None

    def planned_visits(self, pool):
        assert pool.num_examples == N
        return sum(plan.visits for plan in self.plans)

    def start(self, pool, seed):
        assert (pool.num_examples, seed) == (N, 3)
        return State(0, np.zeros(0, np.int32))

    def plan(self, state, learner):
        if state.plans == len(self.plans):
            return state, None
        ask = self.ask[state.plans] if isinstance(self.ask, tuple) else self.ask
        if ask:
            learner.select("top_k", np.arange(ask, dtype=np.int32), 1)
        return state._replace(plans=state.plans + 1), self.plans[state.plans]

    def observe(self, state, result):
        sizes = np.append(state.observed, result.index_set.size).astype(np.int32)
        return state._replace(observed=sizes)

    def coreset(self, state):
        assert isinstance(state, State)


class Main:
    """The main network of a machine."""

    max_steps, train_flops = 10**6, TRAIN

    def __init__(self, machine):
        self.machine = machine

    def level(self, *_):
        return Level(self.train_flops, None)

    def begin(self, plan, plan_index):
        machine = self.machine
        machine.begun.append((plan.label, plan_index))
        told = repr((plan.reset, plan_index)).encode()
        machine.model = zlib.crc32(told, machine.model)
        self.set_up(plan)

    def set_up(self, plan):
        self.machine.weights.append(plan.label)
        self.machine.rate = plan.learning_rate_factor

    def train(self, rows, num_steps, span, visits):
        machine = self.machine
        assert rows.shape == (num_steps * BATCH,)
        machine.spans.append(span)
        for step in rows.reshape(num_steps, BATCH):
            place = repr((tuple(span), visits, machine.rate)).encode()
            machine.model = zlib.crc32(step.tobytes() + place, machine.model)
            visits += int((step >= 0).sum())
            machine.steps += 1
            machine.trained += 1
        machine.pending += 1
        machine.most_pending = max(machine.most_pending, machine.pending)
        began = max(machine.free_at, machine.time.now)
        machine.free_at = began + num_steps * machine.step_s
        loss = math.nan if machine.steps >= machine.bad_step else 0.5
        return machine.free_at, loss, int((rows >= 0).sum())

    def wait(self, handle):
        machine, (done_at, loss, visits) = self.machine, handle
        machine.pending -= 1
        while machine.time.now < done_at:
            machine.time.now = min(done_at, machine.time.now + 0.05)
            machine.tick()
        return loss * visits, visits, visits

    def result(self, index_set):
        assert self.machine.pending == 0
        distinct = np.unique(index_set)
        ones = np.ones(distinct.size)
        return TrainResult(distinct, ones, distinct >= 0, ones)


class Machine:
    """An accelerator that works through a queue on a pretended clock.

    Its model is a checksum of every row it was trained on, in order, with the place of
    that row on the schedule; two models are equal when all of that was. Its proxy is a
    checksum of the plans that it followed.
    """

    batch_size = BATCH

    def __init__(
        self, time, step_s=0.05, accuracies=None, bad_step=None, bad_look=None
    ):
        self.time, self.step_s = time, step_s
        self.bad_step, self.bad_look = bad_step or math.inf, bad_look or math.inf
        self.accuracies = accuracies or {}
        self.model, self.steps, self.trained, self.free_at = 0, 0, 0, 0.0
        self.proxy, self.followed, self.asked = 0, [], []
        self.scored_examples = self.selection_visits = self.select_flops = 0
        self.pending, self.most_pending = 0, 0
        self.begun, self.weights, self.spans, self.evaluated = [], [], [], []
        self.tick, self.rate = lambda: None, None
        self.main = Main(self)
        self.between_chunks = lambda *_: None
        self.compiling = None  # the loop sets it

    def score(self, names, index_set, model=MAIN):
        raise AssertionError((names, index_set, model))

    def select(self, selector, index_set, num_select, model=MAIN, **options):
        assert (selector, options) == ("top_k", {})
        self.asked.append((model, self.steps))
        self.scored_examples += index_set.size
        rows = math.ceil(index_set.size / SCORE_BATCH) * SCORE_BATCH
        self.select_flops += rows * (FORWARD if model == MAIN else PROXY_FORWARD)
        self.time.now += 100
        if self.steps >= self.bad_look:
            raise DivergedError("scores hold NaN")
        # who answers decides what is picked
        chosen = np.roll(index_set, self.proxy)[:num_select]
        return Selection(chosen, np.zeros(num_select, np.float32))

    def fresh(self, seed):
        raise AssertionError(seed)

    def train(self, plan, model):
        assert model == PROXY
        self.time.now += 500
        self.selection_visits += plan.visits // 2
        self.select_flops += plan.visits * PROXY_TRAIN // 2
        self.between_chunks(plan, plan.visits // 2, 1.0, 0.5)
        self.time.now += 500
        self.followed.append((plan.label, self.steps))
        told = (plan.index_set.tolist(), plan.passes, plan.reset, plan.schedule)
        weights = None if plan.weights is None else plan.weights.tolist()
        self.proxy = zlib.crc32(repr((told, weights)).encode(), self.proxy)
        self.selection_visits += plan.visits - plan.visits // 2
        whole = plan.visits * PROXY_TRAIN
        self.select_flops += whole - whole // 2
        return self.main.result(plan.index_set)

    def evaluate(self, split):
        assert self.pending == 0
        self.evaluated.append((split, self.steps))
        self.time.now += 10
        best = [step for step in self.accuracies.get(split, {}) if step <= self.steps]
        accuracy = self.accuracies[split][max(best)] if best else 0.0
        loss = math.nan if self.steps >= self.bad_look else 1.0
        return SimpleNamespace(accuracy=accuracy, loss=loss)

    def memory(self):
        return {}

    def snapshot(self):
        return {"model": self.model, "steps": self.steps, "proxy": self.proxy}

    def restore(self, snapshot):
        self.model, self.steps = snapshot["model"], snapshot["steps"]
        self.proxy = snapshot["proxy"]


class Shelf:
    """Keeps every checkpoint as JSON and copies of arrays; gives back the last."""

    def __init__(self, time):
        self.time, self.saved, self.begun_and_done = time, [], []

    def save(self, models, host, meta):
        self.begun_and_done.append((self.time.now, self.time.now + 1000))
        self.time.now += 1000
        host = {name: array.copy() for name, array in host.items()}
        self.saved.append((dict(models), host, json.dumps(meta)))

    def restore(self, like):
        models, host, meta = self.saved[-1]
        assert models.keys() == like.keys()
        return SimpleNamespace(models=models, host=dict(host), meta=json.loads(meta))


class After(Interrupt):
    """An interrupt that comes once a machine has trained for some steps."""

    def __init__(self, machine, steps):
        self.machine, self.steps = machine, steps

    @property
    def requested(self):
        return self.machine.trained >= self.steps


class Run(NamedTuple):
    loop: Loop
    machine: Machine
    shelf: Shelf
    time: FakeClock

    def __call__(self):
        return self.loop.run()

    @property
    def counters(self):
        return self.loop.at.counters

    def events(self, *names):
        events = read_events(self.loop.parts.recorder.path)
        return [event for event in events if event["event"] in names]

    def evaluations(self):
        return [(e["visits"], e["epochs"]) for e in self.events("evaluate")]


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Wire a loop; what a test does not name is plain."""
    recorders = []

    def make(
        plans,
        *,
        limits=None,
        shelf=None,
        ask=0,
        proxy=False,
        interrupt_at=1e9,
        probes=(),
        **options,
    ):
        time = FakeClock(0.0)
        time.monotonic = time
        monkeypatch.setattr(loop_module, "time", time)
        monkeypatch.setattr(chunks, "time", time)
        monkeypatch.setattr(selecting, "time", time)
        names = ("step_s", "accuracies", "bad_step", "bad_look")
        machine = Machine(time, **{k: options.pop(k) for k in names if k in options})
        shelf = shelf or Shelf(time)
        shelf.time = time
        recorders.append(Recorder(tmp_path / f"events{len(recorders)}.jsonl"))
        parts = {
            "method": Scripted(plans=plans, ask=ask, proxy=proxy),
            "pool": Pool(N, np.zeros(N, np.int32), 2),
            "trainer": machine,
            "limits": limits or Limits(every=1e9),
            "horizon": "plan",
            "meter": EnergyMeter(
                Found(tuple(probe(time) for probe in probes), ()),
                clock=time,
                accelerator=Accelerator(barrier=lambda: None),
            ).start(),
            "recorder": recorders[-1],
            "display": Display(Console(quiet=True)),
            "saver": shelf,
            "checkpoint_every_s": 1e9,
            "facts": {"model": "none"},
            "interrupt": After(machine, interrupt_at),
            "seed": 3,
        }
        if probes:
            machine.tick = parts["meter"].read
        return Run(Loop(Parts(**(parts | options))), machine, shelf, time)

    yield make
    for recorder in recorders:
        recorder.close()


def plan_of(size, passes, label="x", **options):
    return Plan(np.arange(size, dtype=np.int32), label, passes, **options)


PLANS = [
    plan_of(N, 2, "warm-up"),
    plan_of(15, 3, "round 1", reset="optimizer", weights=np.ones(15, np.float32)),
    Plan(np.arange(46, dtype=np.int32).reshape(2, 23), "round 2", 2, reset="all"),
]
STEPS_OF_PLANS = [14, 6, 6]


def test_pretended_parts_offer_what_the_loop_asks_for(build):
    run = build(PLANS)
    assert isinstance(run.machine, Trainer)
    assert isinstance(run.shelf, Saver)
    assert isinstance(run.loop.parts.method, Method)
    with run.machine.compiling():
        run.time.now += 7
    assert run.loop.parts.meter.seconds()["compile"] == 7


# counting


def test_visits_executed_visits_flops_and_epochs_are_counted_exactly(build):
    run = build(PLANS)
    assert run() == "finished"
    assert run.counters.visits == 2 * 56 + 3 * 15 + 2 * 23
    assert run.counters.executed_visits == (14 + 6 + 6) * 8
    assert run.counters.flops == (14 + 6 + 6) * 8 * 6
    assert run.counters.full_pass_flops == 7 * 8 * 6
    assert run.counters.epochs == 26 / 7
    assert run.counters.scored_examples == 0
    assert run.machine.steps == 26


def test_every_event_carries_the_counters_of_its_moment(build):
    run = build(PLANS, step_s=0.3)
    run()
    steps = 0
    for event in run.events("train"):
        steps += event["steps"]
        assert event["executed_visits"] == steps * BATCH
        assert event["flops"] == steps * STEP_FLOPS
        assert event["epochs"] == steps / STEPS
        assert (event["loss"], event["accuracy"]) == (0.5, 1.0)
    assert steps == 26
    begun = [(e["label"], e["visits"], e["size"]) for e in run.events("plan")]
    assert begun == [("warm-up", 0, 56), ("round 1", 112, 15), ("round 2", 157, 23)]


def test_scored_row_counts_a_third_of_a_visit(build):
    run = build([plan_of(N, 1)] * 2, ask=25)
    run()
    assert run.counters.scored_examples == 50
    assert run.counters.flops == 2 * FULL + 2 * 30 * FORWARD  # 25 fill up to 30 rows
    assert run.counters.visits == 2 * N
    first, second = run.events("select")
    assert (first["scored"], first["scores"], first["seconds"]) == (25, ["margin"], 100)
    assert (first["select_flops"], first["selection_visits"]) == (30 * FORWARD, 0)
    assert second["epochs"] == 1 + 2 * 60 / FULL


def test_method_hears_of_every_plan_it_gave(build):
    run = build(PLANS)
    run()
    assert run.loop.at.state.observed.tolist() == [56, 15, 46]
    assert run.machine.begun == [("warm-up", 0), ("round 1", 1), ("round 2", 2)]


# chunks


@pytest.mark.parametrize("step_s", [0.0, 0.001, 0.05, 0.4, 5.0])
def test_no_more_than_one_chunk_waits_behind_the_running_one(step_s, build):
    run = build([plan_of(N, 60)], step_s=step_s)
    run()
    assert run.machine.most_pending == 2


@pytest.mark.parametrize(("step_s", "steps"), [(0.05, 20), (0.2, 5), (5.0, 1)])
def test_chunks_come_to_last_about_a_second(step_s, steps, build):
    run = build([plan_of(N, 60)], step_s=step_s)
    run()
    sizes = [event["steps"] for event in run.events("train")]
    assert sizes[0] == 4
    assert set(sizes[4:-1]) == {steps}


def test_chunks_grow_at_most_fourfold(build):
    run = build([plan_of(N, 400)], step_s=0.0)
    run()
    sizes = np.array([event["steps"] for event in run.events("train")])
    assert (sizes[1:] <= 4 * sizes[:-1]).all()
    assert sizes.max() >= 1024


def test_chunk_is_no_longer_than_the_machine_allows(build):
    run = build([plan_of(N, 60)], step_s=0.0)
    run.machine.main.max_steps = 9
    run()
    assert max(event["steps"] for event in run.events("train")) == 9


# the evaluation grid


def grid(every, total_steps):
    """Steps after which an evaluation is due, found step by step."""
    due, point = [], 1
    for steps in range(1, total_steps + 1):
        if steps / STEPS >= point * every - 1e-12:
            due.append(steps)
            point = math.floor(steps / STEPS / every + 1e-12) + 1
    return due if due[-1:] == [total_steps] else [*due, total_steps]


@pytest.mark.parametrize("every", [0.05, 0.3, 0.5, 1.0, 1.7])
def test_grid_is_hit_at_the_same_epochs_whatever_the_pace(every, build):
    found = set()
    for step_s in (0.0, 0.03, 0.3, 7.0):
        run = build(PLANS, limits=Limits(every=every), step_s=step_s)
        run()
        assert [steps for _, steps in run.machine.evaluated] == grid(
            every, sum(STEPS_OF_PLANS)
        )
        found.add(tuple(run.evaluations()))
    assert len(found) == 1


def test_grid_points_that_scoring_passes_are_made_up_for_by_one_evaluation(build):
    # 400 FLOPs of scoring, 48 a step, a grid of 67.2: nobody looks at the untrained
    # model; due at 403.2, 470.4, 537.6, 604.8, 672; nothing at 592; the end is at 736
    run = build([plan_of(N, 1)], ask=200, limits=Limits(every=0.2))
    run()
    assert [steps for _, steps in run.machine.evaluated] == [1, 2, 3, 5, 6, 7]


def test_grid_point_inside_a_selection_looks_at_the_model_before_its_plan(build):
    # a plan is 336 FLOPs, a grid of 403.2 falls into the 120 of the second selection
    plans = [plan_of(N, 1), plan_of(N, 1, reset="all")]
    run = build(plans, ask=(0, N), limits=Limits(every=1.2))
    run()
    assert [steps for _, steps in run.machine.evaluated] == [7, 14]
    order = [e["event"] for e in run.events("select", "evaluate", "plan")]
    assert order == ["plan", "select", "evaluate", "plan", "evaluate"]
    assert run.events("evaluate")[0]["flops"] == FULL + 60 * FORWARD


def test_selection_passing_the_grid_does_not_look_at_one_model_twice(build):
    run = build([plan_of(N, 1)] * 2, ask=(0, 400), limits=Limits(every=1.0))
    run()
    # after 336 FLOPs; 800 of scoring pass 672 and 1,008; 1,344 is reached in the plan
    assert [steps for _, steps in run.machine.evaluated] == [7, 12, 14]


def test_nothing_but_the_grid_and_the_end_of_a_run_is_evaluated(build):
    for horizon in ("plan", "method", 2.7):
        run = build(PLANS, horizon=horizon)
        run()
        assert run.machine.evaluated == [("validation", 26)]


def test_no_point_is_evaluated_twice(build):
    run = build([plan_of(N, 1)] * 3, limits=Limits(every=1.0))
    run()
    assert run.machine.evaluated == [("validation", steps) for steps in (7, 14, 21)]


def test_run_without_validation_is_not_evaluated(build):
    run = build(PLANS, limits=Limits(every=0.5, split=None))
    assert run() == "finished"
    assert run.machine.evaluated == []


def test_method_without_plans_finishes_evaluated_and_saved(build):
    run = build([])
    assert run() == "finished"
    assert run.machine.evaluated == [("validation", 0)]
    assert len(run.shelf.saved) == 1


# the same chances for every method

ROUNDS = {"query_size": 8, "passes_per_round": 3, "max_rounds": 20}
FREE = [
    Standard(passes=9),
    Rs2(keep_fraction=0.25, passes=36),
    Dpet(score="random", warmup_passes=4, keep_fraction=0.25, **ROUNDS),
    OneShot(by="random", keep_fraction=0.25, passes=36),
    EpsilonGreedy(keep_fraction=0.5, passes=20),
]
UNEVEN = [InfoBatch(passes=9), LossThreshold(passes=9), Rs2(keep_fraction=0.2)]
PAID = [
    Dpet(score="margin", warmup_passes=4, keep_fraction=0.25, **ROUNDS),
    ActiveLearning(initial_size=12, **ROUNDS),
    OneShot(by="el2n", keep_fraction=0.25, passes=36, pretrain_passes=1),
    OneShot(by="craig", keep_fraction=0.25, passes=36, choose_every=2),
    SelectiveBackprop(passes=9, look_ahead=20),
    StaleSelectiveBackprop(passes=9),
]


def chances(build, method):
    """Return visits and FLOPs of the looks of a real method at a budget."""
    pool = Pool(64, np.zeros(64, np.int32), 2)
    limits = Limits(every=0.5, epochs=3.25)
    run = build([], method=method, pool=pool, limits=limits)
    machine, rng = run.machine, np.random.default_rng(0)

    def score(names, index_set):
        machine.select_flops += index_set.size * FORWARD
        return {name: rng.random(index_set.size, np.float32) for name in names}

    def select(_, index_set, num_select, *_model, values=None, **_options):
        if values is None:
            score((), index_set)
        chosen = rng.permutation(index_set)[:num_select].astype(np.int32)
        return Selection(chosen, rng.random(num_select, np.float32))

    def train(plan, _):
        machine.select_flops += plan.visits * TRAIN
        return machine.main.result(plan.index_set)

    machine.score = lambda names, rows, *_: score(names, rows)
    machine.select, machine.train = select, train
    machine.fresh = lambda _: FRESH
    assert run() == "budget.epochs"
    return [(e["visits"], e["flops"]) for e in run.events("evaluate")]


def test_chances_to_reach_a_target_are_one_function_of_cost(build):
    """A grid of half an epoch is 32 examples, or 4 steps; the end is 2 steps later."""
    grid = [*range(32, 32 * 7, 32), 208]
    flops = [each * TRAIN for each in grid]
    for method in FREE:
        assert chances(build, method) == [*zip(grid, flops, strict=True)], method
    for method in UNEVEN:  # fill rows cost, and are no examples
        assert [cost for _, cost in chances(build, method)] == flops, method
    for method in PAID:
        looks = chances(build, method)
        assert looks[0][0] > 0, "an untrained model is no chance"
        points = [cost // flops[0] for _, cost in looks[:-1]]
        assert points == sorted({*points} - {0}), method
        assert len({visits for visits, _ in looks}) == len(looks), method


# targets


def test_target_is_recorded_at_the_first_evaluation_at_or_above_it(build):
    accuracies = {
        "validation": {0: 0.1, 7: 0.5, 14: 0.79, 21: 0.9, 28: 0.2},
        "test": {0: 0.3, 21: 0.4},
    }
    limits = Limits(targets=(0.5, 0.8, 0.85, 0.95), every=1.0)
    run = build([plan_of(N, 4)], limits=limits, accuracies=accuracies)
    assert run() == "finished"
    found = [
        (entry["target"], entry["accuracy"], entry["epochs"], entry["test_accuracy"])
        for entry in run.loop.at.targets
    ]
    assert found == [(0.5, 0.5, 1, 0.3), (0.8, 0.9, 3, 0.4), (0.85, 0.9, 3, 0.4)]
    assert [entry["visits"] for entry in run.loop.at.targets] == [56, 168, 168]
    measured = [steps for split, steps in run.machine.evaluated if split == "test"]
    assert measured == [7, 21]
    keys = ("target", "accuracy", "test_accuracy", "epochs", "visits", "wall_s")
    for event, entry in zip(run.events("target"), run.loop.at.targets, strict=True):
        assert {key: event[key] for key in keys} == {key: entry[key] for key in keys}


def test_wall_time_of_a_target_leaves_the_measurement_of_test_out(build):
    run = build(
        [plan_of(N, 1)],
        limits=Limits(targets=(0.5,), every=1.0),
        accuracies={"validation": {0: 0.5}},
    )
    run()
    (entry,) = run.loop.at.targets
    assert entry["wall_s"] == pytest.approx(7 * 0.05 + 10)  # not 20


def test_test_accuracy_never_decides(build):
    limits = Limits(targets=(0.5,), stop_target=0.5, every=1.0)
    run = build([plan_of(N, 3)], limits=limits, accuracies={"test": {0: 1.0}})
    assert run() == "finished"
    assert run.loop.at.targets == []
    assert {split for split, _ in run.machine.evaluated} == {"validation"}


@pytest.mark.parametrize("split", ["validation", "test"])
def test_run_stops_at_its_target_and_saves(split, build):
    limits = Limits(stop_target=0.6, split=split, every=0.5)
    accuracies = {split: {0: 0.59, 12: 0.6}}
    run = build(PLANS, limits=limits, accuracies=accuracies)
    assert run() == "target"
    assert run.machine.steps == 14
    (entry,) = run.loop.at.targets
    assert (entry["target"], entry["epochs"]) == (0.6, 2.0)
    device, _, _ = run.shelf.saved[-1]
    assert device["steps"] == 14
    assert run.machine.begun == [("warm-up", 0)]


def test_target_on_test_measures_test_only_once(build):
    limits = Limits(targets=(0.5,), split="test", every=1.0)
    run = build([plan_of(N, 1)], limits=limits, accuracies={"test": {0: 0.7}})
    run()
    assert run.machine.evaluated == [("test", 7)]
    assert run.loop.at.targets[0]["test_accuracy"] == 0.7


def test_target_reached_only_by_the_last_evaluation_is_what_ended_the_run(build):
    limits = Limits(stop_target=0.6, every=100.0, epochs=1.5)
    run = build([plan_of(N, 9)], limits=limits, accuracies={"validation": {9: 0.6}})
    assert run() == "target"
    assert run.machine.steps == 11


# budgets


@pytest.mark.parametrize("step_s", [0.0, 0.05, 3.0])
@pytest.mark.parametrize(
    ("budget", "steps"),
    [
        ({"epochs": 1.5}, 11),  # 10.5 steps
        ({"epochs": 1.0}, 7),
        ({"epochs": 2.0}, 14),
        ({"visits": 56}, 7),
        ({"visits": 57}, 8),
        ({"visits": 90}, 12),
        ({"visits": 113}, 15),  # into the second plan
        ({"visits": 158}, 21),  # the second plan ends with fill rows
        ({"visits": 90, "epochs": 1.0}, 7),
    ],
)
def test_budget_ends_the_run_less_than_a_batch_late(budget, steps, step_s, build):
    run = build(PLANS, limits=Limits(every=1e9, **budget), step_s=step_s)
    reason = run()
    assert run.machine.steps == steps
    assert reason == ("budget.epochs" if "epochs" in budget else "budget.visits")
    assert run.machine.evaluated[-1] == ("validation", steps)
    assert run.shelf.saved[-1][0]["steps"] == steps


def test_budget_of_seconds_leaves_evaluation_out(build):
    limits = Limits(every=0.1, seconds=9.0)
    run = build([plan_of(N, 1000)], limits=limits, step_s=0.5)
    assert run() == "budget.seconds"
    assert run.time.now > 100
    assert 9 <= run.loop.parts.meter.seconds()["train"] <= 9 + 2 * 0.5


def test_scoring_uses_the_budget_of_epochs_up(build):
    limits = Limits(every=1e9, epochs=2.0)
    run = build([plan_of(N, 1)] * 9, ask=N, limits=limits)
    assert run() == "budget.epochs"
    # a round is 120 FLOPs of scoring and 336 of training: 672 - 576 = 96 are left
    assert run.machine.steps == 7 + 2


@pytest.mark.parametrize("budget", [{"epochs": 1.0}, {"visits": N}])
def test_nothing_is_scored_once_the_budget_is_used_up(budget, build):
    limits = Limits(every=1e9, **budget)
    run = build([plan_of(N, 1)] * 2, ask=(0, N), limits=limits)
    assert run() == f"budget.{next(iter(budget))}"
    assert run.counters.scored_examples == 0
    assert run.loop.at.state.plans == 1


# bad ends


# of five passes: the best at first, then two plateaus of two looks each
PLATEAUS = {"validation": {7: 0.6, 14: 0.7, 21: 0.7, 28: 0.69, 35: 0.7, 42: 0.5}}
FALLING = Limits(every=1.0, plateau=PlateauConfig(patience=2, factor=0.5, falls=1))


def test_the_rate_falls_where_accuracy_stops_rising_and_at_last_the_run_ends(build):
    run = build([plan_of(N, 5), plan_of(N, 9)], limits=FALLING, accuracies=PLATEAUS)
    assert run() == "plateau"
    assert [e["visits"] / N for e in run.events("evaluate")] == [1, 2, 3, 4, 5, 6]
    falls = [
        (e["visits"] / N, e["reached"], e["best"], e["learning_rate_factor"])
        for e in run.events("plateau")
    ]
    assert falls == [(4, 1, 0.7, 0.5), (6, 2, 0.7, 0.5)]
    factors = [e["learning_rate_factor"] for e in run.events("plan")]
    assert factors == [1, 0.5], "the next plan begins at the rate that was left"
    assert run.machine.rate == 0.5


def test_early_stopping_ends_at_the_first_plateau(build):
    limits = Limits(every=1.0, plateau=PlateauConfig(patience=3))
    run = build([plan_of(N, 9)], limits=limits, accuracies=PLATEAUS)
    assert run() == "plateau"
    assert run.counters.visits == 5 * N
    assert len(run.evaluations()) == 5, "the last look is not repeated"


@pytest.mark.parametrize("steps", [10, 25, 28, 31])
def test_a_resumed_run_knows_how_its_accuracy_went_on(steps, build):
    plans = [plan_of(N, 5), plan_of(N, 9)]
    whole = build(plans, limits=FALLING, accuracies=PLATEAUS)
    whole()
    options = {"limits": FALLING, "accuracies": PLATEAUS, "checkpoint_every_s": 0.0}
    first = build(plans, interrupt_at=steps, **options)
    assert first() == "interrupted"
    second = build(plans, shelf=first.shelf, **options)
    second.loop.restore()
    assert second() == "plateau"
    assert second.machine.model == whole.machine.model
    assert second.loop.at.plateau == whole.loop.at.plateau


@pytest.mark.parametrize("bad_step", [1, 5, 14, 15, 26])
@pytest.mark.parametrize("every_s", [0.0, 1e9])
@pytest.mark.parametrize("every", [0.5, 1e9])
def test_loss_that_is_no_number_ends_the_run_without_saving_the_model(
    bad_step, every_s, every, build
):
    limits = Limits(every=every)
    run = build(PLANS, bad_step=bad_step, checkpoint_every_s=every_s, limits=limits)
    assert run() == "diverged"
    assert all(device["steps"] < bad_step for device, _, _ in run.shelf.saved)
    assert all(steps < bad_step for _, steps in run.machine.evaluated)
    assert run.events("train")[-1]["loss"] is None


@pytest.mark.parametrize(
    ("options", "stopped_at"),
    [
        ({"limits": Limits(every=1.0, targets=(0.0,))}, 7),  # seen on the grid
        ({"ask": 25}, 14),  # by the next query
        ({"horizon": 100.0}, 26),  # at the end of the run
    ],
)
def test_model_found_broken_by_a_look_at_it_ends_the_run_unsaved(
    options, stopped_at, build
):
    run = build(PLANS, bad_look=6, **options)
    assert run() == "diverged"
    assert run.machine.steps == stopped_at
    assert run.shelf.saved == []
    assert run.loop.at.targets == []


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_interrupt_saves_and_leaves_without_another_evaluation(steps, build):
    run = build(PLANS, interrupt_at=steps, step_s=0.3)
    assert run() == "interrupted"
    assert len(run.shelf.saved) == 1
    assert run.shelf.saved[0][0]["steps"] == run.machine.steps < 14
    assert run.machine.evaluated == []
    assert run.machine.pending == 0


def test_checkpoint_tells_time_last_event_and_facts(build):
    run = build(PLANS, interrupt_at=8)
    run()
    meta = json.loads(run.shelf.saved[0][2])
    assert meta["facts"] == {"model": "none"}
    last = [e["event_id"] for e in run.events("plan", "train")][-1]
    assert meta["last_event_id"] == last
    train = meta["energy"]["phases"]["train"]
    assert train["s"] == pytest.approx(run.machine.steps * 0.05)
    assert meta["journal_lines"] == 0
    assert run.events("checkpoint")[0]["event_id"] == last + 1


@pytest.mark.parametrize("every_s", [0.0, 5.0, 30.0])
def test_checkpoints_are_made_when_due_and_no_sooner(every_s, build):
    run = build([plan_of(N, 20)], step_s=1.0, checkpoint_every_s=every_s)
    run()
    edges = np.array(run.shelf.begun_and_done)
    waited = edges[1:, 0] - edges[:-1, 1]
    inside = waited[waited.cumsum() < 100]  # the end of the run saves once more
    assert inside.size >= 2
    assert inside.min() >= every_s
    assert inside.max() <= every_s + 4


def test_run_without_due_checkpoints_saves_at_its_end_only(build):
    run = build(PLANS, checkpoint_every_s=1e9)
    run()
    assert [device["steps"] for device, _, _ in run.shelf.saved] == [26]


# resuming

SETTINGS = {
    "limits": Limits(targets=(0.2, 0.6, 0.7), every=0.4),
    "accuracies": {"validation": {9: 0.3, 21: 0.6}, "test": {0: 0.9}},
    "ask": 25,
    "step_s": 0.3,
    "horizon": "method",
}


def assert_ends_like(run, whole):
    assert run.machine.model == whole.machine.model
    assert run.counters == whole.counters
    assert run.loop.at.evaluated_visits == whole.loop.at.evaluated_visits
    assert run.loop.at.state.plans == whole.loop.at.state.plans
    np.testing.assert_array_equal(
        run.loop.at.state.observed, whole.loop.at.state.observed
    )
    reached, wanted = (
        [entry | {"wall_s": None} for entry in one.loop.at.targets]
        for one in (run, whole)
    )
    assert reached == wanted


@pytest.mark.parametrize("steps", [0, 1, 4, 7, 11, 13, 14, 15, 18, 20, 21, 24])
def test_resumed_run_trains_on_the_same_rows_as_an_uninterrupted_one(steps, build):
    whole = build(PLANS, **SETTINGS)
    assert whole() == "finished"
    first = build(PLANS, **SETTINGS, interrupt_at=steps)
    assert first() == "interrupted"
    second = build(PLANS, **SETTINGS, shelf=first.shelf)
    second.loop.restore()
    assert second() == "finished"
    assert_ends_like(second, whole)
    assert second.machine.steps == whole.machine.steps
    assert first.evaluations() + second.evaluations() == whole.evaluations()
    assert first.machine.begun + second.machine.begun == whole.machine.begun


@pytest.mark.parametrize("visits", [33, 7 * 8])
def test_a_paused_run_goes_on_as_if_nobody_had_looked(visits, build):
    whole = build(PLANS, **SETTINGS)
    whole()
    limits = replace(SETTINGS["limits"], pause=visits)
    first = build(PLANS, **SETTINGS | {"limits": limits})
    assert first() == "paused"
    assert visits <= first.counters.visits < visits + BATCH
    (look,) = first.events("pause")
    assert look["visits"] == first.counters.visits
    (saved,) = first.events("checkpoint")
    assert saved["event_id"] == look["event_id"] + 1  # so that the look is not lost
    second = build(PLANS, **SETTINGS, shelf=first.shelf)
    second.loop.restore()
    assert second() == "finished"
    assert_ends_like(second, whole)
    assert first.evaluations() + second.evaluations() == whole.evaluations()


def test_run_can_be_resumed_again_and_again(build):
    whole = build(PLANS, **SETTINGS)
    whole()
    shelf, reason, runs = None, "interrupted", 0
    while reason == "interrupted":
        run = build(PLANS, **SETTINGS, shelf=shelf, interrupt_at=1)
        if shelf is not None:
            run.loop.restore()
        reason, shelf, runs = run(), run.shelf, runs + 1
    assert runs > 5
    assert_ends_like(run, whole)


def test_run_goes_on_the_same_from_any_checkpoint_it_ever_made(build):
    whole = build(PLANS, **SETTINGS, checkpoint_every_s=0.0)
    whole()
    assert len(whole.shelf.saved) > 10
    for checkpoint in whole.shelf.saved:
        again = build(PLANS, **SETTINGS)
        again.shelf.saved.append(checkpoint)
        again.loop.restore()
        assert again() == "finished"
        assert_ends_like(again, whole)


def test_resuming_inside_a_plan_sets_its_weights_and_resets_nothing(build):
    first = build(PLANS, step_s=1.0, interrupt_at=16)
    first()
    assert 14 < first.machine.steps < 20
    second = build(PLANS, step_s=1.0, shelf=first.shelf)
    second.loop.restore()
    assert second.machine.weights == ["round 1"]
    assert second.machine.begun == []
    second()
    assert second.machine.begun == [("round 2", 2)]


# a proxy that scores


ASKED = (0, 25, 25, 0)
FOLLOWED = [*PLANS, plan_of(9, 1, "round 3")]


def test_proxy_catches_up_only_when_it_is_asked_and_only_once(build):
    run = build(FOLLOWED, ask=ASKED, proxy=True, horizon="method")
    assert run() == "finished"
    # each before the query that follows, at the main model's steps of that moment
    assert run.machine.followed == [("warm-up", 14), ("round 1", 20)]
    assert run.machine.asked == [(PROXY, 14), (PROXY, 20)]
    left = [plan.label for plan in run.loop.at.pending]
    assert left == ["round 2", "round 3"]


def test_several_plans_are_caught_up_on_in_their_order(build):
    run = build(FOLLOWED, ask=(0, 0, 0, 25), proxy=True)
    run()
    names = [label for label, _ in run.machine.followed]
    assert names == ["warm-up", "round 1", "round 2"]


def test_without_a_proxy_nothing_is_left_for_one(build):
    run = build(FOLLOWED, ask=ASKED)
    run()
    assert run.machine.asked == [(MAIN, 14), (MAIN, 20)]
    assert run.machine.followed == run.loop.at.pending == []


def test_what_a_proxy_costs_is_counted_as_selection_and_in_epochs(build):
    run = build(FOLLOWED, ask=ASKED, proxy=True)
    run()
    first, second = run.events("select")
    assert [e["selection_visits"] for e in (first, second)] == [2 * 56, 3 * 15]
    scoring = 30 * PROXY_FORWARD
    costs = [112 * PROXY_TRAIN + scoring, 45 * PROXY_TRAIN + scoring]
    assert [e["select_flops"] for e in (first, second)] == costs
    assert run.counters.flops == (14 + 6 + 6 + 2) * STEP_FLOPS + sum(costs)
    assert run.counters.epochs == run.counters.flops / FULL
    # visits are the main model's alone
    assert run.counters.visits == 112 + 45 + 46 + 9
    assert run.loop.parts.meter.seconds()["select"] == 2 * (1000 + 100)


def test_resumed_proxy_follows_the_plans_that_an_uninterrupted_one_does(build):
    settings = SETTINGS | {"ask": ASKED, "proxy": True, "checkpoint_every_s": 0.0}
    whole = build(FOLLOWED, **settings)
    whole()
    assert any(
        host.get("pending.1.index_set") is not None
        for _, host, _ in (whole.shelf.saved)
    )
    for checkpoint in whole.shelf.saved:
        again = build(FOLLOWED, **settings)
        again.shelf.saved.append(checkpoint)
        again.loop.restore()
        assert again() == "finished"
        assert_ends_like(again, whole)
        assert again.machine.proxy == whole.machine.proxy
        for a, b in zip(again.loop.at.pending, whole.loop.at.pending, strict=True):
            assert (a.label, a.reset, a.schedule) == (b.label, b.reset, b.schedule)


# a selection that ends half-way


class Pressed(Interrupt):
    """An interrupt that comes while a proxy trains for the second time."""

    def __init__(self):
        self.machine = None

    @property
    def requested(self):
        return self.machine.selection_visits > 112


def test_signal_ends_a_selection_and_the_last_checkpoint_stands(build):
    settings = SETTINGS | {"ask": ASKED, "proxy": True, "checkpoint_every_s": 0.0}
    whole = build(FOLLOWED, **settings)
    whole()
    pressed = Pressed()
    run = build(FOLLOWED, **settings, interrupt=pressed)
    pressed.machine = run.machine
    saved_before = len(run.shelf.saved)
    assert run() == "interrupted"
    assert len(run.shelf.saved) > saved_before
    # the second selection was given up after half of its training, which is paid for
    assert run.machine.selection_visits == 112 + 45 // 2
    told = run.events("select")[-1]
    assert (told["selection_visits"], told["scored"]) == (45 // 2, 0)
    *_, (models, host, meta) = run.shelf.saved
    assert "pending.0.index_set" in host, "a half-trained proxy was saved"
    again = build(FOLLOWED, **settings)
    again.shelf.saved.append((models, host, meta))
    again.loop.restore()
    assert again() == "finished"
    assert_ends_like(again, whole)
    assert again.machine.proxy == whole.machine.proxy


def test_budget_ends_a_selection_and_what_it_cost_is_counted(build):
    limits = Limits(every=1e9, seconds=1200.0)
    run = build(FOLLOWED, ask=ASKED, proxy=True, limits=limits)
    assert run() == "budget.seconds"
    (first, second) = run.events("select")
    assert [e["selection_visits"] for e in (first, second)] == [112, 45 // 2]
    spent = first["select_flops"] + second["select_flops"]
    assert second["select_flops"] == 45 * PROXY_TRAIN // 2
    steps = run.counters.executed_visits // BATCH
    assert run.counters.flops == steps * STEP_FLOPS + spent
    assert run.machine.between_chunks.__name__ == "<lambda>"


# schedules


@pytest.mark.parametrize(
    ("horizon", "spans"),
    [
        ("plan", [Span(0, 112), Span(0, 45), Span(0, 46)]),
        ("method", [Span(0, 203), Span(112, 203), Span(157, 203)]),
        (1.5, [Span(0, 84), Span(112, 84), Span(157, 84)]),
    ],
)
def test_horizon_decides_where_each_plan_lies_on_the_schedule(horizon, spans, build):
    run = build(PLANS, horizon=horizon)
    run()
    assert list(dict.fromkeys(run.machine.spans)) == spans


def test_plan_that_brings_its_own_schedule_keeps_it(build):
    own = Span(5, 7, cyclic=True)
    run = build([plan_of(N, 1, schedule=own), plan_of(N, 1)], horizon="method")
    run()
    assert list(dict.fromkeys(run.machine.spans)) == [own, Span(56, 112)]


# seconds


def test_every_second_is_spent_in_the_phase_it_belongs_to(build):
    run = build([plan_of(N, 1)] * 2, ask=25, limits=Limits(every=0.5), step_s=0.25)
    run()
    spent = {k: s for k, s in run.loop.parts.meter.seconds().items() if s}
    assert spent == {
        "select": 2 * 100,
        "train": pytest.approx(14 * 0.25),
        "eval": 5 * 10,
        "checkpoint": 1000,
    }
    assert run.loop.seconds_without_eval == pytest.approx(sum(spent.values()) - 50)


def test_importing_the_loop_does_not_import_jax():
    code = "import sys, dpet_jax.run.loop; print('jax' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


# energy


class Wall:
    """The clock of a `FakeProbe`, over the pretended time of a loop."""

    def __init__(self, time):
        self.time = time

    def __call__(self):
        return 100.0 + self.time.now

    def wait(self, seconds):
        self.time.now += seconds


def card(watts):
    """Make a card that draws so many watts, or what a function of time says."""
    return lambda time: FakeProbe(Wall(time), power(watts, max_w=1e6))


def train_wh(run):
    """Return what training used; the checkpoint at the end comes on top."""
    return run.loop.parts.meter.wh()["train"]


@pytest.mark.parametrize("step_s", [0.005, 0.05, 0.4])
def test_a_budget_of_wh_ends_the_run_within_one_chunk_of_it(step_s, build):
    run = build(
        [plan_of(N, 4000)],
        step_s=step_s,
        limits=Limits(every=1e9, wh=3.0),
        probes=[card(720.0)],
    )
    assert run() == "budget.wh"
    assert 3.0 - 0.2 - 0.2 * step_s <= train_wh(run) <= 3.0 + 0.2 * step_s


class Observing(Scripted):
    """A method that keeps what each plan cost, and tunes for a while before each."""

    time: Any = None

    @property
    def tunes(self):
        return True

    def tune(self, state, learner):
        learner.scored_examples += 3
        learner.select_flops += 4 * FORWARD
        self.time.now += 5
        return state

    def observe(self, state, result):
        cost = result.cost
        paid = [cost.epochs, cost.seconds, math.nan]
        paid[2] = math.nan if cost.joules is None else cost.joules
        return state._replace(observed=np.append(state.observed, paid))


@pytest.mark.parametrize("watts", [None, 72.0])
def test_a_method_observes_what_choosing_and_training_cost(watts, build):
    probes = () if watts is None else (card(watts),)
    run = build(PLANS, step_s=1.0, ask=20, probes=probes, limits=Limits(every=0.5))
    method = Observing(plans=PLANS, ask=20, time=run.time)
    run.loop.parts = replace(run.loop.parts, method=method)
    run()
    epochs, seconds, joules = run.loop.at.state.observed.reshape(-1, 3).T
    flops = [steps * STEP_FLOPS + 24 * FORWARD for steps in STEPS_OF_PLANS]
    np.testing.assert_allclose(epochs, np.array(flops) / FULL)
    phases = run.loop.parts.meter.seconds()
    assert phases["tuner"] == 5 * (len(PLANS) + 1)
    # 105 s of a last question come after the last plan
    assert seconds.sum() == pytest.approx(
        phases["select"] + phases["train"] + phases["tuner"] - 5, abs=0.1
    )
    if watts is None:
        assert np.isnan(joules).all()
    else:
        np.testing.assert_allclose(joules, watts * seconds, rtol=0.05)


@pytest.mark.parametrize("steps", [5, 16])
def test_what_a_plan_cost_goes_on_after_an_interruption(steps, build):
    def made(**options):
        run = build(PLANS, step_s=1.0, limits=Limits(every=0.5), **options)
        method = Observing(plans=PLANS, time=run.time)
        run.loop.parts = replace(run.loop.parts, method=method)
        return run

    whole = made()
    whole()
    first = made(interrupt_at=steps)
    assert first() == "interrupted"
    second = made(shelf=first.shelf)
    second.loop.restore()
    second.loop.parts.meter.resume(
        Accounts.from_json(json.loads(first.shelf.saved[-1][2])["energy"])
    )
    second()
    left, right = (run.loop.at.state.observed.reshape(-1, 3) for run in (whole, second))
    np.testing.assert_allclose(left[:, 0], right[:, 0])
    np.testing.assert_allclose(left[:, 1], right[:, 1], atol=1.0)


def test_a_piece_has_its_place_on_the_schedule_of_its_stretch(build):
    places = [Span(0, 112), Span(56, 112), None]
    plans = [plan_of(N, 1, stretch=place) for place in places]
    run = build(plans)
    run()
    assert [*dict.fromkeys(run.machine.spans)] == [*places[:2], Span(0, 56)]
    run = build(plans, horizon=3.0)
    run()
    assert [*dict.fromkeys(run.machine.spans)] == [
        Span(0, 168),
        Span(56, 168),
        Span(112, 168),
    ]


def test_a_jump_of_the_power_costs_at_most_the_two_chunks_in_flight(build):
    rising = card(lambda t: 720.0 if t < 8 else 7200.0)
    run = build([plan_of(N, 4000)], limits=Limits(every=1e9, wh=3.0), probes=[rising])
    assert run() == "budget.wh"
    assert 3.0 < train_wh(run) <= 3.0 + 2 * 2.0  # a second each at the higher power


def test_evaluation_and_what_is_not_trained_on_leave_a_budget_of_wh_alone(build):
    few = build(
        [plan_of(N, 400)], limits=Limits(every=1e9, wh=3.0), probes=[card(720.0)]
    )
    few()
    often = build(
        [plan_of(N, 400)], limits=Limits(every=10.0, wh=3.0), probes=[card(720.0)]
    )
    assert often() == "budget.wh"
    assert len(often.evaluations()) >= 4
    assert often.machine.steps == pytest.approx(few.machine.steps, abs=20)


def test_events_carry_the_wh_of_every_phase(build):
    run = build(PLANS, probes=[card(720.0)], limits=Limits(every=1.0))
    run()
    last = run.events("evaluate")[-1]
    looks = len(run.evaluations())
    assert last["wh"]["eval"] == pytest.approx(looks * 10 * 0.2)
    assert last["wh"]["train"] == pytest.approx(run.machine.steps * 0.05 * 0.2)
    growing = [sum(e["wh"].values()) for e in run.events("train", "evaluate")]
    assert growing == sorted(growing)


def test_without_a_sensor_no_event_holds_a_wh(build):
    run = build(PLANS, limits=Limits(every=1.0, wh=1e-9))
    assert run() == "finished"
    assert all(e["wh"] is None for e in run.events("train", "evaluate", "plan"))
    assert run.loop.wh_without_eval is None


def test_plans_are_the_labels_of_the_energy(build):
    run = build(PLANS, probes=[card(720.0)], limits=Limits(every=1.0))
    run()
    labels = run.loop.parts.meter.accounts().labels
    assert set(labels) == {"warm-up", "round 1", "round 2"}


# a schedule that ends with the clock

#: Of two's powers, so that sums of seconds are exact however they are split.
SECONDS, STEP_S, PACED_N = 16.0, 1 / 128, 100 * N


@pytest.fixture
def paced(build):
    """Wire a loop whose schedule ends after 16 s, on a machine that changes speed."""

    def make(change=(1e9, 1.0), *, planned=1.0, drop=0.5, **options):
        """Make one.

        Args:
            change: After how many steps, and the factor of a step's time from then on.
            planned: What the plan believes that a step takes, over what it does.
            drop: Share left out.
            options: Of `build`.
        """
        epochs = 0.98 * SECONDS / STEP_S * BATCH / PACED_N / planned
        run = build(
            [],
            method=DpetAnneal(epochs=epochs, drop=drop),
            pool=Pool(PACED_N, np.zeros(PACED_N, np.int32), 2),
            limits=Limits(every=1e9, seconds=SECONDS, pace=True),
            **options,
        )
        machine, train = run.machine, run.machine.main.train
        machine.progress = []

        def watched(rows, num_steps, span, visits):
            machine.step_s = STEP_S * (change[1] if machine.steps >= change[0] else 1.0)
            for step in range(num_steps):
                passed = (span.start + visits + step * BATCH) / span.horizon
                machine.progress.append(passed)
            return train(rows, num_steps, span, visits)

        machine.main.train = watched
        return run

    return make


class Free(Shelf):
    """Keeps checkpoints in no time."""

    def save(self, models, host, meta):
        before = self.time.now
        super().save(models, host, meta)
        self.time.now = before


@pytest.mark.parametrize(
    ("change", "drop"), [((1_000, 1.5), 0.5), ((1_000, 0.5), 0.0), ((1_000, 0.5), 0.5)]
)
def test_a_paced_run_ends_with_the_clock_and_its_schedule(change, drop, paced):
    run = paced(change, drop=drop)
    assert run() == "finished"
    spent = run.loop.parts.meter.seconds()["train"]
    assert 0.95 * SECONDS <= spent <= SECONDS
    assert run.machine.progress[0] == 0
    assert 0.99 <= run.machine.progress[-1] <= 1
    steps = [after - before for before, after in pairwise(run.machine.progress)]
    assert min(steps) > 0
    assert max(steps) < 4 * STEP_S / SECONDS


@pytest.mark.parametrize("planned", [0.02, 50.0])
def test_a_plan_that_was_far_off_is_put_right(planned, paced):
    run = paced(planned=planned, drop=0.0)
    assert run() == "finished"
    assert 0.95 * SECONDS <= run.loop.parts.meter.seconds()["train"] <= SECONDS
    assert run.machine.progress[-1] >= 0.99


def test_the_method_counts_on_the_examples_that_the_clock_leaves(paced):
    run = paced((1_000, 0.5))
    run()
    state, last = run.loop.at.state, run.loop.at.pacing.last
    assert state.visits == run.counters.visits == last.horizon
    assert last.horizon > 1.3 * run.loop.parts.method.planned_visits(
        run.loop.parts.pool
    )
    boundaries = run.events("pace")
    assert len(boundaries) == len(run.loop.at.pacing.resets)
    spent = [event["spent"] for event in boundaries]
    assert max(after - before for before, after in pairwise(spent)) <= 0.1 * SECONDS


def test_a_paced_run_that_is_killed_and_resumed_goes_on_as_it_would_have(paced):
    shelf = Free(None)
    whole = paced((1_000, 1.5), shelf=shelf, checkpoint_every_s=0.0)
    whole()
    middle = len(shelf.saved) // 3
    again = paced((1_000, 1.5), shelf=Free(None), checkpoint_every_s=0.0)
    again.shelf.saved.append(shelf.saved[middle])
    accounts = Accounts.from_json(json.loads(shelf.saved[middle][2])["energy"])
    again.loop.parts.meter.resume(accounts)
    again.loop.restore()
    again()
    assert again.loop.at.pacing.resets == whole.loop.at.pacing.resets
    assert again.machine.model == whole.machine.model
    assert again.counters == whole.counters


def test_what_a_crash_lost_is_gone_and_no_examples_pay_for_it(paced):
    run = paced(shelf=Free(None), interrupt_at=800)
    assert run() == "interrupted"
    lost_s = 4.0
    again = paced(shelf=Free(None))
    again.shelf.saved.append(run.shelf.saved[-1])
    accounts = Accounts.from_json(json.loads(run.shelf.saved[-1][2])["energy"])
    crashed = replace(accounts, lost=Lost(lost_s, None))
    again.loop.parts.meter.resume(crashed)
    again.time.now += 2  # as compiling again takes
    again.loop.restore()
    assert again() == "finished"
    ours = again.loop.parts.meter.seconds()["train"]
    assert 0.95 * SECONDS - 6 <= ours <= SECONDS - 6
    each = [reset.per_visit for reset in again.loop.at.pacing.resets]
    assert max(each) < 1.02 * min(each)


def test_a_budget_that_is_spent_before_the_first_step_ends_the_run(paced):
    run = paced()
    run.time.now += 0.99 * SECONDS
    assert run() == "budget.seconds"
    assert run.counters.visits == 0


def test_a_schedule_ends_with_the_energy_too(build):
    run = build(
        [],
        method=DpetAnneal(epochs=2.0, drop=0.5),
        pool=Pool(PACED_N, np.zeros(PACED_N, np.int32), 2),
        limits=Limits(every=1e9, wh=4.0, pace=True),
        probes=[card(lambda t: 720.0 if t < 10 else 1440.0)],
    )
    assert run() == "finished"
    assert 0.95 * 4 <= train_wh(run) <= 4
