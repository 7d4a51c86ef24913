"""How every test runs JAX: strictly, and never compiling what is compiled already."""

import gc
import os
import tempfile
from pathlib import Path

import jax
import jaxlib
import numpy as np
import pytest
from beartype import BeartypeConf
from beartype.claw import beartype_package

# Types of what is given and returned are checked everywhere: by jaxtyping where arrays
# are annotated (pyproject.toml names the modules), elsewhere by beartype alone, for
# jaxtyping binds the arguments of every call anew, which took most of some tests' time
beartype_package(
    "dpet_jax", conf=BeartypeConf(violation_type=TypeError, claw_is_pep526=False)
)

# Tests compile more than they run, so that less optimised programs are ready sooner; an
# empty XLA_FLAGS takes XLA as it is. It is read when the first program is compiled.
_FLAGS = ["--xla_backend_optimization_level=1"]
if jaxlib.version.__version_info__ < (0, 11):  # later ones do not know it
    _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(_FLAGS))

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # outside the tree, so that a fresh clone finds what an earlier one compiled; all
    # workers share it, and one that reads a half-written entry compiles for itself
    base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    jax.config.update("jax_compilation_cache_dir", str(base / "dpet_jax" / "tests"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"  # of programs they start

# what JAX keeps of the programs of thousands of tests is no garbage, and looking
# through all of it took a twentieth of their time
gc.set_threshold(*gc.get_threshold()[:2], 100)

# tests that run beside these are no neighbours on the cards that they all make up
_NOTES = tempfile.TemporaryDirectory(prefix="dpet_jax-")
os.environ["DPET_RUNTIME_DIR"] = _NOTES.name


def pytest_sessionfinish():
    """Leave out of the last collections what thousands of tests have left behind."""
    gc.freeze()


@pytest.fixture
def stopped_after():
    """Return what makes an interrupt that is there after so many looks at it."""
    from dpet_jax.run.interrupt import Interrupt

    class AfterSomeLooks(Interrupt):
        def __init__(self, looks):
            self.left = looks

        @property
        def requested(self):
            self.left -= 1
            return self.left < 0

    return AfterSomeLooks


@pytest.fixture
def assert_same_run():
    """Compare two run folders: parameters bit by bit, and the coresets."""
    # not at the top, where the import would come before the type-checking hook
    import dpet_jax

    def leaves(folder):
        run = dpet_jax.load_run(folder)
        return jax.tree.leaves((run.params, run.batch_stats))

    def compare(left, right):
        for a, b in zip(leaves(left), leaves(right), strict=True):
            np.testing.assert_array_equal(a, b)
        a, b = (dpet_jax.load_run(folder).coreset or {} for folder in (left, right))
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])

    return compare
