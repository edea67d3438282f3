"""A recogniser of wrist-worn exercises is adapted to a person it has never seen.

The base network was trained on nine people. Three programs are compiled from it, one for each
update scheme, and each adapts it in a fresh process to the tenth person's first minutes. Person 2
was taken because the base network serves this person worst; docs/demo.md shows how all ten fare.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

import pockengine as pe
from pockengine.demo.personalise import HERE, Outcome, new_person
from pockengine.demo.task import BATCH, EPOCHS, LEARNING_RATE, SPARSE
from pockengine.errors import PockError
from pockengine.program import CompiledProgram

SCHEMES = ("sparse", "full", "head only")


def run(out: Path, as_json: bool = False) -> dict[str, object]:
    """Runs the demo, prints its table and writes the tuned networks into `out`.

    With `as_json` the last line printed is the returned summary as one JSON object.
    Raises PockError when the data cannot be fetched or nothing compiles here.
    """
    console = Console()
    started = time.perf_counter()
    person = new_person()
    console.print(
        f"{len(person.adapt_x)} windows to adapt on, {len(person.test_x)} to be judged by; "
        f"{EPOCHS} epochs of Adam, batch {BATCH}, learning rate {LEARNING_RATE}."
    )
    out.mkdir(parents=True, exist_ok=True)
    outcomes = {}
    for scheme in SCHEMES:
        with console.status(f"compiling and training: {scheme}"):
            outcomes[scheme] = _compile_and_adapt(scheme, out)
    console.print(_table(outcomes))
    console.print(f"The tuned networks are in {out}/: *.onnx, under the base network's own names.")
    summary = _summary(outcomes, time.perf_counter() - started)
    if as_json:
        print(json.dumps(summary))
    return summary


def _compile_and_adapt(scheme: str, out: Path) -> Outcome:
    stem = scheme.replace(" ", "_")
    program, tuned = out / f"{stem}.pock", out / f"{stem}.onnx"
    _compile(scheme).save(program)
    command = [sys.executable, "-m", "pockengine.demo.personalise", str(program), str(tuned)]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    if child.returncode != 0:
        raise PockError(f"training the {scheme} scheme failed: {_last_line(child.stderr)}")
    return Outcome(**json.loads(_last_line(child.stdout)))


def _compile(scheme: str) -> CompiledProgram:
    graph = pe.import_onnx(HERE / "base_network.onnx")
    update = {
        "sparse": pe.UpdateScheme.select(graph, SPARSE),
        "full": pe.UpdateScheme.full(graph),
        "head only": pe.UpdateScheme.head_only(graph),
    }[scheme]
    return pe.compile(
        graph,
        loss="cross_entropy",
        optimizer=pe.Adam(),
        scheme=update,
        batch=BATCH,
        target=pe.Target.host(threads=2),
    )


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it printed nothing."])[-1]


def _table(outcomes: dict[str, Outcome]) -> Table:
    table = Table(title="Adapting to a new person")
    for heading in ("", *outcomes):
        table.add_column(heading, justify="right" if heading else "left")
    rows: dict[str, Callable[[Outcome], str]] = {
        "numbers trained": lambda o: f"{o.trained_numbers:,}",
        "accuracy before": lambda o: f"{o.accuracy_before:.1%}",
        "accuracy after": lambda o: f"{o.accuracy_after:.1%}",
        "one step": lambda o: f"{o.step_ms:.2f} ms",
        "all training": lambda o: f"{o.training_s:.2f} s",
        "memory planned": lambda o: f"{o.planned_peak_bytes / 1024:.0f} KiB",
        "memory taken by the program": lambda o: f"{o.arena_bytes / 1024:.0f} KiB",
        "growth of the process": lambda o: f"{o.measured_peak_bytes / 1024:.0f} KiB",
    }
    for name, show in rows.items():
        table.add_row(name, *(show(outcome) for outcome in outcomes.values()))
    return table


def _summary(outcomes: dict[str, Outcome], seconds: float) -> dict[str, object]:
    schemes = {name: asdict(outcome) for name, outcome in outcomes.items()}
    return {**schemes["sparse"], "scheme": "sparse", "schemes": schemes, "demo_s": seconds}
