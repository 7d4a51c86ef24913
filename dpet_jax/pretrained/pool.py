"""A folder of pre-trained networks: for each its weights with a card about it.

A network is one safetensors file whose header holds its card, so that there is no
index that could be torn, and any number of processes may add and remove at once. It
never imports JAX.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import ConfigDict, Field, ValidationError, model_validator

from dpet_jax.data.view import WHOLE, View
from dpet_jax.errors import UserError
from dpet_jax.models.network import Network, network_from_json
from dpet_jax.models.packed import Form, unpacked
from dpet_jax.models.weights import (
    Arrays,
    WeightsError,
    check_names,
    read_card,
    read_weights,
    write_weights,
)
from dpet_jax.section import (
    LARGEST_COUNT,
    Count,
    NonNegative,
    Number,
    Positive,
    Section,
    Side,
    UpToOne,
    check_file_name,
    shown,
)

SUFFIX = ".safetensors"

_Large = Annotated[int, Field(ge=1, le=2**53), Number]

Quality = Literal["measured", "modelled", "unavailable"]


class Training(Section):
    """What training a network has cost.

    Attributes:
        wh: Energy; None where nobody knows.
        quality: How well it is known.
        seconds: Without evaluation; None where nobody knows.
        flops: By the count of this project; None where nobody knows.
        epochs: Full-pass equivalents; None where nobody knows.
    """

    wh: NonNegative | None = None
    quality: Quality = "unavailable"
    seconds: NonNegative | None = None
    flops: NonNegative | None = None
    epochs: NonNegative | None = None


class Card(Section):
    """What is known about a pre-trained network.

    Attributes:
        name: Its name in the pool.
        label: What people call it, such as "ResNet-18".
        network: What `network_from_json` rebuilds it from.
        model: The model section of the config that built it; None for weights that
            come from elsewhere.
        task: Name of the data set that it was trained on.
        num_classes: Of that data set.
        class_names: In the order of its outputs; None where nobody says.
        image_shape: Height, width and channels of the stored images that it was
            trained on.
        view: What of each of them it sees.
        mean: Per channel, of pixels in [0, 1], by which its inputs were normalised.
        std: Per channel likewise.
        compute_dtype: In which it was trained.
        num_parameters: Running statistics not counted.
        flops_per_image: Of a forward pass at its own image size.
        joules_per_image: Of a training visit, as measured there; None if it was not.
        accuracy: On the test split of its task; None where nobody knows.
        training: What it has cost.
        form: In which its arrays are stored.
        licence: Under which it may be used; None where nobody says.
        origin: Where it comes from: "run …", a file's name or an id on the hub.
        fingerprint: SHA-256 of its arrays.
    """

    # "model" and "model_…" are words of ours
    model_config = ConfigDict(protected_namespaces=())

    name: str
    label: str
    network: dict[str, Any]
    model: dict[str, Any] | None = None
    task: str
    num_classes: Annotated[int, Field(ge=2, le=LARGEST_COUNT), Number]
    class_names: tuple[str, ...] | None = None
    image_shape: tuple[Side, Side, Count]
    view: View = WHOLE
    mean: tuple[NonNegative, ...]
    std: tuple[Positive, ...]
    compute_dtype: str = "float32"
    num_parameters: _Large
    flops_per_image: _Large
    joules_per_image: NonNegative | None = None
    accuracy: UpToOne | None = None
    training: Training = Training()
    form: Form = "f32"
    licence: str | None = None
    origin: str
    fingerprint: str = ""

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of what the network sees."""
        return self.view.shape(self.image_shape)

    @model_validator(mode="after")
    def _a_number_a_channel(self) -> "Card":
        channels = self.image_shape[2]
        if not len(self.mean) == len(self.std) == channels or min(self.std) <= 0:
            raise ValueError(
                f"mean {self.mean} and std {self.std} do not fit {channels} channels"
            )
        return self


class ModelPool:
    """A folder of pre-trained networks.

    Args:
        path: The folder; made when the first network is added.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, card: Card, arrays: Arrays) -> Card:
        """Add a network, whole or not at all, whoever else adds and removes.

        Args:
            card: About it; gets the fingerprint.
            arrays: By flat names, "params/…" and "batch_stats/…".

        Raises:
            UserError: If there is one of its name, or the folder cannot be written.
        """
        path = self._file(card.name)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            full = write_weights(
                path, arrays, card.model_dump(mode="json"), exclusive=True
            )
        except FileExistsError as error:
            if not self.path.is_dir():
                raise UserError(
                    f"{self.path}: is no folder; choose another with --pool=DIR"
                ) from error
            raise UserError(
                f"{self.path}: holds {card.name!r} already; choose another --name, or "
                f"take that one out with: dpet pool remove {card.name}"
            ) from error
        return _card(path, full)

    def names(self) -> list[str]:
        """Return the names of all networks, in order.

        Raises:
            UserError: If there is no pool, or nothing in it.
        """
        found = []
        if self.path.is_dir():
            found = sorted(p.stem for p in self.path.glob(f"*{SUFFIX}") if p.is_file())
        if not found:
            raise UserError(
                f"{self.path}: holds no pre-trained network; add one with: dpet pool "
                f"add RUN --name=NAME --pool={self.path}"
            )
        return found

    def card(self, name: str) -> Card:
        """Read the card of a network.

        Raises:
            UserError: If there is no such network, or its file is damaged.
        """
        path = self._existing(name)
        return _card(path, read_card(path))

    def load(self, name: str) -> tuple[Card, Network, Arrays]:
        """Read a network.

        Raises:
            UserError: If there is none of that name, its file is damaged, or it cannot
                be rebuilt.
        """
        path = self._existing(name)
        return load_network(path)

    def remove(self, name: str) -> None:
        """Take a network out, damaged or not.

        Raises:
            UserError: If there is none of that name.
        """
        path = self._existing(name)
        try:
            path.unlink()
        except FileNotFoundError:  # somebody else has just taken it out
            self._existing(name)

    def _file(self, name: str) -> Path:
        try:
            check_file_name(f"{name}{SUFFIX}")
            if name.startswith((".", "-")) or name != name.strip() or not name:
                raise ValueError(
                    f"{shown(name)} begins or ends with what names do not; choose "
                    "letters, digits, '-', '_' and '.'"
                )
        except ValueError as error:
            raise UserError(f"--name: {error}") from error
        return self.path / f"{name}{SUFFIX}"

    def _existing(self, name: str) -> Path:
        path = self._file(name)
        if not path.is_file():
            there = ", ".join(self.names()[:20])
            raise UserError(f"{self.path}: holds no {name!r}; there is {there}")
        return path


def load_network(path: Path) -> tuple[Card, Network, Arrays]:
    """Read a network from a file with a card, its arrays as float32.

    Raises:
        UserError: If it is no such file, is damaged or cannot be rebuilt.
    """
    arrays, plain = read_weights(path)
    card = _card(path, plain)
    try:
        network = network_from_json(card.network)
    except (ValueError, TypeError, LookupError) as error:
        raise WeightsError(
            f"{path}: its network cannot be rebuilt: {error}; install what it needs, "
            f"or take it out with: dpet pool remove {card.name}"
        ) from error
    arrays = unpacked(arrays)
    check_names(path, arrays, network.shapes(), network.label)
    return card, network, arrays


def _card(path: Path, plain: dict[str, Any]) -> Card:
    if not plain:
        raise WeightsError(
            f"{path}: has no card, so that nobody knows what it is; add weights of "
            f"other programs with: dpet pool add {path} --name=NAME"
        )
    try:
        card = Card.model_validate(plain)
    except ValidationError as error:
        first = error.errors()[0]
        raise WeightsError(
            f"{path}: damaged: its card has {'.'.join(map(str, first['loc']))}: "
            f"{first['msg']}; put the file back as it was, or take it out with: dpet "
            f"pool remove {path.stem}"
        ) from error
    # a file that was renamed goes by its new name
    return card.model_copy(update={"name": path.stem})


def arrays_of(params: Any, stats: Any) -> Arrays:
    """Return parameters and running statistics by flat names, as NumPy arrays."""
    from dpet_jax.models.weights import flatten

    tree = {"params": params, "batch_stats": stats}
    return {name: np.asarray(leaf) for name, leaf in flatten(tree).items()}
