/* move.c - gathering and scattering rows, and copies between layouts. */
#include "pock.h"

#define COPY_TILE 16

void pk_gather_rows(const float *table, idx rows, idx cols, const int64_t *index, float *out,
                    idx i0, idx i1) {
  for (idx i = i0; i < i1; i++) {
    float *to = out + i * cols;
    if (index[i] >= 0 && index[i] < rows) {
      memcpy(to, table + index[i] * cols, cols * sizeof(float));
    } else {
      PK_EACH for (idx c = 0; c < cols; c++) to[c] = NAN;
    }
  }
}

void pk_scatter_add_rows(const float *x, const int64_t *index, idx count, idx rows, idx cols,
                         float *out, idx c0, idx c1) {
  for (idx r = 0; r < rows; r++) memset(out + r * cols + c0, 0, (c1 - c0) * sizeof(float));
  for (idx i = 0; i < count; i++) {
    if (index[i] < 0 || index[i] >= rows) continue;
    const float *from = x + i * cols;
    float *to = out + index[i] * cols;
    PK_EACH for (idx c = c0; c < c1; c++) to[c] += from[c];
  }
}

/* A strided copy seen as lines along the last axis. `across` is the axis along which neighbouring
 * lines are read: where the last axis is not contiguous in x but another is, lines are copied in
 * tiles, a few neighbours at once, so that each cache line of x is read once. */
typedef struct {
  idx last, across;
  idx out_step[PK_COPY_RANK];
} copy_view;

static copy_view view_copy(const pk_copy *s) {
  copy_view v = {.last = s->rank - 1, .across = s->rank - 2};
  idx step = 1;
  for (idx a = s->rank - 1; a >= 0; a--) {
    v.out_step[a] = step;
    step *= s->size[a];
  }
  if (s->rank == 0 || s->stride[v.last] == 1) return v;
  for (idx a = 0; a < s->rank - 1; a++) {
    if (s->stride[a] == 1 && s->size[a] > 1) v.across = a;
  }
  return v;
}

idx pk_copy_line_count(const pk_copy *shape) {
  idx lines = 1;
  for (idx a = 0; a < shape->rank - 1; a++) lines *= shape->size[a];
  return lines;
}

/* out[count][n] with rows out_step apart = x[i * in_step + j * in_last] */
PK_INLINE void copy_tile(const float *x, idx in_step, idx in_last, float *out, idx out_step,
                         idx count, idx n) {
  for (idx i = 0; i < count; i++) {
    for (idx j = 0; j < n; j++) out[i * out_step + j] = x[i * in_step + j * in_last];
  }
}

/* `count` neighbouring lines. */
static void copy_group(const pk_copy *s, const copy_view *v, const float *x, float *out,
                       idx count) {
  idx n = s->size[v->last], in_last = s->stride[v->last];
  idx in_step = count > 1 ? s->stride[v->across] : 0;
  idx out_step = count > 1 ? v->out_step[v->across] : 0;
  if (in_last == 1) {
    for (idx i = 0; i < count; i++) memcpy(out + i * out_step, x + i * in_step, n * sizeof(float));
    return;
  }
  idx j = 0;
  for (; count == COPY_TILE && in_step == 1 && j + COPY_TILE <= n; j += COPY_TILE)
    copy_tile(x + j * in_last, 1, in_last, out + j, out_step, COPY_TILE, COPY_TILE);
  copy_tile(x + j * in_last, in_step, in_last, out + j, out_step, count, n - j);
}

void pk_copy_lines(const pk_copy *shape, const float *x, float *out, idx line0, idx line1) {
  copy_view v = view_copy(shape);
  if (shape->rank == 0) {
    *out = *x;
    return;
  }
  /* Line numbers count `across` fastest, then the other axes from the last to the first. */
  for (idx line = line0, count; line < line1; line += count) {
    idx from = 0, to = 0, rest = line, size = v.across >= 0 ? shape->size[v.across] : 1;
    count = idx_min(idx_min(COPY_TILE, size - line % size), line1 - line);
    for (idx a = v.last; a >= 0; a--) {
      idx axis = a == v.last ? v.across : a == v.across ? -1 : a;
      if (axis < 0) continue;
      idx at = rest % shape->size[axis];
      rest /= shape->size[axis];
      from += at * shape->stride[axis];
      to += at * v.out_step[axis];
    }
    copy_group(shape, &v, x + from, out + to, count);
  }
}
