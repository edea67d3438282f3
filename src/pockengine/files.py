"""The user's cache folder, and writing files so that no half-written one is ever seen."""

import os
import tempfile
from pathlib import Path


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
