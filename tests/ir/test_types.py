import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pockengine.ir.types import BATCH, NUMPY, TensorType, dtype_of, type_of

TYPES = st.builds(
    TensorType,
    st.sampled_from(sorted(NUMPY)),
    st.lists(st.integers(0, 3000) | st.integers(1, 5).map(lambda k: k * BATCH)).map(tuple),
)


@given(TYPES)
def test_printing_and_parsing(type_: TensorType) -> None:
    assert TensorType.parse(str(type_)) == type_


def test_the_batch_prints_as_a_symbol() -> None:
    assert str(TensorType("f32", (BATCH, 3, 2 * BATCH, 0))) == "f32[N,3,2N,0]"


@pytest.mark.parametrize("text", ["f16[2]", "f32", "f32[2;3]", "f32[M]", ""])
def test_what_is_no_type(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected a tensor type such as f32\[8,3\], got "):
        TensorType.parse(text)


def test_sizes() -> None:
    assert TensorType("i64", (2, 3)).nbytes == 48
    assert TensorType("f32", ()).size == 1


def test_arrays() -> None:
    assert type_of(np.zeros((2, 1), np.uint8)) == TensorType("u8", (2, 1))
    with pytest.raises(TypeError, match="got dtype complex128; convert it"):
        dtype_of(np.zeros(1, complex))
