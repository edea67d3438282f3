/* threads.h - a fixed team of threads that splits ranges statically.
 *
 * The caller owns the pool's memory and is thread 0. The split depends on the number of items and
 * threads only, so that each run computes the same. With POCK_NO_THREADS (bare metal, WASM) there
 * is one thread and no system library is needed.
 */
#ifndef POCK_THREADS_H
#define POCK_THREADS_H

#include <stddef.h>

#ifndef POCK_NO_THREADS
#include <pthread.h>
#include <stdatomic.h>
#endif

#define PK_MAX_THREADS 64

/* Items begin..end on thread `thread` of the pool. */
typedef void pk_range_fn(void *ctx, int thread, ptrdiff_t begin, ptrdiff_t end);

typedef struct pk_pool pk_pool;

#ifndef POCK_NO_THREADS
typedef struct {
  pk_pool *pool;
  int thread;
  pthread_t handle;
} pk_worker;
#endif

struct pk_pool {
  int threads;
#ifndef POCK_NO_THREADS
  pk_range_fn *fn;
  void *ctx;
  ptrdiff_t items;
  int stop;
  /* Each on its own line of the cache: workers watch the first while others write the second. */
  _Alignas(64) atomic_uint epoch;   /* counts the tasks given out */
  _Alignas(64) atomic_int pending;  /* workers still busy with the current task */
  _Alignas(64) atomic_int sleeping; /* workers that wait on `wake` */
  pthread_mutex_t lock;
  pthread_cond_t wake;
  pk_worker workers[PK_MAX_THREADS];
#endif
};

/* Starts threads - 1 workers; returns the number of threads that really run (fewer where the system
 * refuses more). */
int pk_pool_start(pk_pool *pool, int threads);
void pk_pool_stop(pk_pool *pool);

/* Calls fn once on each thread that has items; returns when all are done. */
void pk_parallel(pk_pool *pool, pk_range_fn *fn, void *ctx, ptrdiff_t items);

#endif
