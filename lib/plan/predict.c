/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What one pass of a case would take on some hardware. Attention is simulated (simulate.c) from the schedules of all ranks of a context;
 * linear layers take their FLOPs or the reading of their weights, whichever is longer; chips that share heads sum rows twice a layer. A pure
 * function; called by `rondo plan` and by programs that plan.
 *
 *   sums of n chips in h nodes   2 (n - 1)/n of the bytes at the slower of local_bandwidth and node_links * link_bandwidth, and the latency
 *                                of within a node, or (h - 1) of between nodes
 *   skew                         the last of h nodes, each late by an exponential time, comes (1/2 + 1/3 + ... + 1/h) * skew behind the mean
 */
#include "plan/predict.h"

#define RATES ((int)(sizeof((rondo_hardware *)0)->attention_dims / sizeof(int64_t)))
#define ROWS ((int)(sizeof((rondo_hardware *)0)->row_counts / sizeof(int64_t)))

static double attention_rate(const rondo_hardware *h, int64_t head_dim)
{
    return h->attention_dims[0] ? rondo__hardware_of_size(h->attention_dims, h->attention_rates, RATES, (double)head_dim) : h->attention_flops;
}

double rondo__sim_row_part(const rondo_hardware *h, double rows)
{
    if (!h->row_counts[0])
        return 1.0;
    const double part = rondo__hardware_of_size(h->row_counts, h->row_parts, ROWS, rows), first = (double)h->row_counts[0];
    return rows < first ? part * (rows > 1.0 ? rows : 1.0) / first : part;
}

double rondo__sim_compute_seconds(const rondo_hardware *h, int64_t head_dim, double flops, double bytes)
{
    const double computing = flops / attention_rate(h, head_dim), reading = bytes / h->memory_bandwidth;
    return h->operation_latency + (computing > reading ? computing : reading);
}

/* ---- hardware ---- */

/* A context's ranks are `tp` apart among all; the other contexts do the same at the same time, and have their share of a node's links. */
struct rondo__sim_links rondo__sim_links_of(const rondo_hardware *h, int64_t tp)
{
    const int64_t here = h->node_ranks > tp ? h->node_ranks / tp : 1;              /* a context's ranks of a node */
    const double links = (double)h->node_links * (double)here / (double)(here * tp < h->node_ranks ? here * tp : h->node_ranks);
    const int64_t sharing = h->core_ranks;
    const int32_t whole = links >= 1.0 ? (int32_t)(links < (double)here ? links : (double)here) : 1;
    const double share = links / whole < 1.0 ? links / whole : 1.0;
    return (struct rondo__sim_links){ (int32_t)here, whole, h->link_bandwidth * share, h->link_latency, h->all_to_all_bandwidth * share,
                                      h->all_to_all_latency, h->local_bandwidth, h->local_latency,
                                      sharing > tp ? h->cores / (double)tp : h->cores / (double)sharing, h->link_work, h->local_work,
                                      (int32_t)(sharing > tp ? sharing / tp : 1), h->link_burst, h->link_inward, h->core_slice,
                                      h->core_slowest, h->core_turn };
}

/* How much longer ranks take that share cores and all compute. */
static double crowded(const rondo_hardware *h, int64_t chips)
{
    const double ranks = (double)(chips < h->core_ranks ? chips : h->core_ranks);
    return h->cores > 0.0 ? 1.0 / rondo__core_speed(h->cores, h->core_slowest, ranks) : 1.0;
}

/* ---- what is added up ---- */

static void times_of(const struct rondo__sim *sim, rondo_prediction *p)
{
    const struct rondo__sim_operation *o = sim->operations.items;
    const int64_t *first = sim->first.items;
    for (int32_t r = 0; r < sim->ranks; r++) {
        double compute = 0.0, transfer = 0.0, exchange = 0.0;
        for (int64_t i = first[r]; i < (r + 1 < sim->ranks ? first[r + 1] : sim->operations.count); i++) {
            const double took = o[i].end - o[i].begin;
            if (o[i].kind == RONDO_SIM_STREAM && o[i].computes) {
                compute += took;
                p->longest_compute = took > p->longest_compute ? took : p->longest_compute;
            } else if (o[i].kind == RONDO_SIM_TRANSFER && o[i].exchange) {
                exchange += took;
            } else if (o[i].kind == RONDO_SIM_TRANSFER) {
                transfer += took;
                p->longest_transfer = took > p->longest_transfer ? took : p->longest_transfer;
            }
        }
        p->layer_compute = compute > p->layer_compute ? compute : p->layer_compute;
        p->layer_transfer = transfer > p->layer_transfer ? transfer : p->layer_transfer;
        p->layer_exchange = exchange > p->layer_exchange ? exchange : p->layer_exchange;
    }
}

static int attention_least(rondo_prediction *p, const struct rondo__cost_count *n, const rondo_hardware *h, const struct rondo__sim_links *links,
                           uint64_t *workspace)
{
    struct rondo__design design;
    int err = rondo__sim_design_of(&n->c, h, &design);
    if (err)
        return err;
    err = rondo__sim_least(&design, h, links, &p->layer_attention, workspace);
    p->algorithm = design.desc.algorithm;
    p->layout = design.desc.layout;
    rondo__design_free(&design);
    return err;
}

static int attention(rondo_prediction *p, const struct rondo__cost_count *n, const rondo_hardware *h, int kind, uint64_t *workspace)
{
    struct rondo__sim sim = { .ranks = 0 };
    const struct rondo__sim_links links = rondo__sim_links_of(h, n->s.tp);
    if (kind == RONDO_PREDICT_LEAST)
        return attention_least(p, n, h, &links, workspace);
    int err = kind == RONDO_PREDICT_PAPER ? rondo__sim_paper(&sim, &n->c, &n->s, h)
                                          : rondo__sim_schedules(&sim, &n->c, h, workspace, &p->algorithm, &p->layout);
    if (!err)
        err = rondo__simulate(&sim, &links, &p->layer_attention);
    if (!err)
        times_of(&sim, p);
    rondo__sim_free(&sim);
    return err;
}

/* All but attention itself, and what an embedding is not read of. */
static double linear(const struct rondo__cost_count *n, const rondo_hardware *h)
{
    const struct rondo__cost_sizes *s = &n->s;
    const double core = 4.0 * (double)s->heads_local * (double)s->pairs_local * (double)s->head_dim * (double)s->layers;
    const double embedding = n->c.tied_embeddings ? 0.0 : (double)s->vocab_local * (double)s->hidden * (double)s->weight_bytes;
    const double computing = (rondo__cost_about(n, RONDO_FLOPS) - core) / h->gemm_flops;
    const double reading = (rondo__cost_about(n, RONDO_WEIGHTS) - embedding) / h->memory_bandwidth;
    return (computing > reading ? computing : reading) * crowded(h, s->chips);
}

static int64_t nodes_of(const rondo_hardware *h, int64_t ranks)
{
    return (ranks + h->node_ranks - 1) / h->node_ranks;
}

/* Sums over the chips that share heads: of attention's output, and of the MLP's. */
static double shared(const struct rondo__cost_count *n, const rondo_hardware *h)
{
    const struct rondo__cost_sizes *s = &n->s;
    const int64_t nodes = nodes_of(h, s->tp);
    const double between = (double)h->node_links * h->link_bandwidth;
    const double bandwidth = nodes == 1 || h->local_bandwidth < between ? h->local_bandwidth : between;
    const double sums = (n->c.keep_hidden_sharded ? 0.0 : 1.0) + (s->ffn ? 1.0 : 0.0), tp = (double)s->tp;
    const double bytes = 2.0 * (tp - 1.0) / tp * (double)s->tokens_local * (double)s->hidden * (double)s->bytes;
    const double latency = nodes == 1 ? h->local_latency : (double)(nodes - 1) * h->link_latency;
    return s->tp > 1 ? (double)s->layers * sums * (bytes / bandwidth + latency) : 0.0;
}

static double late(const struct rondo__cost_count *n, const rondo_hardware *h)
{
    const int64_t nodes = nodes_of(h, n->s.chips) / nodes_of(h, n->s.tp);
    double sum = 0.0;
    for (int64_t i = 2; i <= nodes && n->c.phase == RONDO_COST_PREFILL; i++)
        sum += 1.0 / (double)i;
    return h->skew * sum;
}

/* Bytes of a rank. */
static uint64_t held(const struct rondo__cost_count *n, enum rondo__cost_measure measure)
{
    const double bytes = rondo__cost_about(n, measure);
    return bytes < 9e18 ? (uint64_t)bytes : UINT64_MAX;
}

int rondo_predict(const rondo_cost_case *of, const rondo_hardware *hardware, int kind, rondo_prediction *prediction)
{
    rondo_prediction p = RONDO_PREDICTION_INIT;
    struct rondo__cost_count n;
    rondo_hardware h;
    uint64_t workspace = 0;
    if (!prediction)
        return rondo__fail(RONDO_EINVAL, "rondo_predict: prediction is NULL");
    if (kind != RONDO_PREDICT_RUN && kind != RONDO_PREDICT_PAPER && kind != RONDO_PREDICT_LEAST)
        return rondo__fail(RONDO_EINVAL, "rondo_predict: there is no kind %d; RONDO_PREDICT_RUN, RONDO_PREDICT_PAPER and RONDO_PREDICT_LEAST are known",
                           kind);
    int err = rondo__hardware_complete(&h, hardware);
    if (!err)
        err = rondo__cost_terms(&n, of);
    if (!err)
        p.algorithm = n.c.algorithm;
    if (!err)
        err = attention(&p, &n, &h, kind, &workspace);
    if (err)
        return err;
    p.linear_seconds = linear(&n, &h);
    p.shared_seconds = shared(&n, &h);
    p.attention_seconds = p.layer_attention * (double)n.s.layers;
    p.overhead_seconds = h.overhead * (double)n.s.layers + late(&n, &h);
    p.seconds = p.linear_seconds + p.shared_seconds + p.attention_seconds + p.overhead_seconds;
    p.weight_bytes = held(&n, RONDO_WEIGHTS);
    p.cache_bytes = held(&n, RONDO_CACHE);
    p.activation_bytes = held(&n, RONDO_ACTIVATIONS);
    p.workspace_bytes = workspace;
    const uint64_t parts[] = { p.weight_bytes, p.cache_bytes, p.activation_bytes, p.workspace_bytes };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        p.memory_per_rank = parts[i] < UINT64_MAX - p.memory_per_rank ? p.memory_per_rank + parts[i] : UINT64_MAX;
    return rondo__info_copy(prediction, &p, sizeof p, "rondo_prediction");
}
