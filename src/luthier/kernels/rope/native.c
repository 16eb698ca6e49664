/* RoPE: a token's heads are read and written once; formulas in naive.py. */

#include "../rowwise.h"

typedef struct {
    const void *source;
    void *target;
    const float *cos, *sin;
    int64_t turned, heads, size, half;
    float sign;
    int bf16;
} Given;

ALWAYS void turn_rows(const Given *given, int64_t first, int64_t last, const int bf16) {
    const int64_t size = given->size, half = given->half, heads = given->heads, turned = given->turned;
    const int copies = given->source != given->target;
    const float sign = given->sign;
    for (int64_t row = first; row < last; row++) {
        const float *cos = given->cos + row * half, *sin = given->sin + row * half;
        for (int64_t head = 0; head < turned; head++) {
            const void *x = row_of(given->source, row * heads + head, size, bf16);
            void *y = row_of(given->target, row * heads + head, size, bf16);
#pragma omp simd
            for (int64_t i = 0; i < half; i++) {
                const float x1 = get(x, i, bf16), x2 = get(x, half + i, bf16), c = cos[i], s = sign * sin[i];
                put(y, i, x1 * c - x2 * s, bf16);
                put(y, half + i, x2 * c + x1 * s, bf16);
            }
            if (copies && 2 * half < size)
                memcpy(row_of(y, 2 * half, 1, bf16), row_of(x, 2 * half, 1, bf16),
                       (size_t)(size - 2 * half) * (bf16 ? 2 : 4));
        }
        if (copies)
            memcpy(row_of(given->target, row * heads + turned, size, bf16),
                   row_of(given->source, row * heads + turned, size, bf16),
                   (size_t)((heads - turned) * size) * (bf16 ? 2 : 4));
    }
}

static void turn(const void *data, int64_t first, int64_t last) {
    const Given *given = data;
    given->bf16 ? turn_rows(given, first, last, 1) : turn_rows(given, first, last, 0);
}

/* The first `turned` heads of source (tokens, heads·size) into target, which may be source itself; the others are
   copied. cos, sin (tokens, half); by the negative angle where `back`. */
void luthier_rope_turn(const void *source, void *target, const float *cos, const float *sin, int64_t tokens,
                       int64_t turned, int64_t heads, int64_t size, int64_t half, int back, int bf16, int64_t threads) {
    const Given given = {source, target, cos, sin, turned, heads, size, half, back ? -1.0f : 1.0f, bf16};
    luthier_over_rows(turn, &given, tokens, threads);
}
