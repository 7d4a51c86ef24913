"""Functions whose examples see each other are told from those whose do not."""

import jax
import jax.numpy as jnp
import pytest

from dpet_jax.scores.gradient.rows_apart import refuse_mixed_rows

IMAGE = jax.ShapeDtypeStruct((4, 4, 2), jnp.float32)
PARAMS = jax.ShapeDtypeStruct((2, 3), jnp.float32)


def normalised(images, axes):
    images = images - images.mean(axes, keepdims=True)
    return images * jax.lax.rsqrt(jnp.square(images).mean(axes, keepdims=True) + 1e-5)


def classify(params, images):
    return images.mean((1, 2)) @ params


@jax.custom_vjp
def custom_mean(images):
    return images - images.mean(0, keepdims=True)


custom_mean.defvjp(lambda x: (custom_mean(x), None), lambda _, back: (back,))


@jax.custom_jvp
def custom_centre(images):
    return images - images.mean(0, keepdims=True)


custom_centre.defjvp(lambda x, t: (custom_centre(*x), t[0]))

MIXED = {
    "batch normalisation": lambda p, x: classify(p, normalised(x, (0, 1, 2))),
    "inside jit": lambda p, x: classify(p, jax.jit(normalised, static_argnums=1)(x, 0)),
    "inside checkpoint": lambda p, x: classify(
        p, jax.checkpoint(lambda x: x / x.max())(x)
    ),
    "inside custom_vjp": lambda p, x: classify(p, custom_mean(x)),
    "inside custom_jvp": lambda p, x: classify(p, custom_centre(x)),
    "the neighbour": lambda p, x: classify(p, x[1:] - x[:-1]),
    "the first": lambda p, x: classify(p, x - x[:1]),
    "the mean alone": lambda p, x: jnp.zeros((len(x), 3)) + classify(p, x).mean(),
}

APART = {
    "means of an example": lambda p, x: classify(p, normalised(x, (1, 2))),
    "flattened": lambda p, x: x.reshape(len(x) * 16, 2) @ p,
    "channels first": lambda p, x: classify(
        p, jnp.moveaxis(x, 0, -1).transpose(3, 0, 1, 2)
    ),
    "a side that nobody reads": lambda p, x: (x.mean(), classify(p, x))[1],
    "a side in jit": lambda p, x: jax.jit(lambda x: (x.max(), x))(x)[1][:, 0, 0] @ p,
    "parameters alone": lambda p, x: classify(p / p.sum(), x),
    "relu": lambda p, x: jax.nn.relu(classify(p, x)),
    "vmap": lambda p, x: jax.vmap(lambda x: classify(p, x[None])[0])(x),
}


@pytest.mark.parametrize("name", MIXED)
def test_a_function_that_mixes_examples_is_refused(name):
    with pytest.raises(ValueError, match="examples of a batch influence each other"):
        refuse_mixed_rows(MIXED[name], PARAMS, IMAGE)


@pytest.mark.parametrize("name", APART)
def test_a_function_that_keeps_examples_apart_is_accepted(name):
    refuse_mixed_rows(APART[name], PARAMS, IMAGE)


def test_the_message_names_the_operation_and_the_remedy():
    with pytest.raises(ValueError, match=r"reduce_sum reduces.*running statistics"):
        refuse_mixed_rows(MIXED["batch normalisation"], PARAMS, IMAGE)
