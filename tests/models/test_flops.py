"""Operations counted in a jaxpr, against counts by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from fakes.networks import MlpModel, VitModel
from jax import lax

from dpet_jax.models.flax_network import FlaxNetwork
from dpet_jax.models.resnet import ResidualNetwork

WEIGHTS = nn.initializers.ones


def network(module, image_shape=(1, 1, 4)):
    return FlaxNetwork(MlpModel(), module, 4, image_shape)


def flops(module):
    counted = network(module)
    return counted.forward_flops(1, 1), counted.backward_flops(1, 1)


def test_residual_network_counts_padding_projection_and_head():
    net = ResidualNetwork(8, (8, 24), (1, 2), num_classes=3, in_channels=1)
    stem = 9 * 6 * 9 * 1 * 8
    first = 2 * 9 * 6 * 9 * 8 * 8
    # the second stage halves 9 x 6 to 5 x 3
    second = 5 * 3 * (9 * (8 * 24 + 24 * 24) + 8 * 24) + 2 * 5 * 3 * 9 * 24 * 24
    head = 24 * 3
    total = 2 * (stem + first + second + head)
    assert net.forward_flops(9, 6) == total
    # the images need no gradient
    assert net.backward_flops(9, 6) == total - 2 * stem


def test_attention_has_two_inputs_to_go_back_to():
    net = VitModel(patch=4, width=8).build(3, (8, 8, 1))
    tokens, width = 4, 8
    patches = tokens * 16 * width
    projections = 4 * tokens * width * width
    attention = 2 * tokens * tokens * width
    mlp = 2 * tokens * width * 2 * width
    head = width * 3
    rest = projections + mlp + head
    assert net.forward_flops(8, 8) == 2 * (patches + attention + rest)
    assert net.backward_flops(8, 8) == 2 * (2 * attention + rest)


class Grouped(nn.Module):
    @nn.compact
    def __call__(self, images):
        return nn.Conv(4, (3, 3), feature_group_count=4)(images).mean((1, 2))


def test_grouped_convolution_counts_the_channels_that_it_reads():
    net = network(Grouped(), (5, 5, 4))
    assert net.forward_flops(5, 5) == 2 * 5 * 5 * 4 * 9


class Rounds(nn.Module):
    """A product in a loop; how the loop is written is `how`."""

    how: str

    @nn.compact
    def __call__(self, images):
        weights = self.param("weights", WEIGHTS, (4, 4))
        x = images[:, 0, 0] * self.param("scale", WEIGHTS, (1, 4))
        if self.how == "scan":
            return lax.scan(lambda x, _: (x @ weights, None), x, length=3)[0]
        if self.how == "while":
            return lax.while_loop(
                lambda x: jnp.sum(x) < 9, lambda x: jnp.tanh(x @ weights) + 9, x
            )
        return lax.cond(
            jnp.sum(x) > 0, lambda x: x @ weights @ weights, lambda x: x @ weights, x
        )


def test_loops_count_their_rounds_and_branches_the_costliest():
    once = 2 * 4 * 4
    assert flops(Rounds("scan")) == (3 * once, 3 * once)
    assert flops(Rounds("while")) == (once, once)
    assert flops(Rounds("cond")) == (2 * once, 2 * once)


class Carried(nn.Module):
    """The carry comes to depend on parameters only after a round."""

    @nn.compact
    def __call__(self, images):
        weights = self.param("weights", WEIGHTS, (4, 4))
        return lax.scan(lambda x, _: (x @ weights, None), images[:, 0, 0], length=2)[0]


def test_carry_of_a_loop_depends_on_what_any_round_gives_it():
    once = 2 * 4 * 4
    assert flops(Carried()) == (2 * once, 2 * once)


def test_counting_computes_nothing_and_is_done_once_for_a_shape(monkeypatch):
    net = network(Rounds("scan"))
    net.forward_flops(1, 1)

    def fail(*_):
        raise AssertionError("traced again")

    monkeypatch.setattr(jax, "make_jaxpr", fail)
    assert net.backward_flops(1, 1) > 0
