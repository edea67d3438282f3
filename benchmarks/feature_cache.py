"""How much faster later epochs are when the features of the frozen prefix are kept.

    python -m benchmarks.feature_cache [--batch 8] [--batches 12] [--threads 2] [--json]

MobileNetV2 of width 1 at 224 x 224, its last 7 blocks trained sparsely. The first epoch computes
all features and keeps them, later ones compute none; "plain" is an epoch of a session without a
cache. Samples come from arrays in memory, whose contents are hashed at every step; or from JPEG
files, which an epoch without features decodes and scales, and an epoch with them never opens. The
files are made here: smooth noise, about as many bytes as photographs of their size.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import pockengine as pe
from benchmarks.networks import MODELS, calibrated
from pockengine.ir.op import Array
from pockengine.program import CompiledProgram

SIDE, EPOCHS = 224, 5
Step = Callable[[pe.Session, Sequence[int], Array], float]


@dataclass(frozen=True)
class Source:
    """Where samples come from: how to make a step with those of some numbers."""

    name: str
    step: Step
    folder: Path | None = None


def compiled(batch: int, threads: int) -> CompiledProgram:
    network = MODELS["mobilenetv2"]
    torch.manual_seed(0)
    module = calibrated(network.make(), network.inputs(8)).eval()
    graph = pe.import_torch(module, network.inputs(2))
    return pe.compile(
        graph,
        optimizer=pe.SGD(momentum=0.9),
        scheme=network.scheme(graph, "sparse"),
        batch=batch,
        target=pe.Target.host(threads=threads),
    )


def work(program: CompiledProgram) -> dict[str, float]:
    """GFLOP of a step before and behind the features."""
    assert program.signature.prefix is not None
    times = {"features": program.signature.batch // program.signature.prefix.samples, "train": 1}
    found = {}
    for name, count in times.items():
        steps = program.plan.entries[name].schedule.steps
        values = {v for step in steps for v in step.values}
        flops = sum(v.flops for v in values)
        found[name] = count * flops / 1e9
    return found


# ---- samples -------------------------------------------------------------------------------------


def from_arrays(count: int) -> Source:
    x = np.random.default_rng(0).standard_normal((count, 3, SIDE, SIDE)).astype(np.float32)
    return Source("arrays in memory", lambda session, i, y: session.step(x[i[0] : i[-1] + 1], y))


def from_files(name: str, paths: list[Path], folder: Path | None = None) -> Source:
    def load(numbers: Sequence[Any]) -> Array:
        return np.stack([decoded(paths[i]) for i in numbers])

    return Source(name, lambda session, i, y: session.step(load, y, samples=i), folder)


def decoded(path: Path) -> Array:
    image = Image.open(path)
    image.draft("RGB", (SIDE, SIDE))  # large files are decoded at a fraction of their size
    image = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return (np.asarray(image, np.float32) / 127.5 - 1).transpose(2, 0, 1)


def make_files(folder: Path, count: int, width: int, height: int) -> list[Path]:
    rng, paths = np.random.default_rng(0), []
    for number in range(count):
        waves = Image.fromarray(rng.integers(0, 256, (height // 16, width // 16, 3), np.uint8))
        smooth = np.asarray(waves.resize((width, height), Image.Resampling.BICUBIC), np.float32)
        grain = rng.normal(0, 6, smooth.shape)
        paths.append(folder / f"{width}-{number}.jpg")
        pixels = (smooth + grain).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(paths[-1], quality=90)
    return paths


# ---- epochs --------------------------------------------------------------------------------------


def epochs(program: CompiledProgram, source: Source, batches: int) -> dict[str, Any]:
    """Milliseconds a step: without a cache, in the first epoch with one, and in later ones."""
    batch = program.signature.batch
    cache = pe.FeatureCache("1GB", source.folder)
    with pe.Session(program) as plain, pe.Session(program, cache=cache) as cached:
        for session in (plain, cached):  # warm up with samples that the epochs do not have
            source.step(session, range(batches * batch, (batches + 1) * batch), labels(batch))
        first = epoch(cached, source, batches)
        pairs = [
            (epoch(plain, source, batches), epoch(cached, source, batches)) for _ in range(EPOCHS)
        ]
    without, later = (statistics.median(times) for times in zip(*pairs, strict=True))
    return {
        "samples": source.name,
        "plain_ms": round(without, 2),
        "first_ms": round(first, 2),
        "later_ms": round(later, 2),
        "first_over_later": round(first / later, 2),
        "plain_over_later": round(without / later, 2),
        "bytes_a_sample": cache.nbytes // len(cache),
    }


def epoch(session: pe.Session, source: Source, batches: int) -> float:
    """The mean milliseconds of a step."""
    batch = session.signature.batch
    start = time.perf_counter()
    for number in range(batches):
        source.step(session, range(number * batch, (number + 1) * batch), labels(batch))
    return (time.perf_counter() - start) / batches * 1e3


def labels(batch: int) -> Array:
    return np.arange(batch)


def rows(program: CompiledProgram, batches: int) -> Iterator[dict[str, Any]]:
    count = (batches + 1) * program.signature.batch
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small = make_files(folder, count, SIDE, SIDE)
        medium = make_files(folder, count, 500, 375)
        photos = make_files(folder, count, 1600, 1200)
        for source in (
            from_arrays(count),
            from_files("JPEG 224 x 224", small),
            from_files("JPEG 500 x 375", medium),
            from_files("JPEG 1600 x 1200", photos),
            from_files("JPEG 1600 x 1200, features in files", photos, folder / "features"),
        ):
            yield epochs(program, source, batches)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--batches", type=int, default=12, help="of an epoch")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="one JSON object, nothing else")
    options = parser.parse_args()
    program = compiled(options.batch, options.threads)
    found = {"gflop": work(program), "rows": list(rows(program, options.batches))}
    if options.json:
        print(json.dumps(found))
        return
    before, behind = found["gflop"]["features"], found["gflop"]["train"]
    print(f"GFLOP a step: {before:.2f} before the features, {behind:.2f} behind them")
    print(f"{'ms a step':36}{'plain':>9}{'first':>9}{'later':>9}{'first/later':>13}")
    for row in found["rows"]:
        times = "".join(f"{row[key]:9.2f}" for key in ("plain_ms", "first_ms", "later_ms"))
        print(f"{row['samples']:36}{times}{row['first_over_later']:13.2f}")


if __name__ == "__main__":
    main()
