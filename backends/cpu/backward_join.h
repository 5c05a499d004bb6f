/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Nodes of attention's gradients that are joined, and their results: part of backward.c, which is built once for each instruction set. The bits are
 * those of ref_backward.c. Nodes are read where they lie, each once, and only sums have room of their own.
 */
#ifndef RONDO_CPU_BACKWARD_JOIN_H
#define RONDO_CPU_BACKWARD_JOIN_H

#include "backends/cpu/backward.h"
#include "backends/cpu/vec.h"
#include "backends/cpu/backward_tile.h"

/* A row of a head: of a query dq; of a key dk and dv, which lie apart in a place. NULL: nothing is in it. */
struct joined_row {
    const float *dim, *values;
};

struct joining {
    const struct rondo_backward_desc *d;
    const struct rondo_backward_run *run;
    const struct rondo_backward_join *join;
    struct joined_row stack[RONDO_BACKWARD_JOIN_DEPTH];
    float *room;                       /* of sums: one for each place on the stack */
    int32_t dim, values, depth;        /* values: 0 of queries */
};

VEC void add_rows(const float *left, const float *right, int32_t count, float *to)
{
    int32_t i = 0;
    for (; i + VL <= count; i += VL)
        vf_store(to + i, vf_add(vf_load(left + i), vf_load(right + i)));
    for (; i < count; i++)
        to[i] = left[i] + right[i];
}

static float *room_of(const struct joining *s, int32_t at)
{
    return s->room + (int64_t)at * (s->dim + s->values);
}

/* What is at a place of the stack comes into its own room. */
static void settle(struct joining *s, int32_t at)
{
    float *own = room_of(s, at);
    struct joined_row *row = s->stack + at;
    if (!row->dim || row->dim == own)
        return;
    memcpy(own, row->dim, (size_t)s->dim * sizeof *own);
    memcpy(own + s->dim, row->values, (size_t)s->values * sizeof *own);
    *row = (struct joined_row){ own, own + s->dim };
}

/* Where row `row` of head `head` lies in a place, and whether that head has anything in it. */
static float *place_row(const struct joining *s, int32_t number, int32_t row, int32_t head, float **values, float **full)
{
    const struct rondo_backward_join *j = s->join;
    const struct rondo_backward_place *p = s->d->places + j->places_first + number;
    const int64_t heads = (int64_t)j->heads * j->group;
    float *first = s->run->nodes[p->buffer].data + p->at, *second = first + j->count * heads * s->dim;
    *values = second + ((int64_t)head * j->count + row) * s->values;
    *full = second + j->count * heads * s->values + head;
    return first + ((int64_t)head * j->count + row) * s->dim;
}

static void merge_rows(struct joining *s)
{
    struct joined_row *left = s->stack + s->depth - 2, *right = left + 1;
    float *to = room_of(s, s->depth - 2);
    s->depth--;
    if (!right->dim)
        return;
    if (!left->dim) {
        const bool made = right->dim == room_of(s, s->depth);   /* the next sum up there would come over it */
        *left = *right;
        if (made)
            settle(s, s->depth - 1);
        return;
    }
    add_rows(left->dim, right->dim, s->dim, to);
    add_rows(left->values, right->values, s->values, to + s->dim);
    *left = (struct joined_row){ to, to + s->dim };
}

/* The program of one row and head. true: it ends in OUT, with the root, if there is one, at the bottom of the stack. */
static bool join_row(struct joining *s, int32_t row, int32_t head)
{
    const struct rondo_tree_step *step = s->d->steps + s->join->steps_first;
    float *to, *values, *full;
    s->depth = 0;
    for (int32_t i = 0; i < s->join->steps; i++)
        switch (step[i].code) {
        case RONDO_TREE_LOAD:
            to = place_row(s, step[i].arg, row, head, &values, &full);
            s->stack[s->depth++] = *full != 0.0f ? (struct joined_row){ to, values } : (struct joined_row){ NULL, NULL };
            break;
        case RONDO_TREE_MERGE:
            merge_rows(s);
            break;
        case RONDO_TREE_STORE: {
            const struct joined_row *from = s->stack + --s->depth;
            to = place_row(s, step[i].arg, row, head, &values, &full);
            for (int32_t n = 0; n < s->depth; n++)   /* what waits may lie where this goes */
                settle(s, n);
            if (row + 1 == s->join->count)   /* the other rows have read what it was */
                *full = from->dim ? 1.0f : 0.0f;
            if (from->dim && from->dim != to) {
                memcpy(to, from->dim, (size_t)s->dim * sizeof *to);
                memcpy(values, from->values, (size_t)s->values * sizeof *to);
            }
            break;
        }
        default:
            return true;
        }
    return false;
}

/* scratch: sums of a stack, then of one of heads. */
static void join_nodes(const struct rondo_backward_desc *d, const struct rondo_backward_run *run, const struct rondo_backward_join *j, float *scratch)
{
    const int32_t dim = d->head_dim, values = j->queries ? 0 : d->value_dim, floats = dim + values;
    const int64_t across = j->queries ? d->all_heads : d->all_kv_heads;
    struct joining s = { .d = d, .run = run, .join = j, .room = scratch, .dim = dim, .values = values };
    float *heads = scratch + (int64_t)RONDO_BACKWARD_JOIN_DEPTH * floats;
    int32_t stack[RONDO_BACKWARD_DEPTH];
    for (int32_t h = 0; h < j->heads; h++)
        for (int32_t i = 0; i < j->count; i++) {
            struct joined_row sum = { NULL, NULL };
            bool out = false;
            int32_t depth = 0;
            for (int32_t g = 0; g < j->group; g++) {
                out = join_row(&s, i, h * j->group + g);
                if (!out)
                    continue;
                if (s.depth)
                    sum = s.stack[0];
                else
                    sum = (struct joined_row){ NULL, NULL };
                if (j->group == 1)
                    break;
                for (; depth > 1 && rondo__leaves_merge(stack[depth - 2], stack[depth - 1], g); depth--) {
                    add_rows(heads + (depth - 2) * floats, heads + (depth - 1) * floats, floats, heads + (depth - 2) * floats);
                    stack[depth - 2] = stack[depth - 1];
                }
                if (sum.dim) {
                    memcpy(heads + depth * floats, sum.dim, (size_t)dim * sizeof *heads);
                    memcpy(heads + depth * floats + dim, sum.values, (size_t)values * sizeof *heads);
                } else {               /* a head without anything in it is 0, not left out */
                    memset(heads + depth * floats, 0, (size_t)floats * sizeof *heads);
                }
                stack[depth++] = g;
            }
            if (!out)
                continue;
            for (; depth > 1; depth--)
                add_rows(heads + (depth - 2) * floats, heads + (depth - 1) * floats, floats, heads + (depth - 2) * floats);
            if (depth)
                sum = (struct joined_row){ heads, heads + dim };
            const int64_t at = (j->row + i) * across + j->head + h;
            put_row(sum.dim, dim, j->queries ? run->dq : run->dk, at * dim, j->queries ? run->dq_type : run->dk_type, d->scale, run->accumulate);
            if (values)
                put_row(sum.values, values, run->dv, at * values, run->dv_type, d->terms.keep, run->accumulate);
        }
}

#endif
