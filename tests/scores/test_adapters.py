"""Models of Flax, Equinox and Haiku as plain functions of parameters and images."""

import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dpet_jax.errors import UserError
from dpet_jax.scores import (
    from_equinox,
    from_haiku,
    from_linen,
    from_nnx,
    gradient_norms,
    score_pool,
)

RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.normal(size=(5, 8, 8, 3)), jnp.float32)
LABELS = jnp.asarray([0, 3, 1, 2, 1], jnp.int32)


@pytest.fixture(autouse=True)
def standard_promotion():
    # flax's own layers promote implicitly
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


class Linen(nn.Module):
    @nn.compact
    def __call__(self, images, train=False):
        x = nn.Conv(8, (3, 3), strides=2)(images)
        x = nn.gelu(nn.BatchNorm(use_running_average=not train)(x))
        x = nn.Dropout(0.5, deterministic=not train)(x)
        x = nn.LayerNorm()(nn.Conv(8, (3, 3), feature_group_count=2)(x))
        x = nn.MultiHeadDotProductAttention(2)(x.reshape(x.shape[0], -1, 8))
        return nn.Dense(4)(x.mean(1))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(8, 4, rngs=rngs)

    def __call__(self, images):
        x = self.drop(nnx.relu(self.norm(self.conv(images))))
        return self.head(x.mean((1, 2)))


def drawn(shapes):
    """Fill a tree of shapes, for flax's own draws take seconds to compile."""
    rng = np.random.default_rng(1)

    def leaf(shape):
        if jnp.issubdtype(shape.dtype, jnp.floating):
            return jnp.asarray(rng.uniform(0.1, 0.9, shape.shape), shape.dtype)
        is_key = jnp.issubdtype(shape.dtype, jax.dtypes.prng_key)
        return jax.random.key(0) if is_key else jnp.zeros(shape.shape, shape.dtype)

    return jax.tree.map(leaf, shapes)


def linen_variables():
    return drawn(jax.eval_shape(Linen().init, jax.random.key(0), IMAGES))


def nnx_model(kind=Nnx):
    """Make a model in training mode."""
    graph, shapes = nnx.split(nnx.eval_shape(lambda: kind(nnx.Rngs(0))))
    return nnx.merge(graph, drawn(shapes))


def one_by_one(apply_fn, params):
    """Return the length of each example's gradient, formed leaf by leaf."""

    def loss(params, image, label):
        return -jax.nn.log_softmax(apply_fn(params, image[None])[0])[label]

    one = jax.jit(jax.grad(loss))
    squares = []
    for image, label in zip(IMAGES, LABELS, strict=True):
        leaves = jax.tree.leaves(one(params, image, label))
        squares.append(
            sum(np.sum(np.asarray(leaf, np.float64) ** 2) for leaf in leaves)
        )
    return np.sqrt(squares)


def test_a_linen_model_gives_its_logits_and_its_gradient_norms():
    variables = linen_variables()
    apply_fn, params = from_linen(Linen(), variables, train=False)
    # two programs, in which sums may have another order
    np.testing.assert_allclose(
        jax.jit(apply_fn)(params, IMAGES),
        jax.jit(Linen().apply)(variables, IMAGES),
        rtol=1e-6,
    )
    norms = gradient_norms(apply_fn, params, IMAGES, LABELS, method="one_pass")
    np.testing.assert_allclose(norms, one_by_one(apply_fn, params), rtol=1e-4)


def test_an_nnx_model_gives_its_logits_and_its_gradient_norms():
    model = nnx_model()
    apply_fn, params = from_nnx(model)
    logits = apply_fn(params, IMAGES)
    norms = gradient_norms(apply_fn, params, IMAGES, LABELS, method="one_pass")
    np.testing.assert_allclose(norms, one_by_one(apply_fn, params), rtol=1e-4)
    assert not model.norm.use_running_average, "the user's model was changed"
    model.eval()
    np.testing.assert_array_equal(logits, model(IMAGES))


@pytest.mark.parametrize("kind", ["linen", "nnx"])
def test_a_flax_model_is_scored_like_any_function(kind):
    apply_fn, params = (
        from_linen(Linen(), linen_variables())
        if kind == "linen"
        else from_nnx(nnx_model())
    )
    scores = score_pool(apply_fn, params, IMAGES, LABELS, ("el2n",), batch_size=2)
    logits = jax.jit(apply_fn)(params, IMAGES)
    errors = jax.nn.softmax(logits) - jax.nn.one_hot(LABELS, 4)
    expected = np.linalg.norm(np.asarray(errors, np.float64), axis=1)
    np.testing.assert_allclose(scores["el2n"], expected, rtol=1e-4)


def test_a_linen_model_in_training_mode_is_refused_with_the_remedy():
    apply_fn, params = from_linen(Linen(), linen_variables(), train=True)
    with pytest.raises(ValueError, match=r"Linen is in training mode.*train=False"):
        gradient_norms(apply_fn, params, IMAGES, LABELS)


def test_an_nnx_model_that_insists_on_batch_statistics_is_refused():
    class Stubborn(Nnx):
        def __call__(self, images):
            x = self.norm(self.conv(images), use_running_average=False)
            return self.head(x.mean((1, 2)))

    apply_fn, params = from_nnx(nnx_model(Stubborn))
    with pytest.raises(ValueError, match="examples of a batch influence each other"):
        gradient_norms(apply_fn, params, IMAGES, LABELS)


def test_parameters_without_their_collections_are_refused():
    with pytest.raises(ValueError, match=r"give what module\.init returned"):
        from_linen(Linen(), linen_variables()["params"])


# equinox and haiku


def test_an_equinox_model_gives_its_logits_and_its_gradient_norms():
    eqx = pytest.importorskip("equinox", reason="extra adapters: no equinox")

    class Model(eqx.Module):
        conv: eqx.nn.Conv2d
        norm: eqx.nn.BatchNorm
        drop: eqx.nn.Dropout
        head: eqx.nn.Linear
        seen: jax.Array

        def __init__(self, key):
            self.conv = eqx.nn.Conv2d(3, 8, 3, key=key)
            self.norm = eqx.nn.BatchNorm(8, "batch", mode="batch")
            self.drop = eqx.nn.Dropout(0.5)
            self.head = eqx.nn.Linear(8, 4, key=key)
            self.seen = jnp.arange(3)  # no parameter

        def __call__(self, image, state):
            x = self.conv(image.transpose(2, 0, 1))
            x, state = self.norm(x, state)
            return self.head(self.drop(jax.nn.relu(x).mean((1, 2)))), state

    graph, shapes = eqx.partition(
        eqx.filter_eval_shape(eqx.nn.make_with_state(Model), jax.random.key(0)),
        lambda leaf: not isinstance(leaf, jax.ShapeDtypeStruct),
    )
    model, state = eqx.combine(graph, drawn(shapes))
    apply_fn, params = from_equinox(model, state)
    assert len(jax.tree.leaves(params)) == 6
    norms = gradient_norms(apply_fn, params, IMAGES, LABELS, method="one_pass")
    np.testing.assert_allclose(norms, one_by_one(apply_fn, params), rtol=1e-4)
    assert not model.drop.inference, "the user's model was changed"
    alone = jax.jit(eqx.nn.inference_mode(model).__call__)(IMAGES[0], state)[0]
    np.testing.assert_allclose(apply_fn(params, IMAGES)[0], alone, rtol=1e-5)


@pytest.fixture
def haiku_function():
    hk = pytest.importorskip("haiku", reason="extra adapters: no dm-haiku")

    def function(images, is_training=True, drop=False):
        x = hk.Conv2D(8, 3, stride=2)(images)
        x = jax.nn.relu(hk.BatchNorm(True, True, 0.9)(x, is_training))
        if drop:
            x = hk.dropout(hk.next_rng_key(), 0.5, x)
        return hk.Linear(4)(x.mean((1, 2)))

    return hk, function


def test_a_haiku_function_gives_its_logits_and_its_gradient_norms(haiku_function):
    hk, function = haiku_function
    transformed = hk.transform_with_state(function)
    params, state = drawn(jax.eval_shape(transformed.init, jax.random.key(0), IMAGES))
    apply_fn, same = from_haiku(transformed, params, state, is_training=False)
    assert same is params
    norms = gradient_norms(apply_fn, params, IMAGES, LABELS, method="one_pass")
    np.testing.assert_allclose(norms, one_by_one(apply_fn, params), rtol=1e-4)
    without_key = from_haiku(
        hk.without_apply_rng(transformed), params, state, is_training=False
    )[0]
    logits, _ = transformed.apply(params, state, None, IMAGES, is_training=False)
    np.testing.assert_array_equal(without_key(params, IMAGES), logits)
    # in training mode it is refused, by what it would do
    apply_fn, _ = from_haiku(transformed, params, state)
    with pytest.raises(ValueError, match=r"updates its state.*is_training=False"):
        jax.eval_shape(apply_fn, params, IMAGES)
    apply_fn, _ = from_haiku(transformed, params, state, is_training=False, drop=True)
    with pytest.raises(ValueError, match="PRNGKey"):
        jax.eval_shape(apply_fn, params, IMAGES)
    with pytest.raises(ValueError, match="give what its init returned"):
        from_haiku(transformed, params)


def test_a_haiku_function_without_a_state_needs_none(haiku_function):
    hk, _ = haiku_function
    for transformed in (
        hk.transform(lambda images: hk.Linear(4)(hk.Flatten()(images))),
        hk.without_apply_rng(
            hk.transform(lambda images: hk.Linear(4)(hk.Flatten()(images)))
        ),
    ):
        shapes = jax.eval_shape(transformed.init, jax.random.key(0), IMAGES)
        apply_fn, params = from_haiku(transformed, drawn(shapes))
        flat = IMAGES.reshape(5, -1)
        expected = flat @ params["linear"]["w"] + params["linear"]["b"]
        np.testing.assert_allclose(apply_fn(params, IMAGES), expected, rtol=1e-5)


@pytest.mark.parametrize("adapter", [from_equinox, from_haiku])
def test_a_library_that_is_not_there_is_named(adapter, monkeypatch):
    for name in ("equinox", "haiku"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"pip install 'dpet-jax\[adapters\]'"):
        adapter(None, {})
