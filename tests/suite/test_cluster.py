"""Suites on a cluster: what is run where and how often, and what is refused before."""

import importlib.util
import io
import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from fakes.cluster import FakeRay
from fakes.runs import events_of
from rich.console import Console

from dpet_jax.config.load import validate
from dpet_jax.errors import UserError
from dpet_jax.files import read_json
from dpet_jax.run import experiment
from dpet_jax.run.interrupt import Interrupt
from dpet_jax.suite import cluster
from dpet_jax.suite.cluster import Facts, OnRay, Share, address_of
from dpet_jax.suite.compare import Comparing
from dpet_jax.suite.executor import Ended
from dpet_jax.suite.variants import Job, load_suite

BASE = """
model: {kind: resnet, stem: 16, channels: [16], blocks: [1]}
train: {batch_size: 64, augment: {translate: 1}}
method: {kind: standard, passes: 2}
evaluate: {every: 1}
"""
TUNED = """
name: some
base: base.yaml
seeds: [0]
targets: [0.99]
variants:
  full: {role: standard}
  tried: {role: tuned, tune: {seeds: [90], grid: {method.passes: [1]}}}
"""
TWO_NODES = {"head": {"CPU": 1.0}, "other": {"CPU": 2.0}}


@pytest.fixture
def fake(monkeypatch):
    """A cluster of two nodes that is joined in place of Ray's."""
    ray = FakeRay(**TWO_NODES)
    ray.init, ray.shutdown = (lambda **_: None), (lambda: None)
    monkeypatch.setattr(cluster, "library", lambda: ray)
    monkeypatch.setattr(cluster, "_on_node", lambda _, node: node)
    return ray


@contextmanager
def joined(folder, share=None, data=None):
    known = {"cpus": 1.0, "gpus": 0.0} | (share or {})
    with cluster.on_ray("ray", folder / "some", known, data or {}) as runs:
        yield runs


def job(seed):
    tree = {"name": "some/full", "seed": seed}
    method = {"method": {"kind": "standard", "passes": 1}}
    return Job("full", "", validate(tree | method, "test"))


def stub(monkeypatch, run):
    """Replace what a task does; its name is that of the task."""

    def run_there(_, one, stop):
        return run(one, stop)

    monkeypatch.setattr(cluster, "run_there", run_there)


def test_a_suite_whose_node_dies_has_every_run_once_and_the_same_costs(
    tmp_path, fake, monkeypatch
):
    begun, run = [], experiment.run

    def dying(config, out, **options):
        """Leave the first run at its first checkpoint, as a kill after it would."""
        begun.append((config.name, options["resume"]))
        if len(begun) == 1:
            options["until"] = 0.5
        return run(config, out, **options)

    monkeypatch.setattr(experiment, "run", dying)
    fake.deaths["run_there"] = 1
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "suite.yaml").write_text(TUNED)
    shown = io.StringIO()
    suite = load_suite(tmp_path / "suite.yaml")
    comparing = Comparing(suite, tmp_path, Console(file=shown, width=200))
    expected = {one.job.folder: one.epochs for one in comparing.planned()}
    with joined(tmp_path, data=comparing.each_data()) as runs:
        outcome = comparing.run(executor=runs)
    assert outcome.finished
    assert outcome.problems == ()
    assert begun == [
        ("some/tuning/tried/passes_1", False),
        ("some/tuning/tried/passes_1", True),
        ("some/full", False),
        ("some/tried/passes_1", False),
    ]
    jobs = [*comparing.trials(), *comparing.reported()]
    assert {one.folder for one in jobs} == {*expected}
    for one in jobs:
        summary = comparing.folder.read(one).summary
        assert summary["epochs"] == pytest.approx(expected[one.folder])
    segments = {e["segment"] for e in events_of(comparing.folder.of(jobs[0]))}
    assert segments == {0, 1}
    places = [line.split("]")[0] for line in shown.getvalue().splitlines()]
    assert places == ["[  1/3", "[  2/3", "[  3/3"]
    # nothing is left of the cluster in the folder
    assert not [*(tmp_path / "some").glob(".cluster*")]


def has_ray():
    return importlib.util.find_spec("ray") is not None


@pytest.mark.slow
@pytest.mark.skipif(not has_ray(), reason="Ray, the extra cluster, is not installed")
def test_a_node_of_ray_that_is_killed_costs_no_run_and_changes_no_number(tmp_path):
    suite = Path(__file__).parents[2] / "configs" / "suites" / "digits.yaml"
    given = ["--seeds=0", "--only=standard,dpet_margin", "--checkpoint.every_s=0.2"]
    command = ["compare", str(suite), *given]
    alone, both = tmp_path / "alone", tmp_path / "both"
    script = Path(__file__).parents[1] / "fakes" / "two_nodes.py"
    for program, out in (
        ([sys.executable, "-m", "dpet_jax"], alone),
        ([sys.executable, str(script), str(both)], both),
    ):
        ended = subprocess.run(
            [*program, *command, f"--out={out}"],
            env={**os.environ, "RAY_worker_niceness": "0"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
    paths = sorted(path.relative_to(alone) for path in alone.rglob("summary.json"))
    assert [path.parts[1] for path in paths] == ["dpet_margin", "standard"]
    assert sorted(path.relative_to(both) for path in both.rglob("summary.json")) == (
        paths
    )
    same = ("epochs", "visits", "validation_accuracy", "test_accuracy")
    for path in paths:
        one, other = read_json(alone / path), read_json(both / path)
        assert {key: one[key] for key in same} == {key: other[key] for key in same}
    segments = {e["segment"] for p in paths for e in events_of((both / p).parent)}
    assert segments == {0, 1}


def test_no_more_runs_are_begun_than_there_is_room_for(tmp_path, fake, monkeypatch):
    stub(monkeypatch, lambda one, _: Ended(one.folder, "finished"))
    for share, most in (({}, 3), ({"cpus": 2.0}, 1), ({"cpus": 0.5}, 6)):
        fake.most.clear()
        with joined(tmp_path, share) as runs:
            for seed in range(8):
                runs.submit(job(seed))
            folders = [ended.folder for ended in runs.results(Interrupt())]
        assert sorted(folders) == [job(seed).folder for seed in range(8)]
        assert fake.most["run_there"] == most


@pytest.mark.usefixtures("fake")
def test_all_are_asked_to_stop_and_what_waits_is_not_begun(tmp_path, monkeypatch):
    interrupt, begun = Interrupt(), []

    def run(one, stop):
        begun.append(one.config.seed)
        interrupt.requested = len(begun) == 2 or interrupt.requested
        asked = stop.asked.remote().run()
        return Ended(one.folder, "interrupted" if asked else "finished")

    stub(monkeypatch, run)
    with joined(tmp_path) as runs:
        for seed in range(9):
            runs.submit(job(seed))
        hows = {ended.folder: ended.how for ended in runs.results(interrupt)}
    assert len(hows) == 9
    finished = [folder for folder, how in hows.items() if how == "finished"]
    assert finished == [job(0).folder, job(1).folder]
    # those that had been begun leave when they look, and no other is
    assert len(begun) == 4


def test_a_run_whose_process_always_dies_is_a_problem_and_no_other_is(
    tmp_path, fake, monkeypatch
):
    stub(monkeypatch, lambda one, _: Ended(one.folder, "finished"))
    fake.deaths["run_there"] = 1 + cluster._RETRIES
    with joined(tmp_path) as runs:
        runs.submit(job(0))
        runs.submit(job(1))
        first, second = runs.results(Interrupt())
    assert first.reason == "failed: RayError: The worker died."
    assert second.how == "finished"


@pytest.mark.usefixtures("fake")
def test_runs_are_left_so_that_they_can_go_on_when_one_meets_a_full_disk(
    tmp_path, monkeypatch
):
    asked = []

    def run(one, stop):
        asked.append(stop.asked)
        return Ended(one.folder, "refused", error=OSError(28, "No space left"))

    stub(monkeypatch, run)
    with joined(tmp_path) as runs:
        runs.submit(job(0))
        runs.submit(job(1))
        results = runs.results(Interrupt())
        assert next(results).error is not None
        results.close()
    assert asked[0].remote().run() is True


# before training

FACTS = Facts({"jax": "1.0", "numpy": "2.0"}, "abc", {"{}": "f" * 64})


@pytest.mark.parametrize(
    ("there", "words"),
    [
        (FACTS, []),
        (FACTS._replace(versions={"jax": "1.1", "numpy": "2.0"}), ["jax is 1.1, not"]),
        (FACTS._replace(versions={"jax": "1.0"}), ["numpy is None, not 2.0"]),
        (FACTS._replace(code="abd"), ["the code of dpet_jax is another"]),
        (FACTS._replace(data={"{}": "e" * 64}), ["the data {} are others (eeee"]),
        (FACTS._replace(data={"{}": "the data cannot be read: x"}), ["be read: x"]),
        (FACTS._replace(data={}), []),
    ],
)
def test_nodes_that_would_train_something_else_are_told_apart(there, words):
    found = FACTS.unlike(there)
    assert len(found) == len(words)
    for text, word in zip(found, words, strict=True):
        assert word in text


@pytest.mark.usefixtures("fake")
def test_one_message_names_every_node_that_cannot_take_part(tmp_path, monkeypatch):
    facts, elsewhere = cluster.facts_here, iter(range(9))

    def others(configs):
        here = facts(configs)
        return here._replace(code="another") if next(elsewhere) else here

    monkeypatch.setattr(cluster, "facts_here", others)
    with pytest.raises(UserError, match=r"^--on: other the code of dpet_jax is anot"):
        joined(tmp_path).__enter__()
    monkeypatch.undo()


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("share", "words"),
    [
        ({"gpus": 1.0}, "no node has the 1 CPU and 1 GPU .*head has 1 CPU and 0 GPU"),
        ({"cpus": 4.0}, "no node has the 4 CPU and 0 GPU"),
    ],
)
def test_a_share_that_no_node_has_is_refused(tmp_path, share, words):
    with pytest.raises(UserError, match=words):
        joined(tmp_path, share).__enter__()
    assert not [*(tmp_path / "some").iterdir()]


@pytest.mark.usefixtures("fake")
def test_a_node_that_does_not_see_the_folder_is_named(tmp_path, monkeypatch):
    look = cluster.look

    def elsewhere(ticket, configs):
        return look(ticket._replace(sign="/nowhere/some/sign"), configs)

    monkeypatch.setattr(cluster, "look", elsewhere)
    with pytest.raises(UserError, match="head does not see /nowhere/some; give --out"):
        joined(tmp_path).__enter__()


def test_room_is_counted_by_what_is_scarcer():
    node = {"CPU": 8.0, "GPU": 2.0, "memory": 1e9}
    assert Share(1.0, 1.0).fits(node) == 2
    assert Share(6.0, 1.0).fits(node) == 1
    assert Share(0.0, 0.1).fits(node) == 20
    assert Share(1.0, 1.0).fits({"CPU": 8.0}) == 0


@pytest.mark.parametrize("text", ["slurm", "ray:", "ray://", "ray://host", "ray://:1"])
def test_an_address_that_is_none_is_refused(text):
    with pytest.raises(UserError, match=r"--on: .* is no place to run; write ray, for"):
        address_of(text)


@pytest.mark.usefixtures("fake")
def test_an_address_where_nobody_answers_is_refused_at_once(tmp_path):
    assert address_of("ray") is None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{free.getsockname()[1]}"
    assert address_of(f"ray://{where}") == where
    with (
        pytest.raises(UserError, match=f"--on: ray://{where}: nobody answers there"),
        cluster.on_ray(f"ray://{where}", tmp_path, {}, {}),
    ):
        raise AssertionError("there is no cluster")


def test_a_cluster_that_cannot_be_joined_is_one_message(tmp_path, fake):
    def refusing(**_):
        raise ConnectionError("a line\nVersion mismatch")

    fake.init = refusing
    with pytest.raises(UserError, match=r"cannot join .*Error: Version mismatch\)"):
        joined(tmp_path).__enter__()


def test_without_ray_it_is_said_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'dpet-jax\[cluster\]'"):
        joined(tmp_path).__enter__()


def test_the_executor_of_a_cluster_is_one():
    from dpet_jax.suite.executor import Executor

    assert issubclass(OnRay, Executor)
