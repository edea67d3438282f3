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
    pool,
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
)


_BASES = {"Leaf", "Movement", "Pointwise", "Unary", "Binary", "Reduction"}


def _operators(module: ModuleType) -> dict[str, type[Op]]:
    """The operators that a module defines itself, bases aside."""
    return {
        name: item
        for name, item in vars(module).items()
        if isinstance(item, type)
        and issubclass(item, Op)
        and item.__module__ == module.__name__
        and not name.startswith("_")
        and name not in _BASES
    }


OPS: dict[str, type[Op]] = {
    name: op for module in _MODULES for name, op in _operators(module).items()
}
