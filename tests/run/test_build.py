import numpy as np
import pytest

from dpet_jax.config.load import validate
from dpet_jax.errors import UserError
from dpet_jax.run import build as parts
from dpet_jax.training import SCHEDULES


def config(**tree):
    return validate(tree, "test")


@pytest.fixture(scope="module")
def data():
    return parts.build_data(config())


@pytest.mark.parametrize(
    ("model", "depth", "channels"),
    [
        ({"kind": "resnet18", "width_multiplier": 0.25}, 18, (16, 32, 64, 128)),
        ({"kind": "resnet18", "depth_multiplier": 0.5}, 10, (64, 128, 256, 512)),
        ({"kind": "resnet20", "scale": 1.4}, 26, (22, 44, 89)),
        (
            {"kind": "resnet", "stem": 4, "channels": [4, 6], "blocks": [1, 2]},
            8,
            (4, 6),
        ),
    ],
)
def test_models_are_shaped_for_the_data(data, model, depth, channels):
    spec = parts.build_model(config(model=model), data)
    assert (spec.depth, spec.channels) == (depth, channels)
    assert (spec.num_classes, spec.in_channels) == (10, 1)


@pytest.mark.parametrize(
    ("model", "share", "stem", "channels"),
    [
        ({"kind": "resnet18"}, 0.25, 16, (16, 32, 64, 128)),
        ({"kind": "resnet18", "width_multiplier": 0.5}, 0.25, 8, (8, 16, 32, 64)),
        # channel_multiple is 8, so a tenth of 32 is 8 and of 256 is 24
        ({"kind": "resnet18", "width_multiplier": 0.5}, 0.1, 8, (8, 8, 16, 24)),
        ({"kind": "resnet20"}, 0.7, 11, (11, 22, 44)),  # floored at multiple 1
        ({"kind": "resnet20", "channel_multiple": 8}, 0.7, 8, (8, 24, 48)),
        # never wider than the model, where that is narrower than 8
        (
            {"kind": "resnet", "stem": 4, "channels": [4, 40], "blocks": [1, 2]},
            0.5,
            4,
            (4, 16),
        ),
    ],
)
def test_proxy_has_the_models_channels_times_its_multiplier(
    data, model, share, stem, channels
):
    proxied = config(model=model, method={"proxy": {"width_multiplier": share}})
    main = parts.build_model(proxied, data)
    proxy = parts.build_proxy(proxied, main)
    assert (proxy.stem, proxy.channels) == (stem, channels)
    kept = ("blocks", "num_classes", "in_channels")
    assert all(getattr(proxy, name) == getattr(main, name) for name in kept)
    assert parts.build_learner_spec(proxied, main, ("margin",)).proxy == proxy


def test_proxy_of_full_width_is_the_model_itself(data):
    twin = config(method={"proxy": {"width_multiplier": 1}})
    main = parts.build_model(twin, data)
    assert parts.build_proxy(twin, main) == main


@pytest.mark.parametrize("method", [{}, {"kind": "rs2"}, {"proxy": None}])
def test_without_a_proxy_section_there_is_none(data, method):
    plain = config(method=method)
    main = parts.build_model(plain, data)
    assert parts.build_proxy(plain, main) is None


def test_proxy_that_cannot_be_narrower_is_refused(data):
    tiny = {"kind": "resnet", "stem": 8, "channels": [8, 8], "blocks": [1, 1]}
    narrow = config(model=tiny, method={"proxy": {"width_multiplier": 0.5}})
    message = r"method.proxy.width_multiplier: 0.5 .*\[8, 8\] .*wider model"
    with pytest.raises(UserError, match=message):
        parts.build_proxy(narrow, parts.build_model(narrow, data))


@pytest.mark.parametrize(
    ("optimizer", "gradient", "decoupled"),
    [("sgd", 0.3, 0.0), ("adam", 0.3, 0.0), ("adamw", 0.0, 0.3)],
)
def test_decay_goes_where_the_optimizer_wants_it(optimizer, gradient, decoupled):
    section = {"kind": optimizer, "weight_decay": 0.3}
    hyper = parts.build_hyper(config(train={"optimizer": section}))
    assert hyper.gradient_decay == np.float32(gradient)
    assert hyper.decoupled_decay == np.float32(decoupled)


def test_schedules_take_their_numbers_from_the_config():
    schedule = {"kind": "triangular", "start_fraction": 0.5, "peak_at": 0.1}
    train = {"schedule": schedule, "optimizer": {"learning_rate": 0.4}}
    built = parts.build_hyper(config(train=train)).schedule
    assert SCHEDULES[built.kind] == "triangular"
    assert (built.peak, built.start) == (np.float32(0.4), np.float32(0.2))
    constant = {"schedule": {"kind": "constant"}}
    assert (
        SCHEDULES[parts.build_hyper(config(train=constant)).schedule.kind] == "constant"
    )


def test_without_validation_nothing_is_evaluated_underway():
    blind = config(data={"validation_fraction": 0})
    assert parts.build_limits(blind).split is None
    assert parts.build_limits(config()).split == "validation"
