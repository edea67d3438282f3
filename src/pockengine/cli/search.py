"""`pockengine search`"""

import json
from pathlib import Path
from typing import Annotated

import typer

from pockengine.analysis.report import Search, write_report
from pockengine.analysis.result import Analysis
from pockengine.cli.load import find_model
from pockengine.cli.options import Config, Dim, Json, Model
from pockengine.files import write_atomically
from pockengine.target import Target


def search(
    model: Model,
    analysis: Annotated[Path, typer.Argument(help="What `pockengine analyze` wrote.")],
    memory: Annotated[
        str | None, typer.Option(help="What the whole program may take, such as 64MB.")
    ] = None,
    step_ms: Annotated[
        float | None, typer.Option(min=0.0, help="What a step may take, in milliseconds.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Samples in a step; default: the analysis's.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Default: all processors.")] = None,
    dim: Dim = None,
    out: Annotated[Path, typer.Option(help="The scheme to write.")] = Path("scheme.json"),
    report: Annotated[Path | None, typer.Option(help="An HTML page to write.")] = None,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Find the scheme that brings the most within a memory and a time budget."""
    graph = find_model(model, dim).load()
    found_before = Analysis.load(analysis, graph)
    searcher = found_before.searcher(
        target=Target.host(threads=threads), batch=batch, timed=step_ms is not None
    )
    found = searcher.find(memory, step_ms)
    write_atomically(out, found.to_json().encode())
    if report:
        write_report(report, found_before, Search(found, searcher.space, searcher.job))
    if as_json:
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
        typer.echo(json.dumps(facts))
        return
    typer.echo(found.explain())
    typer.echo(f"\n{found.describe(graph)}")
    typer.echo(f"{out}: use it with --scheme {out}.")
