"""pockengine beside its peers, on the same threads, in one interleaved run.

    python -m benchmarks [--workload ...] [--peer torch jax ...] [--rounds 5] [--json FILE]

Each contender is a process of its own; they take turns, round after round, so that a busy machine
slows all of them. Compiling is not counted. What is not installed is named and left out.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import render, summary
from benchmarks.contenders import CONTENDERS, OURS
from benchmarks.measure import run
from benchmarks.workloads import WORKLOADS

QUICK = {"workload": ["wrist-b16"], "rounds": 1, "seconds": 0.05}


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--workload", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument(
        "--peer", nargs="*", metavar="WORD", help="those with one of these words in their name"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.4, help="of timed steps in a turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw them, .svg or .png")
    parser.add_argument("--quick", action="store_true", help="one small workload, a few steps")
    options = parser.parse_args()
    if options.quick:
        vars(options).update(QUICK)
    return options


def chosen_peers(words: list[str] | None) -> list[str]:
    peers = [name for name in CONTENDERS if name != OURS]
    return [n for n in peers if words is None or any(w.lower() in n.lower() for w in words)]


def main() -> None:
    options = parsed()
    console = Console(stderr=True)
    peers = chosen_peers(options.peer)
    figures: dict[str, Any] = {**summary.provenance(), **summary.machine(options.threads)}
    figures["workloads"] = []
    for name in options.workload:
        with console.status(f"measuring {name}"):
            workers = run(name, peers, options.threads, options.rounds, options.seconds)
        found = summary.workload(name, WORKLOADS[name], workers)
        figures["workloads"].append(found)
        Console().print(render.console_table(found))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    if options.plot:
        render.plot(figures, options.plot)


if __name__ == "__main__":
    sys.exit(main())
