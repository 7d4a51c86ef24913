"""The residual network for inference: normalisation folded into the convolutions.

With running statistics the normalisation after a convolution is one scale and one shift
for each channel, so a convolution with scaled kernels and a bias does the work of both.
"""

from collections.abc import Iterable

import jax.numpy as jnp
from jaxtyping import Array, Float

from dpet_jax.models.blocks import NORMS, Block, StemKind, residual
from dpet_jax.models.blocks import stem as wired_stem
from dpet_jax.models.modules import apply_folded_conv, fold_conv
from dpet_jax.models.network import Outputs, Params


def fold(params: Params, stats: Params) -> Params:
    """Fold the running statistics into kernels and biases.

    kernel * scale / sqrt(var + epsilon), and bias - mean * scale / sqrt(var + epsilon).
    Cheap beside one forward pass; do it once for all batches.

    Args:
        params: Parameters of a residual network.
        stats: Running statistics of its normalisation.

    Returns:
        A float32 tree for `apply_folded`: kernel and bias of each convolution and of
        the head.
    """
    folded = {
        "stem": fold_conv(params, stats, "stem", NORMS["stem"]),
        "head": params["head"],
    }
    for block, layers in params.items():
        if block.startswith("stage"):
            folded[block] = {
                conv: fold_conv(layers, stats[block], conv, NORMS[conv])
                for conv in layers
                if conv in NORMS
            }
    return folded


def apply_folded(
    blocks: Iterable[Block],
    folded: Params,
    images: Float[Array, "b h w c"],
    *,
    dtype: str = "float32",
    stem_kind: StemKind = "cifar",
) -> Outputs:
    """Run a residual network in evaluation mode, as its `apply` but for rounding.

    Args:
        blocks: Its blocks.
        folded: From `fold`.
        images: A batch, normalised.
        dtype: Name of the dtype of convolutions.
        stem_kind: How it begins.

    Returns:
        Logits and features.
    """

    def layers(weights):
        def layer(name, x, side, stride):
            del side  # that of the kernel
            return apply_folded_conv(weights[name], x, stride, dtype)

        return layer

    x = wired_stem(layers(folded), images.astype(dtype), stem_kind)
    for block in blocks:
        x = residual(layers(folded[block.name]), x, block)
    features = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
    head = folded["head"]
    return Outputs(features @ head["kernel"] + head["bias"][None], features)
