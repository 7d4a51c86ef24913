"""The precision that a run chooses for itself."""

import jax
import numpy as np
import pytest

import dpet_jax
from dpet_jax.config.load import validate
from dpet_jax.files import read_json
from dpet_jax.run import build, experiment
from dpet_jax.run.folder import EVENTS, PRECISION, read_events
from dpet_jax.run.precision import LADDER, Rung, chosen, measured

CONFIG = {
    "model": {
        **{"kind": "resnet", "stem": 8, "channels": [8], "blocks": [1]},
        "compute_dtype": "auto",
    },
    "train": {"batch_size": 64},
    "method": {"kind": "standard", "passes": 1},
}


@pytest.mark.parametrize(
    ("half_s", "cosine", "expected"),
    [(0.5, 0.999, "bfloat16"), (2.0, 0.999, "float32"), (0.5, 0.98, "float32")],
)
def test_the_fastest_of_those_that_point_the_same_way_is_chosen(
    half_s, cosine, expected
):
    rungs = [Rung("float32", 1.0, 1.0), Rung("bfloat16", cosine, half_s)]
    assert chosen(rungs).dtype == expected


def test_where_none_points_the_same_way_the_most_precise_is_chosen():
    rungs = [Rung("float32", 0.0, 1.0), Rung("bfloat16", 0.0, 0.5)]
    assert chosen(rungs).dtype == "float32"


def test_the_gradients_of_the_first_step_are_compared():
    config = validate(CONFIG, "test")
    data = build.build_data(config)
    model = build.build_model(config, data)
    rungs = measured(model, data, 64, seed=3)
    assert [rung.dtype for rung in rungs] == [*LADDER]
    assert rungs[0].cosine == pytest.approx(1.0, abs=1e-9)
    assert all(rung.step_s > 0 for rung in rungs)

    params, stats = jax.jit(model.init)(jax.random.key(3))
    images = (data.images[:64] / np.float32(255) - data.mean) / data.std

    def loss(params, dtype):
        outputs, _ = model.apply_train(
            jax.random.key(0),
            params,
            stats,
            jax.numpy.asarray(images, np.float32),
            dtype=dtype,
        )
        log_p = jax.nn.log_softmax(outputs.logits)
        return -log_p[np.arange(64), data.labels[:64]].mean()

    of = jax.jit(jax.grad(loss), static_argnums=1)
    exact, half = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)])
        for gradient in (of(params, dtype) for dtype in LADDER)
    )
    cosine = exact @ half / np.linalg.norm(exact) / np.linalg.norm(half)
    assert 0.9 < rungs[1].cosine < 1 - 1e-7
    assert rungs[1].cosine == pytest.approx(cosine, abs=1e-3)


def test_a_run_records_its_choice_and_keeps_it_when_it_is_resumed(
    tmp_path, stopped_after
):
    config = validate(CONFIG, "test")
    begun = experiment.run(config, tmp_path, interrupt=stopped_after(3))
    assert begun.stopped_by == "interrupted"
    decision = read_json(begun.folder / PRECISION)
    assert decision["chosen"] in LADDER
    (event,) = [
        e for e in read_events(begun.folder / EVENTS) if e["event"] == "precision"
    ]
    assert event["chosen"] == decision["chosen"]
    assert event["seconds"]["precision"] > 0
    resumed = experiment.run(config, tmp_path, resume=True)
    assert read_json(begun.folder / PRECISION) == decision
    assert resumed.summary["precision"] == decision
    run = dpet_jax.load_run(resumed.folder)
    assert run.compute_dtype == decision["chosen"]
    forward = run.model.forward_flops(8, 8)
    # a batch for the reference, and for each precision one to warm up and five
    assert decision["flops"] == 3 * forward * 64 * (1 + 2 * 6)
    trained = 3 * forward * resumed.summary["executed_visits"]
    assert resumed.summary["flops"] == decision["flops"] + trained
