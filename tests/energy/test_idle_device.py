"""Waiting for JAX, and for no more than JAX."""

import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import pytest
from fakes.work import slow_program

from dpet_jax.energy import idle_device


def seconds_of(call):
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def test_barrier_waits_for_work_whose_result_nobody_holds():
    run = slow_program()
    idle_device.barrier()
    waited_s, blocked_s = [], []
    for _ in range(3):
        run()
        waited_s.append(seconds_of(idle_device.barrier))
        blocked_s.append(seconds_of(lambda: run().block_until_ready()))
    assert max(waited_s) > 0.8 * min(blocked_s)


def test_block_waits_for_the_arrays_of_a_tree():
    run = slow_program()
    tree = {"loss": 1.0, "params": [run()]}
    assert not tree["params"][0].is_ready()
    idle_device.block(tree)
    assert tree["params"][0].is_ready()


def test_barrier_on_an_idle_device_takes_next_to_nothing():
    idle_device.barrier()
    assert min(seconds_of(idle_device.barrier) for _ in range(20)) < 0.005


def test_barrier_asks_every_local_device(monkeypatch):
    asked = []
    devices = jax.local_devices() * 3
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    real = jax.device_put
    monkeypatch.setattr(
        jax, "device_put", lambda x, device: asked.append(device) or real(x, device)
    )
    idle_device.barrier()
    assert asked == devices


def test_barrier_does_not_wait_for_side_effects_instead(monkeypatch):
    def not_a_sync():
        raise AssertionError("effects_barrier does not wait for computations")

    monkeypatch.setattr(jax, "effects_barrier", not_a_sync)
    idle_device.barrier()


@pytest.fixture
def cache_off():
    """Compile for real: what comes from the disk is not compiled."""
    jax.config.update("jax_enable_compilation_cache", False)
    yield
    jax.config.update("jax_enable_compilation_cache", True)


@pytest.mark.usefixtures("cache_off")
def test_compile_seconds_grow_by_what_is_compiled_and_only_then():
    program = jax.jit(lambda x: jnp.cumsum(jnp.sort(x)) * 3.25)
    x = jnp.arange(777.0)
    before = idle_device.compile_seconds()
    took_s = seconds_of(lambda: program(x).block_until_ready())
    after = idle_device.compile_seconds()
    assert 0 < after - before <= took_s
    program(x).block_until_ready()
    assert idle_device.compile_seconds() == after


def test_one_listener_serves_however_many_ask(monkeypatch):
    monkeypatch.setattr(idle_device, "_compiled_s", None)
    added = []
    monkeypatch.setattr(
        jax.monitoring, "register_event_duration_secs_listener", added.append
    )
    assert [idle_device.compile_seconds() for _ in range(3)] == [0.0, 0.0, 0.0]
    assert len(added) == 1
    added[0](idle_device._COMPILE_EVENT, 1.5, fun_name="f")
    added[0]("/jax/core/compile/jaxpr_trace_duration", 100.0)
    assert idle_device.compile_seconds() == 1.5


def test_own_compilation_of_the_barrier_is_not_the_programs(monkeypatch):
    idle_device.compile_seconds()
    monkeypatch.setattr(idle_device, "_tiny", None)
    before = idle_device.compile_seconds()
    idle_device.barrier()
    assert idle_device.compile_seconds() == before


def test_process_without_jax_waits_for_nothing_and_stays_without_it():
    code = (
        "import sys; from dpet_jax.energy import idle_device as d; d.barrier(); "
        "d.block([1]); assert d.compile_seconds() == 0.0; "
        "assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_jax_that_is_half_imported_is_left_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", type(sys)("jax"))
    idle_device.barrier()
    idle_device.block([1])
    assert idle_device.compile_seconds() == 0.0
