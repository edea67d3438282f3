/* bf16.c - products whose operands are stored in bf16.
 *
 * The panels of a weight in bf16 are widened in registers, two a row of the tile, which the
 * multiplications hide. On a machine with dot products of bf16, a row of A in bf16 meets two rows of
 * a panel at once: c += a[k] * b[k] + a[k + 1] * b[k + 1], at twice the rate. Anything else is
 * widened to floats, block by block into scratch, and multiplied as floats are.
 */
#include "pock.h"

#define WIDE_ROWS 16 /* rows of a strided panel widened at once */

void pk_widen(const uint16_t *x, idx ldx, idx rows, idx cols, float *to) {
  for (idx r = 0; r < rows; r++, x += ldx, to += cols) {
    PK_EACH for (idx j = 0; j < cols; j++) to[j] = pk_from_bf16(x[j]);
  }
}

/* ---------------------------------------------------------------- panels in bf16 */

typedef uint16_t vh __attribute__((vector_size(2 * POCK_VW)));
typedef uint32_t vu __attribute__((vector_size(4 * POCK_VW)));
typedef uint16_t vh_unaligned __attribute__((vector_size(2 * POCK_VW), aligned(2), may_alias));

/* A tile of `half_gemm`: A has floats or bf16, its rows lda elements apart; b is part of a panel. */
typedef void half_tile(const void *a, idx lda, const uint16_t *b, idx k, float *c, idx ldc,
                       idx cols, int accumulate);

PK_INLINE vf vf_load_bf16(const uint16_t *p) {
  return (vf)(__builtin_convertvector(*(const vh_unaligned *)p, vu) << 16);
}

PK_INLINE void store_half_tile(int mr, vf acc[][2], float *c, idx ldc, idx cols, int accumulate) {
  if (cols == NR)
    store_tile(mr, 2, acc, c, ldc, accumulate);
  else
    store_edge(mr, 2, acc, c, ldc, cols, accumulate);
}

PK_INLINE void wide_tile(int mr, const float *a, idx lda, const uint16_t *b, idx k, float *c,
                         idx ldc, idx cols, int accumulate) {
  vf acc[MR][2];
  PK_UNROLL for (int r = 0; r < mr; r++) acc[r][0] = acc[r][1] = (vf){};
  for (idx p = 0; p < k; p++, b += NR) {
    vf left = vf_load_bf16(b), right = vf_load_bf16(b + POCK_VW);
    PK_UNROLL for (int r = 0; r < mr; r++) {
      acc[r][0] += a[r * lda + p] * left;
      acc[r][1] += a[r * lda + p] * right;
    }
  }
  store_half_tile(mr, acc, c, ldc, cols, accumulate);
}

#ifdef POCK_BF16_DOTS
#include <immintrin.h>
typedef uint16_t v2h __attribute__((vector_size(4 * POCK_VW)));
typedef uint16_t v2h_unaligned __attribute__((vector_size(4 * POCK_VW), aligned(2), may_alias));

/* Rows 2 p and 2 p + 1 of columns first..first + VW, side by side. */
#define PAIRS(even, odd, first)                                                                \
  (__m512bh)__builtin_shufflevector(                                                           \
      even, odd, first, first + 32, first + 1, first + 33, first + 2, first + 34, first + 3,   \
      first + 35, first + 4, first + 36, first + 5, first + 37, first + 6, first + 38,         \
      first + 7, first + 39, first + 8, first + 40, first + 9, first + 41, first + 10,         \
      first + 42, first + 11, first + 43, first + 12, first + 44, first + 13, first + 45,      \
      first + 14, first + 46, first + 15, first + 47)

/* acc += a pair of each row of A, or its first half where `bytes` is 2, times two rows of a panel. */
PK_INLINE void halves_rows(int mr, vf acc[][2], const uint16_t *a, idx lda, v2h even, v2h odd,
                        size_t bytes) {
  __m512bh left = PAIRS(even, odd, 0), right = PAIRS(even, odd, 16);
  PK_UNROLL for (int r = 0; r < mr; r++) {
    uint32_t pair = 0;
    memcpy(&pair, a + r * lda, bytes);
    __m512bh both = (__m512bh)((vu){} + pair);
    acc[r][0] = _mm512_dpbf16_ps(acc[r][0], both, left);
    acc[r][1] = _mm512_dpbf16_ps(acc[r][1], both, right);
  }
}

PK_INLINE void halves_tile(int mr, const uint16_t *a, idx lda, const uint16_t *b, idx k, float *c,
                        idx ldc, idx cols, int accumulate) {
  vf acc[MR][2];
  PK_UNROLL for (int r = 0; r < mr; r++) acc[r][0] = acc[r][1] = (vf){};
  idx p = 0;
  for (; p + 2 <= k; p += 2, b += 2 * NR)
    halves_rows(mr, acc, a + p, lda, *(const v2h_unaligned *)b, *(const v2h_unaligned *)(b + NR), 4);
  if (p < k) halves_rows(mr, acc, a + p, lda, *(const v2h_unaligned *)b, (v2h){}, 2);
  store_half_tile(mr, acc, c, ldc, cols, accumulate);
}
#endif

#define HALF_TILE(kind, element, mr)                                                          \
  static void kind##_##mr(const void *a, idx lda, const uint16_t *b, idx k, float *c, idx ldc, \
                          idx cols, int accumulate) {                                         \
    kind##_tile(mr, (const element *)a, lda, b, k, c, ldc, cols, accumulate);                 \
  }
#define HALF_TILES_6(kind, element)                                                     \
  HALF_TILE(kind, element, 1) HALF_TILE(kind, element, 2) HALF_TILE(kind, element, 3)   \
  HALF_TILE(kind, element, 4) HALF_TILE(kind, element, 5) HALF_TILE(kind, element, 6)
#define HALF_TILES_12(kind, element)                                                       \
  HALF_TILES_6(kind, element)                                                              \
  HALF_TILE(kind, element, 7) HALF_TILE(kind, element, 8) HALF_TILE(kind, element, 9)      \
  HALF_TILE(kind, element, 10) HALF_TILE(kind, element, 11) HALF_TILE(kind, element, 12)
#define HALF_ROWS_6(kind) kind##_1, kind##_2, kind##_3, kind##_4, kind##_5, kind##_6
#define HALF_ROWS_12(kind) \
  HALF_ROWS_6(kind), kind##_7, kind##_8, kind##_9, kind##_10, kind##_11, kind##_12
#if MR == 6
#define ALL_HALF_TILES HALF_TILES_6
#define ALL_HALF_ROWS HALF_ROWS_6
#elif MR == 12
#define ALL_HALF_TILES HALF_TILES_12
#define ALL_HALF_ROWS HALF_ROWS_12
#else
#define ALL_HALF_TILES(kind, element) \
  HALF_TILES_12(kind, element) HALF_TILE(kind, element, 13) HALF_TILE(kind, element, 14)
#define ALL_HALF_ROWS(kind) HALF_ROWS_12(kind), kind##_13, kind##_14
#endif

/* K is cut into even slices, of an even number of rows, that take the bytes of POCK_KC floats. */
static void half_gemm(half_tile *const *tiles, const char *a, idx element, idx lda,
                      const uint16_t *bp, idx K, idx N, float *c, idx ldc, idx rows) {
  idx slices = idx_max(1, ceil_div(K, 2 * POCK_KC)), step = idx_max(2, 2 * ceil_div(K, 2 * slices));
  idx k0 = 0;
  do {
    for (idx j = 0; j < N; j += NR) {
      for (idx i = 0, mr; i < rows; i += mr) {
        mr = tile_rows(rows - i);
        tiles[mr - 1](a + (i * lda + k0) * element, lda, bp + (j / NR * K + k0) * NR,
                      idx_min(step, K - k0), c + i * ldc + j, ldc, idx_min(NR, N - j), k0 > 0);
      }
    }
    k0 += step;
  } while (k0 < K);
}

ALL_HALF_TILES(wide, float)
static half_tile *const wide_tiles[MR] = {ALL_HALF_ROWS(wide)};

void pk_gemm_half(const float *a, idx lda, const uint16_t *bp, idx K, idx N, float *c, idx ldc,
                  idx rows) {
  half_gemm(wide_tiles, (const char *)a, sizeof(float), lda, bp, K, N, c, ldc, rows);
}

#ifdef POCK_BF16_DOTS
ALL_HALF_TILES(halves, uint16_t)
static half_tile *const halves_tiles[MR] = {ALL_HALF_ROWS(halves)};

void pk_gemm_dots(const uint16_t *a, idx lda, const uint16_t *bp, idx K, idx N, float *c, idx ldc,
                  idx rows) {
  half_gemm(halves_tiles, (const char *)a, sizeof(uint16_t), lda, bp, K, N, c, ldc, rows);
}
#endif

void pk_turn_panels_bf16(const uint16_t *from, idx K, idx N, uint16_t *bp, idx panel0, idx panel1) {
  for (idx panel = panel0; panel < panel1; panel++) {
    idx cols = idx_min(NR, N - panel * NR);
    for (idx k0 = 0; k0 < K; k0 += NR) { /* a square of NR x NR, which lies together in `from` */
      const uint16_t *square = from + k0 * N + panel * NR * NR;
      for (idx k = k0; k < idx_min(K, k0 + NR); k++) {
        uint16_t *to = bp + (panel * K + k) * NR;
        for (idx j = 0; j < NR; j++) to[j] = j < cols ? square[j * NR + k - k0] : 0;
      }
    }
  }
}

/* -------------------------------------------------------- widened where they are packed */

/* to[K][NR] from b[k * stride_k + n * stride_n], in blocks of rows, so that where the rows are not
 * contiguous in b, each line of the cache is used whole. */
static void pack_panel_bf16(const uint16_t *b, idx stride_k, idx stride_n, idx K, idx cols,
                            float *to) {
  if (cols < NR) memset(to, 0, K * NR * sizeof(float));
  for (idx k0 = 0; k0 < K; k0 += WIDE_ROWS) {
    idx end = idx_min(K, k0 + WIDE_ROWS);
    for (idx j = 0; j < cols && stride_n != 1; j++) {
      for (idx k = k0; k < end; k++) to[k * NR + j] = pk_from_bf16(b[j * stride_n + k * stride_k]);
    }
    for (idx k = k0; k < end && stride_n == 1; k++) pk_widen(b + k * stride_k, 0, 1, cols, to + k * NR);
  }
}

void pk_pack_b_bf16(const uint16_t *b, idx stride_k, idx stride_n, idx K, idx N, float *bp,
                    idx panel0, idx panel1) {
  for (idx p = panel0; p < panel1; p++)
    pack_panel_bf16(b + p * NR * stride_n, stride_k, stride_n, K, idx_min(NR, N - p * NR),
                    bp + p * K * NR);
}

/* ------------------------------------------------------- widened block by block */

/* Element (row, col) and those right and below of it, rows *ld apart: in place, or widened to `to`. */
static const float *block_of(const pk_operand *x, idx row, idx col, idx rows, idx cols, float *to,
                             idx *ld) {
  idx at = row * x->ld + col;
  if (!x->bf16) {
    *ld = x->ld;
    return (const float *)x->data + at;
  }
  pk_widen((const uint16_t *)x->data + at, x->ld, rows, cols, to);
  *ld = cols;
  return to;
}

/* c[m0:m1][n0:n1] = a^T @ b, at most POCK_TN_NC columns and POCK_TN_KC rows of c. */
static void gemm_tn_mixed_block(const pk_operand *a, const pk_operand *b, idx m0, idx m1, idx n0,
                                idx n1, idx K, float *c, idx ldc, float *scratch) {
  float *wide_a = scratch, *wide_b = wide_a + (a->bf16 ? POCK_TN_KC * (m1 - m0) : 0);
  float *rest = wide_b + (b->bf16 ? POCK_TN_KC * (n1 - n0) : 0);
  idx k0 = 0;
  do {
    idx k = idx_min(POCK_TN_KC, K - k0), lda, ldb;
    const float *from_a = block_of(a, k0, m0, k, m1 - m0, wide_a, &lda);
    const float *from_b = block_of(b, k0, n0, k, n1 - n0, wide_b, &ldb);
    pk_gemm_tn(from_a, lda, from_b, ldb, 0, m1 - m0, n1 - n0, k, c + m0 * ldc + n0, ldc, k0 > 0,
               rest);
    k0 += POCK_TN_KC;
  } while (k0 < K);
}

void pk_gemm_tn_mixed(const pk_operand *a, const pk_operand *b, idx m0, idx m1, idx N, idx K,
                      float *c, idx ldc, float *scratch) {
  for (idx n = 0; n < N; n += POCK_TN_NC) {
    for (idx m = m0; m < m1; m += POCK_TN_KC)
      gemm_tn_mixed_block(a, b, m, idx_min(m1, m + POCK_TN_KC), n, idx_min(N, n + POCK_TN_NC), K, c,
                          ldc, scratch);
  }
}

static void conv_pack_bf16(const pk_conv *g, const uint16_t *w, int transposed, float *wp,
                           idx panel0, idx panel1) {
  idx taps = g->kh * g->kw, cg = g->c / g->groups, og = g->o / g->groups;
  idx K = transposed ? og : cg, N = transposed ? cg : og, panels = ceil_div(N, NR);
  idx stride_k = transposed ? 1 : g->o, stride_n = transposed ? g->o : 1;
  for (idx p = panel0; p < panel1; p++) {
    idx group = p / panels, col = p % panels * NR;
    for (idx t = 0; t < taps; t++)
      pk_pack_b_bf16(w + t * cg * g->o + group * og + col * stride_n, stride_k, stride_n, K, N - col,
                     wp + (p * taps + t) * K * NR, 0, 1);
  }
}

void pk_conv_pack_bf16(const pk_conv *g, const uint16_t *w, float *wp, idx panel0, idx panel1) {
  conv_pack_bf16(g, w, 0, wp, panel0, panel1);
}

void pk_conv_pack_t_bf16(const pk_conv *g, const uint16_t *w, float *wp, idx panel0, idx panel1) {
  conv_pack_bf16(g, w, 1, wp, panel0, panel1);
}
