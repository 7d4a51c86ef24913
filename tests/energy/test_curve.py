"""The curve of one source: which readings become knots, and what they add up to."""

import math

import pytest

from dpet_jax.energy.probes.source import Source
from dpet_jax.energy.sensing.curve import Curve, Totals


def power(**known):
    return Curve(Source("watts", "power", **known))


def counter(max_gap_s=1.0, **known):
    return Curve(Source("joules", "counter", **known), max_gap_s)


def test_totals_add_and_subtract_field_by_field():
    one = Totals(1.0, 2, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0)
    other = Totals(10.0, 20, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0)
    assert one + other == Totals(11.0, 22, 33.0, 44.0, 55.0, 66.0, 77.0, 88.0, 99.0)
    assert one + other - one == other


# knots


@pytest.mark.parametrize("bad", [None, math.nan, math.inf, -math.inf, -0.001])
@pytest.mark.parametrize("begin", [power, counter])
def test_reading_that_is_no_number_gives_no_knot(begin, bad):
    curve = begin()
    curve.add(0.0, 100.0)
    assert curve.add(0.1, bad) == "read_failed"
    assert curve.last_t == 0.0
    assert curve.totals.samples == 1
    curve.add(0.2, 110.0)
    exact = 21.0 if begin is power else 10.0
    assert curve.totals.energy_j == pytest.approx(exact)


def test_first_reading_is_where_energy_begins():
    curve = counter()
    assert curve.last_t is None
    assert curve.energy_j(5.0) == 0
    assert curve.add(1.0, 9e9) is None
    assert curve.totals == Totals(samples=1)
    assert curve.energy_j(5.0) == 0


def test_failed_first_reading_does_not_make_the_counters_past_ours():
    curve = counter()
    curve.add(0.0, None)
    curve.add(0.1, 1e6)
    curve.add(0.2, 1e6 + 30)
    assert curve.totals.energy_j == 30


def test_power_beyond_what_the_device_can_draw_is_not_believed():
    curve = power(max_w=700.0)
    curve.add(0.0, 700.0)
    assert curve.add(1.0, 700.1) == "implausible_power"
    curve.add(2.0, 700.0)
    assert curve.totals.energy_j == 1400
    assert curve.max_w == 700


def test_power_may_be_implausible_at_once():
    curve = power(max_w=700.0)
    assert curve.add(0.0, 701.0) == "implausible_power"
    assert curve.last_t is None


@pytest.mark.parametrize("late", [0.1, 0.05])
def test_reading_that_was_overtaken_changes_nothing(late):
    curve = counter()
    curve.add(0.0, 10.0)
    curve.add(0.1, 20.0)
    assert curve.add(late, 15.0) is None
    curve.add(0.2, 30.0)
    assert curve.totals == Totals(energy_j=20.0, samples=3)


def test_energy_is_that_of_the_nearest_knot_outside_of_what_was_read():
    curve = power()
    curve.add(1.0, 100.0)
    curve.add(2.0, 100.0)
    assert curve.energy_j(0.0) == 0
    assert curve.energy_j(1.0) == 0
    assert curve.energy_j(2.0) == 100
    assert curve.energy_j(99.0) == 100


def test_power_between_two_readings_is_linear():
    curve = power()
    curve.add(0.0, 0.0)
    curve.add(2.0, 200.0)
    assert curve.energy_j(1.0) == pytest.approx(50)
    assert curve.energy_j(2.0) == pytest.approx(200)


def test_energy_between_two_readings_of_a_counter_is_linear():
    curve = counter()
    curve.add(0.0, 0.0)
    curve.add(2.0, 200.0)
    assert curve.energy_j(0.5) == pytest.approx(50)


def test_highest_power_is_kept_and_counters_have_none():
    curve, count = power(), counter()
    for t, value in enumerate((100.0, 300.0, 200.0)):
        curve.add(float(t), value)
        count.add(float(t), value)
    assert curve.max_w == 300
    assert count.max_w == 0


def test_moments_of_power_are_summed_and_counters_have_none():
    curve, count = power(), counter()
    for t, value in enumerate((3.0, 4.0)):
        curve.add(float(t), value)
        count.add(float(t), value)
    assert (curve.totals.sum_w, curve.totals.sum_w2) == (7, 25)
    assert (count.totals.sum_w, count.totals.sum_w2) == (0, 0)


def test_interpolation_is_as_uncertain_as_a_step_anywhere_in_it():
    curve = power()
    curve.add(0.0, 100.0)
    curve.add(0.5, 300.0)
    curve.add(1.0, 300.0)
    assert curve.totals.variance_j2 == pytest.approx((0.5 * 200 * 0.5) ** 2 / 3)


# gaps


@pytest.mark.parametrize("begin", [power, counter])
def test_gap_is_counted_and_still_bridged(begin):
    curve = begin()
    for t in (0.0, 1.0, 4.0, 4.1):
        curve.add(t, 50.0 if begin is power else 50 * t)
    assert curve.totals.gap_s == 3
    assert curve.totals.unmeasured_s == 0
    assert curve.totals.energy_j == pytest.approx(50 * 4.1)


def test_gap_of_a_counter_that_was_reset_or_wrapped_is_counted_too():
    reset = counter(wrap_j=1000.0, max_w=100.0)
    for t, value in ((0.0, 990.0), (2.0, 10.0), (2.1, 10.0), (7.1, 900.0)):
        reset.add(t, value)
    assert reset.totals.gap_s == 7


# counters that jump


def test_whole_step_of_a_counter_right_after_a_reading_is_believed():
    curve = counter(update_period_s=0.1, max_w=1050.0)
    events = [curve.add(0.0, 0.0), curve.add(0.1, 70.0), curve.add(0.199, 70.0)]
    events += [curve.add(0.2, 140.0), curve.add(0.201, 140.0)]
    assert events == [None] * 5
    assert curve.totals.energy_j == 140
    assert curve.totals.unmeasured_s == 0


def test_counter_that_did_not_move_may_show_all_that_was_drawn_meanwhile():
    curve = counter(update_period_s=0.1, max_w=1050.0)
    for k in range(1, 31):
        assert curve.add(k * 0.1, 5000.0) is None
    assert curve.add(3.001, 5000.0 + 700 * 3) is None
    assert curve.totals.energy_j == pytest.approx(2100)


def test_counter_that_just_moved_cannot_jump():
    curve = counter(update_period_s=0.1, max_w=1000.0)
    for t, value in ((0.0, 0.0), (9.0, 0.0), (9.1, 100.0)):
        assert curve.add(t, value) is None
    assert curve.add(9.2, 500.0) == "counter_reset"


@pytest.mark.parametrize(("jump_j", "event"), [(201.0, None), (201.1, "counter_reset")])
def test_most_that_a_counter_can_move_is_full_power_and_one_step(jump_j, event):
    curve = counter(update_period_s=0.1, max_w=1000.0)
    curve.add(0.0, 0.0)
    assert curve.add(0.1, jump_j) == event


@pytest.mark.parametrize(("jump_j", "event"), [(1100, None), (1102, "counter_reset")])
def test_counter_of_unknown_step_may_take_a_second_over_it(jump_j, event):
    curve = counter(max_w=1000.0)
    curve.add(0.0, 0.0)
    assert curve.add(0.1, float(jump_j)) == event


def test_garbage_of_one_reading_costs_two_intervals_and_no_joule_is_made_up():
    curve = counter(update_period_s=0.1, max_w=1000.0)
    events = [
        curve.add(t / 10, raw)
        for t, raw in enumerate((100.0, 110.0, 7e6, 130.0, 140.0))
    ]
    assert events == [None, None, "counter_reset", "counter_reset", None]
    assert curve.totals.energy_j == 20
    assert curve.totals.unmeasured_s == pytest.approx(0.2)
    assert curve.totals.samples == 5


def test_drop_that_cannot_be_a_wrap_is_a_reset():
    curve = counter(wrap_j=262143.0, max_w=300.0)
    curve.add(0.0, 5000.0)
    assert curve.add(0.1, 0.0) == "counter_reset"
    assert curve.totals.energy_j == 0


def test_fill_is_used_only_where_the_counter_does_not_know():
    curve = counter(update_period_s=0.1)
    curve.add(0.0, 100.0, 77.0)
    curve.add(0.1, 130.0, 77.0)
    assert curve.totals.energy_j == 30
    curve.add(0.2, 0.0, 29.0)
    assert curve.totals.energy_j == 59
    assert curve.totals.unmeasured_s == 0


def test_reset_filled_with_nothing_is_measured():
    curve = counter(update_period_s=0.1)
    curve.add(0.0, 100.0)
    curve.add(0.1, 0.0, 0.0)
    assert curve.totals.energy_j == 0
    assert curve.totals.unmeasured_s == 0


@pytest.mark.parametrize("raw", [900.0, 100.0, 500.0, 500.5])
def test_time_in_which_a_counter_may_have_gone_round_unseen_is_unmeasured(raw):
    curve = counter(wrap_j=1000.0, max_w=100.0)
    curve.add(0.0, 500.0)
    assert curve.add(10.0, raw) == "wrap_ambiguous"
    assert curve.totals.energy_j == (raw - 500) % 1000
    assert curve.totals.unmeasured_s == 10
    assert curve.totals.samples == 2
    assert curve.totals.gap_s == 10


def test_counter_that_does_not_move_for_long_has_not_gone_round():
    curve = counter(wrap_j=1000.0, max_w=100.0)
    assert [curve.add(float(t), 500.0) for t in range(30)] == [None] * 30
    assert curve.totals.energy_j == 0


def test_time_in_which_a_counter_cannot_go_round_is_certain():
    curve = counter(wrap_j=1000.0, max_w=100.0)
    curve.add(0.0, 500.0)
    assert curve.add(9.9, 900.0) is None
    assert curve.totals.unmeasured_s == 0


# memory


def test_memory_is_bounded_and_energy_exact_afterwards():
    curve = Curve(Source("watts", "power"), keep_s=5.0)
    whole = Curve(Source("watts", "power"))
    for k in range(1000):
        curve.add(k * 0.1, 100.0 + k % 7)
        whole.add(k * 0.1, 100.0 + k % 7)
        assert curve.last_t - curve.first_t <= 2 * 5.0 + 0.1
    assert curve.totals == whole.totals
    assert curve.energy_j(0.0) == whole.energy_j(curve.first_t) > 0
    for back in (0.0, 0.05, 2.345, 4.999):
        t = 99.9 - back
        assert curve.energy_j(t) == pytest.approx(whole.energy_j(t), abs=1e-9)


def test_energy_is_exact_as_far_back_as_asked_for():
    curve = Curve(Source("watts", "power"), keep_s=5.0)
    for t in (0.0, 3.0, 6.0, 9.0, 12.0):
        curve.add(t, 100.0)
        assert curve.energy_j(max(0.0, t - 5.0)) == max(0.0, 100 * (t - 5.0))
    assert curve.first_t > 0
