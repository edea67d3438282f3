/* conv.c - dense and grouped convolution as matrix products over gathered pixels.
 *
 * All three products gather the same thing: for a block of base pixels, the channels of the
 * pixels at a few offsets (taps) from each base, zero outside the image. The block goes through
 * gemm.c while it is in the second cache.
 *   y  [pixel][o] = gather(x)  [pixel][tap, c] @ w  [tap, c][o]
 *   dx [pixel][c] = gather(dy) [pixel][tap, o] @ w^T[tap, o][c]
 *   dw [tap, c][o] = gather(x)^T @ dy
 * For dx under a stride, input pixels are treated by phase (their position modulo the stride):
 * pixels of one phase meet the same subset of taps, and the taps that meet nothing are skipped.
 */
#include "pock.h"

#define CONV_ROWS (8 * MR)

typedef struct {
  const float *src; /* [image][h][w][ld] */
  idx h, w, ld;
  idx chan, chans; /* the channels to gather */
} gather_source;

typedef struct {
  idx count;
  idx y[POCK_CONV_TAPS], x[POCK_CONV_TAPS]; /* offset from the base pixel */
  idx run[POCK_CONV_TAPS]; /* taps from here on that lie side by side in memory */
} tap_list;

typedef struct {
  idx image, y, x;
} base_pixel;

/* to[taps][chans] around one base pixel. */
PK_INLINE void gather_pixel(const gather_source *s, const tap_list *taps, base_pixel base,
                            float *to) {
  const float *image = s->src + base.image * s->h * s->w * s->ld + s->chan;
  for (idx t = 0, len; t < taps->count; t += len, to += len * s->chans) {
    idx y = base.y + taps->y[t], x = base.x + taps->x[t];
    len = taps->run[t];
    if (x < 0 || x + len > s->w) len = 1;
    if (y < 0 || y >= s->h || x < 0 || x >= s->w)
      memset(to, 0, len * s->chans * sizeof(float));
    else
      copy_floats(to, image + (y * s->w + x) * s->ld, len * s->chans);
  }
}

/* Fills taps->run; only whole pixels can be copied as one run. */
static void find_runs(tap_list *taps, int whole_pixels) {
  for (idx t = taps->count - 1; t >= 0; t--) {
    int joined = whole_pixels && t + 1 < taps->count && taps->y[t + 1] == taps->y[t] &&
                 taps->x[t + 1] == taps->x[t] + 1;
    taps->run[t] = joined ? taps->run[t + 1] + 1 : 1;
  }
}

/* Pixel `row` of images [image][h][w]. */
PK_INLINE base_pixel pixel_of(idx row, idx h, idx w) {
  return (base_pixel){row / (h * w), row / w % h, row % w};
}

PK_INLINE void next_pixel(base_pixel *p, idx h, idx w) {
  if (++p->x < w) return;
  p->x = 0;
  if (++p->y < h) return;
  p->y = 0;
  p->image++;
}

/* How many taps to gather at once: even chunks of at most POCK_CONV_K values a row. */
static idx taps_per_chunk(idx taps, idx chans) {
  idx chunks = ceil_div(taps * chans, POCK_CONV_K);
  return idx_max(1, idx_min(POCK_CONV_TAPS, ceil_div(taps, chunks)));
}

/* Packs all groups; element (tap, i, j) of group e's matrix is w[tap*tap_step + e*group_step +
 * i*stride_k + j*stride_n]. */
static void pack_groups(const pk_conv *g, const float *w, idx inner, idx N, idx group_step,
                        idx stride_k, idx stride_n, float *wp, idx panel0, idx panel1) {
  idx taps = g->kh * g->kw, tap_step = g->c / g->groups * g->o, panels = ceil_div(N, NR);
  for (idx p = panel0; p < panel1; p++) {
    idx group = p / panels, col = p % panels * NR;
    float *to = wp + p * taps * inner * NR;
    for (idx t = 0; t < taps; t++, to += inner * NR)
      pk_pack_b(w + t * tap_step + group * group_step + col * stride_n, stride_k, stride_n, inner,
                N - col, to, 0, 1);
  }
}

void pk_conv_pack(const pk_conv *g, const float *w, float *wp, idx panel0, idx panel1) {
  idx og = g->o / g->groups;
  pack_groups(g, w, g->c / g->groups, og, og, g->o, 1, wp, panel0, panel1);
}

void pk_conv_pack_t(const pk_conv *g, const float *w, float *wp, idx panel0, idx panel1) {
  idx og = g->o / g->groups;
  pack_groups(g, w, og, g->c / g->groups, og, 1, g->o, wp, panel0, panel1);
}

/* ------------------------------------------------------------------------------- forward */

/* Taps t0..t1 of the forward convolution, from the base (oy * sh - ph, ox * sw - pw). */
static void forward_taps(const pk_conv *g, idx t0, idx t1, int whole_pixels, tap_list *taps) {
  taps->count = t1 - t0;
  for (idx t = t0; t < t1; t++) {
    taps->y[t - t0] = t / g->kw * g->dh;
    taps->x[t - t0] = t % g->kw * g->dw;
  }
  find_runs(taps, whole_pixels);
}

/* scratch[rows][taps * chans] for output pixels row0..row1. */
static void gather_forward(const pk_conv *g, const gather_source *s, const tap_list *taps, idx row0,
                           idx row1, float *scratch) {
  idx width = taps->count * s->chans;
  base_pixel p = pixel_of(row0, g->oh, g->ow);
  for (idx row = row0; row < row1; row++, scratch += width, next_pixel(&p, g->oh, g->ow))
    gather_pixel(s, taps, (base_pixel){p.image, p.y * g->sh - g->ph, p.x * g->sw - g->pw}, scratch);
}

static void conv_block(const pk_conv *g, const gather_source *s, const float *wp, float *y, idx ldy,
                       idx row0, idx row1, float *scratch) {
  idx count = g->kh * g->kw, step = taps_per_chunk(count, s->chans);
  tap_list taps;
  for (idx t = 0; t < count; t += step) {
    idx next = t + step < count ? t + step : 0;
    forward_taps(g, t, idx_min(count, t + step), s->chans == s->ld, &taps);
    gather_forward(g, s, &taps, row0, row1, scratch);
    idx k = taps.count * s->chans;
    gemm_blocked(scratch, k, wp + t * s->chans * NR, count * s->chans * NR, k, g->o / g->groups,
                 y + row0 * ldy, ldy, row1 - row0, t > 0, wp + next * s->chans * NR);
  }
}

void pk_conv_rows(const pk_conv *g, const float *x, const float *wp, float *y, idx ldy, idx row0,
                  idx row1, float *scratch) {
  idx cg = g->c / g->groups, og = g->o / g->groups;
  idx group_size = g->kh * g->kw * cg * ceil_div(og, NR) * NR;
  for (idx row = row0; row < row1; row += CONV_ROWS) {
    idx end = idx_min(row1, row + CONV_ROWS);
    for (idx e = 0; e < g->groups; e++) {
      gather_source s = {x, g->h, g->w, g->c, e * cg, cg};
      conv_block(g, &s, wp + e * group_size, y + e * og, ldy, row, end, scratch);
    }
  }
}

/* ------------------------------------------------------------------- gradient of the input */

typedef struct {
  const pk_conv *g;
  const float *dy, *wp_t;
  float *dx;
  idx fy, fx;                   /* the phase: input position modulo the stride */
  idx count;                    /* pixels collected, at most CONV_ROWS */
  base_pixel base[CONV_ROWS];   /* their base pixel in dy */
  idx row[CONV_ROWS];           /* their row in dx */
} dx_phase;

/* Collects the next taps of the phase, side by side in the packed weight, from tap *t on. Output
 * y = iy / sh + offset, where offset = (fy + ph - kh * dh) / sh must be whole. Returns the first
 * tap collected; *t moves past the last. */
static idx phase_taps(const dx_phase *p, idx limit, idx *t, tap_list *taps) {
  const pk_conv *g = p->g;
  taps->count = 0;
  idx first = *t;
  for (; *t < g->kh * g->kw && taps->count < limit; ++*t) {
    idx y = p->fy + g->ph - *t / g->kw * g->dh, x = p->fx + g->pw - *t % g->kw * g->dw;
    if (y % g->sh == 0 && x % g->sw == 0) {
      if (taps->count == 0) first = *t;
      taps->y[taps->count] = y / g->sh;
      taps->x[taps->count++] = x / g->sw;
    } else if (taps->count > 0) {
      break;
    }
  }
  find_runs(taps, 0);
  return first;
}

/* out[count][c / groups] of one group for the pixels collected. */
static void dx_group(const dx_phase *p, idx group, float *out, float *scratch) {
  const pk_conv *g = p->g;
  idx cg = g->c / g->groups, og = g->o / g->groups, K = g->kh * g->kw * og;
  gather_source s = {p->dy, g->oh, g->ow, g->o, group * og, og};
  const float *wp = p->wp_t + group * K * ceil_div(cg, NR) * NR;
  idx limit = taps_per_chunk(g->kh * g->kw, og), t = 0;
  int accumulate = 0;
  for (;;) {
    tap_list taps;
    idx first = phase_taps(p, limit, &t, &taps);
    if (taps.count == 0) break;
    idx k = taps.count * og;
    for (idx i = 0; i < p->count; i++) gather_pixel(&s, &taps, p->base[i], scratch + i * k);
    gemm_blocked(scratch, k, wp + first * og * NR, K * NR, k, cg, out, cg, p->count, accumulate,
                 wp + t * og * NR);
    accumulate = 1;
  }
  if (!accumulate) memset(out, 0, p->count * cg * sizeof(float));
}

/* Computes the pixels collected and writes their rows of dx. */
static void flush_phase(dx_phase *p, float *scratch) {
  const pk_conv *g = p->g;
  idx cg = g->c / g->groups;
  float *out = scratch, *gathered = scratch + CONV_ROWS * cg;
  for (idx e = 0; e < g->groups; e++) {
    dx_group(p, e, out, gathered);
    for (idx i = 0; i < p->count; i++)
      copy_floats(p->dx + p->row[i] * g->c + e * cg, out + i * cg, cg);
  }
  p->count = 0;
}

static void dx_phase_rows(dx_phase *p, idx row0, idx row1, float *scratch) {
  const pk_conv *g = p->g;
  base_pixel at = pixel_of(row0, g->h, g->w);
  p->count = 0;
  for (idx row = row0; row < row1; row++, next_pixel(&at, g->h, g->w)) {
    if (at.y % g->sh != p->fy || at.x % g->sw != p->fx) continue;
    p->row[p->count] = row;
    p->base[p->count++] = (base_pixel){at.image, at.y / g->sh, at.x / g->sw};
    if (p->count == CONV_ROWS) flush_phase(p, scratch);
  }
  if (p->count > 0) flush_phase(p, scratch);
}

void pk_conv_dx_rows(const pk_conv *g, const float *dy, const float *wp_t, float *dx, idx row0,
                     idx row1, float *scratch) {
  dx_phase p = {.g = g, .dy = dy, .wp_t = wp_t, .dx = dx};
  for (p.fy = 0; p.fy < g->sh; p.fy++) {
    for (p.fx = 0; p.fx < g->sw; p.fx++) dx_phase_rows(&p, row0, row1, scratch);
  }
}

/* ------------------------------------------------------------------ gradient of the weight */

/* Rows of dw that one gather can serve: some whole taps, or some channels of one tap. */
typedef struct {
  idx tap0, tap1, chan, chans;
} dw_piece;

static dw_piece next_piece(idx row, idx row1, idx cg) {
  idx tap = row / cg, chan = row % cg;
  if (chan == 0 && row1 - row >= cg && cg <= POCK_CONV_DW_M) {
    idx taps = idx_min((row1 - row) / cg, POCK_CONV_DW_M / cg);
    return (dw_piece){tap, tap + idx_min(taps, POCK_CONV_TAPS), 0, cg};
  }
  idx chans = idx_min(idx_min(cg - chan, row1 - row), POCK_CONV_DW_M);
  return (dw_piece){tap, tap + 1, chan, chans};
}

/* dw[rows of the piece][o / groups] of one group. */
static void dw_piece_group(const pk_conv *g, const float *x, const float *dy, float *dw, dw_piece p,
                           idx group, float *scratch) {
  idx cg = g->c / g->groups, og = g->o / g->groups, pixels = g->n * g->oh * g->ow;
  gather_source s = {x, g->h, g->w, g->c, group * cg + p.chan, p.chans};
  float *gathered = scratch, *tn_scratch = scratch + POCK_TN_KC * POCK_CONV_DW_M;
  tap_list taps;
  forward_taps(g, p.tap0, p.tap1, s.chans == s.ld, &taps);
  idx m = taps.count * p.chans;
  for (idx row = 0; row < pixels; row += POCK_TN_KC) {
    idx end = idx_min(pixels, row + POCK_TN_KC);
    gather_forward(g, &s, &taps, row, end, gathered);
    pk_gemm_tn(gathered, m, dy + row * g->o + group * og, g->o, 0, m, og, end - row,
               dw + group * og, g->o, row > 0, tn_scratch);
  }
}

void pk_conv_dw(const pk_conv *g, const float *x, const float *dy, float *dw, idx row0, idx row1,
                float *scratch) {
  idx cg = g->c / g->groups;
  while (row0 < row1) {
    dw_piece p = next_piece(row0, row1, cg);
    for (idx e = 0; e < g->groups; e++)
      dw_piece_group(g, x, dy, dw + row0 * g->o, p, e, scratch);
    row0 += (p.tap1 - p.tap0) * p.chans;
  }
}

/* -------------------------------------------------------------------- a few channels, in place
 *
 * The taps of one kernel row lie side by side in the image, kw * c values, and those of the next
 * output pixel begin sw * c values further: a matrix that needs no gathering. The lines that an
 * output line meets are copied between zeros, so that no pixel is at an edge.
 */

/* Floats of one input line as far as output pixels see it. */
PK_INLINE idx seen_line(const pk_conv *g) { return ((g->ow - 1) * g->sw + g->kw) * g->c; }

/* to[kh][seen_line]: the input lines that line `line` of n * oh output lines meets. */
static void copy_lines(const pk_conv *g, const float *x, idx line, float *to) {
  idx size = seen_line(g), left = idx_min(g->pw * g->c, size);
  idx inside = idx_min(g->w * g->c, size - left), y0 = line % g->oh * g->sh - g->ph;
  const float *image = x + line / g->oh * g->h * g->w * g->c;
  for (idx k = 0; k < g->kh; k++, to += size) {
    idx y = y0 + k * g->dh, some = y < 0 || y >= g->h ? 0 : inside;
    memset(to, 0, left * sizeof(float));
    copy_floats(to + left, image + y * g->w * g->c, some);
    memset(to + left + some, 0, (size - left - some) * sizeof(float));
  }
}

/* Where the taps of a pixel lie: `rows` times k floats, and those of the next one. */
typedef struct {
  idx rows, row_step, k, pixel_step;
} line_taps;
typedef void lines_fn(const line_taps *t, const float *a, const float *b, float *y, idx ldy,
                      idx cols);

PK_INLINE void lines_tile(int mr, int nv, const line_taps *t, const float *a, const float *b,
                          float *y, idx ldy, idx cols) {
  vf acc[MR][2];
  PK_UNROLL for (int r = 0; r < mr; r++) acc[r][0] = acc[r][1] = (vf){};
  for (idx row = 0; row < t->rows; row++, a += t->row_step) {
    for (idx p = 0; p < t->k; p++, b += NR) {
      vf taps[2];
      PK_UNROLL for (int v = 0; v < nv; v++) taps[v] = vf_load(b + v * POCK_VW);
      PK_UNROLL for (int r = 0; r < mr; r++) {
        PK_UNROLL for (int v = 0; v < nv; v++) acc[r][v] += a[r * t->pixel_step + p] * taps[v];
      }
    }
  }
  if (cols == nv * POCK_VW)
    store_tile(mr, nv, acc, y, ldy, 0);
  else
    store_edge(mr, nv, acc, y, ldy, cols, 0);
}

#define LINES_TILE(mr, nv)                                                                     \
  static void lines_##mr##x##nv(const line_taps *t, const float *a, const float *b, float *y,  \
                                idx ldy, idx cols) {                                           \
    lines_tile(mr, nv, t, a, b, y, ldy, cols);                                                 \
  }
#define LINES_TILES(mr) LINES_TILE(mr, 1) LINES_TILE(mr, 2)
LINES_TILES(1) LINES_TILES(2) LINES_TILES(3) LINES_TILES(4) LINES_TILES(5) LINES_TILES(6)
#if MR > 6
LINES_TILES(7) LINES_TILES(8) LINES_TILES(9) LINES_TILES(10) LINES_TILES(11) LINES_TILES(12)
#endif
#if MR > 12
LINES_TILES(13) LINES_TILES(14)
#endif
static lines_fn *const lines_tiles[MR][2] = {ALL_ROWS(lines)};

void pk_conv_lines(const pk_conv *g, const float *x, const float *wp, float *y, idx line0,
                   idx line1, float *scratch) {
  line_taps taps = {g->kh, seen_line(g), g->kw * g->c, g->sw * g->c};
  for (idx line = line0; line < line1; line++) {
    copy_lines(g, x, line, scratch);
    float *to = y + line * g->ow * g->o;
    for (idx j = 0; j < g->o; j += NR) {
      const float *b = wp + j * g->kh * taps.k;
      idx cols = idx_min(NR, g->o - j);
      for (idx i = 0, mr; i < g->ow; i += mr) {
        mr = tile_rows(g->ow - i);
        lines_tiles[mr - 1][cols > POCK_VW](&taps, scratch + i * taps.pixel_step, b,
                                            to + i * g->o + j, g->o, cols);
      }
    }
  }
}

void pk_conv_dw_lines(const pk_conv *g, const float *x, const float *dy, float *dw, idx line0,
                      idx line1, float *scratch) {
  idx size = seen_line(g), k = g->kw * g->c;
  float *tn_scratch = scratch + g->kh * size;
  if (line0 == line1) memset(dw, 0, g->kh * k * g->o * sizeof(float));
  for (idx line = line0; line < line1; line++) {
    copy_lines(g, x, line, scratch);
    for (idx row = 0; row < g->kh; row++)
      pk_gemm_tn(scratch + row * size, g->sw * g->c, dy + line * g->ow * g->o, g->o, 0, k, g->o,
                 g->ow, dw + row * k * g->o, g->o, line > line0, tn_scratch);
  }
}
