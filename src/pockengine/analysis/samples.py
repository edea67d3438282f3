"""Samples of a dataset as plain files, decoded once, for several processes to read."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pockengine.data.base import Array, Batch, Dataset, Inputs
from pockengine.data.dataset import ArrayDataset
from pockengine.errors import AnalysisError
from pockengine.files import write_atomically

CHUNK = 64  # samples that are decoded at a time
INDEX = "samples.json"


def write_samples(sets: Sequence[Dataset], folder: Path) -> None:
    """Writes every sample's inputs and label, one set after the other; see `read_samples`.

    Does nothing where the folder already holds these very samples. Raises AnalysisError for sets
    whose samples differ in form.
    """
    prints = [data.fingerprint() for data in sets]
    if _index(folder).get("fingerprints") == prints:
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INDEX).unlink(missing_ok=True)  # interrupted, the files are nobody's
    files: dict[str, np.memmap[Any, Any]] = {}
    form, row = ("", [""]), 0
    total = sum(map(len, sets))
    for batch in _batches(sets):
        kind, names, inputs = _taken_apart(batch.x)
        arrays = {f"x{i}": array for i, array in enumerate(inputs)}
        if batch.y is not None:
            arrays["y"] = np.asarray(batch.y)
        form = form if files else (kind, names)
        _check_form(row, files, arrays, form == (kind, names))
        for name, array in arrays.items():
            if name not in files:
                shape = (total, *array.shape[1:])
                path = folder / f"{name}.npy"
                files[name] = np.lib.format.open_memmap(path, "w+", array.dtype, shape)
            files[name][row : row + len(array)] = array
        row += len(array)
    for file in files.values():
        file.flush()
    index = {"kind": form[0], "names": form[1], "labels": "y" in files}
    index |= {"classes": sets[0].classes, "fingerprints": prints}
    write_atomically(folder / INDEX, json.dumps(index).encode())


def _check_form(
    row: int, files: Mapping[str, Array], arrays: Mapping[str, Array], same_inputs: bool
) -> None:
    """Raises AnalysisError where samples are not like those before: NumPy would fit them in."""
    alike = same_inputs and (not files or files.keys() == arrays.keys())
    if not alike or not all(_fits(arrays[name], file) for name, file in files.items()):
        before, came = (_told(found) for found in (files, arrays))
        raise AnalysisError(
            f"samples from {row} on, of the training and then the validation set, have another "
            f"form than those before: {came}, expected {before}"
        )


def _fits(array: Array, file: Array) -> bool:
    same_shape = array.shape[1:] == file.shape[1:]
    return same_shape and np.can_cast(array.dtype, file.dtype, "same_kind")


def _told(arrays: Mapping[str, Array]) -> str:
    return ", ".join(f"{name} {a.dtype}{list(a.shape[1:])}" for name, a in arrays.items())


def _batches(sets: Sequence[Dataset]) -> Iterator[Batch]:
    for data in sets:
        for first in range(0, len(data), CHUNK):
            yield data.batch(range(first, min(first + CHUNK, len(data))))


def read_samples(folder: Path) -> ArrayDataset:
    """The dataset in a folder; its arrays stay in the files until they are read."""
    index = _index(folder)
    if not index:
        raise AnalysisError(f"{folder} holds no samples; run the analysis again")
    names = index["names"]
    inputs = [np.load(folder / f"x{i}.npy", mmap_mode="r") for i in range(len(names))]
    x: Inputs = inputs[0]
    if index["kind"] == "tuple":
        x = tuple(inputs)
    elif index["kind"] == "dict":
        x = dict(zip(names, inputs, strict=True))
    labels = np.load(folder / "y.npy", mmap_mode="r") if index.get("labels", True) else None
    return ArrayDataset(x, labels, tuple(index["classes"]))


def _taken_apart(x: Inputs) -> tuple[str, list[str], list[Array]]:
    """What kind of inputs they are, their names if they have any, and the arrays by name."""
    if isinstance(x, Mapping):
        return "dict", sorted(x), [np.asarray(x[name]) for name in sorted(x)]
    if isinstance(x, tuple):
        return "tuple", [""] * len(x), [np.asarray(array) for array in x]
    return "array", [""], [np.asarray(x)]


def _index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text()))
    except ValueError:  # damaged: the samples are written again
        return {}
