"""Whole runs with their pixels on the host: what they say, and the same results."""

import json

import jax
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from dpet_jax import load_run
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


def ran(out, *, resume=False, **data):
    """Run, and return the first lines, the start, the coreset and the last accuracy."""
    with (out.parent / f"{out.name}.txt").open("w+") as file:
        console = Console(file=file, width=200)
        config = validate(tree(**data), "test")
        result = experiment.run(config, out, console=console, resume=resume)
        file.seek(0)
        lines = file.read().splitlines()
    events = (result.folder / "events.jsonl").read_text().splitlines()
    start = [e for e in map(json.loads, events) if e["event"] == "start"][-1]
    chosen = np.load(result.folder / "coreset.npz")["source_rows"]
    return lines, start, chosen, result.summary["test_accuracy"]


def test_a_run_may_go_on_with_a_budget_and_says_where_its_pixels_are(
    tmp_path, stopped_after, assert_same_run
):
    _, whole, chosen, accuracy = ran(tmp_path / "device")
    begun = experiment.run(
        validate(tree(), "test"), tmp_path / "host", interrupt=stopped_after(8)
    )
    assert begun.stopped_by == "interrupted"
    lines, start, same, equal = ran(
        tmp_path / "host", resume=True, device_budget_mib=0.04
    )
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
    assert_same_run(
        *(
            tmp_path / out / begun.folder.relative_to(tmp_path / "host")
            for out in ("device", "host")
        )
    )


@pytest.mark.slow
def test_a_run_on_the_device_goes_on_as_a_stream(tmp_path, monkeypatch, stopped_after):
    pytest.importorskip("grain")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for split, count in (("train", 60), ("test", 20)):
        for label in range(3):
            place = tmp_path / "set" / split / str(label)
            place.mkdir(parents=True)
            for row in range(count):
                pixels = rng.integers(0, 80, (8, 8, 3)) + 80 * label
                image = Image.fromarray(pixels.astype(np.uint8))
                image.save(place / f"{row}.jpg", quality=90)
    keys = {"kind": "folder", "path": str(tmp_path / "set")}
    alone = experiment.run(validate(tree(**keys), "test"), tmp_path / "alone")
    begun = experiment.run(
        validate(tree(**keys), "test"), tmp_path / "b", interrupt=stopped_after(8)
    )
    assert begun.stopped_by == "interrupted"
    streamed = validate(tree(**keys, placement="stream"), "test")
    done = experiment.run(streamed, tmp_path / "b", resume=True)
    weights = [
        jax.tree.leaves((run.params, run.batch_stats))
        for run in (load_run(alone.folder), load_run(done.folder))
    ]
    for one, other in zip(*weights, strict=True):
        # of three channels; to the bit where XLA optimises as it does by itself
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
