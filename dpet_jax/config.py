"""From a YAML file and dotted overrides to a validated `Config`.

Errors are collected, not met one by one; each names the file (or the command line), the
key, the value and what would be right.
"""

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from dpet_jax.errors import UserError
from dpet_jax.schema import Config


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a config file and apply dotted overrides, first to last.

    An override that changes the `kind` of a section starts that section anew from the
    kind's defaults, since the file's other keys belong to the old kind.

    Args:
        path: A YAML file.
        overrides: `--a.b=value` each; the value is read as YAML.

    Raises:
        UserError: With every problem at once, one a line.
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
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {_one_line(error)}") from error
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise UserError(
            f"{path}: needs sections like 'train:' at the top, found "
            f"{type(tree).__name__}"
        )
    given = set()
    for override in overrides:
        given.add(_apply_override(tree, override))
    return validate(tree, str(path), given)


def validate(
    tree: dict[str, Any],
    where: str,
    overridden: set[str] | frozenset[str] = frozenset(),
) -> Config:
    """Turn plain data into a `Config`, or raise one `UserError` with all problems.

    Args:
        tree: Nested plain data.
        where: What the messages call the origin, such as the file's path.
        overridden: Dotted keys that came from the command line instead.
    """
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        lines = [
            f"{'command line' if key in overridden else where}: {message}"
            for key, message in _problems(error, tree)
        ]
        raise UserError("\n".join(dict.fromkeys(lines))) from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _apply_override(tree: dict[str, Any], override: str) -> str:
    key, equals, text = override.removeprefix("--").partition("=")
    if not override.startswith("--") or not equals or not all(key.split(".")):
        raise UserError(
            f"command line: {override!r} is no override; write --section.key=value, "
            "such as --train.batch_size=256"
        )
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"command line: {key}: not YAML: {_one_line(error)}") from error
    *sections, last = key.split(".")
    node = tree
    for section in sections:
        child = node.setdefault(section, {})
        if not isinstance(child, dict):
            raise UserError(
                f"command line: {key}: {section} holds the value {child!r}, not keys"
            )
        node = child
    if last == "kind" and node.get("kind", value) != value:
        node.clear()
    node[last] = value
    return key


def _problems(
    error: ValidationError, tree: dict[str, Any]
) -> Iterator[tuple[str, str]]:
    for problem in error.errors():
        steps = _without_tags(problem["loc"], tree)
        key = ".".join(str(step) for step in steps)
        label = f"{key}: " if key else ""
        match problem["type"]:
            case "extra_forbidden":
                yield key, f"{label}unknown key{_nearest(steps, tree)}"
            case "missing":
                yield key, f"{label}missing; this kind needs it"
            case "union_tag_invalid":
                tags = problem["ctx"]["expected_tags"].replace("'", "")
                yield (
                    key,
                    f"{label}unknown kind {problem['ctx']['tag']!r}; one of {tags}",
                )
            case "union_tag_not_found":
                yield key, f"{label}needs a kind"
            case "value_error":
                yield key, f"{label}{problem['ctx']['error']}"
            case _:
                message = problem["msg"].replace("Input should be", "must be")
                yield key, f"{label}{message} (got {problem['input']!r})"


def _without_tags(location: tuple[int | str, ...], tree: Any) -> list[int | str]:
    """Drop the union tags that pydantic puts between the keys of a location."""
    steps: list[int | str] = []
    node = tree
    kind: Any = None
    for index, step in enumerate(location):
        last = index == len(location) - 1
        if isinstance(node, dict) and step == kind and (step not in node or not last):
            kind = None
            continue
        if not isinstance(node, dict | list) and not last:
            continue
        if not isinstance(node, dict | list) and steps and step not in ("kind",):
            continue  # which member of a plain union failed; not a key
        steps.append(step)
        try:
            node = node[step]
        except (KeyError, IndexError, TypeError):
            node = None
        kind = _kind_of(node)
    return steps


def _kind_of(node: Any) -> Any:
    return node.get("kind") if isinstance(node, dict) else None


def _nearest(steps: list[int | str], tree: dict[str, Any]) -> str:
    *sections, last = [str(step) for step in steps]
    known = _known_keys(sections, tree)
    close = difflib.get_close_matches(last, known, n=1, cutoff=0.5)
    if close:
        return f", did you mean {'.'.join([*sections, close[0]])}?"
    return f"; known here: {', '.join(known)}"


def _known_keys(sections: list[str], tree: dict[str, Any]) -> list[str]:
    schema = Config.model_json_schema()
    node: dict[str, Any] = schema
    plain: Any = tree
    for section in sections:
        plain = plain.get(section) if isinstance(plain, dict) else None
        node = _resolve(node["properties"][section], schema, _kind_of(plain))
    return list(node.get("properties", {}))


def _resolve(node: dict[str, Any], schema: dict[str, Any], kind: Any) -> dict[str, Any]:
    if "discriminator" in node:
        mapping = node["discriminator"]["mapping"]
        node = {"$ref": mapping.get(kind, next(iter(mapping.values())))}
    if "$ref" in node:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
    return node
