"""The wheel: what an installed package brings along, and that it runs from anywhere."""

import json
import os
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "dpet_jax"
#: What is no module and has to be there when the package is used.
BESIDE = ("py.typed", "report/page.html.jinja")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this tree."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def inside(wheel):
    with zipfile.ZipFile(wheel) as held:
        return {name: held.read(name) for name in held.namelist()}


def test_every_module_config_and_template_is_in_the_wheel(inside):
    sources = [*PACKAGE.rglob("*.py"), *(ROOT / "configs").rglob("*.yaml")]
    within = [path.relative_to(ROOT).as_posix() for path in sources]
    expected = {n if n.endswith(".py") else f"dpet_jax/{n}" for n in within}
    expected |= {f"dpet_jax/{name}" for name in BESIDE}
    assert expected - inside.keys() == set()
    quickstart = (ROOT / "configs" / "quickstart.yaml").read_bytes()
    assert inside["dpet_jax/configs/quickstart.yaml"] == quickstart


def test_nothing_but_the_package_and_its_facts_is_in_the_wheel(inside):
    tops = {name.partition("/")[0].partition("-")[0] for name in inside}
    assert tops == {"dpet_jax"}
    assert [name for name in inside if "__pycache__" in name] == []


def test_the_wheel_says_what_it_is_and_which_command_it_brings(inside):
    (facts,) = (text for name, text in inside.items() if name.endswith("/METADATA"))
    said = Parser().parsestr(facts.decode())
    assert (said["Name"], said["License-Expression"]) == ("dpet-jax", "Apache-2.0")
    assert {"docs", "plot", "test", "tune"} <= {*said.get_all("Provides-Extra")}
    (points,) = (t for name, t in inside.items() if name.endswith("entry_points.txt"))
    assert "dpet = dpet_jax.__main__:main" in points.decode()


@pytest.mark.slow  # installs, and trains in processes of their own
def test_installed_alone_it_runs_the_quickstart_from_another_folder(wheel, tmp_path):
    site, place = tmp_path / "site", tmp_path / "place"
    place.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", site, wheel], check=True)
    cache = jax.config.jax_compilation_cache_dir
    seen = {"PYTHONPATH": str(site), "JAX_COMPILATION_CACHE_DIR": cache}

    def python(*arguments):
        call = [sys.executable, *map(str, arguments)]
        done = subprocess.run(
            call, cwd=place, env=os.environ | seen, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    home = python("-c", "import dpet_jax; print(dpet_jax.__file__)")
    assert home.strip() == str(site / "dpet_jax" / "__init__.py")
    dpet = ("-m", "dpet_jax")
    python(*dpet, "init", "--from=quickstart", "--out=mine.yaml")
    python(*dpet, "run", "mine.yaml", "--budget.epochs=1")
    summary = json.loads((place / "runs/quickstart/seed0/summary.json").read_text())
    assert summary["stopped_by"] == "budget.epochs"
    python(*dpet, "report", "runs")
    assert (place / "runs/report.html").is_file()
