"""Loads a program's shared library and calls its entry points."""

import ctypes
import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np

from pockengine.errors import ArtifactError
from pockengine.runtime.program import Array

_POOL_ALIGNMENT = 64


class NativeExecutable:
    """The native code of a program, with a pool of threads that live as long as it does."""

    def __init__(
        self, library: bytes, entries: Iterable[str], arena_bytes: int, threads: int
    ) -> None:
        """Loads a library whose bytes the caller has checked. Raises ArtifactError if it cannot."""
        self._library = _load(library)
        self._functions = {name: self._function(name) for name in entries}
        if self._call_size("pock_arena_bytes") != arena_bytes:
            raise ArtifactError(
                "the native code was compiled for another memory plan; compile again"
            )
        size = self._call_size("pock_pool_bytes")
        self._memory = ctypes.create_string_buffer(size + _POOL_ALIGNMENT)
        start = ctypes.addressof(self._memory)
        self._pool = ctypes.c_void_p(-(-start // _POOL_ALIGNMENT) * _POOL_ALIGNMENT)
        self._library.pock_start(self._pool, ctypes.c_int(threads))
        self._running = True

    def run(self, entry: str, arena: Array) -> int:
        """Runs an entry point; returns its status."""
        if not self._running:
            raise ArtifactError("the session was closed; make a new one")
        address = ctypes.c_void_p(arena.ctypes.data)
        status = self._functions[entry](address, ctypes.c_size_t(arena.nbytes), self._pool)
        return int(status)

    def step_seconds(self, entry: str, steps: int) -> Array:
        """Seconds of each step, added up since they were last set to 0; timed code has them."""
        counters = (ctypes.c_double * steps).in_dll(self._library, f"pock_{entry}_seconds")
        return np.ctypeslib.as_array(counters)

    def close(self) -> None:
        """Stops the threads."""
        if self._running:
            self._library.pock_stop(self._pool)
            self._running = False

    def __del__(self) -> None:
        if getattr(self, "_running", False):
            self.close()

    def _function(self, name: str) -> "ctypes._NamedFuncPointer":
        try:
            function: ctypes._NamedFuncPointer = getattr(self._library, f"pock_{name}")
        except AttributeError as error:
            raise ArtifactError(f"the native code has no entry point {name!r}") from error
        function.restype = ctypes.c_int
        return function

    def _call_size(self, name: str) -> int:
        function = getattr(self._library, name)
        function.restype = ctypes.c_size_t
        return int(function())


def _load(library: bytes) -> ctypes.CDLL:
    """Maps a library through a private file that is gone as soon as it is mapped."""
    handle, path = tempfile.mkstemp(prefix="pock-", suffix=".so")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(library)
        return ctypes.CDLL(path)
    except OSError as error:
        raise ArtifactError(
            f"the native code does not run on this machine ({error}); compile for it"
        ) from error
    finally:
        with suppress(OSError):
            Path(path).unlink()
