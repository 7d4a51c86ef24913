"""Waiting for JAX, if this process uses it, without importing it."""

import sys
import threading
from typing import Any

_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"

_tiny: Any = None
_compiled_s: float | None = None
_own = threading.local()


def block(tree: Any) -> None:
    """Wait until the arrays of a tree are there."""
    jax = _jax()
    if jax is not None:
        jax.block_until_ready(tree)


def barrier() -> None:
    """Wait until every local device has finished what it was asked for.

    A device works in order, so one tiny computation that comes last waits for all
    others, those whose results nobody holds any more included. (JAX's
    `effects_barrier` does not: it waits for side effects.) The CPU is a device too:
    it computes asynchronously like the others, but in order only for one thread, so
    that what other threads asked of it is not waited for.
    """
    global _tiny
    jax = _jax()
    if jax is None:
        return
    if _tiny is None:
        _tiny = jax.jit(lambda x: x + 1)
    _own.compiling = True
    try:
        jax.block_until_ready(
            [_tiny(jax.device_put(0, device)) for device in jax.local_devices()]
        )
    finally:
        _own.compiling = False


def compile_seconds() -> float:
    """Return the seconds JAX has spent compiling since the first call of this.

    What the barrier itself needs is left out.
    """
    global _compiled_s
    jax = _jax()
    if jax is None:
        return 0.0
    if _compiled_s is None:
        # JAX offers no way to unregister, so one listener serves all meters
        _compiled_s = 0.0
        jax.monitoring.register_event_duration_secs_listener(_on_duration)
    return _compiled_s


def _on_duration(event: str, duration_secs: float, **_: Any) -> None:
    global _compiled_s
    if event == _COMPILE_EVENT and not getattr(_own, "compiling", False):
        _compiled_s = (_compiled_s or 0.0) + duration_secs


def _jax() -> Any:
    jax = sys.modules.get("jax")
    return jax if hasattr(jax, "block_until_ready") else None
