"""Array jobs for SLURM, whose script is run here without it."""

import os
import subprocess

import pytest

from dpet_jax.config.load import validate
from dpet_jax.suite.slurm import Request, array_job
from dpet_jax.suite.variants import Job

COMMAND = ["dpet", "compare", "my suite.yaml", "--out=runs"]


def script(folder, *, trial=False, request=None):
    tree = {"method": {"kind": "standard", "passes": 1}}
    jobs = [
        Job("full", "", validate(tree | {"name": name, "seed": 1}, "test"), trial)
        for name in ("some/full", "some/less")
    ]
    lines = array_job("some", jobs, COMMAND, request or Request(), folder)
    return "\n".join(lines) + "\n"


def run(folder, text, number, exits):
    """Run a task of a script; return what it called, and what it ended with."""
    bin_folder = folder / "bin"
    bin_folder.mkdir(exist_ok=True)
    for name, code in (("srun", exits), ("scontrol", 0)):
        tool = bin_folder / name
        tool.write_text(f'#!/bin/sh\nprintf "%s|" {name} "$@"; echo; exit {code}\n')
        tool.chmod(0o755)
    path = f"{bin_folder}{os.pathsep}{os.environ['PATH']}"
    known = {"SLURM_ARRAY_TASK_ID": str(number), "SLURM_JOB_ID": "12"}
    ended = subprocess.run(
        ["bash", "-u"],
        input=text,
        env={"PATH": path, **known},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stderr == ""
    return ended.stdout.splitlines(), ended.returncode


def test_each_task_runs_the_run_of_its_number(tmp_path):
    text = script(tmp_path)
    assert "#SBATCH --array=0-1\n" in text
    for number, folder in enumerate(("some/full/seed1", "some/less/seed1")):
        called, code = run(tmp_path, text, number, 0)
        assert called == [f"srun|dpet|compare|my suite.yaml|--out=runs|--job={folder}|"]
        assert code == 0


@pytest.mark.parametrize(("exits", "again"), [(75, True), (1, False), (2, False)])
def test_only_a_run_that_was_told_to_save_is_queued_again(tmp_path, exits, again):
    called, code = run(tmp_path, script(tmp_path), 0, exits)
    assert ("scontrol|requeue|12|" in called) is again
    assert code == exits


def test_a_script_asks_for_what_was_asked_for_and_says_what_comes_next(tmp_path):
    text = script(tmp_path, request=Request("01:00:00", 4, 1))
    for option in ("time=01:00:00", "cpus-per-task=4", "gpus-per-task=1"):
        assert f"#SBATCH --{option}\n" in text
    assert "2 runs; once they have ended" in text
    assert "--dependency=afterany:JOB" in text
    text = script(tmp_path, trial=True)
    assert "--time" not in text
    assert "2 trials; the runs to be reported depend on" in text
    assert "--dependency=afterok:JOB" in text
    assert "--print-slurm | sbatch" in text
