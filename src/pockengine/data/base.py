"""What every data set is: samples by index, labels beside them, names that last, and a split.

Arrays are NumPy throughout. `labels` are class numbers, int64 (n,), or targets of any shape whose
first axis is the samples.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pockengine.data.splits import as_classes, group_numbers, split_indices
from pockengine.errors import InputError

Array = NDArray[Any]
Inputs = Array | tuple[Array, ...] | dict[str, Array]
"""The inputs of some samples, as `Session.step` takes them."""
Indices = Sequence[int] | Array


class Batch(NamedTuple):
    """Some samples: the inputs, and their labels or None."""

    x: Inputs
    y: Array | None


class Dataset(ABC):
    """Samples that are loaded by index, from 0 to `len(dataset) - 1`.

    A subclass sets `labels` and `classes`, and gives `__len__`, `_load`, `_ids` and `fingerprint`.
    """

    labels: Array | None = None
    classes: tuple[str, ...] = ()
    groups: Array | None = None  # int64 (n,), where samples go together; see `grouped`

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def _load(self, indices: Array) -> Inputs:
        """The inputs of the samples with these indices, which are checked already."""

    @abstractmethod
    def _ids(self, indices: Array) -> list[str]: ...

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of everything that decides the samples."""

    def batch(self, indices: Indices) -> Batch:
        """The samples with these indices, in this order. Raises InputError for one there is not."""
        chosen = checked_indices(indices, len(self))
        return Batch(self._load(chosen), None if self.labels is None else self.labels[chosen])

    def ids(self, indices: Indices) -> list[str]:
        """Names of samples. A name always means the same inputs, in other data sets too."""
        return self._ids(checked_indices(indices, len(self)))

    def subset(self, indices: Indices) -> "Dataset":
        """The samples with these indices, in this order. Nothing is loaded or copied."""
        return Subset(self, checked_indices(indices, len(self)))

    def grouped(self, groups: Sequence[Any] | Array) -> "Dataset":
        """The same samples, which know what they go with: no split divides a group.

        `groups` names the group of each sample (its document, person, ...), by integers or texts.
        """
        return Grouped(self, group_numbers(groups, len(self)))

    def split(self, share: float, seed: int = 0) -> tuple["Dataset", "Dataset"]:
        """(rest, part), where `part` has about `share` of the samples; the same for the same seed.

        Both sides have every class, in about the same proportions, and no group is on both. Raises
        InputError where there are too few samples for that.
        """
        numbers = as_classes(self.labels, len(self))
        rest, part = split_indices(numbers, self.classes, share, seed, self.groups)
        return self.subset(rest), self.subset(part)


class Subset(Dataset):
    """Some samples of another data set; its names of samples are that one's."""

    def __init__(self, whole: Dataset, indices: Array) -> None:
        self._whole, self._indices = whole, indices
        self.labels = None if whole.labels is None else whole.labels[indices]
        self.groups = None if whole.groups is None else whole.groups[indices]
        self.classes = whole.classes

    def __len__(self) -> int:
        return len(self._indices)

    def _load(self, indices: Array) -> Inputs:
        return self._whole._load(self._indices[indices])

    def _ids(self, indices: Array) -> list[str]:
        return self._whole._ids(self._indices[indices])

    def fingerprint(self) -> str:
        return digest(self._whole.fingerprint(), self._indices)


class Grouped(Subset):
    """All samples of another data set, in groups."""

    def __init__(self, whole: Dataset, groups: Array) -> None:
        super().__init__(whole, np.arange(len(whole)))
        self.groups: Array = groups

    def fingerprint(self) -> str:
        return digest(super().fingerprint(), self.groups)


def checked_indices(indices: Indices, count: int) -> Array:
    """int64 (some,). Raises InputError for what is no index of `count` samples."""
    array = np.asarray(indices)
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu":
        came = f"{array.dtype}{list(array.shape)}"
        raise InputError(f"expected a list of at least one index of a sample, got {came}")
    wrong = array[(array < 0) | (array >= count)]
    if wrong.size:
        raise InputError(f"there are samples 0 to {count - 1}, and no sample {wrong[0]}")
    return array.astype(np.int64)


def digest(*parts: str | Array) -> str:
    """A hash of texts and arrays in hex, which every byte, shape and type decides."""
    whole = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, str):
            body, kind = np.frombuffer(part.encode(), np.uint8), "text"
        else:
            body = np.ascontiguousarray(part).reshape(-1).view(np.uint8)
            kind = f"{part.dtype.str}{part.shape}"
        whole.update(f"{kind}:{body.nbytes}:".encode())
        whole.update(body.data)
    return whole.hexdigest()
