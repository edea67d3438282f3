"""Seconds from a PyTorch MobileNetV2 to its training step in a .pock file, each in a fresh process.

    python -m benchmarks.compile_time [--model mobilenetv2] [--scheme full] [--json]

`empty` has no kernel library, and the compiler's own cache is empty too; `warm` has both. Limits:
60 and 8 seconds; beyond them the exit status is 1.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LIMITS = {"empty": 60.0, "warm": 8.0}


def seconds(model: str, scheme: str, caches: str) -> dict[str, Any]:
    variables = ("POCKENGINE_CACHE", "ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR")
    environment = os.environ | {name: str(Path(caches, name)) for name in variables}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.compile_program", model, scheme, folder],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            cwd=ROOT,
            env=environment,
        )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mobilenetv2")
    parser.add_argument("--scheme", choices=["full", "sparse"], default="full")
    parser.add_argument("--json", action="store_true", help="one JSON object, nothing else")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as caches:
        found = {name: seconds(options.model, options.scheme, caches) for name in LIMITS}
    if options.json:
        print(json.dumps(found))
    else:
        for name, parts in found.items():
            print(f"{name:6}", "   ".join(f"{k} {v} s" for k, v in parts.items()))
    sys.exit(any(found[n]["import_to_artifact"] > limit for n, limit in LIMITS.items()))


if __name__ == "__main__":
    main()
