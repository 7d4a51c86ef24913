"""One convolution for all back ends, fast inside a loop body on the CPU too.

XLA:CPU rewrites a convolution into the layout of its fast kernel only in the entry
computation (jax-ml/jax#12868): inside the body of a loop the weight gradient that
autodiff emits runs about 30 times slower than outside it. On the CPU the gradients are
therefore spelled out as matrix products over shifted images, which need no rewriting
and beat the convolution itself once there are enough channels. Elsewhere everything
stays native, for that is what cuDNN and the TPU compiler recognise.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

_LAYOUT = ("NHWC", "HWIO", "NHWC")

#: With fewer channels the product over patches is too thin and XLA:CPU's convolution
#: wins. benchmarks/bench_conv.py compares the two alone, in which the side of the image
#: matters more than the channels; in whole training steps neither rule won clearly.
_MIN_PRODUCT_CHANNELS = 32


def native_convolution(
    images: Float[Array, "b h w c"], kernel: Float[Array, "k k c o"], stride: int
) -> Float[Array, "b h2 w2 o"]:
    """Convolve with explicit symmetric padding k // 2, as PyTorch pads.

    'SAME' would pad a stride-2 convolution by (0, 1) instead of (1, 1) and shift the
    network by a pixel against every published ResNet.
    """
    pad = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        images, kernel, (stride, stride), [(pad, pad)] * 2, dimension_numbers=_LAYOUT
    )


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolution(
    images: Float[Array, "b h w c"], kernel: Float[Array, "k k c o"], stride: int
) -> Float[Array, "b h2 w2 o"]:
    """Convolve as `native_convolution`, in the form that is fast on the platform.

    Args:
        images: A batch, channels last.
        kernel: An odd square kernel.
        stride: Step in both directions, 1 or more.

    Returns:
        Feature maps of height ceil(h / stride).
    """
    return lax.platform_dependent(
        images,
        kernel,
        cpu=partial(canonical_convolution, stride=stride),
        default=partial(native_convolution, stride=stride),
    )


def _forward(images, kernel, stride):
    return convolution(images, kernel, stride), (images, kernel)


def _backward(stride, residuals, cotangent):
    return lax.platform_dependent(
        *residuals,
        cotangent,
        cpu=partial(canonical_gradients, stride),
        default=partial(native_gradients, stride),
    )


convolution.defvjp(_forward, _backward)


def native_gradients(stride, images, kernel, cotangent):
    """Return the gradients that autodiff derives for `native_convolution`."""
    return jax.vjp(partial(native_convolution, stride=stride), images, kernel)[1](
        cotangent
    )


def canonical_convolution(images, kernel, stride):
    """Convolve as one product over patches where that pays, else natively."""
    if kernel.shape[2] < _MIN_PRODUCT_CHANNELS:
        return native_convolution(images, kernel, stride)
    side = kernel.shape[0]
    columns = [shifted for _, _, shifted in _shifts(images, side, stride)]
    flat = kernel.reshape(-1, kernel.shape[-1])
    return jnp.einsum("bhwc,co->bhwo", jnp.concatenate(columns, axis=-1), flat)


def canonical_gradients(stride, images, kernel, cotangent):
    """Return both gradients in forms that XLA:CPU runs fast anywhere.

    The kernel gradient is one matrix product of shifted images and cotangent for each
    kernel position. The image gradient convolves the cotangent, spread out with zeros
    on the grid of the stride-1 output, with the mirrored kernel.
    """
    side = kernel.shape[0]
    products = [
        jnp.einsum("bhwc,bhwo->co", shifted, cotangent)
        for _, _, shifted in _shifts(images, side, stride)
    ]
    kernel_gradient = jnp.stack(products).reshape(kernel.shape)

    spread = [(0, 0, 0)]
    for size, steps in zip(images.shape[1:3], cotangent.shape[1:3], strict=True):
        spread.append((0, size - ((steps - 1) * stride + 1), stride - 1))
    spread.append((0, 0, 0))
    cotangent = lax.pad(cotangent, jnp.zeros((), cotangent.dtype), spread)
    mirrored = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    return canonical_convolution(cotangent, mirrored, 1), kernel_gradient


def _shifts(images, side, stride):
    """Yield each kernel position with the images that it multiplies."""
    pad = side // 2
    height, width = images.shape[1:3]
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    for row in range(side):
        for column in range(side):
            yield (
                row,
                column,
                padded[
                    :, row : row + height : stride, column : column + width : stride
                ],
            )
