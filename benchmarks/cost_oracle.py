"""How well the cost oracle knows what a scheme takes, before anything is compiled.

    python -m benchmarks.cost_oracle [--network mobilenetv2] [--schemes 200] [--timed 40] [--json F]

Random schemes: the head, from a random block on each bias with probability 0.7, and each weight
with probability 0.3 at a random ratio of its channels. Each is asked of the oracle, then compiled.
The oracle's bytes must be the program's own. Some programs are timed, a few calls in turn with a
program that was timed during the calibration too, so that a machine that gets slower meanwhile is
not taken for an error; the error is that of the estimated seconds of a step.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pockengine as pe
from benchmarks.networks import MODELS, calibrated
from pockengine import structure
from pockengine.analysis import timing
from pockengine.analysis.candidates import RATIOS
from pockengine.analysis.cost import Cost, CostOracle
from pockengine.compiler import build, plan_job
from pockengine.ir.graph import Graph
from pockengine.job import Job

CALLS, ROUNDS = 4, 5
Call = Callable[[], object]


def make_job(network: str, batch: int, threads: int) -> Job:
    model = MODELS[network]
    torch.manual_seed(0)
    module = calibrated(model.make(), model.inputs(4)).eval()
    graph = pe.import_torch(module, model.inputs(2))
    target = pe.Target.host(threads=threads)
    return Job.of(graph, "cross_entropy", pe.SGD(momentum=0.9), None, batch, target)


def random_scheme(graph: Graph, rng: random.Random) -> pe.UpdateScheme:
    blocks = structure.blocks(graph)
    shares: dict[str, float] = {}
    for block in blocks[-rng.randint(1, len(blocks)) :]:
        for use in block.all:
            if rng.random() < (0.3 if use.weighted else 0.7):
                sliced = use.role == "weight" and use.axis is not None
                shares[use.name] = rng.choice(RATIOS) if sliced else 1.0
    return pe.UpdateScheme.head_only(graph) | pe.UpdateScheme(shares)


def call_of(job: Job) -> tuple[Call, int]:
    """A step of the job's program, and the program's peak in bytes."""
    program = build(plan_job(job))
    session = pe.Session(program)
    x, y = timing.random_batch(job)
    return lambda: session.step(x, y, lr=timing.RATE), program.peak_bytes


def seconds(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def warm(call: Call) -> float:
    """The seconds of a call that follows others of its kind: their caches are its own."""
    return statistics.median([seconds(call) for _ in range(CALLS)][1:])


class Reference:
    """A program that is timed throughout: how much slower is the machine than at first?"""

    def __init__(self, job: Job) -> None:
        self.call, _ = call_of(job.with_scheme(pe.UpdateScheme.head_only(job.graph)))
        self.first: list[float] = []

    def sample(self, _: int = 0) -> None:
        """Times it during the calibration."""
        self.first += [warm(self.call) for _ in range(ROUNDS)]

    def beside(self, call: Call) -> float:
        """The seconds that `call` would have taken then."""
        rounds = [(warm(self.call), warm(call)) for _ in range(ROUNDS)]
        own, other = (statistics.median(times) for times in zip(*rounds, strict=True))
        return other * statistics.median(self.first) / own


def row(job: Job, scheme: pe.UpdateScheme, cost: Cost, reference: Reference | None) -> Any:
    """What the oracle said of a scheme, and what is so."""
    call, peak = call_of(job.with_scheme(scheme))
    found = {"tensors": len(scheme.shares), "oracle_bytes": cost.memory_bytes, "bytes": peak}
    if reference:
        found |= {"estimated": cost.step_seconds, "seconds": reference.beside(call)}
    return found


def query_times(job: Job, schemes: Sequence[pe.UpdateScheme]) -> list[float]:
    """The seconds of each query of an oracle that starts with nothing."""
    oracle = CostOracle(job, processes=1)
    return [seconds(lambda s=s: oracle(s)) for s in schemes]


def report(rows: list[Any], queries: list[float], schemes: int) -> dict[str, Any]:
    timed = [r for r in rows if "seconds" in r]
    errors = [abs(r["estimated"] / r["seconds"] - 1) for r in timed]
    found: dict[str, Any] = {
        "schemes": schemes,
        "equal_bytes": sum(r["oracle_bytes"] == r["bytes"] for r in rows),
        "compiled": len(rows),
        "query_ms_median": 1e3 * statistics.median(queries),
        "query_ms_p90": 1e3 * float(np.quantile(queries, 0.9)),
    }
    if timed:
        signed = [r["estimated"] / r["seconds"] - 1 for r in timed]
        found |= {
            "timed": len(timed),
            "error_median": statistics.median(errors),
            "error_p90": float(np.quantile(errors, 0.9)),
            "error_signed_median": statistics.median(signed),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--network", default="mobilenetv2", choices=list(MODELS))
    parser.add_argument("--schemes", type=int, default=200)
    parser.add_argument("--timed", type=int, default=40, help="how many of them are timed")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    job = make_job(options.network, options.batch, options.threads)
    rng = random.Random(options.seed)
    schemes = [random_scheme(job.graph, rng) for _ in range(options.schemes)]
    times, reference = None, None
    if options.timed:
        reference = Reference(job)
        chosen = timing.calibration_schemes(job.graph)
        times = timing.calibrate(job, chosen, progress=reference.sample)
    costs = CostOracle(job, times).many(schemes)
    queries = query_times(job, schemes[:40])
    rows = []
    for number, (scheme, cost) in enumerate(zip(schemes, costs, strict=True)):
        rows.append(row(job, scheme, cost, reference if number < options.timed else None))
    found = report(rows, queries, len(schemes))
    for name, value in found.items():
        print(f"{name:20} {value:.4g}" if isinstance(value, float) else f"{name:20} {value}")
    if options.json:
        options.json.write_text(json.dumps({**vars(options), **found, "rows": rows}, default=str))


if __name__ == "__main__":
    main()
