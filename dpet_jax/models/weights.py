"""A network's arrays and a card about it, in one safetensors file.

Nothing in such a file can be executed, unlike in a pickle. The card is JSON in the
file's header, so that it and the arrays are written together or not at all, and can be
read without the arrays. The format itself has no checksum; the card holds one.
"""

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from dpet_jax.errors import UserError
from dpet_jax.files import appearing, replacing

#: Key of the card in the header, whose values are texts.
_CARD = "dpet_card"
#: Key of the card under which the hash of the arrays stands.
FINGERPRINT = "fingerprint"
#: Names that a message shows, of those that are missing or too many.
_SHOWN = 5

Arrays = dict[str, np.ndarray]
Tree = dict[str, Any]


class WeightsError(UserError):
    """A file holds no weights, or others than are wanted."""


def flatten(tree: Mapping[str, Any], name: str = "") -> dict[str, Any]:
    """Return the leaves of nested dicts by flat names, as in "params/head/kernel"."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{name}/{key}" if name else str(key)
        if isinstance(value, Mapping):
            flat |= flatten(value, path)
        else:
            flat[path] = value
    return flat


def nest(arrays: Mapping[str, Any]) -> Tree:
    """Return nested dicts from flat names: the inverse of `flatten`."""
    tree: Tree = {}
    for name, value in arrays.items():
        *outer, last = name.split("/")
        inside = tree
        for key in outer:
            inside = inside.setdefault(key, {})
        inside[last] = value
    return tree


def fingerprint(arrays: Mapping[str, np.ndarray]) -> str:
    """Return a SHA-256 of names, types, shapes and values; the order is immaterial."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = _plain(arrays[name])
        digest.update(f"{name} {array.dtype.name} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def write_weights(
    path: Path,
    arrays: Mapping[str, Any],
    card: Mapping[str, Any],
    *,
    exclusive: bool = False,
) -> dict[str, Any]:
    """Write arrays and a card so that the file is whole or absent.

    Args:
        path: The file.
        arrays: By name, NumPy's or JAX's; of any type that safetensors has, bfloat16
            and int8 among them.
        card: Plain data, as JSON takes it; gets the fingerprint of the arrays.
        exclusive: Refuse to replace a file, even one that appears meanwhile.

    Returns:
        The card as written.

    Raises:
        FileExistsError: If there is such a file and `exclusive` is set.
    """
    from safetensors.numpy import save

    # the library copies memory as it lies, from the first element on
    whole = {name: _plain(array) for name, array in arrays.items()}
    full = {**card, FINGERPRINT: fingerprint(whole)}
    content = save(whole, {_CARD: json.dumps(full, allow_nan=False)})
    writing = appearing if exclusive else replacing
    with writing(path) as temporary:
        temporary.write_bytes(content)
    return full


def read_weights(path: Path) -> tuple[Arrays, dict[str, Any]]:
    """Read all arrays, and the card; {} for a file that another program has written.

    Raises:
        WeightsError: If it is no such file, or no longer as it was written.
    """
    with _opened(path) as file:
        card = _card(path, file.metadata())
        arrays = {name: _tensor(path, file, name) for name in file.keys()}  # noqa: SIM118
    written = card.get(FINGERPRINT)
    if written is not None and fingerprint(arrays) != written:
        raise WeightsError(
            f"{path}: damaged: its arrays are not those that were written (their "
            "fingerprint differs); copy or make it anew"
        )
    return arrays, card


def read_card(path: Path) -> dict[str, Any]:
    """Read the card alone; {} for a file that another program has written.

    Raises:
        WeightsError: As `read_weights`, but arrays are not looked at.
    """
    with _opened(path) as file:
        return _card(path, file.metadata())


def check_names(
    path: Path, arrays: Mapping[str, Any], wanted: Mapping[str, Any], what: str
) -> None:
    """Refuse arrays of other names or shapes than a network has.

    Args:
        path: The file that they come from.
        arrays: What it holds, by name.
        wanted: Arrays, or anything with a shape, by name.
        what: They are for, such as "ResNet-18".

    Raises:
        WeightsError: With all names that are missing, too many or of another shape.
    """
    problems = []
    missing, extra = (
        sorted(wanted.keys() - arrays.keys()),
        sorted(arrays.keys() - wanted.keys()),
    )
    if missing:
        problems.append(f"lacks {_some(missing)}")
    if extra:
        problems.append(f"has {_some(extra)} besides")
    shapes = [
        f"{name} is {tuple(arrays[name].shape)}, not {tuple(wanted[name].shape)}"
        for name in sorted(wanted.keys() & arrays.keys())
        if tuple(arrays[name].shape) != tuple(wanted[name].shape)
    ]
    problems += [_some(shapes)] if shapes else []
    if problems:
        raise WeightsError(
            f"{path}: holds no weights of {what}: {'; '.join(problems)}; choose the "
            "file that belongs to it"
        )


def _plain(array: Any) -> np.ndarray:
    """Return an array whose values lie one after the other, the first byte least."""
    found = np.asarray(array)
    return np.asarray(found, found.dtype.newbyteorder("<"), order="C")


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN
    text = ", ".join(names[:_SHOWN])
    return f"{text} and {more} more" if more > 0 else text


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a file, and turn all that is wrong with it into one message."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise WeightsError(
            f"{path}: no such file, or no regular one; give the path of a .safetensors "
            "file"
        )
    try:
        file = safe_open(path, framework="numpy")
    except SafetensorError as error:
        raise WeightsError(f"{path}: {_what_it_is(path, error)}") from error
    with file:
        yield file


def _what_it_is(path: Path, error: Exception) -> str:
    """Return what a file is that is no whole safetensors file, and what to do."""
    with path.open("rb") as file:
        begin = file.read(2)
    # pickles begin with their protocol, PyTorch's newer ones are zip archives of one
    pickled = begin[:1] == b"\x80" and begin[1:] in (b"\x02", b"\x03", b"\x04", b"\x05")
    if pickled or zipfile.is_zipfile(path):
        return (
            "is a pickle or an archive, which may run any program when it is opened; "
            "convert it to safetensors where it comes from"
        )
    return (
        f"is no whole safetensors file ({' '.join(str(error).split())}); copy or "
        "download it again"
    )


def _card(path: Path, metadata: Mapping[str, str] | None) -> dict[str, Any]:
    text = (metadata or {}).get(_CARD)
    if text is None:
        return {}
    try:
        card = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WeightsError(
            f"{path}: damaged: its card is no JSON ({error}); copy or make it anew"
        ) from error
    if not isinstance(card, dict):
        raise WeightsError(
            f"{path}: damaged: its card is no JSON object; copy or make it anew"
        )
    return card


def _tensor(path: Path, file: Any, name: str) -> np.ndarray:
    read: Callable[[str], np.ndarray] = file.get_tensor
    try:
        return read(name)
    except Exception as error:  # types that numpy lacks, each with its own exception
        raise WeightsError(
            f"{path}: {name} cannot be read as an array ({error}); convert it to "
            "float32"
        ) from error
