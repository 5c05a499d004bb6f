/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What a run moves for a case of cost.c: not a formula, but a count of the schedules that ranks would carry out. Attention is
 * a design without a context (attention/design.c), one for each group of chips that share a context; they all are alike, as
 * their chips have as many heads. The exchanges of chips that share heads are those of tensor/tp_build.c, of the rows that each
 * rank of the context has.
 */
#include "attention/attention.h"
#include "plan/predict.h"
#include "tensor/tp.h"

/* Beyond these a count would take minutes, or gigabytes. */
#define RANKS_MOST 16384
#define SEQUENCES_MOST 65536

static int refuse_heads(const rondo_cost_case *c)
{
    return rondo__fail(RONDO_ENOTSUP,
                       "tensor_parallel %lld: its chips do not all have the same of %lld heads and %lld KV heads; what a run moves "
                       "is counted where they do", (long long)c->tensor_parallel, (long long)c->num_heads, (long long)c->num_kv_heads);
}

/* The attention that one context's chips compute. */
int rondo__cost_describe(const rondo_cost_case *c, rondo_attention_desc *d)
{
    const int64_t tp = c->tensor_parallel, kv = c->num_kv_heads;
    if (c->bytes_per_elem != 2 && c->bytes_per_elem != 4)
        return rondo__fail(RONDO_ENOTSUP,
                           "bytes_per_elem %lld: a run has F32 (4) or BF16 (2), of which what is moved is counted",
                           (long long)c->bytes_per_elem);
    if (!c->kv_type && c->kv_bytes_per_elem != 2 && c->kv_bytes_per_elem != 4)
        return rondo__fail(RONDO_ENOTSUP, "kv_bytes_per_elem %lld: a run has F32 (4) or BF16 (2) by it, and other types by kv_type",
                           (long long)c->kv_bytes_per_elem);
    if (c->num_heads % tp || (kv % tp && tp % kv))
        return refuse_heads(c);
    if (tp > RANKS_MOST / c->context_parallel)
        return rondo__fail(RONDO_ENOTSUP,
                           "tensor_parallel %lld x context_parallel %lld: what a run moves is counted on up to %d ranks", (long long)tp,
                           (long long)c->context_parallel, RANKS_MOST);
    if (c->batch_size > SEQUENCES_MOST)
        return rondo__fail(RONDO_ENOTSUP, "batch_size %lld: what a run moves is counted for up to %d sequences",
                           (long long)c->batch_size, SEQUENCES_MOST);
    d->heads = c->num_heads / tp;
    d->kv_heads = kv > tp ? kv / tp : 1;
    d->head_dim = c->head_dim;
    d->sequences = c->batch_size;
    d->tokens = c->new_tokens;
    d->cached = (c->kv_len_used ? c->kv_len_used : c->past_seq_len + c->new_tokens) - c->new_tokens;
    d->tokens_of = c->new_tokens_of;
    d->cached_of = c->past_seq_len_of;
    d->q_type = d->out_type = c->bytes_per_elem == 4 ? RONDO_F32 : RONDO_BF16;
    d->kv_type = c->kv_type ? c->kv_type : c->kv_bytes_per_elem == 4 ? RONDO_F32 : RONDO_BF16;
    d->layout = c->layout;
    d->causal = c->causal;
    d->windowed = c->windowed;
    d->window_left = c->window_left;
    d->window_right = c->window_right;
    d->algorithm = c->context_parallel > 1 ? c->algorithm : RONDO_PASS_KV;
    d->grid[0] = c->context_parallel > 1 ? c->grid[0] : 0;
    d->grid[1] = c->context_parallel > 1 ? c->grid[1] : 0;
    return 0;
}

/* What chip t of those that share heads sends in the exchanges of one rank's `rows`. begin: heads, which are the leaves of the sum. */
static int exchanges(const rondo_cost_case *c, int32_t t, int64_t rows, const int64_t *begin, const struct rondo__machine *machine,
                     struct rondo__counts *out)
{
    const int32_t of_input = RONDO_COST_Q | RONDO_COST_K | RONDO_COST_V, tp = (int32_t)c->tensor_parallel, few = rows <= RONDO_TP_FEW;
    const struct rondo__tp_case cases[2] = {
        { .kind = RONDO_TP_GATHER, .ranks = tp, .few = few, .rows = rows, .width = c->hidden_size },
        { .kind = RONDO_TP_LINEAR, .ranks = tp, .few = few, .rows = rows, .width = c->hidden_size, .leaves = (int32_t)c->num_heads,
          .in = c->num_heads * c->head_dim, .begin = begin },
    };
    const bool happens[2] = { (c->skip_projections & of_input) != of_input && !few,
                              !(c->skip_projections & RONDO_COST_O) };   /* few rows are everywhere */
    *out = (struct rondo__counts){ 0, 0, 0 };
    for (int i = 0; i < 2; i++) {
        struct rondo__counts one = { 0, 0, 0 };
        const int err = happens[i] ? rondo__tp_count(&cases[i], t, machine, &one) : 0;
        if (err)
            return err;
        out->messages += one.messages;
        out->bytes += one.bytes;
    }
    return 0;
}

/* One rank of a context: its attention, once for each chip that shares heads, and what these exchange. */
static int add_rank(rondo_cost_traffic *all, const rondo_cost_case *c, const struct rondo__design *design, int32_t rank,
                    const int64_t *begin, struct rondo__part_of *part)
{
    const uint64_t tp = (uint64_t)c->tensor_parallel;
    struct rondo__counts own;
    int err = rondo__design_build(design, rank, part);
    if (err)
        return err;
    rondo__schedule_count(&part->schedule, &own);
    const uint64_t room = (uint64_t)own.workspace_bytes + part->schedule.spare_bytes;
    all->workspace_per_chip = room > all->workspace_per_chip ? room : all->workspace_per_chip;
    all->context_messages += own.messages * tp;
    all->context_bytes += own.bytes * tp;
    for (int32_t t = 0; t < (int32_t)tp && !err; t++) {
        struct rondo__counts shared = { 0, 0, 0 };
        if (tp > 1 && !c->keep_hidden_sharded)
            err = exchanges(c, t, design->survey.output_rows[rank], begin, &design->machine, &shared);
        all->messages += own.messages + shared.messages;
        all->bytes += own.bytes + shared.bytes;
        all->bytes_per_chip = own.bytes + shared.bytes > all->bytes_per_chip ? own.bytes + shared.bytes : all->bytes_per_chip;
    }
    return err;
}

static int count_all(rondo_cost_traffic *all, const rondo_cost_case *c, const struct rondo__design *design)
{
    const int64_t tp = c->tensor_parallel;
    struct rondo__part_of part;
    int64_t *begin = rondo__alloc((size_t)(tp + 1) * sizeof *begin);
    int err = begin ? 0 : rondo__fail(RONDO_ENOMEM, "rondo_cost_moved: no memory for the heads of %lld chips", (long long)tp);
    memset(&part, 0, sizeof part);
    for (int64_t t = 0; t <= tp && begin; t++)
        begin[t] = c->num_heads / tp * t;
    for (int32_t r = 0; r < design->ranks && !err; r++)
        err = add_rank(all, c, design, r, begin, &part);
    rondo__part_free(&part);
    rondo__free(begin);
    return err;
}

int rondo_cost_moved(const rondo_cost_case *of, const char *transport, rondo_cost_traffic *traffic)
{
    rondo_cost_traffic all = RONDO_COST_TRAFFIC_INIT;
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
    rondo_cost_case c;
    struct rondo__cost_sizes sizes;
    struct rondo__machine machine;
    struct rondo__design design;
    if (!traffic)
        return rondo__fail(RONDO_EINVAL, "rondo_cost_moved: traffic is NULL");
    int err = rondo__cost_case(&c, of, &sizes);
    if (!err)
        err = rondo__cost_describe(&c, &d);
    if (!err)
        err = rondo__machine_find(&machine, transport, NULL);
    if (!err)
        err = rondo__design_make(&design, &d, (int32_t)c.context_parallel, &machine);
    if (err)
        return err;
    all.algorithm = design.desc.algorithm;
    all.layout = design.desc.layout;
    all.flops = rondo__design_flops(&design) * (double)c.tensor_parallel;
    err = count_all(&all, &c, &design);
    rondo__design_free(&design);
    return err ? err : rondo__info_copy(traffic, &all, sizeof all, "rondo_cost_traffic");
}
