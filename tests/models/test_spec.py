import json
import math
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from dpet_jax.models import (
    ResNetSpec,
    apply,
    forward_flops,
    init,
    resnet18,
    resnet20,
)
from dpet_jax.models.conv import native_convolution
from dpet_jax.models.spec import scaled_blocks, scaled_channels

TINY = ResNetSpec(stem=8, channels=(8, 24), blocks=(1, 2), num_classes=3, in_channels=1)


def scaled20(scale):
    return resnet20(100, width_multiplier=scale, depth_multiplier=scale)


def abstract_variables(spec):
    return jax.eval_shape(partial(init, spec), jax.random.key(0))


@pytest.mark.parametrize(
    ("spec", "count"),
    [
        (resnet18(10), 11_173_962),
        (scaled20(1.0), 278_324),
        (scaled20(1.1), 331_072),
        (scaled20(1.4), 716_097),
    ],
    ids=["resnet18", "scale 1.0", "scale 1.1", "scale 1.4"],
)
def test_parameters_are_as_many_as_published(spec, count):
    params, _ = abstract_variables(spec)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


@pytest.mark.parametrize(
    ("spec", "million_multiply_adds"),
    [
        (resnet18(10), 555.42),
        (scaled20(1.0), 40.82),
        (scaled20(1.1), 47.87),
        (scaled20(1.4), 103.43),
    ],
    ids=["resnet18", "scale 1.0", "scale 1.1", "scale 1.4"],
)
def test_forward_flops_are_twice_the_published_multiply_adds(
    spec, million_multiply_adds
):
    flops = forward_flops(spec, 32, 32)
    assert flops / 2e6 == pytest.approx(million_multiply_adds, abs=0.005)


def products_in(jaxpr):
    """Add up two operations a multiply-add of all convolutions and dots."""
    total = 0
    for equation in jaxpr.eqns:
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda p: hasattr(p, "eqns")
        ):
            inner = getattr(inner, "jaxpr", inner)
            total += products_in(inner) if hasattr(inner, "eqns") else 0
        outputs = math.prod(equation.outvars[0].aval.shape)
        if equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape  # HWIO
            total += 2 * outputs * math.prod(kernel[:-1])
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * outputs * math.prod(left[axis] for axis in contracted)
    return total


@pytest.mark.parametrize(
    ("spec", "height", "width"),
    [(resnet18(10), 32, 32), (scaled20(1.4), 32, 32), (TINY, 9, 6)],
    ids=["resnet18", "resnet20", "odd image"],
)
def test_forward_flops_equal_those_of_the_traced_network(spec, height, width):
    images = jax.ShapeDtypeStruct((2, height, width, spec.in_channels), jnp.float32)
    traced = jax.make_jaxpr(partial(apply, spec, convolve=native_convolution))(
        *abstract_variables(spec), images
    )
    assert products_in(traced.jaxpr) == 2 * forward_flops(spec, height, width)


@pytest.mark.parametrize(
    ("base", "multiplier", "multiple", "expected"),
    [
        (64, 1.0, 8, 64),
        (64, 0.7, 8, 48),  # 44.8, to the nearest multiple
        (64, 0.3, 8, 16),  # 19.2
        (64, 0.01, 8, 8),
        (16, 1.4, 1, 22),  # 22.4, floored
        (16, 1.99, 1, 31),
        (16, 0.1, 1, 8),
        (64, 0.01, 16, 16),
    ],
)
def test_channels_round_to_the_multiple_and_stay_at_least_eight(
    base, multiplier, multiple, expected
):
    assert scaled_channels(base, multiplier, multiple) == expected


@pytest.mark.parametrize(
    ("multiplier", "blocks"), [(0.1, 1), (1.0, 3), (1.3, 3), (1.34, 4), (1.4, 4)]
)
def test_depth_grows_only_by_whole_blocks(multiplier, blocks):
    assert scaled_blocks(3, multiplier) == blocks


def test_only_the_resnet18_scales_its_stem():
    assert resnet18(10, width_multiplier=0.25).stem == 16
    assert resnet20(10, width_multiplier=2.0).stem == 16


@pytest.mark.parametrize(("spec", "depth"), [(resnet18(10), 18), (resnet20(10), 20)])
def test_depth_is_the_one_in_the_name(spec, depth):
    assert spec.depth == depth


@pytest.mark.parametrize("spec", [TINY, resnet18(10), scaled20(1.4)])
def test_a_spec_survives_json(spec):
    restored = ResNetSpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert restored == spec
    assert hash(restored) == hash(spec)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": ()}, "one entry a stage"),
        ({"blocks": (1,)}, "one entry a stage"),
        ({"channels": (8, 0)}, "at least 1"),
        ({"blocks": (1, 0)}, "at least 1"),
        ({"stem": 0}, "at least 1"),
        ({"in_channels": 0}, "at least 1"),
        ({"num_classes": 1}, "at least 2 classes, got 1"),
    ],
    ids=str,
)
def test_a_shape_that_is_no_network_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ResNetSpec.from_json(TINY.to_json() | change)
