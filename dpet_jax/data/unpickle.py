"""Load a pickle from the network without running what it says."""

import io
import pickle
from typing import Any

import numpy as np

from dpet_jax.errors import UserError


def unpickle_arrays(blob: bytes, place: str) -> dict[str, Any]:
    """Load a pickled dictionary of arrays, numbers, strings and lists of them.

    A pickle may name any function for `pickle.load` to call. Here it may only name
    what NumPy arrays are made of; anything else is refused before it is called.

    Args:
        blob: The pickle, written by Python 2 or 3.
        place: File that it came from, for messages.

    Returns:
        The dictionary, with text keys. Strings of Python 2 inside it are bytes.

    Raises:
        UserError: If it is damaged, no dictionary, or asks for anything else.
    """
    try:
        loaded = _ArrayUnpickler(io.BytesIO(blob), encoding="bytes").load()
        return {
            key.decode() if isinstance(key, bytes) else str(key): value
            for key, value in loaded.items()
        }
    except Exception as error:  # a damaged pickle can raise anything
        raise UserError(
            f"{place}: not a pickled dictionary of arrays ({error}); download the "
            "official archive again."
        ) from error


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Hand out what arrays need, and refuse everything else."""
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None


def _reconstruct(kind: type, shape: tuple[int, ...], code: Any) -> np.ndarray:
    # An empty array whose shape, type and contents the pickle sets next.
    del kind, shape, code
    return np.empty(0, np.uint8)


def _encode(text: str, encoding: str) -> bytes:
    # How Python 3 writes bytes at protocol 2. Other codecs could unpack a bomb.
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the codec {encoding}")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,  # Python 2, NumPy 1
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,  # NumPy 2
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
}
