/* unit.h - what generated code needs besides the kernels: bits, checks and a clock.

   Of the entry points of a unit, pock_features, where there is one, comes first: for a few samples
   at a time its inputs are written, it is called, and its outputs are copied to the rows of these
   samples in the inputs of the others, which are written, too, once it is done with all of them.
   docs/artifact.md has the whole order. */
#ifndef POCK_UNIT_H
#define POCK_UNIT_H

#include "pock.h"

/* A unit is compiled whole, or in parts, side by side, each with its number as POCK_PART. */
#ifdef POCK_PART
#define POCK_IN(part) (POCK_PART == (part))
#else
#define POCK_IN(part) 1
#endif

/* The `count` <= 64 bits from bit `first`, a multiple of 8, of packed truth values. */
PK_INLINE uint64_t pk_load_bits(const unsigned char *bits, idx first, idx count) {
  uint64_t word = 0;
  const unsigned char *const from = bits + first / 8;
  if (count == 64) {
    memcpy(&word, from, 8);
  } else {
    for (idx i = 0; i < (count + 7) / 8; i++) word |= (uint64_t)from[i] << (8 * i);
  }
  return word;
}

/* Packs `count` <= 64 bytes of 0 or 1 to bits, from bit `first`, a multiple of 8. */
PK_INLINE void pk_store_bits(unsigned char *bits, idx first, unsigned char *values, idx count) {
  unsigned char *const to = bits + first / 8;
  for (idx i = count; i < (count + 7) / 8 * 8; i++) values[i] = 0;
  for (idx i = 0; i < (count + 7) / 8; i++) {
    uint64_t eight;
    memcpy(&eight, values + 8 * i, 8);
    /* The product moves bit 0 of byte b to bit 56 + b. */
    to[i] = (unsigned char)((eight * UINT64_C(0x0102040810204080)) >> 56);
  }
}

/* Whether every label is a class, or the one to ignore. */
PK_INLINE int pk_labels_in_range(const int64_t *labels, idx count, int64_t classes,
                                 int64_t ignored) {
  for (idx i = 0; i < count; i++) {
    if (labels[i] != ignored && (uint64_t)labels[i] >= (uint64_t)classes) return 0;
  }
  return 1;
}

/* Whether one of `count` bools is true. */
PK_INLINE int pk_any(const char *bools, idx count) {
  int found = 0;
  for (idx i = 0; i < count; i++) found |= bools[i];
  return found;
}

#ifdef POCK_TIMED
#include <time.h>

PK_INLINE double pk_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Adds the time since *clock to *total. */
PK_INLINE void pk_lap(double *clock, double *total) {
  double now = pk_seconds();
  *total += now - *clock;
  *clock = now;
}
#endif

#endif
