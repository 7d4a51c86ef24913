"""What the GPU suite compares with the package's own program trains alike."""

import sys
from pathlib import Path

import jax
import numpy as np
from fakes.networks import BATCH, NUM_TRAIN, TINY, device_data

from dpet_jax.config.load import validate
from dpet_jax.run.build import build_hyper
from dpet_jax.training.learner import data_mesh
from dpet_jax.training.optimizer import Sgd
from dpet_jax.training.state import StepSpec, init_state
from dpet_jax.training.steps import train_steps
from dpet_jax.training.traced import numbers_of, without_numbers

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from gpu_program import kernels_of_loop
from gpu_variants import CHUNK, chunked_train_steps


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
