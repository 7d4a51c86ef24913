"""Weights that other programs have written: a file, a snapshot folder, a hub's id.

They are safetensors files in the layout of torchvision's and timm's ResNets. Pickles
are refused: opening one may run any program.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dpet_jax.errors import UserError
from dpet_jax.files import read_json
from dpet_jax.models.torch_layout import from_torch, is_torch_layout
from dpet_jax.models.weights import Arrays, WeightsError, read_weights
from dpet_jax.pretrained.pool import Card, load_network

#: Begins the name of a network on the Hugging Face hub: "hf:timm/resnet18.a1_in1k".
HUB = "hf:"
#: Of a repository on the hub, and of a snapshot of one.
_WEIGHTS, _CONFIG = "model.safetensors", "config.json"
#: By which torchvision and timm normalise ImageNet, unless told otherwise.
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_IMAGENET_SIDE = 224


class Told(NamedTuple):
    """What the user says of weights that say nothing of themselves; None for nothing.

    Attributes:
        task: What they were trained on.
        licence: Under which they may be used.
        size: Pixels a side that they were trained on.
        mean: By channel.
        std: By channel.
    """

    task: str | None = None
    licence: str | None = None
    size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def read_external(source: str, name: str, told: Told) -> tuple[Card, Arrays]:
    """Read weights from a file, a snapshot folder or the hub.

    Args:
        source: A path, or "hf:" with an id on the hub.
        name: That they get in the pool.
        told: What the user says of them.

    Returns:
        A card without fingerprint, and arrays by our names.

    Raises:
        UserError: If there are none, they are of no known layout, or it is not known
            how inputs are normalised.
    """
    folder = fetched(source.removeprefix(HUB)) if source.startswith(HUB) else None
    path = Path(source) if folder is None else folder
    config: dict[str, Any] = {}
    if path.is_dir():
        config = read_json(path / _CONFIG) if (path / _CONFIG).is_file() else {}
        path = path / _WEIGHTS
    arrays, plain = read_weights(path)
    if plain:
        card, _, arrays = load_network(path)
        beside = told._replace(licence=None)._asdict()
        given = [f"--{key}" for key, value in beside.items() if value is not None]
        if given:
            raise UserError(f"{given[0]}: the card in {path} says that itself; drop it")
        update = {"name": name}
        if told.licence is not None:
            update["licence"] = told.licence
        return card.model_copy(update=update), arrays
    if not is_torch_layout(arrays):
        some = ", ".join(sorted(arrays)[:3]) or "nothing"
        raise WeightsError(
            f"{path}: is in no layout that is known here (it holds {some}, …); give a "
            "ResNet-18, -34 or -50 of torchvision or timm, or a file of a pool"
        )
    network, arrays = from_torch(path, arrays)
    mean, std, size = _inputs(path, config, told, network)
    shown = f"the hub's {source.removeprefix(HUB)}" if folder else path.name
    parameters = sum(a.size for n, a in arrays.items() if n.startswith("params/"))
    return Card(
        name=name,
        label=network.label,
        network=network.to_json(),
        task=told.task or _task(config) or "not told",
        num_classes=network.num_classes,
        class_names=_class_names(config, network.num_classes),
        image_shape=(size, size, network.in_channels),
        mean=mean,
        std=std,
        num_parameters=parameters,
        flops_per_image=network.forward_flops(size, size),
        licence=told.licence or config.get("license"),
        origin=shown,
    ), arrays


def fetched(repository: str) -> Path:
    """Return the folder of a hub repository's snapshot, fetched if it is not here yet.

    Raises:
        UserError: If `huggingface_hub` is not installed, or there is no such repository
            within reach.
    """
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError as error:
        raise UserError(
            f"{HUB}{repository}: needs huggingface_hub, which is not installed; "
            "install it with: pip install 'dpet-jax[hub]', or download "
            "model.safetensors and config.json and give their folder"
        ) from error
    wanted = [_WEIGHTS, _CONFIG]
    try:
        # what is in the hub's cache needs no network
        here = Path(
            snapshot_download(repository, allow_patterns=wanted, local_files_only=True)
        )
        if (here / _WEIGHTS).is_file():
            return here
    except Exception:  # of many kinds; the next attempt says what is wrong
        pass
    try:
        here = Path(snapshot_download(repository, allow_patterns=wanted))
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        raise UserError(
            f"{HUB}{repository}: cannot be fetched ({type(error).__name__}: {text}); "
            "check the name and the network, or give the folder of a snapshot"
        ) from error
    if not (here / _WEIGHTS).is_file():
        raise UserError(
            f"{HUB}{repository}: has no {_WEIGHTS}; pickles are not opened, so choose "
            "a repository that has one"
        )
    return here


def _inputs(
    path: Path, config: dict[str, Any], told: Told, network: Any
) -> tuple[tuple[float, ...], tuple[float, ...], int]:
    """Return mean, standard deviation and size of what the network reads."""
    # timm keeps them at either place, by version
    said = {**config, **_dict(config.get("pretrained_cfg"))}
    imagenet = network.stem_kind == "imagenet" and network.in_channels == 3
    mean = told.mean or _numbers(said.get("mean"))
    std = told.std or _numbers(said.get("std"))
    shape = _numbers(said.get("input_size"))
    size = told.size or (int(shape[-1]) if shape else None)
    if imagenet:
        mean, std = mean or _IMAGENET_MEAN, std or _IMAGENET_STD
        size = size or _IMAGENET_SIDE
    if mean is None or std is None or size is None:
        raise UserError(
            f"{path}: does not say how its inputs were normalised, nor their size; "
            "give --mean=R,G,B --std=R,G,B (of pixels in [0, 1]) and --size=PIXELS"
        )
    for key, values in (("mean", mean), ("std", std)):
        low = 0.0 if key == "mean" else 1e-6
        if len(values) != network.in_channels or not all(
            math.isfinite(v) and low <= v for v in values
        ):
            raise UserError(
                f"--{key}: {values} does not fit {network.in_channels} channels of "
                "pixels in [0, 1]; give one number a channel"
            )
    return mean, std, size


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _numbers(value: Any) -> tuple[float, ...] | None:
    plain = isinstance(value, Sequence) and not isinstance(value, str)
    if not plain or not all(isinstance(v, int | float) for v in value):
        return None
    return tuple(map(float, value))


def _task(config: dict[str, Any]) -> str | None:
    tag = _dict(config.get("pretrained_cfg")).get("tag")
    return tag if isinstance(tag, str) and tag else None


def _class_names(config: dict[str, Any], num_classes: int) -> tuple[str, ...] | None:
    names = config.get("label_names")
    if not isinstance(names, list) or len(names) != num_classes:
        return None
    return tuple(map(str, names))
