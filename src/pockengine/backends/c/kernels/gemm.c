/* gemm.c - matrix products from one register tile.
 *
 * The tile computes c[mr][nv * VW] += a[mr][k] @ b[k][nv * VW] with all of c in registers. B comes
 * packed in panels of NR = 2 * VW columns, so that the inner loop reads it in order; A is read in
 * place, which measures as fast as packing it. K is cut so that a panel's slice stays in the first
 * cache while the tiles of many rows pass over it, and fetch the next panel meanwhile: weights come
 * from far away in a training step, and a CPU does not read ahead from one page into the next.
 */
#include "pock.h"

#define NR (2 * POCK_VW)
#define MR POCK_MR
#define LINE 16 /* floats fetched at once */

typedef void nn_fn(const float *a, idx lda, const float *b, idx k, float *c, idx ldc, idx cols,
                   int accumulate, const float *ahead, idx ahead_step);
typedef void tn_fn(const float *a, idx lda, const float *b, idx ldb, idx k, float *c, idx ldc,
                   idx cols, int accumulate, const float *ahead, idx ahead_step);

/* c[mr][cols] from registers, cols < nv * VW. */
PK_INLINE void store_edge(int mr, int nv, vf acc[][2], float *c, idx ldc, idx cols,
                          int accumulate) {
  float row[NR];
  PK_UNROLL for (int r = 0; r < mr; r++, c += ldc) {
    PK_UNROLL for (int v = 0; v < nv; v++) vf_store(row + v * POCK_VW, acc[r][v]);
    for (idx j = 0; j < cols; j++) c[j] = accumulate ? c[j] + row[j] : row[j];
  }
}

PK_INLINE void store_tile(int mr, int nv, vf acc[][2], float *c, idx ldc, int accumulate) {
  PK_UNROLL for (int r = 0; r < mr; r++, c += ldc) {
    PK_UNROLL for (int v = 0; v < nv; v++) {
      float *p = c + v * POCK_VW;
      vf_store(p, accumulate ? vf_load(p) + acc[r][v] : acc[r][v]);
    }
  }
}

/* Element (r, p) of the A tile is a[r * row_step + p * k_step]; row p of B is b + p * ldb. Meanwhile k
 * lines that lie ahead_step floats apart are fetched from far away. */
PK_INLINE void tile(int mr, int nv, const float *a, idx row_step, idx k_step, const float *b,
                    idx ldb, idx k, float *c, idx ldc, idx cols, int accumulate,
                    const float *ahead, idx ahead_step) {
  vf acc[MR][2];
  PK_UNROLL for (int r = 0; r < mr; r++) acc[r][0] = acc[r][1] = (vf){};
  for (idx p = 0; p < k; p++, b += ldb, a += k_step) {
    vf row[2];
    __builtin_prefetch(ahead + p * ahead_step, 0, 2);
    PK_UNROLL for (int v = 0; v < nv; v++) row[v] = vf_load(b + v * POCK_VW);
    PK_UNROLL for (int r = 0; r < mr; r++) {
      PK_UNROLL for (int v = 0; v < nv; v++) acc[r][v] += a[r * row_step] * row[v];
    }
  }
  if (cols == nv * POCK_VW)
    store_tile(mr, nv, acc, c, ldc, accumulate);
  else
    store_edge(mr, nv, acc, c, ldc, cols, accumulate);
}

/* One function per tile height and width. `nn`: rows of the A tile are lda apart, B is packed.
 * `tn`: A is transposed, its columns are lda apart. */
#define TILE(mr, nv)                                                                               \
  static void nn_##mr##x##nv(const float *a, idx lda, const float *b, idx k, float *c, idx ldc,    \
                             idx cols, int accumulate, const float *ahead, idx ahead_step) {       \
    tile(mr, nv, a, lda, 1, b, NR, k, c, ldc, cols, accumulate, ahead, ahead_step);                \
  }                                                                                                \
  static void tn_##mr##x##nv(const float *a, idx lda, const float *b, idx ldb, idx k, float *c,    \
                             idx ldc, idx cols, int accumulate, const float *ahead,                \
                             idx ahead_step) {                                                     \
    tile(mr, nv, a, 1, lda, b, ldb, k, c, ldc, cols, accumulate, ahead, ahead_step);               \
  }
#define TILES(mr) TILE(mr, 1) TILE(mr, 2)
#define ROW(kind, mr) {kind##_##mr##x1, kind##_##mr##x2}
#define ROWS_TO_6(kind) \
  ROW(kind, 1), ROW(kind, 2), ROW(kind, 3), ROW(kind, 4), ROW(kind, 5), ROW(kind, 6)
#define ROWS_TO_12(kind)                                                                    \
  ROWS_TO_6(kind), ROW(kind, 7), ROW(kind, 8), ROW(kind, 9), ROW(kind, 10), ROW(kind, 11), \
      ROW(kind, 12)

TILES(1) TILES(2) TILES(3) TILES(4) TILES(5) TILES(6)
#if MR == 6
#define ALL_ROWS ROWS_TO_6
#else
TILES(7) TILES(8) TILES(9) TILES(10) TILES(11) TILES(12)
#if MR == 12
#define ALL_ROWS ROWS_TO_12
#elif MR == 14
TILES(13) TILES(14)
#define ALL_ROWS(kind) ROWS_TO_12(kind), ROW(kind, 13), ROW(kind, 14)
#else
#error "POCK_MR must be 6, 12 or 14"
#endif
#endif

static nn_fn *const nn_tiles[MR][2] = {ALL_ROWS(nn)};
static tn_fn *const tn_tiles[MR][2] = {ALL_ROWS(tn)};

PK_INLINE idx ceil_div(idx a, idx b) { return (a + b - 1) / b; }

/* The height of the next tile when `rows` are left: as even as MR allows, so that 16 rows become
 * 8 + 8 and not 14 + 2. */
PK_INLINE idx tile_rows(idx rows) { return ceil_div(rows, ceil_div(rows, MR)); }

/* One panel of `cols` columns whose rows are contiguous in b. */
static void pack_panel(const float *b, idx stride_k, idx K, idx cols, float *to) {
  for (idx k = 0; k < K; k++, b += stride_k, to += NR) {
    if (cols < NR) {
      vf_store(to, (vf){});
      vf_store(to + POCK_VW, (vf){});
    }
    copy_floats(to, b, cols);
  }
}

/* to[VW][NR], of which the first VW columns: VW rows of b, or fewer with zeros for the others. */
PK_INLINE void pack_square(const float *b, idx stride_n, idx rows, float *to) {
  vf square[POCK_VW];
  PK_UNROLL for (int i = 0; i < POCK_VW; i++)
    square[i] = i < rows ? vf_load(b + i * stride_n) : (vf){};
  vf_transpose(square);
  PK_UNROLL for (int i = 0; i < POCK_VW; i++) vf_store(to + i * NR, square[i]);
}

/* One panel of `cols` columns that are contiguous in b and stride_n apart: squares of VW x VW, the
 * last of which overlaps the one before. */
static void pack_panel_t(const float *b, idx stride_n, idx K, idx cols, float *to) {
  for (idx j = 0; j < NR; j += POCK_VW) {
    idx rows = cols - j;
    const float *from = b + j * stride_n;
    for (idx k = 0; k < K && K >= POCK_VW; k += POCK_VW) {
      idx at = idx_min(k, K - POCK_VW);
      if (rows >= POCK_VW)
        pack_square(from + at, stride_n, POCK_VW, to + at * NR + j);
      else
        pack_square(from + at, stride_n, rows, to + at * NR + j);
    }
    for (idx k = 0; k < K && K < POCK_VW; k++) {
      for (idx i = 0; i < POCK_VW; i++) to[k * NR + j + i] = i < rows ? from[i * stride_n + k] : 0;
    }
  }
}

void pk_pack_b(const float *b, idx stride_k, idx stride_n, idx K, idx N, float *bp, idx panel0,
               idx panel1) {
  for (idx panel = panel0; panel < panel1; panel++) {
    idx cols = idx_min(NR, N - panel * NR);
    const float *from = b + panel * NR * stride_n;
    if (stride_n == 1)
      pack_panel(from, stride_k, K, cols, bp + panel * K * NR);
    else
      pack_panel_t(from, stride_n, K, cols, bp + panel * K * NR);
  }
}

void pk_pack_panels_t(const float *from, idx K, idx N, float *bp, idx panel0, idx panel1) {
  for (idx panel = panel0; panel < panel1; panel++) {
    for (idx k = 0; k < K; k += NR)
      pk_pack_b(from + k * N + panel * NR * NR, 1, NR, idx_min(NR, K - k), N - panel * NR,
                bp + ((panel - panel0) * K + k) * NR, 0, 1);
  }
}

/* pk_gemm over k of a packed matrix whose panels lie panel_step floats apart. The tiles of a panel
 * fetch the next one, each a line of every row of it; after the last panel comes the one at `then`. */
static void gemm_slice(const float *a, idx lda, const float *bp, idx panel_step, idx k, idx N,
                       float *c, idx ldc, idx rows, int accumulate, const float *then) {
  for (idx j = 0; j < N; j += NR, bp += panel_step) {
    idx cols = idx_min(NR, N - j), fetched = 0;
    const float *next = j + NR < N ? bp + panel_step : then;
    for (idx i = 0, mr; i < rows; i += mr, fetched += LINE) {
      mr = tile_rows(rows - i);
      int more = fetched < NR;
      nn_tiles[mr - 1][cols > POCK_VW](a + i * lda, lda, bp, k, c + i * ldc + j, ldc, cols,
                                       accumulate, more ? next + fetched : a, more ? NR : 0);
    }
  }
}

/* The same, K cut into even slices of at most POCK_KC. */
static void gemm_blocked(const float *a, idx lda, const float *bp, idx panel_step, idx K, idx N,
                         float *c, idx ldc, idx rows, int accumulate, const float *then) {
  idx step = ceil_div(K, idx_max(1, ceil_div(K, POCK_KC)));
  idx k0 = 0;
  do {
    const float *slice = bp + k0 * NR, *next = k0 + step < K ? slice + step * NR : then;
    gemm_slice(a + k0, lda, slice, panel_step, idx_min(step, K - k0), N, c, ldc, rows,
               accumulate || k0 > 0, next);
    k0 += step;
  } while (k0 < K);
}

void pk_gemm(const float *a, idx lda, const float *bp, idx K, idx N, float *c, idx ldc, idx rows,
             int accumulate) {
  gemm_blocked(a, lda, bp, K * NR, K, N, c, ldc, rows, accumulate, bp);
}

/* to[k][mr] = from[k * lda + r] */
PK_INLINE void pack_a_tile(const float *from, idx lda, idx k, idx mr, float *to) {
  if (mr == MR) {
    for (idx p = 0; p < k; p++) memcpy(to + p * MR, from + p * lda, MR * sizeof(float));
    return;
  }
  for (idx p = 0; p < k; p++) {
    for (idx r = 0; r < mr; r++) to[p * mr + r] = from[p * lda + r];
  }
}

/* What is read after a product: arrays of `size` floats, of which the first `at` were fetched. */
typedef struct {
  const float *const *arrays; /* NULL behind the last */
  idx from, size, at;
} tn_later;

/* A block of k rows of A and B. Panels of B are panel_step floats apart and their rows ldb. */
typedef struct {
  const float *a, *b;
  idx lda, ldb, panel_step, k;
  const float *next_a, *next_b; /* the block after this one in the operands, or NULL; */
  idx next_ldb;                 /* rows of A are lda apart there too; */
  tn_later *later;              /* then what comes after the last block */
} tn_block;

/* A tile fetches the next lines of the arrays, one after another. */
PK_INLINE const float *fetched_later(const tn_block *t, idx *step) {
  tn_later *later = t->later;
  idx at = later->at;
  for (idx i = 0; later->arrays[i]; i++, at -= later->size) {
    if (at >= later->size) continue;
    *step = LINE;
    later->at += t->k * LINE;
    return later->arrays[i] + later->from + at;
  }
  *step = 0;
  return t->a;
}

/* Tile number `tile` fetches one line of each row of the next block: of A first, then of B. */
PK_INLINE const float *fetched(const tn_block *t, idx tile, idx rows, idx cols, idx *step) {
  idx at = tile * LINE, of_b = at - ceil_div(rows, LINE) * LINE;
  *step = of_b < 0 ? t->lda : t->next_ldb;
  if (t->next_a && of_b < 0) return t->next_a + at;
  if (t->next_a && of_b < cols) return t->next_b + of_b;
  if (!t->next_a && t->later) return fetched_later(t, step);
  *step = 0;
  return t->a;
}

/* c[m0:m1][cols] += a^T @ b. A tile that serves many panels is packed into `ap` first, so that its
 * rows do not compete for the same lines of the cache. */
static void gemm_tn_block(const tn_block *t, idx m0, idx m1, idx cols, float *c, idx ldc,
                          int accumulate, float *ap) {
  int pack = cols > 2 * NR && t->lda % 128 == 0;
  idx tile = 0, step;
  for (idx m = m0, mr; m < m1; m += mr) {
    mr = tile_rows(m1 - m);
    if (pack) pack_a_tile(t->a + m, t->lda, t->k, mr, ap);
    for (idx j = 0; j < cols; j += NR) {
      idx width = idx_min(NR, cols - j);
      const float *ahead = fetched(t, tile++, m1 - m0, cols, &step);
      tn_tiles[mr - 1][width > POCK_VW](pack ? ap : t->a + m, pack ? mr : t->lda,
                                        t->b + j / NR * t->panel_step, t->ldb, t->k,
                                        c + m * ldc + j, ldc, width, accumulate, ahead, step);
    }
  }
}

void pk_gemm_tn(const float *a, idx lda, const float *b, idx ldb, idx m0, idx m1, idx N, idx K,
                float *c, idx ldc, int accumulate, float *scratch) {
  static const float *const nothing[] = {NULL};
  pk_gemm_tn_then(a, lda, b, ldb, m0, m1, N, K, c, ldc, accumulate, scratch, nothing);
}

void pk_gemm_tn_then(const float *a, idx lda, const float *b, idx ldb, idx m0, idx m1, idx N, idx K,
                     float *c, idx ldc, int accumulate, float *scratch,
                     const float *const *later) {
  tn_later then = {later, m0 * N, (m1 - m0) * N, 0};
  float *ap = scratch, *bp = scratch + POCK_TN_KC * MR;
  int pack = m1 - m0 > 3 * MR || N % POCK_VW != 0; /* else B is read in place */
  /* Of many columns fewer rows: a tile of A is packed for more panels, and B takes no more room. */
  idx step = N > POCK_TN_NC / 2 ? POCK_TN_KC / 2 : POCK_TN_KC;
  for (idx n = 0; n < N; n += POCK_TN_NC) {
    idx cols = idx_min(POCK_TN_NC, N - n), k0 = 0;
    do {
      idx k = idx_min(step, K - k0), k1 = k0 + step;
      const float *from = b + k0 * ldb + n;
      tn_block t = {a + k0 * lda, from, lda, ldb, NR, k};
      if (then.size <= POCK_TN_LATER) t.later = &then;
      if (K - k1 >= step)
        t.next_a = a + k1 * lda + m0, t.next_b = b + k1 * ldb + n, t.next_ldb = ldb;
      if (pack) {
        pk_pack_b(from, ldb, 1, k, cols, bp, 0, ceil_div(cols, NR));
        t.b = bp, t.ldb = NR, t.panel_step = k * NR;
      }
      gemm_tn_block(&t, m0, m1, cols, c + n, ldc, accumulate || k0 > 0, ap);
      k0 = k1;
    } while (k0 < K);
  }
}

void pk_sum_parts(const float *parts, idx count, idx part, idx row_step, idx col_step, idx N,
                  float *c, idx row0, idx row1) {
  for (idx r = row0; r < row1; r++) {
    for (idx j = 0; j < N; j++) {
      const float *from = parts + r * row_step + j * col_step;
      float sum = from[0];
      for (idx p = 1; p < count; p++) sum += from[p * part];
      c[r * N + j] = sum;
    }
  }
}
