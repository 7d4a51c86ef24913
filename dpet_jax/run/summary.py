"""The end of a run: the final model measured; coreset, gallery and summary written."""

from typing import Any

import numpy as np

from dpet_jax.config.experiment import Config
from dpet_jax.data import Data
from dpet_jax.energy.report.report import headline, interval_text
from dpet_jax.files import read_json
from dpet_jax.methods.base import Coreset
from dpet_jax.methods.coreset import coreset_arrays
from dpet_jax.run.costs import NEGLIGIBLE_S, WORK_PHASES
from dpet_jax.run.energy_report import run_report
from dpet_jax.run.folder import (
    CORESET,
    ENERGY_REPORT,
    EVENTS,
    GALLERY,
    LABEL_NOISE,
    LOSSES,
    PRECISION,
    SUMMARY,
    read_events,
)
from dpet_jax.run.limits import StopReason
from dpet_jax.run.loop import Loop
from dpet_jax.run.machine import environment
from dpet_jax.run.precision import said
from dpet_jax.run.pretrained import summarise
from dpet_jax.run.prune import pruning, pruning_line
from dpet_jax.run.segment import Segment

_GALLERY_SIZE = 32


def finish(
    config: Config, data: Data, loop: Loop, segment: Segment, stopped_by: StopReason
) -> dict[str, Any]:
    """Measure the final model, and write coreset, gallery and summary.

    Returns:
        What summary.json holds.
    """
    written = _measured(config, data, loop, segment, stopped_by)
    summary: dict[str, Any] = loop.parts.team.agree(lambda: written)
    return summary


def _measured(
    config: Config, data: Data, loop: Loop, segment: Segment, stopped_by: StopReason
) -> dict[str, Any]:
    parts, at, folder = loop.parts, loop.at, segment.folder
    learner, meter = parts.trainer, parts.meter
    with meter.window("eval"):
        test = learner.evaluate("test")
        validation = learner.evaluate("validation") if data.num_validation else None
    chosen = None if parts.untrained else parts.method.coreset(at.state)
    if chosen is not None:
        folder.write_arrays(CORESET, coreset_arrays(chosen, parts.pool))
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
    if not parts.untrained:
        folder.write_arrays(LOSSES, _losses(data, loop))
    meter.stop()
    segment.hosts.collect(meter)
    if not parts.team.leads:
        return {}
    report = run_report(folder.path, finished=True)
    report.write(folder.path / ENERGY_REPORT)
    seconds, phases = meter.seconds(), report.data["phases"]
    counters = at.counters
    summary = {
        "name": config.name,
        "seed": config.seed,
        "method": config.method.kind,
        "method_label": config.method.label,
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
        if chosen is None or chosen.by_product
        else 1 - chosen.indices.size / data.num_train,
        **counters.shown(),
        "fill_share": counters.fill_share,
        **{
            key: report.data["proxies"][key]
            for key in ("select_flops", "selection_visits")
        },
        "wall_s": sum(seconds.values()),
        "wall_s_without_eval": sum(seconds.values()) - seconds["eval"],
        "phases": {
            name: {key: phase[key] for key in ("s", "wh", "wh_k2", "quality")}
            for name, phase in phases.items()
        },
        "energy": _energy(report.data),
        "budget": report.data["budget"],
        "compile_s_outside_window": report.data["compile_s_outside_window"],
        "targets": report.data["energy_to_accuracy"],
        "targets_on": parts.limits.split,
        "data_origin": data.origin,
        **segment.past(),
        "segments": segment.recorder.segment + 1,
        "compilations": segment.compile_summary(),
        "pruning": _pruning(config, segment, report.data["energy"]["quality"]),
        "label_noise": config.data.label_noise,
        "compat": config.method.model_dump().get("compat", "none"),
        "stopped_by": stopped_by,
        **environment(),
        "memory": learner.memory(),
    }
    if (folder.path / PRECISION).exists():
        summary["precision"] = read_json(folder.path / PRECISION)
    if "hosts" in report.data:
        summary["hosts"] = report.data["hosts"]
    pool = summarise(folder.path, summary)
    if pool is not None:
        summary["pool"] = pool
    folder.write_json(SUMMARY, summary)
    return read_json(folder.path / SUMMARY)


def _energy(data: dict[str, Any]) -> dict[str, Any]:
    """Return the part of an energy report that goes into the summary."""
    energy = data["energy"]
    modelled = energy["quality"] == "modelled"
    return {
        "wh": energy["modelled_wh" if modelled else "measured_wh"],
        "wh_k2": energy["modelled_interval_wh" if modelled else "measured_wh_k2"],
        "quality": energy["quality"],
        "net_of_idle_wh": energy["net_of_idle_wh"],
        "lost_wh": energy["lost"]["wh"],
        "included": data["boundary"]["included"],
        "valid": data["valid"],
        "reason_codes": data["reason_codes"],
        "unavailable": energy["unavailable"],
        "headline": headline(data),
    }


def _pruning(config: Config, segment: Segment, quality: str) -> dict[str, Any] | None:
    """Return what came of pruning; None where the config says nothing of it."""
    if config.prune is None:
        return None
    events = read_events(segment.folder.path / EVENTS)
    found = pruning(events, config.train.batch_size)
    if quality == "modelled":  # a step's energy by a model has no interval
        found["step_wh"] = (None, None)
    return found


def _losses(data: Data, loop: Loop) -> dict[str, np.ndarray]:
    """Return what training said about every example; infinite where it never was."""
    last = loop.parts.trainer.main.result(data.train_rows)
    rows = slice(data.num_train)
    arrays = {
        "source_rows": data.source_rows[rows],
        "labels": data.labels[rows],
        "loss": last.losses,
        "correct": last.correct,
        "forgetting": last.forgetting,
    }
    if loop.at.history is not None:
        arrays |= {"looks": loop.at.history.looks, **loop.at.history.means()}
    return arrays


def _gallery(chosen: Coreset, data: Data) -> dict[str, np.ndarray]:
    """Return the first and the last examples that entered, with their images."""
    size = chosen.indices.size
    shown = np.unique(
        np.r_[: min(size, _GALLERY_SIZE), max(0, size - _GALLERY_SIZE) : size]
    )
    rows = chosen.indices[shown]
    return {
        "entered": shown,
        "images": data.images.take(rows, axis=0),
        "labels": data.labels[rows],
        "source_rows": data.source_rows[rows],
        "round": chosen.round_index[shown],
        "score": chosen.scores[shown],
        "class_names": np.array(data.class_names),
    }


def summary_lines(summary: dict[str, Any]) -> list[str]:
    """Return the table that ends a run, a name and a value a line."""
    validation = summary["validation_accuracy"]
    phases = {name: phase["s"] for name, phase in summary["phases"].items()}
    rows = {
        "test accuracy": _accuracy(summary["test_accuracy"])
        + (f"   (validation {_accuracy(validation)})" if validation else ""),
        "coreset": _coreset(summary),
        "epochs": f"{summary['epochs']:.2f} full-pass equivalents",
        "examples": f"{summary['visits']:,} visited   "
        f"{summary['scored_examples']:,} scored" + _fill_rows(summary["fill_share"]),
        "seconds": "   ".join(f"{name} {took:.1f}" for name, took in phases.items()),
        "": f"{summary['wall_s']:.1f} in all, "
        f"{summary['wall_s_without_eval']:.1f} without evaluation",
    } | _printed_energy(summary)
    if "tuner" in phases:
        work = sum(phases[name] for name in WORK_PHASES)
        share = phases["tuner"] / work if work else 0.0
        rows["tuner"] = (
            f"{100 * share:.1f} % of the seconds of choosing and training, "
            "its looks at examples included"
        )
    if "precision" in summary:
        rows["precision"] = said(summary["precision"])
    modelled = summary["energy"].get("quality") == "modelled"
    rows |= _printed_pool(summary.get("pool"), modelled=modelled)
    # runs of an earlier version say nothing of it
    if (pruned := summary.get("pruning")) is not None:
        rows["pruning"] = pruning_line(pruned)
    rows["stopped by"] = summary["stopped_by"]
    for target in summary["targets"]:
        cost = "not reached"
        if target["reached"]:
            cost = f"{target['epochs']:.2f} epochs"
            if target["wh"] is not None and not modelled:
                cost += f", {target['wh']:.4g} Wh"
        rows[f"to {target['target']:g}"] = f"{cost} ({summary['targets_on']})"
    lost = summary["lost"]
    if lost["seconds"] >= NEGLIGIBLE_S:
        told = lost["wh"] is not None and not modelled
        wh = f", {lost['wh']:.4g} Wh" if told else ""
        rows["lost to crashes"] = f"{lost['seconds']:.1f} s{wh}"
    warnings = [("warning", text) for text in summary["warnings"]]
    return [f"{name:<18}{text}" for name, text in [*rows.items(), *warnings]]


def _printed_energy(summary: dict[str, Any]) -> dict[str, str]:
    energy, budget = summary["energy"], summary["budget"]
    rows = {"energy": energy["headline"]}
    if energy["wh"] is None:
        rows["energy"] += " - see dpet doctor"
        return rows
    modelled = energy.get("quality") == "modelled"
    phases = {
        name: phase
        for name, phase in summary["phases"].items()
        # a run of an earlier version kept no interval
        if phase["wh"] and (phase.get("wh_k2") or not modelled)
    }
    rows["Wh"] = "   ".join(
        f"{name} ≈ {phase['wh']:.4g} {interval_text(phase['wh_k2'])}"
        if modelled
        else f"{name} {phase['wh']:.4g}"
        for name, phase in phases.items()
    )
    if budget["wh"] is not None and modelled:
        paid = [phase for name, phase in phases.items() if name != "eval"]
        # assumptions add up
        ends = [sum(phase["wh_k2"][which] for phase in paid) for which in (0, 1)]
        rows["Wh budget"] = (
            f"≈ {budget['spent_wh']:.4g} {interval_text(ends)} MODELLED of "
            f"{budget['wh']:g} Wh, evaluation excluded"
        )
    elif budget["wh"] is not None:
        rows["Wh budget"] = (
            f"{budget['spent_wh']:.4g} of {budget['wh']:g} Wh, evaluation excluded; "
            f"overshot by {budget['overshoot_wh']:.4g}"
        )
    return {name: text for name, text in rows.items() if text}


def _printed_pool(pool: dict[str, Any] | None, *, modelled: bool) -> dict[str, str]:
    """Return what the run started from, and its cost with that of pre-training."""
    if pool is None:
        return {}
    best, cost = pool["ranked"][0], pool["cost"]
    text = (
        f"{pool['chosen']} of {len(pool['ranked'])}, {pool['by']} {best['score']:.3f}"
    )
    if "card" in pool:
        text += f" ({best['gain']:+.3f} over random features), {pool['start']}"
    rows = {"started from": f"{text}; choosing took {cost['seconds']:.1f} s"}
    shares = pool.get("with_pretraining", {})
    for unit, name, scale in (("wh", "Wh", 1.0), ("flops", "TFLOPs", 1e12)):
        share = dict(shares.get(unit) or {})
        if share and not (modelled and unit == "wh"):
            rows[f"cost in {name}"] = f"{share.pop('without') / scale:.4g}; with " + (
                "a share of pre-training "
                + ", ".join(f"{v / scale:.4g} at {n} uses" for n, v in share.items())
            )
    return rows


def _coreset(summary: dict[str, Any]) -> str:
    size, pruned = summary["coreset_size"], summary["pruning_ratio"]
    if size is None:
        return "none (this method trains on all data)"
    how = (
        "left by training on all" if pruned is None else f"pruned {100 * pruned:.0f} %"
    )
    return f"{size:,} of {summary['num_train']:,} ({how})"


def _fill_rows(share: float) -> str:
    return f"   {100 * share:.1f} % fill rows" if share >= 0.0005 else ""


def _accuracy(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"
