"""Searches among the schemes of one analysis: planner, time model and space, made once."""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property

from pockengine.analysis.calibrate import calibrate
from pockengine.analysis.candidates import Pair, bias_steps, candidates, start_scheme
from pockengine.analysis.cost import CostOracle
from pockengine.analysis.search import FoundScheme, FrontPoint, find, front
from pockengine.analysis.space import make_space
from pockengine.analysis.timing import Calibration
from pockengine.errors import InputError
from pockengine.files import parse_bytes
from pockengine.ir.graph import Graph
from pockengine.job import Job
from pockengine.scheme import UpdateScheme

SHARES = (1.0, 0.5, 0.125)  # of every tensor, in the programs that calibrate the time model


class Searcher:
    """Finds schemes for a job: a model, how it is trained, a batch size and a machine."""

    def __init__(
        self,
        job: Job,
        gains: Mapping[Pair, float],
        bias_gains: Mapping[int, float],
        times: Calibration | None = None,
    ) -> None:
        """`gains` by tensor and ratio, `bias_gains` by the number of last blocks, 0 among them.

        Without `times`, steps are not timed and no time budget can be kept.
        """
        self.job, self._times = job, times
        self.oracle = CostOracle(job, times)
        self.space = make_space(job.graph, gains, bias_gains, self.oracle.many)

    def find(self, memory: int | str | None = None, step_ms: float | None = None) -> FoundScheme:
        """The best scheme within budgets: bytes, or words such as "64MB", and milliseconds.

        Raises MemoryBudgetError where not even training the head alone fits, with the least that
        would do, and InputError for a time budget without a time model.
        """
        if step_ms is not None and self._times is None:
            raise InputError("a time budget needs a time model; give times=calibrate(...)")
        budget = parse_bytes(memory) if isinstance(memory, str) else memory
        for given in (budget, step_ms):
            if given is not None and not (math.isfinite(given) and given > 0):
                raise InputError(f"a budget is a finite number above 0, got {given}")
        seconds = None if step_ms is None else 1e-3 * step_ms
        found = find(self.space, self.oracle.many, budget, seconds)
        return replace(found, front=self.front)

    @cached_property
    def front(self) -> tuple[FrontPoint, ...]:
        """The same for every budget."""
        return front(self.space, self.oracle.many)


def calibrated(job: Job, gains: Mapping[Pair, float]) -> Calibration:
    """The time model of a job on this machine, from a few programs that train the same tensors."""
    return calibrate(job, typical_schemes(job.graph, {name for name, _ in gains}))


def typical_schemes(graph: Graph, names: set[str]) -> list[UpdateScheme]:
    """The head alone, and all of some tensors at a few ratios, with all biases."""
    biases = start_scheme(graph, bias_steps(graph)[-1])
    found = [start_scheme(graph, 0)]
    for share in SHARES if names else ():
        found.append(biases | _at(graph, names, share))
    return found


def _at(graph: Graph, names: set[str], share: float) -> UpdateScheme:
    """The tensors at a ratio, whole where they have no input channels."""
    partly = {c.name for c in candidates(graph) if len(c.ratios) > 1}
    return UpdateScheme({name: share if name in partly else 1.0 for name in sorted(names)})
