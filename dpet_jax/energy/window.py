"""A named stretch of a program, and how to wait until the device has finished it."""

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from dpet_jax.energy.accounts.quantity import Energy

Waited = Literal["explicit", "barrier", "none"]

_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


class JaxDevices:
    """JAX's local devices, waited for without importing JAX.

    In a process that does not use JAX, nothing is waited for and nothing is compiled.
    """

    def __init__(self) -> None:
        self._tiny: Any = None
        self._compiled_s: float | None = None
        self._own = threading.local()

    def block(self, tree: Any) -> None:
        """Wait until the arrays of a tree are ready."""
        jax = _jax()
        if jax is not None:
            jax.block_until_ready(tree)

    def barrier(self) -> None:
        """Wait until every local device has finished its queued work.

        A device works in order, so one tiny computation that comes last waits for all
        others, including those whose results nobody holds any more. (JAX's
        `effects_barrier` does not: it waits for side effects.) The CPU is a device too:
        it computes asynchronously like the others, but in order only for one thread, so
        work queued by other threads is not waited for.
        """
        jax = _jax()
        if jax is None:
            return
        if self._tiny is None:
            self._tiny = jax.jit(lambda x: x + 1)
        self._own.compiling = True
        try:
            jax.block_until_ready(
                [
                    self._tiny(jax.device_put(0, device))
                    for device in jax.local_devices()
                ]
            )
        finally:
            self._own.compiling = False

    def compile_seconds(self) -> float:
        """Return the seconds JAX has spent compiling since the first call of this.

        Compiling the barrier's own computation is left out.
        """
        jax = _jax()
        if jax is None:
            return 0.0
        if self._compiled_s is None:
            # JAX offers no way to unregister, so one listener serves all meters
            self._compiled_s = 0.0
            jax.monitoring.register_event_duration_secs_listener(self._on_duration)
        return self._compiled_s

    def _on_duration(self, event: str, duration_secs: float, **_: Any) -> None:
        if event == _COMPILE_EVENT and not getattr(self._own, "compiling", False):
            self._compiled_s = (self._compiled_s or 0.0) + duration_secs


_devices = JaxDevices()


@dataclass(frozen=True)
class Accelerator:
    """How to wait for the device; by default JAX's way, if this process uses JAX.

    Attributes:
        block: Waits for the arrays of a tree.
        barrier: Waits for everything.
        compile_s: Returns the seconds spent compiling since a fixed moment.
    """

    block: Callable[[Any], None] = _devices.block
    barrier: Callable[[], None] = _devices.barrier
    compile_s: Callable[[], float] = _devices.compile_seconds


@dataclass
class Window:
    """A stretch of a program, including its inner windows.

    Attributes:
        phase: Its name.
        label: What it is a part of, or None.
        s: Seconds; 0 while it is open.
        energy: What was used; None while it is open.
        resolution_limited: Whether it was too short for sensors.
        waited: How it was made sure that the device had finished: by waiting for
            arrays, by the barrier at its end, or not at all.
    """

    phase: str
    label: str | None
    _block: Callable[[Any], None] = field(repr=False)
    s: float = 0.0
    energy: Energy | None = None
    resolution_limited: bool = False
    waited: Waited = "none"

    def sync(self, tree: Any) -> Any:
        """Wait for the arrays of a tree and return it; then the window may end."""
        self._block(tree)
        self.waited = "explicit"
        return tree


def _jax() -> Any:
    jax = sys.modules.get("jax")
    return jax if hasattr(jax, "block_until_ready") else None
