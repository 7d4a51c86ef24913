"""The suite of benchmarks: pieces kept as they end, failures told, time kept."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import gpu_suite
from gpu_suite import Piece

SCRIPTS = [piece.script for piece in gpu_suite.PIECES.values()]

GOOD = """
import json, sys
from pathlib import Path
out = Path(sys.argv[-1].removeprefix("--out="))
log = Path(__file__).with_suffix(".log")
log.write_text(log.read_text() + "x" if log.exists() else "x")
spread = {"median": 2.0, "min": 1.0, "max": 4.0}
row = {"form": "a|b", "nested": {"s": spread}, "none": None, "given": sys.argv[1]}
out.write_text(json.dumps({"question": "How much?", "rows": [row]}))
"""
BAD = "import sys; print('half way'); sys.exit('no such thing')"
SLOW = "import time; print('waiting', flush=True); time.sleep(60)"


@pytest.fixture(autouse=True)
def pieces(tmp_path, monkeypatch):
    """A suite of one good, one bad and one endless piece; returns their folder."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    for name, source in (("good", GOOD), ("bad", BAD), ("slow", SLOW)):
        (folder / f"{name}.py").write_text(source)
    monkeypatch.setattr(gpu_suite, "HERE", folder)
    table = {
        name: Piece(
            f"{name}.py", ("--full",), ("--toy",), 1.0 if name == "slow" else 60
        )
        for name in ("good", "bad", "slow")
    } | {"gpu only": Piece("good.py", ("--full",), None, 60)}
    monkeypatch.setattr(gpu_suite, "PIECES", table)
    return folder


def saved(out):
    return json.loads((out / "gpu_suite.json").read_text())


def test_every_piece_is_kept_or_says_why_not(tmp_path):
    out = tmp_path / "out"
    suite = gpu_suite.main(["--toy", f"--out={out}"])
    assert saved(out) == suite
    kept = suite["pieces"]
    assert kept.keys() == {"good", "bad", "slow"}
    assert kept["good"]["rows"][0]["given"] == "--toy"
    assert kept["bad"]["failed"] == "exit code 1"
    assert "half way" in kept["bad"]["tail"]
    assert "no such thing" in kept["bad"]["tail"]
    assert kept["slow"]["failed"] == "gave up after 1 s"
    assert "waiting" in kept["slow"]["tail"]
    assert sorted(path.name for path in out.iterdir()) == [
        "gpu_suite.json",
        "gpu_suite.md",
    ]


def test_a_piece_that_is_done_is_not_done_again_but_a_failed_one_is(pieces, tmp_path):
    out = tmp_path / "out"
    arguments = ["--toy", f"--out={out}", "--only", "good", "bad"]
    gpu_suite.main(arguments)
    (pieces / "bad.py").write_text(GOOD)
    suite = gpu_suite.main(arguments)
    assert (pieces / "good.log").read_text() == "x"
    assert suite["pieces"]["bad"]["rows"][0]["given"] == "--toy"


def test_another_command_is_another_piece(pieces, tmp_path):
    out = tmp_path / "out"
    gpu_suite.main(["--toy", f"--out={out}", "--only", "good"])
    suite = gpu_suite.main([f"--out={out}", "--only", "good", "gpu only"])
    assert suite["pieces"]["good"]["rows"][0]["given"] == "--full"
    assert "rows" in suite["pieces"]["gpu only"]
    assert (pieces / "good.log").read_text() == "xxx"


def test_nothing_is_begun_when_the_time_is_up(pieces, tmp_path):
    out = tmp_path / "out"
    suite = gpu_suite.main(["--toy", f"--out={out}", "--minutes=0", "--only", "good"])
    assert suite["pieces"]["good"]["failed"] == "no time was left"
    assert not (pieces / "good.log").exists()


def test_the_table_shows_spreads_and_failures(tmp_path):
    out = tmp_path / "out"
    gpu_suite.main(["--toy", f"--out={out}", "--only", "good", "bad"])
    text = (out / "gpu_suite.md").read_text()
    assert "## How much?" in text
    assert "| form | nested s | none | given |" in text
    assert "| a/b | 2 (1 to 4) |  | --toy |" in text
    assert "No result: exit code 1." in text


def test_every_piece_has_its_script():
    folder = Path(gpu_suite.__file__).parent
    assert all((folder / script).exists() for script in SCRIPTS)
