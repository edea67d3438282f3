/* bf16.c - products whose operands are stored in bf16.
 *
 * Operands are widened to floats, block by block into scratch, and multiplied as floats are. That
 * is exact; a block serves so many multiplications that the widening hardly counts.
 */
#include "pock.h"

#define WIDE_ROWS 16 /* rows of a strided panel widened at once */

void pk_widen(const uint16_t *x, idx ldx, idx rows, idx cols, float *to) {
  for (idx r = 0; r < rows; r++, x += ldx, to += cols) {
    PK_EACH for (idx j = 0; j < cols; j++) to[j] = pk_from_bf16(x[j]);
  }
}

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

void pk_conv_pack_bf16(const pk_conv *g, const uint16_t *w, int transposed, float *wp, idx panel0,
                       idx panel1) {
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
