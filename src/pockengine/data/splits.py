"""Divides samples in two, with every class on both sides and no group on both."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pockengine.errors import InputError

Array = NDArray[Any]


def split_indices(
    labels: Array,
    classes: Sequence[str],
    share: float,
    seed: int,
    groups: Sequence[Any] | Array | None = None,
) -> tuple[Array, Array]:
    """Indices (of the rest, of the part), both rising. `labels` are class numbers (n,), `groups`
    the integers or texts of what must stay together.

    Raises InputError where a side would lack a class, and for a share that is not within 0 to 1.
    """
    if not 0 < share < 1:
        raise InputError(f"a split takes a share between 0 and 1, got {share}")
    if len(labels) < 2:
        raise InputError(f"a split needs at least 2 samples, and there is {len(labels)}")
    rng = np.random.default_rng(seed)
    if groups is None:
        inside = _single_samples(labels, classes, share, rng)
    else:
        inside = _whole_groups(labels, classes, share, rng, group_numbers(groups, len(labels)))
    return np.flatnonzero(~inside), np.flatnonzero(inside)


def as_classes(labels: Array | None, count: int) -> Array:
    """int64 (count,): the class numbers, or zeros where the labels are no classes."""
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iu":
        return np.zeros(count, np.int64)
    return labels.astype(np.int64)


def class_name(classes: Sequence[str], number: int) -> str:
    """The name of a class in quotes, or its number where it has none."""
    return repr(classes[number]) if number < len(classes) else str(number)


def _single_samples(
    labels: Array, classes: Sequence[str], share: float, rng: np.random.Generator
) -> Array:
    """bool (n,), true for the samples of the part."""
    inside = np.zeros(len(labels), bool)
    for number in np.unique(labels):
        members = np.flatnonzero(labels == number)
        if len(members) < 2:
            raise InputError(
                f"class {class_name(classes, number)} has 1 sample, and a split needs at least 2 "
                "of each class, one for either side (give targets that are no classes as floats)"
            )
        wanted = int(_bounded(share, np.array(len(members))).round())
        inside[rng.permutation(members)[:wanted]] = True
    return inside


def _bounded(share: float, total: Array) -> Array:
    """A share of numbers of samples that leaves at least one sample on either side."""
    bounded: Array = np.clip(share * total, 1, total - 1)
    return bounded


def group_numbers(groups: Sequence[Any] | Array, count: int) -> Array:
    """int64 (n,). Raises InputError for groups that are neither numbers nor texts, one each."""
    array = np.asarray(groups)
    if array.shape != (count,) or array.dtype.kind not in "iuU":
        came = f"{array.dtype}{list(array.shape)}"
        raise InputError(
            f"groups must be {count} integers or texts, one for each sample; got {came}"
        )
    numbers: Array = np.unique(array, return_inverse=True)[1]
    return numbers


def _whole_groups(
    labels: Array, classes: Sequence[str], share: float, rng: np.random.Generator, groups: Array
) -> Array:
    """bool (n,), true for the samples of the part: large groups are placed first, each where it
    brings the classes nearer to their shares."""
    present, columns = np.unique(labels, return_inverse=True)
    counts = np.zeros((groups.max() + 1, len(present)), np.int64)  # of a group and a class
    np.add.at(counts, (groups, columns), 1)
    total = counts.sum(0)
    lacking = _bounded(share, total) / total  # the share of each class that the part still lacks
    inside = np.zeros(len(counts), bool)
    shuffled = rng.permutation(len(counts))
    for group in shuffled[np.argsort(-counts[shuffled].sum(1), kind="stable")]:
        after = lacking - counts[group] / total
        if (after**2).sum() < (lacking**2).sum():
            inside[group], lacking = True, after
    _give_each_side_its_classes(inside, counts)
    _check_sides(inside, counts, [class_name(classes, number) for number in present])
    return inside[groups]


def _give_each_side_its_classes(inside: Array, counts: Array) -> None:
    """Moves small groups to a side that lacks a class, if the other can do without them."""
    for side in (True, False):
        for column in np.flatnonzero(counts[inside == side].sum(0) == 0):
            there = np.flatnonzero((inside != side) & (counts[:, column] > 0))
            left = counts[inside != side].sum(0) - counts[there]
            there = there[(left > 0).all(1)]
            if len(there) and counts[inside == side, column].sum() == 0:
                inside[there[counts[there].sum(1).argmin()]] = side


def _check_sides(inside: Array, counts: Array, names: Sequence[str]) -> None:
    for side in (True, False):
        missing = np.flatnonzero(counts[inside == side].sum(0) == 0)
        if len(missing):
            among = int((counts[:, missing[0]] > 0).sum())
            place = "one group" if among == 1 else f"{among} groups that go together"
            raise InputError(
                f"class {names[missing[0]]} would be missing on one side of the split: its samples "
                f"are in {place}. Add samples from other groups, or leave the class out"
            )
