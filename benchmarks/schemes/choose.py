"""The schemes that are compared on a task, none of which may take more than the searched one.

The yardstick is `Cost.extra_bytes`: what training takes beyond the weights and inference. The
search is pockengine's own, with a budget for this number in place of the whole program's bytes
(`extra_memory`).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np

import pockengine as pe
from benchmarks.tasks import Task
from pockengine import structure
from pockengine.analysis.candidates import Candidate, bias_steps, candidates, start_scheme
from pockengine.analysis.cost import CostOracle
from pockengine.analysis.search import FoundScheme, find
from pockengine.analysis.space import extra_memory, make_space
from pockengine.analysis.trials import Progress
from pockengine.ir.graph import Graph
from pockengine.job import Job

Extra = Callable[[pe.UpdateScheme], int]
THREADS = 2


def analysed(
    task: Task,
    fast: bool,
    metric: str = "loss",
    folder: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> pe.Analysis:
    """The analysis of a task, with its recipe."""
    return pe.analyze(
        task.graph,
        task.train,
        task.validation,
        optimizer=task.optimizer,
        lr=task.lr,
        batch=task.batch,
        metric=metric,
        fast=fast,
        folder=folder,
        progress=progress,
    )


class Chooser:
    """Schemes for one task, planned for its recipe; `share` is the budget as a part of full's."""

    def __init__(self, task: Task, share: float) -> None:
        self._graph = task.graph
        head, target = pe.UpdateScheme.head_only(task.graph), pe.Target.host(threads=THREADS)
        job = Job.of(task.graph, "cross_entropy", task.optimizer, head, task.batch, target)
        self.oracle = CostOracle(job)
        self._share = share

    @cached_property
    def budget(self) -> int:
        """Bytes of extra memory."""
        return int(self._share * self.extra(pe.UpdateScheme.full(self._graph)))

    def extra(self, scheme: pe.UpdateScheme) -> int:
        """Bytes that training takes beyond the weights and inference."""
        return self.oracle(scheme).extra_bytes

    def searched(
        self, gains: Mapping[tuple[str, float], float], bias_gains: Mapping[int, float]
    ) -> FoundScheme:
        """What brings the most within the budget, by the contributions of an analysis."""
        ask = self.oracle.many
        return find(make_space(self._graph, gains, bias_gains, ask, extra_memory), ask, self.budget)

    def last(self, limit: int) -> pe.UpdateScheme:
        """As many last blocks as fit; the head alone where not one does."""
        return last_blocks(self._graph, self.extra, limit)

    def random(self, limit: int, seed: int) -> pe.UpdateScheme:
        """Biases, tensors and ratios at random, until no further tensor fits."""
        return random_scheme(self._graph, self.extra, limit, seed)


def last_blocks(graph: Graph, extra: Extra, limit: int) -> pe.UpdateScheme:
    """The most last blocks, whole, whose extra memory is within a limit, the head among them."""
    found = pe.UpdateScheme.head_only(graph)
    for last in range(1, len(structure.blocks(graph)) + 1):
        scheme = pe.UpdateScheme.last_blocks(graph, last)
        if extra(scheme) > limit:
            break
        found = scheme
    return found


def random_scheme(graph: Graph, extra: Extra, limit: int, seed: int) -> pe.UpdateScheme:
    """What a search chooses from, chosen by chance: each tensor's turn comes once, at one ratio."""
    rng = np.random.default_rng(seed)
    biases = [start_scheme(graph, last) for last in bias_steps(graph)]
    scheme = next(_fitting((biases[i] for i in rng.permutation(len(biases))), extra, limit))
    found = candidates(graph)
    for i in rng.permutation(len(found)):
        more = scheme | pe.UpdateScheme({found[i].name: _ratio(found[i], rng)})
        if extra(more) <= limit:
            scheme = more
    return scheme


def _fitting(
    schemes: Iterable[pe.UpdateScheme], extra: Extra, limit: int
) -> Iterator[pe.UpdateScheme]:
    return (scheme for scheme in schemes if extra(scheme) <= limit)


def _ratio(candidate: Candidate, rng: np.random.Generator) -> float:
    return candidate.ratios[int(rng.integers(len(candidate.ratios)))]
