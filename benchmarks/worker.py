"""One contender in a process of its own. measure.py starts it and tells it what to do.

    python -m benchmarks.worker CONTENDER WORKLOAD SCHEME FOLDER THREADS

It answers with a line of JSON to each line that it reads, first of all without being asked:

    (started)        {} once the model is in memory, or {"missing": why}
    begin            {"loss": of the first step, ...}; compiling happens here
    turn SECONDS     {"seconds": [of each timed step]}: a few uncounted steps, then timed ones
"""

import ctypes
import gc
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from benchmarks.contenders import CONTENDERS, Case, Missing, Step
from pockengine.analysis.measure import timed_calls


def first_steps(step: Step) -> float:
    """The first loss; one more step, since some frameworks compile again in the second."""
    loss = step()
    step()
    return loss


def release_free_memory() -> None:
    """What was used while loading and is free again goes back to the system."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def main() -> None:
    contender, workload, scheme, folder, threads = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what frameworks print is no answer

    def answer(**found: Any) -> None:
        print(json.dumps(found), file=answers, flush=True)

    if hasattr(os, "sched_setaffinity"):  # the only limit that JAX knows
        processors = sorted(os.sched_getaffinity(0))[: int(threads)]
        os.sched_setaffinity(0, processors)
    case = Case(workload, scheme, Path(folder), int(threads))
    module, variant = CONTENDERS[contender]
    try:
        begin = importlib.import_module(f"benchmarks.contenders.{module}").load(case, variant)
    except (ImportError, Missing) as error:
        answer(missing=str(error))
        return
    release_free_memory()
    answer()
    step: Step | None = None
    for line in sys.stdin:
        word, *rest = line.split()
        if word == "begin":
            step, facts = begin()
            answer(loss=first_steps(step), **facts)
        elif word == "turn" and step:
            answer(seconds=timed_calls(step, float(rest[0])))


if __name__ == "__main__":
    main()
