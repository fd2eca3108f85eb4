/* What an encoder's layers do besides products, over tokens that stand one after the other without padding, for CPUs
   with AMX (kernels.py).

   Attention: each pair of a query and a document attends to itself alone. One task is one head of one pair: its keys
   and values are laid out for the matrix unit once, then 16 tokens at a time meet all keys: logits in float32, their
   powers in bfloat16, and these times the values in float32, divided by the sum of the powers last. */

#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ROWS 16   /* of a tile, the matrix unit's register, with 64 bytes each */
#define KEYS 32   /* that a tile of powers takes */
#define TILE 512  /* bfloat16 numbers of a tile; 256 of float32 */
#define ONE 0x3f80 /* in bfloat16 */

typedef uint16_t bf16;

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} __attribute__((aligned(64))) Shapes;

/* Where the memory of a thread is laid out, for pairs of up to `filled` tokens, a multiple of `KEYS`. */
typedef struct {
    bf16 *keys, *values; /* right factors: for each column, a tile's row has two neighbours of what is summed over */
    bf16 *queries;       /* the last ones, with zeros behind them */
    float *logits;       /* two tiles for `KEYS` keys; their powers take the first one's place */
    bf16 *ones;          /* a right factor that sums; and the same without what stands behind the last key */
    float *reads;        /* of up to 4 tiles, and the sums of the powers */
} Room;

/* Asks Linux for this process's right to use the matrix unit's registers. 0: granted. */
int rrad_start(void) { return (int)syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18); }

static int64_t fill(int64_t length) { return (length + KEYS - 1) / KEYS * KEYS; }

static Room *make_room(int64_t filled, int64_t wide) {
    int64_t room = 2 * (2 * filled * wide + ROWS * wide + 2 * TILE) + 4 * (ROWS * filled + 5 * TILE / 2);
    Room *made = aligned_alloc(64, 64 + room);
    if (!made) return 0;
    made->keys = (bf16 *)made + 32;
    made->values = made->keys + filled * wide;
    made->queries = made->values + filled * wide;
    made->ones = made->queries + ROWS * wide;
    made->logits = (float *)(made->ones + 2 * TILE);
    made->reads = made->logits + ROWS * filled;
    for (int i = 0; i < TILE; i++) made->ones[i] = ONE;
    return made;
}

/* 16 rows of 16 32-bit values, rows to columns. */
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

/* Row `row` of `length` that are `stride` apart; zeros behind them, where another pair stands, or no memory of ours. */
static inline __m512i row_or_zeros(const bf16 *rows, int64_t stride, int64_t row, int64_t length) {
    return row < length ? _mm512_loadu_si512(rows + row * stride) : _mm512_setzero_si512();
}

/* 2^x to 8e-5 of it, a 25th of what bfloat16 may round off. */
static inline __m512 power_of_two(__m512 x) {
    __m512 part = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    __m512 found = _mm512_set1_ps(0.078024459f);
    found = _mm512_fmadd_ps(found, part, _mm512_set1_ps(0.226067247f));
    found = _mm512_fmadd_ps(found, part, _mm512_set1_ps(0.695833509f));
    found = _mm512_fmadd_ps(found, part, _mm512_set1_ps(0.999925220f));
    return _mm512_scalef_ps(found, x);
}

/* Keys, values and ones of a head as right factors: keys' columns are keys, values' and ones' are dimensions. */
static void lay_out(Room *room, const bf16 *key, const bf16 *value, int64_t stride, int64_t length, int wide) {
    static const uint16_t low[32] __attribute__((aligned(64))) = {
        0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
        8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
    const __m512i lows = _mm512_load_si512(low), highs = _mm512_add_epi16(lows, _mm512_set1_epi16(16));
    for (int64_t at = 0; at < fill(length); at += ROWS)
        for (int dim = 0; dim < wide; dim += 32) {
            __m512i rows[ROWS];
            for (int i = 0; i < ROWS; i++) rows[i] = row_or_zeros(key + dim, stride, at + i, length);
            transpose(rows);
            bf16 *to = room->keys + at * wide + ROWS * dim;
            for (int i = 0; i < ROWS; i++) _mm512_store_si512(to + 32 * i, rows[i]);
        }
    for (int64_t at = 0; at < fill(length); at += 2)
        for (int dim = 0; dim < wide; dim += 32) {
            __m512i even = row_or_zeros(value + dim, stride, at, length);
            __m512i odd = row_or_zeros(value + dim, stride, at + 1, length);
            bf16 *to = room->values + at / KEYS * KEYS * wide + KEYS * dim + at % KEYS * 16;
            _mm512_store_si512(to, _mm512_permutex2var_epi16(even, lows, odd));
            _mm512_store_si512(to + TILE, _mm512_permutex2var_epi16(even, highs, odd));
        }
    for (int i = 0; i < TILE; i++) /* a row has its even key and its odd one in turn */
        room->ones[TILE + i] = i / 32 * 2 + i % 2 < (length - 1) % KEYS + 1 ? ONE : 0;
}

/* What 16 queries read, in `wide / 16` tiles of `reads`, and the sums of their powers in the fifth. */
static inline __attribute__((always_inline)) void read_values(Room *room, int64_t filled, const float shifts[ROWS],
                                                              float to_base_2, const int wide) {
    const __m512 factor = _mm512_set1_ps(to_base_2);
    for (int64_t k = 0; k < filled; k += KEYS)
        for (int i = 0; i < ROWS; i++) {
            float *row = room->logits + ROWS * k + 16 * i;
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
    _tile_loadd(7, room->ones, 64);
    for (int64_t k = 0; k < filled; k += KEYS) {
        const bf16 *right = room->values + k * wide;
        if (k + KEYS == filled) _tile_loadd(7, room->ones + TILE, 64);
        _tile_loadd(4, room->logits + ROWS * k, 64);
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
    _tile_stored(0, room->reads, 64);
    _tile_stored(1, room->reads + TILE / 2, 64);
    if (wide > 32) _tile_stored(2, room->reads + TILE, 64);
    if (wide > 32) _tile_stored(3, room->reads + 3 * TILE / 2, 64);
    _tile_stored(5, room->reads + 2 * TILE, 64);
}

/* Logits of 16 queries, each `bytes` behind the one before it. */
static inline __attribute__((always_inline)) void meet_keys(Room *room, const bf16 *queries, int64_t bytes,
                                                            int64_t filled, const int wide) {
    _tile_loadd(4, queries, bytes);
    if (wide > 32) _tile_loadd(5, queries + 32, bytes);
    for (int64_t k = 0; k < filled; k += KEYS) {
        const bf16 *first = room->keys + k * wide, *second = first + ROWS * wide;
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
        _tile_stored(0, room->logits + ROWS * k, 64);
        _tile_stored(1, room->logits + ROWS * (k + ROWS), 64);
    }
}

/* The greatest of `count` logits, a multiple of 64. */
static float greatest(const float *logits, int64_t count) {
    __m512 most[4];
    for (int j = 0; j < 4; j++) most[j] = _mm512_load_ps(logits + 16 * j);
    for (int64_t i = 64; i < count; i += 64)
        for (int j = 0; j < 4; j++) most[j] = _mm512_max_ps(most[j], _mm512_load_ps(logits + i + 16 * j));
    return _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(most[0], most[1]), _mm512_max_ps(most[2], most[3])));
}

/* One head of one pair. `asked`: how many of its first tokens read. */
static inline __attribute__((always_inline)) void head(const bf16 *query, int64_t stride, int64_t length,
                                                       int64_t asked, bf16 *out, int64_t out_stride, float to_base_2,
                                                       Room *room, const int wide) {
    const int64_t filled = fill(length);
    for (int64_t at = 0; at < asked; at += ROWS) {
        const int64_t here = asked - at < ROWS ? asked - at : ROWS;
        const bf16 *queries = query + at * stride;
        int64_t bytes = 2 * stride;
        if (here < ROWS) {
            for (int i = 0; i < ROWS; i++)
                for (int dim = 0; dim < wide; dim += 32)
                    _mm512_store_si512(room->queries + i * wide + dim, row_or_zeros(queries + dim, stride, i, here));
            queries = room->queries, bytes = 2 * wide;
        }
        meet_keys(room, queries, bytes, filled, wide);
        /* One shift for 16 queries, which the zeros behind the last key may raise: any will do that leaves a sum. */
        float shifts[ROWS], shift = greatest(room->logits, ROWS * filled) * to_base_2;
        for (int i = 0; i < ROWS; i++) shifts[i] = shift;
        read_values(room, filled, shifts, to_base_2, wide);
        int lost = 0;
        for (int64_t i = 0; i < here; i++) lost |= room->reads[2 * TILE + 16 * i] < 1e-18f;
        if (lost) { /* then each its own, the greatest of its real logits */
            meet_keys(room, queries, bytes, filled, wide);
            for (int i = 0; i < ROWS; i++) {
                float *row = room->logits + 16 * i, own = row[0];
                for (int64_t k = 1; k < length; k++) {
                    float logit = row[k / 16 * 16 * ROWS + k % 16];
                    own = logit > own ? logit : own;
                }
                shifts[i] = own * to_base_2;
                for (int64_t k = length; k < filled; k++) row[k / 16 * 16 * ROWS + k % 16] = own;
            }
            read_values(room, filled, shifts, to_base_2, wide);
        }
        for (int64_t i = 0; i < here; i++) {
            __m512 sum = _mm512_load_ps(room->reads + 2 * TILE + 16 * i), share = _mm512_rcp14_ps(sum);
            share = _mm512_mul_ps(share, _mm512_fnmadd_ps(sum, share, _mm512_set1_ps(2)));
            for (int dim = 0; dim < wide; dim += 32) {
                const float *row = room->reads + 16 * dim + 16 * i;
                __m512 low = _mm512_mul_ps(_mm512_load_ps(row), share);
                __m512 high = _mm512_mul_ps(_mm512_load_ps(row + TILE / 2), share);
                _mm512_storeu_si512(out + (at + i) * out_stride + dim, (__m512i)_mm512_cvtne2ps_pbh(high, low));
            }
        }
    }
}

/* What the tokens of `pairs` read. qkv (T, 3 * heads * wide): queries, keys and values side by side, each of heads that
   are `wide`, 32 or 64; starts (pairs + 1): where each pair's tokens begin. out: (T, heads * wide), or where only the
   first token of each pair reads, (pairs, heads * wide). Returns 0, or 1 if there is no memory. */
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
        /* oneDNN's kernels, which use the same registers, find them shaped as they left them. */
        Shapes before, ours = {.palette = 1};
        for (int i = 0; i < 8; i++) ours.rows[i] = ROWS, ours.row_bytes[i] = 64;
        Room *room = make_room(fill(longest), wide);
        if (room) {
            _tile_storeconfig(&before);
            _tile_loadconfig(&ours);
        } else {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic, 2)
        for (int64_t task = 0; task < pairs * heads; task++) {
            if (!room) continue;
            const int64_t pair = task / heads, at = task % heads * wide, start = starts[pair];
            const int64_t length = starts[pair + 1] - start, asked = first_only ? 1 : length;
            const bf16 *query = qkv + start * stride + at;
            bf16 *to = out + (first_only ? pair : start) * across + at;
            lay_out(room, query + across, query + 2 * across, stride, length, (int)wide);
            if (wide == 32)
                head(query, stride, length, asked, to, across, to_base_2, room, 32);
            else
                head(query, stride, length, asked, to, across, to_base_2, room, 64);
        }
        if (room) _tile_loadconfig(&before);
        free(room);
    }
    return failed;
}

static inline __m512 widened(const bf16 *x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)x)), 16));
}

/* Layer norm of rows (rows, wide), wide a multiple of 32, with weight and bias (wide). */
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
