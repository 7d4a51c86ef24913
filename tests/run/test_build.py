import numpy as np
import pytest

from dpet_jax.config.load import validate
from dpet_jax.errors import UserError
from dpet_jax.methods.base import PROXY
from dpet_jax.run import build as parts


def config(**tree):
    return validate(tree, "test")


@pytest.fixture(scope="module")
def data():
    return parts.build_data(config())


def test_proxy_is_the_narrower_network_of_the_section(data):
    proxied = config(method={"proxy": {"width_multiplier": 0.25}})
    main = parts.build_model(proxied, data)
    handle, proxy = parts.build_auxiliary(proxied, main)
    assert handle == PROXY
    assert (main.channels, proxy.channels) == ((64, 128, 256, 512), (16, 32, 64, 128))
    spec = parts.build_learner_spec(proxied, main)
    assert (spec.auxiliary, spec.scores) == ((PROXY, proxy), ("margin",))


def test_proxy_of_full_width_is_the_model_itself(data):
    twin = config(method={"proxy": {"width_multiplier": 1}})
    main = parts.build_model(twin, data)
    assert parts.build_auxiliary(twin, main) == (PROXY, main)


@pytest.mark.parametrize("method", [{}, {"kind": "rs2"}, {"proxy": None}])
def test_without_a_proxy_section_there_is_none(data, method):
    plain = config(method=method)
    main = parts.build_model(plain, data)
    assert parts.build_auxiliary(plain, main) is None


def test_proxy_that_cannot_be_narrower_is_refused(data):
    tiny = {"kind": "resnet", "stem": 8, "channels": [8, 8], "blocks": [1, 1]}
    narrow = config(model=tiny, method={"proxy": {"width_multiplier": 0.5}})
    message = r"method.proxy.width_multiplier: 0.5 .*\[8, 8\] .*wider model"
    with pytest.raises(UserError, match=message):
        parts.build_auxiliary(narrow, parts.build_model(narrow, data))


def test_numbers_of_training_come_from_the_config_and_kinds_are_compiled_in(data):
    schedule = {"kind": "triangular", "start_fraction": 0.5, "peak_at": 0.1}
    optimizer = {"kind": "adamw", "learning_rate": 0.4, "weight_decay": 0.3}
    built = config(train={"schedule": schedule, "optimizer": optimizer})
    hyper = parts.build_hyper(built)
    model = parts.build_model(built, data)
    step = parts.build_learner_spec(built, model).step
    assert step.schedules[hyper.schedule.member].kind == "triangular"
    assert hyper.schedule.keys[hyper.schedule.member]["start_fraction"] == 0.5
    assert hyper.schedule.peak == np.float32(0.4)
    assert step.optimizer.kind == "adamw"
    assert hyper.optimizer["weight_decay"] == np.float32(0.3)


def test_without_validation_nothing_is_evaluated_underway():
    blind = config(data={"validation_fraction": 0})
    assert parts.build_limits(blind).split is None
    assert parts.build_limits(config()).split == "validation"


@pytest.mark.parametrize("flip", [False, True, "alternate"])
def test_images_are_mirrored_by_chance_or_by_turns(data, flip):
    built = config(train={"augment": {"flip": flip}}, method={"proxy": None})
    spec = parts.build_learner_spec(built, parts.build_model(built, data))
    chance = bool(parts.build_hyper(built).augmentation.flip)
    assert (chance, spec.step.alternate) == (flip is True, flip == "alternate")


def test_bias_rate_without_batch_normalisation_is_refused(data):
    model = {"kind": "fakes.networks:MlpModel"}
    plain = config(model=model, method={"proxy": None})
    assert parts.build_model(plain, data).label
    wanted = config(
        model=model, method={"proxy": None}, train={"optimizer": {"bias_rate": 64}}
    )
    with pytest.raises(UserError, match=r"bias_rate: 64 .* has none; leave it at null"):
        parts.build_model(wanted, data)
