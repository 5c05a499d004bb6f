/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo plan choose and rondo plan run: the printed rules give what they give by hand, our own takes the candidate of least seconds and says
 * why; ways to run a model divide the world, fit, and are ranked; where none fits the smallest world is named, which then holds it and no
 * smaller one does; hardware from RONDO_HARDWARE; and options that cannot be so.
 */
#include "program.h"

static int near(double got, double want)
{
    return got > want * (1 - 1e-12) && got < want * (1 + 1e-12);
}

/* ---- choose ---- */

/* C / BW = 18,000 as the requirement's table has it: T >= N * 18000 * (1/4) * 2 / 2; with alg5 the miss rate less 4 T / (N * 18000 * 2). */
static void rules(void)
{
    static const struct {
        int fresh, cached;
        const char *rule, *algorithm;
    } rows[] = { { 640, 63360, "alg1", "pass-q" }, { 18000, 1000000, "alg1", "pass-kv" }, { 17999, 1000000, "alg1", "pass-q" },
                 { 500, 500, "alg1", "pass-kv" }, { 499, 501, "alg1", "pass-q" }, { 490, 510, "alg1", "pass-q" }, { 490, 510, "alg5", "pass-kv" } };
    char line[400];
    scratch_text("c18000.json", "{ \"peak_flops\": 18000, \"memory_bandwidth\": 1, \"link_bandwidth\": 1 }");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        snprintf(line, sizeof line, "plan choose --new %d --cached %d --ranks 4 --heads 8 --kv-heads 2 --hardware c18000.json --rule %s",
                 rows[i].fresh, rows[i].cached, rows[i].rule);
        json_t *r = report_of(line);
        const json_t *t = json_object_get(r, "thresholds");
        const double rate = strcmp(rows[i].rule, "alg5") ? 0.5 : 0.5 - 4.0 * rows[i].fresh / (4 * 18000.0 * 2);
        ok(!strcmp(text_of(r, "algorithm"), rows[i].algorithm) && *text_of(r, "reason") && near(real_of(t, "tokens"), 18000.0) &&
               near(real_of(t, "miss_rate"), rate), "%s, %d over %d: %s", rows[i].rule, rows[i].fresh, rows[i].cached, rows[i].algorithm);
        json_decref(r);
    }
}

static void model_rule(const char *line, const char *algorithm)
{
    json_t *r = report_of(line), *one;
    const json_t *list = json_object_get(r, "candidates");
    const char *least = "";
    double best = 1e300;
    size_t i;
    json_array_foreach((json_t *)(uintptr_t)list, i, one)
        if (real_of(one, "seconds") < best) {
            best = real_of(one, "seconds");
            least = text_of(one, "algorithm");
        }
    ok(*least && !strcmp(text_of(r, "algorithm"), least) && strstr(text_of(r, "reason"), least), "%s: %s", line, least);
    ok((!algorithm || !strcmp(least, algorithm)) && json_object_get(json_object_get(r, "thresholds"), "tokens"), "as it should be");
    json_decref(r);
}

/* Candidates that are not simulated could not be chosen: with --all they are, and take no less than was said of them. */
static void same_choice(const char *line)
{
    char all[300];
    snprintf(all, sizeof all, "%s --all", line);
    json_t *few = report_of(line), *many = report_of(all);
    const json_t *skipped = json_object_get(few, "not_simulated"), *list = json_object_get(many, "candidates");
    const char *a = json_string_value(json_object_get(few, "algorithm")), *b = json_string_value(json_object_get(many, "algorithm"));
    int early = 0, found = 0;
    for (size_t i = 0; i < json_array_size(skipped); i++)
        for (size_t k = 0; k < json_array_size(list); k++) {
            const json_t *s = json_array_get(skipped, i), *c = json_array_get(list, k);
            if (strcmp(json_string_value(json_object_get(s, "algorithm")), json_string_value(json_object_get(c, "algorithm"))))
                continue;
            found++;
            early += json_number_value(json_object_get(c, "seconds")) < json_number_value(json_object_get(s, "seconds_at_least"));
        }
    ok(a && b && !strcmp(a, b) && !early && found && found == (int)json_array_size(skipped) && !json_array_size(json_object_get(many, "not_simulated")),
       "%s: %s, %d of %d candidates need not be simulated", line, a ? a : "nothing", found, (int)json_array_size(list));
    json_decref(few);
    json_decref(many);
}

static void models(void)
{
    model_rule("plan choose --new 128000 --cached 0 --ranks 4 --heads 16 --kv-heads 1", "pass-kv");
    model_rule("plan choose --new 1 --cached 100000 --ranks 8", NULL);
    model_rule("plan choose --new 1000 --cached 0 --ranks 1", "pass-kv");
    model_rule("plan choose --new 3000 --cached 1000000 --ranks 7 --hardware xeon-ethernet", NULL);
    same_choice("plan choose --new 65536 --cached 0 --ranks 66");
    same_choice("plan choose --new 65536 --cached 0 --ranks 66 --hardware xeon-ethernet --kv-heads 32 --bytes 4");
    same_choice("plan choose --new 128 --cached 500000 --ranks 66 --hardware grand-teton-tcp");
    same_choice("plan choose --new 1 --cached 100000 --ranks 65 --hardware h100 --heads 48 --kv-heads 1");
    refuses(2, "--all", "plan choose --new 1 --cached 4 --ranks 4 --all --rule alg1");
    /* from the threshold on pass-KV takes no longer than pass-Q, before it it does */
    json_t *r = report_of("plan choose --new 640 --cached 127360 --ranks 4 --hardware grand-teton-tcp --heads 16 --kv-heads 1");
    const long long fewest = json_integer_value(json_object_get(json_object_get(r, "thresholds"), "tokens"));
    double kv[2] = { 0, 0 }, q[2] = { 0, 0 };
    json_decref(r);
    for (int k = 0; k < 2 && fewest > 200; k++) {
        char line[300];
        json_t *one;
        size_t i;
        snprintf(line, sizeof line, "plan choose --new %lld --cached 127360 --ranks 4 --hardware grand-teton-tcp --heads 16 --kv-heads 1",
                 fewest - (k ? 128 : 0));
        r = report_of(line);
        json_array_foreach(json_object_get(r, "candidates"), i, one) {
            kv[k] = !strcmp(text_of(one, "algorithm"), "pass-kv") ? real_of(one, "seconds") : kv[k];
            q[k] = !strcmp(text_of(one, "algorithm"), "pass-q") ? real_of(one, "seconds") : q[k];
        }
        json_decref(r);
    }
    ok(fewest > 200 && kv[0] <= q[0] && kv[1] > q[1], "the threshold of %lld tokens is where they change places", fewest);
    ok(!setenv("RONDO_HARDWARE", "h200", 1), "hardware from the environment");
    r = report_of("plan choose --new 100 --cached 0 --ranks 2 --rule alg1");
    ok(!strcmp(text_of(r, "hardware"), "h200"), "is what is reported");
    json_decref(r);
    unsetenv("RONDO_HARDWARE");
    refuses(2, "--new T is missing", "plan choose --cached 0 --ranks 4");
    refuses(2, "--cached P is missing", "plan choose --new 1 --ranks 4");
    refuses(2, "--ranks N is missing", "plan choose --new 1 --cached 4");
    refuses(2, "--new", "plan choose --new 0 --cached 4 --ranks 4");
    refuses(2, "--ranks", "plan choose --new 1 --cached 4 --ranks 0");
    refuses(2, "--new", "plan choose --new 1152921504606846976 --cached 4 --ranks 4");
    refuses(2, "--kv-heads 3", "plan choose --new 1 --cached 4 --ranks 4 --kv-heads 3");
    refuses(2, "alg7", "plan choose --new 1 --cached 4 --ranks 4 --rule alg7");
    refuses(2, "--bytes 1", "plan choose --new 1 --cached 4 --ranks 4 --bytes 1");
    refuses(3, "nowhere", "plan choose --new 1 --cached 4 --ranks 4 --hardware nowhere");
}

/* ---- run ---- */

static double request_of(const json_t *way)
{
    return real_of(way, "ttft_seconds") + 128 * real_of(way, "tpot_seconds");
}

static void ways(const char *line, int world, double memory)
{
    json_t *r = report_of(line), *one;
    const json_t *list = json_object_get(r, "alternatives");
    int wrong = 0, narrow = 0;
    double last = request_of(r);
    size_t i;
    wrong += real_of(r, "tp") * real_of(r, "cp") != world || real_of(r, "memory_bytes_per_rank") > memory || last <= 0.0 || !*text_of(r, "layout");
    json_array_foreach((json_t *)(uintptr_t)list, i, one) {
        /* caches that round what is computed with come behind the others, and are ranked among themselves */
        if (!strcmp(text_of(one, "kv_type"), "q8") && !narrow++)
            last = 0.0;
        wrong += narrow && strcmp(text_of(one, "kv_type"), "q8");
        wrong += real_of(one, "tp") * real_of(one, "cp") != world || real_of(one, "memory_bytes_per_rank") > memory || !*text_of(one, "reason") ||
                 !*text_of(one, "algorithm") || request_of(one) < last * (1 - 1e-9);
        last = request_of(one);
    }
    ok(!wrong && json_array_size(list) > 0, "%s: %d ways, which fit and are ranked", line, (int)json_array_size(list) + 1);
    json_decref(r);
}

static double pass_kv_seconds(const char *hardware)
{
    char line[200];
    double seconds = 0.0;
    json_t *one;
    size_t i;
    snprintf(line, sizeof line, "plan choose --new 4096 --cached 0 --ranks 8 --bytes 4 --hardware %s", hardware);
    json_t *r = report_of(line);
    json_array_foreach(json_object_get(r, "candidates"), i, one)
        seconds = strcmp(text_of(one, "algorithm"), "pass-kv") ? seconds : real_of(one, "seconds");
    json_decref(r);
    return seconds;
}

/* Nodes of 8 ranks with a link of a byte a second: threads that read each other's memory where the file says that they share cores. */
static void topology(void)
{
#define MACHINE "{ \"peak_flops\": 1e11, \"memory_bandwidth\": 1e10, \"link_bandwidth\": 1, \"local_bandwidth\": 1e9, \"node_ranks\": 8"
    const double least = 4.0 * 32 * 128 * (4096.0 * 4097 / 2) / 1e11;
    scratch_text("apart.json", MACHINE " }");
    scratch_text("two.json", MACHINE ", \"in_place\": true, \"cores\": 2 }");
    scratch_text("eight.json", MACHINE ", \"in_place\": true, \"cores\": 8 }");
    const double apart = pass_kv_seconds("apart.json"), two = pass_kv_seconds("two.json"), eight = pass_kv_seconds("eight.json");
    ok(apart > 1e6, "each rank a node: keys go over the link");
    ok(two > least / 2 && two < 1.1 * least / 2, "ranks on two cores: they take half of what one takes");
    ok(eight > least / 8 && eight < 1.3 * least / 8, "on eight: an eighth");
}

static void runs(void)
{
    char line[1200];
    ways("plan run -m llama-3.1-70b --tokens 131072 --world 16 --hardware h100", 16, 80e9);
    ways("plan run -m llama-3.1-405b --tokens 1000000 --world 128", 128, 96e9);
    ways("plan run -m mistral-7b --tokens 4096 --cached 100000 --batch 4 --world 6 --hardware xeon-ethernet", 6, 256e9);
    snprintf(line, sizeof line, "plan run -m '%s/examples/kjv' --tokens 100 --world 4 --hardware xeon-ethernet", getenv("srcdir"));
    ways(line, 4, 256e9);
    json_t *r = report_of("plan run -m llama-3.1-8b --tokens 8192 --world 8 --tp 2 --hardware h100"), *one;
    size_t i;
    int other = real_of(r, "tp") != 2 || real_of(r, "cp") != 4;
    json_array_foreach(json_object_get(r, "alternatives"), i, one)
        other += real_of(one, "tp") != 2;
    is_int(other, 0, "--tp 2 leaves ways of 2 alone");
    json_decref(r);
    is_int(rondo("", "plan run -m llama-3.1-8b --tokens 8192 --world 8 --hardware h100"), 0, "as lines");
    ok(strstr(program_out, "the best") != NULL, "with the best one");
    /* 405B of 2 bytes is 812 GB, and 96 GB are a rank's: 9 ranks at least, and heads in 16 shares */
    refuses(4, "has 16 ranks", "plan run -m llama-3.1-405b --tokens 128000 --world 4");
    refuses(4, "has 16 ranks", "plan run -m llama-3.1-405b --tokens 128000 --world 15");
    is_int(rondo("", "plan run -m llama-3.1-405b --tokens 128000 --world 16 --quiet"), 0, "and so they do");
    scratch_text("tiny.json", "{ \"peak_flops\": 1e12, \"memory_bandwidth\": 1e10, \"link_bandwidth\": 1e9, \"memory_bytes\": 1000 }");
    refuses(4, "no world of up to 4096", "plan run -m mistral-7b --tokens 128 --world 4 --hardware tiny.json");
    refuses(2, "--model", "plan run --tokens 128 --world 4");
    refuses(2, "--tokens", "plan run -m mistral-7b --world 4");
    refuses(2, "--world", "plan run -m mistral-7b --tokens 128");
    refuses(2, "--world", "plan run -m mistral-7b --tokens 128 --world 0");
    refuses(2, "--tp and --cp", "plan run -m mistral-7b --tokens 128 --world 4 --tp 3");
    refuses(2, "--tp and --cp", "plan run -m mistral-7b --tokens 128 --world 8 --tp 2 --cp 2");
    refuses(2, "no ranks of --world 7", "plan run -m mistral-7b --tokens 128 --world 7 --tp 7");
    refuses(2, "visible pairs", "plan run -m mistral-7b --tokens 1099511627776 --world 64 --hardware xeon-ethernet");
    refuses(2, "--batch", "plan run -m mistral-7b --tokens 128 --world 7 --batch 0");
    refuses(2, "--bytes 3", "plan run -m mistral-7b --tokens 128 --world 7 --bytes 3");
    refuses(3, "known by name", "plan run -m no-such --tokens 128 --world 7");
}

int main(void)
{
    if (!getenv("RONDO") || !*getenv("RONDO"))
        return skip_all("the program was not built");
    scratch_make("7056-plan-ways");
    unsetenv("RONDO_HARDWARE");
    rules();
    models();
    topology();
    runs();
    scratch_remove();
    return done();
}
