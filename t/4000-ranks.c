/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Ranks when all goes well: every pattern of shifts, the collectives, sub-groups, statistics and the timeline. What a rank
 * must receive is computed from (sender, receiver, number), so any mixed-up message shows. Ranks are threads, or with
 * RONDO_TEST_TRANSPORT=mpi the processes that mpirun started (5000-mpi.t).
 */
#define _GNU_SOURCE
#include <stdatomic.h>
#include <unistd.h>

#include "core/internal.h"
#include "shift.h"
#include "tap.h"

static const char *transport = "threads";
static const int rank_counts[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 33 };
#define COUNTS ((int)(sizeof rank_counts / sizeof rank_counts[0]))

#define LARGE 5000

/* One shift by every distance, of sizes around the limit below which messages are copied. */
static int every_distance(rondo_context *ctx, void *arg)
{
    static const size_t sizes[] = { 0, 1, 63, 64, 65, 66, LARGE };
    unsigned char out[LARGE], in[LARGE];
    (void)arg;
    int n = ctx->ranks, me = ctx->rank;
    for (int d = 1; d < n; d++)
        for (int k = 0; k < 7; k++) {
            size_t bytes = sizes[k];
            struct shift s;
            const void *where = NULL;
            fill(out, bytes, me, (me + d) % n, k);
            TRY(shift_start(ctx, &s, d, out, bytes, in, bytes, RONDO_OP_SHIFT, step_named("every distance")));
            TRY(shift_finish(ctx, &s, &where));
            CHECK(!differs(where, bytes, (me + n - d) % n, me, k));
            TRY(rondo__fence(ctx, step_named("every distance")));
        }
    return 0;
}

/* Only even ranks send, only to ranks that receive: the other side has nothing. */
static int one_sided(rondo_context *ctx, void *arg)
{
    unsigned char out[300], in[300];
    (void)arg;
    int n = ctx->ranks, me = ctx->rank;
    for (int d = 1; d < n; d++) {
        int from = (me + n - d) % n, sends = me % 2 == 0, receives = from % 2 == 0;
        struct shift s;
        const void *where = NULL;
        fill(out, sizeof out, me, (me + d) % n, d);
        TRY(shift_start(ctx, &s, d, out, sends ? sizeof out : 0, in, receives ? sizeof in : 0, RONDO_OP_SHIFT, step_named("one side")));
        TRY(shift_finish(ctx, &s, &where));
        CHECK(!receives || !differs(where, sizeof in, from, me, d));
        TRY(rondo__fence(ctx, step_named("one side")));
    }
    return 0;
}

#define FLIGHT 40

/* Many in flight, finished in an order of this rank's own. */
static int many_in_flight(rondo_context *ctx, void *arg)
{
    unsigned char *out = malloc(FLIGHT * 100), *in = malloc(FLIGHT * 100);
    struct shift s[FLIGHT];
    int err = out && in ? 0 : RONDO_ENOMEM, n = ctx->ranks, me = ctx->rank;
    (void)arg;
    for (int i = 0; i < FLIGHT && !err && n > 1; i++) {
        int d = 1 + i % (n - 1);
        size_t bytes = (size_t)(40 + i);
        fill(out + i * 100, bytes, me, (me + d) % n, i);
        err = shift_start(ctx, &s[i], d, out + i * 100, bytes, in + i * 100, bytes, RONDO_OP_SHIFT, step_named("flight"));
    }
    for (int i = 0; i < FLIGHT && !err && n > 1; i++) {
        int k = (i * 7 + me) % FLIGHT, d = 1 + k % (n - 1);   /* 7 and 40 have no common divisor */
        const void *where = NULL;
        err = shift_finish(ctx, &s[k], &where);
        if (!err && differs(where, (size_t)(40 + k), (me + n - d) % n, me, k))
            err = rondo__fail(RONDO_EDEVICE, "message %d of rank %d is not what was sent", k, me);
    }
    if (!err)
        err = rondo__fence(ctx, step_named("flight"));
    err = rondo__collective_failed(ctx, err);
    free(out);
    free(in);
    return err;
}

/* Only threads: another process has another address. */
static int in_place(rondo_context *ctx, void *arg)
{
    static _Thread_local unsigned char out[1000];
    unsigned char in[1000];
    const unsigned char **outs = arg;
    struct shift s;
    const void *where = NULL;
    if (ctx->ranks == 1 || strcmp(ctx->transport->name, "threads") != 0)
        return 0;
    outs[ctx->rank] = out;
    TRY(rondo_barrier(ctx));
    TRY(shift_start(ctx, &s, 1, out, sizeof out, in, sizeof in, RONDO_OP_SHIFT, step_named("in place")));
    TRY(shift_finish(ctx, &s, &where));
    CHECK(where == outs[(ctx->rank + ctx->ranks - 1) % ctx->ranks]);
    TRY(rondo__fence(ctx, step_named("in place")));
    return 0;
}

static size_t block_bytes(int from, int to)
{
    return (size_t)((from * 31 + to * 17) % 5) * 50;   /* 0..200, some of them nothing */
}

static int all_to_all(rondo_context *ctx, void *arg)
{
    enum { N = 33 };
    static _Thread_local unsigned char out[N][200], in[N][200];
    const void *send[N], *where[N];
    void *recv[N];
    size_t send_bytes[N], recv_bytes[N];
    int n = ctx->ranks, me = ctx->rank;
    (void)arg;
    for (int round = 0; round < 3; round++) {
        for (int d = 0; d < n; d++) {
            int to = (me + d) % n, from = (me + n - d) % n;
            send[d] = out[d];
            recv[d] = in[d];
            send_bytes[d] = block_bytes(me, to);
            recv_bytes[d] = block_bytes(from, me);
            fill(out[d], send_bytes[d], me, to, round);
        }
        TRY(exchange(ctx, send, send_bytes, recv, recv_bytes, where, step_named("all to all")));
        for (int d = 0; d < n; d++)
            CHECK(!differs(where[d], recv_bytes[d], (me + n - d) % n, me, round));
        TRY(rondo__fence(ctx, step_named("all to all")));
    }
    return 0;
}

static int all_gather(rondo_context *ctx, void *arg)
{
    enum { N = 33 };
    unsigned char mine[400], all[400 * N + 1];
    size_t bytes_of[N];
    (void)arg;
    for (int round = 0; round < 8; round++) {
        size_t at = 0;
        for (int r = 0; r < ctx->ranks; r++)
            bytes_of[r] = round == 0 ? 0 : round < 4 ? (size_t)((r + round) % 4) * 16 : (size_t)((r * round) % 5) * 100;
        fill(mine, bytes_of[ctx->rank], ctx->rank, 0, round);
        memset(all, 0xee, sizeof all);
        TRY(rondo_all_gather(ctx, mine, all, bytes_of));
        memset(mine, 0, sizeof mine);   /* ours again: nobody may read it any more */
        for (int r = 0; r < ctx->ranks; at += bytes_of[r++])
            CHECK(!differs(all + at, bytes_of[r], r, 0, round));
        CHECK(all[at] == 0xee);
    }
    return 0;
}

static int broadcast(rondo_context *ctx, void *arg)
{
    static const size_t sizes[] = { 1, 8, 64, 65, 3000 };
    unsigned char data[3000];
    (void)arg;
    for (int root = 0; root < ctx->ranks; root++)
        for (int k = 0; k < 5; k++) {
            memset(data, 0, sizeof data);
            if (ctx->rank == root)
                fill(data, sizes[k], root, 1, k);
            TRY(rondo_broadcast(ctx, data, sizes[k], root));
            CHECK(!differs(data, sizes[k], root, 1, k));
        }
    for (int i = 0; i < 500; i++) {
        uint64_t word = ctx->rank == i % ctx->ranks ? (uint64_t)i * 77 : 0;
        TRY(rondo_broadcast(ctx, &word, sizeof word, i % ctx->ranks));
        CHECK(word == (uint64_t)i * 77);
    }
    return 0;
}

struct counter {
    _Atomic int arrived;
};

static int barrier(rondo_context *ctx, void *arg)
{
    struct counter *c = arg;
    int together = strcmp(ctx->transport->name, "threads") == 0 ? ctx->ranks : 1;   /* that count in one place */
    for (int i = 1; i <= 100; i++) {
        c->arrived++;
        TRY(rondo_barrier(ctx));
        CHECK(c->arrived == i * together);
        TRY(rondo_barrier(ctx));
    }
    /* nobody passes before the last one came, whoever that is */
    for (int late = 0; late < ctx->ranks && late < 5; late++) {
        double came = 0.0, everybody[33];
        size_t bytes_of[33] = { 0 };
        if (ctx->rank == late)
            usleep(3000);
        came = rondo__now();
        TRY(rondo_barrier(ctx));
        double passed = rondo__now();
        for (int r = 0; r < ctx->ranks; r++)
            bytes_of[r] = sizeof came;
        TRY(rondo_all_gather(ctx, &came, everybody, bytes_of));
        for (int r = 0; r < ctx->ranks; r++)
            CHECK(everybody[r] <= passed);
    }
    return 0;
}

static int agree(rondo_context *ctx, void *arg)
{
    int n = ctx->ranks, me = ctx->rank;
    (void)arg;
    for (int i = 0; i < 20; i++)
        CHECK(rondo_agree(ctx, 5, 0, "a number") == 0);
    /* Disagreeing, and failing before, ends in a verdict and not in a broken communicator. */
    for (int odd = 0; odd < n; odd++) {
        char expect[64];
        int err = rondo_agree(ctx, ctx->rank == odd ? 6 : 5, 0, "a number");
        CHECK(err == (n > 1 ? RONDO_EMISMATCH : 0));
        snprintf(expect, sizeof expect, "disagree on a number: rank %d has", odd ? odd : 1);
        CHECK(n == 1 || strstr(rondo_error_text(), expect));
        int code = ctx->rank == odd ? rondo__fail(RONDO_ENOMEM, "no memory for the %d-th thing", odd) : 0;
        err = rondo_agree(ctx, 5, code, "a number");
        CHECK(err == (ctx->rank == odd ? RONDO_ENOMEM : RONDO_EPEER));
        snprintf(expect, sizeof expect, "rank %d failed: no memory for the %d-th thing", odd, odd);
        CHECK(ctx->rank == odd || strstr(rondo_error_text(), expect));
        CHECK(ctx->rank != odd || strcmp(rondo_error_text(), strchr(expect, ':') + 2) == 0);
    }
    /* Several of them: the sentence is the same on every rank, and names the lowest of those that differ from rank 0, or that failed. */
    for (int seed = 0; seed < 12 && n > 1; seed++) {
        char expect[160], text[600], theirs[600];
        int other = 0, failed = -1;
        for (int r = n - 1; r > 0; r--)
            other = rondo__mix64((uint64_t)(seed * 64 + r)) % 3 != rondo__mix64((uint64_t)(seed * 64)) % 3 ? r : other;
        for (int r = n - 1; r >= 0; r--)
            failed = rondo__mix64((uint64_t)(seed * 64 + r)) % 4 == 0 ? r : failed;
        int err = rondo_agree(ctx, rondo__mix64((uint64_t)(seed * 64 + me)) % 3, 0, "a number");
        CHECK(err == (other ? RONDO_EMISMATCH : 0));
        snprintf(expect, sizeof expect, "rank %d has %016llx where rank 0 has %016llx", other,
                 (unsigned long long)(rondo__mix64((uint64_t)(seed * 64 + other)) % 3),
                 (unsigned long long)(rondo__mix64((uint64_t)(seed * 64)) % 3));
        CHECK(!other || strstr(rondo_error_text(), expect));
        const int mine = rondo__mix64((uint64_t)(seed * 64 + me)) % 4 == 0;
        err = rondo_agree(ctx, 5, mine ? rondo__fail(RONDO_EIO, "failure %d of rank %d", seed, me) : 0, "a number");
        CHECK(err == (failed < 0 ? 0 : mine ? RONDO_EIO : RONDO_EPEER));
        snprintf(expect, sizeof expect, "rank %d failed: failure %d of rank %d (RONDO_EIO", failed, seed, failed);
        CHECK(failed < 0 || mine || strstr(rondo_error_text(), expect));
        snprintf(text, sizeof text, "%s", mine || failed < 0 ? "" : rondo_error_text());
        memcpy(theirs, text, sizeof text);
        if (failed >= 0) {
            int quiet = failed == n - 1 ? 0 : n - 1;   /* whose sentence is compared, where it is one of those that were told */
            int told = rondo__mix64((uint64_t)(seed * 64 + quiet)) % 4 != 0;
            TRY(rondo_broadcast(ctx, theirs, sizeof theirs, quiet));
            CHECK(!told || mine || strcmp(text, theirs) == 0);
        }
    }
    CHECK(rondo_agree(ctx, 5, 0, "a number") == 0);
    return 0;
}

/* ceil(log2 N) messages of 32 bytes a rank: no more, for any N. */
static int agree_rounds(int n)
{
    int rounds = 0;
    while (1 << rounds < n)
        rounds++;
    return rounds;
}

static int agree_messages(rondo_context *ctx, void *arg)
{
    (void)arg;
    for (int i = 0; i < 3; i++) {
        rondo_comm_stats before = RONDO_COMM_STATS_INIT, after = RONDO_COMM_STATS_INIT;
        CHECK(rondo_comm_query(ctx, &before) == 0);
        CHECK(rondo_agree(ctx, 9, 0, "a number") == 0);
        CHECK(rondo_comm_query(ctx, &after) == 0);
        CHECK(after.messages[RONDO_OP_AGREE] - before.messages[RONDO_OP_AGREE] == (uint64_t)agree_rounds(ctx->ranks));
        CHECK(after.bytes[RONDO_OP_AGREE] - before.bytes[RONDO_OP_AGREE] == 32 * (uint64_t)agree_rounds(ctx->ranks));
        for (int op = 0; op < RONDO_OP_COUNT; op++)
            CHECK(op == RONDO_OP_AGREE || after.messages[op] == before.messages[op]);
    }
    return 0;
}

static int split(rondo_context *ctx, void *arg)
{
    rondo_context *child = NULL;
    int n = ctx->ranks, me = ctx->rank;
    (void)arg;
    /* three colors, order turned round, one rank of every four stays out */
    int color = me % 4 == 3 ? -1 : me % 3, members = 0, place = 0;
    TRY(rondo_context_split(&child, ctx, color, -me));
    CHECK((child == NULL) == (color < 0));
    for (int r = 0; r < n; r++)
        if (r % 4 != 3 && r % 3 == color) {
            members++;
            place += r > me;
        }
    if (child) {
        CHECK(child->ranks == members && child->rank == place);
        rondo_context_info info = RONDO_CONTEXT_INFO_INIT;
        CHECK(rondo_context_query(child, &info) == 0 && info.ranks == members);
        /* the group's own traffic, while the parent's goes on as well */
        int32_t sum = 0, all[33];
        size_t bytes_of[33] = { 0 };
        for (int r = 0; r < members; r++)
            bytes_of[r] = sizeof all[0];
        TRY(rondo_all_gather(child, &me, all, bytes_of));
        for (int r = 0; r < members; r++) {
            CHECK(all[r] % 4 != 3 && all[r] % 3 == color && (r == 0 || all[r] < all[r - 1]));
            sum += all[r];
        }
        TRY(rondo_agree(child, (uint64_t)sum + (uint64_t)color, 0, "the group's sum"));
    }
    TRY(rondo_barrier(ctx));
    if (child) {
        /* a group of a group */
        rondo_context *grandchild = NULL;
        TRY(rondo_context_split(&grandchild, child, child->rank / 2, 0));
        CHECK(grandchild->ranks <= 2);
        CHECK(rondo_agree(grandchild, (uint64_t)(child->rank / 2), 0, "pair") == 0);
        rondo_context_destroy(grandchild);
    }
    rondo_context_destroy(child);
    TRY(rondo_barrier(ctx));
    CHECK(rondo_context_split(&child, ctx, -7, 0) == RONDO_EINVAL && child == NULL);
    return 0;
}

/* What is counted is what went out: by operation, for this rank. */
static int statistics(rondo_context *ctx, void *arg)
{
    rondo_comm_stats before = RONDO_COMM_STATS_INIT, after = RONDO_COMM_STATS_INIT;
    unsigned char out[100], in[100];
    (void)arg;
    uint64_t n = (uint64_t)ctx->ranks;
    CHECK(rondo_comm_query(ctx, &before) == 0);
    CHECK(before.messages[RONDO_OP_AGREE] == (uint64_t)agree_rounds(ctx->ranks));   /* when it was made */
    memset(out, 1, sizeof out);
    for (int d = 1; d < ctx->ranks; d++) {
        struct shift s;
        TRY(shift_start(ctx, &s, d, out, ctx->rank ? sizeof out : 0, in, (ctx->rank + ctx->ranks - d) % ctx->ranks ? sizeof in : 0,
                               RONDO_OP_SHIFT, step_named("counted")));
        TRY(shift_finish(ctx, &s, NULL));
        TRY(rondo__fence(ctx, step_named("counted")));
    }
    size_t bytes_of[33];
    unsigned char all[33 * 10];
    for (int r = 0; r < ctx->ranks; r++)
        bytes_of[r] = 10;
    TRY(rondo_all_gather(ctx, out, all, bytes_of));
    TRY(rondo_broadcast(ctx, out, 50, 0));
    CHECK(rondo_comm_query(ctx, &after) == 0);
    CHECK(after.messages[RONDO_OP_SHIFT] == (ctx->rank ? n - 1 : 0) && after.bytes[RONDO_OP_SHIFT] == (ctx->rank ? 100 * (n - 1) : 0));
    /* a few bytes of many ranks go by way of rank 0 */
    uint64_t passed = 0;
    for (int d = 1; d < ctx->ranks; d *= 2)
        passed += ctx->rank < d && ctx->rank + d < ctx->ranks;
    if (n < 32)
        CHECK(after.messages[RONDO_OP_ALL_GATHER] == n - 1 && after.bytes[RONDO_OP_ALL_GATHER] == 10 * (n - 1));
    else
        CHECK(after.messages[RONDO_OP_ALL_GATHER] == (uint64_t)(ctx->rank > 0) + passed && after.bytes[RONDO_OP_ALL_GATHER] == (uint64_t)(ctx->rank > 0) * 10 + passed * 10 * n);
    CHECK(after.messages[RONDO_OP_AGREE] == before.messages[RONDO_OP_AGREE]);
    /* a broadcast to n ranks is n - 1 messages in all */
    uint64_t sent[2] = { after.messages[RONDO_OP_BROADCAST], after.bytes[RONDO_OP_BROADCAST] }, everybodys[33][2], sum[2] = { 0, 0 };
    for (int r = 0; r < ctx->ranks; r++)
        bytes_of[r] = sizeof sent;
    TRY(rondo_all_gather(ctx, sent, everybodys, bytes_of));
    for (int r = 0; r < ctx->ranks; r++) {
        sum[0] += everybodys[r][0];
        sum[1] += everybodys[r][1];
    }
    CHECK(sum[0] == n - 1 && sum[1] == 50 * (n - 1));
    CHECK(after.wait_seconds >= 0.0);
    return 0;
}

struct seen {
    int waits, shifts;
    double last_end;
    int bad;
};

static void on_event(void *user, const rondo_trace_event *e)
{
    struct seen *s = user;
    s->waits += strcmp(e->name, "wait shift") == 0;
    s->shifts += strcmp(e->name, "shift") == 0 && e->bytes == 100;
    if (e->begin > e->end || e->end < s->last_end)
        s->bad = 1;
    s->last_end = e->end;
}

static int timeline(rondo_context *ctx, void *arg)
{
    struct seen seen = { 0, 0, 0.0, 0 };
    unsigned char out[100] = { 0 }, in[100];
    (void)arg;
    rondo_context_trace(ctx, on_event, &seen);
    for (int d = 1; d < ctx->ranks; d++) {
        struct shift s;
        TRY(shift_start(ctx, &s, d, out, sizeof out, in, sizeof in, RONDO_OP_SHIFT, step_named("seen")));
        TRY(shift_finish(ctx, &s, NULL));
    }
    TRY(rondo__fence(ctx, step_named("seen")));
    rondo_context_trace(ctx, NULL, NULL);
    CHECK(seen.waits == ctx->ranks - 1 && seen.shifts == ctx->ranks - 1 && !seen.bad);
    return 0;
}

/* Ranks that come at very different times: the early ones sleep. */
static int uneven(rondo_context *ctx, void *arg)
{
    (void)arg;
    for (int i = 0; i < 4; i++) {
        if (ctx->rank == i % ctx->ranks)
            usleep(20000);
        uint64_t word = (uint64_t)i;
        TRY(rondo_broadcast(ctx, &word, sizeof word, i % ctx->ranks));
        TRY(rondo_barrier(ctx));
        TRY(rondo_agree(ctx, word, 0, "the round"));
    }
    return 0;
}

static int about(rondo_context *ctx, void *arg)
{
    rondo_context_info info = RONDO_CONTEXT_INFO_INIT;
    int threads = strcmp(transport, "threads") == 0, expect = rondo__cores() / ctx->ranks;
    (void)arg;
    TRY(rondo_context_query(ctx, &info));
    CHECK(strcmp(info.transport, transport) == 0 && strcmp(info.device, rondo__ops(ctx)->name) == 0);
    CHECK(info.rank == rondo_context_rank(ctx) && info.ranks == rondo_context_ranks(ctx));
    CHECK(strcmp(info.device, "cpu") ? info.threads == 1 : threads ? info.threads == (expect > 0 ? expect : 1) : info.threads >= 1);
    return 0;
}

static _Atomic int made, failing;

static int make(void *arg, void *value)
{
    const int number = *(const int *)arg;
    atomic_fetch_add(&made, 1);
    usleep(1000);
    if (atomic_exchange(&failing, 0))
        return rondo__fail(RONDO_ENOMEM, "as asked");
    memset(value, number, 100);
    return 0;
}

/* What all would work out alike is worked out by one of many ranks of a process, for all; by each, where it fails. */
static int once(rondo_context *ctx, void *arg)
{
    enum { NUMBERS = 7 };
    const int together = strcmp(ctx->transport ? ctx->transport->name : "", "threads") == 0 ? ctx->ranks : 1, shared = together >= 32;
    (void)arg;
    for (int i = 0; i < NUMBERS; i++) {
        const int64_t key[2] = { i, 77 };
        unsigned char value[100] = { 0 };
        int number = i + 1;
        if (ctx->rank == 0 || together == 1) {
            atomic_store(&made, 0);
            atomic_store(&failing, i == 3);
        }
        TRY(rondo_barrier(ctx));
        const int err = rondo__once(ctx, key, sizeof key, value, sizeof value, make, &number);
        for (size_t j = 0; j < sizeof value; j++)
            CHECK(err || value[j] == number);
        TRY(rondo_barrier(ctx));
        const int all = atomic_load(&made);
        CHECK(err == 0 || (err == RONDO_ENOMEM && i == 3));
        CHECK(all >= (shared ? 1 : together) && all <= (shared && i != 3 ? 1 : together));
        int64_t fine = !err;
        TRY(rondo__agree_least(ctx, &fine, "who failed"));
        CHECK(fine == (i != 3));
    }
    return 0;
}

static const struct {
    const char *name;
    rondo_body *body;
} cases[] = {
    { "a shift by every distance and size", every_distance },
    { "shifts with an empty side", one_sided },
    { "many shifts in flight, finished in any order", many_in_flight },
    { "large messages are read in the sender's memory", in_place },
    { "all-to-all", all_to_all },
    { "all-gather", all_gather },
    { "broadcast", broadcast },
    { "barrier", barrier },
    { "agreement, its mismatches and failures", agree },
    { "messages of an agreement", agree_messages },
    { "sub-groups", split },
    { "statistics", statistics },
    { "timeline", timeline },
    { "ranks that come late", uneven },
    { "what a rank runs on", about },
    { "what is worked out once", once },
};

static int learn_rank(rondo_context *ctx, void *arg)
{
    int *rank = arg;
    rank[0] = ctx->rank;
    rank[1] = ctx->ranks;
    return 0;
}

static void run_cases(int ranks)
{
    rondo_context_desc desc = RONDO_CONTEXT_DESC_INIT;
    desc.transport = transport;
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        const void *shared[64] = { NULL };
        int err = rondo_launch(ranks, &desc, cases[c].body, shared);
        if (!is_int(err, 0, "%s, %d ranks as %s", cases[c].name, ranks, transport))
            diag("%s", rondo_error_text());
    }
}

int main(void)
{
    alarm(120);
    unsetenv("RONDO_DEADLINE");
    if (getenv("RONDO_TEST_TRANSPORT") && strcmp(getenv("RONDO_TEST_TRANSPORT"), "mpi") == 0) {
        rondo_context_desc desc = RONDO_CONTEXT_DESC_INIT;
        int mine[2] = { 0, 0 };
        transport = desc.transport = "mpi";
        int err = rondo_launch(0, &desc, learn_rank, mine);
        if (mine[0] != 0 && !freopen("/dev/null", "w", stdout))
            return 1;
        if (!is_int(err, 0, "a first launch over mpi"))
            diag("%s", rondo_error_text());
        run_cases(mine[1]);
        is_int(rondo_launch(mine[1] + 1, &desc, learn_rank, mine), RONDO_EINVAL, "a number of ranks that mpirun did not start is refused");
        return done();
    }
    unsetenv("RONDO_TEST_HOOK");
    for (int i = 0; i < COUNTS; i++)
        run_cases(rank_counts[i]);
    for (int ranks = 1; ranks <= 17; ranks++)
        is_int(rondo_launch(ranks, NULL, agree_messages, NULL), 0, "%d ranks agree with %d messages each", ranks, agree_rounds(ranks));

    /* alone: the same calls, no transport */
    rondo_context *alone = NULL;
    uint64_t word = 3, all = 0;
    size_t eight = sizeof word;
    is_int(rondo_context_create(&alone, NULL), 0, "a context of one rank alone");
    if (alone) {
        rondo_context_info info = RONDO_CONTEXT_INFO_INIT;
        ok(rondo_context_query(alone, &info) == 0 && info.ranks == 1 && strcmp(info.transport, "none") == 0, "it has no transport");
        ok(rondo_barrier(alone) == 0 && rondo_broadcast(alone, &word, 8, 0) == 0 && rondo_agree(alone, 1, 0, "x") == 0, "its collectives");
        ok(rondo_all_gather(alone, &word, &all, &eight) == 0 && all == 3, "its all-gather copies");
        is_int(rondo_broadcast(alone, &word, 8, 1), RONDO_EINVAL, "a root that does not exist is refused");
        rondo_context *part = NULL;
        ok(rondo_context_split(&part, alone, 0, 0) == 0 && part && part->ranks == 1, "it can be split");
        rondo_context_destroy(part);
        ok(rondo_context_split(&part, alone, -1, 0) == 0 && !part, "and stay out");
        rondo_context_destroy(alone);
    }
    return done();
}
