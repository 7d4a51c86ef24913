"""The accelerator's side, on a tiny data set: aligned scores, resets, snapshots."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpet_jax import parts
from dpet_jax.config import validate
from dpet_jax.learner import DeviceLearner
from dpet_jax.methods.base import Plan, Span
from dpet_jax.models import apply
from dpet_jax.scores import SCORES

CONFIG = validate(
    {
        "model": {"kind": "resnet", "stem": 8, "channels": [8], "blocks": [1]},
        "train": {"batch_size": 32},
    },
    "test",
)


@pytest.fixture(scope="module")
def data():
    return parts.build_data(CONFIG)


@pytest.fixture
def learner(data):
    model = parts.build_model(CONFIG, data)
    spec = parts.build_learner_spec(CONFIG, model, ("artifact_margin_none",))
    learner = DeviceLearner(data, spec, parts.build_hyper(CONFIG), seed=0)
    list(learner.compile())
    return learner


def train(learner, rows):
    learner.wait(learner.train(np.asarray(rows, np.int32), len(rows) // 32, SPAN, 0))


SPAN = Span(0, 1000)


def test_scores_are_aligned_with_the_index_set(learner, data):
    index_set = np.array([700, 3, 1454, 41], np.int32)
    names = ("margin", "cross_entropy", "artifact_margin_none")
    scores = learner.score(names, index_set)
    state = learner.snapshot()
    images = (data.images[index_set] / 255 - data.mean) / data.std
    model = parts.build_model(CONFIG, data)
    logits = apply(
        model, state["params"], state["batch_stats"], jnp.asarray(images, jnp.float32)
    ).logits
    for name in names[:2]:
        expected = jax.vmap(SCORES[name])(logits, data.labels[index_set])
        np.testing.assert_allclose(scores[name], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        scores["artifact_margin_none"], scores["margin"] - 1, atol=1e-5
    )


def test_scoring_is_counted_with_its_padding_apart(learner):
    learner.score(("margin",), np.arange(501, dtype=np.int32))
    assert (learner.scored_examples, learner.scored_rows) == (501, 1000)


def test_evaluation_is_not_counted_as_scoring(learner):
    learner.evaluate("test")
    assert learner.scored_examples == 0


def test_select_takes_the_largest_scores_of_the_candidates(learner):
    candidates = np.arange(100, 400, dtype=np.int32)
    selection = learner.select("top_k", candidates, 7, scores=("entropy",))
    scores = learner.score(("entropy",), candidates)["entropy"]
    order = np.argsort(-scores, kind="stable")[:7]
    np.testing.assert_array_equal(selection.indices, candidates[order])
    np.testing.assert_array_equal(selection.gains, scores[order])


def test_select_blends_two_scores(learner):
    candidates = np.arange(300, dtype=np.int32)
    names = ("entropy", "cross_entropy")
    all_second = learner.select("top_k", candidates, 5, scores=names, weight=1.0)
    second = learner.select("top_k", candidates, 5, scores=names[1:])
    np.testing.assert_array_equal(all_second.indices, second.indices)
    np.testing.assert_allclose(all_second.gains.max(), 1.0)


def test_an_unknown_selector_is_refused(learner):
    with pytest.raises(ValueError, match="no selector called 'magic'"):
        learner.select("magic", np.arange(3, dtype=np.int32), 1, scores=("margin",))


def test_evaluate_agrees_with_the_model_itself(learner, data):
    evaluation = learner.evaluate("validation")
    rows = data.validation_rows
    wrong = learner.score(("zero_one",), rows)["zero_one"]
    assert evaluation.accuracy == pytest.approx(1 - wrong.mean())
    of_class = data.labels[rows] == 3
    assert evaluation.per_class_accuracy[3] == pytest.approx(1 - wrong[of_class].mean())


def test_resets_touch_what_they_name(learner):
    index_set = np.arange(64, dtype=np.int32)
    train(learner, index_set)
    before = jax.tree.map(np.asarray, learner.snapshot())

    def changed(part):
        after = learner.snapshot()
        pairs = zip(
            jax.tree.leaves(before[part]), jax.tree.leaves(after[part]), strict=True
        )
        return any(not np.array_equal(a, b) for a, b in pairs)

    learner.begin(Plan(index_set, label="x"), 1)
    assert not changed("params")
    assert not changed("opt_state")
    learner.begin(Plan(index_set, label="x", reset="optimizer"), 1)
    assert changed("opt_state")
    assert not changed("params")
    assert all(
        (leaf == 0).all() for leaf in jax.tree.leaves(learner.snapshot()["opt_state"])
    )
    learner.begin(Plan(index_set, label="x", reset="all"), 1)
    assert changed("params")
    assert not changed("losses")


def test_weights_are_scaled_to_mean_one(learner):
    rows = np.arange(32, dtype=np.int32)
    start = jax.tree.map(np.asarray, learner.snapshot())
    results = []
    for weights in (None, np.full(32, 5.0, np.float32)):
        learner.restore(start)
        learner.set_weights(Plan(rows, label="x", weights=weights))
        train(learner, rows)
        results.append(jax.tree.leaves(learner.snapshot()["params"]))
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_restored_snapshot_trains_on_to_the_same_bits(learner):
    rows = np.arange(64, dtype=np.int32)
    train(learner, rows)
    saved = jax.tree.map(np.asarray, learner.snapshot())
    train(learner, rows)
    expected = jax.tree.map(np.asarray, learner.snapshot())
    learner.restore(saved)
    train(learner, rows)
    for a, b in zip(
        jax.tree.leaves(expected), jax.tree.leaves(learner.snapshot()), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_result_reads_the_tables_of_the_plan(learner):
    rows = np.array([5, 9, *range(100, 130)], np.int32)
    train(learner, rows)
    result = learner.result(rows[::-1])
    np.testing.assert_array_equal(result.index_set, np.sort(rows))
    assert np.isfinite(result.losses).all()
    assert np.isinf(learner.result(np.array([6], np.int32)).losses).all()


def test_memory_of_the_host_is_known(learner):
    assert learner.memory()["host_mib"] > 50
