/* selfcheck.c - the kernels against plain loops, in C, so that it runs on any target.
 *
 * Prints one line a case and returns the number of failures. The plain convolution is the only
 * reference: with the adjoint identities <conv(x, w), dy> = <x, dx(dy, w)> = <w, dw(x, dy)>, which
 * hold for each entry of dx and dw, the gradients are checked entry by entry too.
 */
#include <stdio.h>
#include <stdlib.h>

#include "pock.h"

static int failures;

static float *fresh(idx n, int random) {
  static uint32_t count;
  float *p = malloc((n + 1) * sizeof(float));
  for (idx i = 0; i < n; i++) p[i] = random ? pk_random_uniform(5, (uint32_t)i, count) - 0.5f : NAN;
  count++;
  return p;
}

static void check(const char *name, const float *got, const double *want, idx n) {
  double worst = 0, scale = 1e-30;
  for (idx i = 0; i < n; i++) {
    double error = fabs(got[i] - want[i]);
    scale = fmax(scale, fabs(want[i]));
    worst = error > worst || error != error ? error : worst;
  }
  int ok = worst <= 1e-5 * scale;
  printf("%s %-24s %.1e\n", ok ? "ok  " : "FAIL", name, worst / scale);
  failures += !ok;
}

static void check_gemm(idx rows, idx K, idx N) {
  float *a = fresh(rows * K, 1), *b = fresh(K * N, 1), *c = fresh(rows * N, 0);
  float *bp = fresh((N + 64) * K, 0), *scratch = fresh(256 * (16 + 320), 0);
  double *want = calloc(rows * N, sizeof(double));
  for (idx i = 0; i < rows * N; i++) {
    for (idx k = 0; k < K; k++) want[i] += (double)a[i / N * K + k] * b[k * N + i % N];
  }
  pk_pack_b(b, N, 1, K, N, bp, 0, (N + 2 * POCK_VW - 1) / (2 * POCK_VW));
  pk_gemm(a, K, bp, K, N, c, N, rows, 0);
  check("gemm", c, want, rows * N);
  float *at = fresh(K * rows, 0);
  for (idx i = 0; i < rows * K; i++) at[i % K * rows + i / K] = a[i];
  pk_gemm_tn(at, rows, b, N, 0, rows, N, K, c, N, 0, scratch);
  check("gemm_tn", c, want, rows * N);
}

/* y, dx and dw in double, by one loop over all that meet. */
static void plain_conv(const pk_conv *g, const float *x, const float *w, const float *dy, double *y,
                       double *dx, double *dw) {
  idx cg = g->c / g->groups, og = g->o / g->groups;
  for (idx p = 0; p < g->n * g->oh * g->ow; p++) {
    for (idx t = 0; t < g->kh * g->kw; t++) {
      idx iy = p / g->ow % g->oh * g->sh - g->ph + t / g->kw * g->dh;
      idx ix = p % g->ow * g->sw - g->pw + t % g->kw * g->dw;
      if (iy < 0 || iy >= g->h || ix < 0 || ix >= g->w) continue;
      idx pixel = (p / (g->oh * g->ow) * g->h + iy) * g->w + ix;
      for (idx o = 0; o < g->o; o++) {
        for (idx c = 0; c < cg; c++) {
          idx xi = pixel * g->c + o / og * cg + c, wi = (t * cg + c) * g->o + o, yi = p * g->o + o;
          y[yi] += (double)x[xi] * w[wi];
          dx[xi] += (double)dy[yi] * w[wi];
          dw[wi] += (double)x[xi] * dy[yi];
        }
      }
    }
  }
}

static void check_conv(pk_conv g) {
  idx cg = g.c / g.groups, og = g.o / g.groups, taps = g.kh * g.kw;
  idx xs = g.n * g.h * g.w * g.c, ys = g.n * g.oh * g.ow * g.o, ws = taps * cg * g.o;
  float *x = fresh(xs, 1), *w = fresh(ws, 1), *dy = fresh(ys, 1), *scratch = fresh(1 << 20, 0);
  float *y = fresh(ys, 0), *dx = fresh(xs, 0), *dw = fresh(ws, 0);
  double *wants[3] = {calloc(ys, 8), calloc(xs, 8), calloc(ws, 8)};
  plain_conv(&g, x, w, dy, wants[0], wants[1], wants[2]);
  if (g.groups == g.c && g.groups == g.o) {
    pk_depthwise_lines(&g, x, w, y, 0, g.n * g.oh);
    pk_depthwise_dx_lines(&g, dy, w, dx, 0, g.n * g.h);
    pk_depthwise_dw(&g, x, dy, dw, 0, g.n * g.oh, 0, g.c);
  } else {
    idx nr = 2 * POCK_VW, po = (og + nr - 1) / nr * g.groups, pc = (cg + nr - 1) / nr * g.groups;
    float *wp = fresh(po * nr * taps * cg, 0), *wp_t = fresh(pc * nr * taps * og, 0);
    pk_conv_pack(&g, w, wp, 0, po);
    pk_conv_pack_t(&g, w, wp_t, 0, pc);
    pk_conv_rows(&g, x, wp, y, g.o, 0, g.n * g.oh * g.ow, scratch);
    pk_conv_dx_rows(&g, dy, wp_t, dx, 0, g.n * g.h * g.w, scratch);
    pk_conv_dw(&g, x, dy, dw, 0, taps * cg, scratch);
  }
  check("conv y", y, wants[0], ys);
  check("conv dx", dx, wants[1], xs);
  check("conv dw", dw, wants[2], ws);
}

static void check_winograd(pk_conv g, int m) {
  idx points = (m + 2) * (m + 2), xs = g.n * g.h * g.w * g.c, ys = g.n * g.oh * g.ow * g.o;
  idx ws = 9 * g.c * g.o, nr = 2 * POCK_VW, panels = (g.o + nr - 1) / nr;
  float *x = fresh(xs, 1), *w = fresh(ws, 1), *dy = fresh(ys, 1), *scratch = fresh(1 << 20, 0);
  float *y = fresh(ys, 0), *dw = fresh(ws, 0), *u = fresh(points * (panels * nr * g.c + 16), 0);
  double *wants[3] = {calloc(ys, 8), calloc(xs, 8), calloc(ws, 8)};
  plain_conv(&g, x, w, dy, wants[0], wants[1], wants[2]);
  pk_winograd_pack(&g, m, 0, w, u, 0, panels);
  pk_winograd_rows(&g, m, x, u, y, 0, g.n * g.oh * g.ow, scratch);
  pk_winograd_dw(&g, m, x, dy, dw, 0, 1, scratch);
  check("winograd y", y, wants[0], ys);
  check("winograd dw", dw, wants[2], ws);
}

static void check_rows(idx rows, idx cols) {
  float *x = fresh(rows * cols, 1), *y = fresh(rows * cols, 0), *sum = fresh(rows, 0);
  double *want = calloc(rows * cols, 8), *ones = calloc(rows, 8);
  for (idx i = 0; i < rows; i++) {
    double total = 0;
    for (idx j = 0; j < cols; j++) total += want[i * cols + j] = exp(x[i * cols + j]);
    for (idx j = 0; j < cols; j++) want[i * cols + j] /= total;
    ones[i] = 1;
  }
  pk_softmax(x, cols, y, 0, rows);
  check("softmax", y, want, rows * cols);
  pk_reduce_sum(y, cols, 1, sum, 0, rows, 0, 1);
  check("row sum", sum, ones, rows);
}

static void add_one(void *ctx, int thread, idx begin, idx end) {
  (void)thread;
  for (idx i = begin; i < end; i++) ((float *)ctx)[i] += 1;
}

static void check_pool(int threads) {
  static pk_pool pool;
  float items[100] = {0};
  double want[100];
  pk_pool_start(&pool, threads);
  for (int round = 0; round < 100; round++) pk_parallel(&pool, add_one, items, 100);
  pk_pool_stop(&pool);
  for (int i = 0; i < 100; i++) want[i] = 100;
  check("threads", items, want, 100);
}

int main(void) {
  check_gemm(1, 7, 5);
  check_gemm(33, 400, 70);
  check_gemm(60, 3, 17);
  check_conv((pk_conv){2, 9, 8, 5, 9, 8, 20, 3, 3, 1, 1, 1, 1, 1, 1, 1});
  check_winograd((pk_conv){2, 9, 8, 5, 9, 8, 20, 3, 3, 1, 1, 1, 1, 1, 1, 1}, 2);
  check_winograd((pk_conv){2, 9, 8, 5, 9, 8, 20, 3, 3, 1, 1, 1, 1, 1, 1, 1}, 4);
  check_conv((pk_conv){1, 9, 8, 6, 5, 4, 10, 3, 3, 2, 2, 1, 1, 1, 1, 2});
  check_conv((pk_conv){2, 9, 9, 21, 9, 9, 21, 3, 3, 1, 1, 1, 1, 1, 1, 21});
  check_conv((pk_conv){2, 9, 9, 21, 5, 5, 21, 5, 5, 2, 2, 2, 2, 1, 1, 21});
  check_rows(5, 77);
  check_pool(1);
  check_pool(3);
  return failures;
}
