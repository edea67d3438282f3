"""`pockengine search`"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from pockengine.analysis.check import Check
from pockengine.analysis.check import check as train_for_real
from pockengine.analysis.report import SearchReport, presets_beside, write_report
from pockengine.analysis.result import Analysis
from pockengine.analysis.search import FoundScheme
from pockengine.cli.data import Reading
from pockengine.cli.load import find_model
from pockengine.cli.options import Config, Dim, Json, Model, Workers, with_options
from pockengine.cli.progress import shown
from pockengine.files import write_atomically
from pockengine.target import Target


@dataclass(frozen=True)
class Budgets:
    """What a scheme may take, and where it is to run."""

    memory: Annotated[
        str | None, typer.Option(help="What the whole program may take, such as 64MB.")
    ] = None
    step_ms: Annotated[
        float | None, typer.Option(min=0.0, help="What a step may take, in milliseconds.")
    ] = None
    batch: Annotated[
        int | None, typer.Option(min=1, help="Samples in a step; default: the analysis's.")
    ] = None
    threads: Annotated[int | None, typer.Option(min=1, help="Default: all processors.")] = None


@with_options
def search(
    model: Model,
    analysis: Annotated[Path, typer.Argument(help="What `pockengine analyze` wrote.")],
    budgets: Budgets,
    reading: Reading,
    check: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA",
            help="Train the scheme on the analysis's samples, and compare with the prediction; "
            "give --validation and the like as to `analyze`.",
        ),
    ] = None,
    workers: Workers = None,
    dim: Dim = None,
    out: Annotated[Path, typer.Option(help="The scheme to write.")] = Path("scheme.json"),
    report: Annotated[Path | None, typer.Option(help="An HTML page to write.")] = None,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Find the scheme that brings the most within a memory and a time budget."""
    graph = find_model(model, dim).load()
    known = Analysis.load(analysis, graph)
    timed = budgets.step_ms is not None or report is not None
    target = Target.host(threads=budgets.threads)
    searcher = known.searcher(target=target, batch=budgets.batch, timed=timed)
    found = searcher.find(budgets.memory, budgets.step_ms)
    write_atomically(out, found.to_json().encode())
    checked = None
    if check:
        with shown() as tell:
            sets = reading.sets(check, graph)
            checked = train_for_real(known, found, *sets, workers=workers, progress=tell)
    if report:
        presets = presets_beside(known, searcher)
        write_report(report, known, SearchReport(found, searcher.space, searcher.job, presets, checked))
    if as_json:
        typer.echo(json.dumps(_facts(found, out, checked)))
        return
    typer.echo(f"{found.explain()}\n\n{found.describe(graph)}")
    if checked:
        typer.echo(f"\nTrained for real, beside the head alone: {checked}.")
    job = searcher.job
    typer.echo(f"{out}: use it with --scheme {out} --batch {job.batch}, and train as here:")
    typer.echo(f"{job.optimizer}")


def _facts(found: FoundScheme, out: Path, checked: Check | None) -> dict[str, Any]:
    cost = found.cost
    facts = {
        "file": str(out),
        "gain": found.gain,
        "bound": found.bound,
        "memory_bytes": cost.memory_bytes,
        "extra_bytes": cost.extra_bytes,
        "step_ms": 1e3 * cost.step_seconds,
        "parameters": dict(found.shares),
    }
    if checked:
        at = checked.measured
        facts["measured"] = {"gain": at.mean, "interval": [at.low, at.high], "seeds": at.count}
    return facts
