/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Schedules, without running them: for every algorithm, layout, mask and kind of machine those of all ranks together must pass the
 * checker, move what the plan says, and compute every pair once; and a schedule in which something was broken must not pass.
 */
#include <stdlib.h>
#include <time.h>

#include "attention/attention.h"
#define DRAW_STREAM 1300
#include "t/draw.h"
#include "t/schedules.h"
#include "t/tap.h"

struct all {
    struct rondo__design *design;
    struct rondo__part_of part;
    uint64_t messages, bytes, pairs;
    uint64_t *of_rank;                 /* what the algorithm says that each rank computes */
    struct planted planted;
    int bounds, counts_pairs, elsewhere;
};

/* Places of nodes lie in their buffers, and keys come from parts that are there. */
static int places_fit(const struct rondo__design *d, const struct rondo__part_of *p)
{
    const size_t node = (size_t)p->heads * (size_t)d->shape.node_width * sizeof(float);
    int fit = 1;
    for (int64_t i = 0; i < p->schedule.operations.count; i++) {
        const struct rondo__operation *o = rondo__operation_at(&p->schedule, i);
        const int32_t *nodes = (const int32_t *)p->schedule.nodes.items + o->nodes_first;
        for (int64_t j = o->first; o->kind == RONDO_COMPUTE && !o->program && j < o->first + o->count; j++) {
            const struct rondo_job *job = (const struct rondo_job *)p->tables.jobs.items + j;
            const struct rondo_place *place = (const struct rondo_place *)p->tables.places.items + job->places_first;
            for (int32_t k = 0; k < job->places; k++) {
                const int32_t b = place[k].buffer < o->nodes ? nodes[place[k].buffer] : -1;
                fit &= b >= 0 && (size_t)(place[k].rows + job->q_rows) * node <= rondo__buffer_at(&p->schedule, b)->bytes;
            }
            const struct rondo__source *source = (const struct rondo__source *)p->schedule.sources.items + o->sources_first;
            const struct rondo_leaf *leaf = (const struct rondo_leaf *)p->tables.leaves.items + job->leaves_first;
            for (int32_t k = 0; k < job->leaves; k++)
                fit &= leaf[k].source < o->sources && source[leaf[k].source].k >= 0;
        }
    }
    return fit;
}

static int at(void *arg, int32_t rank, const struct rondo__schedule **out)
{
    struct all *a = arg;
    struct rondo__part_of *part = &a->part;
    struct rondo__counts counts;
    int err = rondo__design_build(a->design, rank, part);
    if (err)
        return err;
    rondo__schedule_count(&part->schedule, &counts);
    a->messages += counts.messages;
    a->bytes += counts.bytes;
    uint64_t pairs = 0;
    for (int64_t i = 0; i < part->schedule.operations.count && a->counts_pairs; i++) {
        const struct rondo__operation *o = rondo__operation_at(&part->schedule, i);
        if (o->kind == RONDO_COMPUTE && !o->program)
            pairs += rondo__operation_pairs(a->design, part, o);
    }
    a->pairs += pairs;
    a->elsewhere += a->of_rank && a->of_rank[rank] != pairs;
    a->bounds &= places_fit(a->design, part);
    plant(&a->planted, &part->schedule, rank);
    *out = &part->schedule;
    return 0;
}

/* Documents and bits of a plan: a few thousand keys, so that they are the same array for all. */
enum { DOCUMENTS = 8000, BITS_STRIDE = 2500 };
static int32_t documents[DOCUMENTS];
static uint8_t bits[(3 * 900 + 1) * BITS_STRIDE];

/* Layout custom: any leaf anywhere. */
static void own(rondo_attention_desc *d, int32_t ranks)
{
    static int32_t owners[1000];
    for (size_t i = 0; i < sizeof owners / sizeof *owners; i++)
        owners[i] = i && draw(3) ? owners[i - 1] : (int32_t)draw((uint32_t)ranks);
    d->owners = d->layout == RONDO_CUSTOM ? owners : NULL;
}

static void hide(rondo_attention_desc *d)
{
    const int again = draw(2) != 0, longest = draw(3) ? 200 : 3;
    if (draw(3) == 0) {
        for (int64_t k = 0, left = 0, id = 0; k < DOCUMENTS; k++, left--) {
            if (!left) {
                id = again ? draw(5) : id + 1;
                left = 1 + draw((uint32_t)longest);
            }
            documents[k] = (int32_t)id;
        }
        d->documents = documents;
    }
    if (draw(4) == 0) {   /* blocks of 32 by 64, a third of them hidden, a third seen, a third mixed */
        static int made;
        for (int64_t i = 0; i < (int64_t)sizeof bits && !made; i++) {
            const uint64_t block = rondo__mix64((uint64_t)(i / BITS_STRIDE / 32 * 1000 + i % BITS_STRIDE / 64));
            bits[i] = block % 3 == 0 ? 0 : block % 3 == 1 ? 1 : (uint8_t)(rondo__mix64((uint64_t)i) & 1);
        }
        made = 1;
        d->mask = bits + draw(100);
        d->mask_row_stride = BITS_STRIDE;
        d->mask_heads = draw(2) ? d->heads : 1;
        d->mask_head_stride = d->mask_heads > 1 ? 7 : 0;
    }
}

static void anything(rondo_attention_desc *d, int64_t *tokens, int64_t *cached)
{
    *d = (rondo_attention_desc)RONDO_ATTENTION_DESC_INIT;
    d->kv_heads = 1 + draw(3);
    d->heads = d->kv_heads * (1 + draw(3));
    d->head_dim = 8;
    d->value_dim = 4 + draw(8);
    d->leaf = 8;
    d->layout = (int32_t)draw(7);
    static const int32_t algorithms[] = { RONDO_PASS_KV, RONDO_PASS_Q, RONDO_ALL_GATHER, RONDO_HALO, RONDO_REDUCE, RONDO_MESH, RONDO_ALL_TO_ALL };
    d->algorithm = algorithms[draw(sizeof algorithms / sizeof *algorithms)];
    d->causal = (int32_t)draw(2);
    if (draw(2)) {
        d->windowed = 1;
        d->window_left = draw(3) ? (int64_t)draw(300) : -1;
        d->window_right = draw(2) ? (int64_t)draw(60) : -1;
    }
    d->head_groups = draw(3) ? 1 : (int32_t)d->kv_heads;
    d->probs = draw(5) == 0;
    d->sequences = 1 + draw(3);
    d->tokens_of = tokens;
    d->cached_of = cached;
    for (int64_t i = 0; i < d->sequences; i++) {
        tokens[i] = draw(3) ? draw(900) : draw(3);
        cached[i] = draw(3) ? draw(1500) : draw(2) ? 0 : -(int64_t)draw((uint32_t)tokens[i] + 1);
    }
    hide(d);
}

/* A grid of so many ranks, or the plan's own. */
static void any_grid(rondo_attention_desc *d, int32_t ranks)
{
    int32_t columns = 1 + (int32_t)draw((uint32_t)ranks);
    while (ranks % columns)
        columns++;
    if (d->algorithm == RONDO_ALL_TO_ALL)
        d->head_groups = 0;
    if ((d->algorithm != RONDO_MESH && d->algorithm != RONDO_ALL_TO_ALL) || draw(4) == 0)
        return;
    d->grid[0] = ranks / columns;
    d->grid[1] = columns;
}

static void grid(void)
{
    for (int m = 0; m < MACHINES; m++) {
        int good = 1, counts = 1, pairs = 1, places = 1, bounds = 1, direct = 0;
        for (int round = 0; round < 250; round++) {
            rondo_attention_desc desc;
            int64_t tokens[3], cached[3];
            struct rondo__design design;
            anything(&desc, tokens, cached);
            /* small messages go direct: large ones must be seen too */
            desc.head_dim *= draw(2) ? 1 : 64;
            const int32_t ranks = 1 + (int32_t)draw(9);
            any_grid(&desc, ranks);
            own(&desc, ranks);
            int err = rondo__design_make(&design, &desc, ranks, &machines[m]);
            if (err) {
                diag("%s", rondo_error_text());
                good = 0;
                continue;
            }
            uint64_t of_rank[9];
            struct all a = { .design = &design, .bounds = 1, .counts_pairs = 1, .of_rank = of_rank };
            good &= design.algorithm->pairs(&design.survey, &design.shape, of_rank);
            err = rondo__schedule_check(ranks, &machines[m], at, &a);
            if (err && good)
                diag("%d ranks, grid %d, %d, %s, %s, %d sequences, round %d: %s", (int)ranks, (int)desc.grid[0], (int)desc.grid[1],
                     rondo_layout_name(desc.layout), rondo_algorithm_name(desc.algorithm), (int)desc.sequences, round, rondo_error_text());
            good &= !err;
            const struct rondo__flow *flow = design.survey.flow;
            if ((a.messages != flow->messages * (uint64_t)design.groups || a.bytes != flow->bytes) && counts && !err) {
                diag("%llu messages of %llu bytes are sent, %llu of %llu are said", (unsigned long long)a.messages, (unsigned long long)a.bytes,
                     (unsigned long long)flow->messages * (unsigned long long)design.groups, (unsigned long long)flow->bytes);
                counts = 0;
            }
            const uint64_t there = rondo__design_pairs(&design) * (uint64_t)(desc.heads / design.mask.heads);
            if (a.pairs != there && pairs && !err) {
                diag("%llu pairs are computed, %llu are there", (unsigned long long)a.pairs, (unsigned long long)there);
                pairs = 0;
            }
            if (a.elsewhere && places && !err) {
                diag("%d ranks, %s, %s, round %d: %d compute other pairs than is said", (int)ranks, rondo_layout_name(desc.layout),
                     rondo_algorithm_name(desc.algorithm), round, a.elsewhere);
                places = 0;
            }
            bounds &= a.bounds;
            direct += flow->messages != 0;
            rondo__part_free(&a.part);
            rondo__design_free(&design);
        }
        ok(good, "%s: 250 plans for 1 to 9 ranks, each checked over all of them", machine_names[m]);
        ok(counts && direct > 50, "%s: what they send is what the plan says", machine_names[m]);
        ok(pairs, "%s: each pair of a query and a key that it sees is computed once by each head", machine_names[m]);
        ok(places, "%s: and on the rank that was said", machine_names[m]);
        ok(bounds, "%s: nodes lie where there is room for them, and keys come from what is there", machine_names[m]);
    }
}

/* ---- broken ones ---- */

/* Two transfers in the other order: what one rank sends first the other expects second. */
static int swap_transfers(struct rondo__schedule *s, uint32_t which)
{
    for (int64_t i = 0; i < s->operations.count; i++) {
        struct rondo__operation *a = rondo__operation_at(s, i);
        if (a->kind != RONDO_TRANSFER || which--)
            continue;
        for (int64_t j = i + 1; j < s->operations.count; j++) {
            struct rondo__operation *b = rondo__operation_at(s, j);
            if (b->kind != RONDO_TRANSFER || b->count != a->count || a->count < 2)
                continue;
            struct rondo__part *p = s->parts.items, moved;
            if (p[a->first].bytes == p[b->first].bytes || p[a->first].peer != p[b->first].peer || p[a->first].receives != p[b->first].receives)
                continue;
            for (int64_t k = 0; k < a->count; k++) {
                moved = p[a->first + k];
                p[a->first + k] = p[b->first + k];
                p[b->first + k] = moved;
            }
            return 1;
        }
    }
    return 0;
}

static int early_write(struct rondo__schedule *s, uint32_t which)
{
    for (int64_t i = s->operations.count - 1; i > 0; i--) {
        struct rondo__operation *o = rondo__operation_at(s, i);
        struct rondo__use *u = (struct rondo__use *)s->uses.items + o->uses_first;
        for (int32_t j = 0; j < o->uses; j++) {
            bool goes_on = false;   /* the next byte is one that the operation reads too */
            for (int32_t k = 0; k < o->uses; k++)
                goes_on |= !u[k].writes && u[k].buffer == u[j].buffer && u[k].at <= u[j].at + u[j].bytes &&
                           u[k].at + u[k].bytes > u[j].at + u[j].bytes;
            if (!u[j].writes && !goes_on && rondo__buffer_at(s, u[j].buffer)->owner == RONDO_OWNER_PLAN && !which--) {
                u[j].bytes++;   /* more than was written, or than there is */
                return 1;
            }
        }
    }
    return 0;
}

static void broken(void)
{
    static const struct fault kinds[] = { { "a wait left out", drop_wait, 0 }, { "a message one byte shorter", change_size, 1 },
                  { "a message to somebody else", change_peer, 1 }, { "a message left out", drop_part, 1 },
                  { "messages in another order", swap_transfers, 1 }, { "a byte read that nobody wrote", early_write, 1 } };
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        struct tally tally = { 0 };
        for (int round = 0; round < 200; round++) {
            rondo_attention_desc desc;
            int64_t tokens[3], cached[3];
            struct rondo__design design;
            anything(&desc, tokens, cached);
            desc.head_dim *= draw(2) ? 1 : 64;
            const struct rondo__machine *machine = &machines[draw(MACHINES)];
            const int32_t ranks = 3 + (int32_t)draw(4);
            any_grid(&desc, ranks);
            own(&desc, ranks);
            if (rondo__design_make(&design, &desc, ranks, machine))
                continue;
            struct all a = { .design = &design, .planted = { &kinds[k], (int32_t)draw((uint32_t)ranks), draw(6), 0 } };
            int err = rondo__schedule_check(ranks, machine, at, &a);
            if (missed(&tally, &a.planted, err))
                diag("not seen: %s, round %d, %s, %s", kinds[k].what, round, rondo_algorithm_name(desc.algorithm), rondo_layout_name(desc.layout));
            rondo__part_free(&a.part);
            rondo__design_free(&design);
        }
        faults_seen(&tally, &kinds[k], 5);
    }
}

/* ---- large ones ---- */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void large(void)
{
    const int all_ranks = getenv("RONDO_TEST_LONG") != NULL;
    static const int32_t algorithms[] = { RONDO_PASS_KV, RONDO_PASS_Q, RONDO_ALL_GATHER, RONDO_HALO, RONDO_REDUCE, RONDO_MESH,
                                          RONDO_ALL_TO_ALL };
    for (int layout = 1; layout <= 4; layout++)
        for (size_t which = 0; which < sizeof algorithms / sizeof *algorithms; which++) {
            const int32_t algorithm = algorithms[which], ranks = all_ranks ? 1024 : 96;
            rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
            struct rondo__design design;
            struct rondo__part_of part = { 0 };
            d.heads = 32;
            d.kv_heads = 8;
            d.head_dim = 128;
            d.tokens = all_ranks ? 10000000 : 1000000;
            d.causal = 1;
            d.layout = layout;
            d.algorithm = algorithm;
            double begin = now();
            int err = rondo__design_make(&design, &d, ranks, &machines[COPIED]);
            double designed = now();
            if (!err)
                err = rondo__design_build(&design, ranks / 3, &part);
            double built = now();
            ok(!err, "%s, %s, %d ranks, %lld tokens: a design in %.0f ms and a rank's schedule of %lld operations in %.1f ms",
               rondo_layout_name(layout), rondo_algorithm_name(algorithm), (int)ranks, (long long)d.tokens, 1e3 * (designed - begin),
               err ? 0LL : (long long)part.schedule.operations.count, 1e3 * (built - designed));
            if (err)
                continue;
            rondo__part_free(&part);
            struct all a = { .design = &design, .bounds = 1 };
            begin = now();
            err = rondo__schedule_check(ranks, &machines[COPIED], at, &a);
            const struct rondo__flow *flow = design.survey.flow;
            ok(!err && a.bytes == flow->bytes && a.messages == flow->messages * (uint64_t)design.groups,
               "and those of all ranks checked in %.1f s", now() - begin);
            if (err)
                diag("%s", rondo_error_text());
            rondo__part_free(&a.part);
            rondo__design_free(&design);
        }
}

/* A window: what travels is what queries see and do not hold. */
static void windows(void)
{
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
    struct rondo__design design;
    d.heads = 32;
    d.kv_heads = 8;
    d.head_dim = 128;
    d.tokens = 131072;
    d.windowed = 1;
    d.window_left = 4095;
    d.window_right = 0;
    d.layout = RONDO_ZIGZAG;
    d.algorithm = RONDO_PASS_KV;
    is_int(rondo__design_make(&design, &d, 8, &machines[COPIED]), 0, "131,072 tokens, 8 ranks, a window of 4,096");
    const struct rondo__flow *flow = design.survey.flow;
    /* by brute force: each rank's queries, the keys before them that are not its own */
    uint64_t rows = 0;
    for (int c = 1; c < 16; c++) {
        const int here = c < 8 ? c : 15 - c, before = c - 1 < 8 ? c - 1 : 16 - c;
        rows += here == before ? 0 : 4095;
    }
    ok((double)flow->bytes <= 1.05 * (double)(rows * 8 * 256 * 4), "%llu bytes travel; queries see %llu that others hold: %.3f",
       (unsigned long long)flow->bytes, (unsigned long long)(rows * 8 * 256 * 4), (double)flow->bytes / (double)(rows * 8 * 256 * 4));
    ok((double)flow->bytes / 8 < 70e6, "%.1f MB for each rank", (double)flow->bytes / 8e6);
    rondo__design_free(&design);
}

/* What a grid moves; columns 0: the plan's own choice, which *columns becomes. */
static uint64_t mesh_bytes(rondo_attention_desc *d, int32_t ranks, int32_t *columns)
{
    struct rondo__design design;
    d->grid[0] = *columns ? ranks / *columns : 0;
    d->grid[1] = *columns;
    if (rondo__design_make(&design, d, ranks, &machines[COPIED])) {
        diag("%s", rondo_error_text());
        return 0;
    }
    const struct rondo__flow *flow = design.survey.flow;
    const uint64_t bytes = flow->grid[0] * flow->grid[1] == ranks && (!*columns || flow->grid[1] == *columns) ? flow->bytes : 0;
    *columns = flow->grid[1];
    rondo__design_free(&design);
    return bytes;
}

/* A mesh: bytes a rank, against those of all other ranks' K and V; and what the plan chooses moves no more than any grid. */
static void mesh(void)
{
    static const struct {
        int32_t kv_heads, columns;
        double most;
    } marks[] = { { 32, 4, 0.45 }, { 8, 8, 0.70 } };
    static const int32_t ranks[] = { 6, 7, 12, 16, 24, 48 };
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
    d.heads = 32;
    d.head_dim = 128;
    d.causal = 1;
    d.algorithm = RONDO_MESH;
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++) {
        int32_t columns = marks[i].columns;
        d.kv_heads = marks[i].kv_heads;
        d.tokens = 131072;
        const uint64_t bytes = mesh_bytes(&d, 16, &columns);
        const double all = 15.0 * 131072 / 16 * (double)d.kv_heads * 256 * 4, part = (double)bytes / 16 / all;
        ok(bytes && part <= marks[i].most, "32/%d heads on a grid of %d, %d: a rank sends %.3f of all others' keys", (int)d.kv_heads,
           16 / (int)columns, (int)columns, part);
    }
    int good = 1, chosen = 0;
    for (int way = 0; way < 16; way++)
        for (size_t i = 0; i < sizeof ranks / sizeof *ranks; i++) {
            uint64_t least = UINT64_MAX;
            int32_t own = 0;
            d.kv_heads = way & 4 ? 8 : 32;
            d.layout = 1 + way % 4;
            d.windowed = way & 8 ? 1 : 0;
            d.window_left = d.windowed ? 4095 : 0;
            d.tokens = 64 * 128 * ranks[i];
            const uint64_t bytes = mesh_bytes(&d, ranks[i], &own);
            for (int32_t columns = 1; columns <= ranks[i]; columns++) {
                int32_t same = columns;
                const uint64_t other = ranks[i] % columns ? least : mesh_bytes(&d, ranks[i], &same);
                least = other < least ? other : least;
            }
            if (!bytes || bytes != least)
                diag("%d ranks, %s, way %d: %d columns move %llu bytes, others %llu", (int)ranks[i], rondo_layout_name(d.layout), way, (int)own,
                     (unsigned long long)bytes, (unsigned long long)least);
            good &= bytes && bytes == least;
            chosen += own > 1 && own < ranks[i];
        }
    ok(good && chosen > 10, "the plan's own grid is the least of all; a true grid in %d of 96", chosen);
}

/* ---- by hand ---- */

/* What a buffer holds comes in three parts by three transfers; a write from its beginning on is new content and waits for all before. Who reads
 * some parts waits for each of them, also where the last transfer brought none of all. */
static void parts_of_a_buffer(void)
{
    struct rondo__schedule s = { .fence = -1 };
    rondo__schedule_clear(&s, 0, 2, 1);
    const int32_t b = rondo__buffer_add(&s, (struct rondo__buffer){ .name = "in three parts", .index = -1, .tensor = -1, .bytes = 90, .room = 90,
                                                                    .home = -1, .over = -1 });
    static const struct { size_t at, bytes; int kind; int32_t waits; } parts[] = {
        { 0, 30, RONDO_TRANSFER, 0 }, { 30, 30, RONDO_TRANSFER, 1 }, { 60, 30, RONDO_TRANSFER, 1 },
        { 30, 60, RONDO_COMPUTE, 2 | 4 }, { 30, 30, RONDO_COMPUTE, 2 }, { 40, 10, RONDO_TRANSFER, 2 | 8 | 16 },
    };
    for (int32_t i = 0; i < (int32_t)(sizeof parts / sizeof *parts); i++) {
        rondo__schedule_begin(&s, parts[i].kind, (struct rondo__step){ "by hand", i, 0 }, 0);
        if (parts[i].kind == RONDO_TRANSFER)
            rondo__schedule_part(&s, b, parts[i].at, parts[i].bytes, 1, true);
        else
            rondo__schedule_use(&s, b, parts[i].at, parts[i].bytes, false);
        const struct rondo__operation *o = rondo__operation_at(&s, rondo__schedule_end(&s));
        int32_t waits = 0;
        for (int32_t j = 0; j < o->waits; j++)
            waits |= 1 << ((const int32_t *)s.waits.items)[o->waits_first + j];
        is_int(waits & parts[i].waits, parts[i].waits, "by hand: operation %d waits for whom it must", (int)i);
    }
    rondo__schedule_free(&s);
}

int main(void)
{
    parts_of_a_buffer();
    grid();
    mesh();
    broken();
    windows();
    large();
    return done();
}
