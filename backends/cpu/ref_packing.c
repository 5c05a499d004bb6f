/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The definition of how weights are converted and packed: one rounding to nearest even, or whole numbers with a scale for each group
 * (contract C8, layers.h for where they lie). packing.c must give these bytes. Compiled without and with FMA instructions. Called by
 * linear_ops.c.
 */
#include "backends/cpu/layers.h"

#ifdef RONDO_ISA_fma
#define TABLE rondo__cpu_packing_fma
#else
#define TABLE rondo__cpu_packing_soft
#endif

/* Numbers and scale of one group of one row; `from` counts in the source. */
static void load_group(const struct rondo_cpu_load *job, char *group, int64_t output, int64_t from, int64_t count, float scale)
{
    const int column = rondo__cpu_column(RONDO_Q8, output);
    int8_t *to = (int8_t *)group + RONDO_CPU_SCALES + column;

    if (job->type == RONDO_Q8) {
        for (int64_t i = 0; i < count; i++)
            to[i * RONDO_CPU_PANEL] = ((const int8_t *)job->weights)[from + i];
    } else {
        float largest = 0.0f;
        for (int64_t i = 0; i < count; i++) {
            const float x = rondo__element(job->weights, from + i, job->type), a = x < 0.0f ? -x : x;
            largest = a > largest || a != a ? a : largest;      /* what is NaN once stays so: nothing is larger */
        }
        scale = rondo__q8_scale(largest);
        for (int64_t i = 0; i < count; i++)
            to[i * RONDO_CPU_PANEL] = rondo__q8_number(rondo__element(job->weights, from + i, job->type), scale);
    }
    ((float *)(void *)group)[column] = scale;
}

static void load(const struct rondo_cpu_load *job, int64_t panel, int32_t leaf0, int32_t leaf1)
{
    const struct rondo_device_linear *l = job->linear;
    const int64_t groups = l->type == RONDO_Q8 ? rondo__linear_groups(l->in, l->leaves, l->group, l->first_leaf, l->end_leaf) : 0;
    const int64_t end = job->first + job->rows;

    for (int64_t o = panel * RONDO_CPU_PANEL; o < (panel + 1) * RONDO_CPU_PANEL && o < end; o++) {
        if (o < job->first)
            continue;
        for (int32_t leaf = leaf0; leaf < leaf1; leaf++) {
            const int64_t k = rondo__cpu_leaf_begin(l, leaf), count = rondo__cpu_leaf_begin(l, leaf + 1) - k;
            const int64_t from = (o - job->first) * l->columns + k - l->first_column;
            char *to = rondo__cpu_leaf_at(l, panel, leaf);
            int64_t scale = (o - job->first) * groups;
            if (l->type == RONDO_Q8)
                scale += rondo__linear_groups(l->in, l->leaves, l->group, l->first_leaf, leaf);
            for (int64_t i = 0; i < count && l->type == RONDO_Q8; i += l->group, scale++)
                load_group(job, to + rondo__cpu_columns(l, i), o, from + i, count - i < l->group ? count - i : l->group,
                           job->scales ? job->scales[scale] : 0.0f);
            for (int64_t i = 0; i < count && l->type != RONDO_Q8; i++) {
                const int64_t at = i * RONDO_CPU_PANEL + rondo__cpu_column(l->type, o);
                if (job->type != l->type)
                    rondo__put_element(to, at, l->type, rondo__element(job->weights, from + i, job->type));
                else if (l->type == RONDO_F32)
                    ((uint32_t *)(void *)to)[at] = ((const uint32_t *)job->weights)[from + i];
                else
                    ((uint16_t *)(void *)to)[at] = ((const uint16_t *)job->weights)[from + i];
            }
        }
    }
}

const struct rondo_cpu_packing TABLE = { load };
