"""Labels and probabilities for new images, from a run's model."""

import csv
import io
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from dpet_jax.data.new_images import read_new_images
from dpet_jax.errors import UserError
from dpet_jax.files import csv_cell
from dpet_jax.run.load import LoadedRun, load_run
from dpet_jax.run.machine import pinned

_BATCH = 500


class Prediction(NamedTuple):
    """What the model says about each image.

    Attributes:
        names: What each image is called: its file, or its row.
        labels: int32[n], the likeliest class.
        probabilities: float32[n k].
        class_names: One name a class.
        accuracy: Share that agrees with the given labels; None without labels.
    """

    names: list[str]
    labels: np.ndarray
    probabilities: np.ndarray
    class_names: tuple[str, ...]
    accuracy: float | None

    def to_csv(self) -> str:
        """Return a table: image, label, name of the class, one probability a class."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(
            ["image", "label", "class", *(f"p_{name}" for name in self.class_names)]
        )
        rows = zip(self.names, self.labels, self.probabilities, strict=True)
        for name, label, probabilities in rows:
            shares = (f"{share:.6f}" for share in probabilities)
            cells = name, label, self.class_names[label], *shares
            table.writerow(map(csv_cell, cells))
        return text.getvalue()

    def write_csv(self, path: Path) -> None:
        """Write the table.

        Raises:
            UserError: If the file cannot be written.
        """
        try:
            path.write_text(self.to_csv(), encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"--csv: {path}: cannot be written ({error.strerror}); choose another "
                "place"
            ) from error


def predict(model: Path, source: Path) -> Prediction:
    """Classify new images with the model of a run.

    Args:
        model: A run folder, or a file that `dpet export` wrote.
        source: An .npz file or a folder of pictures; see `read_new_images`.

    Raises:
        UserError: If the run or the images cannot be read.
    """
    with pinned():
        run = load_run(model)
        new = read_new_images(source, run.image_shape, run.class_names, run.view.resize)
        shares = probabilities(run, new.images)
    labels = shares.argmax(axis=1).astype(np.int32)
    accuracy = None if new.labels is None else float(np.mean(labels == new.labels))
    return Prediction(new.names, labels, shares, run.class_names, accuracy)


def probabilities(run: LoadedRun, images: np.ndarray) -> np.ndarray:
    """Run the model in batches of one size, so that it compiles once.

    Args:
        run: The model.
        images: uint8[n h w c], raw pixels.

    Returns:
        float32[n k].
    """
    classify = jax.jit(
        lambda params, images: jax.nn.softmax(run.apply_fn(params, images))
    )
    count = len(images)
    padded = np.resize(np.arange(count), -(-count // _BATCH) * _BATCH)
    batches = padded.reshape(-1, _BATCH)
    parts = [np.asarray(classify(run.params, images[batch])) for batch in batches]
    return np.concatenate(parts)[:count]
