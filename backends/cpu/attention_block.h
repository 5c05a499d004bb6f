/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What attention.c works on: a block of query rows, cut into panels, with its scratch; Q packed for the score
 * tiles; and which positions the rows see. Included once per instruction set.
 */
#ifndef RONDO_CPU_ATTENTION_BLOCK_H
#define RONDO_CPU_ATTENTION_BLOCK_H

#include "backends/cpu/attention_tile.h"
#include "backends/cpu/cpu.h"
#include "backends/cpu/task.h"

/* Rows of an item. A leaf is copied once for all of them, so more is better, until Q and the topmost nodes of
 * the panels leave the second-level cache: 576 to 1536 measured alike, 384 2 % slower. */
#define BLOCK_ROWS 768
/* How many rows ahead are worth fetching already. */
#define FETCH_ROWS 8

/* Blocks of so few rows take a leaf from where it lies, lanes being keys (attention_decode.h): up to here that was faster than a copy of it and
 * lanes that are rows. What is kept of a row's scores; how far ahead of what is read memory is asked for, and how far at least. */
#define DECODE_ROWS 16
#define DECODE_LD (LEAF_MAX + VL)
#define AHEAD_BYTES (1 << 16)
#define AHEAD_KEYS 16
#define DECODE_HEAD_ROWS 256 /* rows of all KV heads of an item */

struct panel {
    float *qt; /* [head_dim][vecs * VL]; of few rows packed when they are needed so */
    float *q;  /* then: [head_dim][decode_height()] */
    float *nodes; /* [depth] nodes: acc[PANEL][padded], m[PANEL], l[PANEL] */
    int16_t *place; /* stack position -> node */
    uint8_t *full; /* stack position: an enum state */
    float **slot;  /* stack position: the slot of a node that is IN_SLOT */
    int64_t *at; /* [vecs * VL] where rows stand; those that are no rows stand where the last one does. NULL: SEE_GENERAL is not needed */
    int32_t *head; /* [vecs * VL] of the task */
    float *slope; /* [vecs * VL] of ALiBi, times log2(e) */
    int32_t row, rows, vecs, kv_head;
    bool packed, done; /* qt is there; with the leaf at work already (attention_decode.h) */
    int64_t lo_min, lo_max, hi_min, hi_max; /* of its rows' visible ranges */
};

/* What a panel has at a position of its stack. A LOADed node stays IN_SLOT until somebody works on it: M and l
 * come at once, acc is read where it lies. STORED: a MERGE has put its result where the next step stores it. */
enum state { EMPTY, NODE, IN_SLOT, STORED };

/* K or V of keys [first, end) of a leaf: `key` and `head` bytes apart from one key, or KV head of the block, to the next. */
struct strip {
    const char *at;
    int64_t key, head;
    int32_t first, end;
};

static inline const char *strip_row(const struct strip *s, int32_t key, int32_t head) { return s->at + key * s->key + head * s->head; }

/* Rows that are asked for, one as each row at work is read. */
struct follow {
    const char *row; /* NULL: nothing */
    int64_t stride;
};

struct block {
    const struct rondo_attention_task *t;
    int64_t token; /* the first one */
    int32_t tokens, group, kv_head, rows, panels, padded, height,
        top; /* rows: of a KV head; padded: value_dim in whole vectors; height: rows of a node; top: stack height */
    size_t node_floats;
    int64_t *lo, *hi; /* [tokens] */
    struct panel *panel;
    float *st, *sum; /* scores; sums of a partly hidden leaf */
    float *bias; /* of a leaf and a panel, and what else struct finish has; NULL where terms do not need them */
    uint64_t *seen, *drop;
    uint64_t (*bits)[4]; /* of a leaf: [tokens] or [rows], where a mask has more than intervals */
    float *wide_q, *wide_k,
        *wide_v; /* four rows of Q; a leaf, widened or copied together (NULL: read where it lies) */
    int64_t lo_min, hi_max;
    bool part; /* only a part of one step is at work */
    bool few; /* rows, so that panels are KV heads and lanes are keys (attention_decode.h) */
    float *kt, *x, *top_score, *m, *l; /* then: keys turned about, scores, and of all rows the largest ones, M and l of a leaf */
    int32_t st_ld, apart; /* of all panels' rows in st; what is asked for is so many keys ahead */
    /* the leaf at work: where it lies, strides in bytes; and as floats, NULL until it has been widened */
    const char *raw_k, *raw_v;
    int64_t raw_k_stride, raw_v_stride;
    const float *k, *v;
    int64_t k_stride, v_stride;
    int32_t u0, u1, finite; /* keys that the block sees; whether all of their values are finite: -1, not yet known */
    struct ahead next;  /* the leaf after it; of K where rows are few: */
    struct strip then;
};

/* ---- scratch ---- */

static int32_t padded_dim(const struct rondo_attention_task *t) { return (t->value_dim + VL - 1) / VL * VL; }

static int64_t tokens(const struct rondo_attention_task *t)
{
    int64_t n = BLOCK_ROWS / (t->heads / t->kv_heads);
    n = n < 1 ? 1 : n;
    return n < t->q_rows ? n : t->q_rows;
}

/* Takes `bytes` from the scratch at *at, or only counts them where scratch is NULL. */
static void *take(char *scratch, size_t *at, size_t bytes)
{
    size_t from = *at;
    *at = from + ((bytes + 63) & ~(size_t)63);
    return scratch ? scratch + from : NULL;
}

/* Whether the block may read leaves from its own copy: to widen them once for all panels, or because rows far
 * apart fall into few sets of the caches, which costs more than the copy where several panels read them. */
static bool copies(const struct rondo_attention_task *t, int32_t panels)
{
    if (t->kv_type != RONDO_F32)
        return true;
    bool apart = !t->kv;
    for (int32_t i = 0; i < t->kv_count; i++)
        apart |= t->kv[i].k.row_stride > t->head_dim || t->kv[i].v.row_stride > t->value_dim;
    return panels >= 4 && apart;
}

/* Whether scores need more than their product with a scale and ranges of keys. */
static bool general(const struct rondo_attention_task *t)
{
    return t->terms.cap_in != 0.0f || t->terms.alibi || t->terms.bias || t->terms.drop || t->mask->kind->bits ||
           t->operation == RONDO_JOB_PROBABILITIES;
}

/* Rows that share what bits say. */
static int32_t sharing(const struct block *b) { return b->t->mask->heads > 1 ? 1 : b->group; }

static bool decodes(const struct rondo_attention_task *t, int32_t rows) { return rows <= DECODE_ROWS && rows <= PANEL && !general(t); }

/* Rows of a KV head in what few of them share: whole fours, as they are transposed. */
static int32_t decode_height(int32_t rows) { return (rows + 3) & ~3; }

/* KV heads of an item. With few rows a leaf is taken in all heads together, as tokens are what lies together, as long as their nodes and
 * scores stay in the second-level cache. */
static int32_t heads(const struct rondo_attention_task *t)
{
    const int64_t rows = tokens(t) * (t->heads / t->kv_heads), most = DECODE_HEAD_ROWS / (rows < 1 ? 1 : rows);
    if (!decodes(t, (int32_t)rows))
        return 1;
    return (int32_t)(most < 1 ? 1 : most < t->kv_heads ? most : t->kv_heads);
}

/* Lays out the scratch of a block; returns its size. Sizes cannot overflow: bytes() has checked their product
 * in advance. */
static size_t lay_out(const struct rondo_attention_task *t, int64_t count, int32_t heads, char *scratch, struct block *b)
{
    size_t at = 0;
    const size_t leaf = (size_t)(t->leaf_size > 0 && t->leaf_size < LEAF_MAX ? t->leaf_size : LEAF_MAX);
    b->t = t;
    b->tokens = (int32_t)count;
    b->group = t->heads / t->kv_heads;
    b->rows = b->tokens * b->group;
    b->padded = padded_dim(t);
    b->few = decodes(t, b->rows);
    b->panels = b->few ? heads : (b->rows + PANEL - 1) / PANEL;
    b->height = b->rows < PANEL ? b->rows : PANEL;
    b->node_floats = (size_t)b->height * (size_t)b->padded + 2 * PANEL;
    b->lo = take(scratch, &at, (size_t)b->tokens * sizeof *b->lo);
    b->hi = take(scratch, &at, (size_t)b->tokens * sizeof *b->hi);
    const size_t of_all = (size_t)b->panels * (size_t)decode_height(b->rows), group = b->few ? (size_t)b->panels : 1;
    b->st_ld = (int32_t)((of_all + VL - 1) / VL * VL);
    b->st = take(scratch, &at, (leaf + 4) * (b->few && b->st_ld > PANEL ? (size_t)b->st_ld : PANEL) * sizeof(float));
    b->sum = take(scratch, &at, group * (b->few ? (size_t)b->rows : PANEL) * (size_t)b->padded * sizeof(float));
    b->wide_q = take(scratch, &at, 4 * (size_t)t->head_dim * sizeof(float));
    b->wide_k = !copies(t, b->few ? 1 : b->panels) ? NULL : take(scratch, &at, leaf * (size_t)t->head_dim * sizeof(float));
    b->wide_v = !copies(t, b->few ? 1 : b->panels) ? NULL : take(scratch, &at, leaf * (size_t)b->padded * sizeof(float));
    if (b->few) {
        const int64_t token = b->panels * (int64_t)rondo_row_bytes(t->kv_type, t->head_dim), apart = AHEAD_BYTES / token / AHEAD_KEYS * AHEAD_KEYS;
        b->apart = (int32_t)(apart < AHEAD_KEYS ? AHEAD_KEYS : apart < LEAF_MAX ? apart : LEAF_MAX);
        b->kt = take(scratch, &at, (size_t)t->head_dim * 2 * VL * sizeof(float));
        b->x = take(scratch, &at, (size_t)b->panels * (size_t)b->rows * DECODE_LD * sizeof(float));
        b->top_score = take(scratch, &at, (size_t)b->panels * (size_t)b->rows * VL * sizeof(float));
        b->m = take(scratch, &at, (size_t)b->st_ld * sizeof(float));
        b->l = take(scratch, &at, (size_t)b->st_ld * sizeof(float));
    }
    b->seen = !general(t) ? NULL : take(scratch, &at, leaf * sizeof *b->seen);
    b->drop = !t->terms.drop ? NULL : take(scratch, &at, leaf * sizeof *b->drop);
    b->bias = !t->terms.bias ? NULL : take(scratch, &at, leaf * PANEL * sizeof(float));
    b->bits = !t->mask->kind->bits ? NULL : take(scratch, &at, (size_t)(b->rows / sharing(b)) * sizeof *b->bits);
    b->panel = take(scratch, &at, (size_t)b->panels * sizeof *b->panel);
    for (int32_t i = 0; i < b->panels; i++) {
        struct panel p = { .row = i * PANEL, .kv_head = b->kv_head };
        if (b->few) {
            p.row = 0;
            p.kv_head = b->kv_head + i;
        }
        p.rows = b->rows - p.row < PANEL ? b->rows - p.row : PANEL;
        p.vecs = (p.rows + VL - 1) / VL;
        p.qt = take(scratch, &at, (size_t)t->head_dim * (size_t)p.vecs * VL * sizeof(float));
        p.q = !b->few ? NULL : take(scratch, &at, (size_t)t->head_dim * (size_t)decode_height(b->rows) * sizeof(float));
        if (general(t)) {
            p.at = take(scratch, &at, PANEL * sizeof *p.at);
            p.head = take(scratch, &at, PANEL * sizeof *p.head);
            p.slope = take(scratch, &at, PANEL * sizeof *p.slope);
        }
        p.nodes = take(scratch, &at, (size_t)t->depth * b->node_floats * sizeof(float));
        p.place = take(scratch, &at, (size_t)t->depth * sizeof *p.place);
        p.full = take(scratch, &at, (size_t)t->depth);
        p.slot = take(scratch, &at, (size_t)t->depth * sizeof *p.slot);
        if (scratch) {
            for (int32_t j = 0; j < t->depth; j++) {
                p.place[j] = (int16_t)j;
                p.slot[j] = NULL;
            }
            b->panel[i] = p;
        }
    }
    return at;
}

static bool bytes(const struct rondo_attention_task *t, size_t *out)
{
    struct block b = { 0 };
    size_t rows, wide, all;
    /* a generous product first: if that fits, so does everything that lay_out() adds up */
    if (t->depth > INT16_MAX ||
        !rondo__mul((size_t)tokens(t) * (size_t)(t->heads / t->kv_heads) + PANEL, (size_t)t->depth + 2,
                    &rows) ||
        !rondo__add((size_t)t->head_dim + (size_t)t->value_dim, 4 * LEAF_MAX, &wide) ||
        !rondo__mul(rows, wide, &all) || !rondo__mul(all, 16 * sizeof(float) * (size_t)heads(t), &all))
        return false;
    *out = lay_out(t, tokens(t), heads(t), NULL, &b);
    return true;
}

/* Rows of K, V, Q and of slots may lie pages apart: the hardware does not foresee them. */
static void fetch_row(const void *row, int64_t bytes)
{
    for (int64_t i = 0; i < bytes; i += 64)
        __builtin_prefetch((const char *)row + i, 0, 3);
}

/* ---- Q ---- */

/* to[d][row], ld of them, those without a row 0. Four rows and four dimensions at a time. */
static void pack_rows(const struct block *b, const struct panel *p, float *to, int32_t ld)
{
    const struct rondo_attention_task *t = b->t;
    const int32_t dim = t->head_dim;
    for (int32_t r = 0; r < ld; r += 4) {
        const float *q[4];
        for (int32_t i = 0; i < 4; i++) {
            const int32_t row = p->row + r + i;
            const int64_t at = (b->token + row / b->group) * t->q_row_stride +
                               (p->kv_head * b->group + row % b->group) * t->q_head_stride;
            if (r + i < p->rows && t->q_type == RONDO_F32) {
                q[i] = (const float *)t->q + at;
                if (r + i + FETCH_ROWS < p->rows) {
                    const int32_t ahead = row + FETCH_ROWS;
                    fetch_row((const float *)t->q + (b->token + ahead / b->group) * t->q_row_stride +
                                  (p->kv_head * b->group + ahead % b->group) * t->q_head_stride,
                              (int64_t)dim * (int64_t)sizeof(float));
                }
                continue;
            }
            float *w = b->wide_q + (int64_t)i * dim;
            for (int32_t d = 0; d < dim; d++)
                w[d] = r + i < p->rows ? rondo__element(t->q, at + d, t->q_type) : 0.0f;
            q[i] = w;
        }
        int32_t d = 0;
        for (; d + 4 <= dim; d += 4)
            vec_transpose4(q[0] + d, q[1] + d, q[2] + d, q[3] + d, to + (int64_t)d * ld + r, ld);
        for (; d < dim; d++)
            for (int32_t i = 0; i < 4; i++)
                to[(int64_t)d * ld + r + i] = q[i][d];
    }
}

static void pack_q(const struct block *b, struct panel *p)
{
    if (!p->packed)
        pack_rows(b, p, p->qt, p->vecs * VL);
    p->packed = true;
}

/* ---- what is seen ---- */

/* Visible ranges of tokens, panels and the block. */
static void see(struct block *b)
{
    b->lo_min = INT64_MAX;
    b->hi_max = INT64_MIN;
    const struct rondo_attention_task *t = b->t;
    for (int32_t i = 0; i < b->tokens; i++)
        t->mask->kind->row(t->mask, t->sequence, rondo__cpu_position(t, b->token + i), &b->lo[i], &b->hi[i]);
    for (int32_t i = 0; i < b->panels; i++) {
        struct panel *p = b->panel + i;
        p->lo_min = p->hi_min = INT64_MAX;
        p->lo_max = p->hi_max = INT64_MIN;
        for (int32_t token = p->row / b->group; token <= (p->row + p->rows - 1) / b->group; token++) {
            const int64_t lo = b->lo[token], hi = b->hi[token];
            p->lo_min = lo < p->lo_min ? lo : p->lo_min;
            p->lo_max = lo > p->lo_max ? lo : p->lo_max;
            p->hi_min = hi < p->hi_min ? hi : p->hi_min;
            p->hi_max = hi > p->hi_max ? hi : p->hi_max;
        }
        for (int32_t r = 0; p->at && r < p->vecs * VL; r++) {
            const int32_t row = p->row + (r < p->rows ? r : p->rows - 1);
            p->at[r] = rondo__cpu_position(t, b->token + row / b->group);
            p->head[r] = p->kv_head * b->group + row % b->group;
            p->slope[r] = t->alibi ? t->alibi[p->head[r]] * RONDO_LOG2E_F : 0.0f;
        }
        b->lo_min = p->lo_min < b->lo_min ? p->lo_min : b->lo_min;
        b->hi_max = p->hi_max > b->hi_max ? p->hi_max : b->hi_max;
    }
}

#endif
