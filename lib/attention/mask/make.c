/* SPDX-License-Identifier: BSD-2-Clause
 *
 * From what a descriptor says to a mask: the simplest kind that is the same.
 */
#include "attention/mask/mask.h"

/* Windows beyond any length are the same as windows of this; so sums with positions stay in range. */
static int64_t side(int64_t asked)
{
    return asked > RONDO_MASK_FAR ? RONDO_MASK_FAR : asked < 0 ? -1 : asked;
}

void rondo__mask_make(struct rondo_mask *out, int causal, int64_t left, int64_t right)
{
    *out = (struct rondo_mask){ .left = side(left), .right = causal ? 0 : side(right), .heads = 1 };
    if (out->left >= 0 || out->right > 0)
        out->kind = &rondo__mask_window;
    else
        out->kind = out->right == 0 ? &rondo__mask_causal : &rondo__mask_full;
}
