"""The composition root: config in, parts wired, a run folder out."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext, suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from dpet_jax.config.experiment import Config
from dpet_jax.config.load import changed, validate
from dpet_jax.data import Data
from dpet_jax.data.stored import Home, home_of
from dpet_jax.energy import EnergyMeter, Probe
from dpet_jax.errors import UserError
from dpet_jax.files import read_json, read_yaml
from dpet_jax.methods.base import Pool
from dpet_jax.models.network import Network
from dpet_jax.pretrained.choice import table_lines
from dpet_jax.run import build
from dpet_jax.run.callbacks import Callback, Callbacks
from dpet_jax.run.energy_report import run_report
from dpet_jax.run.folder import (
    CONFIG,
    ENERGY,
    ENERGY_REPORT,
    POOL,
    SUMMARY,
    reading,
)
from dpet_jax.run.interrupt import Interrupt
from dpet_jax.run.limits import Limits, StopReason
from dpet_jax.run.loop import Loop
from dpet_jax.run.machine import pinned
from dpet_jax.run.precision import said, settled
from dpet_jax.run.pretrained import begin, check_pool
from dpet_jax.run.progress import Display
from dpet_jax.run.prune import Pruner
from dpet_jax.run.segment import Segment
from dpet_jax.run.summary import finish
from dpet_jax.run.team import Team
from dpet_jax.run.team_checks import check_alike, hold
from dpet_jax.run.tracking import Tracking, tracked_run
from dpet_jax.run.trainer import Parts
from dpet_jax.training.learner import DeviceLearner
from dpet_jax.training.memory import Placed
from dpet_jax.training.prune import Shears
from dpet_jax.training.state import StepSpec

#: Keys that say where the pixels are, which changes nothing of a run.
_FREE = ("data.placement", "data.device_budget_mib", "data.workers")


class Result(NamedTuple):
    """How a run ended.

    Attributes:
        folder: Where everything about it is.
        stopped_by: What ended it; "interrupted" and "paused" can be resumed.
        summary: What summary.json holds; None after an interruption or a pause.
    """

    folder: Path
    stopped_by: StopReason
    summary: dict[str, Any] | None


def run_folder(config: Config, out: Path | str) -> Path:
    """Return where a config's run goes."""
    return Path(out) / config.name / f"seed{config.seed}"


def run(  # noqa: PLR0913
    config: Config,
    out: Path | str,
    *,
    resume: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
    meters: Sequence[Probe] = (),
    data: Data | None = None,
    interrupt: Interrupt | None = None,
    folder: Path | None = None,
    until: float | None = None,
    callbacks: Sequence[Callback] = (),
    team: Team | None = None,
) -> Result:
    """Run an experiment from its first or its latest checkpoint to its end.

    Args:
        config: What to run.
        out: Parent of the run folder.
        resume: Go on with what the folder holds.
        overwrite: Replace what the folder holds.
        console: Where to show progress; nowhere by default.
        meters: Meters of the user's own, such as a `CallableProbe` of a power strip.
        data: What `build.build_data` made of an equal `config.data`, for many runs on
            one data set; by default it is read.
        interrupt: A flag of the caller's that ends the run so that it can be resumed;
            by default the run listens to signals itself.
        folder: The run folder itself, wherever `out` is.
        until: Share of the run after which to evaluate it on validation and leave it,
            so that it can be resumed, as if nobody had looked; see `pause_visits`. By
            default it goes on to its end.
        callbacks: Called with every event once it is on disk, in this thread; what
            one raises is raised when the run has left its folder in order. `StopRun`
            ends the run with the reason "callback".
        team: The processes that share the run, of which this is one; by default it is
            alone.

    Raises:
        UserError: For every mistake in config, data or folder, before training starts
            and before anything on disk changes.
    """
    path = run_folder(config, out) if folder is None else folder
    team = team or Team()
    with team.failing_together():
        return _run(
            config,
            path,
            team,
            resume=resume,
            overwrite=overwrite,
            # one process shows the run
            console=console if console and team.leads else Console(quiet=True),
            meters=meters,
            data=data,
            interrupt=interrupt,
            until=until,
            # they are told what is on disk, which one process writes
            callbacks=callbacks if team.leads else (),
        )


def _run(  # noqa: PLR0913
    config: Config,
    path: Path,
    team: Team,
    *,
    resume: bool,
    overwrite: bool,
    console: Console,
    meters: Sequence[Probe],
    data: Data | None,
    interrupt: Interrupt | None,
    until: float | None,
    callbacks: Sequence[Callback],
) -> Result:
    """Run in a folder; `run` documents the arguments."""

    def checked() -> EnergyMeter:
        _check_folder(config, path, resume=resume, overwrite=overwrite)
        return _meter(config, meters, team)

    with pinned(), team.together(checked) as meter:
        with meter.window("data"):
            ranked = resume and (path / POOL).exists()
            # sizes of memory and disks differ between machines
            home = team.together(lambda: _home(config, data) if team.leads else None)
            home = Home(*team.agree(lambda: home))
            used = team.together(
                lambda: _read(config, data, home, until, ranked=ranked)
            )
            check_alike(team, config, used.data, meter)
            used = used._replace(placed=_alike(team, used.placed))
        with closing(team.together(lambda: hold(team, path))) as held:
            if resume and team.agree(lambda: held.finished):
                summary = team.agree(lambda: read_json(path / SUMMARY))
                return Result(path, summary["stopped_by"], summary)
            if overwrite:
                held.clear()
            display = Display(console)
            display.line(_headline(used))
            asked = interrupt or Interrupt()
            listening = nullcontext() if interrupt else asked.listening()
            with closing(Segment(config, used.data, held, team)) as segment, listening:
                for warning in segment.warnings:
                    display.line(f"  warning: {warning}")
                modelled = meter.quality == "modelled"
                followed = tracked_run(config, path, resumed=resume, modelled=modelled)
                tracked = config.track if team.leads else ()
                trackers = Tracking(tracked, followed, display.line)
                # closed in turn, the callbacks first, for they may raise
                with closing(trackers), closing(Callbacks(callbacks, followed)) as told:

                    def tell(event: Mapping[str, Any]) -> None:
                        trackers.write(event)
                        told.write(event)

                    segment.recorder.listener = _measured_to(
                        tell, lambda: meter.quality
                    )
                    if segment.lost is not None:
                        told.write(segment.lost)
                    used = used._replace(callbacks=told)
                    result = _run_segment(used, segment, meter, display, asked, team)
                    if result.summary is not None:
                        trackers.end(result.summary)
                        told.end(result.summary)
                return result


class _Used(NamedTuple):
    """What a run is made of."""

    config: Config
    data: Data
    model: Network
    limits: Limits
    placed: Placed
    callbacks: Callbacks = Callbacks()


def _meter(config: Config, meters: Sequence[Probe], team: Team) -> EnergyMeter:
    """Make the energy meter, once what the run imports is here."""
    for tracker in config.track:
        tracker.check()
    streamed = ("grain",) if config.data.placement == "stream" else ()
    for library in (*config.data.libraries, *streamed):
        with suppress(ImportError):  # `read` says what is missing
            import_module(library)
    return build.build_meter(config, meters, host=team.measures_host)


def _home(config: Config, data: Data | None) -> Home:
    """Choose where the pixels are to be on this machine."""
    return Home(config.data.placement) if data is not None else home_of(config.data)


def _alike(team: Team, placed: Placed) -> Placed:
    """Return a placement for all processes: what the one with the least room has."""
    everybody = team.gather(list(placed))
    least: Any = team.agree(
        lambda: min(everybody, key=lambda one: math.inf if one[1] is None else one[1])
    )
    return Placed(*least)


def _placed(used: _Used, network: Network, team: Team) -> Placed:
    """Return where the pixels are beside a network: the run's own, or of its pool."""
    if network is used.model:
        return used.placed
    placed = team.together(
        lambda: build.build_placement(used.config, used.data, network)
    )
    return _alike(team, placed)


def _read(
    config: Config,
    data: Data | None,
    home: Home,
    until: float | None,
    *,
    ranked: bool,
) -> _Used:
    """Read the data, and refuse what cannot be before anything on disk changes."""
    data = build.build_data(config, home) if data is None else data
    build.check_fit(config, data)
    config.method.start(build.build_pool(data), config.seed)
    limits = _limits(config, data, until)
    model = build.build_model(config, data)
    build.check_prune(config, model)
    if config.pool is not None and not ranked:
        check_pool(config.pool, data, model)
    build.build_learner_spec(config, model)  # refuses what no device can divide
    placed = build.build_placement(config, data, model)
    return _Used(config, data, model, limits, placed)


def _measured_to(
    write: Callable[[Mapping[str, Any]], None], quality: Callable[[], str]
) -> Callable[[Mapping[str, Any]], None]:
    """Hand events on without a model's Wh, for a curve has no room for an interval."""

    def hand_on(event: Mapping[str, Any]) -> None:
        modelled = event.get("wh") is not None and quality() == "modelled"
        write({**event, "wh": None} if modelled else event)

    return hand_on


def _limits(config: Config, data: Data, until: float | None) -> Limits:
    limits = build.build_limits(config)
    if until is None:
        return limits
    if not data.num_validation:
        raise UserError(
            "data.validation_fraction: 0 leaves no examples to evaluate a run on where "
            "it pauses; give it a share such as 0.1"
        )
    return replace(limits, pause=pause_visits(config, build.build_pool(data), until))


def pause_visits(config: Config, pool: Pool, share: float) -> int:
    """Return the visits after which a share of a run is over, at least 1.

    The whole is what the method plans, the most that there may be, or less where a
    budget of visits or epochs comes before; epochs count as if none were spent on
    choosing.

    Args:
        config: The run's.
        pool: What it trains on.
        share: In (0, 1).

    Raises:
        UserError: If nobody can know in advance how long the run is.
    """
    if config.budget.pace:
        raise UserError(
            "budget.pace: the length of such a run is found as it goes on, so that no "
            "share of it can be stopped at; leave it at false"
        )
    whole = [float(config.method.planned_visits(pool))]
    if config.budget.visits is not None:
        whole.append(config.budget.visits)
    if config.budget.epochs is not None:
        whole.append(config.budget.epochs * pool.num_examples)
    return max(1, math.ceil(share * min(whole) - 1e-9))


def _run_segment(
    used: _Used,
    segment: Segment,
    meter: EnergyMeter,
    display: Display,
    interrupt: Interrupt,
    team: Team,
) -> Result:
    """Run what one process adds to a run, in a folder that it holds."""
    config, data, model, limits, _, callbacks = used
    path = segment.folder.path
    if segment.energy is not None:
        with reading(path):
            meter.resume(segment.energy)
    if team.leads:
        meter.keep_journal(path / ENERGY)
    # what process 0 measures and chooses by, the others read in the folder
    with team.leader_first():
        config, precision = settled(config, data, model, segment.folder, meter)
    if precision:
        display.line(f"  precision: {said(precision)}")
    with team.leader_first():
        begun = begin(config, data, model, segment.folder, meter)
    for line in table_lines(begun.decision):
        display.line(f"  {line}")
    placed = _placed(used, begun.network, team)
    spec = build.build_learner_spec(config, begun.network, room=placed.room)
    with meter.window("data"):
        hyper = build.build_hyper(config)
        learner = DeviceLearner(begun.data, spec, hyper, config.seed, begun.start)
        learner.agree = team.agree
    shears = Shears(learner)
    pruned = segment.pruned_network()
    if pruned is not None:
        smaller, on_trial = pruned
        shears.reopen(smaller, on_trial=on_trial)
    meter.accelerator = replace(meter.accelerator, barrier=learner.barrier)
    flops_per_step = learner.batch_size * learner.main.train_flops
    segment.start(config, data, flops_per_step, meter, placed)
    segment.chose("precision", precision, meter)
    segment.chose("pool", begun.decision, meter)
    if _compile(learner, segment, meter, interrupt, team, callbacks):
        return _left(segment, meter, team)
    if config.energy.idle_s:
        display.line(f"  measuring what idling costs, {config.energy.idle_s:g} s")
        meter.measure_idle(config.energy.idle_s)
    loop = Loop(
        Parts(
            method=config.method,
            pool=build.build_pool(data),
            trainer=learner,
            limits=limits,
            horizon=getattr(config.train.schedule, "horizon", "plan"),
            meter=meter,
            recorder=segment.recorder,
            display=display,
            saver=segment.saver(meter),
            checkpoint_every_s=config.checkpoint.every_s,
            facts=_facts(begun.data, spec.step),
            interrupt=interrupt,
            seed=config.seed,
            untrained=begun.untrained,
            pruner=_pruner(config, data, shears, learner, segment, meter, team),
            callbacks=callbacks,
            team=team,
        )
    )
    loop.at.counters.flops += begun.flops + int(precision.get("flops", 0))
    if segment.checkpoints.latest is not None:
        with meter.window("checkpoint"):
            loop.restore()
    # epochs are those of the run's own network, so that runs compare
    loop.at.counters.full_pass_flops = build.full_pass_flops(data, model)
    stopped_by = loop.run()
    segment.recorder.write(
        "stop",
        time_s=meter.total_s,
        seconds=meter.seconds(),
        wh=meter.wh(),
        **loop.at.counters.shown(),
        reason=stopped_by,
    )
    if stopped_by in ("interrupted", "paused"):
        return _left(segment, meter, team, stopped_by)
    summary = finish(config, data, loop, segment, stopped_by)
    return Result(path, stopped_by, summary)


def _compile(
    learner: DeviceLearner,
    segment: Segment,
    meter: EnergyMeter,
    interrupt: Interrupt,
    team: Team,
    callbacks: Callbacks,
) -> bool:
    """Make every program ready; return whether someone asked to stop meanwhile."""
    with meter.window("compile"):
        for compilation in learner.compile():
            segment.compiled(compilation, meter)
            if team.any(interrupt.requested or callbacks.asked == "interrupted"):
                return True
    return False


def _pruner(
    config: Config,
    data: Data,
    shears: Shears,
    learner: DeviceLearner,
    segment: Segment,
    meter: EnergyMeter,
    team: Team,
) -> Pruner | None:
    """Return what prunes the network; None where the config says nothing of it."""
    if config.prune is None:
        return None
    return Pruner(
        config.prune,
        shears,
        num_examples=data.num_train,
        num_validation=data.num_validation,
        batch_size=config.train.batch_size,
        planned_visits=config.method.planned_visits(build.build_pool(data)),
        seed=config.seed,
        accuracy=lambda: learner.evaluate("validation").accuracy,
        compiled=lambda compilation: segment.compiled(compilation, meter),
        past=segment.prunings,
        agree=team.agree,
    )


def _left(
    segment: Segment,
    meter: EnergyMeter,
    team: Team,
    stopped_by: StopReason = "interrupted",
) -> Result:
    """Leave an interrupted or paused run so that it can be resumed."""
    path = segment.folder.path
    meter.stop()
    if team.leads:
        run_report(path, finished=False).write(path / ENERGY_REPORT)
    return Result(path, stopped_by, None)


def _check_folder(config: Config, path: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse a folder that this run must not touch, before the data are read."""
    if resume and overwrite:
        raise UserError("--resume and --overwrite exclude each other; give one of them")
    begun = (path / CONFIG).exists()
    if begun and not (resume or overwrite):
        raise UserError(
            f"{path}: holds a run already; go on with --resume, replace it with "
            "--overwrite, or choose another place with --out=DIR"
        )
    if resume and not begun:
        raise UserError(
            f"{path}: holds no run to resume; leave --resume away to start one"
        )
    if resume:
        check_same_config(config, path / CONFIG)


def check_same_config(config: Config, path: Path) -> None:
    """Refuse a config that differs from the one that a run began with.

    Args:
        config: What is to be run.
        path: The config.yaml of the run's folder.

    Raises:
        UserError: With every key that differs.
    """
    saved = validate(read_yaml(path), str(path))
    # who follows a run changes nothing of it
    old, new = (
        one.model_dump(mode="json", exclude={"track"}) for one in (saved, config)
    )
    different = [
        f"{key} was {before!r}, is now {now!r}"
        for key, before, now in sorted(changed(old, new), key=lambda one: one[0])
        if key not in _FREE
    ]
    if different:
        raise UserError(
            f"{path}: cannot resume with another config: {'; '.join(different)}; "
            "resume with the config it began with, or choose another --out=DIR"
        )


def _headline(used: _Used) -> str:
    config, data, placed = used.config, used.data, used.placed
    text = (
        f"{config.method.label} on {data.name}: "
        f"{data.num_train:,} train · {data.num_validation:,} validation · "
        f"{data.num_test:,} test · {config.model.describe(used.model)} · "
        f"seed {config.seed}"
    )
    if placed.room is not None:
        text += f"\n{_placement(placed, data)}"
    return text


def _placement(placed: Placed, data: Data) -> str:
    facts = getattr(data.images, "facts", None)
    kept = "" if facts is None else f"; kept in {facts.parent}"
    return f"  placement: {placed.where}: {placed.reason}{kept}"


def _facts(data: Data, step: StepSpec) -> dict[str, Any]:
    """Return what `load_run` needs beside the parameters."""
    return {
        "model": step.model.to_json(),
        "compute_dtype": step.dtype,
        "transforms_weights": step.transforms_weights,
        "num_train": data.num_train,
        "image_shape": list(data.image_shape),
        "view": data.view.model_dump(),
        "mean": data.mean.tolist(),
        "std": data.std.tolist(),
        "class_names": list(data.class_names),
        "dataset": data.name,
        "fingerprint": data.fingerprint,
    }
