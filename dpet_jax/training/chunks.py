"""From a plan to chunks of training steps, one running while the next one queues."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from dpet_jax.methods.base import Plan, Span, order_of_pass
from dpet_jax.training.resolution import Level

_CHUNK_S = 1.0
_FIRST_STEPS = 4
_NEWEST = 0.3


@runtime_checkable
class Trainable(Protocol):
    """A network on the device, as far as training it in chunks is concerned."""

    @property
    def max_steps(self) -> int:
        """Most steps of one chunk."""
        ...

    def level(self, span: Span, visits: int) -> Level:
        """Return how the network is trained at a place of the schedule."""
        ...

    def train(self, rows: np.ndarray, num_steps: int, span: Span, visits: int) -> Any:
        """Start a chunk of training and return a handle to wait for."""
        ...

    def wait(self, handle: Any) -> tuple[float, int, int]:
        """Wait for a chunk; return its summed loss, correct predictions and visits."""
        ...


class Chunk(NamedTuple):
    """A chunk of training that has ended.

    Attributes:
        num_steps: Its steps.
        visits: Of the plan, up to the end of the chunk.
        loss: Mean over its examples; not finite if training diverged.
        accuracy: Share of its examples predicted right.
        note: What was given when it was started.
    """

    num_steps: int
    visits: int
    loss: float
    accuracy: float
    note: Any


class _Queued(NamedTuple):
    handle: Any
    num_steps: int
    visits: int
    note: Any
    dispatched: float


class Chunks:
    """The training of one plan, chunk by chunk.

    One chunk runs while the next one queues: none would leave the device idle between
    two chunks, more would hide how long they take. The caller decides before each
    chunk whether to go on, and gets every chunk that has ended.

    Args:
        network: What is trained.
        plan: What to train on, its schedule settled.
        batch_size: Rows of a step.
        seed: Decides the order of the rows.
        plan_index: Position of the plan among those of the network.
        pace: Learns how long chunks take; may have learned from earlier plans.
        first_step: Steps of the plan that are done already.
        wh: Returns the Wh spent on training so far; None if unavailable.
    """

    def __init__(
        self,
        network: Trainable,
        plan: Plan,
        *,
        batch_size: int,
        seed: int,
        plan_index: int,
        pace: "Pace",
        first_step: int = 0,
        wh: Callable[[], float | None] = lambda: None,
    ) -> None:
        assert plan.schedule is not None, "a plan is trained on at its schedule's rate"
        self._network = network
        self._batches = Batches(plan, batch_size, seed, plan_index)
        self._span = plan.schedule
        self._pace = pace
        self._wh = wh
        self._next = first_step
        self._queue: deque[_Queued] = deque()
        pace.begin(wh())

    @property
    def left(self) -> int:
        """Steps not started yet."""
        return self._batches.num_steps - self._next

    @property
    def visits_started(self) -> int:
        """Visits of the plan in all chunks started so far."""
        return self._batches.visits_before(self._next)

    @property
    def level(self) -> Level:
        """How the network is trained in the next chunk."""
        return self._network.level(self._span, self.visits_started)

    @property
    def pending_steps(self) -> int:
        """Steps started and not waited for."""
        return sum(chunk.num_steps for chunk in self._queue)

    def next_steps(self, most: int) -> int:
        """Return how many steps the next chunk has, `most` at the most.

        It ends where images get another side, at the end of the step that gets there.
        """
        until_resized = self.level.steps(self._batches.batch_size)
        longest = self._network.max_steps
        return min(self._pace.steps, longest, self.left, most, until_resized)

    def next_visits(self, num_steps: int) -> int:
        """Count the visits of a next chunk of so many steps."""
        return self._batches.visits_before(self._next + num_steps) - self.visits_started

    def start(self, num_steps: int, note: Any = None) -> Chunk | None:
        """Start a chunk; return the one that ran before it, which has ended.

        Args:
            num_steps: Its steps, as `next_steps` allows.
            note: Handed back with the chunk when it has ended.
        """
        rows = self._batches.rows(self._next, num_steps)
        before = self.visits_started
        handle = self._network.train(rows, num_steps, self._span, before)
        self._next += num_steps
        now = time.monotonic()
        self._queue.append(_Queued(handle, num_steps, self.visits_started, note, now))
        return self._wait() if len(self._queue) > 1 else None

    def drain(self) -> Iterator[Chunk]:
        """Wait for every chunk that was started."""
        while self._queue:
            yield self._wait()

    def _wait(self) -> Chunk:
        queued = self._queue.popleft()
        loss, correct, visits = self._network.wait(queued.handle)
        self._pace.waited(queued.num_steps, queued.dispatched, self._wh())
        return Chunk(
            queued.num_steps,
            queued.visits,
            loss / visits,
            correct / visits,
            queued.note,
        )


class Batches:
    """The steps of one plan, any stretch of them at a time.

    The passes are one stream of examples that is cut into batches: a pass ends inside
    a batch, and the next one begins there. Only the last batch of a plan is filled up,
    by wrapping around to the last pass's own beginning. Every pass is shuffled by its
    own generator, so that a run resumed in the middle of a plan sees the same rows.

    Args:
        plan: What to train on.
        batch_size: Rows of a step.
        seed: The run's seed.
        plan_index: Position of the plan in the run.
    """

    def __init__(self, plan: Plan, batch_size: int, seed: int, plan_index: int) -> None:
        self.plan = plan
        self.batch_size = batch_size
        self.seed = seed
        self.plan_index = plan_index
        self.num_steps = -(-plan.visits // batch_size)
        self._pass: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int32))

    def rows(self, first_step: int, num_steps: int) -> np.ndarray:
        """Return int32[num_steps * batch size], fill rows as their complement ~row."""
        place, end = self.visits_before(first_step), first_step + num_steps
        pieces = []
        while place < self.visits_before(end):
            pass_index, within = divmod(place, self.plan.size)
            left = self.visits_before(end) - place
            pieces.append(self._shuffled(pass_index)[within : within + left])
            place += pieces[-1].size
        missing = end * self.batch_size - place
        if missing:
            pieces.append(~np.resize(self._shuffled(self.plan.passes - 1), missing))
        return np.concatenate(pieces)

    def visits_before(self, step: int) -> int:
        """Count the real rows of the steps before one."""
        return min(step * self.batch_size, self.plan.visits)

    def _shuffled(self, pass_index: int) -> np.ndarray:
        if self._pass[0] != pass_index:
            order = order_of_pass(self.plan, pass_index, self.seed, self.plan_index)
            self._pass = (pass_index, order)
        return self._pass[1]


class Pace:
    """Choose the length of chunks, and foresee what they will use.

    Attributes:
        steps: Steps of the next chunk, so that it lasts about a second.
        step_wh: Wh of one step, a moving average; None while it is not known.
    """

    def __init__(self) -> None:
        self.steps = _FIRST_STEPS
        self.step_wh: float | None = None
        self._last_wait = 0.0
        self._last_wh: float | None = None

    def begin(self, wh: float | None) -> None:
        """Note that training begins, or goes on after something else.

        Args:
            wh: Spent so far; None if unavailable.
        """
        self._last_wh = wh

    def waited(self, num_steps: int, dispatched: float, wh: float | None) -> None:
        """Learn from a chunk that has ended.

        Args:
            num_steps: Its steps.
            dispatched: When it was queued.
            wh: Spent so far; None if unavailable.
        """
        now = time.monotonic()
        took = now - max(self._last_wait, dispatched)
        self._last_wait = now
        wanted = round(_CHUNK_S * num_steps / max(took, 1e-6))
        self.steps = max(1, min(wanted, 4 * self.steps))
        if wh is not None and self._last_wh is not None:
            newest = max(0.0, wh - self._last_wh) / num_steps
            known = newest if self.step_wh is None else self.step_wh
            self.step_wh = known + _NEWEST * (newest - known)
        self._last_wh = wh
