"""The way back to ONNX: the file that a model came from, with its tuned weights in place."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx

from pockengine.errors import InputError
from pockengine.files import write_atomically
from pockengine.frontends.onnx_read import (
    PROTOBUF_LIMIT,
    ModelSource,
    element_dtype,
    read_model,
    with_internal_data,
)
from pockengine.ir.op import Array
from pockengine.ir.types import NUMPY

_NUMBERS = (  # the fields of a TensorProto that hold its numbers, or say where they are
    "dims",
    "float_data",
    "int32_data",
    "int64_data",
    "double_data",
    "uint64_data",
    "raw_data",
    "external_data",
    "data_location",
)


def write_back(source: ModelSource, state_dict: Mapping[str, Array], path: str | Path) -> None:
    """Writes `source` to `path` with the tensors that `state_dict` names replaced; all else stays.

    Every name must be an initializer of the model, the output of a Constant, or that of an Identity
    of an initializer (which then gets a tensor of its own), with the same shape and element type;
    f32 is rounded where the model keeps half precision. Data kept outside the source file is taken
    into the new one. The file appears whole or not at all.
    Raises InputError for a name, shape or element type that does not fit.
    """
    original, folder = read_model(source)
    model = onnx.ModelProto()
    model.CopyFrom(original)
    _separate(model, set(state_dict))
    tensors = dict(_tensors(model))
    unknown = sorted(set(state_dict) - set(tensors))
    if unknown:
        raise InputError(
            f"the ONNX model has no tensors named {', '.join(map(repr, unknown))}; "
            "give the model that was imported"
        )
    for name, tensor in tensors.items():
        if name in state_dict:
            _replace(tensor, name, np.asarray(state_dict[name]))
        elif tensor.data_location == onnx.TensorProto.EXTERNAL:
            tensor.CopyFrom(with_internal_data(tensor, folder))
    write_atomically(Path(path), _serialized(model))


def _tensors(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    for tensor in model.graph.initializer:
        yield tensor.name, tensor
    for node in model.graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    yield node.output[0], attribute.t


def _separate(model: onnx.ModelProto, names: set[str]) -> None:
    """Gives each of `names` that is an Identity of an initializer a copy of that initializer."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in list(model.graph.node):
        if node.op_type == "Identity" and node.input[0] in stored and node.output[0] in names:
            model.graph.node.remove(node)
            model.graph.initializer.add().CopyFrom(stored[node.input[0]])
            model.graph.initializer[-1].name = node.output[0]


def _replace(tensor: onnx.TensorProto, name: str, array: Array) -> None:
    shape, dtype = tuple(tensor.dims), element_dtype(tensor.data_type, f"tensor {name!r}")
    if array.shape != shape or array.dtype != NUMPY[dtype]:
        raise InputError(
            f"tensor {name!r} of the ONNX model is {dtype}{list(shape)}, "
            f"got {array.dtype}{list(array.shape)}"
        )
    stored = array.astype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    fresh = onnx.numpy_helper.from_array(stored, tensor.name)
    for field in _NUMBERS:
        tensor.ClearField(field)
    tensor.MergeFrom(fresh)


def _serialized(model: onnx.ModelProto) -> bytes:
    if model.ByteSize() >= PROTOBUF_LIMIT:
        raise InputError(
            f"the tuned model takes {model.ByteSize()} bytes, an ONNX file holds at most 2 GiB"
        )
    return bytes(model.SerializeToString())
