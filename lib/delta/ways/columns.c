/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The delta rule with its heads, or columns of their states, dealt out over ranks (the all-to-all of DeepSpeed-Ulysses, arXiv:2309.14509): columns
 * do not depend on each other, so a rank takes all tokens through its own from beginning to end. Each rank sends the tokens that it has to all
 * others, of each array what the other's heads need; these send back what is put out, and the states that are to be kept with the tokens. Nothing is
 * computed twice but decays, keys and queries of heads that lie on two ranks, and every state has the bits of a walk by one rank.
 *
 * A rank has a run of the columns of all heads, one after another. Runs end with heads where that deals them out evenly, else inside, at multiples
 * of 64 or 16. Called by build.c.
 */
#include "delta/delta.h"

/* Columns that a rank has of all heads', and their heads. */
struct run {
    int64_t first, end;            /* of the columns */
    int32_t head, heads, key_head, key_heads;
};

struct columns {
    struct rondo__delta_build *b;
    const struct rondo__delta_design *p;
    struct run mine;
    struct rondo__delta_unit *units;   /* of `mine` */
    int64_t unit_count;
    int64_t granule;               /* columns of a head that stay together */
    int64_t carried;               /* where a state lies that is on its way from one rank's tokens to the next one's: float of the buffer */
    int64_t *starts, *kept;        /* [ranks]: of whose tokens sequences begin, where states are given; states that it keeps and others compute */
    int32_t *in, *out, *back;      /* [ranks]: buffers of a rank's tokens, of what goes back to it, of what comes from it; -1: none */
};

/* ---- who has which columns ---- */

static int64_t cuts_of(const struct rondo__delta_design *p, int64_t granule) { return (p->desc.value_dim + granule - 1) / granule; }

static int64_t most_of(const struct rondo__delta_design *p, int64_t granule)
{
    const int64_t cuts = p->desc.heads * cuts_of(p, granule), each = (cuts + p->ranks - 1) / p->ranks;
    const int64_t all = p->desc.heads * p->desc.value_dim;
    return each * granule < all ? each * granule : all;
}

/* The coarsest with which no rank has an eighth more than its share, if there is one. */
static int64_t granule_of(const struct rondo__delta_design *p)
{
    static const int64_t finer[] = { 64, 16 };
    const int64_t share = (p->desc.heads * p->desc.value_dim + p->ranks - 1) / p->ranks;
    int64_t granule = p->desc.value_dim;
    for (int i = 0; i < 2 && most_of(p, granule) * 8 > share * 9; i++)
        granule = finer[i] < granule ? finer[i] : granule;
    return granule;
}

int64_t rondo__delta_columns_most(const struct rondo__delta_design *p) { return most_of(p, granule_of(p)); }

static int64_t column_at(const struct columns *x, int64_t cut)
{
    const int64_t cuts = cuts_of(x->p, x->granule);
    return cut / cuts * x->p->desc.value_dim + cut % cuts * x->granule;
}

static struct run run_of(const struct columns *x, int32_t rank)
{
    const rondo_delta_desc *d = &x->p->desc;
    int64_t first, count;
    if (rondo_share(d->heads * cuts_of(x->p, x->granule), x->p->ranks, NULL, rank, &first, &count) || !count)
        return (struct run){ 0, 0, 0, 0, 0, 0 };
    struct run r = { .first = column_at(x, first), .end = column_at(x, first + count) };
    const int64_t group = d->heads / d->key_heads, last = (r.end - 1) / d->value_dim;
    r.head = (int32_t)(r.first / d->value_dim);
    r.heads = (int32_t)last - r.head + 1;
    r.key_head = (int32_t)(r.head / group);
    r.key_heads = (int32_t)(last / group) - r.key_head + 1;
    return r;
}

/* What it has of each head, as units of one packet. */
static struct rondo__delta_unit *units_of(const struct columns *x, const struct run *r, int64_t *count)
{
    const int64_t dim = x->p->desc.value_dim;
    struct rondo__delta_unit *units = rondo__alloc_zero((size_t)r->heads + 1, sizeof *units);
    *count = units ? r->heads : 0;
    for (int64_t i = 0, at = r->first; i < *count; i++) {
        const int64_t head = r->head + i, end = (head + 1) * dim < r->end ? (head + 1) * dim : r->end;
        units[i] = (struct rondo__delta_unit){ (int32_t)head, (int32_t)(at - head * dim), (int32_t)(end - at), 0, (at - r->first) * x->p->desc.key_dim };
        at = end;
    }
    x->b->s->failed |= !units;
    return units;
}

static int64_t rows_of(const struct columns *x, int32_t rank) { return x->p->begin[rank + 1] - x->p->begin[rank]; }

/* Floats of a state's columns. */
static int64_t state_of(const struct columns *x, const struct run *r) { return (r->end - r->first) * x->p->desc.key_dim; }

/* ---- what lies in packets: no byte that is not of use, and larger types first, so that all are where they may be read ---- */

static size_t place(size_t *all, size_t bytes)
{
    const size_t at = *all;
    *all += bytes;
    return at;
}

/* Of `rank`'s tokens what a run of columns needs: the states with which sequences begin there, and the arrays. */
static struct rondo__delta_part tokens_of(const struct columns *x, int32_t rank, const struct run *r, size_t *bytes)
{
    const rondo_delta_desc *d = &x->p->desc;
    struct rondo__delta_build *b = x->b;
    const int64_t rows = rows_of(x, rank);
    const size_t type = rondo_type_size(d->type), gate = rondo_type_size(d->gate_type), beta = rondo_type_size(d->beta_type);
    struct rondo__delta_part part = { .in = -1, .out = -1, .head = r->head, .heads = r->heads, .key_head = r->key_head, .key_heads = r->key_heads,
                                      .column = r->first, .columns = r->end - r->first, .row = x->p->begin[rank], .rows = rows };
    *bytes = rondo__delta_bytes(b, x->starts[rank], state_of(x, r), (int64_t)sizeof(float));
    for (size_t one = 4; one >= 2; one -= 2) {
        if (type == one) {
            part.at[RONDO_DELTA_Q] = place(bytes, rondo__delta_bytes(b, rows, r->key_heads, d->key_dim * (int64_t)one));
            part.at[RONDO_DELTA_K] = place(bytes, rondo__delta_bytes(b, rows, r->key_heads, d->key_dim * (int64_t)one));
            part.at[RONDO_DELTA_V] = place(bytes, rondo__delta_bytes(b, rows, r->end - r->first, (int64_t)one));
        }
        if (gate == one)
            part.at[RONDO_DELTA_G] = place(bytes, rondo__delta_bytes(b, rows, r->heads, d->gate_dim * (int64_t)one));
        if (beta == one)
            part.at[RONDO_DELTA_BETA] = place(bytes, rondo__delta_bytes(b, rows, r->heads, (int64_t)one));
    }
    return part;
}

/* The states that `rank` keeps of its tokens, and what is put out of them. */
static size_t results_of(const struct columns *x, int32_t rank, const struct run *r, size_t *out)
{
    *out = rondo__delta_bytes(x->b, x->kept[rank], state_of(x, r), (int64_t)sizeof(float));
    return *out + rondo__delta_bytes(x->b, rows_of(x, rank), r->end - r->first, (int64_t)rondo_type_size(x->p->desc.out_type));
}

/* ---- sequences among a rank's tokens ---- */

/* The first that has some, and the one behind `n`; false: there is none. */
static bool next_piece(const struct columns *x, int32_t rank, struct rondo__delta_piece *piece)
{
    const struct rondo__delta_design *p = x->p;
    const int64_t first = p->begin[rank], end = p->begin[rank + 1];
    if (first == end)
        return false;
    int64_t n = piece->sequence < 0 ? rondo__delta_sequence(p, first) : piece->sequence + 1;
    while (n < p->desc.sequences && p->cu[n] == p->cu[n + 1])
        n++;
    if (n >= p->desc.sequences || p->cu[n] >= end)
        return false;
    *piece = (struct rondo__delta_piece){ n, p->cu[n] > first ? p->cu[n] : first, p->cu[n + 1] < end ? p->cu[n + 1] : end, { -1, 0, 0 }, { -1, 0, 0 },
                                          { -1, 0, 0 } };
    return true;
}

static struct rondo__delta_piece before_all(void)
{
    return (struct rondo__delta_piece){ -1, 0, 0, { -1, 0, 0 }, { -1, 0, 0 }, { -1, 0, 0 } };
}

static bool begins(const struct columns *x, const struct rondo__delta_piece *piece)
{
    return x->p->desc.initial_state && piece->first == x->p->cu[piece->sequence];
}

static bool ends(const struct columns *x, const struct rondo__delta_piece *piece)
{
    return x->p->desc.final_state && piece->end == x->p->cu[piece->sequence + 1];
}

/* States of a piece that are kept with its tokens: its checkpoints, and behind them the last one. */
static int64_t kept_of(const struct columns *x, const struct rondo__delta_piece *piece, int64_t *points)
{
    int64_t low, high;
    rondo__delta_points(x->p, piece, &low, &high);
    *points = high - low;
    return high - low + ends(x, piece);
}

static bool count_states(struct columns *x)
{
    const int32_t ranks = x->p->ranks;
    x->starts = rondo__alloc_zero((size_t)ranks, 2 * sizeof *x->starts);
    x->in = rondo__alloc_zero((size_t)ranks, 3 * sizeof *x->in);
    x->b->s->failed |= !x->starts || !x->in;
    if (x->b->s->failed)
        return false;
    x->kept = x->starts + ranks;
    x->out = x->in + ranks;
    x->back = x->out + ranks;
    for (int32_t r = 0; r < ranks; r++) {
        int64_t points;
        for (struct rondo__delta_piece piece = before_all(); next_piece(x, r, &piece);) {
            x->starts[r] += begins(x, &piece);
            x->kept[r] += kept_of(x, &piece, &points);
        }
        x->in[r] = x->out[r] = x->back[r] = -1;
    }
    return true;
}

/* ---- moving ---- */

static struct rondo__step step(const struct columns *x, const char *what, int32_t rank)
{
    return rondo__step_of(what, rank + 1, x->p->ranks);
}

/* Rows of `bytes` between strides. */
static void copy(struct rondo__delta_build *b, int32_t from, size_t from_at, size_t from_stride, int32_t to, size_t to_at, size_t to_stride, size_t bytes,
                 int64_t rows)
{
    struct rondo__copy one = { .from = from, .to = to, .from_at = from_at, .to_at = to_at, .sequence = -1, .rows = rows };
    if (!rows || !bytes)
        return;
    if (from_stride == bytes && to_stride == bytes) {
        one.rows = (int64_t)((size_t)rows * bytes);
    } else {
        one.row_bytes = bytes;
        one.from_stride = from_stride;
        one.to_stride = to_stride;
    }
    rondo__schedule_copy(b->s, one, (size_t)rows * bytes);
}

/* A state's columns between a caller's array, where all heads' lie from float `whole` on, and a packet. */
static void copy_state(struct columns *x, const struct rondo__delta_unit *u, int64_t count, int32_t array, int64_t whole, int32_t packet, size_t at,
                       bool out)
{
    const size_t one = sizeof(float), row = (size_t)x->p->desc.value_dim * one;
    for (int64_t i = 0; i < count; i++) {
        const size_t here = (size_t)(whole + u[i].head * rondo__delta_state(x->p) + u[i].column) * one, there = at + (size_t)u[i].at * one;
        const size_t bytes = (size_t)u[i].columns * one;
        if (out)
            copy(x->b, array, here, row, packet, there, bytes, bytes, x->p->desc.key_dim);
        else
            copy(x->b, packet, there, bytes, array, here, row, bytes, x->p->desc.key_dim);
    }
}

/* What of this rank's tokens another one needs; -1: nothing. */
static int32_t pack_tokens(struct columns *x, int32_t to, const struct run *r, size_t *bytes)
{
    struct rondo__delta_build *b = x->b;
    const rondo_delta_desc *d = &x->p->desc;
    size_t states = 0;
    const struct rondo__delta_part part = tokens_of(x, b->rank, r, bytes);
    if (!part.rows || !part.columns || b->large)
        return -1;
    const size_t type = rondo_type_size(d->type), gate = rondo_type_size(d->gate_type), beta = rondo_type_size(d->beta_type);
    const struct {
        size_t type, one, first, count, all;   /* bytes of one head, or column, and how many */
    } array[] = {
        [RONDO_DELTA_Q] = { type, type * (size_t)d->key_dim, (size_t)r->key_head, (size_t)r->key_heads, (size_t)d->key_heads },
        [RONDO_DELTA_K] = { type, type * (size_t)d->key_dim, (size_t)r->key_head, (size_t)r->key_heads, (size_t)d->key_heads },
        [RONDO_DELTA_V] = { type, type, (size_t)r->first, (size_t)part.columns, (size_t)(d->heads * d->value_dim) },
        [RONDO_DELTA_G] = { gate, gate * (size_t)d->gate_dim, (size_t)r->head, (size_t)r->heads, (size_t)d->heads },
        [RONDO_DELTA_BETA] = { beta, beta, (size_t)r->head, (size_t)r->heads, (size_t)d->heads },
    };
    const int32_t buffer = rondo__delta_own(b, "tokens for rank", to, *bytes);
    int64_t count;
    struct rondo__delta_unit *units = units_of(x, r, &count);
    rondo__schedule_begin(b->s, RONDO_PACK, step(x, "tokens for rank", to), -1);
    for (struct rondo__delta_piece piece = before_all(); next_piece(x, b->rank, &piece);)
        if (begins(x, &piece)) {
            copy_state(x, units, count, RONDO_DELTA_INITIAL, rondo__delta_initial(b, piece.sequence).at, buffer, states, true);
            states += (size_t)state_of(x, r) * sizeof(float);
        }
    for (size_t one = 4; one >= 2; one -= 2)   /* in the order of their places */
        for (int32_t i = RONDO_DELTA_Q; i <= RONDO_DELTA_BETA; i++)
            if (array[i].type == one)
                copy(b, i, array[i].one * array[i].first, array[i].one * array[i].all, buffer, part.at[i], array[i].one * array[i].count,
                     array[i].one * array[i].count, part.rows);
    rondo__schedule_end(b->s);
    rondo__free(units);
    return rondo__schedule_sent(b->s, b->m, buffer, 0, *bytes, -1);
}

/* All tokens change places: with each rank in turn, at a distance that grows, so that all are busy. */
static void exchange(struct columns *x)
{
    struct rondo__delta_build *b = x->b;
    const int32_t ranks = x->p->ranks;
    for (int32_t i = 1; i < ranks && !b->s->failed; i++) {
        const int32_t to = (b->rank + i) % ranks, from = (b->rank - i + ranks) % ranks;
        const struct run theirs = run_of(x, to);
        size_t out_bytes, in_bytes;
        const int32_t out = pack_tokens(x, to, &theirs, &out_bytes);
        tokens_of(x, from, &x->mine, &in_bytes);
        const bool comes = rows_of(x, from) && x->mine.first < x->mine.end;
        if (out < 0 && !comes)
            continue;
        rondo__schedule_begin(b->s, RONDO_TRANSFER, step(x, "tokens to their columns", i - 1), -1)->operation = RONDO_OP_ALL_TO_ALL;
        if (out >= 0)
            rondo__schedule_part(b->s, out, 0, out_bytes, to, false);
        if (comes) {
            x->in[from] = rondo__schedule_arrival(b->s, b->m, "tokens of rank", from, in_bytes);
            rondo__schedule_part(b->s, x->in[from], 0, in_bytes, from, true);
        }
        rondo__schedule_end(b->s);
    }
}

/* What the others have made of this rank's tokens. All ranks come to this in the order of the ranks whose tokens these are: a data plane that
 * has a stream for its transfers is in the middle of one at a time. */
static void await_results(struct columns *x)
{
    struct rondo__delta_build *b = x->b;
    const int32_t ranks = x->p->ranks;
    if (!rows_of(x, b->rank) || ranks == 1)
        return;
    rondo__schedule_begin(b->s, RONDO_TRANSFER, rondo__step_named("results from all"), -1)->operation = RONDO_OP_ALL_TO_ALL;
    for (int32_t i = 1; i < ranks && !b->s->failed; i++) {
        const int32_t from = (b->rank + i) % ranks;
        const struct run theirs = run_of(x, from);
        size_t out;
        const size_t bytes = results_of(x, b->rank, &theirs, &out);
        if (theirs.first == theirs.end)
            continue;
        x->back[from] = rondo__schedule_arrival(b->s, b->m, "results of rank", from, bytes);
        rondo__schedule_part(b->s, x->back[from], 0, bytes, from, true);
    }
    rondo__schedule_end(b->s);
}

/* What came back from a rank, to where the caller wants it. */
static void unpack_results(struct columns *x, int32_t from)
{
    struct rondo__delta_build *b = x->b;
    const rondo_delta_desc *d = &x->p->desc;
    const struct run r = run_of(x, from);
    const size_t one = rondo_type_size(d->out_type);
    size_t out, states = 0;
    const size_t bytes = results_of(x, b->rank, &r, &out);
    const int32_t buffer = rondo__schedule_received(b->s, b->m, x->back[from], bytes, -1);
    const size_t row = (size_t)(r.end - r.first) * one, state = (size_t)state_of(x, &r) * sizeof(float);
    int64_t count, points;
    struct rondo__delta_unit *units = units_of(x, &r, &count);
    rondo__schedule_begin(b->s, RONDO_PACK, step(x, "results from rank", from), -1);
    copy(b, buffer, out, row, RONDO_DELTA_OUT, (size_t)r.first * one, (size_t)(d->heads * d->value_dim) * one, row, rows_of(x, b->rank));
    for (struct rondo__delta_piece piece = before_all(); next_piece(x, b->rank, &piece);) {
        const int64_t all = kept_of(x, &piece, &points);
        int64_t low, high;
        rondo__delta_points(x->p, &piece, &low, &high);
        for (int64_t i = 0; i < all; i++, states += state) {
            const struct rondo__delta_place at = i < points ? rondo__delta_point(b, low + i, piece.sequence) : rondo__delta_final(b, piece.sequence);
            copy_state(x, units, count, at.buffer, at.at, buffer, states, false);
        }
    }
    rondo__schedule_end(b->s);
    rondo__free(units);
}

/* ---- computing ---- */

/* Whether of a rank's tokens the first are of a sequence that began before them, and the last of another one, that goes on behind them. */
static bool both_ways(const struct rondo__delta_design *p, int32_t rank)
{
    const int64_t first = p->begin[rank], end = p->begin[rank + 1];
    if (first == end || end == p->rows)
        return false;
    const int64_t n = rondo__delta_sequence(p, first), m = rondo__delta_sequence(p, end);
    return n < m && p->cu[n] < first && p->cu[m] < end;
}

/* A rank's tokens, through the columns that this one has. carry: where states are on their way from rank to rank, from float x->carried on: one's
 * tokens may end a sequence that came and begin one that goes on, at once. */
static void compute(struct columns *x, int32_t of, int32_t carry)
{
    struct rondo__delta_build *b = x->b;
    const bool own = of == b->rank;
    size_t bytes, results = 0, states = 0, kept = 0;
    struct rondo__delta_part part = tokens_of(x, of, &x->mine, &bytes);
    int64_t count = 0, points, goes = x->carried;
    if (!own) {
        results = results_of(x, of, &x->mine, &part.at[RONDO_DELTA_OUT]);
        part.in = rondo__schedule_received(b->s, b->m, x->in[of], bytes, -1);
        part.out = x->out[of] = rondo__delta_own(b, "results for rank", of, results);
        struct rondo__delta_part *p = rondo__list_add(&b->out->parts, sizeof *p, 1);
        b->s->failed |= !p;
        if (!p)
            return;
        *p = part;
        b->part = (int32_t)b->out->parts.count - 1;
    }
    for (struct rondo__delta_piece piece = before_all(); next_piece(x, of, &piece);)
        count++;
    struct rondo__delta_piece *pieces = rondo__alloc_zero((size_t)count + 1, sizeof *pieces), piece = before_all();
    b->s->failed |= !pieces;
    for (int64_t i = 0; pieces && next_piece(x, of, &piece); i++) {
        struct rondo__delta_piece *p = pieces + i;
        const int64_t all = kept_of(x, &piece, &points), one = (int64_t)sizeof(float);
        *p = piece;
        if (piece.first > x->p->cu[piece.sequence]) {
            p->from = (struct rondo__delta_place){ carry, 1, x->carried };
            goes = count > 1 && both_ways(x->p, of) ? state_of(x, &x->mine) - x->carried : goes;
        } else if (begins(x, &piece)) {
            p->from = own ? rondo__delta_initial(b, piece.sequence) : (struct rondo__delta_place){ part.in, 1, (int64_t)states / one };
            states += (size_t)(state_of(x, &x->mine) * one);
        }
        if (!own)
            p->points = (struct rondo__delta_place){ part.out, 1, (int64_t)kept / one };
        if (piece.end < x->p->cu[piece.sequence + 1])
            p->to = (struct rondo__delta_place){ carry, 1, goes };
        else if (ends(x, &piece))
            p->to = own ? rondo__delta_final(b, piece.sequence)
                        : (struct rondo__delta_place){ part.out, 1, (int64_t)kept / one + points * state_of(x, &x->mine) };
        kept += (size_t)(all * state_of(x, &x->mine) * one);
    }
    rondo__delta_compute(b, pieces, pieces ? count : 0, x->units, x->unit_count, step(x, "delta rule, tokens of rank", of));
    x->carried = goes;
    rondo__free(pieces);
    b->part = 0;
    if (own)
        return;
    const int32_t sent = rondo__schedule_sent(b->s, b->m, part.out, 0, results, -1);
    rondo__schedule_begin(b->s, RONDO_TRANSFER, step(x, "results to rank", of), -1)->operation = RONDO_OP_ALL_TO_ALL;
    rondo__schedule_part(b->s, sent, 0, results, of, false);
    rondo__schedule_end(b->s);
}

/* Sequences without tokens: their states are where they are to be, or are copied there. */
static void run_empty(struct columns *x)
{
    struct rondo__delta_build *b = x->b;
    const struct rondo__delta_design *p = x->p;
    int64_t count = 0, units;
    struct rondo__delta_piece *pieces = rondo__alloc_zero((size_t)p->desc.sequences, sizeof *pieces);
    struct rondo__delta_unit *whole = rondo__delta_units(p, p->desc.value_dim, &units);
    b->s->failed |= !pieces || !whole;
    for (int64_t n = 0; n < p->desc.sequences && !b->s->failed; n++)
        if (p->cu[n] == p->cu[n + 1] && rondo__delta_owner(p, p->cu[n]) == b->rank)
            pieces[count++] = (struct rondo__delta_piece){ n, p->cu[n], p->cu[n], rondo__delta_initial(b, n), rondo__delta_final(b, n), { -1, 0, 0 } };
    rondo__delta_compute(b, pieces, b->s->failed ? 0 : count, whole, units, rondo__step_named("delta rule"));
    rondo__free(pieces);
    rondo__free(whole);
}

/* Bytes of the largest message between any two ranks. */
static size_t largest(const struct columns *x)
{
    size_t most = 0, out, bytes;
    for (int32_t to = 0; to < x->p->ranks; to++) {
        const struct run r = run_of(x, to);
        for (int32_t from = 0; from < x->p->ranks && r.first < r.end; from++) {
            if (from == to || !rows_of(x, from))
                continue;
            tokens_of(x, from, &r, &bytes);
            most = bytes > most ? bytes : most;
            bytes = results_of(x, from, &r, &out);
            most = bytes > most ? bytes : most;
        }
    }
    return most;
}

void rondo__delta_columns(struct rondo__delta_build *b)
{
    const struct rondo__delta_design *p = b->d;
    struct columns x = { .b = b, .p = p, .granule = granule_of(p) };
    int64_t carries = 1;
    int32_t carry = -1;
    if (!count_states(&x))
        goto done;
    x.mine = run_of(&x, b->rank);
    x.units = units_of(&x, &x.mine, &x.unit_count);
    b->large |= x.mine.end - x.mine.first > INT32_MAX;
    if (b->s->failed || b->large)
        goto done;
    exchange(&x);
    for (int32_t r = 0; r < p->ranks; r++)
        carries = both_ways(p, r) ? 2 : carries;
    for (int32_t r = 1; r < p->ranks && carry < 0 && x.unit_count; r++)
        if (p->begin[r] < p->rows && p->cu[rondo__delta_sequence(p, p->begin[r])] < p->begin[r])
            carry = rondo__delta_own(b, "states on their way", -1, rondo__delta_bytes(b, carries, state_of(&x, &x.mine), (int64_t)sizeof(float)));
    for (int32_t r = 0; r < p->ranks && !b->s->failed && !b->large; r++) {
        if (rows_of(&x, r) && x.unit_count)
            compute(&x, r, carry);
        if (r == b->rank)
            await_results(&x);
    }
    run_empty(&x);
    for (int32_t i = 1; i < p->ranks && !b->s->failed; i++)
        if (x.back[(b->rank + i) % p->ranks] >= 0)
            unpack_results(&x, (b->rank + i) % p->ranks);
    if (largest(&x) > b->m->eager && !b->s->failed)   /* the same on all ranks */
        rondo__schedule_fence(b->s, b->m, rondo__step_named("end of the delta rule"));
done:
    rondo__free(x.units);
    rondo__free(x.starts);
    rondo__free(x.in);
}
