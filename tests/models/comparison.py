"""The numbers of a PyTorch model beside those of its import."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from pockengine.ir.graph import Graph
from pockengine.ir.interpret import interpret
from pockengine.ir.op import Array
from pockengine.ir.rewrite import with_batch

Inputs = tuple[Tensor, ...] | dict[str, Tensor]


def call(model: nn.Module, inputs: Inputs) -> Tensor:
    """The model's class scores."""
    result = model(**inputs) if isinstance(inputs, dict) else model(*inputs)
    return result if isinstance(result, Tensor) else result.logits


def arrays(graph: Graph, inputs: Inputs) -> dict[str, Array]:
    """The inputs under the names that the graph gives them."""
    if isinstance(inputs, Mapping):
        return {name: x.numpy() for name, x in inputs.items()}
    return {v.op.name: x.numpy() for v, x in zip(graph.inputs, inputs, strict=True)}


def scores(graph: Graph, inputs: Inputs, batch: int) -> Array:
    """The import's first output, by the reference interpreter."""
    outputs = interpret(with_batch(graph, batch), arrays(graph, inputs)).outputs
    return outputs.get("logits", next(iter(outputs.values())))


def relative(got: Array, wanted: Array) -> float:
    """L2 distance over the L2 norm of what is wanted."""
    norm = float(np.linalg.norm(wanted.astype(np.float64)))
    return float(np.linalg.norm(got.astype(np.float64) - wanted)) / max(norm, 1e-30)


def torch_scores(model: nn.Module, inputs: Inputs) -> Array:
    """The model's own class scores, leaving its running statistics as they were."""
    kept = {name: t.clone() for name, t in model.state_dict().items()}
    with torch.no_grad():
        result = call(model, inputs).numpy()
    model.load_state_dict(kept)
    return result
