/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The schedules of the delta rule, without running them: for every way, division and kind of machine those of all ranks together pass the checker
 * and move as many messages and bytes as arithmetic says, those of gradients too; and schedules in which something was broken do not pass.
 */
#include "delta/backward.h"
#define DRAW_STREAM 3410
#include "t/draw.h"
#include "t/schedules.h"
#include "t/tap.h"

enum { RANKS = 9, SEQUENCES = 6 };

struct all {
    rondo_delta_desc desc;
    int64_t cu[SEQUENCES + 1], shares[RANKS + 1], points[3];
    struct rondo__delta_design design;
    const struct rondo__machine *machine;
    struct rondo__delta_built built;
    struct rondo__delta_backward back;
    uint64_t messages, bytes;
    struct planted planted;
};

static int at(void *arg, int32_t rank, const struct rondo__schedule **out)
{
    struct all *a = arg;
    struct rondo__counts counts;
    rondo__delta_unbuild(&a->built);
    a->built = (struct rondo__delta_built){ .calls = { NULL } };
    int err = rondo__delta_build(&a->built, &a->design, rank, a->machine);
    if (err)
        return err;
    rondo__schedule_count(&a->built.schedule, &counts);
    a->messages += counts.messages;
    a->bytes += counts.bytes;
    plant(&a->planted, &a->built.schedule, rank);
    *out = &a->built.schedule;
    return 0;
}

static int back_at(void *arg, int32_t rank, const struct rondo__schedule **out)
{
    struct all *a = arg;
    struct rondo__counts counts;
    rondo__delta_backward_unbuild(&a->back);
    a->back = (struct rondo__delta_backward){ .leaves = -1 };
    int err = rondo__delta_backward_build(&a->back, &a->design, rank, a->machine);
    if (err)
        return err;
    rondo__schedule_count(&a->back.built.schedule, &counts);
    a->messages += counts.messages;
    a->bytes += counts.bytes;
    plant(&a->planted, &a->back.built.schedule, rank);
    *out = &a->back.built.schedule;
    return 0;
}

static int anything(struct all *a, int way, int32_t ranks)
{
    *a = (struct all){ .desc = RONDO_DELTA_DESC_INIT };
    rondo_delta_desc *d = &a->desc;
    d->heads = 1 + draw(40);
    d->key_dim = 4;
    d->value_dim = 1 + draw(200);
    d->sequences = 1 + draw(SEQUENCES);
    for (int64_t n = 0; n < d->sequences; n++)
        a->cu[n + 1] = a->cu[n] + (draw(3) ? (int64_t)draw(60) : 0);
    const int64_t rows = a->cu[d->sequences];
    for (int32_t r = 1; r < ranks; r++)
        a->shares[r] = a->shares[r - 1] + (int64_t)draw((uint32_t)((rows - a->shares[r - 1]) / (1 + (int)draw(3)) + 1));
    a->shares[ranks] = rows;
    d->cu_seqlens = a->cu;
    d->shares = draw(4) ? a->shares : NULL;
    d->way = way;
    d->tile = way == RONDO_DELTA_AFFINE || way == RONDO_DELTA_LEGACY ? 1 + draw(30) : 0;
    for (int32_t r = 1; r < ranks && d->tile; r++) {   /* whole tiles */
        int64_t n = 0;
        while (n + 1 < d->sequences && a->cu[n + 1] <= a->shares[r])
            n++;
        a->shares[r] = a->shares[r] < rows ? a->cu[n] + (a->shares[r] - a->cu[n]) / d->tile * d->tile : rows;
    }
    d->initial_state = (int32_t)draw(2);
    d->final_state = (int32_t)draw(2);
    for (int64_t p = draw(30); p <= rows && d->checkpoint_count < 3; p += 1 + draw(40))
        a->points[d->checkpoint_count++] = p;
    d->checkpoints = a->points;
    return rondo__delta_design(&a->design, d, ranks);
}

/* Wherever a share begins inside of a sequence its states cross over, once for each time that tokens change hands, in as many parts as the way has
 * stages. */
static void expect(const struct all *a, uint64_t *messages, uint64_t *bytes)
{
    const struct rondo__delta_design *p = &a->design;
    const int64_t heads = p->desc.heads, units = heads >= 16 * p->ranks ? heads : heads * ((p->desc.value_dim + 63) / 64);
    const int64_t stages = p->desc.way == RONDO_DELTA_SERIAL || p->desc.way == RONDO_DELTA_LEGACY ? 1 : units < 16 * p->ranks ? units : 16 * p->ranks;
    *messages = *bytes = 0;
    for (int32_t r = 1; r < p->ranks; r++) {
        bool crosses = p->begin[r] > p->begin[r - 1] || (r > 1 && p->begin[r] > 0);
        const int64_t row = p->begin[r];
        if (p->begin[r] == p->begin[r + 1] || row == 0)   /* nobody begins here */
            continue;
        for (int64_t n = 0; n < p->desc.sequences; n++)
            if (crosses && p->cu[n] < row && row < p->cu[n + 1]) {
                *messages += (uint64_t)stages;
                *bytes += (uint64_t)(heads * p->desc.key_dim * p->desc.value_dim * 4);
            }
    }
}

/* Of an affine scan each rank has the packets of all tiles before its own, of their sequence: sources, and maps but of the first. */
static void expect_packets(const struct all *a, uint64_t *messages, uint64_t *bytes)
{
    const struct rondo__delta_design *p = &a->design;
    const int64_t tile = p->desc.tile, kd = p->desc.key_dim, vd = p->desc.value_dim;
    *messages = *bytes = 0;
    for (int32_t r = 0; r < p->ranks; r++)
        for (int64_t n = 0; n < p->desc.sequences; n++) {
            const int64_t first = p->begin[r] > p->cu[n] ? p->begin[r] : p->cu[n];
            const int64_t end = p->begin[r + 1] < p->cu[n + 1] ? p->begin[r + 1] : p->cu[n + 1];
            for (int64_t row = p->cu[n]; row < first && first < end; row += tile)
                if (rondo__delta_owner(p, row) != r) {
                    *messages += 1;
                    *bytes += (uint64_t)(4 * p->desc.heads * kd * (vd + (row > p->cu[n] ? kd : 0)));
                }
        }
}

/* Columns of all heads go to ranks in runs of whole heads, or of 64 or 16 columns where a rank would have an eighth more than its share. To each
 * other rank that has some a rank sends what its tokens have of them, and the states with which sequences begin there; back come outputs and
 * states. */
static void expect_columns(const struct all *a, uint64_t *messages, uint64_t *bytes)
{
    const struct rondo__delta_design *p = &a->design;
    const int64_t heads = p->desc.heads, kd = p->desc.key_dim, vd = p->desc.value_dim, share = (heads * vd + p->ranks - 1) / p->ranks;
    int64_t wide = vd;
    for (int64_t finer = 64; finer >= 16; finer /= 4) {
        const int64_t cuts = heads * ((vd + wide - 1) / wide), most = (cuts + p->ranks - 1) / p->ranks * wide;
        if ((most < heads * vd ? most : heads * vd) * 8 > share * 9 && finer < wide)
            wide = finer;
    }
    const int64_t cuts = (vd + wide - 1) / wide, all = heads * cuts;
    *messages = *bytes = 0;
    for (int32_t to = 0; to < p->ranks; to++) {
        int64_t first, end;
        if (rondo_share(all, p->ranks, NULL, to, &first, &end))
            exit(99);
        end += first;
        int64_t columns = 0;
        for (int64_t cut = first; cut < end; cut++)
            columns += cut % cuts + 1 < cuts ? wide : vd - (cuts - 1) * wide;
        for (int32_t from = 0; from < p->ranks && columns; from++) {
            const int64_t rows = p->begin[from + 1] - p->begin[from], own = (end - 1) / cuts - first / cuts + 1;
            int64_t starts = 0, kept = 0;
            if (!rows || from == to)
                continue;
            for (int64_t n = 0; n < p->desc.sequences; n++) {
                if (p->cu[n] == p->cu[n + 1])
                    continue;
                starts += p->desc.initial_state && rondo__delta_owner(p, p->cu[n]) == from;
                kept += p->desc.final_state && rondo__delta_owner(p, p->cu[n + 1] - 1) == from;
            }
            for (int64_t i = 0; i < p->desc.checkpoint_count; i++) {
                const int64_t at = a->points[i];
                const bool empty = !at && p->cu[1] == 0;   /* the first sequence has no tokens: nobody is asked for its state */
                kept += !empty && rondo__delta_owner(p, at ? at - 1 : 0) == from;
            }
            *messages += 2;
            *bytes += (uint64_t)(4 * (rows * own * (3 * kd + 1) + 2 * rows * columns + (starts + kept) * columns * kd));
        }
    }
}

static void grid(int way)
{
    for (int m = 0; m < MACHINES; m++) {
        int good = 1, counts = 1;
        for (int round = 0; round < 60; round++) {
            const int32_t ranks = 1 + (int32_t)draw(RANKS);
            struct all a;
            uint64_t messages, bytes;
            int err = anything(&a, way, ranks);
            a.machine = machines + m;
            if (!err)
                err = rondo__schedule_check(ranks, a.machine, at, &a);
            if (err && good)
                diag("%d ranks, %lld rows, round %d: %s", (int)ranks, (long long)a.design.rows, round, rondo_error_text());
            good &= !err;
            if (way == RONDO_DELTA_AFFINE)
                expect_packets(&a, &messages, &bytes);
            else if (way == RONDO_DELTA_COLUMNS)
                expect_columns(&a, &messages, &bytes);
            else
                expect(&a, &messages, &bytes);
            if ((messages != a.messages || bytes != a.bytes) && counts)
                diag("%d ranks, %lld rows, %lld heads, round %d: %llu messages of %llu bytes, should be %llu of %llu", (int)ranks,
                     (long long)a.design.rows, (long long)a.design.desc.heads, round, (unsigned long long)a.messages, (unsigned long long)a.bytes,
                     (unsigned long long)messages, (unsigned long long)bytes);
            counts &= messages == a.messages && bytes == a.bytes;
            rondo__delta_unbuild(&a.built);
            rondo__delta_design_free(&a.design);
        }
        ok(good, "%s, %s: schedules of all ranks pass", rondo_delta_way_name(way), machine_names[m]);
        ok(counts, "... messages and bytes are counted");
    }
}

/* Gradients: sequences of some leaves of tokens and marks, gates that have sums or none, heads in groups. */
static int any_gradient(struct all *a, int way, int32_t ranks)
{
    *a = (struct all){ .desc = RONDO_DELTA_DESC_INIT };
    rondo_delta_desc *d = &a->desc;
    d->key_heads = 1 + draw(20);
    d->heads = d->key_heads * (1 + draw(2));
    d->key_dim = 4;
    d->value_dim = 1 + draw(200);
    d->gate_dim = draw(2) ? 1 : 4;
    d->gate = (int32_t)draw(3);
    d->lower_bound = d->gate == RONDO_GATE_BOUNDED ? -5.0 : 0.0;
    d->sequences = 1 + draw(SEQUENCES);
    for (int64_t n = 0; n < d->sequences; n++)
        a->cu[n + 1] = a->cu[n] + (draw(3) ? (int64_t)draw(draw(2) ? 200 : 2000) : 0);
    const int64_t rows = a->cu[d->sequences];
    for (int32_t r = 1; r < ranks; r++)
        a->shares[r] = a->shares[r - 1] + (int64_t)draw((uint32_t)((rows - a->shares[r - 1]) / (1 + (int)draw(3)) + 1));
    a->shares[ranks] = rows;
    d->cu_seqlens = a->cu;
    d->shares = draw(4) ? a->shares : NULL;
    d->way = way;
    d->gradients = 1;
    d->initial_state = (int32_t)draw(2);
    d->final_state = (int32_t)draw(2);
    return rondo__delta_design(&a->design, d, ranks);
}

/* States go forward where a sequence does, and gradients of states come back there, with the sums of a leaf; and each rank's nodes of sums go to
 * all others. */
static void expect_gradients(const struct all *a, uint64_t *messages, uint64_t *bytes)
{
    const struct rondo__delta_design *p = &a->design;
    const int64_t heads = p->desc.heads, keys = p->desc.key_heads, most = 16 * p->ranks, sums = p->desc.gate ? p->desc.gate_dim + 1 : 0;
    const int64_t stages = p->desc.way == RONDO_DELTA_SERIAL || p->ranks == 1 ? 1 : keys < most ? keys : most;
    *messages = *bytes = 0;
    for (int32_t r = 1; r < p->ranks; r++) {
        const int64_t row = p->begin[r];
        if (row == p->begin[r + 1] || row == 0)
            continue;
        for (int64_t n = 0; n < p->desc.sequences; n++)
            if (p->cu[n] < row && row < p->cu[n + 1]) {
                *messages += (uint64_t)(2 * stages);
                *bytes += (uint64_t)(heads * (2 * p->desc.key_dim * p->desc.value_dim + sums) * 4);
            }
    }
    for (int32_t r = 0; r < p->ranks && sums && a->back.tokens; r++) {
        int64_t nodes = 0;
        for (int64_t i = 0; i < a->back.tokens->node_count; i++)
            nodes += a->back.tokens->nodes[i].part == r;
        *messages += nodes ? (uint64_t)(p->ranks - 1) : 0;
        *bytes += (uint64_t)(nodes * heads * sums * 4 * (p->ranks - 1));
    }
}

static void gradients(int way)
{
    for (int m = 0; m < MACHINES; m++) {
        int good = 1, counts = 1;
        for (int round = 0; round < 30; round++) {
            const int32_t ranks = 1 + (int32_t)draw(RANKS);
            struct all a;
            uint64_t messages, bytes;
            int err = any_gradient(&a, way, ranks);
            a.machine = machines + m;
            if (!err)
                err = rondo__schedule_check(ranks, a.machine, back_at, &a);
            if (err && good)
                diag("%d ranks, %lld rows, round %d: %s", (int)ranks, (long long)a.design.rows, round, rondo_error_text());
            good &= !err;
            expect_gradients(&a, &messages, &bytes);
            if ((messages != a.messages || bytes != a.bytes) && counts)
                diag("%d ranks, %lld rows, %lld heads, round %d: %llu messages of %llu bytes, should be %llu of %llu", (int)ranks,
                     (long long)a.design.rows, (long long)a.design.desc.heads, round, (unsigned long long)a.messages, (unsigned long long)a.bytes,
                     (unsigned long long)messages, (unsigned long long)bytes);
            counts &= messages == a.messages && bytes == a.bytes;
            rondo__delta_backward_unbuild(&a.back);
            rondo__delta_design_free(&a.design);
        }
        ok(good, "gradients, %s, %s: schedules of all ranks pass", rondo_delta_way_name(way), machine_names[m]);
        ok(counts, "... messages and bytes are counted");
    }
}

static const struct fault faults[] = {
    { "a missing wait", drop_wait, 0 },
    { "a message of another size", change_size, 1 },
    { "a message to another rank", change_peer, 1 },
    { "a message that is not sent or not awaited", drop_part, 1 },
};

static void broken(void)
{
    for (size_t f = 0; f < sizeof faults / sizeof *faults; f++) {
        struct tally t = { 0, 0 };
        int bad = 0;
        for (int round = 0; round < 150; round++) {
            const int32_t ranks = 3 + (int32_t)draw(RANKS - 2);
            struct all a;
            int err = anything(&a, RONDO_DELTA_SERIAL + round % 5, ranks);
            if (err)
                exit(99);
            a.machine = machines + draw(MACHINES);
            a.planted = (struct planted){ faults + f, (int32_t)draw((uint32_t)ranks), draw(12), 0 };
            err = rondo__schedule_check(ranks, a.machine, at, &a);
            bad += missed(&t, &a.planted, err);
            rondo__delta_unbuild(&a.built);
            rondo__delta_design_free(&a.design);
        }
        for (int round = 0; round < 100; round++) {
            const int32_t ranks = 3 + (int32_t)draw(RANKS - 2);
            struct all a;
            int err = any_gradient(&a, RONDO_DELTA_SERIAL + round % 2, ranks);
            if (err)
                exit(99);
            a.machine = machines + draw(MACHINES);
            a.planted = (struct planted){ faults + f, (int32_t)draw((uint32_t)ranks), draw(12), 0 };
            err = rondo__schedule_check(ranks, a.machine, back_at, &a);
            bad += missed(&t, &a.planted, err);
            rondo__delta_backward_unbuild(&a.back);
            rondo__delta_design_free(&a.design);
        }
        ok(!bad, "none of those that always count is missed");
        faults_seen(&t, faults + f, 10);
    }
}

static void inside(void)
{
    static const int64_t shares[] = { 0, 70, 100 }, good[] = { 0, 64, 100 };
    rondo_delta_desc d = RONDO_DELTA_DESC_INIT;
    struct rondo__delta_design design;
    d.heads = d.key_dim = 1;
    d.tokens = 100;
    d.way = RONDO_DELTA_AFFINE;
    d.tile = 32;
    d.shares = shares;
    ok(rondo__delta_design(&design, &d, 2) == RONDO_EINVAL && strstr(rondo_error_text(), "shares[1] is 70, inside a tile"),
       "shares that end inside a tile are refused");
    rondo__delta_design_free(&design);
    d.shares = good;
    ok(!rondo__delta_design(&design, &d, 2), "... those that end with one are not");
    rondo__delta_design_free(&design);
}

/* What is taken where nobody asks for a way. */
static int32_t taken(int64_t heads, int64_t sequences, int64_t tokens, int32_t ranks)
{
    rondo_delta_desc d = RONDO_DELTA_DESC_INIT;
    struct rondo__delta_design design;
    d.heads = heads;
    d.key_dim = 128;
    d.sequences = sequences;
    d.tokens = tokens;
    d.initial_state = d.final_state = tokens == 1;
    const int32_t way = rondo__delta_design(&design, &d, ranks) ? -1 : design.desc.way;
    rondo__delta_design_free(&design);
    return way;
}

static void choices(void)
{
    ok(taken(32, 1, 65536, 1) == RONDO_DELTA_SERIAL, "one rank takes neither columns nor the pipeline");
    ok(taken(32, 1, 65536, 8) == RONDO_DELTA_PIPELINE, "32 heads on 8 ranks have stages enough for the pipeline");
    ok(taken(2, 1, 65536, 8) == RONDO_DELTA_COLUMNS, "2 heads do not: columns");
    ok(taken(2, 64, 1024, 8) == RONDO_DELTA_PIPELINE, "... but where sequences lie in ranks as wholes nothing moves in it");
    ok(taken(2, 1, 1, 8) == RONDO_DELTA_PIPELINE, "a single token stays where it is, and its state");
}

int main(void)
{
    inside();
    choices();
    grid(RONDO_DELTA_SERIAL);
    grid(RONDO_DELTA_PIPELINE);
    grid(RONDO_DELTA_AFFINE);
    grid(RONDO_DELTA_COLUMNS);
    grid(RONDO_DELTA_LEGACY);
    gradients(RONDO_DELTA_SERIAL);
    gradients(RONDO_DELTA_PIPELINE);
    broken();
    return done();
}
