"""Choose a coreset once, by a network trained to choose, and train on nothing else."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from dpet_jax.methods.base import (
    MAIN,
    Coreset,
    Learner,
    ModelHandle,
    Plan,
    Pool,
    Selection,
    Span,
    TrainResult,
    generator,
)
from dpet_jax.methods.sampling import kept

#: "forgetting" is counted while the choosing network trains.
Kind = Literal["random", "score", "forgetting", "selector"]


@dataclass(frozen=True)
class Choice:
    """How the coreset is chosen.

    Attributes:
        by: Name of a score or of a selector of the learner.
        kind: What that is.
        per_class: Give every class its share of the coreset.
        weighted: Train with the selector's weights, scaled to mean 1.
        pretrain_passes: Passes over all data of a network that is drawn to choose.
        networks: How many of them; their scores are averaged.
    """

    by: str
    kind: Kind
    per_class: bool
    weighted: bool
    pretrain_passes: int
    networks: int = 1

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of what the learner is asked for."""
        if self.kind == "selector":
            return ("logits", "features")
        return (self.by,) if self.kind == "score" else ()


class OneShotState(NamedTuple):
    """What was chosen, and how far training on it is.

    Attributes:
        num_examples: n.
        seed: The run's seed.
        passes: Passes planned so far.
        choices: Selections made so far.
        indices: int32[m], the present coreset in the order of the choice.
        gains: float32[m], the score or gain at which each entered.
        weights: float32[m], loss weights of mean 1.
    """

    num_examples: int
    seed: int
    passes: int
    choices: int
    indices: np.ndarray
    gains: np.ndarray
    weights: np.ndarray


class OneShot:
    """Train a network on everything, choose by it, then train on the coreset alone.

    The choosing network is drawn anew, trained with the run's own augmentation and
    schedule, and thrown away; all of it is the cost of selection. With `choose_every`
    the main model chooses instead, again and again as it learns, beginning with a
    random set; the weights and the schedule go on.

    Args:
        choice: How the coreset is chosen.
        keep_fraction: Its share of the data.
        passes: Passes over it.
        choose_every: Passes between choices of the main model; None chooses once.

    Source:
        The set-up common to Paul, Ganguli & Dziugaite (2021), "Deep Learning on a Data
        Diet", Toneva et al. (2019), "An Empirical Study of Example Forgetting", and
        Guo, Zhao & Bai (2022), "DeepCore"; choosing again as Mirzasoleiman, Bilmes &
        Leskovec (2020) and Killamsetty et al. (2021) do.
    """

    def __init__(
        self,
        choice: Choice,
        *,
        keep_fraction: float,
        passes: int,
        choose_every: int | None = None,
    ) -> None:
        self.choice = choice
        self.keep_fraction = keep_fraction
        self.passes = passes
        self.choose_every = choose_every

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of what the learner is asked for."""
        return self.choice.scores

    def planned_visits(self, pool: Pool) -> int:
        """Count the visits of the main model; those of choosing are not its."""
        return self.passes * kept(pool.num_examples, self.keep_fraction)

    def start(self, pool: Pool, seed: int) -> OneShotState:
        """Begin with nothing chosen."""
        indices, _, nothing = Coreset.empty()
        return OneShotState(pool.num_examples, seed, 0, 0, indices, nothing, nothing)

    def plan(
        self, state: OneShotState, learner: Learner
    ) -> tuple[OneShotState, Plan | None]:
        """Choose, and train on what was chosen until it is time to choose again."""
        if state.passes >= self.passes:
            return state, None
        chosen = self._choose(state, learner)
        weights = _mean_one(chosen) if self.choice.weighted else None
        stretch = min(self.choose_every or self.passes, self.passes - state.passes)
        order = np.argsort(chosen.indices)
        size, done = chosen.indices.size, state.passes
        plan = Plan(
            chosen.indices[order],
            label=f"coreset {state.choices + 1}" if self.choose_every else "coreset",
            passes=stretch,
            weights=None if weights is None else weights[order],
            schedule=Span(done * size, self.passes * size)
            if self.choose_every
            else None,
        )
        state = state._replace(
            passes=done + stretch,
            choices=state.choices + 1,
            indices=chosen.indices,
            gains=chosen.gains,
            weights=np.ones(size, np.float32) if weights is None else weights,
        )
        return state, plan

    def observe(self, state: OneShotState, result: TrainResult) -> OneShotState:
        """Learn nothing: a choice looks at the model itself."""
        del result
        return state

    def coreset(self, state: OneShotState) -> Coreset | None:
        """Return the present coreset; its round is the number of the choice."""
        chosen = Selection(state.indices, state.gains)
        return Coreset.empty().extended(max(0, state.choices - 1), chosen)

    def _choose(self, state: OneShotState, learner: Learner) -> Selection:
        everything = np.arange(state.num_examples, dtype=np.int32)
        size = kept(state.num_examples, self.keep_fraction)
        by, per_class = self.choice.by, self.choice.per_class
        draw = generator(state.seed, f"choice by {by}", state.choices)
        if self.choice.kind == "random" or (self.choose_every and state.choices == 0):
            values = draw.permutation(state.num_examples).astype(np.float32)
            chosen = learner.select(
                "top_k", everything, size, values=values, per_class=per_class
            )
            return Selection(chosen.indices, np.full(size, np.nan, np.float32))
        if self.choice.kind != "selector":
            values = self._scored(state, learner, everything)
            return learner.select(
                "top_k", everything, size, values=values, per_class=per_class
            )
        model = MAIN
        if not self.choose_every:
            model, _ = self._pretrained(state, learner, 0)
        seed = int(draw.integers(2**31))
        return learner.select(
            by, everything, size, model, per_class=per_class, seed=seed
        )

    def _scored(
        self, state: OneShotState, learner: Learner, everything: np.ndarray
    ) -> np.ndarray:
        """Average the scores over the networks that choose."""
        by = self.choice.by
        if self.choose_every:
            return learner.score((by,), everything)[by]
        scores, losses = [], []
        for network in range(self.choice.networks):
            model, result = self._pretrained(state, learner, network)
            if self.choice.kind == "forgetting":
                assert result is not None, "forgetting is counted while training"
                scores.append(result.forgetting)
                losses.append(result.losses)
            else:
                scores.append(learner.score((by,), everything, model)[by])
        if self.choice.kind == "forgetting":
            return forgetting_ranks(np.stack(scores), np.stack(losses))
        total = np.stack(scores).astype(np.float64).sum(axis=0)
        return (total / self.choice.networks).astype(np.float32)

    def _pretrained(
        self, state: OneShotState, learner: Learner, network: int
    ) -> tuple[ModelHandle, TrainResult | None]:
        draw = generator(state.seed, "choosing network", network)
        model = learner.fresh(int(draw.integers(2**31)))
        if self.choice.pretrain_passes == 0:
            return model, None
        everything = np.arange(state.num_examples, dtype=np.int32)
        label = "pre-training"
        if self.choice.networks > 1:
            label = f"{label} {network + 1} of {self.choice.networks}"
        plan = Plan(everything, label, self.choice.pretrain_passes)
        return model, learner.train(plan, model)


def forgetting_ranks(counts: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Rank by how often examples were forgotten, ties by their last loss.

    Most examples are forgotten never or once, so that the tie decides much of a coreset
    of half the data; the paper leaves it open. An example that some networks never
    learned is averaged over those that did, and comes before all others, as the paper
    has it, only where none did.

    Args:
        counts: float32[networks, n], infinite where never learned.
        losses: float32[networks, n].

    Returns:
        float32[n], 0 for the example to keep last.

    Source:
        Toneva et al. (2019), "An Empirical Study of Example Forgetting during Deep
        Neural Network Learning", sections 3 and 4.
    """
    learned = np.isfinite(counts)
    total = np.where(learned, counts, 0.0).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.where(learned.any(axis=0), total / learned.sum(axis=0), np.inf)
    ranks = np.empty(means.size, np.float32)
    ranks[np.lexsort((losses.mean(axis=0), means))] = np.arange(means.size)
    return ranks


def _mean_one(chosen: Selection) -> np.ndarray | None:
    if chosen.weights is None:  # a random first choice has none
        return None
    return (chosen.weights / np.mean(chosen.weights)).astype(np.float32)
