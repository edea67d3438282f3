/* threads.c - see threads.h. */
#include "pock.h"

static void run_share(pk_range_fn *fn, void *ctx, int thread, int threads, idx items) {
  idx begin = items * thread / threads, end = items * (thread + 1) / threads;
  if (begin < end) fn(ctx, thread, begin, end);
}

#ifdef POCK_NO_THREADS

int pk_pool_start(pk_pool *pool, int threads) {
  (void)threads;
  return pool->threads = 1;
}

void pk_pool_stop(pk_pool *pool) { (void)pool; }

void pk_parallel(pk_pool *pool, pk_range_fn *fn, void *ctx, idx items) {
  (void)pool;
  run_share(fn, ctx, 0, 1, items);
}

#else

#include <sched.h>
#include <time.h>

/* A sleeping worker takes some 25 microseconds to wake, a spinning one less than one. So workers
 * spin through the serial steps and the calls between two entry points, and sleep after that. Where
 * there are fewer free processors than threads, the one that is waited for must get one: all offer
 * theirs every few microseconds. */
#define SPIN_NANOSECONDS 500000
#define SPINS 128 /* pauses between two offers of the processor to other threads */

PK_INLINE void spin_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__) || defined(__arm__)
  __asm__ volatile("yield");
#endif
}

static int64_t nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Waits until the epoch differs from `seen`: spins, then sleeps. */
static unsigned next_epoch(pk_pool *pool, unsigned seen) {
  int64_t end = nanoseconds() + SPIN_NANOSECONDS;
  do {
    for (int i = 0; i < SPINS; i++) {
      unsigned now = atomic_load_explicit(&pool->epoch, memory_order_acquire);
      if (now != seen) return now;
      spin_pause();
    }
    sched_yield();
  } while (nanoseconds() < end);
  pthread_mutex_lock(&pool->lock);
  atomic_fetch_add(&pool->sleeping, 1); /* before the check: see wake_workers */
  while (atomic_load(&pool->epoch) == seen) pthread_cond_wait(&pool->wake, &pool->lock);
  atomic_fetch_sub(&pool->sleeping, 1);
  pthread_mutex_unlock(&pool->lock);
  return atomic_load(&pool->epoch);
}

static void *worker_main(void *arg) {
  pk_worker *worker = arg;
  pk_pool *pool = worker->pool;
  unsigned seen = 0;
  for (;;) {
    seen = next_epoch(pool, seen);
    if (pool->stop) return NULL;
    run_share(pool->fn, pool->ctx, worker->thread, pool->threads, pool->items);
    atomic_fetch_sub_explicit(&pool->pending, 1, memory_order_release);
  }
}

/* Either this sees a sleeper, or the sleeper-to-be sees the new epoch: both sides write first and
 * read second, in one total order. */
static void wake_workers(pk_pool *pool) {
  atomic_fetch_add(&pool->epoch, 1);
  if (atomic_load(&pool->sleeping) == 0) return;
  pthread_mutex_lock(&pool->lock);
  pthread_cond_broadcast(&pool->wake);
  pthread_mutex_unlock(&pool->lock);
}

int pk_pool_start(pk_pool *pool, int threads) {
  memset(pool, 0, sizeof *pool);
  pool->threads = 1;
  pthread_mutex_init(&pool->lock, NULL);
  pthread_cond_init(&pool->wake, NULL);
  int wanted = (int)idx_max(1, idx_min(threads, PK_MAX_THREADS));
  for (int t = 1; t < wanted; t++) {
    pk_worker *worker = &pool->workers[t];
    *worker = (pk_worker){.pool = pool, .thread = t};
    if (pthread_create(&worker->handle, NULL, worker_main, worker) != 0) break;
    pool->threads = t + 1;
  }
  return pool->threads;
}

void pk_pool_stop(pk_pool *pool) {
  pool->stop = 1;
  wake_workers(pool);
  for (int t = 1; t < pool->threads; t++) pthread_join(pool->workers[t].handle, NULL);
  pthread_mutex_destroy(&pool->lock);
  pthread_cond_destroy(&pool->wake);
}

void pk_parallel(pk_pool *pool, pk_range_fn *fn, void *ctx, idx items) {
  if (pool->threads == 1 || items <= 1) {
    run_share(fn, ctx, 0, 1, items);
    return;
  }
  pool->fn = fn;
  pool->ctx = ctx;
  pool->items = items;
  atomic_store_explicit(&pool->pending, pool->threads - 1, memory_order_relaxed);
  wake_workers(pool);
  run_share(fn, ctx, 0, pool->threads, items);
  for (int i = 1; atomic_load_explicit(&pool->pending, memory_order_acquire) > 0; i++) {
    spin_pause();
    if (i % SPINS == 0) sched_yield();
  }
}

#endif
