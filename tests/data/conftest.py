import io
import struct
import tarfile

import numpy as np
import pytest
from PIL import Image

from dpet_jax.data import DataSection
from dpet_jax.data.source import ImageSet, Source
from dpet_jax.data.sources import cifar
from dpet_jax.errors import UserError


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


class InMemory(DataSection):
    """How to split a source that is there already."""

    def read(self):
        raise NotImplementedError


@pytest.fixture
def settings():
    """Make a data section of nothing but the keys that all of them have."""
    return InMemory


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


# Archives of CIFAR


def python2_pickle(value):
    """Pickle as Python 2 and NumPy 1 did at protocol 2, like the official archives."""
    memo = iter(range(2**32))

    def put():
        return b"r" + struct.pack("<I", next(memo))

    def text(string):
        if len(string) < 256:
            return b"U" + bytes([len(string)]) + string + put()
        return b"T" + struct.pack("<i", len(string)) + string + put()

    def encode(value):
        match value:
            case dict():
                pairs = b"".join(text(k.encode()) + encode(v) for k, v in value.items())
                return b"}" + put() + b"(" + pairs + b"u"
            case list():
                return b"]" + put() + b"(" + b"".join(map(encode, value)) + b"e"
            case str():
                return text(value.encode())
            case int():
                small = 0 <= value < 256
                return b"K%c" % value if small else b"J" + struct.pack("<i", value)
        dtype = b"cnumpy\ndtype\n(" + text(b"u1") + b"K\x00K\x01tR" + put()
        dtype += b"(K\x03" + text(b"|") + b"NNN" + 2 * b"J\xff\xff\xff\xff" + b"K\x00tb"
        empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85"
        empty += text(b"b") + b"tR" + put()
        shape = b"".join(encode(int(side)) for side in value.shape) + b"\x86"
        return (
            empty + b"(K\x01" + shape + dtype + b"\x89" + text(value.tobytes()) + b"tb"
        )

    return b"\x80\x02" + encode(value) + b"."


@pytest.fixture
def pickled():
    return python2_pickle


CLASSES = {
    "cifar10": {"fine": [f"kind{i}" for i in range(10)]},
    "cifar100": {
        "coarse": [f"group{i}" for i in range(20)],
        "fine": [f"kind{i}" for i in range(100)],
    },
}


class CifarArchive:
    """An archive like the official one but for its size: files by name, to be changed.

    Attributes:
        images: Of train and test, what must come out.
        labels: Of train and test, by kind of label, likewise.
        files: Contents of each member.
    """

    def __init__(self, data_set, form, images, labels):
        self.data_set, self.form = data_set, form
        self.classes = CLASSES[data_set]
        self.images, self.labels = images, labels
        self.files = self._python() if form == "python" else self._binary()

    @property
    def parts(self):
        """Split and rows of each file with images, by its name."""
        if self.data_set == "cifar100":
            return {split: (split, slice(None)) for split in ("train", "test")}
        rows = len(self.images["test"])
        train = {
            f"data_batch_{i + 1}": ("train", slice(i * rows, (i + 1) * rows))
            for i in range(5)
        }
        return {"test_batch": ("test", slice(None)), **train}

    def pixels(self, split):
        images = self.images[split]
        return images.transpose(0, 3, 1, 2).reshape(len(images), -1)

    def batch(self, name):
        """What the pickle of a part holds."""
        split, rows = self.parts[name]
        prefix = "" if self.data_set == "cifar10" else "{}_"
        labels = {
            f"{prefix.format(kind)}labels": values[rows].tolist()
            for kind, values in self.labels[split].items()
        }
        count = len(self.images[split][rows])
        names = [f"leptodactylus_s_{i:06}.png" for i in range(count)]
        return {"data": self.pixels(split)[rows], **labels, "filenames": names}

    def _python(self):
        files = {name: python2_pickle(self.batch(name)) for name in self.parts}
        if self.data_set == "cifar10":
            names = {"num_vis": 3072, "label_names": self.classes["fine"]}
            return files | {"batches.meta": python2_pickle(names)}
        names = {f"{kind}_label_names": n for kind, n in self.classes.items()}
        return files | {"meta": python2_pickle(names), "file.txt~": b"draft"}

    def _binary(self):
        files = {}
        for name, (split, rows) in self.parts.items():
            columns = [
                values.astype(np.uint8) for values in self.labels[split].values()
            ]
            records = np.hstack([np.stack(columns, 1), self.pixels(split)])
            files[f"{name}.bin"] = records[rows].tobytes()
        for kind, names in self.classes.items():
            name = f"{kind}_label_names.txt"
            name = "batches.meta.txt" if self.data_set == "cifar10" else name
            files[name] = "\n".join([*names, ""]).encode()
        return files

    @property
    def folder_name(self):
        return f"{self.data_set}-{self.form}"

    def unpacked(self, at):
        """Write the folder that the archive unpacks to, and return it."""
        folder = at / self.folder_name
        folder.mkdir()
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        return folder

    def packed(self, at, mode="w:gz"):
        """Write the archive, and return its path."""
        path = at / f"{self.folder_name}.tar.gz"
        with tarfile.open(path, mode, compresslevel=1) as archive:
            archive.addfile(directory(self.folder_name))
            for name, content in self.files.items():
                member = tarfile.TarInfo(f"{self.folder_name}/{name}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return path


def directory(name):
    member = tarfile.TarInfo(name)
    member.type = tarfile.DIRTYPE
    return member


@pytest.fixture
def make_cifar(monkeypatch):
    """Make an archive in which a batch has 100 rows, where the official has 10,000."""

    def make(data_set, form, rows=100):
        monkeypatch.setattr(cifar, "_BATCH_ROWS", rows)
        rng = np.random.default_rng(1)
        sizes = {"train": 5 * rows, "test": rows}
        images = {
            split: rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
            for split, count in sizes.items()
        }
        labels = {}
        for split, count in sizes.items():
            fine = rng.permutation(count).astype(np.int32)
            if data_set == "cifar10":
                labels[split] = {"fine": fine % 10}
            else:
                labels[split] = {"coarse": fine % 100 // 5, "fine": fine % 100}
        return CifarArchive(data_set, form, images, labels)

    return make
