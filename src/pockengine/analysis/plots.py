"""The figures of a report, each as an SVG element. Colours differ in lightness too."""

import io
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pockengine.analysis.result import Analysis
from pockengine.analysis.search import RatedScheme
from pockengine.analysis.space import Space
from pockengine.extras import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


SHADES = ("#b7d3ea", "#7aaed6", "#3b7fb5", "#164f7c")  # of ratios, the whole tensor darkest
RED, BESIDE = "#d1495b", "#4e5d6c"
MARKERS = "sD^vPXdp<>"  # of schemes beside the front
CHOSEN = "chosen"
ROW = 0.24  # inches that a tensor takes
METADATA = ("Creator", "Date", "Format", "Type")  # that are left out


def contributions(analysis: Analysis) -> str:
    """Mean and interval of each tensor and ratio; deeper layers below."""
    names = list(dict.fromkeys(c.name for c in analysis.contributions))
    figure = _new(figsize=(9, 1.5 + ROW * len(names)))
    axes = figure.subplots()
    ratios = sorted(analysis.settings.ratios)
    for c in analysis.contributions:
        rank = ratios.index(c.ratio) if c.ratio in ratios else len(ratios) - 1
        found, y = analysis.interval(c), names.index(c.name) - 0.3 + 0.2 * rank
        width = (
            [[found.mean - found.low], [found.high - found.mean]]
            if math.isfinite(found.low)
            else None
        )
        colour = SHADES[min(rank, len(SHADES) - 1)]
        label = f"{c.ratio:g} of the channels" if c.ratio < 1 else "whole"
        axes.errorbar(found.mean, y, xerr=width, fmt="o", ms=3, lw=1, color=colour, label=label)
    axes.axvline(0, color="black", lw=0.6)
    metric = analysis.settings.metric
    estimated = analysis.settings.estimated
    axes.set_xlabel(f"{metric}, the largest is 1" if estimated else f"change of {metric}")
    return _named_rows(figure, axes, names)


def costs(space: Space) -> str:
    """What each tensor, trained whole, adds to memory and, where steps are timed, to a step."""
    whole = [max(group, key=lambda option: option.train_bytes) for group in space.groups[1:]]
    shown = {"MB of training memory": [option.train_bytes / 1e6 for option in whole]}
    if any(option.seconds for option in whole):
        shown["ms of a step"] = [1e3 * option.seconds for option in whole]
    figure = _new(figsize=(9, 1.2 + ROW * len(whole)))
    columns = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, (label, values) in zip(columns, shown.items(), strict=True):
        axes.barh(range(len(whole)), values, color=SHADES[2])
        axes.set_xlabel(label)
    return _named_rows(figure, columns[0], [option.label for option in whole])


def pareto(front: Sequence[RatedScheme], marked: Mapping[str, RatedScheme]) -> str:
    """Predicted gain over memory, and the most in so much memory; what is marked by name, CHOSEN
    in a colour of its own, beside the front.
    """
    figure = _new(figsize=(7, 4))
    axes = figure.subplots()
    ordered = sorted(front, key=lambda p: p.cost.memory_bytes)
    memory = [p.cost.memory_bytes / 1e6 for p in ordered]
    best = itertools.accumulate((p.gain for p in ordered), max)
    axes.step(memory, [*best], where="post", color=SHADES[2], lw=1)
    times = [1e3 * p.cost.step_seconds for p in ordered]
    colours = {"c": times, "cmap": "viridis"} if any(times) else {"color": SHADES[3]}
    shown = axes.scatter(memory, [p.gain for p in ordered], zorder=3, **colours)
    if any(times):
        figure.colorbar(shown, label="ms of a step")
    handles = {}
    for (name, point), shape in zip(marked.items(), itertools.cycle(MARKERS)):
        x, y = point.cost.memory_bytes / 1e6, point.gain
        look: Any = {"marker": shape, "color": BESIDE, "markersize": 6}
        if name == CHOSEN:
            look = {"marker": "*", "color": RED, "markersize": 12}
        handles[_plain(name)] = axes.plot(x, y, linestyle="none", zorder=4, **look)[0]
    _legend(figure, handles)
    axes.set_xlabel("memory of the program, MB")
    axes.set_ylabel("predicted gain over the head alone")
    return _svg(figure)


def bars(values: Mapping[str, float], label: str) -> str:
    """One bar a name."""
    figure = _new(figsize=(7, 0.9 + 0.35 * len(values)))
    axes = figure.subplots()
    axes.barh(range(len(values)), list(values.values()), color=SHADES[2])
    for y, value in enumerate(values.values()):
        axes.annotate(f" {value:.4g}", (value, y), va="center")
    axes.margins(x=0.15)  # for the last digits
    axes.set_xlabel(label)
    return _named_rows(figure, axes, list(values))


def _new(**settings: Any) -> "Figure":
    figures = require("matplotlib.figure", "Matplotlib", "analysis", "a report")
    made: Figure = figures.Figure(layout="constrained", **settings)
    return made


def _named_rows(figure: "Figure", axes: "Axes", names: Sequence[str]) -> str:
    axes.set_yticks(range(len(names)), [*map(_plain, names)], fontsize=7)
    axes.invert_yaxis()
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(sorted(zip(labels, handles, strict=True), key=lambda pair: pair[0]))
    _legend(figure, unique)
    return _svg(figure)


def _legend(figure: "Figure", handles: Mapping[str, Any]) -> None:
    """Above the axes, where nothing is drawn."""
    if handles:
        place: Any = {"loc": "outside upper center", "ncols": 4, "fontsize": 7}
        figure.legend([*handles.values()], [*handles], **place)


def _plain(name: str) -> str:
    """A name whose dollar signs begin no formula."""
    return name.replace("$", r"\$")


def _svg(figure: "Figure") -> str:
    """The element alone, the same bytes for the same figure."""
    text = io.StringIO()
    matplotlib = require("matplotlib", "Matplotlib", "analysis", "a report")
    with matplotlib.rc_context({"svg.hashsalt": "pockengine", "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata=dict.fromkeys(METADATA))
    whole = text.getvalue()
    return whole[whole.index("<svg") :]
