/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What tests of layers on the device "cuda" have in common: random numbers in blocks that card.h brings to the card and back, and layers on either device.
 */
#ifndef RONDO_T_CARD_LAYERS_H
#define RONDO_T_CARD_LAYERS_H

#include "layers.h"
#include "card.h"

static uint64_t draws = 1;
static int64_t below(int64_t n)
{
    return (int64_t)(random_32(99, draws++) % (uint64_t)n);
}

static void *block(size_t bytes)
{
    void *p = malloc(bytes);
    if (!p)
        exit(99);
    memset(p, 0xa5, bytes);
    card_register(p, bytes);
    return p;
}

static void *twin(const void *of, size_t bytes)
{
    return memcpy(block(bytes), of, bytes);
}

static float *numbers(int64_t count, enum kind kind)
{
    float *p = block((size_t)count * sizeof *p + 4);
    const uint64_t seed = (uint64_t)below(1 << 30);
    for (int64_t i = 0; i < count; i++)
        p[i] = value(kind, seed, (uint64_t)i);
    return p;
}

static enum kind any_kind(void)
{
    return (enum kind)below(KINDS);
}

/* Everything that the card's calls wrote comes back; 1 where that is what the definition wrote. */
static int equal(int err, const void *want, const void *got, size_t bytes)
{
    card_check(err);
    if (!card_failed)
        card_check(card_ops->sync(card));
    card_return();
    if (card_failed)
        diag("code %d: %s", card_failed, rondo_error_text());
    const int same = !card_failed && !memcmp(want, got, bytes);
    card_failed = 0;
    return same;
}

CARD_UNUSED static struct rondo_device_linear *layer(const struct rondo_device_ops *ops, struct rondo_device *dev, const rondo_linear_desc *d, int from,
                                         const char *weights, const float *scales)
{
    struct rondo_device_linear *l = NULL;
    const int64_t cut = d->out / 3;
    const size_t row = (size_t)d->in * rondo_type_size(from);
    if (ops->linear_new(dev, &l, d) || (cut < d->out && ops->linear_load(dev, l, cut, d->out - cut, from, weights + (size_t)cut * row, scales ? scales + cut : NULL)) ||
        (cut && ops->linear_load(dev, l, 0, cut, from, weights, scales))) {
        diag("a layer: %s", rondo_error_text());
        exit(99);
    }
    return l;
}

#endif
