/* reduce.c - sums, means and extrema over one axis of x[outer][reduce][inner].
 *
 * Rows (inner = 1) are reduced with several vectors side by side; columns as vectors of columns, in
 * chunks of rows whose sums are added up at the end, which also keeps rounding errors small.
 */
#include "pock.h"

#define LANES 4         /* vectors side by side */
#define SUM_CHUNK 256   /* rows added up before they join the total */

PK_INLINE float row_sum(const float *x, idx n) {
  vf acc[LANES] = {};
  idx i = 0;
  for (; i + LANES * POCK_VW <= n; i += LANES * POCK_VW) {
    PK_UNROLL for (int v = 0; v < LANES; v++) acc[v] += vf_load(x + i + v * POCK_VW);
  }
  float sum = vf_sum((acc[0] + acc[1]) + (acc[2] + acc[3]));
  for (; i < n; i++) sum += x[i];
  return sum;
}

PK_INLINE float row_dot(const float *a, const float *b, idx n) {
  vf acc[LANES] = {};
  idx i = 0;
  for (; i + LANES * POCK_VW <= n; i += LANES * POCK_VW) {
    PK_UNROLL for (int v = 0; v < LANES; v++)
      acc[v] += vf_load(a + i + v * POCK_VW) * vf_load(b + i + v * POCK_VW);
  }
  float sum = vf_sum((acc[0] + acc[1]) + (acc[2] + acc[3]));
  for (; i < n; i++) sum += a[i] * b[i];
  return sum;
}

/* sign = 1: the larger of a and b; sign = -1: the smaller; NaN if either is. */
PK_INLINE float extreme(float a, float b, float sign) {
  return b * sign > a * sign || b != b ? b : a;
}

PK_INLINE vf vf_extreme(vf a, vf b, float sign) {
  return vf_select((b * sign > a * sign) | (b != b), b, a);
}

PK_INLINE float row_extreme(const float *x, idx n, float sign) {
  float best = x[0];
  idx i = 0;
  if (n >= POCK_VW) {
    vf acc = vf_load(x);
    for (; i + POCK_VW <= n; i += POCK_VW) acc = vf_extreme(acc, vf_load(x + i), sign);
    for (int lane = 0; lane < POCK_VW; lane++) best = extreme(best, acc[lane], sign);
  }
  for (; i < n; i++) best = extreme(best, x[i], sign);
  return best;
}

/* Sum of one column of x[rows][step]. */
static float column_sum(const float *x, idx rows, idx step) {
  float total = 0;
  for (idx r0 = 0; r0 < rows; r0 += SUM_CHUNK) {
    float chunk = 0;
    for (idx r = r0; r < idx_min(rows, r0 + SUM_CHUNK); r++) chunk += x[r * step];
    total += chunk;
  }
  return total;
}

/* out[width vectors] = sums of neighbouring columns. */
PK_INLINE void column_vector_sums(int width, const float *x, idx rows, idx step, float *out) {
  vf total[LANES] = {};
  for (idx r0 = 0; r0 < rows; r0 += SUM_CHUNK) {
    vf chunk[LANES] = {};
    for (idx r = r0; r < idx_min(rows, r0 + SUM_CHUNK); r++) {
      PK_UNROLL for (int v = 0; v < width; v++) chunk[v] += vf_load(x + r * step + v * POCK_VW);
    }
    PK_UNROLL for (int v = 0; v < width; v++) total[v] += chunk[v];
  }
  PK_UNROLL for (int v = 0; v < width; v++) vf_store(out + v * POCK_VW, total[v]);
}

void pk_clear(float *x, idx n) { memset(x, 0, (size_t)n * sizeof *x); }

void pk_accumulate(float *total, const float *x, idx n) {
  PK_EACH for (idx i = 0; i < n; i++) total[i] += x[i];
}

void pk_add_parts(const float *parts, idx count, idx step, idx n, float *out) {
  PK_EACH for (idx i = 0; i < n; i++) {
    float sum = parts[i];
    for (idx part = 1; part < count; part++) sum += parts[part * step + i];
    out[i] = sum;
  }
}

static void column_sums(const float *x, idx rows, idx step, float *out, idx c0, idx c1) {
  idx c = c0;
  for (; c + LANES * POCK_VW <= c1; c += LANES * POCK_VW)
    column_vector_sums(LANES, x + c, rows, step, out + c);
  for (; c + POCK_VW <= c1; c += POCK_VW) column_vector_sums(1, x + c, rows, step, out + c);
  if (c < c1 && c1 - c0 >= POCK_VW) {
    column_vector_sums(1, x + c1 - POCK_VW, rows, step, out + c1 - POCK_VW);
    return;
  }
  for (; c < c1; c++) out[c] = column_sum(x + c, rows, step);
}

void pk_reduce_sum(const float *x, idx reduce, idx inner, float *out, idx outer0, idx outer1,
                   idx inner0, idx inner1) {
  for (idx o = outer0; o < outer1; o++) {
    const float *from = x + o * reduce * inner;
    if (inner == 1)
      out[o] = row_sum(from, reduce);
    else
      column_sums(from, reduce, inner, out + o * inner, inner0, inner1);
  }
}

void pk_reduce_mean(const float *x, idx reduce, idx inner, float *out, idx outer0, idx outer1,
                    idx inner0, idx inner1) {
  pk_reduce_sum(x, reduce, inner, out, outer0, outer1, inner0, inner1);
  for (idx o = outer0; o < outer1; o++) {
    PK_EACH for (idx i = inner0; i < inner1; i++) out[o * inner + i] /= (float)reduce;
  }
}

PK_INLINE void reduce_extreme(const float *x, idx reduce, idx inner, float *out, idx outer0,
                              idx outer1, idx inner0, idx inner1, float sign) {
  for (idx o = outer0; o < outer1; o++) {
    const float *from = x + o * reduce * inner;
    float *to = out + o * inner;
    if (inner == 1) {
      *to = row_extreme(from, reduce, sign);
      continue;
    }
    PK_EACH for (idx i = inner0; i < inner1; i++) to[i] = from[i];
    for (idx r = 1; r < reduce; r++) {
      const float *row = from + r * inner;
      PK_EACH for (idx i = inner0; i < inner1; i++) to[i] = extreme(to[i], row[i], sign);
    }
  }
}

void pk_reduce_max(const float *x, idx reduce, idx inner, float *out, idx outer0, idx outer1,
                   idx inner0, idx inner1) {
  reduce_extreme(x, reduce, inner, out, outer0, outer1, inner0, inner1, 1);
}

void pk_reduce_min(const float *x, idx reduce, idx inner, float *out, idx outer0, idx outer1,
                   idx inner0, idx inner1) {
  reduce_extreme(x, reduce, inner, out, outer0, outer1, inner0, inner1, -1);
}

/* Position of the first maximum of one column; the first NaN counts as the maximum. */
static int64_t column_argmax(const float *x, idx n, idx step) {
  idx best = 0;
  for (idx i = 1; i < n && x[best * step] == x[best * step]; i++) {
    if (x[i * step] > x[best * step] || x[i * step] != x[i * step]) best = i;
  }
  return best;
}

void pk_argmax(const float *x, idx reduce, idx inner, int64_t *out, idx outer0, idx outer1,
               idx inner0, idx inner1) {
  for (idx o = outer0; o < outer1; o++) {
    for (idx i = inner0; i < inner1; i++)
      out[o * inner + i] = column_argmax(x + o * reduce * inner + i, reduce, inner);
  }
}
