"""Computes nothing twice, and keeps no data that nobody reads.

    a = Exp(x); b = Exp(x); Add(a, b)   ->   a = Exp(x); Add(a, a)

What no output or update needs is gone by itself, because a graph is what its roots can reach.
"""

from pockengine.ir.graph import Graph, Leaf
from pockengine.ir.op import Value
from pockengine.ir.rewrite import transform


def prune(graph: Graph) -> Graph:
    """The graph with each value once, and the data of the leaves in use."""
    return drop_data(share(graph))


def share(graph: Graph) -> Graph:
    """One value for all of one operator and operands, in any order if the operator commutes."""
    seen: dict[tuple[str, tuple[int, ...]], Value] = {}

    def first(value: Value) -> Value:
        operands = [id(v) for v in value.inputs]
        key = tuple(sorted(operands) if value.op.commutative else operands)
        return seen.setdefault((str(value.op), key), value)  # as text, -0.0 is not 0.0

    return transform(graph, first)


def drop_data(graph: Graph) -> Graph:
    """The graph without the data of leaves that are not in use."""
    names = graph.leaves(Leaf)
    return graph.on_data({k: v for k, v in graph.data.items() if k in names})
