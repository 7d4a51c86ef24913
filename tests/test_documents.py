"""The documents: links lead somewhere, commands parse, examples are Python and YAML."""

import ast
import importlib
import itertools
import json
import re
import shlex
import sys
import tomllib
from itertools import count, pairwise
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import yaml
from markdown_it import MarkdownIt

from dpet_jax.cli import COMMANDS, _apart, _own_options, build_parser
from dpet_jax.config.choices import choices
from dpet_jax.config.experiment import Config
from dpet_jax.config.load import load, parse_override
from dpet_jax.data import ImageSet, Source, prepare
from dpet_jax.suite.dry_run import estimate
from dpet_jax.suite.variants import load_suite

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
NOTEBOOKS = sorted(DOCS.glob("notebooks/*.ipynb"))
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *sorted(DOCS.glob("*.md")),
]
_MARKDOWN = MarkdownIt("commonmark").enable("table")
# A shell's prompt, and what a line may set before its command.
_BEFORE = re.compile(r"^(\$ )?(\w+=\S+ )*(?=dpet )")


def cells(notebook, kind):
    held = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in held if cell["cell_type"] == kind]


def text_of(path):
    if path.suffix == ".ipynb":
        return "\n\n".join(cells(path, "markdown"))
    return path.read_text(encoding="utf-8")


def tokens(path):
    for token in _MARKDOWN.parse(text_of(path)):
        yield token
        yield from token.children or ()


def targets(path):
    """Yield what a document links to, and shows as a picture."""
    for token in tokens(path):
        if token.type in ("link_open", "image"):
            yield unquote(token.attrs.get("href") or token.attrs["src"])


def anchors(path):
    """Return the anchors of headings, as the hosts of repositories make them."""
    found, blocks = set(), _MARKDOWN.parse(text_of(path))
    for opening, inline in pairwise(blocks):
        if opening.type == "heading_open":
            said = "".join(part.content for part in inline.children)
            slug = re.sub(r"[^\w\- ]", "", said.lower()).replace(" ", "-")
            numbered = (f"{slug}-{number}" for number in count(1))
            while slug in found:
                slug = next(numbered)
            found.add(slug)
    return found


def broken(path):
    """Return the links of a document that lead nowhere."""
    wrong = []
    for target in targets(path):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, anchor = target.partition("#")
        file = (path.parent / place).resolve() if place else path
        inside = file.is_relative_to(ROOT)
        if not inside or not file.is_file():
            wrong.append(f"{target}: there is no such file")
        elif anchor and anchor not in anchors(file):
            wrong.append(f"{target}: no such heading, only {sorted(anchors(file))}")
    return wrong


def blocks(path):
    """Yield the language and the text of each block of code."""
    for token in tokens(path):
        if token.type in ("fence", "code_block"):
            yield token.info.partition(" ")[0], token.content


def commands(path):
    """Yield the arguments of each line that calls `dpet`."""
    for language, text in blocks(path):
        if language in ("", "bash", "console"):
            for line in text.replace("\\\n", " ").splitlines():
                if _BEFORE.match(line):
                    said = _BEFORE.sub("", line)
                    words = shlex.split(said, comments=True)[1:]
                    # up to where another program goes on
                    yield tuple(itertools.takewhile(lambda word: word != "|", words))


def python_of(path):
    if path.suffix == ".ipynb":
        yield from cells(path, "code")
        return
    for language, text in blocks(path):
        first = text.lstrip()
        if language == "python" or (
            not language and first.startswith(("import ", "from "))
        ):
            yield text


CALLS = sorted({call for page in PAGES for call in commands(page)})
EXAMPLES = [
    pytest.param(text, id=f"{page.stem}-{number}")
    for page in [*PAGES, *NOTEBOOKS]
    for number, text in enumerate(python_of(page))
]


@pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS], ids=lambda path: path.name)
def test_every_link_leads_to_a_file_and_a_heading_of_the_repository(path):
    assert broken(path) == []


def test_a_link_to_nowhere_is_found(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("# A, b\n## A, b\n[x](#a-b-1) [y](#c) ![z](no.svg) `[w](w.md)`\n")
    assert [line.partition(":")[0] for line in broken(page)] == ["#c", "no.svg"]


def test_every_page_is_in_the_navigation_once_and_nothing_else_is():
    site = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))

    def leaves(nav):
        for held in nav.values() if isinstance(nav, dict) else nav:
            yield from [held] if isinstance(held, str) else leaves(held)

    listed = [ROOT / page for page in leaves(site["project"]["nav"])]
    extra = site["project"]["extra"]
    made = [ROOT / page for page in (extra["keys"], *extra["reference"])]
    notebooks = [path.with_suffix(".md") for path in NOTEBOOKS]
    assert sorted(listed) == sorted([*PAGES, *notebooks, *made])


def test_the_readme_takes_three_minutes():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


def test_the_docs_show_the_commands_that_there_are():
    assert COMMANDS.keys() - {call[0] for call in CALLS if call} == set()
    inline = (t.content for p in PAGES for t in tokens(p) if t.type == "code_inline")
    named = filter(None, (re.match(r"dpet ([a-z]+)", said) for said in inline))
    assert {found[1] for found in named} - COMMANDS.keys() == set()


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_every_command_of_the_docs_is_one_that_the_program_takes(call):
    parser = build_parser()
    given, spaced = _apart(call, _own_options(parser))
    options, rest = parser.parse_known_args(given)
    rest += spaced
    assert not rest or options.takes_overrides
    changes = [parse_override(override) for override in rest]
    if call[0] == "compare" and (ROOT / options.suite).is_file():
        load_suite(ROOT / options.suite, changes)
    elif call[0] in ("run", "plan", "layers", "tune", "pool"):
        config = getattr(options, "config", None)  # pool list has none
        if config is not None and (ROOT / config).is_file():
            load(ROOT / config, rest)


@pytest.mark.parametrize("text", EXAMPLES)
def test_every_example_is_python_and_imports_what_there_is(text):
    for node in ast.walk(ast.parse(text)):
        module = getattr(node, "module", None) or ""
        if isinstance(node, ast.ImportFrom) and module.startswith("dpet_jax"):
            there = importlib.import_module(module)
            assert [a.name for a in node.names if not hasattr(there, a.name)] == []


def test_every_yaml_example_is_read_as_a_mapping():
    held = [text for p in PAGES for language, text in blocks(p) if language == "yaml"]
    assert held
    assert all(isinstance(yaml.safe_load(text), dict) for text in held)


def test_the_page_of_keys_has_a_table_for_every_kind(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    importlib.import_module("keys").write_keys(tmp_path / "keys.md")
    text = (tmp_path / "keys.md").read_text(encoding="utf-8")
    for title, held in choices().items():
        if key := re.search(r"\((\S+)\.kind\b", title):
            assert [n for n in held if f"\n## {key[1]}: {n}\n" not in text] == []
    assert "| `query_size` | `1000` | fewer only when the pool runs out |" in text


def test_the_search_of_the_site_needs_nothing_from_elsewhere(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    build = importlib.import_module("build")
    script = 'postMessage("</script>")'
    worker = tmp_path / "assets" / "javascripts" / "workers" / "search.1a.min.js"
    worker.parent.mkdir(parents=True)
    worker.write_text(script)
    page = tmp_path / "docs" / "page.html"
    page.parent.mkdir()
    page.write_text(
        f'<script src="{build._SHIM}"></script>'
        '<script src="../assets/javascripts/bundle.2b.js"></script>'
    )
    with pytest.raises(SystemExit, match="one worker and one index"):
        build.search_from_disk(tmp_path)
    (tmp_path / "search.js").touch()
    build.search_from_disk(tmp_path)
    assert '<script src="../assets/javascripts/worker.js">' in page.read_text()
    assert not build._LOADED.search(page.read_text())
    held = (tmp_path / "assets" / "javascripts" / "worker.js").read_text()
    assert json.dumps(script) in held


def test_the_page_on_python_has_every_event():
    text = (DOCS / "python.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| (`.+?`) \|", text, re.MULTILINE)
    told = {name for cell in listed for name in re.findall(r"`(\w+)`", cell)}
    written = re.compile(r'(?:_event|recorder\.write|\.chose)\(\s*"(\w+)"')
    files = (ROOT / "dpet_jax" / "run").glob("*.py")
    found = {name for file in files for name in written.findall(file.read_text())}
    assert told == found | {"end"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_keeps_no_outputs(path):
    held = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in held if cell["cell_type"] == "code"]
    assert code
    assert [cell for cell in code if cell["outputs"] or cell["execution_count"]] == []


@pytest.fixture
def selector(tmp_path, monkeypatch):
    """The files of the tutorial on a selector, where the command is given."""
    for _, text in blocks(DOCS / "own_selector.md"):
        if named := re.match(r"# (\S+)\n", text):
            path = tmp_path / named[1]
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("mine.moderate")
    for name in [n for n in sys.modules if n.partition(".")[0] == "mine"]:
        del sys.modules[name]


def test_the_selector_of_the_tutorial_keeps_what_is_of_medium_distance(selector):
    features = np.array([[0.0], [1.0], [2.0], [3.0], [14.0]])
    chosen = selector.moderate(features, np.zeros(5, np.int32), 2)
    assert set(chosen.indices) == {0, 1}  # 4, 3, 2, 1 and 10 from 4: the median is 3
    assert chosen.gains.tolist() == [0, -1]


def test_the_comparison_of_the_tutorial_counts_what_its_selector_costs(selector):
    suite = load_suite(Path("selectors.yaml"))
    assert not suite.problems
    assert len(suite.variants) == 6
    base = load(Path("base.yaml"))
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (120, 8, 8, 1), np.uint8)
    labels = np.arange(120, dtype=np.int32) % 10
    half = ImageSet(images[:20], labels[:20])
    source = Source("drawn", ImageSet(images, labels), half, tuple("0123456789"))
    config = Config.model_validate({**dict(base), "method": selector.Moderate()})
    # four passes to look by, a third of a pass to score, 20 over three tenths
    expected = pytest.approx(4 + 1 / 3 + 6, rel=0.25)
    assert estimate(config, prepare(source, config.data)).epochs == expected
