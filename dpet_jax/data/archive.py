"""Read named members of an archive or a folder, none of them larger than agreed."""

import gzip
import os
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from dpet_jax.errors import UserError

# What lies before a member (its header, long names, padding of the one before), and
# what an unknown member may hold, such as a readme. Both are a few hundred bytes in
# fact.
_SPARE = 1 << 16
_MAX_MEMBERS = 100
_REMEDY = "download the official archive again"


def read_members(path: Path, caps: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
    """Read members of a .tar.gz or .tar, or files of a folder, one after another.

    Nothing is written to disk, and not much more is read or unpacked than the sizes
    allow that are given: claims in the archive are checked before they are followed.

    Args:
        path: The archive, or the folder it unpacks to.
        caps: Names of the members, without their folder, and the largest size of each
            in bytes. Small regular files of other names are skipped.

    Yields:
        Name and contents, in the order of the archive or, from a folder, of `caps`.

    Raises:
        UserError: If it cannot be read, a member is larger, occurs twice, or is
            no regular file.
    """
    if os.path.isdir(path):
        yield from _read_folder(path, caps)
    elif os.path.isfile(path):
        yield from _read_archive(path, caps)
    else:
        raise UserError(
            f"{path}: no such file or folder; set data.path to the archive, or to the "
            "folder it unpacks to."
        )


def _read_folder(folder: Path, caps: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
    for name, cap in caps.items():
        file = folder / name
        if not file.exists():
            continue
        if not file.is_file():
            raise UserError(f"{file}: is no regular file; {_REMEDY}.")
        try:
            with file.open("rb") as opened:
                content = opened.read(cap + 1)
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror}).") from error
        if len(content) > cap:
            raise UserError(_too_large(file, file.stat().st_size, cap))
        yield name, content


def _read_archive(path: Path, caps: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            unpacked = gzip.GzipFile(fileobj=file) if packed else file
            yield from _read_tar(path, _Metered(unpacked, path), caps)
    except UserError:
        raise
    except Exception as error:  # gzip, zlib and tarfile have a dozen between them
        raise UserError(
            f"{path}: cannot be read as a .tar.gz or .tar archive ({error}); it may be "
            f"cut short: {_REMEDY}, or give the folder it unpacks to."
        ) from error


class _Metered:
    """A stream that gives no more bytes than it was allowed to."""

    def __init__(self, stream: Any, path: Path) -> None:
        self.stream, self.path = stream, path
        self.left = 0

    def read(self, count: int) -> bytes:
        """Read some bytes, as `tarfile` asks for them: a small block at a time."""
        taken = self.stream.read(count)
        self.left -= len(taken)
        if self.left < 0:
            raise UserError(
                f"{self.path}: a header of the archive claims more than "
                f"{_SPARE:,} bytes; {_REMEDY}."
            )
        return taken


def _read_tar(
    path: Path, stream: _Metered, caps: Mapping[str, int]
) -> Iterator[tuple[str, bytes]]:
    stream.left = 2 * _SPARE
    seen: set[str] = set()
    with tarfile.open(fileobj=stream, mode="r|") as archive:  # type: ignore[call-overload]
        for number, member in enumerate(archive):
            place = f"{path}, {member.name[:200]!r}"
            if number >= _MAX_MEMBERS:
                raise UserError(f"{path}: more than {_MAX_MEMBERS} members; {_REMEDY}.")
            stream.left = 2 * _SPARE
            if member.isdir():
                continue
            if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or (
                member.issparse()
            ):
                raise UserError(
                    f"{place}: is a link, device or sparse file; {_REMEDY}."
                )
            name = PurePosixPath(member.name).name
            cap = caps.get(name, _SPARE)
            if not 0 <= member.size <= cap:
                raise UserError(_too_large(place, member.size, cap))
            stream.left += member.size
            if name not in caps:
                continue
            if name in seen:
                raise UserError(f"{place}: occurs twice; {_REMEDY}.")
            seen.add(name)
            content = archive.extractfile(member)
            yield name, b"" if content is None else content.read(member.size)


def _too_large(place: Path | str, size: int, cap: int) -> str:
    return (
        f"{place}: {size:,} bytes, but the official one has at most {cap:,}; {_REMEDY}."
    )
