/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Placements over many turns: chunked prefill, conversations and decoding of several sequences at once, in any mix, on any number of
 * ranks, with every layout, algorithm and kind of mask, give the bits of one prefill of everything on one rank; ranks that have none of a
 * turn's queries compute none. With interleave = 1 they agree to rounding.
 */
#include "t/attention.h"
#define DRAW_STREAM 3020
#include "t/draw.h"

#define TURNS_MAX 400

struct turn {
    int64_t count, names[SEQUENCES_MAX], tokens[SEQUENCES_MAX];
    int algorithm, columns;   /* columns: grid[0] of all-to-all is the largest divisor of the ranks up to it; 0: the plan's choice */
};

struct story {
    const struct problem *p;      /* everything at once */
    int64_t turns;
    struct turn turn[TURNS_MAX];
    int layout, interleave, ranks;
    int32_t owners[64];           /* of leaves, with layout custom: those that a turn begins, from its first */
    struct result *r;
    int balanced;
    int64_t rows;                 /* of q, over all ranks and turns */
};

static int tell(rondo_context *ctx, void *arg)
{
    struct story *y = arg;
    const struct problem *p = y->p;
    int rank = rondo_context_rank(ctx), err = 0;
    rondo_placement_desc pd = RONDO_PLACEMENT_DESC_INIT;
    rondo_placement *place = NULL;
    pd.ranks = y->ranks;
    pd.layout = y->layout;
    pd.leaf = p->leaf;
    pd.interleave = y->interleave;
    pd.sequences = p->sequences;
    err = rondo_placement_create(&place, &pd);
    if (err)
        return err;
    /* every sequence has room for all of its keys; the room in between holds NaN */
    int64_t room = 0;
    for (int64_t s = 0; s < p->sequences; s++)
        room = p->tokens[s] + 3 > room ? p->tokens[s] + 3 : room;
    int64_t k_shape[3] = { room * p->sequences, p->kv_heads, p->head_dim }, v_shape[3] = { k_shape[0], p->kv_heads, p->value_dim };
    rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
    size_t k_bytes = (size_t)(k_shape[0] * p->kv_heads * p->head_dim) * 4, v_bytes = (size_t)(k_shape[0] * p->kv_heads * p->value_dim) * 4;
    io.k = rondo_tensor_dense(malloc(k_bytes), p->kv_type, 3, k_shape);
    io.v = rondo_tensor_dense(malloc(v_bytes), p->kv_type, 3, v_shape);
    memset(io.k.data, 0xff, k_bytes);
    memset(io.v.data, 0xff, v_bytes);

    for (int64_t t = 0; t < y->turns && !err; t++) {
        const struct turn *turn = &y->turn[t];
        rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
        rondo_attention *plan = NULL;
        rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
        rondo_span spans[256];
        int64_t before[SEQUENCES_MAX], kv_row[SEQUENCES_MAX], documents_first[SEQUENCES_MAX], mask_row[SEQUENCES_MAX];
        for (int64_t i = 0; i < turn->count && !err; i++) {
            before[i] = rondo_placement_length(place, turn->names[i]);
            kv_row[i] = turn->names[i] * room;
            if (y->layout == RONDO_CUSTOM)
                err = rondo_placement_append_owners(place, turn->names[i], turn->tokens[i], y->owners);
            else
                err = rondo_placement_append(place, turn->names[i], turn->tokens[i]);
            documents_first[i] = p->kv_first[turn->names[i]];
            mask_row[i] = p->q_first[turn->names[i]] + before[i];
            int64_t n = rondo_placement_spans(place, turn->names[i], rank, before[i], spans, 256);
            for (int64_t a = 0; a < n && a < 256; a++)
                for (int64_t j = 0; j < spans[a].count; j++) {
                    int64_t at = p->kv_first[turn->names[i]] + spans[a].first + j * spans[a].step, row = kv_row[i] + spans[a].row + j;
                    copy_row(&io.k, row, p->k, at, 0);
                    copy_row(&io.v, row, p->v, at, 0);
                }
        }
        d.heads = p->heads;
        d.kv_heads = p->kv_heads;
        d.head_dim = p->head_dim;
        d.value_dim = p->value_dim;
        d.sequences = turn->count;
        d.tokens_of = turn->tokens;
        d.causal = p->causal;
        if (p->documents) {
            d.documents = p->document;
            d.documents_first = documents_first;
        }
        if (p->mask) {
            d.mask = p->visible;
            d.mask_heads = p->mask;
            d.mask_row = mask_row;
            d.mask_row_stride = p->mask * p->most_keys;
            d.mask_head_stride = p->mask > 1 ? p->most_keys : 0;
        }
        d.windowed = p->windowed;
        d.window_left = p->left;
        d.window_right = p->right;
        d.kv_type = p->kv_type;
        d.softcap = p->softcap;
        d.alibi = p->alibi;
        d.sinks = p->sinks;
        d.algorithm = turn->algorithm;
        for (int c = turn->columns; c && !d.grid[0]; c--)
            if (y->ranks % c == 0) {
                d.grid[0] = c;
                d.grid[1] = y->ranks / c;
            }
        d.placement = place;
        d.placement_sequences = turn->names;
        if (!err)
            err = rondo_attention_create(&plan, ctx, &d);
        if (!err)
            err = rondo_attention_query(plan, &info);
        if (err)
            break;
        __atomic_fetch_add(&y->rows, info.q_rows, __ATOMIC_RELAXED);
        io.q = make_tensor(info.q_rows, p->heads, p->head_dim, p->q_type, 0);
        io.out = make_tensor(info.q_rows, p->heads, p->value_dim, p->out_type, 0);
        int64_t lse_shape[2] = { info.q_rows, p->heads };
        io.lse = rondo_tensor_dense(calloc((size_t)(info.q_rows * p->heads + 1), 4), RONDO_F32, 2, lse_shape);
        io.kv_row = kv_row;
        give_terms(p, &io);
        for (int phase = 0; phase < 2 && !err; phase++) {
            int64_t row = 0;
            for (int64_t i = 0; i < turn->count; i++) {
                int64_t n = rondo_attention_spans(plan, i, 0, -1, spans, 256), rows = 0;
                for (int64_t a = 0; a < n && a < 256; a++)
                    for (int64_t j = 0; j < spans[a].count; j++, rows++) {
                        int64_t at = p->q_first[turn->names[i]] + before[i] + spans[a].first + j * spans[a].step;
                        copy_row(phase ? &io.out : &io.q, row + spans[a].row + j, phase ? y->r->out : p->q, at, phase);
                        if (phase)
                            memcpy(y->r->lse + at * p->heads, (float *)io.lse.data + (row + spans[a].row + j) * p->heads, (size_t)p->heads * 4);
                    }
                row += rows;
            }
            if (!phase)
                err = rondo_attention_execute(plan, &io, NULL);
        }
        free(io.q.data);
        free(io.out.data);
        free(io.lse.data);
        rondo_attention_destroy(plan);
    }
    free(io.k.data);
    free(io.v.data);
    /* what decoding added is spread evenly: to the token with interleave 1 */
    if (!err && rank == 0 && y->interleave) {
        y->balanced = 1;
        for (int64_t s = 0; s < p->sequences; s++) {
            int64_t least = INT64_MAX, most = 0;
            for (int r = 0; r < y->ranks; r++) {
                int64_t held = rondo_placement_held(place, s, r);
                least = held < least ? held : least;
                most = held > most ? held : most;
            }
            y->balanced &= most - least <= 3 * p->leaf;
        }
    }
    rondo_placement_destroy(place);
    return err;
}

/* Cuts the problem into turns: whole, or pieces of random size, with decoding at the end. */
static void invent(struct story *y, int kind)
{
    const struct problem *p = y->p;
    static const int algorithms[] = { RONDO_ALGORITHM_AUTO, RONDO_PASS_KV, RONDO_PASS_Q, RONDO_ALL_GATHER, RONDO_HALO, RONDO_REDUCE, RONDO_MESH,
                                      RONDO_ALL_TO_ALL };
    int64_t done_[SEQUENCES_MAX] = { 0 }, left = 0;
    y->turns = 0;
    for (int64_t s = 0; s < p->sequences; s++)
        left += p->tokens[s];
    while (left > 0 && y->turns < TURNS_MAX) {
        struct turn *t = &y->turn[y->turns++];
        memset(t, 0, sizeof *t);
        t->algorithm = algorithms[draw(sizeof algorithms / sizeof *algorithms)];
        t->columns = t->algorithm == RONDO_ALL_TO_ALL ? (int)draw(5) : 0;
        int64_t start = draw((uint32_t)p->sequences), singles = kind == 2 && y->turns > 3;
        for (int64_t i = 0; i < p->sequences; i++) {
            int64_t s = (start + i) % p->sequences, rest = p->tokens[s] - done_[s], n = rest;
            if (kind == 0 && draw(4) == 0)
                continue;   /* not in this batch */
            if (kind > 0 && y->turns < TURNS_MAX)
                n = singles ? rest > 0 : draw(3) == 0 ? draw(4) : draw(80);
            if (y->turns > TURNS_MAX - 3)
                n = rest;
            n = n > rest ? rest : n;
            t->names[t->count] = s;
            t->tokens[t->count++] = n;
            done_[s] += n;
            left -= n;
        }
        if (!t->count)
            y->turns--;
    }
}

int main(void)
{
    static const struct problem problems[] = {
        { .sequences = 1, .tokens = { 300 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .causal = 1, .leaf = 8 },
        { .sequences = 4, .tokens = { 130, 61, 17, 200 }, .heads = 4, .kv_heads = 2, .head_dim = 16, .value_dim = 8, .causal = 1, .leaf = 16,
          .alibi = 1, .softcap = 4.0, .sinks = 1 },
        { .sequences = 3, .tokens = { 150, 40, 99 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .causal = 1, .windowed = 1, .left = 25, .right = -1,
          .leaf = 8, .kv_type = RONDO_BF16 },
        { .sequences = 3, .tokens = { 170, 33, 80 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .causal = 1, .leaf = 8, .documents = 40 },
        { .sequences = 2, .tokens = { 150, 121 }, .heads = 4, .kv_heads = 2, .head_dim = 8, .causal = 1, .leaf = 8, .documents = -20, .alibi = 1, .windowed = 1,
          .left = 70, .right = -1 },
        { .sequences = 2, .tokens = { 160, 90 }, .heads = 4, .kv_heads = 2, .head_dim = 8, .causal = 1, .leaf = 8, .mask = 4, .mask_kind = 1 },
    };
    static const char *const kinds[] = { "whole", "in pieces", "in pieces, then decoding" };
    for (size_t i = 0; i < sizeof problems / sizeof *problems; i++) {
        const int runs = long_tests() ? 16 : i < 3 ? 4 : 2;
        struct problem p = problems[i];
        struct result r;
        struct setup one = { .ranks = 1 };
        static struct story y;
        p.seed = 200 + (uint32_t)i;
        problem_data(&p);
        ok(solve(&p, &one, &r) == 0, "problem %zu: all at once on one rank", i);
        uint64_t want = r.hash;
        for (int kind = 0; kind < 3; kind++) {
            int same = 1, rows = 1;
            for (int k = 0; k < runs; k++)
                for (int ranks = 1; ranks <= 9; ranks++) {
                    rondo_context_desc d = RONDO_CONTEXT_DESC_INIT;
                    d.threads = 1;
                    memset(r.out, 0x55, (size_t)(p.q_rows * p.heads * p.value_dim) * 4);
                    y = (struct story){ .p = &p, .layout = 1 + (int)draw(RONDO_CUSTOM), .ranks = ranks, .r = &r };
                    for (int j = 0; j < 64; j++)
                        y.owners[j] = (int32_t)draw((uint32_t)ranks);
                    invent(&y, kind);
                    int err = rondo_launch(ranks, &d, tell, &y);
                    rows &= err || y.rows == p.q_rows;
                    if (err || result_hash(&p, &r) != want) {
                        diag("problem %zu %s on %d ranks, %s, %lld turns: %s", i, kinds[kind], ranks, rondo_layout_name(y.layout),
                             (long long)y.turns, err ? rondo_error_text() : "other bits");
                        same = 0;
                    }
                }
            ok(same, "problem %zu %s: the same bits on 1 to 9 ranks", i, kinds[kind]);
            ok(rows, "  with no row of q more than there are tokens");
        }
        double worst = 0.0;
        int ran = 1, balanced = 1;
        for (int ranks = 2; ranks <= 6; ranks++) {
            rondo_context_desc d = RONDO_CONTEXT_DESC_INIT;
            d.threads = 1;
            y = (struct story){ .p = &p, .layout = 1 + (int)draw(4), .ranks = ranks, .r = &r, .interleave = 1 };
            invent(&y, 2);
            memset(r.out, 0x55, (size_t)(p.q_rows * p.heads * p.value_dim) * 4);
            int err = rondo_launch(ranks, &d, tell, &y);
            if (err)
                diag("%d ranks, interleaved: %s", ranks, rondo_error_text());
            ran &= !err;
            balanced &= y.balanced;
            worst = worse(worst, worst_error(&p, &r, NULL));
        }
        ok(ran && worst <= 1.0, "problem %zu, decoding token by token over the ranks: %.3f of the bound", i, worst);
        ok(balanced, "and the keys are spread evenly");
        result_free(&r);
        problem_free(&p);
    }
    return done();
}
