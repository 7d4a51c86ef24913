"""Runs that train on shrunk images at first."""

import sys

import jax
import pytest

from dpet_jax.config.load import validate
from dpet_jax.errors import UserError
from dpet_jax.run import build, experiment
from dpet_jax.run.folder import read_events
from dpet_jax.run.interrupt import Interrupt
from dpet_jax.training.compilation import compile_counts


def config(resolution, **changes):
    tree = {
        "model": {"kind": "resnet", "stem": 16, "channels": [16], "blocks": [1]},
        "train": {"batch_size": 64, "resolution": resolution},
        "method": {"kind": "standard", "passes": 3},
        "evaluate": {"every": 5},
    }
    return validate(tree | changes, "test")


SHRUNK = [[0.25, 4], [0.5, 6]]


@pytest.fixture(scope="module")
def data():
    return build.build_data(config(SHRUNK))


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    return experiment.run(config(SHRUNK), tmp_path_factory.mktemp("whole"), data=data)


def test_every_step_is_counted_at_its_size(whole, data):
    network = build.build_model(config(SHRUNK), data)
    left, flops = 3 * data.num_train, 0
    planned, done = left, 0
    while left > 0:
        share = done / planned
        pixels = 4 if share < 0.25 else 6 if share < 0.5 else 8
        flops += 64 * 3 * network.forward_flops(pixels, pixels)
        done, left = done + 64, left - 64
    assert whole.summary["flops"] == flops
    full = data.num_train * 3 * network.forward_flops(8, 8)
    assert whole.summary["epochs"] == pytest.approx(flops / full)
    assert whole.summary["visits"] == planned
    assert whole.summary["epochs"] < 2.6


def test_each_size_has_its_program_and_shares_compile_nothing(whole, data, tmp_path):
    compiled = [
        event["what"]
        for event in read_events(whole.folder / "events.jsonl")
        if event["event"] == "compile"
    ]
    assert compiled == [
        *("init", "train_steps", "train_steps at 4 pixels"),
        *("train_steps at 6 pixels", "score_pool", "first calls"),
    ]
    before = compile_counts().programs
    other = experiment.run(config([[0.1, 4], [0.7, 6]]), tmp_path, data=data)
    assert compile_counts().programs == before
    assert other.summary["epochs"] != whole.summary["epochs"]


@pytest.mark.parametrize("looks", [2, 4, 6])
def test_an_interrupted_run_resumes_to_the_same_bits(
    whole, data, tmp_path, assert_same_run, looks
):
    class AfterSomeLooks(Interrupt):
        def __init__(self):
            self.left = looks

        @property
        def requested(self):
            # a run looks after each program too that it makes ready
            self.left -= sys._getframe(1).f_code.co_name != "_run_segment"
            return self.left < 0

    stopped = experiment.run(
        config(SHRUNK), tmp_path, data=data, interrupt=AfterSomeLooks()
    )
    assert stopped.stopped_by == "interrupted"
    resumed = experiment.run(config(SHRUNK), tmp_path, resume=True, data=data)
    assert_same_run(whole.folder, resumed.folder)
    assert resumed.summary["flops"] == whole.summary["flops"]


@pytest.mark.parametrize(
    ("resolution", "message"),
    [
        ([[0.5, 8]], r"train\.resolution: 8 does not shrink .* choose at most 7"),
        ([[0.5, 4], [0.5, 6]], r"resolution ends its sizes at \[0\.5, 0\.5\]"),
        ([[0.5, 4], [0.2, 6]], "larger than the one before"),
        ([[1.0, 4]], r"train\.resolution.*less than 1"),
        ([[0.5, 0]], r"train\.resolution.*greater than or equal to 1"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(data, resolution, message):
    with pytest.raises(UserError, match=message):
        build.check_fit(config(resolution), data)


def test_a_model_of_one_size_alone_is_refused(data):
    fixed = config(SHRUNK, model={"kind": "fakes.networks:MlpModel"})
    with pytest.raises(UserError, match=r"train\.resolution: .* images of 4 pixels"):
        build.build_model(fixed, data)
    free = config(SHRUNK, model={"kind": "fakes.networks:NormalisedModel"})
    assert jax.tree.leaves(build.build_model(free, data).init(jax.random.key(0)))
