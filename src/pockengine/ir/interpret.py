"""Runs a graph by calling each operator's `ref`: the oracle that back ends are compared with."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pockengine.errors import InputError
from pockengine.ir.graph import Graph, Leaf
from pockengine.ir.op import Array, Value
from pockengine.ir.types import NUMPY


@dataclass(frozen=True)
class Result:
    """What one evaluation gives: the outputs, and the new contents of updated leaves, by name."""

    outputs: dict[str, Array]
    updates: dict[str, Array]


def interpret(graph: Graph, arrays: Mapping[str, Array]) -> Result:
    """Evaluates `graph`; `arrays` gives its inputs, and replaces any of its data, by leaf name.

    Raises InputError when a leaf has no array or one of another shape.
    """
    env: dict[Value, Array] = {}
    for value in graph.values():
        if isinstance(value.op, Leaf):
            env[value] = _leaf_array(graph, value.op, arrays)
        else:
            with np.errstate(all="ignore"):  # infinities and NaN are results, as in native code
                result = value.op.ref(*(env[v] for v in value.inputs))
            env[value] = np.asarray(result, NUMPY[value.dtype])
    return Result(
        {name: env[v] for name, v in graph.outputs.items()},
        {name: env[v] for name, v in graph.updates.items()},
    )


def _leaf_array(graph: Graph, op: Leaf, arrays: Mapping[str, Array]) -> Array:
    array = arrays.get(op.name, graph.data.get(op.name))
    if array is None or array.shape != op.type.shape:
        came = "nothing" if array is None else f"shape {array.shape}"
        raise InputError(f"{type(op).__name__} {op.name!r} expects {op.type}, got {came}")
    return array
