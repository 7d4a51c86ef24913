"""Read CIFAR in each form that people have it: archives, their folders, pictures."""

import re
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Int32, UInt8

from dpet_jax.data.decode import decode_images
from dpet_jax.data.source import check_labels
from dpet_jax.data.unpickle import unpickle_arrays
from dpet_jax.errors import UserError

Name: TypeAlias = Literal["cifar10", "cifar100"]

SIZE = 32
_PIXELS = 3 * SIZE * SIZE
_CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)


class _Label(NamedTuple):
    num_classes: int
    batch_key: str  # in a pickled batch
    names_key: str  # in the pickled meta file
    names_file: str  # in the binary archive


# By TFDS's names, in the order of the label bytes of a binary record.
_LABELS = {
    "cifar10": {"label": _Label(10, "labels", "label_names", "batches.meta.txt")},
    "cifar100": {
        "coarse_label": _Label(
            20, "coarse_labels", "coarse_label_names", "coarse_label_names.txt"
        ),
        "label": _Label(100, "fine_labels", "fine_label_names", "fine_label_names.txt"),
    },
}
_PICTURES = (".png", ".jpg", ".jpeg")
# What the members of the four official archives are called, without their folder.
_MEMBER = re.compile(
    r"(data_batch_\d+|test_batch|train|test)(\.bin)?|batches\.meta(\.txt)?|meta"
    r"|(fine|coarse)_label_names\.txt"
)


class Records(NamedTuple):
    """One split, in the order of its files.

    Attributes:
        images: Pixels, 0 to 255.
        labels: By TFDS's name of the label: `label`, for CIFAR-100 `coarse_label` too.
    """

    images: UInt8[np.ndarray, "n 32 32 3"]
    labels: dict[str, Int32[np.ndarray, " n"]]


class Cifar(NamedTuple):
    """Both splits, and for each label its class names or, if unknown, their number."""

    splits: dict[str, Records]
    classes: dict[str, list[str] | int]


def read_cifar(name: Name, path: Path) -> Cifar:
    """Read CIFAR-10 or CIFAR-100 from whatever form lies at a path.

    Archives are read in memory, never unpacked, and the pickles in them may build
    NumPy arrays and nothing else, so that a forged archive cannot run code.

    Args:
        name: Which of the two.
        path: The official Python or binary archive, the folder it unpacks to (or the
            one around it), or, for CIFAR-10, a folder {train,test}/<class>/*.png or
            .jpg.

    Returns:
        Rows in the order of the archive, or by class and file name for pictures.

    Raises:
        UserError: If nothing is there, a part is missing, or one is damaged.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; correct --from.")
    if (path / "train").is_dir() and (path / "test").is_dir():
        return _read_pictures(name, path)
    members = _folder_members(path) if path.is_dir() else _archive_members(path)
    ten = name == "cifar10"
    for suffix, read in (("", _read_pickle), (".bin", _read_binary)):
        pattern = r"data_batch_\d+" if ten else "train"
        train = [
            key for key in members if re.fullmatch(pattern + re.escape(suffix), key)
        ]
        test = f"test_batch{suffix}" if ten else f"test{suffix}"
        if train and test in members:
            train.sort(key=lambda key: (len(key), key))  # batch 10 after batch 9
            splits = {
                split: _join(
                    [read(name, members[key], f"{path}, {key}") for key in keys]
                )
                for split, keys in (("train", train), ("test", [test]))
            }
            return Cifar(splits, _class_names(name, members, path))
    wanted = "data_batch_1.. and test_batch" if ten else "train and test"
    raise UserError(
        f"{path}: no {wanted} (or the same with .bin) of {name}; it holds "
        f"{', '.join(sorted(members)) or 'no file of CIFAR'}. Give the official Python "
        "or binary archive, or the folder it unpacks to"
        f"{', or a folder {train,test}/<class>/*.png' if ten else ''}."
    )


def _folder_members(path: Path) -> dict[str, bytes]:
    folders = [
        path,
        *sorted(child for child in path.glob("cifar-10*") if child.is_dir()),
    ]
    files = (file for folder in folders for file in sorted(folder.iterdir()))
    found = [file for file in files if file.is_file() and _MEMBER.fullmatch(file.name)]
    _check_one_folder([(str(file.parent), file.name) for file in found], path)
    return {file.name: file.read_bytes() for file in found}


def _archive_members(path: Path) -> dict[str, bytes]:
    try:
        with tarfile.open(path) as archive:
            found = [
                (member, Path(member.name))
                for member in archive
                if member.isfile() and _MEMBER.fullmatch(Path(member.name).name)
            ]
            _check_one_folder([(str(p.parent), p.name) for _, p in found], path)
            members = {}
            for member, inside in found:
                file = archive.extractfile(member)
                members[inside.name] = b"" if file is None else file.read()
            return members
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise UserError(
            f"{path}: cannot be read as a tar archive ({error}); download it again, or "
            "give the folder it unpacks to."
        ) from error


def _check_one_folder(found: list[tuple[str, str]], path: Path) -> None:
    names = [name for _, name in found]
    twice = [f"{folder}/{name}" for folder, name in found if names.count(name) > 1]
    if twice:
        raise UserError(
            f"{path}: several files of one name: {', '.join(twice)}; give the folder "
            "of one set."
        )


def _read_pickle(name: Name, blob: bytes, place: str) -> Records:
    batch = unpickle_arrays(blob, place)
    kinds = _LABELS[name]
    wanted = ["data", *(kind.batch_key for kind in kinds.values())]
    missing = [key for key in wanted if key not in batch]
    if missing:
        raise UserError(
            f"{place}: no {', '.join(missing)}; it holds {', '.join(batch)}. Is this "
            f"the archive of {name}?"
        )
    data = batch["data"]
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8:
        kind = getattr(data, "dtype", type(data).__name__)
        raise UserError(f"{place}, data: {kind} instead of an array of uint8.")
    if data.ndim != 2 or data.shape[1] != _PIXELS:
        raise UserError(
            f"{place}, data: shape {data.shape} instead of [n {_PIXELS}]: images must "
            f"be {SIZE} x {SIZE} x 3."
        )
    labels = {}
    for label, kind in kinds.items():
        raw = np.asarray(batch[kind.batch_key])
        if len(raw) != len(data):
            raise UserError(
                f"{place}: {len(data)} images but {len(raw)} {kind.batch_key}; each "
                "image needs one. Download the archive again."
            )
        labels[label] = check_labels(
            raw, f"{place}, {kind.batch_key}", kind.num_classes
        )
    return Records(_channels_last(data), labels)


def _read_binary(name: Name, blob: bytes, place: str) -> Records:
    kinds = _LABELS[name]
    width = len(kinds) + _PIXELS
    if not blob or len(blob) % width:
        raise UserError(
            f"{place}: {len(blob)} bytes are no whole number of records of {width}; "
            f"the file is cut short, or no binary file of {name}. Download it again."
        )
    rows = np.frombuffer(blob, np.uint8).reshape(-1, width)
    labels = {
        label: check_labels(rows[:, i], f"{place}, {label}", kind.num_classes)
        for i, (label, kind) in enumerate(kinds.items())
    }
    return Records(_channels_last(rows[:, len(kinds) :]), labels)


def _channels_last(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pixels.reshape(-1, 3, SIZE, SIZE).transpose(0, 2, 3, 1))


def _join(parts: list[Records]) -> Records:
    return Records(
        np.concatenate([part.images for part in parts]),
        {
            label: np.concatenate([part.labels[label] for part in parts])
            for label in parts[0].labels
        },
    )


def _class_names(
    name: Name, members: dict[str, bytes], path: Path
) -> dict[str, list[str] | int]:
    pickled = "batches.meta" if name == "cifar10" else "meta"
    meta = (
        unpickle_arrays(members[pickled], f"{path}, {pickled}")
        if pickled in members
        else {}
    )
    classes: dict[str, list[str] | int] = {}
    for label, kind in _LABELS[name].items():
        if kind.names_key in meta:
            texts = meta[kind.names_key]
            names = [n.decode() if isinstance(n, bytes) else str(n) for n in texts]
        elif kind.names_file in members:
            names = members[kind.names_file].decode(errors="replace").split()
        elif name == "cifar10":
            names = list(_CIFAR10_CLASSES)
        else:
            classes[label] = kind.num_classes
            continue
        if len(set(names)) != kind.num_classes:
            raise UserError(
                f"{path}: {len(set(names))} class names for {label}, but {name} has "
                f"{kind.num_classes}; download the archive again."
            )
        classes[label] = names
    return classes


def _read_pictures(name: Name, path: Path) -> Cifar:
    if name == "cifar100":
        raise UserError(
            f"{path}: folders of classes do not say the 20 coarse labels that "
            "cifar100 has in TFDS; give the official archive, Python or binary."
        )
    splits = {}
    for split in ("train", "test"):
        files: list[Path] = []
        labels: list[int] = []
        for folder in sorted(
            child for child in (path / split).iterdir() if child.is_dir()
        ):
            if folder.name not in _CIFAR10_CLASSES:
                raise UserError(
                    f"{folder}: no class of cifar10; rename it to one of "
                    f"{', '.join(_CIFAR10_CLASSES)}."
                )
            found = [
                f for f in sorted(folder.iterdir()) if f.suffix.lower() in _PICTURES
            ]
            files += found
            labels += [_CIFAR10_CLASSES.index(folder.name)] * len(found)
        if not files:
            raise UserError(
                f"{path / split}: no pictures; needed are {split}/<class>/*.png or "
                ".jpg, with the names of the classes of cifar10."
            )
        images = decode_images([file.read_bytes() for file in files], _namer(files))
        if images.shape[1:3] != (SIZE, SIZE):
            raise UserError(
                f"{files[0]}: {images.shape[1]} x {images.shape[2]} pixels, but "
                f"cifar10 has {SIZE} x {SIZE}; resize the pictures."
            )
        images = np.broadcast_to(images, (*images.shape[:3], 3))  # greys to RGB
        splits[split] = Records(images, {"label": np.array(labels, np.int32)})
    return Cifar(splits, {"label": list(_CIFAR10_CLASSES)})


def _namer(files: list[Path]) -> Callable[[int], str]:
    return lambda row: str(files[row])
