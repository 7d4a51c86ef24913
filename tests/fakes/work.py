"""Work for the device that lasts long enough to be waited for."""

import functools
import time

import jax
import jax.numpy as jnp


@functools.cache
def slow_program():
    """A jitted loop of some 200 ms, as a function of nothing."""

    @jax.jit
    def loop(x, times):
        return jax.lax.fori_loop(0, times, lambda _, x: jnp.tanh(x @ x), x)

    x = jnp.full((200, 200), 1 / 200)

    def seconds(times):
        began = time.perf_counter()
        loop(x, times).block_until_ready()
        return time.perf_counter() - began

    seconds(jnp.int32(2))
    probe_s = min(seconds(jnp.int32(50)) for _ in range(3))
    times = jnp.int32(max(50, round(50 * 0.2 / probe_s)))
    return lambda: loop(x, times)
