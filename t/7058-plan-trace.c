/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo plan schedule --hardware and --trace: a simulated timeline is the file that a run writes, with its names, rows and messages; what a
 * rank does follows without a gap and ends where the simulator says; one rank moves nothing; and contrib/timeline draws it as it draws a run's.
 */
#include "program.h"

#include <math.h>

#include "rondo_lm.h"
#include "t/tensor_file.h"

#define SHAPE "--heads 4 --kv-heads 2 --head-dim 32 --value-dim 16 "

static void write_zeros(int64_t tokens)
{
    float *zeros = calloc((size_t)tokens * 4 * 32, sizeof *zeros);
    const struct tensor list[3] = { { "q", RONDO_ARRAY_F32, 4, { 1, tokens, 4, 32 }, zeros }, { "k", RONDO_ARRAY_F32, 4, { 1, tokens, 2, 32 }, zeros },
                                    { "v", RONDO_ARRAY_F32, 4, { 1, tokens, 2, 16 }, zeros } };
    write_tensors("in", list, 3);
    free(zeros);
}

static json_t *load(const char *name)
{
    char path[1024];
    json_error_t error;
    snprintf(path, sizeof path, "%s/%s", scratch_dir, name);
    json_t *r = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    if (!r)
        diag("%s: %s at line %d", name, error.text, error.line);
    return r;
}

static int is_own(const json_t *e, long long rank)
{
    return !strcmp(text_of(e, "ph"), "X") && json_integer_value(json_object_get(e, "pid")) == rank &&
           json_integer_value(json_object_get(e, "tid")) == rank;
}

/* The same piece of work, or message, whenever it was. */
static int alike(const json_t *a, const json_t *b)
{
    return !strcmp(text_of(a, "ph"), text_of(b, "ph")) && !strcmp(text_of(a, "name"), text_of(b, "name")) &&
           !strcmp(text_of(a, "cat"), text_of(b, "cat")) && json_equal(json_object_get(a, "pid"), json_object_get(b, "pid")) &&
           json_equal(json_object_get(a, "args"), json_object_get(b, "args"));
}

static long long without(const json_t *events, const json_t *among, const char *which)
{
    long long missing = 0;
    size_t i, k;
    json_t *e, *other;
    json_array_foreach((json_t *)(uintptr_t)events, i, e) {
        const int wait = !strncmp(text_of(e, "cat"), "wait ", 5), packs = !strcmp(text_of(e, "cat"), "pack");
        int found = wait || packs || (*which && strcmp(text_of(e, "cat"), which));   /* rows that lie as they travel are not packed */
        json_array_foreach((json_t *)(uintptr_t)among, k, other)
            found |= alike(e, other);
        if (!found && !missing++)
            diag("%s of rank %lld is missing", text_of(e, "name"), (long long)json_integer_value(json_object_get(e, "pid")));
    }
    return missing;
}

/* A rank's work and waits follow each other from 0 on. Where it ends, in us; below 0: a gap. ts and dur have three digits. */
static double end_of(const json_t *events, long long rank)
{
    double end = 0.0;
    size_t i;
    json_t *e;
    int gaps = 0;
    json_array_foreach((json_t *)(uintptr_t)events, i, e) {
        if (!is_own(e, rank))
            continue;
        gaps += fabs(real_of(e, "ts") - end) > 0.002;
        end = real_of(e, "ts") + real_of(e, "dur");
    }
    return gaps ? -1.0 : end;
}

static void timeline(const char *options, int ranks)
{
    char line[600];
    double latest = 0.0;
    int gaps = 0;
    snprintf(line, sizeof line, "plan schedule --tokens 600 --causal " SHAPE "--ranks %d %s --totals --hardware node.json --trace simulated --json", ranks,
             options);
    is_int(rondo("", "%s", line), 0, "%s on %d ranks: a timeline", options, ranks);
    json_t *report = program_json(), *simulated = load("simulated");
    const json_t *events = json_object_get(simulated, "traceEvents");
    for (int r = 0; r < ranks; r++) {
        const double end = end_of(events, r);
        gaps += end <= 0.0;
        latest = end > latest ? end : latest;
    }
    is_int(gaps, 0, "work and waits of each rank without a gap");
    ok(fabs(latest - 1e6 * real_of(report, "simulated_seconds")) < 0.01, "which end at the simulator's %g s", real_of(report, "simulated_seconds"));
    ok(json_is_true(json_object_get(json_object_get(simulated, "otherData"), "simulated")), "the file says that nobody ran");
    is_int(rondo("", "attend in -o out --causal --ranks %d %s --threads 1 --quiet --trace measured", ranks, options), 0, "the same as a run");
    json_t *measured = load("measured");
    is_int(without(events, json_object_get(measured, "traceEvents"), ""), 0, "all that is simulated has been done, by these names");
    is_int(without(json_object_get(measured, "traceEvents"), events, "attention"), 0, "and all that was computed is simulated");
    json_decref(report);
    json_decref(simulated);
    json_decref(measured);
}

static void timelines(void)
{
    timeline("--algorithm pass-kv", 3);
    timeline("--algorithm pass-q", 4);
    timeline("--algorithm all-gather --layout contiguous", 3);
    timeline("--algorithm mesh --grid 2,2", 4);
    timeline("--algorithm all-to-all", 2);
}

static double seconds_of(const char *options)
{
    rondo("", "plan schedule --causal " SHAPE "--totals --json %s", options);
    json_t *r = program_json();
    const double s = real_of(r, "simulated_seconds");
    json_decref(r);
    return s;
}

/* 4 heads of 32 + 16 numbers, 2 FLOPs each, over T (T + 1) / 2 pairs, and nothing else on one rank. */
static void limits(void)
{
    const double flops = 4 * 2 * 48 * (1024.0 * 1025 / 2);
    const double one = seconds_of("--tokens 1024 --ranks 1 --hardware slow.json");
    ok(fabs(one - flops / 1e6) < 1e-9 * one, "one rank computes, and waits for nobody: %g s", one);
    const double link = seconds_of("--tokens 1024 --ranks 4 --algorithm pass-kv --hardware slow.json");
    ok(link > one / 4 && link < one / 2, "four take a quarter, and some of it for their messages: %g s", link);
    ok(seconds_of("--tokens 2048 --ranks 1 --hardware slow.json") > 3.99 * one, "twice the tokens are four times the work");
    ok(seconds_of("--tokens 1024 --ranks 2 --backward --hardware slow.json") > one / 2, "gradients are simulated too");
    is_int(rondo("", "plan schedule --tokens 64 " SHAPE "--ranks 1 --totals --trace one --hardware slow.json"), 0, "a timeline of one rank");
    json_t *r = load("one"), *e;
    size_t i;
    int messages = 0;
    json_array_foreach(json_object_get(r, "traceEvents"), i, e)
        messages += !strcmp(text_of(e, "ph"), "X") && real_of(json_object_get(e, "args"), "peer") >= 0;
    is_int(messages, 0, "moves nothing");
    json_decref(r);
    ok(seconds_of("--tokens 32768 --ranks 256 --algorithm pass-q --hardware h100") > 0.0, "256 ranks");
}

static void drawn(void)
{
    char line[2600];
    snprintf(line, sizeof line, "cd '%s' && '%s/contrib/timeline' simulated >drawn.svg && '%s/contrib/timeline' -t simulated >drawn.txt", scratch_dir,
             getenv("srcdir"), getenv("srcdir"));
    rondo("", "plan schedule --tokens 4096 --causal " SHAPE "--ranks 3 --algorithm pass-q --totals --hardware slow.json --trace simulated");
    is_int(system(line), 0, "contrib/timeline draws it");
    program_slurp("drawn.svg", program_out, sizeof program_out);
    ok(!strncmp(program_out, "<svg ", 5) && strstr(program_out, ">rank 2<") && strstr(program_out, "attention 1 of 2, ") && strstr(program_out, "join"),
       "as a picture");
    program_slurp("drawn.txt", program_out, sizeof program_out);
    ok(strstr(program_out, "rank 0  #") && strstr(program_out, "# compute   + join"), "or a text");
}

static void refusals(void)
{
    refuses(3, "known by name", "plan schedule --tokens 64 " SHAPE "--ranks 1 --hardware nowhere");
    refuses(3, "known by name", "plan schedule --tokens 64 " SHAPE "--ranks 1 --hardware nowhere --trace x");
    refuses(3, "no-such-folder", "plan schedule --tokens 64 " SHAPE "--ranks 1 --trace no-such-folder/x");
    scratch_text("bad.json", "{ \"peak_flops\": 1e6, \"memory_bandwidth\": 1e12, \"link_bandwidth\": 1e400 }");
    refuses(3, "bad.json", "plan schedule --tokens 64 " SHAPE "--ranks 1 --hardware bad.json");
    scratch_text("bad.json", "{ \"peak_flops\": 1e31, \"memory_bandwidth\": 1e12, \"link_bandwidth\": 1 }");
    refuses(3, "peak_flops", "plan schedule --tokens 64 " SHAPE "--ranks 1 --hardware bad.json");
}

int main(void)
{
    if (!getenv("RONDO") || !*getenv("RONDO"))
        return skip_all("the program was not built");
    scratch_make("7058-plan-trace");
    unsetenv("RONDO_HARDWARE");
    scratch_text("node.json", "{ \"peak_flops\": 1e9, \"memory_bandwidth\": 1e9, \"link_bandwidth\": 1e8, \"link_latency\": 1e-4, \"node_ranks\": 2 }");
    scratch_text("slow.json", "{ \"peak_flops\": 1e6, \"memory_bandwidth\": 1e12, \"link_bandwidth\": 1e6 }");
    write_zeros(600);
    timelines();
    limits();
    drawn();
    refusals();
    scratch_remove();
    return done();
}
