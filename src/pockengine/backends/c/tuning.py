"""Chooses among the kernels of a value by measuring them on this machine.

All candidates of all distinct values are compiled into one unit, each an entry point with one step,
and run in turns, so that weights come from as far away as in a training step. The medians are kept
in a record, a file in the cache folder for this target and kernel library, and are not measured
again.
"""

import json
import tempfile
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from pockengine.backends.c.build import build_unit, kernel_library
from pockengine.backends.c.calls import Choices, candidates, row_length, signature
from pockengine.backends.c.emit import emit, with_kernels
from pockengine.dtypes import NUMPY
from pockengine.errors import ArtifactError, InputError
from pockengine.files import cache_dir, write_atomically
from pockengine.ir.graph import Const, Graph, Input, Param, leaf
from pockengine.ir.op import Array, Value
from pockengine.ir.schedule import Schedule
from pockengine.ops.panels import FromPanels
from pockengine.passes.fuse import anchor_of, fuse
from pockengine.plan.planner import Plan, plan
from pockengine.runtime.arena import new_arena
from pockengine.runtime.artifact import check_target
from pockengine.runtime.native import NativeExecutable
from pockengine.target import Target

FORMAT = "pockengine.tuning 1"
LEAST, MOST, SECONDS = 3, 15, 5.0  # rounds of measuring, and the time after which LEAST are enough

Times = dict[str, dict[str, float]]  # signature -> variant -> microseconds


def tune(schedules: Iterable[Schedule], target: Target) -> Choices:
    """The fastest variant of each value that has several, by its signature.

    Raises InputError where this machine cannot run the target's code.
    """
    _require_this_machine(target)
    path = _record_path(target)
    known = read_record(path)
    cases = _cases(schedules, target)
    missing = [c for c in cases if not set(c.variants) <= known.get(c.signature, {}).keys()]
    if missing:
        known |= _measured(missing, target)
        write_atomically(path, json.dumps({"format": FORMAT, "microseconds": known}).encode())
    times = {case.signature: known[case.signature] for case in cases}
    return {name: min(found, key=lambda v: found[v]) for name, found in times.items()}


def _require_this_machine(target: Target) -> None:
    if target.backend != "c":
        raise InputError(f"only programs in C are tuned, not those of {target.backend!r}")
    try:
        check_target({"triple": target.triple, "cpu": target.cpu})
    except ArtifactError as error:
        raise InputError(f"tuning measures on this machine, but {error}, or do not tune") from error


# ---- the record ----------------------------------------------------------------------------------


def _record_path(target: Target) -> Path:
    """One file for each kernel library, which is of one target, and number of threads."""
    name = kernel_library(target).stem.replace("kernels", "tuning")
    return cache_dir() / f"{name}-{target.threads}.json"


def read_record(path: Path) -> Times:
    """The times in a record; none, with a warning, where it is damaged."""
    if not path.exists():
        return {}
    try:
        record = json.loads(path.read_bytes())
        if record["format"] != FORMAT:
            raise ValueError(f"its format is {record['format']!r}, not {FORMAT!r}")
        return {
            name: {variant: float(found[variant]) for variant in found}
            for name, found in record["microseconds"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        warnings.warn(f"{path} is no tuning record ({error}); measuring again", stacklevel=2)
        return {}


# ---- what there is to measure --------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Case:
    """A value with several kernels, in a graph of its own."""

    signature: str
    graph: Graph
    variants: tuple[str, ...]


def _cases(schedules: Iterable[Schedule], target: Target) -> list[_Case]:
    found: dict[str, _Case] = {}
    for schedule in schedules:
        for step in schedule.steps:
            anchor = anchor_of(step.values)
            name = signature(anchor) if anchor else ""
            if anchor is None or name in found:
                continue
            options = candidates(anchor, dict.fromkeys(step.reads, "x"), target)
            if len(options) > 1:
                graph = _alone(anchor, f"v{len(found)}")
                found[name] = _Case(name, graph, tuple(c.variant for c in options))
    return list(found.values())


def _alone(value: Value, name: str) -> Graph:
    """The graph of one value; its weights are weights there too, the rest is given."""
    copies: dict[Value, Value] = {}

    def copied(x: Value) -> Value:
        if x in copies:
            return copies[x]
        if x.op.alias or isinstance(x.op, FromPanels):
            copies[x] = x.op(copied(x.inputs[0]))
        else:
            kind = Param if isinstance(x.op, (Param, Const)) else Input
            copies[x] = leaf(kind, f"{name}_{len(copies)}", x.type)
        return copies[x]

    y = value.op(*map(copied, value.inputs))
    inputs = tuple(x for x in copies.values() if isinstance(x.op, Input))
    return Graph(inputs, {"y": y})


# ---- measuring -----------------------------------------------------------------------------------


def _measured(cases: list[_Case], target: Target) -> Times:
    """The median microseconds of every variant of the cases."""
    deepest = max(len(case.variants) for case in cases)
    turns = [
        (case, case.variants[turn])  # no case twice in a row, which would find its weights near by
        for turn in range(deepest)
        for case in cases
        if turn < len(case.variants)
    ]
    schedules = {
        f"turn{number}": with_kernels(
            fuse(case.graph, row_length), target, {case.signature: variant}
        )
        for number, (case, variant) in enumerate(turns)
    }
    made = plan(schedules)
    seconds = _run(made, target)
    times: Times = {case.signature: {} for case in cases}
    for (case, variant), found in zip(turns, seconds, strict=True):
        times[case.signature][variant] = round(1e6 * median(found), 2)
    return times


def _run(made: Plan, target: Target) -> list[list[float]]:
    """The seconds of each entry point in each round, on random numbers."""
    with tempfile.TemporaryDirectory() as folder:
        unit = build_unit(emit(made, target, timed=True), target, Path(folder, "tuning.so"))
        library = unit.read_bytes()
    executable = NativeExecutable(library, made.entries, made.arena_bytes, target.threads)
    arena = new_arena(made.arena_bytes)
    found: list[list[float]] = [[] for _ in made.entries]
    for name in made.entries:
        _fill(made, name, arena)
    end = time.perf_counter() + SECONDS
    for count in range(MOST + 1):  # the first round warms up
        if count > LEAST and time.perf_counter() > end:
            break
        for name, times in zip(made.entries, found, strict=True):
            times.append(_timed(executable, made, name, arena))
    executable.close()
    return [times[1:] for times in found]


def _timed(executable: NativeExecutable, made: Plan, name: str, arena: Array) -> float:
    seconds = executable.step_seconds(name, len(made.entries[name].schedule.steps))
    seconds[:] = 0
    executable.run(name, arena)
    return float(seconds.sum())


def _fill(made: Plan, name: str, arena: Array) -> None:
    """Small numbers in all floats that the entry point reads."""
    rng = np.random.default_rng(0)
    for value in made.entries[name].schedule.graph.leaves().values():
        if value.dtype == "f32":
            start = made.offset(name, value)
            place = arena[start : start + value.type.nbytes].view(NUMPY["f32"])
            place[...] = rng.random(len(place), np.float32)
