"""What an analysis found: contributions and all that is needed to repeat and to reuse it."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from pockengine import structure
from pockengine.analysis.calibrate import calibrate
from pockengine.analysis.candidates import Pair, start_scheme
from pockengine.analysis.journal import digest
from pockengine.analysis.search import FoundScheme
from pockengine.analysis.searcher import Searcher
from pockengine.analysis.splits import Sizes
from pockengine.analysis.statistics import Interval, Spread, shrunk
from pockengine.analysis.timing import Calibration
from pockengine.analysis.trials import Score, TrialRecipe
from pockengine.autodiff.objective import LOSSES, BCEWithLogits, CrossEntropy, Loss
from pockengine.data.base import Dataset
from pockengine.errors import AnalysisError, InputError
from pockengine.files import write_atomically
from pockengine.ir.graph import Graph
from pockengine.ir.text import print_graph
from pockengine.job import Job
from pockengine.optim import OPTIMIZERS, Group, Optimizer, as_optimizer
from pockengine.runtime.trainer import METRICS
from pockengine.scheme import UpdateScheme
from pockengine.target import Target

FORMAT, VERSION = "pockengine.analysis", 1


@dataclass(frozen=True)
class Settings:
    """Everything that decides what is measured."""

    model: str  # structure.structure_hash
    weights: str  # a hash of the weights
    data: tuple[str, ...]  # fingerprints, of the validation set too where there is one
    loss: Mapping[str, Any]  # the name of its class, and its fields
    optimizer: Mapping[str, Any]
    batch: int
    metric: str
    recipe: TrialRecipe
    train_samples: int
    validation_samples: int
    seeds: tuple[int, ...]
    ratios: tuple[float, ...]
    version: str  # of pockengine

    @property
    def estimated(self) -> bool:
        """Whether the metric is a proxy's, so that nothing was trained."""
        return self.metric not in METRICS

    def value(self, score: Score) -> float:
        """The metric, the larger the better; not a number where training diverged."""
        if score.diverged:
            return math.nan
        return -score.metrics["loss"] if self.metric == "loss" else score.metrics[self.metric]

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return dict(json.loads(json.dumps(asdict(self))))

    @staticmethod
    def from_json(plain: Mapping[str, Any]) -> "Settings":
        """The inverse of `to_json`."""
        lists = {k: tuple(v) for k, v in plain.items() if isinstance(v, list)}
        return Settings(**{**plain, **lists, "recipe": TrialRecipe(**plain["recipe"])})

    def job(self, graph: Graph, target: Target | None = None, batch: int | None = None) -> Job:
        """How the model is trained, for the head alone; by default on this machine."""
        loss, optimizer = _remade(LOSSES, self.loss), _remade(OPTIMIZERS, self.optimizer)
        head = UpdateScheme.head_only(graph)
        return Job.of(graph, loss, optimizer, head, batch or self.batch, target)


def settings_of(
    job: Job,
    sets: Sequence[Dataset],
    recipe: TrialRecipe,
    seeds: tuple[int, ...],
    sizes: Sizes,
    metric: str | None,
    ratios: Iterable[float],
) -> Settings:
    """The settings of an analysis. Raises InputError for a metric that the loss does not have."""
    counts = isinstance(job.loss, CrossEntropy | BCEWithLogits)
    if metric not in (None, *METRICS) or (metric == "accuracy" and not counts):
        has = "accuracy or loss" if counts else "loss alone"
        raise InputError(f"the metric of this loss may be {has}, got {metric!r}")
    return Settings(
        structure.structure_hash(job.graph),
        weights_hash(job.graph),
        tuple(data.fingerprint() for data in sets),
        as_plain(job.loss),
        as_plain(as_optimizer(job.optimizer)),
        job.batch,
        metric or ("accuracy" if counts else "loss"),
        recipe,
        sizes.train,
        sizes.validation,
        seeds,
        tuple(ratios),
        version("pockengine"),
    )


def weights_hash(graph: Graph) -> str:
    """16 hexadecimal digits that depend on the graph and on every parameter and state."""
    found = hashlib.blake2b(print_graph(graph).encode(), digest_size=8)
    for name in sorted(graph.data):
        found.update(name.encode() + np.ascontiguousarray(graph.data[name]).tobytes())
    return found.hexdigest()


def as_plain(spec: Loss | Optimizer) -> dict[str, Any]:
    """A loss or an optimizer as plain data: the name of its class, and its fields."""
    return {"class": type(spec).__name__, **json.loads(json.dumps(asdict(spec)))}


def _remade(known: Mapping[str, type[Any]], plain: Mapping[str, Any]) -> Any:
    made = {kind.__name__: kind for kind in known.values()}[plain["class"]]
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in plain.items() if k != "class"}
    if "groups" in given:
        given["groups"] = tuple(Group(**group) for group in given["groups"])
    return made(**given)


@dataclass(frozen=True)
class Start:
    """The head and the biases of the `last` blocks, and the metric after training them, by seed."""

    last: int
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.scores))

    def __str__(self) -> str:
        """What is trained, in words."""
        if not self.last:
            return "the head alone"
        blocks = "block" if self.last == 1 else f"{self.last} blocks"
        return f"the head and the biases of the last {blocks}"


@dataclass(frozen=True)
class Contribution:
    """What training a share of a tensor adds to the metric, by seed."""

    name: str
    ratio: float
    deltas: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.deltas))


@dataclass(frozen=True)
class Analysis:
    """Contributions of tensors, beside the common start with the biases of `last` blocks.

    Metrics are such that more is better: an accuracy, or a loss with its sign changed.
    """

    settings: Settings
    starts: tuple[Start, ...]
    last: int
    contributions: tuple[Contribution, ...]
    spread: Spread
    seconds: float = 0.0
    graph: Graph | None = field(default=None, compare=False, repr=False)

    @property
    def gains(self) -> dict[Pair, float]:
        """The best belief of each contribution: its mean, with the noise taken off."""
        measured = {(c.name, c.ratio): c.deltas for c in self.contributions}
        return shrunk(measured, self.spread)

    @property
    def bias_gains(self) -> dict[int, float]:
        """What the biases of the last blocks add to training the head alone."""
        return {start.last: start.mean - self.starts[0].mean for start in self.starts}

    @property
    def start(self) -> Start:
        """The common start that contributions are measured beside."""
        return next(start for start in self.starts if start.last == self.last)

    @property
    def caveat(self) -> str:
        """In words, where all gains are the same because the measurements do not differ by more
        than their noise; else nothing.
        """
        gains = set(self.gains.values())
        if len(self.contributions) < 2 or len(gains) > 1:
            return ""
        return (
            "The measurements cannot be told apart: they differ by no more than their noise, so "
            f"each tensor is believed to bring the mean of all, {gains.pop():+.4f}. More "
            "validation samples, or an analysis that is not fast, may tell them apart."
        )

    def predict(self, scheme: UpdateScheme) -> float:
        """What a scheme adds to training the head alone, by the additive model.

        Between the shares, and the numbers of last blocks, that were measured it goes along a line.
        Biases beyond those that were measured, and other tensors that were not, add nothing.
        """
        graph, gains = self.known_graph, self.gains
        biases = {
            _last_biases(graph, start_scheme(graph, last)): gain
            for last, gain in self.bias_gains.items()
        }
        total = _at(_last_biases(graph, scheme), {**biases, 0: 0.0})
        for name, channels in scheme.resolve(graph).items():
            if channels is None:
                total += gains.get((name, 1.0), 0.0)
                continue
            size = graph.params[name].shape[channels.axis]
            known = {
                max(1, math.floor(r * size + 0.5)): g for (n, r), g in gains.items() if n == name
            }
            total += _at(len(channels.indices), {0: 0.0, **known})
        return total

    def interval(self, contribution: Contribution) -> Interval:
        """The interval of a contribution."""
        return self.spread.interval(contribution.deltas)

    @property
    def known_graph(self) -> Graph:
        """The model. Raises AnalysisError where the analysis was loaded without it."""
        if self.graph is None:
            raise AnalysisError("give the model too: Analysis.load(path, graph)")
        return self.graph

    # Searching

    def search(
        self,
        memory: int | str | None = None,
        step_ms: float | None = None,
        *,
        batch: int | None = None,
        target: Target | None = None,
        times: Calibration | None = None,
    ) -> FoundScheme:
        """The scheme that brings the most within a memory budget (bytes, or words such as "64MB")
        and the milliseconds of a step.

        By default for the analysis's batch size, on this machine; with a time budget it is measured
        first, unless `times` is given. Raises MemoryBudgetError where nothing fits, with the least
        that would do.
        """
        timed = step_ms is not None
        searcher = self.searcher(batch=batch, target=target, times=times, timed=timed)
        return searcher.find(memory, step_ms)

    def searcher(
        self,
        *,
        batch: int | None = None,
        target: Target | None = None,
        times: Calibration | None = None,
        timed: bool = False,
    ) -> Searcher:
        """For several searches. `timed` measures this machine where `times` is not given."""
        job = self.settings.job(self.known_graph, target, batch)
        if times is None and timed:
            times = calibrate(job)
        return Searcher(job, self.gains, self.bias_gains, times)

    # As a file

    def save(self, path: str | Path) -> None:
        """Writes a JSON file; it appears whole or not at all."""
        document = {
            "format": FORMAT,
            "version": VERSION,
            "settings": self.settings.to_json(),
            "starts": [asdict(start) for start in self.starts],
            "last": self.last,
            "contributions": [asdict(c) for c in self.contributions],
            "spread": asdict(self.spread),
            "seconds": self.seconds,
        }
        text = json.dumps({**document, "digest": digest(document)}, indent=1)
        write_atomically(Path(path), text.encode())

    @staticmethod
    def load(path: str | Path, graph: Graph | None = None) -> "Analysis":
        """Reads what `save` wrote. With a graph, schemes can be searched for.

        Raises AnalysisError for a file that is damaged or edited, or of another model.
        """
        try:
            found = Analysis._of(_document(Path(path)), graph)
        except (KeyError, TypeError, ValueError) as error:
            raise AnalysisError(f"{path} is no analysis: {error!r} where it is read") from error
        settings = found.settings
        if graph is not None and structure.structure_hash(graph) != settings.model:
            raise AnalysisError(
                f"{path} is of another model: its structure is {settings.model}, this one's "
                f"{structure.structure_hash(graph)}; analyse this model"
            )
        return found

    @staticmethod
    def _of(document: Mapping[str, Any], graph: Graph | None) -> "Analysis":
        return Analysis(
            Settings.from_json(document["settings"]),
            tuple(Start(s["last"], tuple(s["scores"])) for s in document["starts"]),
            document["last"],
            tuple(
                Contribution(c["name"], c["ratio"], tuple(c["deltas"]))
                for c in document["contributions"]
            ),
            Spread(**document["spread"]),
            document["seconds"],
            graph,
        )


def _at(x: int, known: Mapping[int, float]) -> float:
    """The value at `x`, on the lines between what is known."""
    points = sorted(known.items())
    return float(np.interp(x, [p for p, _ in points], [value for _, value in points]))


def _last_biases(graph: Graph, scheme: UpdateScheme) -> int:
    """How many biases from the last on, those of the head aside, are in a scheme, by blocks."""
    head, count = structure.head(graph), 0
    for block in reversed(structure.blocks(graph)):
        names = [use.name for use in block.all if use.role == "bias" and use not in head]
        if not scheme.shares.keys() >= set(names):
            break
        count += len(names)
    return count


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AnalysisError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise AnalysisError(f"{path} is no analysis: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise AnalysisError(f'{path} is no analysis: expected "format": "{FORMAT}"')
    if document.get("version") != VERSION:
        came = document.get("version")
        raise AnalysisError(f"{path} has version {came!r}; this program reads {VERSION}")
    if document.pop("digest", None) != digest(document):
        raise AnalysisError(
            f"{path} was edited or damaged after it was written; run the analysis again"
        )
    return document
