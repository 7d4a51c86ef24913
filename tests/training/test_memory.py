"""What a step takes at least, against XLA's own account of a compiled step."""

import jax
import jax.numpy as jnp
import pytest

from dpet_jax.config.load import validate
from dpet_jax.data import prepare
from dpet_jax.errors import UserError
from dpet_jax.models.families import ResNet
from dpet_jax.run import build
from dpet_jax.training import memory

SHAPE = (16, 16, 3)
NETWORK = ResNet(stem=8, channels=(8,), blocks=(1,)).build(10, SHAPE)
# kernels, scales and shifts, the last layer
NUM_PARAMS = 9 * 3 * 8 + 2 * 9 * 8 * 8 + 3 * 2 * 8 + 8 * 10 + 10


def refusal(monkeypatch, limit, *batches):
    monkeypatch.setattr(memory, "memory", lambda: limit)
    try:
        memory.check_memory(NETWORK, SHAPE, *batches, "float32")
    except UserError as error:
        return str(error)
    return None


def test_the_estimate_is_less_than_what_a_compiled_step_takes(monkeypatch):
    images = jax.ShapeDtypeStruct((256, *SHAPE), jnp.float32)
    params, stats = jax.eval_shape(NETWORK.init, jax.random.key(0))

    def loss(params, stats, images):
        outputs, _ = NETWORK.apply_train(jax.random.key(0), params, stats, images)
        return outputs.logits.sum()

    compiled = jax.jit(jax.grad(loss)).lower(params, stats, images).compile()
    taken = compiled.memory_analysis().temp_size_in_bytes
    assert refusal(monkeypatch, taken, 256, 1) is None
    # the largest value of a forward pass: 256 images of 8 channels
    values = 256 * 16 * 16 * 8 * 4
    for limit in (taken // 8, values):
        message = refusal(monkeypatch, limit, 256, 1)
        for part in ("train.batch_size", "256 images of 16 x 16", "ResNet-4"):
            assert part in message
    assert refusal(monkeypatch, values + 12 * NUM_PARAMS, 1, 256) is None
    message = refusal(monkeypatch, values, 1, 256)
    assert "evaluate.batch_size: a step of ResNet-4 on 256 images" in message


def test_an_average_takes_copies_of_the_parameters(monkeypatch):
    monkeypatch.setattr(memory, "memory", lambda: 10**6)
    memory.check_memory(NETWORK, SHAPE, 1, 1, "float32")
    with pytest.raises(UserError):
        memory.check_memory(
            NETWORK, SHAPE, 1, 1, "float32", copies=10**6 // (4 * NUM_PARAMS)
        )


def test_parameters_count_three_times(monkeypatch):
    assert refusal(monkeypatch, 12 * NUM_PARAMS - 1, 1, 1) is not None


@pytest.mark.parametrize(
    "keys",
    [
        {"model": {"kind": "resnet18", "width_multiplier": 100}},
        {"model": {"kind": "resnet", "stem": 2**24, "channels": [8], "blocks": [1]}},
        {"model": {"kind": "resnet", "stem": 8, "channels": [2**24], "blocks": [1]}},
        {"data": {"image_size": 64}, "train": {"batch_size": 1024}},
    ],
)
def test_what_no_machine_holds_is_refused_before_there_is_a_folder(monkeypatch, keys):
    monkeypatch.setattr(memory, "memory", lambda: 10**10)
    config = validate(keys, "x")
    data = prepare(config.data.read(), config.data)
    with pytest.raises(UserError, match=r"model, train\.batch_size: .* 10 GB"):
        build.build_model(config, data)
