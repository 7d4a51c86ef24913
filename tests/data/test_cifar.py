import io
import tarfile

import numpy as np
import pytest

from dpet_jax.data.cifar import read_cifar

FORMS = [
    (name, form, packed)
    for name in ("cifar10", "cifar100")
    for form in ("python", "binary")
    for packed in (True, False)
] + [("cifar10", "pictures", False)]


def assert_equal(read, made):
    for split in ("train", "test"):
        np.testing.assert_array_equal(read.splits[split].images, made.images[split])
        assert set(read.splits[split].labels) == set(made.labels[split])
        for label, expected in made.labels[split].items():
            np.testing.assert_array_equal(read.splits[split].labels[label], expected)
    assert read.classes == made.class_names


@pytest.mark.parametrize(("name", "form", "packed"), FORMS)
def test_every_form_gives_the_same_rows_in_the_same_order(
    make_cifar, name, form, packed
):
    made = make_cifar(name, form, packed)
    assert_equal(read_cifar(name, made.path), made)


def test_the_folder_around_the_unpacked_one_does_as_well(make_cifar):
    made = make_cifar("cifar100", "binary")
    made_too = make_cifar("cifar10", "binary")
    assert made.path.parent == made_too.path.parent
    assert_equal(read_cifar("cifar100", made.path.parent), made)
    assert_equal(read_cifar("cifar10", made.path.parent), made_too)


def test_without_its_list_cifar10_has_its_names_and_cifar100_their_number(make_cifar):
    made = make_cifar("cifar10", "binary")
    (made.path / "batches.meta.txt").unlink()
    assert read_cifar("cifar10", made.path).classes == made.class_names
    made = make_cifar("cifar100", "python")
    (made.path / "meta").unlink()
    classes = read_cifar("cifar100", made.path).classes
    assert classes == {"label": 100, "coarse_label": 20}


def test_grey_pictures_become_rgb(make_cifar, as_picture):
    made = make_cifar("cifar10", "pictures")
    for file in made.path.glob("*/*/*.png"):
        file.write_bytes(as_picture(np.full((32, 32), 7, np.uint8)))
    images = read_cifar("cifar10", made.path).splits["train"].images
    assert images.shape == (30, 32, 32, 3)
    assert (images == 7).all()


def cut(file, num_bytes):
    return lambda path: (path / file).write_bytes(
        (path / file).read_bytes()[:-num_bytes]
    )


def overwrite(file, content):
    return lambda path: (path / file).write_bytes(content)


def remove(file):
    return lambda path: (path / file).unlink()


def with_label(file, label):
    def change(path):
        content = bytearray((path / file).read_bytes())
        content[3073 * 4] = label  # the label of row 4
        (path / file).write_bytes(content)

    return change


BAD = {
    "python cut": (
        ("cifar10", "python", cut("data_batch_2", 9)),
        ["data_batch_2", "not a pickled", "download"],
    ),
    "binary cut": (
        ("cifar10", "binary", cut("data_batch_1.bin", 5)),
        ["data_batch_1.bin", f"{9 * 3073 - 5} bytes", "3073", "Download"],
    ),
    "binary empty": (
        ("cifar100", "binary", overwrite("test.bin", b"")),
        ["test.bin", "0 bytes", "3074"],
    ),
    "label too large": (
        ("cifar10", "binary", with_label("data_batch_1.bin", 10)),
        ["data_batch_1.bin, label row 4", "label 10", "below 10"],
    ),
    "no test batch": (
        ("cifar10", "python", remove("test_batch")),
        ["data_batch_1.. and test_batch", "batches.meta, data_batch_1", "Give"],
    ),
    "names of another set": (
        ("cifar100", "binary", overwrite("fine_label_names.txt", b"a b c")),
        ["3 class names for label", "cifar100 has 100"],
    ),
    "unknown class folder": (
        ("cifar10", "pictures", lambda path: (path / "train" / "unicorn").mkdir()),
        ["train/unicorn", "rename", "airplane"],
    ),
    "broken picture": (
        ("cifar10", "pictures", overwrite("test/cat/x.png", b"hello")),
        ["test/cat/x.png", "cannot be decoded"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_part_is_named_with_file_and_remedy(make_cifar, refused, case):
    (name, form, change), parts = BAD[case]
    made = make_cifar(name, form)
    if case == "broken picture":
        (made.path / "test" / "cat").mkdir(exist_ok=True)
    change(made.path)
    message = refused(read_cifar, name, made.path)
    for part in (str(made.path), *parts):
        assert part in message


@pytest.mark.parametrize("form", ["python", "binary"])
@pytest.mark.parametrize(
    ("asked", "given"), [("cifar10", "cifar100"), ("cifar100", "cifar10")]
)
def test_the_other_set_is_refused_with_what_it_holds(
    make_cifar, refused, form, asked, given
):
    made = make_cifar(given, form, packed=True)
    message = refused(read_cifar, asked, made.path)
    for part in (
        str(made.path),
        f"of {asked}",
        "it holds",
        "test",
        "Give the official",
    ):
        assert part in message


def test_class_folders_of_cifar100_are_refused_for_want_of_coarse_labels(
    make_cifar, refused
):
    made = make_cifar("cifar10", "pictures")
    message = refused(read_cifar, "cifar100", made.path)
    for part in (str(made.path), "coarse labels", "official archive"):
        assert part in message


def test_pictures_of_another_size_and_missing_ones_are_refused(
    make_cifar, refused, as_picture
):
    made = make_cifar("cifar10", "pictures")
    files = sorted(made.path.glob("test/*/*.png"))
    for file in files:
        file.write_bytes(as_picture(np.zeros((28, 28), np.uint8)))
    message = refused(read_cifar, "cifar10", made.path)
    for part in (str(files[0]), "28 x 28", "32 x 32", "resize"):
        assert part in message
    for file in files:
        file.unlink()
    message = refused(read_cifar, "cifar10", made.path)
    assert f"{made.path / 'test'}: no pictures" in message


def test_paths_that_are_no_archive_are_refused(tmp_path, refused, make_cifar):
    message = refused(read_cifar, "cifar10", tmp_path / "nowhere")
    assert f"{tmp_path / 'nowhere'}: no such file" in message
    made = make_cifar("cifar10", "binary", packed=True)
    whole = made.path.read_bytes()
    for content in (b"", b"hello", whole[: len(whole) // 2]):
        made.path.write_bytes(content)
        message = refused(read_cifar, "cifar10", made.path)
        assert f"{made.path}: cannot be read as a tar archive" in message
        assert "download it again" in message


def test_two_files_of_one_name_are_refused_not_chosen_between(tmp_path, refused):
    path = tmp_path / "two.tar"
    with tarfile.open(path, "w") as archive:
        for folder in ("a", "b"):
            archive.addfile(tarfile.TarInfo(f"{folder}/test.bin"), io.BytesIO())
    message = refused(read_cifar, "cifar100", path)
    for part in (str(path), "a/test.bin, b/test.bin", "one set"):
        assert part in message
