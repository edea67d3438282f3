"""Keeps what the frozen prefix computes for a sample, in memory or in a folder.

    cache = FeatureCache("256MB")                    Session(program, cache=cache)
    cache = FeatureCache("4GB", folder="features")   shared by sessions, processes and days

A record is the bytes of all features of one sample. Its key is a hash of the prefix (the graph and
its weights) and of the sample: of the bytes of its inputs, or of the name that the caller gives it.
So another model or another sample finds nothing. The hash of inputs is fast and no cryptographic
one: two samples that someone made for the purpose can have the same.
"""

import hashlib
import os
import secrets
import struct
import time
import warnings
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

import numpy as np

from pockengine.errors import InputError
from pockengine.files import parse_bytes
from pockengine.runtime.program import Array

WORDS = 1024  # 64-bit words that are hashed into two
# Random numbers, the same everywhere: of every word, and of its upper half.
_FACTORS = np.frombuffer(hashlib.shake_256(b"features").digest(16 * WORDS), "<u8").reshape(2, WORDS)
MAGIC = b"pock features 1\n"
HEADER = struct.Struct("<16sQ16s")  # magic, bytes of the record, its hash
SUFFIX = ".features"
STALE_SECONDS = 3600.0  # after which a half-written file is nobody's


def content_hash(array: Array) -> bytes:
    """16 bytes that depend on every byte of an array, at about 7 GB/s.

    Blocks are summed after multiplying each 64-bit word by a random number, modulo 2**64. A second
    sum is of the words' upper halves, which the first hardly sees. The sums are hashed by BLAKE2.
    """
    raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    body = raw.nbytes - raw.nbytes % (8 * WORDS)
    blocks = raw[:body].view("<u8").reshape(-1, WORDS)
    digest = hashlib.blake2b(raw[body:].data, digest_size=16)
    digest.update((blocks @ _FACTORS[0]).tobytes())
    digest.update(((blocks >> np.uint64(32)) @ _FACTORS[1]).tobytes())
    digest.update(raw.nbytes.to_bytes(8, "little"))
    return digest.digest()


def record_key(prefix: str, kind: str, sample: bytes) -> str:
    """The key of a sample's record: `kind` says what the sample is known by."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (prefix.encode(), kind.encode(), sample):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


class FeatureCache:
    """Records of at most `limit` bytes in all; those not used for longest make room for new ones.

    With a folder they are files there, and outlive the process; several may share it. A damaged
    file is no error: it is removed with a warning, and its sample is computed again. Not for
    several threads at once, unless through sessions of their own folders.
    """

    def __init__(self, limit: int | str = "256MB", folder: str | Path | None = None) -> None:
        """`limit` in bytes, or as text such as "256MB". Raises InputError."""
        self.limit = parse_bytes(limit) if isinstance(limit, str) else limit
        if self.limit < 0:
            raise InputError(f"a cache has a limit of at least 0 bytes, got {limit}")
        self._store = _Memory() if folder is None else _Folder(Path(folder))
        self._sizes = self._store.sizes()  # by key, those used last at the end
        self._total = sum(self._sizes.values())
        self._make_room(0)

    def __len__(self) -> int:
        return len(self._sizes)

    @property
    def nbytes(self) -> int:
        """The bytes of all records."""
        return self._total

    def get(self, key: str, nbytes: int) -> Array | None:
        """The record, if it is there and of this size."""
        record = self._store.read(key)
        if record is None or record.nbytes != nbytes:
            self._forget(key)
            return None
        if key not in self._sizes:  # another process has written it
            self._sizes[key], self._total = nbytes, self._total + nbytes
        self._sizes.move_to_end(key)
        return record

    def put(self, key: str, record: Array) -> None:
        """Keeps a copy of a record, unless it alone is over the limit."""
        self._forget(key)
        if record.nbytes > self.limit:
            return
        self._make_room(record.nbytes)
        if self._store.write(key, record):
            self._sizes[key], self._total = record.nbytes, self._total + record.nbytes

    def _make_room(self, nbytes: int) -> None:
        while self._sizes and self._total + nbytes > self.limit:
            oldest = next(iter(self._sizes))
            self._store.remove(oldest)
            self._forget(oldest)

    def _forget(self, key: str) -> None:
        self._total -= self._sizes.pop(key, 0)


class _Memory:
    def __init__(self) -> None:
        self._records: dict[str, Array] = {}

    def sizes(self) -> OrderedDict[str, int]:
        return OrderedDict()

    def read(self, key: str) -> Array | None:
        return self._records.get(key)

    def write(self, key: str, record: Array) -> bool:
        self._records[key] = record.copy()
        return True

    def remove(self, key: str) -> None:
        self._records.pop(key, None)


class _Folder:
    """A file a record: a header and the bytes, written beside and renamed."""

    def __init__(self, path: Path) -> None:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{path} cannot be a folder of features: {error.strerror}") from error
        self._path = path

    def sizes(self) -> OrderedDict[str, int]:
        """What is there, by the time of its last use; old halves of files are removed."""
        found: list[tuple[float, str, int]] = []
        for entry in os.scandir(self._path):
            with suppress(FileNotFoundError):
                stat = entry.stat()
                if entry.name.endswith(SUFFIX):
                    size = max(0, stat.st_size - HEADER.size)
                    found.append((stat.st_mtime, entry.name.removesuffix(SUFFIX), size))
                elif entry.name.endswith(".part") and time.time() - stat.st_mtime > STALE_SECONDS:
                    Path(entry.path).unlink(missing_ok=True)
        return OrderedDict((key, size) for _, key, size in sorted(found))

    def read(self, key: str) -> Array | None:
        path = self._file(key)
        try:
            data = np.fromfile(path, np.uint8)
            os.utime(path)
        except OSError:
            return None
        record = data[HEADER.size :]
        header = HEADER.pack(MAGIC, record.nbytes, content_hash(record))
        if data[: HEADER.size].tobytes() == header:
            return record
        warnings.warn(f"{path} is damaged; its sample is computed again", stacklevel=2)
        self.remove(key)
        return None

    def write(self, key: str, record: Array) -> bool:
        """Whether the disk took it."""
        beside = self._path / f".{key}.{secrets.token_hex(4)}.part"
        try:
            with beside.open("xb") as file:
                file.write(HEADER.pack(MAGIC, record.nbytes, content_hash(record)))
                file.write(record.data)
            beside.replace(self._file(key))
        except OSError as error:
            beside.unlink(missing_ok=True)
            warnings.warn(f"features are not kept in {self._path}: {error}", stacklevel=2)
            return False
        return True

    def remove(self, key: str) -> None:
        self._file(key).unlink(missing_ok=True)

    def _file(self, key: str) -> Path:
        return self._path / f"{key}{SUFFIX}"
