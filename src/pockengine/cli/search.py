"""`pockengine search`"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from pockengine.analysis.calibrate import calibrate
from pockengine.analysis.check import Check, check, check_comparable
from pockengine.analysis.report import SearchReport, presets_beside, write_report
from pockengine.analysis.result import Analysis
from pockengine.analysis.search import FoundScheme
from pockengine.analysis.searcher import Searcher
from pockengine.cli.analyze import require_packages
from pockengine.cli.data import Reading
from pockengine.cli.load import find_model
from pockengine.cli.options import Config, Dim, Json, Model, Workers, with_options
from pockengine.cli.progress import Tell, counted, kept_in, native_prints_aside, shown, stage
from pockengine.data.dataset import Dataset
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


@dataclass(frozen=True)
class Checking:
    """Whether the scheme is trained for real, and where."""

    check: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA",
            help="Train the scheme on the analysis's samples, and compare with the prediction; "
            "give --validation and the like as to `analyze`.",
        ),
    ] = None
    folder: Annotated[
        Path | None,
        typer.Option(help="Keeps what --check trains; default: the analysis's own, ANALYSIS.work."),
    ] = None
    workers: Workers = None

    def sets(self, reading: Reading, known: Analysis) -> Sequence[Dataset]:
        """The samples to check with, none where nothing is checked. Raises what reading them does,
        and AnalysisError where they are not the analysis's.
        """
        if self.check is None:
            return []
        found = [data for data in reading.sets(self.check, known.known_graph) if data is not None]
        check_comparable(known.settings, found)
        return found

    def trained(
        self, known: Analysis, found: FoundScheme, sets: Sequence[Dataset], folder: Path
    ) -> Check:
        """The scheme trained for real."""
        place = self.folder or folder
        with kept_in(place), shown() as tell:
            return check(known, found, *sets, folder=place, workers=self.workers, progress=tell)


@with_options
def search(
    model: Model,
    analysis: Annotated[Path, typer.Argument(help="What `pockengine analyze` wrote.")],
    budgets: Budgets,
    reading: Reading,
    checking: Checking,
    dim: Dim = None,
    out: Annotated[Path, typer.Option(help="The scheme to write.")] = Path("scheme.json"),
    report: Annotated[Path | None, typer.Option(help="An HTML page to write.")] = None,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Find the scheme that brings the most within a memory and a time budget."""
    require_packages(measured=True, drawn=report is not None)
    known = Analysis.load(analysis, find_model(model, dim).load())
    sets = checking.sets(reading, known)
    with shown() as tell, native_prints_aside():
        timed = budgets.step_ms is not None or report is not None
        searcher = _searcher(known, budgets, tell, timed)
        tell(stage("looking for the best scheme"))
        found = searcher.find(budgets.memory, budgets.step_ms)
    write_atomically(out, found.to_json().encode())
    checked = checking.trained(known, found, sets, analysis.with_suffix(".work")) if sets else None
    if report:
        with shown() as tell:
            tell(stage("drawing the page, presets beside the scheme"))
            beside = presets_beside(known, searcher)
            facts = SearchReport(found, searcher.space, searcher.job, beside, checked)
            write_report(report, known, facts)
    if as_json:
        typer.echo(json.dumps(_facts(found, out, checked)))
        return
    _show(known, found, checked)
    job = searcher.job
    typer.echo(f"{out}: use it with --scheme {out} --batch {job.batch}, and train as here:")
    typer.echo(f"{job.optimizer}")


def _searcher(known: Analysis, budgets: Budgets, tell: Tell, timed: bool) -> Searcher:
    """Plans what tensors take, and measures how long steps take here, where that is asked for."""
    target, times = Target.host(threads=budgets.threads), None
    if timed:
        job = known.settings.job(known.known_graph, target, budgets.batch)
        times = calibrate(job, progress=counted(tell, "timing programs on this machine"))
    tell(stage("planning what each tensor takes"))
    return known.searcher(target=target, batch=budgets.batch, times=times)


def _show(known: Analysis, found: FoundScheme, checked: Check | None) -> None:
    typer.echo(f"{found.explain()}\n\n{found.describe(known.known_graph)}")
    if known.caveat:
        typer.echo(f"\n{known.caveat}")
    if checked:
        typer.echo(f"\nTrained for real, beside the head alone: {checked}.")


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
