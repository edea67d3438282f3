"""Trains the head alone and everything: `python -m benchmarks.tasks NAMES [--lr RATES] [...]`.

Prints a row for each run: accuracy on validation and test data after the last epoch.
"""

import argparse
import time
from dataclasses import replace

import pockengine as pe
from benchmarks.options import matching
from benchmarks.schemes.training import opened, trained
from benchmarks.tasks import NAMES, Task, load

SCHEMES = {"head": pe.UpdateScheme.head_only, "full": pe.UpdateScheme.full}


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.tasks", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", help="tasks, or globs of them such as 'wrist/*'")
    parser.add_argument("--lr", type=float, nargs="+", help="instead of the recipe's")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--schemes", nargs="+", choices=SCHEMES, default=list(SCHEMES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    for name in matching(parser, "task", NAMES, given.names):
        task = load(name)
        for which in given.schemes:
            for lr in given.lr or [task.lr]:
                epochs = given.epochs or task.epochs
                _run(replace(task, lr=lr, epochs=epochs), which, given)


def _run(task: Task, which: str, given: argparse.Namespace) -> None:
    start, scheme = time.perf_counter(), SCHEMES[which](task.graph)
    with opened(task, scheme, given.threads, cached=True) as session:
        run = trained(session, task, 1.0, given.seed)
    seconds = time.perf_counter() - start
    print(
        f"{task.name:26} {which:5} lr {task.lr:<7g} epochs {task.epochs:<3} "
        f"validation {run.validation:.3f}  test {run.test:.3f}  {seconds:.0f} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
