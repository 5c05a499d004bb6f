/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Which part of a model a rank has: over all ranks every query head, every leaf, every column of a column-parallel layer and every id is
 * somebody's, and nobody else's; KV heads are where their query heads are; all ranks see the same division.
 */
#include <stdlib.h>
#include <string.h>

#include "lm/model/model.h"
#include "tap.h"

#define MOST 128
static struct rondo_split parts[MOST];
static int wrong;

static void check(bool good, const char *what, const struct rondo_config *c, int tp, int cp, int w)
{
    if (!good && wrong++ < 10)
        diag("%s: heads %d/%d of %d, intermediate %d, vocabulary %d, tp %d, cp %d, rank %d", what, (int)c->heads, (int)c->kv_heads, (int)c->head_dim,
             (int)c->intermediate, (int)c->vocabulary, tp, cp, w);
}

/* Ranges of all ranks, in the order of w, lie side by side from 0 to total. */
#define SIDE_BY_SIDE(first, count, total) \
    do { \
        int64_t at_ = 0; \
        for (int w = 0; w < ranks; w++) { \
            check(parts[w].first == at_ && parts[w].count >= 0, #first, c, tp, cp, w); \
            at_ += parts[w].count; \
        } \
        check(at_ == (total), #count, c, tp, cp, ranks); \
    } while (0)

static void one(const struct rondo_config *c, int tp, int cp, const double *shares)
{
    const int ranks = tp * cp;
    const int64_t group = c->heads / c->kv_heads, dim = c->head_dim, leaves = c->intermediate < 16 ? c->intermediate : 16;
    for (int w = 0; w < ranks; w++)
        if (rondo__split_make(&parts[w], c, tp, w / cp, cp, w % cp, shares)) {
            check(false, rondo_error_text(), c, tp, cp, w);
            memset(&parts[w], 0, sizeof parts[w]);
            return;
        }
    SIDE_BY_SIDE(q_first, q_columns, c->heads * dim);
    SIDE_BY_SIDE(mlp_first, mlp_columns, c->intermediate);
    SIDE_BY_SIDE(vocab_first, vocab, c->vocabulary);
    int64_t head = 0;
    for (int t = 0; t < tp; t++) {
        const struct rondo_split *s = &parts[t * cp];
        check(s->head == head, "heads side by side", c, tp, cp, t * cp);
        head += s->heads;
        if (s->heads)
            check(s->kv_head == s->head / group && s->kv_head + s->kv_heads == (s->head + s->heads - 1) / group + 1, "KV heads", c, tp, cp, t * cp);
        else
            check(s->kv_heads == 0, "no KV heads without query heads", c, tp, cp, t * cp);
        if (tp <= c->kv_heads)
            check(s->heads == s->kv_heads * group, "whole groups", c, tp, cp, t * cp);
        if (!shares)
            check(s->heads <= (tp <= c->kv_heads ? ((c->kv_heads + tp - 1) / tp) * group : (c->heads + tp - 1) / tp), "evenly", c, tp, cp, t * cp);
        else if (shares[t] == 0.0)
            check(!s->heads && !s->vocab && !s->mlp_columns, "a share of none", c, tp, cp, t * cp);
        int64_t q = s->head * dim, kv = s->kv_head * dim, out = 0;
        for (int i = 0; i < cp; i++) {
            const struct rondo_split *p = &parts[t * cp + i];
            check(p->t == t && p->c == i && p->tp == tp && p->cp == cp, "who it is", c, tp, cp, t * cp + i);
            check(p->head == s->head && p->heads == s->heads && p->kv_head == s->kv_head && p->kv_heads == s->kv_heads, "heads of a column", c, tp, cp,
                  t * cp + i);
            check(p->q_first == q && p->kv_first == kv, "columns of q and k", c, tp, cp, t * cp + i);
            check(p->q_begin[i] == q - s->head * dim && p->kv_begin[i] == kv - s->kv_head * dim && p->out_begin[i] == out, "where columns begin", c, tp,
                  cp, t * cp + i);
            q += p->q_columns;
            kv += p->kv_columns;
            const int64_t first = p->o_begin[t * cp + i], end = p->o_begin[t * cp + i + 1];
            check(first == s->head + out / dim && end >= first && end <= s->head + s->heads, "its leaves of o are heads of its own", c, tp, cp, t * cp + i);
            check(end - first <= (s->heads + cp - 1) / cp, "leaves of o evenly", c, tp, cp, t * cp + i);
            out += (end - first) * dim;
            const int64_t down = p->down_begin[t * cp + i], down_end = p->down_begin[t * cp + i + 1];
            check(p->mlp_first == down * c->intermediate / leaves && p->mlp_first + p->mlp_columns == down_end * c->intermediate / leaves,
                  "gate and up make the inputs of its leaves of down", c, tp, cp, t * cp + i);
            if (!shares)
                check(down_end - down <= (leaves + ranks - 1) / ranks, "leaves evenly", c, tp, cp, t * cp + i);
            check(p->q_begin[cp] == s->heads * dim && p->kv_begin[cp] == s->kv_heads * dim && p->out_begin[cp] == s->heads * dim, "where columns end", c,
                  tp, cp, t * cp + i);
        }
        check(q == (s->head + s->heads) * dim && kv == (s->kv_head + s->kv_heads) * dim && out == s->heads * dim, "all columns of its heads", c, tp, cp,
              t * cp);
    }
    check(head == c->heads, "all heads", c, tp, cp, ranks);
    for (int w = 0; w < ranks; w++) {
        check(!memcmp(parts[w].o_begin, parts[0].o_begin, ((size_t)ranks + 1) * sizeof(int32_t)) &&
              !memcmp(parts[w].down_begin, parts[0].down_begin, ((size_t)ranks + 1) * sizeof(int32_t)), "one division", c, tp, cp, w);
        check(parts[w].o_begin[0] == 0 && parts[w].o_begin[ranks] == c->heads && parts[w].down_begin[0] == 0 && parts[w].down_begin[ranks] == leaves,
              "of all leaves", c, tp, cp, w);
        check(!shares == !parts[w].weights, "weights where there are shares", c, tp, cp, w);
    }
    for (int w = 0; w < ranks; w++)
        rondo__split_free(&parts[w]);
}

int main(void)
{
    static const double some[17] = { 3, 1, 0, 2.5, 1, 1, 0.1, 7, 1, 1, 0, 2, 1, 1e-3, 1, 4, 1 };
    const int step = long_tests() ? 1 : 2;
    long geometries = 0;
    for (int heads = 1; heads <= 33; heads++)
        for (int kv = 1; kv <= heads; kv++) {
            if (heads % kv)
                continue;
            struct rondo_config c = { .heads = heads, .kv_heads = kv, .head_dim = 2 + 2 * (heads % 3), .intermediate = 5 * heads - 4,
                                      .vocabulary = 7 * heads - 6 };
            for (int tp = 1; tp <= 17; tp += tp == 1 ? 1 : step)
                for (int cp = 1; cp <= 5; cp++, geometries++) {
                    one(&c, tp, cp, NULL);
                    if ((heads + tp + cp) % 3 == 0 || long_tests())
                        one(&c, tp, cp, some);
                }
        }
    is_int(wrong, 0, "everything is somebody's, and once (%ld geometries)", geometries);
    struct rondo_config seven = { .heads = 32, .kv_heads = 8, .head_dim = 128, .intermediate = 14336, .vocabulary = 32000 };
    one(&seven, 3, 1, NULL);
    is_int(wrong, 0, "7B's shape on 3 ranks");
    struct rondo_split s;
    is_int(rondo__split_make(&s, &seven, 3, 1, 1, 0, NULL), 0, "its second one");
    ok(s.kv_head == 2 && s.kv_heads == 3 && s.head == 8 && s.heads == 12 && s.mlp_first == 14336 / 16 * 5 && s.mlp_columns == 14336 / 16 * 5 &&
       s.vocab_first == 10666 && s.vocab == 10667, "has 3 KV heads, 5 leaves and 10667 ids");
    rondo__split_free(&s);
    const double none[3] = { 0, 0, 0 }, odd[3] = { 1, -1, 1 };
    is_int(rondo__split_make(&s, &seven, 3, 1, 1, 0, none), RONDO_EINVAL, "shares of nothing");
    is_int(rondo__split_make(&s, &seven, 3, 1, 1, 0, odd), RONDO_EINVAL, "a share below 0");
    return done();
}
