/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What --calibrate finds of the delta rule and its gradients, for each size of a state that has a rate of its own.
 */
#include "cli/calibrate.h"

#include <stdlib.h>

enum { DELTA_HEADS = 8, DELTA_TOKENS = 256, DELTA_ARRAYS = 12 };

const int64_t calibrate_states[CALIBRATE_STATES] = { 64, 128 };

/* Seconds of a pass on hardware that makes one FLOP of the rule, or of its gradients, in so many. */
static int delta_model(double *seconds, const rondo_delta_desc *d, int backward, double forward, double back)
{
    rondo_schedule *s = NULL;
    rondo_schedule_desc desc = RONDO_SCHEDULE_DESC_INIT;
    rondo_hardware h = RONDO_HARDWARE_INIT;
    desc.ranks = 1;
    desc.backward = backward;
    h.peak_flops = h.memory_bandwidth = h.link_bandwidth = 1e20;
    h.delta_flops = 1.0 / forward, h.delta_backward_flops = 1.0 / back;
    int code = rondo_schedule_delta(&s, &desc, d);
    if (!code)
        code = rondo_schedule_simulate(s, &h, NULL, NULL, seconds);
    rondo_schedule_destroy(s);
    return code;
}

/* From the fastest of some passes, forward and back, what the model makes of FLOPs. */
static int delta_rates(struct found *f, int which, const rondo_delta_desc *d, const double least[2])
{
    const double none = 1e-20;
    double all = 0.0, states = 0.0, sums = 0.0;
    int code = delta_model(&all, d, 0, 1.0, none);
    f->delta[0][which] = all / (least[0] > f->operation ? least[0] - f->operation : least[0]);
    code = code ? code : delta_model(&states, d, 1, 1.0 / f->delta[0][which], none);
    code = code ? code : delta_model(&sums, d, 1, none, 1.0);
    f->delta[1][which] = sums / (least[1] > states ? least[1] - states : least[1]);
    return code;
}

static int find_delta(struct found *f, rondo_context *ctx, int which, int repeat)
{
    const int64_t dim = calibrate_states[which];
    rondo_delta *plan = NULL;
    rondo_delta_desc d = RONDO_DELTA_DESC_INIT;
    rondo_delta_io io = RONDO_DELTA_IO_INIT;
    rondo_delta_gradients g = RONDO_DELTA_GRADIENTS_INIT;
    rondo_tensor *const tensors[DELTA_ARRAYS] = { &io.q, &io.k, &io.v, &io.g, &io.out, &g.dout, &g.dq, &g.dk, &g.dv, &g.dg, &io.beta, &g.dbeta };
    const int64_t shape[3] = { DELTA_TOKENS, DELTA_HEADS, dim };
    float *data[DELTA_ARRAYS] = { NULL };
    double least[2] = { 1e30, 1e30 };
    d.heads = d.key_heads = DELTA_HEADS, d.key_dim = d.value_dim = dim, d.tokens = DELTA_TOKENS;
    d.norm = 1, d.beta = RONDO_BETA_SIGMOID, d.gradients = 1;
    int code = rondo_delta_create(&plan, ctx, &d);
    for (int i = 0; i < DELTA_ARRAYS && !code; i++) {
        data[i] = bench_numbers(DELTA_TOKENS * DELTA_HEADS * dim, RONDO_F32, (uint32_t)i);
        if (!data[i])
            code = body_fail(RONDO_ENOMEM, "not enough memory for %d tokens of the delta rule", DELTA_TOKENS);
        *tensors[i] = rondo_tensor_dense(data[i], RONDO_F32, i < 10 ? 3 : 2, shape);
    }
    for (int64_t i = 0; i < DELTA_TOKENS * DELTA_HEADS * dim && !code; i++)   /* decays are below 1 */
        data[3][i] = data[3][i] < 0.0f ? data[3][i] : -data[3][i];
    for (int i = 0; i <= 2 * repeat && !code; i++) {
        const double begin = now();
        code = rondo_delta_execute(plan, &io);
        const double between = now();
        code = code ? code : rondo_delta_backward(plan, &io, &g);
        const double end = now();
        least[0] = i && between - begin < least[0] ? between - begin : least[0];
        least[1] = i && end - between < least[1] ? end - between : least[1];
    }
    code = code ? code : delta_rates(f, which, &d, least);
    rondo_delta_destroy(plan);
    for (int i = 0; i < DELTA_ARRAYS; i++)
        free(data[i]);
    return code;
}

int calibrate_delta(struct found *f, rondo_context *ctx, int repeat)
{
    int code = 0;
    for (int i = 0; i < CALIBRATE_STATES && !code; i++)
        code = find_delta(f, ctx, i, repeat);
    return code;
}
