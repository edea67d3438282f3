/* pool.c - maximum and average over windows, sliding or adaptive, channels last. */
#include "pock.h"

#define POOL_CHANNELS 64

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

static void max_pixel(const pk_conv *g, const float *image, pool_window v, pool_window h,
                      float *out) {
  PK_EACH for (idx c = 0; c < g->c; c++) out[c] = -INFINITY;
  for (idx y = v.begin; y < v.end; y += v.step) {
    for (idx x = h.begin; x < h.end; x += h.step) {
      const float *from = image + (y * g->w + x) * g->c;
      PK_EACH for (idx c = 0; c < g->c; c++) out[c] = extreme(out[c], from[c], 1);
    }
  }
}

void pk_max_pool_lines(const pk_conv *g, const float *x, float *y, idx line0, idx line1) {
  for (idx line = line0; line < line1; line++) {
    const float *image = x + line / g->oh * g->h * g->w * g->c;
    pool_window v = window_of(vertical(g), line % g->oh);
    for (idx ox = 0; ox < g->ow; ox++)
      max_pixel(g, image, v, window_of(horizontal(g), ox), y + (line * g->ow + ox) * g->c);
  }
}

/* Adds dy of one output pixel to the first element of its window that equals y, for at most
 * POOL_CHANNELS channels. x and dx point at the first channel of the image. */
static void max_pixel_grad(const pk_conv *g, const float *x, float *dx, pool_window v,
                           pool_window h, const float *dy, const float *y, idx channels) {
  int32_t open[POOL_CHANNELS]; /* channels whose maximum is still to come */
  PK_EACH for (idx c = 0; c < channels; c++) open[c] = 1;
  for (idx iy = v.begin; iy < v.end; iy += v.step) {
    for (idx ix = h.begin; ix < h.end; ix += h.step) {
      const float *from = x + (iy * g->w + ix) * g->c;
      float *to = dx + (iy * g->w + ix) * g->c;
      PK_EACH for (idx c = 0; c < channels; c++) {
        int32_t first = open[c] & (from[c] == y[c]);
        to[c] += first ? dy[c] : 0;
        open[c] &= ~first;
      }
    }
  }
}

static void max_image_grad(const pk_conv *g, const float *x, float *dx, const float *dy,
                           const float *y, idx channels) {
  for (idx p = 0; p < g->h * g->w; p++) memset(dx + p * g->c, 0, channels * sizeof(float));
  for (idx oy = 0; oy < g->oh; oy++) {
    pool_window v = window_of(vertical(g), oy);
    for (idx ox = 0; ox < g->ow; ox++) {
      idx at = (oy * g->ow + ox) * g->c;
      max_pixel_grad(g, x, dx, v, window_of(horizontal(g), ox), dy + at, y + at, channels);
    }
  }
}

void pk_max_pool_grad(const pk_conv *g, const float *dy, const float *x, const float *y, float *dx,
                      idx n0, idx n1, idx c0, idx c1) {
  idx in = g->h * g->w * g->c, out = g->oh * g->ow * g->c;
  for (idx n = n0; n < n1; n++) {
    for (idx c = c0; c < c1; c += POOL_CHANNELS)
      max_image_grad(g, x + n * in + c, dx + n * in + c, dy + n * out + c, y + n * out + c,
                     idx_min(POOL_CHANNELS, c1 - c));
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
