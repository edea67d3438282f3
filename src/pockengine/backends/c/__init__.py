"""The C back end: from a plan to native code."""

import tempfile
from pathlib import Path

from pockengine.backends.c.build import build_unit
from pockengine.backends.c.calls import row_length
from pockengine.backends.c.emit import PARTS, emit, with_kernels
from pockengine.backends.c.rules import canonical
from pockengine.backends.c.tuning import tune
from pockengine.backends.code import Code
from pockengine.plan.planner import Plan
from pockengine.runtime.native import NativeExecutable
from pockengine.target import Target

__all__ = ["build", "canonical", "emit", "row_length", "tune", "with_kernels"]


def build(plan: Plan, target: Target, timed: bool = False) -> Code:
    """Compiles a plan; `timed` code also measures its steps, see emit.

    Raises CompilerMissingError, CompileFailedError, UnsupportedError.
    """
    source = emit(plan, target, timed)
    with tempfile.TemporaryDirectory() as folder:
        library = build_unit(source, target, Path(folder, "program.so"), PARTS).read_bytes()
    entries, size = tuple(plan.entries), plan.arena_bytes
    return Code(lambda threads: NativeExecutable(library, entries, size, threads), source, library)
