"""Cheap estimates of what training each tensor may bring, from weights and a few gradients.

    weight_norm    L2 norm of the weight
    gradient_norm  L2 norm of the mean gradient over a few batches
    fisher         sum of squared gradients, the trace of the empirical Fisher information
    weight_snr     singular values above what noise would give, over those below

None trains anything. `agreement` says how well each ranks the tensors of a measured analysis, and
`estimate` (estimate.py) makes an analysis of one.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np

from pockengine import structure
from pockengine.analysis.candidates import Candidate, Pair
from pockengine.analysis.result import Analysis
from pockengine.autodiff.objective import Loss
from pockengine.compiler import compile
from pockengine.data.base import Dataset
from pockengine.data.loader import Loader
from pockengine.extras import require
from pockengine.ir.graph import Graph
from pockengine.optim import SGD
from pockengine.runtime.program import Array
from pockengine.runtime.session import Session
from pockengine.scheme import UpdateScheme

# Of a weight, its mean gradient and the mean of its squared gradients, or of some channels of them.
OF_CHANNELS: Mapping[str, Callable[[Array, Array, Array], float]] = {
    "weight_norm": lambda weight, gradient, squares: float(np.linalg.norm(weight)),
    "gradient_norm": lambda weight, gradient, squares: float(np.linalg.norm(gradient)),
    "fisher": lambda weight, gradient, squares: float(squares.sum()),
}
PROXIES = (*OF_CHANNELS, "weight_snr")
FROM_WEIGHTS = ("weight_norm", "weight_snr")  # alone
BATCHES = 8
RATE = 1024.0  # so large that small gradients are not lost beside the weights they are added to


@dataclass(frozen=True)
class Gradients:
    """Of each tensor the sum of its gradients over some batches, and the sum of their squares."""

    total: Mapping[str, Array] = field(default_factory=dict)
    squares: Mapping[str, Array] = field(default_factory=dict)
    batches: int = 0

    def means(self, name: str) -> tuple[Array, Array]:
        """The mean gradient of a tensor, and the mean of its squares."""
        return self.total[name] / self.batches, self.squares[name] / self.batches


def gradients(
    graph: Graph,
    data: Dataset,
    found: Iterable[Candidate],
    *,
    loss: Loss | str = "cross_entropy",
    batch: int = 16,
    batches: int = BATCHES,
    seed: int = 0,
) -> Gradients:
    """The gradients of the candidates at the model's own weights, in the weights' layout.

    A step of plain SGD moves each by its gradient times the rate, so nothing but a training program
    is needed.
    """
    names = [candidate.name for candidate in found]
    scheme = UpdateScheme.head_only(graph) | UpdateScheme(dict.fromkeys(names, 1.0))
    program = compile(graph, loss=loss, optimizer=SGD(), scheme=scheme, batch=batch)
    total = {name: np.zeros(graph.params[name].shape) for name in names}
    squares = {name: np.zeros(graph.params[name].shape) for name in names}
    count = 0
    with Session(program) as session:
        start = {name: array for name, array in session.state_dict().items() if name in total}
        for moved in _steps(session, data, batch, batches, seed):
            for name in names:
                gradient = (start[name].astype(np.float64) - moved[name]) / RATE
                total[name] += gradient
                squares[name] += gradient**2
            count += 1
    return Gradients(total, squares, count)


def _steps(
    session: Session, data: Dataset, batch: int, batches: int, seed: int
) -> Iterator[dict[str, Array]]:
    """The weights after a step on each of some batches, every time from the first weights."""
    loader = Loader(data, batch, seed=seed)
    endless = (given for epoch in itertools.count() for given in loader.epoch(epoch))
    with closing(endless):
        for x, y in itertools.islice(endless, batches):
            session.reset()
            session.step(x, y, lr=RATE)
            yield session.state_dict()


def scores(
    graph: Graph, found: Iterable[Candidate], known: Gradients
) -> dict[str, dict[str, float]]:
    """The score of each candidate, trained whole, by each proxy."""
    names = [c.name for c in found]
    scorers = {proxy: Scorer(graph, proxy, known) for proxy in PROXIES}
    return {proxy: {n: scorer.whole(n) for n in names} for proxy, scorer in scorers.items()}


class Scorer:
    """Scores by one proxy; the larger, the more training may bring."""

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


def weight_snr(weight: Array, axis: int | None) -> float:
    """Sum of the singular values that noise alone would not give, over the sum of the others."""
    matrix = np.moveaxis(weight, axis or 0, 0).reshape(weight.shape[axis or 0], -1)
    values = np.linalg.svd(matrix, compute_uv=False)
    edge = _noise_edge(values, min(matrix.shape) / max(matrix.shape))
    noise = values[values <= edge].sum()
    return float(values[values > edge].sum() / noise) if noise > 0 else float(values.sum())


def _noise_edge(values: Array, ratio: float) -> float:
    """The largest singular value that independent noise with the same median one would give.

    By the law of Marchenko and Pastur (1967), of matrices with this ratio of their sides; the
    median as in Gavish and Donoho, "The optimal hard threshold for singular values is 4/sqrt(3)".
    """
    low, high = (1 - math.sqrt(ratio)) ** 2, (1 + math.sqrt(ratio)) ** 2
    squares = low + (high - low) * (np.arange(2000) + 0.5) / 2000
    below = np.cumsum(np.sqrt((high - squares) * (squares - low)) / squares)
    median = squares[np.searchsorted(below, below[-1] / 2)]
    return float(np.median(values) * math.sqrt(high / median))


def channel_scores(known: Gradients, graph: Graph) -> dict[str, Array]:
    """The Fisher information of each input channel, for tensors that have such."""
    found = structure.uses(graph)
    return {
        name: squares.sum(tuple(i for i in range(squares.ndim) if i != axis))
        for name, squares in known.squares.items()
        if (axis := found[name].axis) is not None
    }


def agreement(analysis: Analysis, by_proxy: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Spearman's rank correlation of each proxy with the measured contribution of whole tensors."""
    stats = require("scipy.stats", "SciPy", "analysis", "an analysis")
    measured = {c.name: c.mean for c in analysis.contributions if c.ratio == 1.0}
    return {
        proxy: float(
            stats.spearmanr([found[n] for n in measured], list(measured.values())).statistic
        )
        for proxy, found in by_proxy.items()
    }
