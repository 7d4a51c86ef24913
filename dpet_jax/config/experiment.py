"""Every key of an experiment, its default and its range.

A config file holds the fields of these classes, and of the kinds that they list;
`dpet show` prints them. Unknown keys are errors, so a mistyped one cannot be ignored.
A default is written in its class and nowhere else; the resolved config is saved in
every run folder.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from dpet_jax.config import yaml12
from dpet_jax.data.augment import AugmentConfig
from dpet_jax.data.source import DataSection
from dpet_jax.data.sources import SOURCES, Digits
from dpet_jax.methods.active_learning import ActiveLearning
from dpet_jax.methods.base import Method
from dpet_jax.methods.coreset import SavedCoreset
from dpet_jax.methods.dpet import Dpet
from dpet_jax.methods.dpet_anneal import DpetAnneal
from dpet_jax.methods.dynamic import (
    EpsilonGreedy,
    InfoBatch,
    LossThreshold,
    StaleSelectiveBackprop,
)
from dpet_jax.methods.one_shot import OneShot
from dpet_jax.methods.rs2 import Rs2
from dpet_jax.methods.selective_backprop import SelectiveBackprop
from dpet_jax.methods.standard import Standard
from dpet_jax.models.families import MODELS, ResNet18
from dpet_jax.models.network import ModelSection
from dpet_jax.models.pruning import PruneConfig
from dpet_jax.pretrained.choice import PoolConfig
from dpet_jax.section import (
    AtLeastOne,
    BatchSize,
    Fraction,
    NonNegative,
    Number,
    OneOf,
    Positive,
    Section,
    Seed,
    Share,
    UpToOne,
    check_file_name,
    shown,
)
from dpet_jax.trackers import TRACKERS, Tracker
from dpet_jax.training.optimizer import OPTIMIZERS, OptimizerSection, Sgd
from dpet_jax.training.plateau import PlateauConfig
from dpet_jax.training.resolution import ResolutionConfig
from dpet_jax.training.schedule import SCHEDULES, Cosine, ScheduleSection

#: What `method.kind` may name without an import path; the first is the default.
METHODS = (
    Dpet,
    DpetAnneal,
    Standard,
    Rs2,
    ActiveLearning,
    OneShot,
    InfoBatch,
    LossThreshold,
    StaleSelectiveBackprop,
    SelectiveBackprop,
    EpsilonGreedy,
    SavedCoreset,
)


class QuantizeConfig(Section):
    """Weights of few bits: the kernels of what is evaluated, and of late training.

    The forward pass of the last share of the schedule uses rounded kernels, whose
    gradient passes straight through to the float32 ones that are kept. What is
    evaluated, and in the end the model, is rounded from the first step on.
    """

    bits: Annotated[int, Field(ge=2, le=8), Number] = Field(
        8, description="of a weight; a scale for each output channel"
    )
    start: UpToOne = Field(
        0.85,
        description="share of the schedule after which training rounds too; 1: only "
        "what is evaluated is rounded",
    )


class TrainConfig(Section):
    """How one step trains."""

    batch_size: BatchSize = Field(128, description="training examples of a step")
    optimizer: Annotated[OptimizerSection, OneOf(OptimizerSection, OPTIMIZERS)] = Field(
        Sgd(), description="how gradients become steps"
    )
    schedule: Annotated[ScheduleSection, OneOf(ScheduleSection, SCHEDULES)] = Field(
        Cosine(), description="how the learning rate goes on"
    )
    augment: AugmentConfig = Field(
        AugmentConfig(), description="random changes to training images"
    )
    resolution: ResolutionConfig | None = Field(
        None, description="keys train on small images first"
    )
    label_smoothing: Share = Field(
        0.0, description="probability that is spread over all classes"
    )
    ema: Share | None = Field(
        None,
        description="share that an exponential moving average of the weights keeps "
        "from step to step; it is evaluated instead of the last weights",
    )
    quantize: QuantizeConfig | None = Field(
        None, description="keys round the weights to few bits"
    )


class EvaluateConfig(Section):
    """The evaluation grid, the same for every method of a comparison."""

    every: Positive = Field(1.0, description="epochs (full-pass equivalents)")
    batch_size: BatchSize = Field(500, description="rows per step of scoring as well")


class StopConfig(Section):
    """When the target ends a run."""

    target: Fraction | None = Field(None, description="accuracy that ends the run")
    on: Literal["validation", "test"] = Field(
        "validation", description="test only repeats papers that did, and marks the run"
    )


class BudgetConfig(Section):
    """Limits; the first that is reached ends the run."""

    epochs: Positive | None = Field(None, description="full-pass equivalents")
    visits: Annotated[int, Field(ge=1, le=2**53), Number] | None = Field(
        None, description="examples trained on, repeats included"
    )
    seconds: Positive | None = Field(None, description="evaluation excluded")
    wh: Positive | None = Field(None, description="gross, evaluation excluded")
    pace: bool = Field(
        False,
        description="let the one schedule of dpet_anneal end with seconds, or wh: how "
        "many examples are left is counted anew as training goes on",
    )


class CheckpointConfig(Section):
    """How often a run is saved, so that it can be resumed."""

    every_s: NonNegative = Field(30.0, description="seconds between two checkpoints")


class CpuModelConfig(Section):
    """Stands in for the CPU's energy counters; what it gives is labelled a model."""

    idle_w: NonNegative = Field(description="watts of the CPU doing nothing")
    max_w: Positive = Field(description="watts of the CPU fully loaded")
    source: str = Field(min_length=1, description="where these watts come from")

    @model_validator(mode="after")
    def _more_under_load(self) -> "CpuModelConfig":
        if self.idle_w >= self.max_w:
            raise ValueError(
                f"idle_w is {self.idle_w:g} but max_w is {self.max_w:g}; a CPU draws "
                "more under load"
            )
        return self


class CarbonConfig(Section):
    """Turns energy into CO2-equivalents; nothing is guessed from where you are."""

    intensity_g_per_kwh: NonNegative = Field(
        description="grams of CO2-equivalents for a kWh of your grid"
    )
    intensity_source: str = Field(min_length=1, description="who says so, and when")
    kind: Literal["average", "marginal"] = Field(
        "average", description="of the intensity"
    )
    pue: AtLeastOne = Field(
        1.0, description="power usage effectiveness; kept apart from the energy"
    )
    pue_source: str = Field("default", description="where the PUE comes from")
    embodied_g: NonNegative | None = Field(None, description="of the hardware, a run")


class EnergyConfig(Section):
    """How energy is measured, and what may be used where it cannot be."""

    period_s: Annotated[float, Field(ge=0.02, le=5), Number] | None = Field(
        None, description="between readings; 0.1 for counters, 0.05 for power"
    )
    include: Literal["used", "visible"] = Field(
        "used", description="visible: GPUs held but not computed on as well"
    )
    idle_s: Annotated[float, Field(ge=0, le=3600), Number] = Field(
        0.0, description="measure the idle baseline so long first; 10 is good"
    )
    allow_modelled: bool = Field(
        False, description="let a model of the CPU stand in for its counters"
    )
    cpu_model: CpuModelConfig | None = Field(
        None, description="watts of the CPU; needs allow_modelled"
    )
    carbon: CarbonConfig | None = Field(
        None, description="keys turn energy into CO2-equivalents"
    )

    @model_validator(mode="after")
    def _model_is_wanted(self) -> "EnergyConfig":
        if self.cpu_model is not None and not self.allow_modelled:
            raise ValueError(
                "cpu_model is given but allow_modelled is false; set it to true to "
                "accept modelled energy, or drop cpu_model"
            )
        if self.allow_modelled and self.cpu_model is None:
            raise ValueError(
                "allow_modelled is true but there is no model; give energy.cpu_model "
                "with idle_w, max_w and source"
            )
        if 0 < self.idle_s < 3:
            raise ValueError(
                f"idle_s is {self.idle_s:g}, of which 2 s are for settling; give at "
                "least 3, or 0 for no baseline"
            )
        return self


class Config(Section):
    """One experiment; an empty file is DPET on the digits."""

    name: str = Field(
        "dpet",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$",
        description="of the run's folder",
    )
    seed: Seed = Field(
        0, description="of the parameters, the order and every choice by chance"
    )
    data: Annotated[DataSection, OneOf(DataSection, SOURCES)] = Field(
        Digits(), description="the data set, and its split"
    )
    model: Annotated[ModelSection, OneOf(ModelSection, MODELS)] = Field(
        ResNet18(), description="the network"
    )
    pool: PoolConfig | None = Field(
        None, description="keys let the run start from a pre-trained network"
    )
    train: TrainConfig = Field(TrainConfig(), description="how one step trains")
    method: Annotated[Method, OneOf(Method, METHODS)] = Field(
        Dpet(), description="what is trained on next"
    )
    evaluate: EvaluateConfig = Field(
        EvaluateConfig(), description="when the model is judged"
    )
    targets: tuple[Fraction, ...] = Field(
        (), description="accuracies to reach; the cost of each is recorded"
    )
    stop: StopConfig = Field(StopConfig(), description="when a target ends the run")
    budget: BudgetConfig = Field(
        BudgetConfig(), description="limits; the first that is reached ends the run"
    )
    checkpoint: CheckpointConfig = Field(
        CheckpointConfig(), description="how often the run is saved"
    )
    energy: EnergyConfig = Field(EnergyConfig(), description="how energy is measured")
    prune: PruneConfig | None = Field(
        None, description="keys cut channels out while training"
    )
    plateau: PlateauConfig | None = Field(
        None, description="keys say what to do where accuracy stops rising"
    )
    track: tuple[Annotated[Tracker, OneOf(Tracker, TRACKERS)], ...] = Field(
        (),
        description="names or keys of trackers that follow the run: tensorboard, "
        "wandb, mlflow",
    )

    @field_validator("track", mode="before")
    @classmethod
    def _trackers_by_name(cls, value: Any) -> Any:
        """Take a tracker's name for its keys, and one for a list of one."""
        if isinstance(value, str | dict):
            value = [value]
        if not isinstance(value, list | tuple):
            raise ValueError(
                f"must be a list such as [tensorboard] (got {shown(value)})"
            )
        return [{"kind": one} if isinstance(one, str) else one for one in value]

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
    def _images_grow(self) -> "Config":
        resolution, last = self.train.resolution, self.data.input_size
        if resolution is None:
            return self
        if last is None:
            raise ValueError(
                "train.resolution lets images grow, but data.input_size does not say "
                "to what side; give it"
            )
        if resolution.start >= last:
            raise ValueError(
                f"train.resolution.start is {resolution.start} pixels, no less than "
                f"the {last} of data.input_size that images grow to; choose fewer"
            )
        return self

    @model_validator(mode="after")
    def _pruning_is_judged(self) -> "Config":
        prune = self.prune
        if (
            prune is not None
            and prune.tolerance is not None
            and self.data.validation_fraction == 0
        ):
            raise ValueError(
                "data.validation_fraction is 0 but prune.tolerance judges a pruned "
                "network on validation; give it a share such as 0.1, or set "
                "prune.tolerance: null"
            )
        return self

    @model_validator(mode="after")
    def _plateaus_are_seen(self) -> "Config":
        if self.plateau is None:
            return self
        if self.data.validation_fraction == 0 and self.stop.on == "validation":
            raise ValueError(
                "data.validation_fraction is 0 but plateau looks at accuracy on "
                "validation; give it a share such as 0.1, or set plateau: null"
            )
        if self.budget.pace:
            raise ValueError(
                "budget.pace lets the schedule end with the budget, and plateau ends "
                "it where accuracy stops rising; leave one of them away"
            )
        return self

    @model_validator(mode="after")
    def _horizon_is_heard(self) -> "Config":
        horizon = getattr(self.train.schedule, "horizon", "plan")
        if self.method.paced and not isinstance(horizon, str):
            raise ValueError(
                f"train.schedule.horizon is {horizon:g} epochs, but {self.method.kind} "
                "puts its passes on one schedule itself, however many examples they "
                "visit; leave it at plan"
            )
        return self

    @model_validator(mode="after")
    def _schedule_comes_to_its_end(self) -> "Config":
        horizon = getattr(self.train.schedule, "horizon", "plan")
        if self.method.ends_early and horizon == "method":
            raise ValueError(
                "train.schedule.horizon is method, but method.tuner ends warm-up and "
                "rounds early, so that one schedule of them all would not come to its "
                "end; leave it at plan, or give a number of epochs"
            )
        return self

    @model_validator(mode="after")
    def _pace_has_its_end(self) -> "Config":
        budget = self.budget
        if not budget.pace:
            return self
        if (budget.seconds is None) == (budget.wh is None):
            raise ValueError(
                "budget.pace ends the schedule with the clock or with the energy; give "
                "one of budget.seconds and budget.wh"
            )
        if self.method.lasting(1, 1) is None:
            raise ValueError(
                f"budget.pace is set, but the plans of {self.method.kind} do not "
                "follow a number of examples; choose method.kind: dpet_anneal"
            )
        if self.train.resolution is not None:
            raise ValueError(
                "budget.pace foresees what is left by what examples have cost so far, "
                "but with train.resolution they get dearer; leave one of them away"
            )
        if self.prune is not None:
            raise ValueError(
                "budget.pace is set, but pruning counts on a number of examples that "
                "is fixed; leave one of them away"
            )
        return self

    @model_validator(mode="after")
    def _name_stays_inside(self) -> "Config":
        for part in self.name.split("/"):
            try:
                check_file_name(part)
            except ValueError as error:
                raise ValueError(f"name is {shown(self.name)}: {error}") from error
        return self

    def to_yaml(self) -> str:
        """Return the resolved config as YAML that loads back to an equal config."""
        return yaml12.write(self.model_dump(mode="json"))
