"""What the training program asks of an accelerator, read off what is sent to it."""

import re
from collections import Counter
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from dpet_jax.config.load import validate
from dpet_jax.data.device import DeviceData
from dpet_jax.models import ResNetSpec, resnet18
from dpet_jax.run import build as parts
from dpet_jax.training import StepSpec, init_state, train_steps
from dpet_jax.training.learner import data_mesh

MODEL = resnet18(10, width_multiplier=0.125)
CONVOLUTIONS = 20  # 17 of 3x3 and 3 shortcuts
NUM = 64


def arguments(side):
    """Return everything that the program takes beside its state."""
    rng = np.random.default_rng(0)
    data = DeviceData(
        rng.integers(0, 256, (NUM, side, side, 3)).astype(np.uint8),
        rng.integers(0, 10, NUM).astype(np.int32),
        np.full(3, 0.5, np.float32),
        np.full(3, 0.25, np.float32),
    )
    rows = np.arange(NUM, dtype=np.int32)
    hyper = parts.build_hyper(validate({}, "test"))
    weights = np.ones(NUM, np.float32)
    given = (data, rows, np.int32(2), np.int32(0), weights, hyper)
    return jax.device_put(given, NamedSharding(data_mesh(), PartitionSpec()))


def state_of(model):
    return init_state(model, "sgd", NUM, jax.random.key(0))


@pytest.fixture(scope="module")
def cuda_text():
    """The training program in bfloat16 as it is handed to XLA for a GPU."""
    spec = StepSpec(MODEL, "sgd", 32, "bfloat16", data_mesh())
    traced = train_steps.trace(
        spec, jax.eval_shape(partial(state_of, MODEL)), *arguments(16)
    )
    return traced.lower(lowering_platforms=("cuda",)).as_text()


def test_convolutions_keep_channels_last_and_bfloat16(cuda_text):
    layouts = Counter(
        re.findall(r"dim_numbers = (\[.*?\]x\[.*?\]->\[.*?\])", cuda_text)
    )
    # forward and to the images; the forward pass stands once more beside its gradients,
    # unused, for XLA to drop
    into_maps = layouts.pop("[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]")
    back = layouts.pop("[b, 0, 1, f]x[0, 1, o, i]->[b, 0, 1, f]", 0)
    into_kernels = layouts.pop("[f, 0, 1, b]x[i, 0, 1, o]->[0, 1, b, f]")
    assert not layouts
    assert (into_maps, back) == (2 * CONVOLUTIONS, CONVOLUTIONS)
    assert into_kernels == CONVOLUTIONS
    lines = [line for line in cuda_text.splitlines() if "stablehlo.convolution" in line]
    assert all(line.rstrip().endswith("xbf16>") for line in lines)


def test_no_image_is_ever_transposed(cuda_text):
    moved = [line for line in cuda_text.splitlines() if "stablehlo.transpose" in line]
    # the gradient of the last layer's kernel alone
    assert len(moved) == 1
    assert moved[0].rstrip().endswith("(tensor<10x64xf32>) -> tensor<64x10xf32>")


def test_statistics_logits_and_losses_are_float32(cuda_text):
    reductions = re.findall(r"stablehlo\.reduce\(.*?-> (\S+)", cuda_text)
    assert reductions
    assert not [kind for kind in reductions if "bf16" in kind]
    heads = [line for line in cuda_text.splitlines() if "stablehlo.dot_general" in line]
    assert all("bf16" not in line for line in heads)
    assert re.search(r"stablehlo\.log .*f32", cuda_text)
    assert "stablehlo.log %" in cuda_text


def test_nothing_inside_a_chunk_talks_to_the_host(cuda_text):
    for word in ("custom_call", "infeed", "outfeed", "send", "recv", "callback"):
        assert f"stablehlo.{word}" not in cuda_text
    assert cuda_text.count("stablehlo.while") == 1


def test_a_chunk_takes_over_the_buffers_of_its_state():
    model = ResNetSpec(8, (8,), (1,), 10, 3)
    spec = StepSpec(model, "sgd", 32, "float32", data_mesh())
    replicated = NamedSharding(spec.mesh, PartitionSpec())
    state = jax.device_put(jax.jit(partial(state_of, model))(), replicated)
    rest = arguments(8)
    program = train_steps.lower(spec, state, *rest).compile()
    held = sum(leaf.nbytes for leaf in jax.tree.leaves((state.params, state.opt_state)))
    assert program.memory_analysis().alias_size_in_bytes >= held
    after, _ = program(state, *rest)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))
    assert not jnp.isnan(jax.tree.leaves(after.params)[0]).any()
    assert not rest[0].images.is_deleted()
