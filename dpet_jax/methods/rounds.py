"""Methods of rounds that train on: query, add, train on new and old, and again."""

from abc import abstractmethod
from collections.abc import Iterable
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from dpet_jax.methods.base import Learner, Plan, Pool, Selection, TrainResult
from dpet_jax.methods.query import QueryMethod, RoundState
from dpet_jax.methods.replay import REPLAYS, All, Replay
from dpet_jax.methods.rs2 import kept, rs2_passes
from dpet_jax.section import (
    CountFromZero,
    Fraction,
    OneOf,
    Passes,
    Positive,
    Section,
)


class BoostConfig(Section):
    """Passes over random examples before a query, where rounds no longer help.

    They are given where the mean training loss l of a round differs little from that of
    the round before it: |l' - l| / l' < threshold.

    Source:
        The code of the authors of DPET for its replay, which ends its boost early by
        the test accuracy; here targets and budgets end runs, a boost is whole.
    """

    threshold: Positive = Field(0.07, description="relative change of the loss")
    passes: Passes = Field(10, description="over random parts of the data")
    keep_fraction: Fraction = Field(1 / 3, description="of the data in each pass")
    learning_rate_factor: Positive = Field(
        0.1, description="peak rate over the optimizer's"
    )


class RoundsMethod(QueryMethod):
    """A method whose rounds train on what they add and on what earlier ones have."""

    passes_per_round: Passes
    max_rounds: CountFromZero
    replay: Annotated[Replay, OneOf(Replay, REPLAYS)] = Field(
        All(), description="which old examples a round trains on again"
    )
    round_learning_rate: Positive | None = Field(
        None, description="peak rate of a round; null is the optimizer's"
    )
    restart: bool = Field(
        True, description="a new optimizer in each round; false keeps its momentum"
    )
    boost: BoostConfig | None = Field(
        None, description="random passes where the loss stands still; {} has defaults"
    )

    @property
    def label(self) -> str:
        """Its name, what it ranks by, and what it replays if not all."""
        if self.replay.kind == "all":
            return super().label
        return f"{super().label}, replay {self.replay.label}"

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of everything that a query and a replay ask the learner for."""
        return tuple(dict.fromkeys((*super().scores, *self.replay.scores)))

    @property
    def reset(self) -> Literal["none", "optimizer", "all"]:
        """What starts anew before a round."""
        return "optimizer" if self.restart else "none"

    @abstractmethod
    def first(self, state: RoundState, learner: Learner) -> tuple[RoundState, Plan]:
        """Return what comes before round 1, its plan counted in the state."""

    def start(self, pool: Pool, seed: int) -> RoundState:
        """Begin with nothing selected."""
        begun = RoundState.begin(pool.num_examples, seed)
        return begun._replace(known=self.replay.start(pool))

    def plan(
        self, state: RoundState, learner: Learner
    ) -> tuple[RoundState, Plan | None]:
        """Query the pool, and train on what was found and what is replayed."""
        if state.plans == 0:
            return self.first(state, learner)
        if state.plans > self.max_rounds:
            return state, None
        if self._boost_is_due(state):
            return state._replace(boosted=True), self._boost(state)
        chosen = self.query(
            learner, state.num_examples, state.indices, state.seed, state.plans
        )
        if chosen.indices.size == 0:
            return state, None
        return self.round_on(state, chosen, learner)

    def round_on(
        self,
        state: RoundState,
        chosen: Selection,
        learner: Learner,
        replay: Replay | None = None,
    ) -> tuple[RoundState, Plan]:
        """Return the next round's plan, and the state with its examples added.

        Args:
            state: Before the round.
            chosen: What it adds.
            learner: What a replay may ask.
            replay: None is the key's.
        """
        round_index, replay = state.plans, replay or self.replay
        state = state.extended(round_index, chosen)
        plan = Plan(
            replay.rows(state, self.passes_per_round, learner),
            label=f"round {round_index}",
            passes=self.passes_per_round,
            reset=self.reset,
            learning_rate=self.round_learning_rate,
        )
        return state._replace(plans=round_index + 1, boosted=False), plan

    def observe(self, state: RoundState, result: TrainResult) -> RoundState:
        """Keep what the replay and the boost go by."""
        state = state._replace(known=self.replay.observe(state.known, result))
        if self.boost is None or state.boosted or not state.indices.size:
            return state
        losses = np.append(state.round_losses, result.losses.mean(dtype=np.float64))
        return state._replace(round_losses=losses)

    def visits_of_rounds(
        self, sizes: Iterable[tuple[int, int]], num_examples: int
    ) -> int:
        """Count the visits of rounds, with a boost wherever there may be one.

        Args:
            sizes: New and old examples of every round.
            num_examples: n.
        """
        passes, sizes = self.passes_per_round, list(sizes)
        visits = sum(
            passes * self.replay.pass_size(new, old, passes, num_examples)
            for new, old in sizes
        )
        if self.boost is not None:  # after a second round, before another
            each = self.boost.passes * kept(num_examples, self.boost.keep_fraction)
            visits += max(0, len(sizes) - 2) * each
        return visits

    def _boost_is_due(self, state: RoundState) -> bool:
        losses = state.round_losses[-2:]
        if self.boost is None or state.boosted or losses.size < 2:
            return False
        before, last = losses.tolist()
        still = abs(before - last) < self.boost.threshold * before
        return still and state.indices.size < state.num_examples

    def _boost(self, state: RoundState) -> Plan:
        assert self.boost is not None, "a boost is due"
        done = state.last_round
        rows = rs2_passes(
            state.num_examples,
            self.boost.keep_fraction,
            self.boost.passes,
            state.seed,
            stream=f"boost after round {done}",
        )
        return Plan(
            rows,
            label=f"boost {done}",
            passes=self.boost.passes,
            reset=self.reset,
            learning_rate_factor=self.boost.learning_rate_factor,
        )


def sizes_of_rounds(
    selected: int, query_size: int, rounds: int, num_examples: int
) -> list[tuple[int, int]]:
    """Count new and old examples of each round until the pool is empty.

    Args:
        selected: Examples that are in before the first of them.
        query_size: Examples that each adds, fewer only when the pool runs out.
        rounds: Most of them.
        num_examples: n.
    """
    return [
        (min(query_size, num_examples - old), old)
        for old in range(selected, selected + query_size * rounds, query_size)
        if old < num_examples
    ]
