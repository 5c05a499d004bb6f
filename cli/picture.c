/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A picture for gnuplot, or in characters of a terminal. Series differ by colour (those of Okabe and Ito, which colour-blind people tell apart),
 * by the shape of their points and by their order in the key, which stands beside the picture or below and never on it.
 */
#include "cli/picture.h"

#include "cli/target.h"

#include <math.h>
#include <string.h>

/* A name of more letters has the key below the picture. */
#define NAME_BESIDE 20

static const char *const colours[PICTURE_SERIES] = { "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999" };

/* ---- for gnuplot ---- */

static void put_label(FILE *f, const char *what, const char *text)
{
    fprintf(f, "set %s ", what);
    plot_quoted(f, text);
    fputs(" noenhanced\n", f);
}

/* The axis of places: a word at each point that has one, every second one where they are many. */
static void put_places(FILE *f, const struct picture *p)
{
    bool any = false;
    for (int i = 0; i < p->points; i++) {
        if (!p->at[i][0] || (p->bars && p->points > 12 && i % 2))
            continue;
        fputs(any ? ", " : "set xtics (", f);
        plot_quoted(f, p->at[i]);
        fprintf(f, " %.9g", p->bars ? (double)i : p->place[i]);
        any = true;
    }
    fputs(any ? ")\n" : "", f);
}

static double most(const struct picture *p)
{
    double high = p->level;
    for (int i = 0; i < p->points; i++) {
        double sum = 0.0;
        for (int k = 0; k < p->series; k++) {
            const double v = p->value[k][i] > 0.0 ? p->value[k][i] : 0.0;
            sum = p->bars ? sum + v : v > sum ? v : sum;
        }
        high = sum > high ? sum : high;
    }
    return high > 0.0 ? high : 1.0;
}

/* Of less than two decades a logarithmic axis would have one number, or none. */
static void put_decades(FILE *f, double low, double high)
{
    static const double close[] = { 1.0, 1.5, 2.0, 3.0, 5.0, 7.0 }, wide[] = { 1.0, 2.0, 5.0 };
    const bool narrow = high < 10.0 * low;
    bool any = false;
    if (!(low > 0.0) || high / low > 100.0)
        return;
    for (double ten = pow(10.0, floor(log10(low))); ten <= high; ten *= 10.0)
        for (int i = 0; i < (narrow ? 6 : 3); i++) {
            const double x = ten * (narrow ? close[i] : wide[i]);
            if (x >= low / 1.001 && x <= high * 1.001) {
                fprintf(f, "%s%.3g", any ? ", " : "set ytics (", x);
                any = true;
            }
        }
    fputs(any ? ")\n" : "", f);
}

static double least(const struct picture *p)
{
    double low = p->level;
    for (int k = 0; k < p->series; k++)
        for (int i = 0; i < p->points; i++)
            if (p->value[k][i] > 0.0 && (!(low > 0.0) || p->value[k][i] < low))
                low = p->value[k][i];
    return low > 0.0 ? low : 1.0;
}

static void put_lines(FILE *f, const struct picture *p)
{
    const double top = (p->log_y ? 1.5 : 1.08) * most(p), bottom = p->log_y ? least(p) / 1.5 : 0.0;
    for (int k = 0; k < p->series; k++) {
        fprintf(f, "$s%d << END\n", k);
        for (int i = 0; i < p->points; i++)
            if (p->value[k][i] >= 0.0)
                fprintf(f, "%.9g %.9g\n", p->place[i], p->value[k][i]);
        fputs("END\n", f);
    }
    if (p->log_x)
        fputs("set logscale x\n", f);
    if (p->log_y)
        fputs("set logscale y\n", f);
    if (p->mark > 0.0)
        fprintf(f, "set arrow from first %.9g, graph 0 to first %.9g, graph 1 nohead linewidth 1.5 linecolor rgb '#666666' dashtype 3\n", p->mark,
                p->mark);
    const double left = p->place[0], right = p->place[p->points - 1], wide = p->log_x ? pow(right / left, 0.03) : 0.03 * (right - left);
    const double margin = right > left ? wide : p->log_x ? 1.1 : 1.0;
    fprintf(f, "set format y '%%g'\nset xtics nomirror scale 0.5\nset ytics nomirror scale 0.5\nset border 3\nset grid y linecolor rgb '#dddddd'\n"
               "set xrange [%.9g:%.9g]\nset yrange [%.9g:%.9g]\n", p->log_x ? left / margin : left - margin, p->log_x ? right * margin : right + margin, bottom,
            top);
    if (p->log_y)
        put_decades(f, bottom, top);
    fputs("plot ", f);
    for (int k = 0; k < p->series; k++) {
        fprintf(f, "$s%d using 1:2 with linespoints linewidth 2 linecolor rgb '%s' pointtype %d pointsize 0.8 title ", k, colours[k],
                (const int[]){ 7, 5, 9, 11, 13, 6, 4, 8 }[k]);
        plot_quoted(f, p->name[k]);
        fputs(" noenhanced, ", f);
    }
    if (p->level > 0.0) {
        fprintf(f, "%.9g with lines linewidth 1.5 linecolor rgb '#666666' dashtype 2 title ", p->level);
        plot_quoted(f, p->level_name);
        fputs(" noenhanced, ", f);
    }
    if (p->mark > 0.0) {
        fputs("NaN with lines linewidth 1.5 linecolor rgb '#666666' dashtype 3 title ", f);
        plot_quoted(f, p->mark_name);
        fputs(" noenhanced\n", f);
    } else {
        fputs("NaN notitle\n", f);
    }
}

static void put_bars(FILE *f, const struct picture *p)
{
    fputs("$bars << END\n", f);
    for (int i = 0; i < p->points; i++) {
        for (int k = 0; k < p->series; k++)
            fprintf(f, "%.9g ", p->value[k][i] > 0.0 ? p->value[k][i] : 0.0);
        fputs("\n", f);
    }
    fprintf(f, "END\nset style data histograms\nset style histogram rowstacked\nset style fill solid 1 border rgb '#ffffff'\nset boxwidth 0.7\n"
               "set xtics nomirror scale 0 noenhanced\nset ytics nomirror scale 0.5\nset border 3\nset grid y linecolor rgb '#dddddd'\n"
               "set yrange [0:%.9g]\nset xrange [-0.6:%.1f]\nplot ", 1.08 * most(p), p->points - 0.4);
    for (int k = 0; k < p->series; k++) {
        fprintf(f, "$bars using %d linecolor rgb '%s' title ", k + 1, colours[k]);
        plot_quoted(f, p->name[k]);
        fputs(" noenhanced, ", f);
    }
    if (p->level > 0.0) {
        fprintf(f, "%.9g with lines linewidth 1.5 linecolor rgb '#000000' dashtype 2 title ", p->level);
        plot_quoted(f, p->level_name);
        fputs(" noenhanced\n", f);
    } else {
        fputs("NaN notitle\n", f);
    }
}

/* Long names beside the picture would leave it half of its width, and its title none. */
static bool is_wide(const struct picture *p)
{
    size_t longest = p->level > 0.0 ? strlen(p->level_name) : 0;
    longest = p->mark > 0.0 && strlen(p->mark_name) > longest ? strlen(p->mark_name) : longest;
    for (int k = 0; k < p->series; k++)
        longest = strlen(p->name[k]) > longest ? strlen(p->name[k]) : longest;
    return longest > NAME_BESIDE;
}

static void put_script(FILE *f, const void *arg)
{
    const struct picture *p = arg;
    put_label(f, "title", p->title);
    put_label(f, "xlabel", p->x);
    put_label(f, "ylabel", p->y);
    fprintf(f, "set key outside %s Left reverse samplen 2 spacing 1.3\n", is_wide(p) ? "bottom center horizontal height 1" : "right top");
    put_places(f, p);
    if (p->bars)
        put_bars(f, p);
    else
        put_lines(f, p);
}

/* ---- in characters ---- */

#define WIDE 64
#define HIGH 18

/* Where in `cells` a value stands between low and high. */
static int cell_of(double x, double low, double high, bool by_log, int cells)
{
    const double a = by_log ? log(low) : low, b = by_log ? log(high) : high, at = by_log ? log(x) : x;
    const int cell = b > a ? (int)((at - a) / (b - a) * (cells - 1) + 0.5) : 0;
    return cell < 0 ? 0 : cell < cells ? cell : cells - 1;
}

/* What row `cell` stands for. */
static double value_at(int cell, double low, double high, bool by_log)
{
    const double part = (double)cell / (HIGH - 1);
    if (!by_log)
        return low + (high - low) * part;
    return exp(log(low) + (log(high) - log(low)) * part);
}

static void text_lines(const struct picture *p)
{
    char grid[HIGH][WIDE + 1], under[WIDE + PICTURE_TEXT + 1];
    double low = -1.0, high = -1.0;
    int end = 0;
    bool several = false;
    for (int k = 0; k < p->series; k++)
        for (int i = 0; i < p->points; i++) {
            const double v = p->value[k][i];
            if (v > 0.0 && (low < 0.0 || v < low))
                low = v;
            high = v > high ? v : high;
        }
    if (low < 0.0) {
        puts("nothing to draw");
        return;
    }
    if (p->level > 0.0) {
        low = p->level < low ? p->level : low;
        high = p->level > high ? p->level : high;
    }
    memset(grid, ' ', sizeof grid);
    const double left = p->place[0], right = p->place[p->points - 1];
    for (int c = 0; c < WIDE && p->level > 0.0; c++)
        grid[cell_of(p->level, low, high, p->log_y, HIGH)][c] = '-';
    for (int r = 0; r < HIGH && p->mark > 0.0; r++)
        grid[r][cell_of(p->mark, left, right, p->log_x, WIDE)] = ':';
    for (int k = 0; k < p->series; k++)
        for (int i = 0; i < p->points; i++) {
            if (!(p->value[k][i] > 0.0))
                continue;
            char *cell = &grid[cell_of(p->value[k][i], low, high, p->log_y, HIGH)][cell_of(p->place[i], left, right, p->log_x, WIDE)];
            const bool taken = (*cell >= 'a' && *cell <= 'h') || *cell == '*';
            *cell = taken ? '*' : (char)('a' + k);
            several |= taken;
        }
    printf("%s\n\n%11s %s\n", p->title, "", p->y);
    for (int r = HIGH - 1; r >= 0; r--) {
        int wide = WIDE;
        while (wide && grid[r][wide - 1] == ' ')
            wide--;
        grid[r][wide] = 0;
        if (r % 4 == 1 || r == 0)
            printf("%10.4g |%s\n", value_at(r, low, high, p->log_y), grid[r]);
        else
            printf("%10s |%s\n", "", grid[r]);
    }
    printf("%10s +", "");
    for (int c = 0; c < WIDE; c++)
        putchar('-');
    memset(under, ' ', sizeof under);
    for (int i = 0; i < p->points; i++) {
        const int n = (int)strlen(p->at[i]), c = cell_of(p->place[i], left, right, p->log_x, WIDE), from = c > n / 2 ? c - n / 2 : 0;
        if (n && (from > end || (!end && !from))) {
            memcpy(under + from, p->at[i], (size_t)n);
            end = from + n;
        }
    }
    under[end] = 0;
    printf("\n%11s %s   %s\n\n", "", under, p->x);
    for (int k = 0; k < p->series; k++)
        printf("%11s %c %s\n", "", 'a' + k, p->name[k]);
    if (several)
        printf("%11s * several of these\n", "");
    if (p->level > 0.0)
        printf("%11s - %s\n", "", p->level_name);
    if (p->mark > 0.0)
        printf("%11s : %s\n", "", p->mark_name);
}

static void text_bars(const struct picture *p)
{
    static const char fill[PICTURE_SERIES + 1] = "#=+.o~%@";
    const double high = most(p);
    int wide = 0;
    for (int i = 0; i < p->points; i++)
        wide = (int)strlen(p->at[i]) > wide ? (int)strlen(p->at[i]) : wide;
    printf("%s\n\n", p->title);
    for (int i = 0; i < p->points; i++) {
        char line[WIDE + 1];
        double sum = 0.0;
        memset(line, ' ', sizeof line);
        for (int k = 0; k < p->series; k++) {
            const int from = cell_of(sum, 0.0, high, false, WIDE + 1);
            sum += p->value[k][i] > 0.0 ? p->value[k][i] : 0.0;
            const int until = cell_of(sum, 0.0, high, false, WIDE + 1);
            for (int c = from; c < until; c++)
                line[c] = fill[k];
        }
        if (p->level > 0.0 && sum <= p->level)
            line[cell_of(p->level, 0.0, high, false, WIDE)] = '|';
        line[WIDE] = 0;
        printf("%-*s |%s %.4g\n", wide, p->at[i], line, sum);
    }
    printf("%*s  %s; %s\n\n", wide, "", p->y, p->x);
    for (int k = 0; k < p->series; k++)
        printf("%*s  %c %s\n", wide, "", fill[k], p->name[k]);
    if (p->level > 0.0)
        printf("%*s  | %s\n", wide, "", p->level_name);
}

/* ---- what is asked for ---- */

int picture_check(const char *path)
{
    return path && !strcmp(path, "-") ? 0 : plot_check(path, "take --plot -, which draws in characters");
}

int picture_draw(const char *path, const struct picture *p)
{
    if (strcmp(path, "-"))
        return plot_draw(path, put_script, p);
    if (p->bars)
        text_bars(p);
    else
        text_lines(p);
    return output_check();
}

void picture_tokens(int64_t tokens, char text[PICTURE_TEXT])
{
    static const char units[] = "KMGT";
    int unit = -1;
    int64_t rest = tokens;
    while (unit < 3 && rest >= 1024 && rest % 1024 == 0)
        rest /= 1024, unit++;
    if (unit >= 0)
        snprintf(text, PICTURE_TEXT, "%lld%c", (long long)rest, units[unit]);
    else
        snprintf(text, PICTURE_TEXT, tokens >= 1000 && tokens % 1000 == 0 ? "%lldk" : "%lld",
                 (long long)(tokens >= 1000 && tokens % 1000 == 0 ? tokens / 1000 : tokens));
}
