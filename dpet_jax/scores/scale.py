"""Exact scaling by powers of two, so that squares and sums stay inside float32.

Float32 ends at 3e38, so squares of numbers above 1e19 are infinite, and below 1e-19
they are 0. A product with a power of two changes no digit: what is scaled before and
back after has the same bits wherever nothing over- or underflows.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Float32, Int32

#: Exponents up to this, of either sign, need no scaling.
ORDINARY = 24
#: What `exponent` returns of 0.
ZERO = -127


def exponent(x: Float32[Array, "..."]) -> Int32[Array, "..."]:
    """Return floor(log2 |x|) of finite numbers; `ZERO` of 0 and subnormals."""
    bits = lax.bitcast_convert_type(jnp.abs(x), jnp.int32)
    return (bits >> 23) + jnp.int32(ZERO)


def unordinary(exponents: Int32[Array, "..."]) -> Int32[Array, "..."]:
    """Return the exponents that ask for scaling, and 0 in place of all others."""
    asks = (jnp.abs(exponents) > ORDINARY) & (exponents > ZERO)
    return jnp.where(asks, exponents, 0)


def times_two_to(
    x: Float[Array, "..."], power: Int32[Array, "..."]
) -> Float[Array, "..."]:
    """Return x 2^power, exactly unless it leaves its dtype: infinite above, 0 below."""
    # 2^252, the most that two factors can give, spans all of float32
    power = jnp.clip(power, -252, 252)
    half = power // 2
    return x * _two_to(half).astype(x.dtype) * _two_to(power - half).astype(x.dtype)


def length(x: Float32[Array, " d"]) -> Float32[Array, ""]:
    """Compute the Euclidean length of a vector, whose squares may leave float32."""
    power = unordinary(exponent(jnp.max(jnp.abs(x), initial=0.0)))
    return times_two_to(jnp.linalg.norm(times_two_to(x, -power)), power)


def _two_to(power):
    return lax.bitcast_convert_type((power + jnp.int32(127)) << 23, jnp.float32)
