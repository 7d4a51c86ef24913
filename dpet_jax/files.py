"""Files that are whole or absent, and JSON lines that survive a crash."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

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
    """Read a file of JSON lines; a line that a crash left torn is left out."""
    objects = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(json.JSONDecodeError):
            objects.append(json.loads(line))
    return objects
