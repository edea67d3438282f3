"""From a network of full size to a .pock file, with the time of each part as one JSON line.

    python -m benchmarks.compile_program mobilenetv2 full FOLDER [--batch 8] [--threads 2]

`import_to_artifact` leaves out making the model and importing PyTorch, which are the user's; `cpu`
are its processor seconds, those of the C compiler included, which a busy machine does not change.
"""

import argparse
import json
import os
import time
from pathlib import Path

import torch

import pockengine as pe
from benchmarks.networks import MODELS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("scheme", choices=["full", "sparse"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.manual_seed(0)
    model = MODELS[options.model]
    module = model.make().eval()
    target = pe.Target.host(threads=options.threads)
    cpu_before = sum(os.times()[:4])
    clock = [time.perf_counter()]
    graph = pe.import_torch(module, model.inputs(2))
    clock.append(time.perf_counter())
    chosen = model.scheme(graph, options.scheme)
    sgd = pe.SGD(momentum=0.9)
    program = pe.compile(graph, optimizer=sgd, scheme=chosen, batch=options.batch, target=target)
    clock.append(time.perf_counter())
    program.save(options.folder / "program.pock")
    clock.append(time.perf_counter())
    cpu = sum(os.times()[:4]) - cpu_before
    names = ("import", "compile", "save")
    seconds = {n: round(b - a, 2) for n, a, b in zip(names, clock, clock[1:], strict=False)}
    total = {"import_to_artifact": round(clock[-1] - clock[0], 2), "cpu": round(cpu, 2)}
    print(json.dumps(seconds | total))


if __name__ == "__main__":
    main()
