"""How close each step of a program comes to what this machine can do.

Both peaks are measured on the spot, on the program's own number of threads: the arithmetic of the
register tile on data in the first cache, and the bytes of a triad (a = b + 3 * c) over as much
memory as the program's arena. The roof of a step is the lower of the two for its work:

    roof = min(peak flops, flops / bytes * peak bytes)

Bytes count everything a step reads and stores once. A step is beyond the roof where its operands
were still in a cache that the triad did not find them in.
"""

import ctypes
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pockengine.backends import c
from pockengine.backends.c.build import build_unit
from pockengine.compiler import Planned
from pockengine.errors import InputError
from pockengine.ir.op import Value
from pockengine.ir.schedule import Step
from pockengine.passes.fuse import anchor_of
from pockengine.program import CompiledProgram, make_program
from pockengine.runtime.native import NativeExecutable
from pockengine.runtime.program import FEATURES, Array
from pockengine.target import Target

SMALLEST_TRIAD, LARGEST_TRIAD = 1 << 20, 1 << 29  # bytes
_PEAKS = """
#define POCK_TIMED
#include "unit.h"

enum { ROWS = 20 * POCK_MR, K = 256, NR = 2 * POCK_VW, TIMES = 50 };
enum { OPERANDS = ROWS * K + K * NR + ROWS * NR };
typedef struct { float *data; idx third; } task;

/* Each thread multiplies in a place of its own, which its first cache keeps. */
static void tile(void *ctx, int thread, idx begin, idx end) {
  float *const a = ((task *)ctx)->data + thread * (idx)OPERANDS;
  float *const b = a + ROWS * K, *const out = b + K * NR;
  for (int i = 0; i < TIMES; i++) pk_gemm(a, K, b, K, NR, out, NR, ROWS, 0);
}

static void triad(void *ctx, int thread, idx begin, idx end) {
  const task *const t = ctx;
  float *const restrict a = t->data;
  const float *const restrict b = a + t->third, *const restrict c = b + t->third;
  for (idx i = begin; i < end; i++) a[i] = b[i] + 3 * c[i];
}

static double seconds(pk_pool *pool, pk_range_fn *fn, task *t, idx items) {
  double best = 1e30;
  for (int i = 0; i < 15; i++) {
    const double start = pk_seconds();
    pk_parallel(pool, fn, t, items);
    const double taken = pk_seconds() - start;
    if (taken < best) best = taken;
  }
  return best;
}

POCK_EXPORT size_t peak_floats(int threads) { return (size_t)threads * OPERANDS; }
POCK_EXPORT void peaks(float *data, size_t floats, int threads, double *flops, double *bytes) {
  pk_pool pool;
  task t = {data, (idx)(floats / 3)};
  threads = pk_pool_start(&pool, threads);
  *flops = 2.0 * ROWS * K * NR * TIMES * threads / seconds(&pool, tile, &t, threads);
  *bytes = 12.0 * (double)t.third / seconds(&pool, triad, &t, t.third);
  pk_pool_stop(&pool);
}
"""


@dataclass(frozen=True)
class Peaks:
    """What the machine reaches at best, a second."""

    flops: float
    bytes: float

    def roof(self, flops: int, nbytes: int) -> float:
        """FLOP/s that a step with this work could reach."""
        return min(self.flops, flops / nbytes * self.bytes) if nbytes else self.flops


@dataclass(frozen=True)
class StepTime:
    """One step: what it computes, its work, and the mean time that it took in a call.

    The frozen prefix runs several times in a call; its steps count with all of them.
    """

    entry: str
    number: int
    source: str
    operator: str
    variant: str
    shape: tuple[int, ...]
    flops: int
    bytes: int
    seconds: float

    @property
    def gflops(self) -> float:
        return 1e-9 * self.flops / self.seconds if self.seconds else 0.0

    @property
    def gbytes(self) -> float:
        return 1e-9 * self.bytes / self.seconds if self.seconds else 0.0

    def of_roof(self, peaks: Peaks) -> float:
        """Achieved over possible: of FLOP/s, or of bytes where it computes nothing."""
        if not self.seconds:
            return 0.0
        return max(self.flops / peaks.flops, self.bytes / peaks.bytes) / self.seconds


@dataclass(frozen=True)
class Roofline:
    """The steps of a call of `entry` in their order, and the peaks they are judged by."""

    entry: str
    peaks: Peaks
    steps: tuple[StepTime, ...]

    @property
    def seconds(self) -> float:
        return sum(step.seconds for step in self.steps)

    def by_operator(self) -> tuple[StepTime, ...]:
        """Sums of the steps of one operator and variant, longest first; `number` is their count."""
        groups: dict[tuple[str, str], StepTime] = {}
        for step in self.steps:
            key = step.operator, step.variant
            sum_ = groups.get(key) or StepTime(self.entry, 0, "", *key, (), 0, 0, 0.0)
            groups[key] = replace(
                sum_,
                number=sum_.number + 1,
                flops=sum_.flops + step.flops,
                bytes=sum_.bytes + step.bytes,
                seconds=sum_.seconds + step.seconds,
            )
        return tuple(sorted(groups.values(), key=lambda group: -group.seconds))

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data; `steps` in program order."""
        return {
            "entry": self.entry,
            "peak_gflops": 1e-9 * self.peaks.flops,
            "peak_gbytes": 1e-9 * self.peaks.bytes,
            "seconds": self.seconds,
            "steps": [asdict(s) | {"of_roof": s.of_roof(self.peaks)} for s in self.steps],
        }


class Stopwatch:
    """A program whose native code adds up the seconds of each of its steps."""

    def __init__(self, planned: Planned) -> None:
        """Compiles it. Raises InputError for another back end than C, and what compiling raises."""
        if planned.job.target.backend != "c":
            raise InputError("only the C back end measures its steps")
        self._planned = planned
        code = c.build(planned.plan, planned.job.target, timed=True)
        executable = code.start(planned.job.target.threads)
        assert isinstance(executable, NativeExecutable)
        self._executable = executable
        timed = replace(code, start=lambda _: executable)
        self.program: CompiledProgram = make_program(
            planned.plan, timed, planned.layouts, planned.job
        )

    def reset(self) -> None:
        """Forgets what was measured."""
        for name in self._planned.plan.entries:
            self.seconds(name)[:] = 0

    def roofline(self, entry: str, calls: int, peaks: Peaks) -> Roofline:
        """The report of the `calls` calls since the last reset."""
        times: list[StepTime] = []
        for name, runs in self._runs(entry).items():
            steps = self._planned.plan.entries[name].schedule.steps
            each = zip(steps, self.seconds(name), strict=True)
            times += [
                _step_time(name, n, step, runs, float(seconds) / calls)
                for n, (step, seconds) in enumerate(each)
            ]
        return Roofline(entry, peaks, tuple(times))

    def _runs(self, entry: str) -> dict[str, int]:
        """The entry points that a call runs, and how often."""
        prefix = self.program.signature.prefix
        before = {FEATURES: self.program.signature.batch // prefix.samples} if prefix else {}
        return before | {entry: 1}

    def seconds(self, entry: str) -> Array:
        """What each step of an entry point took since the last reset."""
        count = len(self._planned.plan.entries[entry].schedule.steps)
        return self._executable.step_seconds(entry, count)


def measure_peaks(target: Target, arena_bytes: int) -> Peaks:
    """The peaks of this machine, for a program with an arena of that size."""
    with tempfile.TemporaryDirectory() as folder:
        library = ctypes.CDLL(str(build_unit(_PEAKS, target, Path(folder, "peaks.so"))))
    library.peak_floats.restype = ctypes.c_size_t
    nbytes = min(max(arena_bytes, SMALLEST_TRIAD), LARGEST_TRIAD)
    data = np.ones(max(nbytes // 4, library.peak_floats(target.threads)), np.float32)
    flops, bandwidth = ctypes.c_double(), ctypes.c_double()
    library.peaks(
        ctypes.c_void_p(data.ctypes.data),
        ctypes.c_size_t(nbytes // 4),
        target.threads,
        ctypes.byref(flops),
        ctypes.byref(bandwidth),
    )
    return Peaks(flops.value, bandwidth.value)


def _step_time(entry: str, number: int, step: Step, runs: int, seconds: float) -> StepTime:
    anchor = anchor_of(step.values)
    flops = sum(v.flops for v in step.values)
    moved = [*step.reads, *step.results, *(leaf for _, leaf in step.copies)]
    shown = anchor if anchor is not None else (step.results or step.values or (None,))[-1]
    return StepTime(
        entry,
        number,
        _source(([anchor] if anchor is not None else []) + list(step.values)),
        _operator(anchor, step.values),
        step.variant,
        shown.shape if shown is not None else (),
        runs * flops,
        runs * sum(v.type.nbytes for v in moved),
        seconds,
    )


def _source(values: Iterable[Value]) -> str:
    """The first layer of the source model that a step computes."""
    return next((v.source for v in values if v.source), "")


def _operator(anchor: Value | None, values: tuple[Value, ...]) -> str:
    """The operator of the kernel, or of the first few values of a loop."""
    if anchor is None:
        names = dict.fromkeys(type(v.op).__name__ for v in values if not v.op.alias)
        return f"loop of {', '.join(names)}" if names else "copy"
    name = type(anchor.op).__name__
    if getattr(anchor.op, "groups", 1) > 1:
        name += " grouped"
    turned = [side for side in "ab" if getattr(anchor.op, f"transpose_{side}", False)]
    return f"{name} of {' and '.join(turned)} transposed" if turned else name
