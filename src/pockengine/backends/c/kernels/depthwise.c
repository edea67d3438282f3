/* depthwise.c - convolution of each channel with its own kernel, vectorised over channels.
 *
 *   y [n][oy][ox][c] = sum over (kh, kw) of x[n][oy*sh - ph + kh*dh][ox*sw - pw + kw*dw][c]
 *                                           * w[kh][kw][c]
 * The gradient of x is a sum of the same kind over dy: under stride 1 with the kernel turned
 * around, under stride 2 with the kernel's even columns for every other pixel and its odd columns
 * for those between. Both are computed a line at a time, in blocks of neighbouring pixels that stay
 * in registers with all the columns they share; kernel widths 3, 5 and 7 with strides 1 and 2 are
 * inlined with these numbers constant. Everything else sums taps one pixel at a time.
 */
#include "pock.h"

/* BLOCK_PIXELS: neighbours computed together. DW_TAPS: taps of a weight's gradient whose sums stay
 * in registers together. */
#if POCK_MR == 6 /* 16 vector registers */
#define BLOCK_PIXELS 4
#define DW_TAPS 12
#else /* 32 of them */
#define BLOCK_PIXELS 8
#define DW_TAPS 25
#endif

/* One axis of a convolution, from the side that is written: `in` positions are read. */
typedef struct {
  idx in, kernel, stride, pad, dilation;
} dw_axis;

/* What one position along an axis sums, for j < count: in[at + j * at_step] times
 * weight[k + j * k_step]. */
typedef struct {
  idx count, at, k, at_step, k_step;
} dw_taps;

typedef dw_taps taps_fn(const dw_axis *a, idx i);

/* Of y over x. */
static dw_taps output_taps(const dw_axis *a, idx i) {
  idx base = i * a->stride - a->pad;
  idx k0 = base < 0 ? ceil_div(-base, a->dilation) : 0;
  idx k1 = base >= a->in ? k0 : idx_min(a->kernel, ceil_div(a->in - base, a->dilation));
  return (dw_taps){idx_max(0, k1 - k0), base + k0 * a->dilation, k0, a->dilation, 1};
}

/* Of dx over dy: the taps k for which i + pad - k * dilation is a multiple of the stride. */
static dw_taps input_taps(const dw_axis *a, idx i) {
  dw_taps taps = {0};
  for (idx k = 0; k < a->kernel && i + a->pad >= k * a->dilation; k++) {
    idx from = i + a->pad - k * a->dilation, at = from / a->stride;
    if (at * a->stride != from || at >= a->in) continue;
    if (taps.count == 0) taps.at = at, taps.k = k;
    if (taps.count == 1) taps.at_step = at - taps.at, taps.k_step = k - taps.k;
    taps.count++;
  }
  return taps;
}

/* A convolution as seen from the lines that are written. */
typedef struct {
  idx h, w, c; /* of what is written */
  dw_axis rows, columns;
  taps_fn *taps;
  const float *weight;
} dw_view;

/* ----------------------------------------------------------------------- any geometry */

/* One vector of one output pixel; x and w point at its first tap. */
#define SUM_TAPS(name, vector)                                                                   \
  static void name(const dw_view *v, dw_taps rows, dw_taps columns, const float *x,              \
                   const float *w, float *out) {                                                 \
    idx c = v->c, x_row = rows.at_step * v->columns.in * c;                                      \
    idx w_row = rows.k_step * v->columns.kernel * c;                                             \
    vector sum = {0}, input, weight;                                                             \
    for (idx r = 0; r < rows.count; r++) {                                                       \
      for (idx k = 0; k < columns.count; k++) {                                                  \
        memcpy(&input, x + r * x_row + k * columns.at_step * c, sizeof input);                   \
        memcpy(&weight, w + r * w_row + k * columns.k_step * c, sizeof weight);                  \
        sum += input * weight;                                                                   \
      }                                                                                          \
    }                                                                                            \
    memcpy(out, &sum, sizeof sum);                                                               \
  }
SUM_TAPS(sum_vector, vf)
SUM_TAPS(sum_four, v4f)
SUM_TAPS(sum_single, float)

static void any_pixel(const dw_view *v, dw_taps rows, dw_taps columns, const float *in,
                      float *out) {
  idx c = v->c, lanes = c >= POCK_VW ? POCK_VW : c >= 4 ? 4 : 1;
  const float *x = in + (rows.at * v->columns.in + columns.at) * c;
  const float *w = v->weight + (rows.k * v->columns.kernel + columns.k) * c;
  for (idx i = 0; i < c; i += lanes) {
    idx at = idx_min(i, c - lanes);
    if (lanes == POCK_VW)
      sum_vector(v, rows, columns, x + at, w + at, out + at);
    else if (lanes == 4)
      sum_four(v, rows, columns, x + at, w + at, out + at);
    else
      sum_single(v, rows, columns, x + at, w + at, out + at);
  }
}

static void any_line(const dw_view *v, dw_taps rows, const float *in, float *line) {
  for (idx i = 0; i < v->w; i++)
    any_pixel(v, rows, v->taps(&v->columns, i), in, line + i * v->c);
}

/* ------------------------------------------------------------------ blocks of pixels */

/* columns[j] = the vector at column first + j, zero outside of the image. */
PK_INLINE void load_columns(int count, int edge, const float *x, idx c, idx first, idx width,
                            vf *columns) {
  PK_UNROLL for (int j = 0; j < count; j++)
    columns[j] = !edge || (first + j >= 0 && first + j < width) ? vf_load(x + j * c) : (vf){};
}

/* `pixels` neighbours; tap k of pixel p reads column first + p * stride + k and the weight at
 * k * tap_step. Only `count` of them are stored where the block is at an edge. */
PK_INLINE void gather_block(const dw_view *v, dw_taps rows, int kw, int stride, int edge,
                            const float *in, const float *weight, idx tap_step, idx first,
                            float *out, idx count) {
  idx c = v->c, width = v->columns.in;
  idx line_step = rows.at_step * width * c, row_step = rows.k_step * kw * c;
  for (idx i = 0; i < c; i += POCK_VW) {
    idx at = idx_min(i, c - POCK_VW);
    const float *x = in + (rows.at * width + first) * c + at;
    const float *w = weight + rows.k * kw * c + at;
    vf acc[BLOCK_PIXELS] = {};
    for (idx r = 0; r < rows.count; r++, x += line_step, w += row_step) {
      vf column[(BLOCK_PIXELS - 1) * 2 + 7];
      load_columns((BLOCK_PIXELS - 1) * stride + kw, edge, x, c, first, width, column);
      PK_UNROLL for (int k = 0; k < kw; k++) {
        vf tap = vf_load(w + k * tap_step);
        PK_UNROLL for (int p = 0; p < BLOCK_PIXELS; p++) acc[p] += column[p * stride + k] * tap;
      }
    }
    PK_UNROLL for (int p = 0; p < BLOCK_PIXELS; p++) {
      if (!edge || p < count) vf_store(out + p * c + at, acc[p]);
    }
  }
}

PK_INLINE void gather_line(const dw_view *v, dw_taps rows, int kw, int stride, const float *in,
                           float *line) {
  int turned = v->taps == input_taps;
  idx c = v->c, pad = turned ? kw - 1 - v->columns.pad : v->columns.pad;
  const float *weight = turned ? v->weight + (kw - 1) * c : v->weight;
  idx tap_step = turned ? -c : c;
  for (idx i = 0; i < v->w; i += BLOCK_PIXELS) {
    idx first = i * stride - pad, last = first + (BLOCK_PIXELS - 1) * stride + kw - 1;
    if (first >= 0 && last < v->columns.in && i + BLOCK_PIXELS <= v->w)
      gather_block(v, rows, kw, stride, 0, in, weight, tap_step, first, line + i * c, 0);
    else
      gather_block(v, rows, kw, stride, 1, in, weight, tap_step, first, line + i * c, v->w - i);
  }
}

/* Under a stride of 2, the gradient of the pixels 2 (o + p) - pad and 2 (o + p) - pad + 1, p <
 * PAIRS: tap k of the kernel reads column o + p - k / 2 for pixel k % 2 of a pair. */
#define PAIRS 4
PK_INLINE void pairs_block(const dw_view *v, dw_taps rows, int kw, int edge, const float *in, idx o,
                           float *line) {
  idx c = v->c, width = v->columns.in, first = o - kw / 2, to = 2 * o - v->columns.pad;
  idx line_step = rows.at_step * width * c, row_step = rows.k_step * kw * c;
  for (idx i = 0; i < c; i += POCK_VW) {
    idx at = idx_min(i, c - POCK_VW);
    const float *x = in + (rows.at * width + first) * c + at;
    const float *w = v->weight + rows.k * kw * c + at;
    vf acc[2 * PAIRS] = {};
    for (idx r = 0; r < rows.count; r++, x += line_step, w += row_step) {
      vf column[PAIRS + 3];
      load_columns(PAIRS + kw / 2, edge, x, c, first, width, column);
      PK_UNROLL for (int k = 0; k < kw; k++) {
        vf tap = vf_load(w + k * c);
        PK_UNROLL for (int p = 0; p < PAIRS; p++)
          acc[2 * p + k % 2] += column[p + kw / 2 - k / 2] * tap;
      }
    }
    PK_UNROLL for (int p = 0; p < 2 * PAIRS; p++) {
      if (!edge || (to + p >= 0 && to + p < v->w)) vf_store(line + (to + p) * c + at, acc[p]);
    }
  }
}

PK_INLINE void pairs_line(const dw_view *v, dw_taps rows, int kw, const float *in, float *line) {
  idx pad = v->columns.pad;
  for (idx o = pad / 2; 2 * o - pad < v->w; o += PAIRS) {
    idx first = o - kw / 2, to = 2 * o - pad;
    if (first >= 0 && o + PAIRS <= v->columns.in && to >= 0 && to + 2 * PAIRS <= v->w)
      pairs_block(v, rows, kw, 0, in, o, line);
    else
      pairs_block(v, rows, kw, 1, in, o, line);
  }
}

typedef void line_fn(const dw_view *v, dw_taps rows, const float *in, float *line);

#define LINES(kw)                                                                                \
  static void line_##kw##_1(const dw_view *v, dw_taps rows, const float *in, float *line) {      \
    gather_line(v, rows, kw, 1, in, line);                                                       \
  }                                                                                              \
  static void line_##kw##_2(const dw_view *v, dw_taps rows, const float *in, float *line) {      \
    gather_line(v, rows, kw, 2, in, line);                                                       \
  }                                                                                              \
  static void dx_pairs_##kw(const dw_view *v, dw_taps rows, const float *in, float *line) {      \
    pairs_line(v, rows, kw, in, line);                                                           \
  }
LINES(3)
LINES(5)
LINES(7)

static line_fn *find_line(const dw_view *v) {
  static line_fn *const table[3][3] = {{line_3_1, line_3_2, dx_pairs_3},
                                       {line_5_1, line_5_2, dx_pairs_5},
                                       {line_7_1, line_7_2, dx_pairs_7}};
  const dw_axis *a = &v->columns;
  int known = a->kernel == 3 || a->kernel == 5 || a->kernel == 7;
  if (!known || a->stride > 2 || a->dilation != 1 || v->c < POCK_VW) return any_line;
  return table[(a->kernel - 3) / 2][a->stride == 1 ? 0 : v->taps == output_taps ? 1 : 2];
}

static void view_lines(const dw_view *v, const float *in, float *out, idx line0, idx line1) {
  line_fn *compute = find_line(v);
  for (idx line = line0; line < line1; line++) {
    const float *image = in + line / v->h * v->rows.in * v->columns.in * v->c;
    compute(v, v->taps(&v->rows, line % v->h), image, out + line * v->w * v->c);
  }
}

void pk_depthwise_lines(const pk_conv *g, const float *x, const float *w, float *y, idx line0,
                        idx line1) {
  dw_axis rows = {g->h, g->kh, g->sh, g->ph, g->dh}, columns = {g->w, g->kw, g->sw, g->pw, g->dw};
  dw_view v = {g->oh, g->ow, g->c, rows, columns, output_taps, w};
  view_lines(&v, x, y, line0, line1);
}

void pk_depthwise_dx_lines(const pk_conv *g, const float *dy, const float *w, float *dx, idx line0,
                           idx line1) {
  dw_axis rows = {g->oh, g->kh, g->sh, g->ph, g->dh}, columns = {g->ow, g->kw, g->sw, g->pw, g->dw};
  dw_view v = {g->h, g->w, g->c, rows, columns, input_taps, w};
  view_lines(&v, dy, dx, line0, line1);
}

/* ------------------------------------------------------------------ gradient of the weight */

#define DW_ROWS 5          /* kernel rows whose sums are in registers together, at most */
#define DW_CACHED (1 << 16) /* floats of x and dy whose lines a vector of channels passes over */

/* A few columns of the kernel, moving over the lines of x and dy. */
typedef struct {
  idx w, ow, c, stride, dilation;
  idx pad;              /* of the first of these columns */
  idx begin, end;       /* output columns for which all of these columns are inside */
  idx x_row, x_line;    /* from one kernel row's line of x, one output line's, to the next */
  idx lines;            /* of dy */
  idx dw_row;           /* floats in a row of the kernel */
} dw_strip;

/* One output column, where some taps may be outside. */
PK_INLINE void edge_column(const dw_strip *g, int kh, int kw, const float *x, const float *dy,
                           idx ox, vf acc[DW_ROWS][5]) {
  vf d = vf_load(dy + ox * g->c);
  PK_UNROLL for (int k = 0; k < kw; k++) {
    idx ix = ox * g->stride - g->pad + k * g->dilation;
    if (ix < 0 || ix >= g->w) continue;
    PK_UNROLL for (int r = 0; r < kh; r++) acc[r][k] += vf_load(x + r * g->x_row + ix * g->c) * d;
  }
}

/* acc += the products of one line of dy with kh lines of x. Few taps take several sums each, so
 * that additions do not wait for each other. */
PK_INLINE void dw_line(const dw_strip *g, int kh, int kw, int sets, const float *x, const float *dy,
                       vf acc[][DW_ROWS][5]) {
  idx ox = 0, step = g->stride * g->c, tap = g->dilation * g->c;
  for (; ox < g->begin; ox++) edge_column(g, kh, kw, x, dy, ox, acc[0]);
  const float *from = x + (ox * g->stride - g->pad) * g->c, *grad = dy + ox * g->c;
  for (; ox + sets <= g->end; ox += sets, grad += sets * g->c, from += sets * step) {
    PK_UNROLL for (int s = 0; s < sets; s++) {
      vf d = vf_load(grad + s * g->c);
      PK_UNROLL for (int r = 0; r < kh; r++) {
        PK_UNROLL for (int k = 0; k < kw; k++)
          acc[s][r][k] += vf_load(from + s * step + r * g->x_row + k * tap) * d;
      }
    }
  }
  for (; ox < g->ow; ox++) edge_column(g, kh, kw, x, dy, ox, acc[0]);
}

/* dw[kh][kw][c0:c1] += the products of all lines. */
PK_INLINE void dw_strip_sum(const dw_strip *g, int kh, int kw, const float *x, const float *dy,
                            float *dw, idx c0, idx c1) {
  int sets = kh * kw <= 3 ? 4 : kh * kw <= 6 ? 2 : 1;
  for (idx i = c0; i < c1; i += POCK_VW) {
    idx at = idx_min(i, c1 - POCK_VW);
    vf acc[4][DW_ROWS][5] = {};
    for (idx line = 0; line < g->lines; line++)
      dw_line(g, kh, kw, sets, x + line * g->x_line + at, dy + line * g->ow * g->c + at, acc);
    vi fresh = vf_lanes_from(i - at); /* the last vector overlaps the one before */
    PK_UNROLL for (int r = 0; r < kh; r++) {
      PK_UNROLL for (int k = 0; k < kw; k++) {
        float *to = dw + r * g->dw_row + k * g->c + at;
        vf sum = acc[0][r][k], old = vf_load(to);
        PK_UNROLL for (int s = 1; s < sets; s++) sum += acc[s][r][k];
        vf_store(to, vf_select(fresh, old + sum, old));
      }
    }
  }
}

typedef void strip_fn(const dw_strip *g, const float *x, const float *dy, float *dw, idx c0,
                      idx c1);

#define STRIP(kh, kw)                                                                         \
  static void strip_##kh##_##kw(const dw_strip *g, const float *x, const float *dy, float *dw, \
                                idx c0, idx c1) {                                             \
    dw_strip_sum(g, kh, kw, x, dy, dw, c0, c1);                                               \
  }
#define STRIPS(kw) STRIP(1, kw) STRIP(2, kw) STRIP(3, kw) STRIP(4, kw) STRIP(5, kw)
STRIPS(1)
STRIPS(3)
STRIPS(5)
#define STRIP_NAMES(kw) {strip_1_##kw, strip_2_##kw, strip_3_##kw, strip_4_##kw, strip_5_##kw}
static strip_fn *const strips[3][DW_ROWS] = {STRIP_NAMES(1), STRIP_NAMES(3), STRIP_NAMES(5)};

/* The same for one tap and fewer channels than a vector has. */
static void dw_tap_narrow(const dw_strip *g, const float *x, const float *dy, float *dw, idx c0,
                          idx c1) {
  for (idx line = 0; line < g->lines; line++, x += g->x_line, dy += g->ow * g->c) {
    for (idx ox = 0; ox < g->ow; ox++) {
      idx ix = ox * g->stride - g->pad;
      if (ix < 0 || ix >= g->w) continue;
      for (idx c = c0; c < c1; c++) dw[c] += x[ix * g->c + c] * dy[ox * g->c + c];
    }
  }
}

/* Adds what some lines of dy bring, all of which meet these kernel rows. x: the line that the first
 * row meets. */
static void dw_add_lines(const pk_conv *conv, dw_taps rows, idx lines, const float *x,
                         const float *dy, float *dw, idx c0, idx c1) {
  dw_strip g = {.w = conv->w, .ow = conv->ow, .c = conv->c, .stride = conv->sw,
                .dilation = conv->dw, .x_row = conv->dh * conv->w * conv->c,
                .x_line = conv->sh * conv->w * conv->c, .lines = lines,
                .dw_row = conv->kw * conv->c};
  int narrow = c1 - c0 < POCK_VW;
  for (idx k = 0, kw; k < conv->kw; k += kw) {
    idx left = conv->kw - k;
    kw = narrow || left < 3 ? 1 : left < 5 || left == 6 ? 3 : 5;
    g.pad = conv->pw - k * g.dilation;
    g.begin = idx_max(0, idx_min(g.ow, ceil_div(g.pad, g.stride)));
    idx room = g.w + g.pad - (kw - 1) * g.dilation - 1;
    g.end = idx_max(g.begin, idx_min(g.ow, room < 0 ? 0 : room / g.stride + 1));
    for (idx r = 0, kh; r < rows.count; r += kh) {
      kh = narrow ? 1 : idx_min(idx_min(DW_ROWS, DW_TAPS / kw), rows.count - r);
      float *to = dw + ((rows.k + r) * conv->kw + k) * g.c;
      if (narrow)
        dw_tap_narrow(&g, x + r * g.x_row, dy, to, c0, c1);
      else
        strips[kw / 2][kh - 1](&g, x + r * g.x_row, dy, to, c0, c1);
    }
  }
}

void pk_depthwise_dw(const pk_conv *g, const float *x, const float *dy, float *dw, idx line0,
                     idx line1, idx c0, idx c1) {
  dw_axis axis = {g->h, g->kh, g->sh, g->ph, g->dh};
  idx x_line = g->w * g->c, dy_line = g->ow * g->c;
  idx cached = idx_max(1, DW_CACHED / (dy_line + g->sh * x_line));
  for (idx t = 0; t < g->kh * g->kw; t++) memset(dw + t * g->c + c0, 0, (c1 - c0) * sizeof(float));
  for (idx line = line0, lines; line < line1; line += lines) {
    dw_taps rows = output_taps(&axis, line % g->oh);
    idx most = idx_min(idx_min(line1 - line, g->oh - line % g->oh), cached);
    for (lines = 1; lines < most; lines++) { /* whose taps are the same, moved along */
      dw_taps next = output_taps(&axis, line % g->oh + lines);
      if (next.k != rows.k || next.count != rows.count) break;
    }
    const float *image = x + line / g->oh * g->h * x_line;
    if (rows.count > 0)
      dw_add_lines(g, rows, lines, image + rows.at * x_line, dy + line * dy_line, dw, c0, c1);
  }
}
