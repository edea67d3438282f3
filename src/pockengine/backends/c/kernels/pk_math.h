/* pk_math.h - elementary functions without branches, so that a loop over them vectorises.
 *
 * Errors are a few units in the last place (pk_erf: 1e-7, absolute). Infinities and NaN behave as
 * in the C library. Included by the kernels and by every generated unit.
 */
#ifndef POCK_MATH_H
#define POCK_MATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define PK_MATH static inline __attribute__((always_inline))

PK_MATH int32_t pk_bits(float x) {
  int32_t i;
  memcpy(&i, &x, sizeof i);
  return i;
}

PK_MATH float pk_from_bits(int32_t i) {
  float x;
  memcpy(&x, &i, sizeof x);
  return x;
}

/* e^x = 2^n e^r with |r| <= ln(2) / 2; adding and subtracting 1.5 * 2^23 rounds to n. 2^n is
 * applied as two factors, so that results below the normal range are right. */
PK_MATH float pk_exp(float x) {
  float t = x < -104.0f ? -104.0f : x;
  t = t > 89.0f ? 89.0f : t;
  float shifted = t * 1.44269504f + 12582912.0f;
  int32_t n = pk_bits(shifted) - pk_bits(12582912.0f);
  float whole = shifted - 12582912.0f;
  float r = (t - whole * 0.693359375f) + whole * 2.12194440e-4f;
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r * r + r + 1.0f;
  int32_t half = n >> 1;
  return p * pk_from_bits((half + 127) << 23) * pk_from_bits((n - half + 127) << 23);
}

/* log x = e ln 2 + 2 artanh(s), s = (m - 1) / (m + 1), m in [sqrt(1/2), sqrt(2)). */
PK_MATH float pk_log(float x) {
  int subnormal = x < 1.17549435e-38f;
  int32_t i = pk_bits(subnormal ? x * 8388608.0f : x) - 0x3f3504f3;
  float e = (float)((i >> 23) - (subnormal ? 23 : 0));
  float f = pk_from_bits((i & 0x7fffff) + 0x3f3504f3) - 1.0f;
  float s = f / (2.0f + f), z = s * s;
  float p = z * (0.666666667f + z * (0.4f + z * (0.285714286f + z * 0.222222222f)));
  /* 2 artanh(s) = 2s + s p, and 2s = f - s f: this form keeps f exact. */
  float log_m = f - s * (f - p);
  float y = e * 0.693359375f + (log_m - e * 2.12194440e-4f);
  y = x > 3.40282347e38f ? x : y;
  y = x == 0.0f ? -INFINITY : y;
  return x < 0.0f || x != x ? NAN : y;
}

/* log(1 + x), right for small x: the rounding of 1 + x is corrected to first order. */
PK_MATH float pk_log1p(float x) {
  float u = 1.0f + x;
  float y = pk_log(u) - ((u - 1.0f) - x) / u;
  return x > 3.0e38f || u == 0.0f ? pk_log(u) : y;
}

/* Near 0 a continued fraction, elsewhere 1 - 2 / (e^2x + 1). */
PK_MATH float pk_tanh(float x) {
  float z = x * x;
  float near = x * (945.0f + z * (105.0f + z)) / (945.0f + z * (420.0f + z * 15.0f));
  float far = 1.0f - 2.0f / (pk_exp(2.0f * x) + 1.0f);
  return z < 0.36f ? near : far;
}

/* e^x - 1, right for small x. */
PK_MATH float pk_expm1(float x) {
  float t = pk_tanh(0.5f * x);
  return x * x < 0.25f ? 2.0f * t / (1.0f - t) : pk_exp(x) - 1.0f;
}

PK_MATH float pk_sigmoid(float x) { return 1.0f / (1.0f + pk_exp(-x)); }

/* 1 - e^(t p(t)) with t = |x|; p is fitted to log erfc(t) / t on 0 <= t <= 4.
 * At 4 erf is 1. */
PK_MATH float pk_erf(float x) {
  float t = fabsf(x);
  t = t > 4.0f ? 4.0f : t;
  float p = -3.1440188e-05f;
  p = p * t + 0.00030880241f;
  p = p * t - 0.0010324025f;
  p = p * t - 0.00053693197f;
  p = p * t + 0.019583959f;
  p = p * t - 0.10291962f;
  p = p * t - 0.63659775f;
  p = p * t - 1.1283803f;
  return copysignf(1.0f - pk_exp(t * p), x);
}

PK_MATH float pk_pow(float x, float y) { return powf(x, y); }
PK_MATH float pk_sin(float x) { return sinf(x); }
PK_MATH float pk_cos(float x) { return cosf(x); }

#endif
