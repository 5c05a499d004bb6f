/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Jobs over some of a program's heads (core/device.h): however heads are dealt out to jobs, each has the bits that it has in one job of all
 * heads, in out, lse and nodes; also where a program has heads that are no multiple of its KV heads.
 */
#include "attention_case.h"

enum { JOBS = 64 };

/* The nodes of a job lie by themselves: here as those of heads [head, head + heads) of `all` lie among all heads. */
static void nodes_of(const struct test_case *c, const float *from, float *all, int32_t head, int32_t heads)
{
    const struct rondo_attention_task *t = &c->task;
    const int64_t rows = t->q_rows, dim = t->value_dim;
    const float *acc = from + (rows * head) * (dim + 2), *m = acc + rows * heads * dim, *l = m + rows * heads;
    float *am = all + rows * t->heads * dim, *al = am + rows * t->heads;
    for (int64_t r = 0; r < rows; r++)
        for (int32_t h = 0; h < heads; h++) {
            memcpy(all + (r * t->heads + head + h) * dim, acc + (r * heads + h) * dim, (size_t)dim * sizeof *all);
            am[r * t->heads + head + h] = m[r * heads + h];
            al[r * t->heads + head + h] = l[r * heads + h];
        }
}

/* The jobs of query heads [h0, h1): pieces of one KV head's, or several KV heads whole. `apart`: by number, as a program of these heads
 * alone would have them. */
static int64_t deal(const struct test_case *c, int32_t h0, int32_t h1, bool apart, struct rondo_job *jobs)
{
    const int32_t group = c->task.heads / c->task.kv_heads;
    int64_t n = 0;
    for (int32_t h = h0, end; h < h1; h = end) {
        const int32_t first = apart ? h0 : 0, rest = (h / group + 1) * group - h;
        struct rondo_job job = c->job;
        end = h + 1 + (int32_t)below(rest);
        job.kv_heads = (int32_t)below(2);
        if (h % group == 0 && below(2)) {
            const int32_t whole = (h1 - h) / group;
            job.kv_heads = whole ? 1 + (int32_t)below(whole) : 1;
            end = h + job.kv_heads * group;
            if (!apart && below(2))
                job.kv_heads = 0;
        }
        end = end < h1 ? end : h1;
        if (apart && !job.kv_heads)
            job.kv_heads = 1;
        job.head = h - first;
        job.heads = end - h;
        job.kv_head = h / group - first / group;
        jobs[n++] = job;
    }
    return n;
}

static int check(struct test_case *c, struct device_under_test *d)
{
    struct rondo_program_desc desc = case_desc(c);
    struct rondo_attention_run run = case_io(c);
    struct rondo_job jobs[JOBS];
    const size_t bytes = case_result_bytes(c);
    if (case_run(c, d->dev))
        return 0;
    char *want = case_result(c);

    desc.jobs = jobs;
    desc.job_count = run.count = deal(c, 0, c->task.heads, false, jobs);
    memset(c->out, 0xa5, c->out_bytes);
    memset(c->lse, 0xa5, c->lse_floats * sizeof(float));
    int err = case_compute(d->dev, &desc, &run, NULL);
    for (int32_t i = 0; i < c->slots_used; i++) {
        float *all = xalloc(c->slot_floats * sizeof *all);
        for (int64_t j = 0; j < desc.job_count; j++)
            nodes_of(c, c->slots[i], all, jobs[j].head, jobs[j].heads);
        memcpy(c->slots[i], all, c->slot_floats * sizeof *all);
        free(all);
    }
    char *got = case_result(c);
    const int same = !err && !memcmp(want, got, bytes);
    if (!same) {
        diag("%s: %s", d->isa, err ? rondo_error_text() : "other bits");
        case_print(c);
        for (int64_t j = 0; j < desc.job_count; j++)
            diag("job %d: heads %d+%d of KV heads %d+%d", (int)j, jobs[j].head, jobs[j].heads, jobs[j].kv_head, jobs[j].kv_heads);
    }
    free(want);
    free(got);
    return same;
}

/* A program that has heads [h0, h1) only, and the KV heads of these. */
static int check_part(struct test_case *c, struct device_under_test *d)
{
    const struct rondo_attention_task *t = &c->task;
    const int32_t group = t->heads / t->kv_heads, h0 = (int32_t)below(t->heads), h1 = h0 + 1 + (int32_t)below(t->heads - h0);
    const int64_t kv0 = h0 / group;
    const size_t element = rondo_type_size(t->kv_type);
    struct rondo_program_desc desc = case_desc(c);
    struct rondo_attention_run run = case_io(c);
    struct rondo_kv_part part = c->kv[0];
    struct rondo_job jobs[JOBS];
    if (case_run(c, d->dev))
        return 0;
    char *out = xalloc(c->out_bytes);
    float *lse = xalloc(c->lse_floats * sizeof *lse);
    memcpy(out, c->out, c->out_bytes);
    memcpy(lse, c->lse, c->lse_floats * sizeof *lse);

    desc.heads = h1 - h0;
    desc.kv_heads = (h1 - 1) / group - h0 / group + 1;
    desc.jobs = jobs;
    desc.job_count = run.count = deal(c, h0, h1, true, jobs);
    part.k.data = c->k + (size_t)(kv0 * part.k.head_stride) * element;
    part.v.data = c->v + (size_t)(kv0 * part.v.head_stride) * element;
    run.kv = &part;
    run.q.data = c->q + (size_t)(h0 * run.q.head_stride) * rondo_type_size(t->q_type);
    run.out.data = c->out + (size_t)(h0 * run.out.head_stride) * rondo_type_size(t->out_type);
    run.lse.data = c->lse + h0 * run.lse.head_stride;
    /* what these heads write is computed once more; what the others have must stay */
    for (int64_t r = 0; r < t->q_rows; r++)
        for (int32_t h = h0; h < h1; h++)
            c->lse[r * t->lse_row_stride + h * t->lse_head_stride] = NAN;
    int err = case_compute(d->dev, &desc, &run, NULL);
    const int same = !err && !memcmp(out, c->out, c->out_bytes) && !memcmp(lse, c->lse, c->lse_floats * sizeof *lse);
    if (!same) {
        diag("%s, heads %d to %d: %s", d->isa, h0, h1 - 1, err ? rondo_error_text() : "other bits");
        case_print(c);
    }
    free(out);
    free(lse);
    return same;
}

static void test_refused(struct rondo_device *dev)
{
    static const int32_t bad[][4] = { { 0, 5, 0, 1 }, { 3, 2, 1, 1 }, { -1, 2, 0, 1 }, { 0, 2, 2, 1 }, { 0, 3, 0, 2 }, { 0, 1, -1, 1 },
                                      { 2, 0, 0, 0 }, { 0, 4, 1, 0 }, { 0, -1, 0, 1 } };
    struct test_case c;
    struct shape s = { .heads = 4, .kv_heads = 2, .head_dim = 4, .value_dim = 4, .queries = 2, .keys = 8, .left = -1, .right = -1,
                       .q_type = 1, .kv_type = 1, .out_type = 1, .leaf = 8, .step = 1 };
    struct rondo_program *program;
    case_make(&c, &s);
    struct rondo_program_desc desc = case_desc(&c);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        c.job.head = bad[i][0];
        c.job.heads = bad[i][1];
        c.job.kv_head = bad[i][2];
        c.job.kv_heads = bad[i][3];
        const int err = rondo__cpu_device.program_new(dev, &program, &desc);
        ok(err == RONDO_EINVAL && !program && strstr(rondo_error_text(), "the program has 4 and 2"), "heads that are not there: %s",
           err ? rondo_error_text() : "taken");
    }
    case_free(&c);
}

int main(void)
{
    static const int groups[] = { 1, 2, 3, 5 };
    struct device_under_test d[8];
    const int n = devices_open(d, 8), rounds = long_tests() ? 2000 : 120;
    struct test_case c;
    for (int i = 0; i < rounds; i++) {
        const int kv = 1 + (int)below(4);
        struct shape s = { .kv_heads = kv, .heads = kv * groups[below(4)], .head_dim = 1 + (int)below(20), .queries = 1 + below(i % 4 ? 30 : 200),
                           .keys = 1 + below(100), .causal = (int)below(2), .left = below(3) ? -1 : below(60), .right = -1,
                           .q_type = 1 + (int)below(3), .kv_type = 1 + (int)below(3), .out_type = 1 + (int)below(3), .leaf = 8 << below(3),
                           .step = below(4) ? 1 : 3, .zigzag = (int)below(2), .tree = (int)below(3), .pad = (int)below(3) };
        s.value_dim = 1 + (int)below(20);
        s.first = below(4) ? s.keys - s.queries : below(50) - 25;
        case_make(&c, &s);
        if (!c.task.leaf_count) { /* the test itself would have to lay out an empty node for each job */
            case_free(&c);
            continue;
        }
        int right = 1, part = 1;
        for (int j = 0; j < n; j++) {
            right &= check(&c, d + j);
            part &= check_part(&c, d + j);
        }
        ok(right && part, "task %d: %d heads of %d KV heads in jobs", i, s.heads, s.kv_heads);
        case_free(&c);
    }
    test_refused(d[0].dev);
    devices_close(d, n);
    return done();
}
