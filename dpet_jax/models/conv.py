"""One convolution for all back ends, fast inside a loop body on the CPU too.

XLA:CPU rewrites a convolution into the layout of its fast kernel only in the entry
computation (jax-ml/jax#12868): inside the body of a loop the weight gradient that
autodiff emits runs about 30 times slower than outside it, and a strided image gradient
is slow anywhere. On the CPU the gradients are therefore spelled out as matrix products,
which need no rewriting. Elsewhere everything stays native, for that is what cuDNN and
the TPU compiler recognise.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

_LAYOUT = ("NHWC", "HWIO", "NHWC")

#: Images of at least so many pixels go through XLA:CPU's own convolution. The products
#: move more memory, which such images no longer find in the cache; on 2x2 images they
#: are an order of magnitude faster. benchmarks/bench_conv.py compares the two.
_NATIVE_PIXELS = 64
#: Channels that fill the registers of XLA:CPU's convolution; where there are fewer on
#: both sides, several pixels of a line are computed as channels of one. Of pictures,
#: with their three channels, it takes more.
_FULL, _FULL_OF_PICTURES = 24, 48
#: Gradients by the kernel of such images are summed over parts of the batch whose
#: copies take no more than this, so that the cache holds them.
_PART_BYTES = 4 * 2**20


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


@jax.tree_util.register_static
@dataclass(frozen=True)
class Wanted:
    """Which gradients of a convolution anybody reads.

    Attributes:
        by_images: Nobody differentiates by the images of a network's first layer.
        by_kernel: Nobody does by kernels where the lengths of gradients are measured.
    """

    by_images: bool
    by_kernel: bool


BOTH = Wanted(by_images=True, by_kernel=True)


def _forward(images, kernel, stride):
    wanted = Wanted(images.perturbed, kernel.perturbed)
    output = convolution(images.value, kernel.value, stride)
    return output, (images.value, kernel.value, wanted)


def _backward(stride, residuals, cotangent):
    images, kernel, wanted = residuals
    return lax.platform_dependent(
        images,
        kernel,
        cotangent,
        cpu=partial(canonical_gradients, stride, wanted=wanted),
        default=partial(native_gradients, stride, wanted=wanted),
    )


convolution.defvjp(_forward, _backward, symbolic_zeros=True)


def native_gradients(
    stride: int,
    images: Any,
    kernel: Any,
    cotangent: Any,
    wanted: Wanted = BOTH,
) -> tuple[Any, Any]:
    """Return the gradients that autodiff derives for `native_convolution`.

    Transposing a linear function, unlike differentiating it, does not run it.
    """
    by_images = by_kernel = None
    if wanted.by_images:
        by_images = jax.linear_transpose(
            lambda images: native_convolution(images, kernel, stride), images
        )(cotangent)[0]
    if wanted.by_kernel:
        by_kernel = jax.linear_transpose(
            lambda kernel: native_convolution(images, kernel, stride), kernel
        )(cotangent)[0]
    return by_images, by_kernel


def canonical_convolution(images, kernel, stride):
    """Convolve by matrix products where that pays, else natively."""
    if kernel.shape[0] == 1:
        strided = images[:, ::stride, ::stride]
        return jnp.einsum("bhwc,co->bhwo", strided, kernel[0, 0])
    if images.shape[1] * images.shape[2] >= _NATIVE_PIXELS:
        pad = kernel.shape[0] // 2
        return convolution_of_groups(images, kernel, stride, [(pad, pad)] * 2)
    return product_convolution(images, kernel, stride)


def pixels_at_once(inputs: int, outputs: int) -> int:
    """Return how many pixels of a line XLA:CPU should compute as channels of one.

    A kernel that is shifted once for each of them multiplies more zeros the more they
    are: for two pixels a 3x3 kernel is 3x4, a third more work, yet 16 channels take 0.7
    of the time. benchmarks/bench_conv.py compares the numbers.
    """
    full = _FULL_OF_PICTURES if 1 < inputs < 8 else _FULL
    if inputs >= _FULL or outputs >= full:
        return 1
    return 1 << (-(-full // outputs) - 1).bit_length()


def convolution_of_groups(images, kernel, stride, margins, size=None):
    """Convolve with given margins, a group of pixels of a line at once where it pays.

    The result of a group lies in memory as that of its pixels one by one.

    Args:
        images: A batch, channels last.
        kernel: A kernel of any two sides.
        stride: Step in both directions.
        margins: Pixels of zeros before and after, of lines and in a line.
        size: Pixels of a group; by default those of `pixels_at_once` in float32.
    """
    side, across, inputs, outputs = kernel.shape
    (low, high), width = margins[1], images.shape[2]
    pixels = (width + low + high - across) // stride + 1
    if size is None:
        # in bfloat16 jax 0.11.2 makes NaN of some of them, and nobody is in a hurry
        full = images.dtype == jnp.float32
        size = pixels_at_once(inputs, outputs) if full else 1
    if size == 1 or pixels < size:
        return lax.conv_general_dilated(
            images, kernel, (stride, stride), margins, dimension_numbers=_LAYOUT
        )
    seen, groups = across + (size - 1) * stride, -(-pixels // size)
    shifted = [
        jnp.pad(
            kernel,
            ((0, 0), (n * stride, seen - across - n * stride), (0, 0), (0, 0)),
        )
        for n in range(size)
    ]
    covered = (groups - 1) * size * stride + seen
    found = lax.conv_general_dilated(
        images,
        jnp.stack(shifted, axis=3).reshape(side, seen, inputs, size * outputs),
        (stride, size * stride),
        [margins[0], (low, covered - low - width)],
        dimension_numbers=_LAYOUT,
    )
    lines = found.reshape(*found.shape[:2], groups * size, outputs)
    return lines[:, :, :pixels]


def product_convolution(images, kernel, stride):
    """Convolve as one product: kernel rows as inputs, kernel columns as outputs.

    Each pixel meets all kernel positions, yet only as many copies of the image and of
    the result exist as the kernel has rows: a third of what patches would take.
    """
    side, channels = kernel.shape[0], kernel.shape[3]
    rows = jnp.concatenate(_taps(images, 1, side, stride), axis=-1)
    products = jnp.einsum("bhwr,rs->bhws", rows, _rows_by_columns(kernel))
    return _sum_of_blocks(_taps(products, 2, side, stride), channels)


def canonical_gradients(
    stride: int,
    images: Any,
    kernel: Any,
    cotangent: Any,
    wanted: Wanted = BOTH,
) -> tuple[Any, Any]:
    """Return the gradients in forms that XLA:CPU runs fast anywhere."""
    large = images.shape[1] * images.shape[2] >= _NATIVE_PIXELS
    if large and kernel.shape[0] > 1:
        by_images = _gradient_by_images(images, kernel, cotangent, stride)
        by_kernel = _gradient_by_kernel(images, kernel, cotangent, stride)
    elif stride == 1:
        by_images, by_kernel = _product_gradients(images, kernel, cotangent)
    else:
        by_images, by_kernel = _strided_gradients(images, kernel, cotangent, stride)
    # the two share work, of which XLA drops what only the unwanted one needs
    return by_images if wanted.by_images else None, (
        by_kernel if wanted.by_kernel else None
    )


def _gradient_by_images(images, kernel, cotangent, stride):
    """Convolve the cotangent once for each residue of a pixel's place by the stride.

    Pixels of one residue meet the same kernel positions, every stride-th of them, so
    that no zeros are multiplied and each convolution is one that XLA:CPU runs fast.
    """
    sizes = images.shape[1:3]

    def part(residues):
        ways = [
            _met(kernel.shape[0], stride, *facts)
            for facts in zip(residues, sizes, cotangent.shape[1:3], strict=True)
        ]
        (rows, high), (columns, wide) = ways
        turned = kernel[rows][:, columns].swapaxes(2, 3)
        if 0 in turned.shape:  # the kernel is smaller than the stride
            shape = (
                -(-(n - r) // stride) for n, r in zip(sizes, residues, strict=True)
            )
            return jnp.zeros((len(images), *shape, images.shape[3]), cotangent.dtype)
        return convolution_of_groups(cotangent, turned, 1, [high, wide])

    if stride == 1:
        return part((0, 0))
    places = range(stride)
    lines = [_interleaved([part((r, c)) for c in places], 2, sizes[1]) for r in places]
    return _interleaved(lines, 1, sizes[0])


def _met(side, stride, residue, size, outputs):
    """Return which kernel positions pixels of a residue meet, and the margins.

    Args:
        side: Of the kernel.
        stride: Of the convolution.
        residue: Of a pixel's place by the stride, along one axis.
        size: Pixels along it.
        outputs: Of the convolution along it.

    Returns:
        Kernel positions, in the order of the outputs that they lead to, and the margin
        that the outputs get before and after them.
    """
    shifted = residue + side // 2
    positions = np.arange(shifted % stride, side, stride)[::-1]
    if not positions.size:
        return positions, (0, 0)
    first, last = ((shifted - int(positions[n])) // stride for n in (0, -1))
    pixels = -(-(size - residue) // stride)
    return positions, (-first, pixels + last - outputs)


def _interleaved(parts, axis, size):
    """Put the first of each part first, then the second; `size` of them along an axis.

    Parts of a size that the stride does not divide are a pixel shorter, the later ones.
    """
    longest = parts[0].shape[axis]
    margins = [[(0, 0)] * 4 for _ in parts]
    for margin, part in zip(margins, parts, strict=True):
        margin[axis] = (0, longest - part.shape[axis])
    padded = [jnp.pad(part, m) for part, m in zip(parts, margins, strict=True)]
    stacked = jnp.stack(padded, axis + 1)
    shape = list(parts[0].shape)
    shape[axis] = longest * len(parts)
    return lax.slice_in_dim(stacked.reshape(shape), 0, size, axis=axis)


def _gradient_by_kernel(images, kernel, cotangent, stride):
    """Multiply what each kernel position saw by the cotangent, part by part.

    As one product it would copy the whole batch several times over, which takes longer
    than the product.
    """
    side, _, inputs, outputs = kernel.shape
    exact = np.promote_types(kernel.dtype, np.float32)
    see = partial(_seen, side=side, stride=stride)

    def product(images, cotangent):
        seen, met = see(images, cotangent)
        return lax.dot_general(
            seen, met, (((0,), (0,)), ((), ())), preferred_element_type=exact
        )

    copies = jax.eval_shape(see, images[:1], cotangent[:1])
    size = _part(len(images), sum(c.size * c.dtype.itemsize for c in copies))
    if size == len(images):
        found = product(images, cotangent)
    else:
        parts = [
            array.reshape(-1, size, *array.shape[1:]) for array in (images, cotangent)
        ]
        zero = jnp.zeros((copies[0].shape[1], copies[1].shape[1]), exact)
        found, _ = lax.scan(
            lambda total, part: (total + product(*part), None), zero, parts
        )
    found = found.astype(kernel.dtype)
    if stride == 1:
        return found.reshape(side, inputs, side, outputs).swapaxes(1, 2)
    return found.reshape(kernel.shape)


def _seen(images, cotangent, side, stride):
    """Return matrices, a line a pixel, whose product is the gradient by the kernel.

    With stride 1 each of the two has the shifts along one axis, three copies instead of
    nine of the images alone.
    """
    if stride == 1:
        rows = jnp.concatenate(_taps(images, 1, side, 1), axis=-1)
        # a pixel right of the kernel's centre belongs to an output pixel left of it
        columns = jnp.concatenate(_taps(cotangent, 2, side, 1)[::-1], axis=-1)
        return _lines(rows), _lines(columns)
    taps = (
        tap
        for row in _taps(images, 1, side, stride)
        for tap in _taps(row, 2, side, stride)
    )
    return _lines(jnp.concatenate([*taps], axis=-1)), _lines(cotangent)


def _lines(maps):
    """Lay feature maps out as a matrix with a line for each pixel."""
    return maps.reshape(-1, maps.shape[-1])


def _part(batch, image_bytes):
    """Return how many images of a batch are taken at a time: all, or a divisor."""
    most = max(1, _PART_BYTES // image_bytes)
    if batch <= most:
        return batch
    size = next(size for size in range(most, 0, -1) if batch % size == 0)
    # small parts of a batch that hardly divides would take longer than the whole
    return size if 4 * size >= most else batch


def _product_gradients(images, kernel, cotangent):
    """Transpose `product_convolution`: both gradients share the shifted cotangent."""
    side, _, inputs, outputs = kernel.shape
    rows = jnp.concatenate(_taps(images, 1, side, 1), axis=-1)
    # a pixel right of the kernel's centre belongs to an output pixel left of it
    columns = jnp.concatenate(_taps(cotangent, 2, side, 1)[::-1], axis=-1)
    of_kernel = jnp.einsum("bhwr,bhws->rs", rows, columns)
    of_kernel = of_kernel.reshape(side, inputs, side, outputs).swapaxes(1, 2)
    of_rows = jnp.einsum("bhws,rs->bhwr", columns, _rows_by_columns(kernel))
    return _sum_of_blocks(_taps(of_rows, 1, side, 1)[::-1], inputs), of_kernel


def _strided_gradients(images, kernel, cotangent, stride):
    """Multiply no zeros: each kernel position sees one pixel in stride squared."""
    side = kernel.shape[0]
    of_kernel = jnp.stack(
        [
            jnp.einsum("bhwc,bhwo->co", tap, cotangent)
            for row in _taps(images, 1, side, stride)
            for tap in _taps(row, 2, side, stride)
        ]
    ).reshape(kernel.shape)
    products = jnp.einsum("bhwo,ijco->bhwijc", cotangent, kernel)
    zero = jnp.zeros((), products.dtype)

    def edges(axis, position):
        low = position - side // 2
        covered = (cotangent.shape[axis] - 1) * stride + 1
        return low, images.shape[axis] - covered - low, stride - 1

    of_images = sum(
        lax.pad(
            products[:, :, :, i, j],
            zero,
            ((0, 0, 0), edges(1, i), edges(2, j), (0, 0, 0)),
        )
        for i in range(side)
        for j in range(side)
    )
    return of_images, of_kernel


def _rows_by_columns(kernel):
    """Lay the kernel out as a matrix [row and input, column and output]."""
    side, _, inputs, outputs = kernel.shape
    return kernel.swapaxes(1, 2).reshape(side * inputs, side * outputs)


def _taps(images, axis, side, stride):
    """Return what each of `side` kernel positions along an axis multiplies."""
    margins = [(0, 0)] * 4
    margins[axis] = (side // 2, side // 2)
    padded = jnp.pad(images, margins)
    size = images.shape[axis]
    return [
        lax.slice_in_dim(padded, position, position + size, stride, axis)
        for position in range(side)
    ]


def _sum_of_blocks(taps, channels):
    """Add up the block of channels in each tap that belongs to its position."""
    return sum(
        tap[..., position * channels : (position + 1) * channels]
        for position, tap in enumerate(taps)
    )
