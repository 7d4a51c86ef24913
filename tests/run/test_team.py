"""Processes that share a run: how they meet, decide alike, and notice who is gone."""

import os
import socket
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from dpet_jax.cli import EXIT_MISTAKE, main
from dpet_jax.config.experiment import Config
from dpet_jax.energy import EnergyMeter, Found
from dpet_jax.errors import UserError
from dpet_jax.run import build, join
from dpet_jax.run import team as team_module
from dpet_jax.run.interrupt import EXIT_RESUMABLE
from dpet_jax.run.team import Member, Team, meet, summed
from dpet_jax.run.team_checks import check_alike

VERSIONS = {"jax": "1.0"}


def free_address():
    with socket.create_server(("", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def member(number, host=None, versions=None):
    host = host or f"host{number}"
    return Member(number, host, f"boot of {host}", versions or VERSIONS)


def side_by_side(*calls):
    """Call functions at once in threads; return what each returned or raised."""
    results = [None] * len(calls)

    def call(place, one):
        try:
            results[place] = one()
        except Exception as error:
            results[place] = error

    threads = [
        threading.Thread(target=call, args=(n, one), daemon=True)
        for n, one in enumerate(calls)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    return results


def met(members, sizes=None, within_s=30.0, left=None):
    """Let processes meet, each in a thread; `left` gets what each leaves with."""
    address = free_address()
    left = [] if left is None else left

    def one(number, member):
        size = (sizes or [len(members)] * len(members))[number]
        return meet(address, size, member, within_s=within_s, leave=left.append)

    calls = [lambda n=n, m=m: one(n, m) for n, m in enumerate(members)]
    return side_by_side(*calls)


@pytest.fixture
def teams():
    made = [meeting.team for meeting in met([member(i) for i in range(3)])]
    yield made
    side_by_side(*(team.close for team in made))


def test_a_process_alone_decides_for_itself():
    team = Team()
    assert (team.size, team.leads, team.measures_host) == (1, True, True)
    assert team.agree(lambda: 7) == 7
    assert team.gather("x") == ["x"]
    assert team.any(True)
    assert not team.any(False)
    assert team.together(lambda: "done") == "done"
    with team.failing_together(), team.leader_first():
        team.tell({})
    assert team.told() == []
    team.close()


def test_all_get_what_process_0_decides_and_it_what_all_give(teams):
    assert (
        side_by_side(*(lambda t=t: t.agree(lambda: t.index) for t in teams)) == [0] * 3
    )
    given = side_by_side(*(lambda t=t: t.gather(t.index * 10) for t in teams))
    assert given == [[0, 10, 20], [], []]
    for flags in ((False, False, True), (True, False, False)):
        found = zip(teams, flags, strict=True)
        assert (
            side_by_side(*(lambda t=t, f=f: t.any(f) for t, f in found)) == [True] * 3
        )
    assert side_by_side(*(lambda t=t: t.any(False) for t in teams)) == [False] * 3


def test_numbers_that_are_decided_are_the_same_to_the_last_bit(teams):
    numbers = [0.1 + 0.2, 1e-300, float("inf"), 2**63 - 1, None]
    for found in side_by_side(*(lambda t=t: t.agree(lambda: numbers) for t in teams)):
        assert found == numbers


def test_what_others_tell_is_there_without_waiting(teams):
    teams[2].tell({"interrupt": False})
    teams[2].tell({"interrupt": True})
    teams[2].gather(None)  # comes after it
    teams[1].gather(None)
    teams[0].gather(None)
    assert teams[0].told() == [{"interrupt": True}]


def test_the_leader_goes_first(teams):
    order = []

    def go(team):
        with team.leader_first():
            order.append(team.index)

    side_by_side(*(lambda t=t: go(t) for t in teams))
    assert order[0] == 0
    assert sorted(order) == [0, 1, 2]


def test_what_one_refuses_is_refused_by_all():
    made = [meeting.team for meeting in met([member(i) for i in range(3)])]

    def check(team):
        if team.index == 1:
            raise UserError("data.path: no such file")

    found = side_by_side(*(lambda t=t: t.together(lambda: check(t)) for t in made))
    assert [str(error) for error in found] == [
        "process 1 of 3 (host1): data.path: no such file",
        "data.path: no such file",
        "process 1 of 3 (host1): data.path: no such file",
    ]
    assert all(isinstance(error, UserError) for error in found)
    assert all(team.refused for team in made)


def test_one_process_a_machine_measures_it():
    members = [member(0, "a"), member(1, "a"), member(2, "b")]
    made = [meeting.team for meeting in met(members)]
    assert [team.measures_host for team in made] == [True, False, True]
    side_by_side(*(team.close for team in made))


def test_the_end_of_a_connection_ends_all_within_seconds(capfd):
    left = []
    made = [meeting.team for meeting in met([member(i) for i in range(3)], left=left)]
    for team in made:
        team.again = "go on with: dpet run x --resume"
    # as the system does where a process is killed
    with socket.socket(fileno=os.dup(made[1]._links[0].fileno())) as connected:
        connected.shutdown(socket.SHUT_RDWR)
    deadline = time.monotonic() + 60
    while len(left) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == [EXIT_RESUMABLE] * 3
    wanted = "process 1 of 3 (host1) is gone; go on with: dpet run x --resume\n"
    assert capfd.readouterr().err.count(wanted) == 2


def test_a_failure_of_one_is_told_to_the_others(capfd, monkeypatch):
    monkeypatch.setattr(team_module, "_BLAME_S", 0.0)
    left = []
    made = [meeting.team for meeting in met([member(i) for i in range(2)], left=left)]

    def fail():
        with made[1].failing_together():
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        fail()
    assert made[1].failed == 1
    deadline = time.monotonic() + 60
    while not left and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == [EXIT_RESUMABLE]
    assert (
        "process 1 of 2 (host1) has ended (OSError: [Errno 28]"
        in capfd.readouterr().err
    )


def test_nobody_listens_at_the_address():
    with pytest.raises(
        UserError, match=r"--coordinator: process 0 cannot be reached at"
    ):
        meet(free_address(), 2, member(1), within_s=0.5)


def test_not_all_come():
    first, second = met([member(0), member(1)], sizes=[3, 3], within_s=1.0)
    wanted = "--processes: of 3, 2 did not come"
    assert str(first).startswith(wanted)
    assert str(second).startswith(wanted)


MISFITS = {
    "sizes": (
        [2, 3],
        {},
        "--processes: process 1 (host1) was told of 3, process 0 of 2",
    ),
    "versions": (
        [2, 2],
        {"versions": {"jax": "2.0"}},
        "process 1 (host1) has other versions: jax is 2.0, in process 0 1.0; install",
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_processes_that_do_not_fit_are_refused_everywhere(case):
    sizes, changes, wanted = MISFITS[case]
    for error in met([member(0), member(1, **changes)], sizes=sizes):
        assert isinstance(error, UserError)
        assert str(error).startswith(wanted)


def test_two_processes_of_one_number_are_refused():
    found = met([member(0), member(1), member(1, "other")], sizes=[3, 3, 3])
    assert str(found[0]).startswith("--process: 1 came twice")


def test_strangers_at_the_door_are_sent_away():
    address = free_address()
    host, _, port = address.rpartition(":")

    def stranger():
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                with socket.create_connection((host, int(port)), 30) as connected:
                    connected.sendall(b"\x00\x00\x00\x05hello")
                    return connected.recv(1)  # closed
            except OSError:
                time.sleep(0.05)
        return None

    def late():
        answer = stranger()
        return answer, meet(address, 2, member(1), within_s=30.0)

    leader, (answer, follower) = side_by_side(
        lambda: meet(address, 2, member(0), within_s=30.0), late
    )
    assert answer == b""
    assert leader.team.size == follower.team.size == 2
    side_by_side(leader.team.close, follower.team.close)


@pytest.mark.parametrize(
    "address", ["here", "host:", ":1", "host:0", "host:70000", "h:x"]
)
def test_no_address(address):
    with pytest.raises(UserError, match="is no HOST:PORT"):
        meet(address, 2, member(0))


def test_a_port_that_is_taken_and_a_number_that_is_none():
    with socket.create_server(("", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UserError, match="choose another port"):
            meet(address, 2, member(0))
    with pytest.raises(UserError, match="--process: 2 is none of 2 processes"):
        meet("h:1", 2, member(2))


def test_energy_is_added_by_phase_and_unknown_where_the_leader_knows_none():
    assert summed(None, [{"train": 1.0}]) is None
    assert summed({"train": 1.0}, [None, {"train": 2.0, "eval": 0.5}]) == {
        "train": 3.0,
        "eval": 0.5,
    }


COMMANDS = {
    "nowhere": (["--processes=2", "--process=0"], "--processes: 2 needs to know where"),
    "no cluster": (["--coordinator=auto"], "--processes and --process: not given"),
    "no number": (["--coordinator=h:1", "--processes=2"], "--process: not given"),
    "no address": (
        ["--coordinator=h", "--processes=2", "--process=1"],
        "--coordinator: 'h' is no HOST:PORT",
    ),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_a_command_line_that_does_not_say_who_meets_where(
    case, capsys, monkeypatch, tmp_path
):
    for name in ("SLURM_JOB_ID", "OMPI_MCA_orte_hnp_uri", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    options, wanted = COMMANDS[case]
    assert main(["run", f"--out={tmp_path}", *options]) == EXIT_MISTAKE
    assert wanted in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_a_scheduler_says_who_meets_where(monkeypatch):
    says = {
        **{"SLURM_JOB_ID": "4242", "SLURM_STEP_NODELIST": "node[07-08]"},
        **{"SLURM_STEP_NUM_NODES": "2", "SLURM_NTASKS": "2"},
        **{"SLURM_PROCID": "1", "SLURM_LOCALID": "0"},
    }
    for name, value in says.items():
        monkeypatch.setenv(name, value)
    place = join._place("auto", None, None)
    host, _, port = place.address.rpartition(":")
    assert (host, place.size, place.number, place.devices) == ("node07", 2, 1, [0])
    assert port.isdigit()
    given = join._place("10.0.0.1:7", 4, 3)
    assert given == ("10.0.0.1:7", 4, 3, None)


def test_processes_with_other_data_are_refused_everywhere():
    made = [meeting.team for meeting in met([member(0), member(1)])]
    data = build.build_data(Config())
    other = replace(data, labels=np.roll(data.labels, 1))
    meter = EnergyMeter(Found((), ()))
    for error in side_by_side(
        lambda: check_alike(made[0], Config(), data, meter),
        lambda: check_alike(made[1], Config(), other, meter),
    ):
        assert isinstance(error, UserError)
        assert "process 1 of 2 (host1) holds other data than process 0" in str(error)
