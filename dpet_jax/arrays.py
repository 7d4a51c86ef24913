"""Arrays in .npz files that a user names, and how many of them fit into memory."""

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dpet_jax.errors import UserError


def read_arrays(
    path: Path, wanted: Sequence[str]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Read some arrays of an .npz file.

    Args:
        path: The file.
        wanted: Names of the arrays to read, where they are there.

    Returns:
        The arrays by name, and the names of all arrays in the file, in order.

    Raises:
        UserError: If it is no such file, or an array in it is damaged or of objects.
    """
    if not os.path.isfile(path):
        raise UserError(
            f"{path}: no such file, or no regular one; give the path of an .npz file."
        )
    try:
        if not zipfile.is_zipfile(path):
            raise UserError(
                f"{path}: is no .npz file; save images and labels together with "
                "numpy.savez."
            )
        _check_size(path)
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files if key in wanted}, sorted(
                file.files
            )
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(f"{path}: does not fit into memory ({error}).") from error
    except Exception as error:  # each layer of a damaged file has its own exceptions
        if "allow_pickle" in str(error):
            raise UserError(
                f"{path}: holds an array of Python objects; save plain arrays of "
                "numbers with numpy.savez."
            ) from error
        raise UserError(
            f"{path}: cannot be read as an .npz file ({error}); save it again with "
            "numpy.savez."
        ) from error


def _check_size(path: Path) -> None:
    """Refuse a file that is small and unpacks to more than there is memory for."""
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > memory():
        raise UserError(
            f"{path}: unpacks to {unpacked / 1e9:,.1f} GB, but this machine has "
            f"{memory() / 1e9:,.1f} GB of memory; save fewer or smaller images."
        )


def memory() -> int:
    """Return how many bytes of memory this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def size_text(count: int) -> str:
    """Return bytes as people read them."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.3g} MB"
