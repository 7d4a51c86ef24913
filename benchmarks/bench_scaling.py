"""From which number of hosts on does a run wait for its network, its leader or itself?

Measured on this machine: a step of the network, an all-reduce of two processes over
gloo against bytes, one message from process 0 to the other, and the search for the last
row of each example in a batch, at every size of batch that occurs. From these and from
the program's own sizes the seconds of a pass follow for 1 to 1,024 hosts of one device,
with the batch of all hosts fixed ("shared") and with that of each host fixed ("each").
That part is arithmetic; what a network of another kind takes is given with --latency-us
and --gb-per-s. It stands on the least of what was measured, for others may use the
machine too.

    python benchmarks/bench_scaling.py --out=benchmarks/results/bench_scaling_cpu.json
"""

import argparse
import json
import math
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from gpu_rows import spread
from timing import network, parsed, report, show

SIZES = (2**2, 2**10, 2**14, 2**18, 2**22, 2**24)
HOSTS = tuple(2**n for n in range(11))
#: Decisions of process 0 that every chunk waits for: whether and how far, and to save.
MESSAGES_A_CHUNK = 2
CHUNK_S = 1.0
TABLE_BYTES = 4 + 1 + 4  # of an example: loss, correct, forgetting
ROW_BYTES = 4
TIMES = 10  # a batch's rows are searched by one program


class Costs(NamedTuple):
    """What the arithmetic stands on.

    Attributes:
        example_s: Seconds of training on an example, on one device.
        latency_s: Seconds of one message of an all-reduce, whatever it holds.
        bytes_s: Bytes a second between two hosts.
        message_s: Seconds of a decision's way to another process.
        send_s: Seconds that process 0 takes to send it to one.
        rows_s: Seconds of finding the last row of each example in a batch, by its rows.
    """

    example_s: float
    latency_s: float
    bytes_s: float
    message_s: float
    send_s: float
    rows_s: dict[int, float]


class Sizes(NamedTuple):
    """What the program moves and holds.

    Attributes:
        examples: Of the training split, n.
        batch: Rows of a step on one host.
        parameter_bytes: Of the network; its gradient has as many.
        image_bytes: Of one example.
    """

    examples: int
    batch: int
    parameter_bytes: int
    image_bytes: int


def main(arguments: Sequence[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--depth", type=float, default=1.0)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--examples", type=int, default=50_000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--example-us", type=float, help="of a device of another kind")
    parser.add_argument("--latency-us", type=float, help="of a network of another kind")
    parser.add_argument("--gb-per-s", type=float, help="likewise")
    parser.add_argument("--process", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    options = parsed(parser, arguments, {"side": 8, "batch": 4, "repeats": 1})
    if options.process is not None:
        rows = exchange(options.process, options.address, options.repeats)
        if options.process == 0:
            print(json.dumps(rows))
        return rows
    model = network(options, options.width)
    sizes = sizes_of(model, options)
    exchanged = in_two_processes(options.repeats)
    step = step_seconds(model, options)
    searches = {batch: search_seconds(batch, options) for batch in batches(options)}
    latency_s, bytes_s = line(exchanged)
    message, send = exchanged[-2:]
    costs = Costs(
        example_s=(options.example_us or 1e6 * step["min"] / options.batch) / 1e6,
        latency_s=(options.latency_us or 1e6 * latency_s) / 1e6,
        bytes_s=1e9 * (options.gb_per_s or bytes_s / 1e9),
        message_s=message["seconds.min"],
        send_s=send["seconds.min"],
        rows_s={batch: seconds["min"] for batch, seconds in searches.items()},
    )
    plain = {name: s for name, s in costs._asdict().items() if name != "rows_s"}
    measured = [
        *exchanged,
        {"what": f"step of {options.batch}", **named(step)},
        *(
            {"what": "last rows", "batch": batch, **named(seconds)}
            for batch, seconds in searches.items()
        ),
    ]
    simulated = [
        {"what": "simulated", "batch_is": kind, **a_pass(sizes, costs, hosts, kind)}
        for kind in ("shared", "each")
        for hosts in hosts_of(sizes, kind)
    ]
    longer = [{"what": "longer from", **one} for one in crossovers(sizes, costs)]
    seconds = {"s": "seconds.median", "least": "seconds.min", "most": "seconds.max"}
    parts = {"compute": "compute_s", "all-reduce": "reduce_s", "rows": "rows_s"}
    parts |= {"messages": "message_s", "efficiency": "efficiency"}
    show(measured, {"": "what", "bytes": "bytes", "of rows": "batch", **seconds})
    print("\nseconds of a pass")
    show(simulated, {"batch": "batch_is", "hosts": "hosts", "s": "pass_s", **parts})
    print("\nlonger than computing")
    show(longer, {"batch": "batch_is", "part": "of", "from hosts": "hosts"})
    rows = [
        *measured,
        {"what": "sizes", **sizes._asdict()},
        {"what": "costs", **plain},
        *simulated,
        *longer,
    ]
    report(__doc__.partition("\n")[0], rows, options.out, columns={})
    return rows


def a_pass(sizes: Sizes, costs: Costs, hosts: int, kind: str) -> dict:
    """Return what a pass over the data takes on so many hosts, and moves.

    An all-reduce is a ring: every host sends and receives the gradient twice but for a
    share of 1 / hosts, in 2 (hosts - 1) messages one after another.
    """
    batch = sizes.batch if kind == "shared" else sizes.batch * hosts
    steps = math.ceil(sizes.examples / batch)
    moved = 2 * sizes.parameter_bytes * (hosts - 1) / hosts
    compute = steps * batch / hosts * costs.example_s
    reduce = steps * (2 * (hosts - 1) * costs.latency_s + moved / costs.bytes_s)
    rows = steps * costs.rows_s[batch]
    work = compute + reduce + rows
    chunks = max(1, work / CHUNK_S)
    message = 0.0
    if hosts > 1:
        each = costs.message_s + (hosts - 1) * costs.send_s
        message = chunks * MESSAGES_A_CHUNK * each
    alone = sizes.examples * costs.example_s
    return {
        "hosts": hosts,
        "steps": steps,
        "pass_s": work + message,
        "compute_s": compute,
        "reduce_s": reduce,
        "rows_s": rows,
        "message_s": message,
        "efficiency": alone / hosts / (work + message),
        "gradient_bytes_a_step": moved,
        "table_bytes_a_host": math.ceil(sizes.examples / hosts) * TABLE_BYTES,
        "data_bytes_a_host": sizes.examples * sizes.image_bytes,
        "row_bytes_a_chunk": sizes.examples * ROW_BYTES,
    }


def hosts_of(sizes: Sizes, kind: str) -> list[int]:
    """Return how many hosts there may be: each has a row of a batch at least."""
    return [n for n in HOSTS if kind == "each" or n <= sizes.batch]


def crossovers(sizes: Sizes, costs: Costs) -> list[dict]:
    """Return from how many hosts on each part takes longer than computing."""
    found = []
    for kind in ("shared", "each"):
        for part in ("reduce_s", "rows_s", "message_s"):
            hosts = hosts_of(sizes, kind)
            passes = (a_pass(sizes, costs, count, kind) for count in hosts)
            first = next((p["hosts"] for p in passes if p[part] > p["compute_s"]), None)
            found.append({"batch_is": kind, "of": part, "hosts": first})
    return found


def line(exchanged: list[dict]) -> tuple[float, float]:
    """Return latency and bytes a second of two processes' all-reduce.

    Two messages each way of a ring of two, and the gradient once: the smallest says
    what a message takes, the largest what bytes do.
    """
    reduces = [row for row in exchanged if row["what"] == "all-reduce"]
    small, large = reduces[0], reduces[-1]
    latency = small["seconds.min"] / 2
    rest = max(large["seconds.min"] - small["seconds.min"], 1e-9)
    return latency, large["bytes"] / rest


def named(seconds: dict) -> dict:
    return {f"seconds.{key}": value for key, value in seconds.items()}


def sizes_of(model, options: argparse.Namespace) -> Sizes:
    import jax

    params, _ = model.abstract()
    count = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    return Sizes(options.examples, options.batch, count, options.side**2 * 3)


def step_seconds(model, options: argparse.Namespace) -> dict:
    """Time a step of training on this machine's first device."""
    from bench_overhead import random_images

    from dpet_jax.config.load import validate
    from dpet_jax.run import build
    from dpet_jax.training.learner import DeviceLearner

    tree = {
        "train": {"batch_size": options.batch},
        "evaluate": {"batch_size": 2 * options.batch},
        "method": {"kind": "standard"},
    }
    config = validate(tree, "bench_scaling")
    data = random_images(4 * options.batch, options.side)
    spec = build.build_learner_spec(config, model)
    learner = DeviceLearner(data, spec, build.build_hyper(config), seed=0)
    list(learner.compile())
    return spread([learner.main.time_steps(4) for _ in range(options.repeats)])


def batches(options: argparse.Namespace) -> list[int]:
    """Return how many rows a batch may have."""
    return [options.batch * hosts for hosts in HOSTS]


def search_seconds(batch: int, options: argparse.Namespace) -> dict:
    """Time what finds the last of equal rows of a batch of shuffled examples."""
    import jax
    import numpy as np
    from jax import lax

    from dpet_jax.training.repeats import only_last

    @jax.jit
    def often(targets):
        # in one program, as in a step: calling it would take longer than it does
        return lax.fori_loop(
            0, TIMES, lambda _, rows: only_last(rows, options.examples), targets
        )

    order = np.random.default_rng(0).permutation(options.examples).astype(np.int32)
    targets = jax.device_put(np.resize(order, batch))
    jax.block_until_ready(often(targets))
    seconds = []
    for _ in range(3 * options.repeats):
        began = time.perf_counter()
        jax.block_until_ready(often(targets))
        seconds.append((time.perf_counter() - began) / TIMES)
    return spread(seconds)


def in_two_processes(repeats: int) -> list[dict]:
    """Time what two processes on this machine exchange."""
    with socket.create_server(("", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    command = [sys.executable, __file__, f"--repeats={repeats}", f"--address={address}"]
    processes = [
        subprocess.Popen(
            [*command, f"--process={n}"], stdout=subprocess.PIPE, text=True
        )
        for n in range(2)
    ]
    out = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise RuntimeError("a process has failed")
    return json.loads(out[0].splitlines()[-1])


def exchange(process: int, address: str, repeats: int) -> list[dict]:
    """Time all-reduces of several sizes, and messages, in one of two processes."""
    from dpet_jax.run.join import join

    team = join(address, 2, process)
    import jax
    import numpy as np
    from jax.sharding import NamedSharding, PartitionSpec

    from dpet_jax.training.learner import data_mesh
    from dpet_jax.training.transfer import put

    mesh = data_mesh()
    parts = NamedSharding(mesh, PartitionSpec("data"))
    add = jax.jit(
        lambda x: x.sum(axis=0), out_shardings=NamedSharding(mesh, PartitionSpec())
    )
    rows = []
    for size in SIZES:
        values = put(np.ones((2, size // 4), np.float32), parts)
        jax.block_until_ready(add(values))
        seconds = []
        for _ in range(3 * repeats):
            began = time.perf_counter()
            jax.block_until_ready(add(values))
            seconds.append(time.perf_counter() - began)
        row = {"what": "all-reduce", "bytes": size, **named(spread(seconds))}
        rows.append(row)
    seconds = []
    for _ in range(3 * repeats):
        began = time.perf_counter()
        for _ in range(10):  # there and back, each half of it
            team.agree(lambda: None)
            team.gather(None)
        seconds.append((time.perf_counter() - began) / 20)
    rows.append({"what": "message", **named(spread(seconds))})
    seconds = []
    for _ in range(3 * repeats):
        began = time.perf_counter()
        for _ in range(10):
            team.agree(lambda: [None, 12])  # process 0 waits for nobody
        seconds.append((time.perf_counter() - began) / 10)
        team.gather(None)
    rows.append({"what": "sending a message", **named(spread(seconds))})
    team.close()
    return rows


if __name__ == "__main__":
    main()
