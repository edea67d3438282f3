"""The user's cache folder, and writing into it so that no half-written file is ever seen."""

import os
import tempfile
from pathlib import Path


def cache_dir() -> Path:
    """$POCKENGINE_CACHE, or else ~/.cache/pockengine."""
    return Path(os.environ.get("POCKENGINE_CACHE") or Path.home() / ".cache" / "pockengine")


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside `path`, then rename: another process sees all of the file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(beside, path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
