"""What keeps a measured energy from being compared with others."""

import pytest

from dpet_jax.energy.accounts.ledger import Row
from dpet_jax.energy.report.report import doubts, exclusive, warnings
from dpet_jax.energy.sensing.curve import Totals


def channel(*, kind="power", scope="gpu", quality="measured", **known):
    source = {
        "method": "m",
        "kind": kind,
        "rel_uncertainty": 0.05,
        "update_period_s": None,
        "sensor_window_s": None,
        "wrap_j": None,
        "max_w": 700.0,
        "quality": quality,
    }
    totals = {"energy_j": 0.0, "unmeasured_s": known.pop("unmeasured_s", 0.0)}
    return {
        "component": known.pop("component", "gpu"),
        "scope": scope,
        "counted": known.pop("counted", True),
        "active": 0,
        "sources": [source],
        "totals": totals,
        "facts": known,
    }


def doubts_of(state_channel, *, gap_s=0.0, seconds=100.0, quality="measured"):
    whole = Row(seconds, {"gpu:A": Totals(gap_s=gap_s)})
    return doubts({"channels": {"gpu:A": state_channel}}, quality, whole, seconds)


def test_energy_of_a_sensor_that_saw_all_is_beyond_doubt():
    assert doubts_of(channel()) == []


@pytest.mark.parametrize("quality", ["modelled", "unavailable"])
def test_what_is_not_measured_is_doubted_for_that(quality):
    assert doubts_of(channel(), quality=quality) == [quality]


def test_tenth_of_the_time_unmeasured_is_the_most():
    assert doubts_of(channel(unmeasured_s=9.9)) == []
    assert doubts_of(channel(unmeasured_s=10.1)) == ["unmeasured"]


def test_gap_in_power_of_more_than_a_tenth_is_doubted_but_a_counter_loses_nothing():
    assert doubts_of(channel(), gap_s=9.9) == []
    assert doubts_of(channel(), gap_s=10.1) == ["gap"]
    assert doubts_of(channel(kind="counter"), gap_s=99.0) == []


def test_board_whose_other_instances_are_not_ours_is_doubted():
    assert doubts_of(channel(scope="gpu_parent")) == ["mig_parent"]


def test_board_that_another_process_used_is_doubted():
    assert doubts_of(channel(shared=True)) == ["foreign_process"]
    assert doubts_of(channel(shared=False)) == doubts_of(channel(shared=None)) == []


def test_doubts_are_named_once_and_in_order():
    channels = {
        name: channel(scope="gpu_parent", shared=True, unmeasured_s=50.0)
        for name in ("gpu:A", "gpu:B")
    }
    whole = Row(100.0, {name: Totals(gap_s=50.0) for name in channels})
    assert doubts({"channels": channels}, "measured", whole, 100.0) == [
        "foreign_process",
        "gap",
        "mig_parent",
        "unmeasured",
    ]


def test_sensor_that_is_not_part_of_the_total_casts_no_doubt():
    assert doubts_of(channel(counted=False, unmeasured_s=99.0, shared=True)) == []
    assert doubts_of(channel(quality="modelled", unmeasured_s=99.0)) == []


def test_sources_that_differ_by_more_than_a_tenth_are_warned_of():
    def source(rel_diff):
        check = {"method": "POWER_AVERAGE", "rel_diff": rel_diff}
        return {"id": "gpu:A", "method": "COUNTER", "cross_check": check}

    assert warnings([source(0.09), source(-0.09)]) == []
    assert warnings([{"cross_check": None}]) == []
    assert warnings([source(-0.25), source(0.11)]) == [
        "gpu:A: COUNTER and POWER_AVERAGE differ by -25%",
        "gpu:A: COUNTER and POWER_AVERAGE differ by +11%",
    ]


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ([], "unknown"),
        ([False], "yes"),
        ([False, False], "yes"),
        ([False, None], "unknown"),
        ([True, False], "unknown"),  # the latest answer only
    ],
)
def test_gpus_are_exclusive_only_if_all_say_so(answers, told):
    channels = {
        str(n): channel(last={"foreign_processes": answer})
        for n, answer in enumerate(answers)
    }
    cpu = channel(component="cpu", last={"foreign_processes": None})
    assert exclusive({"channels": channels | {"cpu": cpu}}) == told


def test_gpu_that_was_ever_shared_is_not_exclusive():
    shared = channel(shared=True, last={"foreign_processes": False})
    alone = channel(last={"foreign_processes": False})
    assert exclusive({"channels": {"A": shared, "B": alone}}) == "no"
    assert exclusive({"channels": {"A": channel()}}) == "unknown"
