/* The probabilities of attention: softmax of what a query sees of its scores, where they lie. What it does not see is
   neither read nor given to an exponential, which for a causal block is half of all. */

#include "../rowwise.h"

#define MOST 4096  /* keys, which as floats stay in a core's first cache */
#define VECTOR 32  /* a multiple of what the compiler works on at once: exponentials one at a time would cost the most */

typedef struct {
    void *scores;
    const int64_t *spans;
    int64_t lines, keys;
    float scale;
    int bf16;
} Given;

ALWAYS void each_row(const Given *given, int64_t first, int64_t last, const int bf16) {
    const int64_t width = bf16 ? 2 : 4;
    const float scale = given->scale;
    float wide[MOST] __attribute__((aligned(64)));
    for (int64_t row = first; row < last; row++) {
        const int64_t *span = given->spans + row % given->lines * 2, begin = span[0], size = span[1] - begin;
        char *whole = row_of(given->scores, row, given->keys, bf16);
        void *seen = row_of(whole, begin, 1, bf16);
        const int64_t all = (size + VECTOR - 1) & -VECTOR;
        for (int64_t i = size; i < all; i++) wide[i] = -__builtin_inff();
#pragma omp simd
        for (int64_t i = 0; i < size; i++) wide[i] = get(seen, i, bf16);
        float top = wide[0], total = 0.0f;
#pragma omp simd reduction(max : top)
        for (int64_t i = 0; i < all; i++) top = wide[i] > top ? wide[i] : top;
#pragma omp simd reduction(+ : total)
        for (int64_t i = 0; i < all; i++) total += wide[i] = exp_of_negative((wide[i] - top) * scale);
        const float share = 1.0f / total;
#pragma omp simd
        for (int64_t i = 0; i < size; i++) put(seen, i, wide[i] * share, bf16);
        memset(whole, 0, (size_t)(begin * width));
        memset(whole + span[1] * width, 0, (size_t)((given->keys - span[1]) * width));
    }
}

static void rows_of(const void *data, int64_t first, int64_t last) {
    const Given *given = data;
    given->bf16 ? each_row(given, first, last, 1) : each_row(given, first, last, 0);
}

/* scores (rows, keys) become softmax(scale·scores), scale above 0. Row r sees the keys from spans[r % lines][0] up to
   spans[r % lines][1], at least one; all others get 0. keys: at most MOST. */
void luthier_softmax_rows(void *scores, const int64_t *spans, int64_t rows, int64_t lines, int64_t keys, float scale,
                          int bf16, int64_t threads) {
    const Given given = {scores, spans, lines, keys, scale, bf16};
    luthier_over_rows(rows_of, &given, rows, threads);
}
