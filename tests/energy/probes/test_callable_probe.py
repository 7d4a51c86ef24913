"""A meter of the user's own: in its own unit, and a failure is never zero."""

import math

import pytest

from dpet_jax.energy.probes.callable_probe import CallableProbe
from dpet_jax.energy.probes.source import Probe, Source

PLUG = {
    "name": "plug",
    "kind": "power",
    "unit": "W",
    "rel_uncertainty": 0.01,
}


def probe(ask=lambda: 1.0, **options):
    return CallableProbe(ask, **{**PLUG, **options})


@pytest.mark.parametrize(
    ("kind", "unit", "expected"),
    [
        ("power", "W", 250.0),
        ("power", "mW", 0.25),
        ("power", "kW", 250e3),
        ("counter", "J", 250.0),
        ("counter", "mJ", 0.25),
        ("counter", "Wh", 9e5),
        ("counter", "kWh", 9e8),
    ],
)
def test_reading_comes_in_watts_or_joules(kind, unit, expected):
    (value,) = probe(lambda: 250, kind=kind, unit=unit).read()
    assert value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "bad", [None, math.nan, math.inf, -math.inf, -0.1, -5, float("-1e-9")]
)
def test_reading_that_is_no_power_is_none_and_never_zero(bad):
    assert probe(lambda: bad).read() == (None,)


def test_meter_that_reads_zero_reads_zero():
    assert probe(lambda: 0).read() == (0.0,)


def test_what_the_meter_raises_comes_through():
    def offline():
        raise ConnectionError("no route to the plug")

    with pytest.raises(ConnectionError, match="no route"):
        probe(offline).read()


def test_text_that_is_no_number_is_a_failure():
    with pytest.raises(ValueError, match="could not convert"):
        probe(lambda: "off").read()


def test_meter_is_asked_once_for_each_reading():
    asked = []
    meter = probe(lambda: asked.append(1) or 3.0)
    assert asked == []
    meter.read()
    meter.read()
    assert len(asked) == 2


def test_source_says_what_the_user_said():
    meter = probe(
        kind="counter",
        unit="Wh",
        component="rack",
        scope="rack 3",
        update_period_s=1.0,
        sensor_window_s=0.5,
        wrap=10.0,
        max_w=5e3,
    )
    assert meter.sources == (
        Source(
            "plug",
            "counter",
            rel_uncertainty=0.01,
            update_period_s=1.0,
            sensor_window_s=0.5,
            wrap_j=36_000.0,
            max_w=5e3,
            quality="measured",
        ),
    )
    assert (meter.id, meter.component, meter.scope) == ("rack:plug", "rack", "rack 3")


def test_meter_is_of_the_node_by_default():
    meter = probe()
    assert isinstance(meter, Probe)
    assert (meter.id, meter.component, meter.scope) == ("node:plug", "node", "node")
    assert meter.sources[0].wrap_j is None
    assert meter.sources[0].max_w >= 10_200  # eight H100 in one node


def test_two_meters_differ_by_their_names():
    assert probe(name="left").id != probe(name="right").id


def test_other_users_of_the_meter_are_not_known():
    assert probe().facts() == {
        "name": "plug",
        "unit": "W",
        "foreign_processes": None,
    }
    probe().close()


def test_uncertainty_is_never_made_up():
    options = {key: PLUG[key] for key in PLUG if key != "rel_uncertainty"}
    with pytest.raises(TypeError, match="rel_uncertainty"):
        CallableProbe(lambda: 1.0, **options)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"unit": "J"}, r"unit is 'J', which is not of a power; .*'W', 'mW', 'kW'"),
        ({"kind": "counter"}, r"unit is 'W', .* counter; .*'J', 'mJ', 'Wh', 'kWh'"),
        ({"rel_uncertainty": -0.1}, r"rel_uncertainty is -0.1; .*\[0, 1\)"),
        ({"rel_uncertainty": 5.0}, "rel_uncertainty is 5.0"),
        ({"rel_uncertainty": math.nan}, "rel_uncertainty is nan"),
        ({"wrap": 10.0}, "wrap is 10.0, but only a counter"),
        ({"kind": "counter", "unit": "J", "wrap": 0.0}, "wrap is 0.0"),
        ({"update_period_s": 0.0}, "update_period_s is 0.0"),
        ({"sensor_window_s": -1.0}, "sensor_window_s is -1.0"),
        ({"max_w": math.inf}, "max_w is inf"),
        ({"max_w": math.nan}, "max_w is nan"),
        ({"name": " "}, "name is empty"),
    ],
)
def test_argument_out_of_place_is_named_with_what_is_allowed(options, problem):
    with pytest.raises(ValueError, match=problem):
        probe(**options)


@pytest.mark.parametrize("answer", [True, False])
def test_truth_value_is_no_reading(answer):
    with pytest.raises(TypeError, match="is a truth value, not a number"):
        probe(ask=lambda: answer).read()
