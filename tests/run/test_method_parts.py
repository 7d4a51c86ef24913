"""Methods as the config asks for them, and coresets that survive their file."""

import numpy as np
import pytest

from dpet_jax.config.load import validate
from dpet_jax.errors import UserError
from dpet_jax.methods.base import Coreset, Method
from dpet_jax.methods.dynamic import EpsilonGreedy, InfoBatch, LossThreshold
from dpet_jax.methods.selective_backprop import SelectiveBackprop
from dpet_jax.run import build as parts
from dpet_jax.run.method_parts import build_method, coreset_arrays, load_coreset


@pytest.fixture(scope="module")
def data():
    return parts.build_data(validate({}, "test"))


@pytest.fixture
def method_of(data):
    def build(**section):
        tree = {"method": section, "train": {"batch_size": 32}}
        method = build_method(validate(tree, "test"), data)
        assert isinstance(method, Method)
        return method

    return build


@pytest.mark.parametrize(
    ("by", "kind", "per_class", "weighted", "asks"),
    [
        ("random", "random", False, False, ()),
        ("forgetting", "forgetting", False, False, ()),
        ("el2n", "score", False, False, ("el2n",)),
        ("grand", "score", False, False, ("grand",)),
        ("k_center", "selector", False, False, ("logits", "features")),
        ("glister", "selector", False, False, ("logits", "features")),
        ("craig", "selector", True, True, ("logits", "features")),
        ("grad_match", "selector", True, True, ("logits", "features")),
        ("herding", "selector", True, False, ("logits", "features")),
    ],
)
def test_one_shot_is_as_its_paper_has_it_unless_told_otherwise(
    method_of, by, kind, per_class, weighted, asks
):
    method = method_of(kind="one_shot", by=by)
    choice = method.choice
    assert (choice.kind, choice.per_class, choice.weighted) == (
        kind,
        per_class,
        weighted,
    )
    assert method.scores == asks
    other = method_of(kind="one_shot", by=by, per_class=not per_class, weighted=False)
    assert other.choice.per_class is not per_class
    assert other.choice.weighted is False


def test_dynamic_methods_get_their_numbers(method_of):
    rule = method_of(kind="infobatch", passes=7, prune_probability=0.4).rule
    assert isinstance(rule, InfoBatch)
    assert (rule.prune_probability, rule.annealing_start) == (0.4, 0.875)
    rule = method_of(kind="loss_threshold", threshold_per="pass", subset_size=9).rule
    assert isinstance(rule, LossThreshold)
    assert (rule.prune_fraction, rule.refresh_every) == (0.3, 5)
    assert (rule.threshold_per, rule.subset_size) == ("pass", 9)
    rule = method_of(kind="epsilon_greedy", keep_fraction=0.2, epsilon=1).rule
    assert isinstance(rule, EpsilonGreedy)
    assert (rule.keep_fraction, rule.epsilon) == (0.2, 1.0)
    method = method_of(kind="selective_backprop", look_ahead=64, passes=3)
    assert isinstance(method, SelectiveBackprop)
    assert (method.batch_size, method.look_ahead, method.passes) == (32, 64, 3)
    assert method_of(kind="stale_selective_backprop", beta=2, passes=4).passes == 4


def test_rounds_are_spread_out_where_asked(method_of):
    spread = {"kind": "badge", "shortlist": 2}
    for kind in ("dpet", "active_learning"):
        query = method_of(kind=kind, diversity=spread).query
        assert (query.diversity, query.shortlist) == ("badge", 2.0)
        assert method_of(kind=kind).query.diversity == "none"


def test_a_coreset_survives_its_file(tmp_path, data):
    chosen = Coreset(
        np.array([9, 2, 700], np.int32),
        np.array([1, 1, 2], np.int32),
        np.array([0.5, np.nan, 0.1], np.float32),
    )
    np.savez(tmp_path / "c.npz", **coreset_arrays(chosen, data))
    loaded = load_coreset(tmp_path / "c.npz", data)
    for a, b in zip(chosen, loaded, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_coreset_of_other_data_is_refused(tmp_path, data):
    arrays = coreset_arrays(
        Coreset(
            np.array([1], np.int32), np.zeros(1, np.int32), np.zeros(1, np.float32)
        ),
        data,
    )
    np.savez(tmp_path / "c.npz", **(arrays | {"fingerprint": np.array("0" * 64)}))
    with pytest.raises(UserError, match=r"c\.npz: was chosen from digits.*same data"):
        load_coreset(tmp_path / "c.npz", data)


@pytest.mark.parametrize("content", [b"", b"not an archive"])
def test_a_broken_coreset_is_refused(tmp_path, data, content):
    (tmp_path / "c.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"c\.npz: is no coreset"):
        load_coreset(tmp_path / "c.npz", data)


def test_an_empty_coreset_is_refused(tmp_path, data):
    np.savez(tmp_path / "c.npz", **coreset_arrays(Coreset.empty(), data))
    with pytest.raises(UserError, match="holds no examples"):
        load_coreset(tmp_path / "c.npz", data)
