"""Trains a scheme for real, in the way in which contributions were measured, and compares.

Contributions are measured one at a time, and a search adds them up. Tensors that are trained
together may bring less than the sum, or more; this says by how much.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pockengine.analysis.result import Analysis, Settings
from pockengine.analysis.search import FoundScheme
from pockengine.analysis.splits import Sizes
from pockengine.analysis.statistics import Interval
from pockengine.analysis.trials import Progress, Trial
from pockengine.analysis.workspace import workspace
from pockengine.data.dataset import Dataset, as_dataset
from pockengine.errors import AnalysisError
from pockengine.scheme import UpdateScheme
from pockengine.target import Target


@dataclass(frozen=True)
class Check:
    """What a scheme adds to training the head alone: what was predicted, and what was measured."""

    predicted: float
    measured: Interval
    scores: tuple[float, ...]  # the metric itself, by seed

    def __str__(self) -> str:
        return f"predicted {self.predicted:+.4f}, measured {self.measured}"


def check(
    analysis: Analysis,
    scheme: UpdateScheme,
    data: Any,
    validation: Any = None,
    *,
    predicted: float | None = None,
    folder: str | Path | None = None,
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Check:
    """Trains a scheme with every seed of an analysis, on the same data with the same recipe.

    `predicted` is by default what the analysis predicts. With the analysis's own `folder` the
    result is kept there. Raises AnalysisError for other data, and for an analysis by a proxy.
    """
    sets = [as_dataset(data)] + ([] if validation is None else [as_dataset(validation)])
    settings = analysis.settings
    check_comparable(settings, sets)
    if predicted is None:
        predicted = scheme.gain if isinstance(scheme, FoundScheme) else analysis.predict(scheme)
    job = settings.job(analysis.known_graph, Target.host(threads=1))
    sizes = Sizes(settings.train_samples, settings.validation_samples)
    with (
        workspace(folder, sets, settings.seeds, sizes) as place,
        place.lab(job, settings, workers, progress) as lab,
    ):
        lab.expected = len(settings.seeds)
        lab.add_program("checked", scheme)
        lab.stage = "training the scheme"
        trials = [Trial(scheme.shares, seed) for seed in settings.seeds]
        scores = [settings.value(score) for score in lab.run(trials)]
    head = analysis.starts[0].scores
    measured = analysis.spread.interval(np.subtract(scores, head).tolist())
    return Check(predicted, measured, tuple(scores))


def check_comparable(settings: Settings, sets: Sequence[Dataset]) -> None:
    """Raises AnalysisError for other data than the analysis's, and for an analysis by a proxy."""
    if settings.estimated:
        raise AnalysisError(
            f"the gains are estimated by {settings.metric}, which predicts no accuracy to compare "
            "with; measure contributions first"
        )
    if tuple(data.fingerprint() for data in sets) != settings.data:
        raise AnalysisError(
            "these are not the samples of the analysis; give the same ones, read in the same way, "
            "and the validation set too if there was one"
        )
