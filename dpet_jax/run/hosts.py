"""What the processes of a run measure, each on its own machine, brought together.

Process 0 keeps a journal of its own accounts, line by line. The accounts of the others
come to it with each checkpoint and at the end, and lie whole in hosts.json beside it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dpet_jax.energy import Accounts, EnergyMeter
from dpet_jax.files import read_json
from dpet_jax.run.folder import HOSTS, RunFolder, reading
from dpet_jax.run.team import Team


class HostAccounts(NamedTuple):
    """What one process has measured.

    Attributes:
        process: Its number; 0 leads.
        host: Name of its machine.
        machine: What tells its machine from others.
        accounts: Of its meter; empty for process 0, whose journal has them.
    """

    process: int
    host: str
    machine: str
    accounts: Accounts


class Hosts:
    """The accounts of all processes but process 0, which writes them down.

    Args:
        team: The processes.
        folder: Of the run.
        resumed: Whether a checkpoint is resumed, whose accounts go on.
    """

    def __init__(self, team: Team, folder: RunFolder, *, resumed: bool) -> None:
        self._team, self._folder = team, folder
        known = read_hosts(folder.path) if team.leads and resumed else []
        self._left = [
            one
            for one in known
            if not self._goes_on(one) and (one.process or not team.members)
        ]
        going_on = {
            str(one.process): one.accounts.to_json()
            for one in known
            if one.process and self._goes_on(one)
        }
        earlier = team.agree(lambda: going_on).get(str(team.index))
        self.earlier = None if earlier is None else Accounts.from_json(earlier)

    def _goes_on(self, one: HostAccounts) -> bool:
        """Whether the process is there again, on the machine of the same name."""
        members = self._team.members
        return one.process < len(members) and members[one.process].host == one.host

    def collect(self, meter: EnergyMeter) -> None:
        """Bring the accounts of all processes to process 0, and write them down."""
        team = self._team
        found = team.gather({} if team.leads else meter.accounts().to_json())
        if not team.leads or not (self._left or len(found) > 1):
            return
        plain = [
            [one.process, one.host, one.machine, one.accounts.to_json()]
            for one in self._left
        ]
        plain += [
            [one.number, one.host, one.machine, accounts]
            for one, accounts in zip(team.members, found, strict=False)
        ]
        keys = HostAccounts._fields
        rows = [dict(zip(keys, values, strict=True)) for values in plain]
        self._folder.write_json(HOSTS, {"processes": rows})


def read_hosts(folder: Path) -> list[HostAccounts]:
    """Read what the processes of a run have measured; [] for one process alone."""
    path = folder / HOSTS
    if not path.exists():
        return []
    with reading(folder):
        return [
            HostAccounts(
                one["process"],
                one["host"],
                one["machine"],
                Accounts.from_json(one["accounts"]) if one["accounts"] else Accounts(),
            )
            for one in read_json(path)["processes"]
        ]


def labelled(hosts: Sequence[HostAccounts]) -> list[tuple[str, HostAccounts]]:
    """Return every process with a name of its machine that no other machine has."""
    labels: dict[str, str] = {}
    for one in hosts:
        taken = one.host in labels.values()
        label = f"{one.host}#{one.process}" if taken else one.host
        labels.setdefault(one.machine, label)
    return [(labels[one.machine], one) for one in hosts]


def all_together(
    own: Accounts, hosts: Sequence[HostAccounts]
) -> tuple[Accounts, list[dict[str, Any]]]:
    """Add the accounts of all hosts to those of process 0.

    A device or a sensor that several processes of one machine see is counted once.

    Args:
        own: Of process 0.
        hosts: Every process, process 0 among them.

    Returns:
        The accounts of all, and a row for each host: "host", "processes", "quality",
        "wh" and its "components", with the Wh of each; None where nothing measures.
    """
    named = labelled(hosts)
    here = next((label for label, one in named if not one.process), "")
    of_host: dict[str, Accounts] = {here: own}
    processes: dict[str, list[int]] = {}
    for label, one in named:
        processes.setdefault(label, []).append(one.process)
        if one.process:
            known = of_host.get(label)
            of_host[label] = (
                one.accounts if known is None else known.beside(one.accounts)
            )
    whole = of_host[here]
    rows = [_row(here, processes.get(here, [0]), whole)]
    for label, accounts in of_host.items():
        if label != here:
            whole = whole.beside(accounts, label)
            rows.append(_row(label, processes[label], accounts))
    return whole, rows


def _row(host: str, processes: list[int], accounts: Accounts) -> dict[str, Any]:
    wh = accounts.wh()
    row: dict[str, Any] = {
        "host": host,
        "processes": sorted(set(processes)),
        "quality": accounts.quality,
        "wh": None if wh is None else sum(wh.values()),
        "components": {},
    }
    for name in accounts.counted(accounts.quality):
        channel = accounts.channels[name]
        used = channel.totals.energy_j / 3600
        known = row["components"].get(channel.component, 0.0)
        row["components"][channel.component] = known + used
    return row
