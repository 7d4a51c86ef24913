"""Selective backpropagation: a fresh forward pass decides what is trained on."""

from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field

from dpet_jax.methods.base import Learner, Method, Plan, Pool, Span, generator
from dpet_jax.methods.dynamic import LOSS, cdf_below
from dpet_jax.section import Count, NonNegative, Passes


class SelectiveState(NamedTuple):
    """How far the walk over the data is.

    Attributes:
        num_examples: n.
        seed: The run's seed.
        seen: Examples looked at so far, in all passes.
        history: float32[h], the last losses looked at, oldest first.
        queue: int32[q], chosen and not trained on yet: less than a batch.
    """

    num_examples: int
    seed: int
    seen: int
    history: np.ndarray
    queue: np.ndarray


class SelectiveBackprop(Method):
    """Look at the loss of the next examples, and train on some, harder ones likelier.

    The data are walked in a new random order in every pass. The network as it stands
    looks at `look_ahead` examples; each is chosen with P = (share of the last losses
    that are not above its own) ^ beta, and chosen ones are trained on as soon as they
    fill batches. The forward passes are paid for as selection. They run in evaluation
    mode, without augmentation; the authors' run in training mode, batch by batch.

    Source:
        Jiang et al. (2019), "Accelerating Deep Learning by Focusing on the Biggest
        Losers", algorithm 1.
    """

    kind: Literal["selective_backprop"] = "selective_backprop"
    passes: Passes = Field(200, description="of looking at all examples")
    beta: NonNegative = Field(1.0, description="mean probability is 1 / (beta + 1)")
    look_ahead: Count = Field(500, description="examples of one forward pass")
    history_size: Count = Field(1024, description="losses that a loss is ranked among")

    @property
    def scores(self) -> tuple[str, ...]:
        """The loss of the examples looked at."""
        return (LOSS,)

    @property
    def paced(self) -> bool:
        """Its plans share one schedule, which follows the looking."""
        return True

    def planned_visits(self, pool: Pool) -> int:
        """Estimate the visits, which depend on the losses."""
        return max(1, round(self.passes * pool.num_examples / (self.beta + 1)))

    def start(self, pool: Pool, seed: int) -> SelectiveState:
        """Begin with nothing looked at."""
        return SelectiveState(
            pool.num_examples, seed, 0, np.zeros(0, np.float32), np.zeros(0, np.int32)
        )

    def plan(
        self, state: SelectiveState, learner: Learner
    ) -> tuple[SelectiveState, Plan | None]:
        """Look ahead until chosen examples fill a batch; the last may stay short."""
        total, began = self.passes * state.num_examples, state.seen
        while state.seen < total and state.queue.size < learner.batch_size:
            state = self._look(state, learner)
        if state.queue.size == 0:
            return state, None
        size, looked = state.queue.size, state.seen - began
        if state.seen < total:
            size -= size % learner.batch_size
        rows, queue = state.queue[:size], state.queue[size:]
        # the schedule follows the looking: this plan takes its share of it
        span = Span(round(began * size / looked), round(total * size / looked))
        label = f"pass {(state.seen - 1) // state.num_examples + 1}"
        return state._replace(queue=queue), Plan(np.sort(rows), label, schedule=span)

    def _look(self, state: SelectiveState, learner: Learner) -> SelectiveState:
        pass_index, first = divmod(state.seen, state.num_examples)
        order = generator(state.seed, "looking", pass_index).permutation(
            state.num_examples
        )
        rows = order[first : first + self.look_ahead].astype(np.int32)
        losses = learner.score((LOSS,), rows)[LOSS]
        history = np.concatenate([state.history, losses])[-self.history_size :]
        draw = generator(state.seed, "selective backprop", state.seen)
        chosen = draw.random(rows.size) < cdf_below(losses, history) ** self.beta
        return state._replace(
            seen=state.seen + rows.size,
            history=history,
            queue=np.concatenate([state.queue, rows[chosen]]),
        )
