/* softmax.c - softmax, its logarithm, and cross-entropy with integer labels, by rows. */
#include "pock.h"

/* The largest of a row; where one is NaN, any, for then the sum of e^x is NaN anyway. */
static float largest(const float *x, idx n) {
  float most = x[0];
  idx i = 0;
  if (n >= POCK_VW) {
    vf found = vf_load(x);
    for (i = POCK_VW; i + POCK_VW <= n; i += POCK_VW) {
      vf next = vf_load(x + i);
      found = vf_select(next > found, next, found);
    }
    most = vf_max(found);
  }
  for (; i < n; i++) most = float_max(x[i], most);
  return most;
}

/* log of the sum of e^x. */
static float log_sum_exp(const float *x, idx n) {
#pragma clang fp reassociate(on)
  float max = largest(x, n), sum = 0;
  for (idx i = 0; i < n; i++) sum += pk_exp(x[i] - max);
  return max + pk_log(sum);
}

/* to = e^(x - shift); returns the sum. */
static float exp_row(const float *x, idx n, float shift, float *to) {
#pragma clang fp reassociate(on)
  float sum = 0;
  PK_EACH for (idx i = 0; i < n; i++) {
    float y = pk_exp(x[i] - shift);
    sum += y;
    to[i] = y;
  }
  return sum;
}

void pk_softmax(const float *x, idx cols, float *y, idx row0, idx row1) {
  for (idx row = row0; row < row1; row++) {
    const float *from = x + row * cols;
    float *to = y + row * cols, scale = 1 / exp_row(from, cols, largest(from, cols), to);
    PK_EACH for (idx i = 0; i < cols; i++) to[i] *= scale;
  }
}

/* dx = y * (dy - sum(y * dy)) */
void pk_softmax_grad(const float *dy, const float *y, idx cols, float *dx, idx row0, idx row1) {
  for (idx row = row0; row < row1; row++) {
    const float *g = dy + row * cols, *p = y + row * cols;
    float *to = dx + row * cols, dot = row_dot(g, p, cols);
    PK_EACH for (idx i = 0; i < cols; i++) to[i] = p[i] * (g[i] - dot);
  }
}

void pk_log_softmax(const float *x, idx cols, float *y, idx row0, idx row1) {
  for (idx row = row0; row < row1; row++) {
    const float *from = x + row * cols;
    float *to = y + row * cols, shift = log_sum_exp(from, cols);
    PK_EACH for (idx i = 0; i < cols; i++) to[i] = from[i] - shift;
  }
}

/* dx = dy - e^y * sum(dy) */
void pk_log_softmax_grad(const float *dy, const float *y, idx cols, float *dx, idx row0,
                         idx row1) {
  for (idx row = row0; row < row1; row++) {
    const float *g = dy + row * cols, *p = y + row * cols;
    float *to = dx + row * cols, sum = row_sum(g, cols);
    PK_EACH for (idx i = 0; i < cols; i++) to[i] = g[i] - pk_exp(p[i]) * sum;
  }
}

/* ------------------------------------------------------------------------- cross-entropy */

typedef struct {
  const float *weight; /* of the classes, or NULL */
  float smoothing;
  idx classes;
} ce_target;

PK_INLINE float class_weight(const ce_target *t, idx c) { return t->weight ? t->weight[c] : 1; }

/* Sum of the target distribution times class weights: (1 - s) w[label] + s / C * sum(w). */
static float target_total(const ce_target *t, int64_t label) {
  float all = t->weight ? row_sum(t->weight, t->classes) : (float)t->classes;
  return (1 - t->smoothing) * class_weight(t, label) + t->smoothing / (float)t->classes * all;
}

/* sum over c of target[c] * w[c] * x[c]; without smoothing only the label's term, so that an
 * infinite logit elsewhere does no harm. */
static float target_dot(const ce_target *t, int64_t label, const float *x) {
  float own = (1 - t->smoothing) * class_weight(t, label) * x[label];
  if (t->smoothing == 0) return own;
  float all = t->weight ? row_dot(t->weight, x, t->classes) : row_sum(x, t->classes);
  return own + t->smoothing / (float)t->classes * all;
}

void pk_cross_entropy(const float *x, const int64_t *labels, const float *weight, float smoothing,
                      int64_t ignore_index, idx classes, float *loss, idx row0, idx row1) {
  ce_target t = {weight, smoothing, classes};
  for (idx row = row0; row < row1; row++) {
    const float *z = x + row * classes;
    int64_t label = labels[row];
    if (label == ignore_index)
      loss[row] = 0;
    else if (label < 0 || label >= classes)
      loss[row] = NAN;
    else
      loss[row] = target_total(&t, label) * log_sum_exp(z, classes) -
                  target_dot(&t, label, z);
  }
}

/* dx = g * (softmax(x) * sum(target * w) - target * w) */
static void cross_entropy_grad_row(const ce_target *t, float g, const float *x, int64_t label,
                                   float *dx) {
  const float *weight = t->weight;
  idx classes = t->classes;
  float shift = log_sum_exp(x, classes);
  float scale = g * target_total(t, label), share = g * t->smoothing / (float)classes;
  float uniform = weight ? 0 : share;
  PK_EACH for (idx c = 0; c < classes; c++) dx[c] = scale * pk_exp(x[c] - shift) - uniform;
  if (weight && t->smoothing > 0) {
    PK_EACH for (idx c = 0; c < classes; c++) dx[c] -= share * weight[c];
  }
  dx[label] -= g * (1 - t->smoothing) * class_weight(t, label);
}

void pk_cross_entropy_grad(const float *g, const float *x, const int64_t *labels,
                           const float *weight, float smoothing, int64_t ignore_index, idx classes,
                           float *dx, idx row0, idx row1) {
  ce_target t = {weight, smoothing, classes};
  for (idx row = row0; row < row1; row++) {
    float *to = dx + row * classes;
    int64_t label = labels[row];
    int known = label >= 0 && label < classes && label != ignore_index;
    if (known) {
      cross_entropy_grad_row(&t, g[row], x + row * classes, label, to);
    } else {
      PK_EACH for (idx c = 0; c < classes; c++) to[c] = label == ignore_index ? 0 : NAN;
    }
  }
}
