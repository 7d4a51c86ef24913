"""Residual networks built from an explicit spec."""

from dpet_jax.models.folded import apply_folded as apply_folded
from dpet_jax.models.folded import fold as fold
from dpet_jax.models.resnet import Outputs as Outputs
from dpet_jax.models.resnet import apply as apply
from dpet_jax.models.resnet import apply_train as apply_train
from dpet_jax.models.resnet import bind as bind
from dpet_jax.models.resnet import init as init
from dpet_jax.models.spec import ResNetSpec as ResNetSpec
from dpet_jax.models.spec import forward_flops as forward_flops
from dpet_jax.models.spec import resnet18 as resnet18
from dpet_jax.models.spec import resnet20 as resnet20
