"""The runs of a suite as tasks of Ray, on one machine or many.

Every node must see the folder of the suite: a run lies in it from its first event to
its summary, so that whatever node goes on with it finds its checkpoints there, and a
result is collected by being there. A folder that was carried to a node and back would
leave nothing of a run on a node that dies, so that is not offered. The lock of a run
folder must hold across nodes, as it does on a local disk, NFS 4, Lustre (mounted with
flock) and others.

The command that has been given is part of the cluster: it is given on one of its
nodes, and works on the CPU, so that the accelerators are left to the runs.
"""

import hashlib
import os
import socket
import threading
import uuid
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax

import dpet_jax
from dpet_jax.config.experiment import Config
from dpet_jax.data import Data
from dpet_jax.data.dataset import content_hash
from dpet_jax.errors import UserError
from dpet_jax.run import build
from dpet_jax.run.interrupt import Interrupt
from dpet_jax.run.machine import use_compilation_cache, versions
from dpet_jax.suite.executor import Ended, described, run_job
from dpet_jax.suite.variants import Job

#: How often a run whose node or process died is begun again, from its checkpoint.
_RETRIES = 10
#: How long the process of a dead node may still hold the folder of its run.
_PATIENCE_S = 120.0
_LOOK_S = 0.5
_REACH_S = 10.0


class Share(NamedTuple):
    """What a run gets of a node.

    Attributes:
        cpus: Cores, as Ray counts them; a run is not held to them.
        gpus: GPUs, which alone it sees; below 1, runs share one and their energy is
            not valid.
    """

    cpus: float = 1.0
    gpus: float = 0.0

    def fits(self, resources: Mapping[str, float]) -> int:
        """Return how many such runs a node has room for at once.

        Args:
            resources: Of the node, by their names in Ray.
        """
        room = [
            int(resources.get(name, 0.0) / share + 1e-9)
            for name, share in (("CPU", self.cpus), ("GPU", self.gpus))
            if share
        ]
        return min(room, default=1)


class Facts(NamedTuple):
    """What must be the same on all nodes.

    Attributes:
        versions: Of what decides a result.
        code: Hash of this package.
        data: Hash of what every data set holds, by its config; or why it cannot be
            read.
    """

    versions: dict[str, str]
    code: str
    data: dict[str, str]

    def unlike(self, other: "Facts") -> list[str]:
        """Return what is different elsewhere, a text each."""
        found = [
            f"{name} is {other.versions.get(name)}, not {here}"
            for name, here in self.versions.items()
            if other.versions.get(name) != here
        ]
        if self.code != other.code:
            found.append("the code of dpet_jax is another")
        for key, there in other.data.items():
            here = self.data.get(key, there)
            if there.startswith(_UNREADABLE):
                found.append(there)
            elif there != here:
                found.append(
                    f"the data {key} are others ({there[:12]}, not {here[:12]})"
                )
        return found


_UNREADABLE = "the data cannot be read: "


def address_of(text: str) -> str | None:
    """Return Ray's address of a cluster, from what `--on` was given.

    Args:
        text: "ray" for the cluster of this machine, or a new one of it alone;
            "ray://HOST:PORT" for the cluster whose head is there.

    Returns:
        None for "ray".

    Raises:
        UserError: If it is anything else.
    """
    kind, separator, address = text.partition("://")
    host, _, port = address.rpartition(":")
    if kind == "ray" and not separator:
        return None
    if kind != "ray" or not host or not port.isdigit():
        raise UserError(
            f"command line: --on: {text!r} is no place to run; write ray, for this "
            "machine or the cluster that it is part of, or ray://HOST:PORT, with the "
            "address that `ray start --head` shows"
        )
    return address


def facts_here(configs: Mapping[str, Config]) -> Facts:
    """Return the facts of this machine.

    Args:
        configs: One for every data set.
    """
    return Facts(versions(), _code(), {key: _content(c) for key, c in configs.items()})


class _Ticket(NamedTuple):
    """What every task is told.

    Attributes:
        cwd: Where the command works, so that relative paths mean the same.
        out: Parent of the folders of all runs.
        sign: A file in the folder of the suite, and
        says: what it holds.
        facts: Those of the machine of the command.
        share: What a run gets.
    """

    cwd: str
    out: str
    sign: str
    says: str
    facts: Facts
    share: Share


def look(ticket: _Ticket, configs: Mapping[str, Config]) -> list[str]:
    """Return what keeps this machine from taking part, a text each."""
    sign = Path(ticket.sign)
    with suppress(OSError):  # what is missed there shows itself where it is read
        os.chdir(ticket.cwd)
    try:
        seen = sign.exists() and sign.read_text(encoding="utf-8") == ticket.says
        if seen:
            mark = sign.with_name(f"{sign.name}-{uuid.uuid4().hex}")
            mark.touch()
            mark.unlink()
    except OSError as error:
        return [f"cannot use {sign.parent} ({error.strerror}); let it write there"]
    if not seen:
        return [
            f"does not see {sign.parent}; give --out a folder that all nodes have in "
            "common under this name"
        ]
    return ticket.facts.unlike(facts_here(configs))


class Stop:
    """Whether the runs are to be left; an actor of Ray."""

    def __init__(self) -> None:
        self._asked = False

    def ask(self) -> None:
        """Ask all to leave."""
        self._asked = True

    def asked(self) -> bool:
        """Return whether that was asked."""
        return self._asked


def run_there(ticket: _Ticket, job: Job, stop: Any) -> Ended:
    """Run a job, in a process of a node.

    Args:
        ticket: What every task is told.
        job: What to run; a begun one is resumed, a finished one is left.
        stop: The actor that says when to leave.
    """
    ray = library()
    use_compilation_cache()
    interrupt, done = Interrupt(), threading.Event()

    def listen() -> None:
        interrupt.requested = ray.get(stop.asked.remote())

    def keep_listening() -> None:
        while not interrupt.requested and not done.wait(_LOOK_S):
            try:
                listen()
            except ray.exceptions.RayError:
                return  # the command is gone, and Ray is about to end this process

    problems = look(ticket, {job.config.data.model_dump_json(): job.config})
    if ticket.share.gpus and jax.devices()[0].platform == "cpu":
        problems.append(
            "Ray has given it a GPU, but JAX computes on the CPU; install the extra "
            "cuda12 or cuda13 of dpet-jax there"
        )
    if problems:
        text = f"not run: {socket.gethostname()}: {'; '.join(problems)}"
        return Ended(job.folder, "failed", text)
    listen()
    listener = threading.Thread(target=keep_listening, daemon=True)
    listener.start()
    try:
        return run_job(job, Path(ticket.out), _data, interrupt, patience_s=_PATIENCE_S)
    finally:
        done.set()
        listener.join()


class OnRay:
    """Runs jobs as tasks of Ray.

    A task whose node or process dies is run again by Ray on another, where it goes on
    from the checkpoint in the folder of its run; it waits there until the lock of a
    process that is still about to die is free, so that no run is run twice at once.

    Args:
        ray: The module, connected to a cluster.
        ticket: What every task is told.
    """

    def __init__(self, ray: Any, ticket: _Ticket) -> None:
        self._ray, self._ticket = ray, ticket
        self._waiting: deque[Job] = deque()
        self._flying: dict[Any, Job] = {}
        share = ticket.share
        here = ray.get_runtime_context().get_node_id()
        # where the command is, so that it lives as long
        self._stop = (
            ray.remote(num_cpus=0)(Stop)
            .options(scheduling_strategy=_on_node(ray, here))
            .remote()
        )
        self._task = ray.remote(
            num_cpus=share.cpus, num_gpus=share.gpus, max_retries=_RETRIES
        )(run_there)

    def check(self, configs: Mapping[str, Config]) -> None:
        """Ask every node whether it can take part.

        Args:
            configs: One for every data set.

        Raises:
            UserError: With what is wrong on every node that cannot.
        """
        ray, share = self._ray, self._ticket.share
        # a process that has looked without a GPU must not be given one later: JAX
        # looks for devices once
        task = ray.remote(num_cpus=0, max_calls=1, max_retries=0)(look)
        asked = {
            task.options(scheduling_strategy=_on_node(ray, node["NodeID"])).remote(
                self._ticket, configs
            ): node
            for node in self._nodes()
            if share.fits(node["Resources"])
        }
        problems = []
        for answer, node in asked.items():
            try:
                found = ray.get(answer)
            except Exception as error:  # whatever importing this package can raise
                found = [f"cannot run dpet_jax ({_cause(error)}); install it there"]
            problems += [f"{node['NodeManagerHostname']} {one}" for one in found]
        if not asked:
            had = [
                f"{node['NodeManagerHostname']} has {_counted(node['Resources'])}"
                for node in self._nodes()
            ]
            problems.append(
                f"no node has the {share.cpus:g} CPU and {share.gpus:g} GPU that a run "
                f"is to get ({'; '.join(had)}); see --cpus-per-run and --gpus-per-run"
            )
        if problems:
            raise UserError("--on: " + "\n".join(dict.fromkeys(problems)))

    def submit(self, job: Job) -> None:
        """Put a job behind the others."""
        self._waiting.append(job)

    def results(self, interrupt: Interrupt) -> Generator[Ended, None, None]:
        """Run the jobs on all nodes, those that came or went in between too."""
        asked = False
        try:
            while self._waiting or self._flying:
                if interrupt.requested:
                    if not asked:
                        asked = True
                        self._stop.ask.remote()
                    while self._waiting:
                        yield Ended(self._waiting.popleft().folder, "interrupted")
                self._fly()
                if not self._flying:
                    continue
                done, _ = self._ray.wait([*self._flying], timeout=_LOOK_S)
                for answer in done:
                    yield self._ended(answer)
        finally:
            if self._flying:  # something stopped the command: let them save
                self._stop.ask.remote()
                flying = [*self._flying]
                self._ray.wait(flying, num_returns=len(flying), timeout=_PATIENCE_S)

    def _fly(self) -> None:
        """Begin as many jobs as there is room for, or one that waits for room."""
        room = sum(self._ticket.share.fits(n["Resources"]) for n in self._nodes())
        while self._waiting and len(self._flying) < max(1, room):
            job = self._waiting.popleft()
            self._flying[self._task.remote(self._ticket, job, self._stop)] = job

    def _ended(self, answer: Any) -> Ended:
        job = self._flying.pop(answer)
        try:
            ended: Ended = self._ray.get(answer)
        except self._ray.exceptions.RayError as error:
            return Ended(job.folder, "failed", f"failed: {_cause(error)}")
        return ended

    def _nodes(self) -> Iterator[dict[str, Any]]:
        return (node for node in self._ray.nodes() if node["Alive"])


@contextmanager
def on_ray(
    where: str, folder: Path, share: Mapping[str, float | None], data: Mapping[str, Any]
) -> Iterator[OnRay]:
    """Connect to a cluster whose nodes can all take part, and leave it at the end.

    Args:
        where: As `--on` has it.
        folder: Of the suite; its name below the output folder is the suite's.
        share: "cpus" and "gpus" of a run; by default a core and, where any node has
            one, a GPU.
        data: By its config, a config with every data set, and the data set.

    Raises:
        UserError: If there is no such cluster, or a node cannot take part.
    """
    address = address_of(where)
    ray = library()
    if address is not None:
        _reach(address)
    folder.mkdir(parents=True, exist_ok=True)
    sign = folder.resolve() / f".cluster-{uuid.uuid4().hex}"
    _connect(ray, address)
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        any_gpu = any(one.get("GPU") for one in nodes)
        cpus, gpus = share.get("cpus"), share.get("gpus")
        ticket = _Ticket(
            str(Path.cwd()),
            str(folder.resolve().parent),
            str(sign),
            sign.name,
            Facts(
                versions(), _code(), {k: content_hash(d) for k, (_, d) in data.items()}
            ),
            Share(
                1.0 if cpus is None else cpus,
                float(any_gpu) if gpus is None else gpus,
            ),
        )
        sign.write_text(sign.name, encoding="utf-8")
        runs = OnRay(ray, ticket)
        runs.check({key: config for key, (config, _) in data.items()})
        yield runs
    finally:
        sign.unlink(missing_ok=True)
        ray.shutdown()


def library() -> Any:
    """Return the module ray.

    Raises:
        UserError: If it is not installed.
    """
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise UserError(
            f"--on ray needs Ray, which cannot be imported ({error}): pip install "
            "'dpet-jax[cluster]'"
        ) from error
    return ray


def _reach(address: str) -> None:
    """Refuse an address where nobody answers, before Ray spends a minute on it."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_REACH_S).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--on: ray://{address}: nobody answers there ({error}); give the address "
            "that `ray start --head` or `ray status` shows"
        ) from error


def _connect(ray: Any, address: str | None) -> None:
    try:
        ray.init(
            address=address,
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level="ERROR",
        )
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        where = "a cluster on this machine" if address is None else f"ray://{address}"
        raise UserError(
            f"--on: cannot join {where} ({_cause(error)}); this machine must be one "
            "of its nodes (ray start --address=HOST:PORT), with the same Ray and Python"
        ) from error


def _on_node(ray: Any, node: str) -> Any:
    del ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=False)


def _counted(resources: Mapping[str, float]) -> str:
    return f"{resources.get('CPU', 0):g} CPU and {resources.get('GPU', 0):g} GPU"


def _cause(error: BaseException) -> str:
    """Return the last line of what Ray says, which names the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__


@lru_cache(maxsize=1)
def _code() -> str:
    """Return the hash of all modules of this package."""
    digest, root = hashlib.sha256(), Path(dpet_jax.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(os.fsencode(path.relative_to(root)) + b"\0" + path.read_bytes())
    return digest.hexdigest()


#: The data sets of this process, so that its runs read them once.
_read: dict[str, Data] = {}


def _data(config: Config) -> Data:
    key = config.data.model_dump_json()
    if key not in _read:
        _read[key] = build.build_data(config)
    return _read[key]


@lru_cache
def _hash(key: str) -> str:
    return content_hash(_read[key])


def _content(config: Config) -> str:
    """Return the hash of a config's data, or why they cannot be read."""
    try:
        _data(config)
    except (UserError, OSError) as error:
        return f"{_UNREADABLE}{described(error)}"
    return _hash(config.data.model_dump_json())
