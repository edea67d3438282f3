/* depthwise.c - convolution of each channel with its own kernel, vectorised over channels.
 *
 *   y [n][oy][ox][c] = sum over (kh, kw) of x[n][oy*sh - ph + kh*dh][ox*sw - pw + kw*dw][c]
 *                                           * w[kh][kw][c]
 * The gradient of x under stride 1 is the same convolution of dy with the kernel turned around;
 * under a stride it is a short sum of taps for each pixel. Widths 3 and 5 with strides 1 and 2 are
 * inlined with these numbers constant and keep a few neighbouring pixels in registers; everything
 * else, and the pixels at the left and right edge, sums taps one pixel at a time.
 */
#include "pock.h"

#define PIXELS 4

/* A convolution seen from the side that is being written: out lines from in lines. */
typedef struct {
  idx n, h, w, oh, ow, c, kh, kw, sh, sw, ph, pw, dh, dw;
  const float *weight;  /* tap (0, 0) */
  idx row_step, tap_step; /* from a tap to the one below, to the one at its right */
} dw_view;

/* Sum of `count` taps for all channels of one pixel: out[c] = sum in[t][c] * weight[t][c]. */
typedef struct {
  idx count;
  const float *in[POCK_CONV_TAPS], *weight[POCK_CONV_TAPS];
} dw_taps;

static void sum_taps_narrow(const dw_taps *taps, idx c, float *out, int accumulate) {
  for (idx i = 0; i < c; i++) {
    float s = accumulate ? out[i] : 0;
    for (idx t = 0; t < taps->count; t++) s += taps->in[t][i] * taps->weight[t][i];
    out[i] = s;
  }
}

PK_INLINE void sum_taps_wide(const dw_taps *taps, idx count, idx c, float *out, int accumulate) {
  vf tail = vf_load(out + c - POCK_VW); /* before any lane of it is overwritten */
  for (idx i = 0; i < c; i += POCK_VW) {
    idx at = idx_min(i, c - POCK_VW);
    vf s = !accumulate ? (vf){} : i + POCK_VW < c ? vf_load(out + at) : tail;
    for (idx t = 0; t < count; t++)
      s += vf_load(taps->in[t] + at) * vf_load(taps->weight[t] + at);
    vf_store(out + at, s);
  }
}

/* The counts met at edges and under a stride of 2 are inlined. */
static void sum_taps(const dw_taps *taps, idx c, float *out, int accumulate) {
  if (c < POCK_VW)
    sum_taps_narrow(taps, c, out, accumulate);
  else if (accumulate)
    sum_taps_wide(taps, taps->count, c, out, 1);
  else if (taps->count == 1)
    sum_taps_wide(taps, 1, c, out, 0);
  else if (taps->count == 2)
    sum_taps_wide(taps, 2, c, out, 0);
  else if (taps->count == 4)
    sum_taps_wide(taps, 4, c, out, 0);
  else if (taps->count == 6)
    sum_taps_wide(taps, 6, c, out, 0);
  else
    sum_taps_wide(taps, taps->count, c, out, 0);
}

/* Adds a tap; a full list is summed into out and emptied. Returns whether out holds a sum. */
static int push_tap(dw_taps *taps, const float *in, const float *weight, idx c, float *out,
                    int accumulate) {
  if (taps->count == POCK_CONV_TAPS) {
    sum_taps(taps, c, out, accumulate);
    taps->count = 0;
    accumulate = 1;
  }
  taps->in[taps->count] = in;
  taps->weight[taps->count++] = weight;
  return accumulate;
}

/* Rows k0 <= k < k1 of the kernel fall inside [0, h) from base row y. */
PK_INLINE void rows_inside(idx y, idx h, idx kh, idx dh, idx *k0, idx *k1) {
  *k0 = y < 0 ? ceil_div(-y, dh) : 0;
  *k1 = y >= h ? *k0 : idx_min(kh, ceil_div(h - y, dh));
  if (*k0 > *k1) *k0 = *k1;
}

/* One output pixel, any geometry. in: the image; (y, x): base pixel. */
static void single_pixel(const dw_view *v, const float *in, idx y, idx x, float *out) {
  idx kh0, kh1, kw0, kw1;
  rows_inside(y, v->h, v->kh, v->dh, &kh0, &kh1);
  rows_inside(x, v->w, v->kw, v->dw, &kw0, &kw1);
  dw_taps taps;
  taps.count = 0; /* clearing the lists would cost more than a pixel */
  int accumulate = 0;
  for (idx kh = kh0; kh < kh1; kh++) {
    for (idx kw = kw0; kw < kw1; kw++)
      accumulate = push_tap(&taps, in + ((y + kh * v->dh) * v->w + x + kw * v->dw) * v->c,
                            v->weight + kh * v->row_step + kw * v->tap_step, v->c, out, accumulate);
  }
  sum_taps(&taps, v->c, out, accumulate);
}

/* Under a stride, pixels are used too seldom for the hardware to see a pattern: asks for the pixels
 * that the next output line adds. */
PK_INLINE void prefetch_below(const dw_view *v, int pixels, const float *x) {
  for (idx line = 0; line < v->sh; line++, x += v->w * v->c) {
    PK_UNROLL for (int p = 0; p < pixels; p++) __builtin_prefetch(x + p * v->c);
  }
}

/* out[pixels][c] for kernel rows kh0..kh1, all columns inside the image. in: input pixel (first
 * kernel row, first column) of the first output pixel. */
PK_INLINE void pixel_block(const dw_view *v, int pixels, int kw, int sw, const float *in, idx kh0,
                           idx kh1, float *out) {
  idx line_step = v->dh * v->w * v->c;
  for (idx i = 0; i < v->c; i += POCK_VW) {
    idx at = idx_min(i, v->c - POCK_VW);
    const float *x = in + at, *w = v->weight + kh0 * v->row_step + at;
    vf acc[PIXELS];
    PK_UNROLL for (int p = 0; p < pixels; p++) acc[p] = (vf){};
    for (idx kh = kh0; kh < kh1; kh++, x += line_step, w += v->row_step) {
      PK_UNROLL for (int k = 0; k < kw; k++) {
        vf weight = vf_load(w + k * v->tap_step);
        PK_UNROLL for (int p = 0; p < pixels; p++)
          acc[p] += vf_load(x + (p * sw + k) * v->c) * weight;
      }
    }
    PK_UNROLL for (int p = 0; p < pixels; p++) vf_store(out + p * v->c + at, acc[p]);
    if (sw > 1) prefetch_below(v, pixels * sw, x + kw * v->c);
  }
}

/* Output pixels ox0..ox1 of a line, all of whose columns are inside. */
PK_INLINE void inner_pixels(const dw_view *v, int kw, int sw, const float *in, idx y, idx ox0,
                            idx ox1, float *line) {
  idx kh0, kh1, ox = ox0;
  rows_inside(y, v->h, v->kh, v->dh, &kh0, &kh1);
  in += ((y + kh0 * v->dh) * v->w - v->pw) * v->c;
  for (; ox + PIXELS <= ox1; ox += PIXELS)
    pixel_block(v, PIXELS, kw, sw, in + ox * sw * v->c, kh0, kh1, line + ox * v->c);
  for (; ox < ox1; ox++)
    pixel_block(v, 1, kw, sw, in + ox * sw * v->c, kh0, kh1, line + ox * v->c);
}

typedef void inner_fn(const dw_view *v, const float *in, idx y, idx ox0, idx ox1, float *line);

#define INNER(kw, sw)                                                                             \
  static void inner_##kw##_##sw(const dw_view *v, const float *in, idx y, idx ox0, idx ox1,       \
                                float *line) {                                                    \
    inner_pixels(v, kw, sw, in, y, ox0, ox1, line);                                               \
  }
INNER(3, 1)
INNER(3, 2)
INNER(5, 1)
INNER(5, 2)

/* The inlined variant for this geometry, or NULL. */
static inner_fn *find_inner(const dw_view *v) {
  if (v->dw != 1 || v->c < POCK_VW) return NULL;
  if (v->kw == 3 && v->sw == 1) return inner_3_1;
  if (v->kw == 3 && v->sw == 2) return inner_3_2;
  if (v->kw == 5 && v->sw == 1) return inner_5_1;
  if (v->kw == 5 && v->sw == 2) return inner_5_2;
  return NULL;
}

/* The output columns all of whose taps are inside: first and one past the last. */
PK_INLINE idx inner_begin(idx pw, idx sw) { return idx_max(0, ceil_div(pw, sw)); }
PK_INLINE idx inner_end(idx w, idx ow, idx kw, idx sw, idx pw, idx dw, idx begin) {
  idx room = w + pw - (kw - 1) * dw - 1;
  return idx_max(begin, idx_min(ow, room < 0 ? 0 : room / sw + 1));
}

static void view_lines(const dw_view *v, const float *in, float *out, idx line0, idx line1) {
  inner_fn *inner = find_inner(v);
  idx begin = idx_min(v->ow, inner_begin(v->pw, v->sw));
  idx end = inner_end(v->w, v->ow, v->kw, v->sw, v->pw, v->dw, begin);
  if (inner == NULL) begin = end = v->ow;
  for (idx line = line0; line < line1; line++) {
    const float *image = in + line / v->oh * v->h * v->w * v->c;
    float *to = out + line * v->ow * v->c;
    idx y = line % v->oh * v->sh - v->ph;
    for (idx ox = 0; ox < begin; ox++)
      single_pixel(v, image, y, ox * v->sw - v->pw, to + ox * v->c);
    if (begin < end) inner(v, image, y, begin, end, to);
    for (idx ox = end; ox < v->ow; ox++)
      single_pixel(v, image, y, ox * v->sw - v->pw, to + ox * v->c);
  }
}

void pk_depthwise_lines(const pk_conv *g, const float *x, const float *w, float *y, idx line0,
                        idx line1) {
  dw_view v = {g->n,  g->h,  g->w,  g->oh, g->ow, g->c, g->kh,        g->kw,
               g->sh, g->sw, g->ph, g->pw, g->dh, g->dw, w, g->kw * g->c, g->c};
  view_lines(&v, x, y, line0, line1);
}

/* ------------------------------------------------------------------- gradient of the input */

/* The kernel rows that meet one line of dx: the lines of dy, and the weights' rows. */
typedef struct {
  idx count;
  const float *dy[POCK_CONV_TAPS], *weight[POCK_CONV_TAPS];
} dx_rows;

/* Position `at` of x under tap k of one axis: the output position, or -1 where there is none. */
PK_INLINE idx output_of(idx at, idx stride, idx out) {
  if (at < 0) return -1;
  idx o = (idx)((unsigned)at / (unsigned)stride);
  return o * stride == at && o < out ? o : -1;
}

static void strided_dx_pixel(const pk_conv *g, const dx_rows *rows, idx ix, float *out) {
  dw_taps taps;
  taps.count = 0;
  int accumulate = 0;
  for (idx kw = 0; kw < g->kw; kw++) {
    idx ox = output_of(ix + g->pw - kw * g->dw, g->sw, g->ow);
    if (ox < 0) continue;
    for (idx r = 0; r < rows->count; r++)
      accumulate = push_tap(&taps, rows->dy[r] + ox * g->c, rows->weight[r] + kw * g->c, g->c, out,
                            accumulate);
  }
  sum_taps(&taps, g->c, out, accumulate);
}

static void strided_dx_lines(const pk_conv *g, const float *dy, const float *w, float *dx,
                             idx line0, idx line1) {
  for (idx line = line0; line < line1; line++) {
    const float *image = dy + line / g->h * g->oh * g->ow * g->c;
    dx_rows rows;
    rows.count = 0;
    for (idx kh = 0; kh < g->kh; kh++) {
      idx oy = output_of(line % g->h + g->ph - kh * g->dh, g->sh, g->oh);
      if (oy < 0) continue;
      rows.dy[rows.count] = image + oy * g->ow * g->c;
      rows.weight[rows.count++] = w + kh * g->kw * g->c;
    }
    for (idx ix = 0; ix < g->w; ix++)
      strided_dx_pixel(g, &rows, ix, dx + (line * g->w + ix) * g->c);
  }
}

void pk_depthwise_dx_lines(const pk_conv *g, const float *dy, const float *w, float *dx, idx line0,
                           idx line1) {
  if (g->sh != 1 || g->sw != 1) {
    strided_dx_lines(g, dy, w, dx, line0, line1);
    return;
  }
  idx ph = (g->kh - 1) * g->dh - g->ph, pw = (g->kw - 1) * g->dw - g->pw;
  const float *last = w + (g->kh * g->kw - 1) * g->c;
  dw_view v = {g->n, g->oh, g->ow, g->h,  g->w,  g->c, g->kh,         g->kw,
               1,    1,     ph,    pw,    g->dh, g->dw, last, -g->kw * g->c, -g->c};
  view_lines(&v, dy, dx, line0, line1);
}

/* ------------------------------------------------------------------ gradient of the weight */

/* One kernel row: line y of dy meets a line of x. */
typedef struct {
  idx w, ow, c, sw, pw, dil;
  idx begin, end; /* the output columns all of whose taps are inside */
} dw_row;

/* acc[k] += x * dy for output column ox, where tap k is inside. */
PK_INLINE void edge_column(const dw_row *g, int kw, const float *x, const float *dy, idx ox,
                           vf acc[5]) {
  vf d = vf_load(dy + ox * g->c);
  PK_UNROLL for (int k = 0; k < kw; k++) {
    idx ix = ox * g->sw - g->pw + k * g->dil;
    if (ix >= 0 && ix < g->w) acc[k] += vf_load(x + ix * g->c) * d;
  }
}

/* dw[kw][c0:c1] += the products of one line of dy with one line of x. */
PK_INLINE void dw_line(const dw_row *g, int kw, const float *x, const float *dy, float *dw, idx c0,
                       idx c1) {
  for (idx i = c0; i < c1; i += POCK_VW) {
    idx at = idx_min(i, c1 - POCK_VW), ox = 0;
    vf acc[2][5] = {};
    for (; ox < g->begin; ox++) edge_column(g, kw, x + at, dy + at, ox, acc[0]);
    const float *from = x + (ox * g->sw - g->pw) * g->c + at, *grad = dy + ox * g->c + at;
    for (; ox + 2 <= g->end; ox += 2, from += 2 * g->sw * g->c, grad += 2 * g->c) {
      PK_UNROLL for (int p = 0; p < 2; p++) {
        vf d = vf_load(grad + p * g->c);
        PK_UNROLL for (int k = 0; k < kw; k++)
          acc[p][k] += vf_load(from + (p * g->sw + k * g->dil) * g->c) * d;
      }
    }
    for (; ox < g->ow; ox++) edge_column(g, kw, x + at, dy + at, ox, acc[0]);
    vi fresh = vf_lanes_from(i - at); /* the last vector overlaps the one before */
    PK_UNROLL for (int k = 0; k < kw; k++) {
      vf old = vf_load(dw + k * g->c + at);
      vf_store(dw + k * g->c + at, vf_select(fresh, old + (acc[0][k] + acc[1][k]), old));
    }
  }
}

/* The same for any kernel width and any number of channels. */
static void dw_line_any(const dw_row *g, idx kw, const float *x, const float *dy, float *dw, idx c0,
                        idx c1) {
  for (idx k = 0; k < kw; k++) {
    for (idx ox = 0; ox < g->ow; ox++) {
      idx ix = ox * g->sw - g->pw + k * g->dil;
      if (ix < 0 || ix >= g->w) continue;
      const float *from = x + ix * g->c, *grad = dy + ox * g->c;
      PK_EACH for (idx c = c0; c < c1; c++) dw[k * g->c + c] += from[c] * grad[c];
    }
  }
}

static void dw_kernel_row(const dw_row *row, idx kw, const float *x, const float *dy, float *dw,
                          idx c0, idx c1) {
  int wide = c1 - c0 >= POCK_VW;
  if (wide && kw == 3 && row->dil == 1 && row->sw == 1)
    dw_line(&(dw_row){row->w, row->ow, row->c, 1, row->pw, 1, row->begin, row->end}, 3, x, dy, dw,
            c0, c1);
  else if (wide && kw == 3)
    dw_line(row, 3, x, dy, dw, c0, c1);
  else if (wide && kw == 5)
    dw_line(row, 5, x, dy, dw, c0, c1);
  else
    dw_line_any(row, kw, x, dy, dw, c0, c1);
}

void pk_depthwise_dw(const pk_conv *g, const float *x, const float *dy, float *dw, idx c0, idx c1) {
  for (idx t = 0; t < g->kh * g->kw; t++) memset(dw + t * g->c + c0, 0, (c1 - c0) * sizeof(float));
  idx begin = idx_min(g->ow, inner_begin(g->pw, g->sw));
  idx end = inner_end(g->w, g->ow, g->kw, g->sw, g->pw, g->dw, begin);
  dw_row row = {g->w, g->ow, g->c, g->sw, g->pw, g->dw, begin, end};
  for (idx line = 0; line < g->n * g->oh; line++) {
    const float *image = x + line / g->oh * g->h * g->w * g->c;
    const float *dy_line = dy + line * g->ow * g->c;
    idx kh0, kh1, y = line % g->oh * g->sh - g->ph;
    rows_inside(y, g->h, g->kh, g->dh, &kh0, &kh1);
    for (idx kh = kh0; kh < kh1; kh++)
      dw_kernel_row(&row, g->kw, image + (y + kh * g->dh) * g->w * g->c, dy_line,
                    dw + kh * g->kw * g->c, c0, c1);
  }
}
