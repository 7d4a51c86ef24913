"""The end of a run: the final model measured; coreset, gallery and summary written."""

from typing import Any

import numpy as np

from dpet_jax.data import Data
from dpet_jax.machine import device_facts, versions
from dpet_jax.methods.base import Coreset
from dpet_jax.orchestrator import Loop
from dpet_jax.parts import coreset_arrays
from dpet_jax.record import CORESET, GALLERY, LABEL_NOISE, SUMMARY, read_json
from dpet_jax.schema import Config
from dpet_jax.segment import Segment

_GALLERY_SIZE = 32


def finish(
    config: Config, data: Data, loop: Loop, segment: Segment, stopped_by: str
) -> dict[str, Any]:
    """Measure the final model, and write coreset, gallery and summary.

    Returns:
        What summary.json holds.
    """
    parts, at, folder = loop.parts, loop.at, segment.folder
    learner, clock = parts.trainer, parts.clock
    with clock.window("eval"):
        test = learner.evaluate("test")
        validation = learner.evaluate("validation") if data.num_validation else None
    chosen = parts.method.coreset(at.state)
    if chosen is not None:
        folder.write_arrays(CORESET, coreset_arrays(chosen, data))
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
    return read_json(folder.path / SUMMARY)


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
