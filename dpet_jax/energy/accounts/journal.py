"""energy.jsonl: what a meter knows, on disk while it runs, so that a kill loses little.

The first line of a segment holds the whole state; every later line only what has
changed. Reading folds them again, up to the last whole line.
"""

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

State = dict[str, Any]


class Folded(NamedTuple):
    """What a journal holds.

    Attributes:
        state: The meter's state at the last whole line; None for an empty journal.
        complete: Whether the meter of the last segment was stopped in order.
        samples: The lines of the power trace, in order.
        segments: State at the first and at the last line of each segment.
    """

    state: State | None
    complete: bool
    samples: list[dict[str, Any]]
    segments: list[tuple[State, State]]


class Journal:
    """Append what changed in a meter's state.

    Args:
        path: The file; a line that a kill left torn is cut off.
        state: The state with which this segment begins.

    Attributes:
        lines: Lines written, those of earlier segments included.
    """

    def __init__(self, path: Path, state: State) -> None:
        self.lines = 0
        if path.exists():
            whole = path.read_bytes()
            self.lines = whole.count(b"\n")
            end = whole.rfind(b"\n") + 1
            if end < len(whole):
                os.truncate(path, end)
        # unbuffered: a forked child must not hold half a line that it writes again
        self._file = path.open("ab", buffering=0)
        self._state = _copy(state)
        self._append({"event": "start", "state": self._state})

    def write(self, event: str, state: State, **values: Any) -> None:
        """Append one line with what changed since the one before."""
        present = _copy(state)
        line = {"event": event, **values, "patch": changes(self._state, present)}
        self._state = present
        self._append(line)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _append(self, line: dict[str, Any]) -> None:
        whole = json.dumps(line, default=str).encode() + b"\n"
        if self._file.write(whole) < len(whole):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._file.name)
        self.lines += 1


def read(path: Path) -> Folded:
    """Fold a journal; a torn last line is dropped."""
    folded = Folded(None, False, [], [])
    for line, state in _fold(path):
        if line["event"] == "start":
            folded.segments.append((_copy(state), state))
        if line["event"] == "sample":
            folded.samples.append(line)
        folded = folded._replace(state=state, complete=line["event"] == "end")
    return folded


def read_until(path: Path, phase: str, after: int) -> State | None:
    """Return the state at the end of the first window of a phase.

    Args:
        path: The journal.
        phase: The window's.
        after: Lines that came before it and are passed over.

    Returns:
        None if there is no such window.
    """
    for number, (line, state) in enumerate(_fold(path)):
        if number >= after and line["event"] == "window" and line["phase"] == phase:
            return state
    return None


def _fold(path: Path) -> Iterator[tuple[dict[str, Any], State]]:
    state: State = {}
    if not path.exists():
        return
    whole, _, _ = path.read_text("utf-8", errors="replace").rpartition("\n")
    for text in whole.splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            return
        if line["event"] == "start":
            state = line["state"]
        else:
            apply(state, line["patch"])
        yield line, state


def changes(old: State, new: State) -> State:
    """Return what `apply` needs to turn the old state into the new one.

    A dictionary in it is merged with the one that is there, a list holds the one value
    that replaces what is there. Keys of the state itself are never taken away.
    """
    changed: State = {}
    for key, value in new.items():
        before = old.get(key)
        if key in old and before == value:
            continue
        if (
            isinstance(value, dict)
            and isinstance(before, dict)
            and before.keys() <= (value.keys())
        ):
            changed[key] = changes(before, value)
        elif isinstance(value, dict | list):
            changed[key] = [value]
        else:
            changed[key] = value
    return changed


def apply(state: State, patch: State) -> None:
    """Change a state in place as a patch says."""
    for key, value in patch.items():
        if isinstance(value, dict):
            apply(state[key], value)
        else:
            state[key] = value[0] if isinstance(value, list) else value


def _copy(state: State) -> State:
    # a user's probe may tell facts that JSON does not know
    return json.loads(json.dumps(state, default=str))
