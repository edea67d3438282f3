"""The frozen prefix at work: fills the features of a batch, a few samples at a time."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from pockengine.runtime.arrays import part, rows_each, write
from pockengine.runtime.program import FEATURES, Array, Prefix, Signature, Tensor


class PrefixRunner:
    """Runs the entry point of the prefix, and copies what it gives to where the others read it."""

    def __init__(self, signature: Signature, prefix: Prefix, run: Callable[[str], None]) -> None:
        """`run` runs an entry point."""
        self._few, self._batch, self._run = prefix.samples, signature.batch, run
        self._entry = signature.entries[FEATURES]
        kept = {t.name: t for t in signature.entries["predict"].inputs}
        self._pairs = [(few, kept[few.name]) for few in self._entry.outputs]

    @property
    def inputs(self) -> list[Tensor]:
        """What the prefix is given, as for a whole batch."""
        return [self._whole(t) for t in self._entry.inputs]

    def compute(self, arrays: Mapping[str, Array], rows: Array, arena: Array) -> None:
        """Computes the features of the samples in `arrays` into these rows of the batch."""
        for first in range(0, len(rows), self._few):
            here = rows[first : first + self._few]
            for tensor in self._entry.inputs:
                given = part(tensor, arrays[tensor.name], first, len(here), self._few)
                write(tensor, given, arena)
            self._run(FEATURES)
            for few, whole in self._pairs:
                whole.rows(arena, self._batch)[here] = few.rows(arena, self._few)[: len(here)]

    def fill_up(self, count: int, arena: Array) -> None:
        """Repeats the first `count` samples over what a batch has more."""
        again = np.arange(self._batch - count) % count
        for _, whole in self._pairs:
            kept = whole.rows(arena, self._batch)
            kept[count:] = kept[again]

    def _whole(self, tensor: Tensor) -> Tensor:
        each = rows_each(tensor, self._few)
        return replace(tensor, shape=(each * self._batch, *tensor.shape[1:]))
