import logging

import numpy as np
import pytest
import tensorflow_datasets as tfds

from dpet_jax.data import importers
from dpet_jax.data.importers import import_dataset

FORMS = [
    ("cifar10", "python", True),
    ("cifar10", "binary", True),
    ("cifar10", "pictures", False),
    ("cifar100", "python", False),
    ("cifar100", "binary", True),
]


def everything_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.parametrize(("name", "form", "packed"), FORMS)
def test_plain_tfds_reads_back_what_was_imported_bit_by_bit_in_order(
    make_cifar, tmp_path, capfd, name, form, packed
):
    made = make_cifar(name, form, packed)
    target = tmp_path / "prepared"
    folder = import_dataset(name, made.path, target)
    assert folder == target / name / "3.0.2"
    assert capfd.readouterr().out == ""
    sets = tfds.data_source(name, data_dir=target)
    for split, images in made.images.items():
        rows = [sets[split][row] for row in range(len(sets[split]))]
        np.testing.assert_array_equal([row["image"] for row in rows], images)
        for label, expected in made.labels[split].items():
            assert [row[label] for row in rows] == expected.tolist()
        assert rows[3]["id"] == f"{split}_00003".encode()
    info = tfds.builder_from_directory(folder).info
    for label, names in made.class_names.items():
        assert info.features[label].names == names


def test_a_small_set_is_imported_with_a_warning(make_cifar, tmp_path, caplog):
    made = make_cifar("cifar10", "binary")
    with caplog.at_level(logging.WARNING, logger="dpet_jax"):
        import_dataset("cifar10", made.path, tmp_path / "out")
    messages = [r.getMessage() for r in caplog.records if r.name.startswith("dpet_jax")]
    assert len(messages) == 2
    assert "30 train images; the official cifar10 has 50000" in messages[0]


def test_an_existing_set_is_kept_unless_overwriting_is_asked_for(
    make_cifar, tmp_path, refused
):
    target = tmp_path / "out"
    first = make_cifar("cifar10", "python")
    folder = import_dataset("cifar10", first.path, target)
    before = {file: file.read_bytes() for file in folder.iterdir()}
    second = make_cifar("cifar10", "pictures")
    message = refused(import_dataset, "cifar10", second.path, target)
    for part in (str(folder), "already", "--overwrite"):
        assert part in message
    assert {file: file.read_bytes() for file in folder.iterdir()} == before
    import_dataset("cifar10", second.path, target, overwrite=True)
    labels = [
        row["label"] for row in tfds.data_source("cifar10", data_dir=target)["train"]
    ]
    assert labels == second.labels["train"]["label"].tolist()
    assert labels != first.labels["train"]["label"].tolist()
    assert {path.name for path in target.iterdir()} == {"cifar10"}


def test_two_sets_share_a_target(make_cifar, tmp_path):
    for name in ("cifar10", "cifar100"):
        import_dataset(name, make_cifar(name, "binary").path, tmp_path / "out")
    for name, num_rows in (("cifar10", 30), ("cifar100", 100)):
        assert (
            len(tfds.data_source(name, data_dir=tmp_path / "out")["train"]) == num_rows
        )


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError("disk full")])
@pytest.mark.parametrize("existing", [False, True])
def test_an_interrupted_import_leaves_everything_as_it_was(
    make_cifar, tmp_path, monkeypatch, stop, existing
):
    made = make_cifar("cifar10", "binary")
    target = tmp_path / "deep" / "out"
    if existing:
        import_dataset("cifar10", made.path, target)
    before = everything_in(tmp_path)
    encode, calls = importers._png, []

    def stop_in_the_middle(image):
        calls.append(image)
        if len(calls) == 20:
            raise stop
        return encode(image)

    monkeypatch.setattr(importers, "_png", stop_in_the_middle)
    with pytest.raises((KeyboardInterrupt, ValueError)) as caught:
        import_dataset("cifar10", made.path, target, overwrite=existing)
    assert len(calls) == 20
    assert everything_in(tmp_path) == before
    if stop is not KeyboardInterrupt:
        assert f"{target}: cannot be written" in str(caught.value)


def test_a_bad_source_makes_no_target(tmp_path, refused):
    message = refused(import_dataset, "cifar10", tmp_path / "none", tmp_path / "out")
    assert str(tmp_path / "none") in message
    assert everything_in(tmp_path) == []


def test_a_target_that_is_a_file_is_refused(make_cifar, tmp_path, refused):
    made = make_cifar("cifar10", "binary")
    (tmp_path / "out").write_text("mine")
    message = refused(import_dataset, "cifar10", made.path, tmp_path / "out")
    assert f"{tmp_path / 'out'}: cannot be written" in message
    assert (tmp_path / "out").read_text() == "mine"
