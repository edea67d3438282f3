"""`pockengine doctor`"""

import importlib.metadata
import json
import os
import platform
import time

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

import pockengine as pe
from pockengine.cli.options import Json
from pockengine.demo.personalise import HERE
from pockengine.errors import InputError, PockError
from pockengine.files import cache_dir


def doctor(as_json: Json = False) -> None:
    """Report what this machine has, and compile and run something small."""
    trial, works = _trial()
    facts = {
        "pockengine": _version("pockengine"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "target": _target(),
        "numpy": np.__version__,
        "compiler": os.environ.get("POCKENGINE_CC") or f"zig cc (ziglang {_version('ziglang')})",
        "cache": _cache(),
        "torch": f"{_version('torch')} (for PyTorch models only)",
        "compile and run": trial,
    }
    if as_json:
        typer.echo(json.dumps({"works": works, **facts}))
    else:
        Console().print(_table(facts))
    raise typer.Exit(0 if works else 1)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _target() -> str:
    try:
        host = pe.Target.host()
    except InputError as error:
        return f"none: {error}"
    return f"{host.triple}, {host.cpu}, vectors of {host.vector_width} floats"


def _cache() -> str:
    folder = cache_dir()
    files = [path for path in folder.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files) / 2**20
    return f"{folder}: {len(files)} files, {size:.1f} MiB"


def _trial() -> tuple[str, bool]:
    """Trains the demo network's head for three steps on random numbers."""
    started = time.perf_counter()
    try:
        graph = pe.import_onnx(HERE / "base_network.onnx")
        scheme = pe.UpdateScheme.head_only(graph)
        program = pe.compile(
            graph, loss="cross_entropy", optimizer=pe.SGD(), scheme=scheme, batch=4
        )
        session = pe.Session(program)
        x = np.random.default_rng(0).normal(size=(4, 6, 128)).astype(np.float32)
        losses = [session.step(x, np.arange(4), lr=0.01) for _ in range(3)]
    except PockError as error:
        return f"failed: {type(error).__name__}: {error}", False
    seconds = time.perf_counter() - started
    good = losses[2] < losses[0]
    verdict = "works" if good else f"gives losses that do not fall: {losses}"
    return f"{verdict}; {seconds:.1f} s", good


def _table(facts: dict[str, str]) -> Table:
    table = Table(show_header=False)
    for name, fact in facts.items():
        table.add_row(name, fact)
    return table
