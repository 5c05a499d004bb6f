/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A language model on several ranks: opens a folder as downloaded from Hugging Face, continues two prompts in one batch, shows the
 * first as it comes, and prints the hash of all its logits, which is the same for every number of ranks.
 *
 *     cc 04-lm.c -o lm $(pkg-config --cflags --libs rondo_lm) && ./lm DIR [RANKS]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rondo_lm.h>

enum { PROMPTS = 2 };

/* Runs on every rank; all make the same calls, the first one prints. */
static int body(rondo_context *rank, void *arg)
{
    static const char *const prompts[PROMPTS] = { "In the beginning", "And it came to pass" };
    const rondo_model *model = arg;
    const int first = rondo_context_rank(rank) == 0;
    rondo_lm_desc desc = RONDO_LM_DESC_INIT;
    rondo_sampling sampling = RONDO_SAMPLING_INIT;   /* greedy; a temperature and a seed draw the same tokens everywhere too */
    rondo_lm_event events[PROMPTS];
    int64_t ids[PROMPTS], live = PROMPTS;
    rondo_lm *lm = NULL;
    int code = rondo_lm_create(&lm, rank, model, &desc);

    sampling.max_tokens = 16;
    for (int i = 0; i < PROMPTS && !code; i++) {
        int32_t *tokens = NULL;
        int64_t count = 0;
        code = rondo_tokenizer_encode(rondo_model_tokenizer(model), prompts[i], strlen(prompts[i]), RONDO_ENCODE_SPECIAL, &tokens, &count);
        if (!code)
            code = rondo_lm_submit(lm, tokens, count, &sampling, &ids[i]);   /* copies them */
        rondo_lm_free(tokens);
    }
    if (first && !code)
        printf("%s", prompts[0]);
    while (!code && live > 0) {
        int64_t n = rondo_lm_step(lm, events, PROMPTS, &live);
        if (n < 0)
            code = (int)n;
        for (int64_t e = 0; e < n && first; e++)
            if (events[e].id == ids[0]) {
                printf("%.*s", (int)events[e].text_bytes, events[e].text);
                fflush(stdout);
            }
    }
    for (int i = 0; i < PROMPTS && !code; i++) {
        rondo_lm_status status = RONDO_LM_STATUS_INIT;
        code = rondo_lm_query(lm, ids[i], &status);
        if (!code && first)
            printf("%s%s\n%lld new tokens, hash %016llx\n", i ? prompts[i] : "", i ? status.text : "", (long long)status.new_tokens,
                   (unsigned long long)status.hash);   /* the first one is on the screen already */
    }
    rondo_lm_destroy(lm);
    return code;
}

int main(int argc, char **argv)
{
    const int ranks = argc > 2 ? atoi(argv[2]) : 2;
    rondo_context *ctx = NULL;
    rondo_model *model = NULL;
    int code;

    if (argc < 2) {
        fprintf(stderr, "usage: %s DIR [RANKS]\n", argv[0]);
        return 2;
    }
    /* the ranks of a process share one model; a context is needed only while it is opened */
    code = rondo_context_create(&ctx, NULL);
    if (!code)
        code = rondo_model_open(&model, ctx, argv[1], NULL);
    rondo_context_destroy(ctx);
    if (!code)
        code = rondo_run_threads(ranks, body, model);
    if (code)
        fprintf(stderr, "%s: %s\n", rondo_error_name(code), rondo_error_text());
    rondo_model_close(model);
    return code != 0;
}
