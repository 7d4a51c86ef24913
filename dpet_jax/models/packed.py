"""How a network's arrays are stored: float32, bfloat16 or whole numbers.

In "int8" kernels are whole numbers with a scale for each output channel, beside them
under the name with ":scale"; what else there is stays float32, a few numbers in a
hundred. In "bf16" all parameters are rounded; running statistics stay float32.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np

Form = Literal["f32", "bf16", "int8"]

_SCALE = ":scale"


def packed(
    arrays: Mapping[str, np.ndarray], form: Form, bits: int = 8
) -> dict[str, np.ndarray]:
    """Return arrays as they are stored.

    Args:
        arrays: float32 by flat names, "params/…" and "batch_stats/…".
        form: In which.
        bits: Of whole numbers; those in which the network was trained, if it was.
    """
    import jax.numpy as jnp

    from dpet_jax.models.quantize import is_kernel, quantize

    stored: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        stored[name] = array
        if form == "bf16" and name.startswith("params/"):
            stored[name] = array.astype(jnp.bfloat16)
        elif form == "int8" and is_kernel(name.rpartition("/")[2], array):
            quantized = quantize(jnp.asarray(array), bits)
            stored[name] = np.asarray(quantized.values)
            stored[name + _SCALE] = np.asarray(quantized.scale)
    return stored


def unpacked(stored: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return float32 arrays from what is stored in any form."""

    def plain(name: str) -> np.ndarray:
        array = stored[name].astype(np.float32)
        return array * stored[name + _SCALE] if name + _SCALE in stored else array

    return {name: plain(name) for name in stored if not name.endswith(_SCALE)}
