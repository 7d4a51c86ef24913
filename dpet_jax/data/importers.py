"""Turn CIFAR, as people have it on disk, into the prepared layout of TFDS."""

import contextlib
import io
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dpet_jax.data.cifar import SIZE, Cifar, Name, Records, read_cifar
from dpet_jax.errors import UserError

_VERSION = "3.0.2"  # the one that TFDS's own cifar10 and cifar100 look for
_OFFICIAL_SIZES = {"train": 50_000, "test": 10_000}


def import_dataset(
    name: Name, source: Path, target: Path, overwrite: bool = False
) -> Path:
    """Write CIFAR-10 or CIFAR-100 so that `tfds.data_source(name, target)` reads it.

    Neither TensorFlow nor the network is used. Rows keep the order of the source (no
    shuffling), so that row numbers mean the same in the archive and in TFDS. The set
    is written beside its place and moved there when complete: an error or Ctrl-C
    leaves nothing half-written. A set smaller than the official one is written with a
    warning in the log.

    Args:
        name: Which of the two.
        source: Archive or folder, as `read_cifar` takes it.
        target: TFDS's data folder; made if need be. The set goes into
            `target/name/3.0.2`.
        overwrite: Replace a set that is already there.

    Returns:
        The folder of the prepared set.

    Raises:
        UserError: If the source is not readable as `name`, or the set is there already
            and `overwrite` is false, or `target` cannot be written.
    """
    final = target / name / _VERSION
    if final.exists() and not overwrite:
        raise UserError(
            f"{final}: there is a prepared set already; give --overwrite to replace "
            "it, or another --to."
        )
    cifar = read_cifar(name, source)
    for split, records in cifar.splits.items():
        if len(records.images) != _OFFICIAL_SIZES[split]:
            logging.getLogger(__name__).warning(
                "%s: %d %s images; the official %s has %d",
                *(source, len(records.images), split, name, _OFFICIAL_SIZES[split]),
            )
    try:
        with (
            _made(target),
            tempfile.TemporaryDirectory(dir=target, prefix=".") as beside,
        ):
            written = _write(name, cifar, beside)
            final.parent.mkdir(exist_ok=True)
            if final.exists():
                os.replace(final, Path(beside) / "replaced")
            os.replace(written, final)
    except OSError as error:
        raise UserError(
            f"{target}: cannot be written ({error}); choose another --to."
        ) from error
    return final


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[None]:
    missing = [part for part in (folder, *folder.parents) if not part.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for part in missing:
            with contextlib.suppress(OSError):
                part.rmdir()
        raise


def _write(name: Name, cifar: Cifar, data_dir: str) -> Path:
    # Imported here because it takes a second, and most commands never write.
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import registered

    features: dict[str, Any] = {
        "id": tfds.features.Text(),
        "image": tfds.features.Image(shape=(SIZE, SIZE, 3)),
    }
    for label, classes in cifar.classes.items():
        features[label] = (
            tfds.features.ClassLabel(num_classes=classes)
            if isinstance(classes, int)
            else tfds.features.ClassLabel(names=classes)
        )

    with registered.skip_registration():

        class Prepared(tfds.core.GeneratorBasedBuilder):
            """The images of an archive under the name and version that TFDS knows."""

            VERSION = tfds.core.Version(_VERSION)

            def _info(self) -> Any:
                return tfds.core.DatasetInfo(
                    builder=self,
                    description=f"{name}, made by `dpet data import` in archive order.",
                    features=tfds.features.FeaturesDict(features),
                    supervised_keys=("image", "label"),
                    homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
                    disable_shuffling=True,
                )

            def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
                del dl_manager
                return {
                    split: self._generate_examples(split, records)
                    for split, records in cifar.splits.items()
                }

            def _generate_examples(self, split: str, records: Records) -> Any:
                for row, image in enumerate(records.images):
                    labels = {key: int(v[row]) for key, v in records.labels.items()}
                    yield (
                        row,
                        {"id": f"{split}_{row:05d}", "image": _png(image), **labels},
                    )

    Prepared.name = name
    builder = Prepared(data_dir=data_dir, file_format="array_record")
    # TFDS prints to both while it writes.
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        builder.download_and_prepare()
    return Path(builder.data_dir)


def _png(image: np.ndarray) -> bytes:
    # Bytes, because TFDS hands arrays to TensorFlow for encoding.
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    return buffer.getvalue()
