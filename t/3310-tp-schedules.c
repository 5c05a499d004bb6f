/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The schedules of tensor parallelism, without running them: for every exchange, division and kind of machine those of all ranks together
 * pass the checker and move as many messages and bytes as arithmetic says; and schedules in which something was broken do not pass.
 */
#include "tensor/tokens.h"
#include "tensor/tp.h"
#define DRAW_STREAM 3310
#include "t/draw.h"
#include "t/schedules.h"
#include "t/tap.h"

enum { RANKS = 9, ROWS = 40, LEAVES = 32, MANY = 256 };
static const char *const kind_names[] = { "linear", "gather", "lookup", "to rows", "to columns", "tokens", "table", "entropy" };

struct all {
    struct rondo__tp_case c;
    int64_t begin[RANKS + 1], columns[RANKS + 1];
    int32_t owner[ROWS];
    int64_t moved[RANKS * RANKS];      /* of a table: tokens of one rank that name rows of another one */
    int32_t leaf_owner[LEAVES];        /* of tokens: of the first `c.leaves` leaves of two sequences, in turn */
    rondo_tokens *tokens;
    const struct rondo__machine *machine;
    struct rondo__tp_built built;
    uint64_t messages, bytes;
    struct planted planted;
};

static rondo_tokens *tokens_of(const struct all *a, int32_t rank)
{
    rondo_tokens_desc d = RONDO_TOKENS_DESC_INIT;
    rondo_span spans[LEAVES];
    int64_t counts[2 * MANY] = { 0 };
    int n = 0;
    for (int32_t r = 0; r < a->c.ranks; r++)
        for (int sequence = 0; sequence < 2; sequence++)
            for (int32_t i = sequence, rows = 0; i < a->c.leaves; i += 2)
                if (a->leaf_owner[i] == r) {
                    spans[n++] = (rondo_span){ i / 2 * RONDO_TOKEN_LEAF + 1, 3, 1, rows * 6 + sequence * 3 };
                    counts[r * 2 + sequence]++;
                    rows++;
                }
    rondo_tokens *t = NULL;
    d.sequences = 2;
    d.parts = a->c.ranks;
    d.part = rank;
    d.spans = spans;
    d.span_counts = counts;
    if (rondo_tokens_create(&t, &d))
        exit(99);
    return t;
}

static void leave(struct all *a)
{
    rondo__tp_unbuild(&a->built);
    rondo_tokens_destroy(a->tokens);
    a->tokens = NULL;
}

static int at(void *arg, int32_t rank, const struct rondo__schedule **out)
{
    struct all *a = arg;
    struct rondo__counts counts;
    leave(a);
    if (a->c.kind == RONDO_TP_TOKENS)
        a->c.tokens = a->tokens = tokens_of(a, rank);
    int err = rondo__tp_build(&a->built, &a->c, rank, a->machine);
    if (err)
        return err;
    if (a->c.kind == RONDO_TP_LOOKUP)
        rondo__tp_resize(&a->built, &a->c, rank, a->owner);
    if (a->c.kind == RONDO_TP_TABLE && a->c.ranks <= RANKS)
        rondo__tp_resize_table(&a->built, &a->c, rank, a->moved);
    rondo__schedule_count(&a->built.schedule, &counts);
    a->messages += counts.messages;
    a->bytes += counts.bytes;
    plant(&a->planted, &a->built.schedule, rank);
    *out = &a->built.schedule;
    return 0;
}

static void divide(int64_t *begin, int32_t ranks, int64_t total)
{
    double weights[RANKS], sum = 0.0;
    int64_t count;
    for (int32_t r = 0; r < ranks; r++)
        sum += weights[r] = (double)draw(3);
    weights[draw((uint32_t)ranks)] += sum > 0.0 ? 0.0 : 1.0;
    const bool equal = draw(2) != 0;
    for (int32_t r = 0; r < ranks; r++)
        if (rondo_share(total, ranks, equal ? NULL : weights, r, &begin[r], &count))
            exit(99);
    begin[ranks] = total;
}

static void anything(struct all *a, int32_t kind, int32_t ranks)
{
    struct rondo__tp_case *c = &a->c;
    *a = (struct all){ .c = { .kind = kind, .ranks = ranks, .few = draw(2) != 0, .add = draw(2) != 0, .bias = draw(2) != 0 } };
    c->leaves = 1 + (int32_t)draw(20);
    c->in = (int64_t)c->leaves + draw(100);
    c->rows = 1 + draw(ROWS);
    c->width = 1 + draw(60);
    c->row_bytes = c->width * (draw(2) ? 2 : 4);
    c->begin = a->begin;
    if (kind == RONDO_TP_ENTROPY) {
        c->few = 1;
        c->width = RONDO_TP_ENTROPY_WIDTH;
    }
    divide(a->begin, ranks, kind == RONDO_TP_LINEAR || kind == RONDO_TP_ENTROPY ? c->leaves : kind == RONDO_TP_LOOKUP ? 100 : c->rows);
    if (kind == RONDO_TP_TO_ROWS || kind == RONDO_TP_TO_COLUMNS) {
        c->few = 0;
        divide(a->columns, ranks, c->width);
        c->columns = a->columns;
    }
    if (kind == RONDO_TP_GATHER) {
        c->few = 0;
        c->begin = NULL;
    }
    if (kind == RONDO_TP_TABLE) {
        c->few = 0;
        divide(a->columns, ranks, 30);
        c->columns = a->columns;
        for (int32_t r = 0; r < ranks; r++)
            for (int64_t i = a->begin[r]; i < a->begin[r + 1]; i++)
                for (int32_t to = (int32_t)draw((uint32_t)ranks);; to = (to + 1) % ranks)
                    if (a->columns[to] < a->columns[to + 1]) {
                        a->moved[r * ranks + to]++;
                        break;
                    }
    }
    for (int32_t i = 0; i < LEAVES; i++)
        a->leaf_owner[i] = (int32_t)draw((uint32_t)ranks);
    if (kind == RONDO_TP_TOKENS)
        c->begin = NULL;
    for (int64_t i = 0; i < c->rows; i++)
        do
            a->owner[i] = (int32_t)draw((uint32_t)ranks);
        while (kind == RONDO_TP_LOOKUP && a->begin[a->owner[i]] == a->begin[a->owner[i] + 1]);
}

/* What all ranks together send. */
static void expect(const struct all *a, uint64_t *messages, uint64_t *bytes)
{
    const struct rondo__tp_case *c = &a->c;
    *messages = *bytes = 0;
    for (int32_t from = 0; from < c->ranks; from++)
        for (int32_t to = 0; to < c->ranks; to++) {
            int64_t first, kept, mine, rows = 0, parts = 1, size;
            if (from == to)
                continue;
            rondo__tp_kept(c, to, &first, &kept);
            switch (c->kind) {
            case RONDO_TP_LINEAR:
            case RONDO_TP_ENTROPY:
                parts = rondo__linear_nodes(c->leaves, (int32_t)a->begin[from], (int32_t)(a->begin[from + 1] - a->begin[from]));
                size = kept * c->width * 4;
                break;
            case RONDO_TP_TOKENS:
                parts = 0;
                for (int64_t i = 0; i < a->tokens->node_count; i++)
                    parts += a->tokens->nodes[i].part == from;
                size = kept * c->width * 4;
                break;
            case RONDO_TP_GATHER:
                rondo__tp_kept(c, from, &first, &mine);
                size = mine * c->width * 4;
                break;
            case RONDO_TP_TABLE:
                size = a->moved[from * c->ranks + to] * c->width * 4;
                break;
            case RONDO_TP_LOOKUP:
                for (int64_t i = first; i < first + kept; i++)
                    rows += a->owner[i] == from;
                size = rows * c->row_bytes;
                break;
            default: {
                const int32_t r = c->kind == RONDO_TP_TO_ROWS ? to : from, k = c->kind == RONDO_TP_TO_ROWS ? from : to;
                size = (a->begin[r + 1] - a->begin[r]) * (a->columns[k + 1] - a->columns[k]) * 4;
            }
            }
            *bytes += (uint64_t)(parts * size);
            *messages += size ? (c->kind == RONDO_TP_LINEAR || c->kind == RONDO_TP_TOKENS || c->kind == RONDO_TP_ENTROPY) && c->few ? parts > 0 : (uint64_t)parts : 0;
        }
}

static void grid(int32_t kind)
{
    for (int m = 0; m < MACHINES; m++) {
        int good = 1, counts = 1;
        for (int round = 0; round < 150; round++) {
            const int32_t ranks = 1 + (int32_t)draw(RANKS);
            struct all a;
            uint64_t messages, bytes;
            anything(&a, kind, ranks);
            a.machine = machines + m;
            int err = rondo__schedule_check(ranks, a.machine, at, &a);
            if (err && good)
                diag("%d ranks, %lld rows, round %d: %s", (int)ranks, (long long)a.c.rows, round, rondo_error_text());
            good &= !err;
            expect(&a, &messages, &bytes);
            if ((messages != a.messages || bytes != a.bytes) && counts)
                diag("%d ranks, %lld rows of %lld%s, round %d: %llu messages of %llu bytes, should be %llu of %llu", (int)ranks,
                     (long long)a.c.rows, (long long)a.c.width, a.c.few ? ", few" : "", round, (unsigned long long)a.messages,
                     (unsigned long long)a.bytes, (unsigned long long)messages, (unsigned long long)bytes);
            counts &= messages == a.messages && bytes == a.bytes;
            leave(&a);
        }
        ok(good, "%s, %s: schedules of all ranks pass", kind_names[kind], machine_names[m]);
        ok(counts, "%s, %s: and move what they should", kind_names[kind], machine_names[m]);
    }
}

/* ---- broken ones ---- */

static int drop_fence(struct rondo__schedule *s, uint32_t which)
{
    struct rondo__operation *o = s->operations.count ? rondo__operation_at(s, s->operations.count - 1) : NULL;
    (void)which;
    if (!o || o->kind != RONDO_FENCE)
        return 0;
    s->operations.count--;
    return 1;
}

/* What is done last with what has come, or was made: it is not. */
static int drop_work(struct rondo__schedule *s, uint32_t which)
{
    (void)which;
    for (int64_t i = s->operations.count - 1; i >= 0; i--) {
        struct rondo__operation *o = rondo__operation_at(s, i);
        if (o->kind == RONDO_TRANSFER || o->kind == RONDO_FENCE || !o->uses)
            continue;
        if (o->kind == RONDO_COMPUTE && o->first != RONDO_TP_JOIN && o->first != RONDO_TP_CONVERT)
            return 0;   /* this rank keeps nothing */
        o->uses = 0;
        return 1;
    }
    return 0;
}

static void broken(void)
{
    static const struct {
        struct fault fault;
        int machine;                   /* -1: any */
    } kinds[] = { { { "a wait left out", drop_wait, 0 }, -1 }, { { "the fence left out", drop_fence, 1 }, IN_PLACE },
                  { { "a message one byte shorter", change_size, 1 }, -1 }, { { "a message to somebody else", change_peer, 1 }, -1 },
                  { { "a message left out", drop_part, 1 }, -1 }, { { "the last work left out", drop_work, 1 }, COPIED } };
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        struct tally tally = { 0 };
        for (int round = 0; round < 300; round++) {
            const int32_t ranks = 3 + (int32_t)draw(6);
            struct all a;
            anything(&a, (int32_t)draw(RONDO_TP_KINDS), ranks);
            a.c.add = 0;   /* or nobody sees whether y is another one */
            a.machine = machines + (kinds[k].machine < 0 ? (int)draw(MACHINES) : kinds[k].machine);
            a.planted = (struct planted){ &kinds[k].fault, (int32_t)draw((uint32_t)ranks), draw(4), 0 };
            int err = rondo__schedule_check(ranks, a.machine, at, &a);
            if (missed(&tally, &a.planted, err))
                diag("not seen: %s, round %d, %s%s, rank %d of %d", kinds[k].fault.what, round, kind_names[a.c.kind], a.c.few ? ", few" : "",
                     (int)a.planted.rank, (int)ranks);
            leave(&a);
        }
        faults_seen(&tally, &kinds[k].fault, 20);
    }
}

/* ---- many ranks ---- */

static void many(void)
{
    static int64_t begin[MANY + 1], columns[MANY + 1];
    for (int32_t kind = 0; kind < RONDO_TP_KINDS; kind++) {
        struct all a = { .c = { .kind = kind, .ranks = MANY, .few = kind == RONDO_TP_LINEAR || kind == RONDO_TP_ENTROPY, .leaves = 32, .in = 4096, .rows = ROWS,
                                .width = 4096, .row_bytes = 8192, .begin = begin, .columns = columns }, .machine = &machines[COPIED] };
        int64_t count;
        for (int32_t r = 0; r < MANY; r++) {
            const int64_t total = kind == RONDO_TP_LINEAR || kind == RONDO_TP_ENTROPY ? 32 : kind == RONDO_TP_LOOKUP ? 32000 : ROWS;
            if (rondo_share(total, MANY, NULL, r, &begin[r], &count) || rondo_share(4096, MANY, NULL, r, &columns[r], &count))
                exit(99);
            begin[r + 1] = total;
            columns[r + 1] = 4096;
        }
        for (int i = 0; i < ROWS; i++)
            a.owner[i] = (int32_t)draw(MANY);
        for (int i = 0; i < LEAVES; i++)
            a.leaf_owner[i] = (int32_t)draw(MANY);
        struct rondo__counts one;
        uint64_t sum = 0;
        int err = rondo__schedule_check(MANY, a.machine, at, &a);
        ok(!err && a.bytes > 0, "%s among %d ranks: %llu messages of %llu bytes%s%s", kind_names[kind], MANY, (unsigned long long)a.messages,
           (unsigned long long)a.bytes, err ? ", " : "", err ? rondo_error_text() : "");
        for (int32_t r = 0; r < MANY && !err && kind != RONDO_TP_LOOKUP; r++) {   /* whose messages only a call knows */
            err = rondo__tp_count(&a.c, r, a.machine, &one);
            sum += one.bytes;
        }
        ok(!err && (sum == a.bytes || kind == RONDO_TP_LOOKUP), "as the counts of all ranks say, without running anything");
        leave(&a);
    }
}

/* ---- sizes beyond memory ---- */

static void beyond(void)
{
    static const int64_t begin[3] = { 0, 1, 2 };
    for (int32_t kind = 0; kind < RONDO_TP_KINDS; kind++) {
        const struct rondo__tp_case c = { .kind = kind, .ranks = 2, .rows = INT64_MAX / 8, .width = INT32_MAX, .in = 2, .leaves = 2,
                                          .row_bytes = INT32_MAX, .begin = begin, .columns = begin };
        struct rondo__tp_built built = { 0 };
        int err = rondo__tp_build(&built, &c, 0, &machines[IN_PLACE]);
        if (kind < RONDO_TP_TO_ROWS)
            is_int(err, RONDO_EINVAL, "%s, more than memory holds: %s", kind_names[kind], err ? rondo_error_text() : "made");
        rondo__tp_unbuild(&built);
    }
}

int main(void)
{
    for (int32_t kind = 0; kind < RONDO_TP_KINDS; kind++)
        grid(kind);
    broken();
    many();
    beyond();
    return done();
}
