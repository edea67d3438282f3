"""What a searched scheme is worth: accuracy, memory and step time beside other schemes.

    python -m benchmarks.update_schemes ['wrist/*' ...] [--fast] [--seeds 3] [--out FILE]
    python -m benchmarks.update_schemes --times          the steps alone; nothing else may run
    python -m benchmarks.update_schemes --render         writes the tables of docs/update_schemes.md

For each task: an analysis, a search with a fifth of the extra memory that full training takes, and
trainings with the scheme found and with those it is compared with. Everything is kept as it comes,
analyses in the cache folder and figures in FILE, and is not done again. The accuracies are those of
test data, which neither the analysis nor the choice of a learning rate has seen.
"""

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pockengine as pe
from benchmarks.options import matching
from benchmarks.schemes import tables
from benchmarks.schemes.choose import THREADS, Chooser, analysed
from benchmarks.schemes.record import Figures, Record, described, tasks_of
from benchmarks.schemes.training import opened, step_ms
from benchmarks.tasks import NAMES, Task, load
from pockengine.analysis import channels, proxies
from pockengine.analysis.candidates import candidates
from pockengine.analysis.check import check
from pockengine.analysis.trials import Progress
from pockengine.files import cache_dir
from pockengine.ir.graph import Graph

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "update_schemes.json"
SHARE = 1 / 5  # of the extra memory that full training takes
MAIN = ("full", "searched", "head", "biases", "last", "random")
MORE = ("reused", "by gradient", "by chance")  # another analysis; other channels
SIMPLE: Mapping[str, Callable[[Graph], pe.UpdateScheme]] = {
    "full": pe.UpdateScheme.full,
    "head": pe.UpdateScheme.head_only,
    "biases": lambda graph: pe.UpdateScheme.head_only(graph) | pe.UpdateScheme.biases(graph),
}


@dataclass(frozen=True)
class Options:
    """How much is done."""

    seeds: tuple[int, ...]
    methods: tuple[str, ...]
    fast: bool
    metric: str
    workers: int


class Comparison:
    """One task, as far as it has come."""

    def __init__(self, task: Task, record: Record, options: Options) -> None:
        self.task, self._record, self._options = task, record, options
        self.figures = record.task(task)
        self._folder = _folder(task, options)

    def run(self) -> None:
        self._judge_analysis()
        rows = [self._row(method) for method in self._options.methods if self._has(method)]
        with ThreadPoolExecutor(self._options.workers) as pool:
            train, seeds = self._record.train, self._options.seeds
            for done in [pool.submit(train, self.task, row, seeds) for row in rows]:
                done.result()

    def _has(self, method: str) -> bool:
        return method != "reused" or self._other() is not None

    # the analysis

    @cached_property
    def analysis(self) -> pe.Analysis:
        """Measured once, and kept."""
        path = self._folder / "analysis.json"
        if path.exists():
            return pe.Analysis.load(path, self.task.graph)
        options, stages = self._options, _Stages(self.task.name)
        found = analysed(self.task, options.fast, options.metric, self._folder, stages)
        found.save(path)
        return found

    @cached_property
    def chooser(self) -> Chooser:
        return Chooser(self.task, SHARE)

    def _judge_analysis(self) -> None:
        """Its time, and how well the proxies agree with it."""
        if "analysis" in self.figures:
            return
        task, found = self.task, candidates(self.task.graph)
        gradients = proxies.gradients(task.graph, task.train, found, batch=task.batch)
        scores = proxies.scores(task.graph, found, gradients)
        self.figures["analysis"] = {
            "seconds": round(self.analysis.seconds, 1),
            "fast": self._options.fast,
            "metric": self.analysis.settings.metric,
            "biases": self.analysis.last,
            "agreement": proxies.agreement(self.analysis, scores),
        }
        self._record.save()

    # the schemes

    def _row(self, method: str) -> Figures:
        """The figures of a scheme, which is chosen where it has not been."""
        rows = self.figures["schemes"]
        if method not in rows:
            started = time.perf_counter()
            schemes = self._chosen(method)
            rows[method] = {
                "shares": [scheme.shares for scheme in schemes],
                "extra_bytes": max(self.chooser.oracle(s).extra_bytes for s in schemes),
                "memory_bytes": max(self.chooser.oracle(s).memory_bytes for s in schemes),
                "seconds": round(time.perf_counter() - started, 1),
            }
            self._record.save()
        row: Figures = rows[method]
        return row

    def _chosen(self, method: str) -> list[pe.UpdateScheme]:
        """One scheme, or one for each seed."""
        graph, seeds = self.task.graph, self._options.seeds
        if method in SIMPLE:
            return [SIMPLE[method](graph)]
        if method == "searched":
            return [self._searched()]
        if method == "reused":
            other = self._other()
            assert other is not None
            return [self.chooser.searched(other.gains, other.bias_gains)]
        best = pe.UpdateScheme(self._row("searched")["shares"][0])
        limit = self._row("searched")["extra_bytes"]
        if method == "last":
            return [self.chooser.last(limit)]
        if method == "random":
            return [self.chooser.random(limit, seed) for seed in seeds]
        if method == "by chance":
            return [channels.by_chance(graph, best, seed) for seed in seeds]
        return [self._by_gradient(best)]

    def _searched(self) -> pe.UpdateScheme:
        """The search's result; it is trained as the analysis does, beside what was predicted."""
        found = self.chooser.searched(self.analysis.gains, self.analysis.bias_gains)
        task = self.task
        came = check(self.analysis, found, task.train, task.validation, folder=self._folder)
        low, high = came.measured.low, came.measured.high
        self.figures["check"] = {
            "predicted": found.gain,
            "bound": found.bound,
            "measured": came.measured.mean,
            "interval": [low, high],
        }
        return found

    def _by_gradient(self, scheme: pe.UpdateScheme) -> pe.UpdateScheme:
        task = self.task
        found = tuple(c for c in candidates(task.graph) if c.name in scheme.shares)
        gradients = proxies.gradients(task.graph, task.train, found, batch=task.batch)
        scores = proxies.channel_scores(gradients, task.graph)
        return channels.by_score(task.graph, scheme, scores)

    def _other(self) -> pe.Analysis | None:
        """The analysis of the task before this one in the family, of the last for the first."""
        names = [n for n in NAMES if n.startswith(self.task.family + "/")]
        known = [n for n in names if n in tasks_of(self._record.figures, self.task.family)]
        if len(known) < 2:
            return None
        other = known[known.index(self.task.name) - 1]
        path = _folder(load(other), self._options) / "analysis.json"
        return pe.Analysis.load(path, self.task.graph) if path.exists() else None

    # times

    def time_steps(self) -> None:
        """Of every scheme that has none yet; the first one's where there are several."""
        for name, row in self.figures["schemes"].items():
            if name in self._options.methods and "step_ms" not in row:
                scheme = pe.UpdateScheme(row["shares"][0])
                with opened(self.task, scheme, THREADS, cached=False) as session:
                    row["step_ms"] = round(step_ms(session, self.task), 3)
                print(f"{self.task.name:26} {name:12} {row['step_ms']:8.2f} ms", flush=True)
                self._record.save()


def _folder(task: Task, options: Options) -> Path:
    """Where a task's analysis is kept, apart from those with other settings."""
    settings = json.dumps([described(task), options.fast, options.metric])
    key = hashlib.blake2b(settings.encode(), digest_size=6).hexdigest()
    return cache_dir() / "analyses" / f"{task.name.replace('/', '-')}-{key}"


class _Stages:
    """Prints a line for each stage of an analysis."""

    def __init__(self, name: str) -> None:
        self._name, self._last = name, ""

    def __call__(self, progress: Progress) -> None:
        if progress.stage != self._last:
            self._last = progress.stage
            print(f"{self._name:26} {progress.stage}: {progress.seconds_left:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks.update_schemes", description=__doc__.splitlines()[0]
    )
    parser.add_argument("tasks", nargs="*", default=["*"], help="or globs of them")
    parser.add_argument("--fast", action="store_true", help="shorter analyses")
    parser.add_argument("--metric", choices=("accuracy", "loss"), default="loss")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=THREADS, help="trainings at a time")
    parser.add_argument("--methods", nargs="+", choices=(*MAIN, *MORE), default=[*MAIN, *MORE])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--times", action="store_true", help="measure steps, train nothing")
    parser.add_argument("--render", action="store_true", help="write the tables, train nothing")
    given = parser.parse_args()
    record = Record(given.out)
    if given.render:
        tables.write(record.figures)
        return
    seeds = tuple(range(given.seeds))
    options = Options(seeds, tuple(given.methods), given.fast, given.metric, given.workers)
    for name in matching(parser, "task", NAMES, given.tasks):
        comparison = Comparison(load(name), record, options)
        if given.times:
            comparison.time_steps()
        else:
            comparison.run()
            print(tables.line(name, comparison.figures), flush=True)


if __name__ == "__main__":
    main()
