"""Reads pickled arrays, and `.npy` files of them, without letting the pickle run anything.

A pickle may call any importable function. Here it may name exactly four things, all of which only
build arrays; whatever else it names is an error.
"""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pockengine.errors import AssetError


def _encode_latin1(text: str, encoding: str) -> bytes:
    """What pickle protocol 2 calls to write bytes down as text."""
    if encoding != "latin1":
        raise AssetError(f"a pickle asks for the codec {encoding!r}; only latin1 is allowed.")
    return text.encode("latin1")


_reconstruct: Any = np.empty(0).__reduce__()[0]
_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode_latin1,
}


class _ArrayUnpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, source: str) -> None:
        super().__init__(file)
        self._source = source

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        if (module, name) not in _ALLOWED:
            raise AssetError(
                f"{self._source} asks to load {module}.{name}, which a file of arrays has no use "
                f"for; it was not loaded. Do not use this file."
            )
        return _ALLOWED[module, name]


def load_pickle(path: Path) -> Any:
    """The object in a pickle: numbers, text, lists, dicts and arrays only.

    Raises AssetError when the file is none, is cut short, or asks for anything else.
    """
    with path.open("rb") as file:
        try:
            return _ArrayUnpickler(file, path.name).load()
        except (ValueError, EOFError, pickle.UnpicklingError, AttributeError, TypeError) as error:
            raise AssetError(f"{path} should be a pickle, but cannot be read ({error}).") from error


def load_pickled_npy(path: Path) -> Any:
    """The object in a version-1 object `.npy`: numbers, text, lists, dicts and arrays only.

    Raises AssetError when the file is not one, is cut short, or asks for anything else.
    """
    with path.open("rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            if version != (1, 0) or dtype != np.dtype(object) or shape != ():
                raise ValueError(f"version {version}, shape {shape}, dtype {dtype}")
            return _ArrayUnpickler(file, path.name).load().item()
        except (ValueError, EOFError, pickle.UnpicklingError, AttributeError, TypeError) as error:
            raise AssetError(
                f"{path} should be a version (1, 0) .npy file holding one pickled object, but it "
                f"cannot be read ({error}). Delete it, and it is downloaded again."
            ) from error
