"""Tables of texts with labels, CSV or JSONL, as a tokenizer's numbers."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Union

import numpy as np

from pockengine.data.base import Array, Dataset, Inputs, digest
from pockengine.data.labels import checked_classes, class_numbers, sorted_classes, told
from pockengine.errors import InputError
from pockengine.extras import require

if TYPE_CHECKING:
    from tokenizers import Tokenizer

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
PAD_TOKENS = ("[PAD]", "<pad>", "<|endoftext|>")


class Row(NamedTuple):
    """One sample of a table, and the line that it stands in."""

    line: int
    text: str
    label: str


class TextTable(Dataset):
    """Texts and their classes. `batch` gives a dict of int64 (n, length), padded and cut off.

    All texts are tokenized once, at the beginning.
    """

    def __init__(
        self,
        path: str | Path,
        tokenizer: Union["Tokenizer", str, Path],
        length: int,
        text: str = "text",
        label: str = "label",
        *,
        inputs: Sequence[str] = INPUTS[:2],
        classes: Sequence[str] = (),
    ) -> None:
        """`tokenizer` is one of the package `tokenizers`, or the path of a `tokenizer.json`; `text`
        and `label` name the columns; `inputs` are those of the model, of INPUTS. `classes`, such as
        another table's, fixes their order.

        Raises InputError, with the line, for a table that is damaged or has other columns.
        """
        unknown = [name for name in inputs if name not in INPUTS]
        if unknown or not inputs:
            raise InputError(f"inputs are some of {told(INPUTS)}, got {told(inputs) or 'none'}")
        self.path = Path(path)
        rows = read_table(self.path, text, label)
        _check_classes(self.path, rows, checked_classes(classes))
        self.texts = tuple(row.text for row in rows)
        self.labels, self.classes = class_numbers([row.label for row in rows], classes)
        ready = _padding(tokenizer, length)
        encodings = ready.encode_batch(list(self.texts))
        columns = dict(zip(INPUTS, ("ids", "attention_mask", "type_ids"), strict=True))
        self._arrays = {
            name: np.array([getattr(e, columns[name]) for e in encodings], np.int32)
            for name in inputs
        }

    def __len__(self) -> int:
        return len(self.texts)

    def _load(self, indices: Array) -> Inputs:
        return {name: array[indices].astype(np.int64) for name, array in self._arrays.items()}

    def _ids(self, indices: Array) -> list[str]:
        """A hash of what the sample is to the model."""
        return [digest(*self._arrays, *(a[i] for a in self._arrays.values())) for i in indices]

    def fingerprint(self) -> str:
        """A hash of all tokens and labels."""
        assert self.labels is not None
        return digest(*self._arrays, *self._arrays.values(), self.labels, *self.classes)


def read_table(path: Path, text: str = "text", label: str = "label") -> list[Row]:
    """The rows of a `.csv` with a header, or of a `.jsonl` of objects; blank lines are passed over.

    Raises InputError, with the file and line, for a row that has no such text and label.
    """
    readers = {".csv": _csv_rows, ".jsonl": _jsonl_rows}
    if path.suffix not in readers:
        raise InputError(f"{path}: a table of texts is a .csv or a .jsonl file")
    rows = list(readers[path.suffix](path, _utf8(path), text, label))
    if not rows:
        raise InputError(f"{path} has no rows")
    return rows


def _utf8(path: Path) -> str:
    try:
        data = path.read_bytes()
        return data.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(f"{path}, line {line}: not UTF-8 ({error.reason})") from error


def _csv_rows(path: Path, content: str, text: str, label: str) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)
    try:
        names = next(reader, [])
        _check_columns(path, names, (text, label))
        for row in filter(None, reader):
            if len(row) != len(names):
                raise InputError(
                    f"{path}, line {reader.line_num}: expected {len(names)} columns, got {len(row)}"
                )
            cells = dict(zip(names, row, strict=True))
            yield _checked(path, reader.line_num, cells[text], cells[label])
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: no CSV: {error}") from error


def _check_columns(path: Path, names: Sequence[str], wanted: Sequence[str]) -> None:
    missing = [name for name in wanted if names.count(name) != 1]
    if missing:
        raise InputError(
            f"{path}, line 1: expected one column {missing[0]!r}, the columns are "
            f"{told(names) or 'none'}"
        )


def _jsonl_rows(path: Path, content: str, text: str, label: str) -> Iterator[Row]:
    for line, words in enumerate(content.split("\n"), start=1):
        if words.strip():
            row = _json_object(path, line, words)
            missing = [name for name in (text, label) if name not in row]
            if missing:
                there = told(list(row)) or "nothing"
                raise InputError(f"{path}, line {line}: has no {missing[0]!r}, but {there}")
            yield _checked(path, line, row[text], row[label])


def _json_object(path: Path, line: int, words: str) -> dict[str, Any]:
    try:
        row = json.loads(words)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}, line {line}: no JSON: {error}") from error
    if not isinstance(row, dict):
        raise InputError(
            f"{path}, line {line}: expected an object {{...}}, got {type(row).__name__}"
        )
    return row


def _checked(path: Path, line: int, text: Any, label: Any) -> Row:
    if not isinstance(text, str):
        raise InputError(f"{path}, line {line}: the text must be a text, got {type(text).__name__}")
    if isinstance(label, bool) or not isinstance(label, int | str) or label == "":
        came = repr(label) if isinstance(label, str) else type(label).__name__
        raise InputError(
            f"{path}, line {line}: a label is an integer or a class's name, got {came}"
        )
    row = Row(line, text, str(label))
    try:
        (row.text + row.label).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{path}, line {line}: half a character: {error.reason}") from error
    return row


def _check_classes(path: Path, rows: Sequence[Row], classes: Sequence[str]) -> None:
    unknown = [row for row in rows if classes and row.label not in classes]
    if unknown:
        raise InputError(
            f"{path}, line {unknown[0].line}: class {unknown[0].label!r} is none of {told(classes)}"
        )
    found = sorted_classes([row.label for row in rows])
    if not classes and len(found) == 1:
        raise InputError(
            f"{path} has texts of one class only, {found[0]!r}; there is nothing to tell apart"
        )


def _padding(given: Union["Tokenizer", str, Path], length: int) -> "Tokenizer":
    """A tokenizer of its own that gives `length` tokens. Raises InputError."""
    package = require("tokenizers", "tokenizers", "data", "a table of texts")
    try:
        if isinstance(given, str | Path):
            tokenizer: Tokenizer = package.Tokenizer.from_file(str(given))
        else:
            tokenizer = package.Tokenizer.from_str(given.to_str())
    except Exception as error:  # the package raises nothing narrower
        raise InputError(f"{given} cannot be read as a tokenizer: {error}") from error
    added = tokenizer.num_special_tokens_to_add(is_pair=False)
    if length <= added:
        raise InputError(f"length must be over the {added} special tokens, got {length}")
    pad = tokenizer.padding or {}
    known = ((tokenizer.token_to_id(token), token) for token in PAD_TOKENS)
    number, token = next((pair for pair in known if pair[0] is not None), (0, "[PAD]"))
    kept = {"direction": "right", "pad_id": number, "pad_token": token, "pad_type_id": 0} | pad
    cut = (tokenizer.truncation or {}).get("direction", "right")
    tokenizer.enable_truncation(length, direction=cut)
    tokenizer.enable_padding(**(kept | {"length": length, "pad_to_multiple_of": None}))
    return tokenizer
