/* SPDX-License-Identifier: BSD-2-Clause
 *
 * libFuzzer entry point: any bytes as a safetensors file. What opens must be readable whole. See fuzz/README.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "rondo_lm.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    rondo_arrays *file = NULL;
    int fd = memfd_create("fuzz", 0);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size)
        abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (!rondo_arrays_open(&file, path)) {
        uint64_t sum = 0;
        for (int64_t i = 0; i < rondo_arrays_count(file); i++) {
            const rondo_array *a = rondo_arrays_at(file, i);
            void *to = malloc(a->bytes + 1);
            if (!to || rondo_arrays_read(file, a, 0, a->bytes, to) || rondo_arrays_find(file, a->name) != a)
                abort();
            free(to);
            sum += a->bytes;
        }
        if (sum >= size)
            abort();
        rondo_arrays_close(file);
    }
    close(fd);
    return 0;
}
