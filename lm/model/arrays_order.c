/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The order of bytes in safetensors files: data is little-endian there, whatever the machine. Where the machine's own order is the
 * other one, rondo_arrays_read() and rondo_arrays_write() swap the bytes of every element, so that callers never meet it. Both may be asked for
 * any range of bytes: what is no whole element is the mirrored part of one in the file. Called by arrays.c and arrays_write.c.
 *
 * All of this is built on every machine, and tested there with files that are told to be of the other order (t/6001).
 */
#include "lm/model/arrays.h"

bool rondo__array_swaps(void)
{
    const uint16_t one = 1;
    return *(const unsigned char *)&one == 0;
}

uint64_t rondo__array_portion(int word, uint64_t first, uint64_t bytes, uint64_t room, uint64_t *at, bool *whole)
{
    const uint64_t size = (uint64_t)word, in = first % size;
    uint64_t n = bytes < room ? bytes : room;
    *whole = !in && n >= size;
    if (*whole) {
        *at = first;
        return n - n % size;
    }
    if (n > size - in)
        n = size - in;
    *at = first - in + (size - in - n);
    return n;
}

static void swap(unsigned char *p, uint64_t n)
{
    for (uint64_t i = 0; i < n / 2; i++) {
        const unsigned char keep = p[i];
        p[i] = p[n - 1 - i];
        p[n - 1 - i] = keep;
    }
}

void rondo__array_swap(void *portion, uint64_t bytes, int word, bool whole)
{
    unsigned char *p = portion;
    if (!whole) {
        swap(p, bytes);
        return;
    }
    for (uint64_t i = 0; i + (uint64_t)word <= bytes; i += (uint64_t)word)
        switch (word) {   /* sizes that the compiler knows become one instruction */
        case 2:
            swap(p + i, 2);
            break;
        case 4:
            swap(p + i, 4);
            break;
        default:
            swap(p + i, (uint64_t)word);
        }
}
