/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo_attention_io.progress: called while an execution, or its backward pass, runs and not only at its end, never falling, 1 at last, from the rank's own
 * thread; it changes no bit, and it can stop the call, whereupon no other rank waits.
 */
#include <pthread.h>
#include <stdlib.h>

#include "rondo.h"
#include "tap.h"

#define RANKS_MOST 4

struct job {
    int algorithm, threads, listen, back;
    int64_t tokens;
    double stop_at;                /* rank 0 stops there; 0: nobody */
    struct seen {
        int64_t calls;
        double last;
        int wrong;                 /* fell, left [0, 1], or came on another thread */
        pthread_t thread;
    } seen[RANKS_MOST];
    uint64_t hash[RANKS_MOST];
    int code[RANKS_MOST];
};

struct listener {
    struct seen *seen;
    double stop;
};

static int on_progress(void *user, double done)
{
    struct listener *l = user;
    l->seen->wrong += done < l->seen->last || done < 0.0 || done > 1.0 || !pthread_equal(l->seen->thread, pthread_self());
    l->seen->last = done;
    l->seen->calls++;
    return l->stop > 0.0 && done >= l->stop;
}

static void fill(float *x, int64_t count, uint32_t seed)
{
    for (int64_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = (float)(seed >> 8) * 0x1p-24f - 0.5f;
    }
}

static int body(rondo_context *ctx, void *arg)
{
    struct job *j = arg;
    const int rank = rondo_context_rank(ctx);
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
    rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
    rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
    rondo_attention *plan = NULL;
    struct listener l = { &j->seen[rank], rank == 0 ? j->stop_at : 0.0 };
    d.heads = 4, d.kv_heads = 2, d.head_dim = 32, d.tokens = j->tokens, d.causal = 1, d.algorithm = j->algorithm, d.gradients = j->back;
    int err = rondo_attention_create(&plan, ctx, &d);
    if (!err)
        err = rondo_attention_query(plan, &info);
    if (err)
        return err;
    const int64_t n = info.q_rows, q_shape[3] = { n, 4, 32 }, k_shape[3] = { n, 2, 32 };
    float *x = malloc((size_t)(n * 32 * 20 + n * 4) * sizeof *x + 64);
    if (!x)
        return RONDO_ENOMEM;
    fill(x, n * 32 * 8, 7u + (uint32_t)rank);
    io.q = rondo_tensor_dense(x, RONDO_F32, 3, q_shape);
    io.k = rondo_tensor_dense(x + n * 32 * 4, RONDO_F32, 3, k_shape);
    io.v = rondo_tensor_dense(x + n * 32 * 6, RONDO_F32, 3, k_shape);
    io.out = rondo_tensor_dense(x + n * 32 * 8, RONDO_F32, 3, q_shape);
    io.progress = j->listen ? on_progress : NULL;
    io.user = &l;
    l.seen->thread = pthread_self();
    if (j->back) {   /* first forward, which nobody hears of */
        const int64_t lse_shape[2] = { n, 4 };
        rondo_attention_gradients g = RONDO_ATTENTION_GRADIENTS_INIT;
        io.lse = rondo_tensor_dense(x + n * 32 * 20, RONDO_F32, 2, lse_shape);
        io.progress = NULL;
        err = rondo_attention_execute(plan, &io, NULL);
        io.progress = j->listen ? on_progress : NULL;
        g.dout = io.out;
        g.dq = rondo_tensor_dense(x + n * 32 * 12, RONDO_F32, 3, q_shape);
        g.dk = rondo_tensor_dense(x + n * 32 * 16, RONDO_F32, 3, k_shape);
        g.dv = rondo_tensor_dense(x + n * 32 * 18, RONDO_F32, 3, k_shape);
        if (!err)
            err = j->code[rank] = rondo_attention_backward(plan, &io, &g, NULL);
        if (!err)
            rondo_hash_add(&j->hash[rank], x + n * 32 * 12, sizeof *x, 0, n * 32 * 8);
    } else {
        err = j->code[rank] = rondo_attention_execute(plan, &io, NULL);
    }
    if (!err)
        rondo_hash_add(&j->hash[rank], x + n * 32 * 8, sizeof *x, 0, n * 32 * 4);
    rondo_attention_destroy(plan);
    free(x);
    return err;
}

static int run(struct job *j, int ranks)
{
    rondo_context_desc d = RONDO_CONTEXT_DESC_INIT;
    d.threads = j->threads;
    return rondo_launch(ranks, &d, body, j);
}

static void hear(const struct job *of, int ranks, const char *name, int by_itself)
{
    struct job quiet = *of, told = quiet, two = quiet, cut = quiet;
    told.listen = two.listen = cut.listen = 1;
    two.threads = 2;
    cut.stop_at = 0.3;
    int err = run(&quiet, ranks), wrong = 0, few = 0, unlike = 0, open = 0;
    if (!err)
        err = run(&told, ranks);
    if (!err)
        err = run(&two, ranks);
    is_int(err, 0, "%d ranks, %s: runs", ranks, name);
    for (int r = 0; r < ranks; r++) {
        few += told.seen[r].calls < (by_itself ? 1 : 3) || two.seen[r].calls < 1;
        wrong += told.seen[r].wrong + two.seen[r].wrong;
        open += told.seen[r].last != 1.0 || two.seen[r].last != 1.0;
        unlike += told.hash[r] != quiet.hash[r] || two.hash[r] != quiet.hash[r];
    }
    ok(!few, "%d ranks, %s: called while it runs (%lld times)", ranks, name, (long long)told.seen[0].calls);
    ok(!wrong && !open, "%d ranks, %s: never falling, 1 at last, on the rank's thread", ranks, name);
    ok(!unlike, "%d ranks, %s: the same bits", ranks, name);
    is_int(run(&cut, ranks), RONDO_ECANCELED, "%d ranks, %s: stopped", ranks, name);
    ok(cut.code[0] == RONDO_ECANCELED && (by_itself || cut.seen[0].last < 1.0), "on its way, at %.2f", cut.seen[0].last);
}

int main(void)
{
    /* a device that runs by itself may be through with everything before anybody asks */
    const char *hook = getenv("RONDO_TEST_HOOK");
    const int by_itself = other_device() || (hook && strstr(hook, "defer"));
    for (int ranks = 1; ranks <= RANKS_MOST; ranks++)
        for (int algorithm = RONDO_PASS_KV; algorithm <= RONDO_MESH; algorithm++)
            hear(&(struct job){ .algorithm = algorithm, .threads = 1, .tokens = 3000 }, ranks, rondo_algorithm_name(algorithm), by_itself);
    for (int ranks = 1; ranks <= 2; ranks++)
        hear(&(struct job){ .threads = 1, .tokens = 500, .back = 1 }, ranks, "backward", by_itself);
    return done();
}
