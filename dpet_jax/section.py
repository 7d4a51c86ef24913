"""The base of every part of a config: sections, kinds of them, and number types.

A `kind` of a config is one class: its fields are the keys, its validators the checks,
its methods what it does. A class of the user's own comes in by its import path.
"""

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema


def _no_boolean(value: Any) -> Any:
    """Refuse true for 1, which Python and pydantic would let pass."""
    if isinstance(value, bool):
        raise ValueError(f"must be a number (got {str(value).lower()})")
    return value


Number = BeforeValidator(_no_boolean)
Fraction = Annotated[float, Field(gt=0, le=1), Number]
Positive = Annotated[float, Field(gt=0), Number]
NonNegative = Annotated[float, Field(ge=0), Number]
Share = Annotated[float, Field(ge=0, lt=1), Number]
Count = Annotated[int, Field(ge=1), Number]
CountFromZero = Annotated[int, Field(ge=0), Number]
Seed = Annotated[int, Field(ge=0, lt=2**31), Number]


class Section(BaseModel):
    """A part of a config: no unknown keys, no changes, no NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Kind(Section):
    """A section of which there are several kinds, told apart by the key `kind`.

    Kinds that come with the package have a short name, `kind: Literal["rs2"] = "rs2"`.
    A class that says nothing about `kind` goes by its import path,
    `package.module:Name`, which is how configs name it and how a resumed run finds it.
    """

    kind: str = ""

    @model_validator(mode="before")
    @classmethod
    def _name_of_its_own(cls, plain: Any) -> Any:
        if isinstance(plain, Mapping) and cls.model_fields["kind"].annotation is str:
            return {**plain, "kind": import_path(cls)}
        return plain

    @property
    def label(self) -> str:
        """What people call it in headlines, tables and plots."""
        return self.kind.rpartition(":")[2].replace("_", " ")


def import_path(of: Any) -> str:
    """Return `package.module:Name` of a class or a function."""
    return f"{of.__module__}:{of.__qualname__}"


def import_from(path: str) -> Any:
    """Import what `package.module:Name` names.

    Raises:
        ValueError: If there is no such module or name, or the module fails.
    """
    module, _, name = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:  # whatever a user's module raises is told, not thrown
        raise ValueError(
            f"cannot import {path!r}: {type(error).__name__}: {error}; write it as "
            "package.module:Name, and start where the package lies or install it"
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise ValueError(
                f"cannot import {path!r}: {module} "
                f"({getattr(sys.modules[module], '__file__', 'built in')}) has no "
                f"{name!r}"
            )
        found = getattr(found, part)
    return found


@dataclass(frozen=True)
class OneOf:
    """Makes a field hold one of several kinds: `Annotated[Method, OneOf(...)]`.

    It takes an object of the base class, or keys, among which `kind` names one of the
    members or the import path of a class of the user's own; without `kind` the keys are
    those of the first member.

    Attributes:
        base: What all of them extend, a user's own too.
        members: The kinds that come with the package; the first is the default.
    """

    base: type[Kind]
    members: tuple[type[Kind], ...]

    @property
    def by_name(self) -> dict[str, type[Kind]]:
        """The members by their short names."""
        return {kind_of(member): member for member in self.members}

    @property
    def default(self) -> str:
        """Name of the kind that a section without `kind` is of."""
        return kind_of(self.members[0])

    def member(self, kind: str) -> type[Kind]:
        """Return the class that a `kind` names.

        Raises:
            ValueError: If there is none, or it is none of this base.
        """
        known = self.by_name
        if kind in known:
            return known[kind]
        if ":" not in kind:
            raise ValueError(
                f"unknown {kind!r}; one of {', '.join(known)}, or package.module:Name "
                "of a class of your own"
            )
        found = import_from(kind)
        if not (isinstance(found, type) and issubclass(found, self.base)):
            raise ValueError(
                f"{kind!r} is no class that extends {import_path(self.base)}"
            )
        return found

    def read(self, value: Any) -> Kind:
        """Turn keys into the kind that they name; an object stays as it is."""
        if isinstance(value, self.base):
            return value
        if not isinstance(value, Mapping):
            raise PydanticCustomError("kind_keys", "holds a value, not keys")
        kind = value.get("kind", self.default)
        try:
            member = self.member(str(kind))
        except ValueError as error:
            raise PydanticCustomError(
                "kind_unknown", "{reason}", {"reason": str(error)}
            ) from error
        return member.model_validate({**value, "kind": kind})

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Read by `read`, and write the keys of whatever kind there is."""
        del source, handler

        def write(kind: Kind, info: Any) -> dict[str, Any]:
            return kind.model_dump(mode=info.mode)

        return core_schema.no_info_plain_validator_function(
            self.read,
            serialization=core_schema.plain_serializer_function_ser_schema(
                write, info_arg=True
            ),
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """List the members; a user's own is any object with an import path."""
        del schema
        own = {
            "type": "object",
            "properties": {"kind": {"type": "string", "pattern": ":"}},
            "required": ["kind"],
        }
        members = [handler(m.__pydantic_core_schema__) for m in self.members]
        return {"anyOf": [*members, own]}


def one_of(section: type[BaseModel], field: str) -> OneOf | None:
    """Return what makes a field of a section hold kinds; None if nothing does."""
    found = section.model_fields.get(field)
    return (
        next((m for m in found.metadata if isinstance(m, OneOf)), None)
        if found
        else None
    )


def kind_of(member: type[Kind]) -> str:
    """Return the name by which configs call a kind."""
    names = get_args(member.model_fields["kind"].annotation)
    return names[0] if names else import_path(member)


class DataSection(Kind):
    """Where the images come from, and how they are split."""

    image_size: Count | None = Field(None, description="area-resize to so many pixels")
    validation_fraction: Share = 0.1
    train_examples: Count | None = Field(
        None, description="that the training split keeps, of all classes alike"
    )
    split_seed: Seed = Field(0, description="of the validation split; not the run's")
    label_noise: Share = Field(
        0.0, description="share of training labels replaced, for studies"
    )


class DigitsData(DataSection):
    """Scikit-learn's 1,797 handwritten digits of 8x8 pixels; nothing to download."""

    kind: Literal["digits"] = "digits"


class TfdsData(DataSection):
    """Any image-classification set prepared in TFDS' array_record layout."""

    kind: Literal["tfds"] = "tfds"
    name: str = "cifar10"
    path: Path = Field(description="the TFDS data_dir")
    train_split: str = "train"
    test_split: str = "test"


class ParquetData(DataSection):
    """A folder in the Hugging Face hub's parquet layout."""

    kind: Literal["parquet"] = "parquet"
    path: Path = Field(description="folder with train-*.parquet and test-*.parquet")
    image_column: str | None = None
    label_column: str | None = None


class NpzData(DataSection):
    """One .npz file with train_images, train_labels, test_images and test_labels."""

    kind: Literal["npz"] = "npz"
    path: Path


class AugmentConfig(Section):
    """Random changes to each training image, drawn anew at every visit."""

    translate: CountFromZero = Field(0, description="pixels, reflected at the border")
    flip: bool = False
    cutout: CountFromZero = Field(0, description="side of the square, 0 for none")
