/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A schedule in which something is wrong is not simulated: with a wait left out, a message too short, to somebody else or missing on one of
 * its ranks it gets the checker's sentence before it gets a time; and without a fault it gets one.
 */
#include "attention/attention.h"
#include "plan/predict.h"

#define DRAW_STREAM 1232
#include "t/draw.h"
#include "t/schedules.h"

struct faulty {
    struct rondo__design *design;
    struct rondo__part_of part;        /* of the checker by itself */
    struct planted planted;
};

static int build(void *arg, const struct rondo__design *design, int32_t rank, struct rondo__part_of *part)
{
    struct faulty *f = arg;
    const int err = rondo__design_build(design, rank, part);
    if (!err)
        plant(&f->planted, &part->schedule, rank);
    return err;
}

static int show(void *arg, int32_t rank, const struct rondo__schedule **out)
{
    struct faulty *f = arg;
    *out = &f->part.schedule;
    return build(arg, f->design, rank, &f->part);
}

static int draw_design(struct rondo__design *design, int32_t ranks)
{
    static const int32_t algorithms[] = { RONDO_PASS_KV, RONDO_PASS_Q, RONDO_ALL_GATHER, RONDO_HALO, RONDO_REDUCE, RONDO_MESH, RONDO_ALL_TO_ALL };
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
    d.kv_heads = 1 + draw(3);
    d.heads = d.kv_heads * (1 + draw(3));
    d.head_dim = draw(2) ? 8 : 512;
    d.leaf = 8;
    d.tokens = 1 + draw(600);
    d.cached = draw(900);
    d.causal = (int32_t)draw(2);
    d.algorithm = algorithms[draw(sizeof algorithms / sizeof *algorithms)];
    return rondo__design_make(design, &d, ranks, &machines[draw(COPIED + 1)]);
}

static double seconds_of(struct rondo__sim *sim)
{
    static const struct rondo__sim_links links = { .node_ranks = 1, .links = 1, .bandwidth = 1e9, .latency = 1e-5, .exchange_bandwidth = 1e9,
                                                   .exchange_latency = 1e-5, .local_bandwidth = 1e9, .local_latency = 1e-5 };
    double seconds = -1.0;
    return rondo__simulate(sim, &links, &seconds) ? -1.0 : seconds;
}

int main(void)
{
    static const struct fault kinds[] = { { "a wait left out", drop_wait, 0 }, { "a message one byte shorter", change_size, 1 },
                                          { "a message to somebody else", change_peer, 1 }, { "a message left out", drop_part, 1 } };
    rondo_hardware h = RONDO_HARDWARE_INIT;
    h.peak_flops = h.attention_flops = h.gemm_flops = 1e12;
    h.memory_bandwidth = 1e11;
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        struct tally tally = { 0 };
        int others = 0, timed = 0, sound = 0;
        for (int round = 0; round < 120; round++) {
            const int32_t ranks = 3 + (int32_t)draw(4);
            struct rondo__design design;
            uint64_t workspace;
            char sentence[1024] = "";
            if (draw_design(&design, ranks))
                continue;
            struct faulty f = { .design = &design, .planted = { &kinds[k], (int32_t)draw((uint32_t)ranks), draw(6), 0 } };
            const int seen = rondo__schedule_check(ranks, &design.machine, show, &f);
            snprintf(sentence, sizeof sentence, "%s", seen ? rondo_error_text() : "");
            missed(&tally, &f.planted, seen);
            struct rondo__sim sim = { .ranks = 0 };
            const struct rondo__sim_maker maker = { build, &f };
            const int err = rondo__sim_design(&sim, &design, &h, &maker, &workspace);
            others += err != seen || (err && strcmp(sentence, rondo_error_text()));
            rondo__sim_free(&sim);
            f.planted.fault = NULL;
            sound += !rondo__sim_design(&sim, &design, &h, &maker, &workspace) && workspace > 0;
            timed += seconds_of(&sim) > 0.0;
            rondo__sim_free(&sim);
            rondo__part_free(&f.part);
            rondo__design_free(&design);
            if (!timed)
                diag("%s", rondo_error_text());
        }
        faults_seen(&tally, &kinds[k], 5);
        ok(!others, "%s: each has the checker's sentence and no time", kinds[k].what);
        ok(sound == timed && timed > 60, "without it %d have a time", timed);
    }
    return done();
}
