"""CIFAR-10 and CIFAR-100 as their authors publish them, read as they are."""

import os
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8
from pydantic import Field

from dpet_jax.data.archive import read_members
from dpet_jax.data.class_folders import entries
from dpet_jax.data.source import (
    DataSection,
    ImageSet,
    Source,
    check_labels,
    make_source,
)
from dpet_jax.data.unpickle import RefusedPickleError, unpickle
from dpet_jax.errors import UserError
from dpet_jax.section import UserPath

SIZE = 32
_PIXELS = 3 * SIZE * SIZE
# Images in a file of CIFAR-10; the training file of CIFAR-100 has five times as many.
_BATCH_ROWS = 10_000
# A pickled batch has labels and file names beside the pixels, 34 bytes a row.
_OTHER_BYTES_A_ROW = 64
_STEPS_A_ROW = 8  # of a pickle; the official ones take 3 or 4
_MAX_NAMES_BYTES = 4096
_REMEDY = "download the official archive again"

_Labels = Literal["fine", "coarse"]
_NUM_CLASSES = {"cifar10": {"fine": 10}, "cifar100": {"coarse": 20, "fine": 100}}


class Cifar(DataSection):
    """The official CIFAR-10 or CIFAR-100 archive, python or binary, read as it is.

    Packed (.tar.gz) or unpacked; which of the two data sets it is shows inside. The
    archive is read in memory, and nothing in it is run.

    Source:
        Krizhevsky (2009), "Learning Multiple Layers of Features from Tiny Images".
    """

    kind: Literal["cifar"] = "cifar"
    path: UserPath = Field(description="the archive, or the folder it unpacks to")
    labels: _Labels = Field(
        "fine", description="of CIFAR-100: its 100 classes, or their 20 groups"
    )

    def read(self) -> Source:
        """Read both splits, rows in the order of the archive."""
        at = _folder_of_members(self.path)
        version, parts = _read_parts(at)
        if self.labels not in version.label_keys:
            raise UserError(
                f"data.labels is {self.labels}, but {at} is {version.data_set}, which "
                "has one kind of label; leave the key away."
            )
        member, _ = version.names[self.labels]
        names = parts[member][self.labels]
        places = (f"{at} train", f"{at} test")
        train, test = (
            ImageSet(
                np.concatenate([parts[file].images for file in files]),
                np.concatenate([parts[file].labels[self.labels] for file in files]),
            )
            for files in (version.train, version.test)
        )
        for split, place in zip((train, test), places, strict=True):
            _check_counts(split.labels, names, place)
        coarse = "_coarse" if self.labels == "coarse" else ""
        return make_source(version.data_set + coarse, train, test, names, places)


class _Part(NamedTuple):
    """The images of one file, and their labels of each kind."""

    images: UInt8[np.ndarray, "n 32 32 3"]
    labels: dict[str, Int32[np.ndarray, " n"]]


class _Version(NamedTuple):
    """How one of the four archives is laid out.

    Attributes:
        data_set: cifar10 or cifar100.
        binary: Records of bytes rather than pickles.
        train: Files with training images, in order.
        test: Files with test images.
        label_keys: For each kind of label its key in a pickled batch, in the order of
            the label bytes of a record.
        names: For each kind of label the file with its class names, and their key in
            it, if that is a pickle.
    """

    data_set: str
    binary: bool
    train: tuple[str, ...]
    test: tuple[str, ...]
    label_keys: dict[str, str]
    names: dict[str, tuple[str, str]]

    @property
    def files(self) -> list[str]:
        """All files, without doubles."""
        return [*self.train, *self.test, *dict(self.names.values())]

    def num_rows(self, file: str) -> int:
        """Images in a file; 0 for one with class names."""
        if file in self.train:
            return 5 * _BATCH_ROWS // len(self.train)
        return _BATCH_ROWS if file in self.test else 0

    def cap(self, file: str) -> int:
        """Bytes that a file has at most."""
        other = len(self.label_keys) if self.binary else _OTHER_BYTES_A_ROW
        return self.num_rows(file) * (_PIXELS + other) or _MAX_NAMES_BYTES

    def parse(self, file: str, content: bytes, place: str) -> Any:
        """Return images and labels of a file, or class names for each kind of label."""
        if not self.num_rows(file):
            return self._parse_names(file, content, place)
        if self.binary:
            pixels, labels = self._parse_records(file, content, place)
        else:
            pixels, labels = self._parse_pickle(file, content, place)
        images = pixels.reshape(-1, 3, SIZE, SIZE).transpose(0, 2, 3, 1)
        checked = {
            kind: check_labels(values, f"{place}, {kind} label", self.num_classes(kind))
            for kind, values in labels.items()
        }
        return _Part(np.ascontiguousarray(images), checked)

    def num_classes(self, kind: str) -> int:
        """Number of classes that a kind of label has."""
        return _NUM_CLASSES[self.data_set][kind]

    def _parse_records(
        self, file: str, content: bytes, place: str
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        if len(content) != self.cap(file):
            raise UserError(
                f"{place}: {len(content):,} bytes, but {self.data_set} has "
                f"{self.cap(file):,}; {_REMEDY}."
            )
        width = len(self.label_keys)
        rows = np.frombuffer(content, np.uint8).reshape(-1, width + _PIXELS)
        labels = {kind: rows[:, i] for i, kind in enumerate(self.label_keys)}
        return rows[:, width:], labels

    def _parse_pickle(
        self, file: str, content: bytes, place: str
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        num_rows = self.num_rows(file)
        batch = _unpickled(content, _STEPS_A_ROW * num_rows + 1000, place)
        data = batch.get("data")
        if not isinstance(data, np.ndarray) or data.shape != (num_rows, _PIXELS):
            given = data.shape if isinstance(data, np.ndarray) else "no array"
            raise UserError(
                f"{place}, data: {given}, but {self.data_set} has {num_rows:,} rows of "
                f"{_PIXELS} bytes; {_REMEDY}."
            )
        labels = {}
        for kind, key in self.label_keys.items():
            values = batch.get(key)
            if not isinstance(values, list) or len(values) != num_rows:
                raise UserError(
                    f"{place}, {key}: not a list of {num_rows:,} labels, as "
                    f"{self.data_set} has; {_REMEDY}."
                )
            if any(type(value) is not int for value in values):
                raise UserError(f"{place}, {key}: not all are numbers; {_REMEDY}.")
            labels[kind] = np.array(values)
        return data, labels

    def _parse_names(
        self, file: str, content: bytes, place: str
    ) -> dict[str, list[str]]:
        pickled = {} if self.binary else _unpickled(content, 2000, place)
        found = {}
        for kind, (member, key) in self.names.items():
            if member != file:
                continue
            listed = content.split() if self.binary else pickled.get(key)
            listed = listed if isinstance(listed, list) else []
            names = [
                name.decode("utf-8", "replace") if isinstance(name, bytes) else name
                for name in listed
                if isinstance(name, str | bytes)
            ]
            count = self.num_classes(kind)
            if not len(listed) == len(set(names)) == count:
                raise UserError(
                    f"{place}: {len(set(names))} names of {kind} classes, but "
                    f"{self.data_set} has {count}; {_REMEDY}."
                )
            found[kind] = names
        return found


_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
_KEYS_100 = {"coarse": "coarse_labels", "fine": "fine_labels"}
_VERSIONS = (
    _Version(
        "cifar10",
        False,
        _BATCHES,
        ("test_batch",),
        {"fine": "labels"},
        {"fine": ("batches.meta", "label_names")},
    ),
    _Version(
        "cifar10",
        True,
        tuple(f"{name}.bin" for name in _BATCHES),
        ("test_batch.bin",),
        {"fine": "labels"},
        {"fine": ("batches.meta.txt", "")},
    ),
    _Version(
        "cifar100",
        False,
        ("train",),
        ("test",),
        _KEYS_100,
        {kind: ("meta", f"{kind}_label_names") for kind in _KEYS_100},
    ),
    _Version(
        "cifar100",
        True,
        ("train.bin",),
        ("test.bin",),
        _KEYS_100,
        {kind: (f"{kind}_label_names.txt", "") for kind in _KEYS_100},
    ),
)
# No two archives have a file of the same name.
_VERSION_OF = {file: version for version in _VERSIONS for file in version.files}


def _folder_of_members(path: Path) -> Path:
    """Return the folder in or below `path` with CIFAR's files; an archive itself."""
    if not os.path.isdir(path) or _known_files(path):
        return path
    inside = [entry for entry in entries(path) if entry.is_dir()]
    found = [folder for folder in inside if _known_files(folder)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(
            f"{path}: several sets, {', '.join(folder.name for folder in found)}; set "
            "data.path to the folder of one."
        )
    archives = sorted(path.glob("cifar*.tar*"))
    raise UserError(
        f"{path}: no file of CIFAR, such as test_batch or test.bin; set data.path to "
        f"{archives[0] if archives else 'the official archive'}, or to the folder it "
        "unpacks to."
    )


def holds_cifar(folder: Path) -> bool:
    """Return whether a folder, or one inside it, has files of CIFAR."""
    inside = [entry for entry in entries(folder) if entry.is_dir()]
    return any(_known_files(one) for one in (folder, *inside))


def _known_files(folder: Path) -> list[str]:
    return [name for name in _VERSION_OF if os.path.isfile(folder / name)]


def _read_parts(at: Path) -> tuple[_Version, dict[str, Any]]:
    """Read every file of the one version that an archive or a folder holds."""
    caps = {file: version.cap(file) for file, version in _VERSION_OF.items()}
    parts: dict[str, Any] = {}
    versions: list[_Version] = []
    for file, content in read_members(at, caps):
        if _VERSION_OF[file] not in versions:
            versions.append(_VERSION_OF[file])
        if len(versions) > 1:
            raise UserError(
                f"{at}: files of several sets, such as {next(iter(parts))} and {file}; "
                "give the archive or folder of one."
            )
        parts[file] = versions[0].parse(file, content, f"{at}, {file}")
    if not versions:
        raise UserError(
            f"{at}: no file of CIFAR in it, such as test_batch or test.bin; give the "
            "official python or binary archive."
        )
    missing = [file for file in versions[0].files if file not in parts]
    if missing:
        raise UserError(
            f"{at}: lacks {', '.join(missing)} of {versions[0].data_set}; {_REMEDY}."
        )
    return versions[0], parts


def _unpickled(content: bytes, max_steps: int, place: str) -> dict[str, Any]:
    try:
        return unpickle(content, max_steps)
    except RefusedPickleError as error:
        raise UserError(
            f"{place}: not a pickle of plain data ({error}); {_REMEDY}."
        ) from error


def _check_counts(labels: np.ndarray, names: list[str], place: str) -> None:
    """Refuse classes that are not all of one size."""
    counts = np.bincount(labels, minlength=len(names))
    expected = len(labels) // len(names)
    wrong = np.flatnonzero(counts != expected)
    if len(wrong):
        i = int(wrong[0])
        raise UserError(
            f"{place}: {counts[i]:,} images of class {i} ({names[i]}), but the "
            f"official archive has {expected:,} of each; {_REMEDY}."
        )
