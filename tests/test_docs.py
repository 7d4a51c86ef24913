"""The pages of docs/: their code is run, block after block, as a reader would."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpet_jax.scores import gradient_norms, gradient_path, score_pool

DOCS = Path(__file__).parent.parent / "docs"
RNG = np.random.default_rng(0)


def blocks(page):
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


N = 40
WEIGHTS = {"hidden": normal(8, 5), "head": normal(5, 3)}
OF_WORDS = {"words": normal(11, 8), "hidden": normal(8, 5), "out": normal(5, 11)}
INPUTS = normal(N, 8)


def dense(params, inputs):
    return jax.nn.relu(inputs @ params["hidden"]) @ params["head"]


def language_model(params, tokens):
    return jax.nn.relu(params["words"][tokens] @ params["hidden"]) @ params["out"]


def step(params, inputs, labels, weights):
    """Train on a batch that is filled up, so that all have one shape."""
    size = len(inputs)
    filled = (np.resize(each, (32, *each.shape[1:])) for each in (inputs, labels))
    params, losses = jitted(params, *filled, np.pad(weights, (0, 32 - size)))
    return params, losses[:size]


@jax.jit
def jitted(params, inputs, labels, weights):
    def objective(params):
        logits = dense(params, inputs)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return (weights * losses).mean(), losses

    grads, losses = jax.grad(objective, has_aux=True)(params)
    return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), losses


@pytest.fixture(scope="module")
def page():
    """The names that the page's code leaves, run among the reader's own."""
    names = {
        "images": np.asarray(INPUTS),
        "labels": RNG.integers(0, 3, N).astype(np.int32),
        "step": step,
        "state": WEIGHTS,
        "apply_fn": dense,
        "params": WEIGHTS,
        "inputs": INPUTS,
        "targets": jnp.asarray(RNG.integers(0, 2, (N, 3)), jnp.float32),
    }
    with jax.numpy_dtype_promotion("standard"):
        for block in blocks("your_loop.md"):
            exec(compile(block, "your_loop.md", "exec"), names)
    return names


def test_the_pages_loop_ends_and_its_saved_pruner_has_nothing_left(page):
    assert 4 * N < page["pruner"].visits < 8 * N
    assert [*page["again"].passes()] == []


TOKENS = jnp.asarray(RNG.integers(0, 11, (N, 6)), jnp.int32)


@pytest.mark.parametrize(
    ("loss_name", "model", "inputs", "targets"),
    [
        ("multi_label", dense, INPUTS, None),
        ("squared", dense, INPUTS, 100 * normal(N, 3)),
        ("next_token", language_model, TOKENS, TOKENS),
    ],
)
def test_scores_and_norms_of_other_losses_are_those_of_each_example_alone(
    page, loss_name, model, inputs, targets
):
    targets = page["targets"] if targets is None else targets
    loss_fn = page[loss_name]
    params = WEIGHTS if model is dense else OF_WORDS

    def one(params, given, target):
        return loss_fn(model(params, given[None])[0], target)

    batch = (inputs, targets)
    with jax.numpy_dtype_promotion("standard"):
        apply = page["losses_of"](model, loss_fn)
        norms, scores = page["norms"], page["scores"]
        if loss_name != "multi_label":  # which the page itself computes
            norms = gradient_norms(apply, params, batch, None, loss_fn=page["loss"])
            scores = score_pool(apply, params, batch, None, {"loss": page["loss"]})
        losses, grads = jax.jit(jax.vmap(jax.value_and_grad(one), (None, 0, 0)))(
            params, *batch
        )
        path = gradient_path(apply, params, batch)
    squares = [
        np.square(np.asarray(leaf, np.float64)).reshape(N, -1).sum(1)
        for leaf in jax.tree.leaves(grads)
    ]
    np.testing.assert_allclose(norms, np.sqrt(sum(squares)), rtol=1e-5)
    np.testing.assert_allclose(scores["loss"], losses, rtol=1e-5)
    assert path.method == "one_pass", path.reason
