"""The one loop for all methods: plan, train, evaluate, observe, checkpoint, stop.

It alone trains the main model, evaluates on one grid of costs, counts and stops; that
is what makes comparisons fair. It never imports JAX: the accelerator is behind
`Trainer`.
"""

import hashlib
import math
import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np

from dpet_jax.errors import DivergedError, SelectionEndedError
from dpet_jax.methods.base import Cost, Learner, Method, Plan, Span, span_of
from dpet_jax.methods.proxy import ProxyLearner
from dpet_jax.planner.pacing import Pacing
from dpet_jax.planner.planner import PLANNED
from dpet_jax.run.costs import WORK_PHASES
from dpet_jax.run.counters import Counters
from dpet_jax.run.history import LossHistory
from dpet_jax.run.limits import StopReason
from dpet_jax.run.position import Position
from dpet_jax.run.prune import said
from dpet_jax.run.selection_cost import SelectionWatch
from dpet_jax.run.team import summed
from dpet_jax.run.trainer import Parts
from dpet_jax.training.chunks import Chunk, Chunks, Pace

_WARN_AT = 0.8


class Loop:
    """A run in progress.

    Args:
        parts: What it works with.

    Attributes:
        at: State of the run on the host.
    """

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        trainer, pool = parts.trainer, parts.pool
        trainer.compiling = lambda: parts.meter.window("compile")
        self.at = Position(
            parts.method.start(pool, parts.seed),
            Counters(pool.num_examples * trainer.main.train_flops),
            prune=None if parts.pruner is None else parts.pruner.start(),
        )
        self._lost = parts.meter.accounts().lost  # no more is lost in this process
        self._label = ""
        self._looked = False  # at the model, since its plan began
        self._accuracy = math.nan  # of the last chunk that has ended
        self._chunks: Chunks | None = None  # of the plan that is being trained on
        self._pace = Pace()
        self._warned = False
        self._last_save = time.monotonic()
        self._diverged = False
        self._cut_short = False

    @property
    def counters(self) -> Counters:
        """Work done so far."""
        return self.at.counters

    @property
    def _step_flops(self) -> int:
        """FLOPs of a step, of the network and the images that the run has now."""
        trainer, chunks = self.parts.trainer, self._chunks
        flops = trainer.main.train_flops
        if chunks is not None and chunks.left:
            flops = chunks.level.train_flops
        return trainer.batch_size * flops

    @property
    def seconds_without_eval(self) -> float:
        """Seconds so far, evaluation excluded."""
        phases = self.parts.meter.seconds()
        return sum(phases.values()) - phases["eval"]

    @property
    def wh_without_eval(self) -> float | None:
        """Gross Wh so far, evaluation excluded; None if unavailable."""
        phases = self._wh()
        return None if phases is None else sum(phases.values()) - phases["eval"]

    def _wh(self) -> dict[str, float] | None:
        """Return the gross Wh of every phase, on all hosts; None if unavailable."""
        meter, told = self.parts.meter, self.parts.team.told()
        others = [one["wh"] for one in told if one["quality"] == meter.quality]
        return summed(meter.wh(), others)

    @property
    def _paid(self) -> Cost:
        """What choosing and training have cost so far."""

        def paid() -> list[float | None]:
            seconds, wh = self.parts.meter.seconds(), self._wh()
            return [
                self.counters.epochs,
                sum(seconds.get(phase, 0.0) for phase in WORK_PHASES),
                None if wh is None else 3600 * sum(wh.get(p, 0.0) for p in WORK_PHASES),
            ]

        epochs, took, joules = self.parts.team.agree(paid)
        assert epochs is not None
        assert took is not None
        return Cost(epochs, took, joules)

    def restore(self) -> None:
        """Restore the latest checkpoint, on a loop that has not run yet."""
        trainer = self.parts.trainer
        restored = self.parts.saver.restore(trainer.snapshot())
        trainer.restore(restored.models)
        self.at.restore(restored.host, restored.meta["position"])
        self._lost = self.parts.meter.accounts().lost
        pacing, spent = self.at.pacing, self._agreed_spent()
        if pacing is not None and spent is not None:
            since = spent - restored.meta["spent"]
            self.at.pacing = pacing.delayed(since)
        if self.at.plan is not None:
            trainer.main.set_up(self.at.plan)
        if self.parts.pruner and self.at.prune:
            self.parts.pruner.restored(self.at.prune)

    def run(self) -> StopReason:
        """Train until something ends the run, and save.

        Returns:
            What did.
        """
        reason: StopReason | None = "finished" if self.parts.untrained else None
        while reason is None:
            if self._to_prune:
                self._prune()
            begins = self.at.plan is None
            if begins:
                reason = self._before_chunk() or self._next_plan()
            reason = reason or self._train_plan(begins=begins)
            self._checkpoint(end=False)
        if reason == "paused":
            reason = self._look_at_pause()
        elif reason not in ("interrupted", "diverged"):
            reason = self._last_evaluation(reason)
        self._checkpoint(end=True)
        self.parts.display.end_plan()
        return reason

    # one plan

    def _next_plan(self) -> StopReason | None:
        parts, at, trainer = self.parts, self.at, self.parts.trainer
        if parts.limits.pace and (at.pacing is None or self._to_pace):
            self._pace_anew()
        if self._budget_over:
            return "finished" if at.counters.visits else self._nothing_left
        method = self._lasting()
        learner: Learner = (
            ProxyLearner(trainer, at.pending) if parts.method.proxied else trainer
        )
        watch = SelectionWatch(parts, at.counters, self._exhausted)
        at.paid = at.paid or self._paid
        try:
            with parts.meter.window("select"), watch.watching():
                plan = self._planned(method, learner)
        except SelectionEndedError as ended:
            # a network may be half-trained, so the last checkpoint has to do
            self._cut_short = ended.reason == "interrupted"
            return ended.reason
        except DivergedError:
            self._diverged = True
            return "diverged"
        finally:
            if watch.flops:
                self._event("select", **watch.event())
        if plan is None:
            return "finished"
        # a point of the grid that the selection has passed looks at what was trained
        # so far, before the plan resets anything
        if self._grid_reached() and (at.evaluated_visits or 0) != at.counters.visits:
            ended = self._evaluate(last=False)
            if ended is not None:
                return ended
        at.plan = plan = self._settled(plan)
        self._check_alike(plan)
        self._event(
            "plan",
            label=plan.label,
            size=plan.size,
            passes=plan.passes,
            learning_rate=plan.learning_rate,
            learning_rate_factor=plan.learning_rate_factor,
            **plan.facts,
        )
        return None

    def _planned(self, method: Method, learner: Learner) -> Plan | None:
        """Ask the method for its next plan; if it is cut short its state stays."""
        state = self.at.state
        if method.tunes:
            with self.parts.meter.window("tuner"):
                state = method.tune(state, learner)
        self.at.state, plan = method.plan(state, learner)
        return plan

    def _check_alike(self, plan: Plan) -> None:
        """Refuse to go on where processes choose other examples.

        Devices of another kind may round otherwise, and what they choose then parts.
        """
        parts = self.parts
        if parts.team.size == 1:
            return
        here = hashlib.sha256(np.ascontiguousarray(plan.index_set).data).hexdigest()
        if parts.team.agree(lambda: here) != here:
            raise RuntimeError(
                f"{plan.label}: this process chooses other examples than process 0; "
                "run on processors and devices of one kind"
            )

    def _settled(self, plan: Plan) -> Plan:
        """Return a plan with its place on the schedule, at the rate of this moment."""
        parts, at, plateau = self.parts, self.at, self.parts.limits.plateau
        if at.pacing is None:
            visits = at.counters.visits
            span = span_of(plan, parts.horizon, visits, parts.method, parts.pool)
        else:
            span = Span(*at.pacing.span(at.counters.visits))
        plan = replace(plan, schedule=span)
        return plan if plateau is None else _slowed(plan, plateau.rate(at.plateau))

    def _train_plan(self, *, begins: bool) -> StopReason | None:
        parts, at, plan = self.parts, self.at, self.at.plan
        assert plan is not None
        self._label = f"{plan.label:<10} {plan.size:>7,} x {plan.passes:<3}"
        self._looked = False
        # one window for all chunks: closing it waits for the device, which between two
        # chunks would leave it idle
        with parts.meter.window("train", plan.label):
            if begins:
                parts.trainer.main.begin(plan, at.plan_index)
            self._chunks = Chunks(
                parts.trainer.main,
                plan,
                batch_size=parts.trainer.batch_size,
                seed=parts.seed,
                plan_index=at.plan_index,
                pace=self._pace,
                first_step=at.cursor,
                wh=lambda: self._train_wh,
            )
            parts.display.begin_plan(
                plan.label, plan.visits, self._chunks.visits_started
            )
            while self._chunks.left and not (self._to_prune or self._to_pace):
                reason = self._advance(self._chunks)
                if reason is not None:
                    return reason
            if not self._drain():
                return "diverged"
            if self._chunks.left and self._to_pace:
                self._pace_anew()
            if self._chunks.left and not self._budget_over:
                # the plan goes on, on what pruning leaves, or at another pace
                parts.display.end_plan()
                return None
            result = parts.trainer.main.result(plan.index_set)
        if not self._looked:
            # plans of a paced run are short, and so are pieces; they are too many
            short = self.at.pacing is not None or _goes_on(plan)
            self._show(f"train {self._accuracy:.3f}", last=not short)
        paid = self._paid
        cost = None if at.paid is None else paid.since(at.paid)
        at.state = parts.method.observe(at.state, result._replace(cost=cost))
        at.paid = paid
        if parts.method.proxied:
            at.pending.append(plan)
        at.plan, at.plan_index, at.cursor = None, at.plan_index + 1, 0
        parts.display.end_plan()
        return None

    def _advance(self, chunks: Chunks) -> StopReason | None:
        """Start one chunk, and evaluate and save where it is time."""
        self._tell()
        ending, num_steps = self.parts.team.agree(lambda: self._next_chunk(chunks))
        reason = self._settled_end(ending)
        if reason is not None:
            return reason
        trainer, limits, counters = self.parts.trainer, self.parts.limits, self.counters
        counters.flops += num_steps * self._step_flops
        counters.visits += chunks.next_visits(num_steps)
        counters.executed_visits += num_steps * trainer.batch_size
        self.at.cursor += num_steps
        ended = chunks.start(num_steps, counters.shown())
        if ended is not None:
            self._record(ended)
        reason = None
        if self._grid_reached():
            to_next = limits.steps_to_evaluation(counters, self._step_flops)
            reason = self._evaluate(last=chunks.left < to_next)
        self._checkpoint(end=False)
        return reason

    def _next_chunk(self, chunks: Chunks) -> tuple[StopReason | None, int]:
        """Return what ends the run, or how many steps the next chunk has."""
        ending = self._ending()
        if ending is not None:
            return ending, 0
        trainer, limits, counters = self.parts.trainer, self.parts.limits, self.counters
        step_flops = self._step_flops
        return None, chunks.next_steps(
            min(
                limits.steps_to_evaluation(counters, step_flops),
                limits.steps_to_budget(counters, step_flops, trainer.batch_size),
                limits.steps_to_pause(counters, trainer.batch_size),
                max(1, self._steps_to_wh()),
                self._steps_to_look(),
                self._steps_to_pace(),
            )
        )

    # pacing

    @property
    def _spent(self) -> float | None:
        """Spent of the budget that paces the run, what crashes lost included.

        None if nothing paces it, or the energy is not known.
        """
        limits = self.parts.limits
        if not limits.pace:
            return None
        if limits.wh is None:
            return self.seconds_without_eval + self._lost.s
        wh = self.wh_without_eval
        return None if wh is None else wh + (self._lost.wh or 0.0)

    def _agreed_spent(self) -> float | None:
        return self.parts.team.agree(lambda: self._spent)

    @property
    def _to_pace(self) -> bool:
        """Whether it is time to count anew what is left of the schedule."""
        pacing = self.at.pacing
        if pacing is None:
            return False
        spent = self._agreed_spent()
        return spent is not None and pacing.due(self.counters.visits, spent)

    @property
    def _budget_over(self) -> bool:
        pacing = self.at.pacing
        return pacing is not None and pacing.left(self.counters.visits) == 0

    def _lasting(self) -> Method:
        """Return the method, over the examples that the budget has room for."""
        method, pacing = self.parts.method, self.at.pacing
        if pacing is None:
            return method
        num_examples = self.parts.pool.num_examples
        lasting = method.lasting(pacing.last.horizon, num_examples)
        assert lasting is not None, "a config paces only methods that last"
        return lasting

    @property
    def _nothing_left(self) -> StopReason:
        """What ends a run whose budget is over before its first step."""
        return "budget.seconds" if self.parts.limits.wh is None else "budget.wh"

    def _steps_to_pace(self) -> int:
        if self.at.pacing is None:
            return sys.maxsize
        visits = self.counters.visits
        # past a boundary where the energy is not known
        visits = self.at.pacing.to_boundary(visits) or self.at.pacing.left(visits)
        return max(1, math.ceil(visits / self.parts.trainer.batch_size))

    def _pace_anew(self) -> None:
        """Count what is left of the schedule by the budget, all chunks having ended."""
        at, parts, spent = self.at, self.parts, self._agreed_spent()
        visits, limits = at.counters.visits, parts.limits
        if at.pacing is None:
            planned = parts.method.planned_visits(parts.pool)
            budget = limits.seconds if limits.wh is None else limits.wh
            assert budget is not None, "a config paces by one of the two"
            begun = spent or 0.0
            foreseen = max(0.0, PLANNED * budget - begun) / planned
            visits = planned if foreseen else 0
            at.pacing = Pacing.begin(budget, visits, foreseen, spent=begun)
        elif (
            spent is None
            or visits == at.pacing.last.visits
            or at.pacing.left(visits) == 0
        ):
            return
        else:
            at.pacing = at.pacing.reset(visits, spent)
            if at.plan is not None and self._chunks is not None:
                start, horizon = at.pacing.span(visits)
                span = Span(start - self._chunks.visits_started, horizon)
                at.plan = replace(at.plan, schedule=span)
        self._event("pace", **at.pacing.last._asdict())

    # pruning

    @property
    def _to_prune(self) -> bool:
        """Whether it is time to look at the network."""
        pruner, state = self.parts.pruner, self.at.prune
        if pruner is None or state is None:
            return False
        return pruner.due(state, self.counters.visits)

    def _steps_to_look(self) -> int:
        pruner, state = self.parts.pruner, self.at.prune
        if pruner is None or state is None:
            return sys.maxsize
        return pruner.steps_to_look(state, self.counters.visits)

    def _prune(self) -> None:
        """Look at the network, between two chunks, and prune it if it is time."""
        parts, counters = self.parts, self.counters
        pruner, state = parts.pruner, self.at.prune
        assert pruner is not None
        assert state is not None
        batch = parts.trainer.batch_size
        planned = math.ceil((pruner.planned_visits - counters.visits) / batch)
        budget = parts.limits.steps_to_budget(counters, self._step_flops, batch)

        def spend(flops: int) -> None:
            counters.flops += flops

        def write(step: str, **values: Any) -> dict[str, Any]:
            event = self._event("prune", step=step, **values)
            if (text := said(event)) is not None:
                parts.display.line(f"  {text}")
            return event

        with parts.meter.window("prune"):
            left = min(planned, budget)
            pruner.look(state, counters.visits, left, write, spend)

    def _before_chunk(self) -> StopReason | None:
        """Look at everything that may end the run between two chunks."""
        return self._settled_end(self._exhausted())

    def _settled_end(self, reason: StopReason | None) -> StopReason | None:
        if (self._diverged or reason) and not self._drain():
            return "diverged"
        return reason

    def _exhausted(self) -> StopReason | None:
        """Return what ends the run, the same in all its processes."""
        self._tell()
        return self.parts.team.agree(self._ending)

    def _tell(self) -> None:
        """Let the process that decides know what only this one does."""
        meter, team = self.parts.meter, self.parts.team
        if not team.leads:
            asked = self.parts.interrupt.requested
            energy = {"wh": meter.wh(), "quality": meter.quality}
            team.tell({"interrupt": asked, **energy})

    def _ending(self) -> StopReason | None:
        told = self.parts.team.told()
        if self.parts.interrupt.requested or any(one["interrupt"] for one in told):
            return "interrupted"
        return self.parts.callbacks.asked or self.parts.limits.exhausted(
            self.counters, self.seconds_without_eval, self._steps_to_wh()
        )

    @property
    def _train_wh(self) -> float | None:
        phases = self._wh()
        return None if phases is None else phases["train"]

    def _steps_to_wh(self) -> int:
        limits = self.parts.limits
        spent = None if limits.wh is None else self.wh_without_eval
        if limits.wh and spent and spent >= _WARN_AT * limits.wh and not self._warned:
            self._warned = True
            told = f"{spent:.4g}"
            if self.parts.meter.quality == "modelled":
                energy = self.parts.meter.energy(without=("eval",))
                told = f"{energy}, without evaluation,"
            self.parts.display.line(f"  {told} of {limits.wh:g} Wh are spent")
        pending = 0 if self._chunks is None else self._chunks.pending_steps
        return limits.steps_to_wh(spent, self._pace.step_wh, pending)

    def _drain(self) -> bool:
        """Wait for all chunks; False if training diverged."""
        for chunk in self._chunks.drain() if self._chunks else ():
            self._record(chunk)
        return not self._diverged

    def _record(self, chunk: Chunk) -> None:
        """Write down a chunk that has ended, with the counters of its start."""
        self._diverged |= not math.isfinite(chunk.loss)
        self._accuracy = chunk.accuracy
        self._event(
            "train",
            chunk.note,
            steps=chunk.num_steps,
            loss=chunk.loss,
            accuracy=chunk.accuracy,
        )
        self.parts.display.advance(chunk.visits, chunk.loss, chunk.accuracy)

    # evaluation and targets

    def _grid_reached(self) -> bool:
        """Return whether a point of the grid is reached, and go on to the next one.

        The grid alone, and the end of a run, give a method its chances to reach a
        target: they are one function of cost, whatever its plans are. Points that a
        selection passes at once are one look, for the model is the same at all of them.
        """
        counters = self.at.counters
        every = self.parts.limits.every * counters.full_pass_flops
        reached = counters.flops >= counters.grid_point * every
        if reached:
            counters.grid_point = math.floor(counters.flops / every) + 1
        return reached

    def _evaluate(self, *, last: bool) -> StopReason | None:
        """Evaluate the model; `last` is whether its plan is not looked at again."""
        parts, counters, split = self.parts, self.at.counters, self.parts.limits.split
        if not self._drain():
            return "diverged"
        if split is None:
            self._look_back()
            return None
        with parts.meter.window("eval"):
            evaluation = parts.trainer.evaluate(split)
            self._look_back()
        accuracy = evaluation.accuracy
        counted = {"split": split, "accuracy": accuracy, "loss": evaluation.loss}
        event = self._event("evaluate", **counted)
        self._diverged = not math.isfinite(evaluation.loss)
        if self._diverged:
            return "diverged"
        self.at.evaluated_visits, self._looked = counters.visits, True
        self._show(f"{split} {accuracy:.3f}", last=last)
        self._reach_targets(event)
        goal = parts.limits.stop_target
        if goal is not None and accuracy >= goal:
            return "target"
        return self._wait_for_more(accuracy)

    def _wait_for_more(self, accuracy: float) -> StopReason | None:
        """Lower the learning rate, or end the run, where accuracy has not risen."""
        section, at = self.parts.limits.plateau, self.at
        if section is None:
            return None
        before, at.plateau = at.plateau, section.after(at.plateau, accuracy)
        if at.plateau.reached == before.reached:
            return None
        if not section.over(at.plateau):
            factor = section.rate(at.plateau) / section.rate(before)
            if at.plan is not None:
                at.plan = _slowed(at.plan, factor)
                self.parts.trainer.main.set_up(at.plan)
        self._event(
            "plateau",
            best=at.plateau.best,
            reached=at.plateau.reached,
            learning_rate_factor=section.rate(at.plateau),
        )
        return "plateau" if section.over(at.plateau) else None

    def _look_back(self) -> None:
        """Add what training last said about every example, all chunks having ended."""
        parts, at = self.parts, self.at
        n = parts.pool.num_examples
        if at.history is None:
            at.history = LossHistory.begin(n, margins=parts.method.asks_margins)
        everything = np.arange(n, dtype=np.int32)
        at.history = at.history.after(parts.trainer.main.result(everything))

    def _show(self, accuracy: str, *, last: bool) -> None:
        counters, meter = self.counters, self.parts.meter
        wh = self._wh()
        self.parts.display.evaluation(
            f"  {self._label}  {accuracy:<16}  {counters.visits:>11,} visits"
            f"  {counters.epochs:7.2f} epochs  {meter.total_s:7.1f} s"
            + ("" if wh is None else self._told_wh(sum(wh.values()))),
            last=last,
        )

    def _told_wh(self, wh: float) -> str:
        meter = self.parts.meter
        if meter.quality == "modelled":
            return f"  {meter.energy()}"
        return f"  {wh:8.4g} Wh"

    def _last_evaluation(self, reason: StopReason) -> StopReason:
        """Evaluate where a run ends off the grid, as every run does."""
        if self.at.evaluated_visits == self.at.counters.visits:
            return reason
        return self._evaluate(last=True) or reason

    def _look_at_pause(self) -> StopReason:
        """Evaluate on validation where the run is left for a while.

        It is no evaluation of the grid: it reaches no target, and the run goes on as if
        nobody had looked. It comes before the checkpoint, so that it is not lost.
        """
        if not self._drain():
            return "diverged"
        with self.parts.meter.window("eval"):
            found = self.parts.trainer.evaluate("validation")
        self._event("pause", accuracy=found.accuracy, loss=found.loss)
        return "paused"

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
        every_s, last = self.parts.checkpoint_every_s, self._last_save
        due = end or self.parts.team.agree(lambda: time.monotonic() - last >= every_s)
        if not due or not self._drain():
            return
        with self.parts.meter.window("checkpoint"):
            host, position = self.at.saved()
            meta = {
                "position": position,
                "spent": self._agreed_spent(),
                "energy": self.parts.meter.accounts().to_json(),
                "journal_lines": self.parts.meter.journal_lines,
                "last_event_id": self.parts.recorder.next_id - 1,
                "facts": self.parts.facts | self._network_facts(),
            }
            self.parts.saver.save(self.parts.trainer.snapshot(), host, meta)
        self._last_save = time.monotonic()
        self._event("checkpoint")

    def _network_facts(self) -> dict[str, Any]:
        """Return what a checkpoint says of a network that pruning has changed."""
        prune = self.at.prune
        return {} if prune is None or prune.model is None else {"model": prune.model}

    def _event(
        self, event: str, counters: dict[str, Any] | None = None, **values: Any
    ) -> dict[str, Any]:
        counted = counters or self.at.counters.shown()
        meter = self.parts.meter
        common = {
            "time_s": meter.total_s,
            "seconds": meter.seconds(),
            "wh": self._wh(),
        }
        return self.parts.recorder.write(event, **(common | counted | values))


def _slowed(plan: Plan, factor: float) -> Plan:
    rate = plan.learning_rate_factor * factor
    return replace(plan, learning_rate_factor=rate)


def _goes_on(plan: Plan) -> bool:
    """Return whether another piece follows one of a warm-up or a round."""
    place = plan.stretch
    return place is not None and place.start + plan.visits < place.horizon
