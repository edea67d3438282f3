"""How long an analysis and a search take, and how far from the best a search's result is.

    python -m benchmarks.searches TASK [--fast] [--every] [--json FILE]

analyses a task (benchmarks/tasks) from nothing, then searches with nine memory budgets between the
least and what full training takes, and one of time. Each search starts without a planned scheme, as
a user's first one does. `--every` has the planner plan every scheme of the space and compares with
the best that fits; that is for spaces of some thousand schemes, such as the wrist network's.
"""

import argparse
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pockengine as pe
from benchmarks.schemes.choose import analysed
from benchmarks.summary import keep, machine
from benchmarks.tasks import NAMES, Task, load
from pockengine.analysis.calibrate import calibrate
from pockengine.analysis.cost import Cost
from pockengine.analysis.exact import gain
from pockengine.analysis.searcher import Searcher
from pockengine.analysis.space import Choice, Space
from pockengine.analysis.timing import Calibration
from pockengine.ir.graph import Graph

SHARES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)  # of the way from the head alone to full
MOST_SCHEMES = 20_000  # that --every plans


def budgets(searcher: Searcher, graph: Graph) -> list[int]:
    """Bytes between what the head alone and what everything takes."""
    least = searcher.oracle(pe.UpdateScheme.head_only(graph)).memory_bytes
    most = searcher.oracle(pe.UpdateScheme.full(graph)).memory_bytes
    return [int(least + share * (most - least)) for share in SHARES]


def searched(
    analysis: pe.Analysis,
    memory: int,
    step_ms: float | None = None,
    times: Calibration | None = None,
) -> dict[str, Any]:
    """One search from nothing, and how it went."""
    started = time.perf_counter()
    found = analysis.search(memory=memory, step_ms=step_ms, times=times)
    seconds = time.perf_counter() - started
    within = found.cost.memory_bytes <= memory
    within &= step_ms is None or 1e3 * found.cost.step_seconds <= step_ms
    return {
        "memory": memory,
        "step_ms": step_ms,
        "seconds": seconds,
        "within": within,
        "gain": found.gain,
        "bound": found.bound,
    }


def every_choice(space: Space) -> list[Choice]:
    """All schemes of a space. Raises SystemExit where they are too many to plan."""
    first, *others = space.groups
    rows = [first, *([None, *group] for group in others)]
    count = 1
    for row in rows:
        count *= len(row)
    if count > MOST_SCHEMES:
        raise SystemExit(f"the space has {count:,} schemes; --every plans {MOST_SCHEMES:,} at most")
    return [tuple(o for o in chosen if o) for chosen in itertools.product(*rows)]


def best_of(choices: Sequence[Choice], costs: Sequence[Cost], memory: int) -> float:
    """The largest gain of a scheme that the planner fits into so many bytes."""
    both = zip(choices, costs, strict=True)
    return max(gain(chosen) for chosen, cost in both if cost.memory_bytes <= memory)


def measured(task: Task, fast: bool, every: bool) -> dict[str, Any]:
    started = time.perf_counter()
    analysis = analysed(task, fast)
    found: dict[str, Any] = {"analysis_seconds": time.perf_counter() - started, "fast": fast}
    searcher = analysis.searcher()
    limits = budgets(searcher, task.graph)
    rows = [searched(analysis, memory) for memory in limits]
    if every:
        choices = every_choice(searcher.space)
        costs = searcher.oracle.many([searcher.space.scheme(chosen) for chosen in choices])
        found["schemes"] = len(choices)
        for row, memory in zip(rows, limits, strict=True):
            row["best"] = best_of(choices, costs, memory)
    return found | {"searches": [*rows, _by_time(analysis, limits[-1], task.graph)]}


def _by_time(analysis: pe.Analysis, memory: int, graph: Graph) -> dict[str, Any]:
    """A search with a budget of time: the middle of what the front's schemes take."""
    started = time.perf_counter()
    times = calibrate(analysis.settings.job(graph))
    seconds = time.perf_counter() - started
    steps = [point.cost.step_seconds for point in analysis.searcher(times=times).front]
    row = searched(analysis, memory, 1e3 * (min(steps) + max(steps)) / 2, times)
    return row | {"calibration_seconds": seconds}


def show(name: str, found: dict[str, Any]) -> None:
    kind = "fast analysis" if found["fast"] else "analysis"
    print(f"{name}: {kind} {found['analysis_seconds']:.1f} s")
    for row in found["searches"]:
        budget = f"{row['memory']:,} bytes"
        budget += f", {row['step_ms']:.3g} ms" if row["step_ms"] else ""
        best = f", best of all {row['best']:.4f}" if "best" in row else ""
        kept = "kept" if row["within"] else "NOT KEPT"
        gains = f"gain {row['gain']:.4f}, bound {row['bound']:.4f}{best}"
        print(f"  {budget}: {kept}, {gains}, {row['seconds']:.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("task", choices=NAMES)
    parser.add_argument("--fast", action="store_true", help="a shorter analysis")
    parser.add_argument("--every", action="store_true", help="plan every scheme and compare")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = measured(load(options.task), options.fast, options.every)
    show(options.task, found)
    if options.json:
        key = f"{options.task}, fast" if options.fast else options.task
        keep(options.json, key, machine(pe.Target.host().threads) | found)


if __name__ == "__main__":
    main()
