/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Small random models of every family and kind against Hugging Face's own numbers (t/golden/families, made by contrib/make_golden.py): folders
 * as its library writes them, in new and old style, with odd numbers of heads, head sizes that are not hidden / heads, tied heads, biases,
 * norms of heads, windows and every kind of rope.
 *
 * The reference is fp64 throughout, but for frequencies and angles of rope, which are single precision in both. Logits are up to 6; the largest
 * error seen is 3e-6, any mistake in a formula makes 1e-2 and more.
 */
#include "lm_kit.h"

#define TOKENS 96
#define KEPT 10
#define VOCABULARY 40
#define BOUND 2e-5

static const struct {
    const char *name, *architecture, *rope;
    int window, tied;
} models[] = {
    { "llama-odd", "LlamaForCausalLM", "default", 0, 0 },         { "llama-tied", "LlamaForCausalLM", "default", 0, 1 },
    { "llama-linear", "LlamaForCausalLM", "linear", 0, 0 },       { "llama-dynamic", "LlamaForCausalLM", "dynamic", 0, 0 },
    { "llama-llama3", "LlamaForCausalLM", "llama3", 0, 0 },       { "llama-yarn", "LlamaForCausalLM", "yarn", 0, 0 },
    { "llama-yarn-mscale", "LlamaForCausalLM", "yarn", 0, 0 },    { "mistral-window", "MistralForCausalLM", "default", 17, 0 },
    { "mistral", "MistralForCausalLM", "default", 0, 1 },         { "qwen2", "Qwen2ForCausalLM", "default", 0, 0 },
    { "qwen2-tied-window", "Qwen2ForCausalLM", "default", 11, 1 }, { "qwen2-defaults", "Qwen2ForCausalLM", "default", 0, 0 },
    { "qwen3", "Qwen3ForCausalLM", "default", 0, 0 },             { "qwen3-tied", "Qwen3ForCausalLM", "yarn", 0, 1 },
};

/* The reference of a folder: tokens, positions and their logits. */
static int read_reference(const char *dir, int32_t *tokens, int32_t *positions, double *logits)
{
    rondo_arrays *file = NULL;
    char path[640];
    snprintf(path, sizeof path, "%s/reference.safetensors", dir);
    int err = rondo_arrays_open(&file, path);
    const rondo_array *t = rondo_arrays_find(file, "tokens"), *p = rondo_arrays_find(file, "positions"), *l = rondo_arrays_find(file, "logits");
    if (!err && !(t && p && l && t->bytes == TOKENS * 4 && p->bytes == KEPT * 4 && l->type == RONDO_ARRAY_F64 && l->bytes == KEPT * VOCABULARY * 8))
        err = RONDO_EFORMAT;
    err = err ? err : rondo_arrays_read(file, t, 0, t->bytes, tokens);
    err = err ? err : rondo_arrays_read(file, p, 0, p->bytes, positions);
    err = err ? err : rondo_arrays_read(file, l, 0, l->bytes, logits);
    rondo_arrays_close(file);
    return err;
}

int main(void)
{
    static int32_t tokens[TOKENS], positions[KEPT];
    static double want[KEPT * VOCABULARY];
    static float got[TOKENS * VOCABULARY];
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        const char *name = models[i].name;
        char dir[512], inside[64];
        snprintf(inside, sizeof inside, "t/golden/families/%s", name);
        if ((size_t)snprintf(dir, sizeof dir, "%s", source_path(inside)) >= sizeof dir)
            scratch_die("the source lies in a folder of too long a name");
        if (!ok(!read_reference(dir, tokens, positions, want), "%s: the reference", name))
            continue;
        rondo_model *model = kit_open(dir);
        rondo_model_info info = RONDO_MODEL_INFO_INIT;
        if (!ok(model && !rondo_model_query(model, &info), "%s: opens", name))
            continue;
        ok(!strcmp(info.architecture, models[i].architecture) && !strcmp(info.rope, models[i].rope) && info.window == models[i].window &&
           info.tied == models[i].tied, "%s: is what it is", name);
        uint64_t hash = 0;
        for (int ranks = 1; ranks <= 3; ranks += 2) {
            struct kit_score s = { .model = model, .desc = RONDO_LM_DESC_INIT, .tokens = tokens, .count = TOKENS, .logits = got, .vocabulary = VOCABULARY };
            s.desc.leaf = 16;
            double worst = 0.0;
            int err = kit_run_score(&s, ranks);
            for (int p = 0; p < KEPT; p++)
                for (int v = 0; v < VOCABULARY; v++)
                    worst = worse(worst, fabs((double)got[positions[p] * VOCABULARY + v] - want[p * VOCABULARY + v]));
            diag("%s, %d ranks: logits off by %.2g", name, ranks, worst);
            ok(!err && worst <= BOUND, "%s: its logits on %d ranks", name, ranks);
            if (ranks == 1)
                hash = s.scores[0].hash;
            else
                ok(hash == s.scores[0].hash, "%s: the same bits", name);
        }
        rondo_model_close(model);
    }
    return done();
}
