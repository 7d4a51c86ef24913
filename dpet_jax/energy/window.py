"""A named stretch of a program, and how to know that the device has finished it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dpet_jax.energy import idle_device
from dpet_jax.energy.accounts.quantity import Energy


@dataclass(frozen=True)
class Accelerator:
    """How to wait for the device; by default JAX's way, if this process uses JAX.

    Attributes:
        block: Waits for the arrays of a tree.
        barrier: Waits for everything.
        compile_s: Returns the seconds spent compiling since some moment.
    """

    block: Callable[[Any], None] = idle_device.block
    barrier: Callable[[], None] = idle_device.barrier
    compile_s: Callable[[], float] = idle_device.compile_seconds


@dataclass
class Window:
    """A stretch of a program, its inner windows included.

    Attributes:
        phase: Its name.
        label: What it is a part of, or None.
        s: Seconds; 0 while it is open.
        energy: What was used; None while it is open.
        resolution_limited: Whether it was too short for sensors.
    """

    phase: str
    label: str | None
    _block: Callable[[Any], None] = field(repr=False)
    s: float = 0.0
    energy: Energy | None = None
    resolution_limited: bool = False
    _sync: str = field(default="none", repr=False)

    def sync(self, tree: Any) -> Any:
        """Wait for the arrays of a tree, and return it; the window ends on them."""
        self._block(tree)
        self._sync = "explicit"
        return tree
