"""The folder of a suite: its runs, the settings that were chosen, and its record."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from dpet_jax.errors import UserError
from dpet_jax.files import write_whole
from dpet_jax.report.comparison import SUITE
from dpet_jax.report.runs import COMPARED, Run, read_run
from dpet_jax.run.folder import CONFIG, SUMMARY
from dpet_jax.suite.schema import WholeOrNot
from dpet_jax.suite.variants import (
    AS_IT_IS,
    Answer,
    Growth,
    Job,
    Suite,
    Variant,
    answers,
    best_at_end,
)

State = Literal["finished", "begun", "missing"]


class SuiteFolder:
    """The folder of a suite, whose runs lie in folders of their own below it.

    Args:
        suite: What belongs in it.
        out: Its parent.

    Attributes:
        path: Where it is.
    """

    def __init__(self, suite: Suite, out: Path) -> None:
        self.path = out / suite.section.name
        self._suite = suite
        self._out = out
        self._finished: dict[Path, Run] = {}

    def of(self, job: Job) -> Path:
        """Return the folder of a run."""
        return self._out / job.folder

    def state(self, job: Job) -> State:
        """Return whether a run is finished, begun or missing."""
        if (self.of(job) / SUMMARY).exists():
            return "finished"
        return "begun" if (self.of(job) / CONFIG).exists() else "missing"

    def read(self, job: Job) -> Run:
        """Read a finished run, from its folder but once.

        Raises:
            UserError: If it cannot be read.
        """
        folder = self.of(job)
        if folder not in self._finished:
            self._finished[folder] = read_run(folder)
        return self._finished[folder]

    def every_job(self) -> Iterator[Job]:
        """Yield all runs that the suite may come to need."""
        for variant in self._suite.variants:
            axes = {} if variant.section.tune is None else variant.section.tune.axes
            whole = {key: (axis.lower, axis.upper) for key, axis in axes.items()}
            yield from variant.trials(whole)
            for seed in self._suite.section.seeds:
                yield from variant.jobs([*variant.settings], seed)

    def growth(self) -> Growth:
        """Return how far grids have grown, by the trials that have finished.

        As long as the setting that is chosen for any variant has the last value of a
        key, all variants that are tuned over this key get one more: equal chances.
        """
        grown: dict[str, tuple[int, int]] = {}
        while True:
            wanted = {
                edge
                for variant in self._suite.variants
                if all(self.state(j) == "finished" for j in variant.trials(grown))
                for answer in self._chosen(variant, grown).values()
                for edge in variant.edges(answer.setting, grown)
            }
            if not wanted:
                return grown
            for key, end in wanted:
                ends = [*grown.get(key, (0, 0))]
                ends[end] += 1
                grown[key] = (ends[0], ends[1])

    def answers(self, variant: Variant) -> dict[WholeOrNot, Answer]:
        """Return the setting chosen for each target, or for each horizon.

        There is none before any trial.
        """
        return self._chosen(variant, self.growth())

    def _chosen(self, variant: Variant, grown: Growth) -> dict[WholeOrNot, Answer]:
        targets = self._suite.section.targets
        if not variant.tuned and not variant.horizons:
            return {target: Answer(AS_IT_IS, reached=True) for target in targets}
        values: tuple[Any, ...] = ()
        if variant.tuned:
            trials: dict[str, list[Run]] = {}
            for setting, run in self._tried(variant, grown):
                trials.setdefault(setting, []).append(run)
            if not trials:
                return {}
            if not variant.horizons:
                return {**answers(trials, targets)}
            values = variant.settings[best_at_end(trials)].values
        return {h: Answer(variant.named(values, h), True) for h in variant.horizons}

    def _tried(self, variant: Variant, grown: Growth) -> Iterator[tuple[str, Run]]:
        """Yield the finished trials that can be read, each with its setting."""
        for job in variant.trials(grown):
            with contextlib.suppress(UserError):
                yield job.setting, self.read(job)

    def write(self, problems: Sequence[str]) -> bool:
        """Record which runs belong together, for a report.

        Args:
            problems: What went wrong, a sentence each.

        Returns:
            Whether there is any to report on.
        """
        grown = self.growth()
        variants = [self._record(variant, grown) for variant in self._suite.variants]
        section = self._suite.section
        edges = [
            text for v in self._suite.variants for text in self._at_edges(v, grown)
        ]
        record = {
            "name": section.name,
            "statements": [*section.statements],
            "roles": {
                variant.section.role: variant.key
                for variant in self._suite.variants
                if variant.section.role is not None
            },
            "problems": [*dict.fromkeys([*problems, *edges])],
            "variants": variants,
        }
        write_whole(self.path / SUITE, json.dumps(record, indent=1) + "\n")
        return any(
            runs
            for one in variants
            for held in (one["by_target"], one["by_horizon"])
            for runs in held.values()
        )

    def _record(self, variant: Variant, grown: Growth) -> dict[str, Any]:
        chosen = self._chosen(variant, grown)
        runs = {
            str(key): [
                str(self.of(job).relative_to(self.path))
                for seed in self._suite.section.seeds
                for job in variant.jobs([answer.setting], seed)
                if self.state(job) == "finished"
            ]
            for key, answer in chosen.items()
        }
        return {
            "key": variant.key,
            "label": variant.label,
            "paper": variant.section.paper,
            "arm": variant.section.arm or variant.name,
            "cell": {"of": variant.family, "factors": {**variant.factors}}
            if variant.factors
            else None,
            "by_target": {} if variant.horizons else runs,
            # where there are none yet, it is still a row that is read at its end
            "by_horizon": {str(h): [] for h in variant.horizons} | runs
            if variant.horizons
            else {},
            "tuning": self._tuning(variant, chosen, grown),
        }

    def _tuning(
        self, variant: Variant, chosen: dict[WholeOrNot, Answer], grown: Growth
    ) -> dict[str, Any] | None:
        if variant.section.tune is None:
            return None
        tried = [*self._tried(variant, grown)]
        runs = [run for _, run in tried]
        return {
            "trials": len({setting for setting, _ in tried}),
            "seeds": [*variant.section.tune.seeds],
            "cost": {
                name: _sum([run.spent(by) for run in runs])
                for by, name in COMPARED.items()
            },
            "chosen": {
                str(key): variant.settings[answer.setting].text
                if answer.reached
                else None
                for key, answer in chosen.items()
            },
        }

    def _at_edges(self, variant: Variant, grown: Growth) -> Iterator[str]:
        """Yield what says that a grid that may grow is too small all the same."""
        tune = variant.section.tune
        if tune is None or not tune.grow:
            return
        names = {answer.setting for answer in self._chosen(variant, grown).values()}
        for place, (key, axis) in enumerate(tune.axes.items()):
            held = axis.window(*grown.get(key, (0, 0)))
            if len(held) == 1 or not axis.lower + axis.upper:
                continue
            chosen = {variant.settings[name].values[place] for name in names}
            for value in chosen & {held[0], held[-1]}:
                yield (
                    f"{variant.label}: {key} {value} was chosen, the last value "
                    "that was tried; raise tune.grow or give more values"
                )


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None
