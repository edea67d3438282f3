"""Every operator, compiled: its samples and their gradients compute what `ref` computes."""

from collections import defaultdict
from importlib import import_module

import pytest
from compiled import Case, cases_of, check_cases, refusal
from epilogues import epilogue_cases
from machines import Machine, machine
from random_graphs import random_case

from pockengine.ir.graph import Leaf
from pockengine.ir.op import Op
from pockengine.ops import OPS

pytestmark = pytest.mark.timeout(900)
UNITS, GRAPHS = 4, 30  # of random graphs

# What the C back end refuses, and rightly: other precisions, volumes, and gradients that autodiff
# does not make, because the layout is chosen before it.
REFUSED = (
    "the C back end computes in float32",
    "the C back end convolves over 1 or 2 spatial dims",
    "the C back end convolves channels-last tensors, got ConvWeightGrad(",
    "the C back end pools channels-last over 1 or 2 dims, got MaxPoolGrad(",
    "the C back end pools channels-last over 1 or 2 dims, got AvgPoolGrad(",
    "the C back end pools channels-last over 1 or 2 dims, got AdaptiveAvgPoolGrad(",
    "the C back end pools channels-last over 1 or 2 dims, got AdaptiveMaxPoolGrad(",
    "the C back end resizes channels-last over 1 or 2 dims, got ResizeGrad(",
)


def _by_module() -> dict[str, list[type[Op]]]:
    """Operators of one file are compiled together."""
    found: dict[str, list[type[Op]]] = defaultdict(list)
    for operator in OPS.values():
        if not issubclass(operator, Leaf):
            found[operator.__module__.rpartition(".")[2]].append(operator)
    return found


MODULES = _by_module()


@pytest.fixture(scope="session")
def on(request: pytest.FixtureRequest) -> Machine:
    """The machine named by --target; no test runs where it cannot be had."""
    found = machine(request.config.getoption("--target", default="host"))
    return found if isinstance(found, Machine) else pytest.skip(found)


@pytest.fixture(autouse=True)
def threads_for_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tensors are split over threads too."""
    monkeypatch.setattr(import_module("pockengine.backends.c.emit"), "SERIAL", 0)


@pytest.mark.parametrize("module", MODULES)
def test_operators(module: str, on: Machine) -> None:
    cases = [case for operator in MODULES[module] for case in cases_of(operator)]
    check_cases([case for case in cases if not _refused(case, on)], on)


def _refused(case: Case, on: Machine) -> bool:
    """Whether C refuses the case, for a good reason."""
    text = refusal(case, on.target)
    assert not text or text.startswith(REFUSED), f"{case.name}: {text}"
    return bool(text)


def test_behind_kernels(on: Machine) -> None:
    check_cases(epilogue_cases(), on)


@pytest.mark.parametrize("unit", range(UNITS))
def test_random_graphs(unit: int, on: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fusion puts together, in blocks so small that every thread has several."""
    monkeypatch.setattr(import_module("pockengine.backends.c.call"), "BLOCK", 64)
    monkeypatch.setattr(import_module("pockengine.backends.c.loops"), "CHUNK", 64)
    check_cases([random_case(unit * GRAPHS + i) for i in range(GRAPHS)], on)
