"""From a YAML file and dotted overrides to a validated `Config`.

Errors are collected, not met one by one; each names the file (or the command line), the
key, the value and what would be right.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from dpet_jax.errors import UserError
from dpet_jax.schema import Config

COMMAND_LINE = "command line"

Model = TypeVar("Model", bound=BaseModel)


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a config file and apply dotted overrides, first to last.

    Args:
        path: A YAML file.
        overrides: `--a.b=value` each; the value is read as YAML.

    Raises:
        UserError: With every problem at once, one a line.
    """
    tree = read_tree(path)
    changes = [parse_override(override) for override in overrides]
    change(tree, changes, COMMAND_LINE)
    return validate(tree, str(path), {key: COMMAND_LINE for key, _ in changes})


def read_tree(path: str | Path) -> dict[str, Any]:
    """Read a YAML file that a user wrote as nested plain data.

    Raises:
        UserError: If it cannot be read, or is not a mapping.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: cannot read the config ({_reason(error)}); give the path of a "
            "YAML file such as configs/quickstart.yaml"
        ) from error
    try:
        tree = yaml.load(text, _Yaml)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {_one_line(error)}") from error
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
            f"{COMMAND_LINE}: {override!r} is no override; write --section.key=value, "
            "such as --train.batch_size=256"
        )
    try:
        return key, yaml.load(text, _Yaml)
    except yaml.YAMLError as error:
        raise UserError(
            f"{COMMAND_LINE}: {key}: not YAML: {_one_line(error)}"
        ) from error


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
        node = tree
        for section in sections:
            child = node.setdefault(section, {})
            if not isinstance(child, dict):
                raise UserError(
                    f"{origin}: {key}: {section} holds the value {child!r}, not keys"
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
        for problem in error.errors():
            key, message = _explain(problem, model)
            messages.setdefault(key, []).append(message)
        lines = []
        for key, texts in messages.items():
            origin = _origin(key, origins or {}) or where
            text = " or ".join(dict.fromkeys(texts))
            lines.append(f"{origin}: {key + ': ' if key else ''}{text}")
        raise UserError("\n".join(lines)) from error


class _Yaml(yaml.SafeLoader):
    """YAML 1.2's scalars (`on`, `010` and dates are words), and no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        """Refuse what PyYAML would settle silently in favour of the last."""
        keys = [key.value for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(
                problem=f"{', '.join(twice)} is given twice; keep one",
                problem_mark=node.start_mark,
            )
        return super().construct_mapping(node, deep)


_Yaml.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag.rpartition(":")[2] not in ("bool", "int", "timestamp")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("^(true|True|TRUE|false|False|FALSE)$"), "tTfF"
)
_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile("^[-+]?(0|[1-9][0-9]*)$"), "-+0123456789"
)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


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


def _explain(problem: ErrorDetails, schema: type[BaseModel]) -> tuple[str, str]:
    """Return the dotted key of a problem, and what to say about it."""
    steps, model = _locate(problem["loc"], schema)
    key = ".".join(map(str, steps))
    value = problem["input"]
    match problem["type"]:
        case "extra_forbidden":
            return key, f"unknown key{_nearest(steps, model)}"
        case "missing":
            return key, "missing; this kind needs it"
        case "union_tag_invalid":
            tags = problem["ctx"]["expected_tags"].replace("'", "")
            return f"{key}.kind", f"unknown {problem['ctx']['tag']!r}; one of {tags}"
        case "model_attributes_type":
            return key, f"holds the value {value!r} where keys are needed: kind, ..."
        case "model_type":
            known = ", ".join(model.model_fields) if model else "none"
            return key, f"holds the value {value!r} where keys are needed: {known}"
        case "path_type":
            return key, f"must be a path (got {value!r})"
        case "value_error":
            return key, str(problem["ctx"]["error"])
        case _:
            text = problem["msg"].replace("Input should be", "must be")
            return key, f"{text.replace('Input', 'it')} (got {value!r})"


def _locate(
    location: tuple[int | str, ...], schema: type[BaseModel]
) -> tuple[list[int | str], type[BaseModel] | None]:
    """Follow a location of pydantic's through the schema.

    Pydantic puts the tags of unions between the keys; people do not know them.

    Returns:
        The keys alone, and the section that the last key belongs to (for a section
        itself: that section, if its kind is known).
    """
    steps: list[int | str] = []
    model: type[BaseModel] | None = schema
    owner: type[BaseModel] | None = None
    rest = iter(location)
    for step in rest:
        if model is None:
            steps += [step] if isinstance(step, int) else []
            continue
        steps.append(step)
        owner = model
        field = model.model_fields.get(str(step))
        model = None
        if field is not None and field.discriminator:
            model = _members(field.annotation).get(str(next(rest, None)))
        elif field is not None:
            # a section, a section or null, or sections by name
            kinds = get_args(field.annotation) or (field.annotation,)
            if get_origin(field.annotation) is dict:
                steps += [name for name in (next(rest, None),) if name is not None]
            sections = [k for k in kinds if isinstance(k, type)]
            model = next((k for k in sections if issubclass(k, BaseModel)), None)
    return steps, model or owner


def _members(union: Any) -> dict[str, type[BaseModel]]:
    return {
        get_args(member.model_fields["kind"].annotation)[0]: member
        for member in get_args(union)
    }


def _default_kind(sections: Sequence[str]) -> Any:
    """Return the kind that a section has if none is given, or None."""
    model: type = Config
    default: Any = None
    for section in sections:
        field = getattr(model, "model_fields", {}).get(section)
        default = None if field is None else field.default
        model = type(default)
    return getattr(default, "kind", None)


def _nearest(steps: list[int | str], model: type[BaseModel] | None) -> str:
    *sections, last = map(str, steps)
    known = list(model.model_fields) if model else []
    close = difflib.get_close_matches(last, known, n=1, cutoff=0.5)
    if close:
        return f", did you mean {'.'.join([*sections, close[0]])}?"
    return f"; known here: {', '.join(known)}"
