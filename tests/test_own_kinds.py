"""Kinds of the user's own: exactly what the docs show, run from outside the tree."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from dpet_jax.config.experiment import Config
from dpet_jax.config.load import load, validate
from dpet_jax.errors import UserError
from dpet_jax.methods.dpet import Dpet

PAGE = Path(__file__).parent.parent / "docs" / "own_kinds.md"
FILES = dict(
    re.findall(
        r"```(?:python|yaml)\n# (\S+)\n(.*?)```",
        PAGE.read_text(encoding="utf-8"),
        flags=re.DOTALL,
    )
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder that holds the page's files, and nothing of ours."""
    folder = tmp_path_factory.mktemp("outside")
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def importable(place, monkeypatch):
    """The page's package, as if the process had been started beside it."""
    monkeypatch.syspath_prepend(str(place))
    yield place
    for name in [n for n in sys.modules if n.partition(".")[0] == "mine"]:
        del sys.modules[name]


def dpet(place, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "dpet_jax", *arguments],
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ
        | {
            "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
            "PYTHONPATH": str(Path(__file__).parent.parent),
        },
    )


def finished(process):
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    return output


@pytest.fixture(scope="module")
def whole(place):
    """A run of the page's config, never interrupted, and what it printed."""
    output = finished(dpet(place, "run", "mine.yaml", "--out=whole"))
    return place / "whole/mine/seed0", output


def test_the_page_shows_a_score_a_method_a_model_a_source_and_a_config_in_short():
    assert set(FILES) == {
        *("mine/scores.py", "mine/methods.py", "mine/models.py", "mine/sources.py"),
        "mine.yaml",
    }
    assert all(len(text.splitlines()) < 40 for text in FILES.values())


def test_a_run_of_kinds_from_outside_learns_and_is_called_by_their_labels(whole):
    folder, output = whole
    assert "Alternating (brier) on stripes: 360 train" in output
    assert "SmallVit" in output
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["stopped_by"] == "finished"
    assert summary["method"] == "mine.methods:Alternating"
    assert summary["coreset_size"] == 80
    assert summary["test_accuracy"] > 0.6


@pytest.mark.slow  # tests/test_cli.py kills kinds of ours
def test_killed_it_resumes_to_the_same_bits(whole, place, importable):
    del importable
    process = dpet(place, "run", "mine.yaml", "--out=killed", "--checkpoint.every_s=0")
    events = place / "killed/mine/seed0/events.jsonl"
    while not (events.exists() and '"event": "checkpoint"' in events.read_text()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    again = ["run", "mine.yaml", "--out=killed", "--checkpoint.every_s=0", "--resume"]
    finished(dpet(place, *again))
    from dpet_jax import load_run

    left, right = load_run(whole[0]), load_run(events.parent)
    for a, b in zip(
        jax.tree.leaves(left.params), jax.tree.leaves(right.params), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(
        left.coreset["source_rows"], right.coreset["source_rows"]
    )


def test_it_appears_in_a_report_by_its_own_label(whole, place):
    finished(dpet(place, "report", "whole", "--out=page"))
    assert "Alternating (brier)" in (place / "page/report.html").read_text()
    del whole


def test_an_object_in_python_is_as_good_as_a_path(importable):
    from mine.methods import Alternating

    method = Alternating(turns=2, score="mine.scores:brier")
    config = Config(method=method)
    assert validate({"method": method.model_dump()}, "x") == config
    assert method.label == "Alternating (brier)"
    path = importable / "saved.yaml"
    path.write_text(config.to_yaml())
    assert load(path) == config


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nowhere.at_all:Thing", "method.kind: cannot import 'nowhere.at_all:Thing'"),
        ("mine.methods:Other", "has no 'Other'"),
        (
            "mine.models:SmallVit",
            "is no class that extends dpet_jax.methods.base:Metho",
        ),
        ("mine.broken:Thing", "cannot import 'mine.broken:Thing': ZeroDivisionError"),
    ],
)
def test_a_kind_that_cannot_be_had_is_one_message(importable, kind, message):
    (importable / "mine/broken.py").write_text("1 / 0\n")
    with pytest.raises(UserError) as caught:
        validate({"method": {"kind": kind}}, "FILE")
    assert message in str(caught.value)
    assert str(caught.value).startswith("FILE: method.kind: ")
    assert len(str(caught.value).splitlines()) == 1


def test_keys_of_a_kind_of_ones_own_are_checked_like_any(importable):
    del importable
    tree = {"method": {"kind": "mine.methods:Alternating", "turn": 3, "passes": 0}}
    with pytest.raises(UserError) as caught:
        validate(tree, "FILE")
    assert {*str(caught.value).splitlines()} == {
        "FILE: method.turn: unknown key, did you mean method.turns?",
        "FILE: method.passes: must be greater than or equal to 1 (got 0)",
    }


@pytest.mark.parametrize(
    ("score", "message"),
    [
        ("mine.scores:briar", "has no 'briar'"),
        ("mine.methods:np", "is no score"),
    ],
)
def test_a_score_that_is_none_is_refused_where_it_is_named(importable, score, message):
    del importable
    with pytest.raises(UserError, match=message) as caught:
        validate({"method": {"score": score}}, "FILE")
    assert str(caught.value).startswith("FILE: method.score: ")
    assert Dpet(score="mine.scores:brier").label == "DPET (brier)"
