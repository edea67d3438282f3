"""Runs a program: one arena, one call of native code a step.

A batch smaller than the program's is padded, and the padding has weight 0 in the loss: the step is
that of the samples given. All arrays are checked before anything runs; a refused call changes
nothing.
"""

import mmap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pockengine.errors import InputError, NonFiniteLossError, PockError
from pockengine.runtime.artifact import load_program
from pockengine.runtime.program import DTYPES, Array, Leaf, Program, Tensor

STATUS = {
    1: "the arena has another size than the program was compiled for",
    2: "the arena is not aligned to 64 bytes",
    4: "an index is out of the range of the table it looks up",
}
OWN = ("target", "sample_weight", "lr")  # inputs that the engine added to the model's
Batch = Array | Sequence[Array] | Mapping[str, Array]


class Session:
    """A program at work. Holds the weights; use as a context manager, or call `close`."""

    def __init__(self, program: Program, *, threads: int | None = None) -> None:
        """Takes `program.peak_bytes` of memory and fills in the weights."""
        self.program = program
        self.signature = program.signature
        self._memory = mmap.mmap(-1, max(self.signature.arena_bytes, 1))
        self._arena = np.frombuffer(self._memory, np.uint8)[: self.signature.arena_bytes]
        for leaf in self.signature.leaves.values():
            program.fill(leaf.name, leaf.view(self._arena))
        self._executable = program.start(threads or self.signature.threads)
        self._micro = 0

    @classmethod
    def load(cls, path: str | Path, *, threads: int | None = None) -> "Session":
        """A session of a `.pock` file. Raises ArtifactError for a file that is damaged."""
        return cls(load_program(Path(path)), threads=threads)

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops the threads. The weights can still be read."""
        self._executable.close()

    @property
    def arena_bytes(self) -> int:
        """The memory that the program takes."""
        return len(self._arena)

    # ------------------------------------------------------------------ the three calls

    def step(self, x: Batch, y: Array | None = None, lr: float = 1e-3, weight: Any = None) -> float:
        """One training step on up to a batch of samples; returns their mean loss before the step.

        `y` are the labels or targets, `weight` optional weights of the samples. With accumulation,
        all but each k-th call only add up gradients. Raises InputError for arrays that do not fit,
        and NonFiniteLossError when the loss is NaN or infinite; the weights are then as before.
        """
        self._micro += 1
        last = self._micro % self.signature.accumulate == 0
        name = "train" if last else "accumulate"
        try:
            self._give(name, x, y, weight, {"lr": np.float32(lr)} if last else {})
            self._run(name)
        except PockError:
            self._micro -= 1
            raise
        return float(self._outputs(name)["loss"])

    def evaluate(self, x: Batch, y: Array | None = None, weight: Any = None) -> dict[str, float]:
        """Mean loss of any number of samples, and the accuracy where the loss has one."""
        total: dict[str, float] = {}
        for part, target, weights in self._batches("evaluate", x, y, weight):
            self._give("evaluate", part, target, weights, {})
            self._run("evaluate")
            found = {name: float(value) for name, value in self._outputs("evaluate").items()}
            found["loss"] *= found["weight"]
            total = {name: total.get(name, 0.0) + value for name, value in found.items()}
        result = {"loss": total["loss"] / max(total["weight"], 1e-30)}
        if "correct" in total:
            result["accuracy"] = total["correct"] / max(total["count"], 1.0)
        return result

    def predict(self, x: Batch) -> Any:
        """The model's output for any number of samples; a dict by name when it has several."""
        parts: dict[str, list[Array]] = {}
        for part, _, _ in self._batches("predict", x, None, None):
            count = self._give("predict", part, None, None, {})
            self._run("predict")
            for name, value in self._outputs("predict").items():
                parts.setdefault(name, []).append(self._rows(value, count))
        outputs = {name: np.concatenate(values) for name, values in parts.items()}
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    # ------------------------------------------------------------------ weights

    def state_dict(self) -> dict[str, Array]:
        """Every tensor of the source model, under its own name and in its own layout (copies)."""
        leaves = self.signature.leaves
        found = {n: self.program.original(n) for n in self.program.originals}
        public = (leaf for leaf in leaves.values() if leaf.public)
        found |= {leaf.name: leaf.restored(leaf.view(self._arena)) for leaf in public}
        found |= {second: found[first].copy() for second, first in self.signature.aliases.items()}
        return found

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Takes over trained tensors and states; frozen ones must be as they were compiled.

        Raises InputError for names, shapes or values that do not fit, before anything is changed.
        """
        leaves = {n: leaf for n, leaf in self.signature.leaves.items() if leaf.public}
        known = {*leaves, *self.program.originals, *self.signature.aliases}
        unknown = set(state) - known
        if unknown:
            raise InputError(f"the program has no tensor {min(unknown)!r}")
        arrays = {n: np.asarray(state[n]) for n in leaves if n in state}
        for name, array in arrays.items():
            self._check_tensor(leaves[name], array)
        for name in self.program.originals:
            if name in state and not np.array_equal(state[name], self.program.original(name)):
                raise InputError(
                    f"{name!r} is frozen and was folded into others when the program was compiled; "
                    "compile again with the new weights"
                )
        for name, array in arrays.items():
            leaves[name].view(self._arena)[...] = leaves[name].stored(array)

    @staticmethod
    def _check_tensor(leaf: Leaf, array: Array) -> None:
        if array.shape != leaf.source_shape or array.dtype.kind != DTYPES[leaf.dtype].kind:
            expected = f"{leaf.dtype}{list(leaf.source_shape)}"
            came = f"{array.dtype}{list(array.shape)}"
            raise InputError(f"{leaf.name!r} expects {expected}, got {came}")

    # ------------------------------------------------------------------ arrays in and out

    def _model_inputs(self, entry: str) -> list[Tensor]:
        return [t for t in self.program.entry(entry).inputs if t.name not in OWN]

    def _named(self, entry: str, x: Batch) -> dict[str, Array]:
        """The model's inputs by name. Raises InputError when their number or names do not fit."""
        expected = [t.name for t in self._model_inputs(entry)]
        if isinstance(x, Mapping):
            given = {name: np.asarray(a) for name, a in x.items()}
        else:
            several = isinstance(x, (tuple, list)) and len(expected) > 1
            arrays = list(x) if several else [x]
            given = dict(zip(expected, map(np.asarray, arrays), strict=False))
            if len(arrays) != len(expected):
                raise InputError(f"the model takes {', '.join(expected)}; got {len(arrays)} arrays")
        if set(given) != set(expected):
            raise InputError(f"the model takes {', '.join(expected)}; got {', '.join(given)}")
        return given

    def _batches(self, entry: str, x: Batch, y: Any, weight: Any) -> Iterator[tuple[Any, Any, Any]]:
        arrays = self._named(entry, x)
        count = len(next(iter(arrays.values()))) if arrays else 0
        if count == 0:
            raise InputError(f"{entry} needs at least one sample")
        for i in range(0, count, self.signature.batch):
            cut = slice(i, i + self.signature.batch)
            part = {name: a[cut] for name, a in arrays.items()}
            target = None if y is None else np.asarray(y)[cut]
            yield part, target, None if weight is None else np.asarray(weight)[cut]

    def _give(self, entry: str, x: Batch, y: Any, weight: Any, more: Mapping[str, Any]) -> int:
        """Checks all arrays, then writes them, padded, to their places; gives the sample count."""
        arrays: dict[str, Array] = {**self._named(entry, x)}
        names = {t.name for t in self.program.entry(entry).inputs}
        if "target" in names:
            if y is None:
                raise InputError(f"{entry} needs labels or targets as its second argument")
            arrays["target"] = np.asarray(y)
        tensors = [t for t in self.program.entry(entry).inputs if t.name in arrays]
        counts = {self._count(t, arrays[t.name]) for t in tensors if t.shape}
        if len(counts) > 1:
            raise InputError(f"inputs have different numbers of samples: {sorted(counts)}")
        count = counts.pop() if counts else self.signature.batch
        prepared = [(t, self._checked(t, arrays[t.name])) for t in tensors]
        self._check_labels(arrays.get("target"))
        if "sample_weight" in names:
            prepared.append(self._weights(entry, count, weight))
        elif count != self.signature.batch and "lr" in names:
            raise InputError(
                f"the model computes its own loss, so a batch must be full: expected "
                f"{self.signature.batch} samples, got {count}"
            )
        for tensor, array in prepared:
            self._write(tensor, array)
        for tensor in self.program.entry(entry).inputs:
            if tensor.name in more:
                tensor.view(self._arena)[...] = more[tensor.name]
        return count

    def _weights(self, entry: str, count: int, weight: Any) -> tuple[Tensor, Array]:
        inputs = self.program.entry(entry).inputs
        tensor = next(t for t in inputs if t.name == "sample_weight")
        array = np.ones(count, np.float32) if weight is None else np.asarray(weight, np.float32)
        if array.shape != (count,) or not (np.isfinite(array).all() and (array >= 0).all()):
            raise InputError(f"weights must be {count} finite numbers of at least 0, got {array}")
        return tensor, array

    def _count(self, tensor: Tensor, array: Array) -> int:
        """How many samples the array holds; rows of a tensor may be a multiple of the batch."""
        batch = self.signature.batch
        each = tensor.shape[0] // batch if tensor.shape[0] % batch == 0 else 0
        fits = array.ndim == len(tensor.shape) and array.shape[1:] == tensor.shape[1:]
        whole = each > 0 and array.ndim > 0 and array.shape[0] % each == 0
        if not fits or not whole or not 0 < array.shape[0] <= tensor.shape[0]:
            raise InputError(
                f"{tensor.name!r} expects {list(tensor.shape)} or fewer samples, "
                f"got shape {list(array.shape)}"
            )
        return int(array.shape[0] // each)

    @staticmethod
    def _checked(tensor: Tensor, array: Array) -> Array:
        """The array in the tensor's dtype. Raises InputError where that would alter its meaning."""
        want = DTYPES[tensor.dtype]
        if not np.can_cast(array.dtype, want, "same_kind") and not (
            array.dtype.kind in "iu" and want.kind in "iu"
        ):
            raise InputError(f"{tensor.name!r} expects {want}, got {array.dtype}; convert it")
        return array.astype(want, copy=False)

    def _check_labels(self, labels: Array | None) -> None:
        classes, ignored = self.signature.classes, self.signature.ignore_index
        if labels is None or classes is None:
            return
        bad = ((labels < 0) | (labels >= classes)) & (labels != ignored)
        if bad.any():
            raise InputError(
                f"labels must lie in 0..{classes - 1}, got {int(np.asarray(labels)[bad][0])}"
                f" at position {tuple(int(i) for i in np.argwhere(bad)[0])}"
            )

    def _write(self, tensor: Tensor, array: Array) -> None:
        view = tensor.view(self._arena)
        view[: len(array)] = array
        view[len(array) :] = 0

    def _rows(self, value: Array, count: int) -> Array:
        each, rest = divmod(value.shape[0], self.signature.batch) if value.ndim else (0, 1)
        return value.copy() if rest else value[: count * each].copy()

    def _outputs(self, entry: str) -> dict[str, Array]:
        return {t.name: t.view(self._arena) for t in self.program.entry(entry).outputs}

    def _run(self, entry: str) -> None:
        status = self._executable.run(entry, self._arena)
        if status == 3:
            raise NonFiniteLossError(
                "the loss is NaN or infinite; the weights are as they were before this step. "
                "Use a smaller learning rate, clip gradients, or look for bad values in the batch"
            )
        if status:
            raise InputError(f"{entry} was refused: {STATUS.get(status, f'status {status}')}")
