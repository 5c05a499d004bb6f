/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Runs of a program: where data lies in this one is gathered into lists, which go up with the run, and then each batch takes a launch for each
 * kind of tile and one for the steps of rows. Nothing is allocated but where lists have grown.
 */
#include "backends/cuda/fast.h"

#include <stdatomic.h>

/* A job's first row of q, out or lse, and of that its first head: elements. */
static int64_t row_of(const struct rondo_rows *rows, const int64_t *begins, const struct rondo_job *job)
{
    const int64_t row = begins ? begins[job->sequence] + job->row : job->q_row;
    return row * rows->row_stride + job->head * rows->head_stride;
}

/* What a job looks at and the run does not have. */
static int missing(const struct rondo_program *p, int64_t number, const struct rondo_attention_run *run)
{
    const struct rondo_job *job = p->desc.jobs + number;
    const struct rondo_terms *t = &p->desc.terms;
    bool writes = false;
    for (int32_t i = 0; i < job->steps && !writes; i++)
        writes = p->desc.steps[job->steps_first + i].code == RONDO_TREE_OUT;
    const char *what = job->leaves && t->alibi && !run->alibi ? "alibi" : writes && t->sinks && !run->sinks ? "sinks" : NULL;
    if (job->leaves && t->bias && !run->bias.data)
        what = "bias";
    if (what)
        return rondo__cuda_fail(RONDO_EINVAL, "attention: the program has %s, but the run that job %lld is in has none", what, (long long)number);
    if (job->operation == RONDO_JOB_PROBABILITIES && (!run->stats.data || !run->probs.data))
        return rondo__cuda_fail(RONDO_EINVAL, "attention: job %lld computes probabilities, but the run has no %s", (long long)number,
                                run->stats.data ? "probs" : "stats");
    const int32_t sources = ((const struct first *)p->first.data)[number].sources;
    if (sources > run->kv_count)
        return rondo__cuda_fail(RONDO_EINVAL, "attention: job %lld reads KV part %d, but the run has %d", (long long)number, (int)sources - 1,
                                (int)run->kv_count);
    for (int32_t i = 0; i < job->places; i++) {
        const struct rondo_place *place = p->desc.places + job->places_first + i;
        if (place->buffer >= run->node_count)
            return rondo__cuda_fail(RONDO_EINVAL, "attention: job %lld has nodes in buffer %d, but the run has %d", (long long)number, (int)place->buffer,
                                    (int)run->node_count);
    }
    return 0;
}

/* Rows of a source's pages that the run's jobs reach, in pages. */
static int page_count(const struct rondo_program *p, const struct rondo_attention_run *run, int32_t source, int64_t *out)
{
    const struct rondo_kv_part *part = run->kv + source;
    int64_t most = 0;
    *out = 0;
    if (!part->pages)
        return 0;
    for (int64_t j = run->first; j < run->first + run->count; j++) {
        const struct rondo_job *job = p->desc.jobs + j;
        const int64_t first = part->kv_row ? part->kv_row[job->sequence] : 0;
        for (int32_t i = 0; i < job->leaves; i++) {
            const struct rondo_leaf *f = p->desc.leaves + job->leaves_first + i;
            const int64_t size = p->desc.leaf_size, end = first + f->row + f->count;
            if (f->source != source)
                continue;
            if (part->page_rows % size || first % size || (f->row % size && f->row / size != (f->row + f->count - 1) / size))
                return rondo__cuda_fail(RONDO_ENOTSUP, "attention: leaves of job %lld cross pages of %lld rows; pages take whole leaves of %d", (long long)j,
                                        (long long)part->page_rows, (int)size);
            most = end > most ? end : most;
        }
    }
    *out = most ? (most - 1) / part->page_rows + 1 : 0;
    return 0;
}

static int32_t grain_of(const struct rondo_rows *rows, int type, int64_t dim)
{
    const int64_t size = rondo__cuda_size(type);
    return rondo__cuda_grain(rows->data, rows->row_stride * size, rows->head_stride * size, dim * size);
}

static struct cuda_bind bind_of(const struct rondo_program *p, const struct rondo_attention_run *run, const struct rondo_job *job)
{
    const int64_t s = job->sequence;
    struct cuda_bind bind = { .q = row_of(&run->q, run->q_row, job), .out = row_of(&run->out, run->out_row, job), .lse = row_of(&run->lse, run->lse_row, job),
                              .stats = row_of(&run->stats, run->stats_row, job),
                              .probs = row_of(&run->probs, run->probs_row, job) + (run->probs_key ? run->probs_key[s] : 0) };
    if (p->desc.terms.bias)
        bind.bias = (int64_t)(run->head + job->head) * run->bias.head_stride + (run->bias_row ? run->bias_row[s] * run->bias.row_stride : 0) +
                    (run->bias_key ? run->bias_key[s] : 0);
    return bind;
}

static struct cuda_source source_of(const struct rondo_program *p, const struct rondo_kv_part *part)
{
    return (struct cuda_source){ .k = part->k.data, .v = part->v.data, .k_row = part->k.row_stride, .k_head = part->k.head_stride, .v_row = part->v.row_stride,
                                 .v_head = part->v.head_stride, .page_rows = part->page_rows, .k_grain = grain_of(&part->k, p->desc.kv_type, p->desc.head_dim),
                                 .v_grain = grain_of(&part->v, p->desc.kv_type, p->desc.value_dim) };
}

/* All lists of a run in one upload; those of one job on one source go with the launches. */
static int gather(struct rondo_device *dev, const struct rondo_program *p, const struct rondo_attention_run *run, cu_stream stream, const struct rondo_poll *poll,
                  struct cuda_attention *c, struct rondo__cuda_slot **out)
{
    const struct rondo_program_desc *d = &p->desc;
    int64_t pages = 0, places = 0;
    cu_pointer at;
    for (int32_t i = 0; i < c->source_count; i++) {
        int64_t count;
        const int err = page_count(p, run, i, &count);
        if (err)
            return err;
        pages += count + 2;
    }
    for (int64_t j = run->first; j < run->first + run->count; j++)
        places += d->jobs[j].places;
    if (run->count == 1 && places == 0 && c->source_count == 1 && !run->kv->pages) {
        const struct rondo_job *job = d->jobs + run->first;
        c->bound = (struct cuda_bound){ bind_of(p, run, job), source_of(p, run->kv), run->kv->kv_row ? run->kv->kv_row[job->sequence] : 0 };
        return rondo__cuda_slot_take(dev, poll, 0, out);
    }
    const size_t bytes = (size_t)run->count * (sizeof(struct cuda_bind) + (size_t)c->source_count * sizeof(int64_t)) + (size_t)places * sizeof(float *) +
                         (size_t)c->source_count * sizeof(struct cuda_source) + (size_t)pages * sizeof(int64_t) + 16 * (4 + (size_t)c->source_count);
    int err = rondo__cuda_slot_take(dev, poll, bytes, out);
    if (err)
        return err;
    struct rondo__cuda_slot *slot = *out;
    struct cuda_bind *bind = rondo__cuda_slot_add(slot, (size_t)run->count * sizeof *bind, &at);
    c->binds = (const struct cuda_bind *)(uintptr_t)at;
    struct cuda_source *source = rondo__cuda_slot_add(slot, (size_t)c->source_count * sizeof *source, &at);
    c->sources = (const struct cuda_source *)(uintptr_t)at;
    int64_t *base = rondo__cuda_slot_add(slot, (size_t)(run->count * c->source_count) * sizeof *base, &at);
    c->bases = (const int64_t *)(uintptr_t)at;
    float **slots = rondo__cuda_slot_add(slot, (size_t)places * sizeof *slots, &at);
    c->slots = (float *const *)(uintptr_t)at;
    for (int32_t i = 0; i < c->source_count; i++) {
        const struct rondo_kv_part *part = run->kv + i;
        source[i] = source_of(p, part);
        int64_t count;
        if (page_count(p, run, i, &count) == 0 && count) {
            memcpy(rondo__cuda_slot_add(slot, (size_t)count * sizeof(int64_t), &at), part->pages, (size_t)count * sizeof(int64_t));
            source[i].pages = (const int64_t *)(uintptr_t)at;
        }
    }
    int64_t place = 0;
    for (int64_t j = 0; j < run->count; j++) {
        const struct rondo_job *job = d->jobs + run->first + j;
        const int64_t s = job->sequence;
        bind[j] = bind_of(p, run, job);
        bind[j].slots = place;
        for (int32_t i = 0; i < c->source_count; i++)
            base[j * c->source_count + i] = run->kv[i].kv_row ? run->kv[i].kv_row[s] : 0;
        for (int32_t i = 0; i < job->places; i++) {
            const struct rondo_place *to = d->places + job->places_first + i;
            slots[place++] = run->nodes[to->buffer] + (to->rows * d->heads + job->q_rows * job->head) * d->node_width;
        }
    }
    return rondo__cuda_slot_send(dev, slot, stream);
}

static void fill(const struct rondo_device *dev, const struct rondo_program *p, const struct rondo_attention_run *run, struct cuda_attention *c)
{
    const struct rondo_program_desc *d = &p->desc;
    const char *lists = (const char *)(uintptr_t)p->lists.memory;
    c->rows = (const void *)(lists + p->at.rows);
    c->jobs = (const void *)(lists + p->at.jobs);
    c->tiles = (const void *)(lists + p->at.tiles);
    c->parts = (const void *)(lists + p->at.parts);
    c->sight = (const void *)(lists + p->at.sight);
    c->views = (const void *)(lists + p->at.views);
    c->bits = (const void *)(lists + p->at.bits);
    c->leaves = (const void *)(lists + p->at.leaves);
    c->steps = (const void *)(lists + p->at.steps);
    c->q = run->q.data;
    c->q_row = run->q.row_stride;
    c->q_head = run->q.head_stride;
    c->q_grain = grain_of(&run->q, d->q_type, d->head_dim);
    c->out = run->out.data;
    c->out_row = run->out.row_stride;
    c->out_head = run->out.head_stride;
    c->lse = run->lse.data;
    c->lse_row = run->lse.row_stride;
    c->lse_head = run->lse.head_stride;
    c->stats = run->stats.data;
    c->stats_row = run->stats.row_stride;
    c->stats_head = run->stats.head_stride;
    c->probs = run->probs.data;
    c->probs_row = run->probs.row_stride;
    c->probs_head = run->probs.head_stride;
    c->bias = run->bias.data;
    c->bias_row = run->bias.row_stride;
    c->bias_head = run->bias.head_stride;
    c->alibi = run->alibi;
    c->sinks = run->sinks;
    c->seed = run->seed;
    c->terms = d->terms;
    c->scale_log2 = d->scale_log2;
    c->first_job = (int32_t)run->first;
    c->head = run->head;
    c->heads = d->heads;
    c->head_dim = d->head_dim;
    c->value_dim = d->value_dim;
    c->q_type = d->q_type;
    c->kv_type = d->kv_type;
    c->out_type = d->out_type;
    c->leaf_size = d->leaf_size;
    c->arithmetic = d->arithmetic;
    c->resident = p->resident;
    c->depth = p->depth;
    c->room = p->room;
    c->together = p->joined > CUDA_TOGETHER;
    c->nodes = (float *)(uintptr_t)dev->nodes.memory;
    c->stack = (float *)(uintptr_t)dev->stack.memory;
}

static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* A batch, as far as it is of the run's jobs. */
static int run_batch(struct rondo_device *dev, const struct rondo_program *p, const struct rondo_attention_run *run, const struct batch *batch,
                     struct cuda_attention *c, cu_stream stream)
{
    const struct first *from = (const struct first *)p->first.data + run->first, *to = from + run->count;
    const char *lists = (const char *)(uintptr_t)p->lists.memory;
    const int64_t tile = most(batch->tile, from->tile), tile_end = least(batch->tile_end, to->tile);
    int err = 0;
    if (tile >= tile_end)
        return 0;
    for (int k = 0; k < CUDA_KERNELS && !err; k++) {
        const int64_t first = most(batch->item[k], from->item[k]), end = least(batch->item_end[k], to->item[k]);
        if (first >= end)
            continue;
        c->items = (const void *)(lists + p->at.items[k]);
        c->first = first;
        c->count = end - first;
        c->stack_floats = rondo__cuda_stack_floats(p, k);
        err = rondo__cuda_launch(dev, k, least(c->count, p->blocks[k]), (size_t)p->shared[k], stream, c);
    }
    if (err)
        return err;
    c->first = tile;
    c->count = tile_end - tile;
    const int64_t groups = c->together ? p->room : (p->room + 3) / 4;
    return rondo__cuda_launch(dev, KERNEL_rondo_cuda_steps, c->count * groups, (size_t)p->shared[KERNEL_rondo_cuda_steps], stream, c);
}

/* Jobs of a run are all of one sort, but nothing says so: runs of neighbours that show probabilities, and of those that do not. At level fast some
 * may be the library's, one by one. */
static int run_jobs(struct rondo_device *dev, struct rondo_stream *of, const struct rondo_program *p, const struct rondo_attention_run *run,
                    struct cuda_attention *c, cu_stream stream)
{
    int err = 0;
    for (int64_t j = run->first, next; j < run->first + run->count && !err; j = next) {
        const bool shows = p->desc.jobs[j].operation == RONDO_JOB_PROBABILITIES;
        if (rondo__cuda_fast_has(p, j)) {
            const struct rondo_job *job = p->desc.jobs + j;
            const struct rondo__cuda_place place = { row_of(&run->q, run->q_row, job), row_of(&run->out, run->out_row, job),
                                                     row_of(&run->lse, run->lse_row, job) };
            int done;
            next = j + 1;
            err = rondo__cuda_fast_run(dev, of, p, run, j, &place, c, &done);
            if (err || done)
                continue;
        }
        for (next = j + 1; next < run->first + run->count && (p->desc.jobs[next].operation == RONDO_JOB_PROBABILITIES) == shows &&
                           !rondo__cuda_fast_has(p, next);)
            next++;
        struct rondo_attention_run some = *run;
        some.first = j;
        some.count = next - j;
        if (shows) {
            const struct first *from = (const struct first *)p->first.data + j, *to = from + some.count;
            c->first = from->tile;
            c->count = to->tile - from->tile;
            err = rondo__cuda_launch(dev, KERNEL_rondo_cuda_probabilities, c->count * p->room, 0, stream, c);
            continue;
        }
        for (int64_t b = 0; b < p->batches.count && !err; b++)
            err = run_batch(dev, p, &some, (const struct batch *)p->batches.data + b, c, stream);
    }
    return err;
}

int rondo__cuda_attention(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_program *program,
                          const struct rondo_attention_run *run, const struct rondo_poll *poll)
{
    cu_stream s = rondo__cuda_stream(dev, stream);
    struct cuda_attention c;
    struct rondo__cuda_slot *slot;
    if (run->first < 0 || run->count < 0 || run->first > program->desc.job_count || run->count > program->desc.job_count - run->first)
        return rondo__cuda_fail(RONDO_EINVAL, "attention: %lld jobs from job %lld on do not lie among the program's %lld", (long long)run->count,
                                (long long)run->first, (long long)program->desc.job_count);
    int err = rondo__cuda_enter(dev);
    if (err || run->count == 0)
        return err;
    for (int64_t j = run->first; j < run->first + run->count && !err; j++)
        err = missing(program, j, run);
    if (!err && program->desc.mask.kind->bits && program->desc.mask.heads > 1 && run->head != program->head)
        err = rondo__cuda_program_heads(dev, program, run->head);
    if (err)
        return err;
    memset(&c, 0, sizeof c);
    fill(dev, program, run, &c);
    for (int64_t j = run->first; j < run->first + run->count; j++) {
        const int32_t sources = ((const struct first *)program->first.data)[j].sources;
        c.source_count = sources > c.source_count ? sources : c.source_count;
    }
    err = rondo__cuda_scratch_begin(dev, s);
    if (!err)
        err = gather(dev, program, run, s, poll, &c, &slot);
    if (!err)
        err = run_jobs(dev, stream, program, run, &c, s);
    if (!err)
        err = rondo__cuda_slot_close(dev, slot, s);
    if (!err && poll && poll->work) {  /* on its way: how far it is nobody can tell */
        poll->work->total++;
        atomic_fetch_add(&poll->work->done, 1);
    }
    return err;
}
