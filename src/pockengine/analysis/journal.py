"""Keeps measurements as they are made, so that an analysis that was stopped goes on where it was.

The file is JSON lines. The first says what is measured; each later one is a measurement with its
key, and ends with a digest of itself. A last line that was cut off is measured again; a line that
was edited is an error, because nobody could tell which results depend on it.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pockengine.errors import AnalysisError

FORMAT = "pockengine.journal"


class Journal:
    """The measurements of one analysis by key, in memory and in a file."""

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        """Reads what is there. Raises AnalysisError for another analysis's file, or an edited one.

        `header` is plain data: all that decides a measurement beside its key.
        """
        self._path = path
        self._found: dict[str, dict[str, Any]] = {}
        self._header = {"format": FORMAT, **json.loads(json.dumps(header))}
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size:
            self._read(path)
        else:
            self._append(self._header)

    def get(self, key: str) -> dict[str, Any] | None:
        """What was measured under this key."""
        return self._found.get(key)

    def put(self, key: str, measured: Mapping[str, Any]) -> None:
        """Keeps a measurement; it is on the disk when the call returns."""
        self._found[key] = dict(measured)
        self._append({"key": key, **measured})

    def _append(self, record: Mapping[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**record, "digest": digest(record)}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self, path: Path) -> None:
        text = path.read_bytes().decode("utf-8", errors="replace")
        whole, _, cut = text.rpartition("\n")
        lines = enumerate(whole.split("\n") if whole else [], 1)
        records = [self._checked(path, number, line) for number, line in lines]
        if not records or records[0] != self._header:
            changed = "nothing is whole in it"
            if records:
                changed = _differences(records[0], self._header)
            raise AnalysisError(
                f"{path} holds another analysis ({changed}); choose another folder, or remove it "
                "to start anew"
            )
        self._found = {record.pop("key"): record for record in records[1:]}
        if cut:  # by a kill while it was written
            os.truncate(path, len(whole.encode()) + 1)

    def _checked(self, path: Path, number: int, line: str) -> dict[str, Any]:
        try:
            record = json.loads(line)
            given = record.pop("digest")
            sound = given == digest(record) and (number == 1 or isinstance(record["key"], str))
        except (ValueError, KeyError, AttributeError, TypeError):
            sound = False
        if not sound:
            raise AnalysisError(
                f"{path}, line {number}: damaged or edited; remove that line to measure it again, "
                "or the file to start anew"
            )
        return dict(record)


def digest(record: Mapping[str, Any]) -> str:
    """16 hexadecimal digits that depend on all of a record."""
    canonical = json.dumps(record, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(canonical.encode(), digest_size=8).hexdigest()


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    names = [name for name in {**a, **b} if a.get(name) != b.get(name)]
    return ", ".join(f"{n}: {a.get(n)!r} there, {b.get(n)!r} here" for n in names[:3])
