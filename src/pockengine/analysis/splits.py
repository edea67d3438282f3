"""Which samples the trials of a seed train on, and which judge them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pockengine.data.base import Array, Dataset
from pockengine.data.labels import other_numbers
from pockengine.data.splits import as_classes, class_name, split_indices
from pockengine.errors import AnalysisError

HELD_OUT = 1 / 3  # of the samples, where no validation set is given
LEAST = 20  # validation samples


@dataclass(frozen=True)
class Sizes:
    """Numbers of samples that a trial trains on, and is judged by."""

    train: int
    validation: int


def write_splits(sets: Sequence[Dataset], seeds: Sequence[int], most: Sizes, folder: Path) -> Sizes:
    """Writes indices into all samples, `SEED.npz` for each seed, at `most` so many on either side.

    `sets` is the data and, perhaps, a validation set, one after the other. Without one each seed
    holds out a part of its own, so that contributions do not depend on one lucky split; the data's
    groups stay whole. Raises AnalysisError for too few samples, and for classes that one of two
    given sets lacks.

    All seeds have the same sizes, which are returned: given as `most`, they bring the same splits.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _check_classes(sets)
    splits = [_split(sets, seed) for seed in seeds]  # where there are groups, of several sizes
    train = min(most.train, *(len(chosen) for chosen, _ in splits))
    validation = min(most.validation, *(len(judged) for _, judged in splits))
    if validation < LEAST:
        half = 1.64 * 0.5 / np.sqrt(validation)
        raise AnalysisError(
            f"{validation} validation samples are too few to measure anything: an accuracy would "
            f"be known to ±{100 * half:.0f} points at best; give at least {LEAST}, better hundreds"
        )
    labels = [data.labels for data in sets]
    for seed, (chosen, judged) in zip(seeds, splits, strict=True):
        part = _at_most(chosen, train, labels, seed), _at_most(judged, validation, labels, seed)
        np.savez(folder / f"{seed}.npz", train=part[0], validation=part[1])
    return Sizes(train, validation)


def _split(sets: Sequence[Dataset], seed: int) -> tuple[Array, Array]:
    if len(sets) == 2:
        count = len(sets[0])
        return np.arange(count), np.arange(count, count + len(sets[1]))
    (data,) = sets
    numbers = as_classes(data.labels, len(data))
    return split_indices(numbers, data.classes, HELD_OUT, seed, data.groups)


def _at_most(indices: Array, count: int, labels: Sequence[Array | None], seed: int) -> Array:
    """`count` of more samples, each class about in its proportion.

    Exactly so many, so that the same number chooses the same samples again.
    """
    if len(indices) <= count:
        return indices
    known = [x for x in labels if x is not None]
    whole = np.concatenate(known) if known else None
    numbers = as_classes(whole, int(indices.max()) + 1)[indices]
    _, place, sizes = np.unique(numbers, return_inverse=True, return_counts=True)
    numbers = np.where(sizes[place] > 1, place, sizes.argmax())  # a lone sample goes with the most
    rng = np.random.default_rng(seed)
    halves = split_indices(numbers, (), count / len(indices), seed)
    rest, part = (rng.permutation(half) for half in halves)
    chosen: Array = indices[np.sort(np.concatenate([part, rest])[:count])]
    return chosen


def _check_classes(sets: Sequence[Dataset]) -> None:
    _check_names(sets)
    present = [set(np.unique(as_classes(d.labels, len(d)))) for d in sets]
    if len(present) == 2 and present[0] != present[1]:
        side, other = (
            ("training", "validation") if present[1] - present[0] else ("validation", "training")
        )
        lacking = sorted((present[1] - present[0]) or (present[0] - present[1]))
        names = ", ".join(class_name(sets[0].classes, int(n)) for n in lacking[:5])
        raise AnalysisError(
            f"classes {names} are in the {other} set and missing from the {side} set; what trains "
            "them could not be measured. Split the data anew, or leave these classes out"
        )


def _check_names(sets: Sequence[Dataset]) -> None:
    """Raises AnalysisError where a number stands for another class in the other set."""
    wrong = other_numbers(*(data.classes for data in sets)) if len(sets) == 2 else ""
    if wrong:
        raise AnalysisError(f"{wrong}; give both the same classes, in the same order (classes=...)")
