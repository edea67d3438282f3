"""What training each tensor brings: measured on the user's own task, one tensor at a time.

    1. The common start: the head, and the biases of the last k blocks, for several k.
    2. From the best of these, each candidate is trained beside it, whole and with one seed.
    3. The better half is trained at its smaller ratios too.
    4. The better pairs of tensor and ratio get more seeds, where the order is not yet clear.

A contribution is the difference of the validation metric to the common start with the same seed,
so with the same split and the same order of samples (the method of PockEngine, MICRO 2023, and of
"On-Device Training Under 256KB Memory", NeurIPS 2022; the seeds, the intervals and the halving are
ours).
"""

import math
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pockengine.analysis.candidates import (
    RATIOS,
    Pair,
    bias_steps,
    candidates,
    groups,
    start_scheme,
)
from pockengine.analysis.result import Analysis, Contribution, Settings, Start, settings_of
from pockengine.analysis.splits import Sizes
from pockengine.analysis.statistics import Spread, spread_of
from pockengine.analysis.trials import OPTIMIZER, Lab, Progress, Trial, TrialRecipe
from pockengine.analysis.workspace import workspace
from pockengine.autodiff.objective import CrossEntropy, Loss
from pockengine.data.base import Dataset
from pockengine.data.dataset import as_dataset
from pockengine.errors import AnalysisError, InputError
from pockengine.ir.graph import Graph
from pockengine.job import Job
from pockengine.optim import Optimizer
from pockengine.scheme import UpdateScheme
from pockengine.target import Target

PROGRAMS = 4  # that the candidates are divided among


@dataclass(frozen=True)
class Effort:
    """How much is spent. Samples and steps are of each trial."""

    train: int  # samples at most
    validation: int  # samples at most
    steps: int  # about, in whole epochs
    seeds: int
    starts: int  # numbers of last blocks whose biases are tried
    kept: float  # the share of tensors, and then of pairs, that goes on

    def epochs(self, samples: int, batch: int) -> int:
        """Whole epochs of about so many steps."""
        return max(1, round(self.steps / math.ceil(min(samples, self.train) / batch)))


THOROUGH = Effort(train=1000, validation=500, steps=80, seeds=3, starts=5, kept=0.5)
FAST = Effort(train=400, validation=300, steps=40, seeds=2, starts=3, kept=0.35)


def analyze(
    graph: Graph,
    data: Any,
    validation: Any = None,
    *,
    loss: Loss | str = "cross_entropy",
    optimizer: Optimizer | str | None = None,
    lr: float = 0.01,
    batch: int = 16,
    metric: str | None = None,
    ratios: Iterable[float] = RATIOS,
    fast: bool = False,
    seed: int = 0,
    folder: str | Path | None = None,
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Analysis:
    """Measures what training each tensor of a model brings on a task.

    `data` is a Dataset, a pair of arrays, or a path; without `validation`, each seed holds out a
    part of its own. `metric` is "accuracy" or "loss" (less is better); by default accuracy where
    the loss has one. With a `folder`, measurements are kept there, and an analysis that was stopped
    goes on where it was; the folder is for this analysis alone. Trials run in `workers` processes,
    by default one a processor. `optimizer` is SGD with momentum 0.9 by default.
    Raises AnalysisError where nothing can be measured, and InputError for data that do not fit.
    """
    effort = FAST if fast else THOROUGH
    started = time.perf_counter()
    chosen = OPTIMIZER if optimizer is None else optimizer
    job = Job.of(graph, loss, chosen, start_scheme(graph, 0), batch, Target.host(threads=1))
    sets = [as_dataset(data)] + ([] if validation is None else [as_dataset(validation)])
    _check_labels(job, sets)
    seeds = tuple(range(seed, seed + effort.seeds))
    with workspace(folder, sets, seeds, Sizes(effort.train, effort.validation)) as place:
        recipe = TrialRecipe(lr, effort.epochs(place.sizes.train, batch))
        settings = settings_of(job, sets, recipe, seeds, place.sizes, metric, ratios)
        with place.lab(job, settings, workers, progress) as lab:
            measured = _Measuring(lab, graph, settings, effort).run()
    _warn_of_noise(measured)
    return replace(measured, seconds=time.perf_counter() - started)


def _check_labels(job: Job, sets: Sequence[Dataset]) -> None:
    """Raises InputError for class numbers that the model has no output for."""
    if not isinstance(job.loss, CrossEntropy):
        return
    classes = job.loss.prediction(job.graph).shape[job.loss.axis]
    for data in sets:
        labels = data.labels
        if labels is not None and labels.dtype.kind in "iu" and labels.max() >= classes:
            raise InputError(
                f"the data have {int(labels.max()) + 1} classes, and the model tells {classes} "
                "apart; give it a head for these classes"
            )


class _Measuring:
    """One analysis on its way."""

    def __init__(self, lab: Lab, graph: Graph, settings: Settings, effort: Effort) -> None:
        self._lab, self._graph, self._settings, self._effort = lab, graph, settings, effort
        self._candidates = candidates(graph, settings.ratios)
        if not self._candidates:
            raise AnalysisError(
                "the model has no weights outside its head, so there is nothing to choose; train "
                "the head (UpdateScheme.head_only)"
            )
        self._compared: list[list[float]] = []  # the starts with the best of them
        self._deltas: dict[Pair, list[float]] = {}
        self._lost: set[Pair] = set()

    def run(self) -> Analysis:
        self._lab.expected = self._expected()
        starts = self._starts()
        best = max(starts, key=lambda start: start.mean)
        self._compared = [np.subtract(s.scores, best.scores).tolist() for s in starts]
        self._make_programs(best)
        whole = [(c.name, c.ratios[-1]) for c in self._candidates]
        self._measure("each tensor, whole", whole, best, 1)
        if self._lost and not self._deltas:
            raise _diverging(self._settings, "any tensor")
        _check_varies(self._settings, starts, self._deltas.values())
        better = self._better(whole)
        shares = [
            (c.name, r) for c in self._candidates if (c.name, 1.0) in better for r in c.ratios[:-1]
        ]
        self._measure("smaller shares", shares, best, 1)
        for count in range(2, self._effort.seeds + 1):
            pairs = self._better([*better, *shares])
            self._measure(f"seed {count} of the better ones", pairs, best, count)
        return self._result(starts, best)

    def _expected(self) -> int:
        """How many trials it will be, about."""
        tensors = len(self._candidates)
        kept = tensors * self._effort.kept
        pairs = kept * sum(len(c.ratios) for c in self._candidates) / tensors
        starts = len(bias_steps(self._graph, self._effort.starts)) * self._effort.seeds
        more = pairs * self._effort.kept * (self._effort.seeds - 1)
        return round(starts + tensors + pairs - kept + more)

    def _starts(self) -> list[Start]:
        """The head, with the biases of more and more last blocks, and every seed."""
        steps = bias_steps(self._graph, self._effort.starts)
        self._lab.add_program("start", start_scheme(self._graph, steps[-1]))
        self._lab.stage = "biases of the last blocks"
        seeds = self._settings.seeds
        schemes = [start_scheme(self._graph, last) for last in steps]
        trials = [Trial(scheme.shares, seed) for scheme in schemes for seed in seeds]
        scores = [self._settings.value(score) for score in self._lab.run(trials)]
        rows = zip(steps, np.reshape(scores, (len(steps), len(seeds))), strict=True)
        starts = [Start(last, tuple(map(float, row))) for last, row in rows]
        return _measurable(self._settings, starts)

    def _make_programs(self, start: Start) -> None:
        base = start_scheme(self._graph, start.last)
        for number, run in enumerate(groups(self._candidates, PROGRAMS)):
            scheme = base | UpdateScheme(dict.fromkeys((c.name for c in run), 1.0))
            self._lab.add_program(f"group-{number}", scheme)
        self._candidates = tuple(c for c in self._candidates if self._lab.trains(c.name))

    def _measure(self, stage: str, pairs: Sequence[Pair], start: Start, count: int) -> None:
        """Trains each pair beside the common start until it has `count` seeds."""
        base = start_scheme(self._graph, start.last)
        self._lab.stage = stage
        wanted = [
            (pair, n) for pair in pairs for n in range(len(self._deltas.get(pair, ())), count)
        ]
        trials = [
            Trial({**base.shares, name: ratio}, self._settings.seeds[n])
            for (name, ratio), n in wanted
        ]
        for (pair, n), score in zip(wanted, self._lab.run(trials), strict=True):
            delta = self._settings.value(score) - start.scores[n]
            if not math.isfinite(delta):
                self._lost.add(pair)
            self._deltas.setdefault(pair, []).append(delta)
        for pair in self._lost:  # training it makes the network diverge
            self._deltas.pop(pair, None)

    def _better(self, pairs: Sequence[Pair]) -> list[Pair]:
        """The better share of some pairs, and the next ones that may be as good as its last."""
        spread = self._spread()
        ranked = sorted(
            (p for p in pairs if p in self._deltas),
            key=lambda pair: -float(np.mean(self._deltas[pair])),
        )
        count = max(4, math.ceil(len(ranked) * self._effort.kept))
        if count >= len(ranked):
            return ranked
        last = float(np.mean(self._deltas[ranked[count - 1]]))
        unclear = [p for p in ranked[count:] if spread.interval(self._deltas[p]).high >= last]
        return ranked[:count] + unclear[: count // 4]

    def _spread(self) -> Spread:
        """The noise of a difference to the common start, from all that has every seed so far."""
        return spread_of([*self._compared, *self._deltas.values()])

    def _result(self, starts: list[Start], best: Start) -> Analysis:
        spread = self._spread()
        found = tuple(
            Contribution(name, ratio, tuple(deltas))
            for (name, ratio), deltas in self._deltas.items()
        )
        return Analysis(self._settings, tuple(starts), best.last, found, spread, graph=self._graph)


def _measurable(settings: Settings, starts: Sequence[Start]) -> list[Start]:
    """The starts that train without diverging; there is a warning of the others.

    Raises AnalysisError where the first is none of them: all is compared with the head alone.
    """
    if not math.isfinite(starts[0].mean):
        raise _diverging(settings, "the head alone")
    lost = [str(start.last) for start in starts if not math.isfinite(start.mean)]
    if lost:
        warnings.warn(
            f"training the biases of the last {', '.join(lost)} blocks diverges, so these are left "
            f"out of what may be chosen; with a smaller learning rate than {settings.recipe.lr} "
            "they may train",
            stacklevel=5,
        )
    return [start for start in starts if math.isfinite(start.mean)]


def _check_varies(
    settings: Settings, starts: Sequence[Start], deltas: Iterable[Sequence[float]]
) -> None:
    """Raises AnalysisError where no training, of biases or of a tensor, changed the metric."""
    biases_count = len({start.scores for start in starts}) > 1
    if not biases_count and not any(delta for found in deltas for delta in found):
        raise AnalysisError(
            f"the metric {settings.metric!r} is {starts[0].scores[0]} whatever is trained, so "
            "nothing can be compared; use another learning rate than "
            f"{settings.recipe.lr}, or check the labels"
        )


def _diverging(settings: Settings, what: str) -> AnalysisError:
    return AnalysisError(
        f"training {what} diverges, so the {settings.metric} cannot be measured; use a smaller "
        f"learning rate than {settings.recipe.lr}, or look for bad values in the data"
    )


def _warn_of_noise(analysis: Analysis) -> None:
    """Warns where no contribution can be told from zero."""
    intervals = [analysis.interval(c) for c in analysis.contributions]
    if intervals and all(i.low <= 0 <= i.high for i in intervals):
        narrow = min(intervals, key=lambda i: i.high - i.low)
        half = (narrow.high - narrow.low) / 2
        warnings.warn(
            f"no contribution can be told from zero: at best they are known to ±{half:.3f} of "
            f"{analysis.settings.metric}, with {analysis.settings.validation_samples} validation "
            f"samples and {len(analysis.settings.seeds)} seeds; give more data",
            stacklevel=3,
        )
