"""How well the cost oracle knows what a scheme takes, before anything is compiled.

    python -m benchmarks.cost_oracle [--network mobilenetv2] [--schemes 200] [--timed 20] [--json F]

Random schemes: the head, from a random block on each bias with probability 0.7, and each weight
with probability 0.3 at a random ratio of its channels. The oracle's bytes are compared with the
peak of the compiled program for the first `--timed` of them, and with a plan made afresh, with all
of its checks and nothing kept from another scheme, for the rest.

Those that were compiled are timed in turns with the calibration's first program, as in the
calibration itself (pockengine/analysis/calibrate.py): a machine that got slower in the meantime is
not taken for an error. `error` is that of the estimated seconds of a step against those of the
program as users have it. Three parts of it, against a program that times its steps: `steps`, their
sum scaled as estimates are against the whole call; `looked_up`, the steps that the calibration had
measured in other programs, against themselves in this one; `modelled`, the steps that it had not.
"""

import argparse
import itertools
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pockengine as pe
from benchmarks.networks import MODELS, calibrated
from benchmarks.summary import keep, machine
from pockengine import structure
from pockengine.analysis import timing
from pockengine.analysis.calibrate import TimedProgram, as_run, calibrate, in_turns
from pockengine.analysis.candidates import RATIOS
from pockengine.analysis.cost import CostOracle
from pockengine.compiler import plan_job
from pockengine.ir.graph import Graph
from pockengine.job import Job

PARTS = ("error", "steps", "looked_up", "modelled")


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


@dataclass(frozen=True)
class Case:
    """A scheme, what the oracle says of its memory, what is so, and its programs if compiled."""

    scheme: pe.UpdateScheme
    job: Job
    oracle_bytes: int
    bytes: int
    programs: tuple[TimedProgram, TimedProgram] | None = None  # as users have it, with timed steps


def make_case(job: Job, scheme: pe.UpdateScheme, oracle_bytes: int, compiled: bool) -> Case:
    own = job.with_scheme(scheme)
    if not compiled:
        return Case(scheme, own, oracle_bytes, plan_job(own).plan.arena_bytes)
    programs = TimedProgram(own, steps=False), TimedProgram(own)
    return Case(scheme, own, oracle_bytes, programs[0].program.peak_bytes, programs)


def timings(case: Case, probe: TimedProgram, times: timing.Calibration) -> dict[str, float]:
    """Seconds of a step, estimated and measured, and the relative errors."""
    assert case.programs
    plain, own = (as_run(p, in_turns(probe, p), times.probe) for p in case.programs)
    estimated = CostOracle(case.job, times)(case.scheme).step_seconds
    found = {"estimated": estimated, "seconds": plain.call, "error": estimated / plain.call - 1}
    return found | parts(own, times)


def parts(run: timing.Run, times: timing.Calibration) -> dict[str, float]:
    """Where an error comes from."""
    sums = {known: np.zeros(2) for known in (True, False)}  # seconds here, and as estimated
    for name, runs in timing.runs_of(run.plan, run.job).items():
        for step in run.steps[name]:
            sums[times.knows(step)] += runs * np.array([step.seconds, times.estimate(step)])
    own = sum(float(s[0]) for s in sums.values())
    found = {"steps": (times.fixed + times.factor * own) / run.call - 1}
    for name, (here, estimated) in zip(("looked_up", "modelled"), sums.values(), strict=True):
        if here:
            found |= {name: estimated / here - 1, f"{name}_share": here / own}
    return found


def query_times(job: Job, schemes: Sequence[pe.UpdateScheme]) -> list[float]:
    """The seconds of each query of an oracle that starts with nothing."""
    oracle = CostOracle(job, processes=1)
    found = []
    for scheme in schemes:
        start = time.perf_counter()
        oracle(scheme)
        found.append(time.perf_counter() - start)
    return found


def prepare(options: argparse.Namespace) -> tuple[Job, list[Case]]:
    """The random schemes, planned and some of them compiled."""
    job = make_job(options.network, options.batch, options.threads)
    rng = random.Random(options.seed)
    schemes = [random_scheme(job.graph, rng) for _ in range(options.schemes)]
    costs = CostOracle(job).many(schemes)
    each = enumerate(zip(schemes, costs, strict=True))
    return job, [make_case(job, s, c.memory_bytes, n < options.timed) for n, (s, c) in each]


def timed_rows(job: Job, cases: Sequence[Case]) -> list[dict[str, float]]:
    """Calibrates, and times the programs of the cases."""
    times = calibrate(job)
    probed = timing.calibration_schemes(job.graph)[0]
    with TimedProgram(job.with_scheme(probed)) as probe:
        return [timings(case, probe, times) for case in cases if case.programs]


def report(
    cases: Sequence[Case], timed: Sequence[dict[str, float]], queries: Sequence[float]
) -> dict[str, Any]:
    rows = [
        {"tensors": len(c.scheme.shares), "oracle_bytes": c.oracle_bytes, "bytes": c.bytes}
        for c in cases
    ]
    found: dict[str, Any] = {
        "schemes": len(cases),
        "equal_bytes": sum(c.oracle_bytes == c.bytes for c in cases),
        "of_these_compiled": sum(c.programs is not None for c in cases),
        "of_these_planned_afresh": sum(c.programs is None for c in cases),
        "query_ms_median": 1e3 * statistics.median(queries),
        "query_ms_p90": 1e3 * float(np.quantile(queries, 0.9)),
    }
    for part in PARTS if timed else ():
        signed = [row[part] for row in timed if part in row]
        sizes = np.abs(signed)
        found[part] = {
            "median": float(np.median(sizes)),
            "p90": float(np.quantile(sizes, 0.9)),
            "signed_median": float(np.median(signed)),
        }
    if timed:
        shares = [row.get("modelled_share", 0.0) for row in timed]
        found["modelled_share"] = float(np.median(shares))
    return found | {"rows": [r | t for r, t in itertools.zip_longest(rows, timed, fillvalue={})]}


def show(found: dict[str, Any]) -> None:
    for name, value in found.items():
        if isinstance(value, dict):
            text = ", ".join(f"{key} {100 * number:.1f} %" for key, number in value.items())
            print(f"{name:24} {text}")
        elif name != "rows":
            print(f"{name:24} {value:.4g}" if isinstance(value, float) else f"{name:24} {value}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--network", default="mobilenetv2", choices=list(MODELS))
    parser.add_argument("--schemes", type=int, default=200)
    parser.add_argument("--timed", type=int, default=20, help="how many are compiled, timed")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    job, cases = prepare(options)
    queries = query_times(job, [case.scheme for case in cases[:40]])
    found = report(cases, timed_rows(job, cases) if options.timed else [], queries)
    show(found)
    if options.json:
        settings = {"batch": options.batch, "seed": options.seed, **machine(options.threads)}
        keep(options.json, options.network, settings | found)


if __name__ == "__main__":
    main()
