"""`pockengine analyze`"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from pockengine.analysis.contribution import analyze as measure
from pockengine.analysis.estimate import estimate
from pockengine.analysis.proxies import FROM_WEIGHTS, PROXIES
from pockengine.analysis.report import write_report
from pockengine.analysis.result import Analysis
from pockengine.analysis.statistics import CONFIDENCE
from pockengine.cli.data import Data, Reading
from pockengine.cli.load import find_model, make_optimizer
from pockengine.cli.options import (
    Config,
    Dim,
    Json,
    Loss,
    Model,
    OptimizerWords,
    Workers,
    with_options,
)
from pockengine.cli.progress import kept_in, shown, stage
from pockengine.data.dataset import Dataset
from pockengine.errors import InputError
from pockengine.extras import require
from pockengine.ir.graph import Graph

SHOWN = 12  # contributions
Sets = tuple[Dataset, Dataset | None]


@dataclass(frozen=True)
class Trials:
    """How the model is trained to measure what training brings."""

    loss: Loss = "cross_entropy"
    optimizer: OptimizerWords = "sgd:momentum=0.9"
    lr: Annotated[float, typer.Option(min=0.0, help="The rate that each trial begins with.")] = 0.01
    batch: Annotated[int, typer.Option(min=1, help="Samples in a step.")] = 16
    metric: Annotated[
        str | None, typer.Option(help="accuracy or loss; default: accuracy where there is one.")
    ] = None
    fast: Annotated[
        bool, typer.Option("--fast", help="Fewer samples, steps and seeds: wider intervals.")
    ] = False
    proxy: Annotated[
        str | None,
        typer.Option(help=f"Estimate in seconds instead, by {', '.join(PROXIES)}."),
    ] = None
    seed: Annotated[int, typer.Option(min=0, help="The first seed.")] = 0
    workers: Workers = None

    def measured(self, graph: Graph, sets: Sets, folder: Path) -> Analysis:
        """Contributions by training. Ctrl-C leaves what was measured in the folder."""
        with kept_in(folder), shown() as tell:
            return measure(
                graph,
                *sets,
                **self._shared(),
                lr=self.lr,
                metric=self.metric,
                fast=self.fast,
                folder=folder,
                workers=self.workers,
                progress=tell,
            )

    def estimated(self, graph: Graph, sets: Sets, proxy: str) -> Analysis:
        """Contributions by a proxy. Raises InputError for options that it has no use for."""
        if self.metric or self.fast or sets[1]:
            raise InputError(
                "a proxy trains nothing and judges by nothing: leave out --metric, --fast and "
                "--validation, or leave out --proxy"
            )
        with shown() as tell:
            from_data = "" if proxy in FROM_WEIGHTS else " and the gradients of a few batches"
            tell(stage(f"estimating by {proxy}, from the weights{from_data}"))
            return estimate(graph, sets[0], proxy, **self._shared())

    def _shared(self) -> dict[str, Any]:
        optimizer = make_optimizer(self.optimizer)
        return {
            "loss": self.loss,
            "optimizer": optimizer,
            "batch": self.batch,
            "seed": self.seed,
        }


@with_options
def analyze(
    model: Model,
    data: Data,
    reading: Reading,
    trials: Trials,
    dim: Dim = None,
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
    require_packages(measured=not trials.proxy, drawn=report is not None)
    graph = find_model(model, dim).load()
    sets = reading.sets(data, graph)
    if trials.proxy:
        found = trials.estimated(graph, sets, trials.proxy)
    else:
        found = trials.measured(graph, sets, folder or out.with_suffix(".work"))
    found.save(out)
    if report:
        write_report(report, found)
    if as_json:
        typer.echo(json.dumps(_facts(found, out)))
        return
    _show(found)
    how = "estimated" if found.settings.estimated else "measured"
    long = found.seconds >= 120
    taken = f"{found.seconds / 60:.1f} minutes" if long else f"{found.seconds:.0f} seconds"
    typer.echo(f"{out}: {how} in {taken}.")


def require_packages(measured: bool, drawn: bool) -> None:
    """Before anything is measured: what is missing is said at once, not after minutes of work."""
    if measured:
        require("scipy.stats", "SciPy", "analysis", "an analysis")
    if drawn:
        require("jinja2", "Jinja2", "analysis", "a report")
        require("matplotlib", "Matplotlib", "analysis", "a report")


def _facts(found: Analysis, out: Path) -> dict[str, Any]:
    return {
        "file": str(out),
        "metric": found.settings.metric,
        "seconds": found.seconds,
        "last": found.last,
        "gains": [[name, ratio, gain] for (name, ratio), gain in found.gains.items()],
    }


def _show(found: Analysis) -> None:
    """The best contributions; estimates have no interval."""
    table = Table(title=f"What training brings, in {found.settings.metric}")
    measured = not found.settings.estimated
    more = (f"{100 * CONFIDENCE:.0f} % interval", "seeds") if measured else ()
    for heading in ("tensor", "share", "gain", *more):
        table.add_column(heading, justify="left" if heading == "tensor" else "right")
    gains = found.gains
    for c in sorted(found.contributions, key=lambda c: -gains[c.name, c.ratio])[:SHOWN]:
        at = found.interval(c)
        spread = (f"{at.low:+.4f} to {at.high:+.4f}", str(at.count)) if measured else ()
        table.add_row(c.name, f"{c.ratio:g}", f"{gains[c.name, c.ratio]:+.4g}", *spread)
    if measured:
        table.caption = f"beside {found.start}"
    Console(width=120).print(table)
    if found.caveat:
        typer.echo(found.caveat)
