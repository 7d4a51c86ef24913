"""The module map, checked: who may import whom, who keeps JAX out, who is tested."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "dpet_jax"
MAX_LINES = 400


def module_name(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}

#: What each module, or each folder, may import of ours beside its own folder.
_PARTS = {
    "device_model",
    *("schema", "sections", "method_sections", "errors", "arrays", "data"),
    *("models", "training"),
    "scores",
    *("selection", "methods", "energy", "record", "stopping", "batches", "learner"),
}
_RUN = _PARTS | {
    *("parts", "method_parts", "config", "position", "progress", "interrupt"),
    *("orchestrator", "machine", "footprint", "trainer"),
}
_EXPERIMENT = _RUN | {"segment", "summary"}
MAY_IMPORT = {
    "": {"loading"},  # the package itself, when load_run is asked for
    "errors": set(),
    "arrays": set(),
    "sections": set(),
    "method_sections": {"sections"},
    "schema": {"sections", "method_sections"},
    "config": {"errors", "schema"},
    "energy": set(),
    "record": {"errors"},
    "progress": set(),
    "interrupt": set(),
    "stopping": {"record"},
    "pace": set(),
    "footprint": {"energy", "errors", "record"},
    "methods": set(),
    "batches": {"methods.base"},
    "position": {"methods.base", "record"},
    "proxy": {"methods.base"},
    "trainer": {
        *("methods.base", "energy", "interrupt", "progress", "record", "stopping"),
    },
    "orchestrator": {
        *("methods.base", "batches", "position", "pace", "trainer", "proxy"),
        *("record", "errors", "selecting"),
    },
    "selecting": {"methods.base", "record", "errors", "trainer"},
    "data": {"arrays", "errors"},
    "models": {"arrays"},
    "training": {"models", "data", "arrays", "methods.base", "scores.dynamics"},
    "selection": {"scores", "models", "data", "arrays", "methods.base"},
    "scores": {"models", "data", "arrays"},
    "device_model": {"training", "scores", "models", "data", "methods.base"},
    "choosing": {"selection", "methods.base", "errors"},
    "learner": {
        *("device_model", "choosing", "training", "scores", "models", "data"),
        *("methods.base", "batches", "pace", "errors"),
    },
    "parts": _PARTS,
    "method_parts": {"schema", "method_sections", "methods", "data", "errors"},
    "machine": set(),
    "segment": _RUN,
    "summary": _RUN | {"segment"},
    "experiment": _EXPERIMENT,
    "suite_schema": {"sections"},
    "suite": {
        *("suite_schema", "config", "schema", "errors"),
        *("report.paper", "report.runs"),
    },
    "suite_folder": {"suite", "record", "errors", "report.comparison", "report.runs"},
    "foresight": _PARTS | {"parts", "method_parts", "proxy", "choosing"},
    "compare": _EXPERIMENT | {"experiment", "foresight", "suite", "suite_folder"},
    "digest": set(),
    "arguments": {"report.runs"},
    "loading": _EXPERIMENT,
    "predict": _EXPERIMENT | {"loading"},
    "catalogue": {"schema", "sections", "method_sections", "scores", "selection"},
    "doctor": {"machine", "energy"},
    "report": {"record", "errors"},
    "cli": {
        *("experiment", "suite", "compare", "report", "loading", "predict"),
        *("catalogue", "digest", "arguments"),
        *("doctor", "config", "schema", "errors", "interrupt", "data.importers"),
        *("footprint", "energy"),
    },
}
NO_JAX = {
    *(
        "",
        "config",
        "schema",
        "sections",
        "method_sections",
        "methods",
        "energy",
        "stopping",
    ),
    *("orchestrator", "trainer", "proxy", "pace", "record", "position", "interrupt"),
    *("batches", "progress", "errors", "footprint", "report", "digest", "arguments"),
    *("suite", "suite_schema", "suite_folder"),
}
JAX = {"jax", "jaxlib", "flax", "optax", "orbax"}
#: Nothing to test: exceptions, names of array types, a record of arrays, contracts.
UNTESTED = {"errors", "arrays", "data.device", "energy.source", "trainer"}
TESTS = {path.name for path in (ROOT / "tests").rglob("test_*.py")}


def lies_in(module, places):
    """Whether a module is one of the places or inside one; "" is only the package."""
    parts = module.split(".")
    heads = {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
    return bool(heads & set(places)) or (module == "" and "" in places)


def imports_of(source, known):
    """Yield all that a source imports, inside functions too; ours without package."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide what is imported"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            ours, _, inner = name.partition(".")
            if ours != PACKAGE.name:
                yield name
            elif inner in known or not inner:
                yield f"{PACKAGE.name}:{inner}"
            else:  # a name inside a module, or inside the package itself
                yield f"{PACKAGE.name}:{inner.rpartition('.')[0]}"


def forbidden(module, source, known, table=None):
    """Return what a module imports of ours that its floor does not allow."""
    table = MAY_IMPORT if table is None else table
    floor = module if module in table else module.split(".")[0]
    allowed = table[floor] | ({floor} if "." in module or floor in FOLDERS else set())
    ours = [
        name.partition(":")[2]
        for name in imports_of(source, known)
        if name.startswith(f"{PACKAGE.name}:")
    ]
    return [name for name in ours if not lies_in(name, allowed)]


def outside(source):
    """Return the top-level packages, not ours, that a source imports."""
    names = {name.split(".")[0] for name in imports_of(source, FILES)}
    return {name for name in names if not name.startswith(f"{PACKAGE.name}:")}


FOLDERS = {name for name, path in FILES.items() if path.name == "__init__.py"} - {""}


@pytest.mark.parametrize("module", FILES)
def test_module_is_on_the_map(module):
    assert module in MAY_IMPORT or module.split(".")[0] in MAY_IMPORT


@pytest.mark.parametrize("module", FILES)
def test_module_imports_only_from_lower_floors(module):
    assert forbidden(module, FILES[module].read_text(), FILES) == []


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("stopping", "from dpet_jax.record import Counters", []),
        ("stopping", "from dpet_jax.config import load", ["config"]),
        ("stopping", "import dpet_jax.config", ["config"]),
        ("stopping", "from dpet_jax import config", ["config"]),
        ("stopping", "from dpet_jax import __version__", [""]),
        ("stopping", "def f():\n    from dpet_jax.config import load", ["config"]),
        ("stopping", "if True:\n    import dpet_jax.models.conv as c", ["models.conv"]),
        ("batches", "from dpet_jax.methods.base import Plan", []),
        ("batches", "from dpet_jax.methods import Plan", ["methods"]),
        ("batches", "from dpet_jax.methods.dpet import Dpet", ["methods.dpet"]),
        ("methods.dpet", "from dpet_jax.methods.base import Plan", []),
        ("methods.dpet", "from dpet_jax.record import Counters", ["record"]),
        ("methods", "from dpet_jax.methods.base import Plan", []),
        ("energy", "from dpet_jax.energy.curve import Curve", []),
        ("scores.pool", "from dpet_jax.training import steps", ["training.steps"]),
        ("data", "import numpy, jax.numpy", []),
        ("data.split", "from dpet_jax.datasets import x", ["datasets"]),
    ],
)
def test_checker_finds_what_a_module_must_not_import(module, source, found):
    assert forbidden(module, source, {*FILES, "datasets"}) == found


def test_checker_sees_imports_of_jax_in_every_form():
    for source in ("import jax", "from jax import numpy", "import jax.numpy as jnp"):
        assert outside(source) == {"jax"}
    assert outside("def f():\n    from flax import nnx") == {"flax"}
    assert outside("'import jax'") == set()


WITHOUT_JAX = [module for module in FILES if lies_in(module, NO_JAX)]


@pytest.mark.parametrize("module", WITHOUT_JAX)
def test_host_module_names_no_jax(module):
    assert not outside(FILES[module].read_text()) & JAX


def test_host_modules_are_checked_one_by_one():
    assert set(WITHOUT_JAX) >= {"", "config", "methods.dpet", "energy.curve"}
    assert not set(WITHOUT_JAX) & {"learner", "experiment", "scores", "data"}


def test_importing_host_modules_leaves_jax_out_of_the_process():
    names = [".".join(filter(None, (PACKAGE.name, module))) for module in WITHOUT_JAX]
    code = f"""
import importlib, sys
for name in {names}:
    importlib.import_module(name)
    brought = {JAX} & {{*sys.modules}}
    if brought:
        sys.exit(f"{{name}} imports {{sorted(brought)}}")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "module",
    [name for name in FILES if FILES[name].stem != "__init__" and name not in UNTESTED],
)
def test_module_has_its_test_file(module):
    assert f"test_{module.rpartition('.')[2]}.py" in TESTS


@pytest.mark.parametrize("module", FILES)
def test_module_fits_on_a_few_screens(module):
    assert len(FILES[module].read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("module", sorted(FOLDERS))
def test_folder_only_hands_on_names(module):
    body = ast.parse(FILES[module].read_text()).body
    for node in body:
        names_all = isinstance(node, ast.Assign) and (
            ast.unparse(node.targets[0]) == "__all__"
        )
        assert names_all or isinstance(node, ast.Expr | ast.ImportFrom)


@pytest.mark.parametrize("module", [name for name in FILES if name])
def test_readme_tree_lists_every_module_and_folder(module):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    stem = module.rpartition(".")[2]
    listed = f"{stem}/" if module in FOLDERS else f"{stem}.py"
    tree = readme.partition("\n## The tree\n")[2]
    assert listed in re.findall(r"[\w.]+/?", tree)
