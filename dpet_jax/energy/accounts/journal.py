"""energy.jsonl: a meter's accounts on disk while it runs, so that a kill loses little.

The first line of a segment holds all of them; every later line only what has changed.
Reading puts them together again, up to the last whole line.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from dpet_jax.energy.accounts.plain import rebuild
from dpet_jax.energy.accounts.state import Accounts
from dpet_jax.errors import UserError
from dpet_jax.files import JsonLines

Plain = dict[str, Any]


class Sample(NamedTuple):
    """A line of the power trace.

    Attributes:
        start_s: Where it begins, and
        end_s: where it ends, in seconds of the run.
        joules: What was used between, by channel.
    """

    start_s: float
    end_s: float
    joules: dict[str, float]


class Folded(NamedTuple):
    """What a journal holds.

    Attributes:
        accounts: Those at the last whole line; None for an empty journal.
        complete: Whether the meter of the last segment was stopped in order.
        samples: The lines of the power trace, in order.
        segments: The accounts at the first and at the last line of each segment.
    """

    accounts: Accounts | None
    complete: bool
    samples: list[Plain]
    segments: list[tuple[Accounts, Accounts]]


class Journal:
    """Append what changed in a meter's accounts.

    Args:
        path: The file; a line that a kill left torn is cut off.
        accounts: Those with which this segment begins.
    """

    def __init__(self, path: Path, accounts: Accounts) -> None:
        self._file = JsonLines(path)
        self._plain = _plain(accounts)
        self._file.append({"event": "start", "state": self._plain})
        self._labels = self._plain.pop("labels")

    def write(self, event: str, accounts: Accounts, **values: Any) -> None:
        """Append one line with what changed since the one before.

        Labels that the accounts lack are as they were, so that a line costs the same
        however many there are.
        """
        present = _plain(accounts)
        labels = present.pop("labels")
        before = {name: self._labels[name] for name in labels if name in self._labels}
        patch = changes(self._plain | {"labels": before}, present | {"labels": labels})
        self._plain = present
        self._labels.update(labels)
        self._file.append({"event": event, **values, "patch": patch})

    @property
    def lines(self) -> int:
        """Lines written, including those of earlier segments."""
        return self._file.lines

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read(path: Path) -> Folded:
    """Read a journal; a torn last line is dropped.

    Raises:
        UserError: If it is damaged, or was written by a version that is not known.
    """
    event, last, state, samples = "", 0, None, []
    segments: list[tuple[Plain, Plain]] = []
    for number, line, state in _fold(path):
        event, last = line["event"], number
        if event == "start":
            segments.append((_copy(state), state))
        if event == "sample":
            samples.append(line)

    def accounts(plain: Plain) -> Accounts:
        return _built(path, last, lambda: Accounts.from_json(plain))

    return Folded(
        None if state is None else accounts(state),
        event == "end",
        samples,
        [(accounts(a), accounts(b)) for a, b in segments],
    )


def read_until(path: Path, phase: str, after: int) -> Accounts | None:
    """Return the accounts at the end of the first window of a phase.

    Args:
        path: The journal.
        phase: The window's.
        after: Lines that came before it and are skipped.

    Returns:
        None if there is no such window.

    Raises:
        UserError: If the journal is damaged.
    """
    for count, (number, line, state) in enumerate(_fold(path)):
        if count >= after and line["event"] == "window" and line.get("phase") == phase:
            return _built(path, number, lambda state=state: Accounts.from_json(state))
    return None


def trace_of(folded: Folded) -> list[Sample]:
    """Return the power trace that a journal holds.

    Raises:
        ValueError: If a line of it lacks something.
    """
    return [
        rebuild(Sample, {name: line.get(name) for name in Sample._fields}, "sample")
        for line in folded.samples
    ]


def fold(path: Path) -> Iterator[tuple[Plain, Plain]]:
    """Yield every whole line and the accounts after it, as plain data.

    The accounts are changed in place by the lines that follow. Rubbish that a power cut
    left at the end, of the file or of a segment, is passed over.

    Raises:
        UserError: If any other line is damaged: what it held is not known.
    """
    for _, line, state in _fold(path):
        yield line, state


def _fold(path: Path) -> Iterator[tuple[int, Plain, Plain]]:
    state: Plain | None = None
    rubbish: UserError | None = None
    if not path.exists():
        return
    try:
        *lines, _ = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    for number, text in enumerate(lines, 1):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError) as error:
            rubbish = rubbish or _damaged(path, number, error)
            continue
        starts = isinstance(line, dict) and line.get("event") == "start"
        if rubbish is not None and not starts:
            raise rubbish
        try:
            if starts:
                state, rubbish = dict(line["state"]), None
            elif state is None:
                raise KeyError("start")
            else:
                apply(state, line["patch"])
            line["event"]
        except _MISFITS as error:
            raise _damaged(path, number, error) from error
        yield number, line, state


#: What plain data of another form than expected raises where it is used.
_MISFITS = (KeyError, TypeError, AttributeError, IndexError, ValueError, RecursionError)


def _built(path: Path, number: int, build: Callable[[], Any]) -> Any:
    try:
        return build()
    except ValueError as error:
        raise _damaged(path, number, error) from error


def _damaged(path: Path, number: int, error: Exception) -> UserError:
    reason = error if isinstance(error, ValueError) else repr(error)
    if isinstance(error, RecursionError):
        reason = "it is nested too deeply"
    return UserError(
        f"{path}: damaged: line {number}: {reason}; restore the file, or cut it off "
        "before this line, whose energy is then lost"
    )


def changes(old: Plain, new: Plain) -> Plain:
    """Return what `apply` needs to turn the old plain data into the new one.

    A dictionary in it is merged with the one that is there, a list holds the one value
    that replaces what is there. Keys of the outermost dictionary are never taken away.
    """
    changed: Plain = {}
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


def apply(state: Plain, patch: Plain) -> None:
    """Change plain data in place as a patch says."""
    for key, value in patch.items():
        if isinstance(value, dict):
            apply(state[key], value)
        else:
            state[key] = value[0] if isinstance(value, list) else value


def _plain(accounts: Accounts) -> Plain:
    return _copy(accounts.to_json())


def _copy(plain: Plain) -> Plain:
    # a user's probe may give facts that JSON does not know
    return json.loads(json.dumps(plain, default=str))
