"""What a scheme costs, without compiling it: the planner's own bytes, and the time model's seconds.

    oracle = CostOracle(job, times=calibration)
    oracle(scheme)            Cost(memory_bytes=..., extra_bytes=..., step_seconds=...)
    oracle.many(schemes)      the same for many, on all processors

The bytes are those of `plan_job`, from the same passes, order and placement: an oracle keeps
what schemes have in common, and no formula stands beside the planner. It answers at once what it
was asked before.
"""

import gc
import json
import multiprocessing
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection

from pockengine.analysis.timing import Calibration
from pockengine.compiler import plan_job
from pockengine.data.base import digest
from pockengine.errors import InputError, PockError
from pockengine.ir.memo import Memo
from pockengine.job import Job
from pockengine.plan.report import extra_training_bytes, training_bytes
from pockengine.scheme import UpdateScheme
from pockengine.target import processors

FEW = 4  # schemes for which no other process is started

Part = dict[str, UpdateScheme]  # what to plan, by its key


@dataclass(frozen=True)
class Cost:
    """`memory_bytes`: the whole program. `train_bytes`: its training alone, weights included.
    `extra_bytes`: what training takes beyond the weights and inference. `step_seconds`: one step,
    0 without a time model.
    """

    memory_bytes: int = 0
    extra_bytes: int = 0
    step_seconds: float = 0.0
    train_bytes: int = 0


Found = dict[str, Cost]


class CostOracle:
    """Answers for the schemes of one job. Its target's memory budget is left out: a scheme costs
    what it costs.
    """

    def __init__(
        self,
        job: Job,
        times: Calibration | None = None,
        processes: int | None = None,
    ) -> None:
        """`job` gives all but the scheme. Raises InputError for a job that measures kernels."""
        if job.tune:
            raise InputError("what is tuned cannot be planned ahead: leave out tune=True")
        self.job = replace(job, target=replace(job.target, memory_budget=None))
        self.times = times
        self._memo = Memo(checks=False)
        self._known: Found = {}
        self._processes = processors() if processes is None else processes

    def __call__(self, scheme: UpdateScheme) -> Cost:
        """The cost of a scheme. Raises SchemeError for one that does not fit the model."""
        job = self.job.with_scheme(scheme)
        key = _key(job)
        if key not in self._known:
            self._known[key] = self._ask(job)
        return self._known[key]

    def many(self, schemes: Sequence[UpdateScheme]) -> list[Cost]:
        """The costs of many schemes, in their order, planned by several processes."""
        keys = [_key(self.job.with_scheme(scheme)) for scheme in schemes]
        new = {k: s for k, s in zip(keys, schemes, strict=True) if k not in self._known}
        if self._processes > 1 and len(new) > FEW and hasattr(os, "fork"):
            count = self._processes
            parts = [dict(list(new.items())[i::count]) for i in range(count)]
            self._known |= _plan_apart(self._each, [part for part in parts if part])
        return [self(scheme) for scheme in schemes]

    def _each(self, schemes: Sequence[UpdateScheme]) -> list[Cost]:
        return [self._ask(self.job.with_scheme(scheme)) for scheme in schemes]

    def _ask(self, job: Job) -> Cost:
        with _no_collection():
            plan = plan_job(job, memo=self._memo).plan
        seconds = self.times.step_seconds(plan, job) if self.times else 0.0
        return Cost(plan.arena_bytes, extra_training_bytes(plan), seconds, training_bytes(plan))


def _key(job: Job) -> str:
    """The same for schemes that select the same channels."""
    selection = sorted((n, c and (c.axis, c.indices)) for n, c in job.selection.items())
    return digest(repr(selection))


@contextmanager
def _no_collection() -> Iterator[None]:
    """Graphs have no cycles: looking for garbage among them again and again finds none."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


# ---- other processes: each has all that this one knows, plans its part and sends the costs -----


def _plan_apart(plan: Callable[[Sequence[UpdateScheme]], list[Cost]], parts: list[Part]) -> Found:
    """The costs of all parts by key. A part whose process fails is left out."""
    context = multiprocessing.get_context("fork")
    running = []
    for part in parts:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_plan_part, args=(plan, list(part.values()), sender))
        with warnings.catch_warnings():  # of forking beside threads: a child only plans
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
        sender.close()
        running.append((part, process, receiver))
    found: Found = {}
    for part, process, receiver in running:
        try:
            rows = json.loads(receiver.recv_bytes())
        except EOFError:
            rows = []
        found |= {key: Cost(**row) for key, row in zip(part, rows, strict=False)}
        process.join()
    return found


def _plan_part(
    plan: Callable[[Sequence[UpdateScheme]], list[Cost]],
    schemes: list[UpdateScheme],
    sender: Connection,
) -> None:
    try:
        costs = plan(schemes)
    except PockError:
        costs = []  # the process that asked finds it again, and raises it
    sender.send_bytes(json.dumps([asdict(cost) for cost in costs]).encode())
