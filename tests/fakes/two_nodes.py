"""Two nodes of Ray on this machine, one of which is killed while a command runs there.

Arguments: the output folder that the command is given, and its command line after
`dpet`, to which `--on` is added. It exits as the command does, and with 99 if there was
nothing to kill.
"""

import subprocess
import sys
import time
from pathlib import Path

from ray.cluster_utils import Cluster

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


def cut_in_the_middle(out):
    """Return the runs that have a checkpoint and are not finished."""
    return {
        place.parent.parent
        for place in Path(out).rglob("checkpoints/[0-9]*")
        if not (place.parent.parent / "summary.json").exists()
    }


def main(out, *command):
    cluster = Cluster(
        initialize_head=True, head_node_args=NODE | {"include_dashboard": False}
    )
    other, killed = cluster.add_node(**NODE), False
    dpet = [sys.executable, "-m", "dpet_jax", *command]
    with subprocess.Popen([*dpet, f"--on=ray://{cluster.address}"]) as process:
        while process.poll() is None:
            if not killed and len(cut_in_the_middle(out)) == 2:
                cluster.remove_node(other, allow_graceful=False)
                killed = True
            time.sleep(0.2)
    cluster.shutdown()
    return process.returncode if killed else 99


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
