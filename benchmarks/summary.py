"""From what the workers measured to figures: medians, ratios, gains; and the machine they hold for.

`best peer` is the fastest of all others under the same scheme. Our sparse step against the best
peer's full one is the product of two gains, which are kept apart: that of the engine (the same work
in less time) and that of the scheme (less work).
"""

import importlib.metadata
import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.contenders import CONTENDERS, OURS
from benchmarks.measure import Worker
from benchmarks.workloads import SCHEMES, Workload
from pockengine.analysis.measure import quartiles
from pockengine.files import write_atomically

TENSORFLOW = "TensorFlow graph"
PACKAGES = ("pockengine", "numpy", "torch", "transformers", "tensorflow_cpu", "keras", "jax")
Figures = dict[str, Any]


def contender(worker: Worker) -> Figures:
    if worker.missing:
        return {"missing": worker.missing}
    ms = [1000 * s for s in worker.seconds]
    spread = quartiles(ms)
    return {
        "median_ms": round(spread[1], 4),
        "quartiles_ms": [round(x, 4) for x in spread],
        "steps": len(ms),
        "first_loss": worker.loss,
        "memory_growth": worker.memory,
        "idle_seconds": round(worker.idle, 3),
        **{f"{name}_bytes": size for name, size in worker.facts.items()},
    }


def workload(name: str, about: Workload, workers: list[Worker]) -> Figures:
    schemes = {s: {w.contender: contender(w) for w in workers if w.scheme == s} for s in SCHEMES}
    found = {"name": name, "title": about.title, "statistics": about.statistics}
    found |= {"micro_batch": dict(about.micro_batch), **schemes}
    return found | {"ratios": ratios(schemes), "memory": memory(schemes)}


def best_peer(contenders: Figures) -> str | None:
    """The name of the fastest of the others."""
    times = {n: c["median_ms"] for n, c in contenders.items() if n != OURS and "median_ms" in c}
    return min(times, key=times.__getitem__, default=None)


def ratios(schemes: dict[str, Figures]) -> Figures:
    ours = {s: schemes[s][OURS]["median_ms"] for s in SCHEMES}
    found: Figures = {"sparsity_gain": round(ours["full"] / ours["sparse"], 3)}
    for scheme in SCHEMES:
        peer = best_peer(schemes[scheme])
        if peer:
            gain = schemes[scheme][peer]["median_ms"] / ours[scheme]
            found |= {f"best_peer_{scheme}": peer, f"engine_gain_{scheme}": round(gain, 3)}
    peers = {"best_peer": found.get("best_peer_full"), "tensorflow": TENSORFLOW}
    for label, peer in peers.items():
        time = schemes["full"].get(peer, {}).get("median_ms")
        if time:
            found[f"sparse_vs_{label}_full"] = round(time / ours["sparse"], 3)
    return found


def memory(schemes: dict[str, Figures]) -> Figures:
    """Growth of our sparse process beside that of PyTorch's smaller eager layout."""
    ours = schemes["sparse"][OURS]["memory_growth"]
    found: Figures = {}
    for scheme in SCHEMES:
        for kind in ours:
            growths = [
                c["memory_growth"][kind]
                for name, c in schemes[scheme].items()
                if CONTENDERS[name][0] == "pytorch" and CONTENDERS[name][1] != "compile"
                if "memory_growth" in c
            ]
            if growths:
                found[f"pytorch_{scheme}_over_ours_sparse_{kind}"] = round(
                    min(growths) / ours[kind], 3
                )
    return found


def machine(threads: int) -> Figures:
    return {
        "processor": processor(),
        "processors": os.cpu_count(),
        "system": f"{platform.system()} on {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: v for name in PACKAGES if (v := version(name))},
        "threads": threads,
    }


def keep(path: Path, key: str, found: Figures) -> None:
    """Puts figures into a JSON file, beside those with other keys."""
    known = json.loads(path.read_text()) if path.exists() else {}
    write_atomically(path, (json.dumps({**known, key: found}, indent=1) + "\n").encode())


def processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    facts = dict(tuple(map(str.strip, x.split(":", 1))) for x in lines if ":" in x)
    name = facts.get("model name") or platform.processor()
    details = ", ".join(f"{k} {facts[k]}" for k in ("cpu family", "model") if k in facts)
    return f"{name} ({details})" if details else name


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@cache  # the sources are those of the first training
def source_tree() -> str:
    """Git's hash of the folder `src`, the same for the same package, with "+edits" where files
    differ from it; "unknown" without Git.
    """
    edits = "+edits" if _git("status", "--porcelain", "../src") else ""
    return _git("rev-parse", "--short=12", "HEAD:src") + edits or "unknown"


def provenance() -> Figures:
    """The commit and the date."""
    changed = _git("status", "--porcelain", "../src", "*.py")
    return {
        "commit": _git("rev-parse", "HEAD"),
        "changed_since": bool(changed),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _git(*words: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
