"""The accelerator's path, guarded without one: what is sent to it, several devices."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest
from fakes.networks import BATCH, NUM, NUM_TRAIN, TINY, device_data
from jax.sharding import NamedSharding, PartitionSpec

from dpet_jax.config.load import validate
from dpet_jax.data.augment import CropConfig
from dpet_jax.models.families import ResNet18
from dpet_jax.models.resnet import ResidualNetwork
from dpet_jax.run import build as parts
from dpet_jax.training.learner import data_mesh
from dpet_jax.training.optimizer import OPTIMIZERS, Sgd
from dpet_jax.training.scoring import ScoreSpec, gradient_norms_of_data, score_data
from dpet_jax.training.state import DeviceData, StepSpec, init_state
from dpet_jax.training.steps import train_steps
from dpet_jax.training.traced import numbers_of, without_numbers

MODEL = ResNet18(width_multiplier=0.125).build(10, (16, 16, 3))
CONVOLUTIONS = 20  # 17 of 3x3 and 3 shortcuts


def data():
    """Return the shapes of larger images, in colour."""
    rows = np.zeros((NUM, 16, 16, 3), np.uint8), np.zeros(NUM, np.int32)
    return DeviceData(*rows, np.zeros(3, np.float32), np.ones(3, np.float32))


def hyper(optimizer):
    plain = parts.build_hyper(validate({}, "test"))
    return plain._replace(optimizer=numbers_of(optimizer))


def traced_training(model, optimizer, dtype, given, input_size=None, crop=None):
    """Trace the training program for a model and data."""
    static = without_numbers(optimizer)
    spec = StepSpec(model, static, BATCH, dtype, data_mesh(), input_size=input_size)
    state = jax.eval_shape(
        lambda key: init_state(model, static, NUM_TRAIN, key), jax.random.key(0)
    )
    rows, weights = np.zeros(NUM_TRAIN, np.int32), np.ones(NUM_TRAIN, "f4")
    counts = np.int32(2), np.int32(0)
    numbers = hyper(optimizer)
    if crop is not None:
        augmentation = numbers.augmentation._replace(crop=crop.traced())
        numbers = numbers._replace(augmentation=augmentation)
    arguments = (state, given, rows, *counts, weights, numbers)
    return train_steps.trace(spec, *shaped(arguments))


def shaped(tree):
    replicated = NamedSharding(data_mesh(), PartitionSpec())
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated),
        tree,
    )


def lowered(traced, platform):
    return traced.lower(lowering_platforms=(platform,)).as_text()


def convolutions_in(text):
    return [line.rstrip() for line in text.splitlines() if "stablehlo.convo" in line]


@pytest.fixture(scope="module")
def in_bfloat16():
    """The training program of a ResNet-18 in bfloat16, as it is handed to XLA."""
    traced = traced_training(MODEL, Sgd(), "bfloat16", data())
    return {platform: lowered(traced, platform) for platform in ("cuda", "tpu")}


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_training_convolves_in_bfloat16_on_accelerators(in_bfloat16, platform):
    convolutions = convolutions_in(in_bfloat16[platform])
    # none is run twice, and the stem sends nothing to the images
    assert len(convolutions) == 3 * CONVOLUTIONS - 1
    assert all(line.endswith("xbf16>") for line in convolutions)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_random_boxes_of_larger_images_are_two_products_on_accelerators(platform):
    larger = DeviceData(np.zeros((NUM, 11, 11, 1), np.uint8), *device_data()[1:])
    traced = traced_training(TINY, Sgd(), "float32", larger, 8, CropConfig())
    text = lowered(traced, platform)
    # the stem sees 8 pixels of 11, in a batch of one channel
    assert f"tensor<{BATCH}x8x8x1xf32>" in convolutions_in(text)[0]
    products = [
        line
        for line in text.splitlines()
        if "stablehlo.dot_general" in line and "11x" in line
    ]
    assert len(products) == 2
    assert all("HIGHEST" in line for line in products)
    assert "custom_call" not in text
    assert text.count("stablehlo.while") == 1


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_a_bottleneck_after_the_stem_of_imagenet_lowers_for_accelerators(platform):
    network = ResidualNetwork(
        8, (8,), (1,), 3, 1, stem_kind="imagenet", block_kind="bottleneck"
    )
    text = lowered(traced_training(network, Sgd(), "bfloat16", device_data()), platform)
    convolutions = convolutions_in(text)
    # the stem, three in the block and its shortcut; nothing goes to the images
    assert len(convolutions) == 3 * 5 - 1
    assert all(line.endswith("xbf16>") for line in convolutions)
    assert "reduce_window" in text


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_lowers_for_accelerators_in_float32_by_every_optimizer(optimizer):
    traced = traced_training(TINY, optimizer(), "float32", device_data())
    for platform in ("cuda", "tpu"):
        convolutions = convolutions_in(lowered(traced, platform))
        assert convolutions
        assert all(line.endswith("xf32>") for line in convolutions)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_score_pool_lowers_for_accelerators(platform):
    text = lowered(traced_scores(score_data, "bfloat16"), platform)
    assert "stablehlo.while" in text
    assert all(line.endswith("xbf16>") for line in convolutions_in(text))
    # the CPU's spare row is the CPU's alone
    assert all(f"tensor<{BATCH}x" in line for line in convolutions_in(text))


def traced_scores(program, dtype):
    """Trace one of the two scoring programs for the tiny network."""
    names = ("margin", "entropy") if program is score_data else ()
    spec = ScoreSpec(TINY, names, BATCH, dtype, data_mesh())
    network = jax.eval_shape(TINY.init, jax.random.key(0))
    rows, count = np.zeros(NUM, np.int32), np.int32(9)
    return program.trace(spec, *shaped((*network, device_data(), rows, count)))


def test_the_cpu_scores_a_spare_row():
    text = lowered(traced_scores(score_data, "float32"), "cpu")
    assert f"tensor<{BATCH + 1}x8x8x1xf32>" in text
    assert f"tensor<{BATCH}x8x8x1xf32>" not in text


def test_gradient_norms_run_no_convolution_twice_and_send_nothing_to_the_images():
    text = lowered(traced_scores(gradient_norms_of_data, "float32"), "cuda")
    # TINY has a stem and one block: three forward, two back
    assert len(convolutions_in(text)) == 3 + 2


MULTIPLIED = r"stablehlo\.(?:convolution|dot_general)"


@pytest.mark.parametrize("program", [score_data, gradient_norms_of_data])
def test_float32_is_as_exact_as_the_accelerator_likes_unless_jax_is_told(program):
    text = lowered(traced_scores(program, "float32"), "cuda")
    assert re.search(MULTIPLIED, text)
    assert "HIGH" not in text
    with jax.default_matmul_precision("highest"):
        text = lowered(traced_scores(program, "float32"), "cuda")
    products = [line for line in text.splitlines() if re.search(MULTIPLIED, line)]
    assert products
    assert all(line.count("HIGHEST") == 2 for line in products)


def test_training_in_float32_is_exact_where_jax_is_told():
    with jax.default_matmul_precision("highest"):
        traced = traced_training(TINY, Sgd(), "float32", device_data())
        text = lowered(traced, "cuda")
    products = [line for line in text.splitlines() if re.search(MULTIPLIED, line)]
    assert len(products) == 3 * 3 - 1 + 3  # of the last layer: one product each way
    assert all(line.count("HIGHEST") == 2 for line in products)


def test_convolutions_keep_channels_last(in_bfloat16):
    layouts = Counter(
        re.findall(r"dim_numbers = (\[.*?\]x\[.*?\]->\[.*?\])", in_bfloat16["cuda"])
    )
    into_maps = layouts.pop("[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]")
    back = layouts.pop("[b, 0, 1, f]x[0, 1, o, i]->[b, 0, 1, f]", 0)
    into_kernels = layouts.pop("[f, 0, 1, b]x[i, 0, 1, o]->[0, 1, b, f]")
    assert not layouts
    assert (into_maps, back) == (CONVOLUTIONS, CONVOLUTIONS - 1)
    assert into_kernels == CONVOLUTIONS


def test_no_image_is_ever_transposed(in_bfloat16):
    text = in_bfloat16["cuda"]
    moved = [line for line in text.splitlines() if "stablehlo.transpose" in line]
    # the gradient of the last layer's kernel alone
    assert len(moved) == 1
    assert moved[0].rstrip().endswith("(tensor<10x64xf32>) -> tensor<64x10xf32>")


def test_statistics_logits_and_losses_are_float32(in_bfloat16):
    text = in_bfloat16["cuda"]
    reductions = re.findall(r"stablehlo\.reduce\(.*?-> (\S+)", text)
    assert reductions
    assert not [kind for kind in reductions if "bf16" in kind]
    heads = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert all("bf16" not in line for line in heads)
    assert re.search(r"stablehlo\.log .*f32", text)


def test_nothing_inside_a_chunk_talks_to_the_host(in_bfloat16):
    text = in_bfloat16["cuda"]
    for word in ("custom_call", "infeed", "outfeed", "send", "recv", "callback"):
        assert f"stablehlo.{word}" not in text
    assert text.count("stablehlo.while") == 1


def test_a_chunk_reuses_the_buffers_of_its_state():
    optimizer = without_numbers(Sgd())
    spec = StepSpec(TINY, optimizer, BATCH, "float32", data_mesh())
    replicated = NamedSharding(spec.mesh, PartitionSpec())
    draw = jax.jit(init_state, static_argnums=(0, 1, 2))
    state = draw(TINY, optimizer, NUM_TRAIN, jax.random.key(0))
    rows, weights = np.arange(NUM_TRAIN, dtype=np.int32), np.ones(NUM_TRAIN, "f4")
    rest = (device_data(), rows, np.int32(2), np.int32(0), weights, hyper(Sgd()))
    state, rest = jax.device_put((state, rest), replicated)
    program = train_steps.lower(spec, state, *rest).compile()
    held = sum(leaf.nbytes for leaf in jax.tree.leaves((state.params, state.opt_state)))
    assert program.memory_analysis().alias_size_in_bytes >= held
    after, _ = program(state, *rest)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))
    assert np.isfinite(jax.tree.leaves(after.params)[0]).all()
    assert not rest[0].images.is_deleted()


TWO_DEVICES = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
sys.path.insert(0, sys.argv[2])
import numpy as np
from fakes.networks import BATCH, NAMES, NUM, NUM_TRAIN, device_network
from dpet_jax.methods.base import Plan, Span

found = []
# on two devices also with pixels on the host: a batch fits, or the whole plan
for devices, room in ((1, None), (2, None), (2, 512), (2, 9999)):
    network = device_network(num_devices=devices, room=room)
    rows = np.arange(NUM_TRAIN, dtype=np.int32)
    network.begin(Plan(rows, label="x"), 0)
    for _ in range(3):
        for step in np.split(rows, NUM_TRAIN // BATCH):
            network.wait(network.train(step, 1, Span(0, 100), 0))
    scores = network.score(np.arange(NUM, dtype=np.int32), NAMES)
    assert len(scores["margin"].sharding.device_set) == devices
    margins = np.asarray(scores["margin"])[:NUM]
    found.append((network.result(rows).losses, margins))
    if room is not None:
        for one, other in zip(found.pop(), found[-1], strict=True):
            np.testing.assert_array_equal(one, other)
(alone, margins), (shared, margins_shared) = found
np.testing.assert_allclose(shared, alone, rtol=1e-3, atol=1e-4)
np.testing.assert_allclose(margins_shared, margins, rtol=1e-3, atol=1e-4)
np.testing.assert_array_equal(np.argsort(margins_shared), np.argsort(margins))
print("alike", alone.mean())
"""


def test_two_devices_lose_the_same_and_rank_the_examples_alike():
    cache = f"{jax.config.jax_compilation_cache_dir}-two-devices"
    done = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES, cache, str(Path(__file__).parents[1])],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "alike" in done.stdout
