/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The attention slots of the device table: prepares a program's jobs as tasks, cuts them into items of some tokens and one KV head, hands
 * these to the threads of the rank, the heaviest first, and gives each thread its scratch. The kernels (ref_attention.c, attention.c)
 * do one item. Everything that a run needs is allocated with the program.
 */
#include "backends/cpu/cpu.h"

#include <stdatomic.h>

#include "backends/cpu/task.h"

/* What is known of a job before any run. */
struct about {
    int64_t key_first, key_end;      /* positions of all its keys */
    int32_t sources;                 /* it reads KV parts below this one */
    bool writes;                     /* it has OUT */
    bool pages;                      /* no leaf of it crosses a multiple of the leaf size, counted in rows: it may lie in pages */
};

struct rondo_program {
    struct rondo_program_desc desc;
    struct rondo_attention_task *tasks;   /* [job_count]; where data lies is filled in by each run */
    struct about *about;                  /* [job_count] */
    float **slots;                        /* of all jobs, one after another: jobs may name the same places, each for its heads */
    int64_t job_room, slot_room;          /* what the arrays have room for */
    size_t worker_bytes, list_bytes, nodes_bytes, scratch;   /* of one thread, of the list of pieces, of parts' nodes, and all for all threads */
    size_t slot_floats;                   /* the largest node of a task whose leaves may be shared out */
    int64_t parts;                        /* so many of them in a run at most */
};

/* Some tokens of a task; one item for some of its KV heads. Where there are too few items for the threads, as in decoding one sequence, leaves
 * are shared out too: an item for each part of 2^shift of them, and when all of these are done one for what comes after. */
struct piece {
    uint64_t cost;
    int64_t token, items, joins; /* items: of this piece and all before it, after sorting; joins: the same of those that come after parts */
    int64_t task, first_part, parts; /* parts 0: not shared out; first_part: its first node */
    int32_t shift, reserved;
};
#define PARTS_OF_THREAD 2 /* about so many, and each some leaves, as its first leaf comes slowly */
#define PART_SHIFT 2

/* ---- programs ---- */

static void set_task(const struct rondo_program *p, const struct rondo_job *job, struct rondo_attention_task *t)
{
    const struct rondo_program_desc *d = &p->desc;
    *t = (struct rondo_attention_task){
        .q_rows = job->q_rows, .q_spans = d->spans + job->spans_first, .q_span_count = job->spans, .q_type = d->q_type,
        .sequence = job->sequence, .leaves = d->leaves + job->leaves_first, .leaf_count = job->leaves, .kv_type = d->kv_type,
        .program = d->steps + job->steps_first, .steps = job->steps, .depth = job->depth,
        .heads = rondo__job_heads(job, d->heads), .kv_heads = rondo__job_kv_heads(job, d->heads, d->kv_heads),
        .kv_head = job->kv_head, .head_dim = d->head_dim, .value_dim = d->value_dim, .scale_log2 = d->scale_log2,
        .leaf_size = d->leaf_size, .mask = &d->mask, .out_type = d->out_type, .operation = job->operation, .terms = d->terms,
    };
}

static void look_at(const struct rondo_program *p, const struct rondo_attention_task *t, struct about *about)
{
    const int64_t size = p->desc.leaf_size;
    *about = (struct about){ .key_first = INT64_MAX, .key_end = INT64_MIN, .pages = true };
    for (int32_t i = 0; i < t->leaf_count; i++) {
        const struct rondo_leaf *f = t->leaves + i;
        const int64_t end = f->first + (f->count - 1) * f->step + 1;
        about->key_first = f->first < about->key_first ? f->first : about->key_first;
        about->key_end = end > about->key_end ? end : about->key_end;
        about->sources = f->source >= about->sources ? f->source + 1 : about->sources;
        about->pages &= f->row % size == 0 || f->row / size == (f->row + f->count - 1) / size;
    }
    for (int32_t i = 0; i < t->steps; i++)
        about->writes |= t->program[i].code == RONDO_TREE_OUT;
}

/* What of a program this device has no kernels for. */
static int refuse(const struct rondo_device *dev, const struct rondo_program_desc *d)
{
    if (d->arithmetic < 0 || d->arithmetic >= RONDO_CPU_ARITHMETICS || !dev->kernels.attention[d->arithmetic])
        return rondo__fail(RONDO_ENOTSUP, "attention: the cpu device has no kernels of arithmetic number %d; it has f32, f64 and bf16-hopper",
                           (int)d->arithmetic);
    if (d->level != RONDO_STRICT && d->level != RONDO_FAST)
        return rondo__fail(RONDO_ENOTSUP, "attention: the cpu device computes levels strict and fast, which are the same, not number %d", (int)d->level);
    for (int64_t i = 0; d->terms.alibi && i < d->leaf_count; i++)
        if (d->leaves[i].step > 65536)   /* distances are taken apart into floats that hold 2^24 */
            return rondo__fail(RONDO_ENOTSUP, "attention: with ALiBi the cpu device has keys dealt out over up to 65536 ranks, not %d",
                               (int)d->leaves[i].step);
    if (d->node_width != d->value_dim + 2)
        return rondo__fail(RONDO_ENOTSUP, "attention: nodes of %d floats for %d values; the cpu device has two more than values",
                           (int)d->node_width, (int)d->value_dim);
    for (int64_t i = 0; i < d->job_count; i++) {
        const struct rondo_job *job = d->jobs + i;
        const int32_t heads = rondo__job_heads(job, d->heads), kv_heads = rondo__job_kv_heads(job, d->heads, d->kv_heads);
        if (job->operation != RONDO_JOB_FORWARD && job->operation != RONDO_JOB_JOIN && job->operation != RONDO_JOB_PROBABILITIES)
            return rondo__fail(RONDO_ENOTSUP, "attention: the cpu device computes operations forward, join and probabilities, not number %d",
                               (int)job->operation);
        if (heads < 1 || job->head < 0 || heads > d->heads - job->head || kv_heads < 1 || job->kv_head < 0 ||
            kv_heads > d->kv_heads - job->kv_head || heads % kv_heads)
            return rondo__fail(RONDO_EINVAL, "attention: job %lld is for heads %d to %d of KV heads %d to %d; the program has %d and %d, and "
                               "each KV head takes as many of them", (long long)i, (int)job->head, (int)(job->head + heads) - 1,
                               (int)job->kv_head, (int)(job->kv_head + kv_heads) - 1, (int)d->heads, (int)d->kv_heads);
    }
    return 0;
}

static int64_t blocks_of(const struct rondo_attention_task *t, int64_t step)
{
    return t->q_rows <= 0 || (t->steps <= 0 && t->operation != RONDO_JOB_PROBABILITIES) ? 0 : (t->q_rows - 1) / step + 1;
}

/* Pieces, items and scratch of all jobs: a run of some of them needs no more. false: too large for this machine. */
static bool measure(const struct rondo_device *dev, struct rondo_program *p)
{
    const struct rondo_cpu_attention *kernel = dev->kernels.attention[p->desc.arithmetic];
    int64_t pieces = 0, items = 0, heads;
    size_t most = 0, all, floats;
    p->parts = 0;
    p->slot_floats = 0;
    for (int64_t i = 0; i < p->desc.job_count; i++) {
        const struct rondo_attention_task *t = p->tasks + i;
        const int64_t blocks = blocks_of(t, kernel->tokens(t));
        size_t need;
        if (!blocks)
            continue;
        if (!rondo__mul64(blocks, (t->kv_heads - 1) / kernel->heads(t) + 1, &heads) || !rondo__add64(pieces, blocks, &pieces) ||
            !rondo__add64(items, heads, &items) || !kernel->bytes(t, &need))
            return false;
        most = need > most ? need : most;
        if (dev->threads > 1 && kernel->shares(t)) {
            p->parts = 8 * (int64_t)dev->threads;
            floats = rondo__slot_floats(t->q_rows, t->heads, t->value_dim);
            p->slot_floats = floats > p->slot_floats ? floats : p->slot_floats;
        }
    }
    if (!rondo__add64(items, p->parts, &items) || !rondo__mul((size_t)p->parts * sizeof(float), p->slot_floats, &p->nodes_bytes))
        return false;
    p->nodes_bytes = (p->nodes_bytes + 63) & ~(size_t)63;
    if (!rondo__add(most, 63, &p->worker_bytes))
        return false;
    p->worker_bytes &= ~(size_t)63;
    return rondo__mul((size_t)pieces, sizeof(struct piece), &p->list_bytes) &&
           rondo__mul(p->worker_bytes, (size_t)rondo__cpu_workers(dev, items), &all) && rondo__add(all, p->nodes_bytes, &all) &&
           rondo__add(all, p->list_bytes, &p->scratch);
}

/* Room for so many, which are 0; half as many again, and some more, where it grows again. */
static bool set_room(void **array, int64_t *room, int64_t count, size_t item)
{
    if (count > *room || !*array) {
        const int64_t more = *array ? count + count / 2 + 16 : count;
        void *larger = rondo__alloc_zero((size_t)more, item);
        if (!larger)
            return false;
        rondo__free(*array);
        *array = larger;
        *room = more;
    } else if (count) {
        memset(*array, 0, (size_t)count * item);
    }
    return true;
}

static bool make_room(struct rondo_program *p, int64_t jobs, int64_t places)
{
    void *tasks = p->tasks, *about = p->about, *slots = p->slots;
    int64_t room = p->job_room;   /* both arrays grow together */
    bool fits = set_room(&tasks, &room, jobs, sizeof *p->tasks);
    p->tasks = tasks;
    room = p->job_room;
    fits = fits && set_room(&about, &room, jobs, sizeof *p->about);
    p->about = about;
    p->job_room = fits ? room : 0;
    fits = fits && set_room(&slots, &p->slot_room, places, sizeof *p->slots);
    p->slots = slots;
    return fits;
}

#define MUCH ((size_t)1 << 20)

/* What is updated has room for a few jobs more than it began with. */
static bool roomy(struct rondo_program *p)
{
    enum { ROOM = 32 };
    if (p->job_room >= ROOM && p->slot_room >= ROOM)
        return true;
    return make_room(p, p->job_room < ROOM ? ROOM : p->job_room, p->slot_room < ROOM ? ROOM : p->slot_room);
}

/* The program is { 0 }, or was made before. */
static int set_program(struct rondo_device *dev, struct rondo_program *p, const struct rondo_program_desc *desc)
{
    const bool again = p->tasks != NULL;
    int64_t places = 0;
    for (int64_t i = 0; i < desc->job_count; i++)
        places += desc->jobs[i].places;
    if ((again && !roomy(p)) || !make_room(p, desc->job_count, places))
        return rondo__fail(RONDO_ENOMEM, "attention: no memory for a program of %lld jobs", (long long)desc->job_count);
    p->desc = *desc;
    places = 0;
    for (int64_t i = 0; i < desc->job_count; i++) {
        set_task(p, desc->jobs + i, p->tasks + i);
        p->tasks[i].slots = p->slots + places;
        places += desc->jobs[i].places;
        look_at(p, p->tasks + i, p->about + i);
    }
    if (!measure(dev, p))
        return rondo__fail(RONDO_ENOMEM, "attention: the scratch of the cpu device would exceed the address space");
    /* a sequence that grows has a deeper tree now and then: there is to be some more than enough, unless it is much */
    if (again && p->scratch < MUCH && p->scratch + p->scratch / 4 > dev->scratch_bytes && rondo__cpu_scratch(dev, 2 * p->scratch))
        return 0;
    if (!rondo__cpu_scratch(dev, p->scratch))
        return rondo__fail(RONDO_ENOMEM, "attention: no memory for %zu bytes of scratch on the cpu device", p->scratch);
    return 0;
}

int rondo__cpu_program_update(struct rondo_device *dev, struct rondo_program *program, const struct rondo_program_desc *desc)
{
    const int err = refuse(dev, desc);
    return err ? err : set_program(dev, program, desc);
}

int rondo__cpu_program_new(struct rondo_device *dev, struct rondo_program **out, const struct rondo_program_desc *desc)
{
    *out = NULL;
    int err = refuse(dev, desc);
    if (err)
        return err;
    struct rondo_program *p = rondo__alloc_zero(1, sizeof *p);
    err = p ? set_program(dev, p, desc) : rondo__fail(RONDO_ENOMEM, "attention: no memory for a program of %lld jobs", (long long)desc->job_count);
    if (err) {
        rondo__cpu_program_free(dev, p);
        return err;
    }
    *out = p;
    return 0;
}

void rondo__cpu_program_free(struct rondo_device *dev, struct rondo_program *program)
{
    (void)dev;
    if (!program)
        return;
    rondo__free(program->tasks);
    rondo__free(program->about);
    rondo__free(program->slots);
    rondo__free(program);
}

size_t rondo__cpu_program_scratch(const struct rondo_device *dev, const struct rondo_program *program)
{
    (void)dev;
    return rondo__cpu_scratch_takes(program->scratch);
}

/* ---- a run ---- */

struct job {
    const struct rondo_cpu_attention *kernel;
    const struct rondo_attention_task *tasks;
    const struct rondo_poll *poll;
    struct piece *pieces;
    char *scratch;
    size_t scratch_bytes; /* of one worker */
    float *nodes;         /* of parts, `floats` apart */
    size_t floats;
    int64_t pieces_count, items, joins;
};

/* A job's first row of q, out or lse, and of that its first head. */
static void *rows_of(const struct rondo_rows *rows, const int64_t *begins, const struct rondo_job *job, int type)
{
    const int64_t row = begins ? begins[job->sequence] + job->row : job->q_row;
    const int64_t at = row * rows->row_stride + job->head * rows->head_stride;
    return rows->data ? (char *)rows->data + at * (int64_t)rondo_type_size(type) : NULL;
}

/* ... and where terms of scores lie. */
static int bind_terms(const struct rondo_program *p, int64_t job, const struct rondo_attention_run *run, struct rondo_attention_task *t)
{
    const struct rondo_terms *terms = &p->desc.terms;
    const int64_t sequence = p->desc.jobs[job].sequence;
    const bool scores = t->leaf_count > 0, writes = p->about[job].writes;   /* what is not looked at need not be there */
    const char *missing = scores && terms->alibi && !run->alibi ? "alibi" : writes && terms->sinks && !run->sinks ? "sinks" : NULL;
    if (scores && terms->bias && !run->bias.data)
        missing = "bias";
    if (missing)
        return rondo__fail(RONDO_EINVAL, "attention: the program has %s, but the run that job %lld is in has none", missing, (long long)job);
    t->alibi = scores && terms->alibi ? run->alibi + t->head : NULL;
    t->sinks = writes && terms->sinks ? run->sinks + t->head : NULL;
    t->bias = run->bias.data;
    t->bias_row_stride = run->bias.row_stride;
    t->bias_head_stride = run->bias.head_stride;
    t->bias_at = !terms->bias ? 0 : t->head * run->bias.head_stride + (run->bias_row ? run->bias_row[sequence] * run->bias.row_stride : 0) +
                                    (run->bias_key ? run->bias_key[sequence] : 0);   /* lists of what there is not are empty */
    t->seed = run->seed;
    return 0;
}

/* Where the data of a job lies in this run. */
static int bind(const struct rondo_program *p, int64_t job, const struct rondo_attention_run *run)
{
    const struct rondo_job *from = p->desc.jobs + job;
    const struct about *about = p->about + job;
    struct rondo_attention_task *t = p->tasks + job;
    int err;
    if (about->sources > run->kv_count)
        return rondo__fail(RONDO_EINVAL, "attention: job %lld reads KV part %d, but the run has %d", (long long)job,
                           (int)about->sources - 1, (int)run->kv_count);
    for (int32_t i = 0; i < about->sources; i++) {
        const struct rondo_kv_part *part = run->kv + i;
        const int64_t first = part->kv_row ? part->kv_row[from->sequence] : 0;
        if (part->pages && (!about->pages || part->page_rows % t->leaf_size || first % t->leaf_size))
            return rondo__fail(RONDO_ENOTSUP, "attention: leaves of job %lld cross pages of %lld rows; pages take whole leaves of %d",
                               (long long)job, (long long)part->page_rows, (int)t->leaf_size);
    }
    t->q = rows_of(&run->q, run->q_row, from, t->q_type);
    t->q_row_stride = run->q.row_stride;
    t->q_head_stride = run->q.head_stride;
    t->out = rows_of(&run->out, run->out_row, from, t->out_type);
    t->out_row_stride = run->out.row_stride;
    t->out_head_stride = run->out.head_stride;
    t->lse = rows_of(&run->lse, run->lse_row, from, RONDO_F32);
    t->lse_row_stride = run->lse.row_stride;
    t->lse_head_stride = run->lse.head_stride;
    t->stats = rows_of(&run->stats, run->stats_row, from, RONDO_F32);
    t->stats_row_stride = run->stats.row_stride;
    t->stats_head_stride = run->stats.head_stride;
    t->probs = rows_of(&run->probs, run->probs_row, from, RONDO_F32);
    t->probs_at = run->probs_key ? run->probs_key[from->sequence] : 0;
    t->probs_row_stride = run->probs.row_stride;
    t->probs_head_stride = run->probs.head_stride;
    if (from->operation == RONDO_JOB_PROBABILITIES && (!t->stats || !t->probs))
        return rondo__fail(RONDO_EINVAL, "attention: job %lld computes probabilities, but the run has no %s", (long long)job,
                           t->stats ? "probs" : "stats");
    t->head = run->head + from->head;
    err = bind_terms(p, job, run, t);
    if (err)
        return err;
    t->kv = run->kv;
    t->kv_count = about->sources;
    for (int32_t i = 0; i < from->places; i++) {
        const struct rondo_place *place = p->desc.places + from->places_first + i;
        if (place->buffer >= run->node_count)
            return rondo__fail(RONDO_EINVAL, "attention: job %lld has nodes in buffer %d, but the run has %d", (long long)job,
                               (int)place->buffer, (int)run->node_count);
        t->slots[i] = run->nodes[place->buffer] + (place->rows * p->desc.heads + from->q_rows * from->head) * p->desc.node_width;
    }
    return 0;
}

/* How many keys the tokens [t0, t1) may see: their last position less their first, clipped to the task's keys. Where what a query sees
 * need not move on with its position, each of them is asked. */
static uint64_t cost(const struct rondo_attention_task *t, const struct about *about, int64_t t0, int64_t t1)
{
    if (t->mask->kind->bits && t1 - t0 > 1) {
        uint64_t sum = 0;
        for (int64_t token = t0; token < t1; token++)
            sum += cost(t, about, token, token + 1);
        return sum;
    }
    int64_t lo, hi, lo1, hi1, p0 = rondo__cpu_position(t, t0), p1 = rondo__cpu_position(t, t1 - 1);
    t->mask->kind->row(t->mask, t->sequence, p0 < p1 ? p0 : p1, &lo, &hi1);
    t->mask->kind->row(t->mask, t->sequence, p0 < p1 ? p1 : p0, &lo1, &hi);
    if (lo < about->key_first)
        lo = about->key_first;
    if (hi > about->key_end)
        hi = about->key_end;
    return (uint64_t)(t1 - t0) * (hi > lo ? (uint64_t)(hi - lo) : 0u);
}

/* Heap sort: the heaviest first; equal ones by task and token, so that the order is the same everywhere. */
static bool before(const struct piece *a, const struct piece *b)
{
    if (a->cost != b->cost)
        return a->cost > b->cost;
    return a->task != b->task ? a->task < b->task : a->token < b->token;
}

static void sift(struct piece *p, int64_t root, int64_t count)
{
    struct piece moved = p[root];
    for (int64_t child; (child = 2 * root + 1) < count; root = child) {
        if (child + 1 < count && before(p + child, p + child + 1))
            child++;
        if (!before(&moved, p + child))
            break;
        p[root] = p[child];
    }
    p[root] = moved;
}

static void sort(struct piece *p, int64_t count)
{
    for (int64_t i = count / 2; i-- > 0;)
        sift(p, i, count);
    for (int64_t end = count; end-- > 1;) {
        struct piece last = p[end];
        p[end] = p[0];
        p[0] = last;
        sift(p, 0, end);
    }
}

static int64_t groups(const struct job *j, const struct rondo_attention_task *t) { return (t->kv_heads - 1) / j->kernel->heads(t) + 1; }

/* How many parts the steps of a piece have, in parts of 2^shift leaves; of the part with number `want` where it lies. */
static int64_t parts_of(const struct rondo_attention_task *t, int64_t t0, int64_t t1, int32_t shift, int64_t want, int32_t *step, int64_t *first,
                        int64_t *end)
{
    int64_t parts = 0;
    for (int32_t i = 0; i < t->steps; i++) {
        int64_t a, b, p0, p1;
        if (t->program[i].code != RONDO_TREE_LEAF)
            continue;
        rondo__run_seen(t, t0, t1, t->leaves + t->program[i].arg, &a, &b);
        const int64_t own = rondo__run_parts(a, b, shift, &p0, &p1);
        if (own <= 1)
            continue;
        if (want >= parts && want < parts + own) {
            const int64_t at = (p0 + want - parts) << shift, next = at + ((int64_t)1 << shift);
            *step = i;
            *first = at > a ? at : a;
            *end = next < b ? next : b;
        }
        parts += own;
    }
    return parts;
}

static int64_t piece_end(const struct job *j, const struct rondo_attention_task *t, const struct piece *p)
{
    const int64_t step = j->kernel->tokens(t);
    return t->q_rows - p->token < step ? t->q_rows : p->token + step;
}

/* Shares out the leaves of pieces that would keep one thread busy for longer than the others have work. */
static void share_out(struct job *j, const struct rondo_program *p, int threads)
{
    uint64_t all = 0;
    int64_t used = 0;
    for (int64_t i = 0; i < j->pieces_count; i++)
        all += j->pieces[i].cost * (uint64_t)p->tasks[j->pieces[i].task].kv_heads;
    const uint64_t fair = all / (uint64_t)(PARTS_OF_THREAD * threads) + 1;
    for (int64_t i = 0; i < j->pieces_count; i++) {
        struct piece *piece = j->pieces + i;
        const struct rondo_attention_task *t = p->tasks + piece->task;
        const int64_t end = piece_end(j, t, piece), items = groups(j, t), tokens = end - piece->token;
        int32_t shift = PART_SHIFT;
        if (!j->kernel->shares(t) || piece->cost * (uint64_t)t->kv_heads / (uint64_t)items <= fair)
            continue;
        /* of all that it takes, a leaf of all its rows and heads is this much */
        const uint64_t leaf = (uint64_t)t->leaf_size * (uint64_t)tokens * (uint64_t)t->kv_heads / (uint64_t)items + 1;
        while (shift < 40 && leaf << (shift + 1) <= fair)
            shift++;
        const int64_t parts = parts_of(t, piece->token, end, shift, -1, NULL, NULL, NULL);
        if (parts < 2 || parts > p->parts - used)
            continue;
        piece->parts = parts;
        piece->first_part = used;
        piece->shift = shift;
        used += parts;
    }
}

static void list_pieces(struct job *j, const struct rondo_program *p, int64_t first, int64_t count, int threads)
{
    int64_t n = 0;
    for (int64_t i = first; i < first + count; i++) {
        const struct rondo_attention_task *t = p->tasks + i;
        const int64_t step = j->kernel->tokens(t), rows = blocks_of(t, step) ? t->q_rows : 0;
        for (int64_t token = 0; token < rows; token += step) {
            int64_t end = t->q_rows - token < step ? t->q_rows : token + step;
            j->pieces[n++] = (struct piece){ .cost = cost(t, p->about + i, token, end), .token = token, .task = i };
        }
    }
    sort(j->pieces, n);
    j->pieces_count = n;
    if (p->parts)
        share_out(j, p, threads);
    for (int64_t i = 0; i < n; i++) {
        struct piece *piece = j->pieces + i;
        const int64_t items = groups(j, p->tasks + piece->task);
        j->items += piece->parts ? items * piece->parts : items;
        j->joins += piece->parts ? items : 0;
        piece->items = j->items;
        piece->joins = j->joins;
    }
}

/* The piece that an item, or a join, is of. */
static const struct piece *piece_of(const struct job *j, int64_t item, bool join)
{
    int64_t low = 0, high = j->pieces_count - 1;
    while (low < high) { /* the first piece with items > item */
        int64_t middle = low + (high - low) / 2;
        if ((join ? j->pieces[middle].joins : j->pieces[middle].items) > item)
            high = middle;
        else
            low = middle + 1;
    }
    return j->pieces + low;
}

static void count_work(const struct job *j, uint64_t cost)
{
    if (j->poll && j->poll->work)
        atomic_fetch_add_explicit(&j->poll->work->done, cost, memory_order_relaxed);
}

static int work(void *arg, int64_t item, int worker)
{
    struct job *j = arg;
    const struct piece *p = piece_of(j, item, false);
    const struct rondo_attention_task *t = j->tasks + p->task;
    const int64_t end = piece_end(j, t, p), all = groups(j, t), local = p->items - 1 - item, part = local / all;
    const int32_t most = j->kernel->heads(t), head = (int32_t)(local % all) * most, heads = t->kv_heads - head < most ? t->kv_heads - head : most;
    void *scratch = j->scratch + (size_t)worker * j->scratch_bytes;
    const struct rondo_poll *poll = worker == 0 ? j->poll : NULL;
    int32_t step = 0;
    int64_t a = 0, b = 0;
    int code;
    if (p->parts) {
        parts_of(t, p->token, end, p->shift, part, &step, &a, &b);
        code = j->kernel->part(t, p->token, end, head, heads, step, a, b, j->nodes + (size_t)(p->first_part + part) * j->floats, scratch, poll);
        count_work(j, p->cost * (uint64_t)heads / (uint64_t)p->parts);
        return code;
    }
    code = j->kernel->run(t, p->token, end, head, heads, NULL, scratch, poll);
    count_work(j, p->cost * (uint64_t)heads);
    return code;
}

static int join(void *arg, int64_t item, int worker)
{
    struct job *j = arg;
    const struct piece *p = piece_of(j, item, true);
    const struct rondo_attention_task *t = j->tasks + p->task;
    const int32_t most = j->kernel->heads(t), head = (int32_t)(p->joins - 1 - item) * most, heads = t->kv_heads - head < most ? t->kv_heads - head : most;
    const struct rondo_cpu_parts parts = { j->nodes + (size_t)p->first_part * j->floats, j->floats, p->shift };
    int code = j->kernel->run(t, p->token, piece_end(j, t, p), head, heads, &parts, j->scratch + (size_t)worker * j->scratch_bytes,
                              worker == 0 ? j->poll : NULL);
    const uint64_t cost = p->cost * (uint64_t)heads;
    count_work(j, cost - cost / (uint64_t)p->parts * (uint64_t)p->parts);
    return code;
}

int rondo__cpu_attention(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_program *program,
                         const struct rondo_attention_run *run, const struct rondo_poll *poll)
{
    struct job j = { .kernel = dev->kernels.attention[program->desc.arithmetic], .tasks = program->tasks, .poll = poll, .scratch_bytes = program->worker_bytes };
    int err = 0;

    (void)stream;
    if (run->first < 0 || run->count < 0 || run->first > program->desc.job_count || run->count > program->desc.job_count - run->first)
        return rondo__fail(RONDO_EINVAL, "attention: %lld jobs from job %lld on do not lie among the program's %lld", (long long)run->count,
                           (long long)run->first, (long long)program->desc.job_count);
    for (int64_t i = run->first; i < run->first + run->count && !err; i++)
        err = bind(program, i, run);
    if (err || !program->scratch)
        return err;
    /* the list last: what the threads use lies over whole large pages */
    j.scratch = dev->scratch;
    j.pieces = (struct piece *)(void *)(dev->scratch + program->scratch - program->list_bytes);
    j.nodes = (float *)(void *)(dev->scratch + program->scratch - program->list_bytes - program->nodes_bytes);
    j.floats = program->slot_floats;
    list_pieces(&j, program, run->first, run->count, dev->threads);
    for (int64_t i = 0; poll && poll->work && i < j.pieces_count; i++)
        poll->work->total += j.pieces[i].cost * (uint64_t)program->tasks[j.pieces[i].task].kv_heads;
    err = rondo__cpu_for(dev, j.items, work, &j, poll);
    return err || !j.joins ? err : rondo__cpu_for(dev, j.joins, join, &j, poll);
}
