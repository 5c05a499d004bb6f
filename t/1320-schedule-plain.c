/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Schedules of what is no attention: computations by a function of the runner's, the caller's buffers without tensors, rows copied between
 * strides, messages of which an execution has less than was built. Checked over all ranks, broken and caught, and run.
 */
#include "schedule/run.h"
#include "t/tap.h"

enum { ROWS = 5, WIDTH = 40, RANKS = 3 };

enum fault { NONE, NO_FENCE, NO_ROWS, FAULTS };
static const char *const wanted[] = { "", "no fence behind operation", "does not write all of" };

static struct rondo__buffer plain(const char *name, int owner, int access, size_t bytes)
{
    return (struct rondo__buffer){ .name = name, .index = -1, .owner = owner, .memory = RONDO_MEMORY_HOST, .tensor = -1, .bytes = bytes,
                                   .room = bytes, .home = -1, .over = -1, .access = access };
}

/* Every rank has rows of WIDTH floats, makes others of them, and shows both to its neighbour on the right, who puts them side by side. */
static bool build(struct rondo__schedule *s, const struct rondo__machine *m, int32_t rank, int fault)
{
    const size_t row = WIDTH * sizeof(float), bytes = ROWS * row;
    const int32_t right = (rank + 1) % RANKS, left = (rank + RANKS - 1) % RANKS;
    rondo__schedule_clear(s, rank, RANKS, 1);
    const int32_t given = rondo__buffer_add(s, plain("given", RONDO_OWNER_CALLER, RONDO_ACCESS_INPUT, bytes));
    const int32_t result = rondo__buffer_add(s, plain("result", RONDO_OWNER_CALLER, RONDO_ACCESS_RESULT, 2 * bytes));
    const int32_t made = rondo__buffer_add(s, plain("made", RONDO_OWNER_PLAN, 0, bytes));
    const int32_t in[2] = { rondo__schedule_arrival(s, m, "arriving", 0, bytes), rondo__schedule_arrival(s, m, "arriving", 1, bytes) };
    struct rondo__operation *o = rondo__schedule_begin(s, RONDO_COMPUTE, (struct rondo__step){ "double", 0, 0 }, -1);
    o->program = -1;
    o->first = 7;
    o->count = 1;
    rondo__schedule_use(s, given, 0, bytes, false);
    rondo__schedule_use(s, made, 0, bytes, true);
    rondo__schedule_end(s);
    o = rondo__schedule_begin(s, RONDO_TRANSFER, (struct rondo__step){ "to the right", 0, 0 }, -1);
    o->operation = RONDO_OP_SHIFT;
    rondo__schedule_part(s, given, 0, bytes, right, false);
    rondo__schedule_part(s, made, 0, bytes, right, false);
    for (int i = 0; i < 2; i++)
        rondo__schedule_part(s, in[i], 0, bytes, left, true);
    rondo__schedule_end(s);
    for (int i = 0; i < (fault == NO_ROWS && rank == 1 ? 1 : 2); i++) {
        rondo__schedule_begin(s, RONDO_PACK, (struct rondo__step){ "side by side", i + 1, 2 }, -1);
        for (int r = 0; r < ROWS; r++)   /* row by row, so that the checker sees what is missing; the last two at once */
            if (r < ROWS - 1)
                rondo__schedule_copy(s, (struct rondo__copy){ .from = in[i], .to = result, .from_at = (size_t)r * row,
                                                              .to_at = (size_t)(2 * r + i) * row, .sequence = -1,
                                                              .rows = r < ROWS - 2 ? 1 : 2, .row_bytes = row, .from_stride = row,
                                                              .to_stride = 2 * row }, row);
        rondo__schedule_end(s);
    }
    if (fault != NO_FENCE || rank != 2)
        rondo__schedule_fence(s, m, (struct rondo__step){ "end", 0, 0 });
    return !s->failed && rondo__schedule_place(s);
}

struct all {
    struct rondo__schedule s;
    const struct rondo__machine *machine;
    int fault;
};

static int at(void *arg, int32_t rank, const struct rondo__schedule **out)
{
    struct all *a = arg;
    *out = &a->s;
    return build(&a->s, a->machine, rank, a->fault) ? 0 : rondo__fail(RONDO_ENOMEM, "no memory");
}

static void check(void)
{
    static const struct rondo__machine machines[] = { { true, true, 64, 1 }, { false, true, 0, 1 } };
    for (int m = 0; m < 2; m++)
        for (int fault = 0; fault < FAULTS; fault++) {
            struct all a = { .machine = machines + m, .fault = fault };
            if (fault == NO_FENCE && m == 1)
                continue;
            int err = rondo__schedule_check(RANKS, machines + m, at, &a);
            ok(fault ? err == RONDO_EINVAL && strstr(rondo_error_text(), wanted[fault]) : !err, "%s, fault %d: %s",
               m ? "copied" : "in place", fault, err ? rondo_error_text() : "passes");
            rondo__schedule_free(&a.s);
        }
}

/* ---- run ---- */

static int twice(void *arg, const struct rondo__operation *o, void *const *place, const struct rondo_poll *poll)
{
    (void)poll;
    *(int64_t *)arg = o->first;
    for (int i = 0; i < ROWS * WIDTH; i++)
        ((float *)place[2])[i] = 2.0f * ((const float *)place[0])[i];
    return 0;
}

static _Atomic int wrong, said;

static void event(void *user, const rondo_trace_event *e)
{
    (void)user;
    said += !strcmp(e->name, "double") && e->operation && !strcmp(e->operation, "double");
}

static int body(rondo_context *ctx, void *arg)
{
    struct rondo__machine machine;
    struct rondo__schedule s = { 0 };
    struct rondo__runner *runner = NULL;
    const int less = *(int *)arg;   /* the second message is empty in this execution */
    float given[ROWS * WIDTH], result[2 * ROWS * WIDTH];
    int64_t which = 0;
    rondo__machine_of(ctx, &machine);
    if (!build(&s, &machine, ctx->rank, NONE))
        return rondo__fail(RONDO_ENOMEM, "no memory");
    for (int i = 0; i < ROWS * WIDTH; i++)
        given[i] = (float)(1000 * ctx->rank + i);
    for (int i = 0; i < 2 * ROWS * WIDTH; i++)
        result[i] = -1.0f;
    struct rondo__part *part = s.parts.items;
    for (int64_t i = 0; i < s.parts.count && less; i++)
        part[i].bytes = i % 2 ? 0 : part[i].bytes;
    struct rondo__counts counts;
    rondo__schedule_count(&s, &counts);
    wrong += counts.messages != (less ? 1u : 2u) || counts.bytes != counts.messages * sizeof given;
    void *caller[] = { given, result };
    const struct rondo__given g = { .caller = caller, .compute = twice, .arg = &which };
    rondo_context_trace(ctx, event, NULL);
    int err = rondo__runner_make(&runner, ctx, &s, NULL, 0, 0);
    if (!err)
        err = rondo__runner_bind(runner, &g, NULL);
    if (!err && less)   /* what did not come is put nowhere */
        for (int64_t i = 0; i < s.operations.count; i++)
            if (rondo__operation_at(&s, i)->kind == RONDO_PACK && rondo__operation_at(&s, i)->step.index == 2)
                rondo__operation_at(&s, i)->count = 0;
    if (!err)
        err = rondo__runner_run(runner);
    err = rondo__collective_failed(ctx, err);
    const int left = (ctx->rank + RANKS - 1) % RANKS;
    for (int r = 0; r < ROWS && !err; r++)
        for (int i = 0; i < WIDTH; i++) {
            const float is = (float)(1000 * left + r * WIDTH + i);
            wrong += result[2 * r * WIDTH + i] != is || result[(2 * r + 1) * WIDTH + i] != (less ? -1.0f : 2.0f * is);
        }
    wrong += !err && which != 7;
    rondo__runner_free(runner);
    rondo__schedule_free(&s);
    return err;
}

int main(void)
{
    check();
    for (int less = 0; less < 2; less++) {
        wrong = said = 0;
        is_int(rondo_run_threads(RANKS, body, &less), 0, "it runs%s", less ? ", with less than was built" : "");
        is_int(wrong, 0, "every rank has its left neighbour's rows in place");
        is_int(said, RANKS, "and timelines name the computation");
    }
    return done();
}
