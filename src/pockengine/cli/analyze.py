"""`pockengine analyze`"""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from pockengine.analysis.contribution import analyze as measure
from pockengine.analysis.report import write_report
from pockengine.analysis.result import Analysis
from pockengine.analysis.trials import Progress
from pockengine.cli.data import Columns, Data, Mean, Reading, Std, TokenizerFile, Validation
from pockengine.cli.load import find_model, make_optimizer
from pockengine.cli.options import Config, Dim, Json, Loss, Model, OptimizerWords

SHOWN = 12  # contributions


def analyze(
    model: Model,
    data: Data,
    validation: Validation = None,
    dim: Dim = None,
    mean: Mean = "0.5",
    std: Std = "0.5",
    tokenizer: TokenizerFile = None,
    columns: Columns = "text,label",
    loss: Loss = "cross_entropy",
    optimizer: OptimizerWords = "sgd:momentum=0.9",
    lr: Annotated[
        float, typer.Option(min=0.0, help="The rate that each trial begins with.")
    ] = 0.01,
    batch: Annotated[int, typer.Option(min=1, help="Samples in a step.")] = 16,
    metric: Annotated[
        str | None, typer.Option(help="accuracy or loss; default: accuracy where there is one.")
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="Fewer samples, steps and seeds: wider intervals.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="The first seed.")] = 0,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; default: one a processor.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The .json file to write.")] = Path("analysis.json"),
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Keeps measurements, so that a stopped analysis goes on; default: OUT.work."
        ),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="An HTML page to write.")] = None,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Measure what training each tensor of a model brings, on your own samples."""
    graph = find_model(model, dim).load()
    reading = Reading(mean, std, tokenizer, columns)
    samples = reading.load(data, graph)
    judged = reading.load(validation, graph, samples.classes) if validation else None
    console = Console(stderr=True)
    with _bar(console) as bar:
        task = bar.add_task("compiling", total=None)

        def tell(at: Progress) -> None:
            bar.update(task, description=at.stage, completed=at.done, total=at.expected)

        found = measure(
            graph,
            samples,
            judged,
            loss=loss,
            optimizer=make_optimizer(optimizer),
            lr=lr,
            batch=batch,
            metric=metric,
            fast=fast,
            seed=seed,
            folder=folder or out.with_suffix(".work"),
            workers=workers,
            progress=tell,
        )
    found.save(out)
    if report:
        write_report(report, found)
    if as_json:
        facts = {"file": str(out), "seconds": found.seconds, "last": found.last}
        facts["gains"] = [[name, ratio, gain] for (name, ratio), gain in found.gains.items()]
        typer.echo(json.dumps(facts))
        return
    _show(found)
    typer.echo(f"{out}: measured in {found.seconds / 60:.1f} minutes.")


def _bar(console: Console) -> Bar:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Bar(*columns, TimeRemainingColumn(), console=console, transient=True)


def _show(found: Analysis) -> None:
    table = Table(title=f"What training brings, in {found.settings.metric}")
    for heading in ("tensor", "share", "gain", "90 % interval", "seeds"):
        table.add_column(heading, justify="left" if heading == "tensor" else "right")
    gains = found.gains
    best = sorted(found.contributions, key=lambda c: -gains[c.name, c.ratio])
    for c in best[:SHOWN]:
        at = found.interval(c)
        interval = f"{at.low:+.4f} to {at.high:+.4f}"
        gain = f"{gains[c.name, c.ratio]:+.4f}"
        table.add_row(c.name, f"{c.ratio:g}", gain, interval, str(at.count))
    caption = f"beside the head and the biases of the last {found.last} blocks"
    table.caption = caption
    Console(width=120).print(table)
