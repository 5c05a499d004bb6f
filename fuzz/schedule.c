/* SPDX-License-Identifier: BSD-2-Clause
 *
 * libFuzzer entry point: any bytes as an attention descriptor. What cannot be is refused with a code and a sentence; what can be made is
 * proved: what all ranks send is received, written before it is read, as much as was said, and every visible pair computed once. See
 * fuzz/README.
 */
#include <stdlib.h>
#include <string.h>

#include "fuzz/bytes.h"
#include "rondo.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SEQUENCES = 3, TOKENS = 200, KEYS = SEQUENCES * 2 * TOKENS };

/* Lists that a descriptor points to, longer than any sane one is read; what is not sane must be seen before they are. */
static int64_t tokens[SEQUENCES], cached[SEQUENCES], documents_first[SEQUENCES], mask_row[SEQUENCES], mask_key[SEQUENCES], names[SEQUENCES];
static int32_t documents[2 * KEYS], owners[KEYS];
static uint8_t mask[2 * KEYS * KEYS];

static int32_t small(struct bytes *b, int64_t n)
{
    return (int32_t)below(b, n);
}

static void sane(struct bytes *b, rondo_attention_desc *d, int32_t ranks)
{
    d->kv_heads = 1 + small(b, 3);
    d->heads = d->kv_heads * (1 + small(b, 3));
    d->head_dim = 1 + small(b, 9);
    d->value_dim = small(b, 9);
    d->sequences = 1 + small(b, SEQUENCES);
    for (int64_t i = 0; i < SEQUENCES; i++) {
        tokens[i] = below(b, byte_of(b) & 1 ? TOKENS : 3);
        cached[i] = below(b, byte_of(b) & 1 ? TOKENS : 3) - (byte_of(b) % 4 ? 0 : tokens[i]);
        documents_first[i] = i * 2 * TOKENS;
        mask_row[i] = i * TOKENS;
        mask_key[i] = small(b, 9);
        names[i] = (i + 1) % SEQUENCES;
    }
    d->tokens_of = tokens;
    d->cached_of = cached;
    d->causal = small(b, 2);
    if (byte_of(b) & 1) {
        d->windowed = 1;
        d->window_left = below(b, 100) - 1;
        d->window_right = below(b, 50) - 1;
    }
    d->q_type = small(b, 4);
    d->kv_type = small(b, 4);
    d->out_type = small(b, 4);
    d->layout = small(b, 7);
    d->algorithm = small(b, RONDO_MESH + 1);
    d->leaf = 8 << small(b, 3);
    d->head_groups = byte_of(b) % 4 ? 0 : (int32_t)d->kv_heads;
    if (byte_of(b) % 4 == 0 && (d->algorithm == RONDO_MESH || d->algorithm == RONDO_ALL_TO_ALL)) {
        d->grid[0] = 1 + small(b, ranks);
        while (ranks % d->grid[0])
            d->grid[0]++;
        d->grid[1] = ranks / d->grid[0];
    }
    for (int i = 0; i < KEYS && d->layout == RONDO_CUSTOM; i++)
        owners[i] = i && byte_of(b) % 3 ? owners[i - 1] : small(b, ranks);
    d->owners = d->layout == RONDO_CUSTOM ? owners : NULL;
    d->softcap = byte_of(b) % 4 ? 0.0 : 30.0;
    d->alibi = small(b, 2);
    d->bias = small(b, 2);
    d->sinks = small(b, 2);
    d->probs = byte_of(b) % 4 == 0;
    d->probs_first = d->probs ? small(b, 9) : 0;
    d->probs_count = d->probs ? small(b, 40) : 0;
    d->dropout = byte_of(b) % 4 ? 0.0 : 0.25;
    d->shared_kv = byte_of(b) % 8 == 0;
    if (byte_of(b) % 3 == 0) {
        for (int k = 0, left = 0, id = 0; k < 2 * KEYS; k++, left--) {
            id = left > 0 ? id : byte_of(b) & 1 ? small(b, 3) : id + 1;
            left = left > 0 ? left : 1 + small(b, 64);
            documents[k] = id;
        }
        d->documents = documents;
        d->documents_first = documents_first;
    }
    if (byte_of(b) % 3 == 0) {
        for (size_t i = 0; i < sizeof mask && !mask[sizeof mask - 1]; i++)   /* runs of 37 keys, hidden, seen, mixed */
            mask[i] = (uint8_t)(i + 1 == sizeof mask ? 1 : (i / 37 * 2654435761u >> 7) % 3 == 2 ? i * 40503u >> 5 & 1 : (i / 37 * 2654435761u >> 7) % 3);
        d->mask = mask + byte_of(b);
        d->mask_heads = byte_of(b) & 1 ? 1 : d->heads;
        d->mask_row_stride = KEYS;
        d->mask_head_stride = d->mask_heads > 1 ? small(b, 100) : 0;
        d->mask_row = mask_row;
        d->mask_key = mask_key;
    }
}

/* One field becomes anything; those that say how far arrays are read only what cannot be. */
static void twist(struct bytes *b, rondo_attention_desc *d)
{
    const int64_t x = any_number(b);
    const int32_t y = (int32_t)x;
    const int64_t bad = x >= 0 && x <= (int64_t)1 << 50 ? -1 - x : x;
    switch (byte_of(b) % 40) {
    case 0: d->heads = x; break;
    case 1: d->kv_heads = x; break;
    case 2: d->head_dim = x; break;
    case 3: d->value_dim = x; break;
    case 4: d->sequences = bad > 0 ? bad : -1; break;
    case 5: tokens[byte_of(b) % SEQUENCES] = bad; break;
    case 6: cached[byte_of(b) % SEQUENCES] = x > 0 && x <= (int64_t)1 << 50 ? -x : x; break;
    case 7: d->causal = y; break;
    case 8: d->windowed = y; break;
    case 9: d->window_left = x; break;
    case 10: d->window_right = x; break;
    case 11: d->scale = (double)x; break;
    case 12: d->q_type = y; break;
    case 13: d->kv_type = y; break;
    case 14: d->out_type = y; break;
    case 15: d->layout = y; break;
    case 16: d->algorithm = y; break;
    case 17: d->arithmetic = y; break;
    case 18: d->level = y; break;
    case 19: d->leaf = y; break;
    case 20: d->head_groups = y; break;
    case 21: d->placement_sequences = names; break;
    case 22: d->grid[byte_of(b) & 1] = y; break;
    case 23: d->owners = d->owners ? NULL : owners; break;
    case 24: owners[byte_of(b)] = y; break;
    case 25: d->softcap = (double)x; break;
    case 26: d->alibi = y; break;
    case 27: d->bias = y; break;
    case 28: d->sinks = y; break;
    case 29: d->probs = y; break;
    case 30: d->probs_first = x; break;
    case 31: d->probs_count = x; break;
    case 32: d->dropout = (double)x / 1e18; break;
    case 33: documents_first[byte_of(b) % SEQUENCES] = bad; break;
    case 34: d->mask_heads = x; break;
    case 35: d->mask_row_stride = bad > 0 ? bad : -1; break;
    case 36: d->mask_head_stride = bad > 0 ? bad : -1; break;
    case 37: mask_row[byte_of(b) % SEQUENCES] = bad; break;
    case 38: mask_key[byte_of(b) % SEQUENCES] = bad; break;
    default: d->gradients = y; break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bytes b = { data, data + size };
    rondo_schedule_desc where = RONDO_SCHEDULE_DESC_INIT;
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
    rondo_schedule_info info = RONDO_SCHEDULE_INFO_INIT;
    rondo_schedule *s = NULL;
    where.ranks = 1 + small(&b, 7);
    const uint32_t twists = byte_of(&b) % 4;
    sane(&b, &d, where.ranks);
    for (uint32_t i = 0; i < twists; i++)
        twist(&b, &d);
    if (byte_of(&b) % 4 == 1) {
        where.backward = d.gradients = 1;
        d.algorithm = byte_of(&b) % 8 ? RONDO_ALGORITHM_AUTO : d.algorithm;   /* gradients come by some algorithms only */
    }
    int err = rondo_schedule_create(&s, &where, &d);
    if (err) {
        if (s || !*rondo_error_text() || (err != RONDO_EINVAL && err != RONDO_ENOTSUP && err != RONDO_ENOMEM))
            abort();
        return 0;
    }
    if (rondo_schedule_query(s, &info) || rondo_schedule_check(s, NULL, NULL))
        abort();
    for (int r = 0; r < where.ranks; r++) {
        rondo_schedule_rank_info rank = RONDO_SCHEDULE_RANK_INFO_INIT;
        char line[300];
        if (rondo_schedule_rank(s, r, &rank))
            abort();
        for (int64_t i = 0; i < rank.operations; i++)
            if (rondo_schedule_operation_text(s, r, i, line, sizeof line) < 1)
                abort();
    }
    rondo_schedule_destroy(s);
    return 0;
}
