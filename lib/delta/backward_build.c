/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Gradients of the delta rule as a schedule. First states go forward through the ranks, as in an execution but without outputs, and each rank keeps
 * them at a mark every so many tokens; then gradients of states come back, from the rank behind to the one before, in the same stages, and what a
 * rank's tokens add to sums over tokens goes with them where a leaf of these is cut by a boundary. At the end ranks exchange nodes of these sums.
 * A stage is some key heads with all heads and columns that belong to them, as their gradients are sums over these. Called by backward.c.
 */
#include "delta/backward.h"

#define SEGMENT RONDO_DELTA_BACKWARD_ROWS /* tokens between marks, from each sequence's first one on: whole leaves of a sum over tokens */
#define STAGES_OF_A_RANK 16

struct back {
    struct rondo__delta_build *b;
    struct rondo__delta_backward *out;
    struct rondo__delta_unit *units;       /* of all heads, all columns each */
    int64_t stages, group, sums, state;    /* group: heads of a key head; sums, state: floats of one head's */
    int64_t *leaf;                         /* [sequences]: number of this rank's leaves of tokens before the sequence's */
    int32_t gradient;                      /* buffer: gradients of a sequence's states on their way; -1: not yet */
};

/* The part of a sequence that this rank has, and where its states are: before it, at marks, and their gradients. */
struct part {
    int64_t sequence, first, end;
    struct rondo__delta_place from, marks;
    struct rondo__delta_place behind, before;   /* gradients of states */
    int32_t result;                             /* 1: `before` is the caller's */
};

static const struct rondo__delta_place nowhere = { -1, 0, 0 };

static struct rondo__step step(const struct back *x, const char *what, int64_t stage)
{
    return stage >= 0 ? rondo__step_of(what, stage + 1, x->stages) : rondo__step_named(what);
}

/* ---- leaves of tokens ---- */

static int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to; }

/* Leaves [*first, *end) of a sequence's positions begin on a rank. */
static void leaves_of(const struct rondo__delta_design *p, int32_t rank, int64_t sequence, int64_t *first, int64_t *end)
{
    const int64_t begins = p->cu[sequence], low = p->begin[rank] > begins ? p->begin[rank] : begins;
    const int64_t high = p->begin[rank + 1] < p->cu[sequence + 1] ? p->begin[rank + 1] : p->cu[sequence + 1];
    *first = up(low - begins, RONDO_TOKEN_LEAF);
    *end = high > low ? up(high - begins, RONDO_TOKEN_LEAF) : *first;
}

/* Who has which leaves: a leaf is one token of the order of sums. */
static int make_tokens(struct back *x)
{
    const struct rondo__delta_design *p = x->b->d;
    const int64_t sequences = p->desc.sequences;
    rondo_tokens_desc d = RONDO_TOKENS_DESC_INIT;
    size_t all;
    if (!rondo__mul((size_t)p->ranks, (size_t)sequences, &all))
        return rondo__fail(RONDO_ENOMEM, "rondo_delta_create: no memory for the sums of %lld sequences", (long long)sequences);
    rondo_span *spans = rondo__alloc_zero(all + 1, sizeof *spans);
    int64_t *counts = rondo__alloc_zero(all + 1, sizeof *counts), next = 0;
    int err = spans && counts ? 0 : rondo__fail(RONDO_ENOMEM, "rondo_delta_create: no memory for the sums of %lld sequences", (long long)sequences);
    for (int32_t r = 0; r < p->ranks && !err; r++) {
        int64_t rows = 0;
        for (int64_t n = 0; n < sequences; n++) {
            int64_t first, end;
            leaves_of(p, r, n, &first, &end);
            if (r == x->b->rank)
                x->leaf[n] = rows;
            if (first == end)
                continue;
            spans[next++] = (rondo_span){ first * RONDO_TOKEN_LEAF, end - first, RONDO_TOKEN_LEAF, rows };
            counts[(int64_t)r * sequences + n] = 1;
            rows += end - first;
        }
    }
    d.sequences = sequences;
    d.spans = spans;
    d.span_counts = counts;
    d.parts = p->ranks;
    d.part = x->b->rank;
    err = err ? err : rondo_tokens_create(&x->out->tokens, &d);
    rondo__free(spans);
    rondo__free(counts);
    return err;
}

/* ---- COMPUTEs ---- */

static void use(struct back *x, int32_t buffer, size_t at, int64_t floats, bool writes)
{
    if (buffer >= 0)
        rondo__schedule_use(x->b->s, buffer, at * sizeof(float), (size_t)floats * sizeof(float), writes);
}

static void use_all(struct back *x, int32_t buffer, bool writes)
{
    if (buffer >= 0 && !x->b->s->failed)
        rondo__schedule_use(x->b->s, buffer, 0, rondo__buffer_at(x->b->s, buffer)->bytes, writes);
}

/* States of heads [first, end) that lie somewhere: a packet has these alone. */
static void use_states(struct back *x, struct rondo__delta_place at, int64_t first, int64_t end, bool writes)
{
    if (at.packet)
        use_all(x, at.buffer, writes);
    else
        use(x, at.buffer, (size_t)(at.at + first * x->state), (end - first) * x->state, writes);
}

static struct rondo__delta_call *begin(struct back *x, int32_t kind, int64_t first, struct rondo__step what)
{
    struct rondo__delta_build *b = x->b;
    struct rondo__delta_call *call = rondo__list_add(&b->out->calls, sizeof *call, 1);
    if (!call) {
        b->s->failed = true;
        return NULL;
    }
    *call = (struct rondo__delta_call){ first, 0, 0, 0, kind, 0 };
    struct rondo__operation *o = rondo__schedule_begin(b->s, RONDO_COMPUTE, what, -1);
    o->program = -1;
    o->first = b->out->calls.count - 1;
    o->count = 1;
    return call;
}

static struct rondo_delta_state state_of(const struct back *x, struct rondo__delta_place at, const struct rondo__delta_unit *u)
{
    if (at.buffer < 0)
        return (struct rondo_delta_state){ -1, 0, 0, 0 };
    return (struct rondo_delta_state){ at.buffer, 0, at.at + (at.packet ? u->at : u->head * x->state), u->columns };
}

/* In a packet a head's sums lie behind its state. */
static struct rondo_delta_state sums_of(const struct back *x, struct rondo__delta_place at, const struct rondo__delta_unit *u)
{
    if (!at.packet || !x->sums)
        return (struct rondo_delta_state){ -1, 0, 0, 0 };
    return (struct rondo_delta_state){ at.buffer, 0, at.at + u->at + x->state, 0 };
}

/* Tokens of a part between two marks. */
static int64_t segments(const struct back *x, const struct part *p)
{
    const int64_t begins = x->b->d->cu[p->sequence];
    return p->end > p->first ? up(p->end - begins, SEGMENT) - (p->first - begins) / SEGMENT : 1;
}

static void segment(const struct back *x, const struct part *p, int64_t i, int64_t *first, int64_t *end)
{
    const int64_t begins = x->b->d->cu[p->sequence], at = begins + ((p->first - begins) / SEGMENT + i) * SEGMENT;
    *first = at > p->first ? at : p->first;
    *end = at + SEGMENT < p->end ? at + SEGMENT : p->end;
}

static struct rondo__delta_place mark(const struct back *x, const struct part *p, int64_t i)
{
    if (!i)
        return p->from;
    return (struct rondo__delta_place){ p->marks.buffer, 0, p->marks.at + (i - 1) * x->b->d->desc.heads * x->state };
}

/* States of some heads from one mark to the next, up to the last one, and `to` where the part ends. */
static void states(struct back *x, const struct part *p, struct rondo__delta_place to, int64_t first, int64_t end, struct rondo__step what)
{
    struct rondo__delta_build *b = x->b;
    const int64_t count = segments(x, p);
    for (int64_t i = 0; i < count && !b->s->failed; i++) {
        const struct rondo__delta_place behind = i + 1 < count ? mark(x, p, i + 1) : to;
        int64_t row, stop;
        segment(x, p, i, &row, &stop);
        if (behind.buffer < 0)
            return;
        struct rondo__delta_call *call = begin(x, 0, b->out->blocks.count, what);
        for (int64_t u = first; u < end && call; u++) {
            struct rondo_delta_block *block = rondo__list_add(&b->out->blocks, sizeof *block, 1);
            if (!block) {
                b->s->failed = true;
                return;
            }
            *block = (struct rondo_delta_block){ .kind = RONDO_DELTA_STATE, .row = row - b->d->begin[b->rank], .rows = stop - row, .head = (int32_t)u,
                                                 .key_head = (int32_t)(u / x->group), .of = (int32_t)u, .columns = x->units[u].columns,
                                                 .from = state_of(x, mark(x, p, i), x->units + u), .to = state_of(x, behind, x->units + u) };
            call->count++;
        }
        for (int32_t a = RONDO_DELTA_Q; a <= RONDO_DELTA_DT_BIAS; a++)
            use_all(x, a, false);
        use_states(x, mark(x, p, i), first, end, false);
        use_states(x, behind, first, end, true);
        rondo__schedule_end(b->s);
    }
}

static void add_block(struct back *x, const struct part *p, int64_t i, const struct rondo__delta_unit *u)
{
    struct rondo__delta_build *b = x->b;
    const struct rondo__delta_design *d = b->d;
    const int64_t begins = d->cu[p->sequence], count = segments(x, p);
    const struct rondo__delta_place here = { x->gradient, 0, 0 };
    struct rondo_delta_backward_block *block = rondo__list_add(&x->out->blocks, sizeof *block, 1);
    int64_t row, stop, leaf, none;
    if (!block) {
        b->s->failed = true;
        return;
    }
    segment(x, p, i, &row, &stop);
    const struct rondo__delta_place behind = i + 1 < count ? here : p->behind, before = i ? here : p->before;
    *block = (struct rondo_delta_backward_block){
        .row = row - d->begin[b->rank], .rows = stop - row, .position = row - begins, .length = d->cu[p->sequence + 1] - begins, .head = u->head,
        .key_head = (int32_t)(u->head / x->group), .of = u->head, .result = !i && p->result, .state = state_of(x, mark(x, p, i), u),
        .end = state_of(x, behind, u), .begin = state_of(x, before, u), .open = sums_of(x, behind, u), .left = sums_of(x, before, u),
        .leaves = { -1, 0, 0, 0 }
    };
    if (!x->sums)
        return;
    leaves_of(d, b->rank, p->sequence, &leaf, &none);
    const int64_t wide = d->desc.heads * x->sums;
    block->leaves = (struct rondo_delta_state){ x->out->leaves, 0,
                                                (x->leaf[p->sequence] + up(row - begins, RONDO_TOKEN_LEAF) - leaf) * wide + u->head * x->sums, wide };
}

/* What a COMPUTE of heads [first, end) reads and writes of a part's segment. */
static void use_segment(struct back *x, const struct part *p, int64_t i, int64_t first, int64_t end)
{
    const struct rondo__delta_design *d = x->b->d;
    const struct rondo__delta_place here = { x->gradient, 0, 0 }, behind = i + 1 < segments(x, p) ? here : p->behind, before = i ? here : p->before;
    const int64_t begins = d->cu[p->sequence], wide = d->desc.heads * x->sums;
    int64_t row, stop, leaf, none;
    segment(x, p, i, &row, &stop);
    use_states(x, mark(x, p, i), first, end, false);
    use_states(x, behind, first, end, false);
    use_states(x, before, first, end, true);
    leaves_of(d, x->b->rank, p->sequence, &leaf, &none);
    const int64_t from = up(row - begins, RONDO_TOKEN_LEAF), to = up(stop - begins, RONDO_TOKEN_LEAF);
    if (x->sums && stop > row)
        use(x, x->out->leaves, (size_t)((x->leaf[p->sequence] + from - leaf) * wide), (to - from) * wide, true);
}

static void use_arrays(struct back *x)
{
    for (int32_t a = RONDO_DELTA_Q; a <= RONDO_DELTA_DT_BIAS; a++)
        use_all(x, a, false);
    use_all(x, RONDO_DELTA_DOUT, false);
    for (int32_t a = RONDO_DELTA_DQ; a <= RONDO_DELTA_DBETA; a++)
        use_all(x, a, true);
}

/* Back from the end of a part to its beginning, heads [first, end). */
static void gradients(struct back *x, const struct part *p, int64_t first, int64_t end, struct rondo__step what)
{
    for (int64_t i = segments(x, p) - 1; i >= 0 && !x->b->s->failed; i--) {
        struct rondo__delta_call *call = begin(x, RONDO_DELTA_BACK_BLOCKS, x->out->blocks.count, what);
        for (int64_t u = first; u < end && call; u++) {
            add_block(x, p, i, x->units + u);
            call->count++;
        }
        use_segment(x, p, i, first, end);
        use_arrays(x);
        rondo__schedule_end(x->b->s);
    }
}

/* ---- stages ---- */

static int64_t stage_begin(const struct back *x, int64_t stage)
{
    int64_t first = x->b->d->desc.key_heads, count;
    if (stage < x->stages && rondo_share(x->b->d->desc.key_heads, (int)x->stages, NULL, (int)stage, &first, &count))
        return 0;
    return first * x->group;
}

/* Bytes of a stage's packet, of states with so many floats of each head besides; and its heads' places in it. */
static size_t place_units(struct back *x, int64_t stage, int64_t more)
{
    int64_t at = 0;
    for (int64_t u = stage_begin(x, stage); u < stage_begin(x, stage + 1); u++, at += x->state + more)
        x->units[u].at = at;
    return (size_t)at * sizeof(float);
}

static void move(struct back *x, int64_t stage, const char *what, int32_t buffer, size_t bytes, int32_t peer, bool receives)
{
    rondo__schedule_begin(x->b->s, RONDO_TRANSFER, step(x, what, stage), -1)->operation = RONDO_OP_SHIFT;
    rondo__schedule_part(x->b->s, buffer, 0, bytes, peer, receives);
    rondo__schedule_end(x->b->s);
}

static int32_t receive(struct back *x, int64_t stage, bool gradient, int32_t peer)
{
    const size_t bytes = place_units(x, stage, gradient ? x->sums : 0);
    const int32_t buffer = rondo__schedule_arrival(x->b->s, x->b->m, gradient ? "gradients, stage" : "states, stage", (int32_t)stage, bytes);
    move(x, stage, gradient ? "gradients from behind" : "states from before", buffer, bytes, peer, true);
    return buffer;
}

/* A part in all stages, forward or back. from, to: the ranks that packets come from and go to; -1: none. in: [stages], buffers of states that came,
 * which are kept for the way back. */
static void stages(struct back *x, struct part p, bool gradient, int32_t from, int32_t to, int32_t *in)
{
    struct rondo__delta_build *b = x->b;
    int32_t next = from >= 0 ? receive(x, 0, gradient, from) : -1;
    for (int64_t i = 0; i < x->stages && !b->s->failed; i++) {
        const int64_t first = stage_begin(x, i), end = stage_begin(x, i + 1);
        const int32_t came = next;
        int32_t goes = -1;
        if (from >= 0 && i + 1 < x->stages)
            next = receive(x, i + 1, gradient, from);
        const size_t bytes = place_units(x, i, gradient ? x->sums : 0);
        const int32_t here = came < 0 ? -1 : rondo__schedule_received(b->s, b->m, came, bytes, -1);
        if (to >= 0)
            goes = rondo__delta_own(b, gradient ? "gradients to go on, stage" : "states to go on, stage", (int32_t)i, bytes);
        if (gradient) {
            if (from >= 0)
                p.behind = (struct rondo__delta_place){ here, 1, 0 };
            if (to >= 0) {
                p.before = (struct rondo__delta_place){ goes, 1, 0 };
                p.result = 0;
            }
            if (in[i] >= 0)
                p.from = (struct rondo__delta_place){ in[i], 0, -first * x->state };
            gradients(x, &p, first, end, step(x, "gradients", i));
        } else {
            if (from >= 0)
                p.from = (struct rondo__delta_place){ in[i] = here, 0, -first * x->state };
            states(x, &p, to >= 0 ? (struct rondo__delta_place){ goes, 1, 0 } : nowhere, first, end, step(x, "states", i));
        }
        if (to >= 0)
            move(x, i, gradient ? "gradients go on" : "states go on", rondo__schedule_sent(b->s, b->m, goes, 0, bytes, -1), bytes, to, false);
    }
}

static struct rondo__delta_place entry(const struct back *x, int32_t buffer, int64_t sequence)
{
    return (struct rondo__delta_place){ buffer, 0, sequence * x->b->d->desc.heads * x->state };
}

/* Room for the marks of a part. */
static struct rondo__delta_place marks(struct back *x, const struct part *p, const char *name)
{
    const int64_t count = segments(x, p) - 1;
    if (!count)
        return nowhere;
    return (struct rondo__delta_place){ rondo__delta_own(x->b, name, -1, rondo__delta_bytes(x->b, count, x->b->d->desc.heads * x->state, (int64_t)sizeof(float))),
                                        0, 0 };
}

/* A part whose sequence begins here, and ends here: where it is not so, packets come. */
static struct part part_of(const struct back *x, int64_t sequence, int64_t first, int64_t end)
{
    const rondo_delta_desc *d = &x->b->d->desc;
    return (struct part){ sequence, first, end, rondo__delta_initial(x->b, sequence), nowhere,
                          d->final_state ? entry(x, RONDO_DELTA_DFINAL, sequence) : nowhere,
                          d->initial_state ? entry(x, RONDO_DELTA_DINITIAL, sequence) : nowhere, 1 };
}

/* Sequences that are this rank's alone: short ones all at once, without a mark, and each other one by itself. */
static void own(struct back *x)
{
    struct rondo__delta_build *b = x->b;
    const struct rondo__delta_design *d = b->d;
    const int64_t first = d->begin[b->rank], end = d->begin[b->rank + 1];
    struct rondo__delta_call *call = NULL;
    struct part longest = { .first = 0 };
    int64_t most = 1;
    for (int turn = 0; turn < 2 && !b->s->failed; turn++) {
        for (int64_t n = 0; n < d->desc.sequences && !b->s->failed; n++) {
            const bool here = d->cu[n] == d->cu[n + 1] ? rondo__delta_owner(d, d->cu[n]) == b->rank : d->cu[n] >= first && d->cu[n + 1] <= end;
            struct part p = part_of(x, n, d->cu[n], d->cu[n + 1]);
            const int64_t count = segments(x, &p);
            if (!here)
                continue;
            if (!turn && count > most) {
                most = count;
                longest = p;
            }
            if (!turn && count == 1) {
                call = call ? call : begin(x, RONDO_DELTA_BACK_BLOCKS, x->out->blocks.count, step(x, "gradients", -1));
                for (int64_t u = 0; u < d->desc.heads && call; u++, call->count++)
                    add_block(x, &p, 0, x->units + u);
                use_segment(x, &p, 0, 0, d->desc.heads);
            }
            if (turn && count > 1) {
                p.marks = longest.marks;
                states(x, &p, nowhere, 0, d->desc.heads, step(x, "states", -1));
                gradients(x, &p, 0, d->desc.heads, step(x, "gradients", -1));
            }
        }
        if (!turn && call) {
            use_arrays(x);
            rondo__schedule_end(b->s);
        }
        if (most > 1 && !turn)
            longest.marks = marks(x, &longest, "states at marks");
    }
}

/* ---- sums over tokens ---- */

static void sums(struct back *x)
{
    struct rondo__delta_build *b = x->b;
    const rondo_tokens *t = x->out->tokens;
    const int32_t ranks = b->d->ranks;
    const size_t row = (size_t)(b->d->desc.heads * x->sums) * sizeof(float);
    int32_t *at = x->out->nodes, sent = -1;
    int64_t *count = rondo__alloc_zero((size_t)ranks, sizeof *count);
    b->s->failed |= !count;
    for (int64_t i = 0; i < t->node_count && count; i++)
        count[t->nodes[i].part]++;
    if (!b->s->failed && count[b->rank]) {
        at[b->rank] = rondo__delta_own(b, "nodes of sums", -1, (size_t)count[b->rank] * row);
        begin(x, RONDO_DELTA_BACK_NODES, 0, step(x, "sums over tokens", -1));
        use_all(x, x->out->leaves, false);
        use_all(x, at[b->rank], true);
        rondo__schedule_end(b->s);
    }
    if (!b->s->failed && ranks > 1) {
        if (count[b->rank])
            sent = rondo__schedule_sent(b->s, b->m, at[b->rank], 0, (size_t)count[b->rank] * row, -1);
        rondo__schedule_begin(b->s, RONDO_TRANSFER, step(x, "sums over tokens", -1), -1)->operation = RONDO_OP_ALL_GATHER;
        for (int32_t j = 1; j < ranks && !b->s->failed; j++) {
            const int32_t to = (b->rank + j) % ranks, of = (b->rank - j + ranks) % ranks;
            if (count[b->rank])
                rondo__schedule_part(b->s, sent, 0, (size_t)count[b->rank] * row, to, false);
            if (!count[of])
                continue;
            at[of] = rondo__schedule_arrival(b->s, b->m, "nodes of rank", of, (size_t)count[of] * row);
            rondo__schedule_part(b->s, at[of], 0, (size_t)count[of] * row, of, true);
        }
        rondo__schedule_end(b->s);
        for (int32_t r = 0; r < ranks && !b->s->failed; r++)
            if (r != b->rank && at[r] >= 0)
                at[r] = rondo__schedule_received(b->s, b->m, at[r], (size_t)count[r] * row, -1);
    }
    if (!b->s->failed) {
        begin(x, RONDO_DELTA_BACK_JOIN, 0, step(x, "sums over tokens", -1));
        for (int32_t r = 0; r < ranks; r++)
            use_all(x, at[r], false);
        use_all(x, RONDO_DELTA_DA_LOG, true);
        use_all(x, RONDO_DELTA_DDT_BIAS, true);
        rondo__schedule_end(b->s);
    }
    rondo__free(count);
}

/* ---- all ---- */

/* Results may hold what is added to, and of states only some are this rank's: so both. Of what type results are only an execution knows; buffers
 * count them as floats. */
static void callers(struct rondo__delta_build *b)
{
    const rondo_delta_desc *d = &b->d->desc;
    const int64_t rows = b->d->begin[b->rank + 1] - b->d->begin[b->rank], one = (int64_t)sizeof(float), state = rondo__delta_state(b->d) * one;
    const int64_t keys = d->key_heads * d->key_dim, values = d->heads * d->value_dim, gates = d->heads * d->gate_dim;
    const struct { const char *name; int64_t count, each; bool input; } all[RONDO_DELTA_GRADIENTS] = {
        [RONDO_DELTA_Q] = { "q", rows, keys * (int64_t)rondo_type_size(d->type), true },
        [RONDO_DELTA_K] = { "k", rows, keys * (int64_t)rondo_type_size(d->type), true },
        [RONDO_DELTA_V] = { "v", rows, values * (int64_t)rondo_type_size(d->type), true },
        [RONDO_DELTA_G] = { "g", rows, gates * (int64_t)rondo_type_size(d->gate_type), true },
        [RONDO_DELTA_BETA] = { "beta", rows, d->heads * (int64_t)rondo_type_size(d->beta_type), true },
        [RONDO_DELTA_A_LOG] = { "A_log", d->heads, one, true }, [RONDO_DELTA_DT_BIAS] = { "dt_bias", gates, one, true },
        [RONDO_DELTA_INITIAL] = { "initial state", d->initial_state ? d->sequences : 0, d->heads * state, true },
        [RONDO_DELTA_DOUT] = { "dout", rows, values * (int64_t)rondo_type_size(d->out_type), true },
        [RONDO_DELTA_DFINAL] = { "dfinal state", d->final_state ? d->sequences : 0, d->heads * state, true },
        [RONDO_DELTA_DQ] = { "dq", rows, keys * one, false }, [RONDO_DELTA_DK] = { "dk", rows, keys * one, false },
        [RONDO_DELTA_DV] = { "dv", rows, values * one, false }, [RONDO_DELTA_DG] = { "dg", rows, gates * one, false },
        [RONDO_DELTA_DBETA] = { "dbeta", rows, d->heads * one, false },
        [RONDO_DELTA_DINITIAL] = { "dinitial state", d->initial_state ? d->sequences : 0, d->heads * state, false },
        [RONDO_DELTA_DA_LOG] = { "dA_log", d->gate ? d->heads : 0, one, false },
        [RONDO_DELTA_DDT_BIAS] = { "ddt_bias", d->gate ? gates : 0, one, false }
    };
    for (int i = 0; i < RONDO_DELTA_GRADIENTS; i++)
        rondo__buffer_add(b->s, (struct rondo__buffer){ .name = all[i].name, .index = -1, .owner = RONDO_OWNER_CALLER, .tensor = -1,
                                                         .bytes = rondo__delta_bytes(b, all[i].count, all[i].each, 1),
                                                         .memory = rondo__machine_compute_memory(b->m),
                                                         .access = all[i].input ? RONDO_ACCESS_INPUT : RONDO_ACCESS_BOTH, .home = -1, .over = -1 });
    rondo__schedule_arguments(b->s, b->m);
}

static void schedule(struct back *x)
{
    struct rondo__delta_build *b = x->b;
    const struct rondo__delta_design *d = b->d;
    const int64_t first = d->begin[b->rank], end = d->begin[b->rank + 1], wide = d->desc.heads * x->sums;
    const int64_t head = first < end ? rondo__delta_sequence(d, first) : -1, tail = first < end ? rondo__delta_sequence(d, end - 1) : -1;
    const int32_t before = head >= 0 && d->cu[head] < first ? rondo__delta_owner(d, first - 1) : -1;
    const int32_t behind = tail >= 0 && d->cu[tail + 1] > end ? rondo__delta_owner(d, end) : -1;
    const bool through = before >= 0 && behind >= 0 && head == tail;
    int32_t *in = rondo__alloc_zero((size_t)x->stages, 2 * sizeof *in), *none = in + x->stages;
    b->s->failed |= !in;
    if (b->s->failed)
        goto out;
    for (int64_t i = 0; i < 2 * x->stages; i++)
        in[i] = -1;
    x->gradient = rondo__delta_own(b, "gradients of states", -1, rondo__delta_bytes(b, d->desc.heads, x->state, (int64_t)sizeof(float)));
    if (x->sums && rondo_tokens_rows(x->out->tokens))
        x->out->leaves = rondo__delta_own(b, "sums of leaves", -1, rondo__delta_bytes(b, rondo_tokens_rows(x->out->tokens), wide, (int64_t)sizeof(float)));
    struct part h = { .first = 0 }, t = h;
    if (behind >= 0 && !through) {
        t = part_of(x, tail, d->cu[tail], end);
        t.marks = marks(x, &t, "states at marks, tail");
        stages(x, t, false, -1, behind, none);
    }
    if (before >= 0) {
        h = part_of(x, head, first, through ? end : d->cu[head + 1]);
        h.marks = marks(x, &h, "states at marks, head");
        stages(x, h, false, before, through ? behind : -1, in);
    }
    if (before >= 0 && !through)       /* others wait for it */
        stages(x, h, true, -1, before, in);
    own(x);
    if (through)
        stages(x, h, true, behind, before, in);
    else if (behind >= 0)
        stages(x, t, true, behind, -1, none);
    if (x->sums)
        sums(x);
    if (d->ranks > 1)
        rondo__schedule_fence(b->s, b->m, rondo__step_named("end of gradients"));
out:
    rondo__free(in);
}

int rondo__delta_backward_build(struct rondo__delta_backward *out, const struct rondo__delta_design *design, int32_t rank,
                                const struct rondo__machine *machine)
{
    struct rondo__delta_build b = { .out = &out->built, .s = &out->built.schedule, .d = design, .m = machine, .rank = rank };
    const rondo_delta_desc *d = &design->desc;
    struct back x = { .b = &b, .out = out, .group = d->heads / d->key_heads, .sums = rondo__delta_sums(design), .state = rondo__delta_state(design),
                      .gradient = -1 };
    int64_t units;
    int err = 0;
    rondo__schedule_clear(b.s, rank, design->ranks, 1);
    callers(&b);
    x.stages = d->way == RONDO_DELTA_SERIAL || design->ranks == 1 ? 1
               : d->key_heads < STAGES_OF_A_RANK * design->ranks  ? d->key_heads
                                                                  : STAGES_OF_A_RANK * design->ranks;
    x.units = rondo__delta_units(design, d->value_dim, &units);
    x.leaf = rondo__alloc_zero((size_t)d->sequences, sizeof *x.leaf);
    out->nodes = rondo__alloc_zero((size_t)design->ranks, sizeof *out->nodes);
    out->leaves = -1;
    b.s->failed |= !x.units || !x.leaf || !out->nodes;
    for (int32_t r = 0; r < design->ranks && out->nodes; r++)
        out->nodes[r] = -1;
    if (!b.s->failed && x.sums)
        err = make_tokens(&x);
    if (!err && !b.s->failed)
        schedule(&x);
    rondo__free(x.units);
    rondo__free(x.leaf);
    if (!err && b.large)
        return rondo__fail(RONDO_EINVAL, "rondo_delta_create: what rank %d has of %lld tokens and their gradients is more than memory can hold",
                           (int)rank, (long long)design->rows);
    if (!err && b.s->failed)
        return rondo__fail(RONDO_ENOMEM, "rondo_delta_create: no memory for a schedule of gradients of %lld tokens among %d ranks",
                           (long long)design->rows, (int)design->ranks);
    if (!err && !rondo__schedule_place(b.s))
        return rondo__fail(RONDO_EINVAL, "rondo_delta_create: the workspace of gradients of %lld heads among %d ranks is more than memory can hold",
                           (long long)d->heads, (int)design->ranks);
    return err;
}

void rondo__delta_backward_unbuild(struct rondo__delta_backward *backward)
{
    rondo__delta_unbuild(&backward->built);
    rondo__list_free(&backward->blocks);
    rondo_tokens_destroy(backward->tokens);
    rondo__free(backward->nodes);
    backward->tokens = NULL;
    backward->nodes = NULL;
}
