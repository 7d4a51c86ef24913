"""Selectors by name choose what the functions choose that they stand for."""

import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpet_jax.errors import UserError
from dpet_jax.methods.base import Selection
from dpet_jax.scores.factors import last_layer_gradients
from dpet_jax.selection.by_name import SELECTORS, Examples, run_selector
from dpet_jax.selection.craig import craig
from dpet_jax.selection.geometry import herding, k_center
from dpet_jax.selection.glister import Validation, glister
from dpet_jax.selection.grad_match import grad_match
from dpet_jax.selection.submodular import facility_location_of_gradients

# padded to the capacity of a class, so that classes and all share programs
N, PADDED, K, D = 60, 128, 3, 5
BARE = {"grad_match": grad_match, "facility_location": facility_location_of_gradients}


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, K, N).astype(np.int32)
    logits = rng.normal(size=(N, K)).astype(np.float32)
    features = rng.normal(size=(N, D)).astype(np.float32)
    return logits, labels, features


@pytest.fixture(scope="module")
def examples(arrays):
    logits, labels, features = arrays

    def padded(rows):
        return jnp.pad(
            jnp.asarray(rows), ((0, PADDED - N), (0, 0)), constant_values=-jnp.inf
        )

    return Examples(padded(logits), padded(features), labels, K)


@pytest.fixture(scope="module")
def gradients(arrays):
    return last_layer_gradients(*map(jnp.asarray, arrays))


@pytest.mark.parametrize("name", sorted(BARE))
def test_padding_changes_no_choice(gradients, examples, name):
    chosen = run_selector(name, examples, 12)
    expected = BARE[name](gradients, 12)
    np.testing.assert_array_equal(chosen.indices, expected.indices)


@pytest.mark.parametrize("name", sorted(BARE))
def test_a_class_is_a_problem_of_its_own(arrays, gradients, examples, name):
    chosen = run_selector(name, examples, 36, per_class=True)
    labels = arrays[1]
    for label in range(K):
        mine = chosen.indices[labels[chosen.indices] == label]
        of_class = jnp.asarray(labels == label)
        expected = BARE[name](gradients, mine.size, allowed=of_class)
        np.testing.assert_array_equal(mine, expected.indices)


def test_herding_reads_features_and_k_center_the_key(arrays, examples):
    features = jnp.asarray(arrays[2])
    np.testing.assert_array_equal(
        run_selector("herding", examples, 9).indices, herding(features, 9).indices
    )
    picks = [run_selector("k_center", examples, 9, seed=s).indices for s in range(8)]
    assert len({int(each[0]) for each in picks}) > 3
    again = run_selector("k_center", examples, 9, seed=4)
    np.testing.assert_array_equal(again.indices, picks[4])


def test_craig_weighs_every_class(arrays, gradients, examples):
    chosen = run_selector("craig", examples, 12, per_class=True)
    direct = craig(gradients, arrays[1], 12)
    np.testing.assert_array_equal(chosen.indices, direct.indices)
    sums = np.bincount(arrays[1][chosen.indices], chosen.weights, K)
    np.testing.assert_allclose(sums, np.bincount(arrays[1]))


def test_glister_looks_at_validation_examples_of_the_class(arrays, gradients, examples):
    labels = arrays[1]
    rng = np.random.default_rng(1)
    beside = (
        rng.normal(size=(N, K)).astype(np.float32),
        rng.integers(0, K, N).astype(np.int32),
        rng.normal(size=(N, D)).astype(np.float32),
    )
    seen = Examples(jnp.asarray(beside[0]), jnp.asarray(beside[2]), beside[1], K)
    rate = {"learning_rate": 0.3}
    chosen = run_selector(
        "glister", examples, 9, per_class=True, validation=seen, **rate
    )
    for label in range(K):
        mine = chosen.indices[labels[chosen.indices] == label]
        expected = glister(
            gradients,
            Validation(*map(jnp.asarray, beside)),
            mine.size,
            allowed=jnp.asarray(labels == label),
            validation_allowed=jnp.asarray(beside[1] == label),
            **rate,
        )
        np.testing.assert_array_equal(mine, expected.indices)
    other = run_selector("glister", examples, 9, validation=seen, learning_rate=9.0)
    slow = run_selector("glister", examples, 9, validation=seen, learning_rate=0.0)
    assert other.indices.tolist() != slow.indices.tolist()


def test_badge_has_no_need_of_labels(examples):
    wrong = examples._replace(labels=np.roll(examples.labels, 7))
    got = run_selector("badge", wrong, 9, seed=2)
    expected = run_selector("badge", examples, 9, seed=2)
    np.testing.assert_array_equal(got.indices, expected.indices)


def test_stratified_gives_each_predicted_class_its_share(arrays, examples):
    chosen = run_selector("stratified", examples, 20, seed=1)
    predicted = arrays[0].argmax(1)
    got = np.bincount(predicted[chosen.indices], minlength=K)
    assert np.all(np.abs(got - np.bincount(predicted) * 20 / N) < 1)
    # within a class the second is the one farthest from the first, nearly
    features = arrays[2]
    mine = chosen.indices[predicted[chosen.indices] == 0]
    rows = np.flatnonzero(predicted == 0)
    apart = np.linalg.norm(features[rows] - features[mine[0]], axis=1)
    second = np.linalg.norm(features[mine[1]] - features[mine[0]])
    assert second > np.quantile(apart, 0.6)


def test_classes_of_any_size_share_their_programs():
    rng = np.random.default_rng(2)
    # the arrays of grad_match have the budget's length, rounded up to a power of two
    names = sorted(SELECTORS.keys() - {"grad_match"})

    def run(labels):
        logits = jnp.asarray(rng.normal(size=(PADDED, K)).astype(np.float32))
        features = jnp.asarray(rng.normal(size=(PADDED, D)).astype(np.float32))
        some = Examples(logits, features, labels, K)
        for name in names:
            run_selector(name, some, 7, per_class=True, validation=some)

    run(np.repeat(np.arange(K, dtype=np.int32), 20))
    events = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: events.append(event)
    )
    run(np.repeat(np.arange(K, dtype=np.int32), (9, 17, 34)))
    assert not [event for event in events if "backend_compile" in event]


def test_candidates_stand_in_where_there_are_no_validation_examples(examples):
    got = run_selector("glister", examples, 5, per_class=True)
    expected = run_selector("glister", examples, 5, per_class=True, validation=examples)
    np.testing.assert_array_equal(got.indices, expected.indices)


def test_an_unknown_selector_is_refused_with_those_there_are(examples):
    with pytest.raises(ValueError, match=r"'magic'; there is top_k, .*craig"):
        run_selector("magic", examples, 3)


def test_k_center_in_each_class_starts_elsewhere(examples, arrays):
    chosen = run_selector("k_center", examples, 9, per_class=True, seed=0)
    labels, features = arrays[1], jnp.asarray(arrays[2])
    rows = np.flatnonzero(labels == 1)
    mine = chosen.indices[labels[chosen.indices] == 1]
    key = jax.random.fold_in(jax.random.key(0), 1)
    padded = jnp.zeros((128, D), jnp.float32).at[: rows.size].set(features[rows])
    expected = k_center(padded, mine.size, key=key, allowed=jnp.arange(128) < rows.size)
    np.testing.assert_array_equal(mine, rows[expected.indices])


@pytest.fixture
def own(monkeypatch):
    """Selectors of the user's own, as in a package called `lab`."""

    def last(examples, num_select):
        assert isinstance(examples, Examples)
        return np.arange(len(examples.features))[::-1][:num_select]

    def farthest(examples, num_select, *, seed=0):
        del seed
        return k_center(examples.features, num_select)

    def weighted(examples, num_select):
        rows = np.arange(num_select)
        return Selection(rows, rows * 1.0, examples.labels[:num_select] + 1.0)

    def picking(picks):
        def select(examples, num_select):
            del examples
            return picks(num_select)

        return select

    wrong = {
        "few": picking(lambda m: np.arange(m - 1)),
        "twice": picking(lambda m: np.zeros(m, int)),
        "out": picking(lambda m: np.arange(m) + N),
        "mask": picking(lambda m: np.ones(m, bool)),
    }
    right = {"last": last, "farthest": farthest, "weighted": weighted}
    of_others = {
        "score": lambda logits, label: logits[label],
        "lone": lambda examples: examples,
    }
    module = SimpleNamespace(**right, **wrong, **of_others)
    monkeypatch.setitem(sys.modules, "lab", module)


@pytest.mark.usefixtures("own")
def test_a_selector_of_ones_own_gets_the_examples_without_padding(examples):
    assert run_selector("lab:last", examples, 3).indices.tolist() == [59, 58, 57]
    chosen = run_selector("lab:farthest", examples, 5)
    expected = k_center(examples.features[:N], 5)
    np.testing.assert_array_equal(chosen.indices, expected.indices)
    np.testing.assert_array_equal(chosen.gains, expected.gains)


@pytest.mark.usefixtures("own")
def test_a_selector_of_ones_own_is_asked_in_each_class(examples, arrays):
    labels = arrays[1]
    chosen = run_selector("lab:last", examples, 12, per_class=True)
    for label in range(K):
        mine = chosen.indices[labels[chosen.indices] == label]
        of_class = np.flatnonzero(labels == label)[::-1]
        np.testing.assert_array_equal(mine, of_class[: mine.size])
    assert chosen.indices.size == 12
    weighted = run_selector("lab:weighted", examples, 12, per_class=True)
    np.testing.assert_array_equal(weighted.weights, labels[weighted.indices] + 1)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("few", r"lab:few returned int64\[3\]; it was asked for 4 positions"),
        ("twice", "lab:twice picked 3 of 4 examples again"),
        ("out", "lab:out picked positions from 60 to 63 of 60 examples"),
        ("mask", r"lab:mask returned bool\[4\]"),
    ],
)
def test_wrong_picks_of_ones_own_are_told(examples, name, told):
    with pytest.raises(UserError, match=told):
        run_selector(f"lab:{name}", examples, 4)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("lab:nothing", "has no 'nothing'"),
        ("lab:score", r"a selector is a function of \(examples, num_select\)"),
        ("lab:lone", r"this is \(examples\)"),
        ("nowhere.at_all:x", "cannot import"),
    ],
)
def test_what_is_no_selector_is_refused(examples, path, told):
    with pytest.raises(ValueError, match=told):
        run_selector(path, examples, 4)
