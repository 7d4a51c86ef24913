"""From a YAML file and dotted overrides to a validated `Config`.

Errors are collected, not met one by one; each names the file (or the command line), the
key, the value and what would be right.
"""

import contextlib
import difflib
import errno
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from dpet_jax.config import yaml12
from dpet_jax.config.experiment import Config
from dpet_jax.config.packaged import file_of
from dpet_jax.errors import UserError
from dpet_jax.section import one_of, shown

COMMAND_LINE = "command line"
_MAX_LINES = 50
#: Keys that a message offers for one that is unknown.
_MOST_MEANT = 3
# What pydantic says in other words, by type of problem.
_SAYINGS = {
    "path_type": "must be a path",
    "string_type": "must be text; put it in quotes",
    "bool_type": "must be true or false",
    "int_parsing_size": "is too large for a whole number",
}

Model = TypeVar("Model", bound=BaseModel)


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a config file and apply dotted overrides, first to last.

    Args:
        path: A YAML file, or the name of a packaged config.
        overrides: `--a.b=value` each; the value is read as YAML.

    Raises:
        UserError: With every problem at once, one a line.
    """
    tree = read_tree(path)
    changes = [parse_override(override) for override in overrides]
    change(tree, changes, COMMAND_LINE)
    return validate(tree, str(path), {key: COMMAND_LINE for key, _ in changes})


def read_tree(path: str | Path) -> dict[str, Any]:
    """Read a YAML file that a user wrote, or a packaged one, as nested plain data.

    Args:
        path: Of the file, or the name of a packaged config or suite.

    Raises:
        UserError: If it cannot be read, or is not a mapping.
    """
    path = file_of(Path(path))
    try:
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "it is no regular file")  # a pipe would wait
        with path.open(encoding="utf-8") as file:
            text = file.read(yaml12.MAX_CHARACTERS + 1)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot read the config ({_reason(error)}); give the path of a "
            "YAML file, or the name of a packaged one such as quickstart"
        ) from error
    try:
        tree = yaml12.read(text)
    except yaml12.NotYamlError as error:
        raise UserError(f"{path}: not YAML: {error}") from error
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise UserError(
            f"{path}: needs sections like 'train:' at the top, found "
            f"{type(tree).__name__}"
        )
    return tree


def parse_override(override: str) -> tuple[str, Any]:
    """Split `--a.b=value` into its dotted key and its value, which is read as YAML.

    Raises:
        UserError: If it is none.
    """
    key, equals, text = override.removeprefix("--").partition("=")
    if not override.startswith("--") or not equals or not all(key.split(".")):
        raise UserError(
            f"{COMMAND_LINE}: {shown(override)} is no override; write "
            "--section.key=value, such as --train.batch_size=256"
        )
    try:
        return key, yaml12.read(text)
    except yaml12.NotYamlError as error:
        raise UserError(f"{COMMAND_LINE}: {key}: not YAML: {error}") from error


def change(
    tree: dict[str, Any], changes: Iterable[tuple[str, Any]], origin: str
) -> None:
    """Set dotted keys of a tree, those of kinds first.

    One that changes the `kind` of a section starts that section anew from the kind's
    defaults, since the other keys belong to the old kind.

    Args:
        tree: Nested plain data; changed in place.
        changes: Dotted keys and their values.
        origin: Who asks, for messages.

    Raises:
        UserError: If a key leads into a value.
    """
    for key, value in sorted(changes, key=lambda one: not one[0].endswith(".kind")):
        *sections, last = key.split(".")
        if len(sections) > yaml12.MAX_DEPTH:
            raise UserError(f"{origin}: {shown(key)}: nested too deep to be a key")
        node = tree
        for section in sections:
            child = node.setdefault(section, {})
            if not isinstance(child, dict):
                raise UserError(
                    f"{origin}: {key}: {section} holds the value {shown(child)}, "
                    "not keys"
                )
            node = child
        if last == "kind" and node.get("kind", _default_kind(sections)) != value:
            node.clear()
        node[last] = value


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of every leaf; empty sections are leaves."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def changed(
    old: Mapping[str, Any], new: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    """Yield the dotted key, the old and the new value of every leaf that differs.

    They come in the order of the trees; a value is None where there is no such leaf.
    """
    before, now = dict(flat(old)), dict(flat(new))
    for key in dict.fromkeys([*before, *now]):
        if before.get(key) != now.get(key):
            yield key, before.get(key), now.get(key)


def validate(
    tree: dict[str, Any], where: str, origins: Mapping[str, str] | None = None
) -> Config:
    """Turn plain data into a `Config`; see `validate_as`."""
    return validate_as(Config, tree, where, origins)


def validate_as(
    model: type[Model],
    tree: dict[str, Any],
    where: str,
    origins: Mapping[str, str] | None = None,
) -> Model:
    """Turn plain data into a section, or raise one `UserError` with all problems.

    Args:
        model: The section.
        tree: Nested plain data.
        where: What the messages call the origin, such as the file's path.
        origins: Where dotted keys came from instead.
    """
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        messages: dict[str, list[str]] = {}
        problems = error.errors()
        wrong = {problem["loc"][:-1] for problem in problems}
        for problem in problems:
            if len(messages) > _MAX_LINES and problem["type"] == "extra_forbidden":
                # is counted alone, and what was meant takes a search
                messages.setdefault(".".join(map(str, problem["loc"])), []).append("")
                continue
            if problem["type"] == "too_short" and problem["loc"] in wrong:
                continue  # pydantic counts only the entries that are right
            key, message = _explain(problem, model, tree)
            messages.setdefault(key, []).append(message)
        lines = []
        for key, texts in messages.items():
            origin = _origin(key, origins or {}) or where
            text = " or ".join(dict.fromkeys(texts))
            lines.append(f"{origin}: {key + ': ' if key else ''}{text}")
        if len(lines) > _MAX_LINES:
            lines[_MAX_LINES:] = [f"and {len(lines) - _MAX_LINES} more mistakes"]
        raise UserError("\n".join(lines)) from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _origin(key: str, origins: Mapping[str, str]) -> str | None:
    """Return where a key, a part of it or what it is part of came from, if known."""
    for other, origin in origins.items():
        if (
            key == other
            or key.startswith(f"{other}.")
            or (key and other.startswith(f"{key}."))
        ):
            return origin
    return None


def _explain(
    problem: ErrorDetails, schema: type[BaseModel], tree: Any
) -> tuple[str, str]:
    """Return the dotted key of a problem, and what to say about it."""
    steps, owner, section = _locate(problem["loc"], schema, tree)
    key, value = ".".join(map(str, steps)), shown(problem["input"])
    match problem["type"]:
        case "extra_forbidden":
            return key, f"unknown key{_nearest(steps, owner, schema)}"
        case "missing":
            return key, "missing; this kind needs it"
        case "kind_unknown":
            return f"{key}.kind", problem["ctx"]["reason"]
        case "kind_keys":
            return key, f"holds the value {value} where keys are needed: kind, ..."
        case "model_type":
            known = ", ".join(section.model_fields) if section else "none"
            return key, f"holds the value {value} where keys are needed: {known}"
        case "less_than_equal":
            most = problem["ctx"]["le"]
            told = f"{most:,}" if isinstance(most, int) else f"{most:g}"
            return key, f"must be less than or equal to {told} (got {value})"
        case "value_error":
            return key, str(problem["ctx"]["error"])
        case _:
            text = problem["msg"].replace("Input should be", "must be")
            text = _SAYINGS.get(problem["type"], text.replace("Input", "it"))
            return key, f"{text} (got {value})"


def _locate(
    location: Sequence[int | str], schema: type[BaseModel], tree: Any
) -> tuple[list[int | str], type[BaseModel] | None, type[BaseModel] | None]:
    """Follow a location of pydantic's down the schema, and the keys that were given.

    Returns:
        Its keys, without what pydantic adds below a value of several types; the section
        that the last key is one of; and the section that it holds, if any.
    """
    steps: list[int | str] = []
    owner: type[BaseModel] | None = None
    section: type[BaseModel] | None = schema
    by_name = False  # whether the next key is a name of the user's
    for step in location:
        if not (section or by_name or isinstance(step, int)):
            continue
        steps.append(step)
        tree = tree.get(step) if isinstance(tree, dict) else None
        if by_name or section is None:
            by_name = False
            continue
        owner, field = section, section.model_fields.get(str(step))
        kinds = one_of(section, str(step))
        if kinds is not None:
            kind = tree.get("kind") if isinstance(tree, dict) else None
            section = None
            with contextlib.suppress(ValueError):  # an unknown kind is told as such
                section = kinds.member(str(kind or kinds.default))
        else:  # a section, a section or null, or sections by name
            of = field.annotation if field else None
            by_name = get_origin(of) is dict
            section = next(iter(_sections_in(of)), None)
    return steps, owner, section


def _default_kind(sections: Sequence[str]) -> str | None:
    """Return the kind that a section is of if none is given, or None."""
    _, _, section = _locate(sections, Config, {})
    kind = section.model_fields.get("kind") if section else None
    return kind.default if kind else None


def _nearest(
    steps: Sequence[int | str], owner: type[BaseModel] | None, schema: type[BaseModel]
) -> str:
    """Say which key was meant: one beside it, or one elsewhere in the schema."""
    *sections, last = map(str, steps)
    known = list(owner.model_fields) if owner else []
    elsewhere = [key for key in _keys(schema) if _could_be(key, sections, last, known)]
    meant = [key for key in elsewhere if key.rpartition(".")[2] == last]
    if not meant:
        close = difflib.get_close_matches(last, known, n=1, cutoff=0.5)
        close = close or [name for name in known if last in name.split("_")]
        meant = [".".join([*sections, name]) for name in close]
    if not meant:
        meant = [key for key in elsewhere if _initials(key) == last]
    if not meant:
        names = {key.rpartition(".")[2] for key in elsewhere}
        close = difflib.get_close_matches(last, sorted(names), n=1, cutoff=0.75)
        meant = [key for key in elsewhere if key.rpartition(".")[2] in close]
    if not meant:
        return f"; known here: {', '.join(known)}"
    # those that lie nearest first
    meant.sort(key=lambda key: -_common(key.split("."), sections))
    return f", did you mean {' or '.join(meant[:_MOST_MEANT])}?"


def _could_be(key: str, sections: list[str], last: str, known: list[str]) -> bool:
    """Return whether a key of the schema is another one that there may be here.

    Below the section itself only what its kind has.
    """
    steps, depth = key.split("."), len(sections)
    if steps == [*sections, last]:
        return False
    return steps[:depth] != sections or len(steps) == depth or steps[depth] in known


def _initials(key: str) -> str:
    """Return the abbreviation of a key's last word, as lr of learning_rate."""
    return "".join(word[:1] for word in key.rpartition(".")[2].split("_"))


def _common(key: Sequence[str], other: Sequence[str]) -> int:
    """Count the sections that two keys begin with in common."""
    pairs = enumerate(zip(key, other, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(key), len(other)))


@functools.cache
def _keys(schema: type[BaseModel], prefix: str = "") -> tuple[str, ...]:
    """Return every dotted key that a section may hold, of all kinds, each once.

    A name of the user's own, as of a variant, is NAME.
    """
    seen: dict[str, None] = {}
    for name, field in schema.model_fields.items():
        key = f"{prefix}{name}"
        seen[key] = None
        kinds = one_of(schema, name)
        sections = kinds.members if kinds else _sections_in(field.annotation)
        by_name = get_origin(field.annotation) is dict
        for section in sections:
            below = f"{key}.NAME." if by_name else f"{key}."
            seen |= dict.fromkeys(_keys(section, below))
    return tuple(seen)


def _sections_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the sections that a field of this type may hold, alone or by name."""
    types = get_args(annotation) or (annotation,)
    return [
        one for one in types if isinstance(one, type) and issubclass(one, BaseModel)
    ]
