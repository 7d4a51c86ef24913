"""Data sets that are kept as rows in a file, or decoded when their rows are asked for.

A source that reads files is read once: its pixels go, resized, into a NumPy file of the
cache folder, which every later run maps into memory. The folder may be deleted at any
time; it is made anew when it is asked for.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dpet_jax.arrays import memory, size_text
from dpet_jax.data.decode import picture_size, resize_images
from dpet_jax.data.pictures import Blobs, Pictures, kept_in, with_grain
from dpet_jax.data.rows import Rows, chunks
from dpet_jax.data.source import DataSection, ImageSet, Placement, Source, checked
from dpet_jax.errors import UserError
from dpet_jax.files import read_json, read_npz, write_whole

_FORMAT = 1
_IMAGES, _PICTURES, _LABELS = "images.npy", "pictures.bin", "labels.npz"
_PIXELS = (_IMAGES, _PICTURES)
_ABOUT, _FACTS = "about.json", "facts.json"


def rows_folder() -> Path:
    """Return where rows are kept, $XDG_CACHE_HOME/dpet_jax/rows by default."""
    base = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    return Path(base) / "dpet_jax" / "rows"


class Home(NamedTuple):
    """Where the pixels of a source are to be on a machine.

    Attributes:
        placement: As the config's; auto is in memory.
        reason: What was compared, where sizes decided against memory; else empty.
    """

    placement: Placement
    reason: str = ""


def home_of(section: DataSection) -> Home:
    """Choose where the pixels of a source are to be on this machine.

    `placement: auto` brings pictures into memory where twice their pixels fit, for the
    source and the run hold them side by side; else it keeps rows in a file where the
    disk of the cache has room, and else it streams. Sizes come from the number of
    pictures and the size of one, as if all had colours; nothing is decoded.

    Raises:
        UserError: If none can be.
    """
    if section.placement != "auto" or section.read_from is None:
        return Home(section.placement)
    try:
        extent = section.extent()
        if extent is None:
            return Home("auto")
        height, width = section.size or picture_size(extent.first)
    except UserError:
        return Home("auto")  # `read` says all that is wrong
    pixels, there = 3 * extent.pictures * height * width, memory()
    if 2 * pixels <= there:
        return Home("auto")
    reason = (
        f"{extent.pictures:,} images of {height} x {width} pixels take up to "
        f"{size_text(pixels)}, more than half of the {size_text(there)} of memory"
    )
    folder = rows_folder() / source_key(section)
    free = _free(folder)
    if (folder / _ABOUT).exists() or pixels <= free:
        return Home("host", reason)
    reason += f" and more than the {size_text(free)} free in {folder.parent}"
    copied = (
        not isinstance(extent.first, Path) and not _pictures_folder(section).exists()
    )
    files = sum(size for _, size, _ in _files(section.read_from)) if copied else 0
    lacking = ""
    if files > free:
        lacking = f"; nor does a copy of its pictures fit, {size_text(files)}"
    else:
        try:
            with_grain()
        except UserError:
            lacking = (
                "; nor is Grain installed, which would decode a stream (pip install "
                "'dpet-jax[stream]')"
            )
    if not lacking:
        return Home("stream", reason)
    raise UserError(
        f"data.placement: auto finds no place for {section.read_from}: {reason}"
        f"{lacking}. Set XDG_CACHE_HOME to a larger disk, or a smaller data.image_size"
    )


def read_source(section: DataSection) -> Source:
    """Read a source, or open what was kept of it, as its placement asks.

    Args:
        section: What to read; auto is read into memory, see `home_of`.

    Returns:
        The source. Images are arrays, or `Rows` where they are in a file or pictures.

    Raises:
        UserError: As `section.read` does, or if the rows do not fit on the disk.
    """
    if section.placement in ("auto", "device") or section.read_from is None:
        return section.read()
    if section.placement == "stream":
        return _stream(section, _pictures_folder(section))
    folder = rows_folder() / source_key(section)
    if not (folder / _ABOUT).exists():
        _write(checked(section.read()), section, folder)
    return _opened(folder, np.load)


def _pictures_folder(section: DataSection) -> Path:
    return rows_folder() / f"{source_key(section)}-pictures"


def _free(folder: Path) -> int:
    """Return the free bytes of the disk on which a folder is or would be made."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def source_key(section: Any) -> str:
    """Return a name for what `section.read` reads: its keys, and its files.

    Files go by name, size and time of their last change.
    """
    digest = hashlib.sha256(f"{_FORMAT} {type(section).__qualname__}".encode())
    keys = section.model_dump(mode="json", include=section.keys_read)
    digest.update(json.dumps(keys, sort_keys=True).encode())
    for name, size, changed in _files(section.read_from):
        digest.update(f"{name}\0{size}\0{changed}\n".encode())
    return digest.hexdigest()[:32]


def _files(path: Path) -> Iterator[tuple[str, int, int]]:
    if path.is_file():
        found = path.stat()
        yield path.name, found.st_size, found.st_mtime_ns
    for folder, inside, names in os.walk(path):
        inside.sort()
        for name in sorted(names):
            file = Path(folder, name)
            if file.is_file():
                found = file.stat()
                relative = str(file.relative_to(path))
                yield relative, found.st_size, found.st_mtime_ns


@dataclass(frozen=True)
class _Split:
    """A split and what it is called in the files."""

    name: str
    images: Any
    labels: np.ndarray


def _splits(source: Source) -> list[_Split]:
    named = [("train", source.train), ("test", source.test)]
    if source.validation is not None:
        named.append(("validation", source.validation))
    return [_Split(name, *split) for name, split in named]


def _write(source: Source, section: DataSection, folder: Path) -> None:
    """Write a source into a folder that is whole or absent."""
    splits = _splits(source)
    height, width = section.size or splits[0].images.shape[1:3]
    count = sum(len(split.labels) for split in splits)
    shape = (count, height, width, splits[0].images.shape[3])
    folder.parent.mkdir(parents=True, exist_ok=True)
    wanted, free = int(np.prod(shape)), _free(folder)
    if wanted > free:
        raise UserError(
            f"{folder.parent}: {count:,} images of {height} x {width} pixels take "
            f"{wanted / 1e9:,.1f} GB, but {free / 1e9:,.1f} GB are free; set "
            "XDG_CACHE_HOME to a larger disk, a smaller data.image_size, or "
            "data.placement to stream"
        )
    with _made(folder) as part:
        images = np.lib.format.open_memmap(
            part / _IMAGES, mode="w+", dtype=np.uint8, shape=shape
        )
        start = 0
        for split in splits:
            for chunk in chunks(split.images):
                images[start : start + len(chunk)] = resize_images(
                    chunk, section.size, section.resize
                )
                start += len(chunk)
        images.flush()
        del images
        _describe(source, part, shape)


@contextmanager
def _made(folder: Path) -> Iterator[Path]:
    """Yield a folder that takes the place of another at the end, if none is there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        yield part
        if not any(part.iterdir()):
            return
        try:
            part.rename(folder)
        except OSError:
            # another process has made the same meanwhile
            if not (folder / _ABOUT).exists():
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _describe(source: Source, part: Path, shape: tuple[int, ...]) -> None:
    labels: Any = {split.name: split.labels for split in _splits(source)}
    np.savez(part / _LABELS, **labels)
    pixels = next(part / name for name in _PIXELS if (part / name).exists())
    about = {
        "format": _FORMAT,
        "name": source.name,
        "class_names": source.class_names,
        "shape": shape,
        "bytes": pixels.stat().st_size,
    }
    write_whole(part / _ABOUT, json.dumps(about, indent=1))


def _stream(section: DataSection, folder: Path) -> Source:
    """Open pictures; those that come as bytes are kept in a file first."""

    def opened() -> Source:
        return _opened(folder, lambda _, **__: _pictures(section, folder))

    with_grain()  # before anything is read for it
    if (folder / _ABOUT).exists():
        return opened()
    with _made(folder) as part:
        with kept_in(part):
            source = checked(section.read())
        images = source.train.images
        if not isinstance(images, Rows):
            raise UserError(
                f"data.placement: stream decodes pictures, but {source.name} "
                f"({section.kind}) holds pixels; choose host"
            )
        if not (part / _PICTURES).exists():  # they lie in files of their own
            return _named(source, folder)
        _describe(source, part, images.place.shape)
    return opened()


def _named(source: Source, folder: Path) -> Source:
    """Return a source of pictures that keeps in a folder what passes over it find."""

    def named(split: ImageSet) -> ImageSet:
        rows: Any = split.images
        images = replace(rows, facts=folder / _FACTS, identity=folder.name)
        return split._replace(images=images)

    own = None if source.validation is None else named(source.validation)
    return source._replace(
        train=named(source.train), test=named(source.test), validation=own
    )


def _pictures(section: Any, folder: Path) -> Pictures:
    """Open pictures that are kept in a file."""
    _, height, width, channels = read_json(folder / _ABOUT)["shape"]
    shape = height, width, channels
    pictures = Pictures(section.size, section.workers, shape, section.resize)
    pictures.added(Blobs(folder), lambda row: f"{section.path}: picture {row}")
    return pictures


def _opened(folder: Path, load: Callable[..., Any]) -> Source:
    """Open what was written, after a look at its sizes.

    Args:
        folder: Where it is.
        load: Opens its images, given the file of pixels.

    Raises:
        UserError: If it is not as it was written.
    """
    found = [folder / name for name in _PIXELS if (folder / name).exists()]
    file = found[0] if found else folder / _IMAGES
    try:
        about, labels = read_json(folder / _ABOUT), read_npz(folder / _LABELS)
        images = load(file, mmap_mode="r")
        status = file.stat()
        whole = (
            (about["format"], about["bytes"]) == (_FORMAT, status.st_size)
            and list(images.shape) == about["shape"]
            and sum(len(each) for each in labels.values()) == images.shape[0]
        )
    except (OSError, ValueError, KeyError) as error:
        raise _not_whole(folder, str(error)) from error
    if not whole:
        raise _not_whole(folder, "its files are not of one size")
    identity = f"{folder.name} {status.st_size} {status.st_mtime_ns}"
    sets, start = {}, 0
    for name in ("train", "test", "validation"):
        if name in labels:
            index = np.arange(start, start + len(labels[name]))
            rows = Rows(images, index, folder / _FACTS, identity)
            sets[name], start = ImageSet(rows, labels[name]), start + index.size
    return Source(
        about["name"],
        sets["train"],
        sets["test"],
        tuple(about["class_names"]),
        sets.get("validation"),
    )


def _not_whole(folder: Path, reason: str) -> UserError:
    return UserError(
        f"{folder}: kept rows of a data set cannot be read ({reason}); delete the "
        "folder, and the next run makes it anew"
    )
