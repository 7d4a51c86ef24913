"""Run folders as the program writes them, made of a few numbers in no time."""

import json
from pathlib import Path

import numpy as np
import yaml

PHASES = ("compile", "data", "select", "train", "eval", "checkpoint", "idle", "other")
TRAIN, BATCH = 1000, 50
#: So that a visit costs a thousandth of an epoch and every part is easy to tell.
FLOPS_PER_STEP = 5_000


def fake_run(
    folder,
    accuracies=((1.0, 0.5), (2.0, 0.7), (3.0, 0.9)),
    *,
    seed=0,
    targets=(0.6, 0.8),
    test_accuracy=0.88,
    wh_per_epoch=None,
    coreset=None,
    **facts,
):
    """Write the folder of a finished run.

    Args:
        folder: Where.
        accuracies: Pairs of epochs and validation accuracy, one an evaluation.
        seed: The run's.
        targets: Accuracies to reach; test accuracies at them are one point lower.
        test_accuracy: At the end.
        wh_per_epoch: None for a run without energy.
        coreset: Labels of the chosen examples, 4 a round.
        facts: choosing_epochs (spent before the first visit), plans (pairs of label and
            share of the training), quality (by default "measured" or "unavailable"),
            device, fingerprint, every, targets_on, stopped_by, compat, label_noise,
            lost, included, doubts, trace, settings, images, method, method_label,
            flops_factor (of an epoch, as of another network).
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    last = accuracies[-1][0] if accuracies else 1.0
    choosing_epochs = facts.get("choosing_epochs", 0.0)
    plans = facts.get("plans", (("standard", 1.0),))
    quality = facts.get("quality") or (
        "unavailable" if wh_per_epoch is None else "measured"
    )
    run = _Writer(last, choosing_epochs, wh_per_epoch, facts.get("flops_factor", 1.0))
    run.event("start", 0.0, counted=False, **_start(seed, facts))
    compiled = {"what": "train_steps", "seconds": 4.0, "programs": 1, "cache_hits": 0}
    run.event("compile", 0.0, counted=False, **compiled)
    begun = choosing_epochs
    for label, share in plans:
        run.event("plan", begun, label=label, size=TRAIN, passes=1)
        end = begun + share * (last - choosing_epochs)
        for epochs, accuracy in accuracies:
            if begun + 1e-9 < epochs <= end + 1e-9:
                run.evaluation(epochs, accuracy, targets)
        begun = end
    reason = facts.get("stopped_by", "finished")
    run.event("stop", last, reason=reason)
    (folder / "events.jsonl").write_text(
        "".join(json.dumps(event) + "\n" for event in run.events)
    )
    (folder / "config.yaml").write_text(yaml.safe_dump(_config(seed, facts)))
    summary = _summary(run, seed, quality, test_accuracy, targets, coreset, facts)
    (folder / "summary.json").write_text(json.dumps(summary))
    if coreset is not None:
        _write_coreset(folder, np.array(coreset), facts.get("images"))
    trace = facts.get("trace")
    if trace is not None:
        (folder / "energy_report.json").write_text(json.dumps({"power_trace": trace}))
    return folder


def events_of(folder):
    """Return a run's events without any of our readers."""
    lines = (Path(folder) / "events.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def variant(key, by_target, *, label=None, paper=None, tuning=None, **at_end):
    """Return a variant as suite.json holds it; at_end: by_horizon, arm and cell."""
    return {
        "key": key,
        "label": label or key,
        "paper": paper,
        "arm": at_end.get("arm", key),
        "cell": at_end.get("cell"),
        "by_target": by_target,
        "by_horizon": at_end.get("by_horizon", {}),
        "tuning": tuning,
    }


def fake_suite(folder, variants, roles=None, problems=(), statements=()):
    """Write suite.json."""
    record = {
        "name": "a suite",
        "statements": list(statements),
        "roles": roles or {},
        "problems": list(problems),
        "variants": variants,
    }
    Path(folder, "suite.json").write_text(json.dumps(record))
    return Path(folder)


def small_suite(folder, **facts):
    """Write a suite of four methods with two seeds; facts go to every run."""
    folder = Path(folder)
    courses = {
        "standard": (8.0, 0.90, {}),
        "tuned": (4.0, 0.91, {}),
        "random": (3.0, 0.88, {"coreset": [0, 1] * 6}),
        "margin": (
            2.0,
            0.92,
            {
                "coreset": [0, 0, 0, 1] * 3,
                "choosing_epochs": 0.25,
                "plans": (("warm-up", 0.5), ("round 1", 0.25), ("round 2", 0.25)),
            },
        ),
    }
    variants = []
    for key, (length, end, more) in courses.items():
        for seed in (0, 1):
            stretch = length * (1 + 0.1 * seed)
            fake_run(
                folder / key / f"seed{seed}",
                [(stretch * part, end * part**0.3) for part in (0.25, 0.5, 0.75, 1)],
                seed=seed,
                test_accuracy=end - 0.01 + 0.002 * seed,
                **(more | facts),
            )
        names = [f"{key}/seed{seed}" for seed in (0, 1)]
        variants.append(variant(key, {"0.6": names, "0.8": names}))
    roles = {role: role for role in ("standard", "tuned", "random")}
    variants[0]["paper"] = "standard"
    variants[3]["paper"] = "dpet_margin"
    variants[1]["tuning"] = {
        "trials": 6,
        "seeds": [100, 101],
        "cost": {
            **{"epochs": 70.0, "visits": 70_000},
            **{"wh_warm": None, "seconds_warm": 700.0},
        },
        "chosen": {"0.6": "peak 0.2, 4 epochs", "0.8": None},
    }
    return fake_suite(folder, variants, roles, statements=["Made small."])


def end_suite(folder, *, seeds=(0, 1, 2), by_horizon=None):
    """Write a suite of runs that are read at their end, of three methods.

    The error of `standard` is 0.3 over the root of its cost, exactly; `saving` has it
    at 0.8 times the cost, `chance` at 1.25; `saving_half` has a network of a quarter
    of the FLOPs and the same error at half of standard's cost.

    Args:
        folder: Where.
        seeds: Of all runs.
        by_horizon: Instead of what was run.
    """
    folder = Path(folder)
    rows = {
        "standard": (1.0, 1.0, (2, 4, 8, 16)),
        "saving": (0.8, 1.0, (2, 4, 8)),
        "chance": (1.25, 1.0, (4, 8)),
        "saving_half": (0.5, 0.25, (8, 16, 32)),
    }
    variants = []
    for key, (ratio, factor, horizons) in rows.items():
        names = {}
        for horizon in horizons:
            accuracy = 1 - 0.3 * (horizon * factor / ratio) ** -0.5
            for seed in seeds:
                name = f"{key}/passes_{horizon}/seed{seed}"
                names.setdefault(str(horizon), []).append(name)
                fake_run(
                    folder / name,
                    [(float(horizon), accuracy - 0.01)],
                    seed=seed,
                    targets=(0.85, 0.88),
                    test_accuracy=accuracy,
                    flops_factor=factor,
                    settings={"model": {"width_multiplier": factor}},
                )
        arm = key.partition("_")[0]
        held = by_horizon or names
        variants.append(variant(key, {}, by_horizon=held, arm=arm))
    variants[0]["tuning"] = {
        "trials": 4,
        "seeds": [100],
        "cost": {**{"epochs": 32.0, "visits": 32_000}, "seconds_warm": 320.0},
        "chosen": dict.fromkeys(map(str, rows["standard"][2]), "learning rate 0.2"),
    }
    roles = {"tuned": "standard", "random": "chance"}
    return fake_suite(folder, variants, roles)


def grid_suite(folder, grids=("adam",), batches=(64, 128)):
    """Write a suite whose rows are grids of scale, pruning and batch size.

    A run takes 10 s an epoch and ten times its scale, less what is pruned and less in
    large batches; its accuracy grows with both, so that some rows are on the front.

    Args:
        folder: Where.
        grids: Names of the variants.
        batches: Values of the third key.
    """
    folder = Path(folder)
    cells = [
        (scale, prune, batch)
        for scale in (0.5, 1.0, 1.4)
        for prune in (0, 0.3)
        for batch in batches
    ]
    keys = ("model.scale", "method.prune_fraction", "train.batch_size")
    variants = []
    for shift, name in enumerate(grids):
        for scale, prune, batch in cells:
            key = f"{name}/scale_{scale}-prune_fraction_{prune}-batch_size_{batch}"
            epochs = 10 * scale * (1 - 0.8 * prune) * (1 if batch == 64 else 0.8)
            end = 0.4 + 0.1 * scale - 0.06 * prune**2 + 0.02 * shift
            end -= 0.0 if batch == 64 else 0.02 * scale
            for seed in (0, 1):
                fake_run(
                    folder / key / f"seed{seed}",
                    [(epochs * (1 + 0.02 * seed), end)],
                    seed=seed,
                    targets=(0.4,),
                    test_accuracy=end + 0.004 * seed,
                )
            runs = [f"{key}/seed{seed}" for seed in (0, 1)]
            factors = dict(zip(keys, (scale, prune, batch), strict=True))
            cell = {"of": name, "factors": factors}
            label = f"{name}, {scale:g}, {prune:g}, {batch}"
            row = variant(key, {"0.4": runs}, label=label, arm=name, cell=cell)
            variants.append(row)
    return fake_suite(folder, variants)


class _Writer:
    def __init__(self, last, choosing, wh_per_epoch, flops_factor):
        self.last, self.choosing, self.wh_per_epoch = last, choosing, wh_per_epoch
        self.flops_per_epoch = flops_factor * TRAIN * FLOPS_PER_STEP / BATCH
        self.events, self.reached = [], set()

    def event(self, event, epochs, *, counted=True, **values):
        line = {"event": event, "event_id": len(self.events), "segment": 0}
        line["time_s"] = 5.0 + 10 * epochs
        if counted:
            line |= self.counters(epochs)
        self.events.append(line | values)

    def counters(self, epochs):
        seconds = self.phases(epochs)
        visits = round(TRAIN * max(0.0, epochs - self.choosing))
        wh = self.wh_per_epoch
        return {
            "seconds": seconds,
            "wh": None if wh is None else {p: s / 10 * wh for p, s in seconds.items()},
            "visits": visits,
            "executed_visits": visits,
            "scored_examples": 0,
            "flops": round(epochs * self.flops_per_epoch),
            "epochs": epochs,
        }

    def phases(self, epochs):
        """Ten seconds an epoch, one for evaluating, four for compiling."""
        training = max(0.0, epochs - self.choosing)
        return dict.fromkeys(PHASES, 0.0) | {
            "compile": 4.0,
            "data": 0.5,
            "select": 10 * min(epochs, self.choosing),
            "train": 10 * training,
            "eval": epochs,
            "other": 0.25,
        }

    def evaluation(self, epochs, accuracy, targets):
        self.event(
            "evaluate", epochs, split="validation", accuracy=accuracy, loss=1 - accuracy
        )
        for target in targets:
            if accuracy >= target and target not in self.reached:
                self.reached.add(target)
                test = accuracy - 0.01
                values = {"accuracy": accuracy, "test_accuracy": test}
                self.event("target", epochs, target=target, reached=True, **values)


def _device(facts):
    return {
        "platform": "cpu",
        "kind": facts.get("device", "cpu"),
        "count": 1,
        "cpu_cores": 2,
        "machine": "x86_64",
        "os": "Linux",
    }


def _start(seed, facts):
    return {
        "seed": seed,
        "dataset": "digits",
        "fingerprint": facts.get("fingerprint", "f00d" * 16),
        "train": TRAIN,
        "validation": 100,
        "test": 200,
        "batch_size": BATCH,
        "flops_per_step": FLOPS_PER_STEP,
        "versions": {"python": "3.11.7", "dpet-jax": "0.1.0"},
        "device": _device(facts),
    }


def _config(seed, facts):
    return {
        "name": "fake",
        "seed": seed,
        "data": {"kind": "digits", "split_seed": 0},
        "evaluate": {"every": facts.get("every", 1.0)},
        **facts.get("settings", {}),
    }


def _summary(run, seed, quality, test_accuracy, targets, coreset, facts):
    end = run.events[-1]
    looks = [event for event in run.events if event["event"] == "evaluate"]
    share = run.choosing / run.last
    known = quality != "unavailable"
    doubts = facts.get("doubts", [] if known else ["unavailable"])
    return {
        "name": "fake",
        "seed": seed,
        "method": facts.get("method", "dpet"),
        **{k: v for k, v in facts.items() if k == "method_label"},
        "test_accuracy": test_accuracy,
        "validation_accuracy": looks[-1]["accuracy"] if looks else None,
        "coreset_size": None if coreset is None else len(coreset),
        "pruning_ratio": None if coreset is None else 1 - len(coreset) / TRAIN,
        "flops": end["flops"],
        "epochs": end["epochs"],
        "select_flops": round(share * end["flops"]),
        "phases": {
            name: {"s": s, "wh": end["wh"] and end["wh"][name], "quality": quality}
            for name, s in end["seconds"].items()
        },
        "energy": {
            "quality": quality,
            "included": facts.get("included", ["gpu"]) if known else [],
            "valid": not doubts,
            "reason_codes": doubts,
            "unavailable": [{"component": "cpu", "reason": "no sensor", "remedy": ""}],
        },
        "targets": [{"target": t, "reached": t in run.reached} for t in targets],
        "targets_on": facts.get("targets_on", "validation"),
        "lost": facts.get("lost", {"seconds": 0, "visits": 0, "wh": 0}),
        "compilations": {"train_steps": {"seconds": 4.0, "cache_hits": 0}},
        "label_noise": facts.get("label_noise", 0.0),
        "compat": facts.get("compat", "none"),
        "stopped_by": facts.get("stopped_by", "finished"),
    }


def _write_coreset(folder, labels, images):
    rng = np.random.default_rng(labels.size)
    rounds = 1 + np.arange(labels.size) // 4
    scores = np.linspace(1, 0.001, labels.size, dtype=np.float32)
    rows = rng.permutation(labels.size)
    np.savez(
        folder / "coreset.npz",
        source_rows=rows,
        labels=labels,
        round=rounds,
        score=scores,
    )
    if images is None:
        images = rng.integers(0, 256, (labels.size, 4, 4, 3), np.uint8)
    shown = np.unique(
        np.r_[: min(32, labels.size), max(0, labels.size - 32) : labels.size]
    )
    np.savez(
        folder / "gallery.npz",
        entered=shown,
        images=images[shown],
        labels=labels[shown],
        source_rows=rows[shown],
        round=rounds[shown],
        score=scores[shown],
        class_names=np.array([f"class {label}" for label in range(labels.max() + 1)]),
    )


def modelled(folder):
    """Give a run's energy, which is a model's, the intervals of some numbers."""
    path = Path(folder, "summary.json")
    summary = json.loads(path.read_text())
    summary["energy"] |= {"wh": 4, "wh_k2": [1, 9]}
    summary["phases"]["train"]["wh_k2"] = [1, 6]
    path.write_text(json.dumps(summary))
    return folder
