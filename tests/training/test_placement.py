"""Pixels on the host: the same bits as on the device, within the room there is."""

import dataclasses
import io

import jax
import numpy as np
import pytest
from fakes.networks import (
    BATCH,
    NUM,
    NUM_TRAIN,
    SCORE_BATCH,
    SHAPE,
    TINY,
    bright_data,
)
from PIL import Image

from dpet_jax.config.load import validate
from dpet_jax.data.pictures import Pictures
from dpet_jax.data.rows import Rows
from dpet_jax.errors import UserError
from dpet_jax.methods.base import MAIN, Plan, Span
from dpet_jax.run import build as parts
from dpet_jax.training import memory
from dpet_jax.training.chunks import Chunks, Pace
from dpet_jax.training.learner import DeviceLearner, LearnerSpec
from dpet_jax.training.memory import least_room, placed
from dpet_jax.training.placement import HostData, rooms

ROW = int(np.prod(SHAPE))
LEAST = least_room(ROW, BATCH, SCORE_BATCH)
NAMES = ("margin", "grand", "logits", "features")
EVERYTHING = np.arange(NUM_TRAIN, dtype=np.int32)


@pytest.fixture(scope="module")
def data():
    return bright_data()


@pytest.fixture(scope="module")
def spec():
    config = validate({"train": {"batch_size": BATCH, "augment": {"flip": True}}}, "t")
    step = parts.build_learner_spec(config, TINY).step
    return LearnerSpec(step, SCORE_BATCH, NAMES)


def learner_of(data, spec, room):
    config = validate({"train": {"batch_size": BATCH, "augment": {"flip": True}}}, "t")
    spec = dataclasses.replace(spec, room=room)
    learner = DeviceLearner(data, spec, parts.build_hyper(config), seed=0)
    list(learner.compile())
    return learner


def train(learner, index_set, passes, first_step=0, until=None):
    """Train on a plan as a run does, with one chunk queued while another one runs."""
    plan = Plan(index_set, passes=passes, label="test")
    plan = dataclasses.replace(plan, schedule=Span(0, plan.visits))
    if first_step:
        learner.main.set_up(plan)
    else:
        learner.main.begin(plan, 0)
    chunks = Chunks(
        *(learner.main, plan),
        batch_size=BATCH,
        seed=0,
        plan_index=0,
        pace=Pace(),
        first_step=first_step,
    )
    left = chunks.left if until is None else until - first_step
    with jax.transfer_guard("disallow"):
        while left:
            steps = chunks.next_steps(left)
            chunks.start(steps)
            left -= steps
        list(chunks.drain())


def found(learner):
    """Return everything that a run reads of a learner."""
    names = ("margin", "grand", "logits", "features")
    return jax.tree.map(
        np.asarray,
        (
            learner.snapshot(),
            learner.score(names, EVERYTHING),
            learner.score(("grand",), EVERYTHING[:5]),
            learner.evaluate("test"),
            learner.select("top_k", EVERYTHING, 5, MAIN, scores=("margin",)),
            learner.main.result(EVERYTHING),
            learner.main.taylor(EVERYTHING[:8].reshape(2, 4)),
        ),
    )


def assert_equal(left, right):
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(a, b)


#: An index set that ends inside a batch; one with repetitions, which a buffer holds.
SETS = {"all": EVERYTHING[:11], "few": np.array([3, 3, 8, 1, 3, 0], np.int32)}


@pytest.fixture(scope="module")
def on_device(data, spec):
    results = {}
    for name, index_set in SETS.items():
        learner = learner_of(data, spec, None)
        train(learner, index_set, 3)
        results[name] = found(learner)
    return results


@pytest.mark.parametrize("room", [LEAST, 2 * LEAST, 40 * LEAST])
@pytest.mark.parametrize("name", SETS)
def test_the_host_gives_the_bits_of_the_device(data, spec, on_device, room, name):
    learner = learner_of(data, spec, room)
    train(learner, SETS[name], 3)
    assert_equal(found(learner), on_device[name])


def test_rows_of_a_file_give_the_bits_of_memory_also_after_a_resume(
    data, spec, on_device, tmp_path
):
    # rows lie in the file in another order
    order = np.random.default_rng(0).permutation(NUM)
    np.save(tmp_path / "images.npy", data.images[order])
    images = np.load(tmp_path / "images.npy", mmap_mode="r")
    stored = dataclasses.replace(data, images=Rows(images, np.argsort(order)))
    first = learner_of(stored, spec, LEAST)
    train(first, SETS["all"], 3, until=4)
    second = learner_of(stored, spec, 2 * LEAST)
    second.restore(jax.device_get(first.snapshot()))
    train(second, SETS["all"], 3, first_step=4)
    assert_equal(found(second), on_device["all"])


def test_a_stream_gives_the_bits_of_memory_from_any_step_on(data, spec, on_device):
    pytest.importorskip("grain")
    blobs = []
    for image in data.images:
        buffer = io.BytesIO()
        Image.fromarray(image[:, :, 0]).save(buffer, "png")
        blobs.append(buffer.getvalue())
    pictures = Pictures(None, 0)
    rows = Rows(pictures, pictures.added(blobs, lambda row: f"picture {row}"))
    streamed = dataclasses.replace(data, images=rows)
    first = learner_of(streamed, spec, LEAST)
    train(first, SETS["all"], 3, until=4)
    second = learner_of(streamed, spec, LEAST)
    second.restore(jax.device_get(first.snapshot()))
    train(second, SETS["all"], 3, first_step=4)
    assert_equal(found(second), on_device["all"])


def test_a_plan_that_fits_is_sent_once(data, spec, monkeypatch):
    learner = learner_of(data, spec, 40 * LEAST)
    sent = []
    monkeypatch.setattr(
        *(HostData, "_read"),
        lambda self, rows: sent.append(rows.size) or self.images.take(rows, axis=0),
    )
    train(learner, SETS["few"], 4)
    assert sum(sent) == 4


def test_rows_of_no_plan_are_not_taken_for_others(data, spec):
    learner = learner_of(data, spec, 40 * LEAST)
    train(learner, SETS["few"], 1)
    with pytest.raises(ValueError, match="other rows than the plan"):
        learner.main.train(np.array([7, 7, 7, 7], np.int32), 1, Span(0, 9), 0)


def test_no_more_is_on_the_device_than_there_is_room_for():
    rng = np.random.default_rng(0)
    for _ in range(300):
        row, batch, scored = (int(n) for n in rng.integers(1, [5000, 300, 300]))
        room = least_room(row, batch, scored) * rng.integers(100, 10_000) // 100
        split = rooms(int(room), row, batch, scored)
        assert split.trained >= batch
        assert split.trained % batch == split.scored % scored == 0
        assert split.scored >= max(batch, scored)
        assert 2 * (split.trained + split.scored) * row <= room


def test_room_for_less_than_a_batch_names_the_least():
    with pytest.raises(UserError, match=r"data.device_budget_mib: 1.00 MiB .* give "):
        rooms(2**20, 3072, 128, 500)
    assert rooms(least_room(3072, 128, 500), 3072, 128, 500).trained == 128


def choose(images, **options):
    return placed(
        *(TINY, images, (BATCH, SCORE_BATCH), "float32"),
        **{"copies": 0, "asked": "auto", "budget": None} | options,
    )


def test_placement_is_chosen_by_sizes_and_says_why(data, monkeypatch):
    images = data.images
    assert choose(images)[:2] == ("device", None)
    budget = images.nbytes - 1
    small = choose(images, budget=budget)
    assert small[:2] == ("host", budget)
    assert "data.device_budget_mib" in small.reason
    assert choose(images, budget=images.nbytes).where == "device"
    asked = choose(images, asked="host")
    assert (asked.where, asked.room <= max(images.nbytes, LEAST)) == ("host", True)
    # a device on which the pixels do not fit beside a step
    monkeypatch.setattr(memory, "_memory_of_devices", lambda: (images.nbytes, 1))
    measured = choose(images)
    assert measured.where == "host"
    assert "a step leaves" in measured.reason


def test_pixels_are_no_stream(data):
    with pytest.raises(UserError, match=r"data.placement: stream .* choose host"):
        choose(data.images, asked="stream")


def test_more_than_the_device_holds_is_refused_there(data):
    with pytest.raises(UserError, match=r"data.placement: device, .* choose host"):
        choose(data.images, asked="device", budget=100)
