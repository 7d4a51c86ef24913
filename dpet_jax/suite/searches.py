"""Several ways to search for the same settings, each at the same cost, to compare."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dpet_jax.config.load import load
from dpet_jax.data import Data
from dpet_jax.errors import UserError
from dpet_jax.files import read_json, write_whole
from dpet_jax.report.searches import SEARCHES, search_folder
from dpet_jax.run.interrupt import Interrupt
from dpet_jax.suite.searchers.axis import Axis
from dpet_jax.suite.searchers.base import Search
from dpet_jax.suite.tuning import Limits, Tuning


@dataclass(frozen=True)
class Searches:
    """What is to be compared.

    Attributes:
        config: Path of the config that trials vary.
        overrides: Of it, for every trial.
        axes: What is varied.
        searches: How, each by another name.
        limits: When to stop, for each search and repeat.
        repeats: Of each search, with one seed of the choice after the other.
        seed: Of the first; trials train with the seed of the config.
    """

    config: Path
    overrides: tuple[str, ...]
    axes: tuple[Axis, ...]
    searches: tuple[Search, ...]
    limits: Limits
    repeats: int = 3
    seed: int = 0

    @property
    def runs(self) -> list[tuple[Search, int]]:
        """Each search with each seed, all of one seed first."""
        seeds = range(self.seed, self.seed + self.repeats)
        return [(search, seed) for seed in seeds for search in self.searches]


def run_searches(
    asked: Searches,
    out: Path,
    *,
    say: Callable[[str], None] = print,
    minutes: int | float | None = None,
    interrupt: Interrupt | None = None,
) -> bool:
    """Run all searches, one after the other; started again it goes on.

    `report.searches.read_searches` compares what is in the folder, at any time.

    Args:
        asked: What to compare.
        out: Its folder.
        say: Shows a line.
        minutes: Stop after so long.
        interrupt: A flag of the caller's; by default signals are listened to.

    Returns:
        Whether it was interrupted, so that there is more to do.

    Raises:
        UserError: If nothing says when to stop, if a search or a value is refused, or
            the folder holds other searches; before any trial is run.
    """
    _check(asked)
    _begin(asked, out)
    data: list[Data | None] = [None]

    def tuning(search: Search, seed: int) -> Tuning:
        where = search_folder(out, search.name, seed)
        return Tuning(
            *(asked.config, asked.overrides, asked.axes, where, search, seed, say),
            data=data[0],
        )

    for search in asked.searches:  # refused now, rather than hours later
        tuning(search, asked.seed)
    flag = Interrupt() if interrupt is None else interrupt
    with ExitStack() as stack:
        if interrupt is None:
            stack.enter_context(flag.listening())
        stack.enter_context(flag.after(minutes))
        for search, seed in asked.runs:
            if flag.requested:
                break
            say(f"{search.name}, search seed {seed}")
            one = tuning(search, seed)
            one.run(asked.limits, interrupt=flag)
            data[0] = one.data
    return flag.requested


def _check(asked: Searches) -> None:
    limits = {k: v for k, v in asked.limits._asdict().items() if v is not None}
    if not limits:
        raise UserError(
            "--compare: nothing says when a search has to stop; give --epochs, --wh or "
            "--trials, the same for each"
        )
    for name, value in limits.items():
        if value <= 0:
            raise UserError(f"--{name}: {value} is no number above 0")
    if asked.repeats < 1:
        raise UserError(f"--repeats: {asked.repeats} is no number above 0")
    if not asked.searches:
        raise UserError("--compare: names no search")
    names = [search.name for search in asked.searches]
    if len({*names}) < len(names):
        raise UserError(f"--compare: one twice among {', '.join(names)}")


def _begin(asked: Searches, out: Path) -> None:
    """Write down what is asked; refuse a folder of other settings.

    Searches, repeats and limits may change from one time to the next.
    """
    config = load(asked.config, asked.overrides).model_dump(mode="json")
    described: dict[str, Any] = {
        "config": config,
        "axes": [json.loads(json.dumps(asdict(axis))) for axis in asked.axes],
        "seed": asked.seed,
    }
    path = out / SEARCHES
    if path.exists():
        known = read_json(path)
        differing = [key for key in described if known.get(key) != described[key]]
        if differing:
            raise UserError(
                f"{path}: holds other searches (their {' and '.join(differing)} "
                "differ); use another --out, or remove the folder"
            )
    described |= {
        "searches": [search.name for search in asked.searches],
        "repeats": asked.repeats,
        "limits": asked.limits._asdict(),
    }
    out.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(described, indent=1) + "\n")
