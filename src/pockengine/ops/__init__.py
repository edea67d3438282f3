"""All operators. `OPS` maps a class name, as it stands in a graph's text, to its operator."""

from types import ModuleType

from pockengine.ir import graph
from pockengine.ir.op import Op
from pockengine.ops import (
    activations,
    arithmetic,
    bits,
    compare,
    constant,
    conv,
    index,
    loss,
    matmul,
    norm,
    panels,
    pool,
    precision,
    random,
    reduce,
    resize,
    shape,
    softmax,
)

_MODULES: tuple[ModuleType, ...] = (
    graph,
    constant,
    shape,
    index,
    arithmetic,
    compare,
    activations,
    reduce,
    softmax,
    matmul,
    random,
    conv,
    pool,
    resize,
    norm,
    loss,
    bits,
    precision,
    panels,
)


def _operators(module: ModuleType) -> dict[str, type[Op]]:
    """The leaves, and the operators that a module defines; a class without `ref` is a base."""
    return {
        name: item
        for name, item in vars(module).items()
        if isinstance(item, type)
        and issubclass(item, Op)
        and item.__module__ == module.__name__
        and (item.ref is not Op.ref or (issubclass(item, graph.Leaf) and item is not graph.Leaf))
    }


OPS: dict[str, type[Op]] = {
    name: op for module in _MODULES for name, op in _operators(module).items()
}
