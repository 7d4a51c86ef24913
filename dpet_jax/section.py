"""The base of every part of a config: sections, kinds of them, and number types.

A `kind` of a config is one class: its fields are the keys, its validators the checks,
its methods what it does. A class of the user's own comes in by its import path.
"""

import importlib
import inspect
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

#: Of numbers that are not 0. As float32, in which training computes, a smaller one
#: would be 0 and a larger one infinite, or so would be the product of a few of them.
SMALLEST, LARGEST = 1e-30, 1e30
#: Of whole numbers: float32 holds all of them to here.
LARGEST_COUNT = 2**24

# Of a name in a folder, in bytes, as file systems have it.
_MAX_NAME = 255
# Characters of a value that a message shows.
_SHOWN = 60


def shown(value: Any) -> str:
    """Return a value as messages show it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _is_number(value: Any) -> Any:
    """Refuse words and true, which pydantic would let pass, and all but nothing."""
    if isinstance(value, bool | str | bytes):
        told = str(value).lower() if isinstance(value, bool) else shown(value)
        raise ValueError(f"must be a number (got {told})")
    if isinstance(value, float) and 0 < abs(value) < SMALLEST:
        raise ValueError(f"must be at least {SMALLEST:g}, or 0 (got {value:g})")
    return value


def _less_than_one(value: float) -> float:
    if value >= 1 - 2**-25:  # float32 has nothing between this and 1
        raise ValueError(f"must be less than 1 as float32 as well (got {value!r})")
    return value


Number = BeforeValidator(_is_number)
Fraction = Annotated[float, Field(gt=0, le=1), Number]
Positive = Annotated[float, Field(gt=0, le=LARGEST), Number]
NonNegative = Annotated[float, Field(ge=0, le=LARGEST), Number]
AtLeastOne = Annotated[float, Field(ge=1, le=LARGEST), Number]
UpToOne = Annotated[float, Field(ge=0, le=1), Number]
Share = Annotated[float, Field(ge=0, lt=1), AfterValidator(_less_than_one), Number]
PositiveShare = Annotated[
    float, Field(gt=0, lt=1), AfterValidator(_less_than_one), Number
]
Multiplier = Annotated[float, Field(gt=0, le=100), Number]
Count = Annotated[int, Field(ge=1, le=LARGEST_COUNT), Number]
CountFromZero = Annotated[int, Field(ge=0, le=LARGEST_COUNT), Number]
#: Of rows that are computed on together, and pixels along a side.
BatchSize = Annotated[int, Field(ge=1, le=2**16), Number]
Side = Annotated[int, Field(ge=1, le=2**12), Number]
#: Over all examples; schedules list the rows of each.
Passes = Annotated[int, Field(ge=1, le=10_000), Number]
PassesFromZero = Annotated[int, Field(ge=0, le=10_000), Number]
#: Blocks of a network, each of which is traced.
Depth = Annotated[int, Field(ge=1, le=1000), Number]
Seed = Annotated[int, Field(ge=0, lt=2**31), Number]


def check_file_name(name: str) -> str:
    """Return a name that a file or a folder can have anywhere.

    Raises:
        ValueError: If it is too long, leads elsewhere or has invisible characters.
    """
    if name in ("", ".", "..") or "/" in name:
        raise ValueError(f"{shown(name)} is no name of a folder; choose another")
    if re.search("[\x00-\x1f\x7f-\x9f\ud800-\udfff]", name):
        raise ValueError(f"{shown(name)} has a control character; drop it")
    size = len(name.encode("utf-8", "surrogatepass"))
    if size > _MAX_NAME:
        raise ValueError(
            f"{shown(name)} takes {size} bytes, but a name has at most {_MAX_NAME}; "
            "shorten it"
        )
    return name


def check_path(path: Path) -> Path:
    """Return a path whose parts files and folders can be called.

    Raises:
        ValueError: If one cannot.
    """
    for part in path.parts:
        if part not in ("/", ".."):
            check_file_name(part)
    return path


#: Of a file or a folder that a user names.
UserPath = Annotated[Path, AfterValidator(check_path)]


class Section(BaseModel):
    """A part of a config: no unknown keys, no changes, no NaN, no word for a switch."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _switches_are_true_or_false(cls, value: Any, info: Any) -> Any:
        """Refuse `on`, 'yes' and 1, which pydantic takes for true."""
        if isinstance(value, str | bytes | int | float) and not isinstance(value, bool):
            wanted = cls.model_fields[info.field_name].annotation
            if bool in (wanted, *get_args(wanted)):
                raise ValueError(f"must be true or false (got {shown(value)})")
        return value


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

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Describe the key `kind` by what the class is."""
        found = handler(schema)
        says = (inspect.getdoc(cls) or "").partition("\n")[0]
        handler.resolve_ref_schema(found)["properties"]["kind"]["description"] = says
        return found

    @property
    def label(self) -> str:
        """What people call it in headlines, tables and plots."""
        name = self.kind.rpartition(":")[2].rpartition(".")[2]
        return name.replace("_", " ")


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
        if inspect.isabstract(found):
            lacking = ", ".join(sorted(found.__abstractmethods__))
            raise ValueError(f"{kind!r} lacks {lacking}, which a run calls")
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
            "properties": {
                "kind": {
                    "type": "string",
                    "pattern": ":",
                    "description": "import path of a class of your own, "
                    "package.module:Name",
                }
            },
            "required": ["kind"],
        }
        members = [
            m.__get_pydantic_json_schema__(m.__pydantic_core_schema__, handler)
            for m in self.members
        ]
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
