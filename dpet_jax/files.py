"""Files that are whole or absent, and JSON lines that survive a crash."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO


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


def open_lines(path: Path) -> TextIO:
    """Open a file of JSON lines to append to; a line that a crash left torn is cut."""
    if path.exists():
        content = path.read_bytes()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            os.truncate(path, end)
    return path.open("a", encoding="utf-8")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of JSON lines; a line that a crash left torn is left out."""
    objects = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(json.JSONDecodeError):
            objects.append(json.loads(line))
    return objects
