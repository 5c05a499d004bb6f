/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The hash that reports print. It is a sum over elements of a mix of (index, bits), so ranks and pieces may be added up in any
 * order and the number still belongs to the whole tensor in its natural order; equal hashes mean equal bits.
 */
#include "core/internal.h"

/* The finaliser of splitmix64 (Steele, Lea, Flood 2014). */
uint64_t rondo__mix64(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    x ^= x >> 31;
    return x;
}

static uint64_t element(uint64_t index, uint64_t bits)
{
    return rondo__mix64(rondo__mix64(index + 0x9e3779b97f4a7c15u) ^ bits);
}

void rondo_hash_add(uint64_t *hash, const void *data, size_t element_size, int64_t first_index, int64_t count)
{
    const unsigned char *p = data;
    uint64_t sum = *hash, index = (uint64_t)first_index;
    if (element_size > sizeof(uint64_t))
        element_size = sizeof(uint64_t);
    for (int64_t i = 0; i < count; i++, p += element_size) {
        uint64_t bits = 0;
        /* little end first, so that the hash is the same on either kind of machine */
        switch (element_size) {
        case 4: {
            uint32_t b;
            memcpy(&b, p, 4);
            bits = b;
            break;
        }
        case 2: {
            uint16_t b;
            memcpy(&b, p, 2);
            bits = b;
            break;
        }
        case 8:
            memcpy(&bits, p, 8);
            break;
        default:
            for (size_t j = 0; j < element_size; j++)
                bits |= (uint64_t)p[j] << (8 * j);
        }
        sum += element(index + (uint64_t)i, bits);
    }
    *hash = sum;
}

uint64_t rondo_hash_close(uint64_t hash, int arithmetic, int leaf, const int64_t *shape, int dims)
{
    uint64_t h = rondo__hash_word(0x726f6e646fu, RONDO_NUMERICS);
    h = rondo__hash_word(h, (uint64_t)arithmetic);
    h = rondo__hash_word(h, (uint64_t)leaf);
    h = rondo__hash_word(h, (uint64_t)dims);
    for (int i = 0; i < dims; i++)
        h = rondo__hash_word(h, (uint64_t)shape[i]);
    return rondo__hash_word(h, hash);
}
