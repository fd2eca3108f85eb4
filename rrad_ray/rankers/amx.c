/* Attention and layer norm of an encoder over packed tokens (one pair after the other, without padding), for CPUs with
   AMX. amx.py compiles and calls them.

   Attention: the tokens of a (query, document) pair attend to that pair only. A task is one head of one pair. It lays
   keys and values out for the matrix unit (the AMX tiles) once. Then it takes 16 queries at a time: logits in float32,
   their powers in bfloat16, the product of powers and values in float32, and last the division by the powers' sum. */

#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ROWS 16   /* rows of a tile, a register of the matrix unit; a row has 64 bytes */
#define KEYS 32   /* keys that a tile of powers takes */
#define TILE 512  /* bfloat16 numbers in a tile; half as many of float32 */
#define ONE 0x3f80 /* 1.0 in bfloat16 */

typedef uint16_t bf16;

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} __attribute__((aligned(64))) TileShapes; /* the operand of ldtilecfg */

/* A thread's scratch memory, for pairs of up to `padded` tokens, a multiple of `KEYS`. */
typedef struct {
    bf16 *keys, *values; /* right factors: for each column, a tile's row holds two neighbours of the summed dimension */
    bf16 *queries;       /* the last queries, fewer than `ROWS`, with rows of zeros behind them */
    float *logits;       /* two tiles for each `KEYS` keys; the powers overwrite the first of them */
    bf16 *ones;          /* a right factor that sums all powers, and one that leaves out those behind the last key */
    float *sums;         /* up to 4 tiles of weighted values, and behind them the sums of the powers */
} Scratch;

/* Asks Linux to let this process use the matrix unit's registers. Returns 0 if that is granted. */
int rrad_start(void) { return (int)syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18); }

/* Rounds a pair's length up to a multiple of `KEYS`. */
static int64_t pad(int64_t length) { return (length + KEYS - 1) / KEYS * KEYS; }

/* Allocates a thread's scratch memory, to be freed by free(). Returns 0 if there is no memory. */
static Scratch *make_scratch(int64_t padded, int64_t wide) {
    int64_t bytes = 2 * (2 * padded * wide + ROWS * wide + 2 * TILE) + 4 * (ROWS * padded + 5 * TILE / 2);
    Scratch *scratch = aligned_alloc(64, 64 + bytes);
    if (!scratch) return 0;
    scratch->keys = (bf16 *)scratch + 32;
    scratch->values = scratch->keys + padded * wide;
    scratch->queries = scratch->values + padded * wide;
    scratch->ones = scratch->queries + ROWS * wide;
    scratch->logits = (float *)(scratch->ones + 2 * TILE);
    scratch->sums = scratch->logits + ROWS * padded;
    for (int i = 0; i < TILE; i++) scratch->ones[i] = ONE;
    return scratch;
}

/* Transposes 16 rows of 16 32-bit values. */
static void transpose(__m512i r[16]) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

/* Loads row `row` of `length` rows that are `stride` apart. Behind them it gives zeros, without reading: another pair
   stands there, or memory that is not ours. */
static inline __m512i row_or_zeros(const bf16 *rows, int64_t stride, int64_t row, int64_t length) {
    return row < length ? _mm512_loadu_si512(rows + row * stride) : _mm512_setzero_si512();
}

/* Computes 2^x with a relative error of up to 8e-5, a 25th of bfloat16's rounding. */
static inline __m512 power_of_two(__m512 x) {
    __m512 part = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    __m512 power = _mm512_set1_ps(0.078024459f);
    power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(0.226067247f));
    power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(0.695833509f));
    power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(0.999925220f));
    return _mm512_scalef_ps(power, x);
}

/* Lays a head's keys, values and ones out as right factors. A column is a key in `keys`, a dimension in the others. */
static void lay_out(Scratch *scratch, const bf16 *key, const bf16 *value, int64_t stride, int64_t length, int wide) {
    static const uint16_t low[32] __attribute__((aligned(64))) = {
        0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
        8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
    const __m512i lows = _mm512_load_si512(low), highs = _mm512_add_epi16(lows, _mm512_set1_epi16(16));
    for (int64_t at = 0; at < pad(length); at += ROWS)
        for (int dim = 0; dim < wide; dim += 32) {
            __m512i rows[ROWS];
            for (int i = 0; i < ROWS; i++) rows[i] = row_or_zeros(key + dim, stride, at + i, length);
            transpose(rows);
            bf16 *to = scratch->keys + at * wide + ROWS * dim;
            for (int i = 0; i < ROWS; i++) _mm512_store_si512(to + 32 * i, rows[i]);
        }
    for (int64_t at = 0; at < pad(length); at += 2)
        for (int dim = 0; dim < wide; dim += 32) {
            __m512i even = row_or_zeros(value + dim, stride, at, length);
            __m512i odd = row_or_zeros(value + dim, stride, at + 1, length);
            bf16 *to = scratch->values + at / KEYS * KEYS * wide + KEYS * dim + at % KEYS * 16;
            _mm512_store_si512(to, _mm512_permutex2var_epi16(even, lows, odd));
            _mm512_store_si512(to + TILE, _mm512_permutex2var_epi16(even, highs, odd));
        }
    for (int i = 0; i < TILE; i++) /* a row holds its even key and its odd key in turn */
        scratch->ones[TILE + i] = i / 32 * 2 + i % 2 < (length - 1) % KEYS + 1 ? ONE : 0;
}

/* Writes, for 16 queries, the sums of the values weighted by powers to `wide / 16` tiles of `sums`, and the sums of the
   powers to the fifth tile. `shifts` are subtracted from the logits times `to_base_2` before 2^x. */
static inline __attribute__((always_inline)) void weigh_values(Scratch *scratch, int64_t padded,
                                                               const float shifts[ROWS], float to_base_2,
                                                               const int wide) {
    const __m512 factor = _mm512_set1_ps(to_base_2);
    for (int64_t k = 0; k < padded; k += KEYS)
        for (int i = 0; i < ROWS; i++) {
            float *row = scratch->logits + ROWS * k + 16 * i;
            __m512 shift = _mm512_set1_ps(shifts[i]);
            __m512 low = power_of_two(_mm512_fmsub_ps(_mm512_load_ps(row), factor, shift));
            __m512 high = power_of_two(_mm512_fmsub_ps(_mm512_load_ps(row + 16 * ROWS), factor, shift));
            _mm512_store_si512(row, (__m512i)_mm512_cvtne2ps_pbh(high, low));
        }
    _tile_zero(0);
    _tile_zero(1);
    if (wide > 32) _tile_zero(2);
    if (wide > 32) _tile_zero(3);
    _tile_zero(5);
    _tile_loadd(7, scratch->ones, 64);
    for (int64_t k = 0; k < padded; k += KEYS) {
        const bf16 *right = scratch->values + k * wide;
        if (k + KEYS == padded) _tile_loadd(7, scratch->ones + TILE, 64);
        _tile_loadd(4, scratch->logits + ROWS * k, 64);
        _tile_dpbf16ps(5, 4, 7);
        _tile_loadd(6, right, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(6, right + TILE, 64);
        _tile_dpbf16ps(1, 4, 6);
        if (wide > 32) {
            _tile_loadd(6, right + 2 * TILE, 64);
            _tile_dpbf16ps(2, 4, 6);
            _tile_loadd(6, right + 3 * TILE, 64);
            _tile_dpbf16ps(3, 4, 6);
        }
    }
    _tile_stored(0, scratch->sums, 64);
    _tile_stored(1, scratch->sums + TILE / 2, 64);
    if (wide > 32) _tile_stored(2, scratch->sums + TILE, 64);
    if (wide > 32) _tile_stored(3, scratch->sums + 3 * TILE / 2, 64);
    _tile_stored(5, scratch->sums + 2 * TILE, 64);
}

/* Writes the logits of 16 queries that are `bytes` apart. */
static inline __attribute__((always_inline)) void multiply_keys(Scratch *scratch, const bf16 *queries, int64_t bytes,
                                                                int64_t padded, const int wide) {
    _tile_loadd(4, queries, bytes);
    if (wide > 32) _tile_loadd(5, queries + 32, bytes);
    for (int64_t k = 0; k < padded; k += KEYS) {
        const bf16 *first = scratch->keys + k * wide, *second = first + ROWS * wide;
        _tile_zero(0);
        _tile_zero(1);
        _tile_loadd(6, first, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, second, 64);
        _tile_dpbf16ps(1, 4, 7);
        if (wide > 32) {
            _tile_loadd(6, first + TILE, 64);
            _tile_dpbf16ps(0, 5, 6);
            _tile_loadd(7, second + TILE, 64);
            _tile_dpbf16ps(1, 5, 7);
        }
        _tile_stored(0, scratch->logits + ROWS * k, 64);
        _tile_stored(1, scratch->logits + ROWS * (k + ROWS), 64);
    }
}

/* Returns the greatest of `count` logits; `count` is a multiple of 64. */
static float greatest(const float *logits, int64_t count) {
    __m512 most[4];
    for (int j = 0; j < 4; j++) most[j] = _mm512_load_ps(logits + 16 * j);
    for (int64_t i = 64; i < count; i += 64)
        for (int j = 0; j < 4; j++) most[j] = _mm512_max_ps(most[j], _mm512_load_ps(logits + i + 16 * j));
    return _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(most[0], most[1]), _mm512_max_ps(most[2], most[3])));
}

/* Computes one head of one pair, for the first `num_queries` of its tokens. */
static inline __attribute__((always_inline)) void head(const bf16 *query, int64_t stride, int64_t length,
                                                       int64_t num_queries, bf16 *out, int64_t out_stride,
                                                       float to_base_2, Scratch *scratch, const int wide) {
    const int64_t padded = pad(length);
    for (int64_t at = 0; at < num_queries; at += ROWS) {
        const int64_t here = num_queries - at < ROWS ? num_queries - at : ROWS;
        const bf16 *queries = query + at * stride;
        int64_t bytes = 2 * stride;
        if (here < ROWS) {
            for (int i = 0; i < ROWS; i++)
                for (int dim = 0; dim < wide; dim += 32)
                    _mm512_store_si512(scratch->queries + i * wide + dim,
                                       row_or_zeros(queries + dim, stride, i, here));
            queries = scratch->queries, bytes = 2 * wide;
        }
        multiply_keys(scratch, queries, bytes, padded, wide);
        /* One shift serves 16 queries. The zeros behind the last key may raise it: any shift will do that leaves a
           sum well above 0. */
        float shifts[ROWS], shift = greatest(scratch->logits, ROWS * padded) * to_base_2;
        for (int i = 0; i < ROWS; i++) shifts[i] = shift;
        weigh_values(scratch, padded, shifts, to_base_2, wide);
        int lost = 0;
        for (int64_t i = 0; i < here; i++) lost |= scratch->sums[2 * TILE + 16 * i] < 1e-18f;
        if (lost) { /* a query's powers vanished: give each its own shift, the greatest of its real logits */
            multiply_keys(scratch, queries, bytes, padded, wide);
            for (int i = 0; i < ROWS; i++) {
                float *row = scratch->logits + 16 * i, own = row[0];
                for (int64_t k = 1; k < length; k++) {
                    float logit = row[k / 16 * 16 * ROWS + k % 16];
                    own = logit > own ? logit : own;
                }
                shifts[i] = own * to_base_2;
                for (int64_t k = length; k < padded; k++) row[k / 16 * 16 * ROWS + k % 16] = own;
            }
            weigh_values(scratch, padded, shifts, to_base_2, wide);
        }
        for (int64_t i = 0; i < here; i++) {
            __m512 sum = _mm512_load_ps(scratch->sums + 2 * TILE + 16 * i), share = _mm512_rcp14_ps(sum);
            share = _mm512_mul_ps(share, _mm512_fnmadd_ps(sum, share, _mm512_set1_ps(2)));
            for (int dim = 0; dim < wide; dim += 32) {
                const float *row = scratch->sums + 16 * dim + 16 * i;
                __m512 low = _mm512_mul_ps(_mm512_load_ps(row), share);
                __m512 high = _mm512_mul_ps(_mm512_load_ps(row + TILE / 2), share);
                _mm512_storeu_si512(out + (at + i) * out_stride + dim, (__m512i)_mm512_cvtne2ps_pbh(high, low));
            }
        }
    }
}

/* Computes the attention of packed pairs. qkv (T, 3 * heads * wide): queries, keys and values side by side, of heads
   with `wide` dimensions, 32 or 64. starts (pairs + 1): the first token of each pair, and the end of the last one. out:
   (T, heads * wide), or with `first_only`, for the first token of each pair, (pairs, heads * wide). Returns 0, or 1 if
   there is no memory. */
int rrad_attention(const bf16 *qkv, const int64_t *starts, int64_t pairs, int64_t heads, int64_t wide, float scale,
                   int first_only, bf16 *out, int threads) {
    const int64_t across = heads * wide, stride = 3 * across;
    const float to_base_2 = scale * 1.44269504f;
    int64_t longest = 0;
    for (int64_t i = 0; i < pairs; i++)
        longest = starts[i + 1] - starts[i] > longest ? starts[i + 1] - starts[i] : longest;
    int failed = 0;
#pragma omp parallel num_threads(threads)
    {
        /* oneDNN's kernels use the same registers and expect their own tile shapes back. */
        TileShapes before, ours = {.palette = 1};
        for (int i = 0; i < 8; i++) ours.rows[i] = ROWS, ours.row_bytes[i] = 64;
        Scratch *scratch = make_scratch(pad(longest), wide);
        if (scratch) {
            _tile_storeconfig(&before);
            _tile_loadconfig(&ours);
        } else {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic, 2)
        for (int64_t task = 0; task < pairs * heads; task++) {
            if (!scratch) continue;
            const int64_t pair = task / heads, at = task % heads * wide, start = starts[pair];
            const int64_t length = starts[pair + 1] - start, num_queries = first_only ? 1 : length;
            const bf16 *query = qkv + start * stride + at;
            bf16 *to = out + (first_only ? pair : start) * across + at;
            lay_out(scratch, query + across, query + 2 * across, stride, length, (int)wide);
            if (wide == 32)
                head(query, stride, length, num_queries, to, across, to_base_2, scratch, 32);
            else
                head(query, stride, length, num_queries, to, across, to_base_2, scratch, 64);
        }
        if (scratch) _tile_loadconfig(&before);
        free(scratch);
    }
    return failed;
}

/* Loads 16 bfloat16 numbers as float32. */
static inline __m512 widened(const bf16 *x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)x)), 16));
}

/* Computes the layer norm of x (rows, wide) with weight and bias (wide); `wide` is a multiple of 32. */
void rrad_layer_norm(const bf16 *x, const float *weight, const float *bias, float eps, int64_t rows, int64_t wide,
                     bf16 *out, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t row = 0; row < rows; row++) {
        const bf16 *from = x + row * wide;
        bf16 *to = out + row * wide;
        __m512 two[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
        for (int64_t i = 0; i < wide; i += 32)
            for (int j = 0; j < 2; j++) two[j] = _mm512_add_ps(two[j], widened(from + i + 16 * j));
        const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(_mm512_add_ps(two[0], two[1])) / wide);
        two[0] = two[1] = _mm512_setzero_ps();
        for (int64_t i = 0; i < wide; i += 32)
            for (int j = 0; j < 2; j++) {
                __m512 off = _mm512_sub_ps(widened(from + i + 16 * j), mean);
                two[j] = _mm512_fmadd_ps(off, off, two[j]);
            }
        const float variance = _mm512_reduce_add_ps(_mm512_add_ps(two[0], two[1])) / wide;
        const __m512 scale = _mm512_set1_ps(1 / __builtin_sqrtf(variance + eps));
        for (int64_t i = 0; i < wide; i += 32) {
            for (int j = 0; j < 2; j++) {
                __m512 off = _mm512_mul_ps(_mm512_sub_ps(widened(from + i + 16 * j), mean), scale);
                const int64_t at = i + 16 * j;
                two[j] = _mm512_fmadd_ps(off, _mm512_loadu_ps(weight + at), _mm512_loadu_ps(bias + at));
            }
            _mm512_storeu_si512(to + i, (__m512i)_mm512_cvtne2ps_pbh(two[1], two[0]));
        }
    }
}
