import io
import os
import tarfile
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dpet_jax.data.sources import Cifar, cifar
from dpet_jax.errors import UserError


def assert_read(source, made, kind="fine"):
    assert source.class_names == tuple(made.classes[kind])
    for split, read in (("train", source.train), ("test", source.test)):
        np.testing.assert_array_equal(read.images, made.images[split])
        np.testing.assert_array_equal(read.labels, made.labels[split][kind])


@pytest.mark.parametrize("data_set", ["cifar10", "cifar100"])
@pytest.mark.parametrize("form", ["python", "binary"])
def test_each_archive_is_read_bit_by_bit_packed_and_unpacked(
    make_cifar, tmp_path, data_set, form
):
    made = make_cifar(data_set, form)
    for path in (made.packed(tmp_path), made.unpacked(tmp_path), tmp_path):
        source = Cifar(path=path).read()
        assert source.name == data_set
        assert_read(source, made)


@pytest.mark.parametrize("form", ["python", "binary"])
def test_cifar100_can_be_labelled_by_its_twenty_groups(make_cifar, tmp_path, form):
    made = make_cifar("cifar100", form)
    source = Cifar(path=made.packed(tmp_path), labels="coarse").read()
    assert source.name == "cifar100_coarse"
    assert_read(source, made, "coarse")


def test_a_plain_tar_is_read_too(make_cifar, tmp_path):
    made = make_cifar("cifar10", "binary")
    path = made.packed(tmp_path)
    with tarfile.open(path) as packed, tarfile.open(tmp_path / "a.tar", "w") as plain:
        for member in packed:
            plain.addfile(member, packed.extractfile(member) if member.size else None)
    assert_read(Cifar(path=tmp_path / "a.tar").read(), made)


def test_coarse_labels_of_cifar10_are_refused(make_cifar, tmp_path, refused):
    path = make_cifar("cifar10", "binary").packed(tmp_path)
    message = refused(Cifar(path=path, labels="coarse").read)
    for part in (str(path), "data.labels is coarse", "cifar10", "leave the key away"):
        assert part in message


@pytest.fixture(scope="module")
def official_batch():
    """Pixels and labels of ten thousand images."""
    some = np.random.default_rng(0).integers(0, 256, 70_001, np.uint8)
    images = np.resize(some, (10_000, 32, 32, 3))
    return images, np.arange(10_000, dtype=np.int32) % 10


def test_an_archive_of_the_official_size_is_read_whole(tmp_path, official_batch):
    images, labels = official_batch
    rows = images.transpose(0, 3, 1, 2).reshape(10_000, -1)
    records = np.hstack([labels.astype(np.uint8)[:, None], rows])
    records.tofile(tmp_path / "test_batch.bin")
    for i in range(1, 6):
        os.link(tmp_path / "test_batch.bin", tmp_path / f"data_batch_{i}.bin")
    names = "airplane automobile bird cat deer dog frog horse ship truck"
    (tmp_path / "batches.meta.txt").write_text(names.replace(" ", "\n"))
    source = Cifar(path=tmp_path).read()
    assert len(source.train.labels) == 50_000
    np.testing.assert_array_equal(source.test.images, images)
    np.testing.assert_array_equal(source.test.labels, labels)
    np.testing.assert_array_equal(source.train.images[40_000:], images)
    assert source.class_names[3] == "cat"


def test_a_pickled_batch_of_the_official_size_is_read(official_batch, pickled):
    images, labels = official_batch
    rows = images.transpose(0, 3, 1, 2).reshape(10_000, -1)
    names = [f"leptodactylus_pentadactylus_s_{i:06}.png" for i in range(10_000)]
    blob = pickled({"data": rows, "labels": labels.tolist(), "filenames": names})
    part = cifar._VERSION_OF["test_batch"].parse("test_batch", blob, "x")
    np.testing.assert_array_equal(part.images, images)
    np.testing.assert_array_equal(part.labels["fine"], labels)


# Archives that are not as the official ones are


def without(name):
    def change(made):
        del made.files[name]

    return change


def cut(name, count):
    def change(made):
        made.files[name] = made.files[name][:-count]

    return change


def replaced(name, content):
    def change(made):
        made.files[name] = content

    return change


def with_byte(name, at, value):
    def change(made):
        content = bytearray(made.files[name])
        content[at] = value
        made.files[name] = bytes(content)

    return change


def rebatched(name, pickled, **changes):
    def change(made):
        made.files[name] = pickled(made.batch(name) | changes)

    return change


def mixed(other):
    def change(made):
        made.files[other] = b"x"

    return change


RECORD = 3073
BAD = {
    "a batch is missing": (
        ("cifar10", "python", without("data_batch_4")),
        ["lacks data_batch_4 of cifar10", "download"],
    ),
    "no class names": (("cifar100", "binary", without("coarse_label_names.txt")), []),
    "a test split alone": (
        ("cifar100", "binary", without("train.bin")),
        ["lacks train"],
    ),
    "a pickle is cut": (
        ("cifar10", "python", cut("data_batch_2", 9)),
        ["data_batch_2", "not a pickle of plain data", "download"],
    ),
    "a binary file is cut": (
        ("cifar10", "binary", cut("data_batch_1.bin", 5)),
        ["data_batch_1.bin", f"{100 * RECORD - 5:,} bytes", f"{100 * RECORD:,}"],
    ),
    "a binary file is longer": (
        ("cifar100", "binary", replaced("test.bin", bytes(100 * 3074 + 1))),
        ["test.bin", "307,401 bytes", "at most 307,400"],
    ),
    "a binary file is empty": (
        ("cifar100", "binary", replaced("test.bin", b"")),
        ["test.bin", "0 bytes"],
    ),
    "a label is too large": (
        ("cifar10", "binary", with_byte("data_batch_3.bin", RECORD * 4, 10)),
        ["data_batch_3.bin", "row 4", "label 10", "below 10"],
    ),
    "a class has more images than another": (
        ("cifar10", "binary", with_byte("test_batch.bin", 0, 3)),
        ["test", "official archive has 10 of each"],
    ),
    "names of another set": (
        ("cifar100", "binary", replaced("fine_label_names.txt", b"a b c")),
        ["3 names of fine classes", "cifar100 has 100"],
    ),
    "names that occur twice": (
        ("cifar10", "binary", replaced("batches.meta.txt", b"a b c d e f g h i a")),
        ["9 names of fine classes", "cifar10 has 10"],
    ),
    "python and binary files": (
        ("cifar10", "python", mixed("test_batch.bin")),
        ["several sets", "test_batch.bin", "of one"],
    ),
    "files of both sets": (("cifar10", "binary", mixed("test.bin")), ["several sets"]),
}


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("case", BAD)
def test_what_differs_from_the_official_archive_is_named_with_the_remedy(
    make_cifar, tmp_path, refused, case, packed
):
    (data_set, form, change), parts = BAD[case]
    made = make_cifar(data_set, form)
    change(made)
    path = made.packed(tmp_path) if packed else made.unpacked(tmp_path)
    message = refused(Cifar(path=path).read)
    for part in (str(path), *parts):
        assert part in message


WRONG_BATCHES = {
    "fewer rows": ({"data": np.zeros((99, 3072), np.uint8)}, "(99, 3072)"),
    "another shape": ({"data": np.zeros((3072, 100), np.uint8)}, "(3072, 100)"),
    "no array": ({"data": [1, 2]}, "no array"),
    "text for pixels": ({"data": "a" * 307_200}, "no array"),
    "fewer labels": ({"labels": [0] * 99}, "labels: not a list of 100 labels"),
    "labels of another set": ({"labels": "", "fine_labels": [0]}, "labels: not a list"),
    "nested labels": ({"labels": [[0]] * 100}, "not all are numbers"),
    "text for labels": ({"labels": ["0"] * 100}, "not all are numbers"),
    "negative labels": ({"labels": [-1] * 100}, "row 0: label -1"),
}


@pytest.mark.parametrize("case", WRONG_BATCHES)
def test_a_batch_of_other_contents_is_refused(
    make_cifar, tmp_path, refused, pickled, case
):
    changes, part = WRONG_BATCHES[case]
    made = make_cifar("cifar10", "python")
    rebatched("data_batch_1", pickled, **changes)(made)
    message = refused(Cifar(path=made.unpacked(tmp_path)).read)
    for expected in ("data_batch_1", part):
        assert expected in message


def test_a_folder_without_cifar_or_with_two_sets_says_where_to_look(
    make_cifar, tmp_path, refused
):
    message = refused(Cifar(path=tmp_path / "nowhere").read)
    assert f"{tmp_path / 'nowhere'}: no such file or folder" in message
    made = make_cifar("cifar10", "binary")
    packed = tmp_path / "only" / "cifar.tar.gz"
    packed.parent.mkdir()
    made.packed(tmp_path).rename(packed)
    message = refused(Cifar(path=packed.parent).read)
    for part in (str(packed.parent), "no file of CIFAR", f"set data.path to {packed}"):
        assert part in message
    made.unpacked(tmp_path)
    make_cifar("cifar100", "binary").unpacked(tmp_path)
    message = refused(Cifar(path=tmp_path).read)
    assert "several sets, cifar10-binary, cifar100-binary" in message


# Archives made to do harm


def write_tar(path, members, mode="w:gz"):
    """Write members given as TarInfo, or as name and contents."""
    with tarfile.open(path, mode, format=tarfile.GNU_FORMAT) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return path


def special(kind, name="train", target="/etc/passwd"):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize(
    "kind",
    [
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.CHRTYPE,
        tarfile.FIFOTYPE,
        tarfile.GNUTYPE_SPARSE,
    ],
)
def test_links_and_devices_in_an_archive_are_refused(tmp_path, refused, kind):
    path = write_tar(tmp_path / "a.tar.gz", [special(kind)])
    message = refused(Cifar(path=path).read)
    for part in (str(path), "'train'", "link, device or sparse file", "download"):
        assert part in message


def claim(size):
    """A tar header that claims so many bytes for a member, in base 256 if need be."""
    info = tarfile.TarInfo("cifar-100-python/train")
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


def test_a_member_that_claims_gigabytes_is_refused_before_it_is_read(tmp_path, refused):
    path = tmp_path / "a.tar.gz"
    write = zlib.compressobj(9, zlib.DEFLATED, 31)
    path.write_bytes(write.compress(claim(8 << 30) + bytes(20 << 20)) + write.flush())
    assert path.stat().st_size < 100_000
    message = refused(Cifar(path=path).read)
    for part in (
        "cifar-100-python/train",
        "8,589,934,592 bytes",
        "at most 156,800,000",
    ):
        assert part in message


def test_a_name_of_gigabytes_is_not_unpacked(tmp_path, refused):
    """A long name or a pax header is read by tarfile itself, before any member."""
    for kind in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE):
        info = tarfile.TarInfo("x")
        info.type, info.size = kind, 8 << 30
        path = tmp_path / "a.tar.gz"
        write = zlib.compressobj(9, zlib.DEFLATED, 31)
        bomb = write.compress(info.tobuf(tarfile.GNU_FORMAT))
        bomb += b"".join(write.compress(bytes(1 << 20)) for _ in range(64))
        path.write_bytes(bomb + write.flush())
        message = refused(Cifar(path=path).read)
        assert (
            f"{path}: a header of the archive claims more than 65,536 bytes" in message
        )


@pytest.mark.parametrize("name", ["notes.txt", "data_batch_6", ".hidden"])
def test_a_large_member_of_another_name_is_refused_and_a_small_one_skipped(
    make_cifar, tmp_path, refused, name
):
    made = make_cifar("cifar10", "binary")
    made.files = {name: bytes(60_000)} | made.files
    assert_read(Cifar(path=made.packed(tmp_path)).read(), made)
    made.files[name] = bytes(70_000)
    message = refused(Cifar(path=made.packed(tmp_path)).read)
    for part in (name, "70,000 bytes", "at most 65,536"):
        assert part in message


def test_thousands_of_members_and_doubles_are_refused(tmp_path, refused):
    many = [(f"{i}", b"") for i in range(101)]
    message = refused(Cifar(path=write_tar(tmp_path / "a.tar.gz", many)).read)
    assert "more than 100 members" in message
    names = b" ".join(b"%d" % i for i in range(100))
    twice = [(f"{at}/fine_label_names.txt", names) for at in ("a", "b")]
    path = write_tar(tmp_path / "a.tar.gz", twice)
    assert "'b/fine_label_names.txt': occurs twice" in refused(Cifar(path=path).read)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_damaged_headers_of_an_archive_end_in_a_message(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("tar") / "a.tar"
    long = "d/" * 80 + "test.bin"
    with tarfile.open(path, "w", format=data.draw(st.sampled_from([1, 2]))) as archive:
        for name in ("meta", "data_batch_1", long, "é.txt"):
            info = tarfile.TarInfo(name)
            info.size = 7
            archive.addfile(info, io.BytesIO(b"x" * 7))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, 5999))
        content[at : at + 2] = data.draw(st.binary(min_size=2, max_size=2))
    for at in range(0, 6000, 512):  # tarfile believes headers with the right sum only
        header = content[at : at + 512]
        header[148:156] = b" " * 8
        if any(header[:100]):
            content[at + 148 : at + 156] = b"%06o\0 " % sum(header)
    path.write_bytes(content)
    with pytest.raises(UserError):
        Cifar(path=path).read()


def test_files_cut_short_or_of_another_kind_are_refused(make_cifar, tmp_path, refused):
    made = make_cifar("cifar10", "binary")
    path = made.packed(tmp_path)
    whole = path.read_bytes()
    for content in (
        b"",
        b"hello",
        b"\x1f\x8b",
        whole[: len(whole) // 2],
        whole[:-2000],
    ):
        path.write_bytes(content)
        message = refused(Cifar(path=path).read)
        assert f"{path}: cannot be read as a .tar.gz" in message
        assert "download the official archive again" in message
    damaged = bytearray(whole)
    damaged[len(whole) // 2 :: 4096] = bytes(len(damaged[len(whole) // 2 :: 4096]))
    path.write_bytes(damaged)
    assert str(path) in refused(Cifar(path=path).read)


def test_an_unpacked_file_larger_than_the_official_one_is_refused(
    make_cifar, tmp_path, refused
):
    folder = make_cifar("cifar100", "python").unpacked(tmp_path)
    with (folder / "train").open("r+b") as file:
        file.truncate(1 << 40)
    message = refused(Cifar(path=folder).read)
    for part in (str(folder / "train"), "1,099,511,627,776 bytes", "at most"):
        assert part in message
    (folder / "train").unlink()
    (folder / "train").mkdir()
    assert "is no regular file" in refused(Cifar(path=folder).read)


def test_a_forged_pickle_in_an_archive_is_refused_by_its_member(
    make_cifar, tmp_path, refused
):
    made = make_cifar("cifar10", "python")
    made.files["data_batch_5"] = b"cos\nsystem\n(S'touch x'\ntR."
    path = made.packed(tmp_path)
    message = refused(Cifar(path=path).read)
    for part in (str(path), "data_batch_5", "it asks for os.system", "download"):
        assert part in message


def test_caps_are_those_of_the_official_files():
    """Sizes of the published files, of which none is larger than its cap."""
    official = {
        **{"data_batch_1": 31_035_704, "data_batch_3": 31_035_999},
        **{"test_batch": 31_035_526, "data_batch_1.bin": 30_730_000},
        **{"train": 155_249_918, "train.bin": 153_700_000, "test.bin": 30_740_000},
    }
    for name, size in official.items():
        cap = cifar._VERSION_OF[name].cap(name)
        assert size <= cap <= size * 1.02
        assert not name.endswith(".bin") or size == cap
