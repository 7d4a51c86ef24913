"""The model of a run, finished or interrupted or exported, back in Python."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding
from jaxtyping import Array, Float32, UInt8

from dpet_jax.data.augment import normalise
from dpet_jax.data.view import WHOLE, View
from dpet_jax.errors import UserError
from dpet_jax.files import read_npz, read_yaml
from dpet_jax.methods.base import MAIN
from dpet_jax.models.network import Network, network_from_json
from dpet_jax.models.weights import nest
from dpet_jax.pretrained.pool import load_network
from dpet_jax.run.folder import CHECKPOINTS, CONFIG, CORESET, reading
from dpet_jax.training.checkpoint import Checkpoints


@dataclass(frozen=True)
class LoadedRun:
    """The model of a run and the examples it chose.

    Attributes:
        apply_fn: `apply_fn(params, images) -> logits`, float32[b k], in evaluation
            mode and in the dtype that the run computed in. Images are raw pixels,
            uint8[b h w c]; it normalises them itself.
        params: Parameters, for `apply_fn` and for gradients; those that were evaluated,
            which may be an average or rounded.
        batch_stats: Running statistics, which `apply_fn` closes over; empty where the
            network has none.
        model: The network.
        image_shape: Height, width and channels of stored images, which `apply_fn`
            takes; what the network sees of them is `view.shape(image_shape)`.
        class_names: One name a class, in label order.
        dataset: Name of the data set.
        mean: Per channel, of pixels in [0, 1], by which `apply_fn` normalises.
        std: Per channel likewise.
        compute_dtype: Name of the dtype in which `apply_fn` computes.
        coreset: What coreset.npz holds (source_rows, labels, round, score, …); None for
            a method that chooses no coreset or a run that did not end.
        view: What of each stored image `apply_fn` looks at.
    """

    apply_fn: Callable[[Any, UInt8[Array, "b h w c"]], Float32[Array, "b k"]]
    params: Any
    batch_stats: Any
    model: Network
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    dataset: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    compute_dtype: str
    coreset: dict[str, np.ndarray] | None
    view: View = WHOLE


def load_run(source: str | Path) -> LoadedRun:
    """Load the model of a run: of its latest checkpoint, or of an exported file.

    Args:
        source: A run folder, such as runs/quickstart/seed0, or a .safetensors file that
            `dpet export` wrote or that lies in a pool.

    Raises:
        UserError: If the folder holds no checkpoint, the file is damaged, or the class
            of its network cannot be imported.
    """
    source = Path(source)
    if source.is_file():
        return _of_file(source)
    if not (source / CHECKPOINTS).is_dir():
        raise UserError(
            f"{source}: holds no run; give a run folder such as runs/quickstart/seed0, "
            "or a file that dpet export has written"
        )
    with (
        reading(source),
        closing(Checkpoints(source / CHECKPOINTS, read_only=True)) as checkpoints,
    ):
        if checkpoints.latest is None:
            raise UserError(
                f"{source}: the run has no checkpoint yet; let it run on, with --resume"
            )
        checkpoints.check_whole()
        facts = checkpoints.read_meta()["facts"]
        model = _network(source, facts["model"])
        # in runs of an earlier version the last weights were evaluated
        like = _like(model)
        if facts.get("transforms_weights", False):
            weights = checkpoints.read_part(MAIN, {"evaluated": like})["evaluated"]
        else:
            weights = checkpoints.read_part(MAIN, like)
    # runs of an earlier version recorded it in their config alone
    dtype = facts.get("compute_dtype") or _dtype_of(source)
    return _loaded(model, weights, dtype, facts, _coreset(source / CORESET))


def _of_file(path: Path) -> LoadedRun:
    card, model, arrays = load_network(path)
    tree = jax.tree.map(jnp.asarray, nest(arrays))
    weights = {"params": tree["params"], "batch_stats": tree.get("batch_stats", {})}
    names = card.class_names or tuple(map(str, range(card.num_classes)))
    facts = card.model_dump() | {"class_names": names, "dataset": card.task}
    return _loaded(model, weights, card.compute_dtype, facts, None)


def _loaded(
    model: Network,
    weights: dict[str, Any],
    dtype: str,
    facts: dict[str, Any],
    coreset: dict[str, np.ndarray] | None,
) -> LoadedRun:
    mean, std = (jnp.array(facts[key], jnp.float32) for key in ("mean", "std"))
    batch_stats = weights["batch_stats"]
    # runs of an earlier version saw whole images, as they were stored
    view = View.model_validate(facts.get("view", {}))

    def apply_fn(params, images):
        normalised = normalise(view.of(jnp.asarray(images)), mean, std)
        return model.apply(params, batch_stats, normalised, dtype=dtype).logits

    height, width, channels = facts["image_shape"]
    return LoadedRun(
        apply_fn=apply_fn,
        params=weights["params"],
        batch_stats=batch_stats,
        model=model,
        image_shape=(height, width, channels),
        class_names=tuple(facts["class_names"]),
        dataset=facts["dataset"],
        mean=tuple(facts["mean"]),
        std=tuple(facts["std"]),
        compute_dtype=dtype,
        coreset=coreset,
        view=view,
    )


def _dtype_of(folder: Path) -> str:
    with reading(folder):
        return str(read_yaml(folder / CONFIG)["model"]["compute_dtype"])


def _network(folder: Path, plain: dict[str, Any]) -> Network:
    try:
        return network_from_json(plain)
    except ValueError as error:
        raise UserError(f"{folder}: its network cannot be rebuilt: {error}") from error


def _like(model: Network) -> dict[str, Any]:
    """Return the shapes of what is read, placed on the default device."""
    params, stats = model.abstract()
    place = SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        {"params": params, "batch_stats": stats},
    )


def _coreset(path: Path) -> dict[str, np.ndarray] | None:
    return read_npz(path) if path.exists() else None
