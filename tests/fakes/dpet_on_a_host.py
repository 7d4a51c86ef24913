"""The program on a machine of a made-up name and power, in a process of its own.

Arguments: the name, its watts or "none", and the command line after `dpet`. Where
DPET_ROWS_READ names a folder, it gets a file called like the machine, with the number
of rows of images that this process has read for its devices.
"""

import atexit
import os
import socket
import sys
from pathlib import Path

from dpet_jax.energy import CallableProbe, Found, Unavailable


def install(host, watts):
    """Give this process a machine to itself, whose only sensor is its power strip."""
    from dpet_jax.run import build, join

    def found(*_, **__):
        if watts == "none":
            return Found(
                (), (Unavailable("node", "nobody measures it", "buy a strip"),)
            )
        strip = CallableProbe(
            lambda: float(watts),
            name="strip",
            kind="power",
            unit="W",
            rel_uncertainty=0.01,
        )
        return Found((strip,), ())

    socket.gethostname = lambda: host
    join._machine = lambda: host
    build.discover = found


def count_rows(path):
    """Count the rows of images that are read, and write down how many at the end."""
    from dpet_jax.training.placement import HostData

    read, count = HostData._read, 0

    def counted(self, rows):
        nonlocal count
        count += rows.size
        return read(self, rows)

    HostData._read = counted
    atexit.register(lambda: path.write_text(str(count)))


if __name__ == "__main__":
    from dpet_jax.cli import main

    install(*sys.argv[1:3])
    if "DPET_ROWS_READ" in os.environ:
        count_rows(Path(os.environ["DPET_ROWS_READ"], sys.argv[1]))
    sys.exit(main(sys.argv[3:]))
