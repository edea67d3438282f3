"""The compiled law: a graph computes in C what the interpreter says.

Many graphs are compiled into one unit, each as an entry point of its own. Every entry runs twice on
one thread and twice on two, on an arena filled with bytes that mean nothing: first NaN, then tiny
numbers. Runs on the same number of threads must agree to the bit.
"""

import ctypes
import mmap
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from machines import Machine

from pockengine import compiler
from pockengine.autodiff.reverse import gradients
from pockengine.backends.c.emit import emit
from pockengine.errors import GraphError, UnsupportedError
from pockengine.ir.graph import Graph, Input, leaf
from pockengine.ir.interpret import interpret
from pockengine.ir.op import Array, Op, Sample
from pockengine.ir.schedule import Schedule
from pockengine.ir.text import print_graph
from pockengine.ir.types import NUMPY
from pockengine.ir.verify import verify
from pockengine.ops.build import mul, reduce_sum
from pockengine.passes.layout import channels_last
from pockengine.passes.mode import training_mode
from pockengine.plan.planner import Plan, plan
from pockengine.plan.verify import verify_plan
from pockengine.runtime.program import Executable
from pockengine.target import Target
from pockengine.testing import (
    cotangent,
    differentiable,
    named,
    sample_graph,
    samples_of,
)

POISON = (0xFF, 0xA5)
TOLERANCE = 2e-5
ROUNDING = 1e-7  # of a number of size 1 in float32
PAGE = mmap.PAGESIZE


@dataclass(frozen=True, eq=False)
class Case:
    """A graph to compile, the contents of its leaves, and how close the result must be."""

    name: str
    graph: Graph
    arrays: Mapping[str, Array]
    tolerance: float = TOLERANCE


# ---- the cases of an operator --------------------------------------------------------------------


def cases_of(operator: type[Op]) -> list[Case]:
    """Each of the operator's samples in float32, and the gradients of each."""
    samples = samples_of(operator, "f32")
    forward = [_forward(sample, f"{i}") for i, sample in enumerate(samples)]
    backward = [_backward(sample, f"{i}") for i, sample in enumerate(samples)]
    return [*forward, *(case for case in backward if case)]


def cases_in(dtype: str, operator: type[Op]) -> list[Case]:
    """The operator's samples with small whole numbers of another type, where it takes that."""
    cases = []
    for number, sample in enumerate(samples_of(operator, "f32")):
        if not any(a.dtype.kind == "f" and np.isfinite(a).all() for a in sample.arrays):
            continue
        converted = tuple(_whole(dtype, a) for a in sample.arrays)
        with suppress(GraphError):  # not of that type
            cases.append(_forward(replace(sample, arrays=converted), f"{number} in {dtype}"))
    return cases


def _whole(dtype: str, array: Array) -> Array:
    """Numbers from 1 to 9: nobody says what a division by zero gives."""
    if array.dtype.kind != "f":
        return array
    return np.abs(np.nan_to_num(array, posinf=5, neginf=5)).clip(1, 9).astype(NUMPY[dtype])


def _forward(sample: Sample, number: str) -> Case:
    graph = _ready(sample_graph(sample))
    return Case(f"{sample.op} sample {number}", graph, named(sample.arrays))


def _backward(sample: Sample, number: str) -> Case | None:
    """d<u, y>/dx for every x that has a gradient."""
    places = differentiable(sample)
    if not places:
        return None
    forward = _ready(sample_graph(sample))
    y = forward.outputs["y"]
    u = leaf(Input, "u", y.type)
    leaves = forward.leaves()
    wanted = {f"d{p}": leaves[f"x{p}"] for p in places if f"x{p}" in leaves}
    found = gradients(reduce_sum(mul(y, u)), list(wanted.values()))
    outputs = {name: found[x] for name, x in wanted.items() if x in found}
    if not outputs:
        return None
    arrays = {**named(sample.arrays), "u": cotangent(sample, np.random.default_rng(1))}
    graph = channels_last(Graph((*forward.inputs, u), outputs))[0]
    return Case(f"gradient of {sample.op} sample {number}", graph, arrays)


def _ready(graph: Graph) -> Graph:
    """Coarse operators expanded, convolutions channels last: as C gets a graph."""
    expanded = replace(training_mode(graph), updates={})
    return verify(channels_last(expanded)[0])


# ---- compiling and running -----------------------------------------------------------------------


def refusal(case: Case, target: Target) -> str:
    """What the C back end says against a graph; nothing if it takes it."""
    try:
        emit(plan({"alone": compiler.schedule(case.graph, target)}), target)
    except UnsupportedError as error:
        return str(error)
    return ""


def check_cases(cases: Sequence[Case], machine: Machine, threads: Iterable[int] = (1, 2)) -> None:
    """Compiles all cases in one unit and compares each; one AssertionError lists all failures."""
    schedules: dict[str, Schedule] = {}
    for number, case in enumerate(cases):
        schedules[f"c{number}"] = compiler.schedule(case.graph, machine.target)
    made = verify_plan(plan(schedules))
    start = machine.build(made)
    failures: dict[str, str] = {}
    for count in threads:
        executable = start(count)
        for entry, case in zip(made.entries, cases, strict=True):
            message = _failure(lambda e=entry, c=case, x=executable: _check(c, made, e, x))
            if message:
                failures.setdefault(f"{case.name} on {count} threads", message)
        executable.close()
    assert not failures, f"{len(failures)} of {len(cases)}:\n" + "\n".join(
        f"-- {name}: {message}" for name, message in failures.items()
    )


def _failure(check: Callable[[], None]) -> str:
    try:
        check()
    except AssertionError as error:
        return str(error)
    return ""


def _check(case: Case, made: Plan, entry: str, executable: Executable) -> None:
    runs = [_run(case, made, entry, executable, poison) for poison in POISON]
    expected = interpret(case.graph, case.arrays)
    for name, array in {**expected.outputs, **expected.updates}.items():
        first, second = (run[name] for run in runs)
        text = print_graph(made.entries[entry].schedule.graph)
        _assert_close(first, array, f"{name} in\n{text}", case)
        np.testing.assert_array_equal(first, second, f"{name} differs between runs, in\n{text}")


def _assert_close(actual: Array, expected: Array, what: str, case: Case) -> None:
    """Equal but for rounding, relative to the largest element, or to what the inputs round to."""
    floats = [a for a in case.arrays.values() if a.dtype.kind == "f" and a.size]
    scale = max((float(np.abs(a[np.isfinite(a)]).max(initial=0.0)) for a in floats), default=0.0)
    kind = expected.dtype.kind
    finite = np.abs(expected[np.isfinite(expected)]) if kind == "f" else np.zeros(1)
    atol = case.tolerance * float(finite.max(initial=0.0)) + ROUNDING * scale
    np.testing.assert_allclose(
        actual, expected, case.tolerance, atol if kind == "f" else 0, equal_nan=True, err_msg=what
    )


def _run(
    case: Case, made: Plan, entry: str, executable: Executable, poison: int
) -> dict[str, Array]:
    """One run on a poisoned arena: the outputs, and the new contents of updated leaves."""
    graph = made.entries[entry].schedule.graph
    arena = guarded_arena(made.arena_bytes)
    arena[:] = poison

    def view(value: object, dtype: str, shape: tuple[int, ...], nbytes: int) -> Array:
        at = made.offset(entry, value)
        return arena[at : at + nbytes].view(NUMPY[dtype]).reshape(shape)

    leaves = {
        n: view(v, v.dtype, v.shape, v.type.nbytes)
        for n, v in {**graph.leaves(), **{v.op.name: v for v in graph.inputs}}.items()
    }
    for name, place in leaves.items():
        place[...] = case.arrays[name] if name in case.arrays else graph.data[name]
    status = executable.run(entry, arena)
    assert status == 0, f"status {status}"
    results = {n: view(v, v.dtype, v.shape, v.type.nbytes).copy() for n, v in graph.outputs.items()}
    return {**results, **{n: leaves[n].copy() for n in graph.updates}}


def guarded_arena(nbytes: int) -> Array:
    """Bytes that end where the next page may not be touched: reading past them is a crash."""
    pages = -(-nbytes // PAGE) * PAGE
    memory = np.frombuffer(mmap.mmap(-1, pages + PAGE), np.uint8)
    address = ctypes.c_void_p(memory.ctypes.data + pages)
    ctypes.CDLL(None).mprotect(address, ctypes.c_size_t(PAGE), ctypes.c_int(0))
    return memory[pages - nbytes : pages]
