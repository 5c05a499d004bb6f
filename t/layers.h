/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What the tests of linear layers and element-wise functions share: devices of every kind that this machine
 * can run, data of every kind that may hurt, comparison of bits.
 */
#ifndef RONDO_T_LAYERS_H
#define RONDO_T_LAYERS_H

#include "backends/cpu/layers.h"
#include "backends/cpu/num.h"
#include "tap.h"

/* Every instruction set, on one thread and on three; the first one is the definition without FMA
 * instructions. */
extern const struct rondo_device_ops rondo__cpu_device;
static struct rondo_device *devices[2 * RONDO_CPU_ISAS];
static char device_names[2 * RONDO_CPU_ISAS][32];
static int device_count;

__attribute__((unused)) static void find_devices(void)
{
    static const int32_t threads[2] = { 1, 3 };
    for (int isa = 0; isa < RONDO_CPU_ISAS; isa++)
        for (int i = 0; i < 2 && rondo__cpu_isa_usable(isa); i++) {
            const struct rondo_device_desc desc = { .threads = threads[i], .isa = rondo__cpu_isa_name(isa) };
            if (rondo__cpu_device.attach(&devices[device_count], &desc))
                exit(99);
            snprintf(device_names[device_count++], sizeof device_names[0], "%s, %d thread%s",
                     rondo__cpu_isa_name(isa), (int)threads[i], i ? "s" : "");
        }
}

__attribute__((unused)) static void drop_devices(void)
{
    while (device_count)
        rondo__cpu_device.detach(devices[--device_count]);
}

static uint32_t random_32(uint64_t seed, uint64_t i)
{
    uint32_t counter[4] = { (uint32_t)(i / 4), (uint32_t)(i / 4 >> 32), 0, 0 },
             key[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) }, out[4];
    rondo_philox(out, counter, key);
    return out[i % 4];
}

enum kind { PLAIN, WIDE, TINY, CANCEL, INTEGERS, KINDS };
static const char *const kind_names[] = { "plain", "exponents over 60 binades", "subnormals", "cancellation",
                                          "small integers" };

/* Numbers of a kind; the scale of WIDE keeps sums of products finite. */
static float value(enum kind kind, uint64_t seed, uint64_t i)
{
    uint32_t r = random_32(seed, i);
    float u = (float)(int32_t)r * 0x1p-31f;
    switch (kind) {
    case PLAIN:
        return u;
    case WIDE:
        return rondo__float((r & 0x807fffffu) | (97u + (r >> 8 & 0xffffu) % 60u) << 23);
    case TINY:
        return rondo__float((r & 0x80000000u) | (r % 5 == 0 ? r & 0x7fffffu : (30u + r % 40u) << 23));
    case CANCEL:
        return i % 2 ? u : 1000.0f * (r & 1 ? 1.0f : -1.0f);
    default:
        return (float)((int)(r % 17) - 8);
    }
}

__attribute__((unused)) static float *floats(int64_t count, enum kind kind, uint64_t seed)
{
    float *p = rondo__alloc((size_t)count * sizeof *p);
    for (int64_t i = 0; p && i < count; i++)
        p[i] = value(kind, seed, (uint64_t)i);
    if (!p)
        exit(99);
    return p;
}

/* Random bits of a storage type: infinities, NaNs and subnormals too. */
__attribute__((unused)) static void *any_bits(int64_t count, int type, uint64_t seed)
{
    char *p = rondo__alloc((size_t)count * rondo_type_size(type));
    if (!p)
        exit(99);
    for (int64_t i = 0; i < count; i++) {
        uint32_t r = random_32(seed, (uint64_t)i);
        memcpy(p + (size_t)i * rondo_type_size(type), &r, rondo_type_size(type));
    }
    return p;
}

/* Where two arrays first differ in a bit, or -1. */
__attribute__((unused)) static int64_t differ(const void *a, const void *b, int64_t count, size_t size)
{
    for (int64_t i = 0; i < count; i++)
        if (memcmp((const char *)a + (size_t)i * size, (const char *)b + (size_t)i * size, size))
            return i;
    return -1;
}

#endif
