import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from dpet_jax.data.device import DeviceData
from dpet_jax.models import ResNetSpec, apply, init
from dpet_jax.scores import SCORES, score_pool
from dpet_jax.scores.artifact import ARTIFACT_SCORES
from dpet_jax.scores.pool import ScoreSpec, score_data, score_fn, score_rows
from dpet_jax.training.programs import compile_counts

NAMES = tuple(SCORES)
N, FEATURES, CLASSES = 11, 6, 4


def perceptron(params, inputs):
    first, second = params
    return jnp.maximum(inputs @ first, 0.0) @ second


def draw_params(seed):
    rng = np.random.default_rng(seed)
    shapes = (FEATURES, 8), (8, CLASSES)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


@pytest.fixture(scope="module")
def pool():
    rng = np.random.default_rng(0)
    inputs = jnp.asarray(rng.normal(size=(N, FEATURES)), jnp.float32)
    return inputs, jnp.asarray(rng.integers(0, CLASSES, N), jnp.int32)


def direct(names, logits, labels):
    return {name: jax.vmap(score_fn(name))(logits, labels) for name in names}


def assert_close(got, expected):
    assert got.keys() == expected.keys()
    for name, scores in expected.items():
        np.testing.assert_allclose(got[name], scores, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 4, N, 500])
def test_batches_of_any_size_score_as_one_vmap_over_the_pool(batch_size, pool):
    params = draw_params(1)
    got = score_pool(perceptron, params, *pool, NAMES, batch_size=batch_size)
    assert {(s.shape, s.dtype) for s in got.values()} == {((N,), jnp.dtype("float32"))}
    assert_close(got, direct(NAMES, perceptron(params, pool[0]), pool[1]))


def test_the_artifacts_kernels_are_scored_by_name_too(pool):
    params, names = draw_params(1), ("margin", *ARTIFACT_SCORES)
    got = score_pool(perceptron, params, *pool, names, batch_size=4)
    assert_close(got, direct(names, perceptron(params, pool[0]), pool[1]))


def test_an_unknown_score_is_refused_with_the_known_ones(pool):
    with pytest.raises(ValueError, match=r"no score called 'margarine'.*margin, entr"):
        score_pool(perceptron, draw_params(1), *pool, ("margin", "margarine"))


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
            return perceptron(params, inputs[batch]), labels[batch]

        return score_rows(forward, rows, count, NAMES, 4)

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
        return jnp.zeros((4, 3)), jnp.zeros(4, jnp.int32)

    rows = jnp.arange(20, dtype=jnp.int32)
    scored = jax.jit(lambda count: score_rows(forward, rows, count, ("margin",), 4))
    jax.block_until_ready(scored(jnp.int32(5)))
    jax.effects_barrier()
    assert sorted(batches) == [0, 4]


def test_the_data_sets_rows_score_as_apply_and_the_kernels():
    model = ResNetSpec(8, (8,), (1,), num_classes=3, in_channels=1)
    rng = np.random.default_rng(0)
    data = DeviceData(
        jnp.asarray(rng.integers(0, 256, (9, 8, 8, 1)), jnp.uint8),
        jnp.asarray(rng.integers(0, 3, 9), jnp.int32),
        jnp.array([0.4]),
        jnp.array([0.2]),
    )
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    spec = ScoreSpec(model, NAMES, 4, "float32", mesh)
    variables = jax.jit(init, static_argnums=0)(model, jax.random.key(0))
    rows = np.array([8, 2, 5, 0, 7, 0, 0, 0], np.int32)
    got = score_data(spec, *variables, data, jnp.asarray(rows), jnp.int32(5))

    images = (np.asarray(data.images, np.float32) / 255 - 0.4) / 0.2
    logits = jax.jit(apply, static_argnums=0)(model, *variables, images).logits
    expected = direct(NAMES, logits, data.labels)
    assert got.keys() == expected.keys()
    for name in NAMES:
        known = np.asarray(expected[name])[rows[:5]]
        np.testing.assert_allclose(got[name][:5], known, rtol=1e-4, atol=1e-5)
        assert np.isneginf(np.asarray(got[name])[5:]).all()
