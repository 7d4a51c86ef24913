"""Coresets that survive their file, and training on what an earlier run chose."""

import os

import numpy as np
import pytest
from fakes.learner import Forbidden

from dpet_jax.errors import UserError
from dpet_jax.methods.base import Coreset, Method, Pool
from dpet_jax.methods.coreset import SavedCoreset, coreset_arrays, load_coreset

#: Example i of the training split is row 2 i of the source.
POOL = Pool(
    31, (np.arange(31) % 3).astype(np.int32), 3, 2 * np.arange(31), "toys", "a" * 64
)
CHOSEN = Coreset(
    np.array([9, 2, 30], np.int32),
    np.array([1, 1, 2], np.int32),
    np.array([0.1, 0.5, np.nan], np.float32),
)


@pytest.fixture
def saved(tmp_path):
    """Write a coreset, with changes, and return its path."""

    def write(chosen=CHOSEN, **changes):
        path = tmp_path / "c.npz"
        np.savez(path, **(coreset_arrays(chosen, POOL) | changes))
        return path

    return write


def test_file_holds_rows_of_the_source_and_the_labels_of_the_whole_pool(saved):
    with np.load(saved()) as file:
        assert file["source_rows"].tolist() == [18, 4, 60]
        assert file["labels"].tolist() == [0, 2, 0]
        assert file["pool_class_counts"].tolist() == [11, 10, 10]
        assert str(file["dataset"]) == "toys"


def test_a_coreset_survives_its_file_and_another_order_of_the_split(saved):
    path = saved()
    for a, b in zip(CHOSEN, load_coreset(path, POOL), strict=True):
        np.testing.assert_array_equal(a, b)
    backwards = POOL._replace(source_rows=POOL.source_rows[::-1])
    assert load_coreset(path, backwards).indices.tolist() == [21, 28, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": np.array("0" * 64)}, r"chosen from toys.*same data"),
        ({"source_rows": np.array([18, 5, 61])}, r"2 of its 3 rows.*split_seed"),
    ],
)
def test_a_coreset_of_other_data_is_refused(saved, change, message):
    path = saved(**change)
    with pytest.raises(UserError, match=message):
        load_coreset(path, POOL)
    with pytest.raises(UserError, match=r"method\.path: .*c\.npz"):
        SavedCoreset(path=path).start(POOL, 0)


def test_a_broken_coreset_is_refused(saved, tmp_path):
    whole = saved().read_bytes()
    damaged = whole[:60] + bytes(40) + whole[100:]
    for content in (b"", b"not an archive", whole[:-30], whole[:100], damaged):
        (tmp_path / "c.npz").write_bytes(content)
        with pytest.raises(UserError, match=r"c\.npz: is no coreset"):
            load_coreset(tmp_path / "c.npz", POOL)
    (tmp_path / "c.npz").unlink()
    os.mkfifo(tmp_path / "c.npz")
    with pytest.raises(UserError, match=r"c\.npz: is no coreset.*no regular"):
        load_coreset(tmp_path / "c.npz", POOL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source_rows": np.array([18.0, 4, 60])}, "source_rows missing or of"),
        ({"source_rows": np.array(["a", "b", "c"])}, "source_rows missing or of"),
        ({"source_rows": np.array([[18, 4, 60]])}, "source_rows missing or of"),
        ({"source_rows": np.array([18, 4])}, "arrays missing or of another shape"),
        ({"score": np.array([1, 2, 3])}, "score missing or of"),
        ({"fingerprint": np.array(b"x")}, "fingerprint missing or of"),
        ({"source_rows": np.array([18, 4, 18])}, "holds a row twice"),
    ],
)
def test_arrays_that_no_run_wrote_are_refused(saved, change, message):
    with pytest.raises(UserError, match=rf"method\.path: .*c\.npz.*{message}"):
        load_coreset(saved(**change), POOL)


def test_an_empty_coreset_is_refused(saved):
    with pytest.raises(UserError, match="holds no examples"):
        load_coreset(saved(Coreset.empty()), POOL)


def test_every_pass_trains_on_the_saved_examples_whatever_the_seed(saved):
    method = SavedCoreset(path=saved(), passes=6)
    assert isinstance(method, Method)
    for seed in (0, 1):
        state, plan = method.plan(method.start(POOL, seed), Forbidden())
        assert plan.index_set.tolist() == [2, 9, 30]
        assert (plan.passes, plan.label) == (6, "coreset")
        assert method.planned_visits(POOL) == plan.visits == 18
        assert method.plan(state, Forbidden())[1] is None


def test_coreset_is_handed_on_in_the_order_of_entering(saved):
    method = SavedCoreset(path=saved())
    handed_on = method.coreset(method.start(POOL, 0))
    for a, b in zip(CHOSEN, handed_on, strict=True):
        np.testing.assert_array_equal(a, b)
