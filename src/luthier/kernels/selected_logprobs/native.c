/* Log-probabilities of rows of logits and their gradients: a row's largest logit, the sum of exponentials, then each
   logit turned into its gradient where it lies. A row of 50 k logits is 100 KB, which stays in a core's cache. */

#include "../rowwise.h"

#include <math.h>

#define BLOCK 1024 /* exponentials added up in float; the sums of blocks are added up in double */

typedef struct {
    void *logits;
    const int64_t *targets;
    float *out;
    int64_t size, apart;
    float cap;
    int gradient, bf16;
} Given;

/* tanh(u), by a series near 0, where the other form cancels. */
ALWAYS float tanh_of(float u) {
    const float square = u * u, size = __builtin_fabsf(u);
    const float small = exp_of_negative(-2.0f * size);
    const float near = u * (1.0f - square * (1.0f / 3.0f - square * (2.0f / 15.0f - square * (17.0f / 315.0f))));
    const float far = (1.0f - small) / (1.0f + small);
    return size < 0.125f ? near : u < 0.0f ? -far : far;
}

/* How far the logit s lies below the top one, exactly 0 for that itself; top is in units of the cap where there is one. */
ALWAYS float below(float s, float top, float cap, const int capped) {
    return capped ? cap * (tanh_of(s / cap) - top) : s - top;
}

ALWAYS void each_row(const Given *given, int64_t first, int64_t last, const int capped, const int bf16) {
    const int64_t size = given->size;
    const float cap = given->cap;
    for (int64_t row = first; row < last; row++) {
        void *logits = row_of(given->logits, row, given->apart, bf16);
        const int64_t target = given->targets[row];
        float top = get(logits, 0, bf16);
#pragma omp simd reduction(max : top)
        for (int64_t i = 1; i < size; i++) top = get(logits, i, bf16) > top ? get(logits, i, bf16) : top;
        const float chosen = get(logits, target, bf16);
        top = capped ? tanh_of(top / cap) : top;
        double total = 0.0;
        for (int64_t start = 0; start < size; start += BLOCK) {
            const int64_t end = start + BLOCK < size ? start + BLOCK : size;
            float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
            for (int64_t i = start; i < end; i++)
                sum += exp_of_negative(below(get(logits, i, bf16), top, cap, capped));
            total += sum;
        }
        given->out[row] = below(chosen, top, cap, capped) - logf((float)total);
        if (!given->gradient) continue;
        const float share = 1.0f / (float)total;
#pragma omp simd
        for (int64_t i = 0; i < size; i++) {
            const float s = get(logits, i, bf16);
            float p = exp_of_negative(below(s, top, cap, capped)) * share;
            p = i == target ? p - 1.0f : p;
            if (capped) { /* the cap's derivative, 1 − tanh²(s/cap), without the difference */
                const float small = exp_of_negative(-2.0f * __builtin_fabsf(s / cap));
                p *= 4.0f * small / ((1.0f + small) * (1.0f + small));
            }
            put(logits, i, p, bf16);
        }
    }
}

static void rows_of(const void *data, int64_t first, int64_t last) {
    const Given *given = data;
    if (given->cap > 0.0f)
        given->bf16 ? each_row(given, first, last, 1, 1) : each_row(given, first, last, 1, 0);
    else
        given->bf16 ? each_row(given, first, last, 0, 1) : each_row(given, first, last, 0, 0);
}

/* out (rows,) = log softmax(logits)[targets], for logits (rows, size) that lie `apart` numbers from row to row and are
   capped where cap is above 0; where `gradient`, they become softmax − onehot times the cap's derivative.
   Returns 0, or 1 with nothing done where a target is no column. */
int luthier_logprobs_rows(void *logits, const int64_t *targets, float *out, int64_t rows, int64_t size, int64_t apart,
                          float cap, int gradient, int bf16, int64_t threads) {
    for (int64_t row = 0; row < rows; row++)
        if (targets[row] < 0 || targets[row] >= size) return 1;
    const Given given = {logits, targets, out, size, apart, cap, gradient, bf16};
    luthier_over_rows(rows_of, &given, rows, threads);
    return 0;
}
