/* SPDX-License-Identifier: BSD-2-Clause
 *
 * --plot FILE.png|svg: a bar for each row, its part of the ceiling, drawn by gnuplot where that is installed; and --calibrate
 * FILE: what this machine can do, as a hardware file.
 */
#include "cli/bench.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *terminal_of(const char *path)
{
    const size_t n = strlen(path);
    if (n > 4 && !strcmp(path + n - 4, ".svg"))
        return "svg size 900,480";
    return n > 4 && !strcmp(path + n - 4, ".png") ? "png size 900,480" : NULL;
}

static void quoted(FILE *f, const char *text)
{
    fputc('\'', f);
    for (; *text; text++)
        fputs(*text == '\'' ? "''" : (char[]){ *text, 0 }, f);
    fputc('\'', f);
}

int bench_plot(const struct bench *b, const char *path)
{
    const size_t length = strlen(path) + 40;
    char *temporary = malloc(length);
    FILE *f;
    size_t i;
    json_t *row;
    if (!temporary)
        return fail(EXIT_ROOM, "not enough memory for the picture");
    snprintf(temporary, length, "%s.%ld.part", path, (long)getpid());
    fflush(NULL);
    signals_hold();
    f = popen("gnuplot", "w");
    if (!f) {
        signals_release();
        free(temporary);
        return fail(EXIT_ROOM, "gnuplot cannot be started: %s", strerror(errno));
    }
    fprintf(f, "set terminal %s\nset output ", terminal_of(path));
    quoted(f, temporary);
    fprintf(f, "\nset title 'rondo bench: part of the ceiling'\nset style data histograms\nset style fill solid 0.7\nset yrange [0:*]\n"
               "set xtics rotate by -30\nset grid y\nunset key\n$rows << END\n");
    json_array_foreach(b->rows, i, row) {
        const json_t *fraction = json_object_get(row, "fraction");
        if (json_is_number(fraction))
            fprintf(f, "\"%s %s %lldx%lld\" %.4f\n", json_string_value(json_object_get(row, "what")),
                    json_object_get(row, "type") ? json_string_value(json_object_get(row, "type")) : "",
                    (long long)json_integer_value(json_object_get(row, "ranks")), (long long)json_integer_value(json_object_get(row, "threads")),
                    json_number_value(fraction));
    }
    fprintf(f, "END\nplot $rows using 2:xtic(1)\n");
    const int status = pclose(f);
    int code = 0;
    if (!WIFEXITED(status) || WEXITSTATUS(status))
        code = fail(EXIT_ROOM, "gnuplot could not draw %s", path);
    else if (rename(temporary, path))
        code = fail(EXIT_ROOM, "the picture %s cannot be written: %s", path, strerror(errno));
    if (code)
        unlink(temporary);
    signals_release();
    free(temporary);
    return code;
}

int bench_calibrate(struct bench *b, const char *path)
{
    const struct shape attention = { .tokens = 2048, .heads = 32, .kv_heads = 8, .head_dim = 128, .causal = true, .type = RONDO_F32 };
    const struct shape decode = { .tokens = 1, .cached = 16384, .heads = 32, .kv_heads = 8, .head_dim = 128, .causal = true, .decode = true,
                                  .type = RONDO_F32 };
    const struct shape linear = { .rows = 512, .in = 2048, .out = 2048, .type = RONDO_F32 }, message = { .size = 4 << 20 };
    struct attention_bench a, d;
    struct link link = { 0, 0, 0, 0 };
    double gemm = 0;
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
        code = bench_linear(b, &linear, &gemm);
    if (!code)
        code = bench_transport(b, &message, 2, &link);
    if (code)
        return code;
    json_t *h = json_object();
    const struct {
        const char *key;
        double value;
    } values[] = {
        { "peak_flops", a.m.ceiling }, { "attention_flops", a.m.rate }, { "gemm_flops", gemm }, { "memory_bandwidth", d.m.ceiling },
        { "link_bandwidth", link.bandwidth }, { "link_latency", link.latency }, { "all_to_all_bandwidth", link.all_to_all },
        { "all_to_all_latency", link.latency * 2 }, { "overhead", link.overhead },
        { "memory_bytes", (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE) },
    };
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        json_object_set_new(h, values[i].key, number(values[i].value));
    const size_t length = strlen(path) + 40;
    char *temporary = malloc(length);
    signals_hold();
    if (temporary)
        snprintf(temporary, length, "%s.%ld.part", path, (long)getpid());
    if (!temporary || json_dump_file(h, temporary, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) || rename(temporary, path)) {
        code = fail(EXIT_ROOM, "the hardware file %s cannot be written: %s", path, strerror(errno));
        if (temporary)
            unlink(temporary);
    }
    signals_release();
    free(temporary);
    json_decref(h);
    return code;
}
