"""A window waits for the device: JAX's way, and for no more than JAX."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from fakes.work import is_waited_for, pending_work

from dpet_jax.energy import Accelerator
from dpet_jax.energy.window import JaxDevices, Window

# the window


def test_sync_waits_for_the_tree_and_returns_it():
    waited = []
    window = Window("train", "round 3", waited.append)
    tree = {"params": [1, 2]}
    assert window.sync(tree) is tree
    assert waited == [tree]
    assert window.waited == "explicit"


def test_window_that_failed_to_wait_has_not_waited():
    def fail(tree):
        raise RuntimeError(f"out of memory in {tree}")

    window = Window("train", None, fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        window.sync([1])
    assert window.waited == "none"


def test_open_window_knows_no_energy_yet():
    window = Window("train", None, list)
    assert (window.s, window.energy, window.resolution_limited) == (0.0, None, False)
    assert "_block" not in repr(window)


# JAX's devices


@pytest.fixture
def devices():
    return JaxDevices()


def test_barrier_waits_for_work_that_it_is_not_given(devices, monkeypatch):
    def not_a_barrier():
        raise AssertionError("waits for side effects, or for arrays that are held")

    monkeypatch.setattr(jax, "effects_barrier", not_a_barrier)
    monkeypatch.setattr(jax, "live_arrays", not_a_barrier)

    def attempt(barrier):
        result = pending_work()
        barrier()
        return result

    assert is_waited_for(lambda: attempt(devices.barrier))
    assert is_waited_for(lambda: attempt(Accelerator().barrier))


def test_block_waits_for_the_arrays_of_a_tree(devices):
    for block in (devices.block, Accelerator().block):
        tree = {"loss": 1.0, "params": [pending_work()]}
        block(tree)
        assert tree["params"][0].is_ready()


def test_barrier_asks_every_local_device(devices, monkeypatch):
    asked = []
    local = jax.local_devices() * 3
    monkeypatch.setattr(jax, "local_devices", lambda: local)
    real = jax.device_put
    monkeypatch.setattr(
        jax, "device_put", lambda x, device: asked.append(device) or real(x, device)
    )
    devices.barrier()
    assert asked == local


@pytest.fixture
def cache_off():
    """Compile for real: what comes from the disk is not compiled."""
    jax.config.update("jax_enable_compilation_cache", False)
    yield
    jax.config.update("jax_enable_compilation_cache", True)


@pytest.mark.usefixtures("cache_off")
def test_compile_seconds_grow_by_what_is_compiled_and_only_then(devices):
    program = jax.jit(lambda x: jnp.cumsum(jnp.sort(x)) * 3.25)
    x = jnp.arange(777.0)
    before = devices.compile_seconds()
    program(x).block_until_ready()
    after = devices.compile_seconds()
    assert after > before == 0.0
    program(x).block_until_ready()
    assert devices.compile_seconds() == after
    devices.barrier()
    assert devices.compile_seconds() == after, "the barrier's own is not the program's"


def test_one_listener_serves_however_many_ask(devices, monkeypatch):
    added = []
    monkeypatch.setattr(
        jax.monitoring, "register_event_duration_secs_listener", added.append
    )
    assert [devices.compile_seconds() for _ in range(3)] == [0.0, 0.0, 0.0]
    (listener,) = added
    listener("/jax/core/compile/backend_compile_duration", 1.5, fun_name="f")
    listener("/jax/core/compile/jaxpr_trace_duration", 100.0)
    assert devices.compile_seconds() == 1.5


def test_process_without_jax_waits_for_nothing_and_stays_without_it():
    code = (
        "import sys; from dpet_jax.energy import Accelerator; a = Accelerator(); "
        "a.barrier(); a.block([1]); assert a.compile_s() == 0.0; "
        "assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_jax_that_is_half_imported_is_left_alone(devices, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", type(sys)("jax"))
    devices.barrier()
    devices.block([1])
    assert devices.compile_seconds() == 0.0
