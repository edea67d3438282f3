"""Searches among the schemes of one analysis: planner, time model and space, made once."""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property

from pockengine.analysis.candidates import Pair
from pockengine.analysis.cost import CostOracle
from pockengine.analysis.search import FoundScheme, RatedScheme, find, front, unbeaten
from pockengine.analysis.space import make_space
from pockengine.analysis.timing import Calibration
from pockengine.errors import InputError
from pockengine.files import parse_bytes
from pockengine.job import Job
from pockengine.scheme import UpdateScheme


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
        own = RatedScheme(UpdateScheme(found.shares), found.gain, found.cost)
        return replace(found, front=unbeaten(self.space, [*self.front, own]))

    @cached_property
    def front(self) -> tuple[RatedScheme, ...]:
        """Schemes for budgets from the least to the most; what a search finds is added to them."""
        return front(self.space, self.oracle.many)
