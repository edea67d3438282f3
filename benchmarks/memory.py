"""Planned peak beside what a process really takes, for networks of full size.

    python benchmarks/memory.py [--model mobilenetv2 resnet50 bert] [--scheme full sparse] [--json]

One process compiles (compile_program.py); a fresh one runs 20 steps and measures its own growth
(process_growth.py). Private memory must grow by the planned peak, within 5 % + 4 MB on either side;
else the exit status is 1.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MODELS, SCHEMES = ("mobilenetv2", "resnet50", "bert"), ("full", "sparse")


def python(script: str, *arguments: str) -> dict[str, Any]:
    """The JSON that another script of this folder prints, run in a process of its own."""
    command = [sys.executable, str(HERE / script), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def row(model: str, scheme: str, batch: int, threads: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        sizes = "--batch", str(batch), "--threads", str(threads)
        python("compile_program.py", model, scheme, folder, *sizes)
        found = python("process_growth.py", folder)
    allowed = int(found["planned"] * 0.05 + 4e6)
    holds = abs(found["private"] - found["planned"]) <= allowed
    return {"model": model, "scheme": scheme, **found, "allowed": allowed, "holds": holds}


def show(rows: list[dict[str, Any]]) -> None:
    columns = ["planned", "arena", "private", "resident", "allowed"]
    print(f"{'MB':22}" + "".join(f"{c:>12}" for c in columns))
    for r in rows:
        numbers = "".join(f"{r[c] / 1e6:12.2f}" for c in columns)
        print(f"{r['model'] + ' ' + r['scheme']:22}{numbers}   {'holds' if r['holds'] else 'NOT'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--scheme", nargs="+", choices=SCHEMES, default=SCHEMES)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="one JSON list, nothing else")
    options = parser.parse_args()
    pairs = [(model, scheme) for model in options.model for scheme in options.scheme]
    rows = [row(*pair, options.batch, options.threads) for pair in pairs]
    if options.json:
        print(json.dumps(rows))
    else:
        show(rows)
    sys.exit(not all(r["holds"] for r in rows))


if __name__ == "__main__":
    main()
