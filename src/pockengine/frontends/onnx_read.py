"""Reads ONNX files: bytes -> a checked ModelProto, and its tensors as NumPy arrays.

Nothing in a file is trusted: a tensor kept outside the file must lie in the model's own directory
and hold exactly the bytes that its shape says.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from google.protobuf.message import DecodeError

from pockengine.errors import ImportModelError
from pockengine.ir.op import Array
from pockengine.ir.types import NUMPY, DType

ModelSource = str | Path | bytes | onnx.ModelProto

OLDEST_OPSET = 13
PROTOBUF_LIMIT = 2**31
_UNCHECKED = ("If", "GroupNormalization")  # the checker wants a whole graph; refuses opset 18
_WIDENED = {  # element types that the IR does not have, and what they are read as
    "float16": "f32",
    "bfloat16": "f32",
    "int8": "i32",
    "int16": "i32",
    "uint16": "i32",
    "uint32": "i64",
    "uint64": "i64",
    "int4": "i32",
    "uint4": "i32",
}


def read_model(source: ModelSource) -> tuple[onnx.ModelProto, Path | None]:
    """The model and the directory that its external data must lie in (None: it has no file).

    Raises ImportModelError when `source` cannot be read, is no ONNX model, or has an opset that is
    not supported. Operators are not looked at.
    """
    if isinstance(source, onnx.ModelProto):
        model, folder, name = source, None, "the model given"
    else:
        data, folder, name = _read_bytes(source)
        model = _parse(data, name)
    _check_opset(model, name)
    if model.graph.sparse_initializer:
        raise ImportModelError(f"{name} has sparse initializers; export it with dense weights")
    return model, folder


def specification(model: onnx.ModelProto) -> onnx.checker.C.CheckerContext:
    """What `check_node` compares the model's nodes with."""
    context = onnx.checker.C.CheckerContext()
    context.ir_version = model.ir_version
    context.opset_imports = {o.domain: o.version for o in model.opset_import}
    return context


def check_node(node: onnx.NodeProto, context: onnx.checker.C.CheckerContext) -> None:
    """Raises ImportModelError when a node breaks the specification: the file was damaged."""
    if node.op_type in _UNCHECKED:
        return
    try:
        onnx.checker.check_node(node, context)
    except onnx.checker.ValidationError as error:
        raise ImportModelError(
            f"{first_line(error)}; the file is damaged or was altered, export it again"
        ) from error


def inline_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with calls of its local functions replaced by their bodies."""
    if not model.functions:
        return model
    try:
        inlined: onnx.ModelProto = onnx.inliner.inline_local_functions(model)
    except (RuntimeError, ValueError) as error:
        raise ImportModelError(
            f"the local functions of the ONNX file cannot be inlined: {first_line(error)}"
        ) from error
    return inlined


def tensor_array(tensor: onnx.TensorProto, folder: Path | None) -> Array:
    """The numbers of a tensor, in an element type of the IR (float16 is widened to f32).

    Raises ImportModelError when its data is missing, of the wrong length, or outside `folder`.
    """
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        tensor = with_internal_data(tensor, folder)
    try:
        array = onnx.numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError) as error:
        raise ImportModelError(
            f"tensor {tensor.name!r} of shape {tuple(tensor.dims)} cannot be read: "
            f"{first_line(error)}; the file is damaged or was altered"
        ) from error
    return array.astype(NUMPY[ir_dtype(array.dtype.name, f"tensor {tensor.name!r}")], copy=False)


def ir_dtype(numpy_name: str, where: str) -> DType:
    """The IR's element type for one of NumPy's; half precision is widened to f32."""
    for dtype, numpy_type in NUMPY.items():
        if numpy_type.name == numpy_name:
            return dtype
    if numpy_name in _WIDENED:
        return _WIDENED[numpy_name]
    raise ImportModelError(f"{where} has element type {numpy_name}, which is not supported")


def element_dtype(elem_type: int, where: str) -> DType:
    """The IR's element type for an ONNX `TensorProto.DataType`."""
    try:
        name = onnx.helper.tensor_dtype_to_np_dtype(elem_type).name
    except KeyError:
        raise ImportModelError(f"{where} has the unknown element type {elem_type}") from None
    return ir_dtype(name, where)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, for a message of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(" .")


def _read_bytes(source: str | Path | bytes) -> tuple[bytes, Path | None, str]:
    if isinstance(source, bytes):
        return source, None, "the bytes given"
    path = Path(source)
    try:
        return path.read_bytes(), path.resolve().parent, str(path)
    except OSError as error:
        raise ImportModelError(f"cannot read {path}: {error.strerror or error}") from error


def _parse(data: bytes, name: str) -> onnx.ModelProto:
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        raise ImportModelError(
            f"{name} is not an ONNX model, or it is truncated or altered ({len(data)} bytes); "
            "export or copy it again"
        ) from error
    if not model.HasField("graph") or not model.opset_import:
        raise ImportModelError(
            f"{name} is not an ONNX model: it has no graph or no opset ({len(data)} bytes)"
        )
    return model


def _check_opset(model: onnx.ModelProto, name: str) -> None:
    newest = onnx.defs.onnx_opset_version()
    came = opset_of(model)
    if not OLDEST_OPSET <= came <= newest:
        raise ImportModelError(
            f"{name} uses ONNX opset {came}; expected {OLDEST_OPSET} to {newest}. Export it again "
            f"with opset_version=17, or convert it with onnx.version_converter"
        )


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the standard operators that the model uses."""
    standard = (o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    return next(standard, onnx.defs.onnx_opset_version())


def with_internal_data(tensor: onnx.TensorProto, folder: Path | None) -> onnx.TensorProto:
    """A tensor kept in a file of its own, with its bytes inside. Raises ImportModelError."""
    where = {entry.key: entry.value for entry in tensor.external_data}
    path = _external_path(tensor.name, where.get("location", ""), folder)
    offset, length = _number(tensor.name, where, "offset"), _number(tensor.name, where, "length")
    size = path.stat().st_size
    length = length if "length" in where else size - offset
    if offset + length > size or length < 0:
        raise ImportModelError(
            f"tensor {tensor.name!r} needs bytes {offset} to {offset + length} of {path.name}, "
            f"which has {size}; the data file is truncated"
        )
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(length)
    loaded = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    loaded.raw_data = data
    return loaded


def _external_path(name: str, location: str, folder: Path | None) -> Path:
    if folder is None:
        raise ImportModelError(
            f"tensor {name!r} is kept in the file {location!r}; give the path of the model instead "
            "of its bytes, so that it can be found"
        )
    path = (folder / location).resolve()
    if not location or not path.is_relative_to(folder):
        raise ImportModelError(
            f"tensor {name!r} is kept in {location!r}, outside the model's directory; "
            "external data must lie beside the model"
        )
    if not path.is_file():
        raise ImportModelError(
            f"tensor {name!r} is kept in {location!r}, which is not beside the model in {folder}; "
            "copy it there"
        )
    return path


def _number(name: str, where: dict[str, str], key: str) -> int:
    text = where.get(key, "0")
    if not text.isdecimal():
        raise ImportModelError(f"tensor {name!r} has the {key} {text!r}; expected a number")
    return int(text)


def as_array(value: Any) -> Array:
    """A NumPy array of an IR element type from Python numbers (int -> i64, float -> f32)."""
    array = np.asarray(value)
    if array.dtype == np.float64 and not isinstance(value, np.ndarray | np.generic):
        return array.astype(np.float32)
    return array
