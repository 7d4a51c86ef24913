"""The keys of an experiment, their defaults, and that nothing else gets in."""

import inspect

import pytest
from pydantic import BaseModel, ValidationError

from dpet_jax import section as sections
from dpet_jax.config import experiment as schema
from dpet_jax.models.families import MODELS
from dpet_jax.training.optimizer import OPTIMIZERS
from dpet_jax.training.schedule import SCHEDULES

SECTIONS = [
    kind
    for kind in dict.fromkeys(
        (
            *(each for each in vars(schema).values() if isinstance(each, type)),
            *(each for each in vars(sections).values() if isinstance(each, type)),
            *(*MODELS, *OPTIMIZERS, *SCHEDULES),
        )
    )
    if issubclass(kind, BaseModel)
    and kind is not BaseModel
    and not inspect.isabstract(kind)
]
NEEDED = {"kind": None, "path": "somewhere", "learning_rate": 0.1, "stem": 8}
NEEDED |= {"channels": (8,), "blocks": (1,), "start": 16}
NEEDED |= {"idle_w": 5.0, "max_w": 65.0, "source": "data sheet"}
NEEDED |= {"intensity_g_per_kwh": 300.0, "intensity_source": "grid operator, 2025"}

#: Every key of the documented example, by section.
DOCUMENTED = {
    "Config": "name seed data model train method evaluate targets stop budget "
    "checkpoint energy",
    "Tfds": "kind name path image_size validation_fraction split_seed",
    "ResNet18": "kind width_multiplier depth_multiplier channel_multiple compute_dtype",
    "ResNet20": "kind width_multiplier depth_multiplier scale channel_multiple "
    "compute_dtype",
    "TrainConfig": "batch_size optimizer schedule augment label_smoothing",
    "Sgd": "kind learning_rate momentum nesterov weight_decay",
    "Cosine": "kind horizon",
    "AugmentConfig": "translate flip cutout",
    "Dpet": "kind score warmup_passes keep_fraction query_size passes_per_round "
    "max_rounds dissimilarity candidate_fraction compat",
    "DissimilarityConfig": "kind weight",
    "EvaluateConfig": "every",
    "StopConfig": "target on",
    "BudgetConfig": "epochs visits seconds wh",
    "EnergyConfig": "period_s include idle_s allow_modelled cpu_model carbon",
    "CpuModelConfig": "idle_w max_w source",
    "CheckpointConfig": "every_s",
}
KINDS = {
    ("Config", "data"): {"digits", "folder", "cifar", "parquet", "npz", "idx", "tfds"},
    ("Config", "model"): {
        *("resnet18", "resnet20", "resnet50", "resnet", "cnn", "poly", "linear")
    },
    ("Config", "method"): {
        *("standard", "rs2", "active_learning", "dpet", "coreset", "one_shot"),
        *("infobatch", "loss_threshold", "epsilon_greedy"),
        *("selective_backprop", "stale_selective_backprop", "dpet_anneal"),
    },
    ("TrainConfig", "optimizer"): {"sgd", "adam", "adamw"},
    ("TrainConfig", "schedule"): {
        *("constant", "linear", "cosine", "step", "triangular")
    },
}


def sections_of_json_schema():
    """Every part of the JSON schema that describes a section, by its title."""
    found = {}

    def walk(node):
        if isinstance(node, dict):
            if "properties" in node and "title" in node:
                found[node["title"]] = node
            node = list(node.values())
        if isinstance(node, list):
            for inner in node:
                walk(inner)

    walk(schema.Config.model_json_schema())
    return found


def example(section):
    """Make a section with as few keys as it takes."""
    keys = {}
    for name, field in section.model_fields.items():
        if field.is_required():
            literal = field.annotation.__args__[0] if name == "kind" else None
            keys[name] = literal or NEEDED[name]
    return section(**keys)


@pytest.mark.parametrize("section", DOCUMENTED)
def test_json_schema_lists_every_documented_key(section):
    listed = sections_of_json_schema()[section]["properties"]
    assert set(DOCUMENTED[section].split()) <= set(listed)


@pytest.mark.parametrize(("section", "key"), KINDS)
def test_json_schema_lists_every_kind(section, key):
    members = sections_of_json_schema()[section]["properties"][key]["anyOf"]
    kinds = [member["properties"]["kind"] for member in members]
    assert {kind.get("const") for kind in kinds} == {*KINDS[section, key], None}


def test_targets_are_reached_on_validation_unless_asked_otherwise():
    config = schema.Config()
    assert config.stop.on == "validation"
    assert config.data.validation_fraction == 0.1
    assert config.data.label_noise == 0


@pytest.mark.parametrize("section", SECTIONS, ids=lambda kind: kind.__name__)
def test_section_forbids_other_keys_and_cannot_be_changed(section):
    made = example(section)
    keys = made.model_dump()
    with pytest.raises(ValidationError, match="extra_forbidden"):
        section.model_validate(keys | {"surprise": 1})
    for name in [*keys, "surprise"]:
        with pytest.raises(ValidationError, match=r"frozen_instance"):
            setattr(made, name, keys.get(name))


@pytest.mark.parametrize("section", SECTIONS, ids=lambda kind: kind.__name__)
def test_defaults_of_a_section_pass_its_own_checks(section):
    made = example(section)
    assert section.model_validate(made.model_dump()) == made


@pytest.mark.parametrize(
    "changes",
    [
        {"allow_modelled": True},
        {"cpu_model": {"idle_w": 5, "max_w": 65, "source": "data sheet"}},
        {"idle_s": 2.0},
        {"period_s": 0.01},
        {"carbon": {"intensity_g_per_kwh": 300}},
        {
            "allow_modelled": True,
            "cpu_model": {"idle_w": 65, "max_w": 65, "source": "data sheet"},
        },
    ],
)
def test_energy_that_nobody_could_stand_for_is_refused(changes):
    with pytest.raises(ValidationError):
        schema.EnergyConfig(**changes)


def test_energy_is_not_modelled_unless_both_keys_say_so():
    assert schema.EnergyConfig().cpu_model is None
    model = {"idle_w": 5, "max_w": 65, "source": "data sheet"}
    wanted = schema.EnergyConfig(allow_modelled=True, cpu_model=model)
    assert wanted.cpu_model.max_w == 65
