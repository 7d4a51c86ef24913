"""Compilation ahead of time, counted by the events that JAX itself reports."""

import time
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
from jax.stages import Compiled

_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
_HIT_EVENT = "/jax/compilation_cache/cache_hits"
_FETCH_EVENT = "/jax/compilation_cache/cache_retrieval_time_sec"


@dataclass
class CompileCounts:
    """Compilations of this process.

    Attributes:
        programs: Executables built or fetched from the persistent cache.
        cache_hits: Those of them that came from the persistent cache.
        seconds: Time spent on them.
        fetching_s: Of that time, spent on those from the cache.
    """

    programs: int = 0
    cache_hits: int = 0
    seconds: float = 0.0
    fetching_s: float = 0.0

    def since(self, earlier: "CompileCounts") -> "CompileCounts":
        """Return the difference to an earlier copy."""
        return CompileCounts(
            self.programs - earlier.programs,
            self.cache_hits - earlier.cache_hits,
            self.seconds - earlier.seconds,
            self.fetching_s - earlier.fetching_s,
        )

    def copy(self) -> "CompileCounts":
        """Return a copy that later events leave alone."""
        return replace(self)


class Program(NamedTuple):
    """A program ready to run.

    Attributes:
        run: The executable.
        flops: FLOPs by XLA's own count, before optimisation, in which the body of a
            loop counts once whatever the loop does; None if XLA does not say.
        seconds: Time that tracing and compiling it took, or fetching it from the
            persistent cache.
    """

    run: Compiled
    flops: float | None
    seconds: float


_counts = CompileCounts()
_programs: dict[Any, Program] = {}


def _on_duration(event: str, duration_secs: float, **_: Any) -> None:
    if event == _COMPILE_EVENT:
        _counts.programs += 1
        _counts.seconds += duration_secs
    elif event == _FETCH_EVENT:
        _counts.fetching_s += duration_secs


def _on_event(event: str, **_: Any) -> None:
    if event == _HIT_EVENT:
        _counts.cache_hits += 1


# JAX offers no way to unregister, so the listeners live as long as the process
jax.monitoring.register_event_duration_secs_listener(_on_duration)
jax.monitoring.register_event_listener(_on_event)


def compile_counts() -> CompileCounts:
    """Return a copy of the counts up to now."""
    return _counts.copy()


def compiled(
    jitted: Any, spec: Any, *arguments: Any
) -> tuple[Program, CompileCounts | None]:
    """Compile a program for the shapes of its arguments, once in a process.

    Args:
        jitted: A jitted function whose first argument is static.
        spec: That argument, hashable.
        arguments: The others, arrays or their shapes.

    Returns:
        The program, and what compiling it cost; None if it was there already.
    """
    leaves, structure = jax.tree.flatten(arguments)
    shapes = tuple(
        (leaf.shape, str(leaf.dtype), getattr(leaf, "sharding", None))
        for leaf in leaves
    )
    key = (jitted, spec, structure, shapes)
    if key in _programs:
        return _programs[key], None
    before, began = compile_counts(), time.monotonic()
    lowered = jitted.lower(spec, *arguments)
    flops = (lowered.cost_analysis() or {}).get("flops", 0.0)
    run = lowered.compile()
    took = time.monotonic() - began
    _programs[key] = Program(run, flops if flops > 0 else None, took)
    return _programs[key], compile_counts().since(before)
