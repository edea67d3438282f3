/* random.h - counter-based random numbers: Threefry-2x32 with 20 rounds (Salmon, Moraes, Dror and
 * Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
 *
 * The number at (seed, index, step) depends on nothing else, so that any thread can draw any
 * element, and a backward pass can draw the forward pass's numbers again.
 */
#ifndef POCK_RANDOM_H
#define POCK_RANDOM_H

#include <stdint.h>

static inline uint32_t pk_rotate(uint32_t x, int by) { return (x << by) | (x >> (32 - by)); }

/* First word of threefry2x32-20(key = (low, high half of seed), counter = (index, step)). */
static inline uint32_t pk_random_u32(uint64_t seed, uint32_t index, uint32_t step) {
  static const int rotations[8] = {13, 15, 26, 6, 17, 29, 16, 24};
  uint32_t key[3] = {(uint32_t)seed, (uint32_t)(seed >> 32), 0};
  key[2] = 0x1bd11bdau ^ key[0] ^ key[1];
  uint32_t x0 = index + key[0], x1 = step + key[1];
#pragma clang loop unroll(full)
  for (int round = 0; round < 20; round++) {
    x0 += x1;
    x1 = pk_rotate(x1, rotations[round % 8]) ^ x0;
    if (round % 4 == 3) {
      int group = round / 4 + 1;
      x0 += key[group % 3];
      x1 += key[(group + 1) % 3] + (uint32_t)group;
    }
  }
  return x0;
}

/* In [0, 1), a multiple of 2^-24. */
static inline float pk_random_uniform(uint64_t seed, uint32_t index, uint32_t step) {
  return (float)(pk_random_u32(seed, index, step) >> 8) * 0x1p-24f;
}

#endif
