"""The floors of the house, checked: who may import whom, and who keeps JAX out."""

import ast
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import jax

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "dpet_jax"

#: From the top down. A wing imports its own floor's members only if it is one of them
#: itself, and anything that stands lower. A longer name stands apart from its wing.
FLOORS = (
    ("__main__",),
    ("cli", "interactive"),
    ("suite",),
    ("report",),
    ("run",),
    ("config",),
    ("pretrained",),
    ("training",),
    ("pruners",),
    ("selection",),
    ("scores",),
    ("models", "data", "methods", "trackers"),
    ("energy", "planner", "models.conv", "scores.registry"),
    ("section", "errors", "files", "arrays", "quotas"),
)
#: What a floor alone does not say: these import nothing of ours but what is named.
_GROUND = {"section", "errors", "files", "arrays", "quotas"}
ALONE = {
    "scores": {"models.conv", "scores.registry", *_GROUND},
    "scores.registry": {"section"},
    "selection": {"scores", "methods.base", *_GROUND},
    "energy": {"errors", "files"},
    "planner": _GROUND,
    "methods": {"scores.registry", *_GROUND},
    "models": {"models.conv", *_GROUND},
    "data": _GROUND,
    "trackers": _GROUND,
    **{module: set() for module in _GROUND},
    "files": {"errors"},
    "arrays": {"errors"},
}
#: Wings and modules that never bring JAX into a process.
WITHOUT_JAX = (
    *(
        "methods",
        "trackers",
        "energy",
        "planner",
        "report",
        "section",
        "errors",
        "files",
    ),
    "pruners",
    *("pretrained.choice", "pretrained.pool"),
    *("run.loop", "run.folder", "run.limits", "run.energy_report", "run.measure"),
    *("suite.schema", "suite.variants", "suite.folder", "config.load"),
    *("models", "training", "data", "cli"),  # their __init__, and the command line
)
JAX = {"jax", "jaxlib", "flax", "optax", "orbax"}


def module_name(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def lies_in(module, place):
    return module == place or module.startswith(f"{place}.")


def floor_of(module):
    """Return the floor number of a module, 0 at the ground, by its longest name."""
    places = [
        (len(place), len(FLOORS) - number)
        for number, floor in enumerate(FLOORS)
        for place in floor
        if lies_in(module, place)
    ]
    return max(places)[1] if places else None


def wing_of(module):
    named = [p for floor in FLOORS for p in floor if lies_in(module, p)]
    return max(named, key=len, default=module)


def imports_of(source):
    """Yield the dotted names that a source imports, inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide what is imported"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(source):
    """Return the modules of ours that a source imports; "" is the package itself."""
    found = set()
    for name in imports_of(source):
        package, _, inner = name.partition(".")
        if package == PACKAGE.name:
            known = inner in FILES or not inner
            found.add(inner if known else inner.rpartition(".")[0])
    return found


def offences(module, source):
    """Return what a module imports of ours though its floor or its wing forbids it."""
    wing, floor = wing_of(module), floor_of(module)
    wrong = []
    for name in ours(source):
        if name == "" or wing_of(name) == wing:
            continue
        allowed = ALONE.get(wing)
        if allowed is None:
            if floor_of(name) >= floor:
                wrong.append(f"{module} imports {name}, which stands no lower")
        elif not any(lies_in(name, place) for place in allowed):
            wrong.append(f"{module} imports {name}; {wing} stands alone")
    return wrong


def test_every_module_has_a_floor():
    assert [module for module in FILES if module and floor_of(module) is None] == []


def test_imports_go_down_only():
    wrong = [
        offence
        for module, path in FILES.items()
        if module
        for offence in offences(module, path.read_text())
    ]
    assert wrong == []


def test_checker_finds_what_a_module_must_not_import():
    cases = {
        ("run.limits", "from dpet_jax.run.folder import Counters"): 0,
        ("run.limits", "from dpet_jax.suite.variants import Suite"): 1,
        ("run.limits", "import dpet_jax.cli"): 1,
        ("training.steps", "def f():\n    from dpet_jax.config.load import load"): 1,
        ("scores.pool", "from dpet_jax.models.conv import convolution"): 0,
        ("scores.pool", "from dpet_jax.models import resnet"): 1,
        ("methods.dpet", "from dpet_jax.data.dataset import Data"): 1,
        ("energy.meter", "from dpet_jax.section import Section"): 1,
        ("models.resnet", "import numpy, jax.numpy"): 0,
    }
    for (module, source), count in cases.items():
        assert len(offences(module, source)) == count, (module, source)


def test_wings_without_jax_leave_it_out_of_the_process():
    names = [
        f"{PACKAGE.name}.{module}"
        for place in WITHOUT_JAX
        for module in FILES
        if (lies_in(module, place) and place not in ("models", "training", "data"))
        or module == place
    ]
    code = f"""
import importlib, sys
for name in {names}:
    importlib.import_module(name)
    brought = {JAX} & {{*sys.modules}}
    if brought:
        sys.exit(f"{{name}} brings {{sorted(brought)}}")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


#: What a folder's `__init__` is made of: its docstring, imports and lists of names.
_HANDS_ON = (ast.Expr, ast.Import, ast.ImportFrom, ast.If, ast.Assign, ast.AnnAssign)
_LAZY = ("__getattr__", "__dir__")


def test_folders_only_hand_on_names():
    for module, path in FILES.items():
        if path.name == "__init__.py" and module:
            for node in ast.parse(path.read_text()).body:
                lazily = isinstance(node, ast.FunctionDef) and node.name in _LAZY
                names = isinstance(node, _HANDS_ON)
                assert lazily or names, f"{module}: {ast.unparse(node)}"


#: What TFDS brings, and a machine for computing may lack.
_OF_TFDS = ("tensorflow_datasets", "array_record", "importlib_resources", "promise")


def test_everything_but_its_source_works_without_tfds(tmp_path):
    code = f"""
import importlib, sys
from pathlib import Path

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {_OF_TFDS}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
import jax
jax.config.update(
    "jax_compilation_cache_dir", {jax.config.jax_compilation_cache_dir!r}
)
for name in {[f"dpet_jax.{name}" for name in FILES if name and name != "cli"]}:
    importlib.import_module(name)
from dpet_jax.config.load import validate
from dpet_jax.run import experiment
tree = {{
    "model": {{"kind": "resnet", "stem": 8, "channels": [8, 8], "blocks": [1, 1]}},
    "train": {{"batch_size": 32, "augment": {{"translate": 1}}}},
    "method": {{"kind": "rs2", "keep_fraction": 0.1, "passes": 2}},
}}
result = experiment.run(validate(tree, "test"), Path({str(tmp_path)!r}))
assert result.stopped_by == "finished"
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


def test_types_are_checked_in_every_module_and_those_of_arrays_by_jaxtyping():
    for module, path in FILES.items():
        spec = find_spec(f"dpet_jax.{module}".rstrip("."))
        loader = type(spec.loader).__name__
        arrays = "from jaxtyping import" in path.read_text(encoding="utf-8")
        checkers = ["_JaxtypingLoader", *["BeartypeSourceFileLoader"] * (not arrays)]
        assert loader in checkers, module
