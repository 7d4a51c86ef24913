"""Weights that other programs have written: files, snapshots, the hub."""

import json
import sys
from types import ModuleType

import numpy as np
import pytest
from fakes import torch_resnet
from safetensors.numpy import save_file

from dpet_jax.errors import UserError
from dpet_jax.pretrained.external import Told, read_external
from dpet_jax.pretrained.pool import ModelPool

TOLD = Told()


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    """A folder as timm's repositories on the hub are."""
    folder = tmp_path_factory.mktemp("snapshot")
    save_file(torch_resnet.weights(), folder / "model.safetensors")
    pretrained = {"tag": "a1_in1k", "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.2, 0.3]}
    config = {
        "architecture": "resnet18",
        "license": "apache-2.0",
        "label_names": ["a", "b", "c", "d", "e"],
        "pretrained_cfg": pretrained | {"input_size": [3, 160, 160]},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_snapshot_says_how_its_inputs_were_normalised(snapshot, tmp_path):
    card, arrays = read_external(str(snapshot), "imagenet", TOLD)
    assert (card.mean, card.std) == ((0.4, 0.5, 0.6), (0.2, 0.2, 0.3))
    assert card.image_shape == (160, 160, 3)
    assert (card.licence, card.task) == ("apache-2.0", "a1_in1k")
    assert card.class_names == ("a", "b", "c", "d", "e")
    assert card.accuracy is None
    assert card.training.quality == "unavailable"
    tensors = torch_resnet.weights()
    learned = [n for n in tensors if "running" not in n and "tracked" not in n]
    assert card.num_parameters == sum(tensors[n].size for n in learned)
    pool = ModelPool(tmp_path)
    pool.add(card, arrays)
    _, network, loaded = pool.load("imagenet")
    assert network.stem_kind == "imagenet"
    np.testing.assert_array_equal(loaded["params/head/kernel"], tensors["fc.weight"].T)


def test_a_bare_file_is_imagenet_s_or_the_user_says_what_it_is(snapshot, tmp_path):
    large = str(snapshot / "model.safetensors")
    card, _ = read_external(large, "x", TOLD._replace(task="birds", size=64))
    assert card.mean == (0.485, 0.456, 0.406)
    assert (card.image_shape, card.task) == ((64, 64, 3), "birds")
    path = tmp_path / "small.safetensors"
    save_file(torch_resnet.weights(3), path)
    with pytest.raises(UserError, match=r"does not say how .* --mean=R,G,B"):
        read_external(str(path), "x", TOLD)
    told = TOLD._replace(size=32, mean=(0.5,) * 3, std=(0.25,) * 3)
    assert read_external(str(path), "x", told)[0].std == (0.25, 0.25, 0.25)
    for wrong in ({"mean": (0.5,)}, {"std": (0.25, 0.0, 0.25)}):
        with pytest.raises(UserError, match="does not fit 3 channels"):
            read_external(str(path), "x", told._replace(**wrong))


def test_an_unknown_layout_is_told(tmp_path):
    save_file({"encoder.weight": np.ones(2)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"no layout .* \(it holds encoder\.weight"):
        read_external(str(tmp_path / "x.safetensors"), "x", TOLD)


def hub(monkeypatch, answer):
    """Let the hub's library be one that answers as given."""
    library = ModuleType("huggingface_hub")
    library.snapshot_download = answer
    monkeypatch.setitem(sys.modules, "huggingface_hub", library)


def test_what_the_hub_s_cache_holds_needs_no_network(snapshot, monkeypatch):
    asked = []

    def answer(repository, *, allow_patterns, local_files_only=False):
        asked.append((repository, local_files_only))
        assert "model.safetensors" in allow_patterns
        return str(snapshot)

    hub(monkeypatch, answer)
    card, _ = read_external("hf:timm/resnet18.a1_in1k", "x", TOLD)
    assert asked == [("timm/resnet18.a1_in1k", True)]
    assert card.origin == "the hub's timm/resnet18.a1_in1k"


def test_a_repository_out_of_reach_or_of_pickles_is_told(tmp_path, monkeypatch):
    def nowhere(*_, **__):
        raise ConnectionError("no\nroute")

    hub(monkeypatch, nowhere)
    with pytest.raises(UserError, match=r"^hf:a/b: cannot be fetched \(.*no route\)"):
        read_external("hf:a/b", "x", TOLD)
    hub(monkeypatch, lambda *_, **__: str(tmp_path))
    with pytest.raises(UserError, match=r"has no model\.safetensors; pickles"):
        read_external("hf:a/b", "x", TOLD)


def test_without_the_library_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install 'dpet-jax\[hub\]'"):
        read_external("hf:a/b", "x", TOLD)
