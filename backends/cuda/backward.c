/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Gradients of attention on the card: lists of a description, which go up once, and what a run binds to them. backward_tile.h and backward_rows.h have
 * the kernels.
 */
#include "backends/cuda/cuda.h"

#include <stdatomic.h>

struct rondo_backward {
    struct rondo_backward_desc desc;
    struct rondo__cuda_room lists;         /* all of them on the card */
    struct cuda_backward lies;             /* ... where they lie there, and what is the same in all runs */
    const struct cuda_back_item *items[2];
    int64_t *first[2];                     /* [job_count + 1]: the first one of a job; items of queries and heads, of keys and KV heads */
    int32_t *alike;                        /* [job_count], as `shared`: for a run's jobs with a gradient of the bias */
    struct cuda_back_shared *shared;
    int64_t stack_floats[2];               /* of a block */
    int64_t blocks[2];
};

/* ---- what this device has no kernels for ---- */

static int refuse(const struct rondo_backward_desc *d)
{
    if (d->leaf_size > 256)
        return rondo__cuda_fail(RONDO_ENOTSUP, "backward: leaves of %d keys; the cuda device has up to 256", (int)d->leaf_size);
    if (d->q_type == RONDO_Q8 || d->kv_type == RONDO_Q8 || d->out_type == RONDO_Q8)
        return rondo__cuda_fail(RONDO_ENOTSUP, "backward: the cuda device has gradients of F32, BF16 and F16, not of Q8");
    return 0;
}

/* ---- lists ---- */

struct list {
    char *data;
    size_t item;
    int64_t count, room;
};

static void *add(struct list *l, int64_t count)
{
    if (count > l->room - l->count) {
        const int64_t room = (l->count + count) * 2 + 16;
        char *larger = rondo__cuda_alloc((size_t)room, l->item);
        if (!larger)
            return NULL;
        if (l->count)
            memcpy(larger, l->data, (size_t)l->count * l->item);
        rondo__cuda_free(l->data);
        l->data = larger;
        l->room = room;
    }
    l->count += count;
    return l->data + (size_t)(l->count - count) * l->item;
}

enum { ROWS, LEAVES, JOBS, SIGHTS, QUERY_ITEMS, KEY_ITEMS, PLACES, JOINS, STEPS, VIEWS, BITS, LISTS };

static int no_memory(void) { return rondo__cuda_fail(RONDO_ENOMEM, "backward: no memory for the lists of a description"); }

/* Rows of a leaf's queries, and what they see together. */
static int add_sight(const struct rondo_backward_desc *d, struct list *lists, const struct rondo_backward_job *job, const struct rondo_backward_leaf *q)
{
    struct cuda_back_sight *sight = add(lists + SIGHTS, 1);
    struct cuda_row *row = add(lists + ROWS, q->count);
    if (!sight || !row)
        return no_memory();
    *sight = (struct cuda_back_sight){ INT64_MAX, INT64_MIN, lists[ROWS].count - q->count };
    for (int32_t i = 0; i < q->count; i++) {
        row[i].p = q->first + i;
        d->mask.kind->row(&d->mask, job->sequence, row[i].p, &row[i].lo, &row[i].hi);
        if (row[i].lo < row[i].hi) {
            sight->lo = row[i].lo < sight->lo ? row[i].lo : sight->lo;
            sight->hi = row[i].hi > sight->hi ? row[i].hi : sight->hi;
        }
    }
    return 0;
}

/* Where a mask has bits: what a leaf's queries see of a leaf of keys in a head. */
static int add_view(const struct rondo_backward_desc *d, struct list *lists, const struct rondo_backward_job *job, const struct cuda_back_sight *sight,
                    const struct rondo_backward_leaf *q, const struct rondo_backward_leaf *k, int32_t head)
{
    const struct cuda_row *row = (const struct cuda_row *)(const void *)lists[ROWS].data + sight->rows;
    int64_t *view = add(lists + VIEWS, 1);
    uint64_t(*bits)[4] = view ? add(lists + BITS, q->count) : NULL;
    bool all = true, none = true;
    if (!bits)
        return no_memory();
    for (int32_t i = 0; i < q->count; i++) {
        memset(bits[i], 0, sizeof bits[i]);
        if (row[i].hi <= k->first || row[i].lo >= k->first + k->count)
            continue;
        d->mask.kind->bits(&d->mask, job->sequence, d->head + head, row[i].p, k->first, 1, k->count, bits[i]);
        for (int32_t j = 0; j < k->count && (all || none); j++) {
            const bool one = bits[i][j / 64] >> (j % 64) & 1, inside = k->first + j >= row[i].lo && k->first + j < row[i].hi;
            all &= one || !inside;
            none &= !one;
        }
    }
    *view = none ? CUDA_VIEW_NONE : all ? CUDA_VIEW_ALL : lists[BITS].count - q->count;
    if (*view < 0)
        lists[BITS].count -= q->count;
    return 0;
}

static int add_items(struct list *list, int64_t job, int32_t leaves, int32_t heads)
{
    struct cuda_back_item *item = add(list, (int64_t)leaves * heads);
    if (!item)
        return no_memory();
    for (int32_t leaf = 0; leaf < leaves; leaf++)
        for (int32_t head = 0; head < heads; head++)
            *item++ = (struct cuda_back_item){ (int32_t)job, leaf, head, 0 };
    return 0;
}

static int add_job(struct rondo_backward *b, struct list *lists, int64_t number)
{
    const struct rondo_backward_desc *d = &b->desc;
    const struct rondo_backward_job *job = d->jobs + number;
    const struct rondo_backward_leaf *queries = d->leaves + job->queries_first, *keys = d->leaves + job->keys_first;
    const int32_t heads = d->mask.heads > 1 ? d->heads : 1;
    struct cuda_back_job *to = add(lists + JOBS, 1);
    int err = to ? 0 : no_memory();
    if (err)
        return err;
    *to = (struct cuda_back_job){ .sequence = job->sequence, .base = job->base, .cached = job->cached, .length = job->length,
                                  .queries_first = job->queries_first, .keys_first = job->keys_first, .sights = lists[SIGHTS].count,
                                  .views = d->mask.kind->bits ? lists[VIEWS].count : -1, .query_places = job->query_places, .key_places = job->key_places,
                                  .queries = job->queries, .keys = job->keys, .what = job->what };
    const int64_t sights = to->sights;
    for (int32_t n = 0; n < job->queries && !err; n++)
        err = add_sight(d, lists, job, queries + n);
    for (int32_t head = 0; head < heads && d->mask.kind->bits && !err; head++)
        for (int32_t n = 0; n < job->queries && !err; n++)
            for (int32_t k = 0; k < job->keys && !err; k++)
                err = add_view(d, lists, job, (const struct cuda_back_sight *)(const void *)lists[SIGHTS].data + sights + n, queries + n, keys + k, head);
    b->first[0][number] = lists[QUERY_ITEMS].count;
    b->first[1][number] = lists[KEY_ITEMS].count;
    if (!err && job->what & RONDO_BACKWARD_QUERIES)
        err = add_items(lists + QUERY_ITEMS, number, job->queries, d->heads);
    if (!err && job->what & RONDO_BACKWARD_KEYS)
        err = add_items(lists + KEY_ITEMS, number, job->keys, d->kv_heads);
    return err;
}

static int add_rest(const struct rondo_backward_desc *d, struct list *lists)
{
    struct cuda_back_leaf *leaf = add(lists + LEAVES, d->leaf_count);
    struct cuda_back_place *place = add(lists + PLACES, d->place_count);
    struct cuda_back_join *join = add(lists + JOINS, d->join_count);
    struct rondo_tree_step *step = add(lists + STEPS, d->step_count);
    if ((d->leaf_count && !leaf) || (d->place_count && !place) || (d->join_count && !join) || (d->step_count && !step))
        return no_memory();
    for (int64_t i = 0; i < d->leaf_count; i++)
        leaf[i] = (struct cuda_back_leaf){ d->leaves[i].leaf, d->leaves[i].first, d->leaves[i].row, d->leaves[i].count, d->leaves[i].source };
    for (int64_t i = 0; i < d->place_count; i++)
        place[i] = (struct cuda_back_place){ d->places[i].at, d->places[i].buffer, 0 };
    for (int64_t i = 0; i < d->join_count; i++) {
        const struct rondo_backward_join *j = d->joins + i;
        join[i] = (struct cuda_back_join){ j->steps_first, j->places_first, j->row, j->steps, j->count, j->queries, j->head, j->heads, j->group };
    }
    if (d->step_count)
        memcpy(step, d->steps, (size_t)d->step_count * sizeof *step);
    return 0;
}

static int upload(struct rondo_device *dev, struct rondo_backward *b, const struct list *lists)
{
    size_t bytes = 0, at = 0;
    const void *lies[LISTS];
    for (int i = 0; i < LISTS; i++)
        bytes += ((size_t)lists[i].count * lists[i].item + 15) / 16 * 16;
    int err = rondo__cuda_grow(dev, &b->lists, bytes + 16, "memory for the lists of gradients");
    for (int i = 0; i < LISTS && !err; i++) {
        err = rondo__cuda_put(dev, b->lists.memory + at, lists[i].data, (size_t)lists[i].count * lists[i].item);
        lies[i] = (const void *)(uintptr_t)(b->lists.memory + at);
        at += ((size_t)lists[i].count * lists[i].item + 15) / 16 * 16;
    }
    if (err)
        return err;
    b->lies.rows = lies[ROWS];
    b->lies.leaves = lies[LEAVES];
    b->lies.jobs = lies[JOBS];
    b->lies.sights = lies[SIGHTS];
    b->items[0] = lies[QUERY_ITEMS];
    b->items[1] = lies[KEY_ITEMS];
    b->lies.places = lies[PLACES];
    b->lies.joins = lies[JOINS];
    b->lies.steps = lies[STEPS];
    b->lies.views = lies[VIEWS];
    b->lies.bits = lies[BITS];
    return 0;
}

/* Nodes that wait at most in a tree over numbers up to `last`. */
static int64_t levels(int64_t last)
{
    int64_t n = 1;
    for (; last > 0; last >>= 1)
        n++;
    return n;
}

/* Of both kernels: floats of a block's stack, and blocks. */
static void measure(struct rondo_device *dev, struct rondo_backward *b)
{
    const struct rondo_backward_desc *d = &b->desc;
    const int64_t a = (d->head_dim + CUDA_COLUMNS - 1) / CUDA_COLUMNS, v = (d->value_dim + CUDA_COLUMNS - 1) / CUDA_COLUMNS;
    int64_t queries = 0, keys = 0;
    for (int64_t i = 0; i < d->job_count; i++) {
        const struct rondo_backward_job *job = d->jobs + i;
        const int64_t q = job->queries ? d->leaves[job->queries_first + job->queries - 1].leaf : 0;
        const int64_t k = job->keys ? d->leaves[job->keys_first + job->keys - 1].leaf : 0;
        const int64_t of_keys = levels(k) < job->keys + 1 ? levels(k) : job->keys + 1, of_queries = levels(q) < job->queries + 1 ? levels(q) : job->queries + 1;
        queries = of_keys > queries ? of_keys : queries;
        keys = of_queries > keys ? of_queries : keys;
    }
    b->stack_floats[0] = queries * a * CUDA_TILE * CUDA_COLUMNS;
    b->stack_floats[1] = (keys + levels(d->kv_heads ? d->heads / d->kv_heads - 1 : 0) + 1) * (a + v) * CUDA_TILE * CUDA_COLUMNS;
    for (int i = 0; i < 2; i++) {
        const int64_t blocks = rondo__cuda_blocks(dev, i ? KERNEL_rondo_cuda_back_keys : KERNEL_rondo_cuda_back_queries, CUDA_BACK_BYTES);
        b->blocks[i] = b->first[i][d->job_count] < blocks ? b->first[i][d->job_count] : blocks;
    }
}

size_t rondo__cuda_backward_scratch(const struct rondo_device *dev, const struct rondo_backward *b)
{
    const int64_t queries = b->stack_floats[0] * b->blocks[0], keys = b->stack_floats[1] * b->blocks[1];
    (void)dev;
    return (size_t)(queries > keys ? queries : keys) * sizeof(float);
}

int rondo__cuda_backward_new(struct rondo_device *dev, struct rondo_backward **out, const struct rondo_backward_desc *desc)
{
    struct list lists[LISTS] = {
        [ROWS].item = sizeof(struct cuda_row), [LEAVES].item = sizeof(struct cuda_back_leaf), [JOBS].item = sizeof(struct cuda_back_job),
        [SIGHTS].item = sizeof(struct cuda_back_sight), [QUERY_ITEMS].item = sizeof(struct cuda_back_item), [KEY_ITEMS].item = sizeof(struct cuda_back_item),
        [PLACES].item = sizeof(struct cuda_back_place), [JOINS].item = sizeof(struct cuda_back_join), [STEPS].item = sizeof(struct rondo_tree_step),
        [VIEWS].item = sizeof(int64_t), [BITS].item = 4 * sizeof(uint64_t),
    };
    *out = NULL;
    int err = refuse(desc);
    if (!err)
        err = rondo__cuda_enter(dev);
    struct rondo_backward *b = err ? NULL : rondo__cuda_alloc(1, sizeof *b);
    if (!b)
        return err ? err : no_memory();
    b->desc = *desc;
    for (int i = 0; i < 2; i++)
        b->first[i] = rondo__cuda_alloc((size_t)desc->job_count + 1, sizeof *b->first[i]);
    b->alike = rondo__cuda_alloc((size_t)desc->job_count + 1, sizeof *b->alike);
    b->shared = rondo__cuda_alloc((size_t)desc->job_count + 1, sizeof *b->shared);
    if (!b->first[0] || !b->first[1] || !b->alike || !b->shared || desc->job_count > INT32_MAX)
        err = no_memory();
    if (!err)
        err = add_rest(desc, lists);
    for (int64_t i = 0; i < desc->job_count && !err; i++)
        err = add_job(b, lists, i);
    if (!err) {
        b->first[0][desc->job_count] = lists[QUERY_ITEMS].count;
        b->first[1][desc->job_count] = lists[KEY_ITEMS].count;
        b->lies = (struct cuda_backward){ .terms = desc->terms, .scale_log2 = desc->scale_log2, .scale = desc->scale, .heads = desc->heads,
                                          .kv_heads = desc->kv_heads, .head = desc->head, .kv_head = desc->kv_head, .all_heads = desc->all_heads,
                                          .all_kv_heads = desc->all_kv_heads, .bias_heads = desc->bias_heads > 1 ? desc->bias_heads : 1,
                                          .mask_heads = desc->mask.heads, .head_dim = desc->head_dim, .value_dim = desc->value_dim, .q_type = desc->q_type,
                                          .kv_type = desc->kv_type, .out_type = desc->out_type, .leaf_size = desc->leaf_size };
        err = upload(dev, b, lists);
    }
    if (!err) {
        measure(dev, b);
        err = rondo__cuda_grow(dev, &dev->stack, rondo__cuda_backward_scratch(dev, b), "scratch for gradients of attention");
    }
    for (int i = 0; i < LISTS; i++)
        rondo__cuda_free(lists[i].data);
    if (err)
        rondo__cuda_backward_free(dev, b);
    else
        *out = b;
    return err;
}

void rondo__cuda_backward_free(struct rondo_device *dev, struct rondo_backward *b)
{
    if (!b)
        return;
    (void)dev->driver->cuCtxSetCurrent(dev->context);
    rondo__cuda_give(dev, &b->lists);
    rondo__cuda_free(b->first[0]);
    rondo__cuda_free(b->first[1]);
    rondo__cuda_free(b->alike);
    rondo__cuda_free(b->shared);
    rondo__cuda_free(b);
}

/* ---- a run ---- */

/* Whether two sequences have the same rows and columns of dbias: those of query 0 and key 0. */
static bool shares(const struct rondo_backward_run *run, const struct rondo_backward_job *a, const struct rondo_backward_job *b)
{
    return run->dbias_row[a->sequence] + a->cached == run->dbias_row[b->sequence] + b->cached && run->dbias_key[a->sequence] == run->dbias_key[b->sequence];
}

/* Fills `alike` and `shared`. Returns how many of the latter there are; *taken: of the former; *items: of all. */
static int32_t find_shared(const struct rondo_backward *b, const struct rondo_backward_run *run, int64_t *taken, int64_t *items)
{
    const struct rondo_backward_desc *d = &b->desc;
    int32_t count = 0;
    *taken = *items = 0;
    for (int64_t i = run->first; i < run->first + run->count && run->dbias.data; i++) {
        const struct rondo_backward_job *job = d->jobs + i;
        bool known = !(job->what & RONDO_BACKWARD_BIAS);
        for (int32_t j = 0; j < count && !known; j++)
            known = shares(run, d->jobs + b->alike[b->shared[j].first], job);
        if (known)
            continue;
        struct cuda_back_shared *s = b->shared + count++;
        *s = (struct cuda_back_shared){ .first = *taken };
        for (int64_t j = i; j < run->first + run->count; j++) {
            const struct rondo_backward_job *other = d->jobs + j;
            if (!(other->what & RONDO_BACKWARD_BIAS) || !shares(run, job, other))
                continue;
            b->alike[(*taken)++] = (int32_t)j;
            if (other->tokens > d->jobs[b->alike[s->first + s->longest]].tokens)
                s->longest = s->count;
            if (other->keys > d->jobs[b->alike[s->first + s->widest]].keys)
                s->widest = s->count;
            s->columns = other->length > s->columns ? other->length : s->columns;
            s->count++;
        }
        s->keys = d->jobs[b->alike[s->first + s->widest]].keys;
        s->items = (int64_t)d->jobs[b->alike[s->first + s->longest]].queries * s->keys * b->lies.bias_heads;
        *items += s->items;
    }
    return count;
}

/* Where the run's data lies: all lists in one upload. */
static int gather(struct rondo_device *dev, const struct rondo_backward *b, const struct rondo_backward_run *run, cu_stream stream,
                  const struct rondo_poll *poll, struct cuda_backward *c,
                  int64_t *bias_items, struct rondo__cuda_slot **out)
{
    const struct rondo_backward_desc *d = &b->desc;
    int64_t taken = 0;
    cu_pointer at;
    *bias_items = 0;
    c->shared_count = d->job_count ? find_shared(b, run, &taken, bias_items) : 0;
    const size_t bytes = (size_t)(run->query_count + run->key_count) * sizeof(struct cuda_back_source) + (size_t)run->node_count * sizeof(float *) +
                         (size_t)run->count * 2 * sizeof(int64_t) + (size_t)taken * sizeof(int32_t) + (size_t)c->shared_count * sizeof *b->shared + 16 * 8;
    int err = rondo__cuda_slot_take(dev, poll, bytes, out);
    if (err)
        return err;
    struct cuda_back_source *source = rondo__cuda_slot_add(*out, (size_t)run->query_count * sizeof *source, &at);
    c->queries = (const void *)(uintptr_t)at;
    for (int32_t i = 0; i < run->query_count; i++)
        source[i] = (struct cuda_back_source){ run->queries[i].q, run->queries[i].dout, run->queries[i].lse, run->queries[i].sums,
                                               rondo__cuda_grain(run->queries[i].q, d->head_dim * rondo__cuda_size(d->q_type), 0, 0),
                                               rondo__cuda_grain(run->queries[i].dout, d->value_dim * rondo__cuda_size(d->out_type), 0, 0) };
    source = rondo__cuda_slot_add(*out, (size_t)run->key_count * sizeof *source, &at);
    c->keys = (const void *)(uintptr_t)at;
    for (int32_t i = 0; i < run->key_count; i++)
        source[i] = (struct cuda_back_source){ run->keys[i].k, run->keys[i].v, NULL, NULL,
                                               rondo__cuda_grain(run->keys[i].k, d->head_dim * rondo__cuda_size(d->kv_type), 0, 0),
                                               rondo__cuda_grain(run->keys[i].v, d->value_dim * rondo__cuda_size(d->kv_type), 0, 0) };
    float **nodes = rondo__cuda_slot_add(*out, (size_t)run->node_count * sizeof *nodes, &at);
    c->nodes = (float *const *)(uintptr_t)at;
    for (int32_t i = 0; i < run->node_count; i++)
        nodes[i] = run->nodes[i].data;
    int64_t *bias_at = rondo__cuda_slot_add(*out, (size_t)run->count * sizeof *bias_at, &at);
    c->bias_at = (const int64_t *)(uintptr_t)at;
    int64_t *dbias_at = rondo__cuda_slot_add(*out, (size_t)run->count * sizeof *dbias_at, &at);
    c->dbias_at = (const int64_t *)(uintptr_t)at;
    for (int64_t i = 0; i < run->count && d->job_count; i++) {
        const int64_t s = d->jobs[run->first + i].sequence;
        bias_at[i] = d->terms.bias ? run->bias_row[s] * run->bias.row_stride + (run->bias_key ? run->bias_key[s] : 0) + d->head * run->bias.head_stride : 0;
        dbias_at[i] = run->dbias.data ? run->dbias_row[s] * run->dbias.row_stride + run->dbias_key[s] : 0;
    }
    int32_t *alike = rondo__cuda_slot_add(*out, (size_t)taken * sizeof *alike, &at);
    c->alike = (const int32_t *)(uintptr_t)at;
    struct cuda_back_shared *shared = rondo__cuda_slot_add(*out, (size_t)c->shared_count * sizeof *shared, &at);
    c->shared = (const void *)(uintptr_t)at;
    if (taken) {
        memcpy(alike, b->alike, (size_t)taken * sizeof *alike);
        memcpy(shared, b->shared, (size_t)c->shared_count * sizeof *shared);
    }
    return rondo__cuda_slot_send(dev, *out, stream);
}

static void fill(const struct rondo_device *dev, const struct rondo_backward *b, const struct rondo_backward_run *run, struct cuda_backward *c)
{
    *c = b->lies;
    c->dq = run->dq;
    c->dk = run->dk;
    c->dv = run->dv;
    c->dq_type = run->dq_type;
    c->dk_type = run->dk_type;
    c->dv_type = run->dv_type;
    c->accumulate = run->accumulate;
    c->alibi = run->alibi ? run->alibi + b->desc.head : NULL;
    c->bias = run->bias.data;
    c->bias_row = run->bias.row_stride;
    c->bias_head = run->bias.head_stride;
    c->dbias = run->dbias.data;
    c->dbias_row = run->dbias.row_stride;
    c->dbias_head = run->dbias.head_stride;
    c->seed = run->seed;
    c->first_job = (int32_t)run->first;
    c->stack = (float *)(uintptr_t)dev->stack.memory;
}

static int outside(const struct rondo_backward_run *run, int64_t count, const char *what)
{
    if (run->first >= 0 && run->count >= 0 && run->first <= count && run->count <= count - run->first)
        return 0;
    return rondo__cuda_fail(RONDO_EINVAL, "backward: %lld %s from number %lld on do not lie among the %lld that there are", (long long)run->count, what,
                            (long long)run->first, (long long)count);
}

/* Many blocks each go over what is more. */
static int64_t some(const struct rondo_device *dev, int64_t blocks)
{
    const int64_t most = 32 * (int64_t)dev->multiprocessors;
    return blocks < most ? blocks : most;
}

int rondo__cuda_backward(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_backward *b, const struct rondo_backward_run *run,
                         const struct rondo_poll *poll)
{
    cu_stream s = rondo__cuda_stream(dev, stream);
    struct cuda_backward c;
    struct rondo__cuda_slot *slot;
    int64_t bias_items = 0;
    int err = outside(run, b->desc.job_count, "jobs");
    if (!err)
        err = rondo__cuda_enter(dev);
    if (err || run->count == 0)
        return err;
    fill(dev, b, run, &c);
    err = rondo__cuda_scratch_begin(dev, s);
    if (!err)
        err = gather(dev, b, run, s, poll, &c, &bias_items, &slot);
    for (int i = 0; i < 2 && !err; i++) {
        c.first = b->first[i][run->first];
        c.count = b->first[i][run->first + run->count] - c.first;
        c.stack_floats = b->stack_floats[i];
        c.items = b->items[i];
        err = rondo__cuda_launch(dev, i ? KERNEL_rondo_cuda_back_keys : KERNEL_rondo_cuda_back_queries, c.count < b->blocks[i] ? c.count : b->blocks[i],
                                 CUDA_BACK_BYTES, s, &c);
    }
    c.count = bias_items;
    if (!err)
        err = rondo__cuda_launch(dev, KERNEL_rondo_cuda_back_bias, some(dev, bias_items), 0, s, &c);
    if (!err)
        err = rondo__cuda_slot_close(dev, slot, s);
    if (!err && poll && poll->work) {      /* on its way: how far it is nobody can tell */
        poll->work->total++;
        atomic_fetch_add(&poll->work->done, 1);
    }
    return err;
}

int rondo__cuda_backward_join(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_backward *b, const struct rondo_backward_run *run,
                              const struct rondo_poll *poll)
{
    cu_stream s = rondo__cuda_stream(dev, stream);
    struct cuda_backward c;
    struct rondo__cuda_slot *slot;
    cu_pointer at;
    int64_t items = 0;
    int err = outside(run, b->desc.join_count, "joins");
    if (!err)
        err = rondo__cuda_enter(dev);
    if (err || run->count == 0)
        return err;
    fill(dev, b, run, &c);
    err = rondo__cuda_slot_take(dev, poll, (size_t)run->node_count * sizeof(float *) + 16, &slot);
    if (err)
        return err;
    float **nodes = rondo__cuda_slot_add(slot, (size_t)run->node_count * sizeof *nodes, &at);
    c.nodes = (float *const *)(uintptr_t)at;
    for (int32_t i = 0; i < run->node_count; i++)
        nodes[i] = run->nodes[i].data;
    for (int64_t i = 0; i < run->count; i++)
        items += b->desc.joins[run->first + i].heads;
    c.first = run->first;
    c.count = run->count;
    err = rondo__cuda_slot_send(dev, slot, s);
    if (!err)
        err = rondo__cuda_launch(dev, KERNEL_rondo_cuda_back_join, some(dev, items), 0, s, &c);
    return err ? err : rondo__cuda_slot_close(dev, slot, s);
}

int rondo__cuda_backward_sums(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_backward_sums *of)
{
    const struct cuda_back_sums c = { of->out, of->dout, of->dlse, of->sums, of->rows * of->heads, of->value_dim, of->out_type };
    int err = rondo__cuda_enter(dev);
    return err ? err : rondo__cuda_launch(dev, KERNEL_rondo_cuda_back_sums, some(dev, (c.rows + CUDA_THREADS - 1) / CUDA_THREADS), 0,
                                          rondo__cuda_stream(dev, stream), &c);
}

int rondo__cuda_backward_sinks(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_backward_sinks *of)
{
    cu_stream s = rondo__cuda_stream(dev, stream);
    struct cuda_back_sinks c = { .sinks = of->sinks, .lse = of->lse, .sums = of->sums, .nodes = of->nodes, .count = of->count, .heads = of->heads,
                                 .leaf_size = of->leaf_size };
    struct rondo__cuda_slot *slot;
    cu_pointer at;
    int err = rondo__cuda_enter(dev);
    if (err || of->count < 1)
        return err;
    err = rondo__cuda_slot_take(dev, NULL, (size_t)of->count * (sizeof *c.leaves + sizeof *c.bases) + 32, &slot);
    if (err)
        return err;
    struct cuda_back_leaf *leaf = rondo__cuda_slot_add(slot, (size_t)of->count * sizeof *leaf, &at);
    c.leaves = (const void *)(uintptr_t)at;
    for (int64_t i = 0; i < of->count; i++)
        leaf[i] = (struct cuda_back_leaf){ of->leaves[i].leaf, of->leaves[i].first, of->leaves[i].row, of->leaves[i].count, of->leaves[i].source };
    int64_t *base = rondo__cuda_slot_add(slot, (size_t)of->count * sizeof *base, &at);
    c.bases = (const void *)(uintptr_t)at;
    memcpy(base, of->bases, (size_t)of->count * sizeof *base);
    err = rondo__cuda_slot_send(dev, slot, s);
    if (!err)
        err = rondo__cuda_launch(dev, KERNEL_rondo_cuda_back_sinks, some(dev, (of->count * of->heads + CUDA_THREADS - 1) / CUDA_THREADS), 0, s, &c);
    return err ? err : rondo__cuda_slot_close(dev, slot, s);
}
