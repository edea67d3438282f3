"""Times the programs of a few schemes on this machine: what the time model goes by.

A machine that others use too may be twice as slow a minute later. So each program is timed in
turns with another that stays the same, the probe, which is the program of the first scheme. What
it takes is counted in calls of the probe before and after, times the seconds that a call of the
probe takes in the median of the whole calibration: `Calibration.probe`. An estimate is for a
machine on which the probe takes that long; when it takes longer, so does all else.
"""

import statistics
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pockengine.analysis.measure import RATE
from pockengine.analysis.roofline import Stopwatch
from pockengine.analysis.timing import (
    Calibration,
    Measured,
    Run,
    Work,
    calibration_schemes,
    from_runs,
    runs_of,
    work_of,
)
from pockengine.compiler import build, plan_job
from pockengine.ir.graph import Input
from pockengine.ir.op import Array
from pockengine.ir.rewrite import with_batch
from pockengine.ir.types import NUMPY, TensorType
from pockengine.job import Job
from pockengine.plan.planner import leaf_name
from pockengine.runtime.session import Session
from pockengine.scheme import UpdateScheme

WARM_SECONDS = 0.3  # of each program, before it is timed: a new arena, threads and clocks settle
TURNS, SECONDS = 8, 0.7  # of each program: at least so many, and for so long
TURN_SECONDS = 0.01  # at least, after a call that finds the other program's data in the caches

Batch = tuple[Any, Any]  # inputs and labels, as Session.step takes them


def calibrate(
    job: Job,
    schemes: Iterable[UpdateScheme] | None = None,
    batch: Callable[[Job], Batch] | None = None,
    progress: Callable[[int, int], object] = lambda done, of: None,
) -> Calibration:
    """Compiles the programs of `schemes` and times them on this machine, in turns with the first.

    By default those of `calibration_schemes`, for which the model's error was measured. They may
    take more than the target's memory budget. `batch` gives what to time them with, random numbers
    if it is left out. Raises InputError for another back end than C, and where there is no scheme.
    """
    job = replace(job, target=replace(job.target, memory_budget=None))
    chosen = calibration_schemes(job.graph) if schemes is None else schemes
    jobs = [job.with_scheme(scheme) for scheme in chosen]
    if not jobs:
        return from_runs([])
    found = []
    with TimedProgram(jobs[0], batch) as probe:
        for number, each in enumerate(jobs, 1):
            with nullcontext(probe) if number == 1 else TimedProgram(each, batch) as program:
                found.append((program, in_turns(probe, program)))
            progress(number, len(jobs))
    usual = statistics.median(turn.probe for _, turns in found for turn in turns)
    return from_runs([as_run(program, turns, usual) for program, turns in found], usual)


class TimedProgram:
    """A program and a batch. Its native code adds up the seconds of each step, unless `steps` is
    false: then it is as users have it. Close it, or use it in a `with` statement.
    """

    def __init__(
        self, job: Job, batch: Callable[[Job], Batch] | None = None, steps: bool = True
    ) -> None:
        """Plans and compiles it."""
        planned = plan_job(job)
        self.job, self.plan = job, planned.plan
        self.runs = runs_of(planned.plan, job)
        self._watch = Stopwatch(planned) if steps else None
        self.program = self._watch.program if self._watch else build(planned)
        self._session = Session(self.program)
        self._batch = (batch or random_batch)(job)

    def __enter__(self) -> "TimedProgram":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._session.close()

    def step(self) -> None:
        """Steps until the weights are updated."""
        for _ in range(self.job.accumulate):
            self._session.step(*self._batch, lr=RATE)

    def turn(self) -> tuple[float, dict[str, Array]]:
        """The seconds of a `Session.step` and of the steps of the entry points in it, on average
        over a few calls, after one.
        """
        self.step()
        if self._watch:
            self._watch.reset()
        calls, start, now = 0, time.perf_counter(), 0.0
        while now < TURN_SECONDS:
            self.step()
            calls, now = calls + self.job.accumulate, time.perf_counter() - start
        watch = self._watch
        return now / calls, {n: watch.seconds(n) / calls for n in self.runs} if watch else {}


@dataclass(frozen=True)
class Turn:
    """The seconds of a call of a program and of its steps, and of a call of the probe beside it."""

    probe: float
    call: float
    steps: dict[str, Array]


def in_turns(probe: TimedProgram, program: TimedProgram) -> list[Turn]:
    """Times a program between calls of the probe."""
    end = time.perf_counter() + WARM_SECONDS
    while time.perf_counter() < end:
        program.step()
    turns: list[Turn] = []
    before, _ = probe.turn()
    end = time.perf_counter() + SECONDS
    while len(turns) < TURNS or time.perf_counter() < end:
        call, steps = program.turn()
        after, _ = probe.turn()
        turns.append(Turn((before + after) / 2, call, steps))
        before = after
    return turns


def as_run(program: TimedProgram, turns: list[Turn], usual: float) -> Run:
    """The medians of turns, as if the probe had always taken its usual seconds."""
    call = usual * statistics.median(turn.call / turn.probe for turn in turns)
    steps = {}
    for name in turns[0].steps:
        taken = np.median([turn.steps[name] / turn.probe for turn in turns], 0)
        works = map(work_of, program.plan.entries[name].schedule.steps)
        each = usual / program.runs[name] * taken
        steps[name] = tuple(_measured(w, s) for w, s in zip(works, each, strict=True))
    return Run(program.plan, program.job, steps, call)


def _measured(work: Work, seconds: float) -> Measured:
    return Measured(work.key, work.kind, work.flops, work.nbytes, max(1e-8, float(seconds)))


def random_batch(job: Job) -> Batch:
    """Normal numbers for the inputs, class 0 for labels; for what may index, 0 and 1."""
    rng = np.random.default_rng(0)
    static = with_batch(job.graph, job.batch)
    inputs = {name: _random(rng, v.type) for name, v in static.leaves(Input).items()}
    objective = job.loss.objective(static)
    target = next((v for v in objective.inputs if leaf_name(v) == "target"), None)
    return inputs, None if target is None else np.zeros(target.shape, NUMPY[target.dtype])


def _random(rng: np.random.Generator, type_: TensorType) -> Array:
    dtype = NUMPY[type_.dtype]
    if type_.is_float:
        return rng.standard_normal(type_.shape).astype(dtype)
    return rng.integers(0, 2, type_.shape).astype(dtype)
