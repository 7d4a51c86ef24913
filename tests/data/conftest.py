import io
import struct
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from dpet_jax.data.source import ImageSet, Source
from dpet_jax.errors import UserError

CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)


@pytest.fixture
def refused():
    """Call a function and return the message of the UserError that it must raise."""

    def message(call, *args, **kwargs):
        with pytest.raises(UserError) as caught:
            call(*args, **kwargs)
        return str(caught.value)

    return message


def picture(array, kind="png", **options):
    """The bytes of a picture file; grey for [h w], RGB for [h w 3]."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def as_picture():
    return picture


@pytest.fixture
def toy_source():
    """40 + 20 examples of 4 classes, 6 x 4 RGB, every pixel different by chance."""
    rng = np.random.default_rng(0)
    train, test = (
        ImageSet(
            rng.integers(0, 256, (num, 6, 4, 3), dtype=np.uint8),
            np.arange(num, dtype=np.int32) % 4,
        )
        for num in (40, 20)
    )
    return Source("toy", train, test, ("a", "b", "c", "d"))


class Cifar(NamedTuple):
    """A small set in one of CIFAR's published forms, and what must come out of it."""

    path: Path
    images: dict[str, np.ndarray]
    labels: dict[str, dict[str, np.ndarray]]
    class_names: dict[str, list[str]]


def python2_pickle(value):
    """Pickle as Python 2 and NumPy 1 did at protocol 2, like the official archives."""

    def text(string):
        return b"T" + struct.pack("<i", len(string)) + string

    def encode(value):
        if isinstance(value, dict):
            pairs = b"".join(text(k.encode()) + encode(v) for k, v in value.items())
            return b"}(" + pairs + b"u"
        if isinstance(value, list):
            return b"](" + b"".join(map(encode, value)) + b"e"
        if isinstance(value, str):
            return text(value.encode())
        if isinstance(value, int):
            return b"J" + struct.pack("<i", value)
        dtype = b"cnumpy\ndtype\n(" + text(b"u1") + b"K\x00K\x01tR"
        dtype += (
            b"(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        )
        empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85"
        empty += text(b"b") + b"tR"
        shape = b"(" + b"".join(encode(int(side)) for side in value.shape) + b"t"
        return (
            empty + b"(K\x01" + shape + dtype + b"\x89" + text(value.tobytes()) + b"tb"
        )

    return b"\x80\x02" + encode(value) + b"."


def _rows(images):
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def _python_files(name, images, labels, class_names):
    if name == "cifar10":
        keys, meta = {"label": "labels"}, "batches.meta"
        # Ten comes after two, whatever the alphabet says.
        parts = {
            "data_batch_1": (0, 9),
            "data_batch_2": (9, 14),
            "data_batch_10": (14, 30),
        }
        parts = {key: ("train", slice(*ends)) for key, ends in parts.items()}
        parts["test_batch"] = ("test", slice(None))
    else:
        keys, meta = {"coarse_label": "coarse_labels", "label": "fine_labels"}, "meta"
        parts = {split: (split, slice(None)) for split in ("train", "test")}
    files = {
        file: python2_pickle(
            {
                "data": _rows(images[split][rows]),
                **{k: labels[split][label][rows].tolist() for label, k in keys.items()},
            }
        )
        for file, (split, rows) in parts.items()
    }
    prefix = {"label": "" if name == "cifar10" else "fine_"} | {
        "coarse_label": "coarse_"
    }
    names = {f"{prefix[k]}label_names": v for k, v in class_names.items()}
    return files | {meta: python2_pickle(names), "readme.html": b"<html></html>"}


def _binary_files(name, images, labels, class_names):
    def records(split, rows):
        columns = [labels[split][label].astype(np.uint8) for label in class_names]
        pixels = _rows(images[split])
        return np.hstack([np.stack(columns, 1), pixels])[rows].tobytes()

    if name == "cifar10":
        files = {
            "data_batch_1.bin": records("train", slice(0, 9)),
            "data_batch_2.bin": records("train", slice(9, None)),
            "test_batch.bin": records("test", slice(None)),
            "batches.meta.txt": ("\n".join(class_names["label"]) + "\n\n").encode(),
        }
    else:
        files = {f"{s}.bin": records(s, slice(None)) for s in ("train", "test")}
        for label, key in (("label", "fine"), ("coarse_label", "coarse")):
            files[f"{key}_label_names.txt"] = "\n".join(class_names[label]).encode()
    return files


def _picture_files(_name, images, labels, class_names):
    return {
        f"{split}/{class_names['label'][label]}/{row:04}.png": picture(
            images[split][row]
        )
        for split in images
        for row, label in enumerate(labels[split]["label"])
    }


_FORMS = {"python": _python_files, "binary": _binary_files, "pictures": _picture_files}


@pytest.fixture
def make_cifar(tmp_path):
    """Make a small CIFAR in a form: python, binary or pictures; packed or not."""

    def make(name, form, packed=False):
        rng = np.random.default_rng(1)
        num_classes = 10 if name == "cifar10" else 100
        sizes = {"train": 30 if name == "cifar10" else 100, "test": 7}
        images = {
            split: rng.integers(0, 256, (num, 32, 32, 3), dtype=np.uint8)
            for split, num in sizes.items()
        }
        labels, class_names = {}, {}
        if name == "cifar100":
            class_names["coarse_label"] = [f"group{i}" for i in range(20)]
        class_names["label"] = (
            list(CIFAR10_CLASSES)
            if name == "cifar10"
            else [f"kind{i}" for i in range(num_classes)]
        )
        for split, num in sizes.items():
            fine = rng.permutation(num).astype(np.int32) % num_classes
            if form == "pictures":
                fine = np.sort(fine)  # the order in which folders are read
            labels[split] = {"label": fine}
            if name == "cifar100":
                labels[split]["coarse_label"] = (fine * 7) % 20
        files = _FORMS[form](name, images, labels, class_names)
        inside = f"{name.replace('cifar', 'cifar-')}-{form}"
        if packed:
            path = tmp_path / f"{inside}.tar.gz"
            with tarfile.open(path, "w:gz") as archive:
                for file, content in files.items():
                    member = tarfile.TarInfo(f"{inside}/{file}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
        else:
            path = tmp_path / inside
            for file, content in files.items():
                (path / file).parent.mkdir(parents=True, exist_ok=True)
                (path / file).write_bytes(content)
        return Cifar(path, images, labels, class_names)

    return make
