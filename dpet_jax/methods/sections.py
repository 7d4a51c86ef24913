"""How examples are chosen: the sections of a config for each method."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from dpet_jax.section import (
    Count,
    CountFromZero,
    Fraction,
    Kind,
    NonNegative,
    Number,
    Section,
    Share,
)

#: Random looks at nothing, grand needs a forward and a backward pass, the others come
#: from one forward pass.
Score = Literal[
    "margin",
    "entropy",
    "least_confidence",
    "cross_entropy",
    "el2n",
    "grand_last_layer",
    "grand",
    "random",
]


#: Scores that come from a network's predictions or gradients.
NETWORK_SCORES = (
    *("margin", "entropy", "least_confidence", "cross_entropy"),
    *("el2n", "grand_last_layer", "grand"),
)
WEIGHTED_SELECTORS = ("craig", "grad_match")
ChosenBy = Literal[
    "random",
    "margin",
    "entropy",
    "least_confidence",
    "cross_entropy",
    "el2n",
    "grand_last_layer",
    "grand",
    "forgetting",
    "facility_location",
    "graph_cut",
    "craig",
    "glister",
    "grad_match",
    "k_center",
    "herding",
    "badge",
]


class MethodSection(Kind):
    """How examples are chosen."""


class StandardMethod(MethodSection):
    """Every example in every pass."""

    kind: Literal["standard"] = "standard"
    passes: Count = 200


class Rs2Method(MethodSection):
    """Repeated random sampling: a fresh random subset in every pass."""

    kind: Literal["rs2"] = "rs2"
    keep_fraction: Fraction = 0.1
    passes: Count = 200
    replacement: bool = Field(False, description="draw passes independently")


class ProxyConfig(Section):
    """A narrow network, trained alongside, that scores in place of the model.

    Stem and stages have the model's channels times the multiplier, rounded to its
    channel_multiple (8 where channels are explicit), at least 8 and never more.
    """

    width_multiplier: Fraction = 0.25


class DiversityConfig(Section):
    """Spread a round's examples out, among the best by score."""

    kind: Literal["none", "k_center", "badge", "stratified"] = "none"
    shortlist: Annotated[float, Field(ge=1), Number] = Field(
        3.0, description="times query_size: the best by score that it chooses from"
    )


class _QueryMethod(MethodSection):
    score: Score = "margin"
    diversity: DiversityConfig = DiversityConfig()
    proxy: ProxyConfig | None = Field(
        None, description="a narrower network that scores; its cost counts as selection"
    )

    @model_validator(mode="after")
    def _proxy_is_asked(self) -> "_QueryMethod":
        if self.proxy is not None and self.score == "random":
            raise ValueError(
                "score random asks no network, so a proxy would never be trained; "
                "leave proxy at null"
            )
        if self.score == "random" and self.diversity.kind != "none":
            raise ValueError(
                "diversity chooses among the best by score; score is random"
            )
        return self


class ActiveLearningMethod(_QueryMethod):
    """Random initial set, then rounds that add the most informative examples."""

    kind: Literal["active_learning"] = "active_learning"
    initial_size: Count = 1000
    query_size: Count = 1000
    passes_per_round: Count = 200
    max_rounds: CountFromZero = Field(10, description="rounds after the initial one")
    from_scratch: bool = Field(True, description="new parameters in every round")
    candidate_fraction: Fraction = 1.0


class DissimilarityConfig(Section):
    """How far a prediction is from its label, blended into the score."""

    kind: Literal["none", "euclidean", "kl"] = "none"
    weight: float = Field(0.5, ge=0, le=1, description="lambda; 0 is the score alone")


class DpetMethod(_QueryMethod):
    """RS2 warm-up, then rounds that add the most informative examples."""

    kind: Literal["dpet"] = "dpet"
    warmup_passes: Count = 20
    keep_fraction: Fraction = 1 / 3
    query_size: Count = 1000
    passes_per_round: Count = 10
    max_rounds: CountFromZero = 40
    dissimilarity: DissimilarityConfig = DissimilarityConfig()
    candidate_fraction: Fraction = Field(1.0, description="share of the pool scored")
    compat: Literal["none", "artifact"] = Field(
        "none", description="artifact: repeat the authors' code, quirks included"
    )

    @model_validator(mode="after")
    def _score_fits(self) -> "DpetMethod":
        if self.score == "random" and self.dissimilarity.kind != "none":
            raise ValueError("dissimilarity needs a score; score is random")
        if self.compat == "artifact" and self.score not in (
            "margin",
            "entropy",
            "least_confidence",
        ):
            raise ValueError(
                f"compat artifact knows margin, entropy and least_confidence, "
                f"not {self.score}"
            )
        if self.compat == "artifact" and self.candidate_fraction != 1:
            raise ValueError(
                "compat artifact scores the whole pool; leave candidate_fraction at 1.0"
            )
        if self.compat == "artifact" and self.proxy is not None:
            raise ValueError(
                "compat artifact scores with the model itself; leave proxy at null"
            )
        if self.compat == "artifact" and self.diversity.kind != "none":
            raise ValueError("compat artifact has no diversity; leave it at none")
        return self


class CoresetMethod(MethodSection):
    """Train on a saved coreset.npz, every example in every pass."""

    kind: Literal["coreset"] = "coreset"
    path: Path = Field(description="a run's coreset.npz")
    passes: Count = 200


class OneShotMethod(MethodSection):
    """Choose a coreset once by networks trained to choose, then train on it alone."""

    kind: Literal["one_shot"] = "one_shot"
    by: ChosenBy = Field("el2n", description="a score or a selector")
    keep_fraction: Fraction = 0.3
    passes: Count = Field(200, description="over the coreset")
    pretrain_passes: CountFromZero = Field(
        10, description="over all data, of each choosing network"
    )
    networks: Count = Field(1, description="whose scores are averaged")
    per_class: bool | None = Field(
        None, description="a share for each class; null: as the method's paper has it"
    )
    weighted: bool | None = Field(
        None, description="train with the selector's weights; null: as its paper has it"
    )
    choose_every: Count | None = Field(
        None, description="passes; the model itself chooses again, no pre-training"
    )
    proxy: ProxyConfig | None = Field(
        None, description="a narrower network is pre-trained to choose"
    )

    @model_validator(mode="after")
    def _fits(self) -> "OneShotMethod":
        if self.weighted and self.by not in WEIGHTED_SELECTORS:
            raise ValueError(
                f"weighted needs a selector that gives weights "
                f"({', '.join(WEIGHTED_SELECTORS)}); {self.by} gives none"
            )
        if self.networks > 1 and self.by not in (*NETWORK_SCORES, "forgetting"):
            raise ValueError(
                f"networks averages scores; {self.by} is none, so leave it at 1"
            )
        if self.choose_every is not None and self.by == "forgetting":
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
        if self.by == "forgetting" and self.pretrain_passes == 0:
            raise ValueError(
                "forgetting is counted while a network trains; give pretrain_passes at "
                "least 1"
            )
        if self.by == "random" and (self.networks > 1 or self.proxy is not None):
            raise ValueError("by random asks no network; leave proxy at null")
        return self


class _DynamicMethod(MethodSection):
    passes: Count = Field(200, description="pruned ones included")


class InfoBatchMethod(_DynamicMethod):
    """InfoBatch: skip examples below the mean loss by chance, reweight the others."""

    kind: Literal["infobatch"] = "infobatch"
    prune_probability: Share = Field(0.5, description="of examples below the mean loss")
    annealing_start: Fraction = Field(
        0.875, description="share of the passes after which nothing is skipped"
    )


class LossThresholdMethod(_DynamicMethod):
    """Leave out a quantile of the lowest last losses between full passes."""

    kind: Literal["loss_threshold"] = "loss_threshold"
    prune_fraction: Share = 0.3
    refresh_every: Count = Field(5, description="passes from one full pass to the next")
    threshold_per: Literal["cycle", "pass"] = "cycle"
    subset_size: Count = Field(5000, description="losses that give the quantile")
    drop_highest: Share = Field(0.0, description="share, against wrong labels")

    @model_validator(mode="after")
    def _something_stays(self) -> "LossThresholdMethod":
        if self.prune_fraction + self.drop_highest >= 1:
            raise ValueError(
                "prune_fraction and drop_highest leave nothing; keep their sum below 1"
            )
        return self


class StaleSelectiveBackpropMethod(_DynamicMethod):
    """Visit examples with a probability that grows with the rank of their last loss."""

    kind: Literal["stale_selective_backprop"] = "stale_selective_backprop"
    beta: NonNegative = Field(1.0, description="mean probability is 1 / (beta + 1)")
    refresh_every: Count = Field(3, description="passes from one full pass to the next")


class SelectiveBackpropMethod(_DynamicMethod):
    """Selective backpropagation by a fresh forward pass, which is paid for."""

    kind: Literal["selective_backprop"] = "selective_backprop"
    beta: NonNegative = Field(1.0, description="mean probability is 1 / (beta + 1)")
    look_ahead: Count = Field(500, description="examples of one forward pass")
    history_size: Count = Field(1024, description="losses that a loss is ranked among")


class EpsilonGreedyMethod(_DynamicMethod):
    """The highest last losses and a random share: a control for dynamic methods."""

    kind: Literal["epsilon_greedy"] = "epsilon_greedy"
    keep_fraction: Fraction = 0.5
    epsilon: Annotated[float, Field(ge=0, le=1), Number] = Field(
        0.1, description="share of a pass that chance fills"
    )
