/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo plan run --plot: how long it takes until the first token, over the context and the ranks; or what a rank holds, in each division of the
 * world, those that do not fit too.
 */
#include "cli/plan.h"

#include "cli/picture.h"
#include "cli/plan_ways.h"

#include <stdlib.h>
#include <string.h>

/* Contexts: the wish's, half of it, and so on, down to about this one; worlds likewise. */
#define CONTEXTS 8
#define CONTEXT_LEAST 1024
#define WORLDS 6
/* The least of all ways that fit. Below 0: none does. */
static int first_token(const struct plan_wish *wish, int64_t world, int64_t tokens, double *seconds)
{
    struct plan_wish one = *wish;
    struct plan_ways ways = { .refused = 0 };
    one.world = world;
    one.tokens = tokens;
    one.brief = true;
    one.narrow = false;
    one.generate = 0;
    int code = plan_ways_find(&one, &ways);
    if (!code && !ways.list.count && wish->narrow) {
        plan_ways_free(&ways);
        one.narrow = true;
        code = plan_ways_find(&one, &ways);
    }
    *seconds = -1.0;
    for (int64_t i = 0; i < ways.list.count; i++)
        if (*seconds < 0.0 || ways.list.at[i].ttft < *seconds)
            *seconds = ways.list.at[i].ttft;
    plan_ways_free(&ways);
    return code;
}

int plan_picture_ttft(const struct plan_wish *wish, const char *model, const char *hardware, const char *path)
{
    struct picture *p = calloc(1, sizeof *p);
    int code = 0;
    if (!p)
        return fail(EXIT_ROOM, "not enough memory for the picture");
    p->log_x = p->log_y = true;
    snprintf(p->title, sizeof p->title, "Time to first token of %.60s on %.60s", model, hardware);
    snprintf(p->x, sizeof p->x, "new tokens");
    snprintf(p->y, sizeof p->y, "time to first token, seconds");
    for (int64_t tokens = wish->tokens; p->points < CONTEXTS && (!p->points || tokens >= CONTEXT_LEAST); tokens /= 2)
        p->place[p->points++] = (double)tokens;
    for (int i = 0; i < p->points / 2; i++) {   /* rising */
        const double swap = p->place[i];
        p->place[i] = p->place[p->points - 1 - i];
        p->place[p->points - 1 - i] = swap;
    }
    for (int i = 0; i < p->points; i++)
        picture_tokens((int64_t)p->place[i], p->at[i]);
    for (int64_t world = wish->world; p->series < WORLDS && !code; world /= 2) {
        const int k = p->series;
        bool any = false;
        for (int i = 0; i < p->points && !code; i++) {
            progress_set((uint64_t)(k * p->points + i), (uint64_t)(WORLDS * p->points));
            code = first_token(wish, world, (int64_t)p->place[i], &p->value[k][i]);
            any |= p->value[k][i] >= 0.0;
        }
        snprintf(p->name[k], PICTURE_TEXT, "%lld rank%s", (long long)world, world == 1 ? "" : "s");
        p->series += any;
        if (world % 2 || wish->tp || wish->cp)
            break;
    }
    progress_end();
    code = code ? code : picture_draw(path, p);
    free(p);
    return code;
}

int plan_picture_memory(const struct plan_ways *ways, const struct plan_wish *wish, const char *model, const char *hardware, const char *path)
{
    static const char *const names[PLAN_HELD] = { "weights", "KV cache", "activations", "workspace" };
    struct picture *p = calloc(1, sizeof *p);
    if (!p)
        return fail(EXIT_ROOM, "not enough memory for the picture");
    p->bars = true;
    p->series = PLAN_HELD;
    p->level = wish->hardware->memory_bytes / 1e9;
    snprintf(p->title, sizeof p->title, "What a rank holds of %.60s on %.60s", model, hardware);
    snprintf(p->x, sizeof p->x, "tp x cp, each in its best way that fits, or else in that of least memory");
    snprintf(p->y, sizeof p->y, "GB of a rank");
    snprintf(p->level_name, sizeof p->level_name, "memory of a rank");
    for (int k = 0; k < PLAN_HELD; k++)
        snprintf(p->name[k], PICTURE_TEXT, "%s", names[k]);
    for (int i = 0; i < ways->division_count; i++) {
        const struct plan_way *w = &ways->division[i];
        for (int64_t k = ways->list.count - 1; k >= 0; k--)
            w = ways->list.at[k].tp == w->tp ? &ways->list.at[k] : w;
        snprintf(p->at[p->points], PICTURE_TEXT, "%lld x %lld", (long long)w->tp, (long long)w->cp);
        for (int k = 0; k < PLAN_HELD; k++)
            p->value[k][p->points] = (double)w->held[k] / 1e9;
        p->points++;
    }
    const int code = picture_draw(path, p);
    free(p);
    return code;
}
