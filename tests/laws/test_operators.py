"""Every law of `pockengine.testing`, for every operator there is."""

import pytest

from pockengine.ir.graph import Leaf
from pockengine.ir.op import Op
from pockengine.ops import OPS
from pockengine.testing import LAWS, Law, check_errors, samples_of

OPERATORS = [op for op in OPS.values() if not issubclass(op, Leaf)]
NEVER_WRONG: set[str] = set()  # operators that accept any input


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("operator", OPERATORS, ids=lambda op: op.__name__)
def test_law(operator: type[Op], law: Law) -> None:
    for sample in samples_of(operator):
        law(sample)


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda op: op.__name__)
def test_described(operator: type[Op]) -> None:
    assert len(samples_of(operator)) >= 3
    assert operator.__doc__ and not operator.__doc__.startswith(f"{operator.__name__}(")
    assert list(operator.errors()) or operator.__name__ in NEVER_WRONG
    check_errors(operator)
