"""Runs at a glance: which there are in a folder, and in what two of them differ."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dpet_jax.config.load import changed
from dpet_jax.errors import UserError
from dpet_jax.files import read_json, read_npz, read_yaml
from dpet_jax.report.printed import NONE, percent, significant
from dpet_jax.report.runs import find_runs
from dpet_jax.report.sheets import Entry, Sheet
from dpet_jax.run.costs import WARM_PHASES, Event
from dpet_jax.run.folder import CONFIG, CORESET, EVENTS, SUMMARY, read_events, reading

#: State of a run that has no end yet: it runs, was interrupted or was killed.
UNFINISHED = "unfinished"

#: Numbers of a summary that two runs are compared by.
_RESULTS = (
    *("test_accuracy", "validation_accuracy", "stopped_by", "epochs", "visits"),
    *("scored_examples", "wall_s", "coreset_size"),
)
#: What a start event says about the data and the machine.
_DATA = ("dataset", "fingerprint", "train", "validation", "test", "noisy_labels")
_MACHINE = ("versions", "device", "settings")


class Glance(NamedTuple):
    """What a list of runs says about one.

    Attributes:
        folder: The run's.
        method: Its name for people.
        seed: The run's.
        state: A `StopReason`, or `UNFINISHED`.
        test_accuracy: At its end, in [0, 1]; None where it has none yet, or diverged.
        validation_accuracy: The last one that was measured, likewise.
        epochs: Full-pass equivalents spent so far.
        wh: Energy of everything spent so far; None where not measured, or where a model
            told it of a run that has not ended, whose interval is not known yet.
        modelled_wh: The interval of that, if a model told it.
        seconds: Of selection and training so far.
        when: Start of its last segment, UTC, as ISO 8601.
        dataset: Name of its data set.
    """

    folder: Path
    method: str
    seed: int
    state: str
    test_accuracy: float | None
    validation_accuracy: float | None
    epochs: float
    wh: float | None
    modelled_wh: tuple[float, float] | None
    seconds: float
    when: str | None
    dataset: str

    def plain(self) -> dict[str, Any]:
        """Return it as plain data, for JSON."""
        return self._asdict() | {"folder": str(self.folder)}


class Listing(NamedTuple):
    """The runs below some folders.

    Attributes:
        runs: Sorted by folder, numbers in names by their value.
        problems: Which folders were skipped and why, a sentence each.
    """

    runs: tuple[Glance, ...]
    problems: tuple[str, ...]


def list_runs(paths: Sequence[Path]) -> Listing:
    """Read every run at or below some folders, also those that have not ended.

    Raises:
        UserError: If there is no folder of a run.
    """
    folders = {folder for path in paths for folder in find_runs(path)}
    if not folders:
        raise UserError(
            f"{', '.join(map(str, paths))}: no run here; give a folder that `dpet run` "
            "or `dpet compare` has written to, by default runs"
        )
    runs, problems = [], []
    for folder in sorted(folders, key=_natural):
        try:
            runs.append(glance(folder))
        except UserError as error:
            problems.append(f"{error}; skipped")
    return Listing(tuple(runs), tuple(problems))


def glance(folder: Path) -> Glance:
    """Read the little that a list says about a run.

    Raises:
        UserError: If the folder holds no run, or something that cannot be read.
    """
    return _glance(folder, *_read(folder))


def _glance(
    folder: Path,
    config: dict[str, Any],
    events: list[Event],
    summary: dict[str, Any] | None,
) -> Glance:
    with reading(folder):
        started = _last(events, "start") or {}
        spent: Event = next((e for e in reversed(events) if "epochs" in e), {})
        looks = [e for e in events if e["event"] == "evaluate" and e.get("accuracy")]
        seconds, wh = spent.get("seconds") or {}, spent.get("wh")
        held = summary or {}
        interval = _modelled_wh(held)
        if summary is None and (config.get("energy") or {}).get("allow_modelled"):
            wh = None
        kind = str(config["method"]["kind"]).rpartition(":")[2].replace("_", " ")
        return Glance(
            folder=folder,
            method=str(held.get("method_label") or kind),
            seed=int(config["seed"]),
            state=UNFINISHED if summary is None else str(summary["stopped_by"]),
            test_accuracy=held.get("test_accuracy"),
            validation_accuracy=held.get(
                "validation_accuracy", looks[-1]["accuracy"] if looks else None
            ),
            epochs=float(spent.get("epochs", 0.0)),
            wh=None if wh is None else float(sum(wh.values())),
            modelled_wh=interval,
            seconds=float(sum(seconds.get(phase, 0.0) for phase in WARM_PHASES)),
            when=started.get("when"),
            dataset=str(started.get("dataset", config["data"]["kind"])),
        )


def _modelled_wh(summary: dict[str, Any]) -> tuple[float, float] | None:
    energy = summary.get("energy") or {}
    if energy.get("quality") != "modelled":
        return None
    low, high = energy["wh_k2"]
    return float(low), float(high)


def _wh_text(wh: float | None, interval: tuple[float, float] | None) -> str:
    if wh is None or interval is None:
        return significant(wh)
    low, high = map(significant, interval)
    return f"≈ {significant(wh)} [{low}, {high}]"


def _read(folder: Path) -> tuple[dict[str, Any], list[Event], dict[str, Any] | None]:
    """Return config, events and, of a run that has ended, its summary."""
    if not (folder / CONFIG).exists():
        raise UserError(
            f"{folder}: holds no run; give the folder of one, such as "
            "runs/quickstart/seed0"
        )
    try:
        events = read_events(folder / EVENTS) if (folder / EVENTS).exists() else []
        ended = (folder / SUMMARY).exists()
        summary = read_json(folder / SUMMARY) if ended else None
        return read_yaml(folder / CONFIG), events, summary
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be read ({error.strerror}: {error.filename})"
        ) from error


def _last(events: Sequence[Event], name: str) -> Event | None:
    return next((e for e in reversed(events) if e["event"] == name), None)


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """Return what sorts seed2 before seed10, and nothing by a whim of the disk."""
    parts = re.findall(r"\d+|\D+", path.as_posix())
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts]


def runs_sheet(listing: Listing, root: Path | None) -> Sheet:
    """Return the list as a table.

    Args:
        listing: The runs.
        root: What their folders are told from; None tells them whole.
    """
    measured = any(run.wh is not None for run in listing.runs)
    years = {run.when[:4] for run in listing.runs if run.when is not None}
    year = next(iter(years)) if len(years) == 1 else ""
    cost = ("Wh",) if measured else ()
    rows = [
        (
            Entry(_below(run.folder, root)),
            Entry(run.method),
            Entry(str(run.seed)),
            Entry(run.state),
            Entry(percent(run.test_accuracy)),
            Entry(significant(run.epochs)),
            *((Entry(_wh_text(run.wh, run.modelled_wh)),) if measured else ()),
            Entry(_begun(run.when, year)),
        )
        for run in listing.runs
    ]
    return Sheet(
        name="runs",
        title="Runs",
        header=(
            "run",
            "method",
            "seed",
            "state",
            "test",
            "epochs",
            *cost,
            f"begun {year}",
        ),
        rows=tuple(rows),
    )


def _below(folder: Path, root: Path | None) -> str:
    if root is None or not folder.is_relative_to(root) or folder == root:
        return str(folder)
    return folder.relative_to(root).as_posix()


def _begun(when: str | None, year: str) -> str:
    """Return the minute where all runs are of one year, the day elsewhere."""
    if when is None:
        return NONE
    return when[5:16].replace("T", " ") if year else when[:10]


class Group(NamedTuple):
    """In what two runs differ, of one kind.

    Attributes:
        title: The kind.
        same: What it says where they do not differ.
        rows: Key, and the value of each run.
    """

    title: str
    same: str
    rows: tuple[tuple[str, str, str], ...]


def difference(one: Path, other: Path) -> tuple[Glance, Glance, list[Group]]:
    """Compare two runs: config, results, data and versions.

    Args:
        one: Folder of a run, which need not have ended.
        other: Likewise.

    Raises:
        UserError: If one of them holds no run, or something that cannot be read.
    """
    read = [_read(folder) for folder in (one, other)]
    glances = [_glance(f, *r) for f, r in zip((one, other), read, strict=True)]
    configs = [config for config, _, _ in read]
    begun = [_last(events, "start") or {} for _, events, _ in read]
    with reading(other):
        results = [
            _results(summary, seen)
            for (_, _, summary), seen in zip(read, glances, strict=True)
        ]
    machines = [{key: e.get(key, {}) for key in _MACHINE} for e in begun]
    data = [{key: e.get(key) for key in _DATA} for e in begun]
    groups = [
        _group("config", "the same config", *configs),
        _group("results", "the same results", *results),
        _group("data", "the same data", *data),
        _group("machine and versions", "the same versions and device", *machines),
    ]
    overlap = _coresets(one, other)
    if overlap is not None:
        rows = (*groups[1].rows, overlap)
        groups[1] = groups[1]._replace(rows=rows)
    return glances[0], glances[1], groups


def _results(summary: dict[str, Any] | None, seen: Glance) -> dict[str, Any]:
    if summary is None:
        return {
            "stopped_by": UNFINISHED,
            "epochs": seen.epochs,
            "validation_accuracy": seen.validation_accuracy,
        }
    targets = {
        f"epochs to {entry['target']:g}": entry.get("epochs")
        for entry in summary["targets"]
    }
    energy = {"wh": summary["energy"].get("wh")}
    if (interval := _modelled_wh(summary)) is not None:
        energy["wh"] = _wh_text(float(energy["wh"]), interval)
    return {key: summary.get(key) for key in _RESULTS} | energy | targets


def _group(title: str, same: str, one: dict[str, Any], other: dict[str, Any]) -> Group:
    rows = [(key, _value(a), _value(b)) for key, a, b in changed(one, other)]
    return Group(title, same, tuple(rows))


def _value(value: Any) -> str:
    """Return a value for people: three digits, the beginning of a fingerprint."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    text = str(value)
    return text[:12] if re.fullmatch("[0-9a-f]{40,}", text) else text


def _coresets(one: Path, other: Path) -> tuple[str, str, str] | None:
    """Return how much of its coreset each run shares; None where one has none."""
    if not all((folder / CORESET).exists() for folder in (one, other)):
        return None
    with reading(one):
        ours = read_npz(one / CORESET)["source_rows"]
    with reading(other):
        theirs = read_npz(other / CORESET)["source_rows"]
    common = np.intersect1d(ours, theirs).size

    def share(of: np.ndarray) -> str:
        return f"{common:,} ({percent(common / max(1, of.size))})"

    return "coreset in both", share(ours), share(theirs)
