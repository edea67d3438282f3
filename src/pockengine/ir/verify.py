"""Checks that a graph obeys the grammar of ir/graph.py. The pipeline calls it between stages."""

from pockengine.errors import GraphError
from pockengine.ir.graph import Graph, Input, Leaf
from pockengine.ir.op import Value
from pockengine.ir.types import holds_batch, type_of


def verify(graph: Graph, known: set[Value] | None = None) -> Graph:
    """Returns `graph` unchanged, or raises GraphError at the first value that breaks a rule.

    The types of the values in `known` were found right before; those of this graph join them.
    """
    leaves: dict[str, Value] = {}
    values = graph.values()
    for value in values if known is None else (v for v in values if v not in known):
        _check_type(value)
    for leaf in values:
        if isinstance(leaf.op, Leaf):
            _check_leaf(graph, leaf, leaf.op, leaves)
    if known is not None:
        known.update(values)
    for name, value in graph.updates.items():
        _check_update(name, value, leaves)
    return graph


def _check_type(value: Value) -> None:
    inferred = value.op.infer(*(v.type for v in value.inputs))
    if inferred != value.type:
        raise GraphError(f"{value.op} is typed {value.type} but infers {inferred}")


def _check_leaf(graph: Graph, value: Value, op: Leaf, leaves: dict[str, Value]) -> None:
    if leaves.setdefault(op.name, value) is not value:
        raise GraphError(f"two leaves are named {op.name!r}; a name must mean one tensor")
    if isinstance(op, Input):
        return
    if op.name not in graph.data:
        raise GraphError(f"{type(op).__name__} {op.name!r} has no data")
    came = type_of(graph.data[op.name])
    if came != op.type and not holds_batch(*op.type.shape):
        raise GraphError(f"{type(op).__name__} {op.name!r} is typed {op.type}, its data is {came}")


def _check_update(name: str, value: Value, leaves: dict[str, Value]) -> None:
    if name not in leaves:
        raise GraphError(f"an update is given for {name!r}, which is no leaf of the graph")
    if leaves[name].type != value.type:
        raise GraphError(f"the update of {name!r} is {value.type}, the leaf {leaves[name].type}")
