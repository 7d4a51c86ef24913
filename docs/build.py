"""Build the site of the documents: `make docs`, which installs what this needs.

The pages are laid out as they lie in the repository, so that every link between them
is right in both places. What they link to besides is copied beside them, notebooks are
run, and the pages of the reference are made of the public names of modules. Then
zensical builds the site and refuses links and anchors that lead nowhere, its search is
made to work from the disk, and the site is refused if a page would load anything from
elsewhere.
"""

import importlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from keys import write_keys

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = ROOT / "zensical.toml"
#: Of pages and styles that lie in the repository as they are shown.
SHOWN = ("*.md", "docs/*.md", "docs/*.css")

_LINK = re.compile(r"\]\(([^)\s#:]+)")
# What a page loads, but for links that a reader may follow; from anywhere but the site.
_LOADS = r"<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)="
_LOADED = re.compile(rf"{_LOADS}[\"']?(?:https?:)?//")
# Where a page opened from the disk has its search's worker from; browsers start none
# from a file there, so ours is made of a text.
_SHIM, _WORKER = "https://unpkg.com/iframe-worker/shim", "assets/javascripts/worker.js"
_START = """\
if (location.protocol === "file:") {
  const [Real, source] = [Worker, %s];
  window.Worker = function () {
    return new Real(URL.createObjectURL(new Blob([source], {type: "text/javascript"})));
  };
}
"""
# Of one cell, or of a kernel's start, in seconds.
_LONGEST_CELL = 600


def main() -> None:
    """Lay out the pages and build the site.

    Raises:
        SystemExit: If a link is broken, or a page would load from elsewhere.
    """
    project = tomllib.loads(SETTINGS.read_text(encoding="utf-8"))["project"]
    pages, site = ROOT / project["docs_dir"], ROOT / project["site_dir"]
    for folder in (pages, site):
        shutil.rmtree(folder, ignore_errors=True)
    for pattern in SHOWN:
        for source in ROOT.glob(pattern):
            lay_out(source, pages)
    for notebook in sorted(ROOT.glob("docs/notebooks/*.ipynb")):
        run_notebook(notebook, pages / notebook.relative_to(ROOT).parent)
    for place, module in project["extra"]["reference"].items():
        write_reference(pages / place, importlib.import_module(module))
    write_keys(pages / project["extra"]["keys"])
    zensical = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    if subprocess.run(zensical, cwd=ROOT, check=False).returncode:
        raise SystemExit("docs: the site could not be built; see above")
    search_from_disk(site)
    remote = [page for page in site.rglob("*.html") if _LOADED.search(page.read_text())]
    if remote:
        raise SystemExit(f"docs: {remote[0]} loads something from elsewhere")


def search_from_disk(site: Path) -> None:
    """Let the search of a site work from the disk without anything from elsewhere.

    Raises:
        SystemExit: If the site is not built as it was when this was written.
    """
    workers = [*site.glob("assets/javascripts/workers/search.*.js")]
    if len(workers) != 1 or not (site / "search.js").exists():
        raise SystemExit(f"docs: {site} has not one worker and one index to search by")
    text = workers[0].read_text(encoding="utf-8")
    (site / _WORKER).write_text(_START % json.dumps(text), encoding="utf-8")
    for page in site.rglob("*.html"):
        held = page.read_text(encoding="utf-8")
        root = re.search(r'src="([^"]*)assets/javascripts/bundle', held)
        if root is not None:
            held = held.replace(_SHIM, f"{root[1]}{_WORKER}")
            page.write_text(held, encoding="utf-8")


def lay_out(source: Path, pages: Path) -> None:
    """Copy a page and the files that it links to; a notebook's link is to its page."""
    place = pages / source.relative_to(ROOT)
    place.parent.mkdir(parents=True, exist_ok=True)
    text = source.read_text(encoding="utf-8")
    for target in _LINK.findall(text):
        file = (source.parent / target).resolve()
        if file.is_file() and file.suffix not in (".md", ".ipynb"):
            copy = pages / file.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
    place.write_text(text.replace(".ipynb)", ".md)"), encoding="utf-8")


def run_notebook(notebook: Path, folder: Path) -> None:
    """Run a notebook in a folder of its own; write it as a page with its outputs."""
    import nbformat
    from nbclient import NotebookClient
    from nbconvert import MarkdownExporter
    from nbconvert.writers import FilesWriter

    held = nbformat.read(notebook, as_version=4)
    with tempfile.TemporaryDirectory() as place:
        resources = {"metadata": {"path": place}}
        NotebookClient(
            held,
            timeout=_LONGEST_CELL,
            startup_timeout=_LONGEST_CELL,
            resources=resources,
        ).execute()
    name = notebook.stem
    text, made = MarkdownExporter().from_notebook_node(
        held, {"unique_key": name, "output_files_dir": f"{name}_files"}
    )
    FilesWriter(build_directory=str(folder)).write(text, made, notebook_name=name)


def write_reference(page: Path, module: ModuleType) -> None:
    """Write the page of a module: its docstring, then each of its public names."""
    page.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"# {module.__name__}", "", module.__doc__ or "", ""]
    lines += [f"::: {name}\n" for name in public_names(module)]
    page.write_text("\n".join(lines), encoding="utf-8")


def public_names(module: ModuleType) -> Iterator[str]:
    """Yield where each public class and function of a module is defined.

    A package hands on names of its modules; a module has those of its own.
    """
    inside = f"{module.__name__}."
    for name in dir(module):
        held = getattr(module, name)
        home = getattr(held, "__module__", None)
        if name.startswith("_") or not callable(held) or home is None:
            continue
        if home == module.__name__ or home.startswith(inside):
            yield f"{home}.{held.__qualname__}"


if __name__ == "__main__":
    main()
