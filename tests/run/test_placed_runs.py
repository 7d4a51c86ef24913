"""Whole runs with their pixels on the host: what they say, and the same results."""

import json

import numpy as np
from rich.console import Console

from dpet_jax.config.load import validate
from dpet_jax.run import experiment


def tree(**data):
    return {
        "data": {"kind": "digits", **data},
        "model": {"kind": "resnet", "stem": 8, "channels": [8], "blocks": [1]},
        "train": {"batch_size": 32, "augment": {"translate": 1}},
        "evaluate": {"batch_size": 100},
        "method": {"kind": "dpet", "warmup_passes": 1, "query_size": 50}
        | {"passes_per_round": 1, "max_rounds": 2},
    }


def ran(out, **data):
    """Run, and return the first lines, the start, the coreset and the last accuracy."""
    with (out.parent / f"{out.name}.txt").open("w+") as file:
        console = Console(file=file, width=200)
        result = experiment.run(validate(tree(**data), "test"), out, console=console)
        file.seek(0)
        lines = file.read().splitlines()
    events = (result.folder / "events.jsonl").read_text().splitlines()
    start = next(e for e in map(json.loads, events) if e["event"] == "start")
    chosen = np.load(result.folder / "coreset.npz")["source_rows"]
    return lines, start, chosen, result.summary["test_accuracy"]


def test_a_run_with_a_budget_is_the_run_without_and_says_where_its_pixels_are(tmp_path):
    _, whole, chosen, accuracy = ran(tmp_path / "device")
    lines, start, same, equal = ran(tmp_path / "host", device_budget_mib=0.04)
    assert whole["placement"]["where"] == "device"
    assert start["placement"] == {
        "where": "host",
        "room": int(0.04 * 2**20),
        "reason": "0.115 MB of pixels, room for 0.0419 MB by data.device_budget_mib",
    }
    assert f"  placement: host: {start['placement']['reason']}" in lines
    assert start["content"] == whole["content"]
    np.testing.assert_array_equal(same, chosen)
    assert equal == accuracy
