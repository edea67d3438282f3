/* norm.c - normalisation to mean 0 and variance 1 over rows or over columns, and its gradient.
 *
 * With y = (x - mean) * r and r = 1 / sqrt(var + eps), the gradient is
 *   dx = r * (dy - mean(dy) - y * mean(dy * y))
 * and for the root mean square, without the middle term. Statistics are computed again in the
 * gradient: they cost one pass over data that is needed anyway, and no memory.
 */
#include "pock.h"

static float row_sum_squares(const float *x, idx n, float mean) {
#pragma clang fp reassociate(on)
  float sum = 0;
  for (idx i = 0; i < n; i++) sum += (x[i] - mean) * (x[i] - mean);
  return sum;
}

/* sum of g * (x - mean) */
static float row_centred_dot(const float *g, const float *x, idx n, float mean) {
#pragma clang fp reassociate(on)
  float sum = 0;
  for (idx i = 0; i < n; i++) sum += g[i] * (x[i] - mean);
  return sum;
}

PK_INLINE void normalize_rows(int centred, const float *x, idx cols, float eps, float *y, idx row0,
                              idx row1) {
  float n = (float)cols;
  for (idx row = row0; row < row1; row++) {
    const float *from = x + row * cols;
    float *to = y + row * cols, mean = centred ? row_sum(from, cols) / n : 0;
    float r = 1 / sqrtf(row_sum_squares(from, cols, mean) / n + eps);
    PK_EACH for (idx i = 0; i < cols; i++) to[i] = (from[i] - mean) * r;
  }
}

PK_INLINE void normalize_rows_grad(int centred, const float *dy, const float *x, idx cols,
                                   float eps, float *dx, idx row0, idx row1) {
  float n = (float)cols;
  for (idx row = row0; row < row1; row++) {
    const float *from = x + row * cols, *g = dy + row * cols;
    float *to = dx + row * cols, mean = centred ? row_sum(from, cols) / n : 0;
    float r = 1 / sqrtf(row_sum_squares(from, cols, mean) / n + eps);
    float of_g = centred ? row_sum(g, cols) / n : 0;
    float of_gy = row_centred_dot(g, from, cols, mean) * r / n;
    PK_EACH for (idx i = 0; i < cols; i++) to[i] = r * (g[i] - of_g - (from[i] - mean) * r * of_gy);
  }
}

void pk_normalize_rows(const float *x, idx cols, float eps, float *y, idx row0, idx row1) {
  normalize_rows(1, x, cols, eps, y, row0, row1);
}

void pk_normalize_rows_grad(const float *dy, const float *x, idx cols, float eps, float *dx,
                            idx row0, idx row1) {
  normalize_rows_grad(1, dy, x, cols, eps, dx, row0, row1);
}

void pk_rms_normalize_rows(const float *x, idx cols, float eps, float *y, idx row0, idx row1) {
  normalize_rows(0, x, cols, eps, y, row0, row1);
}

void pk_rms_normalize_rows_grad(const float *dy, const float *x, idx cols, float eps, float *dx,
                                idx row0, idx row1) {
  normalize_rows_grad(0, dy, x, cols, eps, dx, row0, row1);
}

/* -------------------------------------------------------------------------------- columns */

#define NORM_COLS 64  /* columns treated at once, */
#define NORM_ROWS 64  /* in chunks of rows that stay in the first cache */

/* x[rows][ld] from the first of `cols` <= NORM_COLS columns on. */
typedef struct {
  const float *weight; /* of samples, or NULL */
  idx per_sample, rows, ld, cols;
} column_block;

PK_INLINE float row_weight(const column_block *b, idx row) {
  return b->weight ? b->weight[row / b->per_sample] : 1;
}

/* Weighted sum of rows r0..r1; returns their weight. */
static float chunk_sum(const column_block *b, const float *x, idx r0, idx r1, float *sum) {
  float total = 0;
  PK_EACH for (idx c = 0; c < b->cols; c++) sum[c] = 0;
  for (idx r = r0; r < r1; r++) {
    float w = row_weight(b, r);
    total += w;
    PK_EACH for (idx c = 0; c < b->cols; c++) sum[c] += w * x[r * b->ld + c];
  }
  return total;
}

/* Weighted sum of squares around `mean` of rows r0..r1. */
static void chunk_squares(const column_block *b, const float *x, idx r0, idx r1, const float *mean,
                          float *squares) {
  PK_EACH for (idx c = 0; c < b->cols; c++) squares[c] = 0;
  for (idx r = r0; r < r1; r++) {
    float w = row_weight(b, r);
    PK_EACH for (idx c = 0; c < b->cols; c++) {
      float d = x[r * b->ld + c] - mean[c];
      squares[c] += w * d * d;
    }
  }
}

/* Mean and sum of squares around it, merged chunk by chunk (Chan, Golub and LeVeque, 1979);
 * returns the total weight. */
static float column_moments(const column_block *b, const float *x, float *mean, float *squares) {
  float total = 0, m[NORM_COLS], s[NORM_COLS];
  PK_EACH for (idx c = 0; c < b->cols; c++) mean[c] = squares[c] = 0;
  for (idx r = 0; r < b->rows; r += NORM_ROWS) {
    idx end = idx_min(b->rows, r + NORM_ROWS);
    float w = chunk_sum(b, x, r, end, m);
    if (w == 0) continue;
    PK_EACH for (idx c = 0; c < b->cols; c++) m[c] /= w;
    chunk_squares(b, x, r, end, m, s);
    total += w;
    PK_EACH for (idx c = 0; c < b->cols; c++) {
      float d = m[c] - mean[c];
      mean[c] += d * (w / total);
      squares[c] += s[c] + d * d * w * ((total - w) / total);
    }
  }
  return total;
}

/* Mean and r = 1 / sqrt(var + eps); returns the total weight. */
static float column_scales(const column_block *b, const float *x, float eps, float *mean,
                           float *r) {
  float total = column_moments(b, x, mean, r);
  PK_EACH for (idx c = 0; c < b->cols; c++) r[c] = 1 / sqrtf(r[c] / total + eps);
  return total;
}

void pk_normalize_columns(const float *x, const float *weight, idx per_sample, idx rows, idx cols,
                          float eps, float *y, idx c0, idx c1) {
  float mean[NORM_COLS], r[NORM_COLS];
  for (idx at = c0; at < c1; at += NORM_COLS) {
    column_block b = {weight, per_sample, rows, cols, idx_min(NORM_COLS, c1 - at)};
    column_scales(&b, x + at, eps, mean, r);
    for (idx row = 0; row < rows; row++) {
      const float *from = x + row * cols + at;
      float *to = y + row * cols + at;
      PK_EACH for (idx c = 0; c < b.cols; c++) to[c] = (from[c] - mean[c]) * r[c];
    }
  }
}

/* Sums over rows of dy and of dy * y, chunk by chunk. */
static void column_grad_sums(const column_block *b, const float *dy, const float *x,
                             const float *mean, const float *r, float *of_g, float *of_gy) {
  PK_EACH for (idx c = 0; c < b->cols; c++) of_g[c] = of_gy[c] = 0;
  for (idx r0 = 0; r0 < b->rows; r0 += NORM_ROWS) {
    float g[NORM_COLS] = {0}, gy[NORM_COLS] = {0};
    for (idx row = r0; row < idx_min(b->rows, r0 + NORM_ROWS); row++) {
      const float *from = x + row * b->ld, *grad = dy + row * b->ld;
      PK_EACH for (idx c = 0; c < b->cols; c++) {
        g[c] += grad[c];
        gy[c] += grad[c] * ((from[c] - mean[c]) * r[c]);
      }
    }
    PK_EACH for (idx c = 0; c < b->cols; c++) of_g[c] += g[c], of_gy[c] += gy[c];
  }
}

static void column_block_grad(const column_block *b, const float *dy, const float *x, float eps,
                              float *dx) {
  float mean[NORM_COLS], r[NORM_COLS], of_g[NORM_COLS], of_gy[NORM_COLS];
  float total = column_scales(b, x, eps, mean, r);
  column_grad_sums(b, dy, x, mean, r, of_g, of_gy);
  for (idx row = 0; row < b->rows; row++) {
    const float *from = x + row * b->ld, *g = dy + row * b->ld;
    float *to = dx + row * b->ld, share = row_weight(b, row) / total;
    PK_EACH for (idx c = 0; c < b->cols; c++)
      to[c] = r[c] * (g[c] - share * (of_g[c] + (from[c] - mean[c]) * r[c] * of_gy[c]));
  }
}

void pk_normalize_columns_grad(const float *dy, const float *x, const float *weight,
                               idx per_sample, idx rows, idx cols, float eps, float *dx, idx c0,
                               idx c1) {
  for (idx at = c0; at < c1; at += NORM_COLS) {
    column_block b = {weight, per_sample, rows, cols, idx_min(NORM_COLS, c1 - at)};
    column_block_grad(&b, dy + at, x + at, eps, dx + at);
  }
}

void pk_column_mean(const float *x, const float *weight, idx per_sample, idx rows, idx cols,
                    float *mean, idx c0, idx c1) {
  float squares[NORM_COLS];
  for (idx at = c0; at < c1; at += NORM_COLS) {
    column_block b = {weight, per_sample, rows, cols, idx_min(NORM_COLS, c1 - at)};
    column_moments(&b, x + at, mean + at, squares);
  }
}

void pk_column_variance(const float *x, const float *weight, idx per_sample, idx rows, idx cols,
                        float *variance, idx c0, idx c1) {
  float mean[NORM_COLS];
  for (idx at = c0; at < c1; at += NORM_COLS) {
    column_block b = {weight, per_sample, rows, cols, idx_min(NORM_COLS, c1 - at)};
    float total = column_moments(&b, x + at, mean, variance + at);
    PK_EACH for (idx c = 0; c < b.cols; c++) variance[at + c] /= total > 2 ? total - 1 : 1;
  }
}
