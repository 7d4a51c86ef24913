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
from dpet_jax.suite.variants import AS_IT_IS, Answer, Job, Suite, Variant, answers

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

    def of(self, job: Job) -> Path:
        """Return the folder of a run."""
        return self._out / job.folder

    def state(self, job: Job) -> State:
        """Return whether a run is finished, begun or missing."""
        if (self.of(job) / SUMMARY).exists():
            return "finished"
        return "begun" if (self.of(job) / CONFIG).exists() else "missing"

    def read(self, job: Job) -> Run:
        """Read a finished run.

        Raises:
            UserError: If it cannot be read.
        """
        return read_run(self.of(job))

    def every_job(self) -> Iterator[Job]:
        """Yield all runs that the suite may come to need."""
        for variant in self._suite.variants:
            yield from variant.trials()
            for seed in self._suite.section.seeds:
                yield from variant.jobs([*variant.settings], seed)

    def answers(self, variant: Variant) -> dict[float, Answer]:
        """Return the setting chosen for each target; none before any trial."""
        targets = self._suite.section.targets
        if not variant.tuned:
            return dict.fromkeys(targets, Answer(AS_IT_IS, reached=True))
        trials: dict[str, list[Run]] = {}
        for setting, run in self._tried(variant):
            trials.setdefault(setting, []).append(run)
        return answers(trials, targets) if trials else {}

    def _tried(self, variant: Variant) -> Iterator[tuple[str, Run]]:
        """Yield the finished trials that can be read, each with its setting."""
        for job in variant.trials():
            with contextlib.suppress(UserError):
                yield job.setting, self.read(job)

    def write(self, problems: Sequence[str]) -> bool:
        """Record which runs belong together, for a report.

        Args:
            problems: What went wrong, a sentence each.

        Returns:
            Whether there is any to report on.
        """
        variants = [self._record(variant) for variant in self._suite.variants]
        section = self._suite.section
        record = {
            "name": section.name,
            "statements": [*section.statements],
            "roles": {
                variant.section.role: variant.key
                for variant in self._suite.variants
                if variant.section.role is not None
            },
            "problems": [*dict.fromkeys(problems)],
            "variants": variants,
        }
        write_whole(self.path / SUITE, json.dumps(record, indent=1) + "\n")
        return any(runs for one in variants for runs in one["by_target"].values())

    def _record(self, variant: Variant) -> dict[str, Any]:
        chosen = self.answers(variant)
        by_target = {
            str(target): [
                str(self.of(job).relative_to(self.path))
                for seed in self._suite.section.seeds
                for job in variant.jobs([answer.setting], seed)
                if self.state(job) == "finished"
            ]
            for target, answer in chosen.items()
        }
        return {
            "key": variant.key,
            "label": variant.label,
            "paper": variant.section.paper,
            "by_target": by_target,
            "tuning": self._tuning(variant, chosen),
        }

    def _tuning(
        self, variant: Variant, chosen: dict[float, Answer]
    ) -> dict[str, Any] | None:
        if variant.section.tune is None:
            return None
        runs = [run for _, run in self._tried(variant)]
        return {
            "trials": len(variant.settings),
            "seeds": [*variant.section.tune.seeds],
            "cost": {
                name: _sum([run.spent(by) for run in runs])
                for by, name in COMPARED.items()
            },
            "chosen": {
                str(target): variant.texts[answer.setting] if answer.reached else None
                for target, answer in chosen.items()
            },
        }


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None
