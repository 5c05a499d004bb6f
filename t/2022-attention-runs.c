/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Runs of leaves (core/device.h): one LEAF step over many leaves gives the bits of as many steps, wherever a run is cut, whatever of it
 * is hidden, on every instruction set, and wherever its rows lie: in several parts, from a row of a sequence on, in pages. In all arithmetics on
 * the CPU, where threads share the leaves of few rows; on the fake card those of matrix units would take a minute.
 */
#include "attention_case.h"

#ifdef CASE_CARD
enum { ON_CARD = 1 };
#else
enum { ON_CARD = 0 };
#endif

struct runs {
    struct test_case *c;
    struct rondo_leaf list[CASE_LEAVES];
    int32_t count, height, parts;
    bool whole;   /* one run as high as can be */
};

/* The subtree over leaf indices [base, base + size): leaves [a, b) of the case lie under it. Any node may be one run. */
static void build(struct runs *r, int64_t base, int64_t size, int32_t a, int32_t b)
{
    struct test_case *c = r->c;
    const int64_t leaf = c->shape.leaf;
    int32_t middle = a;
    /* a run begins where its node does */
    if (size == 1 || ((r->whole || below(3) == 0) && c->leaves[a].first / leaf == base)) {
        struct rondo_leaf run = c->leaves[a];
        run.count = c->leaves[b - 1].first + c->leaves[b - 1].count - run.first;
        run.source = (int32_t)below(r->parts);
        const int32_t depth = r->height + rondo__run_depth(rondo__run_leaves(&run, (int32_t)leaf));
        c->task.depth = depth > c->task.depth ? depth : c->task.depth;
        r->list[r->count] = run;
        emit(c, RONDO_TREE_LEAF, r->count++);
        r->height++;
        return;
    }
    while (middle < b && c->leaves[middle].first / leaf < base + size / 2)
        middle++;
    if (middle > a)
        build(r, base, size / 2, a, middle);
    if (middle < b)
        build(r, base + size / 2, size / 2, middle, b);
    if (middle > a && middle < b) {
        emit(c, RONDO_TREE_MERGE, 0);
        r->height--;
    }
    if (below(5) == 0 && c->slots_used < CASE_SLOTS) { /* by way of a place: the node waits there, not on the stack */
        emit(c, RONDO_TREE_STORE, c->slots_used);
        emit(c, RONDO_TREE_LOAD, c->slots_used++);
    }
}

/* Rows of k and v, moved to where part `from` has them: behind so many other rows of a sequence, in pages of so many rows or not. */
static struct rondo_kv_part moved(struct test_case *c, int64_t before, int64_t page, int64_t *kv_row, int64_t *pages)
{
    struct rondo_kv_part part = c->kv[0];
    const int64_t rows = page ? (before + c->k_rows + page - 1) / page * page : before + c->k_rows, count = page ? rows / page : 0;
    const size_t element = rondo_type_size(c->shape.kv_type);
    const size_t bytes[2] = { (size_t)part.k.row_stride * element, (size_t)part.v.row_stride * element };
    char *k = xalloc((size_t)rows * bytes[0]), *v = xalloc((size_t)rows * bytes[1]);
    memset(k, 0xff, (size_t)rows * bytes[0]);   /* NaN */
    memset(v, 0xff, (size_t)rows * bytes[1]);
    for (int64_t i = 0; i < count; i++)
        pages[i] = i;
    for (int64_t i = count - 1; i > 0; i--) {
        const int64_t j = below(i + 1), t = pages[i];
        pages[i] = pages[j];
        pages[j] = t;
    }
    for (int64_t i = 0; i < c->k_rows; i++) {
        const int64_t row = before + i, to = page ? pages[row / page] * page + row % page : row;
        memcpy(k + (size_t)to * bytes[0], c->k + (size_t)i * bytes[0], bytes[0]);
        memcpy(v + (size_t)to * bytes[1], c->v + (size_t)i * bytes[1], bytes[1]);
    }
    kv_row[0] = before;
    part.k.data = k;
    part.v.data = v;
    part.kv_row = kv_row;
    part.pages = page ? pages : NULL;
    part.page_rows = page;
    return part;
}

/* 1 where all is as with single leaves in one part. */
static int same_as_leaves(struct shape s, int64_t skip, bool whole, struct device_under_test *d, int n)
{
    static struct test_case c;
    struct runs r = { .c = &c, .parts = 1 + (int32_t)below(3), .whole = whole };
    static int64_t pages[2][CASE_LEAVES + 64];
    int64_t kv_row[2], size = 1;
    case_make(&c, &s);
    /* rows as positions; the first leaves are not here */
    int32_t leaves = 0;
    for (int32_t i = (int32_t)skip; i < c.task.leaf_count; i++, leaves++) {
        c.leaves[leaves] = c.leaves[i];
        c.leaves[leaves].row = c.leaves[leaves].first - c.leaves[0].first;
    }
    c.task.leaf_count = leaves;
    free(c.program);
    for (int32_t i = 0; i < c.slots_used; i++) {
        free(c.slots[i]);
        c.slots[i] = NULL;
    }
    c.slots_used = 0;
    c.shape.tree = 0;
    make_program(&c);
    int right = case_run(&c, d[0].dev) == 0;
    char *want = xalloc(c.out_bytes + c.lse_floats * sizeof(float));
    memcpy(want, c.out, c.out_bytes);
    memcpy(want + c.out_bytes, c.lse, c.lse_floats * sizeof(float));

    for (int part = 1; part < r.parts; part++)
        c.kv[part] = moved(&c, below(3) * s.leaf, below(3) ? s.leaf << below(3) : 0, &kv_row[part - 1], pages[part - 1]);
    c.task.steps = c.task.depth = 0;
    while (size * s.leaf < s.keys)
        size *= 2;
    build(&r, 0, size, 0, leaves);
    emit(&c, RONDO_TREE_OUT, 0);
    c.task.leaves = r.list;
    c.task.leaf_count = r.count;
    c.task.kv_count = r.parts;
    for (int32_t i = 0; i < c.slots_used; i++)
        c.slots[i] = xalloc(c.slot_floats * sizeof(float));
    for (int i = 0; i < n && right; i++) {
        right = case_run(&c, d[i].dev) == 0 && !memcmp(want, c.out, c.out_bytes) &&
                !memcmp(want + c.out_bytes, c.lse, c.lse_floats * sizeof(float));
        if (!right)
            diag("%s with %d threads: other bits, of %d leaves in %d runs over %d parts", d[i].isa, d[i].threads, (int)leaves, (int)r.count,
                 (int)r.parts);
    }
    if (!right)
        case_print(&c);
    for (int part = 1; part < r.parts; part++) {
        free(c.kv[part].k.data);
        free(c.kv[part].v.data);
    }
    free(want);
    case_free(&c);
    return right;
}

static void test_random(struct device_under_test *d, int n)
{
    const int rounds = long_tests() ? 3000 : 250;
    for (int i = 0; i < rounds; i++) {
        struct shape s = { .heads = 2 + 2 * (int)below(2), .kv_heads = 2, .leaf = 8 << below(3), .step = 1, .left = -1, .right = -1 };
        s.head_dim = 1 + (int)below(20);
        s.value_dim = 1 + (int)below(40);
        s.keys = 1 + below((i % 5 ? 12 : 60) * s.leaf);
        s.queries = 1 + below(i % 3 ? 60 : 4);
        s.first = below(2) ? s.keys - s.queries : below(s.keys + 40) - 20;
        s.causal = (int)below(2);
        s.left = below(2) ? -1 : below(s.keys);
        s.right = below(2) ? -1 : below(s.keys);
        s.q_type = 1 + (int)below(3);
        s.kv_type = 1 + (int)below(3);
        s.out_type = 1 + (int)below(3);
        s.zigzag = (int)below(2);
        s.pad = (int)below(3);
        s.arithmetic = ON_CARD || i % 7 < 5 ? RONDO_ARITHMETIC_F32 : i % 7 == 5 ? RONDO_ARITHMETIC_F64 : RONDO_ARITHMETIC_BF16_HOPPER;
        ok(same_as_leaves(s, below(3) ? 0 : below((s.keys - 1) / s.leaf + 1), below(4) == 0, d, n), "random runs %d", i);
    }
}

/* More merges after one leaf than a tile's epilogue takes. */
static void test_long(struct device_under_test *d, int n)
{
    for (int i = 0; i < (ON_CARD ? 6 : 12); i++) {
        struct shape s = { .heads = 2 + i / 6 * 4, .kv_heads = 1 + i / 6 * 2, .head_dim = 3, .value_dim = 5, .queries = i % 2 == 0 ? 1 : i < 6 ? 60 : 2, .keys = 512 * 8 - i,
                           .first = 512 * 8 - 70, .causal = 1, .left = i % 3 ? -1 : 3000, .right = -1, .q_type = 1, .kv_type = 1,
                           .out_type = 1, .leaf = 8, .step = 1,
                           .arithmetic = i < 6 ? RONDO_ARITHMETIC_F32 : i % 4 < 2 ? RONDO_ARITHMETIC_F64 : RONDO_ARITHMETIC_BF16_HOPPER };
        ok(same_as_leaves(s, 0, i % 6 < 4, d, n), "512 leaves%s, %d", i % 6 < 4 ? " in one run" : "", i);
    }
}

/* Which merges follow which leaf, against the pruned tree built from its definition. */
static int pruned(int64_t base, int64_t size, int64_t a, int64_t b, int32_t *merges)
{
    if (base + size <= a || base >= b)
        return 0;
    if (size == 1)
        return 1;
    const int left = pruned(base, size / 2, a, b, merges), right = pruned(base + size / 2, size / 2, a, b, merges);
    if (left && right)
        merges[base + size < b ? base + size - 1 : b - 1]++;
    return left || right;
}

static void test_tree(void)
{
    int right = 1, deep = 1;
    for (int64_t n = 1; n <= 40; n++)
        for (int64_t a = 0; a < n; a++)
            for (int64_t b = a + 1; b <= n; b++) {
                int32_t merges[64] = { 0 }, height = 0;
                pruned(0, 64, a, b, merges);
                for (int64_t i = a; i < b; i++) {
                    const int32_t got = rondo__run_merges(i, a, b);
                    right &= got == merges[i];
                    height++;
                    deep &= height <= rondo__run_depth(n);
                    height -= got;
                }
                right &= height == 1;
            }
    ok(right, "what is merged after each leaf of a run makes the pruned tree");
    ok(deep, "within the depth that a run states");
}

/* A leaf that would cross a page is refused, not read. */
static void test_pages(struct rondo_device *dev)
{
    static struct test_case c;
    struct shape s = { .heads = 1, .kv_heads = 1, .head_dim = 4, .value_dim = 4, .queries = 4, .keys = 40, .first = 36, .causal = 1,
                       .left = -1, .right = -1, .q_type = 1, .kv_type = 1, .out_type = 1, .leaf = 8, .step = 1 };
    static const int64_t pages[8] = { 0, 1, 2, 3, 4, 5, 6, 7 }, odd[1] = { 3 };
    case_make(&c, &s);
    for (int32_t i = 0; i < c.task.leaf_count; i++)
        c.leaves[i].row = c.leaves[i].first;
    c.kv[0].pages = pages;
    c.kv[0].page_rows = 16;
    ok(case_run(&c, dev) == 0, "pages of two leaves");
    c.kv[0].page_rows = 12;
    ok(case_run(&c, dev) == RONDO_ENOTSUP && strstr(rondo_error_text(), "12 rows"), "pages of a leaf and a half are refused");
    c.kv[0].page_rows = 16;
    c.kv[0].kv_row = odd;
    ok(case_run(&c, dev) == RONDO_ENOTSUP && strstr(rondo_error_text(), "cross"), "so is a sequence that begins inside of a leaf");
    c.kv[0].kv_row = NULL;
    c.leaves[1].row = 4;
    ok(case_run(&c, dev) == RONDO_ENOTSUP, "so is a leaf that does");
    c.leaves[1].row = 8;
    c.leaves[2].source = 1;
    ok(case_run(&c, dev) == RONDO_EINVAL && strstr(rondo_error_text(), "KV part 1"), "so is a part that is not there");
    case_free(&c);
}

int main(void)
{
    struct device_under_test d[8];
    const int n = devices_open(d, 8);
    test_tree();
    test_pages(d[0].dev);
    test_random(d, n);
    test_long(d, n);
    devices_close(d, n);
    return done();
}
