/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Every instruction set and thread count gives the bits of the definition, for random tasks: shapes, strides,
 * types, masks, leaves and tree programs, terms of scores, dropout, probabilities.
 */
#include "attention_case.h"

static int type(void) { return 1 + (int)below(3); }

static struct shape random_shape(int64_t most)
{
    static const int groups[] = { 1, 3, 4, 8 }, leaves[] = { 8, 16, 32, 64, 128, 256 },
                     dims[] = { 64, 80, 128, 192, 256 };
    const int group = groups[below(4)], kv = 1 + (int)below(3);
    struct shape s = {
        .heads = group * kv, .kv_heads = kv, .leaf = leaves[below(6)], .step = 1, .left = -1, .right = -1
    };
    s.head_dim = below(4) ? 1 + (int)below(20) : dims[below(5)];
    s.value_dim = below(2) ? s.head_dim : below(4) ? 1 + (int)below(40) : dims[below(5)];
    s.keys = below(most) + 1;
    s.queries = below(3) ? 1 + below(most) : 1 + below(4);
    s.first = below(3) ? s.keys - s.queries : below(3) ? 0 : below(2 * most) - most;
    s.causal = (int)below(2);
    if (below(3) == 0)
        s.left = below(2) ? below(20) : below(most);
    if (below(3) == 0)
        s.right = below(2) ? below(20) : below(most);
    s.q_type = type();
    s.kv_type = type();
    s.out_type = type();
    s.step = below(4) ? 1 : 2 + (int)below(3);
    s.zigzag = (int)below(2);
    s.tree = (int)below(3);
    s.pad = below(2) ? 0 : (int)below(5);
    return s;
}

/* Moves about half of the leaves into dense parts, as if they came from other ranks, and spoils what lies at
 * their old place: every build must follow struct rondo_leaf's `source`. */
static int scattered(struct test_case *c, struct device_under_test *d, int n)
{
    struct rondo_attention_task *t = &c->task;
    int64_t used[2] = { 0, 0 };
    const size_t dims[2] = { (size_t)t->head_dim, (size_t)t->value_dim },
                 element = rondo_type_size(t->kv_type);
    char *memory[4];
    if (case_run(c, d[0].dev))
        return 0;
    char *want = case_result(c);
    for (int i = 0; i < 4; i++) {
        memory[i] = xalloc((size_t)(c->k_rows * t->kv_heads) * dims[i % 2] * element);
        const struct rondo_rows dense = { memory[i], t->kv_heads * (int64_t)dims[i % 2], (int64_t)dims[i % 2] };
        *(i % 2 ? &c->kv[1 + i / 2].v : &c->kv[1 + i / 2].k) = dense;
    }
    for (int32_t f = 0; f < t->leaf_count; f++) {
        const int b = (int)below(4);
        for (int64_t row = c->leaves[f].row; b < 2 && row < c->leaves[f].row + c->leaves[f].count; row++)
            for (int32_t h = 0; h < t->kv_heads; h++)
                for (int part = 0; part < 2; part++) {
                    char *from = part ? c->v : c->k;
                    from += (size_t)(part ? row * t->kv[0].v.row_stride + h * t->kv[0].v.head_stride
                                          : row * t->kv[0].k.row_stride + h * t->kv[0].k.head_stride) * element;
                    const int64_t to = (used[b] + row - c->leaves[f].row) * t->kv_heads + h;
                    memcpy(memory[2 * b + part] + (size_t)to * dims[part] * element, from, dims[part] * element);
                    memset(from, 0xff, dims[part] * element);
                }
        if (b < 2) {
            c->leaves[f].row = used[b];
            c->leaves[f].source = b + 1;
            used[b] += c->leaves[f].count;
        }
    }
    t->kv_count = 3;
    int same = case_same(c, d, n);
    case_run(c, d[n - 1].dev);
    char *got = case_result(c);
    if (memcmp(want, got, case_result_bytes(c))) {
        diag("other bits where leaves lie in several parts");
        case_print(c);
        same = 0;
    }
    for (int i = 0; i < 4; i++)
        free(memory[i]);
    free(want);
    free(got);
    return same;
}

int main(void)
{
    struct device_under_test d[8];
    const int n = devices_open(d, 8), rounds = rounds_of(150, 3000);
    struct test_case c;

    ok(n >= 2, "%d builds and thread counts to compare", n);
    for (int dim = 1; dim <= 20; dim++) {
        int same = 1;
        for (int value = 1; value <= 20; value += 1 + dim % 3) {
            struct shape s = { .heads = 2,
                               .kv_heads = 1,
                               .head_dim = dim,
                               .value_dim = value,
                               .queries = 27,
                               .keys = 40,
                               .first = 13,
                               .causal = 1,
                               .left = -1,
                               .right = -1,
                               .q_type = 1,
                               .kv_type = 1,
                               .out_type = 1,
                               .leaf = 16,
                               .step = 1 };
            case_make(&c, &s);
            same &= case_same(&c, d, n);
            case_free(&c);
        }
        ok(same, "head_dim %d", dim);
    }
    static const int big[] = { 64, 80, 96, 128, 192, 256 };
    for (int i = 0; i < 6; i++)
        for (int kv_type = 1; kv_type <= 3; kv_type++) {
            struct shape s = { .heads = 4,
                               .kv_heads = 1,
                               .head_dim = big[i],
                               .value_dim = big[i],
                               .queries = 70,
                               .keys = 300,
                               .first = 230,
                               .causal = 1,
                               .left = -1,
                               .right = -1,
                               .q_type = 1,
                               .kv_type = kv_type,
                               .out_type = 1,
                               .leaf = 128,
                               .step = 1 };
            case_make(&c, &s);
            ok(case_same(&c, d, n), "head_dim %d, K and V %s", big[i], rondo_type_name(kv_type));
            case_free(&c);
        }
    struct shape many = { .heads = 400,
                          .kv_heads = 1,
                          .head_dim = 8,
                          .value_dim = 8,
                          .queries = 3,
                          .keys = 20,
                          .first = 17,
                          .causal = 1,
                          .left = -1,
                          .right = -1,
                          .q_type = 1,
                          .kv_type = 1,
                          .out_type = 1,
                          .leaf = 8,
                          .step = 1 };
    case_make(&c, &many);
    ok(case_same(&c, d, n), "400 query heads on one KV head");
    case_free(&c);
    struct shape none = many;
    none.heads = 2;
    none.keys = 0;
    case_make(&c, &none);
    ok(case_same(&c, d, n), "no keys");
    int zero = 1;
    for (int64_t i = 0; i < 3 * 2; i++)
        zero &= c.lse[i] == -INFINITY;
    ok(zero, "a row without keys has lse -inf");
    case_free(&c);
    for (int i = 0; i < rounds; i++) {
        struct shape s = random_shape(i % 5 ? 60 : 400);
        case_make(&c, &s);
        ok(case_same(&c, d, n), "random task %d", i);
        if (i % 3 == 0)
            ok(scattered(&c, d, n), "  its leaves in several places");
        case_free(&c);
    }
    /* slopes so steep that the first sums of a leaf are subnormal, and values of many sizes */
    for (int i = 0; i < 24; i++) {
        struct shape s = { .heads = 4, .kv_heads = 2, .head_dim = 8, .value_dim = i % 3 ? 64 + i : 1 + i, .queries = 60, .keys = 300,
                           .first = i % 4 ? 240 : 100, .causal = i % 4 != 0, .left = i % 5 ? -1 : 200, .right = -1, .q_type = 1, .kv_type = 1,
                           .out_type = 1, .leaf = i % 2 ? 128 : 256, .step = 1, .alibi = 1, .tree = i % 3 };
        s.bits = i % 6 == 5 ? 8 : 0;
        s.drop = i % 7 == 6 ? 0.2 : 0;
        case_make(&c, &s);
        for (int64_t h = 0; h < s.heads; h++)
            c.alibi[h] = (float)(0.3 + 3 * uniform());
        for (int64_t j = 0; j < c.v_elements; j++)
            ((float *)c.v)[j] = ldexpf(((float *)c.v)[j], i % 2 ? -(int)below(3) : -(int)below(40));
        for (int32_t f = 0; f < c.task.leaf_count; f++) /* in odd columns nothing larger follows, so that they come out */
            for (int64_t j = s.leaf / 2; j < c.leaves[f].count; j++)
                for (int64_t x = 1; x < c.task.kv[0].v.row_stride; x += 2)
                    ((float *)c.v)[(c.leaves[f].row + j) * c.task.kv[0].v.row_stride + x] = 0.0f;
        ok(case_same(&c, d, n), "tiny weights first, %d", i);
        case_free(&c);
    }
    for (int i = 0; i < 2 * rounds; i++) {
        struct shape s = random_shape(i % 5 ? 60 : 400);
        case_terms(&s, 1 + i % 4);
        case_make(&c, &s);
        ok(case_same(&c, d, n), "random task with terms %d", i);
        case_free(&c);
    }
    devices_close(d, n);
    return done();
}
