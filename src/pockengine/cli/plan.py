"""`pockengine plan`"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from pockengine.cli.options import Config, JobOptions, Json, job_verb
from pockengine.compiler import Planned, plan_job
from pockengine.errors import InputError
from pockengine.plan import report


@job_verb
def plan(
    options: JobOptions,
    layers: Annotated[
        bool, typer.Option("--layers", help="FLOPs and bytes of each layer.")
    ] = False,
    picture: Annotated[
        Path | None, typer.Option(help="Draw the memory of a step into this .svg file.")
    ] = None,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Show what training would take, to the byte, without compiling anything."""
    planned = plan_job(options.job())
    if picture:
        _draw(planned, picture)
    if as_json:
        typer.echo(json.dumps(_facts(planned)))
        return
    typer.echo(planned.job.scheme.describe(planned.job.graph))
    typer.echo(f"stored as {planned.job.precision}")
    typer.echo(f"\n{report.table(planned.plan)}")
    typer.echo(report.timeline_text(planned.plan, "train"))
    if layers:
        typer.echo(report.layer_table(planned.plan.entries["train"].schedule))


def _draw(planned: Planned, path: Path) -> None:
    if path.suffix != ".svg":
        raise InputError(f"the picture is drawn as .svg, got {path}.")
    path.write_text(report.timeline_svg(planned.plan, "train"))


def _facts(planned: Planned) -> dict[str, Any]:
    plan = planned.plan
    peak = {report.LABELS[k]: size for k, size in report.peak_by_kind(plan, "train").items()}
    rows = report.layers(plan.entries["train"].schedule)
    return {
        "trained": json.loads(planned.job.scheme.to_json())["parameters"],
        "precision": planned.job.precision,
        "planned_peak_bytes": plan.peak_bytes,
        "lower_bound_bytes": plan.lower_bound,
        "extra_training_bytes": report.extra_training_bytes(plan),
        "at_peak": peak,
        "layers": [asdict(row) | {"weights": row.weights} for row in rows],
    }
