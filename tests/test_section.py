"""Sections, kinds of them, and kinds that are named by an import path."""

import math
from typing import Annotated, Literal, get_args, get_origin

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from dpet_jax.config.experiment import TrainConfig
from dpet_jax.section import (
    LARGEST,
    LARGEST_COUNT,
    Count,
    Kind,
    OneOf,
    Section,
    check_file_name,
    import_from,
    import_path,
    kind_of,
    one_of,
)
from dpet_jax.suite.schema import TuneConfig
from dpet_jax.training.optimizer import Sgd
from dpet_jax.training.schedule import Cosine


class Fruit(Kind):
    """A base of kinds."""


class Apple(Fruit):
    kind: Literal["apple"] = "apple"
    seeds: Count = 5


class DriedPear(Fruit):
    """Without a short name."""

    age: Count = 1


class Bowl(Section):
    fruit: Annotated[Fruit, OneOf(Fruit, (Apple,))] = Apple()


PEAR = f"{__name__}:DriedPear"


def test_a_section_without_a_kind_is_of_the_default_kind():
    train = TrainConfig(optimizer={"momentum": 0.5})
    assert train.optimizer == Sgd(momentum=0.5)
    assert isinstance(train.schedule, Cosine)
    assert Bowl(fruit={"seeds": 3}).fruit == Apple(seeds=3)


def test_a_kind_is_named_shortly_or_by_its_import_path_or_is_an_object():
    assert Bowl(fruit={"kind": "apple"}) == Bowl()
    dried = Bowl(fruit={"kind": PEAR, "age": 3})
    assert dried.fruit == DriedPear(age=3)
    assert Bowl(fruit=DriedPear(age=3)) == dried
    assert (DriedPear().kind, DriedPear().label) == (PEAR, "DriedPear")
    assert (kind_of(Apple), kind_of(DriedPear)) == ("apple", PEAR)


def test_what_is_written_reads_back_equal():
    for bowl in (Bowl(), Bowl(fruit=DriedPear(age=2))):
        assert Bowl.model_validate(bowl.model_dump(mode="json")) == bowl


@pytest.mark.parametrize(
    ("fruit", "kind", "where"),
    [
        ({"kind": "plum"}, "kind_unknown", ("fruit",)),
        ({"kind": "nowhere:Plum"}, "kind_unknown", ("fruit",)),
        ({"kind": f"{__name__}:Bowl"}, "kind_unknown", ("fruit",)),
        ({"kind": PEAR, "age": 0}, "greater_than_equal", ("fruit", "age")),
        ({"kind": PEAR, "seeds": 1}, "extra_forbidden", ("fruit", "seeds")),
        ("apple", "kind_keys", ("fruit",)),
    ],
)
def test_a_wrong_kind_or_key_is_an_error_at_its_own_place(fruit, kind, where):
    with pytest.raises(ValidationError) as caught:
        Bowl(fruit=fruit)
    (error,) = caught.value.errors()
    assert (error["type"], error["loc"]) == (kind, where)


def test_a_field_tells_which_kinds_it_holds():
    kinds = one_of(Bowl, "fruit")
    assert kinds is not None
    assert (kinds.default, kinds.by_name) == ("apple", {"apple": Apple})
    assert one_of(Apple, "seeds") is None
    assert one_of(Apple, "absent") is None


def test_json_schema_lists_the_members_and_any_import_path():
    members = Bowl.model_json_schema()["properties"]["fruit"]["anyOf"]
    assert [m["properties"]["kind"].get("const") for m in members] == ["apple", None]
    assert members[0]["properties"]["seeds"]["minimum"] == 1


def test_paths_name_nested_things_and_say_what_is_wrong():
    assert import_from(import_path(Apple.model_dump)) == Apple.model_dump
    with pytest.raises(ValueError, match="has no 'Sausage'"):
        import_from("dpet_jax.section:Sausage")
    with pytest.raises(ValueError, match="ModuleNotFoundError"):
        import_from("dpet_jax.sausage:Sausage")


# numbers and switches, of all sections


def sections(base=Section):
    """Every section that the package has."""
    for section in base.__subclasses__():
        if section.__module__.startswith("dpet_jax"):
            yield section
        yield from sections(section)


def inside(annotation):
    """Every int, float and bool in an annotation, with what limits it."""
    bare = get_args(annotation)[0] if get_origin(annotation) is Annotated else None
    if annotation in (int, float, bool) or bare in (int, float, bool):
        yield bare or annotation, annotation
        return
    for inner in get_args(annotation):
        yield from inside(inner)


FIELDS = {
    (section.__name__, name, of): (section, limited)
    for section in dict.fromkeys(sections())
    for name, field in section.model_fields.items()
    for of, limited in inside(
        Annotated[field.annotation, *field.metadata]
        if field.metadata
        else field.annotation
    )
}


def test_the_walk_finds_the_numbers():
    assert len(FIELDS) > 80
    assert TuneConfig in {section for section, _ in FIELDS.values()}
    for field in (
        ("Sgd", "learning_rate", float),
        ("Sgd", "nesterov", bool),
        ("EvaluateConfig", "batch_size", int),
        ("ResNet", "channels", int),
        ("Cosine", "horizon", float),
        ("OneShot", "weighted", bool),
        ("TuneConfig", "seeds", int),
    ):
        assert field in FIELDS


# Larger than any machine holds, and what float32 takes for 0 or infinite.
WRONG = {
    int: (2**53 + 1, 10**30, -1, True, "1"),
    float: (1.1e30, 1e39, 1e308, math.inf, -1.0, 9e-31, 1e-320, math.nan, True, "1"),
    bool: (1, 0, 1.0, "true", "on", "yes", "y", b"1"),
}


@pytest.mark.parametrize("field", FIELDS, ids="{0[0]}.{0[1]}".format)
def test_every_number_has_bounds_that_a_machine_holds(field):
    _, name, of = field
    section, limited = FIELDS[field]
    if of is bool:
        for value in WRONG[bool]:
            with pytest.raises(ValidationError, match="must be true or false"):
                section.model_validate({name: value})
        return
    adapter = TypeAdapter(limited, config={"allow_inf_nan": False})
    for value in WRONG[of]:
        with pytest.raises(ValidationError):
            adapter.validate_python(value)


def test_numbers_are_what_float32_holds():
    with pytest.raises(ValidationError, match="at least 1e-30, or 0"):
        Sgd(weight_decay=1e-31)
    assert Sgd(weight_decay=0).weight_decay == 0
    for least in (Sgd(weight_decay=1e-30).weight_decay, LARGEST):
        assert 0 < np.float32(least) < np.inf
    assert int(np.float32(LARGEST_COUNT - 1)) == LARGEST_COUNT - 1
    below = 1 - 2**-24  # float32's largest number below 1
    assert np.float32(Sgd(momentum=below).momentum) < 1
    with pytest.raises(ValidationError, match="less than 1 as float32"):
        Sgd(momentum=1 - 2**-25)


def test_numpy_numbers_and_whole_floats_are_numbers():
    assert Sgd(learning_rate=np.float64(0.1)).learning_rate == 0.1
    assert Apple(seeds=3.0).seeds == 3


# names of folders


@pytest.mark.parametrize("name", ["a", "a b", "ä" * 127, "x" * 255, "…", "a..b", ".a"])
def test_a_name_that_a_folder_can_have(name, tmp_path):
    (tmp_path / check_file_name(name)).mkdir()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "no name of a folder"),
        ("..", "no name of a folder"),
        (".", "no name of a folder"),
        ("a/b", "no name of a folder"),
        ("a\0b", "control character"),
        ("a\nb", "control character"),
        ("a\x7fb", "control character"),
        ("a\udce9b", "control character"),
        ("x" * 256, "256 bytes"),
        ("ä" * 128, "256 bytes"),
    ],
)
def test_a_name_that_no_folder_can_have(name, words):
    with pytest.raises(ValueError, match=words) as caught:
        check_file_name(name)
    assert len(str(caught.value)) < 160
