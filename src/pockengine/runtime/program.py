"""What a program is to the one who runs it: signatures, the places of its tensors, and its code.

Everything here is known at compile time and is what the manifest of a `.pock` file says.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pockengine.dtypes import NUMPY
from pockengine.errors import InputError
from pockengine.panels import from_panels, to_panels

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]

FEATURES = "features"  # the entry point of the frozen prefix


@dataclass(frozen=True)
class Tensor:
    """A named place in the arena."""

    name: str
    dtype: str
    shape: Shape
    offset: int

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * NUMPY[self.dtype].itemsize

    def view(self, arena: Array) -> Array:
        """The tensor in an arena of bytes; writing to it writes to the arena."""
        raw = arena[self.offset : self.offset + self.nbytes]
        return raw.view(NUMPY[self.dtype]).reshape(self.shape)

    def rows(self, arena: Array, count: int) -> Array:
        """The tensor's bytes in `count` rows of equal size; writing to it writes to the arena."""
        raw = arena[self.offset : self.offset + self.nbytes]
        return raw.reshape(count, self.nbytes // count)

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Leaf(Tensor):
    """A tensor that lives as long as the program: "frozen", "trained", "state" or "gate".

    `perm` is the permutation from the source's layout to the stored one. `unpacked`, unless None,
    is the shape after it of a tensor that is stored in panels, see panels.py. `channels` is what is
    trained of it, (axis in the source's layout, indices), or None for all. `public` says that the
    source model knows it by this name.
    """

    kind: str
    perm: Shape | None = None
    channels: tuple[int, Shape] | None = None
    public: bool = True
    unpacked: Shape | None = None

    def stored(self, source: Array) -> Array:
        """An array of the source's layout as the program stores it."""
        moved = source.transpose(self.perm) if self.perm else source
        return to_panels(moved, self.shape[-1]) if self.unpacked else moved

    def restored(self, stored: Array) -> Array:
        """A copy of a stored array in the source's layout."""
        whole = from_panels(stored, self.unpacked) if self.unpacked else stored
        back = whole.transpose(np.argsort(self.perm)) if self.perm else whole
        return np.array(back, order="C")

    @property
    def source_shape(self) -> Shape:
        """The shape in the source's layout."""
        shape = self.unpacked or self.shape
        return tuple(shape[i] for i in np.argsort(self.perm)) if self.perm else shape


@dataclass(frozen=True)
class Entry:
    """An entry point: what it is given and what it gives."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


@dataclass(frozen=True)
class Prefix:
    """The entry point FEATURES, which computes what no step changes, `samples` at a time.

    Its outputs are inputs of the other entry points, under the same names, for a whole batch.
    `key` is a hash of all that decides them but the samples: the graph and its weights.
    """

    samples: int
    key: str


@dataclass(frozen=True)
class Signature:
    """All that a caller must know of a program. Sizes in bytes.

    An entry point computes `batch` samples. A step is given up to `parts` times as many, and every
    `accumulate`-th step changes the weights; until then gradients are added up in `sums`.
    """

    entries: Mapping[str, Entry]
    leaves: Mapping[str, Leaf]
    arena_bytes: int
    batch: int
    threads: int
    inputs: tuple[str, ...]  # of the model, in order
    prefix: Prefix | None = None
    parts: int = 1
    accumulate: int = 1
    precision: str = "f32"  # of what is stored, see docs/precision.md
    sums: tuple[str, ...] = ()
    full_batches: bool = False  # a batch may not be partly filled: the model mixes its samples
    classes: int | None = None  # labels must lie in 0..classes - 1
    ignore_index: int | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)  # a tied tensor's other name -> first
    memory: Mapping[str, int] = field(default_factory=dict)  # bytes by category
    scheme: str = ""  # JSON


class Executable(Protocol):
    """Code that runs entry points on an arena."""

    def run(self, entry: str, arena: Array) -> int:
        """Runs one entry point; 0, or the code of what was refused (see STATUS in session.py)."""

    def close(self) -> None:
        """Stops its threads."""


@dataclass(frozen=True)
class Program:
    """A compiled training program, ready for `Session(program)`.

    `fill(name, out)` writes the first content of a leaf; `original(name)` gives a tensor of the
    source model that the program itself does not hold (one folded into others).
    """

    signature: Signature
    start: Callable[[int], Executable]
    fill: Callable[[str, Array], None]
    original: Callable[[str], Array]
    originals: tuple[str, ...] = ()

    @property
    def peak_bytes(self) -> int:
        """Planned peak: what the program takes, all in one arena."""
        return self.signature.arena_bytes

    def save(self, path: str | Path) -> None:
        """Writes a `.pock` file whose leaves begin with what `fill` gives."""
        raise NotImplementedError(f"{type(self).__name__}.save")

    def entry(self, name: str) -> Entry:
        """An entry point. Raises InputError for one that the program does not have."""
        if name not in self.signature.entries:
            have = ", ".join(self.signature.entries)
            raise InputError(f"the program has no entry point {name!r}; it has {have}")
        return self.signature.entries[name]
