/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Gradients of tables on the CPU device, as lib/ asks for them: the sum over the tokens that name a row is that of rule 12 of rondo-numerics(7) over
 * these tokens and no others, written down here once more from the top of its trees, for every instruction set and thread count, for sequences
 * of any length with gaps; against double precision with a derived bound; rows that nobody names, and pieces of a table.
 */
#include "layers.h"
#include "tensor/tokens.h"

#include <stdlib.h>

enum { SEQUENCES = 5, WIDTH = 37, TABLE = 19, MOST = 1400 };

/* A made-up batch: spans of positions with gaps, rows in another order; the id of each row. */
struct batch {
    int64_t rows, sequence[MOST], position[MOST];
    int32_t ids[MOST];
    rondo_tokens *tokens;
};

static void make_batch(struct batch *b, int kind)
{
    static rondo_span spans[64];
    int64_t counts[SEQUENCES] = { 0 };
    rondo_tokens_desc d = RONDO_TOKENS_DESC_INIT;
    int n = 0;
    *b = (struct batch){ .rows = 0 };
    for (int q = 0; q < SEQUENCES; q++)
        for (int64_t at = kind * 50 + q; at < (q == 3 ? 0 : 150 * (q + 1)); at += 40 + (int64_t)(random_32(7, (uint64_t)(n + kind)) % 200)) {
            const int64_t count = 1 + random_32(8, (uint64_t)n) % 35;
            spans[n++] = (rondo_span){ at, count, 1, b->rows };
            counts[q]++;
            for (int64_t i = 0; i < count; i++, b->rows++) {
                b->sequence[b->rows] = q;
                b->position[b->rows] = at + i;
            }
        }
    for (int64_t r = 0; r < b->rows; r++)   /* a few rows have most, one is named once, some never */
        b->ids[r] = r == 3 ? 11 : (int32_t)(random_32(9, (uint64_t)r) % (r % 4 ? 3 : 9));
    d.sequences = SEQUENCES;
    d.spans = spans;
    d.span_counts = counts;
    if (n > 64 || b->rows > MOST || rondo_tokens_create(&b->tokens, &d))
        exit(99);
}

/* ---- the rule ---- */

/* Node (h, i) of a sequence's tree, of the tokens that name a row; 0: it is empty. */
static int node(const struct batch *b, int32_t id, int64_t sequence, int64_t h, int64_t i, const float *x, float *sum)
{
    float left, right;
    int any = 0;
    if (h) {
        const int one = node(b, id, sequence, h - 1, 2 * i, x, &left), two = node(b, id, sequence, h - 1, 2 * i + 1, x, &right);
        *sum = one && two ? left + right : one ? left : right;
        return one || two;
    }
    *sum = 0.0f;
    for (int64_t p = i * 128; p < (i + 1) * 128; p++)
        for (int64_t r = 0; r < b->rows; r++)
            if (b->sequence[r] == sequence && b->position[r] == (p ^ 1) && b->ids[r] == id) {
                *sum = x[r * WIDTH] + *sum;
                any = 1;
            }
    return any;
}

static float sum_of(const struct batch *b, int32_t id, int64_t h, int64_t i, const float *x, int *any)
{
    float left = 0.0f, right = 0.0f;
    int one = 0, two = 0;
    if (!h) {
        one = i < SEQUENCES && node(b, id, i, 4, 0, x, &left);
    } else {
        left = sum_of(b, id, h - 1, 2 * i, x, &one);
        right = sum_of(b, id, h - 1, 2 * i + 1, x, &two);
    }
    *any = one || two;
    return one && two ? left + right : two ? right : one ? left : 0.0f;
}

/* ---- as lib/ asks for it ---- */

static int run(int device, const struct batch *b, int32_t first, int32_t count, const float *dy, float *dw, int64_t stride, int add)
{
    struct rondo__table_sum sum;
    struct rondo__named *named = rondo__alloc_zero((size_t)b->rows, sizeof *named);
    int64_t n = 0;
    for (int64_t g = 0; g < b->tokens->leaf_count; g++)
        for (int64_t i = b->tokens->leaves[g].first; i < b->tokens->leaves[g + 1].first; i++) {
            const int64_t row = b->tokens->order[i];
            if (b->ids[row] >= first && b->ids[row] < first + count)
                named[n++] = (struct rondo__named){ b->ids[row] - first, i, row, g };
        }
    int err = rondo__table_sum_make(&sum, b->tokens, named, n, count, !add);
    struct rondo_token_run r = rondo__table_sum_run(&sum);
    r.tokens = b->rows;
    r.rows = count;
    r.columns = WIDTH;
    r.b = dy;
    r.b_stride = WIDTH;
    r.y = dw;
    r.y_stride = stride;
    r.add = add;
    if (!err && sum.segment_count)
        err = rondo__cpu_token_sum(devices[device], NULL, &r, NULL);
    rondo__table_sum_free(&sum);
    rondo__free(named);
    return err;
}

static void rule(void)
{
    for (int kind = 0; kind < 3; kind++) {
        struct batch b;
        make_batch(&b, kind);
        float *dy = floats(b.rows * WIDTH, kind == 1 ? WIDE : CANCEL, 3), *want = floats(TABLE * WIDTH, PLAIN, 4), *before = floats(TABLE * WIDTH, PLAIN, 5);
        int words = 1, pieces = 1, stays = 1, err = 0;
        double worst = 0;
        for (int32_t id = 0; id < TABLE; id++)
            for (int64_t c = 0; c < WIDTH; c++) {
                int any;
                double exact = 0, size = 0, terms = 0;
                want[id * WIDTH + c] = sum_of(&b, id, 3, 0, dy + c, &any);
                for (int64_t r = 0; r < b.rows; r++)
                    if (b.ids[r] == id) {
                        const double x = (double)dy[r * WIDTH + c];
                        exact += x;
                        size += x < 0 ? -x : x;
                        terms++;
                    }
                const double off = (double)want[id * WIDTH + c] - exact;   /* a leaf's chain, then the tree's levels */
                worst = worse(worst, (off < 0 ? -off : off) / (((terms < 128 ? terms : 128) + 8) * 0x1p-24 * 1.01 * size + 0x1p-149));
            }
        for (int d = 0; d < device_count; d++) {
            float *dw = floats(TABLE * WIDTH, PLAIN, 6), *more = floats(TABLE * WIDTH, PLAIN, 5);
            err |= run(d, &b, 0, TABLE, dy, dw, WIDTH, 0);
            words = words && differ(dw, want, TABLE * WIDTH, sizeof *dw) < 0;
            err |= run(d, &b, 0, TABLE, dy, more, WIDTH, 1);
            for (int32_t i = 0; i < TABLE * WIDTH; i++) {
                int named = 0;
                for (int64_t r = 0; r < b.rows; r++)
                    named |= b.ids[r] == i / WIDTH;
                stays = stays && rondo__bits(more[i]) == rondo__bits(named ? before[i] + want[i] : before[i]);
            }
            for (int32_t first = 0; first < TABLE; first += 7) {
                const int32_t count = TABLE - first < 7 ? TABLE - first : 7;
                err |= run(d, &b, first, count, dy, dw + first * WIDTH, WIDTH, 0);
            }
            pieces = pieces && differ(dw, want, TABLE * WIDTH, sizeof *dw) < 0;
            rondo__free(dw);
            rondo__free(more);
        }
        ok(!err && words, "batch %d: leaves, tree and order of the contract, of the tokens that name a row", kind);
        ok(!err && stays, "batch %d: added to what is there; a row that nobody names stays", kind);
        ok(!err && pieces, "batch %d: pieces of the table are the whole", kind);
        ok(worst <= 1.0, "batch %d: within the bound of the sum in double (worst %.2f of it)", kind, worst);
        rondo__free(dy);
        rondo__free(want);
        rondo__free(before);
        rondo_tokens_destroy(b.tokens);
    }
}

/* A NaN, an infinity or anything else in the row of a token is in the sum of the row that it names, and in no other. */
static void alone(void)
{
    struct batch b;
    make_batch(&b, 0);
    float *dy = floats(b.rows * WIDTH, PLAIN, 1), *clean = floats(TABLE * WIDTH, PLAIN, 2), *dirty = floats(TABLE * WIDTH, PLAIN, 2);
    int good = 1;
    for (int d = 0; d < device_count; d++) {
        dy[3 * WIDTH + 5] = 1.0f;
        run(d, &b, 0, TABLE, dy, clean, WIDTH, 0);
        dy[3 * WIDTH + 5] = __builtin_nanf("");
        run(d, &b, 0, TABLE, dy, dirty, WIDTH, 0);
        for (int i = 0; i < TABLE * WIDTH; i++)
            good = good && rondo__bits(dirty[i]) == (i == 11 * WIDTH + 5 ? RONDO_NAN_BITS : rondo__bits(clean[i]));
    }
    ok(good, "a NaN reaches the row that its token names, and no other");
    rondo__free(dy);
    rondo__free(clean);
    rondo__free(dirty);
    rondo_tokens_destroy(b.tokens);
}

/* ---- for users: what is refused ---- */

static void refused(void)
{
    rondo_context_desc cd = RONDO_CONTEXT_DESC_INIT;
    rondo_tokens_desc td = RONDO_TOKENS_DESC_INIT;
    const int64_t length = 3;
    rondo_context *ctx = NULL;
    rondo_tokens *t = NULL;
    int32_t ids[3] = { 0, 4, 2 };
    float dy[3 * 2] = { 0 }, dw[5 * 2];
    td.lengths = &length;
    if (rondo_context_create(&ctx, &cd) || rondo_tokens_create(&t, &td))
        exit(99);
    is_int(rondo_lookup_dw(ctx, t, ids, 5, 0, 5, 2, dy, 2, dw, 2, 0), 0, "three tokens, five rows");
    is_int(rondo_lookup_dw(ctx, t, ids, 4, 0, 4, 2, dy, 2, dw, 2, 0), RONDO_EINVAL, "an id beyond the table: %s", rondo_error_text());
    ids[1] = -1;
    is_int(rondo_lookup_dw(ctx, t, ids, 5, 0, 5, 2, dy, 2, dw, 2, 0), RONDO_EINVAL, "a negative id: %s", rondo_error_text());
    ids[1] = 1;
    is_int(rondo_lookup_dw(ctx, t, ids, 5, 3, 3, 2, dy, 2, dw, 2, 0), RONDO_EINVAL, "rows beyond the table: %s", rondo_error_text());
    is_int(rondo_lookup_dw(ctx, t, NULL, 5, 0, 5, 2, dy, 2, dw, 2, 0), RONDO_EINVAL, "no ids: %s", rondo_error_text());
    is_int(rondo_lookup_dw(ctx, t, ids, 5, 0, 5, 2, dy, 1, dw, 2, 0), RONDO_EINVAL, "a stride that is too short: %s", rondo_error_text());
    is_int(rondo_lookup_dw(ctx, t, ids, 5, 0, 3, 2, dy, 2, dy, 2, 0), RONDO_EINVAL, "a result upon its operand: %s", rondo_error_text());
    rondo_tokens_destroy(t);
    rondo_context_destroy(ctx);
}

int main(void)
{
    find_devices();
    rule();
    alone();
    refused();
    drop_devices();
    return done();
}
