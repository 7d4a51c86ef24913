"""The composition root: config in, parts wired, a run folder out."""

import os
import platform
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import yaml
from rich.console import Console

from dpet_jax import parts as build
from dpet_jax.config import validate
from dpet_jax.data import Data
from dpet_jax.energy import PhaseClock
from dpet_jax.errors import UserError
from dpet_jax.interrupt import Interrupt
from dpet_jax.learner import Compilation, DeviceLearner
from dpet_jax.methods.base import Coreset, Pool
from dpet_jax.models import ResNetSpec
from dpet_jax.orchestrator import Loop, Parts
from dpet_jax.progress import Display
from dpet_jax.record import (
    CHECKPOINTS,
    CONFIG,
    CORESET,
    EVENTS,
    GALLERY,
    LABEL_NOISE,
    SUMMARY,
    Recorder,
    RunFolder,
    read_events,
    read_json,
    utc_now,
)
from dpet_jax.schema import Config
from dpet_jax.training.checkpoint import Checkpoints
from dpet_jax.training.programs import CompileCounts, compile_counts

_GALLERY_SIZE = 32


class Result(NamedTuple):
    """How a run ended.

    Attributes:
        folder: Where everything about it is.
        stopped_by: What ended it; "interrupted" can be resumed.
        summary: What summary.json holds; None after an interruption.
    """

    folder: Path
    stopped_by: str
    summary: dict[str, Any] | None


def run_folder(config: Config, out: Path) -> Path:
    """Return where a config's run goes."""
    return out / config.name / f"seed{config.seed}"


def run(
    config: Config,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
) -> Result:
    """Run an experiment from its first or its latest checkpoint to its end.

    Args:
        config: What to run.
        out: Parent of the run folder.
        resume: Go on with what the folder holds.
        overwrite: Replace what the folder holds.
        console: Where to show progress; nowhere by default.

    Raises:
        UserError: For every mistake in config, data or folder, before training starts
            and before anything on disk changes.
    """
    clock = PhaseClock()
    path = run_folder(config, out)
    _check_folder(config, path, resume=resume, overwrite=overwrite)
    with clock.window("data"):
        data = build.build_data(config)
        model = build.build_model(config, data)
        method = build.build_method(config, data)
    spec = build.build_learner_spec(config, model, method.scores)
    with closing(RunFolder(path)) as folder:
        if resume and folder.finished:
            summary = read_json(path / SUMMARY)
            return Result(path, summary["stopped_by"], summary)
        if overwrite:
            folder.clear()
        display = Display(console or Console(quiet=True))
        display.line(_headline(config, data, model))
        interrupt = Interrupt()
        with interrupt.listening(), closing(_Segment(config, folder)) as segment:
            clock.resume(segment.seconds)
            with clock.window("data"):
                learner = DeviceLearner(
                    data, spec, build.build_hyper(config), config.seed
                )
            clock.barrier = learner.barrier
            segment.start(config, data, clock)
            with clock.window("compile"):
                for compilation in learner.compile():
                    segment.compiled(compilation, clock)
            loop = Loop(
                Parts(
                    method=method,
                    pool=Pool(
                        data.num_train,
                        data.labels[: data.num_train],
                        data.num_classes,
                    ),
                    trainer=learner,
                    limits=build.build_limits(config),
                    horizon=getattr(config.train.schedule, "horizon", "plan"),
                    clock=clock,
                    recorder=segment.recorder,
                    display=display,
                    saver=segment.checkpoints,
                    checkpoint_every_s=config.checkpoint.every_s,
                    facts=_facts(config, data, model),
                    interrupt=interrupt,
                    seed=config.seed,
                )
            )
            if segment.checkpoints.latest is not None:
                with clock.window("checkpoint"):
                    loop.restore()
            stopped_by = loop.run()
            segment.recorder.write(
                "stop",
                time_s=clock.total_s,
                **loop.at.counters.shown(),
                reason=stopped_by,
            )
            if stopped_by == "interrupted":
                return Result(path, stopped_by, None)
            return _finish(config, data, loop, segment, stopped_by)


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
        _check_same_config(config, path / CONFIG)


def _check_same_config(config: Config, path: Path) -> None:
    saved = validate(yaml.safe_load(path.read_text(encoding="utf-8")), str(path))
    old, new = (
        _flat(saved.model_dump(mode="json")),
        _flat(config.model_dump(mode="json")),
    )
    different = [
        f"{key} was {old.get(key)!r}, is now {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    if different:
        raise UserError(
            f"{path}: cannot resume with another config: {'; '.join(different)}; "
            "resume with the config it began with, or choose another --out=DIR"
        )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _headline(config: Config, data: Data, model: ResNetSpec) -> str:
    method = (
        config.method.kind.upper()
        if config.method.kind in ("dpet", "rs2")
        else (config.method.kind.replace("_", " "))
    )
    score = getattr(config.method, "score", None)
    width = getattr(config.model, "width_multiplier", 1.0)
    return (
        f"{method}{f' ({score})' if score else ''} on {data.name}: "
        f"{data.num_train:,} train · {data.num_validation:,} validation · "
        f"{data.num_test:,} test · ResNet-{model.depth}"
        f"{f' width {width:g}' if width != 1 else ''} · seed {config.seed}"
    )


class _Segment:
    """One process' share of a run: its recorder, its checkpoints, its compilations."""

    def __init__(self, config: Config, folder: RunFolder) -> None:
        folder.write_text(CONFIG, config.to_yaml())
        self.folder = folder
        self.checkpoints = Checkpoints(folder.path / CHECKPOINTS)
        self.recorder = Recorder(folder.path / EVENTS)
        self.compilations: list[Compilation] = []
        self.counts_before = compile_counts()
        self.seconds: dict[str, float] = {}
        earlier = read_events(folder.path / EVENTS, superseded=True)
        if earlier:
            self._supersede(earlier)

    def _supersede(self, earlier: list[dict[str, Any]]) -> None:
        """Go on after earlier segments; what they did past the checkpoint is lost."""
        self.recorder.segment = earlier[-1]["segment"] + 1
        self.recorder.next_id = earlier[-1]["event_id"] + 1
        keys = ("time_s", "visits", "scored_examples")
        after, kept = -1, dict.fromkeys(keys, 0.0)
        if self.checkpoints.latest is not None:
            meta = self.checkpoints.read_meta()
            after, self.seconds = meta["last_event_id"], meta["seconds"]
            counters = meta["position"]["counters"]
            kept = {key: counters.get(key) for key in kept}
            kept["time_s"] = sum(self.seconds.values())
            saved = next((e for e in earlier if e["event_id"] == after + 1), None)
            if saved is not None and saved["event"] == "checkpoint":
                # the save itself ended after it had noted the time
                self.seconds["checkpoint"] += saved["time_s"] - kept["time_s"]
                after, kept["time_s"] = after + 1, saved["time_s"]
        done = [event for event in earlier if event["event_id"] > after]
        last = {
            key: max((event.get(key) or 0 for event in done), default=kept[key])
            for key in kept
        }
        lost = {key: max(0, last[key] - kept[key]) for key in kept}
        self.recorder.write(
            "lost",
            time_s=kept["time_s"],
            after_event_id=after,
            seconds=lost["time_s"],
            visits=lost["visits"],
            scored_examples=lost["scored_examples"],
            wh=None,
        )

    def start(self, config: Config, data: Data, clock: PhaseClock) -> None:
        """Record what this segment runs on."""
        self.recorder.write(
            "start",
            time_s=clock.total_s,
            when=utc_now(),
            name=config.name,
            seed=config.seed,
            dataset=data.name,
            fingerprint=data.fingerprint,
            train=data.num_train,
            validation=data.num_validation,
            test=data.num_test,
            noisy_labels=data.noisy_rows.size,
            versions=versions(),
            device=device_facts(),
        )

    def compiled(self, compilation: Compilation, clock: PhaseClock) -> None:
        """Record that a program is ready."""
        self.compilations.append(compilation)
        self.recorder.write("compile", time_s=clock.total_s, **compilation._asdict())

    def compile_summary(self) -> dict[str, Any]:
        """Return how often this segment's programs were compiled, and all others."""
        others: CompileCounts = compile_counts().since(self.counts_before)
        summary = {}
        for compilation in self.compilations:
            values = compilation._asdict()
            summary[values.pop("what")] = values
            others.programs -= compilation.programs
            others.cache_hits -= compilation.cache_hits
            others.seconds -= compilation.seconds
        summary["others"] = {
            "seconds": others.seconds,
            "programs": others.programs,
            "cache_hits": others.cache_hits,
        }
        return summary

    def lost(self) -> dict[str, Any]:
        """Add up what crashes made the run do again."""
        events = read_events(self.folder.path / EVENTS, superseded=True)
        lost = [event for event in events if event["event"] == "lost"]
        return {
            key: sum(event[key] for event in lost)
            for key in ("seconds", "visits", "scored_examples")
        }

    def close(self) -> None:
        self.recorder.close()
        self.checkpoints.close()


def _facts(config: Config, data: Data, model: ResNetSpec) -> dict[str, Any]:
    """Return what `load_run` needs beside the parameters."""
    return {
        "model": model.to_json(),
        "optimizer_family": build.optimizer_family(config),
        "num_train": data.num_train,
        "image_shape": list(data.image_shape),
        "mean": data.mean.tolist(),
        "std": data.std.tolist(),
        "class_names": list(data.class_names),
        "dataset": data.name,
        "fingerprint": data.fingerprint,
    }


def _finish(
    config: Config, data: Data, loop: Loop, segment: _Segment, stopped_by: str
) -> Result:
    """Measure the final model, and write coreset, gallery and summary."""
    parts, at, folder = loop.parts, loop.at, segment.folder
    learner, clock = parts.trainer, parts.clock
    with clock.window("eval"):
        test = learner.evaluate("test")
        validation = learner.evaluate("validation") if data.num_validation else None
    chosen = parts.method.coreset(at.state)
    if chosen is not None:
        folder.write_arrays(CORESET, build.coreset_arrays(chosen, data))
        folder.write_arrays(GALLERY, _gallery(chosen, data))
    if data.noisy_rows.size:
        folder.write_arrays(
            LABEL_NOISE,
            {
                "source_rows": data.source_rows[data.noisy_rows],
                "clean_labels": data.clean_labels,
                "noisy_labels": data.labels[data.noisy_rows],
            },
        )
    phases = clock.seconds()
    counters = at.counters
    summary = {
        "name": config.name,
        "seed": config.seed,
        "method": config.method.kind,
        "dataset": data.name,
        "fingerprint": data.fingerprint,
        "test_accuracy": test.accuracy,
        "test_loss": test.loss,
        "validation_accuracy": validation and validation.accuracy,
        "per_class_accuracy": dict(
            zip(data.class_names, test.per_class_accuracy, strict=True)
        ),
        "num_train": data.num_train,
        "coreset_size": None if chosen is None else chosen.indices.size,
        "pruning_ratio": None
        if chosen is None
        else 1 - chosen.indices.size / data.num_train,
        **counters.shown(),
        "wall_s": sum(phases.values()),
        "wall_s_without_eval": sum(phases.values()) - phases["eval"],
        "phases": {name: {"s": seconds} for name, seconds in phases.items()},
        "targets": _targets(at.targets, parts.limits.all_targets),
        "targets_on": parts.limits.split,
        "lost": segment.lost(),
        "segments": segment.recorder.segment + 1,
        "compilations": segment.compile_summary(),
        "label_noise": config.data.label_noise,
        "compat": getattr(config.method, "compat", "none"),
        "stopped_by": stopped_by,
        "versions": versions(),
        "device": device_facts(),
        "memory": learner.memory(),
    }
    folder.write_json(SUMMARY, summary)
    return Result(folder.path, stopped_by, read_json(folder.path / SUMMARY))


def _targets(
    reached: list[dict[str, Any]], targets: tuple[float, ...]
) -> list[dict[str, Any]]:
    """Return one entry for each target, reached or not."""
    by_target = {entry["target"]: entry for entry in reached}
    blank = dict.fromkeys(("accuracy", "epochs", "visits", "wall_s", "test_accuracy"))
    return [
        by_target.get(target, {"target": target, "reached": False, **blank})
        for target in targets
    ]


def _gallery(chosen: Coreset, data: Data) -> dict[str, np.ndarray]:
    """Return the first and the last examples that entered, with their images."""
    size = chosen.indices.size
    shown = np.unique(
        np.r_[: min(size, _GALLERY_SIZE), max(0, size - _GALLERY_SIZE) : size]
    )
    rows = chosen.indices[shown]
    return {
        "entered": shown,
        "images": data.images[rows],
        "labels": data.labels[rows],
        "source_rows": data.source_rows[rows],
        "round": chosen.round_index[shown],
        "score": chosen.scores[shown],
        "class_names": np.array(data.class_names),
    }


def versions() -> dict[str, str]:
    """Return the versions that decide a result."""
    packages = (
        "dpet-jax",
        "jax",
        "jaxlib",
        "flax",
        "optax",
        "orbax-checkpoint",
        "numpy",
    )
    return {"python": platform.python_version()} | {
        package: version(package) for package in packages
    }


def device_facts() -> dict[str, Any]:
    """Return what the run computes on."""
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "kind": device.device_kind,
        "count": jax.local_device_count(),
        "cpu_cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "machine": platform.machine(),
    }
