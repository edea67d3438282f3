"""Kernels whose rows only an optimizer step reads: a block of them at a time, for the compiled law.

Rows are so many that every thread has several blocks, and the last one ends in the middle.
"""

from collections.abc import Iterator

import numpy as np
from compiled import Case

from pockengine.ir.graph import Graph, Input, Param, State, leaf
from pockengine.ir.op import Array, Value
from pockengine.ir.verify import verify
from pockengine.ops import build as b
from pockengine.ops.conv import ConvWeightGrad
from pockengine.ops.index import ScatterAdd

# depth, rows, columns: shallow, deep, of which there are copies that are added up
WEIGHTS = ((1, 67, 9), (7, 131, 37), (70, 1999, 5), (4099, 67, 5))
# rows, K, N: few, shared by columns, packed
PRODUCTS = ((7, 5, 50), (21, 9, 70), (131, 8, 19))
# channels in and out, stride: gathered, by Winograd
CONVOLUTIONS = ((3, 5, 2), (300, 5, 2), (12, 17, 1))


def update_cases() -> list[Case]:
    rng = np.random.default_rng(0)
    return [case for name, g, arrays in _gradients(rng) for case in _cases(rng, name, g, arrays)]


def _gradients(rng: np.random.Generator) -> Iterator[tuple[str, Value, dict[str, Array]]]:
    """What a kernel computes, and the contents of its operands."""
    for depth, rows, columns in WEIGHTS:
        x, arrays = _operands(_normal(rng, depth, rows), _normal(rng, depth, columns))
        yield f"aT @ b, depth {depth}", b.matmul(*x, transpose_a=True), arrays
    for rows, depth, columns in PRODUCTS:
        x, arrays = _operands(_normal(rng, rows, depth), _normal(rng, columns, depth))
        yield f"a @ bT, {rows} rows", b.matmul(*x, transpose_b=True), arrays
    for c, o, stride in CONVOLUTIONS:
        op = ConvWeightGrad((stride,) * 2, ((1, 1),) * 2, (1, 1), 1, True, (3, 3))
        size = -(-9 // stride)
        x, arrays = _operands(_normal(rng, 2, 9, 9, c), _normal(rng, 2, size, size, o))
        yield f"dw, {c} to {o} channels", op(*x), arrays
    for axis, shape in ((0, (40, 7)), (1, (3, 40, 7))):
        x, arrays = _operands(rng.integers(0, 67, 40), _normal(rng, *shape))
        yield f"rows of a table, axis {axis}", ScatterAdd(axis, 67)(*x), arrays


def _cases(
    rng: np.random.Generator, name: str, g: Value, arrays: dict[str, Array]
) -> Iterator[Case]:
    names = f"p of {name}", f"m of {name}"  # all cases share their leaves, by name
    data = {leaf_name: _normal(rng, *g.shape) for leaf_name in names}
    p, m = leaf(Param, names[0], g.type), leaf(State, names[1], g.type)
    momentum = b.add(b.mul(m, 0.9), g)
    updates = {
        "sgd": {names[0]: b.sub(p, b.mul(g, 0.1))},
        "momentum": {names[1]: momentum, names[0]: b.sub(p, b.mul(momentum, 0.1))},
        "sum": {names[1]: b.add(m, g)},
    }
    for kind, found in updates.items():
        inputs = tuple(Graph((), {}, found).leaves(Input).values())
        changed = {n: data[n] for n in Graph((), {}, found).leaves() if n in data}
        graph = verify(Graph(inputs, {}, found, changed))
        yield Case(f"{kind} behind {name}", graph, arrays | changed)


def _operands(*arrays: Array) -> tuple[list[Value], dict[str, Array]]:
    named = {f"x{i}": array for i, array in enumerate(arrays)}
    return [leaf(Input, name, array) for name, array in named.items()], named


def _normal(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)
