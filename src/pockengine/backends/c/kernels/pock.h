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

#include "pk_math.h"
#include "random.h"
#include "threads.h"
#include "vec.h"

/* ------------------------------------------------------------------ matrix products (gemm.c) */

/* bp[panel][K][NR] = b[k * stride_k + n * stride_n], zero where n >= N; panels panel0..panel1. */
void pk_pack_b(const float *b, idx stride_k, idx stride_n, idx K, idx N, float *bp, idx panel0,
               idx panel1);
/* c[rows][N] = a[rows][K] @ b, or += when accumulate; bp is b packed by pk_pack_b. */
void pk_gemm(const float *a, idx lda, const float *bp, idx K, idx N, float *c, idx ldc, idx rows,
             int accumulate);
/* c[m0:m1][N] = a[K][m0:m1]^T @ b[K][N], or += when accumulate. */
void pk_gemm_tn(const float *a, idx lda, const float *b, idx ldb, idx m0, idx m1, idx N, idx K,
                float *c, idx ldc, int accumulate, float *scratch);

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

/* ------------------------------------------------ depthwise convolution (depthwise.c) */

/* groups == c == o, weight [kh][kw][c]. A line is one image row: n * oh of y, n * h of dx. */
void pk_depthwise_lines(const pk_conv *g, const float *x, const float *w, float *y, idx line0,
                        idx line1);
void pk_depthwise_dx_lines(const pk_conv *g, const float *dy, const float *w, float *dx, idx line0,
                           idx line1);
/* dw[kh][kw][c0:c1]. */
void pk_depthwise_dw(const pk_conv *g, const float *x, const float *dy, float *dw, idx c0, idx c1);


/* Marks the entry points of a unit; everything else is hidden. */
#define POCK_EXPORT __attribute__((visibility("default")))

#endif
