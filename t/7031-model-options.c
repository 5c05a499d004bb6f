/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo score and generate: a folder without a tokenizer, logits that are no numbers, how texts are read, how tokens are
 * counted and chosen.
 */
#define _GNU_SOURCE   /* O_TMPFILE */
#include <sys/resource.h>

#include "program.h"
#include "lm_kit.h"
#include "nameless.h"

#define DAMAGED 9   /* the id whose embedding is no number */

static char model[1024];

static void without_tokenizer(void)
{
    struct kit_config c = kit_defaults("llama");
    struct kit_model *m = kit_make(&c, 5);
    for (int i = 0; i < c.hidden; i++)
        m->tensors[0].values[DAMAGED * c.hidden + i] = NAN;
    kit_write_config(&c);
    kit_write_weights(m, NULL);
    kit_free(m);
    is_int(rondo("echo 2 3 4 5 6 |", "score -m . --ids - --json"), 0, "score --ids of a folder without tokenizer.json");
    ok(strlen(program_text("hash")) == 16, "with its hash");
    is_int(rondo("echo text |", "score -m . -f -"), 3, "a text needs one");
    ok(one_sentence() && strstr(program_err, "tokenizer.json") && !program_out[0], "and its name is said");
    is_int(rondo("", "info -m . --json"), 0, "info -m of the same folder");
    json_t *r = program_json();
    ok(json_integer_value(json_object_get(r, "vocabulary")) == c.vocabulary && json_integer_value(json_object_get(r, "tokens")) == 0,
       "has the model's sizes and no tokens");
    json_decref(r);

    static const char *const ways[] = { "", "--cp 2", "--cp 3 --chunk 2", "--cp 3 --layout striped" };
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        const int code = rondo("echo 2 3 4 5 9 6 9 7 8 |", "score -m . --ids - --logits logits %s", ways[i]);
        if (!ok(code == 3 && one_sentence() && strstr(program_err, "position 4 ") && !program_out[0] && files_like("logits") == 0 && files_like(".rondo") == 0,
                "NaN logits '%s': exit 3, the first position, no file", ways[i]))
            diag("exit %d, %d files: %s", code, files_like("logits"), program_err);
    }
    is_int(rondo("echo 2 3 4 5 6 7 9 |", "score -m . --ids -"), 3, "also where only the last row has them");
    ok(strstr(program_err, "position 6 ") != NULL, "at that position");
    is_int(rondo("echo 2 3 4 5 6 7 9 |", "score -m . --ids - --limit 6"), 0, "unless --limit leaves it out");
    const char *mpirun = getenv("MPIRUN");
    if (mpirun && *mpirun) {
        char before[1100];
        snprintf(before, sizeof before, "echo 2 3 4 5 9 6 9 7 8 | %s -n 3", mpirun);
        const int code = rondo(before, "score -m . --ids - --logits logits");
        const char *said = strstr(program_err, "rondo: ");
        if (!ok(code == 3 && said && strstr(said, "position 4 ") && !strstr(said + 1, "rondo: ") && files_like("logits") == 0 && files_like(".rondo") == 0,
                "3 MPI processes: the same"))
            diag("exit %d, %d files: %s", code, files_like("logits"), program_err);
    } else {
        skip(1, "no mpirun");
    }
    scratch_clear();
}

/* Processor time of all programs that were run so far. */
static double spent(void)
{
    struct rusage u;
    getrusage(RUSAGE_CHILDREN, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + 1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

/* Until process $id is at its output file, which has no name or one beside the place. */
#define AT_ITS_FILE "until ls -l /proc/$id/fd 2>/dev/null | grep -q '/#[0-9]* (deleted)' || ls .rondo.* >/dev/null 2>&1 || ! kill -0 $id; do sleep 0.02; done; "

/* While the logits are written a signal waits until they have ended in order, which is soon, also before the first row; the exit code is that of
 * the signal all the same. Nothing stays, and an older file stays as it is; what is killed outright leaves nothing either, if its file has no
 * name (`names`: there are no such files). A process that another (mpirun) kills soon after its signal is one that stands still meanwhile: here
 * by a second signal. (A shell's background job ignores SIGINT.) */
static void interrupted(int names)
{
    static const struct {
        const char *name, *kill;
        int code;
    } signals[] = { { "TERM", "kill -TERM $id", 143 }, { "HUP", "kill -HUP $id", 129 }, { "TERM twice", "kill -STOP $id; kill -TERM $id; kill -HUP $id; kill -CONT $id", 0 },
                    { "KILL", "kill -KILL $id", 137 } };
    const char *top = getenv("srcdir");
    double begin = spent();
    rondo("", "score -m '%s' --ids '%s/t/golden/kjv/mark.ids' --isa scalar --threads 1 --limit 256", model, top ? top : ".");
    const double part = spent() - begin;
    for (int i = 0; i < 4 - names; i++) {
        begin = spent();
        const int code = rondo("echo old >slow;", "score -m '%s' --ids '%s/t/golden/kjv/mark.ids' --isa scalar --threads 1 --logits slow & id=$!; "
                               AT_ITS_FILE "%s; wait $id", model, top ? top : ".", signals[i].kill);
        char *old = scratch_read(scratch_path("slow"), NULL);
        const int soft = i < 2;
        if (!ok((code == signals[i].code || (!signals[i].code && (code == 143 || code == 129))) && (!soft || (one_sentence() && strstr(program_err, "interrupted"))) &&
                !strcmp(old, "old\n") && files_like(".rondo") == 0, "SIG%s while logits are written: exit %d, %sno file%s", signals[i].name, code,
                soft ? "one sentence, " : "", names ? ", which had a name" : ""))
            diag("exit %d, %d files: %s", code, files_like(".rondo"), program_err);
        free(old);
        const double took = spent() - begin;
        ok(took < part, "... and at once: %.2f s, and %.2f s for an eighth of the text", took, part);
    }
}

/* The numbers of "N prompt tokens ... M new tokens" on stderr. */
static int summary(long long *prompt, long long *made)
{
    const char *line = strstr(program_err, "rondo: "), *new = line ? strstr(line, ", ") : NULL;
    return line && new && sscanf(line, "rondo: %lld prompt token", prompt) == 1 && sscanf(new, ", %lld new token", made) == 1;
}

static void counting(void)
{
    for (int n = 1; n <= 3; n += 2) {
        long long prompt = 0, made = 0;
        rondo("", "generate -m '%s' -p Behold -p 'In those days' -n %d", model, n);
        ok(summary(&prompt, &made) && made == 2 * n && prompt > 2, "-n %d, two prompts: %lld new tokens", n, made);
        rondo("", "generate -m '%s' -p Behold -n %d --json", model, n);
        json_t *r = program_json(), *decode = json_object_get(r, "decode");
        const char *algorithm = json_string_value(json_object_get(decode, "algorithm"));
        ok(json_integer_value(json_object_get(decode, "tokens")) == n && json_number_value(json_object_get(decode, "seconds")) > 0, "-n %d in the report", n);
        ok(algorithm && !strcmp(algorithm, n == 1 ? "none" : "pass-q"), "and what ran: %s", algorithm ? algorithm : "?");
        json_decref(r);
    }
}

static void choosing(void)
{
    char greedy[64];
    rondo("", "generate -m '%s' -p 'And it came to pass' -n 20 --json", model);
    snprintf(greedy, sizeof greedy, "%s", program_text("hash"));
    rondo("", "generate -m '%s' -p 'And it came to pass' -n 20 --json --temperature 3 --top-p 0", model);
    ok(strlen(greedy) == 16 && !strcmp(program_text("hash"), greedy), "--top-p 0 keeps the likeliest token only");
    rondo("", "generate -m '%s' -p 'And it came to pass' -n 20 --json --temperature 3 --top-p 1", model);
    ok(strcmp(program_text("hash"), greedy) != 0, "--top-p 1 keeps all");
    char all[64];
    snprintf(all, sizeof all, "%s", program_text("hash"));
    rondo("", "generate -m '%s' -p 'And it came to pass' -n 20 --json --temperature 3", model);
    ok(!strcmp(program_text("hash"), all), "as without the option");
}

static long long prompt_tokens(void)
{
    json_t *r = program_json(), *n = json_object_get(r, "prompt_tokens");
    const long long count = json_is_integer(n) ? json_integer_value(n) : -1;
    json_decref(r);
    return count;
}

static void reading(void)
{
    char plain[64];
    for (int i = 0; i < 2; i++) {
        is_int(rondo("printf 'God \\377 and' >bad; printf 'God \\357\\277\\275 and' >good;", i ? "generate -m '%s' -f bad -n 2" : "score -m '%s' -f bad", model), 3,
               "%s: invalid UTF-8 is refused", i ? "generate" : "score");
        ok(one_sentence() && strstr(program_err, "bad: ") && strstr(program_err, "byte 4") && strstr(program_err, "--lossy"),
           "with file, byte and way out: %.100s", program_err);
        rondo("", i ? "generate -m '%s' -f good -n 2 --json" : "score -m '%s' -f good --json", model);
        snprintf(plain, sizeof plain, "%s", program_text("hash"));
        rondo("", i ? "generate -m '%s' -f bad -n 2 --json --lossy" : "score -m '%s' -f bad --json --lossy", model);
        ok(strlen(plain) == 16 && !strcmp(program_text("hash"), plain), "--lossy reads it as with U+FFFD");
    }
    is_int(rondo("", "score -m '%s' --ids good --lossy", model), 2, "--lossy is not for ids");
    rondo("", "generate -m '%s' -p '<s>God' -n 1 --json", model);
    const long long special = prompt_tokens();
    rondo("", "generate -m '%s' -p '<s>God' -n 1 --json --plain", model);
    const long long spelled = prompt_tokens();
    ok(special > 0 && spelled > special, "--plain: a special token that is spelled is text (%lld, %lld tokens)", special, spelled);
    rondo("printf '<s>God' |", "tokenize -m '%s' --plain --json", model);
    json_t *r = program_json();
    is_int(json_integer_value(json_object_get(r, "tokens")), spelled, "tokenize --plain shows them");
    json_decref(r);
    is_int(rondo("echo 1 |", "tokenize -m '%s' --decode --plain", model), 2, "--plain is not for --decode");
}

/* Prompts of ids, with and without a tokenizer, and what --logprobs adds. */
static void from_ids(void)
{
    struct kit_config c = kit_defaults("llama");
    kit_free(kit_folder(&c, 6));
    is_int(rondo("echo 2 3 4 5 6 |", "generate -m . --prompt-ids - -n 4 --ignore-eos"), 0, "generate --prompt-ids from a folder without tokenizer.json");
    int ids[4];
    ok(sscanf(program_out, "%d %d %d %d", ids, ids + 1, ids + 2, ids + 3) == 4, "prints ids");
    char *first = strdup(program_out);
    is_int(rondo("echo 2 3 4 5 6 |", "generate -m . --prompt-ids - -n 4 --ignore-eos --tp 3 --cp 2 --spread yes"), 0, "on tp x cp ranks");
    ok(first && !strcmp(first, program_out), "the same");
    scratch_text("tokenizer.json", "{\"model\": {\"type\": \"Unigram\", \"vocab\": []}}");
    is_int(rondo("echo 2 3 4 5 6 |", "generate -m . --prompt-ids - -n 4 --ignore-eos"), 3, "a tokenizer of a kind unknown");
    is_int(rondo("echo 2 3 4 5 6 |", "generate -m . --prompt-ids - -n 4 --ignore-eos --ids"), 0, "is not read from ids to ids");
    ok(first && !strcmp(first, program_out), "and they are the same");
    (void)unlink(scratch_path("tokenizer.json"));
    free(first);
    is_int(rondo("echo 2 x |", "generate -m . --prompt-ids - -n 4"), 3, "what is no id");
    ok(one_sentence() && strstr(program_err, "byte 2") != NULL, "is named with its place");
    is_int(rondo("echo 2 3 67 >many; echo 2 >few;", "generate -m . --prompt-ids few --prompt-ids many -n 4 --cp 2"), 3, "an id that the model has not");
    ok(one_sentence() && strstr(program_err, "many: ") && strstr(program_err, "id 67 at place 2") && strstr(program_err, "below 67"),
       "with its file and place: %.100s", program_err);
    is_int(rondo("true |", "generate -m . --prompt-ids - -n 4"), 3, "no ids at all");
    ok(one_sentence() && strstr(program_err, "stdin gives no token"), "from where: %.100s", program_err);
    is_int(rondo("echo 2 3 |", "generate -m . --prompt-ids - -n 4 --stop x"), 3, "a stop text needs a tokenizer");
    is_int(rondo("echo 2 3 4 5 6 |", "generate -m . --prompt-ids - -n 4 --ignore-eos --json --logprobs 2"), 0, "--logprobs");
    json_t *r = program_json(), *list = json_object_get(r, "logprobs");
    double worst = 0;
    int right = json_array_size(list) == 4;
    for (size_t i = 0; i < json_array_size(list); i++) {
        json_t *one = json_array_get(list, i), *top = json_object_get(one, "top");
        const double own = json_number_value(json_object_get(one, "logprob")), best = json_number_value(json_object_get(json_array_get(top, 0), "logprob"));
        right = right && json_array_size(top) == 2 && own == best && own < 0 &&
                json_integer_value(json_object_get(one, "token")) == json_integer_value(json_array_get(json_object_get(r, "tokens"), i)) &&
                best >= json_number_value(json_object_get(json_array_get(top, 1), "logprob"));
        worst = own < worst ? own : worst;
    }
    ok(right && worst > -5, "has each token's, which is the likeliest where the draw is greedy");
    json_decref(r);
}

int main(void)
{
    const char *top = getenv("srcdir");
    if (!getenv("RONDO") || !*getenv("RONDO"))
        return skip_all("the program was not built");
    snprintf(model, sizeof model, "%s/examples/kjv", top ? top : ".");
    if (access(model, R_OK))
        return skip_all("no model lies in %s", model);
    scratch_make("7031-model-options");
    without_tokenizer();
    from_ids();
    interrupted(0);
    counting();
    choosing();
    reading();
    if (nameless_refuse())
        interrupted(1);
    else
        skip(6, "files without a name cannot be refused here");
    scratch_remove();
    return done();
}
