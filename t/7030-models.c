/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo tokenize, score and generate with the model that ships: agreement with the golden data, one hash for every number of
 * ranks, the answers of a batch as they are alone, streams, stops, and bad input.
 */
#include <math.h>

#include "program.h"
#include "rondo_lm.h"

static char model[1024], golden[1024];

static json_t *reference(void)
{
    char path[1200];
    snprintf(path, sizeof path, "%s/reference.json", golden);
    return json_load_file(path, 0, NULL);
}

static void tokenizing(void)
{
    char want[sizeof program_out];
    rondo("printf 'In the beginning, \\303\\251\\n' |", "tokenize -m '%s'", model);
    snprintf(want, sizeof want, "%s", program_out);
    ok(strspn(want, "0123456789 \n") == strlen(want) && strchr(want, '\n') == want + strlen(want) - 1, "ids on one line");
    rondo("printf 'In the beginning, \\303\\251\\n' >text;", "tokenize -m '%s' -f text", model);
    ok(!strcmp(want, program_out), "-f reads a file");
    char pipe[2400];
    snprintf(pipe, sizeof pipe, "'%s' tokenize -m '%s' -f text |", getenv("RONDO"), model);
    rondo(pipe, "tokenize -m '%s' --decode", model);
    ok(!strcmp(program_out, "In the beginning, \303\251\n"), "--decode gives the text back");
    rondo("", "tokenize -m '%s' -f text --no-special", model);
    ok(!strncmp(want, "0 ", 2) && !strcmp(want + 2, program_out), "--no-special leaves out BOS");
    rondo("", "tokenize -m '%s' -f text --json --pieces", model);
    json_t *r = program_json();
    ok(r && json_array_size(json_object_get(r, "ids")) == json_array_size(json_object_get(r, "pieces")), "a piece for each id");
    json_decref(r);
    is_int(rondo("printf 'abc\\377d' |", "tokenize -m '%s'", model), 3, "invalid UTF-8 is refused");
    ok(one_sentence() && strchr(program_err, '3'), "with its byte offset");
    is_int(rondo("printf 'abc\\377d' |", "tokenize -m '%s' --lossy", model), 0, "unless --lossy");
    is_int(rondo("echo 1 2 x 3 |", "tokenize -m '%s' --decode", model), 3, "a word among ids is refused");
    ok(one_sentence() && strstr(program_err, "'x'"), "by its name");
    is_int(rondo("echo 1 2048 |", "tokenize -m '%s' --decode", model), 3, "an id past the vocabulary too");
    is_int(rondo("echo 12345678901234567890 |", "tokenize -m '%s' --decode", model), 3, "and one past all integers");
}

static void scoring(void)
{
    json_t *want = reference();
    char hash[32];
    const double nll = json_number_value(json_object_get(want, "nll"));
    is_int(rondo("", "score -m '%s' --ids '%s/mark.ids' --json", model, golden), 0, "score runs");
    json_t *r = program_json();
    const double got = json_number_value(json_object_get(r, "nll"));
    ok(json_integer_value(json_object_get(r, "tokens")) == json_integer_value(json_object_get(want, "tokens")), "over all tokens");
    ok(fabs(got - nll) < 1e-5, "nll %.6f is the golden %.6f", got, nll);
    ok(fabs(log(json_number_value(json_object_get(r, "perplexity"))) - got) < 1e-12, "perplexity is its exponential");
    json_decref(r);
    json_decref(want);
    rondo("", "score -m '%s' --ids '%s/mark.ids' --limit 200 --json", model, golden);
    snprintf(hash, sizeof hash, "%s", program_text("hash"));
    static const char *const settings[] = { "--cp 3 --layout striped", "--cp 8 --algorithm pass-q --layout snake", "--cp 2 --chunk 70", "--chunk 33 --threads 2",
                                            "--cp 3 --isa scalar" };
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        const int code = rondo("", "score -m '%s' --ids '%s/mark.ids' --limit 200 --json %s", model, golden, settings[i]);
        if (!ok(code == 0 && strlen(hash) == 16 && !strcmp(program_text("hash"), hash), "'%s': the same hash", settings[i]))
            diag("exit %d %s %s", code, program_text("hash"), program_err);
    }
    is_int(rondo("", "score -m '%s' --ids '%s/mark.ids' --limit 20 --cp 3 --logits logits", model, golden), 0, "--logits");
    rondo_arrays *f = NULL;
    const rondo_array *a = !rondo_arrays_open(&f, scratch_path("logits")) ? rondo_arrays_find(f, "logits") : NULL;
    ok(a && a->dims == 2 && a->shape[0] == 20 && a->shape[1] == 2048 && a->type == RONDO_ARRAY_F32, "logits is [n, vocabulary] F32");
    rondo_arrays_close(f);
    is_int(rondo("echo 5 |", "score -m '%s' --ids -", model), 3, "one token has nothing to predict");
    is_int(rondo("echo 5 2048 7 |", "score -m '%s' --ids - --cp 2", model), 3, "an id outside of the vocabulary is refused");
    is_int(rondo("", "score -m '%s' --ids '%s/mark.ids' --limit 20 --logits no-folder/logits", model, golden), 3, "a folder that is not there");
    ok(files_like("no-folder") == 0, "no file is left");
}

/* What a pass's algorithm was chosen of: it is the one that takes least. */
static int told_choice(const json_t *phase)
{
    json_t *list = json_object_get(phase, "candidates"), *one;
    const char *by = json_string_value(json_object_get(phase, "chosen_by")), *algorithm = json_string_value(json_object_get(phase, "algorithm"));
    double least = 1e30, own = -1.0;
    size_t i;
    json_array_foreach(list, i, one) {
        const double seconds = json_number_value(json_object_get(one, "seconds"));
        least = seconds < least ? seconds : least;
        own = algorithm && !strcmp(json_string_value(json_object_get(one, "algorithm")), algorithm) ? seconds : own;
    }
    /* a plan that stays with what was chosen before: until another takes 5 % less */
    return by && json_array_size(list) > 3 && (!strcmp(by, "time") ? own == least : !strcmp(by, "before") && own <= least / 0.95);
}

static void generating(void)
{
    json_t *want = reference(), *greedy = json_object_get(want, "greedy"), *tokens = json_object_get(greedy, "tokens"), *r;
    const int n = (int)json_array_size(tokens), prompt_tokens = (int)json_integer_value(json_object_get(greedy, "prompt_tokens"));
    char hash[32], alone[sizeof program_out], pipe[2400];
    /* the prompt is the text of the first golden ids */
    snprintf(pipe, sizeof pipe, "tr -s ' \\n' '\\n' <'%s/mark.ids' | head -%d |", golden, prompt_tokens);
    rondo(pipe, "tokenize -m '%s' --decode >prompt", model);
    is_int(rondo("", "generate -m '%s' -f prompt -n %d --json", model, n), 0, "generate runs");
    r = program_json();
    is_int(json_integer_value(json_object_get(r, "prompt_tokens")), prompt_tokens, "the golden prompt");
    size_t same = 0;
    while ((int)same < n && json_integer_value(json_array_get(tokens, same)) == json_integer_value(json_array_get(json_object_get(r, "tokens"), same)))
        same++;
    ok(n > 0 && (int)same == n, "the golden tokens (%d of %d)", (int)same, n);
    ok(json_is_object(json_object_get(r, "prefill")) && json_is_object(json_object_get(r, "decode")) &&
       json_array_size(json_object_get(r, "kv_bytes_per_rank")) == 1, "prefill, decode and kv_bytes_per_rank");
    ok(!strcmp(json_string_value(json_object_get(r, "finish")), "length"), "finish");
    json_decref(r);
    snprintf(pipe, sizeof pipe, "head -c 500 prompt >shorter;");
    is_int(rondo(pipe, "generate -m '%s' -f shorter -n 8 --json", model), 0, "a shorter prompt");
    snprintf(hash, sizeof hash, "%s", program_text("hash"));
    static const char *const settings[] = { "--cp 4 --layout snake --algorithm pass-q --chunk 3", "--cp 2 --isa scalar", "--kv-interleave leaf --threads 2" };
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        const int code = rondo("", "generate -m '%s' -f shorter -n 8 --json %s", model, settings[i]);
        ok(code == 0 && strlen(hash) == 16 && !strcmp(program_text("hash"), hash), "'%s': the same hash", settings[i]);
    }
    is_int(rondo("RONDO_HARDWARE=xeon-ethernet", "generate -m '%s' -f shorter -n 8 --json --cp 3", model), 0, "with hardware that is known");
    r = program_json();
    ok(told_choice(json_object_get(r, "prefill")) && told_choice(json_object_get(r, "decode")) &&
       !strcmp(hash, json_string_value(json_object_get(r, "hash"))), "candidates of prefill and of decoding, and the same hash");
    json_decref(r);
    json_decref(want);

    rondo("", "generate -m '%s' -p 'And it came to pass' -n 30 --quiet", model);
    snprintf(alone, sizeof alone, "%s", program_out);
    ok(!program_err[0] && strlen(alone) > 20, "text on stdout, --quiet says nothing else");
    rondo("printf 'And it came to pass' |", "generate -m '%s' -f - -n 30 --quiet", model);
    ok(!strcmp(alone, program_out), "-f - reads stdin");
    rondo("", "generate -m '%s' -p 'And it came to pass' -n 30 --json", model);
    r = program_json();
    const char *text = json_string_value(json_object_get(r, "text"));
    ok(text && !strncmp(alone, text, strlen(text)), "the report's text is what streams");
    json_decref(r);
    rondo("", "generate -m '%s' -p 'And it came to pass' -p 'In those days' -p Behold -n 30 --json --cp 2", model);
    r = program_json();
    text = json_string_value(json_array_get(json_object_get(r, "text"), 0));
    ok(json_array_size(json_object_get(r, "tokens")) == 3 && text && !strncmp(alone, text, strlen(text)), "in a batch it is the same as alone");
    json_decref(r);
    rondo("", "generate -m '%s' -p Behold -n 9 --ids", model);
    int ids = 0;
    for (const char *p = program_out; *p; p++)
        ids += *p == ' ' || *p == '\n';
    ok(ids == 9 && strspn(program_out, "0123456789 \n") == strlen(program_out), "--ids prints 9 numbers on a line");

    rondo("", "generate -m '%s' -p Behold -n 5 --stream --json", model);
    char *line = program_out, *end;
    int lines = 0, good = 1;
    for (; (end = strchr(line, '\n')) != NULL; line = end + 1, lines++) {
        *end = 0;
        r = json_loads(line, 0, NULL);
        good = good && json_is_object(r) && !json_object_get(r, "hash") == (lines < 5);
        json_decref(r);
    }
    ok(good && lines >= 6, "--stream --json: an object a token, the report last (%d lines)", lines);

    rondo("", "generate -m '%s' -p 'And it came to pass' -n 60 --temperature 0.8 --top-k 40 --seed 5 --json", model);
    snprintf(hash, sizeof hash, "%s", program_text("hash"));
    rondo("", "generate -m '%s' -p 'And it came to pass' -n 60 --temperature 0.8 --top-k 40 --seed 5 --json --cp 3", model);
    ok(strlen(hash) == 16 && !strcmp(program_text("hash"), hash), "sampled: the same on 3 ranks");
    rondo("", "generate -m '%s' -p 'And it came to pass' -n 60 --temperature 0.8 --top-k 40 --seed 6 --json", model);
    ok(strcmp(program_text("hash"), hash) != 0, "another seed gives another answer");
    rondo("", "generate -m '%s' -p 'And it came to pass' -n 200 --stop the --json", model);
    r = program_json();
    text = json_string_value(json_object_get(r, "text"));
    ok(r && !strcmp(json_string_value(json_object_get(r, "finish")), "stop") && !strstr(text, "the"), "--stop ends before its text");
    json_decref(r);
    is_int(rondo("printf 'a\\300b' >bad;", "generate -m '%s' -f bad", model), 3, "a prompt that is no UTF-8 is refused");
    ok(one_sentence(), "in one sentence");
    is_int(rondo("", "generate -m '%s' -f nowhere", model), 3, "a prompt's file that is not there too");
}

static void under_mpi(void)
{
    const char *mpirun = getenv("MPIRUN");
    char before[1100], hash[32];
    if (!mpirun || !*mpirun) {
        skip(3, "no mpirun");
        return;
    }
    rondo("", "generate -m '%s' -p 'And it came to pass' -n 10 --json", model);
    snprintf(hash, sizeof hash, "%s", program_text("hash"));
    snprintf(before, sizeof before, "printf 'And it came to pass' | %s -n 3", mpirun);
    const int code = rondo(before, "generate -m '%s' -f - -n 10 --json", model);
    if (!ok(code == 0 && !strcmp(program_text("hash"), hash), "3 MPI processes, the prompt from rank 0's stdin"))
        diag("exit %d %s", code, program_err);
    rondo("", "score -m '%s' --ids '%s/mark.ids' --limit 300 --json", model, golden);
    snprintf(hash, sizeof hash, "%s", program_text("hash"));
    snprintf(before, sizeof before, "%s -n 3", mpirun);
    rondo(before, "score -m '%s' --ids '%s/mark.ids' --limit 300 --json </dev/null", model, golden);
    ok(!strcmp(program_text("hash"), hash), "score too");
    ok(!strcmp(program_text("transport"), "mpi"), "by MPI");
}

int main(void)
{
    const char *top = getenv("srcdir");
    if (!getenv("RONDO") || !*getenv("RONDO"))
        return skip_all("the program was not built");
    snprintf(model, sizeof model, "%s/examples/kjv", top ? top : ".");
    snprintf(golden, sizeof golden, "%s/t/golden/kjv", top ? top : ".");
    if (access(model, R_OK))
        return skip_all("no model lies in %s", model);
    scratch_make("7030-models");
    tokenizing();
    scoring();
    generating();
    under_mpi();
    scratch_remove();
    return done();
}
