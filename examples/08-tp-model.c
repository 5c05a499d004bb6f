/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A whole language model on tensor-parallel ranks: each holds its heads and its part of every linear layer, and what they generate together
 * is compared, by the hash of all logits, with what one rank generates that holds everything. With a third argument the ranks are tensor x
 * context-parallel: rank r is tensor-parallel rank r % TP of context-parallel rank r / TP, and those of the same part share one model.
 *
 *     cc 08-tp-model.c -o tp-model $(pkg-config --cflags --libs rondo_lm) && ./tp-model [DIR [TP [CP]]]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rondo_lm.h>

enum { TOKENS = 20 };

struct job {
    const char *dir;
    int tp, cp, show;
    rondo_model **parts;             /* [tp] */
    uint64_t hash;
};

/* Runs on every rank; all make the same calls. */
static int body(rondo_context *rank, void *arg)
{
    struct job *job = arg;
    const rondo_model *model = job->parts[rondo_context_rank(rank) % job->tp];
    const char *prompt = "In those days";
    rondo_sampling sampling = RONDO_SAMPLING_INIT;   /* greedy */
    rondo_lm_status status = RONDO_LM_STATUS_INIT;
    rondo_lm_event event;
    rondo_lm *lm = NULL;
    int32_t *tokens = NULL;
    int64_t count = 0, id = 0, live = 1;
    int code = rondo_lm_create(&lm, rank, model, NULL);

    sampling.max_tokens = TOKENS;
    if (!code)
        code = rondo_tokenizer_encode(rondo_model_tokenizer(model), prompt, strlen(prompt), RONDO_ENCODE_SPECIAL, &tokens, &count);
    if (!code)
        code = rondo_lm_submit(lm, tokens, count, &sampling, &id);
    while (!code && live > 0) {
        int64_t n = rondo_lm_step(lm, &event, 1, &live);
        code = n < 0 ? (int)n : 0;
    }
    if (!code)
        code = rondo_lm_query(lm, id, &status);
    if (!code && rondo_context_rank(rank) == 0) {
        job->hash = status.hash;
        if (job->show)
            printf("%s%s\n", prompt, status.text);
    }
    rondo_lm_free(tokens);
    rondo_lm_destroy(lm);
    return code;
}

/* Opens the parts, each of which reads no more of the files than it holds, and runs the ranks. */
static int run(struct job *job)
{
    rondo_context *ctx = NULL;       /* needed only while models are opened */
    rondo_model_info info = RONDO_MODEL_INFO_INIT;
    int code = rondo_context_create(&ctx, NULL);

    job->parts = calloc((size_t)job->tp, sizeof *job->parts);
    if (!code && !job->parts)
        code = RONDO_ENOMEM;
    for (int t = 0; t < job->tp && !code; t++) {
        rondo_model_desc desc = RONDO_MODEL_DESC_INIT;
        desc.tp_rank = t;
        desc.tp_ranks = job->tp;
        code = rondo_model_open(&job->parts[t], ctx, job->dir, &desc);
    }
    if (!code)
        code = rondo_run_threads(job->tp * job->cp, body, job);
    if (!code)
        code = rondo_model_query(job->parts[0], &info);
    if (!code)
        printf("tp=%d cp=%d: %llu bytes of weights on rank 0, hash %016llx\n", job->tp, job->cp, (unsigned long long)info.weight_bytes,
               (unsigned long long)job->hash);
    for (int t = 0; job->parts && t < job->tp; t++)
        rondo_model_close(job->parts[t]);
    free(job->parts);
    rondo_context_destroy(ctx);
    return code;
}

int main(int argc, char **argv)
{
    const char *dir = argc > 1 ? argv[1] : "examples/kjv";
    const int tp = argc > 2 ? atoi(argv[2]) : 4, cp = argc > 3 ? atoi(argv[3]) : 1;
    struct job one = { dir, 1, 1, 1, NULL, 0 }, many = { dir, tp, cp, 0, NULL, 0 };
    int code;

    if (argc > 4 || tp < 1 || tp > 1024 || cp < 1 || cp > 1024) {
        fprintf(stderr, "usage: %s [DIR [TP [CP]]]\n", argv[0]);
        return 2;
    }
    code = run(&one);
    if (!code)
        code = run(&many);
    if (code) {
        fprintf(stderr, "%s: %s\n", rondo_error_name(code), rondo_error_text());
        return 1;
    }
    puts(one.hash == many.hash ? "equal" : "DIFFERENT");
    return one.hash != many.hash;
}
