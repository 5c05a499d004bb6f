/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Ranks that outnumber the cores: never more of them compute at once than there is room for, each gets its turn, in sub-groups too,
 * and a rank that fails, whether it has a turn or waits for one, sets the others free.
 */
#define _GNU_SOURCE   /* usleep */
#include <stdatomic.h>
#include <unistd.h>

#include "core/internal.h"
#include "tap.h"

struct share {
    int threads, fail_rank, color_count, places, behind;
    atomic_int inside, most, done;
};

/* Work that has lasted long enough to have been given a turn. */
static int ripen(rondo_context *ctx)
{
    int err = 0;
    for (double end = rondo__now() + 4e-3; !err && rondo__now() < end;)
        err = rondo__poll(ctx);
    return err ? err : rondo__poll(ctx);
}

static int compute(rondo_context *ctx, struct share *s)
{
    rondo__computing(ctx, true);
    int err = ripen(ctx);
    if (!err) {
        int now = atomic_fetch_add(&s->inside, 1) + 1, most = atomic_load(&s->most);
        while (now > most && !atomic_compare_exchange_weak(&s->most, &most, now))
            ;
        /* below a slice, so that the turn is not passed on meanwhile */
        for (double end = rondo__now() + 5e-3; !err && rondo__now() < end;)
            err = rondo_context_rank(ctx) == s->fail_rank ? RONDO_ECANCELED : 0;
        atomic_fetch_sub(&s->inside, 1);
    }
    rondo__computing(ctx, false);
    return err;
}

/* What takes much memory begins with its turn, and waits for it although it has not computed yet; a rank fails while it has one. */
static int build(rondo_context *ctx, void *arg)
{
    struct share *s = arg;
    int err = 0;
    for (int i = 0; i < 3 && !err; i++) {
        rondo__building(ctx, true);
        const int now = atomic_fetch_add(&s->inside, 1) + 1;
        for (int most = atomic_load(&s->most); now > most && !atomic_compare_exchange_weak(&s->most, &most, now);)
            ;
        usleep(300);
        atomic_fetch_sub(&s->inside, 1);
        err = rondo_context_rank(ctx) == s->fail_rank ? RONDO_ECANCELED : 0;
        if (err)
            return rondo__fail(err, "rank %d was told to fail", rondo_context_rank(ctx));
        rondo__building(ctx, false);
        err = rondo_barrier(ctx);
    }
    atomic_fetch_add(&s->done, !err);
    return err;
}

static int body(rondo_context *ctx, void *arg)
{
    struct share *s = arg;
    rondo_context *group = NULL;
    int err = 0;
    if (rondo_context_rank(ctx) == 0)
        s->places = rondo__cores() / rondo__ops(ctx)->threads_used(rondo__dev(ctx));
    if (s->color_count)
        err = rondo_context_split(&group, ctx, rondo_context_rank(ctx) % s->color_count, 0);
    for (int i = 0; i < 3 && !err; i++) {
        err = compute(group ? group : ctx, s);
        if (!err)
            err = rondo_barrier(ctx);
    }
    rondo_context_destroy(group);
    atomic_fetch_add(&s->done, !err);
    return err == RONDO_ECANCELED ? rondo__fail(err, "rank %d was told to fail", rondo_context_rank(ctx)) : err;
}

/* Long computations, several slices each. When the first has ended, every rank must have got on: a turn that is kept to the end
 * leaves the others at the few polls that come before they ask for one. */
#define LONG_POLLS 300
static atomic_int polls[1024];
static int long_body(rondo_context *ctx, void *arg)
{
    struct share *s = arg;
    int err = rondo_barrier(ctx);
    rondo__computing(ctx, true);
    for (int i = 0; i < LONG_POLLS && !err; i++) {
        for (double end = rondo__now() + 1e-3; rondo__now() < end;)
            ;
        err = rondo__poll(ctx);
        atomic_fetch_add(&polls[rondo_context_rank(ctx) % 1024], 1);
    }
    if (atomic_fetch_add(&s->done, !err) == 0)
        for (int r = 0; r < rondo_context_ranks(ctx); r++)
            s->behind += atomic_load(&polls[r % 1024]) < 10;
    rondo__computing(ctx, false);
    return err;
}

static int launch(int ranks, int (*f)(rondo_context *, void *), struct share *s)
{
    rondo_context_desc d = RONDO_CONTEXT_DESC_INIT;
    d.threads = s->threads;
    return rondo_launch(ranks, &d, f, s);
}

int main(void)
{
    const int cores = rondo__cores(), ranks = 2 * cores + 1;
    alarm(300);
    unsetenv("RONDO_TEST_HOOK");
    for (int colors = 0; colors <= 2; colors += 2) {
        struct share s = { .threads = 1, .fail_rank = -1, .color_count = colors };
        is_int(launch(ranks, body, &s), 0, "%d ranks on %d cores%s", ranks, cores, colors ? ", in two groups" : "");
        is_int(atomic_load(&s.done), ranks, "all came to their end");
        ok(atomic_load(&s.most) <= cores, "at most %d computed at once", atomic_load(&s.most));
    }
    if (cores > 1) {
        struct share s = { .threads = 2, .fail_rank = -1 };
        is_int(launch(ranks, body, &s), 0, "%d ranks of 2 threads on %d cores", ranks, cores);
        ok(atomic_load(&s.most) <= s.places, "at most %d computed at once", atomic_load(&s.most));
    } else {
        skip(2, "one core");
    }
    struct share slices = { .threads = 1, .fail_rank = -1 };
    is_int(launch(cores + 1, long_body, &slices), 0, "turns are passed on");
    is_int(atomic_load(&slices.done), cores + 1, "and all came to their end");
    is_int(slices.behind, 0, "nobody had to wait for the first to end");
    for (int rank = 0; rank < ranks; rank += ranks - 1) {
        struct share s = { .threads = 1, .fail_rank = rank };
        is_int(launch(ranks, body, &s), RONDO_ECANCELED, "rank %d fails while it computes", rank);
        is_int(atomic_load(&s.done), 0, "nobody waits for it");
    }
    for (int rank = -1; rank < 1 && cores < 40; rank++) {
        struct share s = { .threads = 1, .fail_rank = rank };
        is_int(launch(40, build, &s), rank < 0 ? 0 : RONDO_ECANCELED, "40 ranks build%s", rank < 0 ? "" : ", of which one fails");
        is_int(atomic_load(&s.done), rank < 0 ? 40 : 0, rank < 0 ? "all came to their end" : "nobody waits for it");
        if (rank < 0)
            ok(atomic_load(&s.most) <= cores, "at most %d built at once", atomic_load(&s.most));
    }
    return done();
}
