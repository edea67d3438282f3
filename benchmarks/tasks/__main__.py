"""Trains the head alone and everything: `python -m benchmarks.tasks NAMES [--lr RATES] [...]`.

Prints a row for each run: accuracy on validation and test data after the last epoch.
"""

import argparse
import math
import time
from fnmatch import fnmatch

import numpy as np

import pockengine as pe
from benchmarks.tasks import NAMES, Task, load
from pockengine.data.base import Dataset
from pockengine.runtime.program import Array

SCHEMES = {"head": pe.UpdateScheme.head_only, "full": pe.UpdateScheme.full}


def trained(
    task: Task, scheme: pe.UpdateScheme, lr: float, epochs: int, seed: int, threads: int
) -> pe.Session:
    """A session after the task's recipe, with another rate or other epochs."""
    target = pe.Target.host(threads=threads)
    program = pe.compile(
        task.graph, optimizer=task.optimizer, scheme=scheme, batch=task.batch, target=target
    )
    cache = pe.FeatureCache("2GB") if program.signature.prefix else None
    session, rng, done = pe.Session(program, cache=cache), np.random.default_rng(seed), 0
    steps = epochs * math.ceil(len(task.train) / task.batch)
    for _ in range(epochs):
        order = rng.permutation(len(task.train))
        for first in range(0, len(order), task.batch):
            rate = lr * (1 + math.cos(math.pi * done / steps)) / 2
            _step(session, task.train, order[first : first + task.batch], rate)
            done += 1
    return session


def _step(session: pe.Session, data: Dataset, chosen: Array, rate: float) -> None:
    """One step; what is frozen computes a sample once."""
    if session.signature.prefix is None:
        session.step(*data.batch(chosen), lr=rate)
        return
    names = data.ids(chosen)
    index = dict(zip(names, chosen, strict=True))
    assert data.labels is not None
    session.step(
        lambda wanted: data.batch([index[name] for name in wanted]).x,
        data.labels[chosen],
        lr=rate,
        samples=names,
    )


def accuracy(session: pe.Session, data: Dataset) -> float:
    """The share of samples that are told right."""
    x, y = data.batch(np.arange(len(data)))
    return session.evaluate(x, y)["accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.tasks", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", help="tasks, or globs of them such as 'wrist/*'")
    parser.add_argument("--lr", type=float, nargs="+", help="instead of the recipe's")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--schemes", nargs="+", choices=SCHEMES, default=list(SCHEMES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    for name in [n for n in NAMES if any(fnmatch(n, glob) for glob in given.names)]:
        task = load(name)
        for which in given.schemes:
            for lr in given.lr or [task.lr]:
                _run(task, which, lr, given.epochs or task.epochs, given)


def _run(task: Task, which: str, lr: float, epochs: int, given: argparse.Namespace) -> None:
    start, scheme = time.perf_counter(), SCHEMES[which](task.graph)
    with trained(task, scheme, lr, epochs, given.seed, given.threads) as session:
        seconds = time.perf_counter() - start
        scores = [accuracy(session, data) for data in (task.validation, task.test)]
    print(
        f"{task.name:26} {which:5} lr {lr:<7g} epochs {epochs:<3} "
        f"validation {scores[0]:.3f}  test {scores[1]:.3f}  {seconds:.0f} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
