"""Writes the tables of docs/benchmarks.md from the figures of a run, and draws them.

    python -m benchmarks.render [results/latest.json] [--plot docs/benchmarks.svg]

The tables stand between the lines `<!-- figures: NAME -->` and `<!-- end -->`.
"""

import argparse
import importlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.contenders import CONTENDERS, OURS
from benchmarks.workloads import SCHEMES

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "benchmarks.md"
Figures = dict[str, Any]
Parts = Mapping[str, Callable[[Figures], str]]


def console_table(found: Figures) -> Table:
    """One workload, everything measured."""
    cells = {name: [found[scheme][name] for scheme in SCHEMES] for name in found["full"]}
    missing = {n: c[0]["missing"] for n, c in cells.items() if "missing" in c[0]}
    notes = [_gains(found["ratios"])]
    notes += [f"missing: {name}: {why.splitlines()[-1]}" for name, why in missing.items()]
    table = Table(title=found["title"], caption="\n".join(notes), caption_justify="left")
    for heading in ("", *(f"{s}, ms" for s in SCHEMES), *(f"{s}, MB" for s in SCHEMES)):
        table.add_column(heading, justify="right" if heading else "left")
    for name, (full, sparse) in cells.items():
        if name not in missing:
            table.add_row(name, _ms(full), _ms(sparse), _grown(full), _grown(sparse))
    return table


def _gains(ratios: Figures) -> str:
    if "engine_gain_full" not in ratios:
        return f"no peer; sparsity gain {ratios['sparsity_gain']:.2f}"
    words = [f"{s} {ratios[f'engine_gain_{s}']:.2f}x" for s in SCHEMES]
    words += [f"sparse against full {ratios['sparse_vs_best_peer_full']:.2f}x"]
    if "sparse_vs_tensorflow_full" in ratios:
        words += [f"against TensorFlow's full {ratios['sparse_vs_tensorflow_full']:.2f}x"]
    return "best peer over ours: " + ", ".join(words)


def _parts(found: Figures, scheme: str) -> str:
    few = found["micro_batch"].get(scheme)
    return f", {few} at a time" if few else ""


def _ms(cell: Figures) -> str:
    return f"{cell['median_ms']:.3g}" if "median_ms" in cell else "-"


def _grown(cell: Figures) -> str:
    growth = cell.get("memory_growth", {})
    return f"{growth['resident'] / 1e6:.1f}" if growth else "-"


# ---------------------------------------------------------------------------- docs/benchmarks.md


def speed_rows(figures: Figures) -> Iterator[list[str]]:
    yield [
        *("workload", "ours full", "ours sparse", "full vs best peer's full"),
        *("sparse vs best peer's same sparse", "sparse vs best peer's full", "of it by sparsity"),
        "sparse vs TensorFlow graph's full",
    ]
    for w in figures["workloads"]:
        r = w["ratios"]
        yield [
            w["title"],
            *(f"{w[s][OURS]['median_ms']:.3g} ms{_parts(w, s)}" for s in SCHEMES),
            *(f"{_times(r, f'engine_gain_{s}')} {r.get(f'best_peer_{s}', '')}" for s in SCHEMES),
            _times(r, "sparse_vs_best_peer_full"),
            _times(r, "sparsity_gain"),
            _times(r, "sparse_vs_tensorflow_full"),
        ]


def _times(ratios: Figures, key: str) -> str:
    return f"{ratios[key]:.2f}x" if key in ratios else "-"


def step_rows(figures: Figures) -> Iterator[list[str]]:
    yield ["workload", "scheme", *CONTENDERS]
    for w in figures["workloads"]:
        for scheme in SCHEMES:
            cells = [w[scheme].get(name, {}) for name in CONTENDERS]
            yield [w["title"], scheme, *(_ms_with_quartiles(cell) for cell in cells)]


def _ms_with_quartiles(cell: Figures) -> str:
    if "median_ms" not in cell:
        return "-"
    low, _, high = cell["quartiles_ms"]
    return f"{cell['median_ms']:.3g} ({low:.3g}-{high:.3g})"


def memory_rows(figures: Figures) -> Iterator[list[str]]:
    yield [
        *("MB", "our plan", "of it weights", *CONTENDERS),
        *("PyTorch full / ours sparse", "PyTorch sparse / ours sparse"),
    ]
    for w in figures["workloads"]:
        for scheme in SCHEMES:
            ours, ratios = w[scheme][OURS], w["memory"]
            key = f"pytorch_{scheme}_over_ours_sparse_resident"
            ratio = f"{ratios[key]:.1f}x" if key in ratios else "-"
            yield [
                f"{w['title']}, {scheme}",
                *(f"{ours[k] / 1e6:.1f}" for k in ("planned_bytes", "weights_bytes")),
                *(_both(w[scheme].get(name, {})) for name in CONTENDERS),
                *((ratio, "") if scheme == "full" else ("", ratio)),
            ]


def _both(cell: Figures) -> str:
    growth = cell.get("memory_growth")
    return (
        "{:.1f} ({:.1f})".format(*(growth[k] / 1e6 for k in ("resident", "own"))) if growth else "-"
    )


def missing_rows(figures: Figures) -> Iterator[list[str]]:
    yield ["workload", "not measured", "why"]
    for w in figures["workloads"]:
        for name, cell in w["full"].items():
            if "missing" in cell:
                yield [w["title"], name, cell["missing"].splitlines()[-1]]


def missing(figures: Figures) -> str:
    rows = [*missing_rows(figures)]
    return markdown(rows) if len(rows) > 1 else "Nothing.\n"


def about(figures: Figures) -> str:
    packages = ", ".join(f"{name} {v}" for name, v in figures["packages"].items())
    return (
        f"{figures['processor']}, {figures['processors']} processors, {figures['system']}, "
        f"{figures['threads']} threads; Python {figures['python']}, {packages}; "
        f"commit {figures['commit'][:12]}, {figures['date']}.\n"
    )


def markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    line = ["---", *["--:"] * (len(head) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, line, *body))


PARTS: Parts = {
    "about": about,
    "speed": lambda figures: markdown([*speed_rows(figures)]),
    "steps": lambda figures: markdown([*step_rows(figures)]),
    "memory": lambda figures: markdown([*memory_rows(figures)]),
    "missing": missing,
}


def rendered(page: str, figures: Figures, parts: Parts = PARTS) -> str:
    """The page with its parts written anew."""

    def part(match: re.Match[str]) -> str:
        return f"{match[1]}\n\n{parts[match[2]](figures)}\n<!-- end -->"

    return re.sub(r"(<!-- figures: (\w+) -->).*?<!-- end -->", part, page, flags=re.DOTALL)


# ----------------------------------------------------------------------------------------- plot


def plot(figures: Figures, path: Path) -> None:
    """Bars of step times, the best peer's full step of each workload being 1. Needs matplotlib."""
    pyplot = importlib.import_module("matplotlib.pyplot")
    pyplot.rcParams["svg.hashsalt"] = "pockengine"  # the same figures give the same file
    workloads = [w for w in figures["workloads"] if "best_peer_full" in w["ratios"]]
    figure, axes = pyplot.subplots(figsize=(9, 0.9 + 0.75 * len(workloads)), layout="constrained")
    for row, w in enumerate(workloads):
        unit = w["full"][w["ratios"]["best_peer_full"]]["median_ms"]
        for place, (label, colour, ms) in enumerate(_bars(w)):
            y = row + 0.2 * place - 0.3
            axes.barh(y, ms / unit, 0.18, color=colour, label=None if row else label)
            axes.text(ms / unit + 0.01, y, f"{ms:.3g} ms", va="center", fontsize=7)
    axes.set_yticks(range(len(workloads)), [w["title"] for w in workloads], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12)
    axes.set_xlabel("time of a training step; the best peer's full step is 1", fontsize=8)
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.4, 1.12), ncols=4, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _bars(w: Figures) -> list[tuple[str, str, float]]:
    colours = {"full": ("#9a8c98", "#2f6fab"), "sparse": ("#c9ada7", "#7aa6d6")}
    bars = []
    for scheme in SCHEMES:
        names = {"best peer": w["ratios"][f"best_peer_{scheme}"], "pockengine": OURS}
        for (label, name), colour in zip(names.items(), colours[scheme], strict=True):
            bars.append((f"{label}, {scheme}", colour, w[scheme][name]["median_ms"]))
    return bars


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = HERE / "results" / "latest.json"
    parser.add_argument("figures", type=Path, nargs="?", default=default)
    parser.add_argument("--plot", type=Path, metavar="FILE")
    options = parser.parse_args()
    figures = json.loads(options.figures.read_text())
    PAGE.write_text(rendered(PAGE.read_text(), figures))
    if options.plot:
        plot(figures, options.plot)


if __name__ == "__main__":
    main()
