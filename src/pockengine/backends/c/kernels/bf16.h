/* bf16.h - bf16, the upper half of a float32: rounding to it, and reading it. */
#ifndef POCK_BF16_H
#define POCK_BF16_H

#include "vec.h"

/* To the nearest, to the even one of two; NaN stays NaN. */
PK_INLINE uint16_t pk_to_bf16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return (uint16_t)(x != x ? bits >> 16 | 0x40 : rounded);
}

PK_INLINE float pk_from_bf16(uint16_t half) {
  uint32_t bits = (uint32_t)half << 16;
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

#endif
