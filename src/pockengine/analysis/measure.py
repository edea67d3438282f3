"""Step times of a program, and how much a process grows by running it.

    python -m pockengine.analysis.measure PROGRAM.pock BATCH.npz ENTRY

loads the program in this fresh process, calls the entry point on the batch (arrays by name, the
labels are `target`) and prints a line of JSON, in bytes. Imports NumPy and the runtime alone.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from pockengine.runtime.program import Array
from pockengine.runtime.session import Session

WARM_SECONDS = 0.05
STEPS = 20
RATE = 1e-6  # so small that thousands of steps on one batch leave the weights in their range
TARGET = "target"


def timed_calls(call: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of single calls, for about `seconds` in all, after a few that are not counted."""
    clock, found = time.perf_counter, list[float]()
    end = clock() + min(WARM_SECONDS, seconds)
    call()
    while clock() < end:
        call()
    end = clock() + seconds
    while not found or clock() < end:
        start = clock()
        call()
        found.append(clock() - start)
    return found


def quartiles(times: Sequence[float]) -> tuple[float, float, float]:
    """The first, the median and the third; of a single time, that time."""
    first, median, third = statistics.quantiles(times, n=4) if len(times) > 1 else [times[0]] * 3
    return first, median, third


def caller(session: Session, entry: str, batch: Mapping[str, Array]) -> Callable[[], object]:
    """Calls one entry point on a batch."""
    inputs = {name: array for name, array in batch.items() if name != TARGET}
    labels = batch.get(TARGET)
    if entry == "predict":
        return lambda: session.predict(inputs)
    if entry == "evaluate":
        return lambda: session.evaluate(inputs, labels)
    return lambda: session.step(inputs, labels, lr=RATE)


def memory() -> dict[str, int]:
    """Bytes of this process: `private` is what no other process shares, `resident` is all."""
    fields = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, value, *_ = line.split()
        fields[name.rstrip(":")] = int(value) * 1024
    private = fields["Private_Clean"] + fields["Private_Dirty"] + fields["Swap"]
    return {"private": private, "resident": fields["Rss"]}


def growth(program: Path, batch: Mapping[str, Array], entry: str) -> dict[str, int]:
    """How much memory grows from before the file is opened to after some calls."""
    before = memory()
    with Session.load(program) as session:
        call = caller(session, entry, batch)
        for _ in range(STEPS):
            call()
        after = memory()
        sizes = {"planned": session.program.peak_bytes, "arena": session.arena_bytes}
    return sizes | {kind: after[kind] - before[kind] for kind in after}


def main() -> None:
    program, batch, entry = sys.argv[1:]
    with np.load(batch) as file:
        arrays = {name: file[name] for name in file.files}
    print(json.dumps(growth(Path(program), arrays, entry)))


if __name__ == "__main__":
    main()
