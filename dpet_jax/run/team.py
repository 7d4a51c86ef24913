"""The processes that work on one run together: one leads, and all decide alike.

Every process carries out the same program, so that whatever depends on a clock, a
sensor, a signal or a disk is decided by process 0 and sent to the others. They hold one
connection each to process 0 for as long as the run lasts: what is sent goes over it,
beside what devices exchange, and its end is how each learns that another is gone.
"""

import json
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, TypeVar

from dpet_jax.errors import UserError
from dpet_jax.run.interrupt import EXIT_RESUMABLE

T = TypeVar("T")

#: Seconds that processes wait for each other before the first of them gives up.
WITHIN_S = 60.0
#: A peer that its machine does not vouch for any more is gone after about so long.
_SILENT_S = 20
#: Whether a failure is one's own, or follows from that of another, shows by then.
_BLAME_S = 5.0
_PARTING_S = 1.0
_AGAIN_S = 0.2
_HELLO_BYTES = 2**16


class Member(NamedTuple):
    """A process of a team.

    Attributes:
        number: Of the process; 0 leads.
        host: Name of its machine.
        machine: What tells its machine from others, whatever they are called.
        versions: Of the packages that decide a result.
    """

    number: int
    host: str
    machine: str
    versions: dict[str, str]


class Team:
    """A process that works alone, for which all of this does nothing.

    Attributes:
        again: What to do where the run has ended because another process has.
        refused: Whether all processes know that the run was refused.
        failed: What this process exits with after a failure of its own, which others
            are not to wait for; None without one.
    """

    def __init__(self, members: tuple[Member, ...] = (), index: int = 0) -> None:
        self.members = members
        self.index = index
        self.again = "start all processes again"
        self.refused = False
        self.failed: int | None = None

    @property
    def size(self) -> int:
        """Number of processes."""
        return max(1, len(self.members))

    @property
    def leads(self) -> bool:
        """Whether this process decides and writes."""
        return self.index == 0

    @property
    def measures_host(self) -> bool:
        """Whether no process before this one runs on the same machine."""
        if not self.members:
            return True
        machine = self.members[self.index].machine
        first = next(one for one in self.members if one.machine == machine)
        return first.number == self.index

    def name(self, index: int) -> str:
        """Return what a message calls a process."""
        return f"process {index} of {self.size} ({self.members[index].host})"

    def agree(self, decide: Callable[[], T]) -> T:
        """Return what process 0 decides, in every process.

        Args:
            decide: Returns plain data, as JSON takes it; only process 0 calls it.
        """
        return decide()

    def gather(self, value: T) -> list[T]:
        """Return the plain data of every process in process 0, and [] elsewhere."""
        return [value]

    def tell(self, state: dict[str, Any]) -> None:
        """Let process 0 know how this one is; nobody waits for it."""

    def told(self) -> list[dict[str, Any]]:
        """Return what the other processes told last, in process 0."""
        return []

    def any(self, flag: bool) -> bool:
        """Return whether it is so in any process, in every process."""
        flags = self.gather(flag)
        return self.agree(lambda: True in flags)

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """Do something in process 0, and only then in the others."""
        if not self.leads:
            self.agree(lambda: None)
        yield
        if self.leads:
            self.agree(lambda: None)

    def together(self, do: Callable[[], T]) -> T:
        """Do something that may be refused; if it is anywhere, it is everywhere.

        Raises:
            UserError: With the message of the first process that refused.
        """
        result, refusal = None, None
        try:
            result = do()
        except UserError as error:
            if self.size == 1:
                raise
            refusal = str(error)
        refusals = self.gather(refusal)
        first: Any = self.agree(lambda: next(_given(refusals), None))
        if first is not None:
            self._refuse()
            index, text = first
            raise UserError(refusal or f"{self.name(index)}: {text}")
        return result  # type: ignore[return-value]

    def _refuse(self) -> None:
        self.refused = True

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """Let the others know what ends this process inside, so that they end too."""
        yield

    def close(self) -> None:
        """Part in order, once all have come so far."""


class Crew(Team):
    """One process of several, connected with process 0, or with all if it leads.

    Args:
        members: All processes, in order.
        index: The number of this one.
        links: The connections, by the number of the process at their other end.
        leave: Ends the process at once.
    """

    def __init__(
        self,
        members: tuple[Member, ...],
        index: int,
        links: Mapping[int, Connection],
        leave: Callable[[int], Any] = os._exit,
    ) -> None:
        super().__init__(members, index)
        self._links = dict(links)
        self._leave = leave
        self._sending = threading.Lock()
        self._decided: queue.Queue[Any] = queue.Queue()
        self._given: dict[int, queue.Queue[Any]] = {i: queue.Queue() for i in links}
        self._states: dict[int, dict[str, Any]] = {}
        self._parting = threading.Event()
        self._lost = threading.Event()
        threading.Thread(target=self._listen, name="team", daemon=True).start()

    def agree(self, decide: Callable[[], T]) -> T:
        """Return what process 0 decides, in every process."""
        if not self.leads:
            return self._decided.get()
        decision = decide()
        self._send("decided", decision)
        return decision

    def gather(self, value: T) -> list[T]:
        """Return the plain data of every process in process 0, and [] elsewhere."""
        if not self.leads:
            self._send("given", value)
            return []
        return [value, *(self._given[index].get() for index in sorted(self._links))]

    def tell(self, state: dict[str, Any]) -> None:
        """Let process 0 know how this one is; nobody waits for it."""
        if not self.leads:
            self._send("state", state)

    def told(self) -> list[dict[str, Any]]:
        """Return what the other processes told last, in process 0."""
        return list(self._states.values())

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """Let the others know what ends this process inside, so that they end too."""
        try:
            yield
        except BaseException as error:
            if isinstance(error, UserError) and self.refused:
                raise
            # a collective fails where a peer is gone, which is then what is said
            if not isinstance(error, UserError) and self._lost.wait(_BLAME_S):
                self._leave(EXIT_RESUMABLE)
            self.failed = 2 if isinstance(error, UserError) else 1
            self._parting.set()
            what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            self._send("failed", f"{self.name(self.index)} has ended ({what})")
            raise

    def close(self) -> None:
        """Part in order, once all have come so far."""
        self.gather(None)
        self._parting.set()
        self.agree(lambda: None)
        for link in self._links.values():
            link.close()

    def _refuse(self) -> None:
        super()._refuse()
        self._parting.set()

    def _send(self, kind: str, value: Any, *, but: int | None = None) -> None:
        message = json.dumps([kind, value]).encode()
        with self._sending:
            for index, link in self._links.items():
                if index != but:
                    try:
                        link.send_bytes(message)
                    except OSError:
                        self._left(index)

    def _listen(self) -> None:
        indices = {link: index for index, link in self._links.items()}
        while indices and not self._parting.is_set():
            for link in wait(list(indices)):
                index = indices[link]  # type: ignore[index]
                try:
                    kind, value = json.loads(link.recv_bytes())  # type: ignore[union-attr]
                except (OSError, EOFError, ValueError):
                    del indices[link]  # type: ignore[arg-type]
                    self._left(index)
                    continue
                self._received(index, kind, value)

    def _received(self, index: int, kind: str, value: Any) -> None:
        if kind == "decided":
            self._decided.put(value)
        elif kind == "given":
            self._given[index].put(value)
        elif kind == "state":
            self._states[index] = value
        elif kind == "failed":
            self._end(value, index)

    def _left(self, index: int) -> None:
        # one that has parted in order may be faster than this process
        if not self._parting.wait(_PARTING_S):
            self._end(f"{self.name(index)} is gone", index)

    def _end(self, what: str, index: int) -> None:
        """Say what has happened, here and to the others, and leave at once.

        The program may be inside a collective that never ends.
        """
        if self._lost.is_set():
            return
        self._lost.set()
        if self.leads:
            self._send("failed", what, but=index)
        print(f"{what}; {self.again}", file=sys.stderr, flush=True)  # noqa: T201
        self._leave(EXIT_RESUMABLE)


def _given(refusals: list[str | None]) -> Iterator[list[Any]]:
    for index, text in enumerate(refusals):
        if text is not None:
            yield [index, text]


def summed(
    own: dict[str, float] | None, others: Iterable[dict[str, float] | None]
) -> dict[str, float] | None:
    """Add up the Wh of phases over processes; None if this one does not know its own.

    Args:
        own: Of this process, by phase.
        others: Of others, who may know nothing.
    """
    if own is None:
        return None
    total = dict(own)
    for one in others:
        for phase, wh in (one or {}).items():
            total[phase] = total.get(phase, 0.0) + wh
    return total


class Meeting(NamedTuple):
    """How the processes of a team have met.

    Attributes:
        team: This process among them.
        port: A port on the leader's machine that was free.
    """

    team: Crew
    port: int


class _Call(NamedTuple):
    """What a process knows of the others before they have met."""

    host: str
    port: int
    size: int
    me: Member
    within_s: int | float

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"


class _Met(NamedTuple):
    """Who came, how this process is connected with them, and the leader's free port."""

    members: tuple[Member, ...]
    links: dict[int, Connection]
    port: int


def meet(
    address: str,
    size: int,
    me: Member,
    *,
    within_s: int | float = WITHIN_S,
    leave: Callable[[int], Any] = os._exit,
) -> Meeting:
    """Bring the processes of a run together.

    Args:
        address: HOST:PORT, where process 0 listens.
        size: Number of processes.
        me: This one.
        within_s: Seconds after which whoever is missing is not waited for.
        leave: Ends the process at once.

    Raises:
        UserError: If the address is wrong, not all come in time, or they do not fit.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise UserError(
            f"--coordinator: {address!r} is no HOST:PORT; give the machine of process "
            "0 and a free port, such as 10.0.0.1:7654"
        )
    if not 0 <= me.number < size:
        raise UserError(
            f"--process: {me.number} is none of {size} processes; number them from 0 "
            f"to {size - 1}"
        )
    call = _Call(host, int(port), size, me, within_s)
    met = _come(call) if me.number else _received_all(call)
    return Meeting(Crew(met.members, me.number, met.links, leave), met.port)


def _received_all(call: _Call) -> _Met:
    deadline = time.monotonic() + call.within_s
    try:
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        server = socket.create_server(
            ("", call.port), family=family, backlog=call.size, dualstack_ipv6=dual
        )
    except OSError as error:
        raise UserError(
            f"--coordinator: nobody can listen at {call.address} ({error.strerror}); "
            "choose another port"
        ) from error
    links: dict[int, Connection] = {}
    came: list[Connection] = []
    members = {0: call.me}
    refusal: str | None = None
    with server:
        while len(links) < call.size - 1 and refusal is None:
            server.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                link = _linked(server.accept()[0])
            except TimeoutError:
                missing = [str(i) for i in range(call.size) if i not in members]
                refusal = (
                    f"--processes: of {call.size}, {', '.join(missing)} did not come "
                    f"to {call.address} within {call.within_s:g} s; start them all, "
                    "each with its own --process"
                )
                break
            try:
                told_size, *about = json.loads(link.recv_bytes(_HELLO_BYTES))
                other = Member(*about)
            except (OSError, EOFError, ValueError, TypeError):
                link.close()  # somebody else's
                continue
            refusal = _misfit(call.size, told_size, members, other)
            came.append(link)
            members[other.number], links[other.number] = other, link
    everybody = tuple(members[i] for i in sorted(members))
    free = _free_port()
    for link in came:
        link.send_bytes(json.dumps([refusal, everybody, free]).encode())
    if refusal is not None:
        raise UserError(refusal)
    return _Met(everybody, links, free)


def _misfit(
    size: int, told_size: int, members: dict[int, Member], other: Member
) -> str | None:
    """Return why a process cannot be one of the team."""
    who = f"process {other.number} ({other.host})"
    if told_size != size:
        return (
            f"--processes: {who} was told of {told_size}, process 0 of {size}; give "
            "all the same number"
        )
    if other.number in members:
        return f"--process: {other.number} came twice; give each process its own number"
    mine = members[0].versions
    different = [
        f"{name} is {other.versions.get(name)}, in process 0 {version}"
        for name, version in mine.items()
        if other.versions.get(name) != version
    ]
    if different:
        return (
            f"{who} has other versions: {'; '.join(different)}; install the same "
            "everywhere"
        )
    return None


def _come(call: _Call) -> _Met:
    place, deadline = (call.host, call.port), time.monotonic() + call.within_s
    while True:
        left = deadline - time.monotonic()
        try:
            link = _linked(socket.create_connection(place, max(0.01, left)))
            link.send_bytes(json.dumps([call.size, *call.me]).encode())
            # process 0 says so itself where somebody does not come
            if not link.poll(max(0.01, left) + call.within_s):
                raise TimeoutError("it does not answer")
            refusal, members, port = json.loads(link.recv_bytes())
            break
        except (OSError, EOFError, ValueError) as error:
            if left <= _AGAIN_S:
                raise UserError(
                    f"--coordinator: process 0 cannot be reached at {call.address} "
                    f"within {call.within_s:g} s ({error or type(error).__name__}); "
                    "start it on that machine with the same --coordinator, or mend "
                    "the address"
                ) from error
            time.sleep(_AGAIN_S)
    if refusal is not None:
        raise UserError(refusal)
    return _Met(tuple(Member(*one) for one in members), {0: link}, port)


def _linked(connected: socket.socket) -> Connection:
    """Return a connection that ends where the machine at its other end does."""
    connected.settimeout(None)
    watch(connected)
    return Connection(connected.detach())


def watch(connected: socket.socket) -> None:
    """Let the system ask the machine at the other end now and then if it is there."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    each = {"TCP_KEEPIDLE": _SILENT_S // 4, "TCP_KEEPINTVL": _SILENT_S // 4}
    each |= {"TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 1000 * _SILENT_S}
    for name, value in each.items():
        if hasattr(socket, name):  # not on every system
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _free_port() -> int:
    with socket.create_server(("", 0)) as server:
        return int(server.getsockname()[1])
