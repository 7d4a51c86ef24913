"""Methods that choose pass by pass, by losses that training gives away."""

import math
from abc import abstractmethod
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from dpet_jax.methods.base import (
    Coreset,
    Learner,
    Method,
    Plan,
    Pool,
    Span,
    TrainResult,
    generator,
)
from dpet_jax.methods.rs2 import kept
from dpet_jax.quotas import largest_remainder
from dpet_jax.section import Count, Fraction, NonNegative, Passes, Share, UpToOne

#: The score that is an example's loss.
LOSS = "cross_entropy"


class DynamicState(NamedTuple):
    """How far training is, and what it said about every example.

    Attributes:
        num_examples: n.
        seed: The run's seed.
        labels: int32[n].
        passes: Passes planned so far.
        visits: Examples in them, together.
        losses: float32[n], the last training loss; infinite where never trained on.
        kept: int32[n], passes that left others out and chose this one.
        entered: int32[n], the first such pass, from 1; 0 for none.
        loss_sum: float64[n], of the last losses in each plan.
        plans: int32[n], plans that trained on it.
        margins: float32[n], the last `TrainResult.margins`, infinite where never
            trained on; empty unless the method asks for them.
    """

    num_examples: int
    seed: int
    labels: np.ndarray
    passes: int
    visits: int
    losses: np.ndarray
    kept: np.ndarray
    entered: np.ndarray
    loss_sum: np.ndarray
    plans: np.ndarray
    margins: np.ndarray = np.zeros(0, np.float32)

    def choosing(self, rows: np.ndarray, passes: int) -> "DynamicState":
        """Return the state after the next passes have chosen some examples."""
        kept, entered = self.kept.copy(), self.entered.copy()
        kept[rows] += passes
        new = rows[entered[rows] == 0]
        entered[new] = self.passes + 1
        return self._replace(kept=kept, entered=entered)


class LossDriven(Method):
    """Choose by the last loss of every example.

    The losses are those of the training steps themselves, so choosing costs nothing on
    the accelerator. What it kept and what it lost on the way is a coreset with columns
    of its own; see `hard_but_learnable`.
    """

    coreset_fraction: Fraction | None = Field(
        None, description="size of the coreset that the run leaves; null for none"
    )

    @property
    def paced(self) -> bool:
        """Its passes share one schedule."""
        return True

    def start(self, pool: Pool, seed: int) -> DynamicState:
        """Begin with no loss known."""
        n = pool.num_examples
        return DynamicState(
            num_examples=n,
            seed=seed,
            labels=np.asarray(pool.labels, np.int32),
            passes=0,
            visits=0,
            losses=np.full(n, np.inf, np.float32),
            kept=np.zeros(n, np.int32),
            entered=np.zeros(n, np.int32),
            loss_sum=np.zeros(n, np.float64),
            plans=np.zeros(n, np.int32),
            margins=np.full(n if self.asks_margins else 0, np.inf, np.float32),
        )

    def observe(self, state: DynamicState, result: TrainResult) -> DynamicState:
        """Keep the new losses of the examples that were trained on."""
        losses, loss_sum = state.losses.copy(), state.loss_sum.copy()
        plans = state.plans.copy()
        losses[result.index_set] = result.losses
        loss_sum[result.index_set] += result.losses
        plans[result.index_set] += 1
        margins = state.margins
        if self.asks_margins:
            assert result.margins is not None, "a method that asks is given them"
            margins = margins.copy()
            margins[result.index_set] = result.margins
        return state._replace(
            losses=losses, loss_sum=loss_sum, plans=plans, margins=margins
        )

    def coreset(self, state: DynamicState) -> Coreset | None:
        """Return class by class what was kept, or chance; None if none is asked for.

        Where the passes left nothing out, there is nothing to go by but chance.
        """
        if self.coreset_fraction is None:
            return None
        size = kept(state.num_examples, self.coreset_fraction)
        mean = state.loss_sum / np.maximum(state.plans, 1)
        by_chance = self.coreset_fraction >= _CHANCE_FROM or not state.kept.any()
        draw = generator(state.seed, "coreset")
        rows = hard_but_learnable(
            state.labels, size, None if by_chance else (state.kept, mean), draw
        )
        scores = np.full(size, np.nan) if by_chance else mean[rows]
        return Coreset(
            rows,
            state.entered[rows],
            scores.astype(np.float32),
            {"kept": state.kept[rows], "mean_loss": mean[rows].astype(np.float32)},
            by_product=True,
        )


def after(state: DynamicState, plan: Plan) -> DynamicState:
    """Return the state after a plan was given out."""
    return state._replace(
        passes=state.passes + plan.passes, visits=state.visits + plan.visits
    )


#: From this share of the data on, no rule was better than chance within each class.
_CHANCE_FROM = 0.4
#: Share of each class that is left out as too hard to learn from alone.
_TOO_HARD = 0.3


def hard_but_learnable(
    labels: np.ndarray,
    size: int,
    kept_and_loss: tuple[np.ndarray, np.ndarray] | None,
    draw: np.random.Generator,
) -> np.ndarray:
    """Choose each class's share: its most kept examples but the hardest, or chance.

    How often a loss was high says how difficult an example is, which makes a bad
    coreset by itself: the most difficult ones teach little when they stand alone.

    Args:
        labels: int32[n].
        size: Examples to choose; each class gets its share of them.
        kept_and_loss: int32[n] and float64[n], how often each was kept and its mean
            loss, to leave out the hardest 30 % of a class and take the next; None
            chooses by chance.
        draw: Decides by chance, and between equals.

    Returns:
        int32[size], class by class.
    """
    classes, counts = np.unique(labels, return_counts=True)
    shares = largest_remainder(size * counts / labels.size, size)
    chosen = []
    for label, count, share in zip(classes, counts, shares, strict=True):
        rows = draw.permutation(np.flatnonzero(labels == label))
        if kept_and_loss is not None:
            often, loss = (values[rows] for values in kept_and_loss)
            # a class of which nearly all is wanted keeps some of its hardest
            skipped = min(int(_TOO_HARD * count), count - share)
            rows = rows[np.lexsort((-loss, -often))][skipped:]
        chosen.append(rows[:share])
    return np.concatenate(chosen).astype(np.int32)


class DynamicMethod(LossDriven):
    """Choose pass by pass, on a schedule of passes.

    The schedule runs once over all passes: a pass takes its share of it however many
    examples it visits.
    """

    passes: Passes = Field(200, description="pruned ones included")

    @abstractmethod
    def expected_share(self) -> float:
        """Estimate the share of the data that a pass visits, on average."""

    @abstractmethod
    def choose(self, state: DynamicState) -> tuple[np.ndarray, np.ndarray | None, int]:
        """Choose what the next passes train on.

        Returns:
            int32[m] of positions, ascending; their loss weights or None; and for how
            many passes that stays.
        """

    def planned_visits(self, pool: Pool) -> int:
        """Estimate the visits, which depend on the losses."""
        return max(1, round(self.passes * self.expected_share() * pool.num_examples))

    def plan(
        self, state: DynamicState, learner: Learner
    ) -> tuple[DynamicState, Plan | None]:
        """Choose, by the losses alone."""
        del learner
        if state.passes >= self.passes:
            return state, None
        rows, weights, passes = self.choose(state)
        passes = min(passes, self.passes - state.passes)
        plan = Plan(
            rows.astype(np.int32),
            label=f"pass {state.passes + 1}",
            passes=passes,
            weights=weights,
            schedule=Span(state.passes * rows.size, self.passes * rows.size),
        )
        if rows.size < state.num_examples:
            state = state.choosing(rows, passes)
        return after(state, plan), plan


class InfoBatch(DynamicMethod):
    """Skip each easy example by chance, and let the others of its kind count for it.

    Before the annealing phase an example whose loss is below the mean is left out with
    probability r; one that stays gets the weight 1 / (1 - r), all others 1, so that the
    expected gradient is that of the full data. The first pass and the annealing phase
    are full, with weights of exactly 1.

    Source:
        Qin et al. (2024), "InfoBatch: Lossless Training Speed Up by Unbiased Dynamic
        Data Pruning", equations 3 to 5.
    """

    kind: Literal["infobatch"] = "infobatch"
    prune_probability: Share = Field(0.5, description="of examples below the mean loss")
    annealing_start: Fraction = Field(
        0.875, description="share of the passes, rounded down, that may skip examples"
    )

    @property
    def label(self) -> str:
        """The name that its authors gave it."""
        return "InfoBatch"

    @property
    def annealed_from(self) -> int:
        """Number of passes before the annealing phase."""
        # 0.29 * 100 is a little below 29
        return math.floor(round(self.annealing_start * self.passes, 9))

    def expected_share(self) -> float:
        """Take half of the losses to be below their mean."""
        pruned = max(0, self.annealed_from - 1)
        return 1 - pruned / self.passes * self.prune_probability / 2

    def choose(self, state: DynamicState) -> tuple[np.ndarray, np.ndarray | None, int]:
        """Draw anew in every pass."""
        everything = np.arange(state.num_examples)
        if state.passes == 0 or state.passes >= self.annealed_from:
            return everything, None, 1
        easy = state.losses < state.losses.mean(dtype=np.float64)
        draw = generator(state.seed, "infobatch", state.passes)
        left_out = draw.random(state.num_examples) < self.prune_probability
        stays = ~(easy & left_out)
        weights = np.where(easy, 1 / (1 - self.prune_probability), 1.0)
        return everything[stays], weights[stays].astype(np.float32), 1


class LossThreshold(DynamicMethod):
    """Leave out what the network had right lately, and look at everything now and then.

    Every `refresh_every`-th pass is full. The others train on the examples whose last
    loss is at least the p-quantile of the losses of a random subset.

    Source:
        Chang & Chen (2024), "ML Training Under Tight Budget Constraints With Data
        Pruning and Model Scaling".
    """

    kind: Literal["loss_threshold"] = "loss_threshold"
    prune_fraction: Share = Field(0.3, description="left out between full passes")
    refresh_every: Count = Field(5, description="passes from one full pass to the next")
    threshold_per: Literal["cycle", "pass"] = Field(
        "cycle",
        description="cycle: the examples of the first pruned pass stay until the next "
        "full one, as the authors' code does; pass: anew, as their text does",
    )
    subset_size: Count = Field(5000, description="losses that give the quantile")
    drop_highest: Share = Field(0.0, description="share, against wrong labels")

    @model_validator(mode="after")
    def _something_stays(self) -> "LossThreshold":
        if self.prune_fraction + self.drop_highest >= 1:
            raise ValueError(
                "prune_fraction and drop_highest leave nothing; keep their sum below 1"
            )
        return self

    def expected_share(self) -> float:
        """Count the full passes and the pruned ones."""
        full = -(-self.passes // self.refresh_every)
        pruned = 1 - min(1.0, self.prune_fraction + self.drop_highest)
        return (full + (self.passes - full) * pruned) / self.passes

    def choose(self, state: DynamicState) -> tuple[np.ndarray, np.ndarray | None, int]:
        """Give a full pass, or those that follow it until the next."""
        within = state.passes % self.refresh_every
        if within == 0:
            return np.arange(state.num_examples), None, 1
        draw = generator(state.seed, "threshold", state.passes)
        subset = draw.permutation(state.num_examples)[: self.subset_size]
        losses = state.losses[subset].astype(np.float64)
        lowest = np.quantile(losses, self.prune_fraction)
        stays = state.losses >= lowest
        if self.drop_highest:
            stays &= state.losses <= np.quantile(losses, 1 - self.drop_highest)
        passes = self.refresh_every - within if self.threshold_per == "cycle" else 1
        return _at_least_one(stays, state.losses), None, passes


class StaleSelectiveBackprop(DynamicMethod):
    """Visit an example with a probability that grows with the rank of its last loss.

    P = (share of all last losses that are not above it) ^ beta, in every pass but the
    first, which is full. Every `refresh_every`-th pass begins with a forward pass over
    all examples, which is paid for as selection; between two of them an example that
    is not visited keeps its loss. The authors' forward passes go batch by batch through
    the pass that they decide about.

    Source:
        Jiang et al. (2019), "Accelerating Deep Learning by Focusing on the Biggest
        Losers", sections 3.2 and 3.3; the losses they rank against are the last 1,024
        seen, here those of all examples.
    """

    kind: Literal["stale_selective_backprop"] = "stale_selective_backprop"
    beta: NonNegative = Field(1.0, description="mean probability is 1 / (beta + 1)")
    refresh_every: Count = Field(3, description="passes from one refresh to the next")
    refresh_by: Literal["forward", "training"] = Field(
        "forward",
        description="forward: all losses are looked at, as published; training: all "
        "examples are trained on, whose losses cost nothing more",
    )

    @property
    def scores(self) -> tuple[str, ...]:
        """The loss, where it is looked at."""
        return (LOSS,) if self.refresh_by == "forward" else ()

    def expected_share(self) -> float:
        """Count the full passes, and the mean of P for the others."""
        full = sum(map(self._full, range(self.passes)))
        return (full + (self.passes - full) / (self.beta + 1)) / self.passes

    def plan(
        self, state: DynamicState, learner: Learner
    ) -> tuple[DynamicState, Plan | None]:
        """Look at all losses where it is time, and choose."""
        due = 0 < state.passes < self.passes and state.passes % self.refresh_every == 0
        if due and self.refresh_by == "forward":
            everything = np.arange(state.num_examples, dtype=np.int32)
            state = state._replace(losses=learner.score((LOSS,), everything)[LOSS])
        return super().plan(state, learner)

    def choose(self, state: DynamicState) -> tuple[np.ndarray, np.ndarray | None, int]:
        """Draw anew in every pass."""
        if self._full(state.passes):
            return np.arange(state.num_examples), None, 1
        draw = generator(state.seed, "selective backprop", state.passes)
        chances = cdf_below(state.losses, state.losses) ** self.beta
        stays = draw.random(state.num_examples) < chances
        return _at_least_one(stays, state.losses), None, 1

    def _full(self, pass_index: int) -> bool:
        by_training = self.refresh_by == "training"
        return pass_index == 0 or (by_training and pass_index % self.refresh_every == 0)


class EpsilonGreedy(DynamicMethod):
    """Visit the examples with the highest last losses, and a random few of the others.

    A control for the rules above: round(keep * n) examples a pass, a share epsilon of
    them by chance. Examples never trained on come first; at epsilon 1 it is random.

    Source:
        Raju, Daruwalla & Lipasti (2021), "Accelerating Deep Learning with Dynamic Data
        Pruning".
    """

    kind: Literal["epsilon_greedy"] = "epsilon_greedy"
    keep_fraction: Fraction = Field(0.5, description="of the data in each pass")
    epsilon: UpToOne = Field(0.1, description="share of a pass that chance fills")

    def expected_share(self) -> float:
        """Return the share of every pass."""
        return self.keep_fraction

    def choose(self, state: DynamicState) -> tuple[np.ndarray, np.ndarray | None, int]:
        """Choose anew in every pass."""
        size = kept(state.num_examples, self.keep_fraction)
        draw = generator(state.seed, "epsilon greedy", state.passes)
        shuffled = draw.permutation(state.num_examples)
        by_chance = round(self.epsilon * size)
        rest = shuffled[by_chance:]
        # the order among equal losses, such as the unknown ones at first, is random
        highest = rest[np.argsort(-state.losses[rest], kind="stable")]
        rows = np.concatenate([shuffled[:by_chance], highest[: size - by_chance]])
        return np.sort(rows), None, 1


def cdf_below(losses: np.ndarray, history: np.ndarray) -> np.ndarray:
    """Return for each loss the share of a history that is not above it, in [0, 1]."""
    ordered = np.sort(history)
    return np.searchsorted(ordered, losses, side="right") / ordered.size


def _at_least_one(stays: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Return the positions that stay; the highest loss where none does."""
    rows = np.flatnonzero(stays)
    return rows if rows.size else np.array([int(np.argmax(losses))])
