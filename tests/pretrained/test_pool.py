"""The folder of pre-trained networks: never torn, and clear about what is wrong."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from fakes.networks import TINY
from safetensors.numpy import save_file

from dpet_jax.errors import UserError
from dpet_jax.models.weights import WeightsError, read_weights, write_weights
from dpet_jax.pretrained.pool import Card, ModelPool, Training
from dpet_jax.run import pool_commands

ARRAYS = {
    name: np.random.default_rng(0).normal(size=shape.shape).astype(np.float32)
    for name, shape in TINY.shapes().items()
}


def card(name="one", **changes):
    known = {
        "name": name,
        "label": TINY.label,
        "network": TINY.to_json(),
        "task": "bright",
        "num_classes": 3,
        "class_names": ("dark", "grey", "bright"),
        "image_shape": (8, 8, 1),
        "mean": (0.5,),
        "std": (0.25,),
        "num_parameters": 10,
        "flops_per_image": 20,
        "origin": "test",
    }
    return Card(**(known | changes))


@pytest.fixture
def pool(tmp_path):
    found = ModelPool(tmp_path / "pool")
    found.add(card(), ARRAYS)
    return found


def test_a_network_comes_back_with_its_card(pool):
    found, network, arrays = pool.load("one")
    expected = card(fingerprint=found.fingerprint)
    assert found.model_dump(mode="json") == expected.model_dump(mode="json")
    assert network == TINY
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
    assert pool.names() == ["one"]
    pool.remove("one")
    with pytest.raises(UserError, match="holds no pre-trained network"):
        pool.names()


def test_a_name_that_is_taken_is_refused_and_what_is_there_stays(pool):
    with pytest.raises(UserError, match=r"holds 'one' already; .*pool remove one"):
        pool.add(card(task="other"), {})
    assert pool.card("one").task == "bright"


@pytest.mark.parametrize("name", ["", "..", "a/b", "-x", ".x", " x", "x\n"])
def test_a_name_that_no_file_should_have_is_refused(pool, name):
    with pytest.raises(UserError, match=r"^--name: "):
        pool.add(card(name), ARRAYS)
    assert len([*pool.path.iterdir()]) == 1


def test_of_many_adders_of_one_name_one_wins_and_nothing_is_torn(tmp_path):
    pool = ModelPool(tmp_path / "pool")
    outcomes = []
    barrier = threading.Barrier(8)

    def add(number):
        barrier.wait()
        for name in ("same", f"own{number}"):
            try:
                arrays = {n: a + number for n, a in ARRAYS.items()}
                pool.add(card(name, task=str(number)), arrays)
                outcomes.append(name)
            except UserError:
                pass

    threads = [threading.Thread(target=add, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("same") == 1
    assert pool.names() == sorted([f"own{i}" for i in range(8)] + ["same"])
    for name in pool.names():
        found, _, arrays = pool.load(name)
        number = float(found.task)
        np.testing.assert_array_equal(
            arrays["params/head/bias"], ARRAYS["params/head/bias"] + number
        )
    assert [p for p in pool.path.iterdir() if p.suffix != ".safetensors"] == []


def test_an_adder_that_is_killed_leaves_no_network(tmp_path):
    code = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from pathlib import Path
from dpet_jax.models import weights
real = Path.write_bytes
def write_bytes(self, content):
    real(self, content[: len(content) // 2])
    os._exit(9)
Path.write_bytes = write_bytes
weights.write_weights(Path({str(tmp_path)!r}) / "x.safetensors", {{}}, {{}},
                      exclusive=True)
"""
    done = subprocess.run([sys.executable, "-c", code], env=os.environ, check=False)
    assert done.returncode == 9
    with pytest.raises(UserError, match="holds no pre-trained network"):
        ModelPool(tmp_path).names()


def test_a_file_that_was_renamed_goes_by_its_new_name(pool):
    (pool.path / "one.safetensors").rename(pool.path / "two.safetensors")
    assert pool.card("two").name == "two"
    with pytest.raises(UserError, match="holds no 'one'; there is two"):
        pool.load("one")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": "many"}, "damaged: its card has num_classes"),
        ({"surprise": 1}, "damaged: its card has surprise"),
        ({"std": [0.0]}, "damaged: its card has std.0"),
        ({"mean": [0.5, 0.5]}, "damaged: .*do not fit 1 channels"),
        ({"network": {"network": "no.such:Thing"}}, "cannot be rebuilt: cannot import"),
        ({"network": {"stem": 8}}, "cannot be rebuilt: .*missing"),
    ],
)
def test_a_corrupt_card_is_told(pool, change, message):
    path = pool.path / "one.safetensors"
    arrays, plain = read_weights(path)
    write_weights(path, arrays, plain | change)
    with pytest.raises(WeightsError, match=message):
        pool.load("one")


def test_weights_of_another_network_and_files_without_a_card_are_told(pool):
    path = pool.path / "one.safetensors"
    arrays, plain = read_weights(path)
    del arrays["params/head/bias"]
    arrays["params/head/gain"] = np.zeros(3, np.float32)
    write_weights(path, arrays, plain)
    message = r"lacks params/head/bias; has params/head/gain besides"
    with pytest.raises(WeightsError, match=message):
        pool.load("one")
    save_file(arrays, path)
    with pytest.raises(WeightsError, match="has no card"):
        pool.card("one")


def test_wh_of_a_model_are_in_no_table_of_cards():
    spent = {"epochs": 1.0, "wh": 0.125}
    for quality in ("measured", "modelled"):
        training = Training(**spent, quality=quality)
        (line,) = pool_commands.listing([card(training=training)])[1:]
        assert ("0.125" in line, "modelled" in line) == (
            quality == "measured",
            quality == "modelled",
        )
