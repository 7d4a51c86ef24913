"""The accelerator's path, guarded without one: other back ends, several devices."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from dpet_jax.data.augment import Augmentation
from dpet_jax.data.device import DeviceData
from dpet_jax.models import resnet18
from dpet_jax.training import Hyper, Schedule, StepSpec, init_state, train_steps
from dpet_jax.training.learner import data_mesh
from dpet_jax.training.scoring import ScoreSpec, score_data

MODEL = resnet18(10, width_multiplier=0.125)
N = 64


def shaped(tree):
    replicated = NamedSharding(data_mesh(), PartitionSpec())
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated),
        tree,
    )


def data():
    return DeviceData(
        np.zeros((N, 16, 16, 3), np.uint8),
        np.zeros(N, np.int32),
        np.zeros(3, np.float32),
        np.ones(3, np.float32),
    )


def hyper():
    single = np.float32(0)
    schedule = Schedule(np.int32(0), *[single] * 5, np.bool_(0))
    augmentation = Augmentation(np.int32(0), np.bool_(0), np.int32(0))
    return Hyper(schedule, single, np.bool_(0), *[single] * 6, augmentation)


def state(family):
    return jax.eval_shape(
        lambda key: init_state(MODEL, family, N, key), jax.random.key(0)
    )


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("family", ["sgd", "adam"])
def test_train_steps_lowers_for_accelerators_in_their_precision(
    platform, dtype, family
):
    spec = StepSpec(MODEL, family, 32, dtype, data_mesh())
    arguments = (
        state(family),
        data(),
        np.zeros(N, np.int32),
        np.int32(2),
        np.int32(0),
        np.ones(N, np.float32),
        hyper(),
    )
    traced = train_steps.trace(spec, *shaped(arguments))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    convolutions = [
        line for line in text.splitlines() if "stablehlo.convolution" in line
    ]
    assert convolutions
    element = "bf16" if dtype == "bfloat16" else "f32"
    assert all(line.rstrip().endswith(f"x{element}>") for line in convolutions)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_score_pool_lowers_for_accelerators(platform):
    spec = ScoreSpec(MODEL, ("margin", "entropy"), 32, "bfloat16", data_mesh())
    network = state("sgd")
    arguments = (
        network.params,
        network.batch_stats,
        data(),
        np.zeros(N, np.int32),
        np.int32(9),
    )
    traced = score_data.trace(spec, *shaped(arguments))
    assert "stablehlo.while" in traced.lower(lowering_platforms=(platform,)).as_text()


RUN = """
import json, sys
import jax
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
from pathlib import Path
import numpy as np
from dpet_jax.run import experiment
from dpet_jax.config.load import validate
from dpet_jax.run.folder import read_events

config = validate({
    "model": {"kind": "resnet", "stem": 8, "channels": [8], "blocks": [1]},
    "train": {"batch_size": 32},
    "method": {"kind": "dpet", "warmup_passes": 2, "query_size": 64,
               "passes_per_round": 2, "max_rounds": 2},
}, "test")
result = experiment.run(config, Path(sys.argv[2]))
with np.load(result.folder / "coreset.npz") as saved:
    # two devices may order examples that differ in the last bit of a score
    rows = sorted(zip(saved["round"].tolist(), saved["source_rows"].tolist()))
events = read_events(result.folder / "events.jsonl")
# chunks are cut by time, so losses are compared plan by plan
seen, losses, label = 0, {}, None
for event in events:
    if event["event"] == "plan":
        label = event["label"]
    if event["event"] == "train":
        count = event["visits"] - seen
        seen = event["visits"]
        losses[label] = losses.get(label, 0.0) + event["loss"] * count
print(json.dumps({"rows": rows, "losses": losses,
                  "devices": result.summary["device"]["count"]}))
"""


def test_two_devices_choose_the_same_examples_and_lose_the_same(tmp_path):
    results = []
    for devices in (1, 2):
        out = tmp_path / str(devices)
        done = subprocess.run(
            [sys.executable, "-c", RUN, str(devices), str(out)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        results.append(json.loads(done.stdout.splitlines()[-1]))
    one, two = results
    assert (one["devices"], two["devices"]) == (1, 2)
    assert one["rows"] == two["rows"]
    for label, loss in one["losses"].items():
        assert two["losses"][label] == pytest.approx(loss, rel=1e-3)
