"""Anything a user has -> a data set."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pockengine.data.arrays import ArrayDataset as ArrayDataset
from pockengine.data.arrays import load_npz
from pockengine.data.base import Batch as Batch
from pockengine.data.base import Dataset as Dataset
from pockengine.data.images import ImageFolder as ImageFolder
from pockengine.data.text import TextTable as TextTable
from pockengine.errors import InputError


def as_dataset(given: Any, **options: Any) -> Dataset:
    """A data set of a data set, of arrays `(x, y)`, or of a path.

    The path is a folder of images (options as of `ImageFolder`), a `.npz` (as of `load_npz`), or a
    `.csv` or `.jsonl` of texts (as of `TextTable`). Raises InputError for anything else.
    """
    if isinstance(given, str | Path):
        return _from_path(Path(given), options)
    if isinstance(given, tuple) and len(given) == 2:
        return ArrayDataset(*given, **options)
    if isinstance(given, Dataset) and not options:
        return given
    came = f"a tuple of {len(given)}" if isinstance(given, tuple) else type(given).__name__
    raise InputError(
        f"expected a Dataset, a tuple of samples and labels, or a path, got {came}"
        + (f" with the options {', '.join(options)}" if options else "")
    )


def _from_path(path: Path, options: dict[str, Any]) -> Dataset:
    if path.suffix == ".npz":
        return load_npz(path, **options)
    if path.suffix in (".csv", ".jsonl"):
        _need(path, "a table of texts", options, ("tokenizer", "length"))
        return TextTable(path, **options)
    if path.is_dir():
        _need(path, "a folder of images", options, ("size",))
        return ImageFolder(path, **options)
    if not path.exists():
        raise InputError(f"{path} does not exist")
    raise InputError(f"{path} is no folder of images, .npz, .csv or .jsonl")


def _need(path: Path, kind: str, options: dict[str, Any], wanted: Sequence[str]) -> None:
    missing = [f"{name}=" for name in wanted if name not in options]
    if missing:
        call = ", ".join(f"{name}..." for name in missing)
        raise InputError(
            f"{path} is {kind}; give {' and '.join(missing)} too: as_dataset(path, {call})"
        )
