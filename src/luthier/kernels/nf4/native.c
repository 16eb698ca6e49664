/* Products of a few rows with a weight in NF4, and unpacking it, on a CPU.

A block's sixteen values, scaled and rounded, are a table that fits in one or two registers: so a number costs a lookup
in it and one multiply-add for each row of x, and memory is read at 4 bits a number. There are three forms, of which the
compiler's target picks one: AVX-512, AVX2 with FMA, and plain C. Numbers are handled in chunks of 64.

Every sum is one row of W with one row of x, added up in an order that depends on nothing else: results are the same
bits however the rows of W are split among threads, and whatever else is in the batch.

Compiled with -ffp-contract=off: a fused multiply-add would round the scales otherwise than bitsandbytes does.
*/

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK 64
#define MOST 8 /* rows of x at a time: with them the sums stay in registers */

typedef struct {
    const uint8_t *codes; /* two numbers a byte, the first in the high half */
    const void *scales;   /* uint8 where nested is there, else float */
    const float *nested;  /* of 256 scales each; NULL without double quantisation */
    const float *values;  /* the 16 of NF4 */
    const float *dynamic; /* the 256 that scales are stored in */
    int64_t rows;
    int32_t shift;        /* a scale is for 2^shift chunks */
    float offset;         /* the mean that was taken off the scales */
} Part;

static inline float scale_of(const Part *part, int64_t chunk) {
    int64_t block = chunk >> part->shift;
    if (!part->nested) return ((const float *)part->scales)[block];
    float wide = part->dynamic[((const uint8_t *)part->scales)[block]] * part->nested[block >> 8];
    return wide + part->offset;
}

/* To the nearest bf16, of two equally near the even one; still held as a float. */
static inline float rounded(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
    memcpy(&value, &bits, 4);
    return value;
}

static inline uint16_t upper_half(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (uint16_t)(bits >> 16);
}

static inline float read_number(const void *numbers, int64_t at, int bf16) {
    if (!bf16) return ((const float *)numbers)[at];
    uint32_t bits = (uint32_t)((const uint16_t *)numbers)[at] << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline void write_number(void *numbers, int64_t at, float value, int bf16) {
    if (bf16)
        ((uint16_t *)numbers)[at] = upper_half(rounded(value));
    else
        ((float *)numbers)[at] = value;
}

/* Each form has LANES numbers a vector, and
   table_of: a block's values;  codes_at: LANES bytes, each in a lane;  high, low: the values of their halves. */

#if defined(__AVX512F__)

#include <immintrin.h>
#define LANES 16
typedef __m512 Vector;
typedef __m512 Table;
typedef __m512i Codes;

static inline Table table_of(const Part *part, int64_t chunk, int bf16) {
    __m512 table = _mm512_mul_ps(_mm512_loadu_ps(part->values), _mm512_set1_ps(scale_of(part, chunk)));
    if (!bf16) return table;
    __m512i bits = _mm512_castps_si512(table);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    bits = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    return _mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32((int)0xffff0000)));
}
static inline Codes codes_at(const uint8_t *codes) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)codes));
}
static inline Vector low(Table table, Codes codes) { return _mm512_permutexvar_ps(codes, table); }
static inline Vector high(Table table, Codes codes) { return low(table, _mm512_srli_epi32(codes, 4)); }
static inline Vector zero(void) { return _mm512_setzero_ps(); }
static inline Vector add_product(Vector sum, Vector a, const float *b) {
    return _mm512_fmadd_ps(a, _mm512_loadu_ps(b), sum);
}
static inline float total(Vector sum) { return _mm512_reduce_add_ps(sum); }

static inline void write_pairs(void *out, Vector first, Vector second, int bf16) {
    if (bf16) {
        __m512i pairs = _mm512_srli_epi32(_mm512_castps_si512(first), 16);
        _mm512_storeu_si512(out, _mm512_or_si512(pairs, _mm512_castps_si512(second)));
        return;
    }
    const __m512i front = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i back = _mm512_add_epi32(front, _mm512_set1_epi32(8));
    _mm512_storeu_ps(out, _mm512_permutex2var_ps(first, front, second));
    _mm512_storeu_ps((float *)out + 16, _mm512_permutex2var_ps(first, back, second));
}

#elif defined(__AVX2__) && defined(__FMA__)

#include <immintrin.h>
#define LANES 8
typedef __m256 Vector;
typedef struct {
    __m256 lower, upper;
} Table;
typedef __m256i Codes;

static inline __m256 half_table(const float *values, float scale, int bf16) {
    __m256 table = _mm256_mul_ps(_mm256_loadu_ps(values), _mm256_set1_ps(scale));
    if (!bf16) return table;
    __m256i bits = _mm256_castps_si256(table);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    bits = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    return _mm256_castsi256_ps(_mm256_and_si256(bits, _mm256_set1_epi32((int)0xffff0000)));
}
static inline Table table_of(const Part *part, int64_t chunk, int bf16) {
    float scale = scale_of(part, chunk);
    Table table = {half_table(part->values, scale, bf16), half_table(part->values + 8, scale, bf16)};
    return table;
}
static inline Codes codes_at(const uint8_t *codes) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)codes));
}
static inline Vector low(Table table, Codes codes) {
    __m256 lower = _mm256_permutevar8x32_ps(table.lower, codes), upper = _mm256_permutevar8x32_ps(table.upper, codes);
    return _mm256_blendv_ps(lower, upper, _mm256_castsi256_ps(_mm256_slli_epi32(codes, 28)));
}
static inline Vector high(Table table, Codes codes) { return low(table, _mm256_srli_epi32(codes, 4)); }
static inline Vector zero(void) { return _mm256_setzero_ps(); }
static inline Vector add_product(Vector sum, Vector a, const float *b) {
    return _mm256_fmadd_ps(a, _mm256_loadu_ps(b), sum);
}
static inline float total(Vector sum) {
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps(sum, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

static inline void write_pairs(void *out, Vector first, Vector second, int bf16) {
    if (bf16) {
        __m256i pairs = _mm256_srli_epi32(_mm256_castps_si256(first), 16);
        _mm256_storeu_si256(out, _mm256_or_si256(pairs, _mm256_castps_si256(second)));
        return;
    }
    __m256 front = _mm256_unpacklo_ps(first, second), back = _mm256_unpackhi_ps(first, second);
    _mm256_storeu_ps(out, _mm256_permute2f128_ps(front, back, 0x20));
    _mm256_storeu_ps((float *)out + 8, _mm256_permute2f128_ps(front, back, 0x31));
}

#else
#error "neither AVX-512 nor AVX2 with FMA: torch is as fast as plain C"
#endif

#define ALWAYS static inline __attribute__((always_inline))

/* `most` rows of W from `row` on, together so that their sums do not wait for each other, times `tokens` rows of x
   (tokens, columns), in which each 2 * LANES numbers have the even ones first. Both counts are constants to the compiler.
   Behind the last row it is computed anew. */
ALWAYS void multiply_rows(const Part *part, const float *x, int64_t columns, int64_t row, int64_t last, int bf16,
                          const int tokens, const int most, float *sums) {
    const int64_t chunks = columns / CHUNK;
    Vector sum[4][MOST];
    int64_t begins[4];
#pragma GCC unroll 4
    for (int r = 0; r < most; r++) {
        begins[r] = (row + r < last ? row + r : last - 1) * chunks;
#pragma GCC unroll 16
        for (int t = 0; t < tokens; t++) sum[r][t] = zero();
    }
    for (int64_t chunk = 0; chunk < chunks; chunk++) {
        const float *part_of_x = x + chunk * CHUNK;
#pragma GCC unroll 4
        for (int r = 0; r < most; r++) {
            const int64_t at = begins[r] + chunk;
            const Table table = table_of(part, at, bf16);
            const uint8_t *bytes = part->codes + at * (CHUNK / 2);
#pragma GCC unroll 4
            for (int i = 0; i < CHUNK / 2; i += LANES) {
                const Codes codes = codes_at(bytes + i);
                const Vector first = high(table, codes), second = low(table, codes);
#pragma GCC unroll 16
                for (int t = 0; t < tokens; t++) {
                    const float *b = part_of_x + t * columns + 2 * i;
                    sum[r][t] = add_product(sum[r][t], first, b);
                    sum[r][t] = add_product(sum[r][t], second, b + LANES);
                }
            }
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < most; r++)
#pragma GCC unroll 16
        for (int t = 0; t < tokens; t++) sums[r * tokens + t] = total(sum[r][t]);
}

typedef void Rows(const Part *, const float *, int64_t, int64_t, int64_t, int, float *);
#define ROWS(tokens, most)                                                                                             \
    static void rows_##tokens(const Part *part, const float *x, int64_t columns, int64_t row, int64_t last, int bf16,   \
                              float *sums) {                                                                           \
        if (bf16)                                                                                                      \
            multiply_rows(part, x, columns, row, last, 1, tokens, most, sums);                                         \
        else                                                                                                           \
            multiply_rows(part, x, columns, row, last, 0, tokens, most, sums);                                         \
    }
ROWS(1, 4)
ROWS(2, 4)
ROWS(4, 2)
ROWS(6, LANES / 8)
ROWS(8, LANES / 8)

static const struct {
    int tokens, most;
    Rows *rows;
} FORMS[] = {{1, 4, rows_1}, {2, 4, rows_2}, {4, 2, rows_4}, {6, LANES / 8, rows_6}, {8, LANES / 8, rows_8}};

/* How many numbers are handled at once. */
int luthier_nf4_lanes(void) { return LANES; }

/* Columns first … last-1 of y (tokens, outs) = x Wᵀ + bias, for x (tokens, columns) and W the parts on top of each
   other, their columns whole blocks of whole chunks. x, bias (NULL: none) and y are all bf16 or all float; sums are float.
   Returns 0, or 1 where there is no memory for a float copy of x. */
int luthier_nf4_multiply(const Part *parts, const void *x, const void *bias, void *y, int64_t tokens, int64_t columns,
                         int64_t outs, int64_t first, int64_t last, int bf16) {
    const int64_t padded = tokens + MOST; /* rows of zeros make up the constant numbers of rows above */
    float *wide = calloc((size_t)(padded * columns), sizeof(float));
    if (!wide) return 1;
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t c = 0; c < columns; c += 2 * LANES)
            for (int64_t i = 0; i < LANES; i++) {
                wide[t * columns + c + i] = read_number(x, t * columns + c + 2 * i, bf16);
                wide[t * columns + c + LANES + i] = read_number(x, t * columns + c + 2 * i + 1, bf16);
            }
    for (int64_t token = 0; token < tokens;) {
        const int64_t left = tokens - token < MOST ? tokens - token : MOST;
        int form = 0;
        while (FORMS[form].tokens < left) form++;
        int64_t above = 0;
        for (const Part *part = parts; above < outs; above += part->rows, part++) {
            const int64_t begin = first > above ? first - above : 0;
            const int64_t end = last - above < part->rows ? last - above : part->rows;
            for (int64_t row = begin; row < end; row += FORMS[form].most) {
                float sums[64];
                FORMS[form].rows(part, wide + token * columns, columns, row, end, bf16, sums);
                for (int64_t r = 0; r < FORMS[form].most && row + r < end; r++)
                    for (int64_t t = 0; t < left; t++) {
                        const int64_t out = above + row + r;
                        float sum = sums[r * FORMS[form].tokens + t];
                        if (bias) sum += read_number(bias, out, bf16);
                        write_number(y, (token + t) * outs + out, sum, bf16);
                    }
            }
        }
        token += left;
    }
    free(wide);
    return 0;
}

ALWAYS void unpack_numbers(const Part *part, int64_t begin, int64_t count, char *out, const int bf16) {
    const int64_t width = bf16 ? 2 : 4;
    for (int64_t done = 0; done < count; done += CHUNK) {
        const Table table = table_of(part, (begin + done) / CHUNK, bf16);
        const uint8_t *bytes = part->codes + (begin + done) / 2;
        if (count - done >= CHUNK) {
            for (int i = 0; i < CHUNK / 2; i += LANES) {
                const Codes codes = codes_at(bytes + i);
                write_pairs(out + (done + 2 * i) * width, high(table, codes), low(table, codes), bf16);
            }
            continue;
        }
        const float scale = scale_of(part, (begin + done) / CHUNK);
        for (int64_t i = 0; i < count - done; i++) {
            const int code = i % 2 ? bytes[i / 2] & 15 : bytes[i / 2] >> 4;
            write_number(out, done + i, part->values[code] * scale, bf16);
        }
    }
}

/* Lines first … last-1 of a tensor of so many numbers, a line being `columns` numbers (whole chunks, or all there are)
   and `apart` numbers behind the one before it in out, which is bf16 or float. */
void luthier_nf4_unpack(const Part *part, void *out, int64_t numbers, int64_t columns, int64_t apart, int64_t first,
                        int64_t last, int bf16) {
    for (int64_t line = first; line < last; line++) {
        const int64_t begin = line * columns;
        const int64_t count = numbers - begin < columns ? numbers - begin : columns;
        char *place = (char *)out + line * apart * (bf16 ? 2 : 4);
        if (bf16)
            unpack_numbers(part, begin, count, place, 1);
        else
            unpack_numbers(part, begin, count, place, 0);
    }
}
