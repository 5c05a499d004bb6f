/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Schedules of gradients, without running them: for every layout, mask and kind of machine those of all ranks together pass the checker, move what
 * each of them says that all move, and compute every pair once for its query and once for its key, on the rank that has it; and a schedule in
 * which something was broken does not pass.
 */
#include "attention/backward.h"
#define DRAW_STREAM 1305
#include "t/draw.h"
#include "t/schedules.h"
#include "t/tap.h"

enum { RANKS = 9, SEQUENCES = 3, DOCUMENTS = 2500 };

struct all {
    struct rondo__design design;
    struct rondo__backward_part part;
    struct rondo__backward_way way;
    uint64_t messages, bytes, said_messages, said_bytes, queries, keys;
    int apart, elsewhere, beyond;      /* ranks that say something else of all; that compute something else; leaves, places out of their bounds */
    uint64_t biased;                   /* rows of queries by keys of which jobs make the bias's gradient */
    struct planted planted;
};

static int places_wrong(const struct rondo__backward_part *p, const rondo_attention_desc *d, int64_t first, int64_t n, int64_t rows, int queries, int64_t heads)
{
    if (first < 0)
        return 0;
    const struct rondo_backward_place *place = (const struct rondo_backward_place *)p->places.items + first + n;
    const struct rondo__backward_store *store = (const struct rondo__backward_store *)p->node_buffers.items + place->buffer;
    const int64_t end = place->at + heads * (rows * (queries ? d->head_dim : d->head_dim + d->value_dim) + 1);
    return first + n >= p->places.count || place->buffer >= p->node_buffers.count || (size_t)end * sizeof(float) > store->bytes ||
           store->bytes > rondo__buffer_at(&p->schedule, store->buffer)->bytes;
}

/* Every leaf of a job lies among the rows that its source has here, and in its buffers; places lie in theirs. */
static int beyond(const struct all *a)
{
    const struct rondo__backward_part *p = &a->part;
    const rondo_attention_desc *d = &a->design.desc;
    const struct rondo__backward_source *source = p->sources.items;
    const struct rondo_backward_leaf *leaves = p->leaves.items;
    const size_t key = (size_t)p->heads.kv_heads * (size_t)d->head_dim * rondo_type_size(d->kv_type);
    const size_t query = (size_t)p->heads.heads * (size_t)d->value_dim * rondo_type_size(d->out_type);
    const size_t all_keys = (size_t)d->kv_heads * (size_t)d->head_dim * rondo_type_size(d->kv_type);
    const size_t all_queries = (size_t)d->heads * (size_t)d->value_dim * rondo_type_size(d->out_type);
    int wrong = 0;
    for (int64_t i = 0; i < p->jobs.count; i++) {
        const struct rondo_backward_job *job = (const struct rondo_backward_job *)p->jobs.items + i;
        for (int side = 0; side < 2; side++) {
            const int64_t first = side ? job->keys_first : job->queries_first;
            for (int64_t n = first; n < first + (side ? job->keys : job->queries); n++) {
                if (leaves[n].source < 0) {   /* of a bias, what nobody sees */
                    wrong += !side || job->what != RONDO_BACKWARD_BIAS;
                    continue;
                }
                const struct rondo__backward_source *s = source + leaves[n].source;
                const int whole = leaves[n].source >= a->design.ranks;
                const int32_t buffer = side ? s->key[0] : s->query[1];
                const int64_t rows = side ? s->key_rows : s->query_rows;
                wrong += leaves[n].row < 0 || leaves[n].row + leaves[n].count > rows || buffer < 0 ||
                         rondo__buffer_at(&p->schedule, buffer)->bytes < (size_t)rows * (side ? whole ? all_keys : key : whole ? all_queries : query);
                wrong += (whole != 0) != (i >= p->dealt);
                wrong += n > first && leaves[n].leaf < leaves[n - 1].leaf;
                wrong += places_wrong(p, d, side ? job->key_places : job->query_places, n - first, leaves[n].count, !side,
                                      !side || !(job->what & RONDO_BACKWARD_HEADS) ? p->heads.heads : p->heads.kv_heads);
            }
        }
    }
    return wrong;
}

/* Elements of the bias's gradient that a rank's jobs make. */
static uint64_t biased(const struct rondo__backward_part *p)
{
    const struct rondo_backward_job *job = p->jobs.items;
    const struct rondo_backward_leaf *leaf = p->leaves.items;
    uint64_t all = 0;
    for (int64_t i = 0; i < p->jobs.count; i++) {
        uint64_t rows = 0, columns = 0;
        for (int32_t n = 0; n < job[i].queries && job[i].what & RONDO_BACKWARD_BIAS; n++)
            rows += (uint64_t)leaf[job[i].queries_first + n].count;
        for (int32_t n = 0; n < job[i].keys; n++)
            columns += (uint64_t)leaf[job[i].keys_first + n].count;
        all += rows * columns;
    }
    return all;
}

static int at(void *arg, int32_t rank, const struct rondo__schedule **out)
{
    struct all *a = arg;
    struct rondo__counts counts;
    int err = rondo__backward_build(&a->design, &a->way, rank, &a->part);
    double flops = 0.0, work = 0.0;
    if (!err)
        err = rondo__backward_work(&a->design, &a->way, rank, &work);
    if (err)
        return err;
    const struct rondo__schedule *s = &a->part.schedule;
    rondo__schedule_count(s, &counts);
    a->messages += counts.messages;
    a->bytes += counts.bytes;
    a->apart += rank && (a->part.messages != a->said_messages || a->part.bytes != a->said_bytes);
    a->said_messages = a->part.messages;
    a->said_bytes = a->part.bytes;
    for (int64_t i = 0; i < s->operations.count; i++) {
        const struct rondo__operation *o = rondo__operation_at(s, i);
        const uint64_t both = rondo__backward_pairs(&a->design, &a->part, o, RONDO_BACKWARD_QUERIES | RONDO_BACKWARD_KEYS);
        a->queries += both + rondo__backward_pairs(&a->design, &a->part, o, RONDO_BACKWARD_QUERIES);
        a->keys += both + rondo__backward_pairs(&a->design, &a->part, o, RONDO_BACKWARD_KEYS);
        flops += rondo__backward_flops(&a->design, &a->part, o);
    }
    a->biased += biased(&a->part);
    a->elsewhere += flops != work;
    a->beyond += beyond(a);
    plant(&a->planted, &a->part.schedule, rank);
    *out = s;
    return 0;
}

static int32_t documents[DOCUMENTS];

static int anything(struct all *a, int32_t ranks, const struct rondo__machine *machine)
{
    static int32_t owners[1000];
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
    int64_t tokens[SEQUENCES], cached[SEQUENCES];
    static const int32_t algorithms[] = { RONDO_ALGORITHM_AUTO, RONDO_ALL_GATHER, RONDO_HALO, RONDO_ALL_TO_ALL, RONDO_PASS_KV, RONDO_PASS_Q, RONDO_MESH };
    *a = (struct all){ .said_bytes = 0 };
    d.gradients = 1;
    d.kv_heads = 1 + draw(3);
    d.heads = d.kv_heads * (1 + draw(3));
    d.head_dim = draw(2) ? 8 : 256;    /* small messages are copied */
    d.value_dim = 4 + draw(8);
    d.leaf = 8;
    d.layout = (int32_t)draw(7);
    d.causal = (int32_t)draw(2);
    d.sinks = (int32_t)draw(2);
    d.bias = draw(3) ? 0 : 1;
    d.algorithm = algorithms[draw(7)];
    if ((d.algorithm == RONDO_MESH || d.algorithm == RONDO_ALL_TO_ALL) && draw(2)) {
        d.grid[1] = (int32_t)draw((uint32_t)ranks) + 1;
        while (ranks % d.grid[1])
            d.grid[1]--;
        d.grid[0] = ranks / d.grid[1];
    }
    if (draw(2)) {
        d.windowed = 1;
        d.window_left = draw(3) ? (int64_t)draw(150) : -1;
        d.window_right = draw(2) ? (int64_t)draw(40) : -1;
    }
    d.sequences = 1 + draw(SEQUENCES);
    d.tokens_of = tokens;
    d.cached_of = cached;
    for (int64_t i = 0; i < d.sequences; i++) {
        tokens[i] = draw(3) ? draw(400) : draw(3);
        cached[i] = draw(3) ? draw(300) : draw(2) ? 0 : -(int64_t)draw((uint32_t)tokens[i] + 1);
    }
    if (draw(3) == 0) {
        for (int64_t k = 0, left = 0; k < DOCUMENTS; k++, left--) {
            left = left > 0 ? left : 1 + draw(90);
            documents[k] = left > 1 && k ? documents[k - 1] : (int32_t)draw(6);
        }
        d.documents = documents;
    }
    for (size_t i = 0; i < sizeof owners / sizeof *owners; i++)
        owners[i] = i && draw(3) ? owners[i - 1] : (int32_t)draw((uint32_t)ranks);
    d.owners = d.layout == RONDO_CUSTOM ? owners : NULL;
    int err = rondo__design_make(&a->design, &d, ranks, machine);
    return err ? err : rondo__backward_algorithm(&a->design, d.algorithm, &a->way);
}

static void forget(struct all *a)
{
    rondo__backward_way_free(&a->way);
    rondo__backward_part_free(&a->part);
    rondo__design_free(&a->design);
}

static void grid(void)
{
    for (int m = 0; m < MACHINES; m++) {
        int good = 1, counts = 1, pairs = 1, places = 1, bounds = 1, biases = 1, moving = 0;
        for (int round = 0; round < 60; round++) {
            const int32_t ranks = 1 + (int32_t)draw(RANKS);
            struct all a;
            int err = anything(&a, ranks, machines + m);
            if (!err)
                err = rondo__schedule_check(ranks, machines + m, at, &a);
            if (err && good)
                diag("%d ranks, %s, round %d: %s", (int)ranks, rondo_layout_name(a.design.desc.layout), round, rondo_error_text());
            good &= !err;
            if (!err) {
                const uint64_t there = rondo__design_pairs(&a.design) * (uint64_t)(a.design.desc.heads / a.design.mask.heads);
                uint64_t elements = 0;
                for (int64_t i = 0; i < a.design.sequences && a.design.desc.bias; i++)
                    elements += (uint64_t)a.design.tokens[i] * (uint64_t)a.design.length[i];
                biases &= a.biased == elements;
                counts &= a.messages == a.said_messages && a.bytes == a.said_bytes && !a.apart;
                pairs &= a.queries == there && a.keys == there;
                places &= !a.elsewhere;
                bounds &= !a.beyond;
                moving += a.messages != 0;
            }
            forget(&a);
        }
        ok(good, "%s: 60 plans for 1 to 9 ranks, each checked over all of them", machine_names[m]);
        ok(counts && moving > 30, "%s: what they send is what every rank says that all send", machine_names[m]);
        ok(pairs, "%s: each pair is looked at once for its query and once for its key", machine_names[m]);
        ok(places, "%s: on the rank that has the one, or the other", machine_names[m]);
        ok(biases, "%s: each element of a bias's gradient is made once", machine_names[m]);
        ok(bounds, "%s: leaves lie in what is there, by rising index", machine_names[m]);
    }
}

/* A computation comes before the rows that it is of. */
static int move_forward(struct rondo__schedule *s, uint32_t which)
{
    (void)which;
    for (int64_t i = 1; i < s->operations.count; i++) {
        struct rondo__operation *o = rondo__operation_at(s, i), *before = o - 1, moved;
        const struct rondo__part *parts = s->parts.items;
        int64_t receives = 0;
        for (int64_t j = 0; j < before->count && before->kind == RONDO_TRANSFER; j++)
            receives += parts[before->first + j].receives;
        if (o->kind != RONDO_COMPUTE || o->first != RONDO_BACKWARD_RUN || !receives)
            continue;
        moved = *o;
        *o = *before;
        *before = moved;
        return 1;
    }
    return 0;
}

/* Sums of rows are not made before they are sent. */
static int drop_sums(struct rondo__schedule *s, uint32_t which)
{
    (void)which;
    for (int64_t i = 0; i < s->operations.count; i++) {
        struct rondo__operation *o = rondo__operation_at(s, i);
        struct rondo__use *u = (struct rondo__use *)s->uses.items + o->uses_first;
        for (int32_t j = 0; j < o->uses && o->kind == RONDO_COMPUTE && o->first == RONDO_BACKWARD_SUM; j++)
            if (u[j].writes) {
                u[j].bytes = u[j].bytes / 2;
                return 1;
            }
    }
    return 0;
}

static void broken(void)
{
    static const struct fault kinds[] = { { "a wait left out", drop_wait, 0 },           { "a message one byte shorter", change_size, 1 },
                                          { "a message to somebody else", change_peer, 1 }, { "a message left out", drop_part, 1 },
                                          { "gradients before what they are made of", move_forward, 1 },
                                          { "rows sent without their sums", drop_sums, 1 } };
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        struct tally tally = { 0 };
        for (int round = 0; round < 60; round++) {
            const struct rondo__machine *machine = &machines[draw(MACHINES)];
            const int32_t ranks = 3 + (int32_t)draw(4);
            struct all a;
            if (anything(&a, ranks, machine)) {
                forget(&a);
                continue;
            }
            a.planted = (struct planted){ &kinds[k], (int32_t)draw((uint32_t)ranks), draw(6), 0 };
            const int err = rondo__schedule_check(ranks, machine, at, &a);
            if (missed(&tally, &a.planted, err))
                diag("not seen: %s, round %d, %s", kinds[k].what, round, rondo_layout_name(a.design.desc.layout));
            forget(&a);
        }
        faults_seen(&tally, &kinds[k], 5);
    }
}

int main(void)
{
    grid();
    broken();
    return done();
}
