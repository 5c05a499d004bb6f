/* SPDX-License-Identifier: BSD-2-Clause
 *
 * An arbitrary mask, as bits: what a query sees is what the caller's array shows of what the interval and the documents show. The three are
 * put together once, when the plan is made, into tiles of 64 queries by one leaf of keys. A tile of which all is hidden, or all is seen, is
 * a number and no bits; so the diagonal of a causal mask has bits and the rest is as cheap as a mask that is no array. What is stored for
 * each query besides - which leaves it sees some of, and which whole - answers most questions without looking at a tile.
 *
 * What it takes: 4 bytes a tile, keys * queries / 8 bytes at most for tiles with bits, for each head that the mask tells apart, and two bits
 * for each query and leaf.
 */
#include "attention/mask/mask.h"

/* ---- finding things ---- */

static const struct rondo__bits_of *of(const struct rondo_mask *mask, int64_t sequence)
{
    return mask->data->bits.sequence + sequence;
}

static int32_t tile_of(const struct rondo_mask *mask, const struct rondo__bits_of *s, int64_t head, int64_t query, int64_t leaf)
{
    return mask->data->bits.tile[s->tiles + (head * s->blocks + query / RONDO_BITS_ROWS) * s->leaves + leaf];
}

/* The bytes of a query in a stored tile. */
static const uint8_t *stored(const struct rondo_mask *mask, int32_t tile, int64_t query)
{
    const size_t bytes = (size_t)mask->data->leaf / 8;
    return mask->data->bits.bits + ((size_t)(tile - RONDO_TILE_STORED) * RONDO_BITS_ROWS + (size_t)(query % RONDO_BITS_ROWS)) * bytes;
}

static int64_t head_of(const struct rondo_mask *mask, int64_t head)
{
    return mask->heads > 1 ? head : 0;
}

/* Keys of a leaf of [k0, k1), as bits of it: [*a, *b). */
static void range_in(const struct rondo_mask *mask, int64_t leaf, int64_t k0, int64_t k1, int64_t *a, int64_t *b)
{
    const int64_t first = leaf * mask->data->leaf;
    *a = k0 > first ? k0 - first : 0;
    *b = k1 - first < mask->data->leaf ? k1 - first : mask->data->leaf;
}

/* Bits [a, b) of a row of bytes: how many are set. */
static int64_t count_bits(const uint8_t *row, int64_t a, int64_t b)
{
    int64_t n = 0;
    for (int64_t i = a / 8; i * 8 < b; i++) {
        unsigned byte = row[i];
        if (a > i * 8)
            byte &= 0xffu << (a - i * 8);
        if (b < i * 8 + 8)
            byte &= (1u << (b - i * 8)) - 1;
        n += __builtin_popcount(byte);
    }
    return n;
}

/* How many keys of [k0, k1), all of one leaf, a query sees. */
static int64_t seen_in_leaf(const struct rondo_mask *mask, const struct rondo__bits_of *s, int64_t head, int64_t query, int64_t k0, int64_t k1)
{
    const int64_t leaf = k0 / mask->data->leaf;
    const int32_t tile = tile_of(mask, s, head, query, leaf);
    int64_t a, b;
    range_in(mask, leaf, k0, k1, &a, &b);
    return tile == RONDO_TILE_NONE ? 0 : tile == RONDO_TILE_ALL ? b - a : count_bits(stored(mask, tile, query), a, b);
}

/* The queries of a span that there are: numbers *i0 to *i1 - 1 of it. */
static void queries_of(const struct rondo__bits_of *s, const rondo_span *queries, int64_t *i0, int64_t *i1)
{
    rondo__span_inside(queries, s->cached, s->cached + s->tokens - 1, i0, i1);
}

/* ---- the questions ---- */

/* Word w of the leaves of which a query of the span sees something. */
static uint64_t any_word(const struct rondo_mask *mask, const struct rondo__bits_of *s, const rondo_span *queries, int64_t i0, int64_t i1, int64_t w)
{
    const uint64_t *some = mask->data->bits.some + s->some + w;
    uint64_t all = 0;
    for (int64_t i = i0; i < i1 && ~all; i++)
        all |= some[(queries->first + i * queries->step - s->cached) * s->words];
    return all;
}

/* The first leaf from `leaf` on, below `end`, of which a query of the span sees something (sees) or nothing; `end`: there is none. */
static int64_t find_leaf(const struct rondo_mask *mask, const struct rondo__bits_of *s, const rondo_span *queries, int64_t i0, int64_t i1,
                         int64_t leaf, int64_t end, bool sees)
{
    while (leaf < end) {
        uint64_t word = any_word(mask, s, queries, i0, i1, leaf / 64);
        word = (sees ? word : ~word) >> (leaf % 64);
        if (word) {
            leaf += __builtin_ctzll(word);
            return leaf < end ? leaf : end;
        }
        leaf = (leaf / 64 + 1) * 64;
    }
    return end;
}

/* Whether a query sees some of [k0, k1), all of one leaf, in a head; *all: each of them in every head. */
static bool sees_part(const struct rondo_mask *mask, const struct rondo__bits_of *s, int64_t query, int64_t k0, int64_t k1, bool *all)
{
    bool some = false;
    for (int64_t h = 0; h < mask->heads; h++) {
        const int64_t n = seen_in_leaf(mask, s, h, query, k0, k1);
        some |= n > 0;
        *all &= n == k1 - k0;
    }
    return some;
}

/* The same of queries of a span. */
static bool edge(const struct rondo_mask *mask, const struct rondo__bits_of *s, const rondo_span *queries, int64_t i0, int64_t i1, int64_t k0,
                 int64_t k1, bool *all)
{
    bool some = false;
    for (int64_t i = i0; i < i1 && k0 < k1 && (*all || !some); i++)
        some |= sees_part(mask, s, queries->first + i * queries->step - s->cached, k0, k1, all);
    return some;
}

static bool whole_leaves(const struct rondo_mask *mask, const struct rondo__bits_of *s, const rondo_span *queries, int64_t i0, int64_t i1,
                         int64_t leaf, int64_t end)
{
    for (int64_t w = leaf / 64; w * 64 < end; w++) {
        uint64_t want = ~(uint64_t)0;
        if (leaf > w * 64)
            want &= ~(uint64_t)0 << (leaf - w * 64);
        if (end < w * 64 + 64)
            want &= ((uint64_t)1 << (end - w * 64)) - 1;
        for (int64_t i = i0; i < i1; i++)
            if (~mask->data->bits.whole[s->some + (queries->first + i * queries->step - s->cached) * s->words + w] & want)
                return false;
    }
    return true;
}

static int view(const struct rondo_mask *mask, int64_t sequence, const rondo_span *queries, int64_t k0, int64_t k1, int64_t *lo, int64_t *hi)
{
    const struct rondo__bits_of *s = of(mask, sequence);
    const int64_t size = mask->data->leaf, keys_end = k1 < s->keys ? k1 : s->keys;
    int64_t i0, i1, first, end;
    *lo = *hi = k0;
    queries_of(s, queries, &i0, &i1);
    if (k0 >= keys_end || i0 >= i1)
        return RONDO_MASK_NONE;
    /* leaves [first, end) lie inside; what is left at the two edges is looked at key by key */
    first = (k0 + size - 1) / size;
    end = keys_end == s->keys ? s->leaves : keys_end / size;
    bool all = i0 == 0 && i1 == queries->count && keys_end == k1, some = false;
    const int64_t head = first * size < keys_end ? first * size : keys_end;   /* [k0, head) is of the leaf before `first` */
    if (edge(mask, s, queries, i0, i1, k0, head, &all))
        some = true;
    if (first < end) {
        const int64_t found = find_leaf(mask, s, queries, i0, i1, first, end, true);
        *lo = some ? k0 : found * size;
        some |= found < end;
        all = all && whole_leaves(mask, s, queries, i0, i1, first, end);
    }
    if (end >= first && end * size < keys_end && edge(mask, s, queries, i0, i1, end * size, keys_end, &all)) {
        *lo = some ? *lo : end * size;
        some = true;
    }
    if (!some) {
        *lo = k0;
        return RONDO_MASK_NONE;
    }
    *hi = k1;
    return all ? RONDO_MASK_ALL : RONDO_MASK_PART;
}

/* Whole leaves: a device may look at all keys of a leaf of which a query sees some. */
static bool next(const struct rondo_mask *mask, int64_t sequence, const rondo_span *queries, int64_t k0, int64_t k1, int64_t *lo, int64_t *hi)
{
    const struct rondo__bits_of *s = of(mask, sequence);
    const int64_t size = mask->data->leaf, keys_end = k1 < s->keys ? k1 : s->keys;
    int64_t i0, i1;
    queries_of(s, queries, &i0, &i1);
    if (k0 >= keys_end || i0 >= i1)
        return false;
    const int64_t end = (keys_end - 1) / size + 1;
    const int64_t leaf = find_leaf(mask, s, queries, i0, i1, k0 / size, end, true);
    if (leaf == end)
        return false;
    const int64_t after = find_leaf(mask, s, queries, i0, i1, leaf, end, false);
    *lo = leaf * size > k0 ? leaf * size : k0;
    *hi = after * size < keys_end ? after * size : keys_end;
    return true;
}

/* Of the base's interval the leaves that the query sees. */
static void row(const struct rondo_mask *mask, int64_t sequence, int64_t p, int64_t *lo, int64_t *hi)
{
    const struct rondo__bits_of *s = of(mask, sequence);
    const int64_t size = mask->data->leaf;
    int64_t a = 0, b = s->words;
    *lo = *hi = 0;
    if (p < s->cached || p >= s->cached + s->tokens)
        return;
    const uint64_t *some = mask->data->bits.some + s->some + (p - s->cached) * s->words;
    while (a < b && !some[a])
        a++;
    while (b > a && !some[b - 1])
        b--;
    if (a == b)
        return;
    mask->data->base.kind->row(&mask->data->base, sequence, p, lo, hi);
    a = (a * 64 + __builtin_ctzll(some[a])) * size;
    b = (b * 64 - __builtin_clzll(some[b - 1])) * size;
    b = b < s->keys ? b : s->keys;
    *lo = *lo > a ? *lo : a;
    *hi = *hi < b ? *hi : b;
}

static void bits(const struct rondo_mask *mask, int64_t sequence, int64_t head, int64_t p, int64_t k0, int64_t step, int32_t count, uint64_t out[4])
{
    const struct rondo__bits_of *s = of(mask, sequence);
    const int64_t size = mask->data->leaf, query = p - s->cached, h = head_of(mask, head);
    memset(out, 0, 4 * sizeof *out);
    if (query < 0 || query >= s->tokens)
        return;
    if (step > 1) {
        for (int32_t i = 0; i < count; i++)
            out[i / 64] |= (uint64_t)seen_in_leaf(mask, s, h, query, k0 + i * step, k0 + i * step + 1) << (i % 64);
        return;
    }
    for (int64_t k = k0, end = k0 + count, to; k < end; k = to) {
        const int64_t leaf = k / size;
        const int32_t tile = tile_of(mask, s, h, query, leaf);
        to = (leaf + 1) * size < end ? (leaf + 1) * size : end;
        if (tile == RONDO_TILE_ALL)
            rondo__mask_set(out, k - k0, to - k0);
        if (tile < RONDO_TILE_STORED)
            continue;
        const uint8_t *row_bytes = stored(mask, tile, query);
        if (k == leaf * size && (k - k0) % 8 == 0) {   /* the usual: byte by byte, and what is there of the last */
            for (int64_t i = 0; i * 8 < to - k; i++) {
                const int64_t left = to - k - i * 8, at = (k - k0) / 8 + i;
                const uint64_t byte = left < 8 ? row_bytes[i] & ((1u << left) - 1) : row_bytes[i];
                out[at / 8] |= byte << (at % 8 * 8);
            }
            continue;
        }
        for (int64_t i = k; i < to; i++)
            out[(i - k0) / 64] |= (uint64_t)(row_bytes[(i - leaf * size) / 8] >> ((i - leaf * size) % 8) & 1) << ((i - k0) % 64);
    }
}

/* ---- pairs ---- */

/* Of queries [q0, q1), step after step, all of one block, and the keys of a span that lie in a leaf. */
static uint64_t pairs_of_tile(const struct rondo_mask *mask, const struct rondo__bits_of *s, int64_t head, int64_t q0, int64_t q1, int64_t step,
                              const rondo_span *keys)
{
    const int64_t size = mask->data->leaf, leaf = keys->first / size;
    const int32_t tile = tile_of(mask, s, head, q0, leaf);
    if (tile == RONDO_TILE_NONE)
        return 0;
    if (tile == RONDO_TILE_ALL)
        return (uint64_t)((q1 - 1 - q0) / step + 1) * (uint64_t)keys->count;
    uint64_t sum = 0;
    for (int64_t q = q0; q < q1; q += step) {
        const uint8_t *bytes = stored(mask, tile, q);
        int64_t at = keys->first - leaf * size;
        if (keys->step == 1 || keys->count == 1)
            sum += (uint64_t)count_bits(bytes, at, at + keys->count);
        else
            for (int64_t i = 0; i < keys->count; i++, at += keys->step)
                sum += bytes[at / 8] >> (at % 8) & 1;
    }
    return sum;
}

static uint64_t head_pairs(const struct rondo_mask *mask, int64_t sequence, int64_t head, const rondo_span *queries, const rondo_span *keys)
{
    const struct rondo__bits_of *s = of(mask, sequence);
    const int64_t size = mask->data->leaf;
    int64_t i0, i1, k0, k1;
    uint64_t sum = 0;
    queries_of(s, queries, &i0, &i1);
    rondo__span_inside(keys, 0, s->keys - 1, &k0, &k1);
    for (int64_t i = i0, i_next; i < i1; i = i_next) {
        const int64_t query = queries->first + i * queries->step - s->cached, block_end = (query / RONDO_BITS_ROWS + 1) * RONDO_BITS_ROWS;
        i_next = i + (block_end - 1 - query) / queries->step + 1;
        i_next = i_next < i1 ? i_next : i1;
        const int64_t last = query + (i_next - 1 - i) * queries->step;
        for (int64_t k = k0, k_next; k < k1; k = k_next) {
            const int64_t key = keys->first + k * keys->step, leaf_end = (key / size + 1) * size;
            k_next = k + (leaf_end - 1 - key) / keys->step + 1;
            k_next = k_next < k1 ? k_next : k1;
            const rondo_span here = { key, k_next - k, keys->step, 0 };
            sum += pairs_of_tile(mask, s, head_of(mask, head), query, last + 1, queries->step, &here);
        }
    }
    return sum;
}

static uint64_t pairs(const struct rondo_mask *mask, int64_t sequence, const rondo_span *queries, const rondo_span *keys)
{
    uint64_t sum = 0;
    for (int64_t h = 0; h < mask->heads; h++)
        sum += head_pairs(mask, sequence, h, queries, keys);
    return sum;
}

const struct rondo_mask_kind rondo__mask_boolean = { "boolean", RONDO_MASK_BOOLEAN, 0, view, next, row, bits, pairs,
                                                     head_pairs };

/* ---- making it ---- */

/* A query's row of the caller's array, from key 0 of the sequence on. */
struct array {
    const uint8_t *at;
    int64_t row_stride, head_stride;
};

/* Bits of `count` keys of the array, into bytes: 1 where it is not 0. */
static void read_bits(const uint8_t *from, int64_t count, uint8_t *to)
{
    const uint64_t low = 0x7f7f7f7f7f7f7f7fu;
    for (; count >= 8; count -= 8, from += 8, to++) {
        uint64_t x = 0;
        for (int i = 0; i < 8; i++)
            x |= (uint64_t)from[i] << (8 * i);
        x = (((x & low) + low) | x) & ~low;   /* the top bit of each byte that is not 0 */
        *to = (uint8_t)((x >> 7) * 0x0102040810204080u >> 56);
    }
    if (count > 0) {
        unsigned byte = 0;
        for (int64_t i = 0; i < count; i++)
            byte |= (unsigned)(from[i] != 0) << i;
        *to = (uint8_t)byte;
    }
}

struct maker {
    struct rondo_mask_data *data;
    struct rondo__bits_of *s;
    int64_t sequence, heads, tile_bytes;
    uint8_t tile[RONDO_BITS_ROWS * 32];
};

/* What the base lets a query see of keys [k0, k0 + count), as bytes; false: nothing. */
static bool base_bits(const struct maker *m, int64_t head, int64_t p, int64_t k0, int64_t count, uint8_t *to)
{
    const struct rondo_mask *base = &m->data->base;
    uint64_t words[4] = { 0 };
    int64_t lo, hi;
    if (base->kind->bits) {
        base->kind->bits(base, m->sequence, head, p, k0, 1, (int32_t)count, words);
    } else {
        base->kind->row(base, m->sequence, p, &lo, &hi);
        lo = lo > k0 ? lo : k0;
        hi = hi < k0 + count ? hi : k0 + count;
        if (lo < hi)
            rondo__mask_set(words, lo - k0, hi - k0);
    }
    for (int64_t i = 0; i < m->data->leaf / 8; i++)
        to[i] = (uint8_t)(words[i / 8] >> (i % 8 * 8));
    return words[0] | words[1] | words[2] | words[3];
}

/* One tile: queries [q0, q1) and a leaf. false: no memory. */
static bool make_tile(struct maker *m, const struct array *a, int64_t head, int64_t q0, int64_t q1, int64_t leaf)
{
    struct rondo__bits *b = &m->data->bits;
    const struct rondo__bits_of *s = m->s;
    const int64_t size = m->data->leaf, row_bytes = size / 8, k0 = leaf * size, count = s->keys - k0 < size ? s->keys - k0 : size;
    int32_t *tile = b->tile + s->tiles + (head * s->blocks + q0 / RONDO_BITS_ROWS) * s->leaves + leaf;
    const rondo_span queries = { s->cached + q0, q1 - q0, 1, 0 };
    const uint64_t bit = (uint64_t)1 << (leaf % 64);
    int64_t lo, hi, full = 0, seen = 0;
    const int base = m->data->base.kind->view(&m->data->base, m->sequence, &queries, k0, k0 + count, &lo, &hi);
    *tile = RONDO_TILE_NONE;
    if (base == RONDO_MASK_NONE)
        return true;
    memset(m->tile, 0, sizeof m->tile);
    for (int64_t q = q0; q < q1; q++) {
        uint8_t *to = m->tile + (q - q0) * row_bytes, shown[32];
        int64_t n = 0;
        if (base == RONDO_MASK_ALL || base_bits(m, head, s->cached + q, k0, count, shown)) {
            read_bits(a->at + q * a->row_stride + head * a->head_stride + k0, count, to);
            for (int64_t i = 0; i < row_bytes && base != RONDO_MASK_ALL; i++)
                to[i] &= shown[i];
            n = count_bits(to, 0, count);
        }
        const int64_t word = s->some + q * s->words + leaf / 64;
        b->some[word] |= n ? bit : 0;
        if (n < count)
            b->whole[word] &= ~bit;
        else if (head == 0)
            b->whole[word] |= bit;
        full += n == count;
        seen += n;
    }
    if (full == q1 - q0)
        *tile = RONDO_TILE_ALL;
    if (!seen || full == q1 - q0)
        return true;
    if (b->stored >= INT32_MAX - RONDO_TILE_STORED)
        return false;
    void *stored_at = rondo__list_add(&m->data->stored_room, 1, m->tile_bytes);
    if (!stored_at)
        return false;
    memcpy(stored_at, m->tile, (size_t)m->tile_bytes);
    *tile = RONDO_TILE_STORED + (int32_t)b->stored++;
    return true;
}

static bool make_sequence(struct maker *m, const struct array *a)
{
    const struct rondo__bits_of *s = m->s;
    for (int64_t h = 0; h < m->heads; h++)
        for (int64_t q0 = 0; q0 < s->tokens; q0 += RONDO_BITS_ROWS)
            for (int64_t leaf = 0; leaf < s->leaves; leaf++)
                if (!make_tile(m, a, h, q0, s->tokens - q0 < RONDO_BITS_ROWS ? s->tokens : q0 + RONDO_BITS_ROWS, leaf))
                    return false;
    return true;
}

static int no_memory(void)
{
    return rondo__fail(RONDO_ENOMEM, "rondo_attention_create: no memory for the bits of the mask");
}

/* Where each sequence's tiles and words lie; false: more than can be. */
static bool lay_out(struct rondo_mask_data *data, int64_t heads, const int64_t *tokens, const int64_t *cached)
{
    struct rondo__bits *b = &data->bits;
    for (int64_t i = 0; i < data->sequences; i++) {
        struct rondo__bits_of *s = b->sequence + i;
        const int64_t keys = cached[i] + tokens[i];
        int64_t more;
        *s = (struct rondo__bits_of){ .cached = cached[i], .tokens = tokens[i], .keys = keys > 0 ? keys : 0 };
        s->leaves = (s->keys + data->leaf - 1) / data->leaf;
        s->blocks = (s->tokens + RONDO_BITS_ROWS - 1) / RONDO_BITS_ROWS;
        s->words = (s->leaves + 63) / 64;
        s->tiles = b->tiles;
        s->some = b->words;
        if (!rondo__mul64(heads * s->blocks, s->leaves, &more) || !rondo__add64(b->tiles, more, &b->tiles) ||
            !rondo__mul64(s->tokens, s->words, &more) || !rondo__add64(b->words, more, &b->words))
            return false;
    }
    return (uint64_t)b->tiles <= SIZE_MAX / 8 && (uint64_t)b->words <= SIZE_MAX / 32;
}

int rondo__bits_make(struct rondo_mask_data *data, const rondo_attention_desc *d, const int64_t *tokens, const int64_t *cached)
{
    struct rondo__bits *b = &data->bits;
    struct maker m = { .data = data, .heads = d->mask_heads > 1 ? d->mask_heads : 1, .tile_bytes = (int64_t)RONDO_BITS_ROWS * data->leaf / 8 };
    const bool again = data->stored_room.items;
    b->sequence = rondo__list_set(&data->bits_of_room, sizeof *b->sequence, data->sequences);
    if (!b->sequence || !lay_out(data, m.heads, tokens, cached))
        return no_memory();
    b->tile = rondo__list_set(&data->tile_room, sizeof *b->tile, b->tiles);
    b->some = rondo__list_set(&data->some_room, 2 * sizeof *b->some, b->words);
    bool fine = b->tile && b->some;
    if (fine) {
        b->whole = b->some + b->words;
        memset(b->tile, 0, (size_t)b->tiles * sizeof *b->tile);
        memset(b->some, 0, (size_t)b->words * 2 * sizeof *b->some);
    }
    int64_t packed = 0;
    for (int64_t i = 0; i < data->sequences && fine; i++) {
        const struct array a = { d->mask + (d->mask_row ? d->mask_row[i] : packed) * d->mask_row_stride + (d->mask_key ? d->mask_key[i] : 0),
                                 d->mask_row_stride, d->mask_head_stride };
        m.s = b->sequence + i;
        m.sequence = i;
        fine = make_sequence(&m, &a);
        packed += tokens[i];
    }
    struct rondo__list *stored = &data->stored_room;
    if (fine && stored->count && !again) {   /* no more than is needed, until there is a second one */
        void *exact = rondo__resize(stored->items, (size_t)stored->count, (size_t)stored->count);
        stored->items = exact ? exact : stored->items;
        stored->room = exact ? stored->count : stored->room;
    }
    b->bits = stored->items;
    return fine ? 0 : no_memory();
}
