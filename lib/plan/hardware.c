/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Hardware known by name, for who has nothing measured: `rondo bench --calibrate` measures what is at hand. Called by `rondo plan`.
 *
 * grand-teton-rdma and grand-teton-tcp are the two clusters of arXiv:2411.01783: eight H100 (96 GB HBM2e, 2.4 TB/s, 500 W, 800 TFLOP/s of BF16)
 * a host, with 400 Gbit/s RDMA, or 100 Gbit/s TCP of which it says 3 GB/s come through. Eleven numbers of the first - all but peak_flops,
 * memory_bytes and what a node has - are what fits all of that paper's tables at once, which `rondo plan replay` shows; the second has its
 * own links. Of the others rates are the makers', links and latencies what such machines usually reach.
 */
#include "plan/cost.h"

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
    return rondo__fail(RONDO_EINVAL, "there is no hardware known as %.60s; grand-teton-rdma, grand-teton-tcp, h100, h200 and xeon-ethernet are",
                       name);
}
