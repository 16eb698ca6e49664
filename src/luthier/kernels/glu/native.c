/* Gated linear units: gate and up read once, forward and backward; formulas in op.py. */

#include "../rowwise.h"

typedef struct {
    const void *dh;
    void *gate_up, *h;
    int64_t size;
    int by_tanh, bf16;
} Given;

/* act(x), and act'(x) into *slope. With exp(-|x|) nothing overflows. */
ALWAYS float act(float x, float *slope, const int by_tanh) {
    const float square = x * x;
    const float of = by_tanh ? 1.5957691216f * x * (1.0f + 0.044715f * square) : x; /* 2·sqrt(2/pi) */
    const float small = exp_of_negative(-__builtin_fabsf(of));
    const float s = (of < 0.0f ? small : 1.0f) / (1.0f + small);
    if (by_tanh)
        *slope = s + x * s * (1.0f - s) * (1.5957691216f * (1.0f + 0.134145f * square));
    else
        *slope = s * (1.0f + x * (1.0f - s));
    return x * s;
}

ALWAYS void forward_rows(const Given *given, int64_t first, int64_t last, const int by_tanh, const int bf16) {
    const int64_t size = given->size;
    for (int64_t row = first; row < last; row++) {
        const void *gate = row_of(given->gate_up, 2 * row, size, bf16);
        const void *up = row_of(given->gate_up, 2 * row + 1, size, bf16);
        void *h = row_of(given->h, row, size, bf16);
#pragma omp simd
        for (int64_t i = 0; i < size; i++) {
            float slope;
            put(h, i, rounded(act(get(gate, i, bf16), &slope, by_tanh), bf16) * get(up, i, bf16), bf16);
        }
    }
}

ALWAYS void backward_rows(const Given *given, int64_t first, int64_t last, const int by_tanh, const int bf16) {
    const int64_t size = given->size;
    for (int64_t row = first; row < last; row++) {
        void *gate = row_of(given->gate_up, 2 * row, size, bf16), *up = row_of(given->gate_up, 2 * row + 1, size, bf16);
        const void *dh = row_of(given->dh, row, size, bf16);
#pragma omp simd
        for (int64_t i = 0; i < size; i++) {
            float slope;
            const float d = get(dh, i, bf16), value = act(get(gate, i, bf16), &slope, by_tanh);
            put(gate, i, d * get(up, i, bf16) * slope, bf16);
            put(up, i, d * value, bf16);
        }
    }
}

#define WORK(name)                                                                                                     \
    static void name(const void *data, int64_t first, int64_t last) {                                                  \
        const Given *given = data;                                                                                     \
        if (given->by_tanh)                                                                                               \
            given->bf16 ? name##_rows(given, first, last, 1, 1) : name##_rows(given, first, last, 1, 0);               \
        else                                                                                                           \
            given->bf16 ? name##_rows(given, first, last, 0, 1) : name##_rows(given, first, last, 0, 0);               \
    }
WORK(forward)
WORK(backward)

/* h (rows, size) = act(gate)·up for gate_up (rows, 2·size). */
void luthier_glu_forward(void *gate_up, void *h, int64_t rows, int64_t size, int by_tanh, int bf16, int64_t threads) {
    const Given given = {0, gate_up, h, size, by_tanh, bf16};
    luthier_over_rows(forward, &given, rows, threads);
}

/* gate_up (rows, 2·size) becomes its gradient, for dh (rows, size). */
void luthier_glu_backward(const void *dh, void *gate_up, int64_t rows, int64_t size, int by_tanh, int bf16,
                          int64_t threads) {
    const Given given = {dh, gate_up, 0, size, by_tanh, bf16};
    luthier_over_rows(backward, &given, rows, threads);
}
