"""Run folders with anything changed in them are read, resumed, or refused."""

import json
import random
import shutil
from contextlib import closing, suppress

import pytest
from fakes.runs import fake_run

from dpet_jax.config.load import validate
from dpet_jax.energy import EnergyMeter, Found
from dpet_jax.errors import UserError
from dpet_jax.report.comparison import read_comparison
from dpet_jax.report.page import write_report
from dpet_jax.run import experiment
from dpet_jax.run.build import build_data
from dpet_jax.run.energy_report import run_report
from dpet_jax.run.folder import RunFolder
from dpet_jax.run.interrupt import Interrupt
from dpet_jax.run.segment import Segment

_VALUES = (
    *(None, True, 0, -1, 1.5, "", "x", 10**30, 1e308, float("nan"), float("inf")),
    *([], {}, [1], {"a": 1}, [[[]]], "9" * 50, "2026"),
)


def places(value, here=()):
    """Yield the place of every value in plain data."""
    yield here
    inside = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        inside = enumerate(value)
    for key, one in inside:
        yield from places(one, (*here, key))


def changed_value(rng, value):
    """Return plain data with one value replaced or taken away."""
    *way, last = rng.choice([place for place in places(value) if place])
    inner = value
    for key in way:
        inner = inner[key]
    if rng.random() < 0.3:
        del inner[last]
    else:
        inner[last] = rng.choice(_VALUES)
    return value


def changed_bytes(rng, content):
    """Return bytes cut, overwritten, with some taken out or put in."""
    start = rng.randrange(len(content) + 1)
    end = min(len(content), start + rng.randrange(100))
    return rng.choice(
        [
            content[:start],
            content[:start] + rng.randbytes(end - start) + content[end:],
            content[:start] + content[end:],
            content[:start] + rng.randbytes(20) + content[start:],
        ]
    )


def change(rng, path):
    """Change one file: a value of what it holds, or its bytes."""
    content = path.read_bytes()
    if path.suffix == ".json" and rng.random() < 0.75:
        content = json.dumps(changed_value(rng, json.loads(content))).encode()
    elif path.suffix == ".jsonl" and rng.random() < 0.75:
        lines = content.splitlines()
        number = rng.randrange(len(lines))
        line = changed_value(rng, json.loads(lines[number]))
        lines[number] = json.dumps(line).encode()
        content = b"\n".join([*lines, b""])
    else:
        content = changed_bytes(rng, content)
    path.write_bytes(content)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run that was interrupted, its config and its data."""
    config = validate(
        {
            "model": {"kind": "resnet", "stem": 8, "channels": [8], "blocks": [1]},
            "train": {"batch_size": 32},
            "method": {"kind": "rs2", "keep_fraction": 0.2, "passes": 3},
        },
        "test",
    )
    asked = Interrupt()
    out = tmp_path_factory.mktemp("begun")
    data = build_data(config)
    # programs are ready and a checkpoint is written before anyone looks
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dpet_jax.run.loop.Loop._exhausted", lambda _: "interrupted")
        result = experiment.run(config, out, interrupt=asked, data=data)
    assert result.stopped_by == "interrupted"
    return result.folder, config, data


def test_a_run_with_anything_changed_is_resumed_or_refused(begun, tmp_path):
    source, config, data = begun
    rng = random.Random(0)
    names = sorted(
        str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()
    )
    files = [name for name in names if "checkpoints" in name]
    ours = ("events.jsonl", "energy.jsonl", "config.yaml")
    resumed = 0
    for _ in range(80):
        folder = tmp_path / "run"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source, folder)
        change(rng, folder / rng.choice([*ours * 3, *files]))
        with (
            suppress(UserError),
            closing(RunFolder(folder)) as held,
            closing(Segment(config, data, held)) as segment,
        ):
            experiment.check_same_config(config, folder / "config.yaml")
            segment.past()
            EnergyMeter(Found((), ())).resume(segment.energy)
            resumed += 1
    # most values are of no consequence for what was lost
    assert 40 < resumed < 80


def test_a_report_of_runs_with_anything_changed_is_made_or_refused(tmp_path):
    rng = random.Random(0)
    fake_run(tmp_path / "whole" / "seed0", coreset=[0, 1] * 6)
    source = tmp_path / "whole" / "seed0"
    files = sorted(path.name for path in source.iterdir() if path.is_file())
    reported = 0
    for number in range(100):
        folder = tmp_path / "changed" / "seed0"
        shutil.rmtree(folder.parent, ignore_errors=True)
        shutil.copytree(source, folder)
        change(rng, folder / rng.choice(files))
        with suppress(UserError):
            str(run_report(folder))
        with suppress(UserError):
            comparison = read_comparison([folder.parent])
            if number % 20 == 0:
                write_report(comparison, comparison.natural_cost(), tmp_path / "out")
            reported += 1
    assert 10 < reported < 90
