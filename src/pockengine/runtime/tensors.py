"""Tensors in a file, in the safetensors format: a JSON header, then the bytes.

    u64 header length | {"name": {"dtype", "shape", "data_offsets": [begin, end]}, ...} | bytes

A device has NumPy only, so the format is read and written here. Tensors are streamed one by one,
from the file into the memory that they live in. Reading is strict: the tensors must tile the
bytes exactly.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from pockengine.dtypes import NUMPY
from pockengine.errors import ArtifactError
from pockengine.runtime.program import Array, Shape

CODES = {
    **{"f32": "F32", "f64": "F64", "bf16": "BF16"},
    **{"i32": "I32", "i64": "I64", "u8": "U8", "bool": "BOOL"},
}
NAMES = {code: dtype for dtype, code in CODES.items()}
HEADER_LIMIT = 100 * 2**20


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor of a file; `start` is where its bytes begin, counted from the start of the file."""

    dtype: str
    shape: Shape
    start: int

    @property
    def nbytes(self) -> int:
        return nbytes(self.dtype, self.shape)


def nbytes(dtype: str, shape: Iterable[int]) -> int:
    """Bytes of a tensor, in unbounded integers: a shape from a file may be absurd."""
    total = NUMPY[dtype].itemsize
    for dim in shape:
        total *= dim
    return total


def write_tensors(
    write: Callable[[Any], Any],
    types: Mapping[str, tuple[str, Shape]],
    fill: Callable[[str, Array], None],
) -> None:
    """Writes tensors of these dtypes and shapes; `fill(name, out)` gives the contents of each."""
    header: dict[str, Any] = {}
    end = 0
    for name, (dtype, shape) in types.items():
        begin, end = end, end + nbytes(dtype, shape)
        header[name] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    write(len(text).to_bytes(8, "little") + text)
    for name, (dtype, shape) in types.items():
        array = np.empty(shape, NUMPY[dtype])
        fill(name, array)
        write(array.tobytes() if array.size else b"")


def read_header(file: BinaryIO, start: int, size: int, what: str) -> dict[str, Stored]:
    """The tensors of the `size` bytes of `file` that begin at `start`.

    Raises ArtifactError, naming `what`, unless the header is sound and its tensors fill the bytes.
    """
    file.seek(start)
    length = int.from_bytes(file.read(8), "little") if size >= 8 else size
    if length > min(size - 8, HEADER_LIMIT):
        raise ArtifactError(f"{what}: the header claims {length:,} of {size:,} bytes")
    header = parse_json(file.read(length), what)
    base = start + 8 + length
    found = {n: _stored(n, entry, base, what) for n, entry in header.items() if n[:2] != "__"}
    end = base
    for name, tensor in sorted(found.items(), key=lambda item: (item[1].start, item[1].nbytes)):
        if tensor.start != end:
            raise ArtifactError(
                f"{what}: {name!r} begins at {tensor.start - base:,}, expected {end - base:,}"
            )
        end += tensor.nbytes
    if end != start + size:
        raise ArtifactError(f"{what}: tensors end at {end - start:,} of {size:,} bytes")
    return found


def parse_json(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object. Raises ArtifactError, naming `what`, for anything else."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{what} is no JSON ({error})") from error
    if not isinstance(found, dict):
        raise ArtifactError(f"{what}: expected a JSON object, got {type(found).__name__}")
    return found


def _stored(name: str, entry: Any, base: int, what: str) -> Stored:
    try:
        dtype, shape = NAMES[entry["dtype"]], tuple(entry["shape"])
        begin, end = entry["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{what}: the header entry of {name!r} is not understood") from error
    numbers = (*shape, begin, end)
    if not all(type(n) is int and n >= 0 for n in numbers) or len(shape) > 32:
        raise ArtifactError(f"{what}: {name!r} has shape {list(shape)} and bytes {begin} to {end}")
    tensor = Stored(dtype, shape, base + begin)
    if end - begin != tensor.nbytes:
        raise ArtifactError(
            f"{what}: {name!r} is {dtype}{list(shape)}, which has {tensor.nbytes:,} bytes, "
            f"not {end - begin:,}"
        )
    return tensor


def read_into(file: BinaryIO, tensor: Stored, out: Array) -> None:
    """Reads a tensor straight into `out`, a contiguous array of its dtype and shape."""
    if out.dtype != NUMPY[tensor.dtype] or out.shape != tensor.shape:
        raise ArtifactError(
            f"the file has {tensor.dtype}{list(tensor.shape)}, not {out.dtype}{list(out.shape)}"
        )
    if not out.size:
        return
    view = out.data.cast("B")
    file.seek(tensor.start)
    while len(view):
        count = file.readinto(view)  # type: ignore[attr-defined]
        if not count:
            raise ArtifactError("the file became shorter while it was read")
        view = view[count:]
