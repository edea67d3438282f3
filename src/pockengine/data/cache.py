"""The user's cache folder, and writing into it so that no half-written file is ever seen."""

import os
import sys
import tempfile
from pathlib import Path


def cache_dir() -> Path:
    """$POCKENGINE_CACHE, or else the platform's cache folder for this user."""
    chosen = os.environ.get("POCKENGINE_CACHE")
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "pockengine"


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
