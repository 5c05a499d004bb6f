/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Attention of level fast (rondo-numerics(7)): what of a program is for cuDNN, and its runs. A job that is has, for each LEAF that counts, calls of
 * the library: some rows of queries against keys that follow each other, all of which each row sees, or one more with each row. LEAFs that end in
 * the same node and whose keys touch are one; at this level no order of sums is promised. What comes back of a call, out and log(sum(exp)) of a row, is the
 * node that the row's steps want (attention_fast.h), or, where one call has all that a row sees and nobody else adds to it, the result itself, which
 * the library writes where it belongs if it can. So of an execution that is one call not the library's are: queries to be rounded (a launch), where they
 * are F32; and a launch behind the call, for nodes, for out in another type, or for log(sum(exp)) where its order is the library's own. All
 * other jobs are the strict kernels', whose lists a program has in any case: what a run's memory looks like is known late. Called by program.c
 * and attention.c.
 */
#include "backends/cuda/fast.h"

#include "backends/cuda/dnn.h"
#include "backends/cuda/layers.h"

#define BATCH_BYTES ((int64_t)256 << 20)       /* of scratch that a batch of rows may take */
#define ELEMENTS ((int64_t)INT32_MAX)          /* that an array may span: the library's kernels count in 32 bits */

/* ---- a program ---- */

/* Keys of a LEAF, with those of LEAFs behind it that belong to the same node and follow. */
struct group {
    int64_t row, first, count;
    int32_t leaf, source, node;
};

static int no_memory(void) { return rondo__cuda_fail(RONDO_ENOMEM, "attention: no memory for the lists of a program"); }

static bool suits(const struct rondo_program_desc *d)
{
    const struct rondo_terms *t = &d->terms;
    const bool types = (d->kv_type == RONDO_BF16 || d->kv_type == RONDO_F16) && (d->q_type == d->kv_type || d->q_type == RONDO_F32);
    return types && t->cap_in == 0.0f && !t->alibi && !t->bias && !t->drop && !d->mask.kind->bits && d->head_dim % 8 == 0 && d->value_dim % 8 == 0 &&
           d->head_dim <= CUDA_FAST_DIM && d->value_dim <= CUDA_FAST_DIM;
}

/* The node each LEAF ends in, a number for each: that of the step that takes it from the stack. */
static int nodes_of(const struct rondo_program_desc *d, const struct rondo_job *job, int32_t *node)
{
    int32_t *stack = rondo__cuda_alloc((size_t)job->steps + 1, sizeof *stack), *before = rondo__cuda_alloc((size_t)job->steps + 1, sizeof *before);
    int32_t top = 0, leaves = 0, err = stack && before ? 0 : no_memory();
    /* an entry of the stack is its last LEAF, and 1; before: which one comes before it in the entry */
    for (int32_t i = 0; i < job->steps && !err; i++) {
        const int code = d->steps[job->steps_first + i].code;
        if (code == RONDO_TREE_LEAF) {
            before[leaves++] = 0;
            stack[top++] = leaves;
        } else if (code == RONDO_TREE_LOAD) {
            stack[top++] = 0;
        } else if (code == RONDO_TREE_MERGE) {
            int32_t first = stack[--top];
            while (first && before[first - 1])
                first = before[first - 1];
            if (first)
                before[first - 1] = stack[top - 1];
            stack[top - 1] = first ? stack[top] : stack[top - 1];
        } else {
            for (int32_t l = stack[--top]; l; l = before[l - 1])
                node[l - 1] = i;
        }
    }
    rondo__cuda_free(stack);
    rondo__cuda_free(before);
    return err;
}

/* *count -1: keys that were dealt out one by one, which is nothing for the library. */
static int groups_of(const struct rondo_program_desc *d, const struct rondo_job *job, struct group **out, int32_t *count)
{
    int32_t *node = rondo__cuda_alloc((size_t)job->steps + 1, sizeof *node), leaf = 0, err;
    struct group *g = rondo__cuda_alloc((size_t)job->steps + 1, sizeof *g);
    *out = g;
    *count = 0;
    err = node && g ? nodes_of(d, job, node) : no_memory();
    for (int32_t i = 0; i < job->steps && !err && *count >= 0; i++) {
        const struct rondo_tree_step *s = d->steps + job->steps_first + i;
        if (s->code != RONDO_TREE_LEAF)
            continue;
        const struct rondo_leaf *f = d->leaves + job->leaves_first + s->arg;
        struct group *last = *count ? g + *count - 1 : NULL;
        if (f->step != 1) {
            *count = -1;
        } else if (last && last->node == node[leaf] && last->source == f->source && last->first + last->count == f->first && last->row + last->count == f->row) {
            last->count += f->count;
        } else {
            g[(*count)++] = (struct group){ f->row, f->first, f->count, leaf, f->source, node[leaf] };
        }
        leaf++;
    }
    rondo__cuda_free(node);
    return err;
}

/* Calls for rows [first, end) and the keys of a group; false where they are too many. */
static bool add_calls(struct rondo_program *p, const struct cuda_job *cj, const struct group *g, struct cuda_fast_batch *batch, int *err)
{
    const struct cuda_row *rows = (const struct cuda_row *)p->rows.data + cj->rows;
    const int64_t end = batch->first + batch->rows, g_end = g->first + g->count;
    for (int64_t r = batch->first, next; r < end; r = next) {
        const int64_t lo = rows[r].lo > g->first ? rows[r].lo : g->first, hi = rows[r].hi < g_end ? rows[r].hi : g_end;
        int64_t step = 0, last = hi;
        for (next = r + 1; lo < hi && next < end; next++) {
            const int64_t l = rows[next].lo > g->first ? rows[next].lo : g->first, h = rows[next].hi < g_end ? rows[next].hi : g_end;
            if (l != lo || h - last < 0 || h - last > 1 || (next > r + 1 && h - last != step))
                break;
            step = h - last;
            last = h;
        }
        if (lo >= hi)
            continue;
        void *at;
        if (batch->calls == CUDA_FAST_CALLS)
            return false;
        if (!rondo__cuda_list_add(&p->fast_calls, 1, sizeof(struct cuda_fast_call), &at)) {
            *err = no_memory();
            return false;
        }
        *(struct cuda_fast_call *)at = (struct cuda_fast_call){ .first = r, .rows = next - r, .leaf = g->leaf, .source = g->source, .causal = (int32_t)step,
                                                                .key = g->row + (lo - g->first), .keys = last - lo };
        batch->calls++;
    }
    return true;
}

static bool all_see(const struct rondo_program *p, const struct cuda_job *cj, const struct group *g)
{
    const struct cuda_row *row = (const struct cuda_row *)p->rows.data + cj->rows;
    bool all = true;
    for (int64_t i = 0; i < cj->q_rows && all; i++)
        all = row[i].lo < row[i].hi && row[i].hi > g->first && row[i].lo < g->first + g->count;
    return all;
}

static int plan_job(struct rondo_program *p, int64_t number, struct cuda_fast_job *out)
{
    const struct rondo_program_desc *d = &p->desc;
    const struct rondo_job *job = d->jobs + number;
    const struct cuda_job *cj = (const struct cuda_job *)p->jobs.data + number;
    const int64_t batches = p->fast_batches.count, calls = p->fast_calls.count, wide = (int64_t)cj->heads * d->value_dim;
    int64_t row_bytes = (int64_t)cj->heads * (2 * d->value_dim + 4), most;
    struct group *g = NULL;
    int32_t count = 0;
    bool possible = true, alone = !d->terms.sinks;
    *out = (struct cuda_fast_job){ .batches = 0 };
    if (job->operation != RONDO_JOB_FORWARD || job->leaves <= 0 || job->q_rows < CUDA_FAST_QUERIES)
        return 0;
    for (int32_t i = 0; i < job->steps; i++) {
        const int code = d->steps[job->steps_first + i].code;
        alone &= code != RONDO_TREE_LOAD && code != RONDO_TREE_STORE;
    }
    int err = groups_of(d, job, &g, &count);
    possible = !err && count > 0;
    row_bytes *= count > 0 ? count : 1;
    most = BATCH_BYTES / row_bytes > CUDA_FAST_QUERIES ? BATCH_BYTES / row_bytes / CUDA_FAST_QUERIES * CUDA_FAST_QUERIES : CUDA_FAST_QUERIES;
    if (count == 1 && alone && d->out_type == d->kv_type && all_see(p, cj, g))
        most *= 4;                             /* seldom in need of scratch for what comes out */
    for (int64_t first = 0; first < job->q_rows && possible; first += most) {
        struct cuda_fast_batch batch = { .first = first, .rows = job->q_rows - first < most ? job->q_rows - first : most, .call = p->fast_calls.count };
        int64_t covered = 0;
        int32_t used = 0;
        void *at;
        for (int32_t i = 0; i < count && possible; i++) {
            const int32_t had = batch.calls;
            possible = add_calls(p, cj, g + i, &batch, &err);
            used += batch.calls > had;
        }
        struct cuda_fast_call *c = (struct cuda_fast_call *)p->fast_calls.data + batch.call;
        for (int32_t i = 0; i < batch.calls; i++) {
            c[i].lse = batch.floats;
            c[i].out = batch.halves;
            batch.floats += (c[i].rows * cj->heads + 3) & ~(int64_t)3;
            batch.halves += c[i].rows * wide;
            covered += c[i].rows;
        }
        batch.alone = alone && used == 1 && covered == batch.rows;
        if (possible && !rondo__cuda_list_add(&p->fast_batches, 1, sizeof batch, &at))
            err = no_memory(), possible = false;
        if (possible)
            *(struct cuda_fast_batch *)at = batch;
    }
    rondo__cuda_free(g);
    if (!possible) {
        p->fast_batches.count = batches;
        p->fast_calls.count = calls;
        return err;
    }
    *out = (struct cuda_fast_job){ batches, (int32_t)(p->fast_batches.count - batches), 0 };
    return 0;
}

/* Bytes of 16-bit numbers of a batch: its queries, where they are rounded, and behind them out of all calls, where it is not written where it belongs. */
static int64_t queries_of(const struct rondo_program_desc *d, const struct cuda_fast_batch *b, int32_t heads)
{
    return d->q_type == RONDO_F32 ? b->rows * heads * d->head_dim * 2 : 0;
}
static int64_t halves_of(const struct rondo_program_desc *d, const struct cuda_fast_batch *b, int32_t heads, bool direct)
{
    return queries_of(d, b, heads) + (direct ? 0 : b->halves * 2);
}

int rondo__cuda_fast_program(struct rondo_device *dev, struct rondo_program *p)
{
    const struct rondo_program_desc *d = &p->desc;
    int64_t floats = 0, halves = 0;
    void *at;
    p->fast_jobs.count = p->fast_batches.count = p->fast_calls.count = 0;
    p->fast_scratch = 0;
    if (d->level != RONDO_FAST)
        return 0;
    int err = rondo__cuda_dnn_open(dev);
    if (!err)
        err = rondo__cuda_dnn_check(dev);
    if (err || !suits(d))
        return err;
    if (!rondo__cuda_list_add(&p->fast_jobs, d->job_count, sizeof(struct cuda_fast_job), &at) && d->job_count)
        return no_memory();
    for (int64_t j = 0; j < d->job_count && !err; j++)
        err = plan_job(p, j, (struct cuda_fast_job *)p->fast_jobs.data + j);
    for (int64_t i = 0; i < p->fast_batches.count && !err; i++) {
        const struct cuda_fast_batch *b = (const struct cuda_fast_batch *)p->fast_batches.data + i;
        const int64_t narrow = halves_of(d, b, d->heads, b->alone && d->out_type == d->kv_type);
        floats = b->floats > floats ? b->floats : floats;
        halves = narrow > halves ? narrow : halves;
    }
    p->fast_scratch = (size_t)(floats * 4 + halves);
    if (!err && floats)
        err = rondo__cuda_grow(dev, &dev->fast, (size_t)floats * 4, "scratch for attention of level fast");
    return err || !halves ? err : rondo__cuda_grow(dev, &dev->halves, (size_t)halves, "scratch of 16 bits for attention");
}

/* ---- a run ---- */

/* One call with all that it reads and writes. */
struct ready {
    struct rondo__dnn_shape shape;
    struct rondo__dnn_data data;
};

static bool even(const struct rondo_rows *rows, int type, int64_t dim)
{
    const int64_t size = rondo__cuda_size(type);
    return rondo__cuda_grain(rows->data, rows->row_stride * size, rows->head_stride * size, dim * size) == 16;
}

/* Where keys [row, row + count) of a sequence's rows lie, if it is in one piece; else -1. */
static int64_t piece_of(const struct rondo_kv_part *part, int64_t row, int64_t count)
{
    if (!part->pages)
        return row;
    const int64_t size = part->page_rows, first = row / size, last = (row + count - 1) / size;
    for (int64_t i = first; i < last; i++)
        if (part->pages[i + 1] != part->pages[i] + 1)
            return -1;
    return part->pages[first] * size + row % size;
}

static bool spans(int64_t rows, int64_t row_stride, int64_t heads, int64_t head_stride) { return rows * row_stride + heads * head_stride < ELEMENTS; }

/* Who makes results of what the library computes: it does itself; or but for log(sum(exp)); or the kernel of rows, which moves them; or that of nodes. Where
 * out is q the library would write what it may still read. */
enum { ALL, OUT, ROWS, NODES };
static int made_by(const struct rondo_device *dev, const struct rondo_program *p, const struct rondo_attention_run *run, const struct cuda_fast_batch *batch,
                   const struct rondo__cuda_place *place)
{
    const struct rondo_program_desc *d = &p->desc;
    if (!batch->alone || run->stats.data)
        return NODES;
    if (d->out_type != d->kv_type || run->out.data == run->q.data || !even(&run->out, d->out_type, d->value_dim))
        return ROWS;
    const float *sums = run->lse.data;
    const bool turned = dev->dnn_turned && sums && rondo__cuda_grain(sums + place->lse, run->lse.row_stride * 4, 0, 0) == 16 &&
                        spans(batch->first + batch->rows, run->lse.row_stride, d->heads, run->lse.head_stride);
    return !sums || turned ? ALL : OUT;
}

/* false: what lies so is nothing for the library. */
static bool prepare(const struct rondo_device *dev, const struct rondo_program *p, const struct rondo_attention_run *run, const struct rondo_job *job,
                    const struct cuda_fast_call *call, const struct cuda_fast_batch *batch, const struct rondo__cuda_place *place, int made, struct ready *out)
{
    const struct rondo_program_desc *d = &p->desc;
    const struct rondo_kv_part *part = run->kv + call->source;
    const int32_t heads = rondo__job_heads(job, d->heads), kv_heads = rondo__job_kv_heads(job, d->heads, d->kv_heads);
    const int64_t row = piece_of(part, (part->kv_row ? part->kv_row[job->sequence] : 0) + call->key, call->keys);
    const bool widened = d->q_type == RONDO_F32, direct = made <= OUT, sums = made == ALL && run->lse.data;
    float *scratch = (float *)(uintptr_t)dev->fast.memory;
    struct rondo__dnn_shape *s = &out->shape;
    *s = (struct rondo__dnn_shape){ .type = d->kv_type, .heads = heads, .kv_heads = kv_heads, .head_dim = d->head_dim,
                                    .value_dim = d->value_dim, .causal = call->causal, .rows = call->rows, .keys = call->keys,
                                    .q_row = widened ? (int64_t)heads * d->head_dim : run->q.row_stride, .q_head = widened ? d->head_dim : run->q.head_stride,
                                    .k_row = part->k.row_stride, .k_head = part->k.head_stride, .v_row = part->v.row_stride, .v_head = part->v.head_stride,
                                    .out_row = direct ? run->out.row_stride : (int64_t)heads * d->value_dim,
                                    .out_head = direct ? run->out.head_stride : d->value_dim,
                                    .stats_row = sums ? run->lse.row_stride : 1, .stats_head = sums ? run->lse.head_stride : call->rows };
    if (row < 0 || !even(&part->k, d->kv_type, d->head_dim) || !even(&part->v, d->kv_type, d->value_dim) || (!widened && !even(&run->q, d->q_type, d->head_dim)) ||
        !spans(s->rows, s->q_row, heads, s->q_head) || !spans(s->keys, s->k_row, kv_heads, s->k_head) || !spans(s->keys, s->v_row, kv_heads, s->v_head) ||
        !spans(s->rows, s->out_row, heads, s->out_head))
        return false;
    const char *q = widened ? (const char *)(uintptr_t)dev->halves.memory + (call->first - batch->first) * s->q_row * 2
                            : (const char *)run->q.data + (place->q + call->first * s->q_row) * 2;
    out->data = (struct rondo__dnn_data){
        .q = q, .k = (const char *)part->k.data + (row * s->k_row + job->kv_head * s->k_head) * 2,
        .v = (const char *)part->v.data + (row * s->v_row + job->kv_head * s->v_head) * 2,
        .out = direct ? (char *)run->out.data + (place->out + call->first * s->out_row) * rondo__cuda_size(d->out_type)
                      : (char *)(uintptr_t)dev->halves.memory + queries_of(d, batch, heads) + call->out * 2,
        .stats = sums ? (float *)run->lse.data + place->lse + call->first * run->lse.row_stride : scratch + call->lse,
        .scale = (float)((double)d->scale_log2 * 0x1.62e42fefa39efp-1),
    };
    return true;
}

static int round_queries(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_program *p, const struct rondo_attention_run *run,
                         const struct rondo_job *job, const struct cuda_fast_batch *batch, const struct rondo__cuda_place *place)
{
    const struct rondo_program_desc *d = &p->desc;
    const int32_t heads = rondo__job_heads(job, d->heads);
    const bool dense = run->q.head_stride == d->head_dim;
    const float *from = (const float *)run->q.data + place->q + batch->first * run->q.row_stride;
    char *to = (char *)(uintptr_t)dev->halves.memory;
    int err = 0;
    for (int32_t h = 0; h < (dense ? 1 : heads) && !err; h++)
        err = rondo__cuda_convert_rows(dev, stream, batch->rows, dense ? (int64_t)heads * d->head_dim : d->head_dim, RONDO_F32, from + h * run->q.head_stride,
                                       (size_t)run->q.row_stride * 4, d->kv_type, to + (int64_t)h * d->head_dim * 2, (size_t)heads * (size_t)d->head_dim * 2);
    return err;
}

/* Calls, then what makes nodes and results of them. */
static int run_batch(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_program *p, const struct rondo_attention_run *run, int64_t number,
                     const struct cuda_fast_batch *batch, const struct rondo__cuda_place *place, const struct cuda_attention *c)
{
    const struct rondo_job *job = p->desc.jobs + number;
    const struct cuda_fast_call *calls = (const struct cuda_fast_call *)p->fast_calls.data + batch->call;
    const int made = made_by(dev, p, run, batch, place);
    cu_stream s = rondo__cuda_stream(dev, stream);
    struct ready r;
    struct cuda_fast f;
    int err = p->desc.q_type == RONDO_F32 && batch->calls ? round_queries(dev, stream, p, run, job, batch, place) : 0;
    for (int32_t i = 0; i < batch->calls && !err; i++) {
        struct rondo__dnn_plan *way;
        if (!prepare(dev, p, run, job, calls + i, batch, place, made, &r))
            return rondo__cuda_fail(RONDO_EINVAL, "attention: arrays of job %lld are not what they were", (long long)number);
        err = rondo__cuda_dnn_find(dev, &r.shape, &way);
        if (!err)
            err = rondo__cuda_dnn_run(dev, s, way, &r.shape, &r.data);
    }
    if (err || made == ALL)
        return err;
    memset(&f, 0, sizeof f);
    f.a = *c;
    f.a.first = batch->first;
    f.a.count = batch->rows;
    f.lse = (const float *)(uintptr_t)dev->fast.memory;
    f.out = made == OUT ? NULL : (const char *)(uintptr_t)dev->halves.memory + queries_of(&p->desc, batch, rondo__job_heads(job, p->desc.heads));
    f.calls = batch->calls;
    f.job = (int32_t)number;
    f.grain = even(&run->out, p->desc.out_type, p->desc.value_dim) ? 16 : 1;
    memcpy(f.call, calls, (size_t)batch->calls * sizeof *calls);
    const int64_t rows = batch->rows * rondo__job_heads(job, p->desc.heads);
    if (made == NODES)
        return rondo__cuda_launch(dev, KERNEL_rondo_cuda_fast, rondo__cuda_spread(dev, rows * 32), (size_t)cuda_stack_bytes(p->depth, p->desc.value_dim), s, &f);
    return rondo__cuda_launch(dev, KERNEL_rondo_cuda_fast_rows, rondo__cuda_spread(dev, made == ROWS ? rows * (p->desc.value_dim / 8) : rows), 0, s, &f);
}

int rondo__cuda_fast_run(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_program *p, const struct rondo_attention_run *run, int64_t number,
                         const struct rondo__cuda_place *place, const struct cuda_attention *c, int *done)
{
    const struct cuda_fast_job *job = (const struct cuda_fast_job *)p->fast_jobs.data + number;
    const struct cuda_fast_batch *batch = (const struct cuda_fast_batch *)p->fast_batches.data + job->batch;
    struct ready r;
    int err = 0;
    *done = 0;
    /* Before anything happens: can the library do all of it? */
    for (int32_t b = 0; b < job->batches; b++) {
        const int made = made_by(dev, p, run, batch + b, place);
        if (made > OUT)                           /* where a program could not know it; else there is enough */
            err = rondo__cuda_grow(dev, &dev->halves, (size_t)halves_of(&p->desc, batch + b, p->desc.heads, false), "scratch of 16 bits for attention");
        if (err)
            return err;
        for (int32_t i = 0; i < batch[b].calls; i++) {
            struct rondo__dnn_plan *way;
            if (!prepare(dev, p, run, p->desc.jobs + number, (const struct cuda_fast_call *)p->fast_calls.data + batch[b].call + i, batch + b, place, made, &r))
                return 0;
            err = rondo__cuda_dnn_find(dev, &r.shape, &way);
            if (!err && !way && made == ALL && run->lse.data) {   /* perhaps there is one that leaves log(sum(exp)) to the kernel of rows */
                dev->dnn_turned = false;
                err = rondo__cuda_fast_run(dev, stream, p, run, number, place, c, done);
                dev->dnn_turned = !*done;
                return err;
            }
            if (err || !way)
                return err;
        }
    }
    *done = 1;
    for (int32_t b = 0; b < job->batches && !err; b++)
        err = run_batch(dev, stream, p, run, number, batch + b, place, c);
    return err;
}
