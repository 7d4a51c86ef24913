"""Work for the device that is still going on when its dispatch has returned."""

import functools

import jax
import jax.numpy as jnp


@functools.cache
def _program():
    @jax.jit
    def loop(x, times):
        return jax.lax.fori_loop(0, times, lambda _, x: jnp.tanh(x @ x), x)

    x = jnp.full((200, 200), 1 / 200)
    loop(x, jnp.int32(1)).block_until_ready()
    return lambda: loop(x, jnp.int32(200))


def pending_work():
    """Return an array that is not ready yet, and will not be for some 25 ms.

    On a busy machine the work may be done before anyone can look; then it is started
    again.
    """
    for _ in range(1000):
        result = _program()()
        if not result.is_ready():
            return result
    raise AssertionError("this device computes while it is asked, not afterwards")


def is_waited_for(attempt):
    """Whether the array that `attempt` returns is ready by then.

    XLA marks an array as ready a moment after work that was queued later could begin,
    so not every attempt finds it marked; but where nobody waits, none does.
    """
    return any(attempt().is_ready() for _ in range(50))
