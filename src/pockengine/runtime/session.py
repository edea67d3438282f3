"""Runs a program: one arena, one call of native code a step.

A batch smaller than the program's is padded, and the padding has weight 0 in the loss: the step is
that of the samples given. All arrays are checked before anything runs; a refused call changes
nothing.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pockengine.errors import InputError, NonFiniteLossError, PockError
from pockengine.runtime.arena import new_arena
from pockengine.runtime.arrays import (
    Batch,
    as_array,
    by_name,
    check_labels,
    checked_weights,
    converted,
    part,
    rows_each,
    sample_count,
    write,
)
from pockengine.runtime.artifact import load_program
from pockengine.runtime.features import FeatureCache
from pockengine.runtime.gates import gate_contents
from pockengine.runtime.prefix import Id, Loader, PrefixRunner, checked_ids
from pockengine.runtime.program import Array, Program, Tensor

STATUS = {
    1: "the arena has another size than the program was compiled for",
    2: "the arena is not aligned to 64 bytes",
    4: "a label or an index is out of the range of what it looks up; nothing was changed",
}
NON_FINITE = 3
OWN_LOSS = "the model computes its own loss"
OWN = ("target", "sample_weight", "lr")  # inputs that the engine added to the model's


Load = Callable[[list[Id]], Batch]
"""Loads the inputs of the samples with these names."""


@dataclass(frozen=True)
class Samples:
    """What a call is given: arrays by name, and the model's inputs where they are loaded."""

    arrays: Mapping[str, Array]
    loader: Loader | None = None


class Session:
    """A program at work. Holds the weights; use as a context manager, or call `close`.

    Calls from several threads wait for each other.
    """

    def __init__(
        self,
        program: Program,
        *,
        threads: int | None = None,
        cache: FeatureCache | None = None,
    ) -> None:
        """Takes `program.peak_bytes` of memory and fills in the weights.

        A `cache` keeps what the frozen prefix computes for a sample. Raises InputError for more
        threads than the program was planned for, and for a cache where nothing heavy is frozen.
        """
        self.program = program
        self.signature = program.signature
        count = _checked_threads(threads, self.signature.threads)
        self._arena = new_arena(self.signature.arena_bytes)
        for leaf in self.signature.leaves.values():
            program.fill(leaf.name, leaf.view(self._arena))
        self._executable = program.start(count)
        prefix = self.signature.prefix
        if cache is not None and prefix is None:
            raise InputError("the program has no frozen prefix whose features a cache could keep")
        self._cache = cache
        self._prefix = (
            PrefixRunner(self.signature, prefix, self._run, cache, self._arena) if prefix else None
        )
        self._inputs = self._model_inputs()
        self._taken: dict[str, list[Tensor]] = {}  # by entry point: what the caller gives it,
        self._losses: dict[str, list[Array]] = {}  # and where it leaves its loss and weight
        self._lock = threading.Lock()
        self._closed = False
        self._steps = 0  # calls of `step` so far

    @classmethod
    def load(
        cls, path: str | Path, *, threads: int | None = None, cache: FeatureCache | None = None
    ) -> "Session":
        """A session of a `.pock` file. Raises ArtifactError for a file that is damaged."""
        return cls(load_program(Path(path)), threads=threads, cache=cache)

    def save(self, path: str | Path) -> None:
        """Writes a `.pock` file that goes on from here: with these weights and optimizer states.

        The file appears whole or not at all, and may be the one that the session was loaded from.
        Raises InputError between the batches of an accumulated step.
        """
        with self._lock:
            begun = self._steps % self.signature.accumulate
            if begun:
                whole = self.signature.accumulate
                raise InputError(
                    f"{begun} of {whole} batches of a step are in; save after the step"
                )
            replace(self.program, fill=self._content).save(path)

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops the threads. The weights can still be read and saved."""
        with self._lock:
            self._closed = True
            self._executable.close()

    @property
    def arena_bytes(self) -> int:
        """The memory that the program takes."""
        return len(self._arena)

    @property
    def cache(self) -> FeatureCache | None:
        """What keeps the features of the frozen prefix."""
        return self._cache

    @property
    def full_batches(self) -> bool:
        """Whether a step takes no batch that is partly filled."""
        inputs = self.program.entry("train").inputs
        return self.signature.full_batches or all(t.name != "sample_weight" for t in inputs)

    # ---- the three calls -------------------------------------------------------------------------

    def step(
        self,
        x: Batch | Load,
        y: Any = None,
        lr: float = 1e-3,
        weight: Any = None,
        samples: Sequence[Id] | None = None,
    ) -> float:
        """One training step on up to a batch of samples; returns their mean loss before the step.

        A batch that is computed in parts gives the same step as one that is not.

        `x` is the input, a tuple of the inputs in order, or a dict by name; `y` are the labels or
        targets, `weight` optional weights of the samples. Where `samples` gives their names, `x` is
        a function that loads those it is called with: with a cache, only what is not kept yet; a
        name must then always mean the same inputs. With accumulation, all but each k-th call only
        add up gradients. Raises InputError for arrays that do not fit, and NonFiniteLossError
        when the loss is NaN or infinite; the weights are then as before the call, and what was
        accumulated is dropped where the batch is computed in parts.
        """
        rate = _checked_rate(lr)
        with self._lock:
            given = self._samples("train", x, y, samples)
            self._check("train", given, weight, self.signature.parts)
            *first, last = self._parts("train", given, weight)
            ends = (self._steps + 1) % self.signature.accumulate == 0
            entry = "train" if ends else "accumulate"
            try:
                losses = [self._add_gradients(*part) for part in first]
                self._write(entry, *last)
                if ends:
                    self._input(entry, "lr").view(self._arena)[...] = rate
            except BaseException:
                if first:
                    self._forget()
                raise
            self._steps += 1  # before the call, so that an interrupt that comes during it counts it
            try:
                self._run(entry)
            except PockError:
                self._steps -= 1
                if first:
                    self._forget()
                raise
            return _mean([*losses, self._loss(entry)])

    def _add_gradients(self, given: "Samples", count: int, weights: Array) -> tuple[float, float]:
        """Adds up the gradients of a part of a step; returns its loss and weight."""
        self._write("accumulate", given, count, weights)
        self._run("accumulate")
        return self._loss("accumulate")

    def _loss(self, entry: str) -> tuple[float, float]:
        """The loss of what an entry point was given last, and its weight."""
        if entry not in self._losses:
            outputs = {t.name: t.view(self._arena) for t in self.program.entry(entry).outputs}
            self._losses[entry] = [outputs["loss"], outputs["weight"]]
        loss, weight = map(float, self._losses[entry])
        return loss, weight

    def forget_gradients(self) -> None:
        """Drops what was accumulated for a step that has not come to its end."""
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        for name in self.signature.sums:
            self.signature.leaves[name].view(self._arena)[...] = 0
        self._steps -= self._steps % self.signature.accumulate

    def evaluate(
        self,
        x: Batch | Load,
        y: Any = None,
        weight: Any = None,
        samples: Sequence[Id] | None = None,
    ) -> dict[str, float]:
        """Mean loss of any number of samples, and the accuracy where the loss has one."""
        total: dict[str, float] = {}
        with self._lock:
            given = self._samples("evaluate", x, y, samples)
            for found in self._each("evaluate", given, weight):
                values = {name: float(value) for name, value in found.items()}
                values["loss"] *= values["weight"]
                total = {name: total.get(name, 0.0) + value for name, value in values.items()}
        result = {"loss": total["loss"] / total["weight"] if total["weight"] else 0.0}
        if "correct" in total:
            result["accuracy"] = total["correct"] / max(total["count"], 1.0)
        return result

    def predict(self, x: Batch | Load, samples: Sequence[Id] | None = None) -> Any:
        """The model's output for any number of samples; a dict by name when it has several.

        An output without a row for each sample is given once for each batch, stacked.
        """
        parts: dict[str, list[Array]] = {}
        with self._lock:
            given = self._samples("predict", x, None, samples)
            for found in self._each("predict", given, None):
                for name, value in found.items():
                    parts.setdefault(name, []).append(value)
            rows = {t.name: self._rows_each(t) for t in self.program.entry("predict").outputs}
        outputs = {n: np.concatenate(v) if rows[n] else np.stack(v) for n, v in parts.items()}
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    # ---- weights ---------------------------------------------------------------------------------

    def state_dict(self, *, changing: bool = False) -> dict[str, Array]:
        """Every tensor of the source model, under its own name and in its own layout (copies).

        With `changing` only those that steps change: what is trained, and running statistics.
        """
        kinds = {"trained", "state"} if changing else {"trained", "state", "frozen"}
        with self._lock:
            originals = () if changing else self.program.originals
            found = {name: self.program.original(name) for name in originals}
            for leaf in self.signature.leaves.values():
                if leaf.public and leaf.kind in kinds:
                    found[leaf.name] = leaf.restored(leaf.view(self._arena))
        tied = {n: first for n, first in self.signature.aliases.items() if first in found}
        return found | {n: found[first].copy() for n, first in tied.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over trained tensors and running statistics; what is left out stays.

        What the program keeps frozen may be given too, if it is what it was when compiled. Raises
        InputError for names, types or values that do not fit, before anything is changed.
        """
        arrays = self._by_first_name(state)
        with self._lock:
            stored = {name: self._fitting(name, array) for name, array in arrays.items()}
            for name, array in stored.items():
                leaf = self.signature.leaves.get(name)
                if leaf and leaf.kind != "frozen":
                    leaf.view(self._arena)[...] = leaf.stored(array)

    def reset(self) -> None:
        """Begins anew: weights, running statistics and optimizer states as the program has them.

        All gates are open, and what was accumulated is dropped.
        """
        with self._lock:
            for leaf in self.signature.leaves.values():
                if leaf.kind == "gate":
                    leaf.view(self._arena)[...] = True
                elif leaf.kind != "frozen":
                    self.program.fill(leaf.name, leaf.view(self._arena))
            self._steps = 0

    def set_gates(self, masks: Mapping[str, Any]) -> None:
        """Which input channels the next steps of a gated program train; by parameter's name.

        A mask is a bool for each channel, or one bool for the whole parameter; what is not named is
        closed. A closed channel stays as it is to the bit, and has no part in the norm of the
        gradients. Optimizer states are left alone: `reset` before another choice. Raises InputError
        for a program without gates, and for names and masks that do not fit.
        """
        contents = list(gate_contents(self.signature.leaves, masks))
        with self._lock:
            for gate, content in contents:
                gate.view(self._arena)[...] = content

    def _by_first_name(self, state: Mapping[str, Any]) -> dict[str, Array]:
        """The arrays under the names that the program has them by; tied ones must agree."""
        leaves, aliases = self.signature.leaves, self.signature.aliases
        known = {name for name, leaf in leaves.items() if leaf.public} | {*self.program.originals}
        found: dict[str, Array] = {}
        for given, value in state.items():
            name, array = aliases.get(given, given), as_array(given, value)
            if name not in known:
                raise InputError(f"the program has no tensor {given!r}")
            if name in found and not np.array_equal(found[name], array):
                raise InputError(f"{given!r} is tied to {name!r}, but the two differ")
            found[name] = array
        return found

    def _fitting(self, name: str, array: Array) -> Array:
        """The array in the dtype of its tensor. Raises InputError when it cannot be taken over."""
        leaf = self.signature.leaves.get(name)
        current = leaf.restored(leaf.view(self._arena)) if leaf else self.program.original(name)
        if array.shape != current.shape or array.dtype.kind != current.dtype.kind:
            expected, came = (f"{a.dtype}{list(a.shape)}" for a in (current, array))
            raise InputError(f"{name!r} expects {expected}, got {came}")
        array = array.astype(current.dtype, copy=False)
        frozen = leaf is None or leaf.kind == "frozen"
        if frozen and not np.array_equal(array, current):
            raise InputError(
                f"{name!r} is frozen, and other values in the program were computed from it; "
                "compile again with the new weights"
            )
        return array

    def _content(self, name: str, out: Array) -> None:
        out[...] = self.signature.leaves[name].view(self._arena)

    # ---- arrays in and out -----------------------------------------------------------------------

    def _input(self, entry: str, name: str) -> Tensor:
        return next(t for t in self.program.entry(entry).inputs if t.name == name)

    def _model_inputs(self) -> list[Tensor]:
        """The model's own inputs in order, for a whole batch."""
        known = {t.name: t for t in self._prefix.inputs} if self._prefix else {}
        known |= {t.name: t for t in self.program.entry("predict").inputs}
        return [known[name] for name in self.signature.inputs]

    def _given(self, entry: str) -> list[Tensor]:
        """What the caller gives an entry point: the model's inputs, and what the loss takes."""
        if entry not in self._taken:
            own = [t for t in self.program.entry(entry).inputs if t.name in OWN]
            names = {t.name for t in own}
            self._taken[entry] = [t for t in self._inputs if t.name not in names] + own
        return self._taken[entry]

    def _rows_each(self, tensor: Tensor) -> int:
        return rows_each(tensor, self.signature.batch)

    def _samples(
        self, entry: str, x: Batch | Load, y: Any, names: Sequence[Id] | None
    ) -> "Samples":
        """What the entry point is given, by name, checked but for the number of samples."""
        arrays = self._targets(entry, y)
        if names is not None and callable(x):
            load = x
            return Samples(arrays, Loader(checked_ids(names), lambda ids: self._loaded(load, ids)))
        if names is not None or callable(x):
            raise InputError(
                "names of samples and a function that loads them belong together: give "
                "step(load, labels, samples=names), or arrays and no names"
            )
        return Samples(self._model_arrays(x) | arrays)

    def _model_arrays(self, x: Batch) -> dict[str, Array]:
        tensors = [t for t in self._inputs if t.name not in OWN]
        arrays = by_name(tensors, x)
        return {t.name: converted(t, arrays[t.name]) for t in tensors}

    def _targets(self, entry: str, y: Any) -> dict[str, Array]:
        target = next((t for t in self._given(entry) if t.name == "target"), None)
        if target and y is None:
            raise InputError(f"{entry} needs labels or targets as its second argument")
        if y is not None and not target:
            raise InputError(f"{OWN_LOSS}, so it takes no labels beside its inputs")
        return {"target": converted(target, as_array("target", y))} if target else {}

    def _loaded(self, load: Load, ids: list[Id]) -> dict[str, Array]:
        arrays = self._model_arrays(load(ids))
        tensors = [t for t in self._inputs if t.name in arrays]
        count = sample_count(tensors, arrays, self.signature.batch)
        if count != len(ids):
            raise InputError(f"the function was to load {len(ids)} samples, it gave {count}")
        return arrays

    def _each(self, entry: str, given: "Samples", weight: Any) -> Iterator[dict[str, Array]]:
        """Runs all samples, a batch at a time; yields copies of the outputs, without padding."""
        for samples, count, weights in self._parts(entry, given, weight):
            self._check(entry, samples, weight)
            self._write(entry, samples, count, weights)
            self._run(entry)
            outputs = self.program.entry(entry).outputs
            yield {t.name: self._rows(entry, t, count) for t in outputs}

    def _parts(
        self, entry: str, given: "Samples", weight: Any
    ) -> Iterator[tuple["Samples", int, Array]]:
        """As many samples at a time as are computed, their number, and their weights."""
        batch = self.signature.batch
        count = self._count(entry, given)
        if count == 0:
            raise InputError(f"{entry} needs at least one sample")
        weights = checked_weights(count, weight)
        tensors = [t for t in self._given(entry) if t.name in given.arrays]
        for first in range(0, count, batch):
            here = min(batch, count - first)
            cut = {t.name: part(t, given.arrays[t.name], first, here, batch) for t in tensors}
            loader = given.loader and given.loader.part(first, here)
            yield Samples(cut, loader), here, weights[first : first + here]

    def _count(self, entry: str, given: "Samples") -> int:
        """How many samples there are. Raises InputError where shapes or numbers do not fit."""
        tensors = [t for t in self._given(entry) if t.name in given.arrays]
        count = sample_count(tensors, given.arrays, self.signature.batch)
        if given.loader is None:
            return count
        named = len(given.loader.ids)
        if tensors and count != named:
            raise InputError(f"{named} samples are named, and there are labels for {count}")
        return named

    def _check(self, entry: str, given: "Samples", weight: Any, parts: int = 1) -> None:
        """Raises InputError for samples that an entry point cannot take in so many parts."""
        self._check_open()
        count, batch = self._count(entry, given), self.signature.batch
        if not 1 <= count <= batch * parts:
            raise InputError(f"{entry} takes 1 to {batch * parts} samples, got {count}")
        if self.signature.full_batches:
            self._check_full("the model mixes the samples of a batch", count)
        weighted = any(t.name == "sample_weight" for t in self.program.entry(entry).inputs)
        if entry != "predict" and not weighted:
            if weight is not None:
                raise InputError(f"{OWN_LOSS}, which takes no weights of samples")
            self._check_full(OWN_LOSS, count)
        if "target" in given.arrays and self.signature.classes is not None:
            labels = given.arrays["target"]
            check_labels(labels, self.signature.classes, self.signature.ignore_index)

    def _check_full(self, reason: str, count: int) -> None:
        if count != self.signature.batch:
            raise InputError(
                f"{reason}, so every batch must be full: expected {self.signature.batch} samples, "
                f"got {count}"
            )

    def _write(self, entry: str, given: "Samples", count: int, weights: Array) -> None:
        """Writes checked samples, padded, to their places; loads what is not there."""
        arrays, loader = {**given.arrays, "sample_weight": weights}, given.loader
        inputs = self.program.entry(entry).inputs
        if loader and (self._cache is None or any(t.name in self.signature.inputs for t in inputs)):
            arrays |= loader.load(list(loader.ids))  # all are needed
            loader = None
        if self._prefix:  # first, because it works where the other inputs lie
            self._prefix.fill(loader or arrays, count)
        for tensor in inputs:
            if tensor.name in arrays:
                write(tensor, arrays[tensor.name], self._arena)

    def _rows(self, entry: str, output: Tensor, count: int) -> Array:
        """A copy of an output without the rows that only fill up the batch."""
        value, each = output.view(self._arena), self._rows_each(output)
        if each:
            return value[: count * each].copy()
        if entry == "predict" and count != self.signature.batch:
            raise InputError(
                f"output {output.name!r} has no row for each sample, so every batch must be full: "
                f"expected {self.signature.batch} samples, got {count}"
            )
        return value.copy()

    def _check_open(self) -> None:
        if self._closed:
            raise InputError("the session was closed; make a new one from its program")

    def _run(self, entry: str) -> None:
        status = self._executable.run(entry, self._arena)
        if status == NON_FINITE:
            raise NonFiniteLossError(
                "the loss is NaN or infinite; the weights are as they were before this step. "
                "Use a smaller learning rate, clip gradients, or look for bad values in the batch"
            )
        if status:
            raise InputError(f"{entry} was refused: {STATUS.get(status, f'status {status}')}")


def _mean(losses: Sequence[tuple[float, float]]) -> float:
    """The mean of losses with weights; 0 where all weights are."""
    total = sum(weight for _, weight in losses)
    return sum(loss * weight for loss, weight in losses) / total if total else 0.0


def _checked_threads(wanted: int | None, planned: int) -> int:
    if wanted is not None and not 1 <= wanted <= planned:
        raise InputError(
            f"the program was planned for 1 to {planned} threads, got threads={wanted}; "
            "compile with Target.host(threads=...) for more"
        )
    return wanted or planned


def _checked_rate(lr: float) -> np.float32:
    number = isinstance(lr, (int, float, np.number, np.ndarray)) and np.ndim(lr) == 0
    if not (number and np.isfinite(lr) and lr >= 0):
        raise InputError(f"the learning rate must be a finite number of at least 0, got {lr}")
    return np.float32(lr)
