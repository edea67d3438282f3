"""What a caller gives: arrays by name, in the dtype of their places, cut into batches.

Nothing here is lenient where that could change a meaning: floats become other floats, integers
other integers that hold them, and everything else is an InputError.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pockengine.dtypes import NUMPY
from pockengine.errors import InputError
from pockengine.runtime.program import Array, Tensor

Batch = Array | Sequence[Array] | Mapping[str, Array]


def as_array(name: str, given: Any) -> Array:
    """An array of what was given. Raises InputError for a ragged list and the like."""
    try:
        return np.asarray(given)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{name!r} cannot be read as an array: {error}") from error


def by_name(expected: Sequence[Tensor], given: Batch) -> dict[str, Array]:
    """The model's inputs by name, from a mapping, a tuple in order, or the only one.

    Raises InputError when their number or names do not fit.
    """
    names = [t.name for t in expected]
    if isinstance(given, Mapping):
        if set(given) != set(names):
            came = ", ".join(map(str, given)) or "none"
            raise InputError(f"the model takes the inputs {', '.join(names)}; got {came}")
        return {name: as_array(name, given[name]) for name in names}
    several = isinstance(given, tuple) or (isinstance(given, list) and len(names) != 1)
    arrays = list(given) if several else [given]
    if len(arrays) != len(names):
        raise InputError(f"the model takes the inputs {', '.join(names)}; got {len(arrays)} arrays")
    return {name: as_array(name, array) for name, array in zip(names, arrays, strict=True)}


def rows_each(tensor: Tensor, batch: int) -> int:
    """How many rows of the tensor a sample has; 0 when its rows are no samples."""
    if not tensor.shape or tensor.shape[0] % batch:
        return 0
    return tensor.shape[0] // batch


def sample_count(tensors: Sequence[Tensor], arrays: Mapping[str, Array], batch: int) -> int:
    """How many samples the arrays hold. Raises InputError where shapes or numbers do not fit."""
    counts = {}
    for tensor in tensors:
        array, each = arrays[tensor.name], rows_each(tensor, batch)
        if each == 0:
            _check_shape(tensor, array, array.shape == tensor.shape, list(tensor.shape))
            continue
        expected = ["samples" if each == 1 else f"{each} * samples", *tensor.shape[1:]]
        fits = array.ndim == len(tensor.shape) and array.shape[1:] == tensor.shape[1:]
        _check_shape(tensor, array, fits and array.shape[0] % each == 0, expected)
        counts[tensor.name] = array.shape[0] // each
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name!r} {count}" for name, count in counts.items())
        raise InputError(f"inputs have different numbers of samples: {told}")
    return next(iter(counts.values()), batch)


def _check_shape(tensor: Tensor, array: Array, fits: bool, expected: list[Any]) -> None:
    if not fits:
        told = ", ".join(map(str, expected))
        raise InputError(f"{tensor.name!r} expects shape [{told}], got {list(array.shape)}")


def part(tensor: Tensor, array: Array, first: int, count: int, batch: int) -> Array:
    """The rows of `count` samples from sample `first` on."""
    each = rows_each(tensor, batch)
    return array[first * each : (first + count) * each] if each else array


def converted(tensor: Tensor, array: Array) -> Array:
    """The array in the tensor's dtype. Raises InputError where that would change its meaning."""
    want, have = NUMPY[tensor.dtype], array.dtype
    if have == want:
        return array
    integers = have.kind in "biu" and want.kind in "iu"
    if not (integers or (have.kind == want.kind == "f")):
        raise InputError(f"{tensor.name!r} expects {want}, got {have}; convert it first")
    if integers and array.size and not np.can_cast(have, want):
        limits = np.iinfo(want)
        low, high = int(array.min()), int(array.max())
        if not limits.min <= low <= high <= limits.max:
            raise InputError(f"{tensor.name!r} expects {want}, got numbers from {low} to {high}")
    return array.astype(want)


def write(tensor: Tensor, array: Array, arena: Array) -> None:
    """Writes an array to its place, and fills up what it lacks.

    Weights of missing samples are 0. Other rows are repeated: a row of zeros could be where a model
    is not defined, and 0 * NaN is NaN.
    """
    view = tensor.view(arena)
    if not tensor.shape:
        view[...] = array
        return
    view[: len(array)] = array
    if len(array) == len(view):
        return
    again = np.arange(len(view) - len(array)) % len(array)
    view[len(array) :] = 0 if tensor.name == "sample_weight" else array[again]


def checked_weights(count: int, given: Any) -> Array:
    """Weights of samples, f32[count], 1 where none are given. Raises InputError."""
    if given is None:
        return np.ones(count, np.float32)
    array = as_array("weight", given)
    fits = array.shape == (count,) and array.dtype.kind in "fiu"
    if not fits or not (np.isfinite(array).all() and (array >= 0).all()):
        came = f"{array.dtype}{list(array.shape)}"
        raise InputError(f"weights must be {count} finite numbers of at least 0, got {came}")
    return array.astype(np.float32)


def check_labels(labels: Array, classes: int, ignored: int | None) -> None:
    """Raises InputError, with its position, for a label that is no class."""
    if not labels.size or 0 <= labels.min() <= labels.max() < classes:
        return
    bad = ((labels < 0) | (labels >= classes)) & (labels != ignored)
    if bad.any():
        position = tuple(int(i) for i in np.argwhere(bad)[0])
        raise InputError(
            f"labels must lie in 0..{classes - 1}, got {int(labels[bad][0])} at position "
            f"{position[0] if len(position) == 1 else position}"
        )
