"""`pockengine plan`"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from pockengine.cli.options import Config, JobOptions, Json, with_options
from pockengine.compiler import Planned, plan_job
from pockengine.errors import InputError
from pockengine.plan import report
from pockengine.plan.picture import timeline_svg
from pockengine.runtime.program import FEATURES


@with_options
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
    for entry in _shown(planned):
        calls = _calls(planned, entry)
        typer.echo("{}: {samples} samples at a time, {times} times a step".format(entry, **calls))
        typer.echo(report.timeline_text(planned.plan, entry))
        if layers:
            typer.echo(report.layer_table(planned.plan.entries[entry].schedule))


def _shown(planned: Planned) -> list[str]:
    """The entry points of a training step, in the order in which it runs them."""
    return [name for name in (FEATURES, "train") if name in planned.plan.entries]


def _calls(planned: Planned, entry: str) -> dict[str, int]:
    """How many samples an entry point computes at a time, and how often in a step."""
    samples = planned.job.samples
    if entry == FEATURES:
        samples = report.prefix_samples(planned.plan, samples) or samples
    return {"samples": samples, "times": planned.job.batch // samples}


def _draw(planned: Planned, path: Path) -> None:
    if path.suffix != ".svg":
        raise InputError(f"the picture is drawn as .svg, got {path}.")
    path.write_text(timeline_svg(planned.plan, "train"))


def _facts(planned: Planned) -> dict[str, Any]:
    plan = planned.plan
    peak = {report.LABELS[k]: size for k, size in report.peak_by_kind(plan, "train").items()}
    rows = {entry: report.layers(plan.entries[entry].schedule) for entry in _shown(planned)}
    return {
        "trained": json.loads(planned.job.scheme.to_json())["parameters"],
        "precision": planned.job.precision,
        "planned_peak_bytes": plan.peak_bytes,
        "lower_bound_bytes": plan.lower_bound,
        "extra_training_bytes": report.extra_training_bytes(plan),
        "at_peak": peak,
        "calls": {entry: _calls(planned, entry) for entry in rows},
        "layers": [
            asdict(row) | {"weights": row.weights, "entry": entry}
            for entry, found in rows.items()
            for row in found
        ],
    }
