/* gemm_few.c - matrix products with few rows: B is read once, in place, and nothing is packed.
 *
 * With so few rows packing B would cost more than the product, and B comes from far away. Several
 * columns side by side keep enough loads on their way.
 */
#include "pock.h"

#define FEW 6 /* rows computed at once */
/* What registers hold: vectors of columns, and columns of a transposed B, computed at once. */
#define WIDE(mr) (((mr) < 4 ? 8 : 4) / (MR > 6 ? 1 : 2))
#define DOTS (MR > 6 ? 4 : 2)

/* c[mr][nv * VW] = a[mr][K] @ b[K][nv * VW], a's rows being lda apart. */
PK_INLINE void few_tile(int mr, int nv, const float *a, idx lda, idx K, const float *b, idx ldb,
                        float *c, idx ldc) {
  vf acc[FEW][8];
  PK_UNROLL for (int r = 0; r < mr; r++) {
    PK_UNROLL for (int v = 0; v < nv; v++) acc[r][v] = (vf){};
  }
  for (idx k = 0; k < K; k++, b += ldb) {
    PK_UNROLL for (int v = 0; v < nv; v++) {
      vf column = vf_load(b + v * POCK_VW);
      PK_UNROLL for (int r = 0; r < mr; r++) acc[r][v] += a[r * lda + k] * column;
    }
  }
  PK_UNROLL for (int r = 0; r < mr; r++) {
    PK_UNROLL for (int v = 0; v < nv; v++) vf_store(c + r * ldc + v * POCK_VW, acc[r][v]);
  }
}

/* The last vector of columns overlaps the one before. */
PK_INLINE void few_columns(int mr, const float *a, idx lda, idx K, const float *b, idx N, float *c,
                           idx n0, idx n1) {
  idx n = n0;
  for (; n + WIDE(mr) * POCK_VW <= n1; n += WIDE(mr) * POCK_VW)
    few_tile(mr, WIDE(mr), a, lda, K, b + n, N, c + n, N);
  for (; n < n1 && n1 - n0 >= POCK_VW; n += POCK_VW) {
    idx at = idx_min(n, n1 - POCK_VW);
    few_tile(mr, 1, a, lda, K, b + at, N, c + at, N);
  }
  for (; n < n1; n++) {
    for (int r = 0; r < mr; r++) {
      float sum = 0;
      for (idx k = 0; k < K; k++) sum += a[r * lda + k] * b[k * N + n];
      c[r * N + n] = sum;
    }
  }
}

/* c[mr][nr] = a[mr][K] @ b[nr][K]^T, b's rows being K apart and a's lda: vectors of products along K, summed
 * over their lanes at the end. */
PK_INLINE void dot_tile(int mr, int nr, const float *a, idx lda, idx K, const float *b, float *c,
                        idx ldc) {
  vf acc[FEW][DOTS];
  PK_UNROLL for (int r = 0; r < mr; r++) {
    PK_UNROLL for (int j = 0; j < nr; j++) acc[r][j] = (vf){};
  }
  idx k = 0;
  for (; k + POCK_VW <= K; k += POCK_VW) {
    vf column[DOTS];
    PK_UNROLL for (int j = 0; j < nr; j++) column[j] = vf_load(b + j * K + k);
    PK_UNROLL for (int r = 0; r < mr; r++) {
      vf row = vf_load(a + r * lda + k);
      PK_UNROLL for (int j = 0; j < nr; j++) acc[r][j] += row * column[j];
    }
  }
  PK_UNROLL for (int r = 0; r < mr; r++) {
    PK_UNROLL for (int j = 0; j < nr; j++) {
      float sum = vf_sum(acc[r][j]);
      for (idx p = k; p < K; p++) sum += a[r * lda + p] * b[j * K + p];
      c[r * ldc + j] = sum;
    }
  }
}

PK_INLINE void dot_columns(int mr, const float *a, idx lda, idx K, const float *b, idx N, float *c,
                           idx n0, idx n1) {
  idx n = n0;
  for (; n + DOTS <= n1; n += DOTS) dot_tile(mr, DOTS, a, lda, K, b + n * K, c + n, N);
  for (; n < n1; n++) dot_tile(mr, 1, a, lda, K, b + n * K, c + n, N);
}

typedef void few_fn(const float *a, idx lda, idx K, const float *b, idx N, float *c, idx n0, idx n1);

#define FEW_FN(name, columns, mr)                                                                 \
  static void name(const float *a, idx lda, idx K, const float *b, idx N, float *c, idx n0,        \
                   idx n1) {                                                                       \
    columns(mr, a, lda, K, b, N, c, n0, n1);                                                       \
  }
#define FEW_FNS(mr) FEW_FN(few_##mr, few_columns, mr) FEW_FN(dot_##mr, dot_columns, mr)
FEW_FNS(1) FEW_FNS(2) FEW_FNS(3) FEW_FNS(4) FEW_FNS(5) FEW_FNS(6)

static few_fn *const few_fns[FEW] = {few_1, few_2, few_3, few_4, few_5, few_6};
static few_fn *const dot_fns[FEW] = {dot_1, dot_2, dot_3, dot_4, dot_5, dot_6};

/* All M rows for some columns at a time, so that what is read of B is read again from the cache. */
static void few_rows(few_fn *const *fns, idx step, const float *a, idx lda, const float *b, idx K,
                     idx N, float *c, idx M, idx n0, idx n1) {
  for (idx n = n0; n < n1; n += step) {
    for (idx m = 0, mr; m < M; m += mr) {
      mr = ceil_div(M - m, ceil_div(M - m, FEW));
      fns[mr - 1](a + m * lda, lda, K, b, N, c + m * N, n, idx_min(n + step, n1));
    }
  }
}

void pk_gemm_few(const float *a, idx lda, const float *b, idx K, idx N, float *c, idx M, idx n0,
                 idx n1) {
  few_rows(few_fns, 8 * POCK_VW, a, lda, b, K, N, c, M, n0, n1);
}

void pk_gemm_few_t(const float *a, idx lda, const float *b, idx K, idx N, float *c, idx M, idx n0,
                   idx n1) {
  few_rows(dot_fns, DOTS, a, lda, b, K, N, c, M, n0, n1);
}
