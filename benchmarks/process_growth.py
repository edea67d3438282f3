"""How much a process grows by running a program: one JSON line, in bytes.

    python benchmarks/process_growth.py FOLDER

FOLDER has program.pock and batch.npz. Imports NumPy and pockengine's runtime, nothing else, and
makes the batch; then measures from before the file is opened to after 20 steps. `private` is what
no other process shares (Private_Clean + Private_Dirty + Swap of /proc/self/smaps_rollup).
"""

import json
import sys
from pathlib import Path

import numpy as np

from pockengine.runtime.session import Session

STEPS = 20
FOREIGN = {"torch", "onnx", "ziglang", "safetensors", "pockengine.compiler"}


def memory() -> dict[str, int]:
    fields = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, value, *_ = line.split()
        fields[name.rstrip(":")] = int(value) * 1024
    private = fields["Private_Clean"] + fields["Private_Dirty"] + fields["Swap"]
    return {"private": private, "resident": fields["Rss"]}


def main() -> None:
    folder = Path(sys.argv[1])
    with np.load(folder / "batch.npz") as file:
        batch = {name: file[name] for name in file.files}
    labels = batch.pop("labels")
    before = memory()
    session = Session.load(folder / "program.pock")
    for _ in range(STEPS):
        session.step(batch, labels, lr=1e-4)
    after = memory()
    if FOREIGN & set(sys.modules):
        raise SystemExit(f"the runtime imported {FOREIGN & set(sys.modules)}")
    growth = {key: after[key] - before[key] for key in after}
    sizes = {"planned": session.program.peak_bytes, "arena": session.arena_bytes}
    print(json.dumps(sizes | growth))


if __name__ == "__main__":
    main()
