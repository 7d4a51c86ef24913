"""The configs and suites that come with the package."""

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from dpet_jax.errors import UserError

#: The folder of the package that holds them; its suites lie in a folder of their own.
FOLDER = "configs"
SUITES = "suites"


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


def names() -> Iterator[tuple[str, Path]]:
    """Yield the name and the file of every packaged config, then of every suite."""
    folder = Path(str(files("dpet_jax").joinpath(FOLDER)))
    for place in (folder, folder / SUITES):
        for path in sorted(place.glob("*.yaml")):
            yield path.stem, path
