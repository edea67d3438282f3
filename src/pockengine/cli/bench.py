"""`pockengine bench`"""

import importlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from pockengine.analysis.measure import TARGET, caller, quartiles, timed_calls
from pockengine.analysis.roofline import Roofline, StepTime, Stopwatch, measure_peaks
from pockengine.autodiff.objective import CrossEntropy
from pockengine.cli.options import Config, JobOptions, Json, with_options
from pockengine.compiler import Planned, build, plan_job
from pockengine.dtypes import NUMPY
from pockengine.errors import InputError, PockError
from pockengine.ir.graph import Input
from pockengine.ir.rewrite import with_batch
from pockengine.program import CompiledProgram
from pockengine.runtime.program import Array, Tensor
from pockengine.runtime.session import Session

ENTRIES = ("train", "evaluate", "predict")
ROUNDS = 5
WIDTH = 150
PAUSE = 0.02  # the threads of the one before go to sleep
Batch = Mapping[str, Array]


@dataclass(frozen=True)
class Measured:
    """Seconds of single steps."""

    seconds: list[float]

    def facts(self, batch: int) -> dict[str, Any]:
        first, median, third = quartiles(self.seconds)
        return {
            "median_ms": 1000 * median,
            "quartiles_ms": [1000 * first, 1000 * third],
            "samples_per_s": batch / median,
            "steps": len(self.seconds),
        }


@with_options
def bench(
    options: JobOptions,
    entry: Annotated[str, typer.Option(help="train, evaluate or predict.")] = "train",
    data: Annotated[
        Path | None,
        typer.Option(help="An .npz file with a batch: arrays by input name, labels as `target`."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.0, help="Of timed steps for each.")] = 2.0,
    roofline: Annotated[
        bool, typer.Option("--roofline", help="Each step beside this machine's peaks.")
    ] = False,
    order: Annotated[str, typer.Option(help="Of the roofline: time or program.")] = "time",
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Measure a step's time and memory, with PyTorch beside where the model comes from it."""
    for word, known in ((entry, ENTRIES), (order, ("time", "program"))):
        if word not in known:
            raise InputError(f"expected one of {', '.join(known)}, got {word!r}.")
    planned = plan_job(options.job())
    program = build(planned)
    batch = _batch(program, planned, entry, data)
    facts: dict[str, Any] = {
        "entry": entry,
        "batch": planned.job.batch,
        "threads": planned.job.target.threads,
        "planned_peak_bytes": program.peak_bytes,
        "process_growth_bytes": _process_growth(program, batch, entry),
    }
    with Session(program) as session:
        calls = {"pockengine": caller(session, entry, batch)}
        calls |= _torch_call(options, planned, entry, batch, facts)
        for name, found in _interleaved(calls, seconds).items():
            facts[name] = found.facts(planned.job.batch)
    report = _roofline(planned, entry, batch, seconds) if roofline else None
    if as_json:
        typer.echo(json.dumps(facts | ({"roofline": report.to_json()} if report else {})))
        return
    _show(facts)
    if report:
        _show_roofline(report, order)


# ---- the batch -----------------------------------------------------------------------------------


def _batch(program: CompiledProgram, planned: Planned, entry: str, data: Path | None) -> Batch:
    """The file's arrays, or random ones. Raises InputError for a file that lacks one."""
    wanted = _inputs(planned) + [t for t in program.entry(entry).inputs if t.name == TARGET]
    if data is None:
        rng = np.random.default_rng(0)
        classes = program.signature.classes if isinstance(planned.job.loss, CrossEntropy) else None
        return {t.name: _random(rng, t, classes if t.name == TARGET else None) for t in wanted}
    try:
        with np.load(data) as file:
            return {t.name: file[t.name] for t in wanted}
    except (OSError, ValueError, KeyError) as error:
        names = ", ".join(map(str, wanted))
        raise InputError(f"{data} cannot be read as a batch of {names}: {error}") from error


def _inputs(planned: Planned) -> list[Tensor]:
    """The model's own inputs, for a whole batch."""
    values = with_batch(planned.job.graph, planned.job.batch).leaves(Input).values()
    return [Tensor(v.op.name, v.dtype, v.shape, 0) for v in values if isinstance(v.op, Input)]


def _random(rng: np.random.Generator, tensor: Tensor, classes: int | None) -> Array:
    """Normal numbers; classes; for other integers and truth values, which may index, 0 and 1."""
    dtype = NUMPY[tensor.dtype]
    if dtype.kind == "f":
        return rng.standard_normal(tensor.shape).astype(dtype)
    return rng.integers(0, classes or 2, tensor.shape).astype(dtype)


# ---- measuring -----------------------------------------------------------------------------------


def _torch_call(
    options: JobOptions, planned: Planned, entry: str, batch: Batch, facts: dict[str, Any]
) -> dict[str, Callable[[], object]]:
    """PyTorch's call, for a model that comes from it; `facts` say why it is missing."""
    made = options.found.torch
    if made is None:
        return {}
    module, example = made
    peer = importlib.import_module("pockengine.analysis.torch_step")
    by_name = isinstance(example, Mapping)
    try:
        return {"torch": peer.torch_call(module, by_name, planned.job, entry, batch)}
    except PockError as error:
        facts["torch_missing"] = str(error)
        return {}


def _interleaved(calls: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, Measured]:
    """They take turns, so that a busy machine slows all of them."""
    found = {name: Measured([]) for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            time.sleep(PAUSE)
            found[name].seconds.extend(timed_calls(call, seconds / ROUNDS))
    return found


def _process_growth(program: CompiledProgram, batch: Batch, entry: str) -> dict[str, int] | None:
    """What a fresh process, with the runtime alone, grows by; None where no system tells."""
    if sys.platform != "linux" or not program.code.library:
        return None
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder, "program.pock"), Path(folder, "batch.npz")
        program.save(paths[0])
        np.savez(paths[1], **batch)  # type: ignore[arg-type]
        command = [sys.executable, "-m", "pockengine.analysis.measure", *map(str, paths), entry]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"running the program in a process of its own failed:\n{done.stderr}")
    found: dict[str, int] = json.loads(done.stdout)
    return found


def _roofline(planned: Planned, entry: str, batch: Batch, seconds: float) -> Roofline:
    stopwatch = Stopwatch(planned)
    peaks = measure_peaks(planned.job.target, planned.plan.arena_bytes)
    with Session(stopwatch.program) as session:
        call = caller(session, entry, batch)
        timed_calls(call, 0.0)
        stopwatch.reset()
        count, end = 0, time.perf_counter() + seconds
        while not count or time.perf_counter() < end:
            call()
            count += 1
        return stopwatch.roofline(entry, count, peaks)


# ---- tables --------------------------------------------------------------------------------------


def _show(facts: Mapping[str, Any]) -> None:
    table = Table(title=f"{facts['entry']}, batch {facts['batch']}, {facts['threads']} threads")
    for heading in ("", "median", "quartiles", "samples a second"):
        table.add_column(heading, justify="right" if heading else "left")
    for name in ("pockengine", "torch"):
        if name in facts:
            found = facts[name]
            low, high = found["quartiles_ms"]
            times = f"{found['median_ms']:.3f} ms", f"{low:.3f} - {high:.3f} ms"
            table.add_row(name, *times, f"{found['samples_per_s']:,.1f}")
    console = Console()
    console.print(table)
    if "torch_missing" in facts:
        console.print(f"without PyTorch: {facts['torch_missing']}")
    console.print(f"memory planned: {facts['planned_peak_bytes']:,} bytes, weights included")
    growth = facts["process_growth_bytes"]
    if growth:
        console.print(f"a process that runs it grows by {growth['private']:,} bytes")


def _show_roofline(report: Roofline, order: str) -> None:
    peaks, console = report.peaks, _wide_console()
    console.print(
        f"\nmeasured peaks: {peaks.flops / 1e9:.0f} GFLOP/s, {peaks.bytes / 1e9:.1f} GB/s; "
        f"steps take {report.seconds * 1e3:.3f} ms"
    )
    sums = _roof_table("operators", "steps")
    for group in report.by_operator():
        _add(sums, str(group.number), group, report)
    rows = sorted(report.steps, key=lambda s: -s.seconds) if order == "time" else report.steps
    single = _roof_table("steps", "step", "layer", "result")
    for step in rows:
        _add(
            single,
            f"{step.entry} {step.number}",
            step,
            report,
            step.source,
            "x".join(map(str, step.shape)),
        )
    console.print(sums)
    console.print(single)


def _wide_console() -> Console:
    """The terminal's width; where there is none, lines that hold a layer's name."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)


def _roof_table(title: str, *own: str) -> Table:
    table = Table(title=title)
    for heading in (*own, "operator", "variant"):
        table.add_column(heading, overflow="ellipsis", no_wrap=True)
    for heading in ("ms", "share", "GFLOP/s", "GB/s", "of roof"):
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _add(table: Table, first: str, row: StepTime, report: Roofline, *more: str) -> None:
    share = row.seconds / report.seconds if report.seconds else 0.0
    numbers = f"{row.seconds * 1e3:.3f}", f"{share:.1%}", f"{row.gflops:.1f}", f"{row.gbytes:.1f}"
    named = row.operator, row.variant
    table.add_row(first, *more, *named, *numbers, f"{row.of_roof(report.peaks):.0%}")
