"""Trains a task with a scheme, as its recipe says, and times its steps."""

import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import numpy as np

import pockengine as pe
from benchmarks.summary import source_tree
from benchmarks.tasks import Task
from pockengine.analysis.measure import timed_calls
from pockengine.errors import NonFiniteLossError

FACTORS = (1.0, 3.0)  # of the recipe's learning rate; each scheme has the better on validation data
FEATURES = "1GB"


@dataclass(frozen=True)
class Run:
    """One training: the factor of the learning rate, the order of samples, the accuracies, and the
    sources of the package (`source_tree`).
    """

    factor: float
    seed: int
    validation: float
    test: float
    source: str = "unknown"

    def to_json(self) -> dict[str, float]:
        return asdict(self)


@contextmanager
def opened(task: Task, scheme: pe.UpdateScheme, threads: int, cached: bool) -> Iterator[pe.Session]:
    """A session for a task's recipe. `cached`: what is frozen computes a sample once."""
    program = pe.compile(
        task.graph,
        optimizer=task.optimizer,
        scheme=pe.UpdateScheme(scheme.shares),
        batch=task.batch,
        target=pe.Target.host(threads=threads),
    )
    keep = cached and program.signature.prefix is not None
    with pe.Session(program, cache=pe.FeatureCache(FEATURES) if keep else None) as session:
        yield session


def trained(session: pe.Session, task: Task, factor: float, seed: int) -> Run:
    """Trains from the model's own weights for the recipe's epochs; the last epoch counts."""
    session.reset()
    trainer = pe.Trainer(session, lr=factor * task.lr, schedule="cosine", seed=seed)
    try:
        trainer.fit(task.train, epochs=task.epochs, keep_best=False)
    except NonFiniteLossError:
        return Run(factor, seed, 0.0, 0.0, source_tree())
    scores = (trainer.evaluate(data)["accuracy"] for data in (task.validation, task.test))
    return Run(factor, seed, *scores, source_tree())


def missing_runs(runs: Sequence[Run], seeds: Sequence[int]) -> list[tuple[float, int]]:
    """What is still to be trained, as (factor, seed): the first seed with each factor comes first,
    the other seeds have the better of them.

    >>> missing_runs([], [0, 1])
    [(1.0, 0), (3.0, 0)]
    >>> missing_runs([Run(1.0, 0, 0.8, 0.8), Run(3.0, 0, 0.9, 0.7)], [0, 1])
    [(3.0, 1)]
    """
    done = {(run.factor, run.seed) for run in runs}
    first = [(factor, seeds[0]) for factor in FACTORS if (factor, seeds[0]) not in done]
    if first:
        return first
    factor = better_factor(runs, seeds[0])
    return [(factor, seed) for seed in seeds[1:] if (factor, seed) not in done]


def better_factor(runs: Sequence[Run], seed: int) -> float:
    """The one with the higher accuracy on validation data with a seed; of equals the smaller."""
    tried = [run for run in runs if run.seed == seed]
    return max(tried, key=lambda run: (run.validation, -run.factor)).factor


def counted(runs: Sequence[Run], seeds: Sequence[int]) -> list[Run]:
    """The runs of the better factor, those that the tables are made of."""
    if missing_runs(runs, seeds):
        return []
    factor = better_factor(runs, seeds[0])
    return [run for run in runs if run.factor == factor and run.seed in seeds]


def step_ms(session: pe.Session, task: Task, seconds: float = 0.5) -> float:
    """The median milliseconds of a step, all of it computed."""
    x, y = task.train.batch(np.arange(task.batch) % len(task.train))
    times = timed_calls(lambda: session.step(x, y, lr=1e-6), seconds)
    return 1e3 * statistics.median(times)
