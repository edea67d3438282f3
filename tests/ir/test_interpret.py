import numpy as np
import pytest

from pockengine.errors import InputError
from pockengine.ir.graph import Graph, Input, Param, State, leaf
from pockengine.ir.interpret import interpret
from pockengine.ir.types import TensorType
from pockengine.ops.build import add, log, mul, reduce_sum

F2 = TensorType("f32", (2,))
X, W, S = leaf(Input, "x", F2), leaf(Param, "w", F2), leaf(State, "s", F2)
ONES, TWOS = np.ones(2, np.float32), np.full(2, 2, np.float32)


def test_outputs_and_updates() -> None:
    graph = Graph((X,), {"y": reduce_sum(mul(X, W))}, {"s": add(S, X)}, {"w": TWOS, "s": ONES})
    result = interpret(graph, {"x": TWOS})
    assert result.outputs["y"] == 8 and result.outputs["y"].dtype == np.float32
    np.testing.assert_array_equal(result.updates["s"], [3, 3])


def test_given_arrays_replace_data() -> None:
    graph = Graph((), {"y": add(W, 0.0)}, {}, {"w": ONES})
    np.testing.assert_array_equal(interpret(graph, {"w": TWOS}).outputs["y"], TWOS)


def test_infinities_are_results() -> None:
    y = interpret(Graph((X,), {"y": log(X)}), {"x": np.array([0.0, -1.0], np.float32)}).outputs["y"]
    assert y[0] == -np.inf and np.isnan(y[1])


@pytest.mark.parametrize(
    ("arrays", "came"),
    [({}, "got nothing"), ({"x": np.zeros(3, np.float32)}, r"got shape \(3,\)")],
)
def test_a_missing_or_wrong_input(arrays: dict[str, np.ndarray], came: str) -> None:
    with pytest.raises(InputError, match=r"Input 'x' expects f32\[2\], " + came):
        interpret(Graph((X,), {"y": X}), arrays)
