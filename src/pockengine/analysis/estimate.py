"""An analysis by a proxy, for those who cannot wait for a measured one.

The channels that a ratio stands for count by their own part of the proxy, and biases by theirs.
Gains are relative to the largest: they rank what may be trained, and predict no accuracy.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pockengine import structure
from pockengine.analysis.candidates import (
    RATIOS,
    Candidate,
    Pair,
    bias_steps,
    candidates,
    start_scheme,
)
from pockengine.analysis.proxies import (
    BATCHES,
    OF_CHANNELS,
    PROXIES,
    Gradients,
    gradients,
    weight_snr,
)
from pockengine.analysis.result import Analysis, Contribution, Start, settings_of
from pockengine.analysis.splits import Sizes
from pockengine.analysis.statistics import spread_of
from pockengine.analysis.trials import OPTIMIZER, Recipe
from pockengine.autodiff.objective import Loss
from pockengine.data.dataset import as_dataset
from pockengine.errors import AnalysisError, InputError
from pockengine.ir.graph import Graph
from pockengine.job import Job
from pockengine.optim import Optimizer
from pockengine.runtime.program import Array
from pockengine.scheme import UpdateScheme

FROM_WEIGHTS = ("weight_norm", "weight_snr")  # alone


def estimate(
    graph: Graph,
    data: Any,
    proxy: str = "fisher",
    *,
    loss: Loss | str = "cross_entropy",
    optimizer: Optimizer | str | None = None,
    batch: int = 16,
    batches: int = BATCHES,
    ratios: Iterable[float] = RATIOS,
    seed: int = 0,
) -> Analysis:
    """What training each tensor may bring, by one of PROXIES; nothing is trained.

    `data` is what `as_dataset` takes; `batches` of it are looked at. `optimizer` and `batch` are
    those that schemes are searched for. Raises InputError for a proxy that does not exist, and
    AnalysisError where it ranks nothing.
    """
    if proxy not in PROXIES:
        raise InputError(f"no proxy is called {proxy!r}; there are {', '.join(PROXIES)}")
    started, source = time.perf_counter(), as_dataset(data)
    chosen = OPTIMIZER if optimizer is None else optimizer
    job = Job.of(graph, loss, chosen, start_scheme(graph, 0), batch, None)
    sizes = Sizes(min(len(source), batch * batches), 0)
    settings = settings_of(job, [source], Recipe(0.0, 0), (seed,), sizes, None, ratios)
    found, steps = candidates(graph, ratios), bias_steps(graph)
    known = Gradients()
    if proxy not in FROM_WEIGHTS:
        biases = (Candidate(name, 0, (1.0,)) for name in _biases(graph, steps[-1]))
        both = [*found, *biases]
        known = gradients(graph, source, both, loss=loss, batch=batch, batches=batches, seed=seed)
    scorer = _Scorer(graph, proxy, known)
    by_pair = scorer.all(found)
    by_step = {last: sum(map(scorer.whole, _biases(graph, last))) for last in steps}
    unit = _largest(proxy, [*by_pair.values(), *by_step.values()])
    return Analysis(
        replace(settings, metric=proxy),
        tuple(Start(last, (score / unit,)) for last, score in by_step.items()),
        0,
        tuple(Contribution(*pair, (score / unit,)) for pair, score in by_pair.items()),
        spread_of([]),
        time.perf_counter() - started,
        graph,
    )


def _largest(proxy: str, scores: Sequence[float]) -> float:
    """The unit of gains. Raises AnalysisError where nothing can be ranked."""
    largest = max(scores)
    if not np.isfinite(scores).all() or largest <= 0:
        raise AnalysisError(
            f"{proxy} is {largest} at its largest, so it ranks nothing; look for bad values in the "
            "weights and the data, or use another proxy"
        )
    return largest


def _biases(graph: Graph, last: int) -> Sequence[str]:
    """The biases of the last blocks that are not of the head."""
    head = start_scheme(graph, 0).shares
    return [name for name in start_scheme(graph, last).shares if name not in head]


class _Scorer:
    """Scores of one proxy."""

    def __init__(self, graph: Graph, proxy: str, known: Gradients) -> None:
        self._graph, self._proxy, self._known = graph, proxy, known
        self._uses = structure.uses(graph)

    def all(self, found: Sequence[Candidate]) -> Mapping[Pair, float]:
        """Of every candidate at every ratio."""
        scores: dict[Pair, float] = {(c.name, 1.0): self.whole(c.name) for c in found}
        for ratio in sorted({r for c in found for r in c.ratios if r < 1.0}):
            names = [c.name for c in found if ratio in c.ratios]
            resolved = UpdateScheme(dict.fromkeys(names, ratio)).resolve(self._graph)
            for name, channels in resolved.items():
                if channels is not None:
                    part = (channels.indices, channels.axis)
                    scores[name, ratio] = self._part(name, *part, scores[name, 1.0])
        return scores

    def whole(self, name: str) -> float:
        """Of a whole tensor; a bias has no singular values, and counts as nothing by them."""
        if self._proxy in OF_CHANNELS:
            return OF_CHANNELS[self._proxy](*self._evidence(name))
        weight = np.asarray(self._graph.data[name], np.float64)
        return weight_snr(weight, self._uses[name].axis) if weight.ndim > 1 else 0.0

    def _part(self, name: str, indices: Sequence[int], axis: int, whole: float) -> float:
        """Of some channels; by singular values, in proportion to their number."""
        if self._proxy in OF_CHANNELS:
            arrays = (np.take(array, indices, axis) for array in self._evidence(name))
            return OF_CHANNELS[self._proxy](*arrays)
        return whole * len(indices) / self._graph.params[name].shape[axis]

    def _evidence(self, name: str) -> tuple[Array, Array, Array]:
        weight = np.asarray(self._graph.data[name], np.float64)
        if self._proxy in FROM_WEIGHTS:  # whose gradients nobody has computed
            return weight, np.zeros(weight.shape), np.zeros(weight.shape)
        return weight, *self._known.means(name)
