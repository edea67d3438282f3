import numpy as np
import pytest

from pockengine.errors import GraphError
from pockengine.ir.graph import Graph, Input, Param, leaf
from pockengine.ir.op import Value
from pockengine.ir.types import BATCH, TensorType
from pockengine.ir.verify import verify
from pockengine.ops.build import neg
from pockengine.ops.elementwise import Neg

F2 = TensorType("f32", (2,))
X = leaf(Input, "x", F2)
W = leaf(Param, "w", F2)
DATA = {"w": np.zeros(2, np.float32)}


def test_a_good_graph_comes_back() -> None:
    graph = Graph((X,), {"y": neg(X)}, {"w": neg(W)}, DATA)
    assert verify(graph) is graph


def test_data_of_the_symbolic_batch_is_not_compared() -> None:
    w = leaf(Param, "w", TensorType("f32", (BATCH,)))
    verify(Graph((), {"y": w}, {}, DATA))


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (
            Graph((X,), {"y": Value(Neg(), (X,), F2.with_shape(3))}),
            "Neg() is typed f32[3] but infers f32[2]",
        ),
        (Graph((X, leaf(Input, "x", F2)), {}), "two leaves are named 'x'"),
        (Graph((), {"y": W}), "Param 'w' has no data"),
        (
            Graph((), {"y": W}, {}, {"w": np.zeros(3, np.float32)}),
            "is typed f32[2], its data is f32[3]",
        ),
        (Graph((X,), {}, {"v": X}), "an update is given for 'v', which is no leaf"),
        (
            Graph((X, leaf(Input, "z", F2.with_shape(1))), {}, {"z": X}),
            "the update of 'z' is f32[2], the leaf f32[1]",
        ),
    ],
)
def test_what_is_refused(graph: Graph, message: str) -> None:
    with pytest.raises(GraphError) as error:
        verify(graph)
    assert message in str(error.value)
