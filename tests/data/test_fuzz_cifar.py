"""Whatever an archive of CIFAR holds, it is read or refused in a sentence."""

import gzip
import io
import pickle
import shutil
import tarfile
import tracemalloc

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dpet_jax.data.sources import Cifar
from dpet_jax.errors import UserError

# An archive of these tests has 200 KB.
MAX_BYTES = 8e6

OPCODES = [bytes([code]) for code in range(256) if chr(code).isprintable()]
OPCODES += [b"\x80\x02", b"\x85", b"\x86", b"\x87", b"\x88", b"\x8a", b"\x8e", b"\x93"]
OPCODES += [b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\n_reconstruct\n", b"]", b"}"]
OPCODES += [b"cnumpy\nndarray\n", b"U\x02u1", b"K\x00", b"K\x01", b"h\x00", b"q\x00"]
OPCODES += [b"U\x04data", b"U\x06labels", b"X\xff\xff\xff\xff", b"T\xff\xff\xff\x7f"]
OPCODES += [b"J\xff\xff\xff\xff", b"(lp0\n", b"S'a'\n", b"I99999999999\n"]
OPCODES += [b"cos\nsystem\n", b"."]
SOUP = st.lists(st.sampled_from(OPCODES) | st.binary(max_size=3), max_size=60).map(
    b"".join
)
PLAIN = st.recursive(
    st.none() | st.integers() | st.binary(max_size=5) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["data", "labels", "label_names", "fine_labels", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
PICKLES = st.builds(pickle.dumps, PLAIN, st.integers(0, 5))


@st.composite
def damaged(draw, content):
    """Bytes with a few of them cut out, changed or put in."""
    for _ in range(draw(st.integers(1, 4))):
        # Where an archive or a pickle says what follows, more often than elsewhere.
        size = len(content)
        near = st.integers(0, min(600, size))
        at = draw(near) if draw(st.booleans()) else size - draw(near)
        at = at if draw(st.booleans()) else draw(st.integers(0, size))
        to = min(size, at + draw(st.integers(0, 8) | st.just(10**9)))
        put_in = draw(st.binary(max_size=8) | st.sampled_from(OPCODES))
        content = content[:at] + put_in + content[to:]
    return content


def tar(files, claims):
    """An archive of files, some of which claim another size or kind in their header."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"folder/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    raw = bytearray(buffer.getvalue())
    for at, value in claims:
        raw[at : at + len(value)] = value
    return bytes(raw)


@st.composite
def archives(draw, wholes):
    """Contents of an archive file, or of the files of a folder."""
    files = dict(draw(st.sampled_from(wholes)))
    for name in draw(st.lists(st.sampled_from([*files]), max_size=2)):
        files[name] = draw(damaged(files[name]) | PICKLES | SOUP | st.just(b""))
    if draw(st.booleans()):
        return files
    sizes = st.sampled_from([b"77777777777\0", b"00000000000\0", b"-1", b"\x80" * 12])
    claims = st.tuples(st.just(124), sizes) | st.tuples(
        st.just(156), st.sampled_from([b"2", b"1", b"3", b"S", b"L", b"x", b"K"])
    )
    raw = tar(files, draw(st.lists(claims, max_size=2)))
    if draw(st.booleans()):
        raw = draw(damaged(raw))
    if draw(st.booleans()):
        raw = gzip.compress(raw, 1)
        if draw(st.booleans()):
            raw = draw(damaged(raw))
    return raw


def check(folder, archive):
    """Read an archive, within memory, to a data set or a sentence."""
    path = folder / "archive"
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if isinstance(archive, bytes):
        path.write_bytes(archive)
    else:
        path.mkdir()
        for name, content in archive.items():
            (path / name).write_bytes(content)
    tracemalloc.start()
    source, message = None, ""
    try:
        source = Cifar(path=path).read()
    except UserError as error:
        message = str(error)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < MAX_BYTES
    if source is None:
        assert message.startswith(str(path))
        assert len(message) < 2000
    else:
        assert source.train.images.dtype == np.uint8
        assert source.train.labels.max() < len(source.class_names)


@settings(
    derandomize=True,
    deadline=None,
    max_examples=60,
    suppress_health_check=[*HealthCheck],
)
@given(data=st.data())
def test_any_archive_is_read_or_refused(make_cifar, tmp_path, data):
    wholes = [make_cifar("cifar10", form, 10).files for form in ("python", "binary")]
    check(tmp_path, data.draw(archives(wholes)))
