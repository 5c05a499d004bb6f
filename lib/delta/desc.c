/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A design of the delta rule: the descriptor checked and filled in, and who has which tokens. The same on every rank, without a message. Called by
 * plan.c and by tests that prove things about all ranks together.
 */
#include "delta/delta.h"

static int check_numbers(const rondo_delta_desc *d)
{
    if (d->heads < 1 || d->heads > INT32_MAX)
        return rondo__fail(RONDO_EINVAL, "rondo_delta_create: heads is %lld; it takes 1 to %d", (long long)d->heads, INT32_MAX);
    if (d->key_heads < 1 || d->heads % d->key_heads)
        return rondo__fail(RONDO_EINVAL, "rondo_delta_create: heads is %lld and key_heads %lld; heads must be a multiple of key_heads",
                           (long long)d->heads, (long long)d->key_heads);
    if (d->key_dim < 1 || d->key_dim > RONDO_DELTA_DIM || d->value_dim < 1 || d->value_dim > RONDO_DELTA_DIM)
        return rondo__fail(RONDO_EINVAL, "rondo_delta_create: key_dim is %lld and value_dim %lld; they take 1 to %d", (long long)d->key_dim,
                           (long long)d->value_dim, RONDO_DELTA_DIM);
    if (d->gate_dim != 1 && d->gate_dim != d->key_dim)
        return rondo__fail(RONDO_EINVAL, "rondo_delta_create: gate_dim is %lld; it is key_dim, here %lld, or 1", (long long)d->gate_dim,
                           (long long)d->key_dim);
    if (d->sequences < 1 || d->tokens < 0)
        return rondo__fail(RONDO_EINVAL, "rondo_delta_create: %lld sequences of %lld tokens; there is 1 sequence or more, and tokens are not negative",
                           (long long)d->sequences, (long long)d->tokens);
    if (d->scale - d->scale != 0.0 || d->scale <= 0.0)
        return rondo__fail(RONDO_EINVAL, "rondo_delta_create: scale is %g; it must be positive and finite, 0 is 1 / sqrt(key_dim)", d->scale);
    return 0;
}

static int check_types(const rondo_delta_desc *d)
{
    const int32_t types[] = { d->type, d->gate_type, d->beta_type, d->out_type };
    static const char *const names[] = { "type", "gate_type", "beta_type", "out_type" };
    for (int i = 0; i < 4; i++)
        if (types[i] != RONDO_F32 && types[i] != RONDO_BF16 && types[i] != RONDO_F16)
            return rondo__fail(RONDO_EINVAL, "rondo_delta_create: %s is %d; it takes RONDO_F32, RONDO_BF16 and RONDO_F16", names[i], (int)types[i]);
    return 0;
}

static int check_rule(const rondo_delta_desc *d)
{
    if (d->gate < RONDO_GATE_LOG || d->gate > RONDO_GATE_BOUNDED)
        return rondo__fail(RONDO_EINVAL, "rondo_delta_create: gate is %d; it takes RONDO_GATE_LOG, RONDO_GATE_SOFTPLUS and RONDO_GATE_BOUNDED",
                           (int)d->gate);
    if (d->beta < RONDO_BETA_PLAIN || d->beta > RONDO_BETA_SIGMOID2)
        return rondo__fail(RONDO_EINVAL, "rondo_delta_create: beta is %d; it takes RONDO_BETA_PLAIN, RONDO_BETA_SIGMOID and RONDO_BETA_SIGMOID2",
                           (int)d->beta);
    if (d->gate == RONDO_GATE_BOUNDED && !(d->lower_bound < 0.0 && d->lower_bound >= -1000.0))
        return rondo__fail(RONDO_EINVAL, "rondo_delta_create: lower_bound is %g; a bounded gate takes one from -1000 up to, not with, 0", d->lower_bound);
    if (d->gate != RONDO_GATE_BOUNDED && d->lower_bound != 0.0)
        return rondo__fail(RONDO_EINVAL, "rondo_delta_create: lower_bound is %g, which only a bounded gate has; leave it 0, or take "
                                         "RONDO_GATE_BOUNDED", d->lower_bound);
    if ((d->norm | d->initial_state | d->final_state) & ~1)
        return rondo__fail(RONDO_EINVAL, "rondo_delta_create: norm is %d, initial_state %d and final_state %d; each is 0 or 1", (int)d->norm,
                           (int)d->initial_state, (int)d->final_state);
    if (d->way == RONDO_DELTA_AFFINE || d->way == RONDO_DELTA_LEGACY ? d->tile < 1 : d->tile != 0)
        return rondo__fail(RONDO_EINVAL, "rondo_delta_create: tile is %lld; RONDO_DELTA_AFFINE takes 1 or more, 0 is %d, RONDO_DELTA_LEGACY 1 or more, "
                                         "as rondo_delta_legacy() says, and other ways have none",
                           (long long)d->tile, RONDO_DELTA_TILE);
    if (!(d->tolerance >= 0.0 && d->tolerance <= 1.0) || (d->tolerance > 0.0 && d->way != RONDO_DELTA_AFFINE))
        return rondo__fail(RONDO_EINVAL, "rondo_delta_create: tolerance is %g; RONDO_DELTA_AFFINE takes 0 to 1, and other ways have none, 0", d->tolerance);
    if (d->gradients & ~1)
        return rondo__fail(RONDO_EINVAL, "rondo_delta_create: gradients is %d; it is 0 or 1", (int)d->gradients);
    if (d->gradients && (d->tolerance > 0.0 || d->way == RONDO_DELTA_LEGACY))
        return rondo__fail(RONDO_ENOTSUP, "rondo_delta_create: gradients are those of the whole rule: a plan that %s has none; take a tolerance of 0, or "
                                          "another way", d->way == RONDO_DELTA_LEGACY ? "cuts states as legacy does" : "has a tolerance");
    if (d->chunk != 0 && d->chunk != 16 && d->chunk != 32 && d->chunk != 64)
        return rondo__fail(RONDO_EINVAL, "rondo_delta_create: chunk is %d; it takes 16, 32 and 64, and 0 is token by token", (int)d->chunk);
    if (d->chunk && d->tile % d->chunk)
        return rondo__fail(RONDO_EINVAL, "rondo_delta_create: tile is %lld and chunk %d; tiles must be whole chunks", (long long)d->tile, (int)d->chunk);
    if (d->chunk && d->gradients)
        return rondo__fail(RONDO_ENOTSUP, "rondo_delta_create: chunk is %d, and in chunks there are no gradients; 0, token by token, has them",
                           (int)d->chunk);
    if (d->reserved)
        return rondo__fail(RONDO_EINVAL, "rondo_delta_create: reserved is %d; it must be 0", (int)d->reserved);
    if (d->way < RONDO_DELTA_AUTO || d->way > RONDO_DELTA_LEGACY)
        return rondo__fail(RONDO_EINVAL, "rondo_delta_create: way is %d; rondo_delta_way has those that there are", (int)d->way);
    return 0;
}

/* ---- lists ---- */

static int set_sequences(struct rondo__delta_design *p, const rondo_delta_desc *d)
{
    const int64_t n = p->desc.sequences;
    for (int64_t i = 0; i <= n; i++) {
        if (d->cu_seqlens)
            p->cu[i] = d->cu_seqlens[i];
        else if (!rondo__mul64(i, p->desc.tokens, &p->cu[i]))
            return rondo__fail(RONDO_EINVAL, "rondo_delta_create: %lld sequences of %lld tokens are more than can be counted", (long long)n,
                               (long long)p->desc.tokens);
        if (p->cu[i] < (i ? p->cu[i - 1] : 0) || (!i && p->cu[0]))
            return rondo__fail(RONDO_EINVAL, "rondo_delta_create: cu_seqlens[%lld] is %lld; the list must begin with 0 and not descend", (long long)i,
                               (long long)p->cu[i]);
    }
    p->rows = p->cu[n];
    return 0;
}

/* Where there are tiles, segments or chunks, ranks have whole ones: where the one begins that a row is in, or the next one if that is nearer. */
static int64_t grain_at(const struct rondo__delta_design *p, int64_t row)
{
    const int64_t n = row < p->rows ? rondo__delta_sequence(p, row) : 0, grain = rondo__delta_grain(p);
    if (grain == 1 || row >= p->rows)
        return row;
    const int64_t begins = p->cu[n] + (row - p->cu[n]) / grain * grain, left = p->cu[n + 1] - begins, ends = begins + (left < grain ? left : grain);
    return row - begins <= ends - row ? begins : ends;
}

static int set_shares(struct rondo__delta_design *p, const rondo_delta_desc *d)
{
    for (int32_t r = 0; r <= p->ranks; r++) {
        int64_t first = p->rows, count;
        if (d->shares)
            first = d->shares[r];
        else if (r < p->ranks && rondo_share(p->rows, p->ranks, NULL, r, &first, &count))
            return RONDO_EINVAL;
        if (d->shares && first >= 0 && first <= p->rows && grain_at(p, first) != first)
            return rondo__fail(RONDO_EINVAL, "rondo_delta_create: shares[%d] is %lld, inside a %s; ranks have whole ones where there are any, here of "
                                             "%lld tokens from each sequence's first on", (int)r, (long long)first,
                               rondo__delta_tiled(p) ? "tile" : "chunk", (long long)rondo__delta_grain(p));
        first = d->shares ? first : grain_at(p, first);
        p->begin[r] = first;
        if (first < (r ? p->begin[r - 1] : 0) || (!r && first) || (r == p->ranks && first != p->rows))
            return rondo__fail(RONDO_EINVAL, "rondo_delta_create: shares[%d] is %lld; the list must begin with 0, not descend, and end with the "
                                             "number of tokens, here %lld", (int)r, (long long)first, (long long)p->rows);
    }
    return 0;
}

/* Whether a checkpoint lies between chunks, where states are. */
static bool between(const struct rondo__delta_design *p, int64_t position)
{
    const int64_t row = p->packed && position < p->rows ? rondo__delta_sequence(p, position) : 0, most = p->packed ? p->rows : p->desc.tokens;
    return !p->desc.chunk || position == most || (position - (p->packed ? p->cu[row] : 0)) % p->desc.chunk == 0;
}

static int set_checkpoints(struct rondo__delta_design *p, const rondo_delta_desc *d)
{
    const int64_t most = p->packed ? p->rows : p->desc.tokens;
    for (int64_t i = 0; i < d->checkpoint_count; i++) {
        p->checkpoints[i] = d->checkpoints[i];
        if (p->checkpoints[i] < 0 || p->checkpoints[i] > most || (i && p->checkpoints[i] <= p->checkpoints[i - 1]))
            return rondo__fail(RONDO_EINVAL, "rondo_delta_create: checkpoints[%lld] is %lld; they must rise, from 0 at least to %lld at most",
                               (long long)i, (long long)p->checkpoints[i], (long long)most);
        if (!between(p, p->checkpoints[i]))
            return rondo__fail(RONDO_EINVAL, "rondo_delta_create: checkpoints[%lld] is %lld, inside a chunk; states are there behind whole ones, of %d "
                                             "tokens from each sequence's first on, and at its end", (long long)i, (long long)p->checkpoints[i],
                               (int)p->desc.chunk);
    }
    return 0;
}

static int set_lists(struct rondo__delta_design *p, const rondo_delta_desc *d)
{
    size_t numbers = 0;
    if (d->checkpoint_count < 0 || (d->checkpoint_count && !d->checkpoints))
        return rondo__fail(RONDO_EINVAL, "rondo_delta_create: checkpoint_count is %lld%s", (long long)d->checkpoint_count,
                           d->checkpoint_count < 0 ? "; it must not be negative" : " and checkpoints is NULL; it must be a list of so many");
    if (!rondo__add((size_t)d->sequences, (size_t)p->ranks + 2, &numbers) || !rondo__add(numbers, (size_t)d->checkpoint_count, &numbers) ||
        !(p->lists = rondo__alloc_zero(numbers, sizeof *p->lists)))
        return rondo__fail(RONDO_ENOMEM, "rondo_delta_create: no memory for the lists of %lld sequences", (long long)d->sequences);
    p->cu = p->lists;
    p->begin = p->cu + d->sequences + 1;
    p->checkpoints = p->begin + p->ranks + 1;
    int err = set_sequences(p, d);
    if (!err)
        err = set_shares(p, d);
    if (!err)
        err = set_checkpoints(p, d);
    p->desc.cu_seqlens = p->packed ? p->cu : NULL;
    p->desc.shares = p->begin;
    p->desc.checkpoints = d->checkpoint_count ? p->checkpoints : NULL;
    return err;
}

/* All that a rank holds of a tensor, or of states, can be counted in bytes. */
static int check_sizes(const struct rondo__delta_design *p)
{
    const rondo_delta_desc *d = &p->desc;
    const int64_t widest = d->key_dim > d->value_dim ? d->key_dim : d->value_dim, entries = p->packed ? 1 : d->sequences;
    int64_t rows, states, kept;
    if (!rondo__mul64(p->rows, d->heads, &rows) || !rondo__mul64(rows, widest * 4, &rows) || !rondo__mul64(d->sequences, d->heads, &states) ||
        !rondo__mul64(states, rondo__delta_state(p) * 4, &states) || !rondo__mul64(d->checkpoint_count, entries, &kept) ||
        !rondo__mul64(kept, d->heads, &kept) || !rondo__mul64(kept, rondo__delta_state(p) * 4, &kept) || rows > PTRDIFF_MAX || states > PTRDIFF_MAX ||
        kept > PTRDIFF_MAX)
        return rondo__fail(RONDO_EINVAL, "rondo_delta_create: %lld tokens, %lld sequences and %lld checkpoints of %lld heads are more than memory can "
                                         "hold", (long long)p->rows, (long long)d->sequences, (long long)d->checkpoint_count, (long long)d->heads);
    return 0;
}

static double root(double x) { return __builtin_sqrt(x); }

static void fill_in(struct rondo__delta_design *p)
{
    rondo_delta_desc *d = &p->desc;
    d->key_heads = d->key_heads ? d->key_heads : d->heads;
    d->value_dim = d->value_dim ? d->value_dim : d->key_dim;
    d->gate_dim = d->gate_dim ? d->gate_dim : d->key_dim;
    d->sequences = d->sequences ? d->sequences : 1;
    d->type = d->type ? d->type : RONDO_F32;
    d->gate_type = d->gate_type ? d->gate_type : d->type;
    d->beta_type = d->beta_type ? d->beta_type : d->type;
    d->out_type = d->out_type ? d->out_type : d->type;
    if (d->scale == 0.0 && d->key_dim > 0)
        d->scale = 1.0 / root((double)d->key_dim);
    if (d->way == RONDO_DELTA_AFFINE && !d->tile)
        d->tile = RONDO_DELTA_TILE;
}

int rondo__delta_design(struct rondo__delta_design *out, const rondo_delta_desc *desc, int32_t ranks)
{
    struct rondo__delta_design p = { .ranks = ranks };
    int err = rondo__desc_copy(&p.desc, sizeof p.desc, desc, "rondo_delta_desc");
    *out = p;
    if (err)
        return err;
    const rondo_delta_desc theirs = p.desc;
    rondo_delta_desc *d = &p.desc;
    fill_in(&p);
    err = check_numbers(d);
    if (!err)
        err = check_types(d);
    if (!err)
        err = check_rule(d);
    p.packed = theirs.cu_seqlens != NULL;
    if (!err && p.packed && theirs.tokens)
        err = rondo__fail(RONDO_EINVAL, "rondo_delta_create: tokens is %lld and there are cu_seqlens; only one of the two says how long sequences are",
                          (long long)theirs.tokens);
    if (!err) {
        rondo_delta_desc lists = theirs;
        lists.sequences = d->sequences;
        err = set_lists(&p, &lists);
    }
    if (!err)
        err = check_sizes(&p);
    if (!err && d->way == RONDO_DELTA_AUTO)
        d->way = rondo__delta_choose(&p);
    p.form = (struct rondo_delta_form){ (int32_t)d->key_dim, (int32_t)d->value_dim, d->type, d->gate_type, d->beta_type, d->out_type, d->gate, d->beta,
                                        d->norm, (int32_t)d->gate_dim, (float)d->lower_bound, (float)d->scale, d->chunk };
    *out = p;
    return err;
}

void rondo__delta_design_free(struct rondo__delta_design *design)
{
    rondo__free(design->lists);
    *design = (struct rondo__delta_design){ .ranks = 0 };
}

uint64_t rondo__delta_hash(const struct rondo__delta_design *p)
{
    const rondo_delta_desc *d = &p->desc;
    int64_t numbers[3];
    memcpy(numbers, &d->lower_bound, sizeof d->lower_bound);
    memcpy(numbers + 1, &d->scale, sizeof d->scale);
    memcpy(numbers + 2, &d->tolerance, sizeof d->tolerance);
    const int64_t word[] = { RONDO_NUMERICS, p->ranks, p->packed, d->heads, d->key_heads, d->key_dim, d->value_dim, d->gate_dim, d->sequences, p->rows,
                             d->type, d->gate_type, d->beta_type, d->out_type, d->gate, d->beta, d->norm, d->initial_state, d->final_state,
                             d->checkpoint_count, d->way, d->tile, numbers[0], numbers[1],
                             numbers[2], d->gradients, d->chunk };
    const int64_t lists = d->sequences + 1 + p->ranks + 1 + d->checkpoint_count;
    uint64_t hash = 0;
    for (size_t i = 0; i < sizeof word / sizeof *word; i++)
        hash = rondo__hash_word(hash, (uint64_t)word[i]);
    for (int64_t i = 0; i < lists; i++)
        hash = rondo__hash_word(hash, (uint64_t)p->lists[i]);
    return hash;
}

/* ---- who has what ---- */

/* The last i below `count` with list[i] <= at, where list[0] is. */
static int64_t last_of(const int64_t *list, int64_t count, int64_t at)
{
    int64_t low = 0, high = count;
    while (high - low > 1) {
        const int64_t middle = low + (high - low) / 2;
        if (list[middle] <= at)
            low = middle;
        else
            high = middle;
    }
    return low;
}

int32_t rondo__delta_owner(const struct rondo__delta_design *p, int64_t row)
{
    return (int32_t)last_of(p->begin, p->ranks, row < p->rows ? row : p->rows ? p->rows - 1 : 0);
}

int64_t rondo__delta_sequence(const struct rondo__delta_design *p, int64_t row)
{
    return last_of(p->cu, p->desc.sequences, row);
}

int32_t rondo__delta_keeper(const struct rondo__delta_design *p, int64_t sequence, int64_t position)
{
    return rondo__delta_owner(p, p->cu[sequence] + (position > 0 ? position - 1 : 0));
}

struct rondo__delta_tiles rondo__delta_tiles(const struct rondo__delta_design *p, int32_t rank, int64_t sequence)
{
    const int64_t from = p->cu[sequence], to = p->cu[sequence + 1], tile = p->desc.tile, tiles = (to - from) / tile + ((to - from) % tile != 0);
    const int64_t first = p->begin[rank] > from ? p->begin[rank] : from, end = p->begin[rank + 1] < to ? p->begin[rank + 1] : to;
    if (first >= end)
        return (struct rondo__delta_tiles){ sequence, tiles, 0, 0 };
    return (struct rondo__delta_tiles){ sequence, tiles, (first - from) / tile, (end - from) / tile + ((end - from) % tile != 0) };
}

int64_t rondo__delta_tile_count(const struct rondo__delta_design *p, int32_t rank)
{
    int64_t count = 0;
    for (int64_t n = 0; n < p->desc.sequences && rondo__delta_tiled(p); n++) {
        const struct rondo__delta_tiles t = rondo__delta_tiles(p, rank, n);
        count += t.end - t.first;
    }
    return count;
}
