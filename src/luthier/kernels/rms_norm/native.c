/* RMSNorm with the residual sum in front of it: a row is read from memory once, forward and backward; formulas in op.py. */

#include "../rowwise.h"

typedef struct {
    const void *x, *delta, *dy, *dx, *weight;
    void *total, *out;
    float *rstd;
    int64_t size;
    float eps;
    int plus_one, bf16;
} Given;

ALWAYS float inverse_root(float x) { return 1.0f / __builtin_sqrtf(x); }

ALWAYS void forward_rows(const Given *given, int64_t first, int64_t last, const int bf16) {
    const int64_t size = given->size;
    const void *weight = given->weight;
    for (int64_t row = first; row < last; row++) {
        const void *x = row_of(given->x, row, size, bf16);
        void *out = row_of(given->out, row, size, bf16);
        float sum = 0.0f;
        if (given->delta) {
            const void *delta = row_of(given->delta, row, size, bf16);
            void *total = row_of(given->total, row, size, bf16);
#pragma omp simd reduction(+ : sum)
            for (int64_t i = 0; i < size; i++) {
                const float value = rounded(get(x, i, bf16) + get(delta, i, bf16), bf16);
                put(total, i, value, bf16);
                sum += value * value;
            }
            x = total;
        } else {
#pragma omp simd reduction(+ : sum)
            for (int64_t i = 0; i < size; i++) sum += get(x, i, bf16) * get(x, i, bf16);
        }
        const float scale = inverse_root(sum / (float)size + given->eps);
        given->rstd[row] = scale;
        if (given->plus_one) {
#pragma omp simd
            for (int64_t i = 0; i < size; i++) put(out, i, get(x, i, bf16) * scale * (1.0f + get(weight, i, bf16)), bf16);
        } else {
#pragma omp simd
            for (int64_t i = 0; i < size; i++)
                put(out, i, rounded(get(x, i, bf16) * scale, bf16) * get(weight, i, bf16), bf16);
        }
    }
}

ALWAYS void backward_rows(const Given *given, int64_t first, int64_t last, const int bf16) {
    const int64_t size = given->size;
    const void *weight = given->weight;
    const float more = given->plus_one ? 1.0f : 0.0f;
    for (int64_t row = first; row < last; row++) {
        const void *x = row_of(given->x, row, size, bf16), *dy = row_of(given->dy, row, size, bf16);
        void *out = row_of(given->out, row, size, bf16);
        float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
        for (int64_t i = 0; i < size; i++)
            dot += get(dy, i, bf16) * (get(weight, i, bf16) + more) * get(x, i, bf16);
        const float scale = given->rstd[row], along = dot / (float)size * scale * scale;
        if (given->dx) {
            const void *dx = row_of(given->dx, row, size, bf16);
#pragma omp simd
            for (int64_t i = 0; i < size; i++) {
                const float g = get(dy, i, bf16) * (get(weight, i, bf16) + more);
                put(out, i, scale * (g - get(x, i, bf16) * along) + get(dx, i, bf16), bf16);
            }
        } else {
#pragma omp simd
            for (int64_t i = 0; i < size; i++) {
                const float g = get(dy, i, bf16) * (get(weight, i, bf16) + more);
                put(out, i, scale * (g - get(x, i, bf16) * along), bf16);
            }
        }
    }
}

#define WORK(name)                                                                                                     \
    static void name(const void *data, int64_t first, int64_t last) {                                                  \
        const Given *given = data;                                                                                     \
        given->bf16 ? name##_rows(given, first, last, 1) : name##_rows(given, first, last, 0);                         \
    }
WORK(forward)
WORK(backward)

/* out (rows, size) = the normed sum of x and delta, which goes into total; without delta (NULL), of x. rstd (rows,). */
void luthier_rms_norm_forward(const void *x, const void *delta, const void *weight, void *total, void *out, float *rstd,
                              int64_t rows, int64_t size, float eps, int plus_one, int bf16, int64_t threads) {
    const Given given = {
        .x = x, .delta = delta, .weight = weight, .total = total, .out = out, .rstd = rstd, .size = size, .eps = eps,
        .plus_one = plus_one, .bf16 = bf16,
    };
    luthier_over_rows(forward, &given, rows, threads);
}

/* out (rows, size) = the gradient of x, with dx (NULL: none) added to it. */
void luthier_rms_norm_backward(const void *dy, const void *dx, const void *x, const void *weight, float *rstd, void *out,
                               int64_t rows, int64_t size, int plus_one, int bf16, int64_t threads) {
    const Given given = {
        .x = x, .dy = dy, .dx = dx, .weight = weight, .out = out, .rstd = rstd, .size = size, .plus_one = plus_one,
        .bf16 = bf16,
    };
    luthier_over_rows(backward, &given, rows, threads);
}
