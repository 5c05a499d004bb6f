/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The attention slot of the device table: cuts tasks into items of some tokens and one KV head, hands them to
 * the threads of the rank, the heaviest first, and gives each thread its scratch. The kernels
 * (ref_attention.c, attention.c) do one item.
 */
#include "backends/cpu/cpu.h"

#include <stdatomic.h>

struct piece { /* some tokens of a task; one item for each of its KV heads */
    uint64_t cost;
    int64_t token, items; /* items: of this piece and all before it, after sorting */
    int64_t task;
};

struct job {
    const struct rondo_cpu_attention *kernel;
    const struct rondo_attention_task *tasks;
    const struct rondo_poll *poll;
    struct piece *pieces;
    char *scratch;
    size_t scratch_bytes; /* of one worker */
    int64_t pieces_count;
};

/* A large page. Scratch of some size is laid over whole ones: the kernels walk over all of it at once, which
 * small pages would slow by a few percent. */
#define LARGE ((size_t)2 << 20)

/* Pieces and items of all tasks, scratch of one worker, what its block needs more to lie in large pages, and
 * the total. false: too large for this machine. */
static bool measure(const struct rondo_device *dev, const struct rondo_attention_task *tasks, int64_t count,
                    int64_t *pieces, int64_t *items, size_t *scratch, size_t *slack, size_t *total)
{
    size_t list, all;
    *pieces = 0;
    *items = 0;
    *scratch = 0;
    for (int64_t i = 0; i < count; i++) {
        const struct rondo_attention_task *t = tasks + i;
        size_t need;
        int64_t step = dev->attention->tokens(t), blocks, heads;
        if (t->q_rows <= 0 || t->steps <= 0)
            continue;
        blocks = (t->q_rows - 1) / step + 1;
        if (!rondo__mul64(blocks, t->kv_heads, &heads) || !rondo__add64(*pieces, blocks, pieces) ||
            !rondo__add64(*items, heads, items) || !dev->attention->bytes(t, &need))
            return false;
        if (need > *scratch)
            *scratch = need;
    }
    if (!rondo__add(*scratch, 63, scratch))
        return false;
    *scratch &= ~(size_t)63;
    if (!rondo__mul((size_t)*pieces, sizeof(struct piece), &list) ||
        !rondo__mul(*scratch, (size_t)rondo__cpu_workers(dev, *items), &all))
        return false;
    *slack = all >= LARGE / 4 ? LARGE - 1 - (all - 1) % LARGE + LARGE : 0;
    return rondo__add(all, *slack, &all) && rondo__add(list, all, total) &&
           rondo__add(*total, 4 * 64, total); /* two blocks, each rounded up and with its header */
}

size_t rondo__cpu_attention_scratch(const struct rondo_device *dev, const struct rondo_attention_task *tasks,
                                    int64_t count)
{
    int64_t pieces, items;
    size_t scratch, slack, total;
    return measure(dev, tasks, count, &pieces, &items, &scratch, &slack, &total) ? total : SIZE_MAX;
}

/* How many keys the tokens [t0, t1) may see: their last position less their first, clipped to the task's
 * keys. */
static uint64_t cost(const struct rondo_attention_task *t, int64_t t0, int64_t t1, int64_t first,
                     int64_t last)
{
    int64_t lo, hi, lo1, hi1, p0 = rondo__cpu_position(t, t0), p1 = rondo__cpu_position(t, t1 - 1);
    rondo__visible(t, p0 < p1 ? p0 : p1, &lo, &hi1);
    rondo__visible(t, p0 < p1 ? p1 : p0, &lo1, &hi);
    if (lo < first)
        lo = first;
    if (hi > last)
        hi = last;
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

static void list_pieces(const struct rondo_device *dev, const struct rondo_attention_task *tasks,
                        int64_t count, struct piece *out)
{
    int64_t n = 0, items = 0;
    for (int64_t i = 0; i < count; i++) {
        const struct rondo_attention_task *t = tasks + i;
        int64_t first = INT64_MAX, last = INT64_MIN, step = dev->attention->tokens(t);
        if (t->q_rows <= 0 || t->steps <= 0)
            continue;
        for (int32_t j = 0; j < t->leaf_count; j++) {
            const struct rondo_leaf *f = t->leaves + j;
            int64_t end = f->first + (int64_t)(f->count - 1) * f->step + 1;
            first = f->first < first ? f->first : first;
            last = end > last ? end : last;
        }
        for (int64_t token = 0; token < t->q_rows; token += step) {
            int64_t end = t->q_rows - token < step ? t->q_rows : token + step;
            out[n++] = (struct piece){ .cost = cost(t, token, end, first, last), .token = token, .task = i };
        }
    }
    sort(out, n);
    for (int64_t i = 0; i < n; i++) {
        items += tasks[out[i].task].kv_heads;
        out[i].items = items;
    }
}

static int work(void *arg, int64_t item, int worker)
{
    struct job *j = arg;
    int64_t low = 0, high = j->pieces_count - 1;
    while (low < high) { /* the first piece with items > item */
        int64_t middle = low + (high - low) / 2;
        if (j->pieces[middle].items > item)
            high = middle;
        else
            low = middle + 1;
    }
    const struct piece *p = j->pieces + low;
    const struct rondo_attention_task *t = j->tasks + p->task;
    int64_t step = j->kernel->tokens(t), end = t->q_rows - p->token < step ? t->q_rows : p->token + step;
    int code = j->kernel->run(t, p->token, end, (int32_t)(p->items - 1 - item),
                              j->scratch + (size_t)worker * j->scratch_bytes, worker == 0 ? j->poll : NULL);
    if (j->poll && j->poll->work)
        atomic_fetch_add_explicit(&j->poll->work->done, p->cost, memory_order_relaxed);
    return code;
}

int rondo__cpu_attention_run(struct rondo_device *dev, const struct rondo_attention_task *tasks,
                             int64_t count, const struct rondo_poll *poll)
{
    struct job j = { .kernel = dev->attention, .tasks = tasks, .poll = poll };
    int64_t items;
    size_t slack, total;
    int err;

    if (!measure(dev, tasks, count, &j.pieces_count, &items, &j.scratch_bytes, &slack, &total))
        return rondo__fail(RONDO_ENOMEM,
                           "attention: the scratch of the cpu device would exceed the address space");
    if (items == 0)
        return 0;
    size_t bytes = j.scratch_bytes * (size_t)rondo__cpu_workers(dev, items);
    j.pieces = rondo__alloc((size_t)j.pieces_count * sizeof *j.pieces);
    char *block = rondo__alloc(bytes + slack);
    if (!j.pieces || !block) {
        err = rondo__fail(RONDO_ENOMEM, "attention: no memory for %zu bytes of scratch on the cpu device",
                          total);
        goto done;
    }
    j.scratch = block;
    if (slack) {
        j.scratch += LARGE - 1 - ((uintptr_t)block + LARGE - 1) % LARGE;
        rondo__cpu_huge(j.scratch, bytes + LARGE - 1 - (bytes - 1) % LARGE);
    }
    list_pieces(dev, tasks, count, j.pieces);
    for (int64_t i = 0; poll && poll->work && i < j.pieces_count; i++)
        poll->work->total += j.pieces[i].cost * (uint64_t)tasks[j.pieces[i].task].kv_heads;
    err = rondo__cpu_for(dev, items, work, &j, poll);
done:
    rondo__free(block);
    rondo__free(j.pieces);
    return err;
}
