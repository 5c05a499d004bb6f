/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Masks (core/mask.h): every question of every kind against looking at each (query, key) pair, for spans with and without steps; documents
 * and bits together with an interval and without one; and which kind is made of what is asked for.
 */
#include "attention/mask/mask.h"
#include <time.h>

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

/* ---- documents and bits ---- */

enum { SEQUENCES = 3, KEYS_MAX = 1000, HEADS = 3, BITS = HEADS * 1010 * 1010 };

struct world {
    struct asked asked;
    rondo_attention_desc d;
    int64_t tokens[SEQUENCES], cached[SEQUENCES], documents_first[SEQUENCES], mask_row[SEQUENCES], mask_key[SEQUENCES];
    int32_t leaf;
    int32_t documents[4000];
    struct rondo_mask mask;
    uint8_t bits[BITS];
};

static int64_t keys_of(const struct world *w, int64_t s)
{
    return w->cached[s] + w->tokens[s] > 0 ? w->cached[s] + w->tokens[s] : 0;
}

/* As far as the array is looked at, and a little more. */
static size_t used_bits(const struct world *w)
{
    const int64_t row = w->mask_row[SEQUENCES - 1] + w->tokens[SEQUENCES - 1] + 1;
    return (size_t)(row * w->d.mask_row_stride + (HEADS - 1) * w->d.mask_head_stride + KEYS_MAX);
}

/* kind 0: documents of one run each, 1: that come back, 2: bits, 3: both */
static struct rondo_mask_data *spare;

static void invent(struct world *w, int kind, bool longer)
{
    int64_t at = 0, row = 0, column = 0;
    memset(w, 0, offsetof(struct world, bits));
    w->asked = random_mask();
    w->d = (rondo_attention_desc)RONDO_ATTENTION_DESC_INIT;
    w->leaf = 8 << draw(3);
    w->d.heads = HEADS;
    w->d.sequences = SEQUENCES;
    const int64_t longest = draw(4) ? 1 + draw(60) : 1, names = 1 + draw(6);   /* documents' */
    for (int64_t s = 0; s < SEQUENCES; s++) {
        w->tokens[s] = draw(5) ? draw(100) : 0;
        if (longer && !s)   /* more than 64 leaves */
            w->tokens[s] = 600 + draw(60);
        w->cached[s] = draw(2) ? draw(40) : draw(2) ? 0 : -draw(w->tokens[s] + 20);
        at += draw(3);
        w->documents_first[s] = at;
        for (int64_t k = 0, id = 0, left = 0; k < keys_of(w, s); k++, left--) {
            if (left <= 0) {
                id = kind & 1 ? draw(names) - 2 : id + 1 + draw(2);
                left = 1 + draw(longest);
            }
            w->documents[at++] = (int32_t)id;
        }
        row += draw(2);
        w->mask_row[s] = row;
        row += w->tokens[s];
        w->mask_key[s] = column = draw(5);
    }
    if (kind != 2) {
        w->d.documents = w->documents;
        w->d.documents_first = w->documents_first;
    }
    if (kind >= 2) {
        const int style = (int)draw(4);   /* dense, sparse, whole blocks, all */
        w->d.mask = w->bits;
        w->d.mask_heads = draw(2) ? HEADS : draw(2);
        w->d.mask_row_stride = draw(8) ? (longer ? 720 : 170) + draw(9) : 0;
        w->d.mask_head_stride = w->d.mask_heads > 1 ? (longer ? 900 : 320) * w->d.mask_row_stride : 0;
        w->d.mask_row = w->mask_row;
        w->d.mask_key = w->mask_key;
        const size_t used = used_bits(w);
        for (size_t i = 0; i < used; i++)
            w->bits[i] = style == 0 ? (uint8_t)(draw(8) ? 1 + draw(255) : 0)
                         : style == 1 ? (uint8_t)!draw(60) : style == 2 ? (uint8_t)(rondo__mix64(i / 40 + (uint64_t)w->leaf) % 3 << 6) : 7;
    }
    rondo__mask_make(&w->mask, w->asked.causal, w->asked.left, w->asked.right);
    if (rondo__mask_add_data(&w->mask, &w->d, SEQUENCES, w->leaf, w->tokens, w->cached, &spare))
        diag("%s", rondo_error_text());
}

/* Its memory serves a later one, more often than not. */
static void let_go(struct rondo_mask *mask)
{
    static int turn;
    if (turn++ % 3)
        rondo__mask_keep_data(mask, &spare);
    else
        rondo__mask_free_data(mask);
}

static int shown(const struct world *w, int64_t s, int64_t head, int64_t p, int64_t key)
{
    if (!sees(&w->asked, p, key))
        return 0;
    if (w->d.documents && (p < 0 || w->documents[w->documents_first[s] + p] != w->documents[w->documents_first[s] + key]))
        return 0;
    return !w->d.mask || w->bits[(w->mask_row[s] + p - w->cached[s]) * w->d.mask_row_stride + (w->d.mask_heads > 1 ? head : 0) * w->d.mask_head_stride +
                                 w->mask_key[s] + key];
}

static int any_head(const struct world *w, int64_t s, int64_t p, int64_t key)
{
    int any = 0;
    for (int64_t h = 0; h < HEADS; h++)
        any |= shown(w, s, h, p, key);
    return any;
}

/* Queries that there are. */
static rondo_span random_queries(const struct world *w, int64_t s)
{
    const int64_t first = draw(w->tokens[s]), step = draw(2) ? 1 : 1 + draw(20), most = (w->tokens[s] - 1 - first) / step + 1;
    return (rondo_span){ w->cached[s] + first, 1 + draw(most), step, 0 };
}

static int check_view(const struct world *w, int64_t s, const rondo_span *q, int64_t k0, int64_t k1, int count[3])
{
    int64_t lo = 77, hi = 77, pairs = 0, all = 0;
    int fine = 1;
    const int got = w->mask.kind->view(&w->mask, s, q, k0, k1, &lo, &hi);
    for (int64_t i = 0; i < q->count; i++)
        for (int64_t key = k0; key < k1; key++)
            for (int64_t h = 0; h < HEADS; h++, all++)
                if (shown(w, s, h, q->first + i * q->step, key)) {
                    pairs++;
                    fine &= key >= lo && key < hi;
                }
    const int want = !pairs ? RONDO_MASK_NONE : pairs == all ? RONDO_MASK_ALL : RONDO_MASK_PART;
    fine &= got == RONDO_MASK_NONE ? lo == hi : lo >= k0 && lo < hi && hi <= k1;
    count[want]++;
    if (got != want)
        diag("%s: sequence %lld, queries %lld + %lld * %lld and keys [%lld, %lld): %d, not %d", w->mask.kind->name, (long long)s,
             (long long)q->first, (long long)q->count, (long long)q->step, (long long)k0, (long long)k1, got, want);
    return fine && got == want;
}

/* Of the keys from k0 on, leaf by leaf, next() gives those leaves of which something is seen, as few runs as they are, and every visible key;
 * where there are bits, whole leaves. */
static int check_next(const struct world *w, int64_t s, const rondo_span *q, int64_t k0, int64_t k1)
{
    int in[KEYS_MAX] = { 0 }, fine = 1;
    int64_t last = -1;
    for (int64_t from = k0, lo, hi; from < k1; from = hi) {
        if (!w->mask.kind->next(&w->mask, s, q, from, k1, &lo, &hi))
            break;
        if (lo < from || hi <= lo || hi > k1)
            return 0;
        fine &= lo / w->leaf > last;   /* else it went on */
        last = (hi - 1) / w->leaf + (hi % w->leaf == 0);
        fine &= hi == k1 || last > (hi - 1) / w->leaf;   /* runs end where leaves do */
        for (int64_t k = lo; k < hi; k++)
            in[k] = 1;
    }
    for (int64_t leaf = k0 / w->leaf; leaf * w->leaf < k1; leaf++) {
        const int64_t a = leaf * w->leaf > k0 ? leaf * w->leaf : k0, b = (leaf + 1) * w->leaf < k1 ? (leaf + 1) * w->leaf : k1;
        int seen = 0;
        for (int64_t k = a; k < b; k++)
            for (int64_t i = 0; i < q->count && !seen; i++)
                seen = any_head(w, s, q->first + i * q->step, k);
        /* a span that leaves out keys may be told of more */
        if (q->step == 1 || w->mask.kind->id == RONDO_MASK_BOOLEAN)
            for (int64_t k = a; k < b; k++)
                fine &= in[k] == seen || (a == k0 && k0 % w->leaf);   /* a first part of a leaf */
        for (int64_t k = a; k < b; k++)
            fine &= in[k] >= seen || (a == k0 && k0 % w->leaf && !seen);
    }
    return fine;
}

static int check_row(const struct world *w, int64_t s, int64_t p, int64_t head)
{
    int64_t lo, hi, k0 = draw(keys_of(w, s)), step = draw(3) ? 1 : 1 + draw(5), count;
    uint64_t bits[4] = { 0 }, want[4] = { 0 };
    int fine = 1;
    w->mask.kind->row(&w->mask, s, p, &lo, &hi);
    for (int64_t k = 0; k < keys_of(w, s); k++)
        fine &= w->mask.kind->bits ? !any_head(w, s, p, k) || (k >= lo && k < hi) : any_head(w, s, p, k) == (k >= lo && k < hi);
    if (!w->mask.kind->bits)
        return fine;
    k0 = draw(2) ? k0 - k0 % w->leaf : k0;
    count = 1 + draw((keys_of(w, s) - 1 - k0) / step + 1);
    count = draw(2) && count > w->leaf ? w->leaf : count < 256 ? count : 256;
    w->mask.kind->bits(&w->mask, s, head, p, k0, step, (int32_t)count, bits);
    for (int64_t i = 0; i < count; i++)
        want[i / 64] |= (uint64_t)!!shown(w, s, head, p, k0 + i * step) << (i % 64);
    return fine && !memcmp(bits, want, sizeof bits);
}

static int check_pairs(const struct world *w, int64_t s, const rondo_span *q)
{
    const int64_t keys = keys_of(w, s), first = draw(keys), step = draw(3) ? 1 : 1 + draw(20);
    const rondo_span k = { first, 1 + draw((keys - 1 - first) / step + 1), step, 0 };
    uint64_t want = 0;
    for (int64_t h = 0; h < w->mask.heads; h++)
        for (int64_t i = 0; i < q->count; i++)
            for (int64_t j = 0; j < k.count; j++)
                want += (uint64_t)!!shown(w, s, h, q->first + i * q->step, k.first + j * k.step);
    const uint64_t got = w->mask.kind->pairs(&w->mask, s, q, &k);
    if (got != want)
        diag("%s: %llu pairs, not %llu", w->mask.kind->name, (unsigned long long)got, (unsigned long long)want);
    return got == want;
}

static void test_data(void)
{
    static struct world w, other;
    static const char *const names[] = { "documents", "documents that come back", "bits", "bits and documents" };
    for (int kind = 0; kind < 4; kind++) {
        int views = 1, nexts = 1, rows = 1, pairs = 1, kinds = 1, hashes = 1, count[3] = { 0 };
        for (int round = 0; round < (kind < 2 ? 600 : 150); round++) {
            invent(&w, kind, kind >= 2 && round % 16 == 0);
            kinds &= w.mask.kind->id == (kind < 2 ? RONDO_MASK_DOCUMENTS : RONDO_MASK_BOOLEAN) && (kind != 0 || !w.mask.kind->bits);
            for (int i = 0; i < 30; i++) {
                const int64_t s = draw(SEQUENCES), keys = keys_of(&w, s);
                if (!keys || !w.tokens[s])
                    continue;
                const rondo_span q = random_queries(&w, s);
                const int64_t k0 = draw(keys), k1 = draw(4) ? k0 + draw(keys - k0 + 1) : keys;
                views &= check_view(&w, s, &q, k0, k1, count);
                if (w.mask.kind->next)
                    nexts &= check_next(&w, s, &q, draw(2) ? 0 : k0, keys);
                rows &= check_row(&w, s, w.cached[s] + draw(w.tokens[s]), draw(HEADS));
                pairs &= check_pairs(&w, s, &q);
            }
            memcpy(&other, &w, offsetof(struct world, bits));
            memcpy(other.bits, w.bits, w.d.mask ? used_bits(&w) : 0);
            const uint64_t before = rondo__mask_hash(&w.mask, 1);
            let_go(&w.mask);
            rondo__mask_make(&other.mask, other.asked.causal, other.asked.left, other.asked.right);
            other.d.documents = w.d.documents ? other.documents : NULL;
            other.d.documents_first = w.d.documents ? other.documents_first : NULL;
            other.d.mask = w.d.mask ? other.bits : NULL;
            other.d.mask_row = w.d.mask ? other.mask_row : NULL;
            other.d.mask_key = w.d.mask ? other.mask_key : NULL;
            for (size_t i = 0; w.d.documents && i < sizeof other.documents / sizeof *other.documents; i++)
                other.documents[i] = other.documents[i] * 7 - 100;   /* other names, the same documents */
            for (size_t i = 0; w.d.mask && i < used_bits(&other); i++)
                other.bits[i] = other.bits[i] ? 1 : 0;
            hashes &= !rondo__mask_add_data(&other.mask, &other.d, SEQUENCES, other.leaf, other.tokens, other.cached, &spare) &&
                      rondo__mask_hash(&other.mask, 1) == before;
            let_go(&other.mask);
        }
        ok(kinds, "%s: the kind", names[kind]);
        ok(views, "%s: what spans of queries see: nothing %d times, a part %d, all %d", names[kind], count[0], count[1], count[2]);
        ok(count[0] > 50 && count[1] > 50 && count[2] > 50, "  each often");
        ok(nexts, "%s: the leaves of which they see something", names[kind]);
        ok(rows, "%s: what a query sees", names[kind]);
        ok(pairs, "%s: pairs", names[kind]);
        ok(hashes, "%s: the same whatever the documents are called and whatever is not 0", names[kind]);
    }
}

/* What another rank is told otherwise must not have the same hash. */
static void test_hash(void)
{
    static struct world w;
    int differ = 1, tried = 0;
    for (int round = 0; round < 200; round++) {
        invent(&w, 3, false);
        const uint64_t before = rondo__mask_hash(&w.mask, 1);
        const int64_t s = draw(SEQUENCES), keys = keys_of(&w, s);
        let_go(&w.mask);
        if (keys < 2 || !w.tokens[s] || !w.d.mask_row_stride)
            continue;
        const int64_t i = draw(w.tokens[s]), k = draw(keys);
        uint8_t *bit = &w.bits[(w.mask_row[s] + i) * w.d.mask_row_stride + w.mask_key[s] + k];
        int matters = 0;
        *bit = !*bit;
        for (int64_t h = 0; h < 1; h++) {
            *bit = 1;
            matters |= shown(&w, s, 0, w.cached[s] + i, k);
            *bit = 0;
        }
        *bit = 1;
        rondo__mask_make(&w.mask, w.asked.causal, w.asked.left, w.asked.right);
        differ &= !rondo__mask_add_data(&w.mask, &w.d, SEQUENCES, w.leaf, w.tokens, w.cached, &spare);
        const uint64_t one = rondo__mask_hash(&w.mask, 1);
        let_go(&w.mask);
        *bit = 0;
        rondo__mask_make(&w.mask, w.asked.causal, w.asked.left, w.asked.right);
        differ &= !rondo__mask_add_data(&w.mask, &w.d, SEQUENCES, w.leaf, w.tokens, w.cached, &spare);
        const uint64_t zero = rondo__mask_hash(&w.mask, 1);
        let_go(&w.mask);
        differ &= (one != zero) == matters && (before == one || before == zero);
        tried += matters;
    }
    ok(differ && tried > 20, "one bit that shows a key changes the hash (%d times), one that shows none does not", tried);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Questions about many documents and long sequences must not walk over them. */
static void test_large(void)
{
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
    const int64_t n = 4000000, cached = 0, each = 400;
    int32_t *documents = malloc((size_t)n * sizeof *documents);
    struct rondo_mask mask;
    int fine = documents != NULL;
    d.heads = 1;
    d.documents = documents;
    for (int again = 0; again < 2 && documents; again++) {
        for (int64_t i = 0; i < n; i++)
            documents[i] = (int32_t)(i / each % (again ? 1000 : n));
        rondo__mask_make(&mask, 1, -1, -1);
        double begin = now();
        fine &= !rondo__mask_add_data(&mask, &d, 1, 128, &n, &cached, NULL);
        double made = now();
        const rondo_span all = { 0, n, 1, 0 };
        const uint64_t pairs = mask.kind->pairs(&mask, 0, &all, &all);
        const uint64_t runs = again ? (uint64_t)(n / each / 1000) : 1, want = again ? 1000 : (uint64_t)(n / each);   /* of a document; documents */
        fine &= pairs == want * (runs * (uint64_t)each * (runs * (uint64_t)each + 1) / 2);
        double counted = now();
        for (int64_t at = 0; at < n; at += 4000) {
            const rondo_span q = { at, 4000, 1, 0 };
            int64_t lo, hi, from = 0;
            if (again)
                while (from < n && mask.kind->next(&mask, 0, &q, from, n, &lo, &hi))
                    from = hi;
            fine &= mask.kind->view(&mask, 0, &q, 0, n, &lo, &hi) == RONDO_MASK_PART;
        }
        double asked = now();
        ok(fine && counted - made < 1.0 && asked - counted < 2.0, "10,000 runs of documents: made in %.0f ms, pairs in %.0f ms, 1,000 spans in %.0f ms",
           1e3 * (made - begin), 1e3 * (counted - made), 1e3 * (asked - counted));
        rondo__mask_free_data(&mask);
    }
    free(documents);
}

int main(void)
{
    test_view();
    test_row();
    test_pairs();
    test_kinds();
    test_data();
    test_hash();
    test_large();
    rondo__mask_free_spare(&spare);
    return done();
}
