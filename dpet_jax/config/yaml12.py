"""YAML 1.2's core schema, read within limits, and written so that it reads back.

PyYAML follows YAML 1.1, in which `on`, `1:30` and `2020-01-31` are no words, and makes
objects of whatever has a tag. Here its parser alone is used: its events become nested
plain data whose scalars are null, true, false, numbers and text.
"""

import copy
import math
import re
from collections.abc import Callable
from typing import Any

import yaml

from dpet_jax.section import shown

#: Of a file, and of what its aliases expand to.
MAX_CHARACTERS = 100_000
#: Of sections within sections.
MAX_DEPTH = 20

_NUMBER = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
# Not more digits than the largest float has, and than Python turns into an integer.
_MAX_DIGITS = 400
_SCALARS: tuple[tuple[str, str, Callable[[str], Any]], ...] = (
    ("null", "~|null|Null|NULL|", lambda _: None),
    ("bool", "true|True|TRUE", lambda _: True),
    ("bool", "false|False|FALSE", lambda _: False),
    ("int", f"[-+]?[0-9]{{1,{_MAX_DIGITS}}}", int),
    ("int", f"0o[0-7]{{1,{_MAX_DIGITS}}}", lambda text: int(text[2:], 8)),
    ("int", f"0x[0-9a-fA-F]{{1,{_MAX_DIGITS}}}", lambda text: int(text[2:], 16)),
    ("float", _NUMBER, float),
    ("float", r"[-+]?\.(inf|Inf|INF)", lambda text: float(text.replace(".", ""))),
    ("float", r"\.(nan|NaN|NAN)", lambda _: math.nan),
)
_TAG = "tag:yaml.org,2002:"
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


class NotYamlError(ValueError):
    """Text that is not YAML, or more of it than anyone writes."""


def read(text: str) -> Any:
    """Turn a YAML document into dictionaries, lists and scalars.

    Keys are text, as it is written. An alias gives a copy of its own. A merge (`<<`) is
    a key like any other, and no tag but those of the core schema is known.

    Raises:
        NotYamlError: In one sentence, with the line.
    """
    if len(text) > MAX_CHARACTERS:
        raise NotYamlError(
            f"more than {MAX_CHARACTERS:,} characters; is it the right file?"
        )
    try:
        return _Builder(text).document()
    except NotYamlError:
        raise
    except yaml.MarkedYAMLError as error:
        told = " ".join(filter(None, (error.context, error.problem)))
        raise _wrong(told, error.problem_mark or error.context_mark) from error
    except Exception as error:  # PyYAML's scanner lets several kinds escape
        raise NotYamlError(" ".join(str(error).split())) from error


def write(plain: Any) -> str:
    """Return nested plain data as YAML, which readers of YAML 1.1 read alike."""
    return yaml.dump(plain, Dumper=_Writer, sort_keys=False)


class _Writer(yaml.SafeDumper):
    """Puts text in quotes that either version of YAML would take for something else."""


_Writer.add_implicit_resolver(
    f"{_TAG}float", re.compile(f"^({_NUMBER}|0o[0-7]+)$"), [*"-+.0123456789"]
)


def _wrong(problem: str, mark: Any) -> NotYamlError:
    return NotYamlError(f"line {mark.line + 1}, column {mark.column + 1}: {problem}")


class _Builder:
    """Makes plain data of the events of a document, one after another."""

    def __init__(self, text: str) -> None:
        self.events = yaml.parse(text, yaml.SafeLoader)
        self.anchors: dict[str, tuple[Any, int]] = {}
        self.characters = 0

    def document(self) -> Any:
        """Return the value of the only document; null if there is none."""
        next(self.events)  # the stream
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return None
        value = self.value(next(self.events), 0)
        next(self.events)  # the document's end
        event = next(self.events)
        if not isinstance(event, yaml.StreamEndEvent):
            raise _wrong("a second document; keep one", event.start_mark)
        return value

    def value(self, event: Any, depth: int) -> Any:
        """Return what begins with an event."""
        if depth > MAX_DEPTH:
            raise _wrong(f"nested more than {MAX_DEPTH} deep", event.start_mark)
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:  # or it is within its own anchor
                raise _wrong(f"*{event.anchor} refers to nothing", event.start_mark)
            value, characters = self.anchors[event.anchor]
            self.count(event, characters)
            return copy.deepcopy(value)
        before = self.characters
        self.count(event, 1)
        if isinstance(event, yaml.ScalarEvent):
            value = self.scalar(event)
        elif isinstance(event, yaml.SequenceStartEvent):
            self.check_tag(event, "seq")
            value = []
            while not isinstance(inner := next(self.events), yaml.SequenceEndEvent):
                value.append(self.value(inner, depth + 1))
        else:
            self.check_tag(event, "map")
            value = self.mapping(depth)
        if event.anchor is not None:
            self.anchors[event.anchor] = value, self.characters - before
        return value

    def mapping(self, depth: int) -> dict[str, Any]:
        """Return the mapping whose start was the last event."""
        found: dict[str, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise _wrong("a key must be a word", event.start_mark)
            key = self.text(event)
            if key in found:
                raise _wrong(f"{key} is given twice; keep one", event.start_mark)
            found[key] = self.value(next(self.events), depth + 1)
        return found

    def scalar(self, event: Any) -> Any:
        """Return a scalar as its tag says or, without one, as it looks."""
        text, tag = self.text(event), event.tag
        if event.implicit[1] or tag in ("!", f"{_TAG}str"):  # in quotes, or !!str
            return text
        for name, pattern, make in _SCALARS:
            if tag in (None, _TAG + name) and re.fullmatch(pattern, text):
                return make(text)
        self.check_tag(event, *(name for name, _, _ in _SCALARS))
        if tag is None:
            return text
        raise _wrong(f"{shown(text)} is no {tag.removeprefix(_TAG)}", event.start_mark)

    def text(self, event: Any) -> str:
        """Return the text of a scalar, none of which is invisible."""
        self.count(event, len(event.value))
        found = _CONTROL.search(event.value)
        if found:
            raise _wrong(f"the control character {found[0]!r}", event.start_mark)
        return event.value

    def check_tag(self, event: Any, *names: str) -> None:
        """Refuse a tag that is none of these."""
        if event.tag not in (None, "!", *(_TAG + name for name in names)):
            raise _wrong(f"the unknown tag {shown(event.tag)}", event.start_mark)

    def count(self, event: Any, characters: int) -> None:
        """Count what the document holds, aliases expanded."""
        self.characters += characters
        if self.characters > MAX_CHARACTERS:
            raise _wrong(
                f"aliases expand to more than {MAX_CHARACTERS:,} characters",
                event.start_mark,
            )
