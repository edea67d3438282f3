"""ONNX Resize: along each axis a matrix from the old positions to the new ones.

Where the IR's own Resize computes the same matrices, it is used. Otherwise nearest becomes an index
along each axis, and the rest a product with the constant matrix.
"""

from dataclasses import dataclass

import numpy as np

from pockengine.errors import UnsupportedError
from pockengine.frontends.onnx_node import Item, Node, Translation, axes_of
from pockengine.frontends.onnx_shape import transposed
from pockengine.ir.graph import Const
from pockengine.ir.op import Array, Value
from pockengine.ir.types import NUMPY, holds_batch
from pockengine.ops.matmul import MatMul
from pockengine.ops.resize import Resize
from pockengine.ops.shape import Take

IR_MODES = (
    ("nearest", "asymmetric"),
    ("nearest", "half_pixel"),
    ("bilinear", "half_pixel"),
    ("bilinear", "align_corners"),
    ("bilinear", "asymmetric"),
)


@dataclass(frozen=True)
class _Axis:
    """One resized axis: `count` new positions among `size` old ones, scaled by `factor`."""

    size: int
    count: int
    factor: float


def resize(node: Node) -> Item:
    x = node.value(0)
    if node.attr("keep_aspect_ratio_policy", "stretch") != "stretch" or node.attr("antialias", 0):
        raise UnsupportedError("Resize with antialiasing, or that keeps the aspect ratio")
    changed = {a: axis for a, axis in enumerate(_axes(node, x)) if axis.size != axis.count}
    if holds_batch(*(axis.size for axis in changed.values())):
        raise UnsupportedError("Resize of the batch; give its sizes as they are")
    if not changed:
        return x
    matrices = {a: _matrix(node, axis) for a, axis in changed.items()}
    ours = _as_ir(x, matrices)
    if ours is not None:
        return ours(x)
    for axis, matrix in matrices.items():
        x = _along(node, x, axis, matrix)
    return x


def _axes(node: Node, x: Value) -> list[_Axis]:
    """How each axis is resized."""
    axes = axes_of(node.attr("axes", range(x.type.rank)), x.type.rank)
    resized = [_Axis(d, d, 1.0) for d in x.shape]
    if node.has(3):
        for a, count in zip(axes, node.dims(3, "the sizes of Resize"), strict=True):
            resized[a] = _Axis(x.shape[a], count, count / x.shape[a])
        return resized
    for a, factor in zip(axes, node.array(2, "the scales of Resize").ravel(), strict=True):
        if factor != 1.0:
            resized[a] = _Axis(x.shape[a], int(np.floor(x.shape[a] * factor)), float(factor))
    return resized


def _as_ir(x: Value, matrices: dict[int, Array]) -> Resize | None:
    """The IR's Resize that has these matrices, if there is one."""
    spatial = range(2, x.type.rank)
    if not set(matrices) <= set(spatial):
        return None
    size = tuple(len(matrices[a]) if a in matrices else x.shape[a] for a in spatial)
    for mode, coordinates in IR_MODES:
        if all(_same(m, mode, coordinates) for m in matrices.values()):
            return Resize(size, mode, coordinates, False)
    return None


def _same(matrix: Array, mode: str, coordinates: str) -> bool:
    count, size = matrix.shape
    unit = np.eye(size)[None]  # one channel an old position, so that the result is the matrix
    return np.allclose(Resize((count,), mode, coordinates, False).ref(unit)[0].T, matrix, atol=1e-6)


def _along(node: Node, x: Value, axis: int, matrix: Array) -> Value:
    """matrix[new, old] applied along one axis."""
    if _is_selection(matrix):
        return Take(axis, tuple(matrix.argmax(1).tolist()))(x)
    perm = [a for a in range(x.type.rank) if a != axis] + [axis]
    name = f"{node.proto.output[0]}.resize{axis}"
    weights = node.leaves.get(Const, name, matrix.astype(NUMPY[x.dtype]))
    y = MatMul(False, True)(transposed(x, perm), weights)
    return transposed(y, np.argsort(perm).tolist())


def _is_selection(matrix: Array) -> bool:
    return bool((matrix.max(1) == 1.0).all() and (matrix.sum(1) == 1.0).all())


# ---- the matrix of one axis ----------------------------------------------------------------------


def _matrix(node: Node, axis: _Axis) -> Array:
    """f64[new, old] as the ONNX specification defines it."""
    at = _positions(node.attr("coordinate_transformation_mode", "half_pixel"), axis)
    mode = node.attr("mode", "nearest")
    if mode == "nearest":
        return np.eye(axis.size)[
            _nearest(node.attr("nearest_mode", "round_prefer_floor"), at, axis)
        ]
    first = np.floor(at).astype(np.int64)
    if mode == "linear":
        weights = np.stack([1 - (at - first), at - first])
    elif mode == "cubic":
        first, weights = first - 1, _cubic(at - first, node.attr("cubic_coeff_a", -0.75))
    else:
        raise UnsupportedError(f"Resize with mode {mode!r}")
    places = first + np.arange(len(weights))[:, None]
    if node.attr("exclude_outside", 0):
        weights = weights * ((places >= 0) & (places < axis.size))
        weights = weights / weights.sum(0)
    matrix = np.zeros((axis.count, axis.size))
    rows = np.broadcast_to(np.arange(axis.count), places.shape)
    np.add.at(matrix, (rows, places.clip(0, axis.size - 1)), weights)
    return matrix


def _positions(kind: str, axis: _Axis) -> Array:
    """f64[new]: where each new position lies among the old ones."""
    i = np.arange(axis.count, dtype=np.float64)
    if kind == "align_corners":
        return i * (axis.size - 1) / max(axis.count - 1, 1)
    if kind == "asymmetric":
        return i / axis.factor
    half = (i + 0.5) / axis.factor - 0.5
    if kind == "half_pixel":
        return half
    if kind == "pytorch_half_pixel":
        return half if axis.count > 1 else np.zeros(1)
    if kind == "half_pixel_symmetric":
        adjustment = axis.count / (axis.factor * axis.size)
        return axis.size / 2 * (1 - adjustment) + half
    raise UnsupportedError(f"Resize with coordinates {kind!r}")


def _nearest(rounding: str, at: Array, axis: _Axis) -> Array:
    rounded = {
        "round_prefer_floor": np.ceil(at - 0.5),
        "round_prefer_ceil": np.floor(at + 0.5),
        "floor": np.floor(at),
        "ceil": np.ceil(at),
    }
    indices: Array = rounded[rounding].astype(np.int64).clip(0, axis.size - 1)
    return indices


def _cubic(t: Array, a: float) -> Array:
    """f64[4, new]: Keys' weights of the four neighbours, `t` after the second of them."""

    def near(d: Array) -> Array:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: Array) -> Array:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    return np.stack([far(1 + t), near(t), near(1 - t), far(2 - t)])


TRANSLATIONS: dict[str, Translation] = {"Resize": resize}
