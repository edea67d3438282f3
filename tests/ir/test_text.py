import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pockengine.errors import GraphError
from pockengine.ir.graph import Graph, Input, Param, leaf
from pockengine.ir.text import parse_graph, print_graph
from pockengine.ir.types import BATCH, TensorType
from pockengine.ops import OPS
from pockengine.ops.build import add, clip, full, matmul, reshape
from pockengine.ops.elementwise import Relu

NAMES = st.text("abcXYZ019_.:/-[] '\"\\\n", min_size=1)


def test_the_text() -> None:
    x = leaf(Input, "x", TensorType("f32", (BATCH, 4)))
    w = leaf(Param, "fc.weight", TensorType("f32", (3, 4)))
    y = Relu()(matmul(x, w, transpose_b=True), source="fc")
    assert print_graph(Graph((x,), {"logits": y}, {"fc.weight": w})) == (
        "graph {\n"
        "  %0 = Input(name='x') : f32[N,4]\n"
        "  %1 = Param(name='fc.weight') : f32[3,4]\n"
        "  %2 = MatMul(transpose_a=False, transpose_b=True)(%0, %1) : f32[N,3]\n"
        "  %3 = Relu()(%2) : f32[N,3]  # fc\n"
        "  input %0\n"
        "  output logits = %3\n"
        "  update fc.weight = %1\n"
        "}\n"
    )


def chain(name: str, operators: list[int]) -> Graph:
    x = leaf(Input, name, TensorType("f64", (2, 3)))
    y = x
    for choice in operators:
        y = [
            lambda v: add(v, -math.inf),
            lambda v: clip(v, None, 0.1),
            lambda v: add(v, full((1, 3), "f64", math.nan)),
            lambda v: reshape(reshape(v, (6,)), (2, 3)),
            lambda v: Relu()(v, source="layer.0 (file.py:3)"),
        ][choice](y)
    return Graph((x,), {"y": y}, {name: y} if "\n" not in name else {})


@given(NAMES, st.lists(st.integers(0, 4), max_size=6))
def test_round_trip(name: str, operators: list[int]) -> None:
    text = print_graph(chain(name, operators))
    again = parse_graph(text, OPS)
    assert print_graph(again) == text
    assert [v.op.name for v in again.inputs] == [name]  # type: ignore[attr-defined]


def test_data_comes_along() -> None:
    w = leaf(Param, "w", TensorType("f32", (1,)))
    data = {"w": np.ones(1, np.float32)}
    assert parse_graph(print_graph(Graph((), {"y": w})), OPS, data).data == data


@pytest.mark.parametrize(
    "line",
    [
        "%1 = Nothing()(%0) : f32[2]",
        "%1 = Relu()(%7) : f32[2]",
        "%1 = Relu()(%0) : f16[2]",
        "%1 = Relu(slope=1)(%0) : f32[2]",
        "%1 = Relu(",
        "output y = %9",
        "%1 = Clip(low=__import__('os'), high=None)(%0) : f32[2]",
    ],
)
def test_a_line_that_cannot_be_read(line: str) -> None:
    text = f"graph {{\n  %0 = Input(name='x') : f32[2]\n  {line}\n}}\n"
    with pytest.raises(GraphError, match="cannot read this line of a graph: ") as error:
        parse_graph(text, OPS)
    assert repr(line) in str(error.value)
