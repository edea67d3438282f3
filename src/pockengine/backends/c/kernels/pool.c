/* pool.c - maximum and average over windows, sliding or adaptive, channels last. */
#include "pock.h"

/* One spatial axis of a pooling; k = 0 is adaptive. */
typedef struct {
  idx in, out, k, stride, pad, dilation;
} pool_axis;

PK_INLINE pool_axis vertical(const pk_conv *g) {
  return (pool_axis){g->h, g->oh, g->kh, g->sh, g->ph, g->dh};
}

PK_INLINE pool_axis horizontal(const pk_conv *g) {
  return (pool_axis){g->w, g->ow, g->kw, g->sw, g->pw, g->dw};
}

/* The inputs begin, begin + dilation, ... < end that output i covers, cut to the image. */
typedef struct {
  idx begin, end, step;
} pool_window;

static pool_window window_of(pool_axis a, idx i) {
  if (a.k == 0) return (pool_window){i * a.in / a.out, ceil_div((i + 1) * a.in, a.out), 1};
  idx first = i * a.stride - a.pad, end = first + (a.k - 1) * a.dilation + 1;
  idx begin = first < 0 ? first + ceil_div(-first, a.dilation) * a.dilation : first;
  return (pool_window){begin, idx_min(a.in, end), a.dilation};
}

/* ------------------------------------------------------------------------------- maximum */

/* The first n lanes, n <= POCK_VW. */
PK_INLINE vf load_part(const float *from, idx n) {
  if (n == POCK_VW) return vf_load(from);
  float part[POCK_VW] = {0};
  copy_floats(part, from, n);
  return vf_load(part);
}

PK_INLINE void store_part(float *to, vf v, idx n) {
  if (n == POCK_VW) {
    vf_store(to, v);
    return;
  }
  float part[POCK_VW];
  vf_store(part, v);
  copy_floats(to, part, n);
}

/* n channels of one output pixel; image and out point at the first of them. */
PK_INLINE void max_channels(const pk_conv *g, const float *image, pool_window v, pool_window h,
                            float *out, idx n) {
  vf most = vf_splat(-INFINITY);
  const float *line = image + (v.begin * g->w + h.begin) * g->c;
  for (idx y = v.begin; y < v.end; y += v.step, line += v.step * g->w * g->c) {
    const float *from = line;
    for (idx x = h.begin; x < h.end; x += h.step, from += h.step * g->c)
      most = vf_extreme(most, load_part(from, n), 1);
  }
  store_part(out, most, n);
}

static void max_pixel(const pk_conv *g, const float *image, pool_window v, pool_window h,
                      float *out) {
  idx c = 0;
  for (; c + POCK_VW <= g->c; c += POCK_VW) max_channels(g, image + c, v, h, out + c, POCK_VW);
  if (c < g->c) max_channels(g, image + c, v, h, out + c, g->c - c);
}

void pk_max_pool_lines(const pk_conv *g, const float *x, float *y, idx line0, idx line1) {
  for (idx line = line0; line < line1; line++) {
    const float *image = x + line / g->oh * g->h * g->w * g->c;
    pool_window v = window_of(vertical(g), line % g->oh);
    for (idx ox = 0; ox < g->ow; ox++)
      max_pixel(g, image, v, window_of(horizontal(g), ox), y + (line * g->ow + ox) * g->c);
  }
}

/* The lines y0..y1 of one image, and the tensors that their gradient depends on. */
typedef struct {
  idx y0, y1;
  const float *dy, *x, *y;
  float *dx;
} pool_lines;

/* Adds dy of one output pixel, of which `at` is the first channel here, to the first element of its
 * window that equals y; c: the same channel. Only what is in the lines is written. */
PK_INLINE void max_channels_grad(const pk_conv *g, const pool_lines *s, pool_window v,
                                 pool_window h, idx at, idx c, idx n) {
  vf most = load_part(s->y + at, n), grad = load_part(s->dy + at, n);
  vi open = ~(vi){}; /* channels whose maximum is still to come */
  idx line = (v.begin * g->w + h.begin) * g->c + c, end = idx_min(v.end, s->y1);
  for (idx y = v.begin; y < end; y += v.step, line += v.step * g->w * g->c) {
    idx from = line;
    for (idx x = h.begin; x < h.end; x += h.step, from += h.step * g->c) {
      vi first = open & (load_part(s->x + from, n) == most);
      open &= ~first;
      if (y < s->y0) continue;
      vf sum = load_part(s->dx + from, n) + vf_select(first, grad, (vf){});
      store_part(s->dx + from, sum, n);
    }
  }
}

static void max_pixel_grad(const pk_conv *g, const pool_lines *s, pool_window v, pool_window h,
                           idx at) {
  idx c = 0;
  for (; c + POCK_VW <= g->c; c += POCK_VW) max_channels_grad(g, s, v, h, at + c, c, POCK_VW);
  if (c < g->c) max_channels_grad(g, s, v, h, at + c, c, g->c - c);
}

static void max_lines_grad(const pk_conv *g, const pool_lines *s) {
  idx line = g->w * g->c;
  memset(s->dx + s->y0 * line, 0, (s->y1 - s->y0) * line * sizeof(float));
  for (idx oy = 0; oy < g->oh; oy++) {
    pool_window v = window_of(vertical(g), oy);
    if (v.end <= s->y0 || v.begin >= s->y1) continue;
    for (idx ox = 0; ox < g->ow; ox++)
      max_pixel_grad(g, s, v, window_of(horizontal(g), ox), (oy * g->ow + ox) * g->c);
  }
}

void pk_max_pool_grad_lines(const pk_conv *g, const float *dy, const float *x, const float *y,
                            float *dx, idx line0, idx line1) {
  idx in = g->h * g->w * g->c, out = g->oh * g->ow * g->c;
  for (idx line = line0, lines; line < line1; line += lines) {
    idx image = line / g->h, first = line % g->h;
    lines = idx_min(line1 - line, g->h - first);
    max_lines_grad(g, &(pool_lines){first, first + lines, dy + image * out, x + image * in,
                                    y + image * out, dx + image * in});
  }
}

/* ------------------------------------------------------------------------------- average */

/* One over the number of inputs that a window's mean is over, along one axis. */
PK_INLINE float axis_share(pool_axis a, pool_window w, int count_padding) {
  return 1.0f / (float)(count_padding && a.k > 0 ? a.k : w.end - w.begin);
}

static void avg_pixel(const pk_conv *g, const float *image, pool_window v, pool_window h,
                      float share, float *out) {
  PK_EACH for (idx c = 0; c < g->c; c++) out[c] = 0;
  for (idx y = v.begin; y < v.end; y++) {
    for (idx x = h.begin; x < h.end; x++) {
      const float *from = image + (y * g->w + x) * g->c;
      PK_EACH for (idx c = 0; c < g->c; c++) out[c] += from[c];
    }
  }
  PK_EACH for (idx c = 0; c < g->c; c++) out[c] *= share;
}

void pk_avg_pool_lines(const pk_conv *g, int count_padding, const float *x, float *y, idx line0,
                       idx line1) {
  pool_axis va = vertical(g), ha = horizontal(g);
  for (idx line = line0; line < line1; line++) {
    const float *image = x + line / g->oh * g->h * g->w * g->c;
    pool_window v = window_of(va, line % g->oh);
    for (idx ox = 0; ox < g->ow; ox++) {
      pool_window h = window_of(ha, ox);
      float share = axis_share(va, v, count_padding) * axis_share(ha, h, count_padding);
      avg_pixel(g, image, v, h, share, y + (line * g->ow + ox) * g->c);
    }
  }
}

/* The outputs begin..end whose windows cover input i; `from` is where to start looking, for windows
 * move to the right only. */
static pool_window covering(pool_axis a, idx i, idx from) {
  while (from < a.out && window_of(a, from).end <= i) from++;
  idx end = from;
  while (end < a.out && window_of(a, end).begin <= i) end++;
  return (pool_window){from, end, 1};
}

/* dx of one pixel: the share of each output pixel oy in v, ox in h. */
static void avg_pixel_grad(const pk_conv *g, int count_padding, const float *image, pool_window v,
                           pool_window h, float *out) {
  pool_axis va = vertical(g), ha = horizontal(g);
  PK_EACH for (idx c = 0; c < g->c; c++) out[c] = 0;
  for (idx oy = v.begin; oy < v.end; oy++) {
    float row_share = axis_share(va, window_of(va, oy), count_padding);
    for (idx ox = h.begin; ox < h.end; ox++) {
      float share = row_share * axis_share(ha, window_of(ha, ox), count_padding);
      const float *from = image + (oy * g->ow + ox) * g->c;
      PK_EACH for (idx c = 0; c < g->c; c++) out[c] += share * from[c];
    }
  }
}

void pk_avg_pool_grad_lines(const pk_conv *g, int count_padding, const float *dy, float *dx,
                            idx line0, idx line1) {
  for (idx line = line0; line < line1; line++) {
    const float *image = dy + line / g->h * g->oh * g->ow * g->c;
    pool_window v = covering(vertical(g), line % g->h, 0), h = {0, 0, 1};
    for (idx ix = 0; ix < g->w; ix++) {
      h = covering(horizontal(g), ix, h.begin);
      avg_pixel_grad(g, count_padding, image, v, h, dx + (line * g->w + ix) * g->c);
    }
  }
}
