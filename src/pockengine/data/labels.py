"""Labels as a user has them -> class numbers with names, or targets."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pockengine.errors import InputError

Array = NDArray[Any]
EXPECTED = "class numbers (integers), class names (texts) or targets (floats)"


def as_array(what: str, given: Any) -> Array:
    """An array of numbers or texts. Raises InputError, with the sample, for rows that differ."""
    try:
        array = np.asarray(given)
        if array.dtype.kind != "O":
            return array
        array = np.asarray(array.tolist())
    except (ValueError, TypeError) as error:
        raise InputError(f"{what} cannot be read as an array{_ragged(given)}: {error}") from error
    if array.dtype.kind == "O":
        kinds = sorted({type(value).__name__ for value in given})
        raise InputError(f"{what} must be numbers or texts, got {', '.join(kinds)}")
    return array


def _ragged(given: Any) -> str:
    shapes = [np.shape(row) for row in given] if _rows_have_shapes(given) else []
    other = next((i for i, shape in enumerate(shapes) if shape != shapes[0]), None)
    if other is None:
        return ""
    return f", because samples differ: 0 has shape {shapes[0]}, {other} has shape {shapes[other]}"


def _rows_have_shapes(given: Any) -> bool:
    try:
        return bool([np.shape(row) for row in given])
    except (ValueError, TypeError):
        return False


def as_labels(given: Any, classes: Sequence[str] = ()) -> tuple[Array, tuple[str, ...]]:
    """(labels, classes): class numbers int64 (n,) with the classes' names, or targets (n, ...).

    Texts become numbers: their places in `classes`, or in the sorted list of those that occur.
    Raises InputError for labels that are nothing of the kind.
    """
    array = as_array("labels", given)
    _check_one_kind(given, array)
    if array.ndim == 0 or array.dtype.kind not in "biufU":
        raise InputError(f"labels are {EXPECTED}; got {array.dtype}{list(array.shape)}")
    if array.dtype.kind == "f":
        return _checked_targets(array), tuple(classes)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.dtype.kind == "U" and array.ndim == 1:
        return class_numbers(array.tolist(), classes)
    if array.dtype.kind == "U":
        raise InputError(f"class names are one text a sample, got shape {list(array.shape)}")
    return (array, tuple(classes)) if array.ndim > 1 else _checked_numbers(array, classes)


def class_numbers(
    names: Sequence[str], classes: Sequence[str] = ()
) -> tuple[Array, tuple[str, ...]]:
    """(int64 (n,), classes) of class names. Raises InputError for a name not in `classes`."""
    known = checked_classes(classes) or sorted_classes(names)
    number = {name: i for i, name in enumerate(known)}
    for i, name in enumerate(names):
        if name not in number:
            raise InputError(f"sample {i} is of class {name!r}; the classes are {told(known)}")
    return np.array([number[name] for name in names], np.int64), known


def checked_classes(classes: Sequence[str]) -> tuple[str, ...]:
    """The names of classes. Raises InputError for one that stands there twice."""
    twice = sorted({name for name in classes if list(classes).count(name) > 1})
    if twice:
        raise InputError(f"the classes {told(twice)} are named more than once")
    return tuple(classes)


def sorted_classes(names: Sequence[str]) -> tuple[str, ...]:
    """The different names: in the order of numbers if all are, or else of texts."""
    different = sorted(set(names))
    numbers = all(name.isascii() and name.isdecimal() for name in different)
    return tuple(sorted(different, key=int)) if numbers else tuple(different)


def other_numbers(classes: Sequence[str], others: Sequence[str]) -> str:
    """In words, the first number that stands for another class there, if any: a number without a
    name is called by itself.

    >>> other_numbers(("cat", "dog"), ("0", "fox"))
    "class 1 is 'dog' in the training set and 'fox' in the validation set"
    """
    for number, (one, other) in enumerate(zip(classes, others, strict=False)):
        if one != other and str(number) not in (one, other):
            there = f"{other!r} in the validation set"
            return f"class {number} is {one!r} in the training set and {there}"
    return ""


def told(names: Sequence[str], most: int = 10) -> str:
    """Names for a sentence, the first few of them."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + rest


def _check_one_kind(given: Any, array: Array) -> None:
    """NumPy would make texts of numbers that stand among texts."""
    made_so = isinstance(given, np.ndarray) and given.dtype.kind == "U"
    if array.dtype.kind != "U" or array.ndim != 1 or made_so:
        return
    other = next((i for i, label in enumerate(given) if not isinstance(label, str)), None)
    if other is not None:
        kind = type(given[other]).__name__
        raise InputError(f"labels are {EXPECTED}, all of one kind; sample {other} has a {kind}")


def _checked_targets(array: Array) -> Array:
    wrong = np.argwhere(~np.isfinite(array))
    if len(wrong):
        value = array[tuple(wrong[0])]
        raise InputError(f"the target of sample {wrong[0][0]} has the value {value}")
    return array


def _checked_numbers(array: Array, classes: Sequence[str]) -> tuple[Array, tuple[str, ...]]:
    numbers = array.astype(np.int64)
    high = len(classes) or int(numbers.max(initial=0)) + 1
    wrong = np.flatnonzero((numbers < 0) | (numbers >= high))
    if len(wrong):
        limits = f"0 to {high - 1}" if classes else "0 upwards"
        raise InputError(
            f"class numbers go from {limits}, and sample {wrong[0]} has {numbers[wrong[0]]} "
            "(give targets that are no classes as floats)"
        )
    return numbers, tuple(classes) or tuple(map(str, range(high)))
