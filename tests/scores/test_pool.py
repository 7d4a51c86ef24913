"""Scoring a pool with any function: batches, subsets, names, kernels."""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpet_jax.models.conv import native_convolution
from dpet_jax.scores import (
    el2n,
    grand_last_layer,
    known_scores,
    lookup,
    margin,
    score_pool,
)
from dpet_jax.scores.pool import columns, score_rows
from dpet_jax.training.compilation import compile_counts

NAMES = ("margin", "entropy", "zero_one")
EVERYTHING = (*NAMES, "grand_last_layer", "logits", "features")
N, FEATURES, CLASSES = 11, 6, 4


def perceptron(params, inputs):
    first, second = params
    return jnp.maximum(inputs @ first, 0.0) @ second


def with_features(params, inputs):
    features = jnp.maximum(inputs @ params[0], 0.0)
    return features @ params[1], features


def draw_params(seed):
    rng = np.random.default_rng(seed)
    shapes = (FEATURES, 8), (8, CLASSES)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


@pytest.fixture(scope="module")
def pool():
    rng = np.random.default_rng(0)
    inputs = jnp.asarray(rng.normal(size=(N, FEATURES)), jnp.float32)
    return inputs, jnp.asarray(rng.integers(0, CLASSES, N), jnp.int32)


def constant(logits, label):
    del logits, label
    return 1.0


def whole(logits, label):
    del label
    return logits


def direct(names, logits, labels):
    kernels = {name: lookup(name).kernel() for name in names}
    return {name: jax.vmap(kernels[name])(logits, labels) for name in names}


def assert_close(got, expected):
    assert got.keys() == expected.keys()
    for name, scores in expected.items():
        np.testing.assert_allclose(got[name], scores, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 4, 500])
def test_batches_of_any_size_score_as_one_vmap_over_the_pool(batch_size, pool):
    params = draw_params(1)
    got = score_pool(perceptron, params, *pool, NAMES, batch_size=batch_size)
    assert {(s.shape, s.dtype) for s in got.values()} == {((N,), jnp.dtype("float32"))}
    assert_close(got, direct(NAMES, perceptron(params, pool[0]), pool[1]))


def test_every_score_of_a_forward_pass_is_known_by_name(pool):
    params = draw_params(1)
    names = [n for n in known_scores() if lookup(n).reads in ("logits", "features")]
    got = score_pool(with_features, params, *pool, names, batch_size=4)
    logits, features = with_features(params, pool[0])
    expected = direct([n for n in names if n != "grand_last_layer"], logits, pool[1])
    grand = jax.vmap(grand_last_layer)(logits, pool[1], features)
    assert_close(got, expected | {"grand_last_layer": grand})


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("margarine", r"no score called 'margarine'.*margin, entr"),
        ("grand", "grand reads gradients, not outputs: call gradient_norms"),
        ("random", "random reads nothing: there is nothing to compute"),
        (lambda logits: logits[0], "is no score.*but this takes"),
        (whole, r"an array of shape \(4,\) for one example"),
    ],
    ids=["unknown", "gradient", "nothing", "other arguments", "no number"],
)
def test_what_a_forward_pass_cannot_score_is_refused(asked, message, pool):
    with pytest.raises(ValueError, match=message):
        score_pool(perceptron, draw_params(1), *pool, ["margin", asked])


def test_one_compilation_serves_all_parameters_of_a_model(pool):
    def score(seed):
        params = draw_params(seed)
        return score_pool(perceptron, params, *pool, NAMES, batch_size=4)

    first = score(1)
    before = compile_counts().programs
    second = score(2)
    assert compile_counts().programs == before
    assert not np.allclose(first["entropy"], second["entropy"])


def test_one_compilation_scores_any_number_of_rows_and_excludes_the_rest(pool):
    inputs, labels = pool
    params = draw_params(1)
    expected = direct(NAMES, perceptron(params, inputs), labels)
    rows = np.array([7, 3, 10, 0, 1, 2, 9, 4, 0, 0, 0, 0], np.int32)

    @jax.jit
    def scored(rows, count):
        def forward(batch):
            return perceptron(params, inputs[batch]), labels[batch], None

        return score_rows(forward, rows, count, columns(NAMES), 4)

    counts = (8, 0, 3, 4, 5, 12)
    arguments = [(jnp.asarray(rows), jnp.int32(count)) for count in counts]
    results = [scored(*arguments[0])]
    before = compile_counts().programs
    results += [scored(*each) for each in arguments[1:]]
    assert compile_counts().programs == before
    for count, got in zip(counts, results, strict=True):
        for name in NAMES:
            known = np.asarray(expected[name])[rows[:count]]
            np.testing.assert_allclose(got[name][:count], known, rtol=1e-5, atol=1e-6)
            assert np.isneginf(np.asarray(got[name])[count:]).all()


def test_rows_past_the_count_cost_no_forward_pass():
    batches = []

    def forward(batch):
        jax.debug.callback(lambda rows: batches.append(int(rows[0])), batch)
        return jnp.zeros((len(batch), 3)), jnp.zeros(len(batch), jnp.int32), None

    rows = jnp.arange(20, dtype=jnp.int32)
    wanted = columns(["margin"])
    scored = jax.jit(lambda count: score_rows(forward, rows, count, wanted, 4))
    jax.block_until_ready(scored(jnp.int32(5)))
    jax.effects_barrier()
    assert sorted(batches) == [0, 4]


# everything from one pass


def test_logits_and_features_come_beside_the_scores_in_float32(pool):
    params = draw_params(1)
    logits, features = with_features(params, pool[0])
    got = score_pool(with_features, params, *pool, EVERYTHING, batch_size=4)
    assert got.keys() == set(EVERYTHING)
    np.testing.assert_allclose(got["logits"], logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got["features"], features, rtol=1e-5, atol=1e-6)
    expected = jax.vmap(grand_last_layer)(logits, pool[1], features)
    np.testing.assert_allclose(got["grand_last_layer"], expected, rtol=1e-5)
    assert {values.dtype for values in got.values()} == {jnp.dtype("float32")}


def test_everything_asked_for_costs_one_forward_pass_a_batch(pool):
    batches = []

    def counted(params, inputs):
        jax.debug.callback(lambda: batches.append(1))
        return with_features(params, inputs)

    got = score_pool(counted, draw_params(1), *pool, EVERYTHING, batch_size=4)
    jax.block_until_ready(got)
    jax.effects_barrier()
    assert len(batches) == 3


@pytest.mark.parametrize("name", ["features", "grand_last_layer"])
def test_logits_alone_are_refused_where_features_are_needed(name, pool):
    with pytest.raises(ValueError, match=rf"{name} needs.*return \(logits, features\)"):
        score_pool(perceptron, draw_params(1), *pool, ("margin", name))


def largest_feature(logits, label, features):
    del logits, label
    return jnp.max(features)


def label_logit(logits, label):
    # bfloat16 and integers become float32 numbers as all scores do
    return jnp.round(logits[label]).astype(jnp.int32)


def test_kernels_of_ones_own_are_scored_by_import_path_or_as_they_are(
    pool, monkeypatch
):
    monkeypatch.setitem(sys.modules, "my_scores", sys.modules[__name__])
    params = draw_params(1)
    logits, features = with_features(params, pool[0])
    path = "my_scores:largest_feature"
    asked = ["margin", path, largest_feature, label_logit]
    got = score_pool(with_features, params, *pool, asked)
    assert set(got) == {"margin", path, "largest_feature", "label_logit"}
    np.testing.assert_allclose(got[path], features.max(1), rtol=1e-6)
    np.testing.assert_array_equal(got["largest_feature"], got[path])
    expected = np.round(np.asarray(logits)[np.arange(N), pool[1]])
    np.testing.assert_array_equal(got["label_logit"], expected)
    assert {values.dtype for values in got.values()} == {jnp.dtype("float32")}


def test_a_dict_gives_scores_names_and_two_of_one_name_need_one(pool):
    params = draw_params(1)
    asked = {"first": margin, "second": "el2n", "logits": constant}
    got = score_pool(perceptron, params, *pool, asked)
    logits = perceptron(params, pool[0])
    assert_close(
        got,
        {
            "first": jax.vmap(margin)(logits, pool[1]),
            "second": jax.vmap(el2n)(logits, pool[1]),
            "logits": np.ones(N),
        },
    )
    both = [partial(constant), jax.jit(constant), constant]
    with pytest.raises(ValueError, match=r"two scores are called 'constant'; give a d"):
        score_pool(perceptron, params, *pool, both)


def test_asking_for_the_same_twice_is_asking_once():
    assert columns(["margin", "el2n", "margin"]) == columns(["margin", "el2n"])


# subsets


@pytest.mark.parametrize("subset", [[7], [3, 0, 10], [5, 5, 1], [], list(range(N))])
def test_scores_of_a_subset_are_aligned_with_its_rows(subset, pool):
    rows = np.array(subset, np.int32)
    arguments = with_features, draw_params(1), *pool, EVERYTHING
    whole = score_pool(*arguments, batch_size=4)
    got = score_pool(*arguments, batch_size=4, rows=rows)
    for name in EVERYTHING:
        assert isinstance(got[name], jax.Array)
        np.testing.assert_array_equal(got[name], np.asarray(whole[name])[rows])


def test_one_compilation_scores_all_subsets_of_a_pool(pool):
    arguments = with_features, draw_params(1), *pool, EVERYTHING
    score_pool(*arguments, batch_size=4)
    on_device = jnp.array([2, 8])
    before = compile_counts().programs
    for rows in ([1], [4, 2, 9], np.arange(N), [], on_device):
        score_pool(*arguments, batch_size=4, rows=np.asarray(rows, np.int64))
    score_pool(*arguments, batch_size=4, rows=on_device)
    assert compile_counts().programs == before


@pytest.mark.parametrize("rows", [[0, N], [-1], [*range(N), 0]])
def test_rows_outside_the_pool_are_refused(rows, pool):
    with pytest.raises(ValueError, match=rf"at most {N} positions in \[0, {N}\)"):
        score_pool(perceptron, draw_params(1), *pool, NAMES, rows=np.array(rows))


def test_a_pool_is_scored_inside_a_program_too(pool):
    params = draw_params(1)
    inside = jax.jit(lambda params: score_pool(perceptron, params, *pool, NAMES))
    assert_close(inside(params), score_pool(perceptron, params, *pool, NAMES))


# precision


def test_a_narrow_dtype_reaches_the_model_but_not_the_scores(pool):
    params, seen = draw_params(1), []

    def recorded(params, inputs):
        logits = perceptron(params["weights"], inputs)
        seen.append((params["weights"][0].dtype, params["count"].dtype, inputs.dtype))
        return logits

    tree = {"weights": params, "count": jnp.int32(3)}
    got = score_pool(recorded, tree, *pool, (*NAMES, "logits"), dtype="bfloat16")
    narrow = jnp.dtype("bfloat16")
    assert set(seen) == {(narrow, jnp.dtype("int32"), narrow)}
    inputs, *params = (a.astype(jnp.bfloat16) for a in (pool[0], *params))
    logits = perceptron(params, inputs)
    assert logits.dtype == jnp.bfloat16
    np.testing.assert_allclose(got["logits"], logits.astype("float32"), rtol=2e-2)
    assert_close(
        {name: got[name] for name in NAMES}, direct(NAMES, got["logits"], pool[1])
    )


def test_pixels_are_not_cast(pool):
    seen = []

    def recorded(params, images):
        seen.append(images.dtype)
        return jnp.zeros((images.shape[0], 3)) * params

    images = jnp.zeros((N, 2, 2, 1), jnp.uint8)
    score_pool(recorded, jnp.ones(()), images, pool[1], ("margin",))
    assert set(seen) == {jnp.dtype("uint8")}


def test_the_last_example_of_a_batch_is_summed_as_every_other():
    # a plain convolution on the CPU sums the last pixels of its batch in another order
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(16, 16, 16, 16)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 16, 16)), jnp.float32)
    labels = jnp.zeros(16, jnp.int32)

    def last_pixel(kernel, images):
        return native_convolution(images, kernel, 1)[:, -1, -1]

    order = np.arange(16)[::-1]
    names = ("logits", *NAMES)
    whole = score_pool(last_pixel, kernel, images, labels, names, batch_size=8)
    got = score_pool(
        last_pixel, kernel, images, labels, names, rows=order, batch_size=8
    )
    for name in names:
        expected = np.asarray(whole[name])[order]
        np.testing.assert_allclose(got[name], expected, rtol=1e-6)
