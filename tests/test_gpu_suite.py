"""The GPU suite: rows kept as they are measured, limits, resume, the table."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(FOLDER))
import gpu_pieces  # noqa: E402
import gpu_rows  # noqa: E402
import gpu_suite  # noqa: E402
import gpu_summary  # noqa: E402
import gpu_torch  # noqa: E402
from gpu_suite import Piece  # noqa: E402

from dpet_jax.run.build import build_learner_spec  # noqa: E402

REAL = dict(gpu_suite.PIECES)

#: A piece with rows a, b and c; it says who it is, and sleeps before a row that is
#: named in a file beside it.
STEPS = """
import pathlib, sys, time
import gpu_rows
options = gpu_rows.arguments(("steps", "short"))
device = {"platform": "cpu", "kind": "cpu"}
rows = gpu_rows.Rows(options, device, {"numpy": "1"})
sleepy = pathlib.Path(__file__).with_name("sleepy")
for name in "abc":
    if sleepy.exists() and sleepy.read_text() == name:
        print("asleep", flush=True)
        time.sleep(60)
    if rows.missing(name, 1e9 if options.what == "short" and name == "b" else 0.0):
        rows.add(name, value=1.5)
sys.exit(gpu_rows.CUT if rows.cut else 0)
"""
BAD = "import sys; print('half way'); sys.exit('no such thing')"
ABSENT = "import sys; print('not installed'); sys.exit(69)"

DRIVER = """
import sys, pathlib
sys.path.insert(0, {benchmarks!r})
import gpu_suite
gpu_suite.HERE = pathlib.Path({scripts!r})
gpu_suite.PIECES = {{
    name: gpu_suite.Piece(("steps.py", "steps"), 60, 0) for name in ("one", "two")
}}
gpu_suite.main(sys.argv[1:])
"""


@pytest.fixture(autouse=True)
def scripts(tmp_path, monkeypatch):
    """A suite of fake pieces; returns their folder."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    for name, source in (("steps", STEPS), ("bad", BAD), ("absent", ABSENT)):
        (folder / f"{name}.py").write_text(source)
    monkeypatch.setattr(gpu_suite, "HERE", folder)
    monkeypatch.setenv("PYTHONPATH", f"{FOLDER}{os.pathsep}{FOLDER.parent}")
    monkeypatch.setattr(gpu_suite, "GRACE_S", 0.5)
    pieces = {
        "bad": Piece(("bad.py", "x"), 60, 0),
        "absent": Piece(("absent.py", "x"), 60, 0),
        "steps": Piece(("steps.py", "steps"), 60, 0),
        "short": Piece(("steps.py", "short"), 60, 0),
    }
    monkeypatch.setattr(gpu_suite, "PIECES", pieces)
    return folder


def suite(out, *arguments):
    return gpu_suite.main([f"--out={out}", "--toy", *arguments])


def rows_of(out, piece=None):
    rows = gpu_rows.rows_of(out / "rows.jsonl")
    return [row for row in rows if piece in (None, row["piece"])]


def states(out):
    return {r["piece"]: r["state"] for r in rows_of(out) if r["row"] == "state"}


def names(out, piece):
    return [row["row"] for row in rows_of(out, piece)]


def test_no_piece_stops_another_and_each_says_how_it_ended(tmp_path):
    out = tmp_path / "out"
    suite(out)
    assert states(out) == {
        "bad": "failed",
        "absent": "left out",
        "steps": "done",
        "short": "cut",
    }
    (bad,) = rows_of(out, "bad")
    assert "half way" in bad["why"]
    assert "no such thing" in bad["why"]
    assert names(out, "steps") == ["a", "b", "c", "state"]
    assert names(out, "short") == ["a", "c", "state"]
    for row in rows_of(out):
        assert row.keys() >= {"device", "when", "command"}
    assert "half way" in (out / "log.txt").read_text()
    assert "| bad | failed |" in (out / "summary.md").read_text()
    kept = json.loads((out / "results.json").read_text())
    assert kept.keys() >= {"question", "command", "when", "device", "versions", "rows"}
    (told,) = [row["why"] for row in kept["rows"] if row["piece"] == "bad"]
    assert told == bad["why"].splitlines()[-1]
    assert "half way" not in told
    by_row = [{**row, "why": None} for row in kept["rows"]]
    assert by_row == [{**row, "why": None} for row in rows_of(out)]


def test_started_again_only_what_is_missing_is_measured(scripts, tmp_path):
    out = tmp_path / "out"
    suite(out)
    before = rows_of(out, "steps")
    (scripts / "bad.py").write_text(STEPS.replace('"steps", "short"', '"x"'))
    (scripts / "steps.py").write_text(STEPS.replace("1e9", "0.0"))
    suite(out)
    assert rows_of(out, "steps") == before
    assert names(out, "short") == ["a", "c", "state", "b", "state"]
    assert states(out)["short"] == states(out)["bad"] == "done"


def test_a_piece_ends_at_its_limit(scripts, tmp_path, monkeypatch):
    out = tmp_path / "out"
    (scripts / "sleepy").write_text("a")
    slow = Piece(("steps.py", "steps"), 0.2, 0)
    monkeypatch.setattr(gpu_suite, "PIECES", {"steps": slow, "more": slow})
    suite(out)
    assert states(out) == {"steps": "cut", "more": "cut"}
    assert rows_of(out, "steps")[-1]["at_its_limit"]
    assert "ended after 0.2 s" in rows_of(out, "steps")[-1]["why"]
    assert not running(out)


def test_nothing_is_begun_without_the_time_that_it_needs(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_suite, "device_kind", lambda: "card")
    piece = Piece(("steps.py", "steps"), 60, 30)
    monkeypatch.setattr(gpu_suite, "PIECES", {"steps": piece})
    gpu_suite.main([f"--out={tmp_path / 'out'}", "--minutes=0.4"])
    (state,) = rows_of(tmp_path / "out", "steps")
    assert state["state"] == "left out"
    assert "s were left, 30 are needed" in state["why"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_half_way_it_leaves_nothing_running_and_goes_on(
    number, scripts, tmp_path
):
    out, driver = tmp_path / "out", tmp_path / "driver.py"
    driver.write_text(DRIVER.format(benchmarks=str(FOLDER), scripts=str(scripts)))
    (scripts / "sleepy").write_text("b")
    command = [sys.executable, str(driver), f"--out={out}", "--toy"]
    environment = os.environ | {"PYTHONPATH": f"{FOLDER.parent}{os.pathsep}{FOLDER}"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        until(lambda: "asleep" in text_of(out / "log.txt"))
        (first,) = (row for row in rows_of(out, "one") if row["row"] == "a")
        assert len(running(out)) == 2
    finally:
        process.send_signal(number)
        process.wait(30)
    until(lambda: not running(out))
    with (out / "rows.jsonl").open("a") as file:  # what a kill may leave
        file.write('{"piece": "one", "ro')
    (scripts / "sleepy").unlink()
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    assert names(out, "one") == ["a", "b", "c", "state"]
    assert names(out, "two") == ["a", "b", "c", "state"]
    assert rows_of(out, "one")[0] == first


def running(out):
    """Return the command lines of processes that were given a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_text()
        except OSError:  # gone in between
            continue
        if str(out) in text:
            found.append(text)
    return found


def text_of(path):
    return path.read_text() if path.exists() else ""


def until(true, seconds=30):
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.02)


def test_a_folder_in_use_is_refused(tmp_path, capsys):
    out = tmp_path / "out"
    suite(out, "--only", "absent")
    with gpu_suite.alone_in(out), pytest.raises(SystemExit) as caught:
        suite(out)
    assert caught.value.code == 2
    assert f"{out}: another suite writes into it; wait" in capsys.readouterr().err


OTHER = {"piece": "suite", "row": "call", "toy": False, "when": "2030", "command": ""}


@pytest.mark.parametrize(
    ("arguments", "rows", "message"),
    [
        (["--toy=1"], None, "ignored explicit argument"),
        ([], None, "there is no GPU here; see dpet doctor, or give --toy"),
        (["--toy", "--minutes=nan"], None, "--minutes: nan is no number above 0"),
        (["--toy", "--minutes=-1"], None, "--minutes: -1.0 is no number above 0"),
        (["--toy", "--data=/no/where"], None, "--data: /no/where is no folder"),
        (["--toy", "--only", "nope"], None, "invalid choice: 'nope'"),
        (["--toy"], "junk\n", "rows.jsonl: damaged: line 1: "),
        (["--toy"], '{"piece": "x"}\n', "damaged: line 1: no row, toy, when, device"),
        (
            ["--toy"],
            json.dumps(OTHER | {"device": {"kind": "card"}}) + "\n",
            "rows.jsonl: holds full sizes on card; give another folder to --out",
        ),
    ],
)
def test_bad_input_is_named_in_one_line(
    arguments, rows, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(gpu_suite, "device_kind", lambda: "cpu")
    out = tmp_path / "out"
    if rows is not None:
        out.mkdir()
        (out / "rows.jsonl").write_text(rows)
    with pytest.raises(SystemExit) as caught:
        gpu_suite.main([f"--out={out}", *arguments])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    if rows is not None:
        assert (out / "rows.jsonl").read_text() == rows


def test_a_folder_that_cannot_be_made_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as caught:
        suite(tmp_path / "file")
    assert caught.value.code == 2
    assert f"{tmp_path / 'file'}: File exists" in capsys.readouterr().err


def test_all_pieces_share_caches(tmp_path, monkeypatch):
    options = argparse.Namespace(out=tmp_path, cache=None)
    found = gpu_suite.environment_of(Piece((), 0, 0), options)
    assert found["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path / "cache" / "jax")
    # PyTorch has the GPU's memory to itself
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    for name, piece in REAL.items():
        found = gpu_suite.environment_of(piece, options).get("JAX_PLATFORMS")
        assert found == ("cpu" if name.startswith("torch") else None)


def test_the_process_that_starts_the_pieces_leaves_the_gpu_to_them():
    code = (
        f"import sys; sys.path[:0] = {[str(FOLDER), str(FOLDER.parent)]}\n"
        "import gpu_suite; gpu_suite.device_kind(); assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# the real pieces, tiny


def test_every_real_piece_has_its_script_and_its_function():
    for piece in REAL.values():
        script, what, *_ = piece.arguments
        assert (FOLDER / script).exists()
        assert what in (*gpu_pieces.PIECES, "torch")
        assert piece.least_s <= piece.limit_s


@pytest.mark.slow
def test_the_suite_runs_a_real_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_suite, "HERE", FOLDER)
    monkeypatch.setattr(gpu_suite, "PIECES", REAL)
    cache = Path(jax.config.jax_compilation_cache_dir) / "gpu_suite"
    out = tmp_path / "out"
    text = suite(out, f"--cache={cache}", "--only", "train_512", "torch_512")
    trained = rows_of(out, "train_512")[0]
    assert states(out)["train_512"] == "done"
    assert trained["batch"] == 32
    assert trained["images_per_s"]["median"] > 0
    # stem 3*3*3*8, four 3x3x8x8 kernels less two, norms, last layer with its bias
    assert trained["parameters"] == 216 + 2 * 576 + 2 * 3 * 8 + 8 * 10 + 10
    assert "| train_512 | ours | 32 |" in text


@pytest.mark.parametrize(
    ("piece", "expected"),
    [
        ("sensors", {"found", "meter"}),
        ("energy", {"dpet_random"}),
        pytest.param(
            *("growth", {"10%", "25%", "50%", "75%", "95%"}), marks=pytest.mark.slow
        ),
        pytest.param(
            "norms",
            {"one pass, float32", "vmap(grad), float32", "agreement", "rounding"},
            marks=pytest.mark.slow,
        ),
        ("scores", {"one score, bfloat16", "all, bfloat16", "all, float32"}),
        pytest.param(
            *("subsets", {"facility location, exact", "graph cut"}),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_real_piece_measures_its_rows_once(piece, expected, tmp_path, monkeypatch):
    arguments = [piece, f"--name={piece}", f"--rows={tmp_path / 'rows.jsonl'}"]
    arguments += [f"--runs={tmp_path / 'runs'}", "--toy"]
    monkeypatch.setattr(sys, "argv", ["gpu_pieces.py", *arguments])
    one = {"dpet_random": gpu_pieces.ARMS["dpet_random"]}
    monkeypatch.setattr(gpu_pieces, "ARMS", one)
    assert gpu_pieces.main() == 0
    first = rows_of(tmp_path, piece)
    assert {row["row"] for row in first} >= expected
    for row in first:
        assert row["device"]["platform"] == jax.default_backend()
        assert row["command"].startswith(f"python benchmarks/gpu_pieces.py {piece}")
    assert gpu_pieces.main() == 0
    assert rows_of(tmp_path, piece) == first
    if piece == "growth":
        assert [row["programs_compiled"] for row in first] == [0] * 5
    if piece == "norms":
        (same,) = (row for row in first if row["row"] == "agreement")
        assert same["largest_relative_difference"] < 1e-4
        (rounded,) = (row["of"] for row in first if row["row"] == "rounding")
        assert rounded["float32"]["largest"] < 1e-4 < rounded["bfloat16"]["largest"]
        assert rounded["float32"]["of_the_largest_2_percent"] == 1
    if piece == "subsets":
        exact, *_, lazy = first
        assert lazy["selected"] == exact["selected"] == 30
        assert lazy["gain"] == pytest.approx(exact["gain"], rel=1e-5)


def test_arms_train_the_same_network_at_the_same_batch_size():
    options = argparse.Namespace(toy=False, data=Path("data/cifar10"), batch=512)
    configs = {name: gpu_pieces.config_of(name, options) for name in gpu_pieces.ARMS}
    first = configs["standard"]
    assert first.train.batch_size == 512
    assert first.model.compute_dtype == "bfloat16"
    for name, config in configs.items():
        assert (config.name, config.model, config.data) == (
            name,
            first.model,
            first.data,
        )
        assert config.train.batch_size == first.train.batch_size
    kinds = [config.method.kind for config in configs.values()]
    assert kinds == [
        *("standard", "dpet_anneal", "dpet_anneal", "rs2", "dpet", "dpet"),
    ]
    margin, control = configs["dpet_margin"], configs["dpet_random"]
    assert (margin.method.score, control.method.score) == ("margin", "random")

    def step(config):
        return build_learner_spec(config, config.model.build(10, (32, 32, 3))).step

    # one training program for all of them and for the piece that times it
    timed = gpu_pieces.training_config(options)
    assert {step(config) for config in configs.values()} == {step(timed)}
    # the cost that full-data training has, of which RS2 takes as much
    assert configs["rs2_10"].method.passes * 0.1 == first.method.passes == 10


class Known:
    """The rows of a piece, without a file."""

    def __init__(self, *names, **state):
        self.known = {name: {} for name in names}
        if state:
            self.known["state"] = state

    def missing(self, name, needs_s):
        del needs_s
        return name not in self.known

    def add(self, name, **values):
        self.known[name] = values


@pytest.mark.parametrize(
    ("known", "tried"),
    [
        (Known(), ["eager", "reduce-overhead", "max-autotune"]),
        (Known("train, eager"), ["reduce-overhead", "max-autotune"]),
        (Known("train, eager", "failed, reduce-overhead"), ["max-autotune"]),
        # ended with the suite, it gets another try; at the piece's own limit, none
        (
            Known("train, eager", "begun, reduce-overhead"),
            ["reduce-overhead", "max-autotune"],
        ),
        (
            Known("train, eager", "begun, max-autotune", at_its_limit=False),
            ["reduce-overhead", "max-autotune"],
        ),
        (
            Known("train, eager", "begun, max-autotune", at_its_limit=True),
            ["reduce-overhead"],
        ),
    ],
)
def test_each_mode_of_pytorch_is_measured_unless_it_took_too_long(known, tried):
    found = [
        mode
        for mode in ("eager", "reduce-overhead", "max-autotune")
        if gpu_torch.to_be_tried(mode, known, 0.0)
    ]
    assert found == tried
    assert all(f"begun, {mode}" in known.known for mode in found)
    if known.known.get("state", {}).get("at_its_limit"):
        assert "time was over" in known.known["failed, max-autotune"]["why"]


# the table


def row(piece, name, **values):
    common = {"toy": False, "device": {"kind": "card"}, "when": "2030-01-02T03"}
    return {"piece": piece, "row": name} | common | values


def trained(piece, name, images_per_s, per_wh, mfu=0.3, hits=0, **values):
    return row(
        piece,
        name,
        batch=512,
        images_per_s={"median": images_per_s, "min": 1.0, "max": 9e5},
        images_per_wh=per_wh,
        mfu=mfu,
        parameters=7,
        peak_tflops=700.0,
        joules_per_1000_images=4.0,
        wh=1.0,
        wh_k2=[0.9, 1.1],
        ready_s=40.0,
        ready_wh=0.95,
        ready_cache_hits=hits,
        **values,
    )


def seconds(median):
    return {"median": median, "min": median, "max": median}


def test_goals_are_compared_with_the_figures_of_the_rows():
    def target(value, warm):
        return dict.fromkeys(("wh_cold", "epochs", "seconds_warm", "wall_s"), None) | {
            "target": value,
            "reached": warm is not None,
            "wh_warm": warm,
        }

    def arm(name, warm):
        targets = [target(0.8, 0.1), target(0.9, warm)]
        accuracies = {"test_accuracy": 0.9, "validation_accuracy": 0.91}
        return row("energy", name, targets=targets, data="d", **accuracies)

    rows = [
        trained("train_512", "train", 90e3, 300.0, mfu=0.35),
        trained("torch_512", "train, eager", 40e3, 100.0, mode="eager"),
        trained("torch_512", "train, reduce", 50e3, 200.0, mode="reduce"),
        trained("torch_autotuned_512", "train, default", 60e3, 400.0, mode="default"),
        row("torch_512", "failed, max-autotune", mode="max-autotune", why="no | no"),
        row("scores", "all, bfloat16", seconds=seconds(0.2)),
        row(
            "norms", "one pass, float32", seconds=seconds(1.0), images_per_s=seconds(9)
        ),
        row("norms", "vmap(grad), float32", images_per_s=seconds(1.5)),
        row("subsets", "facility location, lazy", seconds=0.4),
        row("subsets", "facility location, exact", seconds=0.25),
        arm("standard", 0.8),
        arm("stale", 0.6),
        arm("never", None),
    ]
    found = {line["goal"]: line for line in gpu_summary.goals(rows)}
    assert [line["met"] for line in found.values()] == [
        *("no", "yes", "no", "yes", "no", "yes", "yes", "yes", "no")
    ]
    assert found["images/s, ours / PyTorch, 512"]["measured"] == 1.5
    assert found["images/Wh, ours / PyTorch, 512"]["measured"] == 0.75
    assert found["gradient norms / vmap(grad)"]["measured"] == 6.0
    assert found["s, facility location, 10 x 5,000"]["measured"] == 0.25
    assert found["Wh warm to 90 %, best arm"]["measured"] == 0.6
    cold = "Wh cold to 90 %: that and getting ready"
    assert found[cold]["measured"] == pytest.approx(0.6 + 0.95)
    rows[0]["ready_cache_hits"] = 1
    assert gpu_summary.goals(rows)[-1]["met"] == "not measured"
    text = gpu_summary.summary(rows)
    assert "| ours / PyTorch (default) | 512 | 1.5 | 0.75 |" in text
    assert "| torch_512 | max-autotune |  | no / no |" in text
    assert "| train_512 | ours | 512 | 90,000 (1 to 900,000) | 0.35 | 700 |" in text
    assert "| standard | d | 0.9 | 0.91 | 0.9 | 0.8 |" in text
    assert "TOY" not in text


def test_a_toy_meets_no_goal_and_an_empty_folder_has_a_table():
    toy = trained("train_512", "train", 1.0, None) | {"toy": True}
    assert {line["met"] for line in gpu_summary.goals([toy])} == {"not measured"}
    assert "TOY" in gpu_summary.summary([toy])
    assert "Nothing measured." in gpu_summary.summary([])


def test_another_network_is_never_compared():
    rows = [
        trained("train_512", "train", 1.0, None),
        trained("torch_512", "train, eager", 1.0, None, mode="eager")
        | {"parameters": 8},
    ]
    with pytest.raises(AssertionError, match="another network"):
        gpu_summary.comparisons(rows)
