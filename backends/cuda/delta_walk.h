/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The walk of the delta rule's kernels over tokens that are ready, for one size of states: SIZE is how many rows each of a column's threads has, in
 * registers, or 0: any, in shared memory. SIZED() makes names of it. Included by delta.h once for each size: a compiler that meets the size as an
 * argument has given up on registers before it sees the value.
 */

/* A thread's part of a column's state, and of k of the token whose write comes next. */
struct SIZED(cuda_delta_column) {
#if SIZE
    float s[SIZE], k[SIZE];
#endif
    float *held;                   /* in shared memory: each CUDA_DELTA_WALKERS apart */
    int rows;                      /* of it */
};

/* write: the token at `now` writes u; forward: it is put out, *out is this thread's chain; read: the state decays and is read by the token at
 * `next`, whose chain is returned. */
DEVICE float SIZED(cuda_delta_pass)(struct SIZED(cuda_delta_column) *x, const float *now, const float *next, int chains, float u, int clean, float *out,
                                    int write, int read, int forward)
{
    const float *a = next + chains, *q = now + 2 * chains;
    float sum = 0.0f, o = 0.0f;
#if SIZE
    UNROLL
    for (int i = 0; i < SIZE; i += 4) {
        struct quad of_k = { 0.0f, 0.0f, 0.0f, 0.0f }, of_a = of_k, of_q = of_k;
        if (read) {
            of_k = *(const struct quad *)(const void *)(next + i);
            of_a = *(const struct quad *)(const void *)(a + i);
        }
        if (forward)
            of_q = *(const struct quad *)(const void *)(q + i);
        const float key[4] = { of_k.a, of_k.b, of_k.c, of_k.d }, decay[4] = { of_a.a, of_a.b, of_a.c, of_a.d };
        const float query[4] = { of_q.a, of_q.b, of_q.c, of_q.d };
        UNROLL
        for (int n = 0; n < 4; n++) {
            float s = x->s[i + n];
            if (write)
                s = cuda_delta_clean(NUM_FMA(x->k[i + n], u, s), clean);
            if (forward)
                o = NUM_FMA(query[n], s, o);
            if (read) {
                s = decay[n] * s;
                sum = NUM_FMA(key[n], s, sum);
                x->k[i + n] = key[n];
            }
            x->s[i + n] = s;
        }
    }
#else
    float *held = x->held;
    ROLLED
    for (int i = 0; i < x->rows; i++, held += CUDA_DELTA_WALKERS) {
        float s = *held;
        if (write)
            s = cuda_delta_clean(NUM_FMA(now[i], u, s), clean);
        if (forward)
            o = NUM_FMA(q[i], s, o);
        if (read) {
            s = a[i] * s;
            sum = NUM_FMA(next[i], s, sum);
        }
        *held = s;
    }
#endif
    *out = o;
    return sum;
}

/* Over `many` tokens of a buffer, of which the first is number `row`. A column's four chains go to all of its threads: both sums of a token together,
 * and what is written next before the output. */
DEVICE void SIZED(cuda_delta_walk)(const struct cuda_delta *p, const struct cuda_delta_task *t, struct SIZED(cuda_delta_column) *x, float *buffer, int64_t row,
                                   int many, int first, int forward)
{
    const int c = THREAD / 4, chains = 4 * p->chain, there = first + c < t->columns && THREAD % 4 == 0, map = t->kind == CUDA_DELTA_MAP;
    const float *now = buffer + THREAD % 4 * p->chain, *values = cuda_delta_values(p, buffer) + c, *betas = cuda_delta_betas(p, buffer);
    const int64_t stride = t->out_stride;
    void *const to = t->out;
    int64_t at = row * stride + first + c;
    float out, read = SIZED(cuda_delta_pass)(x, now, now, chains, 0.0f, 0, &out, 0, 1, 0);
    read = read + SHUFFLE_XOR(read, 2);
    read = read + SHUFFLE_XOR(read, 1);
    float u = betas[0] * (values[0] - read);
    ROLLED
    for (int n = 0; n < many; n++, now += 3 * chains, at += stride) {
        const int more = n + 1 < many, later = more ? n + 1 : n, clean = !forward && map && (row + n) % CUDA_DELTA_CLEAN == CUDA_DELTA_CLEAN - 1;
        const float v = values[later * CUDA_DELTA_COLUMNS], beta = betas[later], *next = now + 3 * chains;
        if (!more)
            read = SIZED(cuda_delta_pass)(x, now, now, chains, u, clean, &out, 1, 0, forward);
        else if (clean)
            read = SIZED(cuda_delta_pass)(x, now, next, chains, u, 1, &out, 1, 1, forward);
        else
            read = SIZED(cuda_delta_pass)(x, now, next, chains, u, 0, &out, 1, 1, forward);
        read = read + SHUFFLE_XOR(read, 2);
        if (forward)
            out = out + SHUFFLE_XOR(out, 2);
        read = read + SHUFFLE_XOR(read, 1);
        if (forward)
            out = out + SHUFFLE_XOR(out, 1);
        u = beta * (v - read);
        if (forward && there)
            rondo__put_element(to, at, p->out_type, out * p->scale);
    }
}

/* 32 columns of a task, from `first` on. */
DEVICE void SIZED(cuda_delta_columns)(const struct cuda_delta *p, const struct cuda_delta_task *t, int first, float *shared)
{
    const int walks = THREAD < CUDA_DELTA_WALKERS, j = THREAD % 4, column = first + THREAD / 4, there = walks && column < t->columns;
    const int nothing = cuda_delta_nothing(p, t), ready = (int)cuda_delta_ready(p->chain, p->tokens);
    const int64_t rows = nothing ? 0 : t->rows;
    const float gain = t->a_log ? rondo__exp(*t->a_log) : 1.0f;
    struct SIZED(cuda_delta_column) x;
    x.held = shared + 2 * ready + THREAD;
    x.rows = walks ? (p->key_dim - j + 3) / 4 : 0;
#if SIZE
    if (walks) {
        UNROLL
        for (int i = 0; i < SIZE; i++)
            x.s[i] = cuda_delta_begin(t, 4 * i + j, column, there);
    }
#else
    for (int i = 0; i < x.rows; i++)
        x.held[i * CUDA_DELTA_WALKERS] = cuda_delta_begin(t, 4 * i + j, column, there);
#endif
    /* some tokens are made ready while those before them are walked over */
    ROLLED
    for (int64_t row = 0, turn = 0; row < rows + p->tokens; row += p->tokens, turn ^= 1) {
        const int64_t before = row - p->tokens;
        float *const buffer = shared + (walks ? turn ^ 1 : turn) * ready;
        if (!walks && row < rows)
            cuda_delta_prepare(p, t, row, first, gain, buffer);
        if (walks && row > 0) {
            const int many = (int)(rows - before < p->tokens ? rows - before : p->tokens);
            if (t->kind == CUDA_DELTA_FORWARD)
                SIZED(cuda_delta_walk)(p, t, &x, buffer, before, many, first, 1);
            else
                SIZED(cuda_delta_walk)(p, t, &x, buffer, before, many, first, 0);
        }
        BARRIER();
    }
    if (!there || !t->to)
        return;
#if SIZE
    UNROLL
    for (int i = 0; i < SIZE; i++)
        rondo__put_element(t->to, (4 * i + j) * t->to_stride + column, RONDO_F32, nothing ? 0.0f : x.s[i]);
#else
    for (int i = 0; i < x.rows; i++)
        rondo__put_element(t->to, (4 * i + j) * t->to_stride + column, RONDO_F32, nothing ? 0.0f : x.held[i * CUDA_DELTA_WALKERS]);
#endif
}

DEVICE void SIZED(cuda_delta_kernel)(const struct cuda_delta *p, float *shared)
{
    ROLLED
    for (int64_t number = BLOCK; number < p->count * p->slices; number += BLOCKS) {
        const struct cuda_delta_task *t = p->tasks + number / p->slices;
        const int first = (int)(number % p->slices) * CUDA_DELTA_COLUMNS;
        if (t->kind == CUDA_DELTA_BOUND) {
            if (first == 0)
                cuda_delta_bound(p, t, (double *)(void *)(shared + 2 * cuda_delta_ready(p->chain, p->tokens)), CUDA_DELTA_THREADS);
        } else if (first < t->columns) {
            SIZED(cuda_delta_columns)(p, t, first, shared);
        }
    }
}

#undef SIZE
#undef SIZED
