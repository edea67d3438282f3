"""The tables of docs/update_schemes.md, from the figures of benchmarks.update_schemes."""

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import render
from benchmarks.schemes.record import runs_of
from benchmarks.schemes.training import counted

PAGE = Path(__file__).parents[2] / "docs" / "update_schemes.md"
Figures = dict[str, Any]
METHODS = ("head", "biases", "last", "random", "searched", "full")
NAMES = {
    "head": "head only",
    "biases": "all biases",
    "last": "last blocks",
    "random": "random",
    "searched": "searched",
    "full": "full",
    "reused": "of the other task's analysis",
    "by gradient": "channels by Fisher information",
    "by chance": "channels by chance",
}
RIVALS = ("biases", "last", "random")


def accuracies(row: Figures) -> list[float]:
    """On test data, in percent, by seed; nothing where the row is not complete."""
    runs = runs_of(row)
    seeds = sorted({run.seed for run in runs})
    return [100 * run.test for run in counted(runs, seeds)] if len(seeds) > 1 else []


def mean(figures: Figures, method: str) -> float | None:
    """A task's accuracy with a method."""
    found = accuracies(figures["schemes"].get(method, {}))
    return statistics.fmean(found) if found else None


def line(name: str, figures: Figures) -> str:
    """A task in one line."""
    cells = [f"{m} {_accuracy(figures['schemes'].get(m, {}))}" for m in figures["schemes"]]
    return f"{name}: " + ", ".join(cells)


def _accuracy(row: Figures) -> str:
    found = accuracies(row)
    return f"{statistics.fmean(found):.1f} ± {statistics.stdev(found):.1f}" if found else "-"


def _extra(row: Figures) -> str:
    return f"{row['extra_bytes'] / 1e6:.3g}" if row else "-"


def _ms(row: Figures) -> str:
    return f"{row['step_ms']:.3g}" if "step_ms" in row else "-"


# ---- tables --------------------------------------------------------------------------------------


def complete(figures: Figures, methods: Sequence[str] = METHODS) -> dict[str, Figures]:
    """The tasks for which all of some methods have been trained."""
    tasks = figures["tasks"].items()
    return {name: f for name, f in tasks if all(mean(f, m) is not None for m in methods)}


def by_cell(figures: Figures, cell: Any) -> str:
    """A row for each task and a column for each method; tasks on their way are there too."""
    rows = [["task", *(NAMES[m] for m in METHODS)]]
    for name, found in figures["tasks"].items():
        if found["schemes"]:
            rows.append([name, *(cell(found["schemes"].get(m, {})) for m in METHODS)])
    return render.markdown(rows)


def averages(figures: Figures) -> str:
    """By family, the means over its tasks."""
    rows = [["mean over tasks", *(NAMES[m] for m in METHODS), "extra memory, full / searched"]]
    for family, tasks in [*_families(figures), ("all", list(complete(figures).values()))]:
        cells = [f"{statistics.fmean(_means(tasks, m)):.2f}" for m in METHODS]
        rows.append([f"{family} ({len(tasks)})", *cells, f"{_ratio(tasks):.1f}x"])
    return render.markdown(rows)


def _families(figures: Figures) -> Iterator[tuple[str, list[Figures]]]:
    found = complete(figures).values()
    for family in dict.fromkeys(f["family"] for f in found):
        yield family, [f for f in found if f["family"] == family]


def _means(tasks: Sequence[Figures], method: str) -> list[float]:
    return [m for f in tasks if (m := mean(f, method)) is not None]


def _ratio(tasks: Sequence[Figures]) -> float:
    """Full's extra memory over the searched scheme's: the geometric mean."""
    sizes = [(f["schemes"]["full"], f["schemes"]["searched"]) for f in tasks]
    return statistics.geometric_mean(a["extra_bytes"] / b["extra_bytes"] for a, b in sizes)


def summary(figures: Figures) -> str:
    """What the searched scheme loses against full, and gains on its rivals."""
    tasks = list(complete(figures).values())
    if not tasks:
        return "Nothing has been measured.\n"
    lines = [
        f"{len(tasks)} tasks. Searched less full: {_difference(tasks, 'full')} points on average; "
        f"extra memory {_ratio(tasks):.1f} times less (at least {_least_ratio(tasks):.1f} times)."
    ]
    for rival in RIVALS:
        lines.append(
            f"Searched less {NAMES[rival]}: {_difference(tasks, rival)} points on average; better "
            f"on {_wins(tasks, rival)} tasks, worse on {_losses(tasks, rival)}."
        )
    return "".join(f"- {text}\n" for text in lines)


def differences(tasks: Sequence[Figures], method: str, of: str = "searched") -> list[float]:
    """Points by which one scheme is ahead of another, by task."""
    pairs = zip(_means(tasks, of), _means(tasks, method), strict=True)
    return [a - b for a, b in pairs]


def _difference(tasks: Sequence[Figures], method: str, of: str = "searched") -> str:
    return f"{statistics.fmean(differences(tasks, method, of)):+.2f}"


def _wins(tasks: Sequence[Figures], method: str) -> int:
    return sum(d > 0 for d in differences(tasks, method))


def _losses(tasks: Sequence[Figures], method: str) -> int:
    return sum(d < 0 for d in differences(tasks, method))


def _least_ratio(tasks: Sequence[Figures]) -> float:
    return min(_ratio([task]) for task in tasks)


def compared(figures: Figures, methods: Sequence[str]) -> str:
    """The searched scheme beside others, and the mean difference to it."""
    chosen = complete(figures, ["searched", *methods])
    if not chosen:
        return "Nothing has been measured.\n"
    rows = [["task", "searched", *(NAMES[m] for m in methods)]]
    for name, found in chosen.items():
        rows.append([name, *(_accuracy(found["schemes"][m]) for m in ("searched", *methods))])
    tasks = list(chosen.values())
    rows.append(["mean difference", "", *(_difference(tasks, "searched", m) for m in methods)])
    return render.markdown(rows)


def analyses(figures: Figures) -> str:
    """The proxies' rank correlation, and the gain predicted and measured."""
    tasks = {n: f for n, f in figures["tasks"].items() if "analysis" in f}
    if not tasks:
        return "Nothing has been measured.\n"
    names = list(next(iter(tasks.values()))["analysis"]["agreement"])
    rows = [["task", *(n.replace("_", " ") for n in names), "predicted", "measured"]]
    for name, found in tasks.items():
        cells = [f"{found['analysis']['agreement'][n]:+.2f}" for n in names]
        rows.append([name, *cells, *_checked(found)])
    means = [statistics.fmean(f["analysis"]["agreement"][n] for f in tasks.values()) for n in names]
    rows.append(["mean", *(f"{m:+.2f}" for m in means), "", ""])
    return render.markdown(rows)


def _checked(found: Figures) -> list[str]:
    if "check" not in found:
        return ["-", "-"]
    came = found["check"]
    low, high = came["interval"]
    return [f"{came['predicted']:+.3f}", f"{came['measured']:+.3f} [{low:+.3f}, {high:+.3f}]"]


def recipes(figures: Figures) -> str:
    """How each task is trained, and with which sources of the package."""
    rows = [["task", "samples: train, validation, test", "recipe", "sources"]]
    for name, found in complete(figures).items():
        rows.append([name, ", ".join(map(str, found["samples"])), found["recipe"], _sources(found)])
    return render.markdown(rows)


def _sources(found: Figures) -> str:
    """The sources that the compared schemes were trained with."""
    return ", ".join(sorted({r.source for m in METHODS for r in runs_of(found["schemes"][m])}))


PARTS = {
    "summary": summary,
    "averages": averages,
    "accuracy": lambda figures: by_cell(figures, _accuracy),
    "extra": lambda figures: by_cell(figures, _extra),
    "steps": lambda figures: by_cell(figures, _ms),
    "reuse": lambda figures: compared(figures, ["reused"]),
    "channels": lambda figures: compared(figures, ["by gradient", "by chance"]),
    "analyses": analyses,
    "recipes": recipes,
}


def write(figures: Figures) -> None:
    """Writes the tables of the page anew."""
    PAGE.write_text(render.rendered(PAGE.read_text(), figures, PARTS))
