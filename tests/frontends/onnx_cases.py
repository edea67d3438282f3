"""Small ONNX graphs made by hand, and how to compare an import with ONNX Runtime."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from pockengine.frontends.onnx import import_onnx
from pockengine.ir.graph import Graph
from pockengine.ir.interpret import interpret
from pockengine.ir.rewrite import with_batch
from pockengine.ir.types import holds_batch

Array = np.ndarray[Any, Any]
_TYPES = {
    "float32": TensorProto.FLOAT,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
    "bool": TensorProto.BOOL,
}


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[str, Sequence[int | str]]],
    outputs: Sequence[str] = ("y",),
    weights: Mapping[str, Array] | None = None,
    opset: int = 17,
) -> onnx.ModelProto:
    """A model; inputs are given as {name: (dtype, shape)}."""
    graph = helper.make_graph(
        list(nodes),
        "case",
        [helper.make_tensor_value_info(n, _TYPES[t], s) for n, (t, s) in inputs.items()],
        [onnx.ValueInfoProto(name=n) for n in outputs],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in (weights or {}).items()],
    )
    inferred = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9
    )
    return onnx.shape_inference.infer_shapes(inferred)


def feeds_for(model: onnx.ModelProto, graph: Graph, batch: int, seed: int = 0) -> dict[str, Array]:
    """Random inputs; whole numbers are small and not negative."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for value in with_batch(graph, batch).inputs:
        name, shape = value.op.name, value.shape  # type: ignore[attr-defined]
        if value.type.is_float:
            feeds[name] = rng.standard_normal(shape).astype(np.float32)
        else:
            dtype = {"i64": np.int64, "i32": np.int32, "bool": np.bool_}[value.dtype]
            feeds[name] = rng.integers(0, 2, shape).astype(dtype)
    return feeds


def run_onnx(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def compare(
    model: onnx.ModelProto,
    batches: Sequence[int] = (1, 3),
    tolerance: float = 1e-5,
    dims: Mapping[str, int] | None = None,
) -> Graph:
    """Imports `model` and checks its outputs against ONNX Runtime's at each batch size."""
    graph = import_onnx(model, dims)
    free = any(holds_batch(*v.shape) for v in graph.inputs)
    for batch in batches if free else (1,):
        feeds = feeds_for(model, graph, batch)
        ours = interpret(with_batch(graph, batch), feeds).outputs
        for name, expected in run_onnx(model, feeds).items():
            assert_close(ours[name], expected, tolerance)
    return graph


def assert_close(ours: Array, expected: Array, tolerance: float) -> None:
    """Relative to the largest finite number; not-finite numbers must be the same."""
    assert ours.shape == expected.shape and ours.dtype == expected.dtype
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(ours[~finite], expected[~finite])
    ours, expected = ours[finite].astype(np.float64), expected[finite].astype(np.float64)
    if expected.size:
        scale = max(np.abs(expected).max(), 1e-6)
        assert np.abs(ours - expected).max() <= tolerance * scale
