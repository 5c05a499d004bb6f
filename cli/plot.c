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
static const char *terminal_of(const char *path)
{
    return !strcmp(path + strlen(path) - 4, ".svg")
               ? "set terminal svg size 900,480 background '#ffffff'"
               : "if (strstrt(GPVAL_TERMINALS, 'pngcairo') > 0) set terminal pngcairo size 900,480; else set terminal png size 900,480";
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
static int draw(const struct target *t, void (*tell)(FILE *f, const void *arg), const void *arg)
{
    FILE *script = tmpfile(), *said = tmpfile();
    posix_spawn_file_actions_t actions;
    char *const words[] = { (char[]){ "gnuplot" }, NULL };
    struct stat status;
    pid_t pid = 0;
    int how = 0, code = 0, error = script && said ? 0 : errno;
    if (!error) {
        fprintf(script, "%s\n", terminal_of(t->path));
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

int plot_draw(const char *path, void (*script)(FILE *f, const void *arg), const void *arg)
{
    struct target t;
    int code = target_open(&t, "--plot", path);
    if (!code)
        code = draw(&t, script, arg);
    return target_close(&t, code);
}
