/* Rows split among torch's own threads.

torch hands its OpenMP runtime in as addresses. A library that was linked to one would bring a second pool of threads,
which spins beside torch's and takes its cores. */

#include "rowwise.h"

typedef void Parallel(void (*)(void *), void *, unsigned, unsigned); /* GOMP_parallel, which LLVM's OpenMP has too */
typedef int Number(void);                                            /* omp_get_thread_num, omp_get_num_threads */

static Parallel *parallel;
static Number *thread_number, *number_of_threads;

void luthier_set_threads(Parallel *run, Number *number, Number *all) {
    parallel = run;
    thread_number = number;
    number_of_threads = all;
}

typedef struct {
    Work *work;
    const void *given;
    int64_t rows;
} Split;

static void own_part(void *data) {
    const Split *split = data;
    const int64_t number = thread_number(), all = number_of_threads(); /* may be fewer than were asked for */
    split->work(split->given, split->rows * number / all, split->rows * (number + 1) / all);
}

void luthier_over_rows(Work *work, const void *given, int64_t rows, int64_t threads) {
    if (threads < 2) {
        work(given, 0, rows);
        return;
    }
    Split split = {work, given, rows};
    parallel(own_part, &split, (unsigned)threads, 0);
}
