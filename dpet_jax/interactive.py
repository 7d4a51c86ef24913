"""Experiments from Python: what `dpet run` and `dpet compare` do, as two functions.

import dpet_jax

run = dpet_jax.run("config.yaml", {"method.kind": "rs2"})
run.summary["test_accuracy"], run.curves["accuracy"], run.coreset, run.model
run.report()
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from dpet_jax.config.experiment import Config
from dpet_jax.config.load import change, read_tree, validate
from dpet_jax.data import Data, Source, prepare
from dpet_jax.methods.base import Method
from dpet_jax.models.network import ModelSection
from dpet_jax.report.comparison import read_comparison
from dpet_jax.report.page import answer, write_report
from dpet_jax.report.rows import Comparison
from dpet_jax.report.runs import Run, read_run
from dpet_jax.run import experiment
from dpet_jax.run.callbacks import Callback
from dpet_jax.run.costs import By
from dpet_jax.run.machine import use_compilation_cache

_ARGUMENT = "changes"


def run(  # noqa: PLR0913
    config: Config | Mapping[str, Any] | Path | str | None = None,
    changes: Mapping[str, Any] | None = None,
    *,
    data: Data | Source | None = None,
    method: Method | None = None,
    model: ModelSection | None = None,
    callbacks: Sequence[Callback] = (),
    out: Path | str = "runs",
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> Run:
    """Run an experiment, and return it once it has ended.

    Args:
        config: A `Config`, its keys as nested data, or a YAML file; None is the
            quickstart.
        changes: Dotted keys and their values, above those of the config.
        data: Instead of reading what the config names: the arrays of a run, or a data
            set of your own as a source returns it, which the config's `data` section
            resizes and splits. The run records that it was given in Python.
        method: Instead of the config's.
        model: Instead of the config's.
        callbacks: Each is called with every event once it is on disk: a function of
            the event, a tracker, or an object with a tracker's `write` and `close`.
            `dpet_jax.StopRun`, raised in one, ends the run well.
        out: Parent of the run folder, `<out>/<name>/seed<k>`.
        resume: Go on with what the folder holds.
        overwrite: Replace what the folder holds.
        progress: Whether to show what happens.

    Raises:
        UserError: For a mistake in config, data or folder, before training starts.
        KeyboardInterrupt: If a signal ended it; `resume=True` goes on.
        Exception: What a callback raised, once the run has saved; `resume=True` goes
            on.
    """
    resolved = _config(config, dict(changes or {}))
    parts = {"method": method, "model": model}
    given = {name: part for name, part in parts.items() if part is not None}
    if given:
        # not a copy, which would not be checked
        resolved = Config.model_validate({**dict(resolved), **given})
    use_compilation_cache()
    if data is not None and not isinstance(data, Data):
        data = prepare(data, resolved.data)
    result = experiment.run(
        resolved,
        out,
        resume=resume,
        overwrite=overwrite,
        console=Console() if progress else None,
        data=data,
        callbacks=callbacks,
    )
    if result.summary is None:
        raise KeyboardInterrupt(f"{result.folder}: go on with resume=True")
    return read_run(result.folder)


def _config(
    config: Config | Mapping[str, Any] | Path | str | None, changes: dict[str, Any]
) -> Config:
    if isinstance(config, Config):
        if not changes:
            return config
        tree, where = config.model_dump(mode="json"), "the config"
    elif isinstance(config, Mapping):
        tree, where = dict(config), "the config"
    else:
        path = "quickstart" if config is None else config
        tree, where = read_tree(path), str(path)
    tree = _copied(tree)
    change(tree, changes.items(), _ARGUMENT)
    return validate(tree, where, dict.fromkeys(changes, _ARGUMENT))


def _copied(tree: Any) -> Any:
    """Copy nested keys, and leave objects such as methods as they are."""
    if isinstance(tree, Mapping):
        return {key: _copied(value) for key, value in tree.items()}
    return tree


@dataclass(frozen=True)
class Compared:
    """A suite that was run.

    Attributes:
        folder: The suite's.
        comparison: Its rows with the runs that are compared.
        by: What costs are compared in.
        finished: Whether every run has finished.
        problems: What went wrong, a sentence each.
    """

    folder: Path
    comparison: Comparison
    by: By
    finished: bool
    problems: tuple[str, ...]

    def __str__(self) -> str:
        """Return the first table."""
        return answer(self.comparison, self.by)

    def report(self, out: Path | str | None = None, *, paper: bool = False) -> Path:
        """Write page, tables and plots; return the page.

        Args:
            out: The folder, by default the suite's.
            paper: Whether to write what is for a column of a paper too.
        """
        place = self.folder if out is None else Path(out)
        return write_report(self.comparison, self.by, place, paper=paper)[0]


def compare(
    suite: Mapping[str, Any] | Path | str,
    changes: Mapping[str, Any] | None = None,
    *,
    only: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    minutes: float | None = None,
    by: By | None = None,
    out: Path | str = "runs",
    progress: bool = True,
) -> Compared:
    """Run what a suite lacks, and return the comparison; called again, it goes on.

    Args:
        suite: A YAML file, the name of a packaged suite, or its keys as nested data;
            its base may be a `Config`, a config's keys, its file or the name of a
            packaged one.
        changes: Dotted keys and their values, for every run.
        only: Names of variants to run alone.
        seeds: Instead of the suite's.
        minutes: Stop after so long.
        by: The unit of costs; by default Wh where all was measured, else epochs.
        out: Parent of the suite's folder.
        progress: Whether to show what happens.

    Raises:
        UserError: For a mistake in the suite, or if no run has finished.
    """
    from dpet_jax.suite.compare import Comparing
    from dpet_jax.suite.variants import load_suite

    given = suite if isinstance(suite, Mapping) else Path(suite)
    loaded = load_suite(given, [*(changes or {}).items()], seeds, "compare")
    use_compilation_cache()
    console = Console() if progress else Console(quiet=True)
    outcome = Comparing(loaded, Path(out), console, only).run(minutes=minutes)
    comparison = read_comparison([outcome.folder], by)
    return Compared(
        outcome.folder,
        comparison,
        by or comparison.natural_cost(),
        outcome.finished,
        outcome.problems,
    )
