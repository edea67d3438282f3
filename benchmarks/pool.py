"""The cost of one launch of the thread pool, in microseconds, by the time since the last one.

    python benchmarks/pool.py [--threads 2]

Within the time that workers spin a launch costs a fraction of a microsecond; after it they sleep,
and a launch wakes them. Before that, how long a line of the cache takes from the first thread's
processor to the second's and back.
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
#include <sched.h>
#define BOUNCES 100000

static void nothing(void *ctx, int thread, idx begin, idx end) {}

/* Two threads count in turns: the first the even numbers, the second the odd ones. */
static void bounce(void *ctx, int thread, idx begin, idx end) {
  atomic_int *const count = ctx;
  for (int mine = thread; mine < 2 * BOUNCES; mine += 2) {
    for (int i = 1; atomic_load_explicit(count, memory_order_acquire) != mine; i++)
      if (i % 10000 == 0) sched_yield();
    atomic_store_explicit(count, mine + 1, memory_order_release);
  }
}

POCK_EXPORT size_t pool_bytes(void) { return sizeof(pk_pool) + 64; }
POCK_EXPORT double round_trip(void *memory) {
  static _Alignas(64) atomic_int count;
  pk_pool *const pool = (void *)(((uintptr_t)memory + 63) / 64 * 64);
  double seconds = -1;
  if (pk_pool_start(pool, 2) == 2) {
    atomic_store(&count, 0);
    double start = pk_seconds();
    pk_parallel(pool, bounce, &count, 2);
    seconds = (pk_seconds() - start) / BOUNCES;
  }
  pk_pool_stop(pool);
  return seconds;
}
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
    library.launch.restype = library.round_trip.restype = ctypes.c_double
    library.pool_bytes.restype = ctypes.c_size_t
    memory = ctypes.create_string_buffer(library.pool_bytes())
    if threads > 1:
        seconds = library.round_trip(memory)
        there = f"{1e9 * seconds:.0f} ns" if seconds > 0 else "the system refuses a second thread"
        print(f"from one processor to the other and back: {there}")
    print(f"{threads} threads\n{'gap, us':>10} {'median, us':>12} {'best, us':>10}")
    for gap in GAPS:
        times = max(20, 20000 // (gap + 1))
        pause = ctypes.c_double(gap * 1e-6)
        found = [1e6 * library.launch(memory, threads, times, pause) for _ in range(ROUNDS)]
        print(f"{gap:10} {statistics.median(found):12.2f} {min(found):10.2f}")


if __name__ == "__main__":
    main()
