"""What a scheme costs, without compiling it: the planner's own bytes, and the time model's seconds.

    oracle = CostOracle(job, times=calibration, cache="costs.jsonl")
    oracle(scheme)            Cost(memory_bytes=..., extra_bytes=..., step_seconds=...)
    oracle.many(schemes)      the same for many, on all processors

The bytes are those of `plan_job`, from the same passes, order and placement: an oracle keeps
what schemes have in common, and no formula stands beside the planner. What was asked once is kept
in the cache file, under a key made of everything that decides it.
"""

import gc
import hashlib
import json
import multiprocessing
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

import pockengine
from pockengine.analysis.timing import Calibration
from pockengine.compiler import plan_job
from pockengine.errors import InputError, PockError
from pockengine.ir.graph import Graph
from pockengine.ir.memo import Memo
from pockengine.ir.text import print_graph
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
        cache: str | Path | None = None,
        processes: int | None = None,
    ) -> None:
        """`job` gives all but the scheme. Raises InputError for a job that measures kernels."""
        if job.tune:
            raise InputError("what is tuned cannot be planned ahead: leave out tune=True")
        self.job = replace(job, target=replace(job.target, memory_budget=None))
        self.times = times
        self._memo = Memo(checks=False)
        self._path = Path(cache) if cache else None
        self._known: dict[str, Cost] = _read(self._path) if self._path else {}
        self._processes = processors() if processes is None else processes

    def __call__(self, scheme: UpdateScheme) -> Cost:
        """The cost of a scheme. Raises SchemeError for one that does not fit the model."""
        job = self.job.with_scheme(scheme)
        key = self._key(job)
        if key not in self._known:
            self._learn({key: self._ask(job)})
        return self._known[key]

    def many(self, schemes: Sequence[UpdateScheme]) -> list[Cost]:
        """The costs of many schemes, in their order, planned by several processes."""
        keys = [self._key(self.job.with_scheme(scheme)) for scheme in schemes]
        new = {k: s for k, s in zip(keys, schemes, strict=True) if k not in self._known}
        if self._processes > 1 and len(new) > FEW and hasattr(os, "fork"):
            count = self._processes
            parts = [dict(list(new.items())[i::count]) for i in range(count)]
            self._learn(_plan_apart(self._each, [part for part in parts if part]))
        return [self(scheme) for scheme in schemes]

    def _each(self, schemes: Sequence[UpdateScheme]) -> list[Cost]:
        return [self._ask(self.job.with_scheme(scheme)) for scheme in schemes]

    def _ask(self, job: Job) -> Cost:
        with _no_collection():
            plan = plan_job(job, memo=self._memo).plan
        seconds = self.times.step_seconds(plan, job) if self.times else 0.0
        return Cost(plan.arena_bytes, extra_training_bytes(plan), seconds, training_bytes(plan))

    def _learn(self, found: Mapping[str, Cost]) -> None:
        self._known.update(found)
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            lines = (json.dumps({"key": k, **asdict(c)}) + "\n" for k, c in found.items())
            with self._path.open("ab", buffering=0) as file:  # one write: others append too
                file.write("".join(lines).encode())

    def _key(self, job: Job) -> str:
        selection = sorted((n, c and (c.axis, c.indices)) for n, c in job.selection.items())
        return _digest(self._context, repr(selection))

    @cached_property
    def _context(self) -> str:
        """All that decides a cost but the scheme: the model, the job, the engine, the times."""
        job = self.job
        settings = {k: v for k, v in vars(job).items() if k not in ("graph", "scheme", "selection")}
        times = self.times.to_json() if self.times else ""
        model = (print_graph(job.graph), *_contents(job.graph))
        return _digest(version("pockengine"), _engine(), repr(settings), times, *model)


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


def _contents(graph: Graph) -> Iterable[str]:
    """Digests of the data: equal weights are stored once, and the largest channels are chosen."""
    for name in sorted(graph.data):
        data = np.ascontiguousarray(graph.data[name]).tobytes()
        yield f"{name} {hashlib.blake2b(data, digest_size=16).hexdigest()}"


def _engine() -> str:
    """A digest of the engine's own source, so that no cache outlives a change of a pass."""
    root = Path(pockengine.__file__).parent
    return _digest(*(path.read_text() for path in sorted(root.rglob("*.py"))))


def _digest(*parts: str) -> str:
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()


def _read(path: Path) -> dict[str, Cost]:
    """The costs in a cache file; a line that was cut off or edited is left out."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
            key = str(row.pop("key"))
            found[key] = Cost(**row)
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
    return found


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
