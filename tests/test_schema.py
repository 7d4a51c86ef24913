"""The keys of an experiment, their defaults, and that nothing else gets in."""

import pytest
from pydantic import BaseModel, ValidationError

from dpet_jax import schema

SECTIONS = [
    kind
    for kind in vars(schema).values()
    if isinstance(kind, type) and issubclass(kind, BaseModel) and kind is not BaseModel
]
NEEDED = {"kind": None, "path": "somewhere", "learning_rate": 0.1, "stem": 8}
NEEDED |= {"channels": (8,), "blocks": (1,)}

#: Every key of the documented example, by section; budget.wh and energy come later.
DOCUMENTED = {
    "Config": "name seed data model train method evaluate targets stop budget "
    "checkpoint",
    "TfdsData": "kind name path image_size validation_fraction split_seed",
    "ResNet18Model": "kind width_multiplier depth_multiplier channel_multiple "
    "compute_dtype",
    "ResNet20Model": "kind width_multiplier depth_multiplier scale channel_multiple "
    "compute_dtype",
    "TrainConfig": "batch_size optimizer schedule augment label_smoothing",
    "SgdOptimizer": "kind learning_rate momentum nesterov weight_decay",
    "CosineSchedule": "kind horizon",
    "AugmentConfig": "translate flip cutout",
    "DpetMethod": "kind score warmup_passes keep_fraction query_size passes_per_round "
    "max_rounds dissimilarity candidate_fraction compat",
    "DissimilarityConfig": "kind weight",
    "EvaluateConfig": "every",
    "StopConfig": "target on",
    "BudgetConfig": "epochs visits seconds",
    "CheckpointConfig": "every_s",
}
KINDS = {
    ("Config", "data"): {"digits", "tfds", "parquet", "npz"},
    ("Config", "model"): {"resnet18", "resnet20", "resnet"},
    ("Config", "method"): {"standard", "rs2", "active_learning", "dpet", "coreset"},
    ("TrainConfig", "optimizer"): {"sgd", "adam", "adamw"},
    ("TrainConfig", "schedule"): {"constant", "linear", "cosine", "triangular"},
}


def sections_of_json_schema():
    top = schema.Config.model_json_schema()
    return top["$defs"] | {"Config": top}


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
    union = sections_of_json_schema()[section]["properties"][key]
    assert set(union["discriminator"]["mapping"]) == KINDS[section, key]


def test_dpet_defaults_are_the_papers():
    method = schema.DpetMethod()
    assert method.warmup_passes == 20
    assert method.keep_fraction == 1 / 3
    assert method.query_size == 1000
    assert method.passes_per_round == 10
    assert method.dissimilarity.kind == "none"
    assert method.candidate_fraction == 1.0
    assert method.compat == "none"


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
    ("key", "bad"),
    [
        ("keep_fraction", 0),
        ("keep_fraction", 1.01),
        ("candidate_fraction", 0),
        ("query_size", 0),
        ("warmup_passes", 0),
        ("max_rounds", -1),
        ("score", "zero_one"),
        ("dissimilarity", {"kind": "kl", "weight": 1.1}),
        ("keep_fraction", float("nan")),
    ],
)
def test_dpet_refuses_what_it_cannot_train_on(key, bad):
    with pytest.raises(ValidationError):
        schema.DpetMethod(**{key: bad})


@pytest.mark.parametrize("changes", [{"keep_fraction": 1}, {"max_rounds": 0}])
def test_dpet_takes_the_borders_of_its_ranges(changes):
    assert schema.DpetMethod(**changes).model_dump().items() >= changes.items()


@pytest.mark.parametrize(
    "changes",
    [
        {"score": "random", "dissimilarity": {"kind": "kl"}},
        {"compat": "artifact", "score": "el2n"},
        {"compat": "artifact", "score": "random"},
        {"compat": "artifact", "candidate_fraction": 0.5},
    ],
)
def test_dpet_refuses_settings_that_contradict_each_other(changes):
    with pytest.raises(ValidationError, match="value_error"):
        schema.DpetMethod(**changes)
    for key in changes:
        rest = {name: value for name, value in changes.items() if name != key}
        schema.DpetMethod(**rest)
