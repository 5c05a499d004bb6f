/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Files that commands make (target.c), and pictures (plot.c).
 */
#ifndef RONDO_CLI_TARGET_H
#define RONDO_CLI_TARGET_H

#include "cli/cli.h"
#include "rondo_lm.h"

struct target {
    const char *option, *path;
    char *place, *temporary;   /* place: where a link leads, so that the link stays; temporary: room for a name beside it */
    bool named;                /* the temporary has its name */
    int fd;
};

/* A sentence about errno. */
int target_fail(const struct target *t, const char *what);
/* From here to target_close() a signal waits, and removes the temporary at once where it has a name. */
int target_open(struct target *t, const char *option, const char *path);
/* code: why the file is not to be put in its place; 0 puts it there. */
int target_close(struct target *t, int code);
/* Can it be written? Nothing stays. 0 or an exit code. */
int target_try(const char *option, const char *path);

/* The same for a file of arrays; path: its name. code: why there is none to begin; close is called in any case, and says it where a signal came. */
int target_arrays_open(rondo_arrays_writer **writer, int code, const char *path, const rondo_array *arrays, int64_t count);
int target_arrays_close(rondo_arrays_writer *writer, int code, const char *path);

/* Whether --plot names a file that can be drawn here, NULL: none is asked for. otherwise: what to do where gnuplot is not installed. 0 or an
 * exit code. */
int plot_check(const char *path, const char *otherwise);
/* Draws what script() tells gnuplot, behind the terminal and its size. */
int plot_draw(const char *path, void (*script)(FILE *f, const void *arg), const void *arg);

/* Bars from the left to the right, one or two of a row, each with its value; the picture is as high as the rows need. */
#define PLOT_KINDS 2
struct plot_bars {
    const char *title, *x, *kind[PLOT_KINDS];   /* x: what they count */
    int count, kinds;
    struct plot_bar {
        char name[96];
        double value[PLOT_KINDS];
    } *bars;
};
int plot_bars(const char *path, const struct plot_bars *b);
/* A text in quotes: nothing in a name is a command of gnuplot's, or a formatting. */
void plot_quoted(FILE *f, const char *text);

#endif
