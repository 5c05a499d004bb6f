/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The simulator against schedules whose times were worked out by hand: a stream alone, a ring that hides its transfers and one that does
 * not, links that ranks of a node share, all sending to all, a fence; then limits (one rank moves nothing, twice the bandwidth never takes
 * longer), schedules that cannot be simulated, memory that fails, and predictions: fields that cannot be so by name, and 1,024 ranks.
 */
#include "plan/predict.h"

#include "schedule/schedule.h"

#define DRAW_STREAM 1230
#include "t/draw.h"
#include "t/memory.h"
#include "t/tap.h"

static const struct rondo__sim_links alone = { 1, 1, 10.0, 0.5, 5.0, 2.0, 100.0, 0.125, 0.0, 0.0, 0.0, 0, 0.0, 0.0, 0.0, 0.0, 0.0 };

static bool near(double got, double want)
{
    const double off = got > want ? got - want : want - got;
    return off <= 1e-9 * (want > 1.0 ? want : 1.0);
}

static void is_time(double got, double want, const char *what)
{
    if (!ok(near(got, want), "%s: %g", what, want))
        diag("got %.17g", got);
}

static double run_with(struct rondo__sim *sim, const struct rondo__sim_links *links)
{
    double seconds = -1.0;
    const int err = rondo__simulate(sim, links, &seconds);
    if (err)
        diag("%s", rondo_error_text());
    return err ? -1.0 : seconds;
}

static double end_of(const struct rondo__sim *sim, int64_t operation)
{
    return ((const struct rondo__sim_operation *)sim->operations.items)[operation].end;
}

/* Each rank computes `step` n times and passes `bytes` on n - 1 times; a step waits for what it computes on. */
static void ring(struct rondo__sim *sim, int n, double step, double bytes)
{
    for (int r = 0; r < n; r++) {
        int64_t shift = -1;
        rondo__sim_rank(sim);
        for (int j = 0; j < n; j++) {
            const int64_t last = shift;
            if (j + 1 < n) {
                shift = rondo__sim_transfer(sim, false);
                rondo__sim_part(sim, (r + 1) % n, false, bytes);
                rondo__sim_part(sim, (r + n - 1) % n, true, bytes);
                if (last >= 0)
                    rondo__sim_wait(sim, last);
            }
            rondo__sim_stream(sim, step, true);
            if (last >= 0)
                rondo__sim_wait(sim, last);
        }
    }
}

static void by_hand(void)
{
    struct rondo__sim sim = { .ranks = 0 };
    rondo__sim_rank(&sim);
    rondo__sim_stream(&sim, 2.0, true);
    rondo__sim_stream(&sim, 3.0, false);
    is_time(run_with(&sim, &alone), 5.0, "a stream's operations follow each other");
    is_time(run_with(&sim, &alone), 5.0, "and do so again");
    rondo__sim_free(&sim);

    /* 0.5 of latency, then 20 bytes at 10: arrives at 2.5; 4 steps of 1: each waits for the next arrival, at 2.5, 5, 7.5 */
    ring(&sim, 4, 1.0, 20.0);
    is_time(run_with(&sim, &alone), 8.5, "a ring of 4 that waits for its transfers");
    rondo__sim_free(&sim);
    /* the first latency before the first step; the second transfer begins at 2.5, within that step, and the stream spends its latency behind
     * it: steps end at 5.5, and 5.5 + 0.5 + 5, and so on */
    ring(&sim, 4, 5.0, 20.0);
    is_time(run_with(&sim, &alone), 0.5 + 5 + 0.5 + 5 + 0.5 + 5 + 5, "one whose transfers are hidden, but for their latency");
    rondo__sim_free(&sim);
    ring(&sim, 1, 5.0, 20.0);
    is_time(run_with(&sim, &alone), 5.0, "of one rank: nothing but a step");
    rondo__sim_free(&sim);

    /* 2 nodes of 2 ranks, which share a link: ranks 1 and 3 pass to the other node, 0 and 2 within theirs: 20 bytes at 10 against 100 */
    const struct rondo__sim_links nodes = { 2, 1, 10.0, 0.5, 5.0, 2.0, 100.0, 0.125, 0.0, 0.0, 0.0, 0, 0.0, 0.0, 0.0, 0.0, 0.0 };
    ring(&sim, 4, 0.0, 20.0);
    is_time(run_with(&sim, &nodes), 3 * 2.5, "the slow links set the pace");
    rondo__sim_free(&sim);
    for (int r = 0; r < 4; r++) {   /* ranks 0 and 1 each send to their opposite: side by side through the one link */
        rondo__sim_rank(&sim);
        rondo__sim_transfer(&sim, false);
        rondo__sim_part(&sim, (r + 2) % 4, r >= 2, 20.0);
    }
    is_time(run_with(&sim, &nodes), 0.5 + 2 + 2, "two ranks of a node share its link");
    ok(near(end_of(&sim, 0), 4.5) && near(end_of(&sim, 1), 4.5), "and each has half of it");
    const struct rondo__sim_links two = { 2, 2, 10.0, 0.5, 5.0, 2.0, 100.0, 0.125, 0.0, 0.0, 0.0, 0, 0.0, 0.0, 0.0, 0.0, 0.0 };
    is_time(run_with(&sim, &two), 2.5, "with a link each they do not");
    struct rondo__sim_links bucket = nodes;
    bucket.burst = 20.0, bucket.inward = 100.0;
    is_time(run_with(&sim, &bucket), 0.5 + 2.0, "a bucket of 20 bytes is of a node");
    ok(near(end_of(&sim, 0), 0.9) && near(end_of(&sim, 1), 2.5), "and goes to who comes first");
    rondo__sim_free(&sim);
    for (int r = 0; r < 4; r++) {   /* 10 bytes beside 30: until the short one is through each has half */
        rondo__sim_rank(&sim);
        rondo__sim_transfer(&sim, false);
        rondo__sim_part(&sim, (r + 2) % 4, r >= 2, r % 2 ? 30.0 : 10.0);
    }
    is_time(run_with(&sim, &nodes), 0.5 + 2 + 2, "a long message beside a short one");
    ok(near(end_of(&sim, 0), 2.5), "which is through when each has gone for 10 bytes");
    rondo__sim_free(&sim);
    for (int r = 0; r < 3; r++) {   /* rank 0 sends 10 and 20 bytes to rank 1, and 30 to rank 2: of the two streams one has two messages */
        rondo__sim_rank(&sim);
        for (int i = 0; i < (r == 2 ? 1 : r == 1 ? 2 : 3); i++) {
            rondo__sim_transfer(&sim, false);
            rondo__sim_part(&sim, r ? 0 : i < 2 ? 1 : 2, r != 0, r == 1 ? (i ? 20.0 : 10.0) : r == 2 || i == 2 ? 30.0 : i ? 20.0 : 10.0);
        }
    }
    is_time(run_with(&sim, &alone), 0.5 + 6, "messages to one rank behind each other, beside one to another");
    ok(near(end_of(&sim, 0), 2.5) && near(end_of(&sim, 1), 6.5) && near(end_of(&sim, 2), 6.5), "streams share the way, whatever is in them");
    rondo__sim_free(&sim);

    for (int r = 0; r < 3; r++) {   /* ranks 1 and 2 both send to rank 0, whose way in takes one after the other */
        rondo__sim_rank(&sim);
        rondo__sim_transfer(&sim, false);
        rondo__sim_part(&sim, r ? 0 : 1, r == 0, 20.0);
        if (!r)
            rondo__sim_part(&sim, 2, true, 20.0);
    }
    is_time(run_with(&sim, &alone), 0.5 + 2 + 2, "two send to one");
    rondo__sim_free(&sim);

    for (int r = 0; r < 4; r++) {   /* 3 messages of 10 bytes at 5, behind a latency of 2 */
        rondo__sim_rank(&sim);
        rondo__sim_transfer(&sim, true);
        for (int k = 1; k < 4; k++) {
            rondo__sim_part(&sim, (r + k) % 4, false, 10.0);
            rondo__sim_part(&sim, (r + 4 - k) % 4, true, 10.0);
        }
    }
    is_time(run_with(&sim, &alone), 8.0, "all to all of 4");
    rondo__sim_free(&sim);

    /* rank 1 comes to the fence at 7; rank 0 goes on behind it, half a second later */
    for (int r = 0; r < 2; r++) {
        rondo__sim_rank(&sim);
        rondo__sim_stream(&sim, r ? 7.0 : 1.0, true);
        rondo__sim_fence(&sim);
        rondo__sim_stream(&sim, 2.0, true);
    }
    is_time(run_with(&sim, &alone), 9.5, "a fence waits for the last");
    rondo__sim_free(&sim);

    /* a message goes only when its receiver has come: it computes for 3 first */
    rondo__sim_rank(&sim);
    rondo__sim_transfer(&sim, false);
    rondo__sim_part(&sim, 1, false, 10.0);
    rondo__sim_rank(&sim);
    const int64_t first = rondo__sim_stream(&sim, 3.0, true);
    rondo__sim_transfer(&sim, false);
    rondo__sim_part(&sim, 0, true, 10.0);
    rondo__sim_wait(&sim, first);
    is_time(run_with(&sim, &alone), 4.5, "and for its receiver");
    rondo__sim_free(&sim);
}

/* Cores that ranks share, what messages take of a processor, links with a bucket, and ways in that are wider than ways out. */
static void crowds(void)
{
    struct rondo__sim sim = { .ranks = 0 };
    struct rondo__sim_links l = alone;
    l.cores = 2.0, l.core_ranks = 3;
    for (int r = 0; r < 3; r++) {   /* 2, 3 and 7: three at 2/3 each until 3; two as fast as alone until 4; then the last */
        const double seconds[3] = { 2.0, 3.0, 7.0 };
        rondo__sim_rank(&sim);
        rondo__sim_stream(&sim, seconds[r], true);
    }
    is_time(run_with(&sim, &l), 8.0, "three ranks on two cores");
    ok(near(end_of(&sim, 0), 3.0) && near(end_of(&sim, 1), 4.0), "the first goes at 3, the second at 4");
    l.core_ranks = 1;
    is_time(run_with(&sim, &l), 7.0, "with cores of their own they take what they take");
    l.core_ranks = 3, l.cores = 1.5, l.slowest = 0.6;   /* three at 1/2 until 4; two at 0.6 until 4 + 1 / 0.6; the last, 4 left, as alone */
    is_time(run_with(&sim, &l), 4.0 + 1.0 / 0.6 + 4.0, "cores that are slower while all are busy");
    ok(near(end_of(&sim, 0), 4.0) && near(end_of(&sim, 1), 4.0 + 1.0 / 0.6), "and the first two of them");
    /* turns of 1 on two cores, from the middle of one: the first two until 0.5, the third and the second until 1.5, the third and the first
     * until 2.5, the second and the first, which is through at 3; then the second, until 4, and the third, whose 4 last are alone */
    l = alone;
    l.core_ranks = 3, l.cores = 2.0, l.slice = 1.0;
    is_time(run_with(&sim, &l), 8.0, "three ranks on two cores, by turns");
    ok(near(end_of(&sim, 0), 3.0) && near(end_of(&sim, 1), 4.0), "who is through gives its core to one who waits");
    l.slice = 5.0;   /* the third from 2, when the first is through */
    is_time(run_with(&sim, &l), 9.0, "and by longer turns");
    ok(near(end_of(&sim, 0), 2.0) && near(end_of(&sim, 1), 3.0), "the first two have them to the end");
    l.slice = 6.0, l.turn = 0.5;   /* each goes on that much later: the third, from 2.5, at 3 */
    is_time(run_with(&sim, &l), 10.0, "where it takes a while to go on with a core");
    ok(near(end_of(&sim, 0), 2.5) && near(end_of(&sim, 1), 3.5), "the first two too");
    l.slice = 1.0, l.turn = 5.0;   /* no more than half of each turn: 24 halves on two cores, the last one's to the end */
    ok(run_with(&sim, &l) < 24.0, "and it takes no more than half of a turn");
    l = alone;
    is_time(run_with(&sim, &l), 7.0, "as where nothing is said of cores");
    rondo__sim_free(&sim);

    /* one core, turns of 2: the second's message, ready at 0, does not set out before it has the core, at 1; 1 + 0.5 later the first has it */
    rondo__sim_rank(&sim);
    rondo__sim_stream(&sim, 6.0, true);
    rondo__sim_transfer(&sim, false);
    rondo__sim_part(&sim, 1, true, 10.0);
    rondo__sim_rank(&sim);
    rondo__sim_transfer(&sim, false);
    rondo__sim_part(&sim, 0, false, 10.0);
    rondo__sim_stream(&sim, 1.0, true);
    l.core_ranks = 2, l.cores = 1.0;
    is_time(run_with(&sim, &l), 7.0, "one core, shared evenly");
    const double sent = end_of(&sim, 2);
    l.slice = 2.0;
    is_time(run_with(&sim, &l), 7.5, "one core, by turns");
    ok(near(sent, 1.5) && near(end_of(&sim, 2), 2.5), "who waits for a core begins no transfer");
    l = alone;
    rondo__sim_free(&sim);

    /* 10 bytes at 10, behind a latency of 0.5; a byte is 0.2 s of work: the sender's computation of 4 takes 2 more, which the receiver, which
     * waits, spends before its own of 1 */
    l = alone;
    l.work = 0.2;
    rondo__sim_rank(&sim);
    rondo__sim_transfer(&sim, false);
    rondo__sim_part(&sim, 1, false, 10.0);
    rondo__sim_stream(&sim, 4.0, true);
    rondo__sim_rank(&sim);
    const int64_t in = rondo__sim_transfer(&sim, false);
    rondo__sim_part(&sim, 0, true, 10.0);
    const int64_t last = rondo__sim_stream(&sim, 1.0, true);
    rondo__sim_wait(&sim, in);
    is_time(run_with(&sim, &l), 0.5 + 4 + 2, "a message adds to what its sender computes");
    is_time(end_of(&sim, last), 0.5 + 2 + 1, "and comes before what its receiver does");
    rondo__sim_free(&sim);

    /* two of 20 bytes at 10, each through a bucket of 15: the first is gone at 0.5 + 2 - 1.5, but comes in for 2; then the second */
    l = alone;
    l.burst = 15.0, l.inward = 40.0;
    for (int r = 0; r < 2; r++) {
        rondo__sim_rank(&sim);
        rondo__sim_transfer(&sim, false);
        rondo__sim_part(&sim, 1 - r, r != 0, 20.0);
        rondo__sim_part(&sim, 1 - r, r != 0, 20.0);
    }
    is_time(run_with(&sim, &l), 0.5 + 4 - 1.5, "a bucket lets a burst go at once");
    rondo__sim_free(&sim);
    for (int r = 0; r < 3; r++) {
        rondo__sim_rank(&sim);
        rondo__sim_transfer(&sim, false);
        rondo__sim_part(&sim, r ? 0 : 1, r == 0, 20.0);
        if (!r)
            rondo__sim_part(&sim, 2, true, 20.0);
    }
    l.burst = 0.0;
    is_time(run_with(&sim, &l), 0.5 + 2, "two send to one whose way in is wide");
    rondo__sim_free(&sim);
}

/* Rings at random: never less than what a rank computes, or than what one way carries; never more than one thing after the other. */
static void bounds(void)
{
    int below = 0, above = 0;
    for (int i = 0; i < 300; i++) {
        struct rondo__sim sim = { .ranks = 0 };
        const int n = 2 + (int)draw(9);
        const double step = draw(100) / 10.0, bytes = 1 + draw(200);
        ring(&sim, n, step, bytes);
        const double seconds = run_with(&sim, &alone), computes = n * step, moves = (n - 1) * bytes / 10.0;
        below += seconds < computes - 1e-9 || seconds < moves - 1e-9;
        above += seconds > computes + moves + (n - 1) * 0.5 + 1e-9;
        rondo__sim_free(&sim);
    }
    ok(!below && !above, "300 rings at random lie between what cannot be beaten and one thing after the other");
}

static void refused(struct rondo__sim *sim, const char *word)
{
    double seconds;
    ok(rondo__simulate(sim, &alone, &seconds) == RONDO_EINVAL && strstr(rondo_error_text(), word), "%s", rondo_error_text());
    rondo__sim_free(sim);
}

static void impossible(void)
{
    struct rondo__sim sim = { .ranks = 0 };
    rondo__sim_rank(&sim);
    rondo__sim_transfer(&sim, false);
    rondo__sim_part(&sim, 1, false, 10.0);
    rondo__sim_rank(&sim);
    refused(&sim, "no receiver");
    rondo__sim_rank(&sim);
    rondo__sim_rank(&sim);
    rondo__sim_transfer(&sim, false);
    rondo__sim_part(&sim, 0, true, 10.0);
    refused(&sim, "no sender");
    rondo__sim_rank(&sim);
    rondo__sim_transfer(&sim, false);
    rondo__sim_part(&sim, 3, false, 10.0);
    refused(&sim, "with rank 3");
    /* each sends behind what it receives */
    for (int r = 0; r < 2; r++) {
        rondo__sim_rank(&sim);
        const int64_t in = rondo__sim_transfer(&sim, false);
        rondo__sim_part(&sim, 1 - r, true, 10.0);
        rondo__sim_transfer(&sim, false);
        rondo__sim_part(&sim, 1 - r, false, 10.0);
        rondo__sim_wait(&sim, in);
    }
    refused(&sim, "for ever");
    rondo__sim_rank(&sim);
    rondo__sim_fence(&sim);
    rondo__sim_rank(&sim);
    refused(&sim, "for ever");
}

/* ---- predictions ---- */

static rondo_cost_case layer(int32_t algorithm, int64_t cp, int64_t tokens, int64_t cached)
{
    rondo_cost_case c = RONDO_COST_CASE_INIT;
    c.phase = RONDO_COST_PREFILL;
    c.algorithm = algorithm;
    c.hidden_size = 4096, c.num_heads = 32, c.num_kv_heads = 8, c.head_dim = 128, c.batch_size = 1;
    c.new_tokens = tokens, c.past_seq_len = cached, c.bytes_per_elem = 2, c.causal = 1, c.context_parallel = cp;
    return c;
}

static rondo_hardware machine(void)
{
    rondo_hardware h = RONDO_HARDWARE_INIT;
    h.peak_flops = 1e13;
    h.memory_bandwidth = 1e11;
    h.link_bandwidth = 1e9;
    h.link_latency = 1e-5;
    return h;
}

static rondo_prediction predict(const rondo_cost_case *c, const rondo_hardware *h, int kind)
{
    rondo_prediction p = RONDO_PREDICTION_INIT;
    if (rondo_predict(c, h, kind, &p))
        ok(0, "a prediction: %s", rondo_error_text());
    return p;
}

static void predictions(void)
{
    static const int32_t algorithms[] = { RONDO_PASS_KV, RONDO_PASS_Q, RONDO_ALL_GATHER, RONDO_ALL_TO_ALL, RONDO_REDUCE, RONDO_HALO, RONDO_MESH };
    rondo_hardware h = machine();
    rondo_cost_case c = layer(RONDO_PASS_KV, 1, 16384, 0);
    rondo_prediction p = predict(&c, &h, RONDO_PREDICT_RUN);
    is_time(p.layer_attention, 4.0 * 32 * 128 * (16384.0 * 16385 / 2) / 1e13, "attention of one rank takes its FLOPs");
    is_time(p.linear_seconds, 2.0 * 16384 * 4096 * (2 * 4096 + 2 * 1024) / 1e13, "and projections theirs");
    h.attention_edge = 0.5;
    is_time(predict(&c, &h, RONDO_PREDICT_RUN).layer_attention, 4.0 * 32 * 128 * (16384.0 * 16385 / 2 + 16384.0 * 127 / 2 / 2) / 1e13,
            "with half of what is hidden of leaves at the edge computed all the same");
    h.attention_edge = 0.0;
    h.attention_dims[0] = 64, h.attention_dims[1] = 192, h.attention_rates[0] = 1e12, h.attention_rates[1] = 3e12;
    is_time(predict(&c, &h, RONDO_PREDICT_RUN).layer_attention, 4.0 * 32 * 128 * (16384.0 * 16385 / 2) / 2e12, "a rate between those of two head sizes");
    h = machine();
    h.row_counts[0] = 16, h.row_counts[1] = 112, h.row_parts[0] = 0.4, h.row_parts[1] = 0.8;
    for (int64_t tokens = 2; tokens <= 32; tokens *= 4) {   /* of 4 query heads a KV head */
        static const double parts[] = { 0.2, 0.5, 0.8 };   /* half the first, a quarter between the two, beyond the last */
        const rondo_cost_case few = layer(RONDO_PASS_KV, 1, tokens == 8 ? 10 : tokens, 16384);
        const double seen = (double)few.new_tokens * (16384.0 + (double)(few.new_tokens + 1) / 2);
        h.memory_bandwidth = 1e20;
        is_time(predict(&few, &h, RONDO_PREDICT_RUN).layer_attention, 4.0 * 32 * 128 * seen / 1e13 / parts[tokens == 2 ? 0 : tokens == 8 ? 1 : 2],
                tokens == 2 ? "8 rows of a KV head: half the part of 16" : tokens == 8 ? "40: in between" : "128: the part of 112");
    }
    h = machine();
    h.in_place = 1, h.node_ranks = 4, h.link_bandwidth = h.local_bandwidth = 1.0;
    c.context_parallel = 4, c.new_tokens = 4096;
    ok(predict(&c, &h, RONDO_PREDICT_RUN).layer_transfer < 200.0, "threads read each other's memory: a word a message");
    h.in_place = 0;
    ok(predict(&c, &h, RONDO_PREDICT_RUN).layer_transfer > 1e6, "others send it");
    h = machine();
    c = layer(RONDO_PASS_KV, 1, 16384, 0);
    c.skip_projections = 15;
    c.num_layers = 7;
    is_time(predict(&c, &h, RONDO_PREDICT_RUN).attention_seconds, 7 * p.layer_attention, "of each layer");
    int faster = 1, slower = 1, alike = 1;
    for (size_t a = 0; a < sizeof algorithms / sizeof *algorithms; a++)
        for (int64_t cp = 2; cp <= 8; cp += 3) {
            c = layer(algorithms[a], cp, 4096, 8192);
            h = machine();
            const double base = predict(&c, &h, RONDO_PREDICT_RUN).seconds;
            alike &= base == predict(&c, &h, RONDO_PREDICT_RUN).seconds;
            h.link_bandwidth *= 2.0;
            faster &= predict(&c, &h, RONDO_PREDICT_RUN).seconds <= base * 1.000001;
            h.link_bandwidth /= 4.0;
            slower &= predict(&c, &h, RONDO_PREDICT_RUN).seconds >= base * 0.999999;
        }
    ok(alike, "a prediction is the same each time");
    ok(faster && slower, "faster links never take longer, slower ones never less");
    c = layer(RONDO_PASS_KV, 8, 65536, 0);
    h = machine();
    h.link_bandwidth = 1e30, h.link_latency = 0.0;
    p = predict(&c, &h, RONDO_PREDICT_RUN);
    ok(p.layer_attention >= p.layer_compute && p.layer_attention < 1.01 * p.layer_compute,
       "with links that take no time a ring takes what it computes");
    /* the paper's ring by hand: 4 ranks, of 1,024 new tokens and 3,072 cached each; the first step sees a diagonal more. Transfers are slower
     * than steps, and each begins behind the step before it */
    c = layer(RONDO_PASS_KV, 4, 4096, 12288);
    h = machine();
    p = predict(&c, &h, RONDO_PREDICT_PAPER);
    const double pairs = 1024.0 * 3072 + 2.0 * 512 * 512, step = 4.0 * 32 * 128 * pairs / 1e13, wire = 2.0 * 4096 * 8 * 128 * 2 / 1e9;
    is_time(p.longest_transfer, 1e-5 + wire, "the paper's ring: a transfer");
    is_time(p.layer_attention, 3 * (1e-5 + wire) + step, "and all of it");
    ok(predict(&c, &h, RONDO_PREDICT_RUN).layer_attention > 0.0, "where this library's runs");
    /* what it takes at least, whatever links and cores are like */
    int beyond = 0, near = 0, cases = 0;
    for (size_t a = 0; a < sizeof algorithms / sizeof *algorithms; a++)
        for (int32_t kind = 0; kind < 8; kind++) {
            c = layer(algorithms[a], kind % 2 ? 12 : 5, kind & 2 ? 8192 : 96, kind & 4 ? 0 : 8192);
            c.batch_size = kind == 3 ? 3 : 1;
            h = machine();
            h.local_bandwidth = kind == 1 ? 1e10 : 0.0, h.local_latency = 1e-6, h.node_ranks = kind == 1 ? 4 : kind == 2 ? 2 : 1;
            h.link_burst = kind == 4 ? 1e6 : 0.0, h.link_inward = kind == 5 ? 2e9 : kind == 6 ? 5e8 : 0.0;
            h.all_to_all_bandwidth = kind == 7 ? 3e9 : 0.0, h.all_to_all_latency = 2e-6;
            h.cores = kind == 6 ? 3.0 : 0.0, h.core_slowest = kind == 6 ? 0.8 : 0.0, h.core_slice = kind == 6 ? 1e-4 : 0.0;
            h.core_turn = kind == 6 ? 2e-5 : 0.0;
            h.link_work = kind == 4 ? 1e-10 : 0.0;
            const double least = predict(&c, &h, RONDO_PREDICT_LEAST).layer_attention, all = predict(&c, &h, RONDO_PREDICT_RUN).layer_attention;
            beyond += least > all;
            near += least > 0.8 * all;
            cases++;
        }
    ok(!beyond && 2 * near > cases, "what %d cases take at least is never more than they take, and near it in %d", cases, near);
    /* 1,024 ranks */
    c = layer(RONDO_PASS_KV, 1024, 1 << 20, 0);
    p = predict(&c, &h, RONDO_PREDICT_PAPER);
    ok(p.seconds > 0.0, "1,024 ranks");
}

/* Two ranks of eight leaves, dealt out zigzag: rank 1's 512 rows load three nodes each (leaves 0 and 1 of rank 0, 2 and 3, 4 and 5) and make one
 * result, after which all is over. On a device, and by pass-KV, nothing is joined at that rate. */
static double join_differs(int32_t algorithm, double cores)
{
    const rondo_cost_case c = layer(algorithm, 2, 1024, 0);
    rondo_prediction slow = RONDO_PREDICTION_INIT, fast = RONDO_PREDICTION_INIT;
    rondo_hardware h = machine();
    h.cores = cores;
    h.join_bandwidth = 1e6;
    int err = rondo_predict(&c, &h, RONDO_PREDICT_RUN, &slow);
    h.join_bandwidth = 2e6;
    err = err ? err : rondo_predict(&c, &h, RONDO_PREDICT_RUN, &fast);
    const double rows = 512.0 * (double)c.num_heads, dim = (double)c.head_dim;
    return err ? -1.0 : (slow.layer_attention - fast.layer_attention) / (4.0 * rows * (3.0 * (dim + 2.0) + 2.0 * dim) / 2e6);
}

static void joins(void)
{
    const double q = join_differs(RONDO_PASS_Q, 2.0);
    ok(q > 0.999 && q < 1.001, "pass-Q's join takes its nodes and twice its results at join_bandwidth: %g of that", q);
    ok(join_differs(RONDO_PASS_Q, 0.0) == 0.0, "a device's does not");
    ok(join_differs(RONDO_PASS_KV, 2.0) == 0.0, "and pass-KV joins nothing");
}

static void refused_hardware(const rondo_hardware *h, const char *name)
{
    const rondo_cost_case c = layer(RONDO_PASS_KV, 2, 512, 0);
    rondo_prediction p = RONDO_PREDICTION_INIT;
    const int code = rondo_predict(&c, h, RONDO_PREDICT_RUN, &p);
    ok(code == RONDO_EINVAL && strstr(rondo_error_text(), name), "refused by name: %s", rondo_error_text());
}

static void refusals(void)
{
    rondo_cost_case c = layer(RONDO_PASS_KV, 2, 512, 0);
    rondo_prediction p = RONDO_PREDICTION_INIT;
    rondo_hardware h = machine();
#define REFUSE(name, change)         \
    do {                             \
        h = machine();               \
        change;                      \
        refused_hardware(&h, name);  \
    } while (0)
    REFUSE("gemm_flops", h.peak_flops = 0.0);
    REFUSE("attention_flops", h.attention_flops = -1.0);
    REFUSE("memory_bandwidth", h.memory_bandwidth = 0.0);
    REFUSE("link_bandwidth", h.link_bandwidth = __builtin_nan(""));
    REFUSE("link_latency", h.link_latency = __builtin_inf());
    REFUSE("overhead", h.overhead = -1e-9);
    REFUSE("skew", h.skew = -1.0);
    REFUSE("node_ranks", h.node_ranks = -1);
    REFUSE("cores", h.cores = -2.0);
    REFUSE("core_ranks", h.core_ranks = -2);
    REFUSE("core_slowest", h.core_slowest = 1.5);
    REFUSE("join_bandwidth", h.join_bandwidth = -1.0);
    REFUSE("link_burst", h.link_burst = -1.0);
    REFUSE("link_inward", h.link_inward = -1.0);
    REFUSE("link_work", h.link_work = -1.0);
    REFUSE("local_work", h.local_work = -1.0);
    REFUSE("attention_edge", h.attention_edge = 1.5);
    REFUSE("attention_rates", h.attention_dims[0] = 64);
    REFUSE("attention_rates", (h.attention_dims[0] = 64, h.attention_dims[1] = 64, h.attention_rates[0] = h.attention_rates[1] = 1e9));
    REFUSE("attention_rows", (h.row_counts[0] = 8, h.row_parts[0] = 1.01));
    REFUSE("attention_rows", h.row_counts[0] = -8);
    REFUSE("delta_rates", (h.delta_dims[0] = 64, h.delta_rates[0] = 1e9));
    REFUSE("in_place", h.in_place = 2);
    REFUSE("spare", h.spare = 1);
    REFUSE("node_links", (h.node_ranks = 4, h.node_links = 5));
    h = machine();
    is_int(rondo_predict(&c, &h, 7, &p), RONDO_EINVAL, "no such kind: %s", rondo_error_text());
    is_int(rondo_predict(&c, &h, 0, NULL), RONDO_EINVAL, "no place: %s", rondo_error_text());
    is_int(rondo_predict(NULL, &h, 0, &p), RONDO_EINVAL, "no case: %s", rondo_error_text());
    is_int(rondo_predict(&c, NULL, 0, &p), RONDO_EINVAL, "no hardware: %s", rondo_error_text());
    c.algorithm = RONDO_MESH;
    is_int(rondo_predict(&c, &h, RONDO_PREDICT_PAPER, &p), RONDO_ENOTSUP, "the paper has no mesh: %s", rondo_error_text());
    c.algorithm = RONDO_PASS_KV, c.windowed = 1;
    is_int(rondo_predict(&c, &h, RONDO_PREDICT_PAPER, &p), RONDO_ENOTSUP, "nor windows: %s", rondo_error_text());
    is_int(rondo_hardware_find("abacus", &h), RONDO_EINVAL, "no such hardware: %s", rondo_error_text());
    is_int(rondo_hardware_find(NULL, &h), RONDO_EINVAL, "nor none");
    int found = 0;
    for (int i = 0; rondo_hardware_name(i); i++)
        found += !rondo_hardware_find(rondo_hardware_name(i), &h) && h.memory_bandwidth > 0.0 && h.name == rondo_hardware_name(i);
    ok(found >= 5 && !rondo_hardware_name(-1), "%d are known by name", found);
}

static int attempt(void *arg, int *right)
{
    const rondo_hardware h = machine();
    rondo_prediction p = RONDO_PREDICTION_INIT;
    const int err = rondo_predict(arg, &h, RONDO_PREDICT_RUN, &p);
    *right = !err && p.layer_transfer > 0.0;
    return err;
}

int main(void)
{
    memory_hooks();
    by_hand();
    crowds();
    bounds();
    impossible();
    predictions();
    joins();
    refusals();
    rondo_cost_case c = layer(RONDO_PASS_Q, 3, 1000, 500);
    memory_failures(attempt, &c, 7, "a prediction");
    return done();
}
