"""The command line as a user meets it: exit codes, messages, kills."""

import csv
import errno
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import dpet_jax
from dpet_jax.cli import COMMANDS, build_parser, main
from dpet_jax.config.packaged import packaged
from dpet_jax.run.experiment import Result
from dpet_jax.run.interrupt import Interrupt
from dpet_jax.training.network import DeviceNetwork

TINY = """
name: tiny
model: {kind: resnet, stem: 8, channels: [8, 8], blocks: [1, 1]}
train: {batch_size: 32, augment: {translate: 1}}
method:
  {kind: dpet, warmup_passes: 60, query_size: 50, passes_per_round: 20, max_rounds: 3}
evaluate: {every: 5}
checkpoint: {every_s: 0.3}
"""


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


def dpet(*arguments):
    """Start the program in a process of its own, as a shell would."""
    return subprocess.Popen(
        [sys.executable, "-m", "dpet_jax", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ
        | {"JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir},
    )


def wait_for(process, path, text):
    """Wait until a file holds a text, for as long as the process lives."""
    while not (path.exists() and text in path.read_text()):
        if process.poll() is not None:
            pytest.fail(f"ended early: {process.communicate()}")
        time.sleep(0.01)


def test_kills_and_signals_at_random_moments_change_nothing(
    tiny, tmp_path, assert_same_run
):
    whole = tmp_path / "whole" / "tiny" / "seed0"
    assert main(["run", str(tiny), f"--out={tmp_path / 'whole'}"]) == 0
    out = tmp_path / "killed"
    folder = out / "tiny" / "seed0"
    process = dpet("run", tiny, f"--out={out}")
    rng, cut = random.Random(0), 0
    for number, code in ((signal.SIGKILL, -9), (signal.SIGTERM, 75)):
        seen = folder / "events.jsonl"
        before = seen.read_text().count('"train"') if seen.exists() else 0
        wait_for(process, seen, '"event": "train"')
        while seen.read_text().count('"train"') == before and process.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
        process.send_signal(number)
        _, errors = process.communicate()
        assert "Traceback" not in errors
        if process.returncode == 0:  # on a busy machine the signal may come too late
            break
        assert process.returncode == code
        cut += 1
        process = dpet("run", tiny, f"--out={out}", "--resume")
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert_same_run(whole, folder)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["segments"] == 1 + cut
    assert (
        summary["visits"] == json.loads((whole / "summary.json").read_text())["visits"]
    )


def test_an_interrupted_run_says_how_to_go_on_with_the_same_config(
    tiny, tmp_path, monkeypatch, capsys
):
    pressed = Interrupt()
    pressed.requested = True
    monkeypatch.setattr("dpet_jax.run.experiment.Interrupt", lambda: pressed)
    given = ["run", str(tiny), "--seed=3", f"--out={tmp_path / 'a folder'}"]
    assert main(given) == 75
    (told,) = re.findall(r"go on with: dpet (.*)", capsys.readouterr().out)
    assert shlex.split(told) == [*given, "--resume"]
    monkeypatch.undo()
    assert main(shlex.split(told)) == 0


WRONG = {
    "no such file": (["run", "nowhere.yaml"], r"nowhere.yaml: cannot read"),
    "unknown key": (
        ["run", "TINY", "--train.batch_siz=64"],
        "train.batch_siz: unknown key, did you mean train.batch_size?",
    ),
    "wrong value": (["run", "TINY", "--train.batch_size=-1"], "(got -1)"),
    "unknown kind": (
        ["run", "TINY", "--method.kind=dpett"],
        "method.kind: unknown 'dpett'",
    ),
    "no override": (["run", "TINY", "batch_size=3"], "'batch_size=3' is no override"),
    "data missing": (
        ["run", "TINY", "--data.kind=tfds", "--data.name=cifar10", "--data.path=DIR/x"],
        "--data.kind=cifar",
    ),
    "parquet missing": (
        ["run", "TINY", "--data.kind=parquet", "--data.path=DIR/nothing"],
        "DIR/nothing",
    ),
    "npz missing": (
        ["run", "TINY", "--data.kind=npz", "--data.path=DIR/a.npz"],
        "a.npz: no such file",
    ),
    "batch too large": (["run", "TINY", "--train.batch_size=2000"], "2000"),
    "stray argument": (["list", "--verbose"], "unknown argument '--verbose'"),
    "no run": (["predict", "DIR", "--data=DIR"], "holds no run"),
    "archive missing": (
        ["run", "TINY", "--data.kind=cifar", "--data.path=DIR/no.tar.gz"],
        "no.tar.gz: no such file",
    ),
    "pictures missing": (
        ["run", "TINY", "--data.kind=folder", "--data.path=DIR"],
        "no class folders",
    ),
    "budget without a source": (
        ["run", "TINY", "--budget.wh=5"],
        "budget.wh: 5 needs a source of energy",
    ),
    "a model nobody asked for": (
        ["run", "TINY", "--energy.cpu_model={idle_w: 5, max_w: 65, source: me}"],
        "set it to true to accept modelled energy",
    ),
    "no run to account for": (["energy", "DIR"], "holds no run"),
    "nothing to show": (["show"], "give a config file"),
    "no suite": (["compare", "nowhere.yaml"], "nowhere.yaml: cannot read"),
    "a config is no suite": (
        ["compare", "TINY"],
        "tiny.yaml: base: missing; this kind needs it",
    ),
    "no numbers of seeds": (
        ["compare", "TINY", "--seeds=0,x"],
        "--seeds: '0,x' is no list of numbers; write it like 0,1,2",
    ),
    "no place to run": (
        ["compare", "nowhere.yaml", "--on=ray", "--job=some/full/seed0"],
        "--on and --job exclude each other; give one of them",
    ),
    "cores of nowhere": (
        ["compare", "nowhere.yaml", "--cpus-per-run=2"],
        "--cpus-per-run goes with --on=ray or --print-slurm; add one",
    ),
    "neither whole GPUs nor a share of one": (
        ["compare", "nowhere.yaml", "--on=ray", "--gpus-per-run=1.5"],
        "--gpus-per-run: 1.5 is neither a whole number nor a share below 1",
    ),
    "a share of a GPU of SLURM's": (
        ["compare", "nowhere.yaml", "--print-slurm", "--gpus-per-run=0.5"],
        "SLURM gives whole ones, not 0.5; give a whole number",
    ),
    "time of nothing": (
        ["compare", "nowhere.yaml", "--time=1:00:00"],
        "--time goes with --print-slurm; add it",
    ),
    "nothing to report on": (
        ["report", "DIR"],
        "no finished run to report on; give a folder that `dpet run` or",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_gets_one_message_and_exit_code_2(case, tiny, tmp_path, capsys):
    arguments, message = WRONG[case]
    filled = [
        a.replace("TINY", str(tiny)).replace("DIR", str(tmp_path)) for a in arguments
    ]
    before = sorted(tmp_path.rglob("*"))
    if filled[0] == "run":
        filled.append(f"--out={tmp_path / 'out'}")
    assert main(filled) == 2
    printed = capsys.readouterr()
    assert message.replace("DIR", str(tmp_path)) in printed.err
    assert "Traceback" not in printed.err + printed.out
    assert sorted(tmp_path.rglob("*")) == before


def test_show_prints_a_config_that_loads_again(tiny, tmp_path, capsys):
    assert main(["show", str(tiny), "--seed=7"]) == 0
    text = capsys.readouterr().out
    again = tmp_path / "again.yaml"
    again.write_text(text)
    assert main(["show", str(again)]) == 0
    assert capsys.readouterr().out == text
    assert "seed: 7" in text


def test_show_schema_is_json_schema(capsys):
    assert main(["show", "--schema"]) == 0
    assert "properties" in json.loads(capsys.readouterr().out)


def test_show_schema_of_suites(capsys):
    assert main(["show", "--schema=suite"]) == 0
    assert "variants" in json.loads(capsys.readouterr().out)["properties"]


def test_completion_is_what_shtab_makes_of_the_commands(monkeypatch, capsys):
    asked = []

    def complete(parser, shell):
        asked.append(shell)
        return f"a script of {parser.prog}"

    fake = SimpleNamespace(complete=complete)
    monkeypatch.setitem(sys.modules, "shtab", fake)
    assert main(["completion", "zsh"]) == 0
    assert (asked, capsys.readouterr().out) == (["zsh"], "a script of dpet\n")
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert "pip install 'dpet-jax[completion]'" in capsys.readouterr().err


def test_version_is_printed_at_once(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"dpet {dpet_jax.__version__}\n"


def test_run_without_a_file_is_the_quickstart(monkeypatch, tmp_path, capsys):
    asked = []

    def run(config, out, **options):
        asked.append((config.name, config.seed, out, options["resume"]))
        return Result(tmp_path, "interrupted", None)

    monkeypatch.setattr("dpet_jax.run.experiment.run", run)
    assert main(["run", "--seed=3"]) == 75
    (told,) = re.findall(r"go on with: dpet (.*)", capsys.readouterr().out)
    assert main(shlex.split(told)) == 75
    runs = Path("runs")
    assert asked == [("quickstart", 3, runs, False), ("quickstart", 3, runs, True)]


def test_list_names_every_method_and_score(capsys):
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    for name in (
        "dpet",
        "rs2",
        "active_learning",
        "margin",
        "el2n",
        "resnet20",
        "parquet",
    ):
        assert name in text


def test_doctor_tells_devices_and_what_can_be_measured(capsys):
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    for name in ("device", "jax", "compile cache", "GPU energy", "CPU energy"):
        assert name in text


def test_a_run_prints_its_folder_last_and_can_be_used(tiny, tmp_path, capsys):
    short = ["--method.warmup_passes=2", "--method.max_rounds=1", f"--out={tmp_path}"]
    assert main(["run", str(tiny), *short]) == 0
    last = capsys.readouterr().out.strip().splitlines()[-1]
    folder = Path(last.removeprefix("run folder").strip())
    assert folder == tmp_path / "tiny" / "seed0"

    # the same image ten times, each time with another label: one of them is right
    images = np.zeros((10, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "new.npz", images=images, labels=np.arange(10))
    assert main(["predict", str(folder), f"--data={tmp_path / 'new.npz'}"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("image,label,class,p_0")
    assert "accuracy 0.1000" in text


def test_a_diverged_run_exits_with_1(tiny, tmp_path, capsys):
    wild = ["--train.optimizer.learning_rate=1e30", f"--out={tmp_path}"]
    assert main(["run", str(tiny), *wild]) == 1
    assert "learning_rate" in capsys.readouterr().err


SUITE = """
name: pair
base: tiny.yaml
set: {method: {kind: standard, passes: 12}, checkpoint.every_s: 0.2}
seeds: [0]
targets: [0.5, 0.9]
variants:
  full: {role: standard}
  less: {label: two thirds, set: {method.passes: 8}}
"""


@pytest.mark.slow  # tests/suite cuts comparisons in many places, without a kill
@pytest.mark.usefixtures("tiny")
def test_a_comparison_survives_a_kill_and_ends_with_the_same_table(tmp_path, capsys):
    suite = tmp_path / "pair.yaml"
    suite.write_text(SUITE)
    assert main(["compare", str(suite), f"--out={tmp_path / 'whole'}"]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    assert "[  2/2] less seed 0" in told.out
    whole, cut = tmp_path / "whole" / "pair", tmp_path / "cut" / "pair"
    assert told.out.endswith(f"report      {whole / 'report.html'}\n")
    for name in ("report.html", "report.md", "table.csv", "table.tex"):
        assert (whole / name).stat().st_size > 0

    process = dpet("compare", suite, f"--out={tmp_path / 'cut'}")
    wait_for(process, cut / "less" / "seed0" / "events.jsonl", '"event": "train"')
    process.kill()
    process.communicate()
    done = cut / "full" / "seed0" / "summary.json"
    finished = done.stat().st_mtime_ns
    assert main(["compare", str(suite), f"--out={tmp_path / 'cut'}"]) == 0
    assert "full seed 0" not in capsys.readouterr().out
    assert done.stat().st_mtime_ns == finished
    assert table_without_times(cut) == table_without_times(whole)


@pytest.mark.usefixtures("tiny")
def test_a_comparison_stopped_before_its_first_run_ends_can_go_on(
    tmp_path, capsys, monkeypatch
):
    suite = tmp_path / "pair.yaml"
    suite.write_text(SUITE)
    given = ["compare", str(suite), "--seeds=3", "--only=less", f"--out={tmp_path}"]
    pressed = Interrupt()
    pressed.requested = True
    monkeypatch.setattr("dpet_jax.suite.compare.Interrupt", lambda: pressed)
    assert main(given) == 75
    shown = capsys.readouterr()
    (told,) = re.findall(r"go on with: dpet (.*)", shown.out)
    assert shlex.split(told) == given
    assert shown.out.endswith("report      none: no run has finished\n")
    assert shown.err == ""


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.ENOSPC, "No space left on device; free some space there"),
        (errno.EDQUOT, "Disk quota exceeded; free some of your quota"),
        (errno.EMFILE, "Too many open files; allow more open files (ulimit -n)"),
        (errno.EIO, "Input/output error; see to it"),
    ],
)
@pytest.mark.parametrize("place", ["/some/file", None])
def test_what_the_system_refuses_is_one_sentence(
    tiny, tmp_path, capsys, monkeypatch, code, remedy, place
):
    def refuse(*_, **__):
        raise OSError(code, os.strerror(code), place)

    monkeypatch.setattr("dpet_jax.run.experiment.run", refuse)
    given = ["run", str(tiny), f"--out={tmp_path}"]
    folder = place or tmp_path / "tiny" / "seed0"
    command = shlex.join(["dpet", *given])
    told = f"{folder}: {remedy}, and start the command again: {command}"
    assert main(given) == 1
    assert capsys.readouterr().err == f"{told}\n"
    # what was begun goes on
    (tmp_path / "tiny" / "seed0").mkdir(parents=True)
    (tmp_path / "tiny" / "seed0" / "config.yaml").write_text("")
    assert main(given) == 1
    assert capsys.readouterr().err == f"{told} --resume\n"


def test_a_folder_removed_under_a_run_is_one_sentence(
    tiny, tmp_path, capsys, monkeypatch
):
    begin = DeviceNetwork.begin

    def remove(self, *given):
        shutil.rmtree(tmp_path / "tiny")
        return begin(self, *given)

    monkeypatch.setattr(DeviceNetwork, "begin", remove)
    assert main(["run", str(tiny), f"--out={tmp_path}"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "No such file or directory; it was there when the command began" in line


def table_without_times(folder):
    lines = (folder / "table.csv").read_text().splitlines()
    rows = list(csv.DictReader(lines))
    assert len(rows) == 4
    return [
        {name: value for name, value in row.items() if not timed(name)} for row in rows
    ]


def timed(name):
    return name.endswith(("_s", "seconds", "wh", "_warm")) or name == "wall_s"


# what the command line takes, before anything is done


@pytest.fixture(scope="module")
def parser():
    return build_parser()


def parsed(parser, text):
    return parser.parse_known_args(text.split())


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("run a.yaml", "run"),
        ("plan a.yaml --seconds=5", "plan"),
        ("plan --calibrate a b --out=c", "plan"),
        ("layers a.yaml --seconds=2 --repeats=3", "layers"),
        ("compare a.yaml", "compare"),
        ("report a b", "report"),
        ("runs", "runs"),
        ("runs a b --json", "runs"),
        ("diff a b", "diff"),
        ("energy a", "energy"),
        ("predict a --data=b", "predict"),
        ("show", "show"),
        ("list", "list"),
        ("pool list", "pool"),
        ("doctor", "doctor"),
    ],
)
def test_each_command_is_carried_out_by_its_own(parser, text, command):
    options, rest = parsed(parser, text)
    assert options.command is COMMANDS[command]
    assert rest == []


@pytest.mark.parametrize(
    "text", ["run a.yaml", "plan a.yaml", "compare a.yaml", "show a.yaml"]
)
def test_keys_of_a_config_are_left_over(parser, text):
    options, rest = parsed(parser, f"{text} --train.batch_size=3 --seed=4")
    assert options.takes_overrides
    assert rest == ["--train.batch_size=3", "--seed=4"]


def test_no_option_is_guessed_from_its_beginning(parser):
    options, rest = parsed(parser, "compare a.yaml --dry --min=3")
    assert not options.dry_run
    assert options.minutes is None
    assert rest == ["--dry", "--min=3"]


def test_runs_go_to_runs_unless_told(parser):
    assert parsed(parser, "compare a.yaml")[0].out == Path("runs")
    assert parsed(parser, "run a.yaml --out=b")[0].out == Path("b")
    assert parsed(parser, "report a")[0].out is None


@pytest.mark.parametrize("text", ["report a --by=joules", "compare a --by=kwh", ""])
def test_what_there_is_not_is_refused(parser, text, capsys):
    with pytest.raises(SystemExit):
        parsed(parser, text)
    assert "usage" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["run a --out={}", "run {}", "predict a --data={}"])
def test_a_path_that_no_file_can_have_is_refused(parser, text, capsys):
    with pytest.raises(SystemExit) as caught:
        parsed(parser, text.format("b/" + "x" * 300))
    assert caught.value.code == 2
    assert "takes 300 bytes, but a name has at most 255" in capsys.readouterr().err


@pytest.mark.parametrize("given", [True, False])
def test_an_override_may_hold_blanks_with_a_file_and_without(given, capsys):
    file = [str(packaged("quickstart"))] if given else []
    assert main(["run", *file, "--method={kind: standard, passes: 0}"]) == 2
    assert "method.passes" in capsys.readouterr().err


def test_what_another_program_is_given_is_no_override(tmp_path):
    told = tmp_path / "told"
    text = f"import sys; open({str(told)!r}, 'w').write(sys.argv[1])"
    assert main(["measure", "--", sys.executable, "-c", text, "--a=b c"]) == 0
    assert told.read_text() == "--a=b c"
