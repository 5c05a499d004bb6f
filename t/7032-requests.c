/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo generate --requests: requests join a batch that runs, each with the bits that it has alone; lines that are none hurt nobody; ranks do not
 * take a silent input, or a reader that is late, for a rank that is lost.
 */
#include "program.h"
#include "lm_kit.h"

static char model[1024];

/* What the last run said: its lines as JSON. */
static json_t *said;

static int read_lines(const char *text)
{
    int good = 1;
    json_decref(said);
    said = json_array();
    for (const char *line = text, *end; *line; line = end + 1) {
        end = strchr(line, '\n');
        json_t *one = end ? json_loadb(line, (size_t)(end - line), JSON_REJECT_DUPLICATES, NULL) : NULL;
        good = good && one;
        if (one)
            json_array_append_new(said, one);
        if (!end)
            break;
    }
    return good;
}

/* The answer, or what else has `key`, to the request of a line; NULL: none. */
static json_t *found(int line, const char *key)
{
    size_t i;
    json_t *one;
    json_array_foreach(said, i, one) {
        if (json_integer_value(json_object_get(one, "line")) == line && json_object_get(one, key))
            return one;
    }
    return NULL;
}

static const char *hash_of(int line)
{
    return text_of(found(line, "hash"), "hash");
}

static const char *message_of(int line)
{
    return text_of(json_object_get(found(line, "error"), "error"), "message");
}

/* How many lines have a key. */
static int lines_with(const char *key)
{
    size_t i;
    json_t *one;
    int n = 0;
    json_array_foreach(said, i, one) {
        n += json_object_get(one, key) != NULL;
    }
    return n;
}

/* Requests that other tests repeat, and the hashes of the same prompts alone. */
static const struct {
    const char *line, *options;
} cases[] = {
    { "{\"id\": \"a\", \"prompt\": \"And it came to pass\", \"n\": 30}", "-p 'And it came to pass' -n 30" },
    { "{\"prompt\": \"In those days\", \"n\": 9, \"temperature\": 0.8, \"top_k\": 40, \"top_p\": 0.9, \"min_p\": 0.01, \"repetition_penalty\": 1.2,"
      " \"seed\": \"18446744073709551615\"}",
      "-p 'In those days' -n 9 --temperature 0.8 --top-k 40 --top-p 0.9 --min-p 0.01 --repetition-penalty 1.2 --seed 18446744073709551615" },
    { "{\"id\": 2.5, \"prompt\": \"\\u0042ehold\", \"n\": 40, \"stop\": [\"zzz\", \"the\"], \"ignore_eos\": true, \"seed\": null}",
      "-p Behold -n 40 --stop zzz --stop the --ignore-eos" },
    { "{\"id\": \"a\", \"ids\": [3, 4, 5, 6, 7], \"n\": 5, \"top_p\": 0, \"temperature\": 3, \"stop\": []}", "--prompt-ids some.ids -n 5 --temperature 3 --top-p 0" },
};
enum { CASES = sizeof cases / sizeof *cases };
static char alone[CASES][32], texts[CASES][256];

static void run_alone(void)
{
    scratch_text("some.ids", "3 4 5 6 7\n");
    FILE *f = fopen(scratch_path("asked"), "w");
    for (int i = 0; i < CASES; i++) {
        rondo("", "generate -m '%s' %s --json", model, cases[i].options);
        snprintf(alone[i], sizeof alone[i], "%s", program_text("hash"));
        snprintf(texts[i], sizeof texts[i], "%s", program_text("text"));
        if (f)
            fprintf(f, "%s\n", cases[i].line);
    }
    if (!f || fclose(f))
        scratch_die("asked");
}

static void same_as_alone(const char *how, int code, int errors)
{
    int same = 0;
    const int good = read_lines(program_out);
    for (int i = 0; i < CASES; i++)
        same += strlen(alone[i]) == 16 && !strcmp(hash_of(i + 1), alone[i]) && !strcmp(text_of(found(i + 1, "hash"), "text"), texts[i]);
    if (!ok(code == (errors ? 3 : 0) && good && same == CASES && lines_with("error") == errors, "%s: texts and hashes of each prompt alone", how))
        diag("exit %d, %d of %d; %.300s %.300s", code, same, (int)CASES, program_err, program_out);
}

static void answering(void)
{
    same_as_alone("a file", rondo("", "generate -m '%s' --requests asked", model), 0);
    json_t *a = found(1, "hash"), *b = found(2, "hash"), *c = found(3, "hash");
    ok(!strcmp(text_of(a, "id"), "a") && json_integer_value(json_object_get(b, "id")) == 2 && json_number_value(json_object_get(c, "id")) > 2.4 &&
       !strcmp(text_of(found(4, "hash"), "id"), "a"), "ids come back, two may be the same, one that is missing is the line's number");
    ok(json_array_size(json_object_get(a, "tokens")) == 30 && !strcmp(text_of(a, "finish"), "length") && !strcmp(text_of(c, "finish"), "stop") &&
       json_integer_value(json_object_get(a, "prompt_tokens")) > 2, "tokens, finish, prompt_tokens");
    const double first = json_number_value(json_object_get(a, "ttft_seconds")), all = json_number_value(json_object_get(a, "seconds"));
    ok(first > 0 && all > first, "seconds to the first token (%g) and in all (%g)", first, all);
    ok(json_integer_value(json_object_get(json_array_get(said, 3), "line")) == 1, "who asked for most is answered last");
    same_as_alone("one at a time", rondo("cat asked |", "generate -m '%s' --requests - --batch 1", model), 0);
    int order = 1;
    for (int i = 0; i < CASES; i++)
        order = order && json_integer_value(json_object_get(json_array_get(said, (size_t)i), "line")) == i + 1;
    ok(order, "in their order");
    same_as_alone("4 ranks", rondo("", "generate -m '%s' --requests asked --tp 2 --cp 2 --spread yes", model), 0);
    rondo("", "generate -m '%s' --requests asked --json --stream --logprobs 2 --batch 2", model);
    ok(read_lines(program_out) && lines_with("requests") == 1, "--json: the report is a line too");
    const json_t *last = json_array_get(said, json_array_size(said) - 1);
    ok(json_integer_value(json_object_get(last, "requests")) == CASES && json_integer_value(json_object_get(last, "refused")) == 0 &&
       strlen(text_of(last, "hash")) == 16 && json_object_get(last, "comm"), "and the last");
    char joined[256] = "";
    int tokens = 0;
    size_t i;
    json_t *one;
    json_array_foreach(said, i, one) {
        const int event = json_object_get(one, "token") && json_integer_value(json_object_get(one, "line")) == 1;
        tokens += event && json_array_size(json_object_get(json_object_get(one, "logprobs"), "top")) == 2;
        if (event)
            snprintf(joined + strlen(joined), sizeof joined - strlen(joined), "%s", text_of(one, "text"));
    }
    ok(tokens == 30 && !strcmp(joined, texts[0]), "--stream: a line for each token, whose texts are the answer's");
    ok(json_array_size(json_object_get(found(1, "hash"), "logprobs")) == 30, "--logprobs");
}

/* While a long prompt is read, a chunk at a time, the others go on. */
static void taking_turns(void)
{
    char asked[1024];
    snprintf(asked, sizeof asked, "{\"prompt\": \"Behold\", \"n\": 12, \"ignore_eos\": true}\n{\"prompt\": \"%*sBehold\", \"n\": 2}\n", 300, "");
    scratch_text("turns", asked);
    const int code = rondo("", "generate -m '%s' --requests turns --stream --chunk 50", model);
    int before = 0;
    read_lines(program_out);
    while (json_integer_value(json_object_get(json_array_get(said, (size_t)before), "line")) == 1)
        before++;
    const long long count = json_integer_value(json_object_get(found(2, "hash"), "prompt_tokens"));
    ok(code == 0 && count > 300 && before == (count + 49) / 50, "a prompt of %lld tokens in chunks of 50: %d tokens of another before its first", count, before);
}

/* Lines that are no requests, among some that are. */
static void damaged(void)
{
    static const struct {
        const char *line, *says;
    } bad[] = {
        { "nonsense", "JSON" },
        { "{\"prompt\": \"a", "JSON" },
        { "{\"prompt\": \"God \xff and\"}", "JSON" },
        { "{\"prompt\": \"a\", \"prompt\": \"b\"}", "duplicate" },
        { "{\"prompt\": \"a\"} {}", "JSON" },
        { "[1, 2]", "an array" },
        { "7", "7" },
        { "{}", "neither prompt nor ids" },
        { "{\"prompt\": \"a\", \"ids\": [1]}", "both" },
        { "{\"prompt\": 5}", "prompt is 5" },
        { "{\"ids\": [1, 2048]}", "ids has 2048 at place 1; whole numbers from 0 to 2047" },
        { "{\"ids\": [1, 1.5]}", "ids has 1.5 at place 1" },
        { "{\"ids\": []}", "ids gives no token" },
        { "{\"ids\": \"1 2\"}", "ids is \"1 2\"" },
        { "{\"id\": [1], \"prompt\": \"a\"}", "id is an array" },
        { "{\"prompt\": \"a\", \"n\": 0}", "n is 0; a whole number from 1" },
        { "{\"prompt\": \"a\", \"n\": 1.0}", "n is 1.0" },
        { "{\"prompt\": \"a\", \"n\": 1e13}", "n is " },
        { "{\"prompt\": \"a\", \"temperature\": -1}", "temperature is -1" },
        { "{\"prompt\": \"a\", \"temperature\": 1e-9}", "temperature is 1" },
        { "{\"prompt\": \"a\", \"top_p\": 1.5}", "top_p is 1.5" },
        { "{\"prompt\": \"a\", \"min_p\": \"x\"}", "min_p is \"x\"" },
        { "{\"prompt\": \"a\", \"top_k\": -1}", "top_k is -1" },
        { "{\"prompt\": \"a\", \"repetition_penalty\": 0}", "repetition_penalty is 0" },
        { "{\"prompt\": \"a\", \"seed\": -1}", "seed is -1" },
        { "{\"prompt\": \"a\", \"seed\": \"0x1\"}", "seed is \"0x1\"" },
        { "{\"prompt\": \"a\", \"stop\": \"\"}", "stop is \"\"" },
        { "{\"prompt\": \"a\", \"stop\": [\"b\", 1]}", "stop is 1" },
        { "{\"prompt\": \"a\", \"stop\": \"b\\u0000c\"}", "stop is" },
        { "{\"prompt\": \"a\", \"ignore_eos\": 1}", "ignore_eos is 1" },
        { "{\"prompt\": \"a\", \"temprature\": 1}", "did you mean temperature?" },
        { "{\"id\": \"mine\", \"prompt\": \"a\", \"n\": true}", "n is true" },
    };
    enum { BAD = sizeof bad / sizeof *bad };
    FILE *f = fopen(scratch_path("mixed"), "w");
    for (int i = 0; f && i < CASES; i++)
        fprintf(f, "%s\n", cases[i].line);
    if (f)
        fprintf(f, "\n \t\r\n");
    for (int i = 0; f && i < BAD; i++)
        fprintf(f, "%s\n", bad[i].line);
    /* a million characters; no end of a line behind the last one */
    const int first = CASES + 3, many = first + BAD, last = many + 1;
    if (f)
        fprintf(f, "{\"prompt\": \"a\", \"what\": \"%01000000d\"}\n{\"prompt\": \"%*sBehold\", \"n\": 1}", 0, 300, "");
    if (!f || fclose(f))
        scratch_die("mixed");
    same_as_alone("the same among damaged lines", rondo("", "generate -m '%s' --requests mixed --quiet", model), BAD + 1);
    ok(one_sentence() && strstr(program_err, "33 of 38 requests were refused, the first in line 7: ") != NULL, "exit 3, and a sentence: %.120s", program_err);
    for (int i = 0; i < BAD; i++)
        ok(strstr(message_of(first + i), bad[i].says) != NULL, "%.60s: %.90s", bad[i].line, message_of(first + i));
    json_t *error = json_object_get(found(many - 1, "error"), "error");
    ok(!strcmp(text_of(found(many - 1, "error"), "id"), "mine") && !strcmp(text_of(error, "code"), "RONDO_EINVAL") && !json_object_get(found(first, "error"), "id"),
       "an id that is known comes back, with a code");
    ok(strstr(message_of(many), "no field 'what'") != NULL, "a line of a million characters: %.60s", message_of(many));
    ok(json_integer_value(json_object_get(found(last, "hash"), "prompt_tokens")) > 300, "a last line without an end");

    scratch_text("byte", "God \xff and");
    rondo("", "generate -m '%s' -f byte -n 2 --json --lossy", model);
    char want[32];
    snprintf(want, sizeof want, "%s", program_text("hash"));
    scratch_text("lossy", "{\"prompt\": \"God \xff and\", \"n\": 2}\n");
    is_int(rondo("", "generate -m '%s' --requests lossy --lossy", model), 0, "--lossy takes what is no UTF-8");
    ok(read_lines(program_out) && strlen(want) == 16 && !strcmp(hash_of(1), want), "as elsewhere");
}

/* Ids alone, where a folder has no tokenizer; the memory that keys and values may take. */
static void without_words(void)
{
    struct kit_config c = kit_defaults("llama");
    kit_free(kit_folder(&c, 6));
    is_int(rondo("echo 2 3 4 5 6 |", "generate -m . --prompt-ids - -n 4 --ignore-eos --json"), 0, "a folder without tokenizer.json");
    char want[32];
    snprintf(want, sizeof want, "%s", program_text("hash"));
    is_int(rondo("echo '{\"ids\": [2,3,4,5,6]}' |", "generate -m . --requests - -n 4 --ignore-eos"), 0, "requests to it");
    ok(read_lines(program_out) && !strcmp(hash_of(1), want) && !json_object_get(found(1, "hash"), "text"), "the same hash, and no text");
    is_int(rondo("echo '{\"prompt\": \"a\"}' |", "generate -m . --requests -"), 3, "text is refused");
    read_lines(program_out);
    ok(strstr(message_of(1), "give ids") != NULL, "by name: %.90s", message_of(1));
    is_int(rondo("echo '{\"ids\": [2], \"stop\": \"a\"}' |", "generate -m . --requests - -n 4"), 3, "and stop texts");
    is_int(rondo("i=0; { printf '{\"ids\":[2'; while [ $i -lt 7 ]; do printf %050000d 0 | sed 's/0/,2/g'; i=$((i + 1)); done; echo ']}'; echo '{\"ids\":[2,3,4,5,6]}'; } >large; "
                 "ulimit -v 200000;", "generate -m . --requests large -n 4 --ignore-eos --threads 1"), 4, "keys and values that memory cannot hold: exit 4");
    read_lines(program_out);
    ok(strstr(message_of(1), "its 350001 tokens are more than the ") && !strcmp(hash_of(2), want), "said of the one that is too long: %.80s",
       message_of(1));
    scratch_clear();
}

/* A shell's way to wait until what was said has something. */
#define WAIT_FOR "seen() { i=0; until grep -q \"$1\" stdout || [ $i = 800 ]; do sleep 0.02; i=$((i + 1)); done; }; "
#define LONG "{\"id\": \"long\", \"prompt\": \"And God said\", \"n\": 1500, \"ignore_eos\": true}"
#define LATE "{\"id\": \"late\", \"prompt\": \"Behold\", \"n\": 3}"

/* The late one came when the long one ran, and was through before it. */
static void joined(const char *how, int code, char hashes[2][32])
{
    const int good = read_lines(program_out);
    int began = 0, ended = 0, place = 0;
    size_t i;
    json_t *one;
    json_array_foreach(said, i, one) {
        const int late = !strcmp(text_of(one, "id"), "late");
        place++;
        began = late && !began ? place : began;
        ended = !late && json_object_get(one, "hash") ? place : ended;
    }
    if (!ok(code == 0 && good && began > 1 && ended > began + 3 && !strcmp(hash_of(1), hashes[0]) && !strcmp(hash_of(2), hashes[1]),
            "%s: a request joins while another runs; both with the hashes that they have alone", how))
        diag("exit %d, lines %d and %d of %d: %.300s", code, began, ended, place, program_err);
}

static void joining(void)
{
    char hashes[2][32];
    rondo("", "generate -m '%s' -p 'And God said' -n 1500 --ignore-eos --json", model);
    snprintf(hashes[0], sizeof hashes[0], "%s", program_text("hash"));
    rondo("", "generate -m '%s' -p Behold -n 3 --json", model);
    snprintf(hashes[1], sizeof hashes[1], "%s", program_text("hash"));
    const char *feed = WAIT_FOR "feed() { echo '" LONG "'; seen token; printf '%.9s' '" LATE "'; sleep 0.05; printf '%s\\n' '" LATE "' | tail -c +10; seen late.*hash; }; ";
    char before[2048];
    snprintf(before, sizeof before, "%s mkfifo ask; { sleep 1; feed; } >ask & RONDO_DEADLINE=0.4", feed);
    joined("a FIFO, 2 ranks that wait for a line longer than for each other", rondo(before, "generate -m '%s' --requests ask --stream --tp 2; code=$?; rm ask; exit $code", model),
           hashes);
    const char *mpirun = getenv("MPIRUN");
    if (mpirun && *mpirun) {
        snprintf(before, sizeof before, "%s { sleep 2; feed; } | RONDO_DEADLINE=1.5 %s -n 2", feed, mpirun);
        joined("a pipe, 2 MPI processes", rondo(before, "generate -m '%s' --requests - --stream", model), hashes);
    } else {
        skip(1, "no mpirun");
    }
    /* who reads the answers is late: the batch waits, and no rank does */
    scratch_text("much", LONG "\n" LONG "\n" LATE "\n");
    const int code = rondo("{ RONDO_DEADLINE=0.4", "generate -m '%s' --requests much --tp 2 --stream --logprobs 12; echo $? >code; } | { sleep 1; grep '\"hash\"' | sed 's/,\"logprobs.*/}/'; }; "
                           "exit $(cat code)", model);
    if (!ok(code == 0 && read_lines(program_out) && !strcmp(hash_of(1), hashes[0]) && !strcmp(hash_of(2), hashes[0]) && !strcmp(hash_of(3), hashes[1]),
            "a reader that is late is waited for"))
        diag("exit %d: %.300s %.300s", code, program_err, program_out);
}

static void interrupted(void)
{
    const int code = rondo(WAIT_FOR "mkfifo ask; { echo '{\"id\": 7, \"prompt\": \"Behold\", \"n\": 30000, \"ignore_eos\": true}'; seen token; kill -TERM $(cat id); sleep 0.3; } >ask & "
                           "sh -c 'echo $$ >id; exec \"$@\"' sh", "generate -m '%s' --requests ask --stream --tp 2", model);
    const int good = read_lines(program_out);
    const json_t *last = json_array_get(said, json_array_size(said) - 1);
    if (!ok(code == 143 && good && one_sentence() && strstr(program_err, "interrupted") && json_integer_value(json_object_get(last, "id")) == 7 &&
            !strcmp(text_of(json_object_get(last, "error"), "code"), "RONDO_ECANCELED"), "SIGTERM: exit 143, whole lines, and the one that ran is told"))
        diag("exit %d, whole lines %d: %.300s, the last about %s", code, good, program_err, text_of(json_object_get(last, "error"), "message"));
    scratch_clear();
}

static void options(void)
{
    char line[1200];
    static const struct {
        const char *options, *word;
        int code;
    } wrong[] = { { "--requests asked -p a", "--requests asked", 2 }, { "-p a --batch 2", "--batch", 2 }, { "--requests asked --batch 0", "--batch 0", 2 },
                  { "--requests asked --ids --stop a", "--stop", 2 }, { "--requests nowhere", "nowhere cannot be read", 3 }, { "--requests .", ". cannot be read", 3 },
                  { "--requests asked >/dev/full", "stdout cannot be written", 4 } };
    scratch_text("asked", LATE "\n");
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        if (strstr(wrong[i].options, "/dev/full") && access("/dev/full", W_OK)) {
            skip(1, "no /dev/full");
            continue;
        }
        snprintf(line, sizeof line, "generate -m '%s' %s", model, wrong[i].options);
        refuses(wrong[i].code, wrong[i].word, line);
    }
    is_int(rondo("", "generate -m '%s' --requests /dev/null", model), 0, "no request at all is none that failed");
}

int main(void)
{
    const char *top = getenv("srcdir");
    if (!getenv("RONDO") || !*getenv("RONDO"))
        return skip_all("the program was not built");
    snprintf(model, sizeof model, "%s/examples/kjv", top ? top : ".");
    if (access(model, R_OK))
        return skip_all("no model lies in %s", model);
    scratch_make("7032-requests");
    run_alone();
    answering();
    taking_turns();
    damaged();
    joining();
    interrupted();
    without_words();
    options();
    json_decref(said);
    scratch_remove();
    return done();
}
