"""When the network of a run is pruned, whether that pays, and what came of it."""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from dpet_jax.methods.base import generator
from dpet_jax.models.pruning import (
    Masks,
    PruneConfig,
    mask_distance,
    top_masks,
    widths_of,
)
from dpet_jax.run.team import Team

#: "watching": masks are compared; "trial": cut, its accuracy still to be judged.
Stage = Literal["watching", "trial", "kept", "skipped", "rolled back"]

Event = dict[str, Any]


@dataclass
class PruneState:
    """How far pruning has come, as a checkpoint keeps it.

    Attributes:
        stage: What happens at the next look; at any but the first two there is none.
        next_look: Visits of the run at which that is.
        masks: The last of those seen, each as hexadecimal digits.
        accuracy: On validation, just before the cut.
        model: The pruned network as plain data; None while the run has all channels.
    """

    stage: Stage
    next_look: int
    masks: list[str] = field(default_factory=list)
    accuracy: float | None = None
    model: dict[str, Any] | None = None


@runtime_checkable
class Cutter(Protocol):
    """What prunes the network on the device; `Shears` documents each."""

    @property
    def multiple(self) -> int: ...  # noqa: D102
    @property
    def widths(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def compile_s(self) -> float: ...  # noqa: D102
    def model(self) -> dict[str, Any]: ...  # noqa: D102
    def forward_flops(self, widths: tuple[int, ...]) -> int: ...  # noqa: D102
    def parameter_bytes(self, widths: tuple[int, ...]) -> int: ...  # noqa: D102
    def evaluation_flops(self, num_examples: int) -> int: ...  # noqa: D102
    def end_penalty(self) -> None: ...  # noqa: D102
    def scales(self) -> tuple[np.ndarray, ...]: ...  # noqa: D102
    def taylor(  # noqa: D102
        self, rows: np.ndarray
    ) -> tuple[tuple[np.ndarray, ...], int]: ...
    def time_step(self) -> tuple[float, int]: ...  # noqa: D102
    def compare_steps(  # noqa: D102
        self, step_s: float
    ) -> tuple[float, float, int]: ...
    def prepare(self, masks: Masks) -> Iterator[Any]: ...  # noqa: D102
    def cut(self, masks: Masks) -> None: ...  # noqa: D102
    def settle(self) -> None: ...  # noqa: D102
    def put_back(self) -> Iterator[Any]: ...  # noqa: D102


@dataclass(frozen=True)
class Pruner:
    """Look at the network now and then, and prune it once.

    Whatever depends on measured time is decided once: a run that is resumed from before
    the decision finds it in its events, and repeats it.

    Attributes:
        section: The config's.
        cutter: Prunes on the device.
        num_examples: Training examples, n.
        num_validation: Validation examples.
        batch_size: Rows of a step.
        planned_visits: Of the run, if nothing ends it earlier.
        seed: The run's.
        accuracy: Evaluates the network on validation.
        compiled: Records a program that was made ready.
        past: Events of pruning that the folder holds from before a resume, those after
            the checkpoint too.
        agree: Returns what the process that decides returns; see `Team.agree`.
    """

    section: PruneConfig
    cutter: Cutter
    num_examples: int
    num_validation: int
    batch_size: int
    planned_visits: int
    seed: int
    accuracy: Callable[[], float]
    compiled: Callable[[Any], None]
    past: Sequence[Event] = ()
    agree: Callable[[Callable[[], Any]], Any] = Team().agree

    def start(self) -> PruneState:
        """Return the state before the first step."""
        return PruneState("watching", self._next_look(0))

    def restored(self, state: PruneState) -> None:
        """Prepare the network of a checkpoint: no penalty where nobody watches."""
        if state.stage != "watching":
            self.cutter.end_penalty()

    def steps_to_look(self, state: PruneState, visits: int) -> int:
        """Count the steps until the next look, at least 1; many if there is none."""
        if not self._goes_on(state, visits):
            return sys.maxsize
        return max(1, math.ceil((state.next_look - visits) / self.batch_size))

    def due(self, state: PruneState, visits: int) -> bool:
        """Return whether it is time to look."""
        return self._goes_on(state, visits) and visits >= state.next_look

    def _goes_on(self, state: PruneState, visits: int) -> bool:
        """Return whether anything is to be decided yet, in a run that has not ended.

        Methods that only estimate their visits may go on past them.
        """
        open_yet = state.stage in ("watching", "trial")
        return open_yet and visits < self.planned_visits

    def look(
        self,
        state: PruneState,
        visits: int,
        steps_left: int,
        write: Callable[..., Event],
        spend: Callable[[int], None],
    ) -> None:
        """Compare masks and decide, or judge what was decided before.

        Args:
            state: Changed.
            visits: Of the run.
            steps_left: Steps that the run has yet to do.
            write: Writes an event of pruning.
            spend: Counts FLOPs.
        """
        if state.stage == "trial":
            self._judge(state, write, spend)
            return
        at = self._forced_at
        ready = at is not None and visits >= at
        if self.section.watches:
            ready |= self._settled(state, write)
        if ready:
            self._decide(state, visits, steps_left, write, spend)
        else:
            state.next_look = self._next_look(visits)

    @property
    def _forced_at(self) -> int | None:
        """Visits after which it is decided whatever masks say; None waits for them."""
        after = self.section.starts_after
        return None if after is None else round(after * self.num_examples)

    def _next_look(self, visits: int) -> int:
        """Return the visits of the next look after so many."""
        section, n, at = self.section, self.num_examples, self._forced_at
        if not section.watches:
            assert at is not None, "it says when to prune"
            return at
        number = math.floor(visits / (section.every * n)) + 1
        on_grid = max(visits + 1, math.ceil(number * section.every * n))
        return on_grid if at is None or at <= visits > 0 else min(on_grid, at)

    # the moment

    def _settled(self, state: PruneState, write: Callable[..., Event]) -> bool:
        masks = top_masks(_absolute(self.cutter.scales()), self.section.fraction)
        seen = [*map(_unpacked(masks), state.masks), np.concatenate(masks)]
        seen = seen[-self.section.looks :]
        state.masks = [np.packbits(mask).tobytes().hex() for mask in seen]
        distances = [mask_distance([mask], seen[-1:]) for mask in seen[:-1]]
        settled = self.section.settled(seen)
        write("look", distances=distances, settled=settled)
        return settled

    # the decision

    def _decide(
        self,
        state: PruneState,
        visits: int,
        steps_left: int,
        write: Callable[..., Event],
        spend: Callable[[int], None],
    ) -> None:
        """Decide what is cut, and whether it is; then cut."""
        section, cutter = self.section, self.cutter
        importances, flops = self._importances()
        masks = section.masks(importances, cutter.multiple)
        kept = list(widths_of(masks))
        found = next((e for e in self.past if _decides(e, visits, kept)), None)
        if found is None:
            numbers = self._weigh(masks, steps_left)
            numbers["flops_spent"] += flops
            if section.tolerance is not None and numbers["decision"] == "cut":
                numbers["accuracy"] = self.accuracy()
                numbers["flops_spent"] += cutter.evaluation_flops(self.num_validation)
        else:
            numbers = {key: found[key] for key in _NUMBERS if key in found}
            if numbers["decision"] == "cut":
                self._compile(masks)
        spend(numbers["flops_spent"])
        write("decision", **numbers, repeated=found is not None)
        cutter.end_penalty()
        state.masks = []
        if numbers["decision"] != "cut":
            state.stage = "skipped"
            return
        cutter.cut(masks)
        state.model, state.accuracy = cutter.model(), numbers.get("accuracy")
        if section.tolerance is None:
            cutter.settle()
            state.stage = "kept"
        else:
            state.stage = "trial"
            state.next_look = visits + max(1, round(section.trial * self.num_examples))

    def _importances(self) -> tuple[tuple[np.ndarray, ...], int]:
        """Return the importance of every channel, and the FLOPs that it took."""
        by, cutter = self.section.by, self.cutter
        if by == "taylor":
            draw = generator(self.seed, "prune: taylor")
            return cutter.taylor(draw.permutation(self.num_examples).astype(np.int32))
        if by == "random":
            draw = generator(self.seed, "prune: random")
            return tuple(draw.random(size) for size in cutter.widths), 0
        return _absolute(cutter.scales()), 0

    def _weigh(self, masks: Masks, steps_left: int) -> dict[str, Any]:
        """Measure what cutting would save, and return the decision with its numbers."""
        section, cutter = self.section, self.cutter
        before, after = cutter.widths, widths_of(masks)
        numbers: dict[str, Any] = {
            "by": section.by,
            "widths_before": list(before),
            "widths_after": list(after),
            "forward_flops_before": cutter.forward_flops(before),
            "forward_flops_after": cutter.forward_flops(after),
            "bytes_before": cutter.parameter_bytes(before),
            "bytes_after": cutter.parameter_bytes(after),
            "steps_left": steps_left,
            "flops_spent": 0,
        }
        if before == after:
            return numbers | {"decision": "nothing to cut"}
        timed = cutter.time_step()
        step_s, flops, compile_s = self.agree(lambda: [*timed, cutter.compile_s])
        saved = 1 - numbers["forward_flops_after"] / numbers["forward_flops_before"]
        numbers |= {
            "step_s_before": step_s,
            "foreseen_compile_s": compile_s,
            "foreseen_saving_s": steps_left * step_s * saved,
            "flops_spent": flops,
        }
        asked = section.min_saving * compile_s
        if section.min_saving and numbers["foreseen_saving_s"] <= asked:
            return numbers | {"decision": "does not pay"}
        numbers["compile_s"] = self._compile(masks)
        compared = cutter.compare_steps(step_s)
        step_s, smaller_s, flops = self.agree(lambda: list(compared))
        numbers |= {
            "step_s_before": step_s,
            "step_s_after": smaller_s,
            "saving_s": steps_left * (step_s - smaller_s),
            "flops_spent": numbers["flops_spent"] + flops,
        }
        faster = smaller_s <= (1 - section.min_speedup) * step_s
        cut = faster or not section.min_speedup
        return numbers | {"decision": "cut" if cut else "hardly faster"}

    def _compile(self, masks: Masks) -> float:
        seconds = 0.0
        for compilation in self.cutter.prepare(masks):
            seconds += compilation.seconds
            self.compiled(compilation._replace(what=f"pruned {compilation.what}"))
        return seconds

    # the verdict

    def _judge(
        self,
        state: PruneState,
        write: Callable[..., Event],
        spend: Callable[[int], None],
    ) -> None:
        """Keep what was cut, or put it back where accuracy has fallen."""
        accuracy, before = self.accuracy(), state.accuracy
        tolerance = self.section.tolerance
        assert before is not None, "it was evaluated before the cut"
        assert tolerance is not None, "nothing is on trial without one"
        spend(self.cutter.evaluation_flops(self.num_validation))
        kept = accuracy >= before - tolerance  # false for NaN
        state.stage = "kept" if kept else "rolled back"
        if kept:
            self.cutter.settle()
        else:
            state.model = None
            for compilation in self.cutter.put_back():
                self.compiled(compilation._replace(what=f"unpruned {compilation.what}"))
            self.cutter.end_penalty()
        write(
            "verdict",
            decision=state.stage,
            accuracy_before=before,
            accuracy_after=accuracy,
            tolerance=tolerance,
        )


#: What a decision is made of, in its event.
_NUMBERS = (
    *("decision", "by", "widths_before", "widths_after"),
    *("forward_flops_before", "forward_flops_after", "bytes_before", "bytes_after"),
    *("steps_left", "flops_spent", "foreseen_compile_s", "foreseen_saving_s"),
    *("compile_s", "step_s_before", "step_s_after", "saving_s", "accuracy"),
)


def _decides(event: Event, visits: int, kept: list[int]) -> bool:
    """Return whether an event is the decision about these widths at this place."""
    here = event["step"] == "decision" and event["visits"] == visits
    return here and event["widths_after"] == kept


def _absolute(values: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    return tuple(np.abs(group) for group in values)


def _unpacked(masks: Masks) -> Callable[[str], np.ndarray]:
    """Return what turns hexadecimal digits back into a mask of all channels."""
    size = sum(mask.size for mask in masks)

    def read(digits: str) -> np.ndarray:
        packed = np.frombuffer(bytes.fromhex(digits), np.uint8)
        return np.unpackbits(packed, count=size).astype(bool)

    return read


def said(event: Event) -> str | None:
    """Return what a person is told of an event of pruning; None if nothing."""
    if event["step"] == "verdict":
        accuracy = event["accuracy_after"]
        after = "no number" if accuracy is None else f"{accuracy:.3f}"
        return (
            f"pruning: {event['decision']}, validation {event['accuracy_before']:.3f} "
            f"before and {after} after"
        )
    if event["step"] != "decision":
        return None
    if event["decision"] == "nothing to cut":
        return "pruning: nothing to cut, for whole multiples of channels stay"
    numbers = (
        f"{_counted(event['widths_before'])} to {_counted(event['widths_after'])} "
        f"channels inside blocks; forward pass {event['forward_flops_before']:.3g} to "
        f"{event['forward_flops_after']:.3g} FLOPs"
    )
    if event.get("step_s_after") is not None:
        before, after = event["step_s_before"], event["step_s_after"]
        numbers += f"; step {1000 * before:.3g} to {1000 * after:.3g} ms"
    else:
        numbers += (
            f"; would save {event['foreseen_saving_s']:.2g} s and take "
            f"{event['foreseen_compile_s']:.2g} s to compile"
        )
    return f"pruning: {event['decision']}, {numbers}"


def _counted(widths: Sequence[int]) -> str:
    return f"{sum(widths):,}"


def pruning(events: Sequence[Event], batch_size: int) -> dict[str, Any]:
    """Return what summary.json says of pruning, from a run's events.

    The seconds and Wh of a step before and after are those of the whole training phase,
    None where there was no step or nothing was measured; `timed_step_s` holds those of
    the timing that decided.

    Args:
        events: In order, without superseded ones.
        batch_size: Rows of a step.
    """
    steps = [event for event in events if event["event"] == "prune"]
    looks = [event for event in steps if event["step"] == "look"]
    decision = next((e for e in steps if e["step"] == "decision"), None)
    verdict = next((e for e in steps if e["step"] == "verdict"), None)
    distances = looks[-1]["distances"] if looks else []
    result: dict[str, Any] = {
        "outcome": "not decided",
        "looks": len(looks),
        "largest_distance": max(distances, default=None),
        "at_epochs": None,
        "at_visits": None,
        **dict.fromkeys(_NUMBERS),
        **dict.fromkeys(("timed_step_s", "step_s", "step_wh")),
        **dict.fromkeys(("accuracy_before", "accuracy_after")),
    }
    del result["step_s_before"], result["step_s_after"], result["accuracy"]
    if decision is None:
        return result
    result |= {key: decision.get(key) for key in _NUMBERS if key in result}
    timed = (decision.get("step_s_before"), decision.get("step_s_after"))
    result |= {
        "outcome": decision["decision"],
        "at_epochs": decision["epochs"],
        "at_visits": decision["visits"],
        "timed_step_s": timed,
        "accuracy_before": decision.get("accuracy"),
    }
    ended = events[-1]
    if verdict is not None:
        result["outcome"] = verdict["decision"]
        result["accuracy_after"] = verdict["accuracy_after"]
        ended = verdict if verdict["decision"] == "rolled back" else ended
    start: Event = {"executed_visits": 0, "seconds": {"train": 0.0}, "wh": None}
    if decision["wh"] is not None:
        start["wh"] = {"train": 0.0}
    before = _of_a_step(start, decision, batch_size)
    cut = decision["decision"] == "cut"
    after = _of_a_step(decision, ended, batch_size) if cut else (None, None)
    result |= {
        "step_s": (before[0], after[0]),
        "step_wh": (before[1], after[1]),
    }
    return result


def pruning_line(result: dict[str, Any]) -> str:
    """Return `pruning` in one line."""
    text = str(result["outcome"])
    if result["widths_before"] is None:
        return f"{text}: {result['looks']} looks"
    text += (
        f" at {result['at_epochs']:.2f} epochs: "
        f"{_counted(result['widths_before'])} to {_counted(result['widths_after'])} "
        f"channels inside blocks, {result['forward_flops_before']:.3g} to "
        f"{result['forward_flops_after']:.3g} FLOPs an image"
    )
    for name, unit, factor in (("step_s", "ms", 1000), ("step_wh", "Wh", 1)):
        before, after = result[name]
        if before is not None and after is not None:
            text += f", {factor * before:.3g} to {factor * after:.3g} {unit} a step"
    return text


def _of_a_step(
    begun: Event, ended: Event, batch_size: int
) -> tuple[float | None, float | None]:
    """Return the seconds and the Wh of a step between two events."""
    steps = (ended["executed_visits"] - begun["executed_visits"]) / batch_size
    if not steps:
        return None, None
    took = (ended["seconds"]["train"] - begun["seconds"]["train"]) / steps
    if ended["wh"] is None or begun["wh"] is None:
        return took, None
    return took, (ended["wh"]["train"] - begun["wh"]["train"]) / steps
