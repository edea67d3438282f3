"""The cost of one launch of the thread pool, in microseconds, by the time since the last one.

    python benchmarks/pool.py [--threads 2]

Within the time that workers spin a launch costs a fraction of a microsecond; after it they sleep,
and a launch wakes them.
"""

import argparse
import ctypes
import statistics
import tempfile
from pathlib import Path

from pockengine.backends.c.build import build_unit
from pockengine.target import Target

SOURCE = """
#define POCK_TIMED
#include "unit.h"

static void nothing(void *ctx, int thread, idx begin, idx end) {}

POCK_EXPORT size_t pool_bytes(void) { return sizeof(pk_pool) + 64; }
POCK_EXPORT double launch(void *memory, int threads, int times, double gap) {
  pk_pool *const pool = (void *)(((uintptr_t)memory + 63) / 64 * 64);
  double total = 0;
  pk_pool_start(pool, threads);
  for (int i = 0; i < times; i++) {
    double start = pk_seconds();
    while (pk_seconds() < start + gap) {}
    start = pk_seconds();
    pk_parallel(pool, nothing, NULL, threads);
    total += pk_seconds() - start;
  }
  pk_pool_stop(pool);
  return total / times;
}
"""
GAPS = (0, 10, 100, 200, 400, 1000, 5000)  # microseconds
ROUNDS = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    threads = parser.parse_args().threads
    path = build_unit(SOURCE, Target.host(threads=threads), Path(tempfile.mkdtemp(), "pool.so"))
    library = ctypes.CDLL(str(path))
    library.launch.restype = ctypes.c_double
    library.pool_bytes.restype = ctypes.c_size_t
    memory = ctypes.create_string_buffer(library.pool_bytes())
    print(f"{threads} threads\n{'gap, us':>10} {'median, us':>12} {'best, us':>10}")
    for gap in GAPS:
        times = max(20, 20000 // (gap + 1))
        pause = ctypes.c_double(gap * 1e-6)
        found = [1e6 * library.launch(memory, threads, times, pause) for _ in range(ROUNDS)]
        print(f"{gap:10} {statistics.median(found):12.2f} {min(found):10.2f}")


if __name__ == "__main__":
    main()
