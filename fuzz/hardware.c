/* SPDX-License-Identifier: BSD-2-Clause
 *
 * libFuzzer entry point: any bytes as a hardware file. It is refused with a sentence, or all that it says can be. See fuzz/README.
 */
#include <stdlib.h>

#include "plan/plan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    rondo_hardware h = RONDO_HARDWARE_INIT, complete;
    const int err = rondo__hardware_parse("file", (const char *)data, size, &h);
    if (err ? err != RONDO_EFORMAT || !*rondo_error_text() : rondo__hardware_complete(&complete, &h) != 0)
        abort();
    return 0;
}
