/* RoPE: a token's heads are read and written once; formulas in naive.py. */

#include "../rowwise.h"

#define MOST 1024 /* numbers of a head that is normed */

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

/* A norm of each head that turns, in front of the turn. */
typedef struct {
    const void *dout, *source, *q_norm, *k_norm;
    void *out;
    const float *cos, *sin;
    float *rstd;
    int64_t queries, turned, heads, size, half;
    float eps;
    int plus_one, bf16;
} Normed;

ALWAYS void copy_values(const Normed *given, const void *source, int64_t row, const int bf16) {
    const int64_t first = row * given->heads + given->turned;
    memcpy(row_of(given->out, first, given->size, bf16), row_of(source, first, given->size, bf16),
           (size_t)((given->heads - given->turned) * given->size) * (bf16 ? 2 : 4));
}

ALWAYS void norm_turn_rows(const Normed *given, int64_t first, int64_t last, const int bf16) {
    const int64_t size = given->size, half = given->half;
    float unit[MOST] __attribute__((aligned(64)));
    for (int64_t row = first; row < last; row++) {
        const float *cos = given->cos + row * half, *sin = given->sin + row * half;
        for (int64_t head = 0; head < given->turned; head++) {
            const void *x = row_of(given->source, row * given->heads + head, size, bf16);
            const void *weight = head < given->queries ? given->q_norm : given->k_norm;
            void *y = row_of(given->out, row * given->heads + head, size, bf16);
            float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
            for (int64_t i = 0; i < size; i++) sum += get(x, i, bf16) * get(x, i, bf16);
            const float scale = 1.0f / __builtin_sqrtf(sum / (float)size + given->eps);
            given->rstd[row * given->turned + head] = scale;
            if (given->plus_one) {
#pragma omp simd
                for (int64_t i = 0; i < size; i++)
                    unit[i] = rounded(get(x, i, bf16) * scale * (1.0f + get(weight, i, bf16)), bf16);
            } else {
#pragma omp simd
                for (int64_t i = 0; i < size; i++)
                    unit[i] = rounded(rounded(get(x, i, bf16) * scale, bf16) * get(weight, i, bf16), bf16);
            }
#pragma omp simd
            for (int64_t i = 0; i < half; i++) {
                put(y, i, unit[i] * cos[i] - unit[half + i] * sin[i], bf16);
                put(y, half + i, unit[half + i] * cos[i] + unit[i] * sin[i], bf16);
            }
            for (int64_t i = 2 * half; i < size; i++) put(y, i, unit[i], bf16);
        }
        copy_values(given, given->source, row, bf16);
    }
}

ALWAYS void norm_turn_back_rows(const Normed *given, int64_t first, int64_t last, const int bf16) {
    const int64_t size = given->size, half = given->half;
    const float more = given->plus_one ? 1.0f : 0.0f;
    float g[MOST] __attribute__((aligned(64)));
    for (int64_t row = first; row < last; row++) {
        const float *cos = given->cos + row * half, *sin = given->sin + row * half;
        for (int64_t head = 0; head < given->turned; head++) {
            const void *x = row_of(given->source, row * given->heads + head, size, bf16);
            const void *d = row_of(given->dout, row * given->heads + head, size, bf16);
            const void *weight = head < given->queries ? given->q_norm : given->k_norm;
            void *dx = row_of(given->out, row * given->heads + head, size, bf16);
            const float scale = given->rstd[row * given->turned + head];
#pragma omp simd
            for (int64_t i = 0; i < half; i++) {
                g[i] = get(d, i, bf16) * cos[i] + get(d, half + i, bf16) * sin[i];
                g[half + i] = get(d, half + i, bf16) * cos[i] - get(d, i, bf16) * sin[i];
            }
            for (int64_t i = 2 * half; i < size; i++) g[i] = get(d, i, bf16);
            float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
            for (int64_t i = 0; i < size; i++) {
                g[i] *= get(weight, i, bf16) + more;
                dot += g[i] * get(x, i, bf16);
            }
            const float along = dot / (float)size * scale * scale;
#pragma omp simd
            for (int64_t i = 0; i < size; i++) put(dx, i, scale * (g[i] - get(x, i, bf16) * along), bf16);
        }
        copy_values(given, given->dout, row, bf16);
    }
}

static void norm_turn(const void *data, int64_t first, int64_t last) {
    const Normed *given = data;
    if (given->dout)
        given->bf16 ? norm_turn_back_rows(given, first, last, 1) : norm_turn_back_rows(given, first, last, 0);
    else
        given->bf16 ? norm_turn_rows(given, first, last, 1) : norm_turn_rows(given, first, last, 0);
}

/* Heads 0 … turned−1 of source (tokens, heads·size) normed, by q_norm in the first `queries` of them, and turned, into
   out; the others are copied. 1/rms of each goes into rstd (tokens, turned). With dout it is the backward instead: out
   becomes the gradient of source, and rstd is read. size: at most MOST. */
void luthier_rope_norm_turn(const void *dout, const void *source, void *out, float *rstd, const float *cos,
                            const float *sin, const void *q_norm, const void *k_norm, int64_t tokens, int64_t queries,
                            int64_t turned, int64_t heads, int64_t size, int64_t half, float eps, int plus_one, int bf16,
                            int64_t threads) {
    const Normed given = {
        .dout = dout, .source = source, .q_norm = q_norm, .k_norm = k_norm, .out = out, .cos = cos, .sin = sin,
        .rstd = rstd, .queries = queries, .turned = turned, .heads = heads, .size = size, .half = half, .eps = eps,
        .plus_one = plus_one, .bf16 = bf16,
    };
    luthier_over_rows(norm_turn, &given, tokens, threads);
}
