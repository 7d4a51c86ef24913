"""The page that a report is, its other files, and what becomes of them in trouble."""

import html.parser
import json
import re
import subprocess
import sys

import pytest
from fakes.runs import fake_run, fake_suite, small_suite, variant

from dpet_jax.errors import UserError
from dpet_jax.report.comparison import read_comparison
from dpet_jax.report.glossary import TERMS, glossary
from dpet_jax.report.page import write_report
from dpet_jax.report.plots import pictures

#: Modules that load neither JAX nor what draws and tests.
ALONE = (
    *("report.page", "report.comparison", "report.paired", "run.costs"),
    *("run.energy_report", "suite.schema", "suite.variants", "suite.folder"),
)
VOID = {"meta", "br", "img", "hr", "link", "input"}
EVIL = "<b>bold</b> & \"quoted\" 'x' | a_b %"


class Reader(html.parser.HTMLParser):
    """Check that tags close in order, and collect texts, attributes and ids."""

    def __init__(self, text):
        super().__init__()
        self.open, self.attributes, self.text, self.tags = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = small_suite(tmp_path_factory.mktemp("suite"), wh_per_epoch=0.3)
    record = json.loads((folder / "suite.json").read_text())
    record["variants"][3]["label"] = EVIL
    record["problems"] = [f"A problem with {EVIL}"]
    (folder / "suite.json").write_text(json.dumps(record))
    out = folder / "out"
    files = write_report(read_comparison([folder], "wh"), "wh", out)
    return files, out, (out / "report.html").read_text()


def test_every_file_that_is_returned_is_there_and_no_other(report):
    files, out, _ = report
    assert files[0] == out / "report.html"
    assert {*files} == {path for path in out.rglob("*") if path.is_file()}
    names = {path.relative_to(out).as_posix() for path in files}
    assert names >= {
        *("report.html", "report.md", "table.csv", "table.tex"),
        *("plots/accuracy.svg", "plots/accuracy.png", "plots/pareto.svg"),
    }


def test_page_is_whole(report):
    reader = Reader(report[2])
    assert reader.open == []
    ids = [value for name, value in reader.attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_page_refers_to_nothing_outside_itself(report):
    text = report[2]
    assert "http" not in text
    assert "@import" not in text
    assert not re.findall(r"url\((?!#)", text)
    reader = Reader(text)
    assert not {"script", "link", "iframe", "object"} & {*reader.tags}
    for name, value in reader.attributes:
        if name in ("src", "href", "xlink:href", "srcset", "data"):
            assert value.startswith(("#", "data:image/png;base64,"))


def test_page_shows_markup_in_labels_as_text(report):
    reader = Reader(report[2])
    assert EVIL in reader.text
    assert f"A problem with {EVIL}" in reader.text
    assert "b" not in reader.tags


def test_page_holds_what_a_reader_needs(report):
    text = " ".join(Reader(report[2]).text)
    for words in (
        "Made small.",
        "energy (Wh)",
        "measured, gpu included",
        "f00df00d",
        "every 1 full-pass equivalents on 100 validation examples",
        "peak 0.2, 4 epochs",
        "not testable",
        "../margin/seed1",
        "paper: 60 % cheaper",
        "A full-pass equivalent",
    ):
        assert words in text, words
    assert report[2].count("<svg") == len(list((report[1] / "plots").glob("*.svg")))


def test_glossary_holds_the_terms_of_the_page_alone(report):
    names = [term.name for term in glossary(["Cost against it", "all in epochs"])]
    assert names == ["dearer, cheaper", "epoch"]
    text = " ".join(Reader(report[2]).text)
    assert "Training on random parts of the data, before anything is chosen." in text
    assert "power law" not in text
    assert [term.name for term in TERMS] == sorted(
        (term.name for term in TERMS), key=str.lower
    )


def test_notes_and_tables_for_those_who_ask_are_folded(report):
    text = report[2]
    shown = re.sub(r"<details.*?</details>", "", text, flags=re.DOTALL)
    assert "Median and range over seeds." in shown
    assert "Bold: every seed" in text
    assert "Bold: every seed" not in shown
    assert '<th scope="col">run folder' in text
    assert "run folder" not in shown


def test_markdown_holds_the_same(report):
    text = (report[1] / "report.md").read_text()
    assert text.startswith("# a suite\n\n## Problems\n")
    assert "](plots/accuracy.svg)" in text
    assert "Made small." in text
    assert "<b>" not in text
    assert "not testable" in text


def test_writing_it_again_gives_the_same_bytes(report):
    _, out, _ = report
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    write_report(read_comparison([out.parent], "wh"), "wh", out)
    assert {path: path.read_bytes() for path in before} == before


@pytest.fixture
def no_pictures(monkeypatch):
    """Report on numbers alone, which takes no time."""
    monkeypatch.setattr(pictures, "pictures", lambda *_: [])


def text_of(tmp_path, *paths):
    write_report(read_comparison([*paths]), "epochs", tmp_path / "out")
    return " ".join(Reader((tmp_path / "out" / "report.html").read_text()).text)


def test_page_of_a_loose_run_shows_its_method_and_what_there_is_not_to_draw(tmp_path):
    facts = {"targets_on": "test", "method": "my.own:Kind", "method_label": "My own"}
    fake_run(tmp_path / "m" / "seed0", [(1.0, 0.5)], **facts)
    text = text_of(tmp_path, tmp_path)
    assert "Not shown: Growth of the coreset: no run selected a coreset" in text
    assert "the test split decided about targets" in text
    assert "My own" in text
    assert ",My own," in (tmp_path / "out" / "table.csv").read_text()


@pytest.mark.usefixtures("no_pictures")
def test_method_without_a_single_run_is_on_the_page(tmp_path):
    fake_run(tmp_path / "a")
    variants = [variant("a", {"0.6": ["a"]}), variant("gone", {"0.6": ["gone"]})]
    suite = fake_suite(tmp_path, variants, {"tuned": "a", "random": "gone"})
    text = text_of(tmp_path, suite)
    assert "holds no run; it is left out" in text
    assert "no run" in text


def test_heavy_packages_are_imported_where_they_are_used_and_their_lack_is_said(
    tmp_path,
):
    fake_run(tmp_path / "a")
    code = f"""
import importlib, sys
from pathlib import Path
for name in {ALONE}:
    importlib.import_module(f"dpet_jax.{{name}}")
    print({{"jax", "matplotlib", "scipy", "jinja2"}} & {{*sys.modules}} or "none")
from dpet_jax.errors import UserError
from dpet_jax.report.comparison import read_comparison
from dpet_jax.report.page import write_report
folder = Path({str(tmp_path)!r})
for package in ("jinja2", "matplotlib"):
    sys.modules[package] = None
    try:
        write_report(read_comparison([folder]), "epochs", folder / "out")
    except UserError as error:
        print(error)
    del sys.modules[package]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *loaded, jinja2, matplotlib = done.stdout.splitlines()
    assert dict(zip(ALONE, loaded, strict=True)) == dict.fromkeys(ALONE, "none")
    assert "needs the package jinja2" in jinja2
    assert "needs the package matplotlib" in matplotlib
    assert "pip install 'dpet-jax[plot]'" in matplotlib
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_pictures")
def test_folder_that_cannot_be_written_is_named(tmp_path):
    fake_run(tmp_path / "a")
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match=r"cannot write the report.*--out=DIR"):
        write_report(read_comparison([tmp_path]), "epochs", tmp_path / "out")


@pytest.mark.usefixtures("no_pictures")
def test_broken_off_writing_leaves_the_earlier_page(tmp_path, monkeypatch):
    fake_run(tmp_path / "a")
    comparison = read_comparison([tmp_path])
    page = write_report(comparison, "epochs", tmp_path / "out")[0]
    before = page.read_bytes()

    def failing(self, *_, **__):
        with self.open("wb") as file:
            file.write(b"half")
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr("pathlib.Path.write_bytes", failing)
    with pytest.raises(UserError, match="No space left"):
        write_report(comparison, "epochs", tmp_path / "out")
    assert page.read_bytes() == before
    assert not list((tmp_path / "out").glob(".*"))
