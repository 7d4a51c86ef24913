"""What a run costs, foreseen without a network and then run."""

import pytest

from dpet_jax.config.load import validate
from dpet_jax.errors import UserError
from dpet_jax.methods.base import Learner
from dpet_jax.run import build as parts
from dpet_jax.run import experiment
from dpet_jax.suite.dry_run import Counting, foresee

ONE_SHOT = {"kind": "one_shot", "keep_fraction": 0.2, "passes": 2, "pretrain_passes": 1}
DPET = {"kind": "dpet", "warmup_passes": 2, "query_size": 50, "passes_per_round": 2}
DPET |= {"max_rounds": 2}


def config(method, **changes):
    tree = {
        "model": {"kind": "resnet", "stem": 16, "channels": [16], "blocks": [1]},
        "train": {"batch_size": 32, "augment": {"translate": 1}},
        "checkpoint": {"every_s": 1000},
        "evaluate": {"every": 5},
        "method": method,
    }
    return validate(tree | changes, "test")


@pytest.fixture(scope="module")
def data():
    return parts.build_data(config(DPET))


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        (DPET | {"score": "grand"}, {}),
        (DPET | {"proxy": {"width_multiplier": 0.5}}, {}),
        (DPET, {"budget": {"epochs": 1.5}}),
        (ONE_SHOT | {"by": "el2n", "networks": 2}, {}),
        (ONE_SHOT | {"by": "glister"}, {}),
        (ONE_SHOT | {"by": "forgetting"}, {"budget": {"visits": 400}}),
    ],
    ids=lambda values: values.get("by", values.get("score", values.get("budget", "x"))),
)
def test_what_is_foreseen_is_what_it_costs(method, changes, data, tmp_path):
    run = config(method, **changes)
    foreseen = foresee(run, data)
    summary = experiment.run(run, tmp_path, data=data).summary
    assert summary["epochs"] == pytest.approx(foreseen.epochs)
    assert summary["visits"] == foreseen.visits


def test_what_losses_decide_is_foreseen_roughly(data, tmp_path):
    run = config({"kind": "infobatch", "passes": 6})
    summary = experiment.run(run, tmp_path, data=data).summary
    assert summary["epochs"] == pytest.approx(foresee(run, data).epochs, rel=0.1)


def test_a_config_that_does_not_fit_the_data_is_refused(data):
    run = config(DPET, train={"batch_size": 2000})
    with pytest.raises(UserError, match=r"train\.batch_size: 2000 is more"):
        foresee(run, data)


def test_a_network_that_a_run_does_not_have_is_not_counted(data):
    run = config(DPET)
    spec = parts.build_learner_spec(run, parts.build_model(run, data), ())
    counting = Counting(spec, data, 0)
    assert isinstance(counting, Learner)
    with pytest.raises(ValueError, match="no proxy model"):
        counting.train_flops("proxy")
