/* SPDX-License-Identifier: BSD-2-Clause
 *
 * libFuzzer entry point: any bytes as config.json. What is read must be in range. See fuzz/README.
 */
#define _GNU_SOURCE
#include "fuzz/folder.h"
#include "lm/model/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct rondo_config c;
    if (rondo__config_read(&c, folder_with("config.json", data, size)))
        return 0;
    if (c.layers < 1 || c.hidden < 1 || c.heads < 1 || c.kv_heads < 1 || c.heads % c.kv_heads || c.head_dim < 1 || c.vocabulary < 1 ||
        c.rope.dim < 2 || c.rope.dim > c.head_dim || c.rope.dim % 2 || !(c.rope.theta > 1.0) || !(c.rope.factor >= 0.0) ||
        !(c.rope.attention_factor > 0.0) || !(c.rms_eps > 0.0) || c.window < 0 || c.eos_count < 0 || c.eos_count > RONDO_CONFIG_EOS_MAX)
        abort();
    return 0;
}
