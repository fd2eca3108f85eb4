/* Attention, layer norm, GELU and quantization of an encoder over packed tokens (one pair after the other, without
   padding), computed in float32, for any CPU with AVX2 or AVX-512: the compiler makes vectors of the width that it is
   allowed. vectors.py compiles and calls them.

   A product of int8 numbers comes as it leaves oneDNN, in float32, without what its inputs were divided by. Each input
   row (a token) was q = (x - least) / step, so an output is step * product + least * sum + bias, where sum is that of
   the output's weights. `Range` holds a token's step and least number; `output` computes this while it reads. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif
#define ROWS 6           /* rows and columns of a block of a product: as many sums as there are registers for */
#define COLUMNS (2 * LANES)

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t Bits __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));
typedef float Anywhere __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint16_t HalvesAnywhere __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

typedef struct {
    float step, least;
} Range;

/* A linear layer's outputs, a row for each token: float32, bfloat16, or a product of int8 numbers with what turns it
   into the output. */
typedef struct {
    const void *values;
    int bfloat16;
    int64_t size;        /* of a row */
    const Range *ranges; /* of each token where this is a product of int8 numbers, or null */
    const float *sums, *bias;
} Outputs;

static inline Floats load(const float *from) { return *(const Anywhere *)from; }
static inline void store(float *to, Floats values) { *(Anywhere *)to = values; }
static inline Floats all(float value) { return value - (Floats){}; }
static inline Floats choose(Ints mask, Floats yes, Floats no) { return (Floats)((mask & (Ints)yes) | (~mask & (Ints)no)); }
static inline Floats larger(Floats a, Floats b) { return choose(a > b, a, b); }
static inline Floats smaller(Floats a, Floats b) { return choose(a < b, a, b); }

static inline float sum_of(Floats values) {
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += values[i];
    return sum;
}

static inline float largest_of(Floats values) {
    float most = values[0];
    for (int i = 1; i < LANES; i++) most = values[i] > most ? values[i] : most;
    return most;
}

static inline Floats load_bfloat16(const uint16_t *from) {
    return (Floats)(__builtin_convertvector((Halves) * (const HalvesAnywhere *)from, Bits) << 16);
}

/* Rounds to the nearest bfloat16, and to the even one of two. */
static inline void store_bfloat16(uint16_t *to, Floats values) {
    const Bits bits = (Bits)values;
    *(HalvesAnywhere *)to = __builtin_convertvector((bits + 0x7fff + (bits >> 16 & 1)) >> 16, Halves);
}

static inline Floats output(Outputs outputs, int64_t token, int64_t at) {
    const int64_t index = token * outputs.size + at;
    if (outputs.bfloat16) return load_bfloat16((const uint16_t *)outputs.values + index);
    const Floats values = load((const float *)outputs.values + index);
    if (!outputs.ranges) return values;
    const Range range = outputs.ranges[token];
    return values * range.step + (load(outputs.sums + at) * range.least + load(outputs.bias + at));
}

/* Computes 2^x for x <= 0, with a relative error of 2e-7; below -126 it gives about 1e-38. */
static inline Floats power_of_two(Floats x) {
    x = larger(x, all(-126.0f));
    const Floats rounder = all(12582912.0f); /* 1.5 * 2^23: what is added to it loses its fraction */
    Floats whole = x + rounder;
    Floats part = x - (whole - rounder);
    Floats power = all(0.00015403530393381609954f);
    power = power * part + 0.00133335581464284434235f;
    power = power * part + 0.00961812910762847716198f;
    power = power * part + 0.0555041086648215799532f;
    power = power * part + 0.240226506959100712333f;
    power = power * part + 0.693147180559945309417f;
    power = power * part + 1.0f;
    return (Floats)((Ints)power + ((Ints)whole << 23));
}

/* x times the normal distribution's function, with an error of up to 2e-7 * |x| (Abramowitz and Stegun, 7.1.26). */
static inline Floats gelu(Floats x) {
    const Floats size = larger(x, -x) * 0.70710678118654752440f;
    const Floats t = 1.0f / (1.0f + 0.3275911f * size);
    Floats tail = all(1.061405429f);
    tail = tail * t - 1.453152027f;
    tail = tail * t + 1.421413741f;
    tail = tail * t - 0.284496736f;
    tail = tail * t + 0.254829592f;
    tail = tail * t * power_of_two(size * size * -1.44269504088896340736f) * 0.5f;
    return x * choose(x > 0.0f, 1.0f - tail, tail);
}

/* Writes to `out` the product of ROWS rows of `left`, `inner` numbers each, with a block of COLUMNS of `right`. */
static inline void multiply_block(const float *left, int64_t left_stride, const float *right, int64_t right_stride,
                                  int64_t inner, float *out, int64_t out_stride) {
    Floats sums[ROWS][2] = {};
    for (int64_t k = 0; k < inner; k++) {
        const Floats first = load(right + k * right_stride), second = load(right + k * right_stride + LANES);
#pragma GCC unroll 8
        for (int i = 0; i < ROWS; i++) {
            const float factor = left[i * left_stride + k];
            sums[i][0] += factor * first;
            sums[i][1] += factor * second;
        }
    }
    for (int i = 0; i < ROWS; i++) {
        store(out + i * out_stride, sums[i][0]);
        store(out + i * out_stride + LANES, sums[i][1]);
    }
}

static int64_t up_to(int64_t count, int64_t multiple) { return (count + multiple - 1) / multiple * multiple; }

/* Turns a row of `padded` logits, of which `length` are real, into their softmax. */
static void softmax(float *row, int64_t length, int64_t padded, float to_base_2) {
    for (int64_t k = length; k < padded; k++) row[k] = -INFINITY;
    Floats most = load(row);
    for (int64_t k = LANES; k < padded; k += LANES) most = larger(most, load(row + k));
    const float shift = largest_of(most) * to_base_2;
    Floats sum = {};
    for (int64_t k = 0; k < padded; k += LANES) {
        const Floats power = power_of_two(load(row + k) * to_base_2 - shift);
        store(row + k, power);
        sum += power;
    }
    for (int64_t k = length; k < padded; k++) sum[0] -= row[k], row[k] = 0;
    const float factor = 1 / sum_of(sum);
    for (int64_t k = 0; k < padded; k += LANES) store(row + k, load(row + k) * factor);
}

/* A thread's scratch memory, for pairs of up to `padded` tokens. */
typedef struct {
    float *queries, *keys, *values, *logits, *sums;
} Scratch;

static Scratch make_scratch(int64_t padded, int64_t wide) {
    Scratch scratch = {aligned_alloc(64, up_to(4 * (2 * ROWS * wide + 2 * padded * wide + ROWS * padded), 64))};
    scratch.keys = scratch.queries + ROWS * wide;
    scratch.values = scratch.keys + padded * wide;
    scratch.logits = scratch.values + padded * wide;
    scratch.sums = scratch.logits + ROWS * padded;
    return scratch;
}

/* Copies rows of one head, `wide` numbers each, and rows of zeros behind them up to `padded`. */
static void copy_rows(Outputs qkv, int64_t token, int64_t at, int64_t wide, int64_t length, int64_t padded, float *to) {
    for (int64_t i = 0; i < length; i++)
        for (int64_t dim = 0; dim < wide; dim += LANES) store(to + i * wide + dim, output(qkv, token + i, at + dim));
    memset(to + length * wide, 0, 4 * (padded - length) * wide);
}

/* Writes `wide` numbers of a row of the result, from number `index` on. */
static inline void write_sums(const float *sums, int64_t wide, int bfloat16, void *out, int64_t index) {
    if (!bfloat16)
        memcpy((float *)out + index, sums, 4 * wide);
    else
        for (int64_t dim = 0; dim < wide; dim += LANES)
            store_bfloat16((uint16_t *)out + index + dim, load(sums + dim));
}

/* Computes one head of one pair, whose tokens begin at `token`, for the first `num_queries` of them. `at`: the head's
   first number in a row of `out`, of which the first one for this pair is `out_row`. */
static void attend(Outputs qkv, int64_t token, int64_t length, int64_t num_queries, int64_t at, int64_t wide,
                   float to_base_2, void *out, int64_t out_row, Scratch scratch) {
    const int64_t across = qkv.size / 3, padded = up_to(length, COLUMNS);
    copy_rows(qkv, token, across + at, wide, length, padded, scratch.values);
    for (int64_t i = 0; i < padded; i++)
        for (int64_t dim = 0; dim < wide; dim++) scratch.keys[dim * padded + i] = scratch.values[i * wide + dim];
    copy_rows(qkv, token, 2 * across + at, wide, length, length, scratch.values);
    for (int64_t first = 0; first < num_queries; first += ROWS) {
        const int64_t here = num_queries - first < ROWS ? num_queries - first : ROWS;
        copy_rows(qkv, token + first, at, wide, here, ROWS, scratch.queries);
        for (int64_t k = 0; k < padded; k += COLUMNS)
            multiply_block(scratch.queries, wide, scratch.keys + k, padded, wide, scratch.logits + k, padded);
        for (int64_t i = 0; i < here; i++) softmax(scratch.logits + i * padded, length, padded, to_base_2);
        for (int64_t dim = 0; dim < wide; dim += COLUMNS)
            multiply_block(scratch.logits, padded, scratch.values + dim, wide, length, scratch.sums + dim, wide);
        for (int64_t i = 0; i < here; i++)
            write_sums(scratch.sums + i * wide, wide, qkv.bfloat16, out, (out_row + first + i) * across + at);
    }
}

/* Attention of packed tokens. `qkv`: queries, keys and values of all heads side by side, a row for each token;
   `starts` (pairs + 1): the first token of each pair, and the end of the last. `out`: a row for each token, or for
   each pair where only first tokens ask, in bfloat16 where `qkv` is. Returns 1 if there is no memory. */
int rrad_attend(const void *qkv, const Range *ranges, const float *sums, const float *bias, int bfloat16,
                const int64_t *starts, int64_t pairs, int64_t heads, int64_t wide, int first_only, void *out,
                int threads) {
    const float to_base_2 = 1.44269504088896340736f / sqrtf((float)wide);
    const Outputs rows = {qkv, bfloat16, 3 * heads * wide, ranges, sums, bias};
    int64_t longest = 0;
    int lacking = 0;
    for (int64_t p = 0; p < pairs; p++)
        if (starts[p + 1] - starts[p] > longest) longest = starts[p + 1] - starts[p];
#pragma omp parallel num_threads(threads)
    {
        const Scratch scratch = make_scratch(up_to(longest, COLUMNS), wide);
        if (!scratch.queries) {
#pragma omp atomic write
            lacking = 1;
        }
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < pairs * heads; task++) {
            if (!scratch.queries) continue;
            const int64_t pair = task / heads, token = starts[pair], length = starts[pair + 1] - token;
            attend(rows, token, length, first_only ? 1 : length, task % heads * wide, wide, to_base_2, out,
                   first_only ? pair : token, scratch);
        }
        free(scratch.queries);
    }
    return lacking;
}

/* Lane i takes the number of lane i ^ stride. */
static inline Floats partners(Floats values, int stride) {
    Floats out;
    for (int i = 0; i < LANES; i++) out[i] = values[i ^ stride];
    return out;
}

/* One stage of `rotate` within a vector. */
static inline Floats crossed(Floats values, int stride) {
    Floats signs;
    for (int i = 0; i < LANES; i++) signs[i] = i & stride ? -1.0f : 1.0f;
    return values * signs + partners(values, stride);
}

/* Multiplies each block of a row by a Hadamard matrix (of 1 and -1, not normalized), in place. A block has as many
   numbers as the largest power of two that divides `size`. */
static void rotate(float *row, int64_t size) {
    const int64_t block = size & -size;
    for (int64_t i = 0; i < size; i += LANES) {
        Floats values = crossed(crossed(crossed(load(row + i), 1), 2), 4);
        store(row + i, LANES == 16 ? crossed(values, 8) : values);
    }
    for (int64_t stride = LANES; stride < block; stride *= 2)
        for (int64_t start = 0; start < size; start += 2 * stride)
            for (int64_t i = start; i < start + stride; i += LANES) {
                const Floats first = load(row + i), second = load(row + i + stride);
                store(row + i, first + second);
                store(row + i + stride, first - second);
            }
}

/* Writes a row as numbers from 0 to 255, and its range. */
static inline void quantize_row(const float *row, int64_t size, uint8_t *out, Range *range) {
    typedef uint8_t Bytes __attribute__((vector_size(LANES)));
    Floats least = load(row), most = least;
    for (int64_t i = LANES; i < size; i += LANES) {
        least = smaller(least, load(row + i));
        most = larger(most, load(row + i));
    }
    const float low = -largest_of(-least), high = largest_of(most);
    range->least = low;
    range->step = (high - low) / 255;
    const float factor = high > low ? 255 / (high - low) : 0;
    for (int64_t i = 0; i < size; i += LANES) {
        const Ints numbers = __builtin_convertvector((load(row + i) - low) * factor + 0.5f, Ints);
        const Bytes bytes = __builtin_convertvector(numbers, Bytes);
        memcpy(out + i, &bytes, LANES);
    }
}

/* Writes a row, times `factors`, rotated. */
static void rotate_to(const float *row, const float *factors, int64_t size, float *out) {
    for (int64_t i = 0; i < size; i += LANES) store(out + i, load(row + i) * load(factors + i));
    rotate(out, size);
}

/* Multiplies rows (tokens, size) by `factors` (size) and rotates them. */
void rrad_rotate(const float *rows, const float *factors, int64_t tokens, int64_t size, float *out, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t t = 0; t < tokens; t++) rotate_to(rows + t * size, factors, size, out + t * size);
}

/* Multiplies rows (tokens, size) by `factors` (size), rotates and quantizes them. */
void rrad_quantize(const float *rows, const float *factors, int64_t tokens, int64_t size, uint8_t *out, Range *ranges,
                   int threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t t = 0; t < tokens; t++) {
        float row[size];
        rotate_to(rows + t * size, factors, size, row);
        quantize_row(row, size, out + t * size, ranges + t);
    }
}

/* Puts an int8 product's rows (tokens, size) through GELU, multiplies them by `factors` (size), rotates and quantizes
   them. The product is overwritten. */
void rrad_gelu(float *rows, const Range *ranges, const float *sums, const float *bias, const float *factors,
               int64_t tokens, int64_t size, uint8_t *out, Range *out_ranges, int threads) {
    const Outputs outputs = {rows, 0, size, ranges, sums, bias};
#pragma omp parallel for num_threads(threads)
    for (int64_t t = 0; t < tokens; t++) {
        float *row = rows + t * size;
        for (int64_t i = 0; i < size; i += LANES) store(row + i, gelu(output(outputs, t, i)) * load(factors + i));
        rotate(row, size);
        quantize_row(row, size, out + t * size, out_ranges + t);
    }
}

/* Normalizes an int8 product's rows (tokens, size) with the residual added. */
void rrad_layer_norm(const float *rows, const Range *ranges, const float *sums, const float *bias,
                     const float *residual, const float *weight, const float *shift, float epsilon, int64_t tokens,
                     int64_t size, float *out, int threads) {
    const Outputs outputs = {rows, 0, size, ranges, sums, bias};
#pragma omp parallel for num_threads(threads)
    for (int64_t t = 0; t < tokens; t++) {
        float *to = out + t * size;
        Floats sum = {}, squares = {};
        for (int64_t i = 0; i < size; i += LANES) {
            const Floats values = output(outputs, t, i) + load(residual + t * size + i);
            store(to + i, values);
            sum += values;
        }
        const float mean = sum_of(sum) / size;
        for (int64_t i = 0; i < size; i += LANES) {
            const Floats off = load(to + i) - mean;
            squares += off * off;
        }
        const float factor = 1 / sqrtf(sum_of(squares) / size + epsilon);
        for (int64_t i = 0; i < size; i += LANES)
            store(to + i, (load(to + i) - mean) * factor * load(weight + i) + load(shift + i));
    }
}
