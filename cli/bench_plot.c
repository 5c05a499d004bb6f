/* SPDX-License-Identifier: BSD-2-Clause
 *
 * --plot FILE.png|svg: a bar for each row, its part of the ceiling; and --calibrate FILE: what this machine can do, as a hardware file.
 */
#include "cli/bench.h"
#include "cli/target.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

int bench_calibrate(struct bench *b, const char *path)
{
    const struct shape attention = { .tokens = 2048, .heads = 32, .kv_heads = 8, .head_dim = 128, .causal = true, .type = RONDO_F32 };
    const struct shape decode = { .tokens = 1, .cached = 16384, .heads = 32, .kv_heads = 8, .head_dim = 128, .causal = true, .decode = true,
                                  .type = RONDO_F32 };
    const struct shape linear = { .rows = 512, .in = 2048, .out = 2048, .type = RONDO_F32 }, message = { .size = 4 << 20 };
    struct attention_bench a, d;
    struct link link = { 0, 0, 0, 0 };
    struct measurement gemm = { 0, 0, 0, 0, 0 };
    json_t *row;
    memset(&d, 0, sizeof d);
    int code = bench_attention(b, &attention, 1, 0, &a, &row);
    if (!code)
        code = row_add(b, row);
    if (!code)
        code = bench_attention(b, &decode, 1, 0, &d, &row);
    if (!code)
        code = row_add(b, row);
    if (!code)
        code = bench_linear(b, &linear, 0, &gemm, &row);
    if (!code)
        code = row_add(b, row);
    if (!code)
        code = bench_transport(b, &message, 2, &link);
    if (code)
        return code;
    json_t *h = json_object();
    const struct {
        const char *key;
        double value;
    } values[] = {
        { "peak_flops", a.m.ceiling }, { "attention_flops", a.m.rate }, { "gemm_flops", gemm.rate }, { "memory_bandwidth", d.m.ceiling },
        { "link_bandwidth", link.bandwidth }, { "link_latency", link.latency }, { "all_to_all_bandwidth", link.all_to_all },
        { "all_to_all_latency", link.latency * 2 }, { "overhead", link.overhead },
        { "memory_bytes", (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE) },
    };
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        json_object_set_new(h, values[i].key, number(values[i].value));
    char *text = json_dumps(h, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    struct target t;
    code = target_open(&t, "--calibrate", path);
    if (!code && !text)
        code = fail(EXIT_ROOM, "not enough memory for --calibrate");
    if (!code && dprintf(t.fd, "%s\n", text) < 0)
        code = target_fail(&t, "written");
    code = target_close(&t, code);
    free(text);
    json_decref(h);
    return code;
}
