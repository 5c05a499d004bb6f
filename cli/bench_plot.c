/* SPDX-License-Identifier: BSD-2-Clause
 *
 * --plot FILE.png|svg: a bar for each row, its part of the ceiling, drawn by gnuplot where that is installed; and --calibrate
 * FILE: what this machine can do, as a hardware file. Both are written beside their place and put there when they are whole.
 */
#define _GNU_SOURCE   /* realpath, environ */
#include "cli/bench.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

struct target {
    const char *option, *path;
    char *place, *temporary;   /* place: where a link leads, so that the link stays */
    int fd;
};

static int target_fail(const struct target *t, const char *what)
{
    const bool room_lacks = errno == ENOSPC || errno == EDQUOT || errno == EFBIG || errno == ENOMEM || errno == EIO;
    return fail(room_lacks ? EXIT_ROOM : EXIT_INPUT, "%s %s cannot be %s: %s", t->option, t->path, what, strerror(errno));
}

/* From here to target_close() a signal waits, so that no temporary file stays behind. */
static int target_open(struct target *t, const char *option, const char *path)
{
    *t = (struct target){ option, path, realpath(path, NULL), NULL, -1 };
    signals_hold();
    if (!t->place)
        t->place = strdup(path);
    const size_t length = strlen(path) + (t->place ? strlen(t->place) : 0) + 40;
    t->temporary = malloc(length);
    if (!t->place || !t->temporary)
        return fail(EXIT_ROOM, "not enough memory for %s", option);
    snprintf(t->temporary, length, "%s.%ld.part", t->place, (long)getpid());
    t->fd = open(t->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    return t->fd < 0 ? target_fail(t, "created") : 0;
}

/* code: why the file is not to be put in its place; 0 puts it there. */
static int target_close(struct target *t, int code)
{
    struct stat status;
    if (t->fd >= 0) {
        if (close(t->fd) && !code)
            code = target_fail(t, "written");
        if (!code && signals_pending())
            code = fail(signals_exit_code(), "interrupted before %s was complete; it is left as it was", t->path);
        /* once more, after minutes of measuring: rename would put a file where a device was */
        if (!code && !lstat(t->place, &status) && !S_ISREG(status.st_mode) && !S_ISLNK(status.st_mode))
            code = fail(EXIT_USAGE, "%s %s is no regular file; give a file that may be replaced", t->option, t->path);
        if (!code && rename(t->temporary, t->place))
            code = target_fail(t, "written");
        if (code)
            unlink(t->temporary);
    }
    free(t->place);
    free(t->temporary);
    signals_release();
    return code;
}

int bench_target(const char *option, const char *path)
{
    struct target t;
    const int code = target_open(&t, option, path);
    if (t.fd >= 0)
        unlink(t.temporary);
    if (t.fd >= 0)
        close(t.fd);
    t.fd = -1;   /* nothing to put in place */
    return target_close(&t, code);
}

static const char *terminal_of(const char *path)
{
    return !strcmp(path + strlen(path) - 4, ".svg") ? "svg size 900,480" : "png size 900,480";
}

static void write_script(FILE *f, const struct bench *b, const char *path)
{
    size_t i;
    json_t *row;
    fprintf(f, "set terminal %s\nset title 'rondo bench: part of the ceiling'\nset style data histograms\nset style fill solid 0.7\n"
               "set yrange [0:*]\nset xtics rotate by -30\nset grid y\nunset key\n$rows << END\n", terminal_of(path));
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

/* The last line that gnuplot had to say, for the one sentence of ours. */
static void last_line(FILE *said, char *text, size_t bytes)
{
    char line[256];
    snprintf(text, bytes, "it gave no reason");
    rewind(said);
    while (fgets(line, sizeof line, said)) {
        const size_t skip = strspn(line, " \t^"), n = strcspn(line + skip, "\n");
        if (n)
            snprintf(text, bytes, "%.*s", (int)n, line + skip);
    }
}

/* Script and complaints go through files without a name: no pipe that could break or fill. */
static int draw(const struct bench *b, const struct target *t)
{
    FILE *script = tmpfile(), *said = tmpfile();
    posix_spawn_file_actions_t actions;
    char *const words[] = { (char[]){ "gnuplot" }, NULL };
    struct stat status;
    pid_t pid = 0;
    int how = 0, code = 0, error = script && said ? 0 : errno;
    if (!error) {
        write_script(script, b, t->path);
        error = fflush(script) || fseek(script, 0, SEEK_SET) ? errno : posix_spawn_file_actions_init(&actions);
    }
    if (!error) {
        error = posix_spawn_file_actions_adddup2(&actions, fileno(script), 0);
        if (!error)
            error = posix_spawn_file_actions_adddup2(&actions, t->fd, 1);
        if (!error)
            error = posix_spawn_file_actions_adddup2(&actions, fileno(said), 2);
        if (!error)
            error = posix_spawnp(&pid, "gnuplot", &actions, NULL, words, environ);
        posix_spawn_file_actions_destroy(&actions);
    }
    while (!error && waitpid(pid, &how, 0) < 0)
        error = errno == EINTR ? 0 : errno;
    if (error) {
        code = fail(EXIT_ROOM, "gnuplot cannot be started: %s", strerror(error));
    } else if (!WIFEXITED(how) || WEXITSTATUS(how) || fstat(t->fd, &status) || !status.st_size) {
        char text[256];
        last_line(said, text, sizeof text);
        code = fail(EXIT_ROOM, "gnuplot could not draw %s: %s", t->path, text);
    }
    if (script)
        fclose(script);
    if (said)
        fclose(said);
    return code;
}

int bench_plot(const struct bench *b, const char *path)
{
    struct target t;
    int code = target_open(&t, "--plot", path);
    if (!code)
        code = draw(b, &t);
    return target_close(&t, code);
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
