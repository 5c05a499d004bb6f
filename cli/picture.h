/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Pictures as data: what the verbs of rondo plan draw. picture.c tells gnuplot (plot.c) of them, or draws them in characters.
 */
#ifndef RONDO_CLI_PICTURE_H
#define RONDO_CLI_PICTURE_H

#include "cli/cli.h"

#define PICTURE_SERIES 8
#define PICTURE_POINTS 64
#define PICTURE_TEXT 96

/* Points from the left to the right, on lines; or bars from the top to the bottom, of parts that lie on each other. */
struct picture {
    bool bars, log_x, log_y;
    int series, points;
    char title[2 * PICTURE_TEXT], x[PICTURE_TEXT], y[PICTURE_TEXT];   /* of axes: what they count */
    char name[PICTURE_SERIES][PICTURE_TEXT];
    char at[PICTURE_POINTS][PICTURE_TEXT];           /* what is written at a point of the x axis, or beside a bar; "": nothing */
    double place[PICTURE_POINTS];                    /* on the x axis; not of bars */
    double value[PICTURE_SERIES][PICTURE_POINTS];    /* below 0: there is none */
    double level;                                    /* a line across, at such values; 0: none */
    char level_name[PICTURE_TEXT];
    double mark;                                     /* another one, at such a place; 0: none */
    char mark_name[PICTURE_TEXT];
};

/* Whether --plot names a file that can be drawn here; "-" is the terminal. NULL: none is asked for. 0 or an exit code. */
int picture_check(const char *path);
/* Into the file, or, of "-", in characters to stdout. */
int picture_draw(const char *path, const struct picture *p);

/* "128K", "1M": tokens in powers of two where they are such, else as they are. */
void picture_tokens(int64_t tokens, char text[PICTURE_TEXT]);

#endif
