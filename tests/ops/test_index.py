import numpy as np
import pytest

from pockengine.errors import InputError
from pockengine.ir.op import Op
from pockengine.ops.shape import Gather, GatherElements, ScatterAdd, ScatterAddElements

X = np.zeros((3, 2))


@pytest.mark.parametrize("wrong", [3, -1])
@pytest.mark.parametrize("op", [Gather(0), GatherElements(0)], ids=str)
def test_reading_out_of_range(op: Op, wrong: int) -> None:
    idx = np.array([[0, 1], [wrong, 2]])
    with pytest.raises(InputError, match=rf"{type(op).__name__} expects .* \[0, 3\), got {wrong}"):
        op.ref(X, idx)


@pytest.mark.parametrize("op", [ScatterAdd(0, 3), ScatterAddElements(0, 3)], ids=str)
def test_adding_out_of_range(op: Op) -> None:
    idx = np.array([[0, 1], [7, 2]])
    with pytest.raises(InputError, match=r"expects indices in \[0, 3\), got 7"):
        op.ref(idx, np.zeros((2, 2)))


def test_repeated_indices_add_up() -> None:
    came = ScatterAdd(0, 3).ref(np.array([1, 1, 0]), np.array([1.0, 2.0, 4.0]))
    np.testing.assert_array_equal(came, [4, 3, 0])
