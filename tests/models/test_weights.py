"""The weights file: whole or absent, and one clear message for all that is wrong."""

import json
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dpet_jax.models.weights import (
    WeightsError,
    check_names,
    fingerprint,
    flatten,
    nest,
    read_card,
    read_weights,
    write_weights,
)

ARRAYS = {
    "params/a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "params/b": np.array(-1.5, ml_dtypes.bfloat16),
    "quantized": np.arange(-3, 3, dtype=np.int8),
    "scale": np.zeros((0, 2), np.float64),
}
CARD = {"name": "one", "shape": [8, 8, 1], "wh": None, "text": "é\n"}


@pytest.fixture
def path(tmp_path):
    write_weights(tmp_path / "one.safetensors", ARRAYS, CARD)
    return tmp_path / "one.safetensors"


def test_arrays_of_every_type_and_the_card_come_back(path):
    arrays, card = read_weights(path)
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)
    assert card == CARD | {"fingerprint": fingerprint(ARRAYS)}
    assert read_card(path) == card
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_nested_dicts_go_by_flat_names():
    tree = {"params": {"a": {"kernel": 1, "bias": 2}, "head": 3}, "batch_stats": {}}
    flat = flatten(tree)
    assert flat == {"params/a/kernel": 1, "params/a/bias": 2, "params/head": 3}
    assert nest(flat) == {"params": tree["params"]}


def test_an_array_that_lies_strangely_is_written_as_it_reads(tmp_path):
    strange = np.arange(12, dtype=">f4").reshape(3, 4).T[::-1, ::2]
    write_weights(tmp_path / "x", {"x": strange}, {})
    np.testing.assert_array_equal(load_file(tmp_path / "x")["x"], strange)
    assert read_weights(tmp_path / "x")[0]["x"].dtype == np.float32


def test_fingerprint_sees_names_types_shapes_and_values_but_no_order():
    a, b = np.zeros((2, 3), np.float32), np.ones(2, np.float32)
    seen = {
        fingerprint(arrays)
        for arrays in (
            {"a": a, "b": b},
            {"c": a, "b": b},
            {"a": a.T, "b": b},
            {"a": a.astype(np.int32), "b": b},
            {"a": a, "b": 2 * b},
        )
    }
    assert len(seen) == 5
    assert fingerprint({"b": b, "a": a}) == fingerprint({"a": a, "b": b})


def test_a_failed_write_leaves_what_was_there(path):
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        write_weights(path, ARRAYS, {"wh": float("nan")})
    with pytest.raises(FileExistsError):
        write_weights(path, {}, CARD, exclusive=True)
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_one_changed_byte_of_the_arrays_is_damage(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"^{path}: damaged: .*fingerprint"):
        read_weights(path)
    read_card(path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.99])
def test_a_truncated_file_is_none(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    for read in (read_weights, read_card):
        with pytest.raises(WeightsError, match=rf"^{path}: is no whole safetensors"):
            read(path)


def test_a_pickle_is_named_and_never_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return pytest.fail, ("a pickle was run",)

    torch = tmp_path / "model.pth"
    with zipfile.ZipFile(torch, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Bomb()))
    plain = tmp_path / "model.pkl"
    plain.write_bytes(pickle.dumps(Bomb()))
    for path in (torch, plain):
        with pytest.raises(WeightsError, match=rf"^{path}: is a pickle or an archive"):
            read_weights(path)


def test_another_program_s_file_has_no_card_and_a_bad_card_is_damage(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"x": np.ones(2)}, path)
    assert read_weights(path)[1] == {}
    for text in ("{", "[1]", json.dumps("x")):
        save_file({"x": np.ones(2)}, path, metadata={"dpet_card": text})
        with pytest.raises(WeightsError, match="damaged: its card is no JSON"):
            read_card(path)


def test_a_folder_or_nothing_is_no_file(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(WeightsError, match=f"^{path}: no such file"):
            read_weights(path)


def test_names_and_shapes_that_differ_are_all_told(path):
    wanted = {"a": np.zeros(2), "b": np.zeros((2, 3)), "c": np.zeros(())}
    check_names(path, wanted, wanted, "ResNet-18")
    arrays = {"a": np.zeros(3), "b": np.zeros((2, 3)), "d": np.zeros(1)}
    with pytest.raises(
        WeightsError,
        match=r"ResNet-18: lacks c; has d besides; a is \(3,\), not \(2,\);",
    ):
        check_names(path, arrays, wanted, "ResNet-18")
