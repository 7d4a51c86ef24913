"""Plateaus of accuracy: counted by hand."""

import pytest
from pydantic import ValidationError

from dpet_jax.config.load import validate
from dpet_jax.errors import UserError
from dpet_jax.training.plateau import Plateau, PlateauConfig


def course(section, accuracies):
    state, found = Plateau(), []
    for accuracy in accuracies:
        state = section.after(state, accuracy)
        found.append((state.reached, section.rate(state), section.over(state)))
    return found, state


def test_a_plateau_is_so_many_looks_without_a_new_best():
    section = PlateauConfig(patience=2, factor=0.5, falls=2)
    found, state = course(section, [0.5, 0.6, 0.6, 0.61, 0.61, 0.4, 0.3, 0.2, 0.7, 0.1])
    assert [reached for reached, *_ in found] == [0, 0, 0, 0, 0, 1, 1, 2, 2, 2]
    assert [rate for _, rate, _ in found] == [1] * 5 + [0.5] * 2 + [0.25] * 3
    assert not any(over for *_, over in found)
    assert state == (0.7, 1, 10, 2)
    # a third one ends it, at the rate of the second
    assert course(section, [0.5] * 7)[0][-1] == (3, 0.25, True)


def test_a_gain_has_to_be_large_enough_and_the_first_look_is_always_the_best():
    section = PlateauConfig(patience=1, min_gain=0.01)
    assert course(section, [0.5, 0.505])[0][-1] == (1, 1.0, True)
    assert course(section, [0.5, 0.52])[0][-1] == (0, 1.0, False)
    assert course(section, [0.0, 0.0])[0] == [(0, 1.0, False), (1, 1.0, True)]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"data": {"validation_fraction": 0}}, "plateau looks at accuracy on"),
        (
            {"budget": {"pace": True, "seconds": 9}, "method": {"kind": "dpet_anneal"}},
            "plateau ends it where accuracy stops rising",
        ),
    ],
)
def test_a_config_in_which_no_plateau_could_be_seen_is_refused(keys, said):
    with pytest.raises(UserError, match=said):
        validate({"plateau": {"patience": 2}, **keys}, "bad.yaml")
    with pytest.raises(ValidationError):
        PlateauConfig(patience=0)
