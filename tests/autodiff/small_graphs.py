"""Small graphs that the tests of autodiff share, with random weights."""

import numpy as np

from pockengine.ir.graph import Graph, Input, Param, leaf
from pockengine.ir.op import Value
from pockengine.ir.types import TensorType
from pockengine.ops.build import add, matmul, relu

Arrays = dict[str, np.ndarray]


def weight(data: Arrays, rng: np.random.Generator, name: str, *shape: int) -> Value:
    data[name] = (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)
    return leaf(Param, name, data[name])


def linear(data: Arrays, rng: np.random.Generator, x: Value, name: str, out: int) -> Value:
    w = weight(data, rng, f"{name}.weight", out, x.shape[-1])
    b = weight(data, rng, f"{name}.bias", out)
    return add(matmul(x, w, transpose_b=True), b)


def mlp(batch: int = 6, seed: int = 0) -> Graph:
    """fc1 -> relu -> fc2 with a skip -> relu -> fc3, f32[batch,5] -> f32[batch,3]."""
    rng = np.random.default_rng(seed)
    data: Arrays = {}
    x = leaf(Input, "x", TensorType("f32", (batch, 5)))
    h = relu(linear(data, rng, x, "fc1", 8))
    h = add(h, relu(linear(data, rng, h, "fc2", 8)))
    return Graph((x,), {"logits": linear(data, rng, h, "fc3", 3)}, {}, data)


def batch_of(graph: Graph, seed: int = 1) -> Arrays:
    """Random inputs and labels for `mlp`."""
    rng = np.random.default_rng(seed)
    n, features = graph.inputs[0].shape
    return {
        "x": rng.standard_normal((n, features)).astype(np.float32),
        "target": rng.integers(0, 3, n),
        "sample_weight": np.ones(n, np.float32),
        "lr": np.array(0.1, np.float32),
    }
