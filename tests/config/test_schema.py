"""The JSON schemas that editors read: of configs, and of suites."""

import pytest

from dpet_jax.config.experiment import Config
from dpet_jax.data.sources import Folder
from dpet_jax.section import Section
from dpet_jax.suite.schema import SuiteConfig


def keys(node, owner=""):
    """Yield the owner, the name and the schema of every key, kinds included."""
    if isinstance(node, dict):
        owner = node.get("title", owner) if "properties" in node else owner
        for name, of_key in node.get("properties", {}).items():
            yield owner, name, of_key
        for value in node.values():
            yield from keys(value, owner)
    elif isinstance(node, list):
        for value in node:
            yield from keys(value, owner)


def without_description(section):
    found = keys(section.model_json_schema())
    return {(owner, name) for owner, name, key in found if not key.get("description")}


@pytest.mark.parametrize("section", [Config, SuiteConfig])
def test_every_key_is_described(section):
    assert without_description(section) == set()


def test_a_key_without_a_description_is_found_wherever_it_lies():
    class Inner(Section):
        bare: int = 0

    class Outer(Section):
        inner: Inner | None = None

    assert without_description(Outer) == {("Outer", "inner"), ("Inner", "bare")}


def test_the_schema_of_configs_knows_the_keys_of_every_kind():
    found = {(owner, name) for owner, name, _ in keys(Config.model_json_schema())}
    assert found >= {
        ("Rs2", "keep_fraction"),
        ("AdamW", "b2"),
        ("ResNet20", "scale"),
        ("Herding", "kind"),
    }


def test_a_kind_is_described_by_what_it_is():
    kind = Folder.model_json_schema()["properties"]["kind"]
    assert kind["description"] == Folder.__doc__.partition("\n")[0]
