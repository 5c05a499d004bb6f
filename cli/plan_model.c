/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The shapes of a model for the verbs of rondo plan: those of a folder with config.json, of which nothing else is read, or of one of the
 * models that rondo knows by name.
 */
#include "cli/lm_common.h"
#include "cli/plan.h"

#include <string.h>
#include <sys/stat.h>

static const struct {
    const char *name;
    int64_t layers, hidden, heads, kv_heads, head_dim, intermediate, vocabulary;
} known[] = {
    { "mistral-7b", 32, 4096, 32, 8, 128, 14336, 32000 },
    { "llama-3.1-8b", 32, 4096, 32, 8, 128, 14336, 128256 },
    { "llama-3.1-70b", 80, 8192, 64, 8, 128, 28672, 128256 },
    { "llama-3.1-405b", 126, 16384, 128, 8, 128, 53248, 128256 },
};
#define KNOWN (sizeof known / sizeof *known)

static int read_folder(const char *dir, rondo_cost_case *c)
{
    rondo_context *ctx = NULL;
    rondo_model *model = NULL;
    rondo_context_desc desc = RONDO_CONTEXT_DESC_INIT;
    rondo_model_desc model_desc = RONDO_MODEL_DESC_INIT;
    rondo_model_info info = RONDO_MODEL_INFO_INIT;
    model_desc.no_tokenizer = 1;
    model_desc.no_weights = 2;
    int code = fail_library(rondo_context_create(&ctx, &desc), STAGE_OPTIONS);
    if (!code)
        code = fail_library(rondo_model_open(&model, ctx, dir, &model_desc), STAGE_INPUT);
    if (!code)
        code = fail_library(rondo_model_query(model, &info), STAGE_INPUT);
    if (!code && info.kda_layers)
        code = fail(EXIT_USAGE, "%s has layers of Kimi Delta Attention, of which no plan is made; a model with attention in all layers is accepted", dir);
    c->num_layers = info.layers;
    c->hidden_size = info.hidden;
    c->num_heads = info.heads;
    c->num_kv_heads = info.kv_heads;
    c->head_dim = info.head_dim;
    c->intermediate_size = info.intermediate;
    c->vocab_size = info.vocabulary;
    c->tied_embeddings = info.tied;
    c->biases = info.biases;
    c->qk_norm = info.qk_norm;
    c->windowed = info.window > 0;
    c->window_left = info.window > 0 ? info.window - 1 : 0;
    c->window_right = info.window > 0 ? -1 : 0;
    rondo_model_close(model);
    rondo_context_destroy(ctx);
    return code;
}

int plan_model(const char *name, rondo_cost_case *c)
{
    struct stat st;
    c->norms_per_layer = 2;
    c->mlp_matrices = 3;
    for (size_t i = 0; i < KNOWN; i++)
        if (!strcmp(name, known[i].name)) {
            c->num_layers = known[i].layers;
            c->hidden_size = known[i].hidden;
            c->num_heads = known[i].heads;
            c->num_kv_heads = known[i].kv_heads;
            c->head_dim = known[i].head_dim;
            c->intermediate_size = known[i].intermediate;
            c->vocab_size = known[i].vocabulary;
            return 0;
        }
    if (stat(name, &st))
        return fail(EXIT_INPUT, "there is no folder %s, nor is it a model known by name; mistral-7b, llama-3.1-8b, llama-3.1-70b and "
                                "llama-3.1-405b are", name);
    return read_folder(name, c);
}
