"""The program on a machine of a made-up name and power, in a process of its own.

Arguments: the name, its watts or "none", and the command line after `dpet`.
"""

import socket
import sys

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


if __name__ == "__main__":
    from dpet_jax.cli import main

    install(*sys.argv[1:3])
    sys.exit(main(sys.argv[3:]))
