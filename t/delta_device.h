/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What tests of the delta rule on the CPU device have in common: a case of delta.h run there, in pieces, with the maps of its tokens.
 */
#ifndef RONDO_T_DELTA_DEVICE_H
#define RONDO_T_DELTA_DEVICE_H

#include "backends/cpu/cpu.h"
#include "t/delta.h"
#include "tap.h"

extern const struct rondo_device_ops rondo__cpu_device;

struct result {
    void *out;
    float *to, *map;           /* map: [sequences][heads][key_dim][key_dim] */
};

__attribute__((unused)) static void result_free(struct result *r)
{
    free(r->out);
    free(r->to);
    free(r->map);
}

/* Each sequence and head in pieces of `tokens` and `columns`; 0: whole. Returns the device's code. */
__attribute__((unused)) static int run(struct rondo_device *dev, const struct delta_case *c, int out_type, int64_t tokens, int64_t columns, struct result *r)
{
    const int64_t kd = c->key_dim, vd = c->value_dim, state = kd * vd, pairs = c->sequences * c->heads;
    const struct rondo_delta_form form = { (int32_t)kd, (int32_t)vd, c->type, c->type, c->type, out_type, c->gate, c->beta, c->norm,
                                           (int32_t)c->gate_dim, (float)c->lower_bound, (float)c->scale, c->chunk };
    r->out = calloc((size_t)(c->rows * c->heads * vd) + 1, rondo_type_size(out_type));
    r->to = calloc((size_t)(pairs * state) + 1, sizeof(float));
    r->map = calloc((size_t)(pairs * kd * kd) + 1, sizeof(float));
    if (c->from)
        memcpy(r->to, c->from, (size_t)(pairs * state) * sizeof(float));
    const struct rondo_delta_rows rows = {
        { c->q, c->key_heads * kd, kd }, { c->k, c->key_heads * kd, kd }, { c->v, c->heads * vd, vd },
        { c->g, c->heads * c->gate_dim, c->gate_dim }, { c->b, c->heads, 1 }, { r->out, c->heads * vd, vd }
    };
    float *states[] = { r->to, r->map };
    int err = 0;
    for (int64_t n = 0; n < c->sequences && !err; n++)
        for (int64_t t = c->cu[n]; t < c->cu[n + 1] && !err; t += tokens ? tokens : c->rows) {
            struct rondo_delta_block block[256];
            struct rondo_delta_run x = { &form, &rows, block, states, c->a_log, c->dt_bias, 0, 1, 2, 0.0 };
            const int64_t left = c->cu[n + 1] - t, count = tokens && left > tokens ? tokens : left;
            for (int64_t h = 0; h < c->heads; h++)
                for (int64_t j = 0; j < vd; j += columns ? columns : vd) {
                    const struct rondo_delta_state at = { 0, 0, (n * c->heads + h) * state + j, vd };
                    block[x.count++] = (struct rondo_delta_block){ RONDO_DELTA_FORWARD, 0, t, count, (int32_t)h, (int32_t)(h / (c->heads / c->key_heads)),
                                                                   (int32_t)h, (int32_t)j, (int32_t)(columns && vd - j > columns ? columns : vd - j), at, at };
                }
            err = rondo__cpu_device.delta(dev, NULL, &x, NULL);
        }
    for (int64_t n = 0; n < c->sequences && !err; n++)
        for (int64_t h = 0; h < c->heads && !err; h++)
            for (int64_t j = 0; j < kd && !err; j += columns ? columns : kd) {
                const struct rondo_delta_state to = { 1, 0, (n * c->heads + h) * kd * kd + j, kd };
                const struct rondo_delta_block block = { RONDO_DELTA_MAP, 0, c->cu[n], c->cu[n + 1] - c->cu[n], (int32_t)h,
                                                         (int32_t)(h / (c->heads / c->key_heads)), (int32_t)h, (int32_t)j,
                                                         (int32_t)(columns && kd - j > columns ? columns : kd - j), { -1, 0, 0, 0 }, to };
                const struct rondo_delta_run x = { &form, &rows, &block, states, c->a_log, c->dt_bias, 1, 1, 2, 0.0 };
                err = rondo__cpu_device.delta(dev, NULL, &x, NULL);
            }
    return err;
}

__attribute__((unused)) static bool same(const struct delta_case *c, int out_type, const struct result *a, const struct result *b)
{
    const size_t pairs = (size_t)(c->sequences * c->heads), kd = (size_t)c->key_dim, vd = (size_t)c->value_dim;
    return !memcmp(a->out, b->out, (size_t)(c->rows * c->heads) * vd * rondo_type_size(out_type)) &&
           !memcmp(a->to, b->to, pairs * kd * vd * sizeof(float)) && !memcmp(a->map, b->map, pairs * kd * kd * sizeof(float));
}

__attribute__((unused)) static struct rondo_device *open_device(const char *isa, int threads)
{
    const struct rondo_device_desc desc = { .threads = threads, .isa = isa };
    struct rondo_device *dev = NULL;
    return rondo__cpu_device.attach(&dev, &desc) ? NULL : dev;
}

/* Of a right answer: the map of what the state from nothing lacks. */
__attribute__((unused)) static double map_error(const struct delta_case *c, const struct result *got)
{
    struct delta_case zero = *c;
    const int64_t kd = c->key_dim, vd = c->value_dim, pairs = c->sequences * c->heads;
    double worst = 0.0;
    if (!c->from)
        return 0.0;
    zero.from = NULL;
    delta_oracle(&zero);
    for (int64_t p = 0; p < pairs; p++)
        for (int64_t d = 0; d < kd; d++)
            for (int64_t j = 0; j < vd; j++) {
                double sum = zero.to[p * kd * vd + d * vd + j];
                for (int64_t i = 0; i < kd; i++)
                    sum += (double)got->map[(p * kd + d) * kd + i] * (double)c->from[p * kd * vd + i * vd + j];
                worst = worse(worst, fabs(sum - c->to[p * kd * vd + d * vd + j]));
            }
    free(zero.out);
    free(zero.to);
    return worst;
}

/* Of outputs, states and maps. */
__attribute__((unused)) static uint64_t hash_of(const struct delta_case *c, int out_type, const struct result *r)
{
    const int64_t pairs = c->sequences * c->heads, state = c->key_dim * c->value_dim;
    uint64_t hash = 0;
    rondo_hash_add(&hash, r->out, rondo_type_size(out_type), 0, c->rows * c->heads * c->value_dim);
    rondo_hash_add(&hash, r->to, sizeof(float), 1 << 20, pairs * state);
    rondo_hash_add(&hash, r->map, sizeof(float), 2 << 20, pairs * c->key_dim * c->key_dim);
    return hash;
}

#endif
