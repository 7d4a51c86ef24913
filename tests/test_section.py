"""What is trained, on what: numbers that are no numbers, kinds left out."""

import pytest
from pydantic import ValidationError

from dpet_jax import section as sections
from dpet_jax.config.experiment import TrainConfig
from dpet_jax.training.optimizer import Sgd
from dpet_jax.training.schedule import Cosine


def test_data_keeps_all_training_examples_unless_told():
    assert sections.DigitsData().train_examples is None
    assert sections.DigitsData(train_examples=100).train_examples == 100


@pytest.mark.parametrize("bad", [0, -1, 1.5, True])
def test_impossible_numbers_of_examples_are_refused(bad):
    with pytest.raises(ValidationError):
        sections.DigitsData(train_examples=bad)


def test_a_section_without_a_kind_is_of_the_default_kind():
    train = TrainConfig(optimizer={"momentum": 0.5})
    assert train.optimizer == Sgd(momentum=0.5)
    assert isinstance(train.schedule, Cosine)
