"""What is trained, on what and how: the sections of a config that decide results."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _no_boolean(value: Any) -> Any:
    """Refuse true for 1, which Python and pydantic would let pass."""
    if isinstance(value, bool):
        raise ValueError(f"must be a number (got {str(value).lower()})")
    return value


Number = BeforeValidator(_no_boolean)
Fraction = Annotated[float, Field(gt=0, le=1), Number]
Positive = Annotated[float, Field(gt=0), Number]
NonNegative = Annotated[float, Field(ge=0), Number]
Share = Annotated[float, Field(ge=0, lt=1), Number]
Count = Annotated[int, Field(ge=1), Number]
CountFromZero = Annotated[int, Field(ge=0), Number]
Seed = Annotated[int, Field(ge=0, lt=2**31), Number]


class Section(BaseModel):
    """A part of a config: no unknown keys, no changes, no NaN.

    Sections with a `kind` are unions: the kind decides which keys exist.
    """

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


class _DataSection(Section):
    image_size: Count | None = Field(None, description="area-resize to so many pixels")
    validation_fraction: Share = 0.1
    train_examples: Count | None = Field(
        None, description="that the training split keeps, of all classes alike"
    )
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


class _ModelSection(Section):
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


class _OptimizerSection(Section):
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


class _ScheduleSection(Section):
    horizon: Literal["plan", "method"] | Positive = Field(
        "plan",
        description="plan: restarts with each; method: once over all the method plans; "
        "a number: once over so many epochs",
    )
    final_learning_rate: NonNegative = 0.0


class ConstantSchedule(Section):
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


class AugmentConfig(Section):
    """Random changes to each training image, drawn anew at every visit."""

    translate: CountFromZero = Field(0, description="pixels, reflected at the border")
    flip: bool = False
    cutout: CountFromZero = Field(0, description="side of the square, 0 for none")


class TrainConfig(Section):
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
