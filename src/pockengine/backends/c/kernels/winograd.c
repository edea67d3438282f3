/* winograd.c - 3x3 convolution of stride 1 with fewer multiplications.
 *
 * The output is cut into tiles of m x m pixels, m = 2 or 4. A tile depends on a patch of n x n
 * pixels of the input, n = m + 2. Both are seen as products of polynomials, known by their values
 * at n points (0, plus and minus one or two numbers, infinity) in each direction, so that
 *   y [m][m] = At (sum over c of (Bt patch B) * (G w Gt)) A
 * needs n * n products of a tile where the plain sum needs 9 * m * m: 2.25 times fewer for m = 2,
 * 4 times for m = 4. For each of the n * n pairs of points the sum over c is a matrix product
 * [tile][c] @ [c][o] over a batch of tiles, done by gemm.c.
 *
 * The points of m = 4 are 0, +-2/3, +-3/2, infinity: they give half the error of 0, +-1, +-2 and
 * their product 1 saves multiplications. benchmarks/winograd_error.py measures the errors.
 *
 * The gradient of the input is the same convolution of dy with the kernel turned by 180 degrees
 * and its channels swapped, padded by 2 - pad.
 */
#include "pock.h"

#define MAX_N 6
#define PA (2.0f / 3)
#define PB (3.0f / 2)
#define OVER_A (1 / (2 * PA * PA * (PA * PA - PB * PB))) /* over the product of PA - q */
#define OVER_B (1 / (2 * PB * PB * (PB * PB - PA * PA)))

PK_INLINE idx round_up(idx a, idx b) { return ceil_div(a, b) * b; }

/* One line of a transform: from[0], from[step], ... -> to[0], to[step], ... Each reads all of its
 * input before it writes. */

/* Bt: n -> n values. Row p of Bt holds the coefficients of the product of (x - q) over the other
 * points q. */
PK_INLINE void input_line(int m, const vf *from, int from_step, vf *to, int to_step) {
  vf d[MAX_N];
  PK_UNROLL for (int i = 0; i < m + 2; i++) d[i] = from[i * from_step];
  if (m == 2) {
    to[0] = d[0] - d[2];
    to[to_step] = d[1] + d[2];
    to[2 * to_step] = d[2] - d[1];
    to[3 * to_step] = d[3] - d[1];
    return;
  }
  vf even_a = d[4] - PB * PB * d[2], odd_a = PA * d[3] - PA * PB * PB * d[1];
  vf even_b = d[4] - PA * PA * d[2], odd_b = PB * d[3] - PB * PA * PA * d[1];
  to[0] = d[0] - (PA * PA + PB * PB) * d[2] + d[4];
  to[to_step] = even_a + odd_a;
  to[2 * to_step] = even_a - odd_a;
  to[3 * to_step] = even_b + odd_b;
  to[4 * to_step] = even_b - odd_b;
  to[5 * to_step] = d[1] - (PA * PA + PB * PB) * d[3] + d[5];
}

/* G: 3 -> n values of the kernel at the points, over the product of (p - q) that Bt leaves out. */
PK_INLINE void kernel_line(int m, const vf *from, int from_step, vf *to, int to_step) {
  vf g0 = from[0], g1 = from[from_step], g2 = from[2 * from_step];
  if (m == 2) {
    to[0] = g0;
    to[to_step] = 0.5f * (g0 + g2) + 0.5f * g1;
    to[2 * to_step] = 0.5f * (g0 + g2) - 0.5f * g1;
    to[3 * to_step] = g2;
    return;
  }
  vf even_a = OVER_A * g0 + OVER_A * PA * PA * g2, odd_a = OVER_A * PA * g1;
  vf even_b = OVER_B * g0 + OVER_B * PB * PB * g2, odd_b = OVER_B * PB * g1;
  to[0] = g0;
  to[to_step] = even_a + odd_a;
  to[2 * to_step] = even_a - odd_a;
  to[3 * to_step] = even_b + odd_b;
  to[4 * to_step] = even_b - odd_b;
  to[5 * to_step] = g2;
}

/* At: n -> m values; output i takes the i-th powers of the points. */
PK_INLINE void output_line(int m, const vf *from, int from_step, vf *to, int to_step) {
  vf t[MAX_N];
  PK_UNROLL for (int i = 0; i < m + 2; i++) t[i] = from[i * from_step];
  if (m == 2) {
    to[0] = t[0] + t[1] + t[2];
    to[to_step] = t[1] - t[2] + t[3];
    return;
  }
  vf even_a = t[1] + t[2], odd_a = t[1] - t[2], even_b = t[3] + t[4], odd_b = t[3] - t[4];
  to[0] = t[0] + even_a + even_b;
  to[to_step] = PA * odd_a + PB * odd_b;
  to[2 * to_step] = PA * PA * even_a + PB * PB * even_b;
  to[3 * to_step] = PA * PA * PA * odd_a + PB * PB * PB * odd_b + t[5];
}

/* The same two for the gradient of the kernel, which has tiles of dy for a kernel of m taps, and
 * 3 outputs: m -> n values, and n -> 3. */
PK_INLINE void dy_line(int m, const vf *from, int from_step, vf *to, int to_step) {
  vf g[4];
  PK_UNROLL for (int i = 0; i < m; i++) g[i] = from[i * from_step];
  if (m == 2) {
    to[0] = g[0];
    to[to_step] = 0.5f * g[0] + 0.5f * g[1];
    to[2 * to_step] = 0.5f * g[0] - 0.5f * g[1];
    to[3 * to_step] = g[1];
    return;
  }
  vf even_a = OVER_A * g[0] + OVER_A * PA * PA * g[2];
  vf odd_a = OVER_A * PA * g[1] + OVER_A * PA * PA * PA * g[3];
  vf even_b = OVER_B * g[0] + OVER_B * PB * PB * g[2];
  vf odd_b = OVER_B * PB * g[1] + OVER_B * PB * PB * PB * g[3];
  to[0] = g[0];
  to[to_step] = even_a + odd_a;
  to[2 * to_step] = even_a - odd_a;
  to[3 * to_step] = even_b + odd_b;
  to[4 * to_step] = even_b - odd_b;
  to[5 * to_step] = g[3];
}

PK_INLINE void taps_line(int m, const vf *from, int from_step, vf *to, int to_step) {
  vf t[MAX_N];
  PK_UNROLL for (int i = 0; i < m + 2; i++) t[i] = from[i * from_step];
  if (m == 2) {
    to[0] = t[0] + t[1] + t[2];
    to[to_step] = t[1] - t[2];
    to[2 * to_step] = t[1] + t[2] + t[3];
    return;
  }
  to[0] = t[0] + t[1] + t[2] + t[3] + t[4];
  to[to_step] = PA * (t[1] - t[2]) + PB * (t[3] - t[4]);
  to[2 * to_step] = PA * PA * (t[1] + t[2]) + PB * PB * (t[3] + t[4]) + t[5];
}

/* ------------------------------------------------------------------------------- weights */

/* n floats, zeros behind them. */
PK_INLINE vf load_some(const float *p, idx n) {
  if (n >= POCK_VW) return vf_load(p);
  vf v = {};
  if (n > 0) memcpy(&v, p, n * sizeof(float));
  return v;
}

PK_INLINE void store_some(float *p, vf v, idx n) {
  if (n >= POCK_VW)
    vf_store(p, v);
  else
    memcpy(p, &v, n * sizeof(float));
}

/* Weights at..at + n, of floats or of bf16. */
static vf load_weights(const void *w, int bf16, idx at, idx n) {
  if (!bf16) return load_some((const float *)w + at, n);
  vf v = {};
  for (idx i = 0; i < idx_min(n, POCK_VW); i++) v[i] = pk_from_bf16(((const uint16_t *)w)[at + i]);
  return v;
}

/* taps[i][t] = tap t from input channels i0 + i to VW outputs from j on; zero beyond the channels.
 * Turned, w is [tap][o][c] and its taps run backwards. The weights of the next channels are fetched:
 * they lie in short pieces, which a CPU does not read ahead. */
static void load_taps(const pk_conv *g, int turned, const void *w, int bf16, idx i0, idx j,
                      vf taps[][9]) {
  idx size = g->c * g->o, step = turned ? g->c : g->o, bytes = bf16 ? 2 : sizeof(float);
  for (int t = 0; t < 9; t++) {
    vf square[POCK_VW];
    idx at = turned ? (8 - t) * size + j * g->c + i0 : t * size + i0 * g->o + j;
    const char *ahead = (const char *)w + (at + POCK_VW * (turned ? 1 : step)) * bytes;
    for (idx k = 0; k < POCK_VW; k++) {
      __builtin_prefetch(ahead + k * step * bytes, 0, 2);
      if (turned)
        square[k] = j + k < g->o ? load_weights(w, bf16, at + k * step, g->c - i0) : (vf){};
      else
        square[k] = i0 + k < g->c ? load_weights(w, bf16, at + k * step, g->o - j) : (vf){};
    }
    if (turned) vf_transpose(square);
    for (int k = 0; k < POCK_VW; k++) taps[k][t] = square[k];
  }
}

PK_INLINE void kernel_tile(int m, const vf taps[9], float *to, idx point_step) {
  vf half[3 * MAX_N], u[MAX_N * MAX_N];
  const int n = m + 2;
  PK_UNROLL for (int j = 0; j < 3; j++) kernel_line(m, taps + j, 3, half + j, 3);
  PK_UNROLL for (int i = 0; i < n; i++) kernel_line(m, half + 3 * i, 1, u + n * i, 1);
  PK_UNROLL for (int p = 0; p < n * n; p++) vf_store(to + p * point_step, u[p]);
}

static void store_kernel(int m, const vf taps[9], float *to, idx point_step) {
  if (m == 2)
    kernel_tile(2, taps, to, point_step);
  else
    kernel_tile(4, taps, to, point_step);
}

/* u[point][i1 - i0][NR]: the kernels from input channels i0..i1 to the outputs of one panel. */
static void transform_panel(const pk_conv *g, int m, int turned, const void *w, int bf16, idx panel,
                            idx i0, idx i1, float *u, idx point_step) {
  vf taps[POCK_VW][9];
  for (idx first = i0; first < i1; first += POCK_VW) {
    for (idx v = 0; v < NR; v += POCK_VW) {
      load_taps(g, turned, w, bf16, first, panel * NR + v, taps);
      for (idx i = first; i < idx_min(i1, first + POCK_VW); i++)
        store_kernel(m, taps[i - first], u + (i - i0) * NR + v, point_step);
    }
  }
}

static void winograd_pack(const pk_conv *g, int m, int turned, const void *w, int bf16, float *u,
                          idx panel0, idx panel1) {
  idx point_step = ceil_div(g->o, NR) * g->c * NR + POCK_WINOGRAD_APART;
  for (idx panel = panel0; panel < panel1; panel++)
    transform_panel(g, m, turned, w, bf16, panel, 0, g->c, u + panel * g->c * NR, point_step);
}

void pk_winograd_pack(const pk_conv *g, int m, int turned, const float *w, float *u, idx panel0,
                      idx panel1) {
  winograd_pack(g, m, turned, w, 0, u, panel0, panel1);
}

void pk_winograd_pack_bf16(const pk_conv *g, int m, int turned, const uint16_t *w, float *u,
                           idx panel0, idx panel1) {
  winograd_pack(g, m, turned, w, 1, u, panel0, panel1);
}

/* --------------------------------------------------------------------------------- tiles */

/* A walk over tiles: left to right, down to line1, image after image. */
typedef struct {
  const pk_conv *g;
  int m;
  idx line1;       /* of all images' output lines, one below the other */
  idx image, y, x; /* the tile's first output pixel */
} tile_walk;

static int walk_ends(const tile_walk *t) { return t->image * t->g->oh + t->y >= t->line1; }

static void next_tile(tile_walk *t) {
  if ((t->x += t->m) < t->g->ow) return;
  t->x = 0;
  if ((t->y += t->m) < t->g->oh) return;
  t->y = 0;
  t->image++;
}

static idx count_tiles(tile_walk t) {
  idx lines = 0;
  for (; !walk_ends(&t); lines++) {
    t.x = t.g->ow;
    next_tile(&t);
  }
  return lines * ceil_div(t.g->ow, t.m);
}

/* Copies `channels` of the patch of a tile to[n * n][ld], zero outside the image. */
static void copy_patch(const tile_walk *t, const float *x, idx channels, float *to, idx ld) {
  const pk_conv *g = t->g;
  for (idx i = 0; i < t->m + 2; i++) {
    for (idx j = 0; j < t->m + 2; j++, to += ld) {
      idx iy = t->y - g->ph + i, ix = t->x - g->pw + j;
      if (iy < 0 || iy >= g->h || ix < 0 || ix >= g->w)
        memset(to, 0, channels * sizeof(float));
      else
        copy_floats(to, x + ((t->image * g->h + iy) * g->w + ix) * g->c, channels);
    }
  }
}

/* v[point][channels] of a patch whose lines are line_step and pixels pixel_step floats apart. */
PK_INLINE void input_tile(int m, const float *patch, idx line_step, idx pixel_step, idx channels,
                          float *v, idx point_step) {
  const int n = m + 2;
  for (idx c = 0; c < channels; c += POCK_VW) {
    vf t[MAX_N * MAX_N];
    PK_UNROLL for (int j = 0; j < n; j++) {
      vf column[MAX_N];
      PK_UNROLL for (int i = 0; i < n; i++)
        column[i] = vf_load(patch + i * line_step + j * pixel_step + c);
      input_line(m, column, 1, t + j, n);
    }
    PK_UNROLL for (int i = 0; i < n; i++) {
      vf line[MAX_N];
      input_line(m, t + n * i, 1, line, 1);
      PK_UNROLL for (int j = 0; j < n; j++) vf_store(v + (n * i + j) * point_step + c, line[j]);
    }
  }
}

/* v[point][channel] of the tile, for the first `channels` channels at x; in whole vectors. */
static void transform_patch(const tile_walk *t, const float *x, idx channels, float *v,
                            idx point_step, float *patch) {
  const pk_conv *g = t->g;
  idx iy = t->y - g->ph, ix = t->x - g->pw, n = t->m + 2, whole = round_up(channels, POCK_VW);
  const float *from = x + ((t->image * g->h + iy) * g->w + ix) * g->c;
  idx line_step = g->w * g->c, pixel_step = g->c;
  if (iy < 0 || ix < 0 || iy + n > g->h || ix + n > g->w || whole != channels) {
    copy_patch(t, x, channels, patch, whole);
    from = patch, line_step = n * whole, pixel_step = whole;
  }
  if (t->m == 2)
    input_tile(2, from, line_step, pixel_step, whole, v, point_step);
  else
    input_tile(4, from, line_step, pixel_step, whole, v, point_step);
}

/* Writes `rows` x `cols` pixels of one tile from products[point][ceil(outs)]. */
PK_INLINE void output_tile(int m, const float *products, idx point_step, idx outs, float *y,
                           idx line_step, idx pixel_step, idx rows, idx cols) {
  const int n = m + 2;
  for (idx k = 0; k < outs; k += POCK_VW) {
    vf half[4 * MAX_N], out[4 * 4];
    PK_UNROLL for (int j = 0; j < n; j++) {
      vf column[MAX_N];
      PK_UNROLL for (int i = 0; i < n; i++)
        column[i] = vf_load(products + (n * i + j) * point_step + k);
      output_line(m, column, 1, half + j, n);
    }
    PK_UNROLL for (int i = 0; i < m; i++) output_line(m, half + n * i, 1, out + m * i, 1);
    for (idx i = 0; i < rows; i++) {
      for (idx j = 0; j < cols; j++)
        store_some(y + i * line_step + j * pixel_step + k, out[m * i + j], outs - k);
    }
  }
}

static void store_tile_of(const tile_walk *t, const float *products, idx point_step, idx outs,
                          float *y) {
  const pk_conv *g = t->g;
  idx line = t->image * g->oh + t->y;
  idx rows = idx_min(idx_min(t->m, g->oh - t->y), t->line1 - line);
  idx cols = idx_min(t->m, g->ow - t->x);
  float *to = y + (line * g->ow + t->x) * g->o;
  if (t->m == 2)
    output_tile(2, products, point_step, outs, to, g->ow * g->o, g->o, rows, cols);
  else
    output_tile(4, products, point_step, outs, to, g->ow * g->o, g->o, rows, cols);
}

/* ------------------------------------------------------------------------------- batches */

/* Computes `count` tiles from *t on and moves *t past them. */
static void winograd_batch(tile_walk *t, idx count, const float *x, const float *u, float *y,
                           float *scratch) {
  const pk_conv *g = t->g;
  idx points = (t->m + 2) * (t->m + 2), ldv = round_up(g->c, POCK_VW);
  idx ldm = round_up(g->o, POCK_VW), v_step = count * ldv + POCK_WINOGRAD_APART;
  idx m_step = count * ldm + POCK_WINOGRAD_APART;
  idx u_step = ceil_div(g->o, NR) * g->c * NR + POCK_WINOGRAD_APART;
  float *patch = scratch, *v = patch + points * ldv, *products = v + points * v_step;
  tile_walk in = *t;
  for (idx k = 0; k < count; k++, next_tile(&in))
    transform_patch(&in, x, g->c, v + k * ldv, v_step, patch);
  for (idx p = 0; p < points; p++)
    gemm_blocked(v + p * v_step, ldv, u + p * u_step, g->c * NR, g->c, g->o, products + p * m_step,
                 ldm, count, 0, u + (p + 1) % points * u_step);
  for (idx k = 0; k < count; k++, next_tile(t))
    store_tile_of(t, products + k * ldm, m_step, g->o, y);
}

void pk_winograd_rows(const pk_conv *g, int m, const float *x, const float *u, float *y, idx row0,
                      idx row1, float *scratch) {
  idx line0 = row0 / g->ow;
  tile_walk t = {g, m, row1 / g->ow, line0 / g->oh, line0 % g->oh, 0};
  idx tiles = count_tiles(t), batches = ceil_div(tiles, POCK_WINOGRAD_TILES);
  for (idx i = 0; i < batches; i++)
    winograd_batch(&t, tiles * (i + 1) / batches - tiles * i / batches, x, u, y, scratch);
}

/* The same for few tiles and large weights: all tiles are transformed first, and the weights of a
 * panel a part at a time, which stays in the cache until the products have read it. */
static void winograd_panels(const pk_conv *g, int m, int turned, const float *x, const void *w,
                            int bf16, float *y, idx panel0, idx panel1, float *scratch) {
  const tile_walk first = {g, m, g->n * g->oh, 0, 0, 0};
  idx points = (m + 2) * (m + 2), tiles = count_tiles(first), ldv = round_up(g->c, POCK_VW);
  idx v_step = tiles * ldv + POCK_WINOGRAD_APART, m_step = tiles * NR + POCK_WINOGRAD_APART;
  idx u_step = POCK_WINOGRAD_C * NR + POCK_WINOGRAD_APART;
  float *patch = scratch, *v = patch + points * ldv, *u = v + points * v_step;
  float *products = u + points * u_step;
  tile_walk t = first;
  for (idx k = 0; k < tiles; k++, next_tile(&t))
    transform_patch(&t, x, g->c, v + k * ldv, v_step, patch);
  for (idx panel = panel0; panel < panel1; panel++) {
    for (idx c0 = 0; c0 < g->c; c0 += POCK_WINOGRAD_C) {
      idx c1 = idx_min(g->c, c0 + POCK_WINOGRAD_C);
      transform_panel(g, m, turned, w, bf16, panel, c0, c1, u, u_step);
      for (idx p = 0; p < points; p++)
        gemm_blocked(v + p * v_step + c0, ldv, u + p * u_step, 0, c1 - c0, NR,
                     products + p * m_step, NR, tiles, c0 > 0, u + (p + 1) % points * u_step);
    }
    t = first;
    for (idx k = 0; k < tiles; k++, next_tile(&t))
      store_tile_of(&t, products + k * NR, m_step, idx_min(NR, g->o - panel * NR), y + panel * NR);
  }
}

void pk_winograd_panels(const pk_conv *g, int m, int turned, const float *x, const float *w,
                        float *y, idx panel0, idx panel1, float *scratch) {
  winograd_panels(g, m, turned, x, w, 0, y, panel0, panel1, scratch);
}

void pk_winograd_panels_bf16(const pk_conv *g, int m, int turned, const float *x,
                             const uint16_t *w, float *y, idx panel0, idx panel1, float *scratch) {
  winograd_panels(g, m, turned, x, w, 1, y, panel0, panel1, scratch);
}

/* ------------------------------------------------------------------ gradient of the weight */

/* One block of dw: channels c0.. by outputs o0.., as sums over all tiles, point by point. */
typedef struct {
  const pk_conv *g;
  int m;
  idx c0, channels, o0, outs, whole_outs;
  float *patch, *v, *d, *sums, *tn_scratch;
} grad_block;

/* Floats from one point to the next in v, d and sums. */
#define V_STEP (POCK_WINOGRAD_DW_TILES * POCK_WINOGRAD_DW_C + POCK_WINOGRAD_APART)
#define D_STEP (POCK_WINOGRAD_DW_TILES * POCK_WINOGRAD_DW_O + POCK_WINOGRAD_APART)
#define SUMS_STEP (POCK_WINOGRAD_DW_C * POCK_WINOGRAD_DW_O + POCK_WINOGRAD_APART)

/* d[point][output] of a tile of dy with rows x cols pixels inside the image. */
PK_INLINE void dy_tile(int m, const float *dy, idx line_step, idx pixel_step, idx rows, idx cols,
                       idx outs, float *d) {
  const int n = m + 2;
  for (idx o = 0; o < outs; o += POCK_VW) {
    vf half[4 * MAX_N];
    PK_UNROLL for (int j = 0; j < m; j++) {
      vf column[4];
      PK_UNROLL for (int i = 0; i < m; i++)
        column[i] = i < rows && j < cols
                        ? load_some(dy + i * line_step + j * pixel_step + o, outs - o)
                        : (vf){};
      dy_line(m, column, 1, half + j, m);
    }
    PK_UNROLL for (int i = 0; i < n; i++) {
      vf line[MAX_N];
      dy_line(m, half + m * i, 1, line, 1);
      PK_UNROLL for (int j = 0; j < n; j++) vf_store(d + (n * i + j) * D_STEP + o, line[j]);
    }
  }
}

static void transform_dy(const grad_block *b, const tile_walk *t, const float *dy, float *d) {
  const pk_conv *g = b->g;
  const float *from = dy + ((t->image * g->oh + t->y) * g->ow + t->x) * g->o + b->o0;
  idx rows = g->oh - t->y, cols = g->ow - t->x, line_step = g->ow * g->o;
  if (b->m == 2)
    dy_tile(2, from, line_step, g->o, rows, cols, b->outs, d);
  else
    dy_tile(4, from, line_step, g->o, rows, cols, b->outs, d);
}

/* Adds `count` tiles from *t on to the sums and moves *t past them. */
static void add_tiles(const grad_block *b, tile_walk *t, idx count, const float *x, const float *dy,
                      int accumulate) {
  for (idx k = 0; k < count; k++, next_tile(t)) {
    transform_patch(t, x + b->c0, b->channels, b->v + k * POCK_WINOGRAD_DW_C, V_STEP, b->patch);
    transform_dy(b, t, dy, b->d + k * POCK_WINOGRAD_DW_O);
  }
  for (idx p = 0; p < (b->m + 2) * (b->m + 2); p++)
    pk_gemm_tn(b->v + p * V_STEP, POCK_WINOGRAD_DW_C, b->d + p * D_STEP, POCK_WINOGRAD_DW_O, 0,
               b->channels, b->whole_outs, count, b->sums + p * SUMS_STEP, POCK_WINOGRAD_DW_O,
               accumulate, b->tn_scratch);
}

/* dw[3][3] of VW outputs, taps tap_step floats apart. */
PK_INLINE void taps_tile(int m, const float *sums, float *dw, idx tap_step, idx outs) {
  const int n = m + 2;
  vf half[3 * MAX_N], out[9];
  PK_UNROLL for (int j = 0; j < n; j++) {
    vf column[MAX_N];
    PK_UNROLL for (int i = 0; i < n; i++) column[i] = vf_load(sums + (n * i + j) * SUMS_STEP);
    taps_line(m, column, 1, half + j, n);
  }
  PK_UNROLL for (int i = 0; i < 3; i++) taps_line(m, half + n * i, 1, out + 3 * i, 1);
  PK_UNROLL for (int tap = 0; tap < 9; tap++) store_some(dw + tap * tap_step, out[tap], outs);
}

static void store_dw(const grad_block *b, float *dw) {
  for (idx c = 0; c < b->channels; c++) {
    for (idx o = 0; o < b->outs; o += POCK_VW) {
      const float *sums = b->sums + c * POCK_WINOGRAD_DW_O + o;
      float *to = dw + (b->c0 + c) * b->g->o + b->o0 + o;
      if (b->m == 2)
        taps_tile(2, sums, to, b->g->c * b->g->o, b->outs - o);
      else
        taps_tile(4, sums, to, b->g->c * b->g->o, b->outs - o);
    }
  }
}

void pk_winograd_dw(const pk_conv *g, int m, const float *x, const float *dy, float *dw, idx block0,
                    idx block1, float *scratch) {
  idx points = (m + 2) * (m + 2), across = ceil_div(g->o, POCK_WINOGRAD_DW_O);
  idx tiles = g->n * ceil_div(g->oh, m) * ceil_div(g->ow, m);
  idx batches = ceil_div(tiles, POCK_WINOGRAD_DW_TILES);
  for (idx block = block0; block < block1; block++) {
    grad_block b = {.g = g, .m = m};
    b.c0 = block / across * POCK_WINOGRAD_DW_C, b.o0 = block % across * POCK_WINOGRAD_DW_O;
    b.channels = idx_min(POCK_WINOGRAD_DW_C, g->c - b.c0);
    b.outs = idx_min(POCK_WINOGRAD_DW_O, g->o - b.o0), b.whole_outs = round_up(b.outs, POCK_VW);
    b.patch = scratch, b.v = b.patch + points * POCK_WINOGRAD_DW_C, b.d = b.v + points * V_STEP;
    b.sums = b.d + points * D_STEP, b.tn_scratch = b.sums + points * SUMS_STEP;
    tile_walk t = {g, m, g->n * g->oh, 0, 0, 0};
    for (idx i = 0; i < batches; i++)
      add_tiles(&b, &t, tiles * (i + 1) / batches - tiles * i / batches, x, dy, i > 0);
    store_dw(&b, dw);
  }
}
