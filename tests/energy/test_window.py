"""A window tells what it is, and how it made sure that the device was idle."""

from dpet_jax.energy import Accelerator, idle_device
from dpet_jax.energy.window import Window


def test_accelerator_waits_jaxs_way_by_default():
    assert Accelerator() == Accelerator(
        idle_device.block, idle_device.barrier, idle_device.compile_seconds
    )


def test_sync_waits_for_the_tree_and_returns_it():
    waited = []
    window = Window("train", "round 3", waited.append)
    tree = {"params": [1, 2]}
    assert window.sync(tree) is tree
    assert waited == [tree]
    assert window._sync == "explicit"


def test_window_that_failed_to_wait_has_not_synced():
    def fail(tree):
        raise RuntimeError(f"out of memory in {tree}")

    window = Window("train", None, fail)
    try:
        window.sync([1])
    except RuntimeError:
        assert window._sync != "explicit"


def test_open_window_knows_no_energy_yet():
    window = Window("train", None, list)
    assert (window.s, window.energy, window.resolution_limited) == (0.0, None, False)
    assert "_block" not in repr(window)
