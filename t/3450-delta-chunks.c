/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The delta rule in chunks among ranks: its bits are the same for every way, number of ranks and division into whole chunks, in tiles too; they are
 * right, and not those of a token at a time; and what chunks cannot do is refused.
 */
#define DRAW_STREAM 3450
#include "t/delta_ranks.h"

/* The row of a sequence's chunk, or end, that is not behind `row`. */
static int64_t whole(const struct delta_case *c, int64_t row, int64_t grain)
{
    int64_t n = 0;
    while (n + 1 < c->sequences && c->cu[n + 1] <= row)
        n++;
    return row < c->rows ? c->cu[n] + (row - c->cu[n]) / grain * grain : c->rows;
}

static void run_many(const struct job *one, int64_t grain, int ranks)
{
    static const int ways[] = { RONDO_DELTA_PIPELINE, RONDO_DELTA_COLUMNS, RONDO_DELTA_SERIAL, RONDO_DELTA_AUTO };
    for (int i = 0; i < (one->tile ? 1 : 4); i++) {
        struct job many = *one;
        int64_t shares[RANKS + 1];
        draw_shares(shares, ranks, one->c->rows);
        for (int r = 1; r < ranks; r++)
            shares[r] = whole(one->c, shares[r], grain);
        many.shares = (ranks + i) % 3 ? shares : NULL;
        many.way = one->tile ? one->way : ways[i];
        room(&many);
        const int err = rondo_launch(ranks, NULL, body, &many);
        if (!ok(!err && same(one, &many), "... %d ranks, %s: the same bits", ranks, rondo_delta_way_name(many.way)))
            diag("code %d: %s", err, rondo_error_text());
        job_free(&many);
    }
}

static void rounds(void)
{
    static const int32_t chunks[] = { 16, 32, 64 };
    for (int round = 0; round < 18; round++) {
        struct delta_case c;
        struct job one, walk;
        draw_case(&c, &one, round);
        c.chunk = chunks[round % 3 ? 0 : draw(3)];   /* mostly several of them */
        int64_t kept = 0;
        for (int64_t i = 0; i < one.point_count; i++) {   /* checkpoints between chunks */
            const int64_t most = one.packed ? c.rows : c.cu[1], at = one.points[i] >= most ? most : whole(&c, one.points[i], c.chunk);
            if (!kept || at > one.points[kept - 1])
                one.points[kept++] = at;
        }
        one.point_count = kept;
        delta_oracle(&c);
        room(&one);
        if (!ok(!rondo_launch(1, NULL, body, &one), "round %d: %d sequences of %d tokens in chunks of %d, %d checkpoints", round, (int)c.sequences,
                (int)c.rows, (int)c.chunk, (int)kept))
            diag("%s", rondo_error_text());
        const double out = delta_error(c.out, one.out, RONDO_F32, c.rows * c.heads * c.value_dim);
        const double to = delta_error(c.to, one.to, RONDO_F32, c.sequences * c.heads * c.key_dim * c.value_dim);
        if (!ok(out < 2e-6 && to < 2e-6, "... is right"))
            diag("out %g, states %g", out, to);
        ok(points_right(&one), "... its checkpoints are the final states of fewer tokens");
        walk = one;
        struct delta_case plain = c;
        plain.chunk = 0;
        walk.c = &plain;
        room(&walk);
        ok(!rondo_launch(1, NULL, body, &walk) && (c.rows < 40 || c.key_dim == 1 || !same(&one, &walk)), "... a token at a time has other bits");
        job_free(&walk);
        for (int ranks = 2; ranks <= RANKS; ranks++)
            run_many(&one, c.chunk, ranks);
        struct job tiles = one;
        tiles.way = RONDO_DELTA_AFFINE;
        tiles.tile = c.chunk;
        room(&tiles);
        ok(!rondo_launch(1, NULL, body, &tiles) && delta_error(c.out, tiles.out, RONDO_F32, c.rows * c.heads * c.value_dim) < 5e-6,
           "... in tiles of a chunk it is right");
        for (int ranks = 2; ranks <= RANKS; ranks += 2)
            run_many(&tiles, c.chunk, ranks);
        job_free(&tiles);
        job_free(&one);
        delta_free(&c);
    }
}

static void refused(rondo_context *ctx, const rondo_delta_desc *d, int code, const char *word, const char *what)
{
    rondo_delta *plan;
    const int got = rondo_delta_create(&plan, ctx, d);
    if (!ok(got == code && !plan && strstr(rondo_error_text(), word), "refused: %s", what))
        diag("code %d: %s", got, rondo_error_text());
    rondo_delta_destroy(plan);
}

static void refusals(void)
{
    static const int64_t inside[] = { 8 }, ends[] = { 0, 16, 40 }, cu[] = { 0, 20, 40 }, packed[] = { 20, 36, 40 }, across[] = { 32 };
    rondo_context *ctx = NULL;
    rondo_delta *plan;
    rondo_delta_desc d = RONDO_DELTA_DESC_INIT;
    ok(!rondo_context_create(&ctx, NULL), "a context");
    d.heads = 1;
    d.key_dim = 4;
    d.tokens = 40;
    d.chunk = 24;
    refused(ctx, &d, RONDO_EINVAL, "16, 32 and 64", "a chunk of 24 tokens");
    d.chunk = 16;
    d.checkpoint_count = 1;
    d.checkpoints = inside;
    refused(ctx, &d, RONDO_EINVAL, "inside a chunk", "a checkpoint inside a chunk");
    d.checkpoint_count = 3;
    d.checkpoints = ends;
    ok(!rondo_delta_create(&plan, ctx, &d), "checkpoints before, between and behind chunks");
    rondo_delta_destroy(plan);
    d.tokens = 0;
    d.sequences = 2;
    d.cu_seqlens = cu;
    d.checkpoints = packed;
    ok(!rondo_delta_create(&plan, ctx, &d), "... in packed rows they are counted from their sequence's first token");
    rondo_delta_destroy(plan);
    d.checkpoint_count = 1;
    d.checkpoints = across;
    refused(ctx, &d, RONDO_EINVAL, "inside a chunk", "... where row 32 is inside of one");
    d.checkpoint_count = 0;
    d.gradients = 1;
    refused(ctx, &d, RONDO_ENOTSUP, "no gradients", "gradients in chunks");
    d.gradients = 0;
    d.way = RONDO_DELTA_AFFINE;
    d.tile = 24;
    refused(ctx, &d, RONDO_EINVAL, "whole chunks", "tiles of a chunk and a half");
    d.way = RONDO_DELTA_AUTO;
    d.tile = 0;
    d.reserved = 1;
    refused(ctx, &d, RONDO_EINVAL, "reserved is 1", "what has no meaning yet");
    rondo_context_destroy(ctx);
}

/* Shares that cut a chunk. */
static int cut(rondo_context *ctx, void *arg)
{
    static const int64_t shares[] = { 0, 24, 64 };
    rondo_delta *plan;
    rondo_delta_desc d = RONDO_DELTA_DESC_INIT;
    d.heads = 1;
    d.key_dim = 4;
    d.tokens = 64;
    d.chunk = 16;
    d.shares = shares;
    const int code = rondo_delta_create(&plan, ctx, &d);
    ((int *)arg)[rondo_context_rank(ctx)] = code == RONDO_EINVAL && strstr(rondo_error_text(), "inside a chunk") != NULL;
    return 0;
}

/* Sequences of one token, as decoding has them: plain steps change states where they lie, chunks need room for them. */
static void steps(void)
{
    struct delta_case c = { .heads = 9, .key_heads = 3, .key_dim = 64, .value_dim = 48, .gate_dim = 64, .rows = 2, .sequences = 2, .cu = { 0, 1, 2 },
                            .gate = RONDO_GATE_LOG, .norm = 1, .type = RONDO_F32, .chunk = 32, .scale = 0.5 };
    delta_draw(&c, -1.0, 0.0, true);
    delta_oracle(&c);
    struct job one = { .c = &c, .packed = true, .way = RONDO_DELTA_SERIAL };
    room(&one);
    const int err = rondo_launch(1, NULL, body, &one);
    if (!ok(!err && delta_error(c.out, one.out, RONDO_F32, c.rows * c.heads * c.value_dim) < 2e-6 &&
            delta_error(c.to, one.to, RONDO_F32, c.sequences * c.heads * c.key_dim * c.value_dim) < 2e-6, "two sequences of one token in chunks"))
        diag("code %d: %s", err, rondo_error_text());
    run_many(&one, c.chunk, 2);
    run_many(&one, c.chunk, 3);
    job_free(&one);
    delta_free(&c);
}

int main(void)
{
    int right[2] = { 0 };
    rounds();
    steps();
    refusals();
    ok(!rondo_launch(2, NULL, cut, right) && right[0] && right[1], "refused: a share that ends inside a chunk");
    return done();
}
