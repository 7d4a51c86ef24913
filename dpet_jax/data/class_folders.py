"""Folders of pictures: which files there are, and in which class folder each lies."""

from pathlib import Path
from typing import NamedTuple

from dpet_jax.errors import UserError

# What desktops put beside pictures without being asked; names that begin with a dot
# are left out as well.
_HIDDEN = ("thumbs.db", "desktop.ini", "__macosx")


class ClassFolders(NamedTuple):
    """What lies in a folder, in the order of names.

    Attributes:
        folder: Where it lies.
        classes: Files of each folder in it.
        loose: Files in no class folder.
        deeper: Folders inside the class folders.
    """

    folder: Path
    classes: dict[str, list[Path]]
    loose: list[Path]
    deeper: list[Path]


def entries(folder: Path) -> list[Path]:
    """Return what lies in a folder, in the order of names, hidden files left out.

    Raises:
        UserError: If the folder cannot be listed.
    """
    try:
        return sorted(
            entry
            for entry in folder.iterdir()
            if not entry.name.startswith(".") and entry.name.lower() not in _HIDDEN
        )
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be listed ({error.strerror}); correct the path or its "
            "permissions."
        ) from error


def class_folders(folder: Path) -> ClassFolders:
    """List the files of a folder by the class folders that hold them."""
    inside = entries(folder)
    deep = {entry: entries(entry) for entry in inside if entry.is_dir()}
    return ClassFolders(
        folder,
        {
            entry.name: [file for file in files if not file.is_dir()]
            for entry, files in deep.items()
        },
        [entry for entry in inside if entry not in deep],
        [below for files in deep.values() for below in files if below.is_dir()],
    )


def names_of(files: list[Path], relative_to: Path, shown: int = 5) -> str:
    """Return the number of files or folders, and the names of the first few."""
    names = ", ".join(str(file.relative_to(relative_to)) for file in files[:shown])
    return f"{len(files)} ({names}{', …' if len(files) > shown else ''})"
