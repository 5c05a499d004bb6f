/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What the program says about a model's folder short of refusing it: the libraries' warnings, one line each on stderr, from one
 * rank, once, unless --quiet. And that such folders run.
 */
#include "program.h"

#include "lm_kit.h"

static int lines_with(const char *word)
{
    int n = 0;
    for (char *line = program_err, *end; (end = strchr(line, '\n')) != NULL; line = end + 1) {
        *end = 0;
        n += !strncmp(line, "rondo: warning: ", 16) && strstr(line, word);
        *end = '\n';
    }
    return n;
}

int main(void)
{
    const char *mpirun = getenv("MPIRUN");
    if (!getenv("RONDO") || !*getenv("RONDO"))
        return skip_all("the program was not built");
    scratch_make("7035-folders");
    struct kit_config c = kit_defaults("a folder");
    struct kit_model *m = kit_make(&c, 5);
    uint64_t seed = 1;
    kit_add(m, &seed, "vision_tower.weight", 3, 0, 0.0, 1.0);
    kit_write_config(&c);
    kit_write_weights(m, NULL);
    char *config = scratch_read(scratch_path("config.json"), NULL), *more = malloc(strlen(config) + 100);
    if (!more)
        scratch_die("no memory");
    sprintf(more, "{\"qk_scale\": 2, %s", config + 1);
    scratch_text("config.json", more);
    scratch_text("tokenizer.json", "{\"decoder\":{\"type\":\"Fuse\"},\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":2,\"b\":3,\"c\":40},\"merges\":[]}}");
    scratch_text("tokenizer_config.json", "{\"add_bos_token\":true,\"model_max_length\":1000000000000000019884624838656}");

    is_int(rondo("", "generate -m . -p a -p b -n 5 --ignore-eos --cp 2"), 0, "generate runs");
    const int all = lines_with("qk_scale") == 1 && lines_with("vision_tower.weight") == 1 && lines_with("add_bos_token") == 1;
    if (!ok(all && lines_with("") == 3, "and tells of a field, a tensor and a wish that have no effect"))
        diag("%s", program_err);
    is_int(rondo("", "generate -m . -p a -n 5 --quiet"), 0, "with --quiet too");
    ok(!program_err[0], "and then nothing is said: %s", program_err);
    is_int(rondo("", "generate -m . -p a -n 5 --ids --ignore-eos --json"), 0, "with --json");
    ok(lines_with("") == 3, "stderr is as without");
    json_decref(program_json());
    is_int(rondo("", "info -m ."), 0, "info");
    ok(lines_with("") == 3, "tells them");
    is_int(rondo("echo abab |", "tokenize -m . --lossy"), 0, "tokenize");
    ok(lines_with("") == 1 && lines_with("add_bos_token") == 1, "tells what it reads");
    is_int(rondo("echo 2 9 3 |", "tokenize -m . --decode"), 0, "an id without a token");
    ok(!strcmp(program_out, "ab"), "is no text: %s", program_out);
    if (mpirun && *mpirun) {
        char before[1024];
        snprintf(before, sizeof before, "%s -n 2", mpirun);
        is_int(rondo(before, "generate -m . -p a -n 5 --ignore-eos"), 0, "on two processes");
        ok(lines_with("") == 3, "each is told once: %s", program_err);
    } else {
        skip(2, "no mpirun");
    }
    free(more);
    free(config);
    kit_free(m);
    scratch_remove();
    return done();
}
