"""DPET inside one schedule: drop what training has learnt while the rate decays."""

import math
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from dpet_jax.methods.base import Learner, Plan, Pool, Span, generator
from dpet_jax.methods.dynamic import DynamicState, LossDriven, after
from dpet_jax.section import Count, Fraction, Positive, Share, UpToOne

#: `drop: auto` drops half at most, and nothing in less than this many full passes:
#: shorter runs have no losses to go by when it would matter.
_AUTO_FROM, _AUTO = 3.0, 0.5
#: Bounds of the unbiased form's probabilities, so that no weight exceeds their inverse.
_LEAST_CHANCE = 0.1
#: `drop: auto` leaves out what has its label right: nothing else is more probable.
_RIGHT = 0.5


class DpetAnneal(LossDriven):
    """DPET inside one schedule: drop what training has learnt while the rate decays.

    The first passes are full, as RS2 without replacement is when it keeps everything.
    Then, pass after pass, the share `drop` of the examples with the lowest last losses
    is left out (the ranking), but for a few of them that are visited all the same (the
    replay). The last share of the budget is on everything again. One schedule runs over
    the examples seen, whose number is the budget exactly.

    Unlike `dpet`, nothing is scored and no schedule starts anew, which is what made it
    cost more than it saved. Dropping nothing is `standard`, to the last bit.
    """

    kind: Literal["dpet_anneal"] = "dpet_anneal"
    epochs: Positive = Field(8.0, le=1e5, description="budget, in full passes")
    full_first: Count = Field(1, description="full passes before anything is dropped")
    drop: Literal["auto"] | Share = Field(
        "auto",
        description="share left out of a pass; auto: as many as have a probability of "
        f"{_RIGHT:g} for their label, {_AUTO:g} at most; in less than {_AUTO_FROM:g} "
        "epochs none",
    )
    revisit: UpToOne = Field(0.05, description="share of those that is visited anyway")
    final: Share = Field(0.15, description="last share of the budget, on everything")
    by: Literal["loss", "margin", "one_minus_p", "random", "easy"] = Field(
        "loss",
        description="loss: the lowest are left out; one_minus_p of the label ranks as "
        "it does; margin: where the label stands out most; random and easy (the "
        "highest losses are left out) are controls",
    )
    drop_highest: Share = Field(0.0, description="share, against wrong labels")
    unbiased: bool = Field(
        False,
        description="visit by a chance that grows with 1 - p of the label, and weigh "
        "by its inverse",
    )
    coreset_fraction: Fraction | None = Field(
        0.3, description="size of the coreset that the run leaves; null for none"
    )

    @model_validator(mode="after")
    def _something_stays(self) -> "DpetAnneal":
        if self.dropped + self.drop_highest >= 1:
            raise ValueError(
                "drop and drop_highest leave nothing; keep their sum below 1"
            )
        by_loss = self.by in ("loss", "one_minus_p")
        if self.unbiased and (not by_loss or self.drop_highest):
            raise ValueError(
                "unbiased goes with by loss or one_minus_p and without drop_highest, "
                "for it weighs by the chance that 1 - p gives"
            )
        return self

    @property
    def label(self) -> str:
        """Its name, with what it chooses by."""
        return f"DPET in one schedule ({self.by.replace('_', ' ')})"

    @property
    def dropped(self) -> float:
        """The share that a pass of the middle leaves out, with `auto` the most."""
        if self.drop == "auto":
            return _AUTO if self.epochs >= _AUTO_FROM else 0.0
        return self.drop

    @property
    def asks_margins(self) -> bool:
        """Whether it may rank by them; where nothing is dropped nothing is ranked."""
        return self.by == "margin" and self.drop != 0

    def planned_visits(self, pool: Pool) -> int:
        """Return the budget, in examples."""
        return max(1, round(self.epochs * pool.num_examples))

    def lasting(self, visits: int, num_examples: int) -> "DpetAnneal":
        """Return the same method over another budget, by which `auto` decides anew.

        A clock that leaves less time than was planned leaves none for dropping.
        """
        return self.model_copy(update={"epochs": visits / num_examples})

    def plan(
        self, state: DynamicState, learner: Learner
    ) -> tuple[DynamicState, Plan | None]:
        """Give full passes, then what is left to learn, then full passes again.

        Passes are whole batches, for a last batch of a few examples takes a step as
        long as any other. What a full pass leaves over has no loss yet, or an old one.
        """
        n, batch = state.num_examples, learner.batch_size
        budget = max(1, round(self.epochs * n))
        left = budget - state.visits
        if left <= 0:
            return state, None
        everything = np.arange(n, dtype=np.int32)
        passes, weights, dropped = 1, None, 0.0
        draw = generator(state.seed, "anneal", state.passes)
        if self.dropped == 0 and left >= n:
            rows, passes = everything, left // n
        elif (
            self.dropped == 0
            or state.passes < self.full_first
            or state.visits >= (1 - self.final) * budget
        ):
            rows = draw.permutation(everything)[: _whole(n, batch)]
        else:
            chosen, rows, weights = self._middle(state, draw, batch)
            dropped = 1 - rows.size / n
            state = state.choosing(chosen, 1)
        if rows.size > left:  # the budget ends within the pass
            place = draw.permutation(rows.size)[:left]
            rows, weights = rows[place], None if weights is None else weights[place]
        order = np.argsort(rows)
        plan = Plan(
            rows[order].astype(np.int32),
            label=f"pass {state.passes + 1}",
            passes=passes,
            weights=None if weights is None else weights[order],
            schedule=Span(state.visits, budget),
            facts=self._facts(state, dropped),
        )
        return after(state, plan), plan

    def _middle(
        self, state: DynamicState, draw: np.random.Generator, batch: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Return what was chosen, it with revisits in whole batches, and weights."""
        if self.unbiased:
            rows, weights = self._by_chance(state, draw)
            place = draw.permutation(rows.size)[: _whole(rows.size, batch)]
            return rows, rows[place], weights[place]
        n = state.num_examples
        shuffled = draw.permutation(n)  # the order among equal losses is random
        ranked = shuffled[np.argsort(self._difficulty(state)[shuffled], kind="stable")]
        lowest, highest = (
            round(share * n) for share in (self._share(state), self.drop_highest)
        )
        chosen = ranked[lowest : max(lowest + 1, n - highest)]
        others = draw.permutation(ranked[:lowest])
        size = _whole(chosen.size + round(self.revisit * lowest), batch)
        chosen = draw.permutation(chosen)[:size]
        rows = np.concatenate([chosen, others[: size - chosen.size]])
        return chosen, rows, None

    def _share(self, state: DynamicState) -> float:
        """Return the share to leave out now."""
        if self.drop != "auto":
            return self.dropped
        return min(self.dropped, _right(state))

    def _difficulty(self, state: DynamicState) -> np.ndarray:
        """Return what examples are ranked by, the first to leave out lowest."""
        if self.by == "margin":
            return state.margins
        if self.by == "random":
            return np.zeros(state.num_examples)
        # 1 - p = 1 - exp(-loss) grows with the loss: computed, it would rank the same
        # examples the same way, but for high losses that rounding makes equal
        return -state.losses if self.by == "easy" else state.losses

    def _by_chance(
        self, state: DynamicState, draw: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        chances = chances_of(-np.expm1(-state.losses), 1 - self._share(state))
        rows = np.flatnonzero(draw.random(state.num_examples) < chances)
        if not rows.size:
            rows = np.array([int(np.argmax(state.losses))])
        return rows, unbiased_weights(chances)[rows]

    def _facts(self, state: DynamicState, dropped: float) -> dict[str, float]:
        """Return what explains a pass: how much was learnt before it."""
        if state.passes == 0:
            return {"dropped": dropped}
        return {"dropped": dropped, "learnt": _right(state)}


def _right(state: DynamicState) -> float:
    """Return the share of the examples that training has seen predicted right.

    Many classes are learnt slowly, and what is not learnt yet is not to be left out.
    """
    return float(np.mean(state.losses <= -math.log(_RIGHT)))


def _whole(size: int, batch: int) -> int:
    """Return the largest multiple of a batch up to a size, or the size if it is less.

    The nearest multiple might be more than there is.
    """
    return size // batch * batch or size


def chances_of(difficulty: np.ndarray, mean: float) -> np.ndarray:
    """Return chances proportional to a difficulty, within bounds, of a given mean.

    Args:
        difficulty: float[n], at least 0.
        mean: Of the chances, in (0, 1]; where the least chance alone is more, they are
            all that.

    Returns:
        float64[n], each in [0.1, 1].
    """
    difficulty = np.asarray(difficulty, np.float64)

    def scaled(factor: float) -> np.ndarray:
        return np.clip(factor * difficulty, _LEAST_CHANCE, 1.0)

    low, high = 0.0, 1.0
    while scaled(high).mean() < mean and high < 1e12:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if scaled(middle).mean() < mean else (low, middle)
    return scaled(high)


def unbiased_weights(chances: np.ndarray) -> np.ndarray:
    """Return the loss weights under which visits by chance have the full gradient.

    Args:
        chances: float[n], of each example to be visited, above 0.

    Returns:
        float32[n], mean 1 over what is visited, on average; where examples have one of
        two chances, 1 or 1 - r, they are InfoBatch's over their mean.
    """
    return (chances.mean() / chances).astype(np.float32)
