"""The one loop for all methods: plan, train, evaluate, observe, checkpoint, stop.

It alone trains the main model, evaluates on one grid, counts and stops; that is what
makes comparisons fair. It never imports JAX: the accelerator is behind `Trainer`.
"""

import math
import time
from collections import deque
from dataclasses import replace
from typing import Any, NamedTuple

from dpet_jax.errors import DivergedError, SelectionEndedError
from dpet_jax.methods.base import Learner, Plan, Span
from dpet_jax.methods.proxy import ProxyLearner
from dpet_jax.run.folder import Counters
from dpet_jax.run.position import Position
from dpet_jax.run.selection_cost import SelectionWatch
from dpet_jax.run.trainer import Parts
from dpet_jax.training.batches import Batches
from dpet_jax.training.pace import Pace

_WARN_AT = 0.8


class _Chunk(NamedTuple):
    handle: Any
    num_steps: int
    dispatched: float
    counters: dict[str, Any]
    plan_visits: int


class Loop:
    """A run in progress.

    Args:
        parts: What it works with.

    Attributes:
        at: Where the run stands.
    """

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        trainer, pool = parts.trainer, parts.pool
        steps = -(-pool.num_examples // trainer.batch_size)
        full_pass_flops = steps * trainer.batch_size * trainer.train_flops
        self.at = Position(
            parts.method.start(pool, parts.seed), Counters(full_pass_flops)
        )
        self._label = ""
        self._pending: deque[_Chunk] = deque()
        self._pace = Pace()
        self._warned = False
        self._last_save = time.monotonic()
        self._diverged = False
        self._cut_short = False

    @property
    def seconds_without_eval(self) -> float:
        """Seconds so far, evaluation excluded."""
        phases = self.parts.meter.seconds()
        return sum(phases.values()) - phases["eval"]

    @property
    def wh_without_eval(self) -> float | None:
        """Gross Wh so far, evaluation excluded; None if unavailable."""
        phases = self.parts.meter.wh()
        return None if phases is None else sum(phases.values()) - phases["eval"]

    def restore(self) -> None:
        """Take the latest checkpoint up, on a loop that has not run yet."""
        trainer = self.parts.trainer
        restored = self.parts.saver.restore(trainer.snapshot())
        trainer.restore(restored.models)
        self.at.take_up(restored.host, restored.meta["position"])
        if self.at.plan is not None:
            trainer.set_weights(self.at.plan)

    def run(self) -> str:
        """Train until something ends the run, and save.

        Returns:
            What did: "finished", "target", "budget.epochs", "budget.visits",
            "budget.seconds", "budget.wh", "diverged" or "interrupted" (by a signal).
        """
        reason = None
        while reason is None:
            if self.at.plan is None:
                reason = self._before_chunk() or self._next_plan()
            reason = reason or self._train_plan()
            self._checkpoint(end=False)
        if reason not in ("interrupted", "diverged"):
            reason = self._last_evaluation(reason)
        self._checkpoint(end=True)
        self.parts.display.end_plan()
        return reason

    # one plan

    def _next_plan(self) -> str | None:
        parts, at, trainer = self.parts, self.at, self.parts.trainer
        learner: Learner = ProxyLearner(trainer, at.pending) if parts.proxy else trainer
        watch = SelectionWatch(parts, at.counters, self._exhausted)
        try:
            with parts.meter.window("select"), watch.watching():
                at.state, plan = parts.method.plan(at.state, learner)
        except SelectionEndedError as ended:
            # a network may be half-trained, so the last checkpoint has to do
            self._cut_short = str(ended) == "interrupted"
            return str(ended)
        except DivergedError:
            self._diverged = True
            return "diverged"
        finally:
            if watch.flops:
                self._event("select", **watch.told())
        if plan is None:
            return "finished"
        at.plan = replace(plan, schedule=plan.schedule or self._span(plan))
        at.cursor = 0
        with parts.meter.window("train"):
            trainer.begin(at.plan, at.plan_index)
        self._event("plan", label=plan.label, size=plan.size, passes=plan.passes)
        return None

    def _span(self, plan: Plan) -> Span:
        horizon, visits = self.parts.horizon, self.at.counters.visits
        if horizon == "plan":
            return Span(0, plan.visits)
        if horizon == "method":
            return Span(visits, self.parts.method.planned_visits(self.parts.pool))
        return Span(visits, round(horizon * self.parts.pool.num_examples))

    def _train_plan(self) -> str | None:
        parts, at, plan = self.parts, self.at, self.at.plan
        assert plan is not None
        assert plan.schedule is not None
        batches = Batches(plan, parts.trainer.batch_size, parts.seed, at.plan_index)
        done = batches.visits_before(at.cursor)
        self._label = f"{plan.label:<10} {plan.size:>7,} x {plan.passes:<3}"
        parts.display.begin_plan(plan.label, plan.visits, done)
        # one window for all chunks: closing it waits for the device, which between two
        # chunks would leave it idle
        with parts.meter.window("train", plan.label):
            self._pace.begin(self._train_wh)
            while at.cursor < batches.num_steps:
                reason = self._advance(batches, plan.schedule)
                if reason is not None:
                    return reason
            if not self._drain():
                return "diverged"
            result = parts.trainer.result(plan.index_set)
        at.state = parts.method.observe(at.state, result)
        schedule_ends = plan.schedule.start + plan.visits >= plan.schedule.horizon
        if parts.proxy:
            at.pending.append(plan)
        at.plan, at.plan_index = None, at.plan_index + 1
        parts.display.end_plan()
        if schedule_ends and at.evaluated_visits != at.counters.visits:
            return self._evaluate(last=True)
        return None

    def _advance(self, batches: Batches, schedule: Span) -> str | None:
        """Start one chunk, and evaluate and save where it is time."""
        reason = self._before_chunk()
        if reason is not None:
            return reason
        self._dispatch(batches, schedule)
        reason = self._evaluate(last=False) if self._grid_reached() else None
        self._checkpoint(end=False)
        return reason

    def _before_chunk(self) -> str | None:
        """Look at everything that may end the run between two chunks."""
        reason = self._exhausted()
        if (self._diverged or reason) and not self._drain():
            return "diverged"
        return reason

    def _exhausted(self) -> str | None:
        if self.parts.interrupt.requested:
            return "interrupted"
        return self.parts.limits.exhausted(
            self.at.counters, self.seconds_without_eval, self._steps_to_wh()
        )

    @property
    def _train_wh(self) -> float | None:
        phases = self.parts.meter.wh()
        return None if phases is None else phases["train"]

    def _steps_to_wh(self) -> int:
        limits = self.parts.limits
        spent = None if limits.wh is None else self.wh_without_eval
        if limits.wh and spent and spent >= _WARN_AT * limits.wh and not self._warned:
            self._warned = True
            self.parts.display.line(f"  {spent:.4g} of {limits.wh:g} Wh are spent")
        pending = sum(chunk.num_steps for chunk in self._pending)
        return limits.steps_to_wh(spent, self._pace.step_wh, pending)

    def _dispatch(self, batches: Batches, schedule: Span) -> None:
        trainer, limits, at = self.parts.trainer, self.parts.limits, self.at
        step_flops = trainer.batch_size * trainer.train_flops
        num_steps = min(
            self._pace.steps,
            trainer.max_steps,
            batches.num_steps - at.cursor,
            limits.steps_to_evaluation(at.counters, step_flops),
            limits.steps_to_budget(at.counters, step_flops, trainer.batch_size),
            max(1, self._steps_to_wh()),
        )
        visits = batches.visits_before(at.cursor)
        rows = batches.rows(at.cursor, num_steps)
        handle = trainer.train_chunk(rows, num_steps, schedule, visits)
        at.cursor += num_steps
        done = batches.visits_before(at.cursor)
        at.counters.visits += done - visits
        at.counters.executed_visits += num_steps * trainer.batch_size
        at.counters.flops += num_steps * step_flops
        shown = at.counters.shown()
        self._pending.append(_Chunk(handle, num_steps, time.monotonic(), shown, done))
        # one chunk runs while the next one queues; more would hide the clock
        if len(self._pending) > 1:
            self._wait()

    def _drain(self) -> bool:
        """Wait for all chunks; False if training diverged."""
        with self.parts.meter.window("train"):
            while self._pending:
                self._wait()
        return not self._diverged

    def _wait(self) -> None:
        chunk = self._pending.popleft()
        loss, correct, visits = self.parts.trainer.wait(chunk.handle)
        self._pace.waited(chunk.num_steps, chunk.dispatched, self._train_wh)
        self._diverged |= not math.isfinite(loss)
        self._event(
            "train",
            chunk.counters,
            steps=chunk.num_steps,
            loss=loss / visits,
            accuracy=correct / visits,
        )
        self.parts.display.advance(chunk.plan_visits, loss / visits, correct / visits)

    # evaluation and targets

    def _grid_reached(self) -> bool:
        counters = self.at.counters
        every = self.parts.limits.every * counters.full_pass_flops
        reached = counters.flops >= counters.grid_point * every
        if reached:
            counters.grid_point = math.floor(counters.flops / every) + 1
        return reached

    def _evaluate(self, *, last: bool) -> str | None:
        parts, counters, split = self.parts, self.at.counters, self.parts.limits.split
        if not self._drain():
            return "diverged"
        if split is None:
            return None
        with parts.meter.window("eval"):
            evaluation = parts.trainer.evaluate(split)
        accuracy = evaluation.accuracy
        counted = {"split": split, "accuracy": accuracy, "loss": evaluation.loss}
        event = self._event("evaluate", **counted)
        self._diverged = not math.isfinite(evaluation.loss)
        if self._diverged:
            return "diverged"
        self.at.evaluated_visits = counters.visits
        wh = parts.meter.wh()
        parts.display.evaluation(
            f"  {self._label}  {split} {accuracy:.3f}  {counters.visits:>11,} visits"
            f"  {counters.epochs:7.2f} epochs  {parts.meter.total_s:7.1f} s"
            + ("" if wh is None else f"  {sum(wh.values()):8.4g} Wh"),
            last=last,
        )
        self._reach_targets(event)
        goal = parts.limits.stop_target
        return "target" if goal is not None and accuracy >= goal else None

    def _last_evaluation(self, reason: str) -> str:
        """Evaluate where a run ends off the grid, for the targets' sake."""
        if self.at.evaluated_visits == self.at.counters.visits:
            return reason
        return self._evaluate(last=True) or reason

    def _reach_targets(self, event: dict[str, Any]) -> None:
        """Record the targets that an evaluation is the first to reach.

        They cost what had been spent at that evaluation; measuring the test accuracy
        comes after it and is no part of the cost.
        """
        parts, at, accuracy = self.parts, self.at, event["accuracy"]
        reached = {entry["target"] for entry in at.targets}
        due = [
            target
            for target in parts.limits.all_targets
            if target not in reached and accuracy >= target
        ]
        if not due:
            return
        test_accuracy = accuracy
        spent = {key: event[key] for key in ("time_s", "seconds", "wh")}
        if parts.limits.split != "test":
            with parts.meter.window("eval"):
                test_accuracy = parts.trainer.evaluate("test").accuracy
        for target in due:
            entry: dict[str, Any] = {
                "target": target,
                "reached": True,
                "accuracy": accuracy,
                "epochs": event["epochs"],
                "visits": event["visits"],
                "wall_s": event["time_s"],
                "test_accuracy": test_accuracy,
            }
            at.targets.append(entry)
            self._event("target", **entry, **spent)

    # surviving

    def _checkpoint(self, *, end: bool) -> None:
        """Save if it is time or the end; never a diverged or half-chosen state."""
        if self._cut_short:
            return
        waited = time.monotonic() - self._last_save
        if not (end or waited >= self.parts.checkpoint_every_s) or not self._drain():
            return
        with self.parts.meter.window("checkpoint"):
            host, position = self.at.saved()
            meta = {
                "position": position,
                "energy": self.parts.meter.state(),
                "journal_lines": self.parts.meter.journal_lines,
                "last_event_id": self.parts.recorder.next_id - 1,
                "facts": self.parts.facts,
            }
            self.parts.saver.save(self.parts.trainer.snapshot(), host, meta)
        self._last_save = time.monotonic()
        self._event("checkpoint")

    def _event(
        self, event: str, counters: dict[str, Any] | None = None, **values: Any
    ) -> dict[str, Any]:
        counted = counters or self.at.counters.shown()
        meter = self.parts.meter
        common = {
            "time_s": meter.total_s,
            "seconds": meter.seconds(),
            "wh": meter.wh(),
        }
        return self.parts.recorder.write(event, **(common | counted | values))
