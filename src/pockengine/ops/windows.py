"""The geometry of sliding windows, shared by convolutions, pooling and resizing.

References work channels-last: `to_last` and `from_last` move the channel axis. A window operator
visits its kernel's taps; each reads a strided view of the padded input: no loop runs over pixels.
"""

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np

from pockengine.ir.op import Array
from pockengine.ir.types import Shape, TensorType

Padding = tuple[tuple[int, int], ...]  # (before, after) for each spatial axis


def spatial(shape: Shape, channels_last: bool) -> Shape:
    """The spatial dimensions of an activation [N, C, *S] or [N, *S, C]."""
    return shape[1:-1] if channels_last else shape[2:]


def channels(shape: Shape, channels_last: bool) -> int:
    """The number of channels of an activation."""
    return shape[-1] if channels_last else shape[1]


def channel_axis(rank: int, channels_last: bool) -> int:
    """Where the channels of an activation are."""
    return rank - 1 if channels_last else 1


def activation(like: TensorType, size: Shape, count: int, channels_last: bool) -> TensorType:
    """The type of an activation with the batch and dtype of `like`."""
    rest = (*size, count) if channels_last else (count, *size)
    return like.with_shape(like.shape[0], *rest)


def window_counts(
    size: Shape, kernel: Shape, stride: Shape, padding: Padding, dilation: Shape
) -> Shape:
    """How many windows fit along each spatial axis (0 or less: none)."""
    return tuple(
        (n + lo + hi - d * (k - 1) - 1) // s + 1
        for n, k, s, (lo, hi), d in zip(size, kernel, stride, padding, dilation, strict=True)
    )


def taps(
    kernel: Shape, stride: Shape, dilation: Shape, counts: Shape
) -> Iterator[tuple[Shape, tuple[slice, ...]]]:
    """For each tap of the kernel: its index, and the slices it reads of a padded [N, *S, C]."""
    for tap in product(*map(range, kernel)):
        views = (
            slice(t * d, t * d + s * (n - 1) + 1, s)
            for t, d, s, n in zip(tap, dilation, stride, counts, strict=True)
        )
        yield tap, (slice(None), *views)


def pad_spatial(x: Array, padding: Padding, value: float = 0.0) -> Array:
    """[N, *S, C] with the spatial axes padded by `value`."""
    return np.pad(x, ((0, 0), *padding, (0, 0)), constant_values=value)


def crop_spatial(x: Array, padding: Padding, size: Shape) -> Array:
    """The inverse of `pad_spatial`."""
    inner = (slice(lo, lo + n) for (lo, _), n in zip(padding, size, strict=True))
    return x[(slice(None), *inner)]


def to_last(x: Array, channels_last: bool) -> Array:
    """[N, C, *S] -> [N, *S, C]; unchanged if it is so already."""
    return x if channels_last else np.moveaxis(x, 1, -1)


def from_last(y: Array, channels_last: bool) -> Array:
    """[N, *S, C] -> the operator's own layout."""
    return np.ascontiguousarray(y if channels_last else np.moveaxis(y, -1, 1))


def map_spatial(x: Array, matrices: Sequence[Array], channels_last: bool) -> Array:
    """Applies one matrix [out, in] along each spatial axis: what averaging and resizing are."""
    first = 1 if channels_last else 2
    for axis, matrix in enumerate(matrices, first):
        x = np.moveaxis(np.tensordot(matrix.astype(x.dtype), x, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(x)


def normal(rng: np.random.Generator, shape: Shape) -> Array:
    """Random numbers for samples."""
    return np.asarray(rng.standard_normal(shape))
