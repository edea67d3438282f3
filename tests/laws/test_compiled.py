"""Every operator, compiled: its samples and their gradients compute what `ref` computes."""

from collections import defaultdict
from dataclasses import dataclass
from importlib import import_module
from typing import ClassVar

import pytest
from column_sums import sum_cases
from compiled import Case, cases_in, cases_of, check_cases, refusal
from epilogues import epilogue_cases
from machines import Machine, machine
from panel_cases import panel_cases
from random_graphs import random_case
from update_cases import update_cases

from pockengine.ir.graph import Graph, Input, Leaf, leaf
from pockengine.ir.op import Op
from pockengine.ir.types import TensorType
from pockengine.ops import OPS
from pockengine.ops.arithmetic import Cast
from pockengine.ops.conv import Conv
from pockengine.target import Target

pytestmark = pytest.mark.timeout(900)
GRAPHS = 30  # random graphs in a unit
UNITS = [0, *(pytest.param(unit, marks=pytest.mark.slow) for unit in (1, 2, 3))]

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
    monkeypatch.setattr(import_module("pockengine.backends.c.emit"), "SERIAL_US", 0)
    monkeypatch.setattr(import_module("pockengine.backends.c.depthwise_calls"), "PART_PIXELS", 8)


@pytest.mark.parametrize("module", MODULES)
def test_operators(module: str, on: Machine) -> None:
    cases = [case for operator in MODULES[module] for case in cases_of(operator)]
    check_cases([case for case in cases if not _refused(case, on)], on)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["i64", "u8"])
def test_other_types(dtype: str, on: Machine) -> None:
    cases = [case for ops in MODULES.values() for op in ops for case in cases_in(dtype, op)]
    check_cases([case for case in cases if not _refused(case, on)], on)


def _refused(case: Case, on: Machine) -> bool:
    """Whether C refuses the case, for a good reason."""
    text = refusal(case, on.target)
    assert not text or text.startswith(REFUSED), f"{case.name}: {text}"
    return bool(text)


def test_behind_kernels(on: Machine) -> None:
    check_cases(epilogue_cases(), on)


def test_updates_behind_kernels(on: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("pockengine.backends.c.call"), "BLOCK", 128)
    check_cases(update_cases(), on)


def test_sums_of_columns(on: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """In parts of a few rows and blocks that are smaller still."""
    monkeypatch.setattr(import_module("pockengine.backends.c.riding"), "ROWS", 8)
    monkeypatch.setattr(import_module("pockengine.backends.c.call"), "BLOCK", 128)
    check_cases(sum_cases(), on)


def test_weights_in_panels(on: Machine) -> None:
    check_cases(panel_cases(on.target.nr), on)


@pytest.mark.parametrize("unit", UNITS)
def test_random_graphs(unit: int, on: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fusion puts together, in blocks so small that every thread has several."""
    monkeypatch.setattr(import_module("pockengine.backends.c.call"), "BLOCK", 64)
    monkeypatch.setattr(import_module("pockengine.backends.c.loops"), "CHUNK", 64)
    monkeypatch.setattr(import_module("pockengine.backends.c.riding"), "ROWS", 4)
    check_cases([random_case(unit * GRAPHS + i) for i in range(GRAPHS)], on)


X = TensorType("f32", (1, 2, 2, 2, 1))
VOLUME = Conv((1, 1, 1), ((0, 0),) * 3, (1, 1, 1), 1, True)


@dataclass(frozen=True)
class Unknown(Op):
    """An operator that no back end knows."""

    kernel: ClassVar[str] = "unknown"

    def infer(self, x: TensorType) -> TensorType:
        return x


@pytest.mark.parametrize(
    ("op", "types", "words"),
    [
        (
            Cast("f64"),
            (X,),
            "the C back end computes in float32; these values are of ",
        ),
        (Cast("f32"), (X.with_dtype("f64"),), "Input(name='x0', type="),
        (Cast("f64"), (X,), "Cast(dtype='f64') of f64[1,2,2,2,1]"),
        (
            VOLUME,
            (X, X.with_shape(1, 1, 1, 1, 2)),
            "the C back end convolves over 1 or 2 spatial dims, got Conv(",
        ),
        (Unknown(), (X,), "the C back end has no kernel for Unknown()"),
    ],
)
def test_what_c_cannot_do(op: Op, types: tuple[TensorType, ...], words: str) -> None:
    inputs = tuple(leaf(Input, f"x{i}", t) for i, t in enumerate(types))
    graph = Graph(inputs, {"y": op(*inputs)})
    assert words in refusal(Case(str(op), graph, {}), Target.named("avx2"))
