"""`pockengine compile`"""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from pockengine.cli.options import Config, JobOptions, Json, with_options
from pockengine.compiler import build, plan_job
from pockengine.plan import report


@with_options
def compile_(
    options: JobOptions,
    out: Annotated[Path, typer.Option(help="The .pock file to write.")] = Path("model.pock"),
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Compile a model's training step into a .pock file."""
    started = time.perf_counter()
    job = options.job()
    if not as_json:
        typer.echo(job.scheme.describe(job.graph))
    program = build(plan_job(job))
    program.save(out)
    seconds, size = time.perf_counter() - started, out.stat().st_size
    if as_json:
        peak = program.peak_bytes
        facts = {"file": str(out), "bytes": size, "planned_peak_bytes": peak, "seconds": seconds}
        typer.echo(json.dumps(facts))
        return
    typer.echo(f"\n{report.table(program.plan)}")
    typer.echo(f"{out}: {size:,} bytes, compiled in {seconds:.1f} s.")
