"""An analysis by a proxy, for those who cannot wait for a measured one.

The channels that a ratio stands for count by their own part of the proxy, and biases by theirs.
Gains are relative to the largest: they rank what may be trained, and predict no accuracy.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pockengine.analysis.candidates import RATIOS, Candidate, bias_steps, candidates, start_scheme
from pockengine.analysis.proxies import (
    BATCHES,
    FROM_WEIGHTS,
    PROXIES,
    Gradients,
    Scorer,
    gradients,
)
from pockengine.analysis.result import Analysis, Contribution, Start, settings_of
from pockengine.analysis.splits import Sizes
from pockengine.analysis.statistics import spread_of
from pockengine.analysis.trials import OPTIMIZER, TrialRecipe
from pockengine.autodiff.objective import Loss
from pockengine.data.dataset import as_dataset
from pockengine.errors import AnalysisError, InputError
from pockengine.ir.graph import Graph
from pockengine.job import Job
from pockengine.optim import Optimizer


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
    settings = settings_of(job, [source], TrialRecipe(0.0, 0), (seed,), sizes, None, ratios)
    found, steps = candidates(graph, ratios), bias_steps(graph)
    known = Gradients()
    if proxy not in FROM_WEIGHTS:
        biases = (Candidate(name, 0, (1.0,)) for name in _biases(graph, steps[-1]))
        both = [*found, *biases]
        known = gradients(graph, source, both, loss=loss, batch=batch, batches=batches, seed=seed)
    scorer = Scorer(graph, proxy, known)
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
