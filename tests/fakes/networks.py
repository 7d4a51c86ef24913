"""Networks and data so small that a test compiles them in a moment."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from dpet_jax.data import Data
from dpet_jax.data.augment import Augmentation
from dpet_jax.models.flax_network import FlaxNetwork
from dpet_jax.models.network import ModelSection, Network
from dpet_jax.models.resnet import ResidualNetwork
from dpet_jax.section import Count, Share
from dpet_jax.training.learner import data_mesh
from dpet_jax.training.network import DeviceNetwork
from dpet_jax.training.optimizer import OptimizerSection, Sgd
from dpet_jax.training.placement import HostData
from dpet_jax.training.schedule import Constant, traced_schedule
from dpet_jax.training.scoring import ScoreSpec
from dpet_jax.training.state import DeviceData, StepSpec
from dpet_jax.training.steps import Hyper
from dpet_jax.training.traced import numbers_of, without_numbers

#: The residual network of tests: for 8x8 images of one channel and three classes.
TINY = ResidualNetwork(8, (8,), (1,), num_classes=3, in_channels=1)
SHAPE = (8, 8, 1)


class Mlp(nn.Module):
    """Two dense layers; gives logits alone."""

    width: int
    num_classes: int

    @nn.compact
    def __call__(self, images):
        x = nn.relu(nn.Dense(self.width)(images.reshape(images.shape[0], -1)))
        return nn.Dense(self.num_classes)(x)


class MlpModel(ModelSection):
    """A user's own model: a perceptron."""

    width: Count = 16

    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> Network:
        module = Mlp(self.width, num_classes)
        return FlaxNetwork(self, module, num_classes, image_shape)

    def narrower(self, network: Any, share: float) -> Network:
        slim = self.model_copy(update={"width": max(1, int(share * self.width))})
        return slim.build(network.num_classes, network.image_shape)


class MlpFamily(MlpModel):
    """A user's own family: perceptrons of three widths."""

    scales: ClassVar[tuple[float, ...]] = (0.5, 1.0, 2.0)

    def scaled(self, scale: float) -> "MlpFamily":
        return self.model_copy(update={"width": round(16 * scale)})


class Vit(nn.Module):
    """A vision transformer of one block and one head; gives features too."""

    patch: int
    width: int
    num_classes: int
    dropout: float

    @nn.compact
    def __call__(self, images, train: bool = False):
        side = self.patch
        x = nn.Conv(self.width, (side, side), (side, side), name="patches")(images)
        x = x.reshape(x.shape[0], -1, self.width)
        x += self.param("position", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        y = nn.LayerNorm()(x)
        x += nn.MultiHeadDotProductAttention(num_heads=1)(y)
        y = nn.gelu(nn.Dense(2 * self.width)(nn.LayerNorm()(x)))
        x += nn.Dense(self.width)(nn.Dropout(self.dropout)(y, deterministic=not train))
        features = nn.LayerNorm()(x).mean(axis=1)
        return nn.Dense(self.num_classes)(features), features


class VitModel(ModelSection):
    """A user's own model: a vision transformer."""

    patch: Count = 4
    width: Count = 8
    dropout: Share = 0.0

    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> Network:
        module = Vit(self.patch, self.width, num_classes, self.dropout)
        return FlaxNetwork(self, module, num_classes, image_shape)


class Normalised(nn.Module):
    """A convolution and batch normalisation; the last layer is no dense one."""

    num_classes: int

    @nn.compact
    def __call__(self, images, train: bool):
        x = nn.Conv(self.num_classes, (3, 3), use_bias=False)(images)
        return nn.BatchNorm(use_running_average=not train)(x).mean(axis=(1, 2))


class NormalisedModel(ModelSection):
    """A user's own model: batch normalisation."""

    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> Network:
        module = Normalised(num_classes)
        return FlaxNetwork(self, module, num_classes, image_shape)


#: Rows of the training split, of all splits, of a training step and of a scoring step.
NUM_TRAIN, NUM, BATCH, SCORE_BATCH = 12, 20, 4, 4
NAMES = ("margin", "cross_entropy", "zero_one")


def bright_images(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw uint8 images of three classes that differ in brightness, and the classes."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, count).astype(np.int32)
    noise = rng.integers(0, 80, (count, *SHAPE))
    return (noise + 80 * labels[:, None, None, None]).astype(np.uint8), labels


def normalised(images: np.ndarray) -> Any:
    """Return float32 images as a network reads them."""
    return jnp.asarray((images / 255 - 0.5) / 0.25, jnp.float32)


def bright_data() -> Data:
    """Return the images of `device_data` as a run reads them, no validation split."""
    images, labels = bright_images(NUM)
    return Data(
        name="bright",
        images=images,
        labels=labels,
        num_train=NUM_TRAIN,
        num_validation=0,
        num_test=NUM - NUM_TRAIN,
        source_rows=np.arange(NUM),
        class_names=("a", "b", "c"),
        mean=np.full(1, 0.5, np.float32),
        std=np.full(1, 0.25, np.float32),
        fingerprint="f",
        noisy_rows=np.zeros(0, np.int64),
        clean_labels=np.zeros(0, np.int32),
    )


def device_data() -> DeviceData:
    """Return `NUM` images of three classes."""
    half, quarter = np.full(1, 0.5, np.float32), np.full(1, 0.25, np.float32)
    return DeviceData(*bright_images(NUM), half, quarter)


def device_network(  # noqa: PLR0913
    network: Network = TINY,
    *,
    optimizer: OptimizerSection = Sgd(),  # noqa: B008
    names: tuple[str, ...] = NAMES,
    dtype: str = "float32",
    seed: int = 0,
    num_devices: int = 1,
    margins: bool = False,
    ema: float | None = None,
    quantize: tuple[int, float] | None = None,
    start: Any = None,
    room: int | None = None,
) -> DeviceNetwork:
    """Put a network on the device beside `device_data`, and compile its programs.

    It trains at a constant rate, on images that are shifted and mirrored. They are on
    the host where there is `room` for so many bytes of them alone.
    """
    mesh = data_mesh(num_devices)
    numbers = without_numbers(optimizer)
    bits, quantize_from = quantize or (None, None)
    step = StepSpec(
        network,
        numbers,
        BATCH,
        dtype,
        mesh,
        margins=margins,
        averaged=ema is not None,
        bits=bits,
    )
    score = ScoreSpec(network, names, SCORE_BATCH, dtype, mesh)
    hyper = Hyper(
        traced_schedule(Constant(), optimizer.learning_rate),
        numbers_of(optimizer),
        np.float32(0),
        Augmentation(np.int32(1), np.bool_(True), np.int32(0)),
        None if ema is None else np.float32(ema),
        None if quantize_from is None else np.float32(quantize_from),
    )
    data: Any = jax.device_put(device_data(), NamedSharding(mesh, PartitionSpec()))
    if room is not None:
        data = HostData(bright_data(), room, BATCH, SCORE_BATCH, mesh)
    made = DeviceNetwork(step, score, data, NUM_TRAIN, hyper, seed, start)
    list(made.compile())
    return made
