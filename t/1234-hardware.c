/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The reader of hardware files: every field comes to its place, numbers are what they are in the C locale, files cut off or changed anywhere
 * never pass for what they are not, and each thing that cannot be is refused by its name.
 */
#include <locale.h>

#include "plan/plan.h"

#define DRAW_STREAM 1234
#include "t/draw.h"
#include "t/memory.h"
#include "t/scratch.h"

#define NEEDED "\"peak_flops\": 8e14, \"memory_bandwidth\": 2e12, \"link_bandwidth\": 5e10"

static int parse(const char *text, rondo_hardware *h)
{
    return rondo__hardware_parse("file", text, strlen(text), h);
}

static const char whole[] =
    "{\n  \"name\": \"a \\\"machine\\\" \\u00e9\\n\",\n  \"peak_flops\": 1.5e12, \"attention_flops\": 1e+12, \"gemm_flops\": 1.25E12,\n"
    "  \"memory_bandwidth\": 200000000000, \"link_bandwidth\": 2.5e9, \"link_latency\": 26e-6, \"all_to_all_bandwidth\": 3e9,\n"
    "  \"all_to_all_latency\": 90.3e-6, \"overhead\": 0, \"memory_bytes\": 0.0, \"local_bandwidth\": 4e10, \"local_latency\": 1e-6,\n"
    "  \"operation_latency\": 3.4e-6, \"skew\": 0.585, \"node_ranks\": 8, \"node_links\": 4, \"cores\": 1.5, \"core_ranks\": 16, \"core_slowest\": 0.75, \"join_bandwidth\": 6e9,\n"
    "  \"delta_flops\": 8e10, \"delta_backward_flops\": 5e10, \"core_slice\": 0.004, \"core_turn\": 3e-5,\n"
    "  \"link_burst\": 131072, \"link_inward\": 5e9, \"link_work\": 1e-10, \"local_work\": 2e-10, \"attention_edge\": 0.25,\n"
    "  \"attention_rates\": [ [64, 1e11], [128, 1.25e11] ], \"attention_rows\": [[4, 0.25], [96, 1]],\n"
    "  \"delta_rates\": [[64, 5e10, 3e10], [128, 7e10, 4e10], [256, 8e10, 4.5e10]], \"in_place\": true\n}\n";

static void fields(void)
{
    rondo_hardware h = RONDO_HARDWARE_INIT;
    ok(!parse(whole, &h), "a file with every field: %s", rondo_error_text());
    ok(h.peak_flops == 1.5e12 && h.attention_flops == 1e12 && h.gemm_flops == 1.25e12 && h.memory_bandwidth == 2e11 && h.link_bandwidth == 2.5e9 &&
           h.link_latency == 26e-6 && h.all_to_all_bandwidth == 3e9 && h.all_to_all_latency == 90.3e-6 && h.overhead == 0.0 &&
           h.memory_bytes == 0.0 && h.local_bandwidth == 4e10 && h.local_latency == 1e-6 && h.operation_latency == 3.4e-6 && h.skew == 0.585,
       "rates and times are what is written");
    ok(h.node_ranks == 8 && h.node_links == 4 && h.cores == 1.5 && h.core_ranks == 16 && h.core_slowest == 0.75 && h.join_bandwidth == 6e9 &&
           h.delta_flops == 8e10 && h.delta_backward_flops == 5e10 && h.core_slice == 0.004 && h.core_turn == 3e-5 && h.link_burst == 131072.0 && h.link_inward == 5e9 &&
           h.link_work == 1e-10 && h.local_work == 2e-10 && h.attention_edge == 0.25 && h.in_place == 1 && h.attention_dims[0] == 64 &&
           h.attention_dims[1] == 128 && h.attention_dims[2] == 0 && h.attention_rates[0] == 1e11 && h.attention_rates[1] == 1.25e11 && !h.name,
       "and so are the others");
    ok(h.row_counts[0] == 4 && h.row_counts[1] == 96 && h.row_counts[2] == 0 && h.row_parts[0] == 0.25 && h.row_parts[1] == 1.0 &&
           h.delta_dims[0] == 64 && h.delta_dims[2] == 256 && h.delta_dims[3] == 0 && h.delta_rates[0] == 5e10 && h.delta_backward_rates[0] == 3e10 &&
           h.delta_rates[2] == 8e10 && h.delta_backward_rates[2] == 4.5e10,
       "tables of rows and states too");
    ok(!parse("{" NEEDED "}", &h) && h.in_place == 0 && h.cores == 0.0, "what is left out is 0");
}

/* Numbers as printf() writes them come back, whatever the locale's point is. */
static void numbers(void)
{
    static const char *const locales[] = { "C", "de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8" };
    int wrong = 0, near = 0;
    for (int i = 0; i < 4000; i++) {
        char text[300], number[40];
        rondo_hardware h = RONDO_HARDWARE_INIT;
        const double x = (double)(1 + draw(1000000)) * (i % 2 ? 1e-3 : 1e6) / (double)(1 + draw(999));
        setlocale(LC_ALL, "C");
        snprintf(number, sizeof number, i % 3 ? "%.6g" : "%.15g", x);
        const double want = strtod(number, NULL);
        setlocale(LC_ALL, locales[i % 4]);
        snprintf(text, sizeof text, "{ " NEEDED ", \"overhead\": %s }", number);
        const int err = parse(text, &h);
        wrong += err || h.overhead != want;
        snprintf(number, sizeof number, "%.17g", x);
        setlocale(LC_ALL, "C");
        snprintf(number, sizeof number, "%.17g", x);
        snprintf(text, sizeof text, "{ " NEEDED ", \"overhead\": %s }", number);
        near += !parse(text, &h) && h.overhead > x * (1 - 1e-15) && h.overhead < x * (1 + 1e-15);
    }
    setlocale(LC_ALL, "C");
    is_int(wrong, 0, "4,000 numbers of up to 15 digits are strtod()'s, in every locale");
    is_int(near, 4000, "and those of 17 digits are as near as a double gets");
}

static void refuse(const char *word, const char *text)
{
    rondo_hardware h = RONDO_HARDWARE_INIT;
    h.overhead = 77.0;
    const int err = parse(text, &h);
    if (!ok(err == RONDO_EFORMAT && strstr(rondo_error_text(), word) && strstr(rondo_error_text(), "file") && h.overhead == 77.0, "refused: %s",
            rondo_error_text()))
        diag("%s: %s", rondo_error_name(err), text);
}

static void refusals(void)
{
    refuse("opening brace", "");
    refuse("opening brace", "[]");
    refuse("quotation mark", "{");
    refuse("memory_bandwidth is missing", "{}");
    refuse("link_bandwidth is missing", "{ \"peak_flops\": 1, \"memory_bandwidth\": 1 }");
    refuse("peak_flops is missing", "{ \"gemm_flops\": 1, \"memory_bandwidth\": 1, \"link_bandwidth\": 1 }");
    refuse("line 2: 'link_latncy' is no field of hardware, did you mean link_latency?", "{ " NEEDED ",\n \"link_latncy\": 1 }");
    refuse("'abacus' is no field of hardware;", "{ " NEEDED ", \"abacus\": 1 }");
    refuse("'??[31mx' is no field", "{ " NEEDED ", \"\x9b\x7f[31mx\": 1 }");
    refuse("skew comes for the second time", "{ " NEEDED ", \"skew\": 1, \"skew\": 1 }");
    refuse("link_bandwidth comes for the second time", "{ " NEEDED ", \"link_bandwidth\": 5e10 }");
    refuse("skew is -1", "{ " NEEDED ", \"skew\": -1 }");
    refuse("skew is inf", "{ " NEEDED ", \"skew\": 1e999999999999 }");
    refuse("skew is 1e+31", "{ " NEEDED ", \"skew\": 1e31 }");
    refuse("memory_bandwidth is 0", "{ \"peak_flops\": 1, \"memory_bandwidth\": 0, \"link_bandwidth\": 1 }");
    refuse("memory_bandwidth is 0", "{ \"peak_flops\": 1, \"memory_bandwidth\": 1e-400, \"link_bandwidth\": 1 }");
    refuse("node_ranks takes a whole number", "{ " NEEDED ", \"node_ranks\": 1.0 }");
    refuse("node_ranks takes a whole number", "{ " NEEDED ", \"node_ranks\": 99999999999999999999999 }");
    refuse("node_ranks is 0", "{ " NEEDED ", \"node_ranks\": 0 }");
    refuse("node_ranks", "{ " NEEDED ", \"node_ranks\": 70000 }");
    refuse("node_links", "{ " NEEDED ", \"node_ranks\": 2, \"node_links\": 3 }");
    refuse("core_ranks", "{ " NEEDED ", \"core_ranks\": 70000 }");
    refuse("core_slowest", "{ " NEEDED ", \"core_slowest\": 1.01 }");
    refuse("core_slice", "{ " NEEDED ", \"core_slice\": 1e-9 }");
    refuse("core_turn is 2", "{ " NEEDED ", \"core_turn\": 2 }");
    refuse("core_turn", "{ " NEEDED ", \"core_turn\": -1e-5 }");
    refuse("attention_edge", "{ " NEEDED ", \"attention_edge\": 1.5 }");
    refuse("name takes a text", "{ " NEEDED ", \"name\": 5 }");
    refuse("in_place takes true or false", "{ " NEEDED ", \"in_place\": 1 }");
    refuse("comma", "{ " NEEDED ", \"in_place\": truer }");
    refuse("list of which each part is a pair", "{ " NEEDED ", \"attention_rates\": 1e9 }");
    refuse("pair of a head size", "{ " NEEDED ", \"attention_rates\": [] }");
    refuse("whole number", "{ " NEEDED ", \"attention_rates\": [[64.5, 1e9]] }");
    refuse("attention_rates is 0", "{ " NEEDED ", \"attention_rates\": [[64, 0]] }");
    refuse("1 to 4 times a pair", "{ " NEEDED ", \"attention_rates\": [[1, 1], [2, 1], [3, 1], [4, 1], [5, 1]] }");
    refuse("ascend", "{ " NEEDED ", \"attention_rates\": [[2, 1], [2, 1]] }");
    refuse("1 to 8 times a pair", "{ " NEEDED ", \"attention_rows\": [[1,1],[2,1],[3,1],[4,1],[5,1],[6,1],[7,1],[8,1],[9,1]] }");
    refuse("attention_rows, of a number of rows, takes a whole number", "{ " NEEDED ", \"attention_rows\": [[0.5, 1]] }");
    refuse("attention_rows has 1.5", "{ " NEEDED ", \"attention_rows\": [[2, 0.5], [4, 1.5]] }");
    refuse("attention_rows is 0", "{ " NEEDED ", \"attention_rows\": [[2, 0]] }");
    refuse("ascend", "{ " NEEDED ", \"attention_rows\": [[4, 0.5], [2, 1]] }");
    refuse("a comma", "{ " NEEDED ", \"delta_rates\": [[64, 1e9]] }");
    refuse("its end", "{ " NEEDED ", \"delta_rates\": [[64, 1e9, 1e9, 1e9]] }");
    refuse("ascend", "{ " NEEDED ", \"delta_rates\": [[64, 1e9, 1e9], [64, 1e9, 1e9]] }");
    refuse("skew takes a number", "{ " NEEDED ", \"skew\": }");
    refuse("skew takes a number", "{ " NEEDED ", \"skew\": nan }");
    refuse("skew takes a number", "{ " NEEDED ", \"skew\": \"1\" }");
    refuse("a number", "{ " NEEDED ", \"skew\": - 1 }");
    refuse("begins with 0", "{ " NEEDED ", \"skew\": 01 }");
    refuse("a digit", "{ " NEEDED ", \"skew\": 1. }");
    refuse("a digit", "{ " NEEDED ", \"skew\": 1e }");
    refuse("0x01", "{ " NEEDED ", \"skew\": 1\x01 }");
    refuse("escape", "{ " NEEDED ", \"name\": \"\\q\" }");
    refuse("hexadecimal", "{ " NEEDED ", \"name\": \"\\u00g0\" }");
    refuse("rest of a text", "{ " NEEDED ", \"name\": \"a\nb\" }");
    refuse("end of the file", "{ " NEEDED " } {");
    refuse("comma, or the closing brace", "{ " NEEDED " ]");
    refuse("quotation mark", "{ " NEEDED ", }");
    refuse("colon", "{ \"skew\" 1 }");
}

/* Cut off, or with a byte changed, it is refused or is a file of this form still. */
static void damaged(void)
{
    const size_t n = sizeof whole - 1;
    int passed = 0, silent = 0, strange = 0;
    for (size_t i = 0; i < n - 1; i++) {   /* the last byte is a new line */
        rondo_hardware h = RONDO_HARDWARE_INIT;
        char *copy = malloc(i + 1);        /* so that a byte too many is seen under sanitizers */
        memcpy(copy, whole, i);
        const int err = rondo__hardware_parse("file", copy, i, &h);
        passed += !err && i != n - 1;
        silent += err && (err != RONDO_EFORMAT || !*rondo_error_text());
        free(copy);
    }
    is_int(passed, 0, "cut off anywhere it is refused");
    for (int i = 0; i < 20000; i++) {
        char text[sizeof whole];
        rondo_hardware h = RONDO_HARDWARE_INIT, complete;
        memcpy(text, whole, sizeof whole);
        for (uint32_t k = 1 + draw(3); k; k--)
            text[draw((uint32_t)n)] = draw(4) ? whole[draw((uint32_t)n)] : (char)draw(256);
        const int err = rondo__hardware_parse("file", text, n, &h);
        silent += err && (err != RONDO_EFORMAT || !*rondo_error_text());
        strange += !err && rondo__hardware_complete(&complete, &h);
    }
    ok(!silent && !strange, "with bytes changed it is refused with a sentence, or is what can be");
}

static void files(void)
{
    char path[1024];
    rondo_hardware h = RONDO_HARDWARE_INIT, known = RONDO_HARDWARE_INIT;
    scratch_make("1234-hardware");
    snprintf(path, sizeof path, "%s/file.json", scratch_dir);
    FILE *f = fopen(path, "wb");
    fputs(whole, f);
    fclose(f);
    ok(!rondo_hardware_read(path, &h) && h.node_links == 4, "from a file");
    ok(!rondo_hardware_read("h100", &h) && !rondo_hardware_find("h100", &known) && !memcmp(&h, &known, sizeof h), "or by a name");
    is_int(rondo_hardware_read(NULL, &h), RONDO_EINVAL, "no name");
    is_int(rondo_hardware_read(path, NULL), RONDO_EINVAL, "no place");
    is_int(rondo_hardware_read("/nowhere/at/all", &h), RONDO_EIO, "no file: %s", rondo_error_text());
    is_int(rondo_hardware_read(scratch_dir, &h), RONDO_EIO, "a folder: %s", rondo_error_text());
    f = fopen(path, "wb");
    for (int i = 0; i < 70000; i++)
        fputc(' ', f);
    fclose(f);
    ok(rondo_hardware_read(path, &h) == RONDO_EFORMAT && strstr(rondo_error_text(), "65536"), "a large one: %s", rondo_error_text());
    const char *srcdir = getenv("srcdir");
    for (int i = 0; srcdir && rondo_hardware_name(i); i++) {
        snprintf(path, sizeof path, "%s/examples/hardware/%s.json", srcdir, rondo_hardware_name(i));
        rondo_hardware by_name = RONDO_HARDWARE_INIT;
        h = by_name;
        const int err = rondo_hardware_read(path, &h) || rondo_hardware_find(rondo_hardware_name(i), &by_name);
        by_name.name = NULL;
        ok(!err && !memcmp(&h, &by_name, sizeof h), "the example %s.json is what is known by its name", rondo_hardware_name(i));
    }
    scratch_remove();
}

static void of_runs(void)
{
    rondo_hardware file = RONDO_HARDWARE_INIT, h;
    file.peak_flops = file.memory_bandwidth = file.link_bandwidth = 1e9;
    file.cores = 1.5, file.node_ranks = 2, file.node_links = 1;
    file.attention_rates[0] = 1e9, file.attention_dims[0] = 64;
    h = file;
    ok(!rondo_hardware_run(&h, 1, 1, 5, 1) && h.in_place && h.node_ranks == 5 && h.core_ranks == 5 && h.cores == 1.5 && h.attention_flops == 1e9,
       "five threads are one node, share its cores, and defaults are there");
    h = file;
    ok(!rondo_hardware_run(&h, 0, 1, 5, 1) && !h.in_place && h.node_ranks == 5 && h.core_ranks == 5, "so are five processes of one host");
    h = file;
    ok(!rondo_hardware_run(&h, 0, 0, 5, 1) && h.node_ranks == 2 && h.core_ranks == 2, "and those of several are in nodes as the file has them");
    h = file;
    ok(!rondo_hardware_run(&h, 1, 1, 1, 2) && h.attention_flops == 1.5e9 && h.attention_rates[0] == 1.5e9 && h.cores == 1.0,
       "a rank of two threads does what both do");
    is_int(rondo_hardware_run(NULL, 1, 1, 1, 1), RONDO_EINVAL, "no hardware");
    is_int(rondo_hardware_run(&h, 1, 1, 0, 1), RONDO_EINVAL, "no ranks: %s", rondo_error_text());
    is_int(rondo_hardware_run(&h, 1, 1, 1, 0), RONDO_EINVAL, "no threads");
    h.cores = -1.0;
    ok(rondo_hardware_run(&h, 1, 1, 1, 1) == RONDO_EINVAL && strstr(rondo_error_text(), "cores"), "hardware that cannot be: %s", rondo_error_text());
}

static int attempt(void *arg, int *right)
{
    rondo_hardware h = RONDO_HARDWARE_INIT;
    const int err = rondo_hardware_read(arg, &h);
    *right = !err && h.memory_bandwidth > 0.0;
    return err;
}

int main(void)
{
    char path[1024];
    memory_hooks();
    fields();
    numbers();
    refusals();
    damaged();
    files();
    of_runs();
    snprintf(path, sizeof path, "%s/examples/hardware/h100.json", getenv("srcdir") ? getenv("srcdir") : ".");
    atomic_store(&memory_until_failure, 0);
    int right;
    ok(attempt(path, &right) == RONDO_ENOMEM && atomic_load(&memory_live) == 0, "no memory for it: %s", rondo_error_text());
    return done();
}
