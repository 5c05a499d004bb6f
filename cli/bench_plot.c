/* SPDX-License-Identifier: BSD-2-Clause
 *
 * --plot FILE.png|svg: a bar for each row, its part of the ceiling.
 */
#include "cli/bench.h"
#include "cli/target.h"

#include <string.h>

static void write_script(FILE *f, const void *arg)
{
    const struct bench *b = arg;
    size_t i;
    json_t *row;
    fprintf(f, "set title 'rondo bench: part of the ceiling'\nset style data histograms\nset style fill solid 0.7\n"
               "set yrange [0:*]\nset xtics rotate by -30\nset grid y\nunset key\n$rows << END\n");
    json_array_foreach(b->rows, i, row) {
        const json_t *fraction = json_object_get(row, "fraction");
        if (json_is_number(fraction))
            fprintf(f, "\"%s %s %lldx%lld\" %.4f\n", json_string_value(json_object_get(row, "what")),
                    json_object_get(row, "type") ? json_string_value(json_object_get(row, "type")) : "",
                    (long long)json_integer_value(json_object_get(row, "ranks")), (long long)json_integer_value(json_object_get(row, "threads")),
                    json_number_value(fraction));
    }
    fprintf(f, "END\nplot $rows using 2:xtic(1)\n");
}

int bench_plot(const struct bench *b, const char *path)
{
    return plot_draw(path, write_script, b);
}
