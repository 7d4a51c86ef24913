"""Records from plain data, as JSON has it, checked against the types of fields."""

import dataclasses
import functools
import types
import typing
from typing import Any, Literal, Union

_LARGEST = 1e30  # no joule, watt or second is beyond it, and squares stay finite


class PlainError(ValueError):
    """Plain data is not what the type of a record asks for."""


def rebuild(kind: Any, plain: Any, where: str = "") -> Any:
    """Return what plain data describes.

    Args:
        kind: A type: numbers, texts, dictionaries by name, tuples and sets of any
            length, unions, literals, and records of such fields. A record is a
            dataclass or a named tuple; its plain form is a dictionary, or a list of
            its first fields in order.
        plain: The data.
        where: Its place, for messages.

    Raises:
        PlainError: If it does not fit; numbers that are not finite never do.
    """
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return plain
    if origin in (Union, types.UnionType):
        return _first_that_fits(parts, plain, where)
    if origin is Literal:
        return _checked(plain, where, isinstance(plain, str) and plain in parts, kind)
    if kind is type(None):
        return _checked(plain, where, plain is None, "null")
    if kind in (bool, str):
        return _checked(plain, where, isinstance(plain, kind), kind.__name__)
    if kind in (int, float):
        number = isinstance(plain, (int, kind)) and not isinstance(plain, bool)
        fits = number and -_LARGEST <= plain <= _LARGEST
        return kind(_checked(plain, where, fits, "a finite number"))
    if origin is dict:
        _checked(plain, where, isinstance(plain, dict), "an object")
        return {
            name: rebuild(parts[1], value, f"{where}.{name}")
            for name, value in plain.items()
        }
    if origin in (tuple, frozenset):
        _checked(plain, where, isinstance(plain, list), "a list")
        return origin(
            rebuild(parts[0], value, f"{where}[{number}]")
            for number, value in enumerate(plain)
        )
    return _record(kind, plain, where)


def _record(kind: Any, plain: Any, where: str) -> Any:
    hints, needed = _fields(kind)
    if isinstance(plain, list) and len(plain) <= len(hints):
        plain = dict(zip(hints, plain, strict=False))
    _checked(plain, where, isinstance(plain, dict), "an object")
    for name in sorted(plain.keys() - hints.keys()):
        raise PlainError(f"{where.removeprefix('.')}.{name}: no such key is known")
    for name in hints:
        if name in needed and name not in plain:
            raise PlainError(f"{where.removeprefix('.')}.{name}: is missing")
    return kind(
        **{
            name: rebuild(hints[name], value, f"{where}.{name}")
            for name, value in plain.items()
        }
    )


@functools.cache
def _fields(kind: Any) -> tuple[dict[str, Any], set[str]]:
    """Return the types of a record's fields, and the names of those it cannot lack."""
    hints = typing.get_type_hints(kind)
    if not dataclasses.is_dataclass(kind):
        names: tuple[str, ...] = kind._fields
        return {name: hints[name] for name in names}, (
            set(names) - kind._field_defaults.keys()
        )
    fields = dataclasses.fields(kind)
    missing = dataclasses.MISSING
    needed = {
        one.name
        for one in fields
        if one.default is missing and one.default_factory is missing
    }
    return {one.name: hints[one.name] for one in fields}, needed


def _first_that_fits(kinds: tuple[Any, ...], plain: Any, where: str) -> Any:
    last = PlainError(where)
    for kind in kinds:
        try:
            return rebuild(kind, plain, where)
        except PlainError as error:
            # what is said of null helps nobody
            last = last if kind is type(None) else error
    raise last


def _checked(plain: Any, where: str, fits: bool, wanted: Any) -> Any:
    if not fits:
        shown = repr(plain)
        shown = shown if len(shown) < 60 else f"{shown[:57]}..."
        raise PlainError(f"{where.removeprefix('.')}: is {shown}, not {wanted}")
    return plain
