"""The device's half of the demo: load one compiled program, adapt it to the person, report.

Runs in a process of its own, so that the growth of the process is what the program takes:
`python -m pockengine.demo.personalise PROGRAM.pock TUNED.onnx` prints one JSON object.
"""

import json
import math
import resource
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pockengine.data.watch import load_recordings
from pockengine.data.windows import shuffled_batches
from pockengine.demo.task import BATCH, EPOCHS, LEARNING_RATE, Person, Scale, person_windows
from pockengine.frontends.onnx_export import write_back
from pockengine.runtime.program import Leaf
from pockengine.runtime.session import Session

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Outcome:
    """What one update scheme brought, and what it took. Accuracies are shares of 1."""

    trained_numbers: int
    accuracy_before: float
    accuracy_after: float
    step_ms: float
    training_s: float
    planned_peak_bytes: int
    arena_bytes: int
    measured_peak_bytes: int


def new_person() -> Person:
    """The person the base network was never trained on."""
    facts: dict[str, Any] = json.loads((HERE / "base_network.json").read_text())
    scale = Scale(np.array(facts["mean"], np.float32), np.array(facts["deviation"], np.float32))
    return person_windows(load_recordings(), facts["held_out_person"], scale)


def train(session: Session, person: Person) -> list[float]:
    """All epochs; the seconds that each step took."""
    rng = np.random.default_rng(0)
    seconds = []
    for _ in range(EPOCHS):
        for x, y in shuffled_batches(person.adapt_x, person.adapt_y, BATCH, rng):
            start = time.perf_counter()
            session.step(x, y, lr=LEARNING_RATE)
            seconds.append(time.perf_counter() - start)
    return seconds


def personalise(program: Path, tuned: Path) -> Outcome:
    """Adapts the program to the new person and writes the tuned network."""
    person = new_person()
    list(shuffled_batches(person.adapt_x, person.adapt_y, BATCH, np.random.default_rng(0)))
    at_rest = resident_bytes()
    session = Session.load(program)
    before = session.evaluate(person.test_x, person.test_y)["accuracy"]
    seconds = train(session, person)
    grown = resident_bytes() - at_rest
    after = session.evaluate(person.test_x, person.test_y)["accuracy"]
    write_back(HERE / "base_network.onnx", session.state_dict(), tuned)
    return Outcome(
        trained_numbers=sum(map(trained_numbers, session.signature.leaves.values())),
        accuracy_before=before,
        accuracy_after=after,
        step_ms=1000 * statistics.median(seconds),
        training_s=sum(seconds),
        planned_peak_bytes=session.program.peak_bytes,
        arena_bytes=session.arena_bytes,
        measured_peak_bytes=grown,
    )


def trained_numbers(leaf: Leaf) -> int:
    """How many of a tensor's numbers the program updates."""
    if leaf.kind != "trained":
        return 0
    axis, chosen = leaf.channels or (0, range(leaf.source_shape[0]))
    return math.prod(leaf.shape) // leaf.source_shape[axis] * len(chosen)


def resident_bytes() -> int:
    """Memory this process holds now; where the system does not say, the most it ever held."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * resource.getpagesize()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    print(json.dumps(asdict(personalise(Path(sys.argv[1]), Path(sys.argv[2])))))
