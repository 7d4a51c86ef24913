"""Is the coreset that dpet_anneal leaves worth training on from scratch?

A quarter of the digits' labels are wrong, so that the hardest examples teach little. A
rule is accepted if it does as well as chance at equal size, class shares and visits.
"""

import numpy as np
import pytest

from dpet_jax.config.load import validate
from dpet_jax.methods.dynamic import hard_but_learnable
from dpet_jax.quotas import largest_remainder
from dpet_jax.run import experiment
from dpet_jax.run.build import build_data

SEEDS = (0, 1)
SHARE = 0.3
#: Means of two seeds differ by so much by chance: the s.d. of a run is about 0.04.
NOISE = 0.04


def config(method, seed):
    tree = {
        "seed": seed,
        "name": method["kind"],
        "data": {"kind": "digits", "label_noise": 0.25},
        "model": {"kind": "resnet", "stem": 8, "channels": [8], "blocks": [1]},
        "train": {
            "batch_size": 32,
            "optimizer": {"kind": "sgd", "learning_rate": 0.1},
            "schedule": {"kind": "triangular"},
            "augment": {"translate": 1},
        },
        "evaluate": {"every": 100},
        "method": method,
    }
    return validate(tree, "test")


@pytest.fixture(scope="module")
def data():
    return build_data(config({"kind": "standard", "passes": 1}, 0))


def most_kept(labels, size, kept, mean_loss):
    """Choose each class's share by how often it was kept, equals by their mean loss."""
    order = np.lexsort((-mean_loss, -kept))
    shares = largest_remainder(size * np.bincount(labels) / labels.size, size)
    return np.concatenate(
        [order[labels[order] == label][:share] for label, share in enumerate(shares)]
    )


@pytest.fixture(scope="module")
def results(data, tmp_path_factory):
    """Test accuracies of every rule, and the share of wrong labels in its coresets."""
    wrong_rows = data.source_rows[data.noisy_rows]
    accuracies = {rule: [] for rule in ("default", "random", "top_count")}
    wrong = {rule: [] for rule in accuracies}

    def run(method, seed):
        folder = tmp_path_factory.mktemp("run")
        return experiment.run(config(method, seed), folder, data=data)

    # a coreset of everything has the columns of everything
    anneal = {"kind": "dpet_anneal", "epochs": 8, "coreset_fraction": 1.0}
    for seed in SEEDS:
        left = run(anneal, seed).folder / "coreset.npz"
        with np.load(left) as saved:
            whole = dict(saved)
        labels, kept, loss = (whole[key] for key in ("labels", "kept", "mean_loss"))
        size, draw = round(SHARE * labels.size), np.random.default_rng(seed)
        chosen = {
            "default": hard_but_learnable(labels, size, (kept, loss), draw),
            "random": hard_but_learnable(labels, size, None, draw),
            "top_count": most_kept(labels, size, kept, loss),
        }
        for rule, rows in chosen.items():
            part = {
                key: values[rows] if values.shape == labels.shape else values
                for key, values in whole.items()
            }
            path = left.with_name(f"{rule}.npz")
            np.savez(path, **part)
            trained = run({"kind": "coreset", "path": str(path), "passes": 20}, seed)
            accuracies[rule].append(trained.summary["test_accuracy"])
            wrong[rule].append(np.isin(part["source_rows"], wrong_rows).mean())
    return accuracies, wrong


def accepted(found, rule):
    return np.mean(found[rule]) >= np.mean(found["random"]) - NOISE


def test_the_coreset_of_a_run_is_worth_at_least_a_random_one(results):
    found, wrong = results
    assert np.mean(found["random"]) > 0.7, "too little to compare with"
    assert accepted(found, "default")
    assert np.mean(wrong["default"]) < 0.16 < 0.2 < np.mean(wrong["random"])


def test_what_was_kept_most_often_is_not(results):
    found, wrong = results
    assert not accepted(found, "top_count")
    assert np.mean(found["top_count"]) < 0.5
    assert np.mean(wrong["top_count"]) > 0.5
