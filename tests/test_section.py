"""Sections, kinds of them, and kinds that are named by an import path."""

from typing import Annotated, Literal

import pytest
from pydantic import ValidationError

from dpet_jax.config.experiment import TrainConfig
from dpet_jax.section import (
    Count,
    Kind,
    OneOf,
    Section,
    import_from,
    import_path,
    kind_of,
    one_of,
)
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
