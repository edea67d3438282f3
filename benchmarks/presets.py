"""The presets that analysis found, and what each preset brings on real tasks.

    python -m benchmarks.presets ['resnet*' ...] [--out FILE] [--known FILE]
    python -m benchmarks.presets --render        writes the tables of docs/schemes.md

For each preset of `FOUND`: an analysis and a search (a fifth of the extra memory of full training)
on one task, its places, and trainings on this and on another task of the family beside the head
alone and everything. A preset is written, with all of this as its evidence, once everything has
been measured. What is in FILE is not done again, nor what `benchmarks.update_schemes` knows of the
same schemes. The published presets are files written by hand; their steps are those of the suite.
"""

import argparse
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pockengine as pe
from benchmarks import render
from benchmarks.contenders import OURS
from benchmarks.options import matching
from benchmarks.schemes.choose import THREADS, Chooser
from benchmarks.schemes.record import Figures, Record, runs_of
from benchmarks.schemes.training import counted
from benchmarks.tasks import Task, load
from benchmarks.update_schemes import RESULTS as KNOWN
from benchmarks.update_schemes import SHARE, Comparison, Options
from pockengine import presets
from pockengine.files import write_atomically
from pockengine.ir.graph import Graph
from pockengine.presets import Preset, preset_of

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "presets.json"
LIBRARY = Path(presets.__file__).parent
PAGE = HERE.parent / "docs" / "schemes.md"
SEEDS = (0, 1, 2)
HEAD, FULL = "head", "full"


@dataclass(frozen=True)
class Found:
    """What a preset is for, the task that it is found on, and another of the family."""

    about: str
    on: str
    other: str


FOUND = {
    "efficientnet_lite": Found(
        "EfficientNet-Lite0 of any width: a stem and 16 inverted bottlenecks without squeezing.",
        "efficientnet-lite0/emoji",
        "efficientnet-lite0/elpv",
    ),
    "resnet_basic": Found(
        "ResNet-18 and its kin: eight blocks of two 3x3 convolutions.",
        "resnet/emoji",
        "resnet/elpv",
    ),
    "vit": Found(
        "Vision transformers with query, key and value in three matrices.",
        "vit/emoji",
        "vit/elpv",
    ),
    "minilm": Found(
        "MiniLM-L6 and other BERTs of three layers or more.", "minilm/movies", "minilm/tweets"
    ),
}
SUITE = HERE / "results" / "latest.json"  # of benchmarks: the steps of larger networks
WORKLOADS = {
    "inverted_bottleneck": "mobilenetv2-b8",
    "bottleneck": "resnet50-b8",
    "distilbert": "bert-b8",
}


class Evidence:
    """Measures what a preset brings, as far as a record does not know it."""

    def __init__(self, record: Record, known: Figures) -> None:
        self._record, self._known = record, known

    def of_found(self, name: str) -> Preset:
        """Finds a preset, and measures it."""
        found = FOUND[name]
        task = load(found.on)
        comparison = Comparison(task, self._record, Options(SEEDS, (), True, "loss", THREADS))
        analysis = comparison.analysis
        scheme = self._searched(task, name, comparison)
        preset = preset_of(task.graph, scheme.shares, name, found.about)
        evidence = {
            "found_on": task.name,
            "budget": f"{SHARE:g} of the extra memory of full training",
            "analysis": analysis.settings.to_json(),
            "predicted_gain": round(analysis.predict(scheme), 5),
            "contributions": list(_contributions(task.graph, analysis)),
        }
        return self._measured(replace(preset, evidence=evidence), (found.on, found.other))

    def _searched(self, task: Task, name: str, comparison: Comparison) -> pe.UpdateScheme:
        """What an earlier run, or update_schemes, found for the task; else a search."""
        rows = self._known_rows(task) | self._record.task(task)["schemes"]
        if row := rows.get(name, rows.get("searched")):
            return pe.UpdateScheme(row["shares"][0])
        analysis = comparison.analysis
        return comparison.chooser.searched(analysis.gains, analysis.bias_gains)

    def _measured(self, preset: Preset, names: Sequence[str]) -> Preset:
        """The preset with extra memory and accuracies on some tasks in its evidence."""
        measured = {name: self._on(load(name), preset) for name in names}
        return replace(preset, evidence={**preset.evidence, "measured": measured})

    def _on(self, task: Task, preset: Preset) -> Figures:
        rows = {
            HEAD: pe.UpdateScheme.head_only(task.graph),
            preset.name: pe.UpdateScheme.preset(task.graph, preset),
            FULL: pe.UpdateScheme.full(task.graph),
        }
        with ThreadPoolExecutor(THREADS) as pool:
            done = [pool.submit(self._row, task, name, scheme) for name, scheme in rows.items()]
            found = [_figures(one.result()) for one in done]
        data = [part.fingerprint() for part in (task.train, task.validation, task.test)]
        return {"data": data, **dict(zip((HEAD, "preset", FULL), found, strict=True))}

    def _row(self, task: Task, name: str, scheme: pe.UpdateScheme) -> Figures:
        """The figures of a scheme on a task, trained as far as it has not been."""
        rows = self._record.task(task)["schemes"]
        shares = json.loads(json.dumps([scheme.shares]))
        if rows.get(name, {}).get("shares") != shares:
            rows[name] = {"shares": shares, "extra_bytes": self._extra(task, scheme)}
            same = (r for r in self._known_rows(task).values() if r["shares"] == shares)
            rows[name]["runs"] = next((r.get("runs", []) for r in same), [])
        row: Figures = rows[name]
        self._record.train(task, row, SEEDS)
        return row

    def _known_rows(self, task: Task) -> dict[str, Figures]:
        """What update_schemes knows of a task, if it is the same task still."""
        found = self._known["tasks"].get(task.name, {})
        own = self._record.task(task)
        same = all(found.get(key) == own[key] for key in ("family", "recipe", "samples"))
        return dict(found["schemes"]) if same else {}

    def _extra(self, task: Task, scheme: pe.UpdateScheme) -> int:
        return Chooser(task, SHARE).extra(scheme)


def _contributions(graph: Graph, analysis: pe.Analysis) -> Iterator[Figures]:
    """Those of whole tensors, with the place of each."""
    for one in analysis.contributions:
        if one.ratio == 1:
            interval = analysis.interval(one)
            place = _place_of(graph, one.name)
            numbers = {"mean": one.mean, "low": interval.low, "high": interval.high}
            yield {**place, "name": one.name, **{k: round(x, 5) for k, x in numbers.items()}}


def _place_of(graph: Graph, name: str) -> dict[str, int]:
    head = pe.UpdateScheme.head_only(graph)
    (place,) = preset_of(graph, {**head.shares, name: 1.0}, name).weights
    return {"block": place.block, "weight": place.weight}


def _steps(name: str) -> Figures:
    """Milliseconds and bytes of a step of the suite's network that has this preset."""
    workloads: list[Figures] = json.loads(SUITE.read_text())["workloads"]
    found: Figures = {}
    for workload in workloads:
        if workload["name"] == WORKLOADS.get(name):
            ours = {"preset": workload["sparse"][OURS], FULL: workload[FULL][OURS]}
            found[workload["title"]] = {
                kind: {"step_ms": cell["median_ms"], "planned_bytes": cell["planned_bytes"]}
                for kind, cell in ours.items()
            }
    return found


def _figures(row: Figures) -> Figures:
    """Bytes beyond weights and inference, and accuracies on test data in percent, by seed."""
    runs = counted(runs_of(row), SEEDS)
    return {"extra_bytes": row["extra_bytes"], "accuracy": [round(100 * r.test, 2) for r in runs]}


# ---- tables --------------------------------------------------------------------------------------


def library(figures: Figures) -> str:
    """The presets, with what each trains."""
    rows = [["name", "for", "trains, besides the head", "found"]]
    for preset in figures["presets"]:
        on = preset.evidence.get("found_on")
        how = f"by analysis on {on}" if on else preset.evidence["publication"]
        rows.append([f"`{preset.name}`", preset.about.rstrip("."), _trains(preset), how])
    return render.markdown(rows)


def _trains(preset: Preset) -> str:
    within = _count(len({place.block for place in preset.weights}), "block")
    partly = sum(place.share < 1 for place in preset.weights)
    weights = _count(len(preset.weights), "weight") + (f" ({partly} in part)" if partly else "")
    weights += f" in {within}"
    return f"biases of {_count(preset.biases, 'block')}, {weights}" if preset.biases else weights


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def accuracies(figures: Figures) -> str:
    """What each preset brings on each task."""
    heading = ["preset", "task", "head only", "preset", "full", "of full's extra memory"]
    rows = [heading]
    for preset in figures["presets"]:
        for task, measured in preset.evidence.get("measured", {}).items():
            cells = [_spread(measured[key]["accuracy"]) for key in (HEAD, "preset", FULL)]
            less = measured[FULL]["extra_bytes"] / measured["preset"]["extra_bytes"]
            rows.append([f"`{preset.name}`", task, *cells, f"1 / {less:.1f}"])
    return render.markdown(rows)


def steps(figures: Figures) -> str:
    """What a step with each preset takes beside one that trains everything."""
    rows = [["preset", "network", "step, ms", "of full, ms", "memory, MB", "of full, MB"]]
    for preset in figures["presets"]:
        for title, cells in _steps(preset.name).items():
            both = [cells[kind] for kind in ("preset", FULL)]
            ms = [f"{cell['step_ms']:.3g}" for cell in both]
            megabytes = [f"{cell['planned_bytes'] / 1e6:.3g}" for cell in both]
            rows.append([f"`{preset.name}`", title, *ms, *megabytes])
    return render.markdown(rows)


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.1f} ± {statistics.stdev(values):.1f}"


PARTS = {"presets": library, "accuracies": accuracies, "steps": steps}


def write_page() -> None:
    """Writes the tables of the page anew."""
    figures = {"presets": [presets.load(name) for name in presets.NAMES]}
    PAGE.write_text(render.rendered(PAGE.read_text(), figures, PARTS))


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.presets", description=__doc__.splitlines()[0])
    parser.add_argument("presets", nargs="*", default=["*"], help="or globs of them")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--known", type=Path, default=KNOWN, help="what update_schemes measured")
    parser.add_argument("--render", action="store_true", help="write the tables, train nothing")
    given = parser.parse_args()
    if given.render:
        write_page()
        return
    known: Mapping[str, Any] = json.loads(given.known.read_text())
    evidence = Evidence(Record(given.out), dict(known))
    for name in matching(parser, "preset", FOUND, given.presets):
        preset = evidence.of_found(name)
        write_atomically(LIBRARY / f"{name}.json", preset.to_json().encode())
        print(name, "written", flush=True)


if __name__ == "__main__":
    main()
