/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Masks (core/mask.h): every question of every kind against looking at each (query, key) pair, for spans with and without steps; and
 * which kind is made of what is asked for.
 */
#include "attention/mask/mask.h"
#include "tap.h"

static uint64_t state = 7;
static int64_t draw(int64_t n)
{
    state = rondo__mix64(state + 0x9e3779b97f4a7c15u);
    return (int64_t)(state % (uint64_t)n);
}

struct asked {
    int causal;
    int64_t left, right;
};

static int sees(const struct asked *a, int64_t p, int64_t key)
{
    return !(a->causal && key > p) && (a->left < 0 || key >= p - a->left) && (a->right < 0 || key <= p + a->right);
}

static struct asked random_mask(void)
{
    return (struct asked){ (int)draw(2), draw(2) ? draw(12) : -1, draw(2) ? draw(12) : -1 };
}

static rondo_span random_span(int64_t from)
{
    return (rondo_span){ from + draw(30), draw(12) + 1, draw(2) ? 1 : 1 + draw(9), 0 };
}

static void test_view(void)
{
    static const char *const names[] = { "nothing", "a part", "all" };
    int right = 1, hull = 1, count[3] = { 0 };
    for (int i = 0; i < 60000; i++) {
        const struct asked a = random_mask();
        const rondo_span q = random_span(-10);
        const int64_t k0 = draw(30), k1 = k0 + draw(10);
        int64_t lo = 77, hi = 77, pairs = 0;
        struct rondo_mask mask;
        rondo__mask_make(&mask, a.causal, a.left, a.right);
        const int got = mask.kind->view(&mask, 0, &q, k0, k1, &lo, &hi);
        hull &= got == RONDO_MASK_NONE ? lo == hi : lo >= k0 && lo < hi && hi <= k1;
        for (int64_t j = 0; j < q.count; j++)
            for (int64_t key = k0; key < k1; key++)
                if (sees(&a, q.first + j * q.step, key)) {
                    pairs++;
                    hull &= key >= lo && key < hi;
                }
        const int want = !pairs ? RONDO_MASK_NONE : pairs == q.count * (k1 - k0) ? RONDO_MASK_ALL : RONDO_MASK_PART;
        if (got != want && right)
            diag("%s: queries %lld + %lld * %lld see %s of [%lld, %lld), not %s", mask.kind->name, (long long)q.first, (long long)q.count,
                 (long long)q.step, names[want], (long long)k0, (long long)k1, names[got]);
        right &= got == want;
        count[want]++;
    }
    ok(right, "what a span of queries sees: nothing %d times, a part %d, all %d", count[0], count[1], count[2]);
    ok(hull, "  and where");
    ok(count[0] > 1000 && count[1] > 1000 && count[2] > 1000, "  each often");
}

static void test_row(void)
{
    int right = 1;
    for (int i = 0; i < 2000; i++) {
        const struct asked a = random_mask();
        const int64_t p = draw(60) - 20;
        int64_t lo, hi;
        struct rondo_mask mask;
        rondo__mask_make(&mask, a.causal, a.left, a.right);
        mask.kind->row(&mask, 0, p, &lo, &hi);
        for (int64_t key = -50; key < 100; key++)
            right &= sees(&a, p, key) == (key >= lo && key < hi);
        right &= !mask.kind->bits;
    }
    ok(right, "what a query sees");
}

static void test_pairs(void)
{
    int right = 1;
    for (int i = 0; i < 40000; i++) {
        const struct asked a = random_mask();
        const rondo_span q = random_span(-10), k = random_span(0);
        uint64_t want = 0;
        struct rondo_mask mask;
        rondo__mask_make(&mask, a.causal, a.left, a.right);
        for (int64_t j = 0; j < q.count; j++)
            for (int64_t x = 0; x < k.count; x++)
                want += (uint64_t)sees(&a, q.first + j * q.step, k.first + x * k.step);
        const uint64_t got = mask.kind->pairs(&mask, 0, &q, &k);
        if (got != want && right)
            diag("%s: %llu pairs, not %llu: queries %lld + %lld * %lld, keys %lld + %lld * %lld", mask.kind->name, (unsigned long long)got,
                 (unsigned long long)want, (long long)q.first, (long long)q.count, (long long)q.step, (long long)k.first,
                 (long long)k.count, (long long)k.step);
        right &= got == want;
    }
    ok(right, "pairs of two spans, each with a step");
    /* what cannot be walked over */
    const int64_t n = (int64_t)1 << 30, m = (int64_t)1 << 40;
    const rondo_span all = { 0, n, 1, 0 }, odd = { 1, n / 2, 2, 0 }, far = { 0, m, 1, 0 }, none = { 5, 0, 1, 0 };
    struct rondo_mask full, causal, window;
    rondo__mask_make(&full, 0, -1, -1);
    rondo__mask_make(&causal, 1, -1, -1);
    rondo__mask_make(&window, 1, 99, -1);
    ok(causal.kind->pairs(&causal, 0, &all, &all) == (uint64_t)n * (uint64_t)(n + 1) / 2, "2^30 queries and keys, causal");
    ok(causal.kind->pairs(&causal, 0, &odd, &all) + causal.kind->pairs(&causal, 0, &(rondo_span){ 0, n / 2, 2, 0 }, &all) ==
           (uint64_t)n * (uint64_t)(n + 1) / 2, "  odd queries and even ones");
    ok(causal.kind->pairs(&causal, 0, &all, &odd) + causal.kind->pairs(&causal, 0, &all, &(rondo_span){ 0, n / 2, 2, 0 }) ==
           (uint64_t)n * (uint64_t)(n + 1) / 2, "  odd keys and even ones");
    ok(window.kind->pairs(&window, 0, &all, &all) == (uint64_t)n * 100 - 99 * 100 / 2, "in a window");
    ok(full.kind->pairs(&full, 0, &all, &all) == (uint64_t)1 << 60, "all");
    ok(full.kind->pairs(&full, 0, &far, &far) == UINT64_MAX, "too many to count are UINT64_MAX");
    ok(full.kind->pairs(&full, 0, &none, &all) == 0 && full.kind->pairs(&full, 0, &all, &none) == 0, "none");
}

static void test_kinds(void)
{
    static const struct {
        struct asked asked;
        const char *name;
        int id;
        int64_t left, right;
    } list[] = {
        { { 0, -1, -1 }, "full", RONDO_MASK_FULL, -1, -1 },       { { 1, -1, -1 }, "causal", RONDO_MASK_CAUSAL, -1, 0 },
        { { 1, -1, 5 }, "causal", RONDO_MASK_CAUSAL, -1, 0 },     { { 1, 3, -1 }, "window", RONDO_MASK_WINDOW, 3, 0 },
        { { 1, 3, 9 }, "window", RONDO_MASK_WINDOW, 3, 0 },       { { 0, 3, -1 }, "window", RONDO_MASK_WINDOW, 3, -1 },
        { { 0, -1, 0 }, "causal", RONDO_MASK_CAUSAL, -1, 0 },     { { 0, 0, 0 }, "window", RONDO_MASK_WINDOW, 0, 0 },
        { { 0, -1, 4 }, "window", RONDO_MASK_WINDOW, -1, 4 },
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        struct rondo_mask m;
        rondo__mask_make(&m, list[i].asked.causal, list[i].asked.left, list[i].asked.right);
        ok(!strcmp(m.kind->name, list[i].name) && m.kind->id == list[i].id && m.left == list[i].left && m.right == list[i].right,
           "causal %d, window %lld, %lld: %s %lld, %lld", list[i].asked.causal, (long long)list[i].asked.left, (long long)list[i].asked.right,
           m.kind->name, (long long)m.left, (long long)m.right);
    }
    struct rondo_mask m;
    const rondo_span q = { (int64_t)1 << 40, 3, 1, 0 };
    int64_t lo, hi;
    rondo__mask_make(&m, 0, INT64_MAX, INT64_MAX);
    ok(m.kind->view(&m, 0, &q, 0, (int64_t)1 << 41, &lo, &hi) == RONDO_MASK_ALL, "a window of 2^63 - 1 hides nothing");
    m.kind->row(&m, 0, (int64_t)1 << 40, &lo, &hi);
    ok(lo <= 0 && hi >= (int64_t)1 << 42, "  from no row");
}

int main(void)
{
    test_view();
    test_row();
    test_pairs();
    test_kinds();
    return done();
}
