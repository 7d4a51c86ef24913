"""The schema of an experiment: every key there is, its default and its range.

Sections with a `kind` are unions: the kind decides which keys exist. Defaults live here
and nowhere else; the resolved config is written into every run folder.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _no_boolean(value: Any) -> Any:
    """Refuse true for 1, which Python and pydantic would let pass."""
    if isinstance(value, bool):
        raise ValueError(f"must be a number (got {str(value).lower()})")
    return value


_Number = BeforeValidator(_no_boolean)
Fraction = Annotated[float, Field(gt=0, le=1), _Number]
Positive = Annotated[float, Field(gt=0), _Number]
NonNegative = Annotated[float, Field(ge=0), _Number]
Share = Annotated[float, Field(ge=0, lt=1), _Number]
Count = Annotated[int, Field(ge=1), _Number]
CountFromZero = Annotated[int, Field(ge=0), _Number]
Seed = Annotated[int, Field(ge=0, lt=2**31), _Number]
Score = Literal[
    "margin", "entropy", "least_confidence", "cross_entropy", "el2n", "random"
]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _default_kinds(cls, plain: Any) -> Any:
        """Let a section without `kind` mean the default kind."""
        if not isinstance(plain, dict):
            return plain
        filled = dict(plain)
        for name, field in cls.model_fields.items():
            section = filled.get(name)
            if field.discriminator and isinstance(section, dict):
                filled[name] = {"kind": field.default.kind, **section}
        return filled


class _DataSection(_Section):
    image_size: Count | None = Field(None, description="area-resize to so many pixels")
    validation_fraction: Share = 0.1
    split_seed: Seed = Field(0, description="of the validation split; not the run's")
    label_noise: Share = Field(
        0.0, description="share of training labels replaced, for studies"
    )


class DigitsData(_DataSection):
    """Scikit-learn's 1,797 handwritten digits of 8x8 pixels; nothing to download."""

    kind: Literal["digits"] = "digits"


class TfdsData(_DataSection):
    """Any image-classification set prepared in TFDS' array_record layout."""

    kind: Literal["tfds"]
    name: str = "cifar10"
    path: Path = Field(description="the TFDS data_dir")
    train_split: str = "train"
    test_split: str = "test"


class ParquetData(_DataSection):
    """A folder in the Hugging Face hub's parquet layout."""

    kind: Literal["parquet"]
    path: Path = Field(description="folder with train-*.parquet and test-*.parquet")
    image_column: str | None = None
    label_column: str | None = None


class NpzData(_DataSection):
    """One .npz file with train_images, train_labels, test_images and test_labels."""

    kind: Literal["npz"]
    path: Path


class _ModelSection(_Section):
    compute_dtype: Literal["float32", "bfloat16"] = "float32"


class ResNet18Model(_ModelSection):
    """CIFAR ResNet-18: 3x3 stem, no max-pool, 64-128-256-512, two blocks a stage."""

    kind: Literal["resnet18"] = "resnet18"
    width_multiplier: Positive = 1.0
    depth_multiplier: Positive = 1.0
    channel_multiple: Count = 8


class ResNet20Model(_ModelSection):
    """ResNet-20 family of the tight-budget paper: stem 16, 16-32-64, three blocks."""

    kind: Literal["resnet20"]
    width_multiplier: Positive = 1.0
    depth_multiplier: Positive = 1.0
    scale: Positive | None = Field(None, description="width and depth in tandem")
    channel_multiple: Count = 1

    @model_validator(mode="after")
    def _scale_alone(self) -> "ResNet20Model":
        if self.scale is not None and (
            self.width_multiplier,
            self.depth_multiplier,
        ) != (
            1.0,
            1.0,
        ):
            raise ValueError(
                "scale sets width and depth in tandem; leave width_multiplier and "
                "depth_multiplier at 1.0 with it"
            )
        return self


class ResNetModel(_ModelSection):
    """A residual network of basic blocks with explicit channels and blocks a stage."""

    kind: Literal["resnet"]
    stem: Count
    channels: tuple[Count, ...] = Field(min_length=1)
    blocks: tuple[Count, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_entry_a_stage(self) -> "ResNetModel":
        if len(self.channels) != len(self.blocks):
            raise ValueError(
                f"channels has {len(self.channels)} stages but blocks has "
                f"{len(self.blocks)}; give one entry a stage in both"
            )
        return self


class _OptimizerSection(_Section):
    learning_rate: Positive
    weight_decay: NonNegative = 0.0


class SgdOptimizer(_OptimizerSection):
    """SGD with momentum; the decay is added to the gradient (L2), as PyTorch does."""

    kind: Literal["sgd"] = "sgd"
    learning_rate: Positive = 0.1
    momentum: Share = 0.9
    nesterov: bool = True
    weight_decay: NonNegative = 5e-4


class _AdamSection(_OptimizerSection):
    learning_rate: Positive = 1e-3
    b1: Share = 0.9
    b2: Share = 0.999
    eps: Positive = 1e-8


class AdamOptimizer(_AdamSection):
    """Adam; the decay is added to the gradient (L2), as PyTorch does."""

    kind: Literal["adam"]


class AdamWOptimizer(_AdamSection):
    """Adam with decoupled decay (scaled by the learning rate)."""

    kind: Literal["adamw"]
    weight_decay: NonNegative = 1e-2


class _ScheduleSection(_Section):
    horizon: Literal["plan", "method"] | Positive = Field(
        "plan",
        description="plan: restarts with each; method: once over all the method plans; "
        "a number: once over so many epochs",
    )
    final_learning_rate: NonNegative = 0.0


class ConstantSchedule(_Section):
    """The peak learning rate throughout."""

    kind: Literal["constant"]


class LinearSchedule(_ScheduleSection):
    """A straight line from the peak to the final learning rate."""

    kind: Literal["linear"]


class CosineSchedule(_ScheduleSection):
    """Half a cosine from the peak to the final learning rate, no restarts inside."""

    kind: Literal["cosine"] = "cosine"


class TriangularSchedule(_ScheduleSection):
    """Up in a straight line to the peak, then down (one-cycle)."""

    kind: Literal["triangular"]
    start_fraction: float = Field(0.2, ge=0, le=1, description="of the peak, at first")
    peak_at: float = Field(0.25, gt=0, lt=1, description="share of the horizon")


class AugmentConfig(_Section):
    """Random changes to each training image, drawn anew at every visit."""

    translate: CountFromZero = Field(0, description="pixels, reflected at the border")
    flip: bool = False
    cutout: CountFromZero = Field(0, description="side of the square, 0 for none")


class TrainConfig(_Section):
    """How one step trains."""

    batch_size: Count = 128
    optimizer: Annotated[
        SgdOptimizer | AdamOptimizer | AdamWOptimizer, Field(discriminator="kind")
    ] = SgdOptimizer()
    schedule: Annotated[
        ConstantSchedule | LinearSchedule | CosineSchedule | TriangularSchedule,
        Field(discriminator="kind"),
    ] = CosineSchedule()
    augment: AugmentConfig = AugmentConfig()
    label_smoothing: Share = 0.0


class StandardMethod(_Section):
    """Every example in every pass."""

    kind: Literal["standard"]
    passes: Count = 200


class Rs2Method(_Section):
    """Repeated random sampling: a fresh random subset in every pass."""

    kind: Literal["rs2"]
    keep_fraction: Fraction = 0.1
    passes: Count = 200
    replacement: bool = Field(False, description="draw passes independently")


class ActiveLearningMethod(_Section):
    """Random initial set, then rounds that add the most informative examples."""

    kind: Literal["active_learning"]
    score: Score = "margin"
    initial_size: Count = 1000
    query_size: Count = 1000
    passes_per_round: Count = 200
    max_rounds: CountFromZero = Field(10, description="rounds after the initial one")
    from_scratch: bool = Field(True, description="new parameters in every round")
    candidate_fraction: Fraction = 1.0


class DissimilarityConfig(_Section):
    """How far a prediction is from its label, blended into the score."""

    kind: Literal["none", "euclidean", "kl"] = "none"
    weight: float = Field(0.5, ge=0, le=1, description="lambda; 0 is the score alone")


class DpetMethod(_Section):
    """RS2 warm-up, then rounds that add the most informative examples."""

    kind: Literal["dpet"] = "dpet"
    score: Score = "margin"
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
        return self


class CoresetMethod(_Section):
    """Train on a saved coreset.npz, every example in every pass."""

    kind: Literal["coreset"]
    path: Path = Field(description="a run's coreset.npz")
    passes: Count = 200


class EvaluateConfig(_Section):
    """The evaluation grid, the same for every method of a comparison."""

    every: Positive = Field(1.0, description="epochs (full-pass equivalents)")
    batch_size: Count = Field(500, description="rows per step of scoring as well")


class StopConfig(_Section):
    """When the target ends a run."""

    target: Fraction | None = None
    on: Literal["validation", "test"] = Field(
        "validation", description="test only repeats papers that did, and marks the run"
    )


class BudgetConfig(_Section):
    """Limits; the first that is reached ends the run."""

    epochs: Positive | None = Field(None, description="full-pass equivalents")
    visits: Count | None = None
    seconds: Positive | None = Field(None, description="evaluation excluded")


class CheckpointConfig(_Section):
    """How often the run can be taken up again."""

    every_s: NonNegative = 30.0


class Config(_Section):
    """One experiment; an empty file is DPET on the digits."""

    name: str = Field("dpet", pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")
    seed: Seed = 0
    data: Annotated[
        DigitsData | TfdsData | ParquetData | NpzData, Field(discriminator="kind")
    ] = DigitsData()
    model: Annotated[
        ResNet18Model | ResNet20Model | ResNetModel, Field(discriminator="kind")
    ] = ResNet18Model()
    train: TrainConfig = TrainConfig()
    method: Annotated[
        StandardMethod | Rs2Method | ActiveLearningMethod | DpetMethod | CoresetMethod,
        Field(discriminator="kind"),
    ] = DpetMethod()
    evaluate: EvaluateConfig = EvaluateConfig()
    targets: tuple[Fraction, ...] = ()
    stop: StopConfig = StopConfig()
    budget: BudgetConfig = BudgetConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()

    @model_validator(mode="after")
    def _stop_has_its_split(self) -> "Config":
        needs = self.stop.target is not None or self.targets
        if (
            self.data.validation_fraction == 0
            and needs
            and self.stop.on == "validation"
        ):
            raise ValueError(
                "data.validation_fraction is 0 but targets are reached on validation; "
                "give it a share such as 0.1, or set stop.on: test to repeat a paper"
            )
        return self

    @model_validator(mode="after")
    def _name_stays_inside(self) -> "Config":
        if ".." in Path(self.name).parts:
            raise ValueError(f"name: {self.name!r} leaves the output folder; drop '..'")
        return self

    def to_yaml(self) -> str:
        """Return the resolved config as YAML that loads back to an equal config."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
