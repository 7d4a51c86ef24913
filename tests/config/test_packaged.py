"""The configs and suites that an installed package brings along."""

from importlib.resources import files
from pathlib import Path

import pytest

from dpet_jax.config.load import load
from dpet_jax.config.packaged import names, packaged
from dpet_jax.errors import UserError
from dpet_jax.suite.variants import load_suite

CONFIGS = Path(__file__).parents[2] / "configs"


def test_every_config_and_suite_of_the_repository_lies_in_the_package():
    inside = {path.resolve() for _, path in names()}
    assert inside == {path.resolve() for path in CONFIGS.rglob("*.yaml")}
    assert len(inside) >= 20


def test_the_quickstart_is_found_as_a_resource_of_the_package():
    resource = files("dpet_jax").joinpath("configs", "quickstart.yaml")
    assert resource.read_bytes() == (CONFIGS / "quickstart.yaml").read_bytes()
    assert load(packaged("quickstart")).name == "quickstart"


def test_the_build_takes_the_whole_package():
    project = (CONFIGS.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert '[tool.hatch.build.targets.wheel]\npackages = ["dpet_jax"]' in project


def test_names_are_unique_so_that_each_means_one_file():
    found = [name for name, _ in names()]
    assert len(found) == len({*found})


def test_an_unknown_name_is_refused_with_those_there_are():
    with pytest.raises(UserError, match=r"'quick' is no packaged.*quickstart.*digits"):
        packaged("quick")


def test_a_name_stands_for_its_file_unless_there_is_a_file_of_this_name(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("digits").mkdir()  # a folder is no config
    assert load_suite(Path("digits")) == load_suite(packaged("digits"))
    assert load("quickstart") == load(packaged("quickstart"))
    own = (
        "name: own\nbase: quickstart\nseeds: [0]\ntargets: [0.5]\nvariants: {one: {}}\n"
    )
    Path("own.yaml").write_text(own)
    (variant,) = load_suite(Path("own.yaml")).variants
    (setting,) = variant.settings.values()
    assert setting.config.data == load("quickstart").data
    Path("quickstart").write_text("name: mine\n")
    assert load("quickstart").name == "mine"
    with pytest.raises(UserError, match=r"no_such: cannot read .* such as quickstart"):
        load("no_such")
