"""What is trained, on what: numbers that are no numbers, kinds left out."""

import pytest
from pydantic import ValidationError

from dpet_jax import section as sections


def test_scale_excludes_the_multipliers_that_it_stands_for():
    with pytest.raises(ValidationError, match="in tandem"):
        sections.ResNet20Model(kind="resnet20", scale=1.2, width_multiplier=1.2)
    assert sections.ResNet20Model(kind="resnet20", scale=1.2).scale == 1.2


def test_a_section_without_a_kind_is_of_the_default_kind():
    train = sections.TrainConfig(optimizer={"momentum": 0.5})
    assert train.optimizer == sections.SgdOptimizer(momentum=0.5)
    assert isinstance(train.schedule, sections.CosineSchedule)


def test_a_network_needs_one_entry_a_stage():
    with pytest.raises(ValidationError, match="one entry a stage"):
        sections.ResNetModel(kind="resnet", stem=8, channels=(8, 16), blocks=(1,))
