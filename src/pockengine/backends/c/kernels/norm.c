/* norm.c - normalisation to mean 0 and variance 1 over rows, its gradient, and moments of columns.
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

#define MOMENTS_ROWS 64  /* rows taken at once: with MOMENTS_WIDE vectors they stay in the first cache */
#define MOMENTS_WIDE 4

/* Moments: the total weight, then from MEANS on the mean of each column, then the sum of squares
 * around it. */
#define MEANS 16
PK_INLINE idx squares_at(idx cols) { return MEANS + (cols + 15) / 16 * 16; }

/* Weight of each row from row0 on; returns their sum. */
static float row_weights(const float *weight, idx per_sample, idx row0, idx rows, float *w) {
  float total = 0;
  for (idx r = 0; r < rows; r++) {
    w[r] = weight ? weight[(row0 + r) / per_sample] : 1;
    total += w[r];
  }
  return total;
}

/* Weighted mean of `width` vectors of columns over a few rows, and sum of squares around it. */
PK_INLINE void chunk_moments(int width, const float *x, idx ld, idx rows, const float *w,
                             float total, float *mean, float *squares) {
  vf m[MOMENTS_WIDE] = {}, s[MOMENTS_WIDE] = {};
  for (idx r = 0; r < rows; r++) {
    PK_UNROLL for (int v = 0; v < width; v++) m[v] += w[r] * vf_load(x + r * ld + v * POCK_VW);
  }
  PK_UNROLL for (int v = 0; v < width; v++) m[v] /= total;
  for (idx r = 0; r < rows; r++) {
    PK_UNROLL for (int v = 0; v < width; v++) {
      vf d = vf_load(x + r * ld + v * POCK_VW) - m[v];
      s[v] += w[r] * d * d;
    }
  }
  PK_UNROLL for (int v = 0; v < width; v++) {
    vf_store(mean + v * POCK_VW, m[v]);
    vf_store(squares + v * POCK_VW, s[v]);
  }
}

/* The same for fewer columns than a vector has. */
static void narrow_moments(const float *x, idx ld, idx rows, idx cols, const float *w, float total,
                           float *mean, float *squares) {
  for (idx c = 0; c < cols; c++) {
    float m = 0, s = 0;
    for (idx r = 0; r < rows; r++) m += w[r] * x[r * ld + c];
    m /= total;
    for (idx r = 0; r < rows; r++) s += w[r] * (x[r * ld + c] - m) * (x[r * ld + c] - m);
    mean[c] = m;
    squares[c] = s;
  }
}

/* Joins n columns' means and squares, of weight `w`, to those of weight `total` - w so far (Chan,
 * Golub and LeVeque, 1979). */
PK_INLINE void merge_moments(const float *m, const float *s, idx n, float w, float total,
                             float *mean, float *squares) {
  float share = w / total, spread = w * ((total - w) / total);
  PK_EACH for (idx c = 0; c < n; c++) {
    float d = m[c] - mean[c];
    mean[c] += d * share;
    squares[c] += s[c] + d * d * spread;
  }
}

static void add_chunk(const float *x, idx rows, idx cols, const float *w, float weight,
                      float *moments) {
  float m[MOMENTS_WIDE * POCK_VW], s[MOMENTS_WIDE * POCK_VW];
  float *mean = moments + MEANS, *squares = moments + squares_at(cols);
  idx wide = MOMENTS_WIDE * POCK_VW, c = 0;
  moments[0] += weight;
  for (; c + wide <= cols; c += wide) {
    chunk_moments(MOMENTS_WIDE, x + c, cols, rows, w, weight, m, s);
    merge_moments(m, s, wide, weight, moments[0], mean + c, squares + c);
  }
  for (; c < cols && cols >= POCK_VW; c += POCK_VW) {
    idx at = idx_min(c, cols - POCK_VW), skip = c - at; /* the last vector may begin earlier */
    chunk_moments(1, x + at, cols, rows, w, weight, m, s);
    merge_moments(m + skip, s + skip, POCK_VW - skip, weight, moments[0], mean + c, squares + c);
  }
  if (c < cols) {
    narrow_moments(x, cols, rows, cols, w, weight, m, s);
    merge_moments(m, s, cols, weight, moments[0], mean, squares);
  }
}

void pk_add_moments(const float *x, const float *weight, idx per_sample, idx row0, idx row1,
                    idx cols, float *moments) {
  float w[MOMENTS_ROWS];
  for (idx r = row0; r < row1; r += MOMENTS_ROWS) {
    idx rows = idx_min(MOMENTS_ROWS, row1 - r);
    float total = row_weights(weight, per_sample, r, rows, w);
    if (total != 0) add_chunk(x + r * cols, rows, cols, w, total, moments);
  }
}

void pk_merge_moments(float *moments, idx count, idx step, idx cols) {
  idx squares = squares_at(cols);
  for (idx i = 1; i < count; i++) {
    const float *other = moments + i * step;
    if (other[0] == 0) continue;
    moments[0] += other[0];
    merge_moments(other + MEANS, other + squares, cols, other[0], moments[0], moments + MEANS,
                  moments + squares);
  }
}

void pk_moments_mean(const float *moments, idx cols, float *mean) {
  copy_floats(mean, moments + MEANS, cols);
}

void pk_moments_variance(const float *moments, idx cols, int biased, float *variance) {
  const float *squares = moments + squares_at(cols);
  float count = biased ? moments[0] : moments[0] > 2 ? moments[0] - 1 : 1;
  PK_EACH for (idx c = 0; c < cols; c++) variance[c] = squares[c] / count;
}
