"""The page of every key of a config, made of the schema that checks them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dpet_jax.config.experiment import Config

_INTRODUCTION = """# Every key

What a config may hold, from the schema that checks it; `dpet show FILE` prints the keys
of one config with their values, `dpet show --schema` the schema itself. Where a heading
names a kind, other kinds have other keys; a kind of your own has those of its class.
"""


def write_keys(page: Path) -> None:
    """Write a table for each section and each of its kinds."""
    schema = Config.model_json_schema()
    lines = [_INTRODUCTION]
    for heading, held in sections("", schema, schema.get("$defs", {}), set()):
        lines += [f"## {heading}\n"]
        if heading != "At the top":
            lines += [f"{first_line(held)}\n"]
        lines += ["| key | default | |", "| --- | --- | --- |"]
        for name, key in held["properties"].items():
            if "const" not in key:
                lines += [row(name, key)]
        lines += [""]
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(lines), encoding="utf-8")


def sections(
    key: str, held: dict[str, Any], definitions: dict[str, Any], seen: set[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every section below a key by its heading, each class once."""
    for section in objects(held, definitions):
        named = section["properties"].get("kind")
        kind = named and named.get("const")
        heading = (f"{key}: {kind}" if kind else key) or "At the top"
        known = f"{key.rpartition('.')[2]} {section.get('title')} {kind}"
        # a kind without a name is the place of the user's own
        if known in seen or (named and not kind and "enum" not in named):
            continue
        seen.add(known)
        yield heading, section
        for inner, value in section["properties"].items():
            below = f"{key}.{inner}" if key else inner
            yield from sections(below, value, definitions, seen)


def objects(
    held: dict[str, Any], definitions: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Yield what of a value's schema is a section."""
    if "$ref" in held:
        yield from objects(definitions[held["$ref"].rpartition("/")[2]], definitions)
    elif "properties" in held:
        yield held
    elif "items" in held:
        yield from objects(held["items"], definitions)
    for form in ("anyOf", "oneOf", "allOf"):
        for one in held.get(form, []):
            yield from objects(one, definitions)


def row(name: str, held: dict[str, Any]) -> str:
    """Return the line of a key: its default, and what it means."""
    default = held.get("default", "")
    nested = isinstance(default, dict)
    told = "" if nested or default == "" else f"`{json.dumps(default)}`"
    return f"| `{name}` | {told} | {first_line(held)} |"


def first_line(held: dict[str, Any]) -> str:
    """Return what a schema says of itself first, as Markdown shows it as it is."""
    said = held.get("description", "").partition("\n")[0]
    return said.replace("|", "\\|").replace("<", "&lt;")
