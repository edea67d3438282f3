"""Panels: a matrix as the register tile of a matrix product reads it, zeros at its right edge.

    [K, N]  ->  [ceil(N / width), K, width]      panel p holds columns p * width, p * width + 1, ...

A tensor of more axes counts as the matrix of all but its last axis by its last.
"""

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]


def panels_shape(shape: Shape, width: int) -> Shape:
    """The shape of the panels of a tensor of this shape.

    >>> panels_shape((3, 3, 8, 40), 32)
    (2, 72, 32)
    """
    *rows, columns = shape
    return -(-columns // width), int(np.prod(rows, dtype=np.int64)), width


def to_panels(array: Array, width: int) -> Array:
    """The panels of an array."""
    count, rows, _ = panels_shape(array.shape, width)
    padded = np.zeros((rows, count * width), array.dtype)
    padded[:, : array.shape[-1]] = array.reshape(rows, array.shape[-1])
    return np.ascontiguousarray(padded.reshape(rows, count, width).swapaxes(0, 1))


def from_panels(panels: Array, shape: Shape) -> Array:
    """The array of that shape whose panels these are."""
    count, rows, width = panels.shape
    padded = panels.swapaxes(0, 1).reshape(rows, count * width)
    return np.ascontiguousarray(padded[:, : shape[-1]]).reshape(shape)
