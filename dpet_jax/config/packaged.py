"""The configs and suites that come with the package."""

import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from dpet_jax.errors import UserError

#: The folder of the package that holds them; its suites lie in a folder of their own.
FOLDER = "configs"
SUITES = "suites"
#: Keys that name another file, and that file.
_REFERENCE = re.compile(r"\b(base|config|suite): ([\w./-]+\.yaml)")


def packaged(name: str) -> Path:
    """Return the file of a config or a suite by its name, such as quickstart.

    Raises:
        UserError: If there is none of this name.
    """
    found = dict(names())
    if name not in found:
        raise UserError(
            f"command line: {name!r} is no packaged config or suite; one of "
            f"{', '.join(found)}"
        )
    return found[name]


def file_of(path: Path) -> Path:
    """Return the file that a path means: of a packaged name that is no file, that.

    Args:
        path: As a user gave it.
    """
    known = dict(names()).get(str(path))
    return path if known is None or path.is_file() else known


def names() -> Iterator[tuple[str, Path]]:
    """Yield the name and the file of every packaged config, then of every suite."""
    folder = Path(str(files("dpet_jax").joinpath(FOLDER)))
    for place in (folder, folder / SUITES):
        for path in sorted(place.glob("*.yaml")):
            yield path.stem, path


def copied(name: str, out: Path | None = None) -> dict[Path, str]:
    """Return a packaged config or suite as files of the user's own, by their paths.

    A suite comes with its base, and a study with its suites and configs, which are put
    beside it; the commands in comments name the copies.

    Args:
        name: Of the config or the suite.
        out: Where it goes; by default its name, in the working folder.

    Raises:
        UserError: If there is none of this name.
    """
    source = packaged(name)
    out = Path(source.name) if out is None else out
    text = source.read_text(encoding="utf-8")
    place = f"{SUITES}/" if source.parent.name == SUITES else ""
    text = text.replace(f"{FOLDER}/{place}{source.name}", str(out))
    others: dict[Path, str] = {}
    for key, other in dict.fromkeys(_REFERENCE.findall(text)):
        beside = out.with_name(Path(other).name)
        text = text.replace(f"{key}: {other}", f"{key}: {beside.name}")
        others |= copied(Path(other).stem, beside)
    return {out: text} | others
