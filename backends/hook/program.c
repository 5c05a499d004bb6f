/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Attention on the device that the hook wraps: which bytes of each array the jobs of a run touch, so that each pointer can be held against
 * the block that it lies in; how much work the jobs are (the mode `count`); and, for a run that happens later, copies of the
 * arrays that the caller may take back at once. Called by device.c.
 */
#include "backends/hook/device.h"

#include <stdio.h>

/* Rows of a leaf that some query of its job sees: [low, high), less than the leaf has, or none; and the positions between which they are. */
struct seen {
    int64_t low, high, first, end;
};

struct program {
    struct rondo_program *inner;
    struct rondo_program_desc desc;
    struct seen *seen;                 /* [leaf_count] */
    uint8_t *writes;                   /* [job_count]: it has OUT */
    int64_t leaf_room, job_room;       /* of `seen` and `writes` */
    int64_t sequences;                 /* that jobs name */
};

static const struct program *program_of(const struct rondo_program *program)
{
    return (const struct program *)(const void *)program;
}

const struct rondo_program *rondo__hook_program_inner(const struct rondo_program *program)
{
    return program_of(program)->inner;
}

/* ---- programs ---- */

static void look_at(struct program *p, const struct rondo_job *job)
{
    const struct rondo_program_desc *d = &p->desc;
    const int64_t index = job - d->jobs;
    for (int32_t i = 0; i < job->steps; i++)
        p->writes[index] |= d->steps[job->steps_first + i].code == RONDO_TREE_OUT;
    for (int64_t i = job->leaves_first; i < job->leaves_first + job->leaves; i++) {
        const struct rondo_leaf *f = d->leaves + i;
        struct seen *s = p->seen + i;
        int64_t lo, hi, low = INT64_MAX, high = INT64_MIN;
        for (int64_t j = job->spans_first; j < job->spans_first + job->spans; j++)
            if (d->mask.kind->view(&d->mask, job->sequence, d->spans + j, f->first, f->first + (f->count - 1) * f->step + 1, &lo, &hi) != RONDO_MASK_NONE) {
                low = lo < low ? lo : low;
                high = hi > high ? hi : high;
            }
        if (low >= high)
            continue;
        /* keys that were dealt out one by one: the first and the last of them between the two positions */
        *s = (struct seen){ f->row + (low - f->first + f->step - 1) / f->step, f->row + (high - 1 - f->first) / f->step + 1, low, high };
    }
    p->sequences = job->sequence >= p->sequences ? job->sequence + 1 : p->sequences;
}

/* All 0; twice as many as were needed where they had been fewer. */
static void *set_room(void *array, int64_t *room, int64_t count, size_t item)
{
    if (count <= *room && array)
        return count ? memset(array, 0, (size_t)count * item) : array;
    const int64_t more = array ? 2 * count : count;
    rondo__free(array);
    array = rondo__alloc_zero((size_t)more, item);
    *room = array ? more : 0;
    return array;
}

static int set_program(struct program *p, const struct rondo_program_desc *desc)
{
    p->desc = *desc;
    p->sequences = 0;
    p->seen = set_room(p->seen, &p->leaf_room, desc->leaf_count, sizeof *p->seen);
    p->writes = set_room(p->writes, &p->job_room, desc->job_count, 1);
    if (!p->seen || !p->writes)
        return rondo__fail(RONDO_ENOMEM, "no memory for a program of the test hook");
    for (int64_t i = 0; i < desc->job_count; i++)
        look_at(p, desc->jobs + i);
    return 0;
}

int rondo__hook_program_new(struct rondo__hook_device *h, struct rondo_program **out, const struct rondo_program_desc *desc)
{
    struct program *p = rondo__alloc_zero(1, sizeof *p);
    *out = NULL;
    int err = p ? set_program(p, desc) : rondo__fail(RONDO_ENOMEM, "no memory for a program of the test hook");
    if (!err)
        err = h->ops->program_new(h->dev, &p->inner, desc);
    if (err) {
        rondo__hook_program_free(h, (struct rondo_program *)(void *)p);
        return err;
    }
    *out = (struct rondo_program *)(void *)p;
    return 0;
}

int rondo__hook_program_update(struct rondo__hook_device *h, struct rondo_program *program, const struct rondo_program_desc *desc)
{
    struct program *p = (struct program *)(void *)program;
    int err = rondo__hook_is_idle(h) ? 0 : rondo__fail(RONDO_EDEVICE, "attention: a program is to be updated while runs may be under way with it");
    if (!err)
        err = set_program(p, desc);
    return err ? err : h->ops->program_update(h->dev, p->inner, desc);
}

void rondo__hook_program_free(struct rondo__hook_device *h, struct rondo_program *program)
{
    struct program *p = (struct program *)(void *)program;
    if (!p)
        return;
    rondo__hook_drain(h);
    if (p->inner)
        h->ops->program_free(h->dev, p->inner);
    rondo__free(p->seen);
    rondo__free(p->writes);
    rondo__free(p);
}

/* ---- what a run touches ---- */

struct extent {
    int64_t low, high;                 /* bytes from the pointer on; low >= high: nothing */
};
static const struct extent nothing = { INT64_MAX, INT64_MIN };

static void touch(struct extent *e, int64_t low, int64_t high)
{
    e->low = low < e->low ? low : e->low;
    e->high = high > e->high ? high : e->high;
}

/* Heads of something, from `first` on. */
struct heads {
    int64_t first, count;
};

/* rows x heads of elements [column, end) from row `first` on */
static void touch_rows(struct extent *e, const struct rondo_rows *r, int64_t first, int64_t rows, struct heads heads, int64_t column, int64_t end,
                       int64_t element)
{
    if (rows > 0 && heads.count > 0 && column < end)
        touch(e, (first * r->row_stride + heads.first * r->head_stride + column) * element,
              ((first + rows - 1) * r->row_stride + (heads.first + heads.count - 1) * r->head_stride + end) * element);
}

static int64_t row_of(const struct rondo_job *job, const int64_t *begins)
{
    return begins ? begins[job->sequence] + job->row : job->q_row;
}

static struct heads heads_of(const struct rondo_program_desc *d, const struct rondo_job *job)
{
    return (struct heads){ job->head, rondo__job_heads(job, d->heads) };
}

static struct heads kv_heads_of(const struct rondo_program_desc *d, const struct rondo_job *job)
{
    return (struct heads){ job->kv_head, rondo__job_kv_heads(job, d->heads, d->kv_heads) };
}

/* Positions [first, end) of a sequence, which begins at a row or column of an array. */
static int64_t begin_of(const int64_t *begins, const struct rondo_job *job)
{
    return begins ? begins[job->sequence] : 0;
}

static void touch_keys(struct extent e[2], const struct rondo_program_desc *d, const struct rondo_job *job, const struct rondo_kv_part *part,
                       int64_t first, int64_t end)
{
    const struct heads heads = kv_heads_of(d, job);
    const int64_t values = job->operation == RONDO_JOB_PROBABILITIES ? 0 : rondo__row_numbers(d->kv_type, d->value_dim);
    const int64_t element = (int64_t)rondo_type_size(d->kv_type);
    while (first < end) {
        int64_t row = first, rows = end - first;
        if (part->pages) {
            const int64_t into = first % part->page_rows;
            row = part->pages[first / part->page_rows] * part->page_rows + into;
            rows = part->page_rows - into < rows ? part->page_rows - into : rows;
        }
        touch_rows(e, &part->k, row, rows, heads, 0, rondo__row_numbers(d->kv_type, d->head_dim), element);
        touch_rows(e + 1, &part->v, row, rows, heads, 0, values, element);
        first += rows;
    }
}

struct touched {
    struct extent q, out, lse, alibi, sinks, bias, stats, probs;
    struct extent (*kv)[2];            /* [kv_count] */
    struct extent *nodes;              /* [node_count] */
    int64_t *page_end;                 /* [kv_count] rows of sequences in pages */
};

static int check_run(const struct program *p, const struct rondo_attention_run *run)
{
    const struct rondo_program_desc *d = &p->desc;
    if (run->first < 0 || run->count < 0 || run->first > d->job_count || run->count > d->job_count - run->first)
        return rondo__fail(RONDO_EINVAL, "attention: %lld jobs from job %lld on do not lie among the program's %lld", (long long)run->count,
                           (long long)run->first, (long long)d->job_count);
    for (int64_t i = run->first; i < run->first + run->count; i++) {
        const struct rondo_job *job = d->jobs + i;
        for (int64_t j = job->leaves_first; j < job->leaves_first + job->leaves; j++)
            if (d->leaves[j].source >= run->kv_count)
                return rondo__fail(RONDO_EINVAL, "attention: job %lld reads KV part %d, but the run has %d", (long long)i,
                                   (int)d->leaves[j].source, (int)run->kv_count);
        for (int64_t j = job->places_first; j < job->places_first + job->places; j++)
            if (d->places[j].buffer >= run->node_count)
                return rondo__fail(RONDO_EINVAL, "attention: job %lld has nodes in buffer %d, but the run has %d", (long long)i,
                                   (int)d->places[j].buffer, (int)run->node_count);
    }
    return 0;
}

/* What a job reads and writes at its queries, and of terms that are a number a head. */
static void touch_queries(const struct program *p, const struct rondo_attention_run *run, const struct rondo_job *job, struct touched *t)
{
    const struct rondo_program_desc *d = &p->desc;
    const struct heads heads = heads_of(d, job), of_plan = { run->head + heads.first, heads.count };
    const struct rondo_rows flat = { NULL, 0, 1 };
    const bool out = p->writes[job - d->jobs];
    /* also without leaves: a kernel may lay out the queries of a job before it looks at its program */
    touch_rows(&t->q, &run->q, row_of(job, run->q_row), job->q_rows, heads, 0, d->head_dim, (int64_t)rondo_type_size(d->q_type));
    if (out) {
        touch_rows(&t->out, &run->out, row_of(job, run->out_row), job->q_rows, heads, 0, d->value_dim, (int64_t)rondo_type_size(d->out_type));
        if (run->lse.data)
            touch_rows(&t->lse, &run->lse, row_of(job, run->lse_row), job->q_rows, heads, 0, 1, sizeof(float));
    }
    if ((out && run->stats.data) || job->operation == RONDO_JOB_PROBABILITIES)
        touch_rows(&t->stats, &run->stats, row_of(job, run->stats_row), job->q_rows, heads, 0, 2, sizeof(float));
    if (d->terms.alibi)
        touch_rows(&t->alibi, &flat, 0, 1, of_plan, 0, 1, sizeof(float));
    if (d->terms.sinks && out)
        touch_rows(&t->sinks, &flat, 0, 1, of_plan, 0, 1, sizeof(float));
}

/* What it reads and writes for each pair of a query and a key of a leaf. */
static void touch_pairs(const struct program *p, const struct rondo_attention_run *run, const struct rondo_job *job, const struct seen *s,
                        struct touched *t)
{
    const struct rondo_program_desc *d = &p->desc;
    const struct heads heads = heads_of(d, job), of_plan = { run->head + heads.first, heads.count };
    const int64_t bias = begin_of(run->bias_key, job), probs = begin_of(run->probs_key, job);
    for (int64_t i = job->spans_first; d->terms.bias && i < job->spans_first + job->spans; i++) {
        const rondo_span *q = d->spans + i;
        touch_rows(&t->bias, &run->bias, begin_of(run->bias_row, job) + q->first, (q->count - 1) * q->step + 1, of_plan, bias + s->first,
                   bias + s->end, sizeof(float));
    }
    if (job->operation == RONDO_JOB_PROBABILITIES)
        touch_rows(&t->probs, &run->probs, row_of(job, run->probs_row), job->q_rows, heads, probs + s->first, probs + s->end, sizeof(float));
}

static void touch_all(const struct program *p, const struct rondo_attention_run *run, struct touched *t)
{
    const struct rondo_program_desc *d = &p->desc;
    t->q = t->out = t->lse = t->alibi = t->sinks = t->bias = t->stats = t->probs = nothing;
    for (int32_t i = 0; i < run->kv_count; i++) {
        t->kv[i][0] = t->kv[i][1] = nothing;
        t->page_end[i] = 0;
    }
    for (int32_t i = 0; i < run->node_count; i++)
        t->nodes[i] = nothing;
    for (int64_t i = run->first; i < run->first + run->count; i++) {
        const struct rondo_job *job = d->jobs + i;
        const struct heads heads = heads_of(d, job);
        const int64_t node = d->node_width * (int64_t)sizeof(float);
        touch_queries(p, run, job, t);
        for (int64_t j = job->leaves_first; j < job->leaves_first + job->leaves; j++) {
            const int32_t source = d->leaves[j].source;
            const struct rondo_kv_part *part = run->kv + source;
            const int64_t begin = part->kv_row ? part->kv_row[job->sequence] : 0, end = begin + p->seen[j].high;
            if (p->seen[j].low < p->seen[j].high) {
                touch_keys(t->kv[source], d, job, part, begin + p->seen[j].low, end);
                touch_pairs(p, run, job, p->seen + j, t);
            }
            t->page_end[source] = part->pages && end > t->page_end[source] ? end : t->page_end[source];
        }
        for (int64_t j = job->places_first; j < job->places_first + job->places; j++) {
            const int64_t first = d->places[j].rows * d->heads + job->q_rows * heads.first;
            touch(t->nodes + d->places[j].buffer, first * node, (first + job->q_rows * heads.count) * node);
        }
    }
}

static int translate_part(const struct rondo__hook_device *h, const struct touched *t, int32_t index, struct rondo_kv_part *part)
{
    char name[32];
    snprintf(name, sizeof name, "k of KV part %d", (int)index);
    int err = rondo__hook_own(h, "attention", name, part->k.data, t->kv[index][0].low, t->kv[index][0].high, &part->k.data);
    name[0] = 'v';
    return err ? err : rondo__hook_own(h, "attention", name, part->v.data, t->kv[index][1].low, t->kv[index][1].high, &part->v.data);
}

static int translate(const struct rondo__hook_device *h, const struct touched *t, struct rondo_attention_run *run, struct rondo_kv_part *kv,
                     float **nodes)
{
    void *alibi = NULL, *sinks = NULL;
    const struct {
        const char *name;
        const void *from;
        const struct extent *e;
        void **to;
    } arrays[] = { { "q", run->q.data, &t->q, &run->q.data }, { "out", run->out.data, &t->out, &run->out.data },
                   { "lse", run->lse.data, &t->lse, &run->lse.data }, { "bias", run->bias.data, &t->bias, &run->bias.data },
                   { "stats", run->stats.data, &t->stats, &run->stats.data }, { "probs", run->probs.data, &t->probs, &run->probs.data },
                   { "alibi", run->alibi, &t->alibi, &alibi }, { "sinks", run->sinks, &t->sinks, &sinks } };
    const float *given[2] = { run->alibi, run->sinks };
    void *bias = run->bias.data;
    int err = 0;
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays && !err; i++)
        err = rondo__hook_own(h, "attention", arrays[i].name, arrays[i].from, arrays[i].e->low, arrays[i].e->high, arrays[i].to);
    /* A device wants the terms of its program to be there. Where no job of this run touches one, its address stays what it was, which
     * is none that could be touched. */
    run->alibi = alibi ? alibi : given[0];
    run->sinks = sinks ? sinks : given[1];
    run->bias.data = run->bias.data ? run->bias.data : bias;
    for (int32_t i = 0; i < run->kv_count && !err; i++)
        err = translate_part(h, t, i, kv + i);
    for (int32_t i = 0; i < run->node_count && !err; i++) {
        char name[32];
        void *at;
        snprintf(name, sizeof name, "buffer %d of nodes", (int)i);
        err = rondo__hook_own(h, "attention", name, nodes[i], t->nodes[i].low, t->nodes[i].high, &at);
        nodes[i] = at;
    }
    return err;
}

/* ---- what it costs ---- */

static void count(struct rondo__hook_device *h, const struct program *p, const struct rondo_attention_run *run)
{
    const struct rondo_program_desc *d = &p->desc;
    struct rondo__hook_count *c = h->counts.of + RONDO_HOOK_COUNT_ATTENTION;
    c->calls++;
    for (int64_t i = run->first; i < run->first + run->count; i++) {
        const struct rondo_job *job = d->jobs + i;
        const bool probs = job->operation == RONDO_JOB_PROBABILITIES;
        const double heads = (double)heads_of(d, job).count, dims = (double)(probs ? d->head_dim : d->head_dim + d->value_dim);
        const double kv_bytes = (double)(rondo_row_bytes(d->kv_type, d->head_dim) + (probs ? 0 : rondo_row_bytes(d->kv_type, d->value_dim)));
        const double kv_row = (double)kv_heads_of(d, job).count * kv_bytes;
        const double q_row = heads * (double)d->head_dim * (double)rondo_type_size(d->q_type);
        const double out_row = heads * (double)d->value_dim * (double)rondo_type_size(d->out_type);
        const double node = heads * (double)d->node_width * sizeof(float);
        uint64_t pairs = 0;
        for (int64_t j = job->leaves_first; j < job->leaves_first + job->leaves; j++) {
            const rondo_span keys = { d->leaves[j].first, d->leaves[j].count, d->leaves[j].step, 0 };
            for (int64_t k = job->spans_first; k < job->spans_first + job->spans; k++)
                pairs += d->mask.kind->pairs(&d->mask, job->sequence, d->spans + k, &keys);
            c->bytes += p->seen[j].low < p->seen[j].high ? (double)(p->seen[j].high - p->seen[j].low) * kv_row : 0.0;
        }
        const double scores = (double)pairs * heads / (double)d->mask.heads;
        c->flops += 2.0 * dims * scores;
        c->bytes += ((d->terms.bias ? 1.0 : 0.0) + (probs ? 1.0 : 0.0)) * scores * sizeof(float);
        c->bytes += (double)job->q_rows * (q_row + (p->writes[i] ? out_row : 0.0));
        for (int32_t s = 0; s < job->steps; s++) {
            const int32_t code = d->steps[job->steps_first + s].code;
            c->bytes += code == RONDO_TREE_LOAD || code == RONDO_TREE_STORE ? (double)job->q_rows * node : 0.0;
        }
    }
}

/* ---- a run ---- */

/* Parts of the memory for one run, each aligned to eight bytes. */
static void *part_of(char **at, size_t bytes)
{
    void *memory = *at;
    *at += (bytes + 7) & ~(size_t)7;
    return memory;
}

static const int64_t *copy_of(char **at, const int64_t *list, int64_t count)
{
    if (!list)
        return NULL;
    const size_t bytes = (size_t)count * sizeof *list;
    return memcpy(part_of(at, bytes), list, bytes);
}

/* Memory until the next run. */
static char *scratch(struct rondo__hook_device *h, size_t bytes)
{
    if (bytes > h->scratch_bytes || !h->scratch) {
        char *more = rondo__alloc(bytes);
        if (!more) {
            rondo__fail(RONDO_ENOMEM, "no memory for a run of the test hook");
            return NULL;
        }
        rondo__free(h->scratch);
        h->scratch = more;
        h->scratch_bytes = bytes;
    }
    return h->scratch;
}

static int64_t page_count(const struct touched *t, const struct rondo_kv_part *part, int32_t index)
{
    return part->pages ? (t->page_end[index] + part->page_rows - 1) / part->page_rows : 0;
}

int rondo__hook_attention(struct rondo__hook_device *h, struct rondo_stream *stream, const struct rondo_program *program,
                          const struct rondo_attention_run *run, const struct rondo_poll *poll)
{
    const struct program *p = program_of(program);
    const size_t parts = (size_t)run->kv_count, nodes = (size_t)run->node_count, lists = (size_t)p->sequences * sizeof(int64_t);
    int err = check_run(p, run);
    if (err)
        return err;
    if (h->set.count)
        count(h, p, run);
    /* first what it touches, which also says how much of pages there is to copy */
    struct touched t;
    char *at = scratch(h, parts * (2 * sizeof(struct extent) + sizeof(int64_t)) + nodes * sizeof(struct extent));
    if (!at)
        return RONDO_ENOMEM;
    t.kv = part_of(&at, parts * sizeof *t.kv);
    t.nodes = part_of(&at, nodes * sizeof *t.nodes);
    t.page_end = part_of(&at, parts * sizeof *t.page_end);
    touch_all(p, run, &t);

    int64_t pages = 0;
    for (int32_t i = 0; i < run->kv_count; i++)
        pages += page_count(&t, run->kv + i, i);
    at = rondo__hook_take(h, sizeof *run + parts * sizeof(struct rondo_kv_part) + nodes * sizeof(float *) + (8 + parts) * lists +
                                 (size_t)pages * sizeof(int64_t) + 64);
    if (!at)
        return RONDO_ENOMEM;
    struct rondo_attention_run *mine = part_of(&at, sizeof *mine);
    struct rondo_kv_part *kv = part_of(&at, parts * sizeof *kv);
    float **places = part_of(&at, nodes * sizeof *places);
    *mine = *run;
    if (parts)
        memcpy(kv, run->kv, parts * sizeof *kv);
    if (nodes)
        memcpy(places, run->nodes, nodes * sizeof *places);
    mine->kv = kv;
    mine->nodes = places;
    mine->q_row = copy_of(&at, run->q_row, p->sequences);
    mine->out_row = copy_of(&at, run->out_row, p->sequences);
    mine->lse_row = copy_of(&at, run->lse_row, p->sequences);
    mine->bias_row = copy_of(&at, run->bias_row, p->sequences);
    mine->bias_key = copy_of(&at, run->bias_key, p->sequences);
    mine->stats_row = copy_of(&at, run->stats_row, p->sequences);
    mine->probs_row = copy_of(&at, run->probs_row, p->sequences);
    mine->probs_key = copy_of(&at, run->probs_key, p->sequences);
    for (int32_t i = 0; i < run->kv_count; i++) {
        kv[i].kv_row = copy_of(&at, run->kv[i].kv_row, p->sequences);
        kv[i].pages = copy_of(&at, run->kv[i].pages, page_count(&t, run->kv + i, i));
    }
    err = translate(h, &t, mine, kv, places);
    if (err)
        return err;
    const struct rondo__hook_call call = { .kind = RONDO_HOOK_ATTENTION, .work = poll ? poll->work : NULL, .as.attention = { p->inner, mine } };
    return rondo__hook_put(h, stream, &call, poll);
}
