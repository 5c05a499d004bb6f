/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Placements against a plain model that keeps the owner of each position in an array: the same owners, rows and spans from every
 * position on, in any mix of turns, keys that are dealt out one by one too. What plans share with a placement stays as it was, growth
 * keeps what there is, failing allocations change nothing, and neither sharing nor growing costs more than it should.
 */
#include "layout/layout.h"
#define DRAW_STREAM 1010
#include "t/draw.h"
#include "t/memory.h"
#include "t/tap.h"

/* ---- the model ---- */

enum { LONGEST = 1200, RANKS = 20, SPANS = LONGEST };

struct model {
    int ranks, layout, leaf, interleave, name, length, singles;
    int owner[LONGEST];
    int group[LONGEST];   /* 0: by leaf; else which run of keys that were dealt out one by one */
};

static int least(const struct model *m)
{
    int held[RANKS] = { 0 }, best = -1;
    for (int q = 0; q < m->length; q++)
        held[m->owner[q]]++;
    for (int i = 0; i < m->ranks; i++) {
        int r = (m->name + i) % m->ranks;
        if (best < 0 || held[r] < held[best])
            best = r;
    }
    return best;
}

/* Who gets leaf i of `leaves` by the layout, as rondo.h says. */
static int by_layout(const struct model *m, int i, int leaves)
{
    int n = m->ranks, block = 1, parts = m->layout == RONDO_CONTIGUOUS ? n : 2 * n, c = 0;
    if (m->layout == RONDO_CONTIGUOUS || m->layout == RONDO_ZIGZAG) {
        while ((c + 1) * leaves / parts <= i)
            c++;
        return c < n ? c : 2 * n - 1 - c;
    }
    while ((leaves + block - 1) / block > 4 * n)
        block *= 2;
    c = i / block % n;
    return m->layout == RONDO_SNAKE && i / block / n % 2 ? n - 1 - c : c;
}

static void model_append(struct model *m, int tokens)
{
    if (m->interleave && tokens == 1 && m->ranks > 1) {
        int rank = (m->name + m->singles++) % m->ranks, q = m->length++;
        m->owner[q] = rank;
        m->group[q] = q && m->group[q - 1] ? m->group[q - 1] : q + 1;
        return;
    }
    for (; tokens && m->length % m->leaf; tokens--, m->length++) {
        m->owner[m->length] = m->owner[m->length - 1];
        m->group[m->length] = 0;
    }
    int leaves = (tokens + m->leaf - 1) / m->leaf;
    for (int i = 0; i < leaves; i++) {
        int rank = leaves < m->ranks ? least(m) : by_layout(m, i, leaves);
        for (int j = 0; j < m->leaf && tokens; j++, tokens--, m->length++) {
            m->owner[m->length] = rank;
            m->group[m->length] = 0;
        }
    }
}

static int model_spans(const struct model *m, int rank, int from, rondo_span *out)
{
    int count = 0, row = 0;
    static rondo_span runs[SPANS];
    int n = 0, last = -1;
    for (int q = 0; q < m->length; q++) {
        if (m->owner[q] != rank)
            continue;
        if (q >= from) {
            int step = m->group[q] ? m->ranks : 1;
            int goes_on = n && last >= 0 && m->group[last] == m->group[q] && q - last == step;
            if (goes_on)
                runs[n - 1].count++;
            else
                runs[n++] = (rondo_span){ q, 1, step, row };
            last = q;
        }
        row++;
    }
    for (int i = 0; i < n; i++) {
        rondo_span s = runs[i];
        if (s.count == 1)
            s.step = 1;
        rondo_span *before = count ? out + count - 1 : NULL;
        if (before && before->step == 1 && s.step == 1 && before->first + before->count == s.first)
            before->count += s.count;
        else
            out[count++] = s;
    }
    return count;
}

/* ---- the comparison ---- */

static int owners_agree(const rondo_placement *p, int64_t sequence, const struct model *m)
{
    int good = rondo_placement_length(p, sequence) == m->length, held[RANKS] = { 0 };
    for (int q = 0; q < m->length; q++) {
        held[m->owner[q]]++;
        good &= rondo_placement_owner(p, sequence, q) == m->owner[q];
    }
    for (int r = 0; r < m->ranks; r++)
        good &= rondo_placement_held(p, sequence, r) == held[r];
    return good;
}

static int spans_agree(const rondo_placement *p, int64_t sequence, const struct model *m, int from)
{
    static rondo_span want[SPANS], got[SPANS];
    for (int r = 0; r < m->ranks; r++) {
        int n = model_spans(m, r, from, want), max = (int)draw((uint32_t)n + 3);
        memset(got, 0, sizeof got);
        if (rondo_placement_spans(p, sequence, r, from, got, max) != n || memcmp(got, want, (size_t)(max < n ? max : n) * sizeof *got))
            return 0;
    }
    return 1;
}

/* The internal lists: a rank's runs tell all it holds, in order, and finding one is finding the first that is not behind. */
static int runs_agree(const rondo_placement *p, int64_t sequence, const struct model *m)
{
    for (int r = 0; r < m->ranks; r++) {
        const struct rondo__rank_run *runs;
        int64_t n = rondo__placement_rank_runs(p, sequence, r, &runs), row = 0, at = -1;
        for (int64_t i = 0; i < n; i++) {
            if (runs[i].count < 1 || runs[i].row != row || runs[i].first <= at)
                return 0;
            for (int64_t j = 0; j < runs[i].count; j++, row++) {
                int64_t q = runs[i].first + j * runs[i].step;
                if (q >= m->length || m->owner[q] != r || (m->group[q] != 0) != (runs[i].step > 1) || rondo__rank_run_find(runs, n, q) != i)
                    return 0;
                at = q;
            }
        }
        if (row != rondo_placement_held(p, sequence, r) || rondo__rank_run_find(runs, n, m->length) != n)
            return 0;
    }
    return 1;
}

static int same(const rondo_placement *p, int64_t sequence, const struct model *m)
{
    return owners_agree(p, sequence, m) && runs_agree(p, sequence, m) && spans_agree(p, sequence, m, 0) &&
           spans_agree(p, sequence, m, (int)draw((uint32_t)m->length + 2));
}

static rondo_placement *make(const struct model *m, int64_t sequences)
{
    rondo_placement_desc d = RONDO_PLACEMENT_DESC_INIT;
    rondo_placement *p = NULL;
    d.ranks = m->ranks;
    d.layout = m->layout;
    d.leaf = m->leaf;
    d.interleave = m->interleave;
    d.sequences = sequences;
    return rondo_placement_create(&p, &d) ? NULL : p;
}

static int turn(const struct model *m)
{
    int tokens = draw(3) ? (int)draw(4) : draw(4) ? (int)draw(100) : (int)draw(700);
    return tokens < LONGEST - m->length ? tokens : LONGEST - m->length;
}

static void random_turns(void)
{
    int owners = 1, runs = 1, spans = 1;
    for (int round = 0; round < 120; round++) {
        static struct model m;
        m = (struct model){ .ranks = 1 + (int)draw(round % 4 ? 5 : RANKS), .layout = 1 + (int)draw(4), .leaf = 8 << draw(2),
                            .interleave = round % 2, .name = (int)draw(4) };
        rondo_placement *p = make(&m, 4);
        for (int i = 0; i < 30; i++) {
            int tokens = turn(&m);
            owners &= p && rondo_placement_append(p, m.name, tokens) == 0;
            model_append(&m, tokens);
            spans &= spans_agree(p, m.name, &m, (int)draw((uint32_t)m.length + 2));
        }
        owners &= owners_agree(p, m.name, &m);
        runs &= runs_agree(p, m.name, &m);
        for (int from = -1; from <= m.length + 1; from += round < 12 ? 1 : 7)
            spans &= spans_agree(p, m.name, &m, from);
        rondo_placement_destroy(p);
    }
    ok(owners, "any mix of turns: the owners of a plain model");
    ok(runs, "each rank's runs say what it holds");
    ok(spans, "the spans from every position on");
}

/* ---- what plans copy ---- */

static void copies(void)
{
    enum { KEPT = 6 };
    static struct model m[3], then[KEPT][3];
    int good = 1, hashes = 1;
    for (int round = 0; round < 20; round++) {
        rondo_placement *kept[KEPT] = { NULL };
        int64_t names[3] = { 2, 0, 1 };
        for (int s = 0; s < 3; s++)
            m[s] = (struct model){ .ranks = 2 + (int)(round % 7), .layout = 1 + round % 4, .leaf = 8, .interleave = round % 2, .name = s };
        rondo_placement *p = make(&m[0], 3), *again = make(&m[0], 3);
        for (int i = 0; i < 40; i++) {
            int s = (int)draw(3), tokens = turn(&m[s]);
            if (!draw(10)) {
                good &= rondo_placement_reset(p, s) == 0 && rondo_placement_reset(again, s) == 0;
                m[s].length = m[s].singles = 0;
            }
            good &= rondo_placement_append(p, s, tokens) == 0 && rondo_placement_append(again, s, tokens) == 0;
            model_append(&m[s], tokens);
            int k = (int)draw(KEPT);
            if (draw(2)) {
                if (draw(2)) {   /* else it is made again, in its memory */
                    rondo_placement_destroy(kept[k]);
                    kept[k] = NULL;
                }
                good &= rondo__placement_copy(&kept[k], p, names, 3) == 0;
                memcpy(then[k], m, sizeof m);
            } else if (kept[k]) {   /* a copy may be appended to as well, and stays itself */
                tokens = turn(&then[k][names[1]]);
                good &= rondo_placement_append(kept[k], 1, tokens) == 0;
                model_append(&then[k][names[1]], tokens);
            }
            for (int j = 0; j < 3; j++)
                hashes &= rondo__placement_hash(p, j) == rondo__placement_hash(again, j);
        }
        uint64_t before = rondo__placement_hash(p, 1);
        hashes &= rondo_placement_append(p, 1, 1) == 0 && rondo__placement_hash(p, 1) != before;
        rondo_placement_destroy(p);
        rondo_placement_destroy(again);
        for (int k = 0; k < KEPT; k++)
            for (int s = 0; kept[k] && s < 3; s++)
                good &= same(kept[k], s, &then[k][names[s]]);
        for (int k = 0; k < KEPT; k++)
            rondo_placement_destroy(kept[k]);
    }
    ok(good, "a copy stays as it was, whatever becomes of the placement, of other copies and of itself");
    ok(hashes, "equal hashes where positions lie alike, others where they do not");

    static struct model big = { .ranks = 16, .layout = RONDO_SNAKE, .leaf = 8 };
    rondo_placement *p = make(&big, 1), *copy = NULL;
    int appended = 1;
    for (int i = 0; i < 5000; i++)
        appended &= rondo_placement_append(p, 0, 9) == 0;
    long before = atomic_load(&memory_asked[0]);
    appended &= rondo__placement_copy(&copy, p, NULL, 1) == 0;
    long blocks = atomic_load(&memory_asked[0]) - before;
    ok(appended && blocks > 0 && blocks <= 5, "a copy of thousands of runs takes %ld blocks of memory", blocks);
    before = atomic_load(&memory_asked[0]);
    for (int i = 0; i < 200; i++)
        appended &= rondo_placement_append(p, 0, 9) == 0 && rondo__placement_copy(&copy, p, NULL, 1) == 0;
    blocks = atomic_load(&memory_asked[0]) - before;
    ok(appended && blocks <= 2, "and 200 times a turn, and a copy again, %ld more", blocks);
    rondo_placement_destroy(copy);
    rondo_placement_destroy(p);
}

/* ---- growing ---- */

static void growing(void)
{
    static struct model m[40];
    for (int s = 0; s < 40; s++)
        m[s] = (struct model){ .ranks = 5, .layout = RONDO_ZIGZAG, .leaf = 8, .interleave = s % 2, .name = s };
    int good = 1;
    for (int interleave = 0; interleave < 2; interleave++) {
        m[0].interleave = interleave;
        rondo_placement *p = make(&m[0], 1);
        for (int s = 0; s < 40; s++) {
            m[s].interleave = interleave;
            m[s].length = m[s].singles = 0;
            good &= rondo_placement_grow(p, s + 1) == 0 && rondo_placement_length(p, s) == 0 && rondo_placement_length(p, s + 1) == RONDO_EINVAL;
            for (int i = 0; i < 3; i++) {
                int which = (int)draw((uint32_t)s + 1), tokens = turn(&m[which]);
                good &= rondo_placement_append(p, which, tokens) == 0;
                model_append(&m[which], tokens);
            }
        }
        for (int s = 0; s < 40; s++)
            good &= same(p, s, &m[s]);
        rondo_placement_destroy(p);
    }
    ok(good, "sequences that came by growing are as those that were there from the start");

    rondo_placement *p = make(&m[0], 3);
    is_int(rondo_placement_grow(p, 3), 0, "as many as there are");
    is_int(rondo_placement_grow(p, 2), RONDO_EINVAL, "never fewer");
    ok(strstr(rondo_error_text(), "2 sequences are asked for, but the placement has 3") != NULL, "the sentence: %s", rondo_error_text());
    is_int(rondo_placement_grow(p, -1), RONDO_EINVAL, "nor less than none");
    is_int(rondo_placement_grow(p, INT64_MAX), RONDO_ENOMEM, "2^63 sequences");
    is_int(rondo_placement_grow(NULL, 2), RONDO_EINVAL, "no placement");
    is_int(rondo_placement_append(p, 3, 1), RONDO_EINVAL, "there are still three");
    long before = atomic_load(&memory_asked[0]);
    good = 1;
    for (int64_t s = 4; s <= 100000; s++)
        good &= rondo_placement_grow(p, s) == 0;
    ok(good && atomic_load(&memory_asked[0]) - before < 40, "100,000 one by one take %ld blocks of memory", atomic_load(&memory_asked[0]) - before);
    rondo_placement_destroy(p);
}

/* ---- without memory ---- */

static void failures(void)
{
    int unchanged = 1, failed = 0;
    for (int round = 0; round < 40; round++) {
        static struct model m;
        m = (struct model){ .ranks = 2 + (int)draw(6), .layout = 1 + (int)draw(4), .leaf = 8, .interleave = round % 2, .name = 1 };
        rondo_placement *p = make(&m, 2), *copy = NULL;
        for (int i = 0; i < 12; i++) {
            int tokens = turn(&m), err = 0;
            if (!draw(4))
                unchanged &= rondo__placement_copy(&copy, p, NULL, 2) == 0;
            for (long n = 0; n < 20; n++) {   /* the n-th allocation of this turn fails */
                atomic_store(&memory_until_failure, n);
                err = rondo_placement_append(p, 1, tokens);
                atomic_store(&memory_until_failure, -1);
                if (!err)
                    break;
                failed++;
                unchanged &= err == RONDO_ENOMEM && same(p, 1, &m);
            }
            unchanged &= err == 0;
            model_append(&m, tokens);
            atomic_store(&memory_until_failure, 0);
            unchanged &= rondo_placement_grow(p, 4 + i * 4) == RONDO_ENOMEM;
            atomic_store(&memory_until_failure, -1);
        }
        unchanged &= same(p, 1, &m) && rondo_placement_length(p, 2) == RONDO_EINVAL;
        rondo_placement_destroy(copy);
        rondo_placement_destroy(p);
    }
    ok(unchanged, "where memory was missing the placement is as before");
    ok(failed > 150, "and that was %d times", failed);
}

int main(void)
{
    memory_hooks();
    random_turns();
    copies();
    growing();
    failures();
    is_int(atomic_load(&memory_live), 0, "all memory was given back");
    return done();
}
