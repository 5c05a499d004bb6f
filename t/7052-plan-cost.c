/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo plan cost: cases from a file and from stdin, the requirements' anchors in the report with a derivation of each number,
 * defaults that
 * are what they are said to be, and every field that is missing, unknown, contradictory or too large refused by its name.
 */
#include "program.h"

#define SHAPE "\"hidden_size\": 1024, \"num_heads\": 16, \"head_dim\": 64, \"batch_size\": 2, \"bytes_per_elem\": 2"
#define PREFILL "{ \"phase\": \"prefill\", \"seq_len\": 128, " SHAPE
#define DECODE "{ \"phase\": \"decode\", \"past_seq_len\": 128, \"new_tokens\": 1, " SHAPE

static int derived(const json_t *steps, const char *name, long long value)
{
    char begin[80], end[40];
    const json_t *step;
    size_t i;
    snprintf(begin, sizeof begin, "%s = ", name);
    snprintf(end, sizeof end, " = %lld", value);
    json_array_foreach(steps, i, step) {
        const char *text = json_string_value(step);
        if (text && !strncmp(text, begin, strlen(begin)) && strlen(text) > strlen(end) && !strcmp(text + strlen(text) - strlen(end), end))
            return 1;
    }
    return 0;
}

static void anchors(void)
{
    static const char *const names[] = { "num_chips", "flops_per_chip", "flops_total", "weight_memory_per_chip", "weight_memory_total",
                                         "activation_memory_per_chip", "activation_memory_total", "kv_cache_per_chip", "kv_cache_total",
                                         "communication_bytes" };
    static const struct {
        const char *name, *text;
        long long want[10];
    } rows[] = {
        { "Test 1", PREFILL " }", { 1, 2281701376, 2281701376, 8388608, 8388608, 2621440, 2621440, 1048576, 1048576, 0 } },
        { "Test 2", PREFILL ", \"tensor_parallel\": 4 }", { 4, 570425344, 2281701376, 2097152, 8388608, 1441792, 5767168,
                                                            262144, 1048576, 524288 } },
        { "Test 3", DECODE ", \"tensor_parallel\": 4 }", { 4, 4458496, 17833984, 2097152, 8388608, 11264, 45056, 264192, 1056768, 4096 } },
        { "CP-1", PREFILL ", \"context_parallel\": 4, \"algorithm\": \"kv-sharded\", \"softmax_stat_bytes\": 4 }",
          { 4, 570425344, 2281701376, 8388608, 33554432, 655360, 2621440, 262144, 1048576, 139264 } },
        { "CP-2", PREFILL ", \"context_parallel\": 4, \"algorithm\": \"kv-all-gather\", \"tensor_parallel\": 1 }",
          { 4, 570425344, 2281701376, 8388608, 33554432, 655360, 2621440, 262144, 1048576, 1048576 } },
        { "CP-3a", DECODE ", \"kv_len_used\": 128, \"context_parallel\": 4, \"algorithm\": \"kv-sharded\", \"projections\": [\"o\"] }",
          { 4, 4456448, 17825792, 8388608, 33554432, 8192, 32768, 262144, 1048576, 4352 } },
        { "CP-4",
          PREFILL ", \"context_parallel\": 4, \"tensor_parallel\": 4, \"algorithm\": \"kv-sharded\", "
                  "\"materialize_full_hidden_after_tp\": true }",
          { 16, 142606336, 2281701376, 2097152, 33554432, 360448, 5767168, 65536, 1048576, 165888 } },
        { "CP-5",
          DECODE ", \"kv_len_used\": 128, \"context_parallel\": 4, \"tensor_parallel\": 4, \"algorithm\": \"kv-sharded\", "
                 "\"projections\": [\"q\", \"o\"] }",
          { 16, 2162688, 34603008, 2097152, 33554432, 9216, 147456, 65536, 1048576, 5184 } },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        scratch_text("case.json", rows[i].text);
        const int code = rondo("", "plan cost -i case.json --json");
        json_t *r = program_json();
        const json_t *steps = json_object_get(r, "steps");
        int same = !code && r, told = 1;
        for (size_t k = 0; k < 10; k++) {
            const json_t *got = json_object_get(r, names[k]);
            same &= json_is_integer(got) && json_integer_value(got) == rows[i].want[k];
            told &= derived(steps, names[k], rows[i].want[k]);
        }
        ok(same, "%s", rows[i].name);
        ok(told, "and each number's derivation");
        json_decref(r);
    }
}

static long long value(const char *name, const char *text)
{
    scratch_text("case.json", text);
    const int code = rondo("", "plan cost --json --input case.json");
    json_t *r = code ? NULL : program_json();
    const long long n = r ? json_integer_value(json_object_get(r, name)) : -1;
    json_decref(r);
    return n;
}

static void readings(void)
{
    scratch_text("case.json", PREFILL " }");
    is_int(rondo("", "plan cost -i - <case.json"), 0, "from stdin, as lines");
    ok(strstr(program_out, "flops_total          2281701376\n") && strstr(program_out, "\n  flops_total = 536870912 + "),
       "with the derivation below");
    is_int(rondo("", "plan cost -i case.json --quiet"), 0, "quietly");
    ok(!program_out[0], "says nothing");
    is_int(value("communication_bytes", PREFILL ", \"tensor_parallel\": 4, \"materialize_full_hidden_after_tp\": false }"), 0,
           "chips that keep their share move nothing");
    is_int(value("kv_cache_total", PREFILL ", \"num_kv_heads\": 4 }"), 262144, "grouped heads");
    is_int(value("flops_total", PREFILL ", \"projections\": [], \"causal\": true }"), 2LL * 4 * 16 * 64 * (128 * 129 / 2),
           "causal, the core alone");
    is_int(value("flops_total", PREFILL ", \"projections\": [], \"window\": [0, 1] }"), 2LL * 4 * 16 * 64 * (128 + 127), "a window");
    is_int(value("flops_total", PREFILL ", \"projections\": [], \"window\": [-1, -1] }"), 2LL * 4 * 16 * 64 * 128 * 128, "an open one");
    is_int(value("flops_total",
                 "{ \"phase\": \"prefill\", \"new_tokens\": [3, 5], \"past_seq_len\": [10, 0], \"projections\": [], " SHAPE " }"),
           4LL * 16 * 64 * (3 * 13 + 5 * 5), "sequences of their own lengths");
    scratch_text("case.json", "{ \"phase\": \"prefill\", \"seq_len\": 10000000, \"batch_size\": 1, \"bytes_per_elem\": 2, \"causal\": true }");
    is_int(rondo("", "plan cost -i case.json -m llama-3.1-405b --json"), 0, "405B at 10 million tokens, beyond 63 bits");
    json_t *large = program_json();
    const char *exact = json_string_value(json_object_get(large, "flops_total_exact"));
    const double about = json_real_value(json_object_get(large, "flops_total"));
    ok(exact && strlen(exact) == 21 && strtod(exact, NULL) == about && about > 4.2e20 && about < 4.3e20, "%s FLOPs, as a number and as digits",
       exact ? exact : "no");
    json_decref(large);
    /* pass-KV of 512 tokens, 16 heads of 64, BF16, on 4 ranks with a leaf each: each sends its K and V three times. (Of 128
     * tokens one rank has
     * the only leaf, and nothing moves.) */
    const long long kv = 2LL * 128 * 16 * 64 * 2;
    is_int(value("communication_bytes",
                 "{ \"phase\": \"prefill\", \"seq_len\": 512, \"context_parallel\": 4, \"algorithm\": \"pass-kv\", "
                  "\"hidden_size\": 1024, \"num_heads\": 16, \"head_dim\": 64, "
                                        "\"batch_size\": 1, \"bytes_per_elem\": 2 }"), 3 * kv,
           "the payload of pass-KV");
    json_t *r = program_json(), *moved = json_object_get(r, "moved");
    is_int(json_integer_value(json_object_get(moved, "bytes_per_chip")), 3 * kv, "is what a run moves, where tokens are whole leaves");
    ok(json_integer_value(json_object_get(moved, "bytes")) == 4 * 3 * kv &&
       json_integer_value(json_object_get(moved, "context_bytes")) == 4 * 3 * kv &&
           json_integer_value(json_object_get(moved, "messages")) == 4 * 3 * 2 &&
               !strcmp(json_string_value(json_object_get(moved, "algorithm")), "pass-kv"),
       "each rank alike");
    json_decref(r);
    scratch_text("case.json", "{ \"phase\": \"prefill\", \"seq_len\": 8, \"hidden_size\": 8, \"num_heads\": 2, \"head_dim\": 4, "
               "\"batch_size\": 1, \"bytes_per_elem\": 1 }");
    rondo("", "plan cost -i case.json --json");
    r = program_json();
    ok(json_is_null(json_object_get(r, "moved")) && strstr(program_out, "bytes_per_elem 1"), "or why there is no such run");
    json_decref(r);
    scratch_text("case.json", PREFILL " }");
    refuses(2, "pigeons", "plan cost -i case.json --transport pigeons");
    is_int(rondo("", "plan cost -i case.json >/dev/full"), 4, "a full disk: %s", program_err);
}

/* A folder's shapes, and those of models known by name; a test may ask for parameters, which `rondo info` counts by itself. */
static void models(void)
{
    const char *folder = getenv("srcdir");
    char line[1200];
    scratch_text("case.json", "{ \"phase\": \"prefill\", \"seq_len\": 128, \"batch_size\": 1, \"bytes_per_elem\": 2, \"causal\": true }");
    snprintf(line, sizeof line, "info -m '%s/examples/kjv' --json", folder);
    rondo("", "%s", line);
    json_t *r = program_json();
    const long long parameters = json_integer_value(json_object_get(r, "parameters"));
    json_decref(r);
    is_int(rondo("", "plan cost -m '%s/examples/kjv' -i case.json --json", folder), 0, "a model folder");
    r = program_json();
    ok(parameters > 0 && json_integer_value(json_object_get(r, "parameters")) == parameters &&
           json_integer_value(json_object_get(r, "weight_memory_total")) == 2 * parameters, "has as many parameters as are counted");
    json_decref(r);
    static const struct {
        const char *name;
        long long parameters;
    } known[] = { { "mistral-7b", 7241732096 }, { "llama-3.1-8b", 8030261248 }, { "llama-3.1-70b", 70553706496 },
                  { "llama-3.1-405b", 405853388800 } };
    for (int i = 0; i < 4; i++) {
        rondo("", "plan cost -m %s -i case.json --json", known[i].name);
        r = program_json();
        is_int(json_integer_value(json_object_get(r, "parameters")), known[i].parameters, "%s", known[i].name);
        json_decref(r);
    }
    is_int(value("parameters", PREFILL ", \"num_layers\": 3, \"intermediate_size\": 4096, \"vocab_size\": 1000, \"norms_per_layer\": 2, "
                               "\"tie_word_embeddings\": true, \"qk_norm\": true, \"biases\": [\"q\", \"down\"], \"logits\": \"all\" }"),
           3LL * (4 * 1024 * 1024 + 3 * 1024 * 4096 + 2 * 1024 + 2 * 64 + 2 * 1024) + 1000 * 1024 + 1024, "or of fields");
    is_int(value("communication_bytes", PREFILL ", \"context_parallel\": 6, \"algorithm\": \"mesh\", \"grid\": [2, 3] }"),
           2LL * 22 * 1024 * 2 * 2 + 2LL * 2 * (2 * 22 * 1024 * 2) + 2LL * 2 * 22 * 16 * 4, "the payload of a mesh");
    is_int(value("communication_bytes", PREFILL ", \"context_parallel\": 4, \"algorithm\": \"halo\", \"window\": [5, 2] }"),
           2LL * 2 * 7 * 1024 * 2, "and of a halo");
    refuses(3, "hidden_size is given", "plan cost -m mistral-7b -i case.json");
    scratch_text("case.json", "{ \"phase\": \"prefill\", \"seq_len\": 128, \"batch_size\": 1, \"bytes_per_elem\": 2 }");
    refuses(3, "known by name", "plan cost -m no-such-model -i case.json");
    refuses(3, "config.json", "plan cost -m . -i case.json");
}

static void bad(const char *name, const char *text)
{
    scratch_text("case.json", text);
    refuses(3, name, "plan cost -i case.json");
}

/* A cache of q8 has a scale behind each row, which the derivation has too; a layout is that of the run. */
static void cache_and_layout(void)
{
    scratch_text("case.json", PREFILL ", \"kv_type\": \"q8\", \"context_parallel\": 2, \"algorithm\": \"pass-kv\", "
                 "\"layout\": \"striped\", \"causal\": true }");
    is_int(rondo("", "plan cost -i case.json --json"), 0, "a cache of q8, and a layout");
    json_t *r = program_json();
    const json_t *steps = json_object_get(r, "steps"), *step;
    const char *formula = "2 * keys_local * kv_heads_local * (head_dim + 4)";
    size_t i;
    int told = 0;
    json_array_foreach((json_t *)(uintptr_t)steps, i, step)
        told += strstr(json_string_value(step), formula) != NULL;
    ok(told == 2, "rows of a head have 4 bytes more, in the cache and round the ring");
    ok(!strcmp(json_string_value(json_object_get(json_object_get(r, "moved"), "layout")), "striped"), "what a run moves is that layout's");
    json_decref(r);
}

static void refusals(void)
{
    refuses(2, "no case", "plan cost");
    refuses(2, "--ranks", "plan cost -i case.json --ranks 3");
    refuses(3, "nowhere", "plan cost -i nowhere");
    refuses(3, "cannot be read", "plan cost -i .");
    bad("case.json", "{");
    bad("object", "[]");
    bad("duplicate", PREFILL ", \"phase\": \"decode\" }");
    bad("phase is missing", "{ " SHAPE ", \"seq_len\": 128 }");
    bad("num_heads is missing",
        "{ \"phase\": \"prefill\", \"hidden_size\": 8, \"head_dim\": 4, \"batch_size\": 1, \"bytes_per_elem\": 2, \"seq_len\": 128 }");
    bad("bytes_per_elem is missing",
        "{ \"phase\": \"prefill\", \"hidden_size\": 8, \"head_dim\": 4, \"batch_size\": 1, \"num_heads\": 2, \"seq_len\": 128 }");
    bad("seq_len is missing", "{ \"phase\": \"prefill\", " SHAPE " }");
    bad("new_tokens is missing", "{ \"phase\": \"decode\", " SHAPE ", \"past_seq_len\": 4 }");
    bad("seq_len", PREFILL ", \"new_tokens\": 4 }");
    bad("seq_len", "{ \"phase\": \"decode\", \"seq_len\": 128, " SHAPE " }");
    bad("phase", "{ \"phase\": \"train\", \"seq_len\": 128, " SHAPE " }");
    bad("num_chips", PREFILL ", \"num_chips\": 1 }");
    bad("did you mean context_parallel", PREFILL ", \"context_paralel\": 1 }");
    bad("num_kv_heads is 0", PREFILL ", \"num_kv_heads\": 0 }");
    bad("num_kv_heads is -4", PREFILL ", \"num_kv_heads\": -4 }");
    bad("num_kv_heads is 5", PREFILL ", \"num_kv_heads\": 5 }");
    bad("num_kv_heads is 2.5", PREFILL ", \"num_kv_heads\": 2.5 }");
    bad("num_kv_heads is no number", PREFILL ", \"num_kv_heads\": \"4\" }");
    bad("tensor_parallel is 17", PREFILL ", \"tensor_parallel\": 17 }");
    bad("context_parallel is 0", PREFILL ", \"context_parallel\": 0 }");
    bad("algorithm is none", PREFILL ", \"context_parallel\": 2 }");
    bad("algorithm takes", PREFILL ", \"algorithm\": \"ring\" }");
    bad("algorithm takes", PREFILL ", \"algorithm\": 4 }");
    bad("projections", PREFILL ", \"projections\": [\"q\", \"q\"] }");
    bad("projections", PREFILL ", \"projections\": [\"x\"] }");
    bad("projections", PREFILL ", \"projections\": \"q\" }");
    bad("causal takes", PREFILL ", \"causal\": 1 }");
    bad("window takes", PREFILL ", \"window\": [1] }");
    bad("window is -2", PREFILL ", \"window\": [-2, 3] }");
    bad("kv_len_used is 129", PREFILL ", \"kv_len_used\": 129 }");
    bad("grid takes", PREFILL ", \"context_parallel\": 4, \"algorithm\": \"mesh\", \"grid\": 4 }");
    bad("grid is 3, 2", PREFILL ", \"context_parallel\": 4, \"algorithm\": \"mesh\", \"grid\": [3, 2] }");
    bad("kv_type takes", PREFILL ", \"kv_type\": \"q4\" }");
    bad("kv_type is 4", PREFILL ", \"kv_type\": \"q8\", \"kv_bytes_per_elem\": 2 }");
    bad("layout takes", PREFILL ", \"layout\": 2 }");
    bad("layout takes", PREFILL ", \"layout\": \"diagonal\" }");
    bad("num_layers is 0", PREFILL ", \"num_layers\": 0 }");
    bad("logits takes", PREFILL ", \"vocab_size\": 100, \"logits\": true }");
    bad("vocab_size is 0", PREFILL ", \"logits\": \"all\" }");
    bad("biases", PREFILL ", \"biases\": [\"gate\"] }");
    bad("mlp_matrices is 4", PREFILL ", \"intermediate_size\": 64, \"mlp_matrices\": 4 }");
    bad("mlp_matrices is 4294967298", PREFILL ", \"intermediate_size\": 64, \"mlp_matrices\": 4294967298 }");
    bad("new_tokens lists 1", "{ \"phase\": \"prefill\", \"new_tokens\": [3], " SHAPE " }");
    bad("new_tokens is 0", "{ \"phase\": \"prefill\", \"new_tokens\": [3, 0], " SHAPE " }");
    bad("seq_len is 1152921504606846976", "{ \"phase\": \"prefill\", \"seq_len\": 1152921504606846976, " SHAPE " }");
    bad("seq_len is 1.84", "{ \"phase\": \"prefill\", \"seq_len\": 18446744073709551616, " SHAPE " }");
    bad("visible pairs", "{ \"phase\": \"prefill\", \"seq_len\": 1099511627776, " SHAPE " }");
    bad("weight_memory_per_chip", "{ \"phase\": \"prefill\", \"seq_len\": 100, \"hidden_size\": 2097152, \"num_heads\": 2097152, \"head_dim\": 1048576, "
        "\"batch_size\": 1, \"bytes_per_elem\": 2 }");
}

int main(void)
{
    if (!getenv("RONDO") || !*getenv("RONDO"))
        return skip_all("the program was not built");
    scratch_make("7052-plan-cost");
    anchors();
    readings();
    models();
    cache_and_layout();
    refusals();
    scratch_remove();
    return done();
}
