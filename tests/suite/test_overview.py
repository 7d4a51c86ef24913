"""What `dpet show` says of a suite before anything is run."""

import pytest
import yaml
from rich.console import Console

from dpet_jax.cli import main
from dpet_jax.suite.compare import Comparing
from dpet_jax.suite.overview import overview_lines
from dpet_jax.suite.variants import load_suite

BASE = """
data: {kind: digits}
model: {kind: resnet, stem: 8, channels: [8], blocks: [1]}
train: {batch_size: 64}
method: {kind: standard, passes: 3}
"""
SUITE = """
name: mine
base: base.yaml
seeds: [0, 1]
targets: [0.5, 0.925]
variants:
  full: {role: standard, set: {train.augment.flip: true}}
  tuned:
    label: tuned well
    role: tuned
    tune: {seeds: [7], grid: {method.passes: [1, 2]}}
  broken: {set: {method.passes: -1}}
"""


@pytest.fixture
def suite(tmp_path):
    (tmp_path / "base.yaml").write_text(BASE)
    path = tmp_path / "mine.yaml"
    path.write_text(SUITE)
    return path


def lines_of(path, tmp_path, *overrides):
    comparing = Comparing(load_suite(path, overrides), tmp_path, Console(quiet=True))
    return [*overview_lines(comparing)]


def test_a_suite_is_shown_by_variant_with_counts_and_epochs(suite, tmp_path):
    lines = lines_of(suite, tmp_path)
    assert "  seeds     0, 1" in lines
    assert "  targets   50 %, 92.5 %" in lines
    full = lines[lines.index("full, role standard") :]
    assert full[1] == "  set       train.augment.flip: true"
    # 3 passes over 1,455 examples are 69 steps of 64
    assert full[2] == "  reported  2 runs, 6.07 epochs"
    tuned = lines[lines.index("tuned (tuned well), role tuned") :]
    assert tuned[1] == "  tuned     method.passes: 1, 2"
    assert tuned[3] == "  trials    2 runs, 3.04 epochs"
    # the dearest setting alone, until one is chosen
    assert tuned[4] == "  reported  2 runs, 4.05 epochs"
    assert lines[-1] == "in all 6 runs, 13.2 epochs of full-pass equivalents"
    assert any("variants.broken" in line and "passes" in line for line in lines)


@pytest.mark.parametrize("tuned", [True, False])
def test_where_the_data_are_missing_the_suite_is_shown_without_epochs(
    suite, tmp_path, tuned
):
    if not tuned:
        tree = yaml.safe_load(suite.read_text())
        del tree["variants"]["tuned"]
        suite.write_text(yaml.safe_dump(tree))
    missing = f"--data.path={tmp_path / 'nothing.npz'}"
    lines = lines_of(suite, tmp_path, "--data.kind=npz", missing)
    assert lines[-1].startswith("epochs are not known: ")
    assert "nothing.npz: no such file" in lines[-1]
    assert "full, role standard" in lines
    assert not any("  reported  " in line for line in lines)


def test_show_tells_a_suite_from_a_config(suite, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    assert main(["show", str(suite)]) == 0
    assert capsys.readouterr().out.startswith("mine: 2 rows\n")
    assert main(["show", str(tmp_path / "base.yaml")]) == 0
    assert "batch_size: 64" in capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before
