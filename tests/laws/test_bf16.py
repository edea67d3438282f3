"""The compiled law for products of bf16: panels, dot products, blocks, odd sizes."""

from collections.abc import Iterator

import numpy as np
import pytest
from compiled import Case, check_cases
from machines import Machine, machine

from pockengine.ir.graph import Const, Graph, Input, leaf
from pockengine.ir.op import Value
from pockengine.ir.types import TensorType
from pockengine.ops.conv import Conv, ConvInputGrad
from pockengine.ops.matmul import MatMul
from pockengine.ops.panels import FromPanels
from pockengine.ops.precision import ToBF16, to_bf16
from pockengine.panels import to_panels
from pockengine.passes.fold import constant_name

# rows, K, columns
SHAPES = [
    *((rows, 33, 100) for rows in (1, 2, 5, 13, 16, 29)),
    *((1, 1, 1), (1, 5, 1), (3, 1, 130), (2, 40, 3), (64, 1300, 40), (100, 641, 70), (300, 20, 9)),
]
NAMES = ("avx512-bf16", "avx512", "avx2")


@pytest.fixture(params=NAMES)
def on(request: pytest.FixtureRequest) -> Machine:
    found = machine(request.param)
    return found if isinstance(found, Machine) else pytest.skip(found)


def cases(width: int) -> Iterator[Case]:
    """a @ w and a @ wT from the panels of w, a in f32 and rounded to bf16."""
    rng = np.random.default_rng(0)
    for rows, inner, columns in SHAPES:
        a = rng.standard_normal((rows, inner)).astype(np.float32)
        for transposed in (False, True):
            shape = (columns, inner) if transposed else (inner, columns)
            panels = to_panels(to_bf16(rng.standard_normal(shape)), width)
            x = leaf(Input, "x", a)
            weight = constant_name(panels)
            w = FromPanels(shape)(leaf(Const, weight, panels))
            for operand in (x, ToBF16()(x)):
                product = MatMul(False, transposed)(operand, w)
                name = f"{operand.type} @ {shape}, transposed {transposed}"
                yield Case(name, Graph((x,), {"y": product}, {}, {weight: panels}), {"x": a})


def mixed() -> Iterator[Case]:
    """aT @ b with operands in bf16, larger than a block in each dimension."""
    rng = np.random.default_rng(1)
    for inner, rows, columns in ((600, 300, 40), (40, 7, 300), (257, 270, 260), (1, 1, 1)):
        arrays = {
            "a": rng.standard_normal((inner, rows)).astype(np.float32),
            "b": rng.standard_normal((inner, columns)).astype(np.float32),
        }
        inputs = {n: leaf(Input, n, TensorType("f32", v.shape)) for n, v in arrays.items()}
        for narrow in ("a", "b", "ab"):
            a, b = (_rounded(v, n in narrow) for n, v in inputs.items())
            graph = Graph(tuple(inputs.values()), {"y": MatMul(True, False)(a, b)})
            yield Case(f"{narrow} of {inner}, {rows}, {columns}", graph, arrays)


def _rounded(x: Value, yes: bool) -> Value:
    return ToBF16()(x) if yes else x


def test_panels(on: Machine) -> None:
    check_cases(list(cases(on.target.nr)), on)


def test_mixed(on: Machine) -> None:
    check_cases(list(mixed()), on)


def convolutions() -> Iterator[Case]:
    """3x3 convolutions and their input gradients, as wide as Winograd's tiles want and odder."""
    rng = np.random.default_rng(2)
    conv = Conv((1, 1), ((1, 1), (1, 1)), (1, 1), 1, True)
    for size, inputs, outputs in (((9, 7), 40, 37), ((8, 8), 64, 48)):
        w = to_bf16(rng.standard_normal((3, 3, inputs, outputs)) / np.sqrt(9 * inputs))
        x = rng.standard_normal((2, *size, inputs)).astype(np.float32)
        y = rng.standard_normal((2, *size, outputs)).astype(np.float32)
        weight = leaf(Const, constant_name(w), w)
        for op, a in ((conv, x), (conv._sibling(ConvInputGrad, size=size), y)):
            given = leaf(Input, "a", a)
            graph = Graph((given,), {"out": op(given, weight)}, {}, {weight.op.name: w})
            yield Case(f"{op} of {inputs} to {outputs}", graph, {"a": a})


def test_convolutions(on: Machine) -> None:
    check_cases(list(convolutions()), on)
