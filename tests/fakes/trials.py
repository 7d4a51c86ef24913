"""Runs of a search that take no time: their accuracy is a function of their rate."""

import json
import time

from dpet_jax.run import experiment

RATE = "train.optimizer.learning_rate"
CONFIG = """
name: some
data: {kind: digits}
model: {kind: resnet, stem: 8, channels: [8], blocks: [1]}
method: {kind: standard, passes: 1}
train: {batch_size: 256}
evaluate: {every: 10, batch_size: 180}
"""


class Runs:
    """Takes the place of `experiment.run`: accuracy falls away from a rate of 0.1.

    It is the share of its run that a trial has done, of what it comes to at the end.
    """

    def __init__(self):
        self.begun, self.interrupts, self.took_s = [], 0, 0.0
        self.stops, self.wh = [], None
        self.diverges = lambda _: False

    def __call__(self, config, out, *, resume, data, interrupt, until):
        assert data is None
        rate = config.train.optimizer.learning_rate
        self.begun.append((config.name, rate, resume))
        folder = experiment.run_folder(config, out)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(config.to_yaml())
        time.sleep(self.took_s)
        if self.interrupts:
            self.interrupts -= 1
            interrupt.requested = True
            return experiment.Result(folder, "interrupted", None)
        diverges, share = self.diverges(config), until or 1.0
        quality = "unavailable" if self.wh is None else "measured"
        wh = None if self.wh is None else share * self.wh(rate)
        phase = {"s": 2.0 * share, "wh": wh, "quality": quality}
        found = {
            "accuracy": share * (1 - abs(rate - 0.1)),
            "epochs": 3.0 * share,
            "flops": round(3_000 * share),
        }
        phases = {"phases": {"train": phase, "select": phase}}
        self.stops.append((config.name, round(share, 3)))
        if until is not None and not diverges:
            event = {"event": "pause", "event_id": 0, "segment": 0, **found}
            (folder / "events.jsonl").write_text(json.dumps(event) + "\n")
            (folder / "energy_report.json").write_text(json.dumps(phases))
            return experiment.Result(folder, "paused", None)
        ended = "diverged" if diverges else "finished"
        found["validation_accuracy"] = found.pop("accuracy")
        summary = {"stopped_by": ended, "test_accuracy": 0.5, **found, **phases}
        (folder / "summary.json").write_text(json.dumps(summary))
        return experiment.Result(folder, ended, summary)
