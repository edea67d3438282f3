"""A training step of MobileNetV2 beside PyTorch eager's, on the same threads, in one run.

    python benchmarks/step_time.py [--scheme full sparse] [--train-mode] [--json]

SGD with momentum. PyTorch trains the same tensors, in both of its memory formats. The contenders
take turns, so that a busy machine slows all of them; each turn begins with a step that is not
counted. The figures are medians in milliseconds; `ratio` is the faster PyTorch layout over ours.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping

import torch
from networks import CLASSES, MODELS, arrays, mobilenet_v2
from torch.nn import functional as F

import pockengine as pe

MOMENTUM, LR = 0.9, 1e-3
Step = Callable[[], float]


def our_step(options: argparse.Namespace, name: str, x: torch.Tensor, y: torch.Tensor) -> Step:
    model = make_model(options)
    graph = pe.import_torch(model, {"pixel_values": x})
    program = pe.compile(
        graph,
        optimizer=pe.SGD(momentum=MOMENTUM),
        scheme=MODELS["mobilenetv2"].scheme(graph, name),
        batch=options.batch,
        target=pe.Target.host(threads=options.threads),
    )
    session = pe.Session(program)
    given, labels = arrays({"pixel_values": x}), y.numpy()
    return lambda: session.step(given, labels, lr=LR)


def torch_step(
    options: argparse.Namespace,
    name: str,
    x: torch.Tensor,
    y: torch.Tensor,
    layout: torch.memory_format,
) -> Step:
    model = make_model(options)
    graph = pe.import_torch(model, {"pixel_values": x})
    trained = MODELS["mobilenetv2"].scheme(graph, name).shares
    model = model.to(memory_format=layout)
    for parameter_name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter_name in trained)
    chosen = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(chosen, lr=LR, momentum=MOMENTUM)
    given = x.contiguous(memory_format=layout)

    def step() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(given).logits, y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def make_model(options: argparse.Namespace) -> torch.nn.Module:
    torch.manual_seed(0)
    return mobilenet_v2(tf_padding=options.tf_padding).train(options.train_mode)


def contenders(options: argparse.Namespace, name: str) -> dict[str, Step]:
    torch.manual_seed(1)
    x = torch.randn(options.batch, 3, options.size, options.size)
    y = torch.randint(0, CLASSES, (options.batch,))
    found = {"pockengine": our_step(options, name, x, y)}
    if not options.ours_only:
        found["torch contiguous"] = torch_step(options, name, x, y, torch.contiguous_format)
        found["torch channels_last"] = torch_step(options, name, x, y, torch.channels_last)
    return found


def measure(
    steps: Mapping[str, Step], rounds: int, turn: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Median milliseconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            time.sleep(0.02)  # the threads of the one before go to sleep
            step()
            for _ in range(turn):
                start = clock()
                step()
                seconds[name].append(clock() - start)
    return {name: 1000 * statistics.median(values) for name, values in seconds.items()}


def check_same_start(steps: Mapping[str, Step]) -> dict[str, float]:
    """First losses: the contenders compute the same thing, or this is no comparison."""
    losses = {name: step() for name, step in steps.items()}
    first = losses["pockengine"]
    if any(abs(loss - first) > 1e-3 * abs(first) for loss in losses.values()):
        raise SystemExit(f"the first losses differ: {losses}")
    return losses


def run(options: argparse.Namespace, name: str) -> dict[str, float | str]:
    steps = contenders(options, name)
    check_same_start(steps)
    clock = time.process_time if options.cpu else time.perf_counter
    times = measure(steps, options.rounds, options.turn, clock)
    result: dict[str, float | str] = {"scheme": name, **{n: round(t, 2) for n, t in times.items()}}
    others = [t for n, t in times.items() if n != "pockengine"]
    if others:
        result["ratio"] = round(min(others) / times["pockengine"], 3)
    return result


def without_openblas_settings() -> None:
    """Starts this program again without settings that would slow one side."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
    if len(clean) != len(os.environ):
        os.execve(sys.executable, [sys.executable, *sys.argv], clean)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scheme", nargs="+", default=["full", "sparse"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turn", type=int, default=3, help="timed steps in a turn")
    parser.add_argument("--train-mode", action="store_true", help="batch norm of batch statistics")
    parser.add_argument("--tf-padding", action="store_true", help="padding as its own operator")
    parser.add_argument("--cpu", action="store_true", help="CPU time: one thread, busy machine")
    parser.add_argument("--ours-only", action="store_true")
    parser.add_argument("--json", action="store_true", help="one JSON line a scheme")
    options = parser.parse_args()
    without_openblas_settings()
    torch.set_num_threads(options.threads)
    for name in options.scheme:
        result = run(options, name)
        if options.json:
            print(json.dumps({**result, "unit": "ms", "batch": options.batch}), flush=True)
        else:
            print("   ".join(f"{key} {value}" for key, value in result.items()), flush=True)


if __name__ == "__main__":
    main()
