/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo plan run, all that it looks for: layouts, algorithms, chunks, types of the cache, and the algorithm of decoding, as asked for or the
 * best; memory that is a sum, and falls with the world; a prefill in chunks against the sum of its passes; folders of the models that are known
 * by name; pictures in characters, to the letter, and by gnuplot, or without it; and options and folders that cannot be so, by name.
 */
#include "program.h"

#include <math.h>

/* The best way and the others in one list. */
static json_t *ways_of(const char *line)
{
    json_t *r = report_of(line), *all = json_array(), *one;
    size_t i;
    json_array_append(all, r);
    json_array_foreach(json_object_get(r, "alternatives"), i, one)
        json_array_append(all, one);
    json_decref(r);
    return all;
}

#define SMALL "plan run -m llama-3.1-8b --tokens 8192 --world 4 --hardware h100 "

/* ---- what is looked for ---- */

static int has(const json_t *ways, const char *name, const char *value)
{
    size_t i;
    json_t *one;
    json_array_foreach((json_t *)(uintptr_t)ways, i, one)
        if (!strcmp(text_of(one, name), value))
            return 1;
    return 0;
}

static void all_of_it(void)
{
    json_t *ways = ways_of(SMALL), *one;
    size_t i;
    int sums = 0, order = 0, alone = 0, chunks[3] = { 0, 0, 0 };
    const json_t *first = json_array_get(ways, 0);
    ok(has(ways, "layout", "contiguous") && has(ways, "layout", "zigzag") && has(ways, "layout", "striped") && has(ways, "layout", "snake"), "layouts");
    ok(has(ways, "algorithm", "pass-kv") && has(ways, "algorithm", "pass-q") && has(ways, "algorithm", "all-gather") && has(ways, "algorithm", "mesh") &&
           has(ways, "algorithm", "all-to-all") && has(ways, "algorithm", "reduce") && !has(ways, "algorithm", "halo"), "algorithms");
    ok(has(ways, "kv_type", "bf16") && has(ways, "kv_type", "q8") && !has(ways, "kv_type", "f32"), "types of the cache");
    double last[2] = { 0.0, 0.0 };
    int narrow = 0;
    json_array_foreach(ways, i, one) {
        const json_t *m = json_object_get(one, "memory");
        const double request = real_of(one, "ttft_seconds") + 128 * real_of(one, "tpot_seconds");
        const int q8 = !strcmp(text_of(one, "kv_type"), "q8");
        sums += real_of(m, "weights") + real_of(m, "kv_cache") + real_of(m, "activations") + real_of(m, "workspace") !=
                real_of(one, "memory_bytes_per_rank");
        order += request < last[q8] * (1 - 1e-9) || (narrow && !q8) || !*text_of(one, "decode_algorithm");
        last[q8] = request;
        narrow |= q8;
        alone += real_of(one, "cp") == 1 && strcmp(text_of(one, "algorithm"), "pass-kv");
        chunks[0] += real_of(one, "chunk") == 0;
        chunks[1] += real_of(one, "chunk") == 2048;
        chunks[2] += real_of(one, "chunk") != 0 && real_of(one, "chunk") != 2048;
    }
    is_int(sums, 0, "memory is the sum of its parts");
    is_int(order, 0, "ranked, with caches that round behind the others");
    ok(!strcmp(text_of(first, "kv_type"), "bf16") && chunks[0] && chunks[1] && !chunks[2], "in one pass or in pieces of 2,048");
    is_int(alone, 0, "a rank that has a context by itself has one way of attending");
    json_decref(ways);
}

static void only(const char *option, const char *field, const char *value)
{
    char line[300];
    int other = 0;
    size_t i;
    json_t *one;
    snprintf(line, sizeof line, SMALL "%s", option);
    json_t *ways = ways_of(line);
    json_array_foreach(ways, i, one)
        other += strcmp(text_of(one, field), value) != 0;
    ok(json_array_size(ways) > 0 && !other, "%s leaves others out", option);
    json_decref(ways);
}

static void asked_for(void)
{
    only("--layout striped --cp 4 --algorithm pass-kv", "layout", "striped");
    only("--algorithm pass-q --layout zigzag", "algorithm", "pass-q");
    only("--decode-algorithm reduce --layout zigzag --algorithm pass-kv --chunk 0", "decode_algorithm", "reduce");
    only("--kv-type q8 --layout zigzag --algorithm pass-kv", "kv_type", "q8");
    only("--kv-type f16 --layout zigzag --algorithm pass-kv", "kv_type", "f16");
    json_t *r = report_of(SMALL "--chunk 1000 --layout zigzag --algorithm pass-kv");
    ok(real_of(r, "chunk") == 1000, "--chunk 1000");
    json_decref(r);
    r = report_of(SMALL "--chunk 100000 --layout zigzag --algorithm pass-kv");
    ok(real_of(r, "chunk") == 0, "a chunk of more than all is all");
    json_decref(r);
    /* 32 layers, 8,192 positions and then one, K and V of 8 heads of 128 numbers and a scale of 4 bytes */
    r = report_of("plan run -m llama-3.1-8b --tokens 8192 --world 1 --hardware h100 --kv-type q8");
    ok(real_of(json_object_get(r, "memory"), "kv_cache") == 32.0 * 8192 * 2 * 8 * 132 ||
           real_of(json_object_get(r, "memory"), "kv_cache") == 32.0 * 8193 * 2 * 8 * 132, "a cache of q8 has its scales");
    json_decref(r);
    is_int(rondo("", SMALL "--list 3"), 0, "as lines");
    int lines = 0;
    for (const char *p = program_out; *p; p++)
        lines += *p == '\n';
    is_int(lines, 5, "so many, a head, and what is left out");
}

/* ---- limits ---- */

static double least_memory(int world)
{
    char line[300];
    size_t i;
    json_t *one;
    double least = 1e300;
    snprintf(line, sizeof line, "plan run -m llama-3.1-8b --tokens 8192 --world %d --hardware roomy.json --layout zigzag --kv-type bf16 --chunk 0", world);
    json_t *ways = ways_of(line);
    json_array_foreach(ways, i, one)
        least = real_of(one, "memory_bytes_per_rank") < least ? real_of(one, "memory_bytes_per_rank") : least;
    json_decref(ways);
    return least;
}

/* Rates of 1: seconds are FLOPs. */
static double pass_seconds(const char *more)
{
    char line[400];
    snprintf(line, sizeof line, "plan run -m llama-3.1-8b --world 1 --generate 0 --hardware even.json %s", more);
    json_t *r = report_of(line);
    const double seconds = real_of(r, "ttft_seconds");
    json_decref(r);
    return seconds;
}

static void limits(void)
{
    double last = 1e300;
    int rises = 0;
    for (int world = 1; world <= 16; world *= 2) {
        const double least = least_memory(world);
        rises += least > last;
        last = least;
    }
    is_int(rises, 0, "more ranks need no more memory each");
    json_t *r = report_of("plan run -m llama-3.1-8b --tokens 4096 --world 1 --hardware even.json --chunk 0 --kv-type bf16");
    ok(real_of(r, "tp") == 1 && real_of(r, "cp") == 1 && json_array_size(json_object_get(r, "alternatives")) == 0, "one rank has one way");
    json_decref(r);
    /* 4 chunks, all of which are simulated: all but the last without the head's 2 * 4096 * 128256 FLOPs */
    const double chunked = pass_seconds("--tokens 8192 --chunk 2048"), head = 2.0 * 4096 * 128256 / 1e12;
    double sum = -3 * head;
    char line[100];
    for (int i = 0; i < 4; i++) {
        snprintf(line, sizeof line, "--tokens 2048 --chunk 0 --cached %d", 2048 * i);
        sum += pass_seconds(line);
    }
    ok(fabs(chunked - sum) < 1e-9 * sum, "a prefill in 4 pieces is their sum: %g s", sum);
    /* the pieces' pairs are those of the whole, and on the lines between the three that are simulated */
    const double whole = pass_seconds("--tokens 65536 --chunk 0"), many = pass_seconds("--tokens 65536 --chunk 1024");
    ok(fabs(many - whole) < 1e-3 * whole, "of 64 pieces, too: %g s", whole);
    const double odd = pass_seconds("--tokens 5000 --chunk 2048"), plain = pass_seconds("--tokens 5000 --chunk 0");
    ok(fabs(odd - plain) < 0.05 * plain, "and where the last one is shorter");
}

/* ---- contexts of many ranks ---- */

/* What was not simulated, asked for by itself: it takes no less than was said, and longer than the best. */
static void not_simulated(void)
{
    const char *const line = "plan run -m llama-3.1-8b --tokens 20000 --world 64 --hardware xeon-ethernet --kv-type bf16 --generate 16";
    json_t *r = report_of(line), *skipped = json_object_get(r, "not_simulated"), *one;
    const double best = real_of(r, "ttft_seconds") + 16 * real_of(r, "tpot_seconds");
    size_t i, looked = 0;
    int low = 0, twice = 0;
    ok(json_array_size(skipped) > 10, "%zu of %zu ways are not simulated", json_array_size(skipped),
       json_array_size(skipped) + json_array_size(json_object_get(r, "alternatives")) + 1);
    json_array_foreach(skipped, i, one) {
        char alone[600];
        low += real_of(one, "cp") <= 32;
        if (i % 17)
            continue;
        snprintf(alone, sizeof alone, "%s --tp %g --cp %g --layout %s --algorithm %s --chunk %g", line, real_of(one, "tp"), real_of(one, "cp"),
                 text_of(one, "layout"), text_of(one, "algorithm"), real_of(one, "chunk"));
        json_t *exact = report_of(alone);
        const double ttft = real_of(exact, "ttft_seconds"), tpot = real_of(exact, "tpot_seconds");
        ok(ttft >= real_of(one, "ttft_seconds_at_least") && tpot >= real_of(one, "tpot_seconds_at_least") && ttft + 16 * tpot > best &&
               real_of(one, "ttft_seconds_at_least") > 0.0, "%s, %s, chunk %g: %g s and %g s are as little at least, and no better",
           text_of(one, "layout"), text_of(one, "algorithm"), real_of(one, "chunk"), ttft, tpot);
        twice += json_array_size(json_object_get(exact, "not_simulated")) != 0;
        looked++;
        json_decref(exact);
    }
    is_int(low, 0, "contexts of up to 32 ranks are simulated in any case");
    ok(!twice && looked, "and what is asked for by itself");
    json_decref(r);
    is_int(rondo("", "%s --list 1", line), 0, "as lines");
    ok(strstr(program_out, "that were not simulated") != NULL, "which say so");
    r = report_of("plan run -m llama-3.1-405b --tokens 10000000 --world 1024 --tp 128 --hardware h200 --kv-type bf16 --layout zigzag --algorithm pass-kv");
    ok(real_of(r, "cp") == 8 && real_of(r, "ttft_seconds") > 300.0, "10 million tokens, of more FLOPs than 64 bits count");
    json_decref(r);
}

/* ---- models ---- */

static void folders(void)
{
    static const char *const names[] = { "mistral-7b", "llama-3.1-8b", "llama-3.1-70b", "llama-3.1-405b" };
    char line[1200];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        rondo("", "plan run -m %s --tokens 4096 --world 16 --tp 16", names[i]);
        char *by_name = strdup(program_out);
        is_int(rondo("", "plan run -m '%s/examples/models/%s' --tokens 4096 --world 16 --tp 16", getenv("srcdir"), names[i]), 0, "the folder of %s",
               names[i]);
        ok(by_name && strlen(by_name) > 100 && !strcmp(by_name, program_out), "is what is known by its name");
        free(by_name);
    }
    static const struct {
        const char *text, *named;
    } bad[] = {
        { "", "config.json" }, { "{ \"architectures\": [\"LlamaForCausalLM\"]", "config.json" }, { "[]", "config.json" },
        { "{ \"architectures\": [\"LlamaForCausalLM\"], \"hidden_size\": -64, \"intermediate_size\": 64, \"num_hidden_layers\": 1, "
          "\"num_attention_heads\": 4, \"vocab_size\": 64 }", "hidden_size" },
        { "{ \"architectures\": [\"LlamaForCausalLM\"], \"hidden_size\": 64, \"intermediate_size\": 64, \"num_hidden_layers\": 1, "
          "\"num_attention_heads\": 4, \"num_key_value_heads\": 3, \"vocab_size\": 64 }", "num_key_value_heads" },
        { "{ \"architectures\": [\"LlamaForCausalLM\"], \"hidden_size\": 64, \"intermediate_size\": 64, \"num_hidden_layers\": "
          "1152921504606846976, \"num_attention_heads\": 4, \"vocab_size\": 64 }", "num_hidden_layers" },
        { "{ \"architectures\": [\"NoSuchModel\"], \"hidden_size\": 64 }", "NoSuchModel" },
    };
    snprintf(line, sizeof line, "mkdir -p '%s/bad'", scratch_dir);
    is_int(system(line), 0, "a folder");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        scratch_text("bad/config.json", bad[i].text);
        refuses(3, bad[i].named, "plan run -m bad --tokens 128 --world 1");
    }
}

/* ---- pictures ---- */

static void compare(const char *line, const char *want, const char *what)
{
    is_int(rondo("", "%s", line), 0, "%s", what);
    if (!ok(!strcmp(program_out, want), "is drawn so"))
        diag("%s", program_out);
}

#include "7057-plan-search.h"

static void pictures(void)
{
    char before[1500];
    compare("plan run -m llama-3.1-8b --tokens 4096 --world 4 --hardware even.json --kv-type bf16 --layout zigzag --algorithm pass-kv --plot - --quiet",
            picture_ttft, "time to the first token");
    compare("plan run -m llama-3.1-8b --tokens 65536 --world 8 --hardware h100 --kv-type bf16 --chunk 0 --layout zigzag --algorithm pass-kv "
            "--plot - --picture memory --quiet", picture_memory, "memory");
    compare("plan choose --new 3200 --cached 124800 --ranks 4 --heads 16 --kv-heads 1 --hardware even.json --rule alg1 --plot - --quiet",
            picture_rates, "miss rates");
    refuses(2, "--json", SMALL "--plot - --json");
    refuses(2, "--json", "plan choose --new 1 --cached 1 --ranks 2 --plot - --json");
    refuses(2, ".png or .svg", SMALL "--plot x.gif");
    refuses(2, "--picture", SMALL "--picture memory");
    refuses(2, "did you mean memory", SMALL "--plot x.svg --picture memry");
    refuses(2, "2 ranks or more", "plan choose --new 1 --cached 1 --ranks 1 --plot -");
    /* a PATH of what libtool's wrapper of the program calls, and no gnuplot */
    snprintf(before, sizeof before, "cd '%s' && mkdir bin && for t in ls sed dirname basename cat grep expr uname rm; do ln -s \"$(command -v $t)\" bin/; "
                                    "done", scratch_dir);
    is_int(system(before), 0, "a PATH without gnuplot");
    snprintf(before, sizeof before, "env PATH='%s/bin'", scratch_dir);
    is_int(rondo(before, SMALL "--plot x.svg"), 2, "exit 2");
    ok(one_sentence() && strstr(program_err, "gnuplot") && strstr(program_err, "--plot -") && !*program_out, "says so, and what draws all the same");
    is_int(rondo(before, SMALL "--layout zigzag --algorithm pass-kv --plot - --picture memory --quiet"), 0, "characters need none");
    if (system("command -v gnuplot >/dev/null 2>&1")) {
        skip(10, "gnuplot is not installed");
        return;
    }
    static const struct {
        const char *line, *name, *begins;
    } drawn[] = {
        { "plan run -m llama-3.1-8b --tokens 4096 --world 2 --hardware h100 --layout zigzag --algorithm pass-kv --quiet --plot", "a.svg", "<?xml" },
        { "plan run -m llama-3.1-8b --tokens 4096 --world 2 --hardware h100 --layout zigzag --algorithm pass-kv --quiet --picture memory --plot", "b.png",
          "\211PNG" },
        { "plan choose --new 100 --cached 900 --ranks 2 --quiet --plot", "c.svg", "<?xml" },
        { "plan choose --new 100 --cached 900 --ranks 2 --rule alg5 --quiet --hardware \"it's.json\" --plot", "d.svg", "<?xml" },
    };
    for (size_t i = 0; i < sizeof drawn / sizeof *drawn; i++) {
        char path[1024], head[64] = "";
        is_int(rondo("", "%s %s", drawn[i].line, drawn[i].name), 0, "%s %s", drawn[i].line, drawn[i].name);
        snprintf(path, sizeof path, "%s/%s", scratch_dir, drawn[i].name);
        FILE *f = fopen(path, "rb");
        const size_t n = f ? fread(head, 1, sizeof head - 1, f) : 0;
        ok(n > 20 && !strncmp(head, drawn[i].begins, strlen(drawn[i].begins)) && !*program_err, "is a picture, and gnuplot is not heard");
        if (f)
            fclose(f);
    }
    refuses(3, "no-such-folder", SMALL "--plot no-such-folder/x.svg");
}

static void refusals(void)
{
    refuses(2, "--chunk", SMALL "--chunk -1");
    refuses(2, "--kv-type", SMALL "--kv-type q4");
    refuses(2, "layout", SMALL "--layout diagonal");
    refuses(2, "algorithm", SMALL "--algorithm ring");
    refuses(2, "decode-algorithm", SMALL "--decode-algorithm ring");
    refuses(2, "--list", SMALL "--list -1");
    refuses(2, "--tokens", "plan run -m llama-3.1-8b --tokens 1152921504606846976 --world 4");
    refuses(2, "--cached", SMALL "--cached -1");
    refuses(2, "exclude each other", SMALL "--quiet --progress always");
    /* what asks for too much of one rank: narrower caches and pieces are looked at before it is refused */
    scratch_text("narrow.json", "{ \"peak_flops\": 1e15, \"memory_bandwidth\": 1e12, \"link_bandwidth\": 1e10, \"memory_bytes\": 19e9 }");
    json_t *r = report_of("plan run -m llama-3.1-8b --tokens 32768 --world 1 --hardware narrow.json");
    ok(!strcmp(text_of(r, "kv_type"), "q8") && real_of(r, "chunk") > 0, "what fits in pieces and with a cache of q8 alone is found");
    json_decref(r);
    refuses(4, "has 2 ranks", "plan run -m llama-3.1-8b --tokens 32768 --world 1 --hardware narrow.json --kv-type bf16");
}

int main(void)
{
    if (!getenv("RONDO") || !*getenv("RONDO"))
        return skip_all("the program was not built");
    scratch_make("7057-plan-search");
    unsetenv("RONDO_HARDWARE");
    scratch_text("even.json", "{ \"peak_flops\": 1e12, \"memory_bandwidth\": 1e29, \"link_bandwidth\": 1e9 }");
    scratch_text("it's.json", "{ \"peak_flops\": 1e12, \"memory_bandwidth\": 1e29, \"link_bandwidth\": 1e9 }");
    scratch_text("roomy.json", "{ \"peak_flops\": 1e12, \"memory_bandwidth\": 1e11, \"link_bandwidth\": 1e9, \"memory_bytes\": 1e15 }");
    all_of_it();
    asked_for();
    limits();
    not_simulated();
    folders();
    refusals();
    pictures();
    scratch_remove();
    return done();
}
