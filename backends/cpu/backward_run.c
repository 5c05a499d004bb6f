/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The slots of the device table for gradients of attention: makes tasks of a run's jobs, hands them to the rank's threads by KV head, those of
 * a bias by leaf of queries, and gives each thread its scratch. The kernels (ref_backward.c, backward.c) do one item. All that a run needs is
 * allocated with the description.
 */
#include "backends/cpu/backward.h"

#include <stdatomic.h>

#include "backends/cpu/cpu.h"

/* Leaves of keys that tasks which go together may have in any case. */
#define LEAST_KEYS 16

/* Tasks that share rows of dbias: in `alike` from `first` on. One item for each leaf of queries of the one that has most queries. */
struct shared {
    int64_t first, items;
    int32_t count, longest;
};

struct rondo_backward {
    struct rondo_backward_desc desc;
    struct rondo_backward_task *tasks;  /* [job_count]; where data lies is filled in by each run */
    struct rondo_backward_task *alike;  /* [job_count]: those of a run that have the bias's gradient, by the rows they share: */
    struct shared *shared;              /* [job_count] */
    int64_t *starts;                    /* [job_count + 1]: of a run, where tasks begin that go together */
    int64_t most_keys;                  /* leaves of keys of these, at most */
    size_t worker_bytes, join_bytes;    /* of one thread: in a run of jobs, of joins */
    size_t scratch;                     /* of all */
};

static int too_large(void)
{
    return rondo__fail(RONDO_ENOMEM, "backward: the scratch would be larger than memory can be");
}

static void set_task(const struct rondo_backward *b, int64_t index)
{
    const struct rondo_backward_desc *d = &b->desc;
    const struct rondo_backward_job *job = d->jobs + index;
    b->tasks[index] = (struct rondo_backward_task){
        .a = { .sequence = job->sequence, .heads = d->heads, .kv_heads = d->kv_heads, .head = d->head, .head_dim = d->head_dim, .value_dim = d->value_dim,
               .scale_log2 = d->scale_log2, .leaf_size = d->leaf_size, .mask = &b->desc.mask, .terms = d->terms },
        .desc = d, .job = job, .queries = d->leaves + job->queries_first, .keys = d->leaves + job->keys_first,
    };
}

/* What `each` bytes a thread come to where there are `items` items; *all: the most so far. */
static bool scratch_of(const struct rondo_device *dev, size_t *each, int64_t items, size_t *all)
{
    size_t bytes;
    if (!rondo__add(*each, 63, each))
        return false;
    *each &= ~(size_t)63;
    if (!rondo__mul(*each, (size_t)rondo__cpu_workers(dev, items), &bytes))
        return false;
    *all = bytes > *all ? bytes : *all;
    return true;
}

/* Nodes of the same queries. */
static bool go_together(const struct rondo_backward_task *a, const struct rondo_backward_task *b)
{
    const int32_t nodes = RONDO_BACKWARD_QUERIES | RONDO_BACKWARD_KEYS;
    bool same = a->job->sequence == b->job->sequence && a->job->what == nodes && b->job->what == nodes &&
                a->job->queries == b->job->queries && a->job->query_places >= 0 &&
                a->job->key_places >= 0 && b->job->query_places >= 0 && b->job->key_places >= 0;
    for (int32_t i = 0; i < a->job->queries && same; i++) {
        const struct rondo_backward_leaf *x = a->queries + i, *y = b->queries + i;
        same = x->leaf == y->leaf && x->first == y->first && x->row == y->row && x->count == y->count && x->source == y->source;
    }
    return same;
}

/* How many tasks from one on go together. */
static int32_t together(const struct rondo_backward *b, int64_t from, int64_t end)
{
    int64_t keys = b->tasks[from].job->keys, next = from + 1;
    for (; next < end && next - from < INT16_MAX && go_together(b->tasks + from, b->tasks + next); next++)
        if ((keys += b->tasks[next].job->keys) > b->most_keys)
            break;
    return (int32_t)(next - from);
}

/* worker_bytes of the largest jobs; *most: items of the longest run, those of biases too. */
static bool measure(const struct rondo_device *dev, struct rondo_backward *b, int64_t *most)
{
    const struct rondo_backward_desc *d = &b->desc;
    int64_t biases = 0, most_biases = 0, items;
    b->most_keys = LEAST_KEYS;
    for (int64_t i = 0; i < d->job_count; i++) {
        set_task(b, i);
        b->most_keys = 2 * (int64_t)d->jobs[i].keys > b->most_keys ? 2 * (int64_t)d->jobs[i].keys : b->most_keys;
    }
    for (int64_t i = 0; i < d->job_count; i++) {
        const bool makes = d->jobs[i].what & (RONDO_BACKWARD_QUERIES | RONDO_BACKWARD_KEYS);
        const bool bias = d->jobs[i].what & RONDO_BACKWARD_BIAS, left = i >= d->most_jobs && d->jobs[i - d->most_jobs].what & RONDO_BACKWARD_BIAS;
        size_t need = 0, more = 0;
        if ((makes && !dev->kernels.backward.bytes(b->tasks + i, together(b, i, d->job_count), &need)) ||
            (bias && !dev->kernels.backward.bias_bytes(b->tasks + i, &more)))
            return false;
        need = need > more ? need : more;
        b->worker_bytes = need > b->worker_bytes ? need : b->worker_bytes;
        biases += bias ? d->jobs[i].queries : 0;
        biases -= left ? d->jobs[i - d->most_jobs].queries : 0;
        most_biases = biases > most_biases ? biases : most_biases;
    }
    return rondo__mul64(d->kv_heads, d->most_jobs, &items) && rondo__add64(items, most_biases, most);
}

int rondo__cpu_backward_new(struct rondo_device *dev, struct rondo_backward **out, const struct rondo_backward_desc *desc)
{
    struct rondo_backward *b = rondo__alloc_zero(1, sizeof *b);
    int64_t items = 0;
    *out = NULL;
    if (!b)
        return rondo__fail(RONDO_ENOMEM, "backward: no memory for %lld jobs", (long long)desc->job_count);
    b->desc = *desc;
    b->tasks = rondo__alloc_zero((size_t)desc->job_count, sizeof *b->tasks);
    b->alike = rondo__alloc_zero((size_t)desc->job_count, sizeof *b->alike);
    b->shared = rondo__alloc_zero((size_t)desc->job_count, sizeof *b->shared);
    b->starts = rondo__alloc_zero((size_t)desc->job_count + 1, sizeof *b->starts);
    const bool fits = b->tasks && b->alike && b->shared && b->starts;
    int err = fits ? 0 : rondo__fail(RONDO_ENOMEM, "backward: no memory for %lld jobs", (long long)desc->job_count);
    if (desc->join_count)
        b->join_bytes = RONDO_BACKWARD_SCRATCH * ((size_t)desc->head_dim + (size_t)desc->value_dim) * sizeof(float);
    if (!err && (!measure(dev, b, &items) || !scratch_of(dev, &b->worker_bytes, items, &b->scratch) ||
                 !scratch_of(dev, &b->join_bytes, desc->join_count, &b->scratch)))
        err = too_large();
    if (!err && !rondo__cpu_scratch(dev, b->scratch))
        err = rondo__fail(RONDO_ENOMEM, "backward: no memory for a scratch of %zu bytes on the cpu device", b->scratch);
    if (err)
        rondo__cpu_backward_free(dev, b);
    else
        *out = b;
    return err;
}

void rondo__cpu_backward_free(struct rondo_device *dev, struct rondo_backward *b)
{
    (void)dev;
    if (b) {
        rondo__free(b->tasks);
        rondo__free(b->alike);
        rondo__free(b->shared);
        rondo__free(b->starts);
    }
    rondo__free(b);
}

size_t rondo__cpu_backward_scratch(const struct rondo_device *dev, const struct rondo_backward *b)
{
    (void)dev;
    return rondo__cpu_scratch_takes(b->scratch);
}

/* ---- one run ---- */

struct loop {
    const struct rondo_cpu_kernels *kernels;
    const struct rondo_backward *b;
    const struct rondo_backward_run *run;
    const struct rondo_poll *poll;
    char *scratch;
    int64_t heads;                      /* items of jobs that go together and KV heads; those of biases come behind them */
};

static void bind(const struct rondo_backward *b, const struct rondo_backward_run *run, int64_t index)
{
    struct rondo_backward_task *t = b->tasks + index;
    const int64_t sequence = t->job->sequence;
    t->run = run;
    t->a.alibi = run->alibi ? run->alibi + b->desc.head : NULL;
    t->a.seed = run->seed;
    t->a.bias = run->bias.data;
    t->a.bias_row_stride = run->bias.row_stride;
    t->a.bias_head_stride = run->bias.head_stride;
    t->a.bias_at = b->desc.terms.bias ? run->bias_row[sequence] * run->bias.row_stride + (run->bias_key ? run->bias_key[sequence] : 0) +
                                           b->desc.head * run->bias.head_stride : 0;
}

/* Whether two sequences have the same rows and columns of dbias: those of query 0 and key 0. */
static bool shares(const struct rondo_backward_run *run, const struct rondo_backward_job *a, const struct rondo_backward_job *b)
{
    return run->dbias_row[a->sequence] + a->cached == run->dbias_row[b->sequence] + b->cached &&
           run->dbias_key[a->sequence] == run->dbias_key[b->sequence];
}

/* Fills `alike` and `shared`. Returns how many of the latter there are, and all their items. */
static int64_t find_shared(const struct rondo_backward *b, const struct rondo_backward_run *run, int64_t *items)
{
    int64_t taken = 0, count = 0;
    *items = 0;
    for (int64_t i = run->first; i < run->first + run->count; i++) {
        const struct rondo_backward_job *job = b->desc.jobs + i;
        bool known = !(job->what & RONDO_BACKWARD_BIAS) || !run->dbias.data;
        for (int64_t j = 0; j < count && !known; j++)
            known = shares(run, b->alike[b->shared[j].first].job, job);
        if (known)
            continue;
        struct shared *s = b->shared + count++;
        *s = (struct shared){ .first = taken };
        for (int64_t j = i; j < run->first + run->count; j++) {
            const struct rondo_backward_job *other = b->desc.jobs + j;
            if (!(other->what & RONDO_BACKWARD_BIAS) || !shares(run, job, other))
                continue;
            b->alike[taken++] = b->tasks[j];
            if (other->tokens > b->alike[s->first + s->longest].job->tokens)
                s->longest = s->count;
            s->count++;
        }
        s->items = b->alike[s->first + s->longest].job->queries;
        *items += s->items;
    }
    return count;
}

static int one(void *arg, int64_t item, int worker)
{
    const struct loop *l = arg;
    const struct rondo_backward *b = l->b;
    const struct rondo_poll *poll = worker ? NULL : l->poll;
    void *scratch = l->scratch + (size_t)worker * b->worker_bytes;
    if (item < l->heads) {
        const int64_t *start = b->starts + item / b->desc.kv_heads;
        int err = l->kernels->backward.run(b->tasks + start[0], (int32_t)(start[1] - start[0]), (int32_t)(item % b->desc.kv_heads), scratch, poll);
        if (!err && l->poll && l->poll->work)
            atomic_fetch_add_explicit(&l->poll->work->done, 1, memory_order_relaxed);
        return err;
    }
    const struct shared *s = b->shared;
    for (item -= l->heads; item >= s->items; s++)
        item -= s->items;
    return l->kernels->backward.bias(b->alike + s->first, s->count, s->longest, (int32_t)item, scratch, poll);
}

int rondo__cpu_backward(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_backward *b,
                        const struct rondo_backward_run *run, const struct rondo_poll *poll)
{
    struct loop l = { .kernels = &dev->kernels, .b = b, .run = run, .poll = poll, .scratch = dev->scratch };
    const int64_t end = run->first + run->count;
    const bool alone = rondo__cpu_workers(dev, run->count * b->desc.kv_heads) > b->desc.kv_heads;   /* so that each thread has something */
    int64_t bias_items, starts = 0;
    (void)stream;
    for (int64_t i = run->first; i < end; i++)
        bind(b, run, i);
    for (int64_t i = run->first; i < end; i += alone ? 1 : together(b, i, end))
        b->starts[starts++] = i;
    b->starts[starts] = end;
    l.heads = starts * b->desc.kv_heads;
    (void)find_shared(b, run, &bias_items);
    if (poll && poll->work)
        poll->work->total += (uint64_t)l.heads;
    return rondo__cpu_for(dev, l.heads + bias_items, one, &l, poll);
}

static int one_join(void *arg, int64_t item, int worker)
{
    const struct loop *l = arg;
    const struct rondo_backward_desc *d = &l->b->desc;
    l->kernels->backward.join(d, l->run, d->joins + l->run->first + item, (float *)(void *)(l->scratch + (size_t)worker * l->b->join_bytes));
    return 0;
}

int rondo__cpu_backward_join(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_backward *b,
                             const struct rondo_backward_run *run, const struct rondo_poll *poll)
{
    struct loop l = { .kernels = &dev->kernels, .b = b, .run = run, .poll = poll, .scratch = dev->scratch };
    (void)stream;
    return rondo__cpu_for(dev, run->count, one_join, &l, poll);
}

/* ---- numbers of rows ---- */

#define SUM_ROWS 16

struct sums {
    const struct rondo_cpu_kernels *kernels;
    const struct rondo_backward_sums *of;
};

static int some_sums(void *arg, int64_t item, int worker)
{
    const struct sums *s = arg;
    const int64_t end = (item + 1) * SUM_ROWS;
    (void)worker;
    s->kernels->backward.sums(s->of, item * SUM_ROWS, end < s->of->rows ? end : s->of->rows);
    return 0;
}

int rondo__cpu_backward_sums(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_backward_sums *of)
{
    struct sums s = { &dev->kernels, of };
    (void)stream;
    return rondo__cpu_for(dev, (of->rows + SUM_ROWS - 1) / SUM_ROWS, some_sums, &s, NULL);
}

/* C13: a chain over the leaf's queries. */
int rondo__cpu_backward_sinks(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_backward_sinks *of)
{
    (void)dev;
    (void)stream;
    for (int64_t i = 0; i < of->count; i++) {
        const struct rondo_backward_leaf *leaf = of->leaves + i;
        const int32_t before = (int32_t)(leaf->first - of->bases[i] - leaf->leaf * of->leaf_size);
        for (int32_t h = 0; h < of->heads; h++) {
            const float x = of->sinks[h] * RONDO_LOG2E_F;
            float sum = 0.0f, n, c;
            for (int32_t u = 0; u < of->leaf_size && x != -__builtin_inff(); u++) {
                const int32_t at = (u ^ 1) - before;
                const int64_t row = (leaf->row + at) * of->heads + h;
                if (at >= 0 && at < leaf->count && rondo__backward_row(of->lse[row], &n, &c))
                    sum = rondo__fma(-rondo__backward_weight(x, n, c), of->sums[row], sum);
            }
            of->nodes[i * of->heads + h] = sum;
        }
    }
    return 0;
}
