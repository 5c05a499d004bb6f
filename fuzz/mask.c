/* SPDX-License-Identifier: BSD-2-Clause
 *
 * libFuzzer entry point: any bytes as an interval, documents and bits over a few short sequences. Each question that the survey and devices
 * ask of the mask is answered as looking at every pair of a query and a key does. See fuzz/README.
 */
#include <stdlib.h>

#include "attention/mask/mask.h"
#include "fuzz/bytes.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SEQUENCES = 2, KEYS = 96, HEADS = 2 };

static struct world {
    int causal;
    int64_t left, right, tokens[SEQUENCES], cached[SEQUENCES], first[SEQUENCES], row[SEQUENCES], key[SEQUENCES];
    int32_t documents[SEQUENCES * (KEYS + 4)];
    uint8_t bits[HEADS * 2 * (KEYS + 4) * (KEYS + 4)];
    rondo_attention_desc d;
    struct rondo_mask mask;
} w;

static int64_t keys_of(int64_t s)
{
    return w.cached[s] + w.tokens[s] > 0 ? w.cached[s] + w.tokens[s] : 0;
}

static int shown(int64_t s, int64_t head, int64_t p, int64_t k)
{
    if ((w.causal && k > p) || (w.left >= 0 && k < p - w.left) || (w.right >= 0 && k > p + w.right))
        return 0;
    if (w.d.documents && (p < 0 || w.documents[w.first[s] + p] != w.documents[w.first[s] + k]))
        return 0;
    return !w.d.mask || w.bits[(w.row[s] + p - w.cached[s]) * w.d.mask_row_stride + (w.d.mask_heads > 1 ? head : 0) * w.d.mask_head_stride +
                               w.key[s] + k];
}

static int in_any(int64_t s, int64_t p, int64_t k)
{
    return shown(s, 0, p, k) || shown(s, 1, p, k);
}

static void must(int holds)
{
    if (!holds)
        abort();
}

static void ask(struct bytes *b, int64_t s, int32_t leaf)
{
    const struct rondo_mask *m = &w.mask;
    const int64_t keys = keys_of(s), first = below(b, w.tokens[s]), step = byte_of(b) % 3 ? 1 : 1 + below(b, 12);
    const rondo_span q = { w.cached[s] + first, 1 + below(b, (w.tokens[s] - 1 - first) / step + 1), step, 0 };
    const int64_t k0 = below(b, keys), k1 = k0 + below(b, keys - k0 + 1), k_step = byte_of(b) % 3 ? 1 : 1 + below(b, 9);
    int64_t lo, hi;
    uint64_t pairs = 0, all = 0, want = 0;

    const int view = m->kind->view(m, s, &q, k0, k1, &lo, &hi);
    for (int64_t i = 0; i < q.count; i++)
        for (int64_t k = k0; k < k1; k++)
            for (int64_t h = 0; h < HEADS; h++, all++)
                if (shown(s, h, q.first + i * step, k)) {
                    pairs++;
                    must(view != RONDO_MASK_NONE && k >= lo && k < hi);
                }
    must(view == (!pairs ? RONDO_MASK_NONE : pairs == all ? RONDO_MASK_ALL : RONDO_MASK_PART));

    const rondo_span ks = { k0, 1 + below(b, (keys - 1 - k0) / k_step + 1), k_step, 0 };
    for (int64_t h = 0; h < m->heads; h++)
        for (int64_t i = 0; i < q.count; i++)
            for (int64_t j = 0; j < ks.count; j++)
                want += (uint64_t)!!shown(s, h, q.first + i * step, ks.first + j * k_step);
    must(m->kind->pairs(m, s, &q, &ks) == want);

    /* all that is seen, and with neighbouring queries no leaf besides */
    char told[KEYS + 300] = { 0 };
    for (int64_t from = 0; m->kind->next && from < keys && m->kind->next(m, s, &q, from, keys, &lo, &hi); from = hi) {
        must(lo >= from && hi > lo && hi <= keys);
        memset(told + lo, 1, (size_t)(hi - lo));
    }
    for (int64_t k = 0; m->kind->next && k < keys; k++) {
        int seen = 0, leaf_seen = 0;
        for (int64_t i = 0; i < q.count; i++)
            for (int64_t j = k - k % leaf; j < keys && j < k - k % leaf + leaf; j++)
                if (in_any(s, q.first + i * step, j)) {
                    leaf_seen = 1;
                    seen |= j == k;
                }
        must(told[k] >= seen && (step > 1 || told[k] == leaf_seen));
    }

    uint64_t bits[4] = { 0 }, bits_want[4] = { 0 };
    const int64_t p = q.first, head = below(b, HEADS);
    m->kind->row(m, s, p, &lo, &hi);
    for (int64_t k = 0; k < keys; k++)
        must(m->kind->bits ? !in_any(s, p, k) || (k >= lo && k < hi) : in_any(s, p, k) == (k >= lo && k < hi));
    for (int64_t j = 0; j < ks.count && m->kind->bits; j++)
        bits_want[j / 64] |= (uint64_t)!!shown(s, head, p, ks.first + j * k_step) << (j % 64);
    if (m->kind->bits) {
        m->kind->bits(m, s, head, p, ks.first, k_step, (int32_t)ks.count, bits);
        must(!memcmp(bits, bits_want, sizeof bits));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bytes b = { data, data + size };
    const uint32_t what = byte_of(&b);
    const int32_t leaf = 8 << byte_of(&b) % 3;
    int64_t at = 0, row = 0;
    memset(&w, 0, sizeof w);
    w.causal = what & 1;
    w.left = what & 2 ? below(&b, 40) : -1;
    w.right = what & 4 ? below(&b, 40) : -1;
    w.d = (rondo_attention_desc)RONDO_ATTENTION_DESC_INIT;
    w.d.heads = HEADS;
    for (int64_t s = 0; s < SEQUENCES; s++) {
        w.tokens[s] = below(&b, KEYS / 2);
        w.cached[s] = below(&b, KEYS / 2) - (what & 8 ? KEYS / 4 : 0);
        w.first[s] = at += byte_of(&b) % 3;
        for (int64_t k = 0, id = 0, left = 0; k < keys_of(s); k++, left--) {
            if (left <= 0) {
                id = what & 16 ? (int64_t)(byte_of(&b) % 4) - 2 : id + 1;
                left = byte_of(&b) % 32;
            }
            w.documents[at++] = (int32_t)id;
        }
        w.row[s] = row;
        row += w.tokens[s];
        w.key[s] = byte_of(&b) % 4;
    }
    if (what & 32) {
        w.d.documents = w.documents;
        w.d.documents_first = w.first;
    }
    if (what & 64) {
        w.d.mask = w.bits;
        w.d.mask_heads = what & 128 ? HEADS : 1;
        w.d.mask_row_stride = KEYS + 4;
        w.d.mask_head_stride = what & 128 ? 2 * (KEYS + 4) * (KEYS + 4) / HEADS : 0;
        w.d.mask_row = w.row;
        w.d.mask_key = w.key;
        for (size_t i = 0; i < sizeof w.bits; ) {
            const uint8_t value = (uint8_t)byte_of(&b), run = (uint8_t)byte_of(&b);
            for (size_t j = 0; j <= (size_t)run * (b.at < b.end ? 1u : 1000u) && i < sizeof w.bits; j++)
                w.bits[i] = value > 200 ? (uint8_t)(rondo__mix64(i) & 1) : value & 1, i++;
        }
    }
    rondo__mask_make(&w.mask, w.causal, w.left, w.right);
    if (rondo__mask_add_data(&w.mask, &w.d, SEQUENCES, leaf, w.tokens, w.cached, NULL))
        abort();
    for (int i = 0; i < 6; i++) {
        const int64_t s = i % SEQUENCES;
        if (w.tokens[s] && keys_of(s))
            ask(&b, s, leaf);
    }
    rondo__mask_free_data(&w.mask);
    return 0;
}
