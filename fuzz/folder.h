/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A folder with one file that holds the fuzzer's bytes. Used by config.c and tokenizer.c.
 */
#ifndef RONDO_FUZZ_FOLDER_H
#define RONDO_FUZZ_FOLDER_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static const char *folder_with(const char *name, const uint8_t *data, size_t size)
{
    static char folder[64] = "/dev/shm/rondo-fuzz-XXXXXX";
    static int made;
    char path[128];
    if (!made && !mkdtemp(folder))
        abort();
    made = 1;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, size, f) != size || fclose(f))
        abort();
    return folder;
}

#endif
