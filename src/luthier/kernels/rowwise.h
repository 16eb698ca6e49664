/* What the ops in C share: numbers in bf16 or float, an exponential, and rows split among torch's own threads. */

#ifndef LUTHIER_ROWWISE_H
#define LUTHIER_ROWWISE_H

#include <stdint.h>
#include <string.h>

#define ALWAYS static inline __attribute__((always_inline))

ALWAYS float from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

ALWAYS uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

/* To the nearest bf16, of two equally near the even one, in the upper half. A NaN stays one: it was made by arithmetic on
   numbers in bf16, so its lower half is 0, and what is added cannot carry. */
ALWAYS uint32_t near_bf16(float value) {
    const uint32_t bits = bits_of(value);
    return bits + 0x7fff + (bits >> 16 & 1);
}

/* `bf16` is a constant to the compiler in all of these, once what calls them is inlined. */
ALWAYS float get(const void *numbers, int64_t at, const int bf16) {
    if (bf16) return from_bits((uint32_t)((const uint16_t *)numbers)[at] << 16);
    return ((const float *)numbers)[at];
}

ALWAYS void put(void *numbers, int64_t at, float value, const int bf16) {
    if (bf16)
        ((uint16_t *)numbers)[at] = (uint16_t)(near_bf16(value) >> 16);
    else
        ((float *)numbers)[at] = value;
}

/* As it is once it was stored. */
ALWAYS float rounded(float value, const int bf16) {
    return bf16 ? from_bits(near_bf16(value) & 0xffff0000u) : value;
}

ALWAYS void *row_of(const void *numbers, int64_t row, int64_t size, const int bf16) {
    return (char *)numbers + row * size * (bf16 ? 2 : 4);
}

/* exp(x) for x of 0 and below, within 1 ulp of float; 0 below -87, where a float has no full precision left. NaN stays.

   exp(x) = 2^n · exp(r) with n the integer nearest to x/ln 2, so r is within ±ln 2 / 2. The polynomial is that of the
   Cephes library (Moshier 1989). Adding 1.5·2^23 leaves n in the lowest bits, from where a shift takes it into an
   exponent; ln 2 is taken off in two parts, of which the first times n is exact. */
ALWAYS float exp_of_negative(float x) {
    const float shifted = x * 1.44269504f + 12582912.0f;
    const float n = shifted - 12582912.0f;
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    const float result = (p * r * r + (r + 1.0f)) * from_bits((bits_of(shifted) << 23) + 0x3f800000u);
    return x < -87.0f ? 0.0f : result;
}

/* Calls `work` with all rows once, in ranges that torch's threads share: at most `threads` of them. A range may be empty. */
typedef void Work(const void *given, int64_t first, int64_t last);
void luthier_over_rows(Work *work, const void *given, int64_t rows, int64_t threads);

#endif
