"""An HTML page of an analysis: one file, its figures inside, nothing loaded from anywhere."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pockengine.analysis import plots
from pockengine.analysis.candidates import candidates
from pockengine.analysis.check import Check
from pockengine.analysis.result import Analysis
from pockengine.analysis.search import FoundScheme, RatedScheme
from pockengine.analysis.searcher import Searcher
from pockengine.analysis.space import Space
from pockengine.analysis.statistics import CONFIDENCE
from pockengine.compiler import plan_job
from pockengine.errors import SchemeError
from pockengine.extras import require
from pockengine.files import write_atomically
from pockengine.job import Job
from pockengine.plan.picture import most_alive, timeline_svg
from pockengine.presets import NAMES
from pockengine.scheme import UpdateScheme


@dataclass(frozen=True)
class SearchReport:
    """What a search found, for the page: beside what, out of which space, and how it trained."""

    found: FoundScheme
    space: Space
    job: Job
    beside: Mapping[str, RatedScheme] = field(default_factory=dict)  # presets and the like, by name
    check: Check | None = None


def presets_beside(analysis: Analysis, searcher: Searcher) -> dict[str, RatedScheme]:
    """What presets are predicted to bring, and cost: those that find weights to train here."""
    graph, found = searcher.job.graph, {}
    weights = {candidate.name for candidate in candidates(graph)}
    for name in NAMES:
        with suppress(SchemeError):
            scheme = UpdateScheme.preset(graph, name)
            if weights & scheme.shares.keys():
                found[name] = RatedScheme(scheme, analysis.predict(scheme), searcher.oracle(scheme))
    return found


def write_report(path: str | Path, analysis: Analysis, search: SearchReport | None = None) -> None:
    """Writes the page; it appears whole or not at all."""
    facts: dict[str, object] = {
        "settings": analysis.settings,
        "minutes": analysis.seconds / 60,
        "starts": analysis.starts,
        "start": analysis.start,
        "caveat": analysis.caveat,
        "confidence": CONFIDENCE,
        "contributions": _safe(plots.contributions(analysis)),
        "found": None,
    }
    if search is not None:
        facts |= _searched(analysis, search)
    jinja2 = require("jinja2", "Jinja2", "analysis", "a report")
    pages = jinja2.Environment(
        loader=jinja2.PackageLoader("pockengine.analysis", "."),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
    )
    text = pages.get_template("report.html").render(facts)
    write_atomically(Path(path), text.encode())


def _searched(analysis: Analysis, search: SearchReport) -> dict[str, object]:
    found = search.found
    chosen = RatedScheme(found, found.gain, found.cost)
    return {
        "found": found,
        "costs": _safe(plots.costs(search.space)),
        "trainable": found.describe(search.job.graph),
        "pareto": _safe(plots.pareto(found.front, {**search.beside, plots.CHOSEN: chosen})),
        "accuracy": _safe(_accuracy(analysis, search)),
        "memory": memory(search),
    }


def _safe(svg: str) -> Any:
    """What the page takes over as it is: our own figures, in which names are escaped."""
    return require("markupsafe", "Jinja2", "analysis", "a report").Markup(svg)


def _accuracy(analysis: Analysis, search: SearchReport) -> str:
    head = analysis.starts[0].mean
    values = {str(start): start.mean for start in (analysis.starts[0], analysis.start)}
    values["the chosen scheme, predicted"] = head + search.found.gain
    if search.check is not None:
        values["the chosen scheme, measured"] = head + search.check.measured.mean
    return plots.bars(values, analysis.settings.metric)


def memory(search: SearchReport) -> dict[str, Any]:
    """Timelines of everything trained and of the chosen scheme, with one scale."""
    schemes = {"everything trained": UpdateScheme.full(search.job.graph)}
    schemes["the chosen scheme"] = search.found
    plans = {name: plan_job(search.job.with_scheme(s)).plan for name, s in schemes.items()}
    top = max(most_alive(plan, "train") for plan in plans.values())
    return {name: _safe(timeline_svg(plan, "train", top)) for name, plan in plans.items()}
