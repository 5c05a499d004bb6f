/* SPDX-License-Identifier: BSD-2-Clause
 *
 * One call from a folder and a prompt to text: rondo_lm_generate(). It chooses how many ranks there are where nobody says so, opens each part
 * of the model once, and runs the ranks as threads.
 */
#include "core/internal.h"
#include "lm/engine/lm.h"

struct simple {
    rondo_lm_generate_desc desc;
    rondo_model **parts;
    int32_t tp, cp, part_count;
    int32_t *tokens;
    int64_t count;
    char *text;
};

static int check(const rondo_lm_generate_desc *d)
{
    if (d->tp < 0 || d->cp < 0 || (d->cp ? d->cp : 1) > RONDO_MODEL_RANKS_MAX / (d->tp ? d->tp : 1))
        return rondo__fail(RONDO_EINVAL, "rondo_lm_generate: tp is %d and cp %d; 0 (chosen) and more would be accepted, %d ranks in all at most",
                           (int)d->tp, (int)d->cp, RONDO_MODEL_RANKS_MAX);
    if (d->spread != 0 && d->spread != 1)
        return rondo__fail(RONDO_EINVAL, "rondo_lm_generate: spread is %d; 0 and 1 would be accepted", (int)d->spread);
    if (d->threads < 0)
        return rondo__fail(RONDO_EINVAL, "rondo_lm_generate: threads is %d; 0 (shared out) and more would be accepted", (int)d->threads);
    return rondo__reserved(d->reserved, "rondo_lm_generate");
}

/* A rank for each memory node, so that weights lie beside the cores that read them; there, one rank with all cores does best. */
static void choose(struct simple *s)
{
    s->tp = s->desc.tp ? s->desc.tp : s->desc.cp ? 1 : rondo__memory_nodes();
    s->cp = s->desc.cp ? s->desc.cp : 1;
    s->part_count = s->desc.spread ? s->tp * s->cp : s->tp;
}

/* Part i is that of member i of a group: of all ranks when spread, else of any context-parallel rank. */
static int open_parts(struct simple *s, rondo_context *ctx, const char *dir)
{
    int err = 0;
    s->parts = rondo__alloc_zero((size_t)s->part_count, sizeof *s->parts);
    if (!s->parts)
        return rondo__fail(RONDO_ENOMEM, "rondo_lm_generate: no memory for %d parts of a model", (int)s->part_count);
    for (int32_t i = 0; i < s->part_count && !err; i++) {
        rondo_model_desc d = RONDO_MODEL_DESC_INIT;
        d.tp_ranks = s->tp;
        d.tp_rank = s->desc.spread ? i / s->cp : i;
        d.cp_ranks = s->desc.spread ? s->cp : 0;
        d.cp_rank = s->desc.spread ? i % s->cp : 0;
        d.weights = s->desc.weights;
        err = rondo_model_open(&s->parts[i], ctx, dir, &d);
    }
    return err;
}

static int run(struct simple *s, rondo_lm *lm, bool first)
{
    int64_t id = 0, live = 1;
    int err = rondo_lm_submit(lm, s->tokens, s->count, s->desc.sampling, &id);
    while (!err && live > 0) {
        rondo_lm_event event;
        int64_t n = rondo_lm_step(lm, &event, 1, &live);
        err = n < 0 ? (int)n : 0;
        if (n > 0 && first && s->desc.event && s->desc.event(s->desc.user, &event))
            err = rondo__fail(RONDO_ECANCELED, "rondo_lm_generate: the caller's event function asked to stop");
    }
    rondo_lm_status status = RONDO_LM_STATUS_INIT;
    if (!err)
        err = rondo_lm_query(lm, id, &status);
    if (err || !first)
        return err;
    s->text = rondo__alloc(status.text_bytes + 1);
    if (!s->text)
        return rondo__fail(RONDO_ENOMEM, "rondo_lm_generate: no memory for %zu bytes of text", status.text_bytes);
    memcpy(s->text, status.text, status.text_bytes + 1);
    return 0;
}

static int body(rondo_context *ctx, void *arg)
{
    struct simple *s = arg;
    const int32_t rank = rondo_context_rank(ctx), t = rank % s->tp, c = rank / s->tp;
    rondo_lm *lm = NULL;
    rondo_lm_desc d = RONDO_LM_DESC_INIT;
    d.kv_type = s->desc.kv_type;
    d.layout = s->desc.layout;
    d.algorithm = s->desc.algorithm;
    d.chunk = s->desc.chunk;
    d.logits = s->desc.logits;
    d.logprobs = s->desc.logprobs;
    d.user = s->desc.user;
    int err = rondo_lm_create(&lm, ctx, s->parts[s->desc.spread ? t * s->cp + c : t], &d);
    if (!err)
        err = run(s, lm, rank == 0);
    rondo_lm_destroy(lm);
    return err;
}

int rondo_lm_generate_with(const char *model_dir, const char *prompt, const rondo_lm_generate_desc *desc, char **text)
{
    const rondo_lm_generate_desc none = RONDO_LM_GENERATE_DESC_INIT;
    struct simple s = { .desc = none };
    rondo_context_desc ranks = RONDO_CONTEXT_DESC_INIT;
    rondo_context *ctx = NULL;
    if (text)
        *text = NULL;
    if (!model_dir || !prompt || !text)
        return rondo__fail(RONDO_EINVAL, "rondo_lm_generate: %s is NULL", !model_dir ? "model_dir" : !prompt ? "prompt" : "text");
    int err = desc ? rondo__desc_copy(&s.desc, sizeof s.desc, desc, "rondo_lm_generate_desc") : 0;
    if (!err)
        err = check(&s.desc);
    if (!err)
        err = rondo_context_create(&ctx, NULL);
    if (!err) {
        choose(&s);
        err = open_parts(&s, ctx, model_dir);
    }
    rondo_context_destroy(ctx);
    if (!err)
        err = rondo_tokenizer_encode(s.parts[0]->tokenizer, prompt, strlen(prompt), RONDO_ENCODE_SPECIAL, &s.tokens, &s.count);
    ranks.threads = s.desc.threads;
    if (!err)
        err = rondo_launch(s.tp * s.cp, &ranks, body, &s);
    rondo_lm_free(s.tokens);
    for (int32_t i = 0; i < s.part_count && s.parts; i++)
        rondo_model_close(s.parts[i]);
    rondo__free(s.parts);
    if (err) {
        rondo__free(s.text);
        return err;
    }
    *text = s.text;
    return 0;
}

int rondo_lm_generate(const char *model_dir, int ranks, const char *prompt, const rondo_sampling *sampling, char **text)
{
    rondo_lm_generate_desc d = RONDO_LM_GENERATE_DESC_INIT;
    if (ranks < 0) {
        if (text)
            *text = NULL;
        return rondo__fail(RONDO_EINVAL, "rondo_lm_generate: ranks is %d; 1 and more would be accepted, or 0: as many as fit the machine", ranks);
    }
    d.cp = ranks;
    d.sampling = sampling;
    return rondo_lm_generate_with(model_dir, prompt, &d, text);
}
