/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Hardware: what is known by name, for who has nothing measured (`rondo bench --calibrate` measures what is at hand); defaults and what its fields
 * may be; and what of it the ranks of a run see. Called by predict.c, by contexts, which are on some, and by `rondo plan`.
 *
 * grand-teton-rdma and grand-teton-tcp are the two clusters of arXiv:2411.01783: eight H100 (96 GB HBM2e, 2.4 TB/s, 500 W, 800 TFLOP/s of BF16)
 * a host, with 400 Gbit/s RDMA, or 100 Gbit/s TCP of which it says 3 GB/s come through. Eleven numbers of the first - all but peak_flops,
 * memory_bytes and what a node has - are what fits all of that paper's tables at once, which `rondo plan replay` shows; the second has its
 * own links. Of the others rates are the makers', links and latencies what such machines usually reach.
 */
#include "plan/plan.h"

#include <stdio.h>

#define H100_GEMM 6.59e14
#define H100_ATTENTION 5.23e14

static const rondo_hardware known[] = {
    { .name = "grand-teton-rdma", .peak_flops = 8.0e14, .gemm_flops = H100_GEMM, .attention_flops = H100_ATTENTION, .memory_bandwidth = 1.77e12,
      .link_bandwidth = 2.38e10, .link_latency = 26e-6, .all_to_all_bandwidth = 4.05e10, .all_to_all_latency = 90.3e-6,
      .overhead = 79.3e-6, .memory_bytes = 96e9, .local_bandwidth = 4.0e11, .operation_latency = 3.4e-6, .skew = 0.585,
      .node_ranks = 8, .node_links = 8 },
    { .name = "grand-teton-tcp", .peak_flops = 8.0e14, .gemm_flops = H100_GEMM, .attention_flops = H100_ATTENTION, .memory_bandwidth = 1.77e12,
      .link_bandwidth = 3.0e9, .link_latency = 50e-6, .all_to_all_bandwidth = 3.0e9, .all_to_all_latency = 200e-6,
      .overhead = 79.3e-6, .memory_bytes = 96e9, .local_bandwidth = 4.0e11, .operation_latency = 3.4e-6, .skew = 0.585,
      .node_ranks = 8, .node_links = 8 },
    { .name = "h100", .peak_flops = 9.89e14, .gemm_flops = 7.0e14, .attention_flops = 6.0e14, .memory_bandwidth = 2.8e12,
      .link_bandwidth = 4.5e10, .link_latency = 15e-6, .overhead = 60e-6, .memory_bytes = 80e9, .local_bandwidth = 3.8e11,
      .local_latency = 8e-6, .operation_latency = 4e-6, .node_ranks = 8, .node_links = 8 },
    { .name = "h200", .peak_flops = 9.89e14, .gemm_flops = 7.0e14, .attention_flops = 6.0e14, .memory_bandwidth = 4.1e12,
      .link_bandwidth = 4.5e10, .link_latency = 15e-6, .overhead = 60e-6, .memory_bytes = 141e9, .local_bandwidth = 3.8e11,
      .local_latency = 8e-6, .operation_latency = 4e-6, .node_ranks = 8, .node_links = 8 },
    /* a rank is a socket of 32 cores at 2.6 GHz with two AVX-512 units, eight channels of DDR5-4800, one 25 Gbit/s link a host */
    { .name = "xeon-ethernet", .peak_flops = 5.3e12, .gemm_flops = 4.2e12, .attention_flops = 3.2e12, .memory_bandwidth = 2.4e11,
      .link_bandwidth = 2.9e9, .link_latency = 40e-6, .overhead = 100e-6, .memory_bytes = 256e9, .local_bandwidth = 4e10,
      .local_latency = 5e-6, .operation_latency = 5e-6, .node_ranks = 2, .node_links = 1 },
};
#define KNOWN (sizeof known / sizeof *known)

const char *rondo_hardware_name(int index)
{
    return index >= 0 && index < (int)KNOWN ? known[index].name : NULL;
}

int rondo_hardware_find(const char *name, rondo_hardware *hardware)
{
    if (!name || !hardware)
        return rondo__fail(RONDO_EINVAL, "rondo_hardware_find: name or hardware is NULL");
    for (size_t i = 0; i < KNOWN; i++)
        if (!strcmp(name, known[i].name)) {
            rondo_hardware ours = known[i];
            ours.struct_size = sizeof ours;
            return rondo__info_copy(hardware, &ours, sizeof ours, "rondo_hardware");
        }
    char all[RONDO_HARDWARE_NAMES];
    return rondo__fail(RONDO_EINVAL, "there is no hardware known as %.60s; %s are", name, rondo__hardware_names(all));
}

const char *rondo__hardware_names(char text[RONDO_HARDWARE_NAMES])
{
    size_t n = 0;
    text[0] = 0;
    for (size_t i = 0; i < KNOWN && n < RONDO_HARDWARE_NAMES; i++)
        n += (size_t)snprintf(text + n, RONDO_HARDWARE_NAMES - n, "%s%s", !i ? "" : i + 1 < KNOWN ? ", " : " and ", known[i].name);
    return text;
}

/* ---- what it may be ---- */

#define RATES ((int)(sizeof((rondo_hardware *)0)->attention_dims / sizeof(int64_t)))
#define ROWS ((int)(sizeof((rondo_hardware *)0)->row_counts / sizeof(int64_t)))
#define DELTAS ((int)(sizeof((rondo_hardware *)0)->delta_dims / sizeof(int64_t)))

/* All fields that are one real number. Ranks compare them in this order. */
#define REAL(member, positive) { #member, offsetof(rondo_hardware, member), positive }
static const struct real {
    const char *name;
    size_t at;
    bool positive;                     /* once defaults are filled in; others may be 0 */
} reals[] = {
    REAL(peak_flops, false), REAL(gemm_flops, true), REAL(attention_flops, true), REAL(memory_bandwidth, true), REAL(link_bandwidth, true),
    REAL(link_latency, false), REAL(all_to_all_bandwidth, true), REAL(all_to_all_latency, false), REAL(overhead, false), REAL(memory_bytes, false),
    REAL(local_bandwidth, true), REAL(local_latency, false), REAL(operation_latency, false), REAL(skew, false), REAL(cores, false),
    REAL(link_burst, false), REAL(link_inward, false), REAL(link_work, false), REAL(local_work, false), REAL(attention_edge, false),
    REAL(core_slowest, false), REAL(join_bandwidth, true), REAL(delta_flops, false), REAL(delta_backward_flops, false), REAL(core_slice, false),
    REAL(core_turn, false),
};
#define REALS (sizeof reals / sizeof *reals)

static double real_of(const rondo_hardware *h, const struct real *r)
{
    double value;
    memcpy(&value, (const char *)h + r->at, sizeof value);
    return value;
}

/* Tables by a size, each of which has a number. what: of the sizes, in the sentence; most: of the numbers. */
static int check_table(const char *name, const char *what, const int64_t *sizes, const double *values, int room, double most)
{
    for (int i = 0; i < room && sizes[i]; i++)
        if (sizes[i] < 1 || (i && sizes[i] <= sizes[i - 1]) || !(values[i] >= 1e-30 && values[i] <= most))
            return rondo__fail(RONDO_EINVAL, "hardware: %s has %g for %s %lld; sizes ascend from 1, and each has a number above 0, at most %g", name,
                               values[i], what, (long long)sizes[i], most);
    return 0;
}

double rondo__hardware_of_size(const int64_t *sizes, const double *values, int room, double size)
{
    int i = 0;
    while (i < room && sizes[i] && size > (double)sizes[i])
        i++;
    if (i == room || !sizes[i])
        return values[i - 1];
    return i == 0 ? values[0]
                  : values[i - 1] + (values[i] - values[i - 1]) * (size - (double)sizes[i - 1]) / (double)(sizes[i] - sizes[i - 1]);
}

int rondo__hardware_complete(rondo_hardware *h, const rondo_hardware *given)
{
    int err = rondo__desc_copy(h, sizeof *h, given, "rondo_hardware");
    if (err)
        return err;
    h->gemm_flops = h->gemm_flops == 0.0 ? h->peak_flops : h->gemm_flops;
    h->attention_flops = h->attention_flops == 0.0 ? h->peak_flops : h->attention_flops;
    h->all_to_all_latency = h->all_to_all_bandwidth == 0.0 ? h->link_latency : h->all_to_all_latency;
    h->all_to_all_bandwidth = h->all_to_all_bandwidth == 0.0 ? h->link_bandwidth : h->all_to_all_bandwidth;
    h->local_latency = h->local_bandwidth == 0.0 ? h->link_latency : h->local_latency;
    h->local_bandwidth = h->local_bandwidth == 0.0 ? h->link_bandwidth : h->local_bandwidth;
    h->join_bandwidth = h->join_bandwidth == 0.0 ? h->memory_bandwidth : h->join_bandwidth;
    h->node_ranks = h->node_ranks ? h->node_ranks : 1;
    h->node_links = h->node_links ? h->node_links : h->node_ranks;
    for (size_t i = 0; i < REALS; i++) {
        const double value = real_of(h, &reals[i]);
        if (!(value >= 0.0 && value <= 1e30) || (reals[i].positive && value < 1e-30))
            return rondo__fail(RONDO_EINVAL, "hardware: %s is %g; it takes a number %s", reals[i].name, value,
                               reals[i].positive ? "above 0, or is missing" : "from 0 on");
    }
    if (h->core_slowest > 1.0)
        return rondo__fail(RONDO_EINVAL, "hardware: core_slowest is %g; it takes a part, 0 to 1", h->core_slowest);
    if (h->core_slice > 0.0 && !(h->core_slice >= 1e-5 && h->core_slice <= 10.0))
        return rondo__fail(RONDO_EINVAL, "hardware: core_slice is %g; it takes 0.00001 to 10 seconds, or 0: ranks share cores evenly", h->core_slice);
    if (h->core_turn > 1.0)
        return rondo__fail(RONDO_EINVAL, "hardware: core_turn is %g; it takes 0 to 1 second", h->core_turn);
    if (h->attention_edge > 1.0)
        return rondo__fail(RONDO_EINVAL, "hardware: attention_edge is %g; it takes a part, 0 to 1", h->attention_edge);
    err = check_table("attention_rates", "heads of", h->attention_dims, h->attention_rates, RATES, 1e30);
    err = err ? err : check_table("attention_rows", "rows:", h->row_counts, h->row_parts, ROWS, 1.0);
    err = err ? err : check_table("delta_rates", "states of", h->delta_dims, h->delta_rates, DELTAS, 1e30);
    err = err ? err : check_table("delta_rates, of gradients,", "states of", h->delta_dims, h->delta_backward_rates, DELTAS, 1e30);
    if (err)
        return err;
    if (h->core_ranks < 0 || h->core_ranks > 65536)
        return rondo__fail(RONDO_EINVAL, "hardware: core_ranks is %lld; 1 to 65536 ranks share cores, or 0: those of a node",
                           (long long)h->core_ranks);
    if ((h->in_place != 0 && h->in_place != 1) || h->spare)
        return rondo__fail(RONDO_EINVAL, "hardware: in_place is %d and spare %d; the one takes 0 or 1, the other 0", (int)h->in_place,
                           (int)h->spare);
    if (h->node_ranks < 1 || h->node_ranks > 65536 || h->node_links < 1 || h->node_links > h->node_ranks)
        return rondo__fail(RONDO_EINVAL, "hardware: node_ranks is %lld and node_links %lld; there are 1 to 65536 ranks in a node, and no more links "
                                         "than ranks", (long long)h->node_ranks, (long long)h->node_links);
    h->core_ranks = h->core_ranks ? h->core_ranks : h->node_ranks;
    return 0;
}

/* ---- what ranks see of it ---- */

void rondo__hardware_run(rondo_hardware *h, bool together, bool one_host, int64_t ranks, int64_t threads)
{
    h->in_place = together;
    if (together || (one_host && h->node_ranks > 1))
        h->node_ranks = h->node_ranks > ranks ? h->node_ranks : ranks;
    if (one_host)
        h->core_ranks = h->core_ranks > ranks ? h->core_ranks : ranks;
    if (threads > 1 && h->cores > 0.0) {
        const double wide = (double)threads < h->cores ? (double)threads : h->cores;
        h->peak_flops *= wide;
        h->gemm_flops *= wide;
        h->attention_flops *= wide;
        h->delta_flops *= wide;
        h->delta_backward_flops *= wide;
        for (int i = 0; i < RATES; i++)
            h->attention_rates[i] *= wide;
        for (int i = 0; i < DELTAS; i++) {
            h->delta_rates[i] *= wide;
            h->delta_backward_rates[i] *= wide;
        }
        h->cores /= wide;
    }
}

int rondo_hardware_run(rondo_hardware *hardware, int in_place, int one_host, int64_t ranks, int64_t threads)
{
    rondo_hardware h;
    if (!hardware)
        return rondo__fail(RONDO_EINVAL, "rondo_hardware_run: hardware is NULL");
    if (ranks < 1 || ranks > 65536 || threads < 1 || threads > 65536)
        return rondo__fail(RONDO_EINVAL, "rondo_hardware_run: %lld ranks of %lld threads; 1 to 65536 of each are possible", (long long)ranks,
                           (long long)threads);
    const int err = rondo__hardware_complete(&h, hardware);
    if (err)
        return err;
    rondo__hardware_run(&h, in_place != 0, in_place || one_host, ranks, threads);
    return rondo__info_copy(hardware, &h, sizeof h, "rondo_hardware");
}

uint64_t rondo__hardware_hash(const rondo_hardware *h)
{
    const int64_t numbers[] = { h->node_ranks, h->node_links, h->core_ranks, h->in_place };
    uint64_t hash = 0x68617264u, bits;
    for (size_t i = 0; i < REALS; i++) {
        memcpy(&bits, (const char *)h + reals[i].at, sizeof bits);
        hash = rondo__hash_word(hash, bits);
    }
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        hash = rondo__hash_word(hash, (uint64_t)numbers[i]);
    const struct {
        const double *values;
        const int64_t *sizes;
        int room;
    } tables[] = { { h->attention_rates, h->attention_dims, RATES }, { h->row_parts, h->row_counts, ROWS },
                   { h->delta_rates, h->delta_dims, DELTAS }, { h->delta_backward_rates, h->delta_dims, DELTAS } };
    for (size_t k = 0; k < sizeof tables / sizeof *tables; k++)
        for (int i = 0; i < tables[k].room; i++) {
            memcpy(&bits, &tables[k].values[i], sizeof bits);
            hash = rondo__hash_word(rondo__hash_word(hash, bits), (uint64_t)tables[k].sizes[i]);
        }
    return hash;
}
