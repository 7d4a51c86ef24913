"""One file that holds the model of a run, and running it from there."""

from pathlib import Path
from typing import NamedTuple

from dpet_jax.errors import UserError
from dpet_jax.files import read_yaml
from dpet_jax.models.packed import Form, packed
from dpet_jax.models.weights import write_weights
from dpet_jax.run.folder import CONFIG, reading
from dpet_jax.run.pretrained import card_of_run


class Exported(NamedTuple):
    """What was written.

    Attributes:
        path: The file.
        form: In which its arrays are stored.
        size: Bytes of the file.
        float32: Bytes that the arrays take as float32.
    """

    path: Path
    form: Form
    size: int
    float32: int

    def __str__(self) -> str:
        """Return it in one line."""
        share = self.size / self.float32
        return (
            f"{self.path}: {self.size:,} bytes, {share:.3f} of the {self.float32:,} of "
            "its arrays in float32"
        )


def export(folder: Path, form: Form, path: Path, licence: str | None) -> Exported:
    """Write the model of a finished run into one safetensors file with a card.

    `load_run`, `dpet predict` and `dpet pool add` read it.

    Args:
        folder: The run's.
        form: In which its arrays are stored; whole numbers have the bits of
            `train.quantize` where the run was trained with it, and are then exact.
        path: The file; one that is there is replaced.
        licence: Under which the model may be used.

    Raises:
        UserError: If there is no such run, it has not ended, or the file cannot be
            written.
    """
    if path.suffix != ".safetensors":
        raise UserError(
            f"--out: {path}: is not named as what it holds; let the name end in "
            ".safetensors"
        )
    card, arrays = card_of_run(folder, path.stem, licence)
    with reading(folder):
        quantize = read_yaml(folder / CONFIG)["train"].get("quantize")
    bits = quantize["bits"] if quantize else 8
    stored = packed(arrays, form, bits)
    plain = card.model_copy(update={"form": form}).model_dump(mode="json")
    try:
        write_weights(path, stored, plain)
        size = path.stat().st_size
    except OSError as error:
        raise UserError(
            f"--out: {path}: cannot be written ({error.strerror}); choose another place"
        ) from error
    return Exported(path, form, size, sum(4 * array.size for array in arrays.values()))
