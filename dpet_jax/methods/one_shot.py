"""Choose a coreset once, by a network trained to choose, and train on nothing else."""

from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import AfterValidator, Field, model_validator

from dpet_jax.methods.base import (
    FRESH,
    MAIN,
    Auxiliary,
    Coreset,
    Learner,
    Method,
    ModelHandle,
    Plan,
    Pool,
    Selection,
    Span,
    TrainResult,
    generator,
    takes_examples,
)
from dpet_jax.methods.proxy import ProxyConfig
from dpet_jax.methods.query import score_to_rank_by
from dpet_jax.methods.rs2 import kept
from dpet_jax.section import Count, Fraction, Passes, PassesFromZero, import_from

#: Selectors, by the names that configs use.
SELECTORS = (
    *("facility_location", "graph_cut", "craig", "glister", "grad_match"),
    *("k_center", "herding", "badge"),
)
#: Of these, the ones that give loss weights.
WEIGHTED_SELECTORS = ("craig", "grad_match")
#: Of these, the ones whose papers solve one problem for each class.
SHARDED_SELECTORS = ("facility_location",)
PER_CLASS_SELECTORS = (
    *("craig", "grad_match", "herding", "facility_location", "graph_cut"),
)
#: Counted while the choosing network trains.
FORGETTING = "forgetting"


def _known(name: str) -> str:
    """Refuse a name that nothing to choose by has."""
    if name in (*SELECTORS, FORGETTING):
        return name
    try:
        if not is_selector(name):
            score_to_rank_by(name)
    except ValueError as error:
        others = ", ".join((FORGETTING, *SELECTORS))
        own = "a selector of (examples, num_select)"
        raise ValueError(f"{error}; or one of {others}, or {own}") from error
    return name


def is_selector(name: str) -> bool:
    """Return whether a name is a selector's, one of the user's own included.

    Raises:
        ValueError: If it is an import path of nothing.
    """
    return name in SELECTORS or (":" in name and takes_examples(import_from(name)))


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


class OneShot(Method):
    """Choose a coreset once by networks trained to choose, then train on it alone.

    The choosing network is drawn anew, trained with the run's own augmentation and
    schedule, and thrown away; all of it is the cost of selection. With `choose_every`
    the main model chooses instead, again and again as it learns, beginning with a
    random set; the weights and the schedule go on. Nothing is chosen by examples that
    decide about targets: GLISTER lowers the loss of the training data, as in DeepCore.

    Source:
        The set-up common to Paul, Ganguli & Dziugaite (2021), "Deep Learning on a Data
        Diet", Toneva et al. (2019), "An Empirical Study of Example Forgetting", and
        Guo, Zhao & Bai (2022), "DeepCore"; choosing again as Mirzasoleiman, Bilmes &
        Leskovec (2020) and Killamsetty et al. (2021) do.
    """

    kind: Literal["one_shot"] = "one_shot"
    by: Annotated[str, AfterValidator(_known)] = Field(
        "el2n",
        description="a score, forgetting, or a selector; see `dpet list`; or "
        "package.module:function of a score or a selector of your own",
    )
    keep_fraction: Fraction = Field(
        0.3, description="of the data that the model trains on"
    )
    passes: Passes = Field(200, description="over the coreset")
    pretrain_passes: PassesFromZero = Field(
        10, description="over all data, of each choosing network"
    )
    networks: Count = Field(1, description="whose scores are averaged")
    per_class: bool | None = Field(
        None, description="a share for each class; null: as the method's paper has it"
    )
    weighted: bool | None = Field(
        None, description="train with the selector's weights; null: as its paper has it"
    )
    shards: Count = Field(
        1,
        description="of each problem, that facility_location picks from one by one "
        "before it picks among the picks; for classes of many thousands",
    )
    choose_every: Count | None = Field(
        None, description="passes; the model itself chooses again, no pre-training"
    )
    proxy: ProxyConfig | None = Field(
        None, description="a narrower network is pre-trained to choose"
    )

    @model_validator(mode="after")
    def _fits(self) -> "OneShot":
        if self.weighted and self.by not in WEIGHTED_SELECTORS:
            raise ValueError(
                f"weighted needs a selector that gives weights "
                f"({', '.join(WEIGHTED_SELECTORS)}); {self.by} gives none"
            )
        if self.shards > 1 and self.by not in SHARDED_SELECTORS:
            raise ValueError(
                f"shards are picked from by {', '.join(SHARDED_SELECTORS)} alone, not "
                f"by {self.by}"
            )
        if self.networks > 1 and (self.by == "random" or is_selector(self.by)):
            raise ValueError(
                f"networks averages scores; {self.by} is none, so leave it at 1"
            )
        if self.choose_every is not None and self.by == FORGETTING:
            raise ValueError(
                "forgetting is counted on all data, but with choose_every the model "
                "trains on its choice alone; leave choose_every at null"
            )
        if self.choose_every is not None and (
            self.networks > 1 or self.proxy is not None
        ):
            raise ValueError(
                "with choose_every the model itself chooses; leave networks at 1 and "
                "proxy at null"
            )
        if self.by == FORGETTING and self.pretrain_passes == 0:
            raise ValueError(
                "forgetting is counted while a network trains; give pretrain_passes at "
                "least 1"
            )
        if self.by == "random" and self.proxy is not None:
            raise ValueError("by random asks no network; leave proxy at null")
        return self

    @property
    def label(self) -> str:
        """Its name and what it chooses by."""
        by = self.by.rpartition(":")[2].replace("_", " ")
        return f"one shot ({by}, keep {self.keep_fraction:g})"

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of what the learner is asked for."""
        if is_selector(self.by):
            return ("logits", "features")
        return () if self.by in ("random", FORGETTING) else (self.by,)

    @property
    def auxiliary(self) -> Auxiliary | None:
        """The network that is drawn and trained to choose."""
        if self.by == "random" or self.choose_every is not None:
            return None
        share = 1.0 if self.proxy is None else self.proxy.width_multiplier
        return Auxiliary(FRESH, share)

    @property
    def paced(self) -> bool:
        """Whether it puts several plans on one schedule."""
        return self.choose_every is not None

    def planned_visits(self, pool: Pool) -> int:
        """Count the visits of the main model; those of choosing are not its."""
        return self.passes * kept(pool.num_examples, self.keep_fraction)

    def start(self, pool: Pool, seed: int) -> OneShotState:
        """Begin with nothing chosen."""
        none, nothing = Coreset.empty().indices, Coreset.empty().scores
        return OneShotState(pool.num_examples, seed, 0, 0, none, nothing, nothing)

    def plan(
        self, state: OneShotState, learner: Learner
    ) -> tuple[OneShotState, Plan | None]:
        """Choose, and train on what was chosen until it is time to choose again."""
        if state.passes >= self.passes:
            return state, None
        chosen = self._choose(state, learner)
        weighted = self.by in WEIGHTED_SELECTORS
        if self.weighted is not None:
            weighted = self.weighted
        weights = _mean_one(chosen) if weighted else None
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

    def coreset(self, state: OneShotState) -> Coreset:
        """Return the present coreset; its round is the number of the choice."""
        chosen = Selection(state.indices, state.gains)
        return Coreset.empty().extended(max(0, state.choices - 1), chosen)

    def _choose(self, state: OneShotState, learner: Learner) -> Selection:
        everything = np.arange(state.num_examples, dtype=np.int32)
        size = kept(state.num_examples, self.keep_fraction)
        by, per_class = self.by, self.by in PER_CLASS_SELECTORS
        if self.per_class is not None:
            per_class = self.per_class
        draw = generator(state.seed, f"choice by {by}", state.choices)
        if by == "random" or (self.choose_every and state.choices == 0):
            values = draw.permutation(state.num_examples).astype(np.float32)
            chosen = learner.select(
                "top_k", everything, size, values=values, per_class=per_class
            )
            return Selection(chosen.indices, np.full(size, np.nan, np.float32))
        if not is_selector(by):
            values = self._scored(state, learner, everything)
            return learner.select(
                "top_k", everything, size, values=values, per_class=per_class
            )
        model = MAIN
        if not self.choose_every:
            model, _ = self._pretrained(state, learner, 0)
        seed = int(draw.integers(2**31))
        options = {"shards": self.shards} if self.shards > 1 else {}
        return learner.select(
            by, everything, size, model, per_class=per_class, seed=seed, **options
        )

    def _scored(
        self, state: OneShotState, learner: Learner, everything: np.ndarray
    ) -> np.ndarray:
        """Average the scores over the networks that choose."""
        by = self.by
        if self.choose_every:
            return learner.score((by,), everything)[by]
        scores, losses = [], []
        for network in range(self.networks):
            model, result = self._pretrained(state, learner, network)
            if by == FORGETTING:
                assert result is not None, "forgetting is counted while training"
                scores.append(result.forgetting)
                losses.append(result.losses)
            else:
                scores.append(learner.score((by,), everything, model)[by])
        if by == FORGETTING:
            return forgetting_ranks(np.stack(scores), np.stack(losses))
        total = np.stack(scores).astype(np.float64).sum(axis=0)
        return (total / self.networks).astype(np.float32)

    def _pretrained(
        self, state: OneShotState, learner: Learner, network: int
    ) -> tuple[ModelHandle, TrainResult | None]:
        draw = generator(state.seed, "choosing network", network)
        model = learner.fresh(int(draw.integers(2**31)))
        if self.pretrain_passes == 0:
            return model, None
        everything = np.arange(state.num_examples, dtype=np.int32)
        label = "pre-training"
        if self.networks > 1:
            label = f"{label} {network + 1} of {self.networks}"
        plan = Plan(everything, label, self.pretrain_passes)
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
