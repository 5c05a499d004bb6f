/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo plan replay: the tables of arXiv:2411.01783, each cell measured there and simulated here, with one set of constants for all of them
 * (grand-teton-rdma of hardware.c). The numbers are as printed; 8K, 32K and 128K are 8,000, 32,000 and 128,000 tokens, as table 4 has them.
 *
 * Where the paper contradicts itself, both numbers stand: a TTIT of 66.63 ms (table 6) and 60.23 ms (table 7), a TTFT of 10,950 ms (table 7)
 * and 11,462 ms (table 4); 60.1 us of attention over 4 x 32K tokens (table 8), where 38.9 us are over as many bytes.
 */
#include "cli/plan.h"
#include "cli/target.h"

#include <stdlib.h>
#include <string.h>

static struct {
    const char *table, *hardware, *plot;
} options;

static const struct option own_options[] = {
    { "table", 0, OPTION_TEXT, "4|5|6|7|8|prefill|beyond", "which table of the paper; beyond: larger worlds", &options.table, 0, 0, NULL },
    { "hardware", 0, OPTION_TEXT, "FILE|NAME", "of what (default grand-teton-rdma, which these tables are of)", &options.hardware, 0, 0, NULL },
    { "plot", 0, OPTION_TEXT, "FILE", "draw the rows; of table 4 the ratio of the two algorithms (.png or .svg; needs gnuplot)", &options.plot,
      0, 0, NULL },
    { NULL, 0, OPTION_FLAG, NULL, NULL, NULL, 0, 0, NULL },
};

/* What of a prediction a cell is. */
enum cell { PASS, STEP_TRANSFER, STEP_COMPUTE, EXCHANGE, COMPUTE, TRANSFER, ATTENTION };

struct row {
    const char *table, *what;
    double measured;               /* of the paper's unit: milliseconds of passes, microseconds of parts */
    int cell, algorithm, phase, tp, cp, batch;
    int64_t past, tokens;          /* decode: past */
};

#define KV RONDO_PASS_KV
#define Q RONDO_PASS_Q
#define PREFILL RONDO_COST_PREFILL
#define DECODE RONDO_COST_DECODE
#define TABLE_4(miss, past, tokens, kv, q)                                                                         \
    { "4", miss " new, pass-kv", kv, PASS, KV, PREFILL, 8, 4, 1, past, tokens },                                   \
    { "4", miss " new, pass-q", q, PASS, Q, PREFILL, 8, 4, 1, past, tokens }
#define TABLE_8(name, context, sequences, chips, op, loop, send, exchange, whole)                                  \
    { "8", name ", one attention", op, STEP_COMPUTE, Q, DECODE, 8, chips, sequences, context, 1 },                 \
    { "8", name ", attention of the ring", loop, COMPUTE, Q, DECODE, 8, chips, sequences, context, 1 },            \
    { "8", name ", SendRecv", send, TRANSFER, Q, DECODE, 8, chips, sequences, context, 1 },                        \
    { "8", name ", All2All", exchange, EXCHANGE, Q, DECODE, 8, chips, sequences, context, 1 },                     \
    { "8", name ", whole pass-Q", whole, ATTENTION, Q, DECODE, 8, chips, sequences, context, 1 }
static const struct row rows[] = {
    TABLE_4("1,280", 126720, 1280, 1023.39, 898.71), TABLE_4("3,200", 124800, 3200, 1110.18, 1046.43),
    TABLE_4("4,160", 123840, 4160, 1298.92, 1280.1), TABLE_4("6,400", 121600, 6400, 1305.56, 1302.01),
    TABLE_4("12,800", 115200, 12800, 2080.67, 2205.27), TABLE_4("25,600", 102400, 25600, 3353.02, 3617.02),
    TABLE_4("38,400", 89600, 38400, 4629.23, 4922.52), TABLE_4("51,200", 76800, 51200, 5745.08, 6217.83),
    TABLE_4("64,000", 64000, 64000, 6845.21, 7367.99), TABLE_4("76,800", 51200, 76800, 7890.35, 8468.66),
    TABLE_4("89,600", 38400, 89600, 8697.27, 9666.62), TABLE_4("102,400", 25600, 102400, 10105.78, 10652.39),
    TABLE_4("115,200", 12800, 115200, 11136.4, 11571.62), TABLE_4("128,000", 0, 128000, 11462.15, 12360.57),

    { "5", "3,200 new, pass-kv, SendRecv", 627, STEP_TRANSFER, KV, PREFILL, 8, 4, 1, 124800, 3200 },
    { "5", "3,200 new, pass-kv, attention", 414, STEP_COMPUTE, KV, PREFILL, 8, 4, 1, 124800, 3200 },
    { "5", "3,200 new, pass-q, SendRecv", 166, STEP_TRANSFER, Q, PREFILL, 8, 4, 1, 124800, 3200 },
    { "5", "3,200 new, pass-q, attention", 414, STEP_COMPUTE, Q, PREFILL, 8, 4, 1, 124800, 3200 },
    { "5", "3,200 new, pass-q, All2All", 424, EXCHANGE, Q, PREFILL, 8, 4, 1, 124800, 3200 },
    { "5", "12,800 new, pass-kv, SendRecv", 631, STEP_TRANSFER, KV, PREFILL, 8, 4, 1, 115200, 12800 },
    { "5", "12,800 new, pass-kv, attention", 1608, STEP_COMPUTE, KV, PREFILL, 8, 4, 1, 115200, 12800 },
    { "5", "12,800 new, pass-q, SendRecv", 544, STEP_TRANSFER, Q, PREFILL, 8, 4, 1, 115200, 12800 },
    { "5", "12,800 new, pass-q, attention", 1608, STEP_COMPUTE, Q, PREFILL, 8, 4, 1, 115200, 12800 },
    { "5", "12,800 new, pass-q, All2All", 1023, EXCHANGE, Q, PREFILL, 8, 4, 1, 115200, 12800 },

    { "6", "TP8, 8K, TTFT", 1740, PASS, KV, PREFILL, 8, 1, 1, 0, 8000 },
    { "6", "TP8, 8K, TTIT", 44.51, PASS, Q, DECODE, 8, 1, 1, 8000, 1 },
    { "6", "CP2+TP8, 8K, TTFT", 999, PASS, KV, PREFILL, 8, 2, 1, 0, 8000 },
    { "6", "CP2+TP8, 8K, TTIT", 65.61, PASS, Q, DECODE, 8, 2, 1, 8000, 1 },
    { "6", "TP8, 32K, TTFT", 7658, PASS, KV, PREFILL, 8, 1, 1, 0, 32000 },
    { "6", "TP8, 32K, TTIT", 44.64, PASS, Q, DECODE, 8, 1, 1, 32000, 1 },
    { "6", "CP2+TP8, 32K, TTFT", 4015, PASS, KV, PREFILL, 8, 2, 1, 0, 32000 },
    { "6", "CP2+TP8, 32K, TTIT", 65.66, PASS, Q, DECODE, 8, 2, 1, 32000, 1 },
    { "6", "TP8, 128K, TTFT", 42010, PASS, KV, PREFILL, 8, 1, 1, 0, 128000 },
    { "6", "TP8, 128K, TTIT", 46.26, PASS, Q, DECODE, 8, 1, 1, 128000, 1 },
    { "6", "CP2+TP8, 128K, TTFT", 21042, PASS, KV, PREFILL, 8, 2, 1, 0, 128000 },
    { "6", "CP2+TP8, 128K, TTIT", 66.63, PASS, Q, DECODE, 8, 2, 1, 128000, 1 },

    { "7", "CP1+TP8, TTFT", 42010, PASS, KV, PREFILL, 8, 1, 1, 0, 128000 },
    { "7", "CP1+TP8, TTIT", 46.26, PASS, Q, DECODE, 8, 1, 1, 128000, 1 },
    { "7", "CP2+TP8, TTFT", 21042, PASS, KV, PREFILL, 8, 2, 1, 0, 128000 },
    { "7", "CP2+TP8, TTIT", 60.23, PASS, Q, DECODE, 8, 2, 1, 128000, 1 },
    { "7", "TP16, TTFT", 29917, PASS, KV, PREFILL, 16, 1, 1, 0, 128000 },
    { "7", "TP16, TTIT", 39.52, PASS, Q, DECODE, 16, 1, 1, 128000, 1 },
    { "7", "CP4+TP8, TTFT", 10950, PASS, KV, PREFILL, 8, 4, 1, 0, 128000 },
    { "7", "CP4+TP8, TTIT", 71.31, PASS, Q, DECODE, 8, 4, 1, 128000, 1 },
    { "7", "TP32, TTFT", 19841, PASS, KV, PREFILL, 32, 1, 1, 0, 128000 },
    { "7", "TP32, TTIT", 47.3, PASS, Q, DECODE, 32, 1, 1, 128000, 1 },

    TABLE_8("128K, TP8", 128000, 1, 1, 38.9, 38.9, 0, 0, 38.9),
    TABLE_8("128K, CP2+TP8", 128000, 1, 2, 22.0, 43.2, 32.3, 81.1, 157.7),
    TABLE_8("128K, CP4+TP8", 128000, 1, 4, 14.7, 60.8, 105.7, 79.9, 238.6),
    TABLE_8("4 x 32K, TP8", 32000, 4, 1, 60.1, 60.1, 0, 0, 60.1),
    TABLE_8("4 x 32K, CP2+TP8", 32000, 4, 2, 13.9, 24.5, 33.3, 66.8, 136.6),
    TABLE_8("4 x 32K, CP4+TP8", 32000, 4, 4, 9.6, 41.3, 104.9, 72.2, 180.6),

    { "prefill", "CP8+TP8, 128K", 5850, PASS, KV, PREFILL, 8, 8, 1, 0, 128000 },
    { "prefill", "CP16+TP8, 128K", 3800, PASS, KV, PREFILL, 8, 16, 1, 0, 128000 },
    { "prefill", "CP16+TP8, 1M", 77000, PASS, KV, PREFILL, 8, 16, 1, 0, 1000000 },
};
#define ROWS (sizeof rows / sizeof *rows)

/* Llama 3 405B as the paper serves it: MLPs in FP8, everything else in BF16. */
static rondo_cost_case case_of(const struct row *r)
{
    rondo_cost_case c = RONDO_COST_CASE_INIT;
    c.phase = r->phase;
    c.algorithm = r->algorithm;
    c.hidden_size = 16384, c.num_heads = 128, c.num_kv_heads = 8, c.head_dim = 128;
    c.num_layers = 126, c.intermediate_size = 53248, c.vocab_size = 128256, c.norms_per_layer = 2;
    c.batch_size = r->batch, c.past_seq_len = r->past, c.new_tokens = r->tokens;
    c.kv_len_used = r->phase == DECODE ? r->past : 0;
    c.bytes_per_elem = 2, c.mlp_weight_bytes_per_elem = 1, c.causal = 1;
    c.tensor_parallel = r->tp, c.context_parallel = r->cp;
    return c;
}

static int simulate(const struct row *r, const rondo_hardware *h, double *value)
{
    const rondo_cost_case c = case_of(r);
    rondo_prediction p = RONDO_PREDICTION_INIT;
    const int code = fail_library(rondo_predict(&c, h, RONDO_PREDICT_PAPER, &p), STAGE_INPUT);
    const double seconds[] = { p.seconds, p.longest_transfer, p.longest_compute, p.layer_exchange, p.layer_compute, p.layer_transfer,
                               p.layer_attention };
    *value = seconds[r->cell] * (r->cell == PASS ? 1e3 : 1e6);
    return code;
}

int plan_paper_pass(const rondo_hardware *h, int32_t algorithm, int hosts, int64_t past, int64_t tokens, double *ms)
{
    const struct row r = { "", "", 0.0, PASS, algorithm, PREFILL, 8, hosts, 1, past, tokens };
    return simulate(&r, h, ms);
}

/* ---- the report ---- */

/* Of rows that come in twos: how often the faster of the two simulated is the faster measured, and what taking it costs where not. */
static void add_choices(json_t *summary, const double (*pairs)[2], size_t count)
{
    int right = 0, close = 0;
    double worst = 0.0;
    for (size_t i = 0; i + 1 < count; i += 2) {
        const size_t taken = pairs[i][1] <= pairs[i + 1][1] ? i : i + 1, other = taken == i ? i + 1 : i;
        const double loss = pairs[taken][0] / pairs[other][0] - 1.0;
        right += loss <= 0.0;
        close += loss <= 0.005;
        worst = loss > worst ? loss : worst;
    }
    json_object_set_new(summary, "choices", json_integer((json_int_t)(count / 2)));
    json_object_set_new(summary, "right", json_integer(right));
    json_object_set_new(summary, "right_or_within_half_a_percent", json_integer(close));
    json_object_set_new(summary, "largest_loss", number(worst));
}

static int replay(const rondo_hardware *h, const char *table, json_t *list, json_t *summary)
{
    double values[ROWS][2], errors[ROWS];
    size_t n = 0, compared = 0;
    for (size_t i = 0; i < ROWS; i++) {
        if (strcmp(rows[i].table, table))
            continue;
        const int code = simulate(&rows[i], h, &values[n][1]);
        if (code)
            return code;
        values[n][0] = rows[i].measured;
        const double error = rows[i].measured > 0.0 ? values[n][1] / rows[i].measured - 1.0 : 0.0;   /* of nothing: nothing is simulated */
        json_t *row = json_object();
        json_object_set_new(row, "what", json_string(rows[i].what));
        json_object_set_new(row, "unit", json_string(rows[i].cell == PASS ? "ms" : "us"));
        json_object_set_new(row, "measured", number(rows[i].measured));
        json_object_set_new(row, "simulated", number(values[n][1]));
        json_object_set_new(row, "error", number(error));
        json_array_append_new(list, row);
        if (rows[i].measured > 0.0)
            errors[compared++] = error < 0.0 ? -error : error;
        n++;
    }
    qsort(errors, compared, sizeof *errors, ascending);
    json_object_set_new(summary, "rows", json_integer((json_int_t)n));
    json_object_set_new(summary, "median_error", number(errors[compared / 2]));
    json_object_set_new(summary, "largest_error", number(errors[compared - 1]));
    if (!strcmp(table, "4"))
        add_choices(summary, (const double (*)[2])values, n);
    return 0;
}

static void print_object(const char *name, json_t *object)
{
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value)
        printf("%s: %s: %lld\n", name, key, (long long)json_integer_value(value));
}

static int print_text(const json_t *list, const json_t *summary)
{
    size_t i;
    json_t *row;
    const char *key;
    json_t *value;
    printf("%-42s %12s %12s %8s\n", "what", "measured", "simulated", "error");
    json_array_foreach((json_t *)(uintptr_t)list, i, row) {
        const char *unit = json_string_value(json_object_get(row, "unit"));
        printf("%-42s ", json_string_value(json_object_get(row, "what")));
        if (json_is_number(json_object_get(row, "measured")))
            printf("%9.2f %s %9.2f %s %+7.1f%%\n", json_number_value(json_object_get(row, "measured")), unit,
                   json_number_value(json_object_get(row, "simulated")), unit, 100.0 * json_number_value(json_object_get(row, "error")));
        else
            printf("%12s %9.0f %s\n", "", json_number_value(json_object_get(row, "simulated")), unit);
    }
    json_object_foreach((json_t *)(uintptr_t)summary, key, value) {
        if (json_is_number(value))
            printf("%-42s %12.4g\n", key, json_number_value(value));
        else
            print_object(key, value);
    }
    return output_check();
}

/* Of table 4, as the paper's figure 9: how long pass-KV takes of pass-Q's time over the miss rate. */
static void draw_ratios(FILE *f, const void *arg)
{
    const json_t *list = arg;
    size_t i = 0;
    fprintf(f, "set title 'Time to first token: pass-KV over pass-Q, 4 hosts, 128,000 tokens'\nset xlabel 'miss rate'\n"
               "set ylabel 'time by pass-KV / time by pass-Q'\nset logscale x\nset format x '%%g%%%%'\nset border 3\nset grid linecolor rgb '#dddddd'\n"
               "set xtics nomirror\nset ytics nomirror scale 0.5\nset key top right Left reverse\nset yrange [0.85:1.25]\n$rows << END\n");
    for (size_t k = 0; k < ROWS; k++) {
        if (strcmp(rows[k].table, options.table))
            continue;
        json_t *row = json_array_get(list, i++);
        if (rows[k].algorithm != RONDO_PASS_KV)
            continue;
        json_t *other = json_array_get(list, i);   /* pass-Q comes behind it */
        fprintf(f, "%.9g %.9g %.9g\n", 100.0 * (double)rows[k].tokens / (double)(rows[k].tokens + rows[k].past),
                json_number_value(json_object_get(row, "measured")) / json_number_value(json_object_get(other, "measured")),
                json_number_value(json_object_get(row, "simulated")) / json_number_value(json_object_get(other, "simulated")));
    }
    fprintf(f, "END\nplot 1 with lines dashtype 2 linecolor 'gray' title 'equal', $rows using 1:2 with points pointtype 7 linecolor rgb '#0072B2' "
               "title 'measured', $rows using 1:3 with lines linewidth 2 linecolor rgb '#E69F00' title 'simulated'\n");
}

/* Measured and simulated side by side. */
static int draw(const char *path, const json_t *list)
{
    char title[64];
    struct plot_bars picture = { .title = title, .kinds = 2, .kind = { "measured", "simulated" } };
    size_t i;
    json_t *row;
    if (!strcmp(options.table, "4"))
        return plot_draw(path, draw_ratios, list);
    snprintf(title, sizeof title, "arXiv:2411.01783, %s%s", strlen(options.table) == 1 ? "table " : "", options.table);
    picture.x = json_string_value(json_object_get(json_array_get(list, 0), "unit"));
    picture.bars = calloc(json_array_size(list) + 1, sizeof *picture.bars);
    if (!picture.bars)
        return fail(EXIT_ROOM, "not enough memory for a picture of the rows");
    json_array_foreach(list, i, row) {
        struct plot_bar *bar = &picture.bars[picture.count++];
        snprintf(bar->name, sizeof bar->name, "%s", json_string_value(json_object_get(row, "what")));
        bar->value[0] = json_number_value(json_object_get(row, "measured"));
        bar->value[1] = json_number_value(json_object_get(row, "simulated"));
    }
    const int code = plot_bars(path, &picture);
    free(picture.bars);
    return code;
}

static const struct command command_replay = {
    "plan", "plan replay --table 4|5|6|7|8|prefill|beyond [OPTION]...",
    "Simulates what tables of arXiv:2411.01783 measured, cell by cell: Llama 3 405B on H100 hosts, its algorithms as printed.",
    NULL,
};

int plan_replay(int argc, char **argv)
{
    static const char *const tables_known[] = { "4", "5", "6", "7", "8", "prefill", "beyond", NULL };
    const struct option *const tables[OPTION_TABLES] = { own_options, options_output, NULL, NULL };
    const char *operand = NULL;
    int operands = 0, mpi_rank, mpi_size;
    bool help;
    rondo_hardware h = RONDO_HARDWARE_INIT;
    int code = options_parse(&command_replay, tables, argc, argv, &operand, 1, &operands, &help);
    if (code || help)
        return code;
    if (!options.table)
        return fail(EXIT_USAGE, "no table is named; usage: rondo %s", command_replay.synopsis);
    if (choose_word("table", options.table, tables_known, NULL) < 0)
        return EXIT_USAGE;
    if (options.plot && !strcmp(options.table, "beyond"))
        return fail(EXIT_USAGE, "--plot draws what was measured beside what is simulated, and beyond nothing was; leave it out");
    if (plot_check(options.plot, "leave the option out"))
        return EXIT_USAGE;
    mpi_environment(&mpi_rank, &mpi_size);
    if (mpi_rank)
        return 0;   /* under mpirun it is told once */
    code = plan_hardware(options.hardware ? options.hardware : "grand-teton-rdma", &h);
    if (!code && options.plot)
        code = target_try("--plot", options.plot);
    if (code)
        return code;
    json_t *list = json_array(), *summary = json_object();
    const bool beyond = !strcmp(options.table, "beyond");
    code = beyond ? plan_beyond(&h, list, summary) : replay(&h, options.table, list, summary);
    if (!code && options.plot)
        code = draw(options.plot, list);
    if (!code && !common.json) {
        code = common.quiet ? 0 : print_text(list, summary);
    } else if (!code) {
        json_t *report = report_new();
        json_object_set_new(report, "table", json_string(options.table));
        json_object_set_new(report, "hardware", json_string(options.hardware ? options.hardware : "grand-teton-rdma"));
        json_object_set(report, "rows", list);
        json_object_set(report, "summary", summary);
        json_object_set_new(report, "seconds", number(now() - program_began));
        code = report_print(report);
    }
    json_decref(list);
    json_decref(summary);
    return code;
}
