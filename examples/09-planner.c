/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The planner alone: a program that starts no rank and owns no array asks what a model would cost on a world of chips, and which of them
 * hold it. It prints, for each number of chips that share heads, what one holds and sends and how long a prefill would take on H100s, and
 * then how the weights of a chip are derived.
 *
 *     cc 09-planner.c $(pkg-config --cflags --libs rondo) && ./a.out [TOKENS [CHIPS [BYTES_PER_CHIP]]]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rondo.h>

/* Llama-3.1 70B, BF16. */
static rondo_cost_case model(long long tokens)
{
    rondo_cost_case c = RONDO_COST_CASE_INIT;
    c.phase = RONDO_COST_PREFILL;
    c.num_layers = 80, c.hidden_size = 8192, c.num_heads = 64, c.num_kv_heads = 8, c.head_dim = 128;
    c.intermediate_size = 28672, c.vocab_size = 128256, c.norms_per_layer = 2;
    c.batch_size = 1, c.seq_len = tokens, c.bytes_per_elem = 2, c.causal = 1;
    c.algorithm = RONDO_PASS_KV;
    return c;
}

int main(int argc, char **argv)
{
    const long long tokens = argc > 1 ? atoll(argv[1]) : 131072, chips = argc > 2 ? atoll(argv[2]) : 32;
    const long long room = argc > 3 ? atoll(argv[3]) : 80000000000;
    rondo_cost_case c = model(tokens), best = c;
    rondo_hardware hardware = RONDO_HARDWARE_INIT;
    long long least = -1;
    if (rondo_hardware_find("h100", &hardware)) {
        fprintf(stderr, "%s\n", rondo_error_text());
        return 1;
    }
    for (c.tensor_parallel = 1; c.tensor_parallel <= chips; c.tensor_parallel *= 2) {
        rondo_cost cost = RONDO_COST_INIT;
        rondo_prediction p = RONDO_PREDICTION_INIT;
        c.context_parallel = chips / c.tensor_parallel;
        if (c.tensor_parallel > c.num_heads || c.tensor_parallel * c.context_parallel != chips)
            continue;
        if (rondo_cost_count(&c, &cost) || rondo_predict(&c, &hardware, RONDO_PREDICT_RUN, &p)) {
            fprintf(stderr, "%s\n", rondo_error_text());
            return 1;
        }
        const long long held = cost.weight_memory_per_chip + cost.kv_cache_per_chip + cost.activation_memory_per_chip;
        printf("tp=%lld cp=%lld: a chip computes %.3g FLOPs, holds %lld bytes, sends %lld, takes %.2f s: %s\n", (long long)c.tensor_parallel,
               (long long)c.context_parallel, (double)cost.flops_per_chip, held, (long long)cost.communication_bytes,
               p.seconds, held <= room ? "fits" : "does not fit");
        if (held <= room && (least < 0 || cost.communication_bytes < least)) {
            least = cost.communication_bytes;
            best = c;
        }
    }
    if (least < 0) {
        printf("no way fits\n");
        return 0;
    }
    printf("the least is sent with tp=%lld cp=%lld\n", (long long)best.tensor_parallel, (long long)best.context_parallel);
    char text[1024];
    for (int64_t i = 0; rondo_cost_step_text(&best, i, text, sizeof text) >= 0; i++)
        if (strncmp(text, "weight_memory_per_chip = ", 25) == 0)
            printf("%s\n", text);
    return 0;
}
