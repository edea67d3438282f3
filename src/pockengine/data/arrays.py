"""Data sets of arrays in memory, and of `.npz` files."""

import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pockengine.data.base import Array, Dataset, Inputs, digest
from pockengine.data.labels import as_array, as_labels
from pockengine.errors import InputError

MOST_UNPACKED = 8 * 2**30  # bytes of the arrays of a .npz; a small file can unpack to anything


class ArrayDataset(Dataset):
    """Arrays whose first axis is the samples.

    >>> data = ArrayDataset(np.zeros((4, 3, 8, 8), np.float32), ["cat", "dog", "dog", "cat"])
    >>> data.classes, data.labels.tolist()
    (('cat', 'dog'), [0, 1, 1, 0])
    """

    def __init__(self, x: Any, y: Any = None, classes: Sequence[str] = ()) -> None:
        """`x` is an array, a tuple of the inputs, or a dict of them by name; `y` are class numbers,
        class names, targets as floats, or None.

        Nothing is copied, so the arrays must not be written to. Raises InputError for arrays that
        do not fit, and warns of numbers that are NaN or infinite and of there being one class only.
        """
        self.x = _as_inputs(x)
        self.classes = tuple(classes)
        if y is not None:
            self.labels, self.classes = as_labels(y, classes)
        self._check_counts()
        _warn_of_non_finite(self.x)
        if y is not None and not classes:
            _warn_of_one_class(self.labels)

    def __len__(self) -> int:
        return len(next(_arrays(self.x))[1])

    def _load(self, indices: Array) -> Inputs:
        if isinstance(self.x, dict):
            return {name: array[indices] for name, array in self.x.items()}
        if isinstance(self.x, tuple):
            return tuple(array[indices] for array in self.x)
        return self.x[indices]

    def _ids(self, indices: Array) -> list[str]:
        return [f"{index}@{self._content}" for index in indices]

    def fingerprint(self) -> str:
        """A hash of all bytes, computed once."""
        labels = [] if self.labels is None else [self.labels]
        return digest(self._content, *labels, *self.classes)

    @cached_property
    def _content(self) -> str:
        parts = (part for named in _arrays(self.x) for part in named)
        return digest(type(self.x).__name__, *parts)

    def _check_counts(self) -> None:
        counts = {name: len(array) for name, array in _arrays(self.x)}
        if self.labels is not None:
            counts["labels"] = len(self.labels)
        if len(set(counts.values())) > 1:
            each = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise InputError(f"arrays have different numbers of samples: {each}")
        if len(self) == 0:
            raise InputError("a data set needs at least one sample")


def load_npz(path: str | Path, part: str = "train") -> ArrayDataset:
    """The arrays of a `.npz` file: `x` and `y`, `images` and `labels`, or those of a part, as
    `x_train` and `y_train` or `train_images` and `train_labels`; and `classes`, if it is there.

    Raises InputError for a file that is damaged, has no such arrays, or holds pickled objects.
    """
    path = Path(path)
    try:
        found, x, y = _read_npz(path, part)
    except _DAMAGED as error:
        raise InputError(f"{path} cannot be read as a .npz of arrays: {error}") from error
    try:
        classes = as_array("classes", found.get("classes", np.array([], str))).astype(str)
        return ArrayDataset(found[x], found[y], classes.reshape(-1).tolist())
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


_DAMAGED = (
    *(OSError, ValueError, EOFError, KeyError, MemoryError, RuntimeError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error),
)


def _read_npz(path: Path, part: str) -> tuple[dict[str, Array], str, str]:
    """The arrays that are wanted, and the names of the samples and of the labels among them."""
    with zipfile.ZipFile(path) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
    with np.load(path, allow_pickle=False) as file:
        x, y = _pair(path, file.files, part)
        names = [name for name in (x, y, "classes") if name in file.files]
        _check_unpacked(path, sum(sizes.get(f"{name}.npy", 0) for name in names))
        return {name: file[name] for name in names}, x, y


def _pair(path: Path, names: Sequence[str], part: str) -> tuple[str, str]:
    pairs = [("x", "y"), ("images", "labels")] if part == "train" else []
    pairs += [(f"x_{part}", f"y_{part}"), (f"{part}_x", f"{part}_y")]
    pairs += [(f"{part}_images", f"{part}_labels")]
    for x, y in pairs:
        if x in names and y in names:
            return x, y
    wanted = "; ".join(f"{x}, {y}" for x, y in pairs)
    raise InputError(f"{path} has the arrays {', '.join(names) or 'none'}; expected {wanted}")


def _check_unpacked(path: Path, total: int) -> None:
    if total > MOST_UNPACKED:
        raise InputError(
            f"{path} unpacks to {total / 2**30:.1f} GiB, over the {MOST_UNPACKED >> 30} GiB that "
            "are read; load its arrays yourself and give them as (x, y)"
        )


def _as_inputs(x: Any) -> Inputs:
    if isinstance(x, Mapping):
        given: Inputs = {str(name): _as_input(f"x[{name!r}]", value) for name, value in x.items()}
    elif isinstance(x, tuple):
        given = tuple(_as_input(f"x[{i}]", value) for i, value in enumerate(x))
    else:
        return _as_input("x", x)
    if not given:
        raise InputError("x has no arrays")
    return given


def _as_input(name: str, given: Any) -> Array:
    array = as_array(name, given)
    if array.ndim == 0 or array.dtype.kind not in "biuf":
        came = f"{array.dtype}{list(array.shape)}"
        raise InputError(f"{name} must be numbers with the samples as first axis, got {came}")
    return array


def _arrays(x: Inputs) -> Iterator[tuple[str, Array]]:
    if isinstance(x, dict):
        yield from x.items()
    elif isinstance(x, tuple):
        yield from ((f"x[{i}]", array) for i, array in enumerate(x))
    else:
        yield "x", x


def _warn_of_non_finite(x: Inputs) -> None:
    for name, array in _arrays(x):
        if array.dtype.kind != "f" or np.isfinite(array).all():
            continue
        wrong = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(1))
        warnings.warn(
            f"{name} is NaN or infinite in {len(wrong)} of {len(array)} samples, the first is "
            f"{wrong[0]}; training on them fails",
            stacklevel=3,
        )


def _warn_of_one_class(labels: Array | None) -> None:
    if labels is None or labels.ndim > 1 or labels.dtype.kind == "f" or len(labels) < 2:
        return
    if (labels == labels[0]).all():
        warnings.warn(
            f"all {len(labels)} samples are of one class; there is nothing to tell apart",
            stacklevel=3,
        )
