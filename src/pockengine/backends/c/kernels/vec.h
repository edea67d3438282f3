/* vec.h - the one vector type every kernel is written in.
 *
 * POCK_VW is the number of floats in a vector: 16 for AVX-512, 8 for AVX2, 4 for NEON, SSE and
 * WASM. The compiler's vector extension turns `vf` arithmetic into the target's instructions.
 */
#ifndef POCK_VEC_H
#define POCK_VEC_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifndef POCK_VW
#define POCK_VW 4
#endif

#define PK_INLINE static inline __attribute__((always_inline))
#define PK_UNROLL _Pragma("clang loop unroll(full)")
/* Before a loop whose iterations are independent: arrays in it are the same or apart. */
#define PK_EACH _Pragma("clang loop vectorize(assume_safety)")

typedef ptrdiff_t idx;
typedef float vf __attribute__((vector_size(4 * POCK_VW)));
typedef int32_t vi __attribute__((vector_size(4 * POCK_VW)));
/* The same vector at any float's address. */
typedef float vf_unaligned __attribute__((vector_size(4 * POCK_VW), aligned(4), may_alias));

PK_INLINE vf vf_load(const float *p) { return *(const vf_unaligned *)p; }
PK_INLINE void vf_store(float *p, vf v) { *(vf_unaligned *)p = v; }
PK_INLINE vf vf_splat(float s) { return (vf){} + s; }

/* Lanes of a where mask is all ones, lanes of b elsewhere. */
PK_INLINE vf vf_select(vi mask, vf a, vf b) { return (vf)((mask & (vi)a) | (~mask & (vi)b)); }

/* All ones in lanes first, first + 1, ..., POCK_VW - 1. */
PK_INLINE vi vf_lanes_from(idx first) {
  vi mask;
  for (int lane = 0; lane < POCK_VW; lane++) mask[lane] = lane >= first ? -1 : 0;
  return mask;
}

/* Four lanes, to which wider vectors are folded by halves: lanes one after another would wait for
 * each other. */
typedef float v4f __attribute__((vector_size(16)));
typedef int32_t v4i __attribute__((vector_size(16)));

PK_INLINE float vf_sum(vf v) {
  v4f part[POCK_VW / 4];
  memcpy(part, &v, sizeof v);
  for (int half = POCK_VW / 8; half > 0; half /= 2) {
    for (int i = 0; i < half; i++) part[i] += part[i + half];
  }
  return (part[0][0] + part[0][2]) + (part[0][1] + part[0][3]);
}

PK_INLINE float float_max(float a, float b) { return a > b ? a : b; }

/* The largest lane; where one is NaN, any. */
PK_INLINE float vf_max(vf v) {
  v4f part[POCK_VW / 4];
  memcpy(part, &v, sizeof v);
  for (int half = POCK_VW / 8; half > 0; half /= 2) {
    for (int i = 0; i < half; i++) {
      v4i larger = part[i] > part[i + half];
      part[i] = (v4f)((larger & (v4i)part[i]) | (~larger & (v4i)part[i + half]));
    }
  }
  return float_max(float_max(part[0][0], part[0][2]), float_max(part[0][1], part[0][3]));
}

/* a0 b0 a1 b1 ... of the lower halves of a and b, and of the upper halves. */
#if POCK_VW == 16
#define VF_ZIP_LOW(a, b) \
  __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define VF_ZIP_HIGH(a, b) \
  __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#elif POCK_VW == 8
#define VF_ZIP_LOW(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define VF_ZIP_HIGH(a, b) __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#else
#define VF_ZIP_LOW(a, b) __builtin_shufflevector(a, b, 0, 4, 1, 5)
#define VF_ZIP_HIGH(a, b) __builtin_shufflevector(a, b, 2, 6, 3, 7)
#endif

/* rows[i][j] <-> rows[j][i]. Zipping row i with row i + VW / 2 shifts the bits of an element's place
 * (row, lane) round by one; after as many rounds as lanes have bits, row and lane have changed. */
PK_INLINE void vf_transpose(vf rows[POCK_VW]) {
  PK_UNROLL for (int round = 1; round < POCK_VW; round *= 2) {
    vf zipped[POCK_VW];
    PK_UNROLL for (int i = 0; i < POCK_VW / 2; i++) {
      zipped[2 * i] = VF_ZIP_LOW(rows[i], rows[i + POCK_VW / 2]);
      zipped[2 * i + 1] = VF_ZIP_HIGH(rows[i], rows[i + POCK_VW / 2]);
    }
    PK_UNROLL for (int i = 0; i < POCK_VW; i++) rows[i] = zipped[i];
  }
}

PK_INLINE idx idx_min(idx a, idx b) { return a < b ? a : b; }
PK_INLINE idx idx_max(idx a, idx b) { return a > b ? a : b; }

/* n <= 2 * size floats as two copies that overlap. */
#define COPY_PAIR(size)                                          \
  if (n >= size) {                                               \
    memcpy(to, from, size * sizeof(float));                      \
    memcpy(to + n - size, from + n - size, size * sizeof(float)); \
    return;                                                      \
  }

PK_INLINE void copy_floats(float *to, const float *from, idx n) {
  if (n > 16) {
    for (idx i = 0; i + POCK_VW <= n; i += POCK_VW) vf_store(to + i, vf_load(from + i));
    vf_store(to + n - POCK_VW, vf_load(from + n - POCK_VW));
    return;
  }
  COPY_PAIR(8)
  COPY_PAIR(4)
  COPY_PAIR(2)
  if (n > 0) *to = *from;
}

#endif
