/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What attention is besides the shapes of its arrays, as options: attend, plan and bench share them. Which of them go together, and the
 * fields of a descriptor that they become, stand here and nowhere else.
 */
#include "cli/cli.h"

/* A number that is neither 0 nor so near to it, or so large, that single precision has nothing left to say about it. */
static int ordinary(const char *text, double low, double *out)
{
    return parse_real(text, low, 1e38, out) || (*out < 1e-37 && *out > -1e-37) ? -1 : 0;
}

int option_scale(const struct option *o, const char *text)
{
    struct terms *t = o->to;
    if (ordinary(text, -1e38, &t->scale))
        return fail(EXIT_USAGE, "--%s %s: a number of size 1e-37 to 1e38 is expected (default: 1/sqrt(head size))", o->name, text);
    return 0;
}

int option_softcap(const struct option *o, const char *text)
{
    struct terms *t = o->to;
    if (ordinary(text, 0, &t->softcap))
        return fail(EXIT_USAGE, "--%s %s: a number from 1e-37 to 1e38 is expected; without a cap leave it out", o->name, text);
    return 0;
}

int option_dropout(const struct option *o, const char *text)
{
    struct terms *t = o->to;
    if (parse_real(text, 0, 1, &t->dropout) || t->dropout >= 1)
        return fail(EXIT_USAGE, "--%s %s: a probability from 0 to below 1 is expected", o->name, text);
    t->dropping = true;
    return 0;
}

int option_seed(const struct option *o, const char *text)
{
    struct terms *t = o->to;
    if (parse_u64(text, &t->seed))
        return fail(EXIT_USAGE, "--%s %s: a whole number from 0 to 2^64 - 1 is expected", o->name, text);
    t->seeded = true;
    return 0;
}

int terms_check(const struct terms *t)
{
    if (t->seeded && !t->dropping)
        return fail(EXIT_USAGE, "--seed is that of --dropout P, which is not given; add it, or leave --seed out");
    return 0;
}

void terms_describe(const struct terms *t, rondo_attention_desc *d)
{
    d->causal = t->causal;
    d->windowed = t->window.given;
    d->window_left = t->window.left;
    d->window_right = t->window.right;
    d->scale = t->scale;
    d->softcap = t->softcap;
    d->dropout = t->dropout;
    d->probs = t->probs;
    d->layout = common.layout;
    d->algorithm = common.algorithm;
    d->grid[0] = common.grid[0];
    d->grid[1] = common.grid[1];
}
