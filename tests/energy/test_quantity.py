"""An amount of energy comes with quality and interval, and refuses to be mixed."""

import math

import pytest

from dpet_jax.energy import Energy, QualityError, Source
from dpet_jax.energy.accounts.quantity import measured, modelled
from dpet_jax.energy.sensing.curve import Totals

GPU = Source("counter", "counter", rel_uncertainty=0.05)
CPU = Source("rapl", "counter", rel_uncertainty=0.10)


def wh(joules):
    return pytest.approx(joules / 3600)


def energy(wh, random_wh=0.0, gain_wh=0.0, channels=("gpu",), quality="measured"):
    return Energy(wh, quality, gain_wh, wh - random_wh, wh + random_wh, channels)


NONE = Energy(None, "unavailable", reasons=("cpu: denied", "gpu: no driver"))


# interval


def test_interval_is_gain_and_chance_in_quadrature():
    assert energy(100.0, 3.0, 4.0).interval_wh == (95, 105)


def test_interval_may_be_lopsided_and_never_negative():
    assert Energy(10.0, "measured", 0.0, 9.0, 14.0).interval_wh == (9, 14)
    assert energy(1.0, 3.0).interval_wh == (0, 4)


def test_no_energy_has_no_interval():
    assert NONE.interval_wh is None


# measured


def test_gain_of_all_channels_adds_up_linearly():
    both = measured(
        [
            ("gpu", GPU, Totals(energy_j=3600.0), 10.0, 0.0),
            ("cpu", CPU, Totals(energy_j=1800.0), 10.0, 0.0),
        ]
    )
    assert both.wh == 1.5
    assert both.quality == "measured"
    assert both.gain_wh == pytest.approx(0.05 * 1 + 0.10 * 0.5)
    assert both.low_wh == both.wh == both.high_wh
    assert both.channels == ("gpu", "cpu")


def test_chance_adds_up_in_quadrature_to_twice_its_standard_error():
    both = measured(
        [
            ("gpu", GPU, Totals(energy_j=7200.0, variance_j2=1.0), 10.0, 3.0),
            ("cpu", CPU, Totals(energy_j=3600.0, variance_j2=5.0), 10.0, 7.0),
        ]
    )
    assert both.high_wh - both.wh == wh(2 * 4.0)
    assert both.wh - both.low_wh == wh(2 * 4.0)


def test_nothing_measured_is_no_energy_at_all():
    assert measured([]) == Energy(0.0, "measured")


def unseen_wh(values, seconds, **known):
    totals = Totals(
        energy_j=1e4,
        samples=len(values),
        sum_w=float(sum(values)),
        sum_w2=float(sum(v * v for v in values)),
    )
    whole = measured([("gpu", Source("w", "power", **known), totals, seconds, 0.0)])
    return whole.high_wh - whole.wh


def test_what_a_sensor_does_not_see_between_updates_is_uncertain():
    # s_P·√((1 - c)/n)·T with c = 0.25: 100 W about the mean, 10 updates in a second
    got = unseen_wh([200, 400] * 5, 1.0, sensor_window_s=0.025, update_period_s=0.1)
    assert got == wh(2 * 100 * math.sqrt(0.75 / 10) * 1.0)


def test_reading_more_often_than_the_sensor_updates_teaches_nothing_new():
    known = {"sensor_window_s": 0.025, "update_period_s": 0.1}
    got = unseen_wh([200, 400] * 50, 1.0, **known)
    assert got == wh(2 * 100 * math.sqrt(0.75 / 10) * 1.0)
    # of a shorter time than one update there is one number
    got = unseen_wh([200, 400], 0.05, **known)
    assert got == wh(2 * 100 * math.sqrt(0.75) * 0.05)


def test_fewer_readings_than_updates_are_what_is_known():
    # one reading in 5 s of a window of 0.025 s
    got = unseen_wh([200, 400], 10.0, sensor_window_s=0.025, update_period_s=0.1)
    assert got == wh(2 * 100 * math.sqrt(0.995 / 2) * 10.0)


def test_steady_power_hides_nothing():
    known = {"sensor_window_s": 0.025, "update_period_s": 0.1}
    assert unseen_wh([300.1] * 10, 1.0, **known) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    "known",
    [
        {"sensor_window_s": 0.1, "update_period_s": 0.1},
        {"sensor_window_s": 1.0, "update_period_s": 0.1},
        {"sensor_window_s": 0.1},
    ],
)
def test_sensor_that_sees_all_adds_nothing(known):
    assert unseen_wh([200, 400] * 5, 1.0, **known) == 0


@pytest.mark.parametrize(
    ("known", "seen"),
    [({"update_period_s": 0.1}, 0.0), ({}, 0.0), ({"sensor_window_s": 0.025}, 0.25)],
)
def test_sensor_sees_no_more_than_its_window_at_each_reading(known, seen):
    # ten readings of a second: one of unknown window shows a moment each
    got = unseen_wh([200, 400] * 5, 1.0, **known)
    assert got == wh(2 * 100 * math.sqrt((1 - seen) / 10) * 1.0)


def test_counter_sees_all():
    source = Source("c", "counter", sensor_window_s=0.025, update_period_s=0.1)
    totals = Totals(energy_j=1e4, samples=10)
    whole = measured([("gpu", source, totals, 1.0, 0.0)])
    assert whole.high_wh == whole.wh


def test_one_reading_has_no_spread():
    assert (
        unseen_wh([200], 1.0, sensor_window_s=0.025, update_period_s=0.1)
        == unseen_wh([], 1.0, sensor_window_s=0.025, update_period_s=0.1)
        == 0
    )


# modelled


def test_interval_of_a_model_is_what_it_assumes():
    guess = modelled(
        (name, Totals(energy_j=mid, low_j=low, high_j=high))
        for name, low, mid, high in (
            ("cpu", 0.0, 1800.0, 7200.0),
            ("x", 36.0, 72.0, 3.0),
        )
    )
    assert guess.quality == "modelled"
    assert guess.wh == wh(1872)
    assert guess.interval_wh == (wh(36), wh(7203))
    assert guess.channels == ("cpu", "x")
    assert guess.gain_wh == 0


# sums


def test_two_stretches_share_the_gain_and_not_the_chance():
    both = energy(10.0, 3.0, 0.5) + energy(20.0, 4.0, 1.0)
    assert both == Energy(30.0, "measured", 1.5, 25.0, 35.0, ("gpu",))


def test_ends_of_an_interval_add_up_each_on_its_side():
    lopsided = Energy(10.0, "measured", 0.0, 7.0, 15.0, ("gpu",))
    other = Energy(10.0, "measured", 0.0, 6.0, 22.0, ("gpu",))
    assert lopsided + other == Energy(20.0, "measured", 0.0, 15.0, 33.0, ("gpu",))


def test_assumptions_of_a_model_do_not_average_out():
    one = Energy(10.0, "modelled", 0.0, 7.0, 14.0, ("cpu",))
    other = Energy(20.0, "modelled", 0.0, 16.0, 27.0, ("cpu",))
    assert one + other == Energy(30.0, "modelled", 0.0, 23.0, 41.0, ("cpu",))


def test_sum_names_every_channel_once():
    one, other = energy(1.0, channels=("a", "b")), energy(1.0, channels=("b", "c"))
    assert (one + other).channels == ("a", "b", "c")


def test_what_is_not_available_stays_so_in_a_sum():
    assert NONE + NONE == NONE


@pytest.mark.parametrize(
    "other", [energy(1.0, quality="modelled"), NONE], ids=["modelled", "unavailable"]
)
def test_qualities_are_not_added(other):
    with pytest.raises(QualityError, match=f"measured and {other.quality}"):
        energy(1.0) + other
    with pytest.raises(QualityError, match=f"{other.quality} and measured"):
        other + energy(1.0)


# ratios


def test_common_gain_cancels_in_a_ratio():
    ratio, low, high = energy(10.0, 1.0, 9.0).ratio(energy(20.0, 0.0, 9.0))
    assert (ratio, low, high) == (0.5, pytest.approx(0.45), pytest.approx(0.55))


def test_chance_of_both_is_in_a_ratio():
    _, low, high = energy(10.0, 0.3).ratio(energy(10.0, 0.4))
    assert (low, high) == (pytest.approx(0.95), pytest.approx(1.05))


def test_gain_of_other_sensors_does_not_cancel():
    ours = energy(10.0, 0.0, 0.3, channels=("gpu:A",))
    theirs = energy(20.0, 0.0, 0.8, channels=("gpu:B",))
    ratio, low, high = ours.ratio(theirs)
    assert (ratio, low, high) == (0.5, pytest.approx(0.475), pytest.approx(0.525))


def test_order_of_channels_does_not_matter_to_a_ratio():
    ours = energy(10.0, 0.0, 3.0, channels=("a", "b"))
    assert ours.ratio(energy(10.0, 0.0, 3.0, channels=("b", "a"))) == (1, 1, 1)


def test_ratio_of_energies_is_not_negative_at_its_lowest():
    assert energy(1.0, 3.0).ratio(energy(1.0)) == (1, 0, 4)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (energy(1.0), energy(1.0, quality="modelled")),
        (NONE, NONE),
        (energy(1.0), energy(0.0)),
        (energy(0.0), energy(1.0)),
    ],
)
def test_what_cannot_be_compared_has_no_ratio(one, other):
    with pytest.raises(QualityError, match="cannot compare"):
        one.ratio(other)


# as a person writes it


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (energy(12.3456, 0.6), "12.35 Wh [11.75, 12.95]"),
        (energy(4.1, 1.0, quality="modelled"), "≈ 4.1 Wh [3.1, 5.1] MODELLED"),
        (NONE, "not measurable here (cpu: denied; gpu: no driver)"),
        (Energy(None, "unavailable"), "not measurable here (no source)"),
    ],
)
def test_energy_is_written_with_interval_and_quality(amount, text):
    assert str(amount) == text


def test_unmeasured_seconds_may_have_drawn_all_that_the_device_can():
    card = Source("counter", "counter", rel_uncertainty=0.0, max_w=1400.0)
    whole = measured([("gpu", card, Totals(energy_j=7200.0), 60.0, 0.0)])
    missing = Totals(energy_j=7200.0, unmeasured_s=9.0)
    partly = measured([("gpu", card, missing, 60.0, 0.0)])
    assert whole.interval_wh == pytest.approx((2.0, 2.0))
    assert partly.interval_wh == pytest.approx((2.0, 2.0 + 9 * 1400 / 3600))
    assert partly.wh == whole.wh


def test_savings_of_a_model_reach_to_where_its_assumptions_differ_most():
    ours = Energy(10.0, "modelled", 0.0, 4.0, 20.0)
    theirs = Energy(20.0, "modelled", 0.0, 8.0, 40.0)
    assert ours.ratio(theirs) == (0.5, 0.1, 2.5)
    nothing = Energy(20.0, "modelled", 0.0, 0.0, 40.0)
    assert ours.ratio(nothing)[2] == math.inf
