/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Pictures: --plot FILE.png|svg of the commands that have it, drawn by gnuplot where that is installed.
 */
#define _GNU_SOURCE   /* environ */
#include "cli/target.h"

#include <errno.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static bool have_program(const char *name)
{
    const char *path = getenv("PATH");
    char file[1024];
    while (path && *path) {
        const size_t n = strcspn(path, ":");
        snprintf(file, sizeof file, "%.*s/%s", (int)n, path, name);
        if (!access(file, X_OK))
            return true;
        path += n + (path[n] == ':');
    }
    return false;
}

int plot_check(const char *path, const char *otherwise)
{
    const size_t n = path ? strlen(path) : 0;
    if (path && !(n > 4 && (!strcmp(path + n - 4, ".png") || !strcmp(path + n - 4, ".svg"))))
        return fail(EXIT_USAGE, "--plot %s: a name that ends in .png or .svg is expected", path);
    if (path && !have_program("gnuplot"))
        return fail(EXIT_USAGE, "--plot needs gnuplot, which is not installed; install it or %s", otherwise);
    return 0;
}

/* The one with smooth lines and dashes, where gnuplot has it. */
static void set_terminal(FILE *f, const char *path, int high)
{
    if (!strcmp(path + strlen(path) - 4, ".svg"))
        fprintf(f, "set terminal svg size 900,%d background '#ffffff'\n", high);
    else
        fprintf(f, "if (strstrt(GPVAL_TERMINALS, 'pngcairo') > 0) set terminal pngcairo size 900,%d; else set terminal png size 900,%d\n", high, high);
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
static int draw(const struct target *t, int high, void (*tell)(FILE *f, const void *arg), const void *arg)
{
    FILE *script = tmpfile(), *said = tmpfile();
    posix_spawn_file_actions_t actions;
    char *const words[] = { (char[]){ "gnuplot" }, NULL };
    struct stat status;
    pid_t pid = 0;
    int how = 0, code = 0, error = script && said ? 0 : errno;
    if (!error) {
        set_terminal(script, t->path, high);
        tell(script, arg);
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

static int draw_into(const char *path, int high, void (*script)(FILE *f, const void *arg), const void *arg)
{
    struct target t;
    int code = target_open(&t, "--plot", path);
    if (!code)
        code = draw(&t, high, script, arg);
    return target_close(&t, code);
}

int plot_draw(const char *path, void (*script)(FILE *f, const void *arg), const void *arg)
{
    return draw_into(path, 480, script, arg);
}

void plot_quoted(FILE *f, const char *text)
{
    putc('\'', f);
    for (const char *p = text; *p; p++) {
        if (*p == '\'')
            putc('\'', f);
        putc((unsigned char)*p < ' ' ? '?' : *p, f);
    }
    putc('\'', f);
}

static void put_bars(FILE *f, const void *arg)
{
    static const char *const colours[PLOT_KINDS] = { "#0072B2", "#E69F00" };
    const struct plot_bars *b = arg;
    double most = 0.0;
    fputs("set ytics scale 0 noenhanced (", f);
    for (int i = 0; i < b->count; i++) {
        if (i)
            fputs(", ", f);
        plot_quoted(f, b->bars[i].name);
        fprintf(f, " %d", -i);
    }
    fputs(")\nset title ", f);
    plot_quoted(f, b->title);
    fputs(" noenhanced\nset xlabel ", f);
    plot_quoted(f, b->x);
    fputs(" noenhanced\n$bars << END\n", f);
    for (int i = 0; i < b->count; i++) {
        fprintf(f, "%d", -i);
        for (int k = 0; k < b->kinds; k++) {
            const double value = b->bars[i].value[k];
            fprintf(f, " %.9g", value);
            most = value > most ? value : most;
        }
        fputs("\n", f);
    }
    fprintf(f, "END\nset format x '%%g'\nset xtics nomirror scale 0.5\nset border 3\nset grid x linecolor rgb '#dddddd'\nset style fill solid 1 noborder\n"
               "set key outside right top Left reverse samplen 2 spacing 1.3\nset xrange [0:%.9g]\nset yrange [%g:0.6]\nplot ",
            most > 0.0 ? 1.12 * most : 1.0, 0.4 - b->count);
    for (int k = 0; k < b->kinds; k++) {
        const double high = b->kinds > 1 ? 0.38 - 0.38 * k : 0.3, low = b->kinds > 1 ? high - 0.38 : -0.3;
        fprintf(f, "%s$bars using (0):1:(0):%d:($1+%g):($1+%g) with boxxyerror linecolor rgb '%s' ", k ? ", " : "", k + 2, low, high, colours[k]);
        if (b->kinds > 1) {
            fputs("title ", f);
            plot_quoted(f, b->kind[k]);
        } else {
            fputs("notitle", f);
        }
        fprintf(f, ", $bars using %d:($1+%g):(sprintf($%d < 1000 ? ' %%.3g' : ' %%.0f', $%d)) with labels left font ',9' notitle", k + 2, 0.5 * (low + high),
                k + 2, k + 2);
    }
    fputs("\n", f);
}

int plot_bars(const char *path, const struct plot_bars *b)
{
    const int high = 120 + b->count * (b->kinds > 1 ? 32 : 26);
    return draw_into(path, high > 240 ? high : 240, put_bars, b);
}
