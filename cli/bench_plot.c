/* SPDX-License-Identifier: BSD-2-Clause
 *
 * --plot FILE.png|svg: a bar for each row, its part of the ceiling.
 */
#include "cli/bench.h"
#include "cli/target.h"

#include <stdlib.h>

int bench_plot(const struct bench *b, const char *path)
{
    struct plot_bars picture = { .title = "rondo bench", .x = "part of the ceiling", .kinds = 1 };
    size_t i;
    json_t *row;
    picture.bars = calloc(json_array_size(b->rows) + 1, sizeof *picture.bars);
    if (!picture.bars)
        return fail(EXIT_ROOM, "not enough memory for a picture of the rows");
    json_array_foreach(b->rows, i, row) {
        const double fraction = json_number_value(json_object_get(row, "fraction"));
        struct plot_bar *bar = &picture.bars[picture.count];
        if (!(fraction > 0.0))   /* a row without a ceiling */
            continue;
        const json_t *type = json_object_get(row, "type");
        snprintf(bar->name, sizeof bar->name, "%s%s%s, %lld x %lld", json_string_value(json_object_get(row, "what")), type ? " " : "",
                 type ? json_string_value(type) : "", (long long)json_integer_value(json_object_get(row, "ranks")),
                 (long long)json_integer_value(json_object_get(row, "threads")));
        bar->value[0] = fraction;
        picture.count++;
    }
    const int code = picture.count ? plot_bars(path, &picture) : fail(EXIT_USAGE, "--plot draws parts of ceilings, which no row here has; leave it out");
    free(picture.bars);
    return code;
}
