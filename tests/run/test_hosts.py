"""What processes of a run have measured, brought together: sums, and who is missing."""

import json
from contextlib import closing

import pytest
from fakes.clock import FakeClock
from fakes.probe import FakeProbe, power

from dpet_jax.energy import EnergyMeter, Found, Unavailable
from dpet_jax.energy.accounts.logbook import Trace
from dpet_jax.energy.accounts.state import Accounts
from dpet_jax.energy.report.report import build_report
from dpet_jax.run.folder import HOSTS, RunFolder
from dpet_jax.run.hosts import HostAccounts, Hosts, all_together, labelled, read_hosts
from dpet_jax.run.team import Member, Team

SECONDS = 10.0
NOTHING = Unavailable("cpu", "it hides its counters", "unhide them")


def measured(*probes, missing=()):
    """Return the accounts of a time in which each (id, component, Wh) uses so much."""
    clock = FakeClock()
    made = tuple(
        FakeProbe(clock, power(3600 * wh / SECONDS), id=name, component=component)
        for name, component, wh in probes
    )
    meter = EnergyMeter(Found(made, missing), clock=clock).start()
    with meter.window("train", "round 1"):
        clock.wait(SECONDS)
    meter.stop()
    return meter.accounts()


def on(process, accounts, host=None, machine=None):
    host = host or f"host{process}"
    return HostAccounts(process, host, machine or f"boot {host}", accounts)


@pytest.fixture
def folder(tmp_path):
    with closing(RunFolder(tmp_path)) as held:
        yield held


class Pretended(Team):
    """Process 0 of several, the others of which give what a test says."""

    def __init__(self, hosts, given=(), index=0):
        members = [Member(n, host, f"boot {host}", {}) for n, host in enumerate(hosts)]
        super().__init__(tuple(members), index)
        self.given = given

    def gather(self, value):
        return [value, *self.given]


def test_hosts_add_up_by_source_and_each_is_named():
    own = measured(("cpu:0", "cpu", 1.0), ("gpu:A", "gpu", 3.0))
    there = measured(("cpu:0", "cpu", 0.5), ("gpu:B", "gpu", 2.0))
    whole, rows = all_together(own, [on(0, Accounts()), on(1, there)])
    assert [row["host"] for row in rows] == ["host0", "host1"]
    assert rows[0]["components"] == pytest.approx({"cpu": 1.0, "gpu": 3.0}, rel=1e-3)
    assert rows[1]["components"] == pytest.approx({"cpu": 0.5, "gpu": 2.0}, rel=1e-3)
    assert set(whole.channels) == {"cpu:0", "gpu:A", "host1/cpu:0", "host1/gpu:B"}
    assert whole.wh()["train"] == pytest.approx(6.5, rel=1e-3)
    assert whole.total_s == own.total_s  # they passed side by side
    report = build_report(whole, Trace(), complete=True).data
    assert report["energy"]["measured_wh"] == pytest.approx(6.5, rel=1e-3)
    low, high = report["energy"]["measured_wh_k2"]
    assert low < 6.5 < high
    assert report["labels"]["round 1"]["wh"] == pytest.approx(6.5, rel=1e-3)


def test_a_device_that_two_processes_see_counts_once():
    own = measured(("cpu:0", "cpu", 1.0), ("gpu:A", "gpu", 3.0))
    twice = measured(("gpu:A", "gpu", 3.0), ("gpu:B", "gpu", 2.0))
    here = [on(0, Accounts(), "a"), on(1, twice, "a")]
    whole, rows = all_together(own, here)
    assert set(whole.channels) == {"cpu:0", "gpu:A", "gpu:B"}
    assert whole.wh()["train"] == pytest.approx(6.0, rel=1e-3)
    assert rows == [
        {
            "host": "a",
            "processes": [0, 1],
            "quality": "measured",
            "wh": pytest.approx(6.0, rel=1e-3),
            "components": pytest.approx({"cpu": 1.0, "gpu": 5.0}, rel=1e-3),
        }
    ]
    elsewhere = [on(0, Accounts(), "a"), on(1, twice, "b"), on(2, twice, "b")]
    whole, _ = all_together(own, elsewhere)
    assert set(whole.channels) == {"cpu:0", "gpu:A", "b/gpu:A", "b/gpu:B"}


def test_a_host_without_a_sensor_is_named_and_not_taken_for_0():
    own = measured(("cpu:0", "cpu", 1.0))
    whole, rows = all_together(
        own, [on(0, Accounts()), on(1, measured(missing=(NOTHING,)))]
    )
    assert rows[1] == {
        "host": "host1",
        "processes": [1],
        "quality": "unavailable",
        "wh": None,
        "components": {},
    }
    assert ("host1: cpu", *NOTHING[1:]) in [tuple(one) for one in whole.unavailable]


def test_machines_of_one_name_are_told_apart():
    hosts = [on(0, Accounts(), "node", "x"), on(1, Accounts(), "node", "y")]
    assert [label for label, _ in labelled(hosts)] == ["node", "node#1"]


def test_accounts_come_to_process_0_and_go_on_with_their_process(folder, tmp_path):
    there = measured(("cpu:0", "cpu", 0.5))
    given = json.loads(json.dumps(there.to_json()))
    meter = EnergyMeter(Found((), ()), clock=FakeClock()).start()
    team = Pretended(["a", "b"], [given])
    Hosts(team, folder, resumed=False).collect(meter)
    first, second = read_hosts(tmp_path)
    assert (first.process, first.host, first.accounts.channels) == (0, "a", {})
    assert second.accounts.wh() == there.wh()

    class Follower(Pretended):
        def agree(self, _):
            return sent

    sent = None
    resumed = Pretended(["a", "b"], [given])
    real = resumed.agree
    kept = []
    resumed.agree = lambda decide: kept.append(real(decide)) or kept[-1]
    Hosts(resumed, folder, resumed=True)
    sent = json.loads(json.dumps(kept[0]))
    follower = Hosts(Follower(["a", "b"], index=1), folder, resumed=True)
    assert follower.earlier.wh() == there.wh()


@pytest.mark.parametrize("hosts", [[], ["a", "c"]])
def test_what_hosts_measured_that_are_there_no_more_is_kept(folder, tmp_path, hosts):
    there = measured(("cpu:0", "cpu", 0.5))
    meter = EnergyMeter(Found((), ()), clock=FakeClock()).start()
    Hosts(Pretended(["a", "b"], [there.to_json()]), folder, resumed=False).collect(
        meter
    )
    team = Pretended(hosts, [{}] * (len(hosts) - 1)) if hosts else Team()
    Hosts(team, folder, resumed=True).collect(meter)
    _, rows = all_together(measured(("cpu:0", "cpu", 1.0)), read_hosts(tmp_path))
    wh = {row["host"]: row["wh"] for row in rows}
    assert wh["a"] == pytest.approx(1.0, rel=1e-3)
    assert wh["b"] == pytest.approx(0.5, rel=1e-3)


def test_a_run_alone_has_no_hosts(folder, tmp_path):
    meter = EnergyMeter(Found((), ()), clock=FakeClock()).start()
    Hosts(Team(), folder, resumed=False).collect(meter)
    assert not (tmp_path / HOSTS).exists()
    assert read_hosts(tmp_path) == []
