"""What searches for settings found for what they spent: the curves, and who was best.

It is read from the folders of searches alone. A search costs what its trials spend on
choosing and training; a trial that goes on from an earlier stop costs its new part.
Compiling, evaluating and what a crash lost are not counted.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from dpet_jax.errors import DamagedFileError, UserError
from dpet_jax.files import read_json, read_lines, write_whole
from dpet_jax.report.formats import to_text
from dpet_jax.report.printed import NONE, percent, significant, span
from dpet_jax.report.sheets import Entry, Sheet
from dpet_jax.run.folder import SUMMARY, reading

#: Of a search's folder: what is searched and how, and a line for each stop of a trial.
STUDY, STOPS = "tune.json", "stops.jsonl"
#: Of a folder of several searches: what was asked, and what came of it.
SEARCHES, RECORD = "searches.json", "record.json"

#: What searches are compared in.
Unit: TypeAlias = Literal["wh", "epochs", "flops", "seconds"]
UNIT_NAMES: dict[Unit, str] = {
    "wh": "Wh",
    "epochs": "epochs (full-pass equivalents)",
    "flops": "FLOPs",
    "seconds": "seconds",
}
#: Shares of the best accuracy that any search found.
LEVELS = (0.95, 0.99)
_ALIKE = 1e-6


class Trial(NamedTuple):
    """A trial of a search where it stopped: at its end, or for a while.

    Attributes:
        number: Of the trial.
        share: Of its run that is done.
        values: As they are written, by key.
        accuracy: On validation; None where it diverged.
        epochs: Full-pass equivalents since it began, as are all costs.
        flops: Of training and scoring.
        seconds: Of selection and training.
        wh: Of them, or None where nothing measures energy.
        quality: Of the energy: measured, modelled, both or unavailable.
        stopped_by: What stopped it; "paused" if it may go on.
        folder: Its run folder.
    """

    number: int
    share: int | float
    values: dict[str, str]
    accuracy: int | float | None
    epochs: int | float
    flops: int | float
    seconds: int | float
    wh: int | float | None
    quality: str
    stopped_by: str
    folder: Path

    @property
    def ended(self) -> bool:
        """Whether it does not go on."""
        return self.stopped_by != "paused"

    @property
    def after(self) -> str:
        """How far it came, as messages have it; nothing where to its end."""
        return f" after {100 * self.share:.3g} %" if self.share < 1 else ""

    def to_json(self, out: Path) -> dict[str, Any]:
        """Return it as a line, its folder as seen from that of the search."""
        return self._asdict() | {"folder": self.folder.relative_to(out).as_posix()}


def read_stops(out: Path) -> list[Trial]:
    """Read all stops of a search's trials, in the order in which they came.

    Args:
        out: Folder of the search; none of its trials may have stopped yet.

    Raises:
        DamagedFileError: If a line is none.
    """
    path = out / STOPS
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(read_lines(path), 1):
        try:
            found.append(Trial(**(line | {"folder": out / str(line["folder"])})))
        except (TypeError, KeyError) as error:
            raise DamagedFileError(path, str(error), number) from error
    return found


# statistics


def best_so_far(accuracies: Sequence[float | None]) -> list[float | None]:
    """Return the largest of each beginning; None before the first that is known."""
    found: list[float | None] = []
    for accuracy in accuracies:
        before = found[-1] if found else None
        both = [a for a in (before, accuracy) if a is not None]
        found.append(max(both, default=None))
    return found


def cost_to(
    costs: Sequence[float], best: Sequence[float | None], level: float
) -> float | None:
    """Return the cost at which the best so far first is a level or more; or None.

    Args:
        costs: Cumulative.
        best: So far, at each.
        level: An accuracy.
    """
    pairs = zip(costs, best, strict=True)
    return next((c for c, b in pairs if b is not None and b >= level), None)


def area(
    costs: Sequence[float], best: Sequence[float | None], budget: float
) -> float | None:
    """Return the mean of the best so far over a budget; 0 counts before the first.

    It steps up where a trial stops, and stays.

    Args:
        costs: Cumulative, ascending.
        best: So far, at each.
        budget: More than 0; None comes of any other.
    """
    if budget <= 0:
        return None
    ends = [*costs[1:], math.inf]
    total = sum(
        max(0.0, min(end, budget) - min(cost, budget)) * (found or 0.0)
        for cost, end, found in zip(costs, ends, best, strict=True)
    )
    return total / budget


@dataclass(frozen=True)
class Repeats:
    """A number over the repeats of a search, some of which may lack it.

    Attributes:
        mean: Of all repeats; None unless all have it.
        low: Of those that have it.
        high: Likewise.
        known: How many have it.
        repeats: How many there are.
    """

    mean: float | None
    low: float | None
    high: float | None
    known: int
    repeats: int

    @classmethod
    def of(cls, values: Sequence[float | None]) -> "Repeats":
        """Return that of some values, None where a repeat has none."""
        known = [value for value in values if value is not None]
        whole = bool(known) and len(known) == len(values)
        return cls(
            sum(known) / len(known) if whole else None,
            min(known, default=None),
            max(known, default=None),
            len(known),
            len(values),
        )

    def text(self, number: Any = significant) -> str:
        """Return mean and range; in how many repeats it is known, where not in all."""
        if not self.known:
            return NONE
        if self.mean is None:
            assert self.low is not None
            first = f"{number(self.low)} or more"
            return f"{first} ({self.known} of {self.repeats})"
        if self.repeats == 1 or self.low == self.high:
            return str(number(self.mean))
        return f"{number(self.mean)} ({span(self.low, self.high, number)})"


# searches


@dataclass(frozen=True)
class Course:
    """One repeat of a search.

    Attributes:
        seed: Of the search.
        costs: Cumulative, at each stop of a trial.
        best: Best validation accuracy so far, at each; None before the first.
        trials: How many were begun.
        good: Share of them that stopped last at 95 % of the pooled best or above.
        area: Mean of the best so far over the common budget.
        to_levels: Cost to each of `LEVELS` of the pooled best; None if never.
        winner: Values of its best trial; None where all diverged.
        validation: Accuracy of the winner, by which it was chosen.
        test: Of the winner, which nobody looked at before; None where its run was left
            on its way.
    """

    seed: int
    costs: tuple[float, ...]
    best: tuple[float | None, ...]
    trials: int
    good: float
    area: float | None
    to_levels: tuple[float | None, ...]
    winner: dict[str, str] | None
    validation: float | None
    test: float | None


@dataclass(frozen=True)
class SearchRow:
    """A search over its repeats.

    Attributes:
        name: Of the search.
        courses: Its repeats.
        area: See `Course`, as are the others.
        to_levels: For each of `LEVELS`.
        good: Share of good settings.
        best: Best validation accuracy.
        test: Test accuracy of the winners.
        cost_per_trial: Cost over trials.
        trials: Begun.
    """

    name: str
    courses: tuple[Course, ...]
    area: Repeats
    to_levels: tuple[Repeats, ...]
    good: Repeats
    best: Repeats
    test: Repeats
    cost_per_trial: Repeats
    trials: Repeats


@dataclass(frozen=True)
class SearchRecord:
    """Searches for the same settings, compared.

    Attributes:
        config: Name of the config.
        unit: Of all costs.
        pooled_best: Best validation accuracy of all trials; None if none has any.
        budget: What every search spent at least, over which areas are taken.
        rows: The searches, that with the largest mean area first.
    """

    config: str
    unit: Unit
    pooled_best: float | None
    budget: float
    rows: tuple[SearchRow, ...]

    @property
    def unit_name(self) -> str:
        """The unit, as tables and axes have it."""
        return UNIT_NAMES[self.unit]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)

    def write(self, folder: Path) -> Path:
        """Write it whole, and return where."""
        write_whole(folder / RECORD, json.dumps(self.to_json(), indent=1) + "\n")
        return folder / RECORD


def read_searches(folder: Path, unit: Unit | None = None) -> SearchRecord:
    """Compare the searches in a folder, finished or not.

    Args:
        folder: As `dpet tune --compare` or `suite.searches.run_searches` left it.
        unit: What to compare in; by default Wh where every trial has them from one
            kind of source, else epochs where an epoch costs all trials the same, else
            FLOPs.

    Raises:
        UserError: If the folder holds no searches, nothing has stopped yet, or the unit
            was not measured.
    """
    path = folder / SEARCHES
    if not path.exists():
        raise UserError(
            f"{folder}: holds no searches to compare; run dpet tune --compare first"
        )
    with reading(folder):
        asked = read_json(path)
        seeds = [asked["seed"] + k for k in range(asked["repeats"])]
        found = {
            (name, seed): read_stops(search_folder(folder, name, seed))
            for name in asked["searches"]
            for seed in seeds
        }
        config = str(asked["config"]["name"])
    stops = [stop for each in found.values() for stop in each]
    if not stops:
        raise UserError(f"{folder}: no trial has stopped yet; start the searches again")
    taken = unit or natural_unit(stops)
    if taken == "wh" and not _all_measured(stops):
        raise UserError(f"{folder}: not every trial measured energy; compare by epochs")
    return compared_searches(
        {key: each for key, each in found.items() if each}, taken, config
    )


def search_folder(folder: Path, name: str, seed: int) -> Path:
    """Return where one of several searches goes."""
    return folder / name.replace("/", "_") / f"search{seed}"


def natural_unit(stops: Sequence[Trial]) -> Unit:
    """Return what trials are compared in, if nobody says; see `read_searches`."""
    if _all_measured(stops):
        return "wh"
    each = [stop.flops / stop.epochs for stop in stops if stop.epochs]
    alike = not each or max(each) <= min(each) * (1 + _ALIKE)
    return "epochs" if alike else "flops"


def _all_measured(stops: Sequence[Trial]) -> bool:
    """Whether costs can be compared in Wh, which those of models cannot."""
    known = all(stop.wh is not None for stop in stops)
    return known and {stop.quality for stop in stops} == {"measured"}


def compared_searches(
    found: dict[tuple[str, int], list[Trial]], unit: Unit, config: str = ""
) -> SearchRecord:
    """Compare searches by the stops of their trials.

    Args:
        found: By name and seed of the search, in the order in which they came.
        unit: What all of them know their costs in.
        config: Name of what was searched.
    """
    every = [stop for stops in found.values() for stop in stops]
    known = [stop.accuracy for stop in every if stop.accuracy is not None]
    pooled = max(known, default=None)
    costs = {key: _costs(stops, unit) for key, stops in found.items()}
    budget = min((each[-1] for each in costs.values()), default=0.0)
    rows = []
    for name in dict.fromkeys(name for name, _ in found):
        courses = tuple(
            _course(key[1], found[key], costs[key], pooled, budget)
            for key in found
            if key[0] == name
        )
        rows.append(_row(name, courses))
    rows.sort(key=lambda row: -(row.area.mean or 0.0))
    return SearchRecord(config, unit, pooled, budget, tuple(rows))


def _costs(stops: Sequence[Trial], unit: Unit) -> tuple[float, ...]:
    """Return the cumulative cost at each stop; a trial's new part alone counts."""
    spent: dict[int, float] = {}
    total, found = 0.0, []
    for stop in stops:
        value = getattr(stop, unit)
        total += value - spent.get(stop.number, 0.0)
        spent[stop.number] = value
        found.append(float(total))
    return tuple(found)


def _course(
    seed: int,
    stops: Sequence[Trial],
    costs: tuple[float, ...],
    pooled: float | None,
    budget: float,
) -> Course:
    best = best_so_far([stop.accuracy for stop in stops])
    last = {stop.number: stop for stop in stops}
    levels = [math.inf if pooled is None else level * pooled for level in LEVELS]
    good = [t for t in last.values() if (t.accuracy or -math.inf) >= levels[0]]
    ranked = [t for t in last.values() if t.accuracy is not None]
    winner = max(ranked, key=lambda t: (t.accuracy, -t.number), default=None)
    test = None
    if winner is not None and winner.ended and (winner.folder / SUMMARY).exists():
        test = read_json(winner.folder / SUMMARY)["test_accuracy"]
    return Course(
        seed=seed,
        costs=costs,
        best=tuple(best),
        trials=len(last),
        good=len(good) / len(last),
        area=area(costs, best, budget),
        to_levels=tuple(cost_to(costs, best, level) for level in levels),
        winner=None if winner is None else winner.values,
        validation=None if winner is None else winner.accuracy,
        test=test,
    )


def _row(name: str, courses: tuple[Course, ...]) -> SearchRow:
    return SearchRow(
        name=name,
        courses=courses,
        area=Repeats.of([course.area for course in courses]),
        to_levels=tuple(
            Repeats.of([course.to_levels[k] for course in courses])
            for k in range(len(LEVELS))
        ),
        good=Repeats.of([course.good for course in courses]),
        best=Repeats.of([course.best[-1] for course in courses]),
        test=Repeats.of([course.test for course in courses]),
        cost_per_trial=Repeats.of([c.costs[-1] / c.trials for c in courses]),
        trials=Repeats.of([float(course.trials) for course in courses]),
    )


# text


def search_sheet(record: SearchRecord) -> Sheet:
    """Return the table of a comparison of searches."""
    header = (
        *("search", "area, %", *(f"to {100 * level:g} %" for level in LEVELS)),
        *("good", "best, %", "test, %", "a trial", "trials"),
    )

    def points(fraction: float) -> str:
        return f"{100 * fraction:.1f}"

    rows = tuple(
        tuple(
            Entry(text)
            for text in (
                row.name,
                row.area.text(points),
                *(level.text() for level in row.to_levels),
                row.good.text(percent),
                row.best.text(points),
                row.test.text(points),
                row.cost_per_trial.text(),
                row.trials.text(lambda count: f"{count:.3g}"),
            )
        )
        for row in record.rows
    )
    best = NONE if record.pooled_best is None else points(record.pooled_best)
    return Sheet(
        "searches",
        f"Searches for settings of {record.config}, costs in {record.unit_name}",
        header,
        rows,
        (
            "Area: mean of the best validation accuracy so far over the "
            f"{significant(record.budget)} that every search spent; 0 before the "
            "first trial stops.",
            f"To 95 and 99 % of {best} %, the best that any found; good: trials at "
            "95 % of it or above where they stopped, which many of halving do early.",
            "Mean of repeats, and their range; of a cost that not all repeats came to, "
            "the least.",
        ),
    )


def answer(record: SearchRecord) -> str:
    """Return what the comparison says, in a sentence."""
    known = [row for row in record.rows if row.area.mean is not None]
    repeats = max((row.area.repeats for row in known), default=0)
    if not known:
        return "No search has an accuracy to compare."
    first = known[0]
    over = f"over {significant(record.budget)} {UNIT_NAMES[record.unit]}"
    best = f"{first.name} found most for its cost: {_mean(first)} {over}"
    if len(known) == 1:
        return f"{best}."
    others = ", ".join(f"{row.name} {_mean(row)}" for row in known[1:])
    close = [row.name for row in known[1:] if _overlaps(first.area, row.area)]
    if repeats < 2:
        verdict = "one repeat tells nothing of chance"
    elif close:
        verdict = (
            f"{repeats} repeats do not tell {first.name} from {' or '.join(close)}"
        )
    else:
        verdict = f"ahead of all others in each of {repeats} repeats"
    return f"{best}; {others}; {verdict}."


def _mean(row: SearchRow) -> str:
    return f"{row.area.text(lambda fraction: f'{100 * fraction:.1f}')} %"


def _overlaps(first: Repeats, other: Repeats) -> bool:
    return (other.high or 0.0) >= (first.low or 0.0)


def search_lines(record: SearchRecord, width: int = 80) -> list[str]:
    """Return the table, how to read it, and the answer, as a terminal shows them."""
    sheet = search_sheet(record)
    return [*to_text(sheet, width).splitlines(), "", *sheet.notes, "", answer(record)]
