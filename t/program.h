/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Running the rondo program from a test and reading what it says. Used by 7xxx. The program is $RONDO; files lie in the test's
 * scratch folder (scratch.h).
 */
#ifndef RONDO_T_PROGRAM_H
#define RONDO_T_PROGRAM_H

#include <jansson.h>
#include <sys/wait.h>

#include "rondo.h"

#include "tap.h"
#include "scratch.h"

#define PROGRAM_UNUSED __attribute__((unused))

static char program_out[1 << 21], program_err[1 << 14];   /* of the last run, cut off where they are longer */

static void program_slurp(const char *name, char *to, size_t room)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", scratch_dir, name);
    FILE *f = fopen(path, "rb");
    const size_t n = f ? fread(to, 1, room - 1, f) : 0;
    to[n] = 0;
    if (f)
        fclose(f);
}

/* Runs "$RONDO <arguments>" in the scratch folder through the shell; returns its exit code (128 + signal where one ended it).
 * `before` goes in front of the program's name: an environment, mpirun. */
TAP_PRINTF(2, 3) PROGRAM_UNUSED static int rondo(const char *before, const char *format, ...)
{
    char arguments[4096], line[8192];
    const char *program = getenv("RONDO");
    va_list ap;
    va_start(ap, format);
    vsnprintf(arguments, sizeof arguments, format, ap);
    va_end(ap);
    snprintf(line, sizeof line, "cd '%s' && { %s '%s' %s; } >stdout 2>stderr", scratch_dir, before, program, arguments);
    const int status = system(line);
    program_slurp("stdout", program_out, sizeof program_out);
    program_slurp("stderr", program_err, sizeof program_err);
    const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return code;
}

/* The last run's stdout as one JSON object, or NULL. json_decref() it. */
PROGRAM_UNUSED static json_t *program_json(void)
{
    json_error_t error;
    json_t *r = json_loads(program_out, JSON_REJECT_DUPLICATES, &error);
    if (!r)
        diag("no JSON: %s at line %d of: %.200s", error.text, error.line, program_out);
    return r;
}

/* What "rondo <line> --json" reports; an empty object, and a test that failed, where it does not. json_decref() it. */
PROGRAM_UNUSED static json_t *report_of(const char *line)
{
    const int code = rondo("", "%s --json", line);
    if (code)
        ok(0, "%s: exit %d, %s", line, code, program_err);
    json_t *r = code ? NULL : program_json();
    return r ? r : json_object();
}

/* A number and a text of an object; 0 and "" where it has none of that name. */
PROGRAM_UNUSED static double real_of(const json_t *object, const char *name) { return json_number_value(json_object_get(object, name)); }

PROGRAM_UNUSED static const char *text_of(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    return text ? text : "";
}

/* A text value of the last run's report; "" where there is none. */
PROGRAM_UNUSED static const char *program_text(const char *key)
{
    static char text[256];
    json_t *r = program_json();
    const char *value = json_string_value(json_object_get(r, key));
    snprintf(text, sizeof text, "%s", value ? value : "");
    json_decref(r);
    return text;
}

/* One sentence on stderr, with the program's name before it, and nothing else. */
PROGRAM_UNUSED static int one_sentence(void)
{
    const size_t n = strlen(program_err);
    return n > 8 && !strncmp(program_err, "rondo: ", 7) && program_err[n - 1] == '\n' && strchr(program_err, '\n') == program_err + n - 1;
}

/* Must fail with this exit code, one sentence that names `word`, and nothing on stdout. */
PROGRAM_UNUSED static void refuses(int want, const char *word, const char *arguments)
{
    const int code = rondo("", "%s", arguments);
    if (!ok(code == want && one_sentence() && strstr(program_err, word) && !program_out[0], "rondo %s: exit %d, names '%s'", arguments, want, word))
        diag("exit %d, stderr: %.400s stdout: %.100s", code, program_err, program_out);
}

PROGRAM_UNUSED static int exists(const char *name)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", scratch_dir, name);
    return access(path, F_OK) == 0;
}

/* Files in the scratch folder whose name begins so. */
PROGRAM_UNUSED static int files_like(const char *begin)
{
    DIR *d = opendir(scratch_dir);
    int n = 0;
    for (struct dirent *e; d && (e = readdir(d)) != NULL;)
        n += !strncmp(e->d_name, begin, strlen(begin));
    if (d)
        closedir(d);
    return n;
}

#endif
