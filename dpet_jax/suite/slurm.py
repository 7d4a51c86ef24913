"""The missing runs of a suite as an array job of SLURM."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from dpet_jax.suite.variants import Job

#: Seconds before its time is up at which a run is told to save.
_SAVE_S = 120


class Request(NamedTuple):
    """What every run asks SLURM for; None leaves it to the site.

    Attributes:
        time: How long it may take, as sbatch has it.
        cpus: Cores.
        gpus: GPUs.
    """

    time: str | None = None
    cpus: int | None = None
    gpus: int | None = None


def array_job(
    name: str, jobs: Sequence[Job], command: Sequence[str], request: Request, cwd: Path
) -> Iterator[str]:
    """Yield the lines of a script for sbatch, one task of it for each run.

    A task names its run by the folder, so that it stays the same run however the
    others end. It is told to save before its time is up, and is queued again by itself
    then; one that fails is not. Every node must see the folder, and tasks that share a
    node share what its sensors measure: their energy is marked as not valid where they
    see each other, which tasks with a private /tmp do not.

    Where settings are yet to be chosen these are the trials alone, and the script says
    how the others follow. A site may limit the size of arrays (MaxArraySize).

    Args:
        name: Of the suite.
        jobs: That are missing, all of them trials or none.
        command: That runs the suite.
        request: What a run asks for.
        cwd: Where the command works.
    """
    options = {
        "job-name": name,
        "array": f"0-{len(jobs) - 1}",
        "ntasks": "1",
        "cpus-per-task": request.cpus,
        "gpus-per-task": request.gpus,
        "time": request.time,
        "signal": f"TERM@{_SAVE_S}",
        "chdir": cwd,
    }
    again, trials = shlex.join(command), any(job.trial for job in jobs)
    yield "#!/bin/bash"
    for key, value in options.items():
        if value is not None:
            yield f"#SBATCH --{key}={shlex.quote(str(value))}"
    yield "#SBATCH --requeue"
    if trials:
        after, then = "afterok", f"{again} --print-slurm | sbatch"
        yield f"# {len(jobs)} trials; the runs to be reported depend on how they end:"
    else:
        after, then = "afterany", again
        yield f"# {len(jobs)} runs; once they have ended, this writes the report:"
    wrap = shlex.quote(then)
    yield f"#   sbatch --dependency={after}:JOB --chdir={cwd} --wrap={wrap}"
    yield "runs=("
    for job in jobs:
        yield f"  {shlex.quote(job.folder)}"
    yield ")"
    yield f'srun {again} --job="${{runs[$SLURM_ARRAY_TASK_ID]}}"'
    yield "status=$?"
    yield "# it was told to save: it goes on where it was"
    yield 'if [ "$status" -eq 75 ]; then scontrol requeue "$SLURM_JOB_ID"; fi'
    yield 'exit "$status"'
