"""Every law of `pockengine.testing`, for every operator there is."""

import importlib
import pkgutil

import pytest

from pockengine import ops
from pockengine.ir.graph import Leaf
from pockengine.ir.op import Op
from pockengine.ops import OPS
from pockengine.ops.elementwise import StopGradient
from pockengine.testing import LAWS, Law, check_errors, samples_of

ACCEPT_ALL = {StopGradient}
OPERATORS = [op for op in OPS.values() if not issubclass(op, Leaf)]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("operator", OPERATORS, ids=lambda op: op.__name__)
def test_law(operator: type[Op], law: Law) -> None:
    for sample in samples_of(operator):
        law(sample)


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda op: op.__name__)
def test_described(operator: type[Op]) -> None:
    assert len(samples_of(operator)) >= 3
    own_words = operator.__doc__ and not operator.__doc__.startswith(f"{operator.__name__}(")
    assert own_words, "write the formula and the shapes"
    refuses = list(operator.errors())
    assert bool(refuses) != (operator in ACCEPT_ALL), "name an input that infer refuses"
    check_errors(operator)


def test_every_operator_is_listed() -> None:
    """OPS comes from a list of modules; this finds the one that somebody forgot."""
    for found in pkgutil.iter_modules(ops.__path__):
        module = importlib.import_module(f"pockengine.ops.{found.name}")
        for name, item in vars(module).items():
            if isinstance(item, type) and issubclass(item, Op) and item.ref is not Op.ref:
                assert OPS.get(name) is item, f"{name} of {module.__name__}"
