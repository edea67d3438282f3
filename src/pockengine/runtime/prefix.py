"""The frozen prefix at work: fills the features of a batch, a few samples at a time.

With a cache, only those samples are computed whose features are not kept; see features.py.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from pockengine.errors import InputError
from pockengine.runtime.arrays import part, rows_each, write
from pockengine.runtime.features import FeatureCache, content_hash, record_key
from pockengine.runtime.program import FEATURES, Array, Prefix, Signature, Tensor

Id = str | int
Arrays = Mapping[str, Array]


@dataclass(frozen=True)
class Loader:
    """Samples that are known by name, and loaded when their features are not kept."""

    ids: Sequence[Id]
    load: Callable[[list[Id]], Arrays]  # to arrays by name, checked

    def part(self, first: int, count: int) -> "Loader":
        return Loader(self.ids[first : first + count], self.load)


class PrefixRunner:
    """Runs the entry point of the prefix, and copies what it gives to where the others read it."""

    def __init__(
        self,
        signature: Signature,
        prefix: Prefix,
        run: Callable[[str], None],
        cache: FeatureCache | None,
        arena: Array,
    ) -> None:
        """`run` runs an entry point."""
        self._prefix, self._batch, self._run = prefix, signature.batch, run
        self._cache, self._arena = cache, arena
        self._entry = signature.entries[FEATURES]
        kept = {t.name: t for t in signature.entries["predict"].inputs}
        self._few = [t.rows(arena, prefix.samples) for t in self._entry.outputs]
        self._places = [kept[t.name].rows(arena, self._batch) for t in self._entry.outputs]

    @property
    def inputs(self) -> list[Tensor]:
        """What the prefix is given, as for a whole batch."""
        each = {t.name: rows_each(t, self._prefix.samples) for t in self._entry.inputs}
        shapes = {t.name: (each[t.name] * self._batch, *t.shape[1:]) for t in self._entry.inputs}
        return [replace(t, shape=shapes[t.name]) for t in self._entry.inputs]

    def fill(self, given: Arrays | Loader, count: int) -> None:
        """The features of `count` samples; what a batch has more repeats them.

        Raises InputError where what is loaded does not fit.
        """
        if self._cache is None:
            assert not isinstance(given, Loader)
            self._compute(given, range(count))
        else:
            self._fill_cached(self._cache, given, count)
        self._fill_up(count)

    def _fill_cached(self, cache: FeatureCache, given: Arrays | Loader, count: int) -> None:
        if isinstance(given, Loader):
            keys = [self._id_key(name) for name in given.ids]
        else:
            keys = [self._content_key(given, i) for i in range(count)]
        missing = self._restore(cache, keys)
        if not missing:
            return
        if isinstance(given, Loader):
            arrays = given.load([given.ids[i] for i in missing])
        else:
            arrays = given if len(missing) == count else self._chosen(given, missing)
        self._compute(arrays, missing)
        self._keep(cache, keys, missing)

    # ---- computing -------------------------------------------------------------------------------

    def _compute(self, arrays: Arrays, rows: Sequence[int]) -> None:
        """Computes the features of the samples in `arrays` into these rows of the batch."""
        few = self._prefix.samples
        for first in range(0, len(rows), few):
            here = rows[first : first + few]
            for tensor in self._entry.inputs:
                array = part(tensor, arrays[tensor.name], first, len(here), few)
                write(tensor, array, self._arena)
            self._run(FEATURES)
            for own, place in zip(self._few, self._places, strict=True):
                for i, row in enumerate(here):
                    place[row] = own[i]

    def _fill_up(self, count: int) -> None:
        if count == self._batch:
            return
        again = np.arange(self._batch - count) % count
        for place in self._places:
            place[count:] = place[again]

    # ---- keeping ---------------------------------------------------------------------------------

    def _content_key(self, arrays: Arrays, sample: int) -> str:
        rows = (self._rows(t, arrays[t.name], sample) for t in self._entry.inputs)
        return record_key(self._prefix.key, "content", b"".join(map(content_hash, rows)))

    def _id_key(self, name: Id) -> str:
        kind = "number" if isinstance(name, int) else "name"
        return record_key(self._prefix.key, kind, str(name).encode())

    def _rows(self, tensor: Tensor, array: Array, sample: int) -> Array:
        return part(tensor, array, sample, 1, self._prefix.samples)

    def _chosen(self, arrays: Arrays, samples: Sequence[int]) -> dict[str, Array]:
        """The rows of some of the samples."""
        return {
            t.name: np.concatenate([self._rows(t, arrays[t.name], i) for i in samples])
            for t in self._entry.inputs
        }

    def _restore(self, cache: FeatureCache, keys: Sequence[str]) -> list[int]:
        """Copies what is kept to its rows; returns the rows of which nothing is kept."""
        ends = np.cumsum([0, *(place.shape[1] for place in self._places)])
        missing = []
        for i, key in enumerate(keys):
            record = cache.get(key, int(ends[-1]))
            if record is None:
                missing.append(i)
                continue
            for place, (start, end) in zip(self._places, pairwise(ends), strict=True):
                place[i] = record[start:end]
        return missing

    def _keep(self, cache: FeatureCache, keys: Sequence[str], rows: Sequence[int]) -> None:
        for i in rows:
            cache.put(keys[i], np.concatenate([place[i] for place in self._places]))


def checked_ids(given: Sequence[Id]) -> list[Id]:
    """The names as strings and whole numbers. Raises InputError for anything else."""
    ids = [i.item() if isinstance(i, np.generic) else i for i in given]
    for name in ids:
        if not isinstance(name, str | int) or isinstance(name, bool):
            raise InputError(f"samples are named by strings or whole numbers, got {name!r}")
    return ids
