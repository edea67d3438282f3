/* pock.h - the kernel library's interface, included by every generated unit.
 *
 * Conventions. All data is float32 and channels last: images are [n][h][w][c] (a one-dimensional
 * convolution has h = 1). A kernel is a serial function over a half-open range of rows, lines,
 * channels or columns; the caller splits ranges over threads. Kernels allocate nothing: `scratch`
 * belongs to the calling thread and holds the number of floats that sizes.py gives. Outputs are
 * written, never read, unless a parameter is named `accumulate`.
 */
#ifndef POCK_H
#define POCK_H

#include "bf16.h"
#include "pk_math.h"
#include "random.h"
#include "threads.h"
#include "vec.h"

/* ------------------------------------------------------------------ matrix products (gemm.c) */

/* bp[panel][K][NR] = b[k * stride_k + n * stride_n], zero where n >= N; panels panel0..panel1. One
 * of the strides is 1. */
void pk_pack_b(const float *b, idx stride_k, idx stride_n, idx K, idx N, float *bp, idx panel0,
               idx panel1);
/* The same for b[K][N] of which `from` has the transpose, packed; bp begins with panel0. */
void pk_pack_panels_t(const float *from, idx K, idx N, float *bp, idx panel0, idx panel1);
/* c[rows][N] = a[rows][K] @ b, or += when accumulate; bp is b packed by pk_pack_b. */
void pk_gemm(const float *a, idx lda, const float *bp, idx K, idx N, float *c, idx ldc, idx rows,
             int accumulate);
/* c[m0:m1][N] = a[K][m0:m1]^T @ b[K][N], or += when accumulate. */
void pk_gemm_tn(const float *a, idx lda, const float *b, idx ldb, idx m0, idx m1, idx N, idx K,
                float *c, idx ldc, int accumulate, float *scratch);
/* The same; rows m0:m1 of the arrays in `later`, [.][N] and a NULL behind them, are read next. */
void pk_gemm_tn_then(const float *a, idx lda, const float *b, idx ldb, idx m0, idx m1, idx N, idx K,
                     float *c, idx ldc, int accumulate, float *scratch,
                     const float *const *later);
/* c[row0:row1][N], element (r, n) being the sum over p < count of parts[p * part + r * row_step +
 * n * col_step]. */
void pk_sum_parts(const float *parts, idx count, idx part, idx row_step, idx col_step, idx N,
                  float *c, idx row0, idx row1);
/* c[M][n0:n1] = a[M][K] @ b[K][N], with b read in place, a's rows being lda apart; for few rows
 * (gemm_few.c). _t: b is [N][K]. */
void pk_gemm_few(const float *a, idx lda, const float *b, idx K, idx N, float *c, idx M, idx n0,
                 idx n1);
void pk_gemm_few_t(const float *a, idx lda, const float *b, idx K, idx N, float *c, idx M, idx n0,
                   idx n1);

/* ------------------------------------------------------------- products of bf16 (bf16.c) */

/* to[rows][cols] = x, whose rows are ldx apart, as floats. */
void pk_widen(const uint16_t *x, idx ldx, idx rows, idx cols, float *to);
/* pk_pack_b of a matrix in bf16, with any strides; the panels are floats. */
void pk_pack_b_bf16(const uint16_t *b, idx stride_k, idx stride_n, idx K, idx N, float *bp,
                    idx panel0, idx panel1);
/* c[rows][N] = a[rows][K] @ b, where bp holds the panels of b in bf16. */
void pk_gemm_half(const float *a, idx lda, const uint16_t *bp, idx K, idx N, float *c, idx ldc,
                  idx rows);
#ifdef POCK_BF16_DOTS
/* The same where a is bf16 too, by the machine's dot products. */
void pk_gemm_dots(const uint16_t *a, idx lda, const uint16_t *bp, idx K, idx N, float *c, idx ldc,
                  idx rows);
#endif
/* The panels of b[K][N] from those of its transpose, all in bf16. */
void pk_turn_panels_bf16(const uint16_t *from, idx K, idx N, uint16_t *bp, idx panel0, idx panel1);
/* A matrix of floats or of bf16, its rows ld elements apart. */
typedef struct {
  const void *data;
  idx ld;
  int bf16;
} pk_operand;
/* c[m0:m1][N] = a[K][m0:m1]^T @ b[K][N]. c points at row 0. */
void pk_gemm_tn_mixed(const pk_operand *a, const pk_operand *b, idx m0, idx m1, idx N, idx K,
                      float *c, idx ldc, float *scratch);

/* --------------------------------------------------------------------- convolution (conv.c) */

/* Input [n][h][w][c], output [n][oh][ow][o]; pads are those at the top and left, the others
 * follow from oh and ow. Weight [kh][kw][c / groups][o]. */
typedef struct {
  idx n, h, w, c, oh, ow, o, kh, kw, sh, sw, ph, pw, dh, dw, groups;
} pk_conv;

/* Packed weights hold one pk_pack_b matrix per group: for the product K = kh*kw*c/groups and
 * N = o/groups; transposed (for the input gradient) K = kh*kw*o/groups and N = c/groups.
 * The range counts panels over all groups, group by group. */
void pk_conv_pack(const pk_conv *g, const float *w, float *wp, idx panel0, idx panel1);
void pk_conv_pack_t(const pk_conv *g, const float *w, float *wp, idx panel0, idx panel1);
void pk_conv_pack_bf16(const pk_conv *g, const uint16_t *w, float *wp, idx panel0, idx panel1);
void pk_conv_pack_t_bf16(const pk_conv *g, const uint16_t *w, float *wp, idx panel0, idx panel1);
/* y[row0:row1][o]; a row is one output pixel of n * oh * ow. y points at row 0. */
void pk_conv_rows(const pk_conv *g, const float *x, const float *wp, float *y, idx ldy, idx row0,
                  idx row1, float *scratch);
/* dx[row0:row1][c]; a row is one input pixel of n * h * w. Under a stride, ranges of a few
 * hundred rows use the register tile best. dx points at row 0. */
void pk_conv_dx_rows(const pk_conv *g, const float *dy, const float *wp_t, float *dx, idx row0,
                     idx row1, float *scratch);
/* dw[row0:row1][o]; a row is one (kh, kw, channel of c / groups). dw points at row 0. */
void pk_conv_dw(const pk_conv *g, const float *x, const float *dy, float *dw, idx row0, idx row1,
                float *scratch);

/* For a few channels, groups = 1 and dw = 1. A line is an output line of n * oh; wp is packed by
 * pk_conv_pack. dw is summed over the lines line0..line1. */
void pk_conv_lines(const pk_conv *g, const float *x, const float *wp, float *y, idx line0,
                   idx line1, float *scratch);
void pk_conv_dw_lines(const pk_conv *g, const float *x, const float *dy, float *dw, idx line0,
                      idx line1, float *scratch);

/* ------------------------------------------------- fast 3x3 convolution (winograd.c) */

/* For stride, dilation and groups 1, by tiles of m x m pixels, m = 2 or 4. The gradient of the
 * input is the convolution of dy with its sides exchanged: x and y, c and o, pads 2 - ph and
 * 2 - pw, and the weight `turned`: read as w[3][3][o][c], backwards. */

/* u: (m + 2)^2 matrices [c][o] in panels, made of w[3][3][c][o]; panels panel0..panel1 of each. */
void pk_winograd_pack(const pk_conv *g, int m, int turned, const float *w, float *u, idx panel0,
                      idx panel1);
void pk_winograd_pack_bf16(const pk_conv *g, int m, int turned, const uint16_t *w, float *u,
                           idx panel0, idx panel1);
/* y[row0:row1][o]; rows are output pixels, of whole lines. y points at row 0. */
void pk_winograd_rows(const pk_conv *g, int m, const float *x, const float *u, float *y, idx row0,
                      idx row1, float *scratch);
/* All rows of y, o in panels panel0..panel1, without packed weights: for few tiles. */
void pk_winograd_panels(const pk_conv *g, int m, int turned, const float *x, const float *w,
                        float *y, idx panel0, idx panel1, float *scratch);
void pk_winograd_panels_bf16(const pk_conv *g, int m, int turned, const float *x,
                             const uint16_t *w, float *y, idx panel0, idx panel1, float *scratch);

/* Blocks of POCK_WINOGRAD_DW_C channels by POCK_WINOGRAD_DW_O outputs of dw[3][3][c][o], counted
 * along the outputs first. */
void pk_winograd_dw(const pk_conv *g, int m, const float *x, const float *dy, float *dw, idx block0,
                    idx block1, float *scratch);

/* ------------------------------------------------ depthwise convolution (depthwise.c) */

/* groups == c == o, weight [kh][kw][c]. A line is one image row: n * oh of y, n * h of dx. */
void pk_depthwise_lines(const pk_conv *g, const float *x, const float *w, float *y, idx line0,
                        idx line1);
void pk_depthwise_dx_lines(const pk_conv *g, const float *dy, const float *w, float *dx, idx line0,
                           idx line1);
/* dw[kh][kw][c0:c1], summed over the lines line0..line1 of dy. */
void pk_depthwise_dw(const pk_conv *g, const float *x, const float *dy, float *dw, idx line0,
                     idx line1, idx c0, idx c1);

/* ----------------------------------------------------------------- reductions (reduce.c) */

/* x[outer][reduce][inner] -> out[outer][inner], for outer0..outer1 and inner0..inner1: inner = 1
 * reduces rows, outer = 1 columns. NaN wins over every other maximum or minimum. */
void pk_reduce_sum(const float *x, idx reduce, idx inner, float *out, idx outer0, idx outer1,
                   idx inner0, idx inner1);
void pk_reduce_mean(const float *x, idx reduce, idx inner, float *out, idx outer0, idx outer1,
                    idx inner0, idx inner1);
void pk_reduce_max(const float *x, idx reduce, idx inner, float *out, idx outer0, idx outer1,
                   idx inner0, idx inner1);
void pk_reduce_min(const float *x, idx reduce, idx inner, float *out, idx outer0, idx outer1,
                   idx inner0, idx inner1);
/* For sums of columns that ride in a step: x[n] = 0; total[n] += x[n]; out[n] = the sum of `count`
 * vectors, `step` floats apart. */
void pk_clear(float *x, idx n);
void pk_accumulate(float *total, const float *x, idx n);
void pk_add_parts(const float *parts, idx count, idx step, idx n, float *out);
/* The position of the first maximum. */
void pk_argmax(const float *x, idx reduce, idx inner, int64_t *out, idx outer0, idx outer1,
               idx inner0, idx inner1);

/* ------------------------------------------------------- softmax and its loss (softmax.c) */

/* All are [rows][cols], for rows row0..row1; gradients take dy first. y may be x, dx may be dy. */
void pk_softmax(const float *x, idx cols, float *y, idx row0, idx row1);
void pk_softmax_grad(const float *dy, const float *y, idx cols, float *dx, idx row0, idx row1);
void pk_log_softmax(const float *x, idx cols, float *y, idx row0, idx row1);
void pk_log_softmax_grad(const float *dy, const float *y, idx cols, float *dx, idx row0, idx row1);

/* loss[row] = -sum of t[c] * w[c] * log softmax(x[row])[c], t = (1 - smoothing) * onehot(label) +
 * smoothing / classes; 0 where the label is ignore_index; NaN where it is no class. `weight` may be
 * NULL; without an ignored label pass INT64_MIN. */
void pk_cross_entropy(const float *x, const int64_t *labels, const float *weight, float smoothing,
                      int64_t ignore_index, idx classes, float *loss, idx row0, idx row1);
/* dx[row][classes] = g[row] * dloss[row]/dx. dx may be x. */
void pk_cross_entropy_grad(const float *g, const float *x, const int64_t *labels,
                           const float *weight, float smoothing, int64_t ignore_index, idx classes,
                           float *dx, idx row0, idx row1);

/* ----------------------------------------------------------------- normalisation (norm.c) */

/* Over the last axis: y = (x - mean) / sqrt(var + eps), or x / sqrt(mean(x^2) + eps). y may be x,
 * dx may be dy or x. */
void pk_normalize_rows(const float *x, idx cols, float eps, float *y, idx row0, idx row1);
void pk_normalize_rows_grad(const float *dy, const float *x, idx cols, float eps, float *dx,
                            idx row0, idx row1);
void pk_rms_normalize_rows(const float *x, idx cols, float eps, float *y, idx row0, idx row1);
void pk_rms_normalize_rows_grad(const float *dy, const float *x, idx cols, float eps, float *dx,
                                idx row0, idx row1);

/* Adds rows row0..row1 of x[rows][cols] to the moments of each column, which begin as zeros and
 * take moments_size floats (riding.py). `weight` weighs samples of `per_sample` rows each, or is
 * NULL. Moments of several parts, `step` floats apart, are merged into those of the first. */
void pk_add_moments(const float *x, const float *weight, idx per_sample, idx row0, idx row1,
                    idx cols, float *moments);
void pk_merge_moments(float *moments, idx count, idx step, idx cols);
/* The mean, and the variance: the sum of squares over the total weight, or that less one. */
void pk_moments_mean(const float *moments, idx cols, float *mean);
void pk_moments_variance(const float *moments, idx cols, int biased, float *variance);

/* ----------------------------------------------------------------------- pooling (pool.c) */

/* The geometry is that of a convolution with o = c; groups is not read. kh = 0 pools adaptively:
 * output i covers inputs floor(i * h / oh) .. ceil((i + 1) * h / oh). Lines are output lines
 * (n * oh), for the gradients input lines (n * h). */
void pk_max_pool_lines(const pk_conv *g, const float *x, float *y, idx line0, idx line1);
/* To the first maximum of each window. */
void pk_max_pool_grad_lines(const pk_conv *g, const float *dy, const float *x, const float *y,
                            float *dx, idx line0, idx line1);
/* count_padding: divide by the whole window, not by what lies inside. */
void pk_avg_pool_lines(const pk_conv *g, int count_padding, const float *x, float *y, idx line0,
                       idx line1);
void pk_avg_pool_grad_lines(const pk_conv *g, int count_padding, const float *dy, float *dx,
                            idx line0, idx line1);

/* Marks the entry points of a unit; everything else is hidden. */
#define POCK_EXPORT __attribute__((visibility("default")))

#endif
