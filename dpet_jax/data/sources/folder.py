"""Pictures in class folders, as cameras and most data sets on the web have them."""

import logging
import os
from collections import Counter
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from dpet_jax.data.class_folders import ClassFolders, class_folders, entries, names_of
from dpet_jax.data.decode import decode_images, is_picture
from dpet_jax.data.pictures import images_of, pictures_of
from dpet_jax.data.source import DataSection, Extent, ImageSet, Source, make_source
from dpet_jax.data.split import stratified_split
from dpet_jax.errors import UserError
from dpet_jax.section import PositiveShare, UserPath

_VALIDATION_NAMES = ("validation", "val", "valid")
_SPLIT_NAMES = ("train", "test", *_VALIDATION_NAMES)
# Pictures decoded when folders are wrong already, so that one message names both.
_LOOKED_AT = 2_000


class Folder(DataSection):
    """Pictures in class folders: train/<class>/*, test/<class>/*, or <class>/* alone.

    Classes are numbered in the order of their names, rows class by class in the order
    of file names. A folder validation/ (or val/, valid/) beside train/ is the
    validation split. A picture is whatever Pillow reads. Hidden files, Thumbs.db and
    the like are left out; any other file in a class folder is an error.
    """

    kind: Literal["folder"] = "folder"
    libraries: ClassVar[tuple[str, ...]] = ("PIL.Image",)
    read_keys: ClassVar[tuple[str, ...]] = ("image_size", "resize", "split_seed")
    path: UserPath = Field(description="folder with train/ and test/, or class folders")
    test_fraction: PositiveShare | None = Field(
        None,
        description="share drawn for testing, by split_seed, where there is no test/",
    )

    @property
    def label(self) -> str:
        """Name of the folder."""
        return self.path.resolve().name

    def read(self) -> Source:
        """Read all pictures; greys beside colours become RGB."""
        at = _splits(self.path)
        found = {split: class_folders(folder) for split, folder in at.items()}
        files = _pictures(found)
        strays = [file for listed in found.values() for file in listed.loose]
        if self.path not in at.values():
            strays += [
                entry for entry in entries(self.path) if entry not in at.values()
            ]
        if problems := self._problems(found, strays):
            raise UserError("\n".join(problems + self._picture_problems(files)))
        self._report_left_out(strays)

        later = pictures_of(self)
        images = images_of(later, files, lambda row: str(files[row]), self)
        names = list(found["train"].classes)
        sets, start = {}, 0
        for split, listed in found.items():
            counts = [len(listed.classes[name]) for name in names]
            end = start + sum(counts)
            labels = np.repeat(np.arange(len(names), dtype=np.int32), counts)
            sets[split], start = ImageSet(images[start:end], labels), end
        if self.test_fraction is not None:
            rows = stratified_split(
                sets["train"].labels,
                self.test_fraction,
                self.split_seed,
                "test_fraction",
                names,
            )
            sets["train"], sets["test"] = (
                ImageSet(*(array[drawn] for array in sets["train"])) for drawn in rows
            )
        order = [split for split in ("train", "test", "validation") if split in sets]
        places = [str(at.get(split, at["train"])) for split in order]
        own = [sets[split] for split in order[2:]]
        return make_source(self.label, sets["train"], sets["test"], names, places, *own)

    def extent(self) -> Extent | None:
        """Count the files of all class folders."""
        at = _splits(self.path)
        files = _pictures({name: class_folders(folder) for name, folder in at.items()})
        return Extent(len(files), files[0]) if files else None

    def training_files(self, *, drawn: bool = True) -> list[Path]:
        """Return the files of the training split, in the order of its rows.

        Args:
            drawn: Leave out those that `test_fraction` draws.
        """
        classes = class_folders(_splits(self.path)["train"]).classes
        files = [file for in_class in classes.values() for file in in_class]
        if self.test_fraction is None or not drawn:
            return files
        counts = [len(in_class) for in_class in classes.values()]
        labels = np.repeat(np.arange(len(classes), dtype=np.int32), counts)
        rows, _ = stratified_split(
            labels, self.test_fraction, self.split_seed, "test_fraction"
        )
        return [files[row] for row in rows]

    def _problems(
        self, found: dict[str, ClassFolders], strays: list[Path]
    ) -> list[str]:
        """Say all that is wrong with the folders, before a picture is decoded."""
        problems = []
        if "test" not in found and self.test_fraction is None:
            problems.append(
                f"{self.path}: no test split; make test/<class>/ beside train/, or set "
                "data.test_fraction to a share such as 0.2."
            )
        if "test" in found and self.test_fraction is not None:
            problems.append(
                f"data.test_fraction is {self.test_fraction}, but {self.path} has a "
                "folder test; leave the key away, or move the folder."
            )
        deeper = [below for listed in found.values() for below in listed.deeper]
        if deeper:
            problems.append(
                f"{self.path}: folders inside class folders: "
                f"{names_of(deeper, self.path)}; pictures must lie in the class folder "
                "itself, and data.path must hold train/ and test/, or class folders."
            )
        if folders := [stray for stray in strays if stray.is_dir()]:
            problems.append(
                f"{self.path}: folders beside the splits: "
                f"{names_of(folders, self.path)}; move them away. A folder to validate "
                f"on is called {', '.join(_VALIDATION_NAMES)}, and there may be one."
            )
        if loose := [stray for stray in strays if is_picture(stray)]:
            problems.append(
                f"{self.path}: pictures in no class folder: "
                f"{names_of(loose, self.path)}; move them into one, or away."
            )
        return problems + _class_problems(found)

    def _picture_problems(self, files: list[Path]) -> list[str]:
        some = files[:_LOOKED_AT]
        try:
            if some:
                decode_images(some, lambda row: str(some[row]), self.size, self.resize)
        except UserError as error:
            return [str(error)]
        return []

    def _report_left_out(self, strays: list[Path]) -> None:
        if strays:
            kinds = Counter(stray.suffix or "no extension" for stray in strays)
            logging.getLogger(__name__).warning(
                "%s: left out what lies in no class folder and is no picture: %s; %s",
                self.path,
                names_of(strays, self.path),
                ", ".join(f"{kind}: {count}" for kind, count in sorted(kinds.items())),
            )


def _pictures(found: dict[str, ClassFolders]) -> list[Path]:
    """Return the files of all splits, class by class."""
    return [
        file
        for listed in found.values()
        for in_class in listed.classes.values()
        for file in in_class
    ]


def _splits(path: Path) -> dict[str, Path]:
    """Find the folders of the splits; one that holds all classes is called train."""
    if not os.path.isdir(path):
        raise UserError(
            f"{path}: no such folder; set data.path to a folder with train/<class>/ "
            "and test/<class>/, or with <class>/ and data.test_fraction."
        )
    inside = entries(path)
    folders = {entry.name for entry in inside if entry.is_dir()}
    if not folders:
        raise UserError(
            f"{path}: no class folders; it holds {names_of(inside, path)}. Put the "
            "pictures of each class into a folder of their own, below train/ and test/ "
            "or, with data.test_fraction, below this one."
        )
    # A class may be called train: then the folder holds pictures and no folders.
    named = [name for name in _SPLIT_NAMES if name in folders]
    nested = [name for name in named if any(e.is_dir() for e in entries(path / name))]
    if not nested and folders - {*named}:
        return {"train": path}
    if "train" not in nested:
        raise UserError(
            f"{path}: no class folders in {path / 'train'}, though there are "
            f"{', '.join(named)}; make train/<class>/ with pictures to train on."
        )
    splits: dict[str, Path] = {}
    splits |= {name: path / name for name in ("train", "test") if name in named}
    for name in named:
        if name in _VALIDATION_NAMES:
            splits.setdefault("validation", path / name)
    return splits


def _class_problems(found: dict[str, ClassFolders]) -> list[str]:
    """Say which classes lack pictures, in which split."""
    train = found["train"].classes
    problems = []
    if len(train) == 1:
        problems.append(
            f"{found['train'].folder}: one class only, {next(iter(train))}; a "
            "classifier needs two class folders or more."
        )
    for listed in found.values():
        lacking = [name for name in train if not listed.classes.get(name)]
        if lacking:
            problems.append(
                f"{listed.folder}: no pictures of {_classes(lacking)}; add some, or "
                "remove the folders of the class from all splits."
            )
        unknown = [name for name in listed.classes if name not in train]
        if unknown:
            problems.append(
                f"{listed.folder}: {_classes(unknown)} without a folder in "
                f"{found['train'].folder}; correct the name, or move the folder away."
            )
    return problems


def _classes(names: list[str]) -> str:
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"class {', '.join(names[:10])}{more}"
