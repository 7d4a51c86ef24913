"""What the GPU suite compares with the package's own program trains alike."""

import sys
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes.networks import BATCH, NUM_TRAIN, TINY, device_data

from dpet_jax.config.load import validate
from dpet_jax.run.build import build_hyper
from dpet_jax.training.learner import data_mesh
from dpet_jax.training.optimizer import Sgd
from dpet_jax.training.state import StepSpec, init_state
from dpet_jax.training.steps import train_steps
from dpet_jax.training.traced import numbers_of, without_numbers

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import gpu_variants
from gpu_program import kernels_of_loop
from gpu_variants import CHUNK, batch_norm, chunked_train_steps


def arguments(capacity):
    """Return what both training programs take, but for the number of steps."""
    optimizer = Sgd(learning_rate=0.05)
    spec = StepSpec(TINY, without_numbers(optimizer), BATCH, "float32", data_mesh())
    rows = np.random.default_rng(0).integers(0, NUM_TRAIN, capacity * BATCH)
    hyper = build_hyper(validate({}, "test"))
    hyper = hyper._replace(
        optimizer=numbers_of(optimizer),
        schedule=hyper.schedule._replace(
            peak=np.float32(0.05), horizon=np.float32(capacity * BATCH)
        ),
    )
    return spec, (device_data(), rows.astype(np.int32)), hyper


def test_steps_in_chunks_are_the_same_to_the_bit_whatever_their_number():
    spec, given, hyper = arguments(3 * CHUNK)
    weights = np.ones(NUM_TRAIN, "f4")
    counts = 0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK - 1
    drawn = jax.jit(init_state, static_argnums=(0, 1, 2))

    def trained(program, num_steps):
        state = drawn(TINY, spec.optimizer, NUM_TRAIN, jax.random.key(0))
        numbers = np.int32(num_steps), np.int32(0)
        state, stats = program(spec, state, *given, *numbers, weights, hyper)
        state = state._replace(key=jax.random.key_data(state.key))
        return jax.device_get((state, stats))

    for num_steps in counts:
        usual, chunked = (
            trained(program, num_steps)
            for program in (train_steps, chunked_train_steps)
        )
        assert usual[0].step == num_steps
        jax.tree.map(np.testing.assert_array_equal, usual, chunked)
    assert chunked_train_steps._cache_size() == 1


def test_a_gpu_is_told_the_length_of_a_chunk():
    spec, given, hyper = arguments(2)
    state = jax.eval_shape(
        lambda key: init_state(TINY, spec.optimizer, NUM_TRAIN, key), jax.random.key(0)
    )
    weights = np.ones(NUM_TRAIN, "f4")
    numbers = np.int32(2), np.int32(0)
    traced = chunked_train_steps.trace(spec, state, *given, *numbers, weights, hyper)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    # chunks, the steps of one, and single steps
    assert text.count("stablehlo.while") == 3
    assert f"stablehlo.constant dense<{CHUNK}> : tensor<i32>" in text


def exact(x, scale, bias, back):
    """Normalise and send back in float64."""
    x, scale, bias, back = (np.asarray(a, np.float64) for a in (x, scale, bias, back))
    axes = (0, 1, 2)
    mean, var = x.mean(axes), x.var(axes)
    unit = (x - mean) / np.sqrt(var + 1e-5)
    of_bias, of_scale = back.sum(axes), (back * unit).sum(axes)
    count = x.size // x.shape[-1]
    of_x = back - (of_bias + unit * of_scale) / count
    of_x *= scale / np.sqrt(var + 1e-5)
    return (unit * scale + bias, mean, var), (of_x, of_scale, of_bias)


@pytest.mark.parametrize(("dtype", "apart"), [("float32", 2e-5), ("bfloat16", 0.02)])
def test_norm_and_gradients_are_those_of_float64_and_of_flax(dtype, apart):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(0.5, 2.0, (8, 5, 6, 7)), dtype)
    back = jnp.asarray(rng.normal(size=x.shape), dtype)
    scale, bias = (jnp.asarray(rng.uniform(0.5, 2.0, 7), jnp.float32) for _ in "ab")
    flax = nn.BatchNorm(False, momentum=0.9, epsilon=1e-5, dtype=jnp.dtype(dtype))
    zeros = {"mean": jnp.zeros(7), "var": jnp.zeros(7)}

    @jax.jit
    def both(x, scale, bias):
        def usual(x, scale, bias):
            variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": zeros}
            with jax.numpy_dtype_promotion("standard"):
                y, found = flax.apply(variables, x, mutable=["batch_stats"])
            running = found["batch_stats"]
            return y, *(running[key] / 0.1 for key in ("mean", "var"))

        results = []
        for function in (usual, batch_norm):
            outputs, pull = jax.vjp(function, x, scale, bias)
            nothing = [jnp.zeros_like(value) for value in outputs[1:]]
            results.append((outputs, pull((back, *nothing))))
        return results

    expected = jax.tree.leaves(exact(x, scale, bias, back))
    usual, ours = (jax.tree.leaves(each) for each in both(x, scale, bias))
    for want, flaxs, got in zip(expected, usual, ours, strict=True):
        assert got.dtype == flaxs.dtype
        size = np.abs(want).max()
        assert np.abs(np.asarray(got, np.float64) - want).max() <= apart * size
        assert np.abs(np.asarray(flaxs, np.float64) - want).max() <= apart * size


def test_a_network_with_the_other_norm_has_the_same_parameters(monkeypatch):
    variables = jax.jit(TINY.init)(jax.random.key(0))
    images = jnp.asarray(np.random.default_rng(0).normal(size=(8, 8, 8, 1)), "f4")

    def trained(variables):  # anew each time, or JAX would not trace it again
        return TINY.apply_train(jax.random.key(0), *variables, images)

    usual = jax.jit(trained)(variables)
    before = str(jax.make_jaxpr(trained)(variables)).count("custom_vjp_call")
    monkeypatch.setattr(*gpu_variants.VARIANTS["norm"])
    again = jax.jit(lambda key: TINY.init(key))(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, variables, again)
    got = jax.jit(lambda given: trained(given))(variables)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-5), usual, got)
    after = str(jax.make_jaxpr(lambda given: trained(given))(variables))
    assert after.count("custom_vjp_call") == before + 3


COMPILED = """HloModule jit_f, is_scheduled=true

%add.1 (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%body.2 (arg: (f32[2,3], bf16[4,8])) -> (f32[2,3], bf16[4,8]) {
  %arg = (f32[2,3]{1,0}, bf16[4,8]{1,0}) parameter(0)
  %wide = f32[2,3]{1,0} get-tuple-element(%arg), index=0
  %x = bf16[4,8]{1,0} get-tuple-element(%arg), index=1
  %c = (bf16[4,8]{1,0}, u8[0]{0}) custom-call(%x, %x), custom_call_target="CONV"
  %maps = bf16[4,8]{1,0} get-tuple-element(%c), index=0
  %two = (f32[2,3]{1,0}, /*index=1*/f32[2,3]{1,0}) fusion(%wide, %maps), calls=%add.1
  %one = f32[2,3]{1,0} get-tuple-element(%two), index=0
  ROOT %out = (f32[2,3]{1,0}, bf16[4,8]{1,0}) tuple(%one, %maps)
}

ENTRY %main.3 (p: (f32[2,3], bf16[4,8])) -> (f32[2,3], bf16[4,8]) {
  %p = (f32[2,3]{1,0}, bf16[4,8]{1,0}) parameter(0)
  ROOT %w = (f32[2,3]{1,0}, bf16[4,8]{1,0}) while(%p), condition=%a, body=%body.2
}
"""


def test_the_kernels_of_a_compiled_loop_and_the_bytes_that_they_move():
    convolution, fusion = kernels_of_loop(COMPILED)
    assert convolution.operation == "CONV"
    assert convolution.moved == 3 * 4 * 8 * 2
    assert (fusion.name, fusion.operation) == ("two", "fusion")
    # reads 2 x 3 wide values and the maps, writes wide ones twice
    assert fusion.moved == 3 * 2 * 3 * 4 + 4 * 8 * 2
