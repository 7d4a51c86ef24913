"""Files that are whole or absent, JSON lines that survive a crash, checked readers."""

import errno
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from dpet_jax.errors import DamagedFileError

# What a spreadsheet takes for the beginning of a formula, in wide forms too.
_FORMULA = (*"=+-@\t\r\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path whose file takes the place of `path` at the end.

    Whatever happens inside, `path` holds what it held before or all of the new file.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Yield a temporary path whose file becomes `path` at the end, if none is there.

    Several writers may do so at once: each has a temporary file of its own, and the
    first that ends gives `path` its file.

    Raises:
        FileExistsError: At the end, if `path` exists by then.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        yield temporary
        path.hardlink_to(temporary)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that it is whole or absent, whatever happens."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def csv_cell(value: Any) -> Any:
    """Return a value as a cell of a CSV table that no spreadsheet takes for a formula.

    Text that begins like one gets an apostrophe in front; numbers stay as they are.

    Source:
        OWASP, "CSV Injection".
    """
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value


class JsonLines:
    """Append JSON objects to a file, one a line, each on its way to the disk at once.

    Nothing is buffered, so that a kill loses no line and a forked child holds no half
    line that it would write again.

    Args:
        path: The file; a line that a crash left torn is cut off.

    Attributes:
        lines: Lines in the file.
    """

    def __init__(self, path: Path) -> None:
        content = path.read_bytes() if path.exists() else b""
        self.lines = content.count(b"\n")
        end = content.rfind(b"\n") + 1
        if end < len(content):
            os.truncate(path, end)
        self._file = path.open("ab", buffering=0)

    def append(self, value: dict[str, Any]) -> None:
        """Write one line.

        Raises:
            OSError: If not all of it could be written, as on a full disk.
        """
        line = json.dumps(value, default=str).encode() + b"\n"
        if self._file.write(line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._file.name)
        self.lines += 1

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of JSON objects, one a line; a last line that is torn is left out.

    Raises:
        OSError: If there is no such file, or it cannot be opened.
        DamagedFileError: If any other line is no JSON object.
    """
    *lines, last = path.read_bytes().split(b"\n")
    objects = [_object(path, line, number) for number, line in enumerate(lines, 1)]
    if last.strip():
        # whole but for its end, where the writer was killed in between
        with suppress(DamagedFileError):
            objects.append(_object(path, last, len(lines) + 1))
    return objects


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        OSError: If there is no such file, or it cannot be opened.
        DamagedFileError: If it holds anything else.
    """
    return _object(path, path.read_bytes())


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that the program itself has written.

    Raises:
        OSError: If there is no such file, or it cannot be opened.
        DamagedFileError: If it is no such file any more.
    """
    try:
        value = yaml.safe_load(path.read_bytes().decode())
    except (yaml.YAMLError, ValueError, LookupError, RecursionError) as error:
        raise DamagedFileError(path, " ".join(str(error).split())) from error
    if not isinstance(value, dict):
        raise DamagedFileError(path, "it holds no keys")
    return value


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays of an .npz file that the program itself has written.

    Raises:
        OSError: If there is no such file, or it cannot be opened.
        DamagedFileError: If it is no such file any more.
    """
    with path.open("rb") as file:
        try:
            with np.load(file, allow_pickle=False) as arrays:
                return dict(arrays)
        except Exception as error:  # each layer of a damaged file has its own
            raise DamagedFileError(path, " ".join(str(error).split())) from error


def _object(path: Path, text: bytes, line: int | None = None) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "is nested too deeply" if isinstance(error, RecursionError) else error
        raise DamagedFileError(path, str(reason), line) from error
    if not isinstance(value, dict):
        raise DamagedFileError(path, "is no JSON object", line)
    return value
