"""Products that read a weight in panels, for the compiled law."""

from collections.abc import Iterator

import numpy as np
from compiled import Case

from pockengine.ir.graph import Graph, Input, leaf
from pockengine.ir.op import Array, Value
from pockengine.ir.types import Shape
from pockengine.ops import build as b
from pockengine.ops.panels import FromPanels
from pockengine.panels import to_panels

# rows, K, N: of [K, N] in panels; some with as many weights as results
SIZES = ((1, 1, 1), (5, 7, 40), (7, 7, 16), (40, 33, 70), (3, 70, 33), (64, 16, 64))


def panel_cases(width: int) -> list[Case]:
    """a @ w and g @ wT on the same panels, alone, and with work behind them."""
    rng = np.random.default_rng(0)
    return [case for rows, k, n in SIZES for case in _cases(rng, rows, k, n, width)]


def _cases(rng: np.random.Generator, rows: int, k: int, n: int, width: int) -> Iterator[Case]:
    arrays = {
        "a": _normal(rng, (rows, k)),
        "g": _normal(rng, (rows, n)),
        "w": to_panels(_normal(rng, (k, n)), width),
        "bias": _normal(rng, (n,)),
    }
    a, g, w, bias = (leaf(Input, name, array) for name, array in arrays.items())
    matrix = b.reshape(FromPanels((1, k, n))(w), (k, n))
    y, x = b.matmul(a, matrix), b.matmul(g, matrix, transpose_b=True)
    outputs: dict[str, dict[str, Value]] = {
        "a @ w": {"y": y},
        "g @ wT": {"x": x},
        "with work behind": {"y": b.relu(b.add(y, bias)), "x": b.mul(x, a)},
        "read by others too": {"y": y, "sum": b.reduce_sum(matrix, (0,))},
    }
    for name, found in outputs.items():
        leaves = tuple(Graph((), found).leaves(Input).values())
        yield Case(f"{name}, {rows} rows of [{k}, {n}]", Graph(leaves, found), arrays)


def _normal(rng: np.random.Generator, shape: Shape) -> Array:
    return rng.standard_normal(shape).astype(np.float32)
