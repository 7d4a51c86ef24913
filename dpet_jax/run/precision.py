"""`compute_dtype: auto`: the cheapest precision whose first step points the same way.

The choice is made once, at the beginning of a run, and recorded in its folder; a run
that is resumed reads it there, for a time that is measured again is another time.
"""

import statistics
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpet_jax.config.experiment import Config
from dpet_jax.data import Data
from dpet_jax.data.augment import normalise
from dpet_jax.energy import EnergyMeter
from dpet_jax.files import read_json
from dpet_jax.models.network import TRAIN_FLOPS_PER_FORWARD, Network
from dpet_jax.run.folder import PRECISION, RunFolder, reading

AUTO = "auto"
#: From the most precise to the least. On a GPU float32 is what XLA makes of it, TF32
#: unless JAX is told otherwise; XLA has no convolution in eight bits to train with.
LADDER = ("float32", "bfloat16")
#: Least cosine of a gradient with the one in float32 throughout.
LEAST_COSINE = 0.99
_REPEATS = 5


class Rung(NamedTuple):
    """One precision of the ladder.

    Attributes:
        dtype: Its name.
        cosine: Of the first step's gradient with the one in float32 throughout.
        step_s: Median seconds of a gradient of one batch.
    """

    dtype: str
    cosine: float
    step_s: float


def settled(
    config: Config, data: Data, model: Network, folder: RunFolder, meter: EnergyMeter
) -> tuple[Config, dict[str, Any]]:
    """Choose the precision of a run, or read what it has chosen before.

    Args:
        config: The run's.
        data: Its data.
        model: Its network.
        folder: Its folder, in which the choice is recorded.
        meter: Attributes seconds and energy to the phase "precision".

    Returns:
        The config with a precision, and how it was chosen; {} where the config says it.
    """
    if config.model.compute_dtype != AUTO:
        return config, {}
    path = folder.path / PRECISION
    if not path.exists():
        with meter.window("precision"):
            batch = config.train.batch_size
            rungs = measured(model, data, batch, config.seed)
            height, width, _ = data.input_shape
            flops = TRAIN_FLOPS_PER_FORWARD * model.forward_flops(height, width)
            decision = {
                "chosen": chosen(rungs).dtype,
                "rule": f"the least seconds of a step among those with a cosine of "
                f"{LEAST_COSINE:g} or more; float32 where there is none",
                "rungs": [rung._asdict() for rung in rungs],
                "flops": flops * batch * (1 + len(rungs) * (1 + _REPEATS)),
            }
            folder.write_json(PRECISION, decision)
    with reading(folder.path):
        decision = read_json(path)
    section = config.model.model_copy(update={"compute_dtype": decision["chosen"]})
    return config.model_copy(update={"model": section}), decision


def said(decision: dict[str, Any]) -> str:
    """Return how a precision was chosen, in one line."""
    rungs = ", ".join(
        f"{rung['dtype']} {1000 * rung['step_s']:.3g} ms (cosine {rung['cosine']:.4f})"
        for rung in decision["rungs"]
    )
    return f"{decision['chosen']}, of {rungs} a step"


def chosen(rungs: Sequence[Rung]) -> Rung:
    """Return the rung with the fastest step of those that point the same way.

    Args:
        rungs: The most precise first, which it is where none does.
    """
    same = [rung for rung in rungs if rung.cosine >= LEAST_COSINE]
    return min(same, key=lambda rung: rung.step_s, default=rungs[0])


def measured(model: Network, data: Data, batch_size: int, seed: int) -> list[Rung]:
    """Measure the gradient of the first step in every precision of the ladder.

    Args:
        model: The network, drawn as the run will draw it.
        data: The first batch of its training split is used.
        batch_size: Of a step.
        seed: The run's.
    """
    params, stats = jax.jit(model.init)(jax.random.key(seed))
    mean, std = (jnp.asarray(each, jnp.float32) for each in (data.mean, data.std))
    pixels = data.view.of(jnp.asarray(np.asarray(data.images[:batch_size])))
    images = normalise(pixels, mean, std)
    labels = jnp.asarray(data.labels[:batch_size])

    def gradient(dtype: str) -> Any:
        def loss(params):
            outputs, _ = model.apply_train(
                jax.random.key(seed), params, stats, images, dtype=dtype
            )
            log_p = jax.nn.log_softmax(outputs.logits)
            return -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], axis=1))

        return jax.jit(jax.grad(loss))

    with jax.default_matmul_precision("highest"):
        exact = _flat(gradient("float32")(params))
    steps = {dtype: gradient(dtype) for dtype in LADDER}
    found = {dtype: _flat(step(params)) for dtype, step in steps.items()}
    seconds: dict[str, list[float]] = {dtype: [] for dtype in LADDER}
    for _ in range(_REPEATS):
        for dtype, step in steps.items():  # in turn, so that drift meets all
            began = time.perf_counter()
            jax.block_until_ready(step(params))
            seconds[dtype].append(time.perf_counter() - began)
    return [
        Rung(dtype, _cosine(found[dtype], exact), statistics.median(seconds[dtype]))
        for dtype in LADDER
    ]


def _flat(gradient: Any) -> np.ndarray:
    leaves = jax.device_get(jax.tree.leaves(gradient))
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in leaves])


def _cosine(left: np.ndarray, right: np.ndarray) -> float:
    """Return the cosine of two gradients; 0 where it is no number."""
    lengths = np.linalg.norm(left) * np.linalg.norm(right)
    cosine = left @ right / lengths if lengths else 0.0
    return float(cosine) if np.isfinite(cosine) else 0.0
