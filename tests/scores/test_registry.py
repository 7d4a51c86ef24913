"""The one list of scores, kernels of a user's own, and what importing loads."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import dpet_jax.scores
from dpet_jax.scores import known_scores, lookup
from dpet_jax.scores.registry import kernel_reads

ROOT = Path(__file__).parents[2]


def two(logits, label):
    del label
    return logits[0]


def three(logits, label, features):
    del logits, label
    return features[0]


def sharper(logits, label, temperature=2.0):
    return temperature * logits[label]


class Holder:
    @staticmethod
    def kernel(logits, label):
        return two(logits, label)


@pytest.mark.parametrize("name", known_scores())
def test_every_score_has_a_kernel_of_the_arguments_it_reads(name):
    score = lookup(name)
    assert score.name == name
    assert score.summary.endswith(".")
    if score.reads == "nothing":
        with pytest.raises(ValueError, match="random reads nothing, so it has no ker"):
            score.kernel()
    elif score.reads == "gradient":
        assert score.kernel() is dpet_jax.scores.gradient_norms
    else:
        assert kernel_reads(score.kernel(), name) == score.reads
        # a kernel is part of a program's key
        assert score.kernel() is score.kernel()


def test_every_kernel_of_the_kernel_modules_is_in_the_table():
    from dpet_jax.scores import artifact, error, last_layer, uncertainty

    # training keeps label_margin for methods that ask, as it does losses
    helpers = {error.error_vector, error.label_margin, last_layer.last_layer_gram}
    for module in (artifact, error, last_layer, uncertainty):
        for value in vars(module).values():
            if inspect.isfunction(value) and value.__module__ == module.__name__:
                parameters = [*inspect.signature(value).parameters]
                if parameters[:2] == ["logits", "label"] and value not in helpers:
                    known = value is artifact.artifact_importance
                    assert known or lookup(value.__name__).kernel() is value


@pytest.mark.parametrize(
    ("kernel", "reads"),
    [
        ("two", "logits"),
        ("three", "features"),
        ("sharper", "logits"),
        ("Holder.kernel", "logits"),
    ],
)
def test_a_kernel_of_ones_own_goes_by_its_import_path(kernel, reads, monkeypatch):
    monkeypatch.setitem(sys.modules, "my_scores", sys.modules[__name__])
    score = lookup(f"my_scores:{kernel}")
    assert (score.name, score.reads) == (f"my_scores:{kernel}", reads)
    assert callable(score.kernel())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("margarine", r"no score called 'margarine' \(did you mean margin\?\); there"),
        ("xyz", r"no score called 'xyz'; there are margin, entr.*package\.module:func"),
        ("no_such_package.scores:mine", "cannot import 'no_such_package.scores:mine'"),
        ("math:no_such_name", "cannot import 'math:no_such_name'"),
        ("math:sqrt", r"'math:sqrt' is no score.*logits, label.*takes \(x, /\)"),
        ("math:pi", r"'math:pi' is no score.*but this is 3\.14"),
        ("fractions:Fraction", "is no score.*but this is <class"),
    ],
)
def test_what_is_no_score_is_refused_with_the_remedy(name, message):
    with pytest.raises(ValueError, match=message):
        lookup(name)


def loaded(code):
    """Return the modules that a fresh process has loaded after some code."""
    code = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        **{"capture_output": True, "text": True, "check": True, "cwd": ROOT},
    )
    return set(done.stdout.split())


def test_the_registry_is_read_without_jax_and_without_pydantic():
    names = loaded(
        "from dpet_jax.scores.registry import known_scores, lookup\n"
        "from dpet_jax.scores import known_scores as again, lookup\n"
        "assert all(lookup(name).reads for name in known_scores())"
    )
    assert not names & {"jax", "jaxlib", "flax", "numpy", "pydantic"}


@pytest.mark.parametrize("wing", ["scores", "selection"])
def test_kernels_load_nothing_else_of_the_package(wing):
    code = f"""
import importlib, pkgutil
import dpet_jax.{wing} as wing
for module in pkgutil.walk_packages(wing.__path__, wing.__name__ + "."):
    importlib.import_module(module.name)
for name in dir(wing):
    getattr(wing, name)
"""
    ours = {name for name in loaded(code) if name.startswith("dpet_jax.")}
    wings = ("scores",) if wing == "scores" else ("scores", "selection")
    inside = {n for n in ours if n.split(".")[1] in wings}
    ground = {"dpet_jax.models", "dpet_jax.models.conv", "dpet_jax.section"}
    # the package itself brings dpet_jax.run along, which is empty but can be called
    ground |= {"dpet_jax.errors", "dpet_jax.quotas", "dpet_jax.run"}
    if wing == "selection":
        ground |= {"dpet_jax.methods", "dpet_jax.methods.base"}
    assert inside
    assert ours - inside <= ground


def test_names_that_the_package_hands_on_are_those_that_checkers_see():
    tree = ast.parse(inspect.getsource(dpet_jax.scores))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    seen = {a.name: node.module for node in imports for a in node.names if a.asname}
    assert set(seen) == set(dir(dpet_jax.scores))
    for name, module in seen.items():
        assert getattr(dpet_jax.scores, name) is getattr(sys.modules[module], name)
    with pytest.raises(AttributeError, match="no attribute 'margarine'"):
        _ = dpet_jax.scores.margarine


def test_a_jitted_kernel_is_a_kernel():
    assert kernel_reads(jax.jit(two), "two") == "logits"
    assert kernel_reads(jax.jit(three), "three") == "features"
