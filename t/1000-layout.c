/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Placements as properties: every position is owned once, leaves whole, rows ascending, work balanced, turns independent of how
 * the spans are asked for; and the shards and the decode run that requirements/0 (arXiv:2411.01783's demonstration) prints.
 */
#include "rondo.h"
#define DRAW_STREAM 1000
#include "t/draw.h"
#include "t/tap.h"

static rondo_placement *make(int ranks, int layout, int leaf, int interleave, int64_t sequences)
{
    rondo_placement_desc d = RONDO_PLACEMENT_DESC_INIT;
    rondo_placement *p = NULL;
    d.ranks = ranks;
    d.layout = layout;
    d.leaf = leaf;
    d.interleave = interleave;
    d.sequences = sequences;
    return rondo_placement_create(&p, &d) == 0 ? p : NULL;
}

/* owner[] as the spans tell it; -1 where a rule is broken */
static int spans_agree(const rondo_placement *p, int64_t s, int ranks, int64_t from)
{
    int64_t length = rondo_placement_length(p, s), seen = 0;
    for (int r = 0; r < ranks; r++) {
        int64_t n = rondo_placement_spans(p, s, r, from, NULL, 0), before = 0, last = -1;
        rondo_span *spans = malloc((size_t)(n + 1) * sizeof *spans);
        if (!spans || rondo_placement_spans(p, s, r, from, spans, n) != n)
            return 0;
        for (int64_t q = 0; q < from && q < length; q++)
            before += rondo_placement_owner(p, s, q) == r;
        int64_t row = before;
        for (int64_t i = 0; i < n; i++) {
            if (spans[i].count < 1 || spans[i].step < 1 || spans[i].first < from || spans[i].row != row)
                return 0;
            for (int64_t j = 0; j < spans[i].count; j++, row++, seen++) {
                int64_t position = spans[i].first + j * spans[i].step;
                if (position <= last || rondo_placement_owner(p, s, position) != r)
                    return 0;
                last = position;
            }
        }
        if (row != rondo_placement_held(p, s, r))
            return 0;
        /* a first part alone is the same first part */
        if (n > 1) {
            rondo_span one[1];
            if (rondo_placement_spans(p, s, r, from, one, 1) != n || one[0].first != spans[0].first || one[0].count != spans[0].count)
                return 0;
        }
        free(spans);
    }
    int64_t rest = length > from ? length - from : 0;
    return seen == rest;
}

static int leaves_whole(const rondo_placement *p, int64_t s, int leaf)
{
    for (int64_t q = 1; q < rondo_placement_length(p, s); q++)
        if (q % leaf && rondo_placement_owner(p, s, q) != rondo_placement_owner(p, s, q - 1))
            return 0;
    return 1;
}

static void seed_run(void)
{
    rondo_placement *p = make(4, RONDO_ZIGZAG, 8, 0, 1);
    ok(p && rondo_placement_append(p, 0, 64) == 0, "requirements/0: 64 tokens on 4 ranks, leaf 8, zigzag");
    for (int r = 0; r < 4; r++) {
        rondo_span s[4];
        memset(s, 0, sizeof s);
        int64_t n = rondo_placement_spans(p, 0, r, 0, s, 4);
        if (r < 3)
            ok(n == 2 && s[0].first == 8 * r && s[0].count == 8 && s[1].first == 56 - 8 * r && s[1].count == 8 && s[1].row == 8,
               "rank %d: %d..%d and %d..%d", r, 8 * r, 8 * r + 7, 56 - 8 * r, 63 - 8 * r);
        else
            ok(n == 1 && s[0].first == 24 && s[0].count == 16, "rank 3: 24..39 in one span");
    }
    rondo_placement_destroy(p);

    p = make(4, RONDO_ZIGZAG, 8, 1, 3);
    ok(p && rondo_placement_append(p, 0, 64) == 0 && rondo_placement_append(p, 2, 16) == 0, "the same with interleave 1");
    int good = 1;
    for (int i = 0; i < 8; i++) {
        good &= rondo_placement_append(p, 0, 1) == 0 && rondo_placement_owner(p, 0, 64 + i) == i % 4;
        for (int r = 0; r < 4; r++)
            good &= rondo_placement_held(p, 0, r) == 16 + (i + 4 - r) / 4;
    }
    ok(good, "decoding goes to ranks 0, 1, 2, 3: [R0: 17, R1: 16, ...] and so on");
    rondo_span s[8];
    int64_t n = rondo_placement_spans(p, 0, 1, 60, s, 8);
    ok(n == 1 && s[0].first == 65 && s[0].count == 2 && s[0].step == 4 && s[0].row == 16, "its span has a step of 4");
    good = 1;
    for (int i = 0; i < 9; i++)
        good &= rondo_placement_append(p, 2, 1) == 0 && rondo_placement_owner(p, 2, 16 + i) == (2 + i) % 4;
    ok(good, "sequence 2 starts on rank 2");
    ok(spans_agree(p, 0, 4, 0) && spans_agree(p, 2, 4, 5), "its spans agree with its owners");
    rondo_placement_destroy(p);
}

static void full_prefill(void)
{
    static const int ranks[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 40 };
    for (int layout = 1; layout <= 4; layout++) {
        int owned = 1, whole = 1, balanced = 1, pairs = 1, pieces = 1;
        for (size_t i = 0; i < sizeof ranks / sizeof *ranks; i++) {
            int n = ranks[i];
            static const int lengths[] = { 0, 1, 7, 8, 9, 64, 100, 263, 512, 1000, 2048, 4099 };
            for (size_t j = 0; j < sizeof lengths / sizeof *lengths; j++) {
                int64_t t = lengths[j];
                rondo_placement *p = make(n, layout, 8, 0, 1);
                owned &= p && rondo_placement_append(p, 0, t) == 0 && rondo_placement_length(p, 0) == t && spans_agree(p, 0, n, 0);
                whole &= leaves_whole(p, 0, 8);
                int64_t most = 0, pairs_most = 0, pairs_all = 0, leaves = (t + 7) / 8;
                for (int r = 0; r < n; r++) {
                    int64_t held = rondo_placement_held(p, 0, r), here = 0;
                    most = held > most ? held : most;
                    for (int64_t q = 0; q < t; q++)
                        if (rondo_placement_owner(p, 0, q) == r)
                            here += q + 1;
                    pairs_most = here > pairs_most ? here : pairs_most;
                    pairs_all += here;
                    pieces &= rondo_placement_spans(p, 0, r, 0, NULL, 0) <= 4;
                }
                /* no rank holds more than its share and a few leaves (layouts with blocks: a block, at most half a share) */
                if (layout <= RONDO_ZIGZAG)
                    balanced &= most <= ((leaves - 1) / n + 2) * 8 + 8;
                else
                    balanced &= most <= (t / n) * 2 + 16;
                /* zigzag and snake: also the causal pairs */
                if (layout == RONDO_ZIGZAG && leaves >= 8 * n)
                    pairs &= (double)pairs_most * n <= (double)pairs_all * 1.5;
                rondo_placement_destroy(p);
            }
        }
        const char *name = rondo_layout_name(layout);
        ok(owned, "%s: every position on one rank, rows ascending", name);
        ok(whole, "%s: leaves are whole", name);
        ok(balanced, "%s: rows are balanced", name);
        ok(pairs, "%s: causal pairs are balanced", name);
        ok(pieces, "%s: at most four spans a rank after one turn", name);
    }
    rondo_placement *p = make(4, RONDO_ZIGZAG, 128, 0, 1);
    ok(rondo_placement_append(p, 0, (int64_t)1 << 50) == 0 && rondo_placement_held(p, 0, 2) == (int64_t)1 << 48, "2^50 tokens take no memory");
    ok(rondo_placement_owner(p, 0, ((int64_t)1 << 50) - 1) == 0, "and the last is rank 0's");
    rondo_placement_destroy(p);
}

static void many_turns(void)
{
    int owned = 1, whole = 1, kept = 1, balanced = 1, same = 1;
    for (int round = 0; round < 60; round++) {
        int n = 1 + (int)draw(9), leaf = 8 << draw(3), layout = 1 + (int)draw(4);
        rondo_placement *p = make(n, layout, leaf, 0, 3), *again = make(n, layout, leaf, 0, 3);
        int64_t s = draw(3), turns[12];
        int before[4096];
        int64_t length = 0;
        for (int i = 0; i < 12; i++) {
            turns[i] = draw(3) ? draw(3) : draw(300);
            owned &= rondo_placement_append(p, s, turns[i]) == 0;
            for (int64_t q = 0; q < length; q++)
                kept &= rondo_placement_owner(p, s, q) == before[q];
            length += turns[i];
            for (int64_t q = 0; q < length && q < 4096; q++)
                before[q] = rondo_placement_owner(p, s, q);
        }
        for (int i = 0; i < 12; i++)
            same &= rondo_placement_append(again, s, turns[i]) == 0;
        for (int64_t q = 0; q < length; q++)
            same &= rondo_placement_owner(again, s, q) == before[q];
        owned &= rondo_placement_length(p, s) == length && spans_agree(p, s, n, 0) && spans_agree(p, s, n, draw(200));
        whole &= leaves_whole(p, s, leaf);
        same &= rondo_placement_length(p, (s + 1) % 3) == 0 && rondo_placement_spans(p, (s + 1) % 3, 0, 0, NULL, 0) == 0;
        owned &= rondo_placement_reset(p, s) == 0 && rondo_placement_length(p, s) == 0 && rondo_placement_append(p, s, 5) == 0;
        owned &= spans_agree(p, s, n, 0);
        rondo_placement_destroy(p);
        rondo_placement_destroy(again);
    }
    /* decoding: the rank that holds least takes the next leaf */
    for (int n = 1; n <= 9; n++) {
        rondo_placement *p = make(n, RONDO_ZIGZAG, 8, 0, n);
        for (int64_t s = 0; s < n; s++) {
            for (int i = 0; i < 8 * n * 3; i++)
                balanced &= rondo_placement_append(p, s, 1) == 0;
            balanced &= rondo_placement_owner(p, s, 0) == s;
            for (int r = 0; r < n; r++)
                balanced &= rondo_placement_held(p, s, r) == 24;
        }
        rondo_placement_destroy(p);
    }
    ok(owned, "turns: every position on one rank, whatever was appended; reset forgets all");
    ok(whole, "turns: a partly filled leaf stays with its owner");
    ok(kept, "turns: what is placed never moves");
    ok(same, "turns: the same calls give the same placement, other sequences are untouched");
    ok(balanced, "decoding: leaves go to who holds least, sequence s starts on rank s");

    owned = 1;
    for (int round = 0; round < 60; round++) {
        int n = 1 + (int)draw(6);
        rondo_placement *p = make(n, 1 + (int)draw(4), 8, 1, 2);
        for (int i = 0; i < 40; i++)
            owned &= rondo_placement_append(p, 1, draw(4) ? 1 : draw(40)) == 0;
        owned &= spans_agree(p, 1, n, 0) && spans_agree(p, 1, n, draw(100));
        rondo_placement_destroy(p);
    }
    ok(owned, "interleave 1: every position on one rank, in any mix of turns");
}

/* Layout document: short turns whole, each to who holds least of all sequences. */
static void documents(void)
{
    int whole = 1, even = 1, owned = 1, again = 1;
    for (int round = 0; round < 40; round++) {
        const int n = 1 + (int)draw(8), sequences = 4 * n + (int)draw(20);
        rondo_placement *p = make(n, RONDO_DOCUMENT, 8, 0, sequences);
        int64_t all = 0, most = 0, longest = 0;
        for (int64_t s = 0; s < sequences; s++) {
            const int64_t tokens = 1 + draw((uint32_t)(8 * 4 * n - 8)), turn = draw(3) ? tokens : 1 + draw((uint32_t)tokens);
            longest = tokens > longest ? tokens : longest;
            owned &= rondo_placement_append(p, s, turn) == 0;
            for (int64_t q = 1; q < turn; q++)
                whole &= rondo_placement_owner(p, s, q) == rondo_placement_owner(p, s, 0);
            owned &= rondo_placement_append(p, s, tokens - turn) == 0 && spans_agree(p, s, n, 0) && leaves_whole(p, s, 8);
            all += tokens;
        }
        for (int r = 0; r < n; r++) {
            int64_t held = 0;
            for (int64_t s = 0; s < sequences; s++)
                held += rondo_placement_held(p, s, r);
            most = held > most ? held : most;
        }
        even &= (double)most <= (double)all / n + (double)longest;
        /* what was reset is not counted any more */
        for (int64_t s = 1; s < sequences; s++)
            again &= rondo_placement_reset(p, s) == 0;
        const int64_t left = rondo_placement_length(p, 0);
        again &= rondo_placement_reset(p, 0) == 0 && left > 0;
        for (int r = 0; r < n; r++)
            again &= rondo_placement_append(p, r, 9) == 0 && rondo_placement_owner(p, r, 8) == r;
        rondo_placement_destroy(p);
    }
    ok(whole, "document: a short turn goes to one rank");
    ok(even, "document: many sequences are spread evenly");
    ok(owned, "document: every position on one rank, leaves whole");
    ok(again, "document: what was reset is not counted");
    rondo_placement *p = make(4, RONDO_DOCUMENT, 8, 0, 1), *z = make(4, RONDO_ZIGZAG, 8, 0, 1);
    int same = rondo_placement_append(p, 0, 4 * 4 * 8) == 0 && rondo_placement_append(z, 0, 4 * 4 * 8) == 0;
    for (int64_t q = 0; q < 4 * 4 * 8; q++)
        same &= rondo_placement_owner(p, 0, q) == rondo_placement_owner(z, 0, q);
    ok(same, "document: a long turn is split as zigzag splits it");
    rondo_placement_destroy(p);
    rondo_placement_destroy(z);
}

static void custom(void)
{
    int owned = 1, as_told = 1;
    for (int round = 0; round < 60; round++) {
        const int n = 1 + (int)draw(9), leaf = 8 << draw(2);
        rondo_placement *p = make(n, RONDO_CUSTOM, leaf, round % 5 == 4, 2);
        int owner[4000];
        int64_t length = 0;
        for (int turn = 0; turn < 12; turn++) {
            const int64_t tokens = draw(3) ? draw(200) : draw(4), open = (leaf - length % leaf) % leaf;
            int32_t owners[64];
            if (round % 5 == 4 && tokens == 1)
                continue;
            for (int i = 0; i < 64; i++)
                owners[i] = draw(3) || !i ? (int32_t)draw((uint32_t)n) : owners[i - 1];
            owned &= rondo_placement_append_owners(p, 1, tokens, tokens > open ? owners : NULL) == 0;
            for (int64_t i = 0; i < tokens; i++, length++)
                owner[length] = i < open ? owner[length - 1] : owners[(i - open) / leaf];
        }
        for (int64_t q = 0; q < length; q++)
            as_told &= rondo_placement_owner(p, 1, q) == owner[q];
        owned &= rondo_placement_length(p, 1) == length && spans_agree(p, 1, n, 0);
        rondo_placement_destroy(p);
    }
    ok(as_told, "custom: leaves are whose the lists say, and an open leaf stays where it is");
    ok(owned, "custom: every position on one rank");

    rondo_placement *p = make(4, RONDO_CUSTOM, 8, 0, 1), *z = make(4, RONDO_ZIGZAG, 8, 0, 1), *one = make(4, RONDO_CUSTOM, 8, 1, 1);
    const int32_t owners[3] = { 3, 0, 3 }, bad[2] = { 1, 4 }, negative[1] = { -1 };
    is_int(rondo_placement_append(p, 0, 5), RONDO_EINVAL, "custom: who gets a new leaf must be said");
    ok(strstr(rondo_error_text(), "append_owners") != NULL, "the sentence: %s", rondo_error_text());
    is_int(rondo_placement_append_owners(p, 0, 20, owners), 0, "20 tokens");
    is_int(rondo_placement_append(p, 0, 4), 0, "4 more have room in the last leaf");
    is_int(rondo_placement_append(p, 0, 1), RONDO_EINVAL, "another has not");
    is_int(rondo_placement_append_owners(p, 0, 16, bad), RONDO_EINVAL, "no rank 4");
    ok(strstr(rondo_error_text(), "owners[1] is 4") != NULL, "the sentence: %s", rondo_error_text());
    is_int(rondo_placement_append_owners(p, 0, 1, negative), RONDO_EINVAL, "no rank -1");
    is_int(rondo_placement_append_owners(p, 0, 1, NULL), RONDO_EINVAL, "no list");
    is_int(rondo_placement_append_owners(p, 1, 1, owners), RONDO_EINVAL, "no sequence 1");
    is_int(rondo_placement_append_owners(p, 0, -1, owners), RONDO_EINVAL, "-1 tokens");
    is_int(rondo_placement_append_owners(NULL, 0, 1, owners), RONDO_EINVAL, "no placement");
    is_int(rondo_placement_append_owners(z, 0, 1, owners), RONDO_EINVAL, "another layout");
    ok(strstr(rondo_error_text(), "layout is zigzag") != NULL, "the sentence: %s", rondo_error_text());
    is_int(rondo_placement_append_owners(one, 0, 1, owners), RONDO_EINVAL, "a single token, interleaved");
    is_int(rondo_placement_append(one, 0, 1), 0, "  goes where its turn says");
    is_int(rondo_placement_append_owners(p, 0, 0, NULL), 0, "nothing");
    is_int(rondo_placement_length(p, 0), 24, "24 in all");
    rondo_placement_destroy(p);
    rondo_placement_destroy(z);
    rondo_placement_destroy(one);
}

static void refused(void)
{
    rondo_placement *p = NULL;
    rondo_placement_desc d = RONDO_PLACEMENT_DESC_INIT;
    is_int(rondo_placement_create(&p, &d), RONDO_EINVAL, "no ranks");
    d.ranks = 2;
    d.leaf = 100;
    is_int(rondo_placement_create(&p, &d), RONDO_EINVAL, "leaf 100");
    ok(strstr(rondo_error_text(), "leaf is 100") != NULL, "the sentence: %s", rondo_error_text());
    d.leaf = 512;
    is_int(rondo_placement_create(&p, &d), RONDO_EINVAL, "leaf 512");
    d.leaf = 0;
    d.layout = 9;
    is_int(rondo_placement_create(&p, &d), RONDO_EINVAL, "layout 9");
    d.layout = 0;
    d.interleave = 2;
    is_int(rondo_placement_create(&p, &d), RONDO_EINVAL, "interleave 2");
    d.interleave = 0;
    d.sequences = -1;
    is_int(rondo_placement_create(&p, &d), RONDO_EINVAL, "-1 sequences");
    d.sequences = INT64_MAX;
    is_int(rondo_placement_create(&p, &d), RONDO_ENOMEM, "2^63 sequences");
    d.sequences = 0;
    is_int(rondo_placement_create(NULL, &d), RONDO_EINVAL, "no place for the result");
    is_int(rondo_placement_create(&p, NULL), RONDO_EINVAL, "no descriptor");
    ok(!p, "nothing was made");
    is_int(rondo_placement_create(&p, &d), 0, "made");
    is_int(rondo_placement_append(p, 1, 1), RONDO_EINVAL, "no sequence 1");
    is_int(rondo_placement_append(p, -1, 1), RONDO_EINVAL, "no sequence -1");
    is_int(rondo_placement_append(p, 0, -1), RONDO_EINVAL, "-1 tokens");
    is_int(rondo_placement_append(p, 0, 10), 0, "10 tokens");
    is_int(rondo_placement_append(p, 0, INT64_MAX), RONDO_EINVAL, "2^63 more tokens");
    is_int(rondo_placement_length(p, 0), 10, "still 10");
    is_int(rondo_placement_owner(p, 0, 10), RONDO_EINVAL, "no position 10");
    is_int(rondo_placement_held(p, 0, 2), RONDO_EINVAL, "no rank 2");
    is_int(rondo_placement_spans(p, 0, 2, 0, NULL, 0), RONDO_EINVAL, "no rank 2 again");
    is_int(rondo_placement_spans(p, 0, 0, 0, NULL, 3), RONDO_EINVAL, "no room given");
    is_int(rondo_placement_length(NULL, 0), RONDO_EINVAL, "no placement");
    is_int(rondo_placement_reset(p, 7), RONDO_EINVAL, "no sequence 7");
    rondo_placement_destroy(p);
    rondo_placement_destroy(NULL);
    ok(!strcmp(rondo_layout_name(0), "zigzag") && !strcmp(rondo_layout_name(4), "snake") && !strcmp(rondo_layout_name(5), "document") &&
           !strcmp(rondo_layout_name(6), "custom") && !rondo_layout_name(7) && !rondo_layout_name(-1),
       "names");
}

int main(void)
{
    seed_run();
    full_prefill();
    many_turns();
    documents();
    custom();
    refused();
    return done();
}
