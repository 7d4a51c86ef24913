"""Each benchmark at toy size, so that none rots; figures are not looked at."""

import importlib
import json
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(FOLDER))
from gpu_suite import PIECES  # noqa: E402

QUICKSTART = FOLDER.parent / "configs" / "quickstart.yaml"
TOY = {
    piece.script.removesuffix(".py"): list(piece.toy)
    for piece in PIECES.values()
    if piece.toy is not None
} | {
    "bench_meter": ["--tiny", "--pairs=1", "--seconds=0.01", "--periods", "0.05"],
    "bench_methods": [
        *(str(QUICKSTART), "--set", "model.kind=resnet", "model.stem=8"),
        *("model.channels=[8]", "model.blocks=[1]", "--keep=0.2", "--passes=2"),
        *("--pretrain-passes=1", "--seeds=0", "--only", "herding", "infobatch"),
    ],
    "bench_submodular": ["--toy"],
    "bench_conv": ["--batch=2", "--shapes", "4x8", "2x32", "--loops=2", "--repeats=1"],
}


def test_every_benchmark_has_a_toy_size():
    assert set(TOY) == {path.stem for path in FOLDER.glob("bench_*.py")}


@pytest.mark.parametrize("name", TOY)
def test_benchmark_writes_its_rows(name, tmp_path, capsys):
    out = tmp_path / "result.json"
    rows = importlib.import_module(name).main([*TOY[name], f"--out={out}"])
    saved = json.loads(out.read_text())
    assert saved["rows"] == rows
    assert saved["device"]["platform"] == "cpu"
    assert str(out) in capsys.readouterr().out


@pytest.mark.parametrize(
    "path", sorted(FOLDER.glob("results/*.json")), ids=lambda p: p.stem
)
def test_committed_results_say_where_they_come_from(path):
    saved = json.loads(path.read_text())
    assert saved.keys() >= {"question", "command", "when", "device", "versions", "rows"}
