"""The user's cache folder, writing files so that no half-written one is seen, and their sizes."""

import os
import re
import tempfile
from pathlib import Path

from pockengine.errors import InputError

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_bytes(words: str) -> int:
    """`64MB`, `1.5 GiB` or a plain number of bytes. Raises InputError for anything else."""
    match = re.fullmatch(r"([\d.]+)\s*([A-Za-z]*)", words.strip())
    if not match or match[2].upper() not in _UNITS or match[1].count(".") > 1:
        raise InputError(f"expected an amount of memory such as 64MB or 64MiB, got {words!r}.")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def cache_dir() -> Path:
    """$POCKENGINE_CACHE, or else ~/.cache/pockengine."""
    return Path(os.environ.get("POCKENGINE_CACHE") or Path.home() / ".cache" / "pockengine")


def write_atomically(path: Path, data: bytes) -> None:
    """Writes beside `path`, syncs and renames: a reader sees all of the file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as folder:
        beside = Path(folder, path.name)
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
