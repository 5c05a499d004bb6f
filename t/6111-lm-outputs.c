/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Every function of librondo_lm that gives a pointer, with every kind of wrong argument and without memory: a code, a sentence, and
 * NULL where the caller looks for the result.
 */
#include <stdint.h>

#include "lm_kit.h"
#include "outputs.h"
#include "rondo_lm.h"

static char kjv[1024];

static void arrays(void)
{
    rondo_arrays *out;
    rondo_arrays_writer *writer;
    const char *path = scratch_path("a.safetensors"), *damaged = scratch_write("damaged.safetensors", "\377\377\377\377\377\377\377\377", 8);
    const int64_t shape[1] = { 2 }, negative[1] = { -2 };
    const rondo_array good = { .name = "a", .type = RONDO_ARRAY_F32, .dims = 1, .shape = shape };
    rondo_array wrong[2] = { good, good };
    NEEDS_OUTPUT(rondo_arrays_create(NULL, path, &good, 1));
    LEAVES_NULL(RONDO_EINVAL, writer, rondo_arrays_create(&writer, NULL, &good, 1));
    LEAVES_NULL(RONDO_EINVAL, writer, rondo_arrays_create(&writer, path, NULL, 1));
    LEAVES_NULL(RONDO_EINVAL, writer, rondo_arrays_create(&writer, path, &good, -1));
    LEAVES_NULL(RONDO_EINVAL, writer, rondo_arrays_create(&writer, path, wrong, 2));   /* one name twice */
    LEAVES_NULL(RONDO_EIO, writer, rondo_arrays_create(&writer, scratch_path("none/a.safetensors"), &good, 1));
    wrong[0].shape = negative;
    LEAVES_NULL(RONDO_EINVAL, writer, rondo_arrays_create(&writer, path, wrong, 1));
    wrong[0] = good;
    wrong[0].type = 999;
    LEAVES_NULL(RONDO_EINVAL, writer, rondo_arrays_create(&writer, path, wrong, 1));
    wrong[0] = good;
    wrong[0].name = NULL;
    LEAVES_NULL(RONDO_EINVAL, writer, rondo_arrays_create(&writer, path, wrong, 1));
    LEAVES_NULL_WITHOUT_MEMORY(writer, rondo_arrays_create(&writer, path, &good, 1), rondo_arrays_abandon(writer));
    if (rondo_arrays_create(&writer, path, &good, 1) || rondo_arrays_write(writer, 0, 0, 8, "datadata") || rondo_arrays_commit(writer))
        diag("%s", rondo_error_text());

    NEEDS_OUTPUT(rondo_arrays_open(NULL, path));
    LEAVES_NULL(RONDO_EINVAL, out, rondo_arrays_open(&out, NULL));
    LEAVES_NULL(RONDO_EIO, out, rondo_arrays_open(&out, scratch_path("none")));
    LEAVES_NULL(RONDO_EIO, out, rondo_arrays_open(&out, scratch_dir));
    LEAVES_NULL(RONDO_EFORMAT, out, rondo_arrays_open(&out, damaged));
    LEAVES_NULL_WITHOUT_MEMORY(out, rondo_arrays_open(&out, path), rondo_arrays_close(out));
}

static void tokenizers(void)
{
    rondo_tokenizer *out, *t = NULL;
    rondo_text_stream *stream;
    int32_t *ids;
    int64_t count;
    char *text;
    const char *shown;
    size_t bytes;
    const int32_t some[2] = { 5, 6 }, none[1] = { -5 };
    scratch_write("tokenizer.json", "{", 1);
    NEEDS_OUTPUT(rondo_tokenizer_open(NULL, kjv));
    LEAVES_NULL(RONDO_EINVAL, out, rondo_tokenizer_open(&out, NULL));
    LEAVES_NULL(RONDO_EIO, out, rondo_tokenizer_open(&out, scratch_path("none")));
    LEAVES_NULL(RONDO_EFORMAT, out, rondo_tokenizer_open(&out, scratch_dir));
    LEAVES_NULL_WITHOUT_MEMORY(out, rondo_tokenizer_open(&out, kjv), t = out);
    if (!t)
        return;

    NEEDS_OUTPUT(rondo_tokenizer_encode(t, "a", 1, 0, NULL, &count));
    LEAVES_NULL(RONDO_EINVAL, ids, rondo_tokenizer_encode(t, "a", 1, 0, &ids, NULL));
    LEAVES_NULL(RONDO_EINVAL, ids, rondo_tokenizer_encode(NULL, "a", 1, 0, &ids, &count));
    LEAVES_NULL(RONDO_EINVAL, ids, rondo_tokenizer_encode(t, NULL, 1, 0, &ids, &count));
    LEAVES_NULL(RONDO_EINVAL, ids, rondo_tokenizer_encode(t, "a", 1, 1u << 30, &ids, &count));
    count = -7;
    LEAVES_NULL(RONDO_EFORMAT, ids, rondo_tokenizer_encode(t, "\377", 1, 0, &ids, &count));
    is_int(count, 0, "and the count is 0");
    LEAVES_NULL_WITHOUT_MEMORY(ids, rondo_tokenizer_encode(t, "a", 1, 0, &ids, &count), rondo_lm_free(ids));

    NEEDS_OUTPUT(rondo_tokenizer_decode(t, some, 2, 0, NULL, &bytes));
    LEAVES_NULL(RONDO_EINVAL, text, rondo_tokenizer_decode(t, some, 2, 0, &text, NULL));
    LEAVES_NULL(RONDO_EINVAL, text, rondo_tokenizer_decode(NULL, some, 2, 0, &text, &bytes));
    LEAVES_NULL(RONDO_EINVAL, text, rondo_tokenizer_decode(t, NULL, 2, 0, &text, &bytes));
    LEAVES_NULL(RONDO_EINVAL, text, rondo_tokenizer_decode(t, some, -1, 0, &text, &bytes));
    LEAVES_NULL(RONDO_EINVAL, text, rondo_tokenizer_decode(t, some, 2, 1u << 30, &text, &bytes));
    bytes = 7;
    LEAVES_NULL(RONDO_EINVAL, text, rondo_tokenizer_decode(t, none, 1, 0, &text, &bytes));
    is_int((long long)bytes, 0, "and there are 0 bytes");
    LEAVES_NULL_WITHOUT_MEMORY(text, rondo_tokenizer_decode(t, some, 2, 0, &text, &bytes), rondo_lm_free(text));

    NEEDS_OUTPUT(rondo_text_stream_create(NULL, t, 0));
    LEAVES_NULL(RONDO_EINVAL, stream, rondo_text_stream_create(&stream, NULL, 0));
    LEAVES_NULL(RONDO_EINVAL, stream, rondo_text_stream_create(&stream, t, 1u << 30));
    LEAVES_NULL_WITHOUT_MEMORY(stream, rondo_text_stream_create(&stream, t, 0), rondo_text_stream_destroy(stream));
    is_int(rondo_text_stream_create(&stream, t, 0), 0, "a stream");
    NEEDS_OUTPUT(rondo_text_stream_push(stream, 5, NULL, &bytes));
    LEAVES_NULL(RONDO_EINVAL, shown, rondo_text_stream_push(stream, 5, &shown, NULL));
    LEAVES_NULL(RONDO_EINVAL, shown, rondo_text_stream_push(NULL, 5, &shown, &bytes));
    bytes = 7;
    LEAVES_NULL(RONDO_EINVAL, shown, rondo_text_stream_push(stream, -5, &shown, &bytes));
    is_int((long long)bytes, 0, "and there are 0 bytes");
    rondo_text_stream_destroy(stream);
    rondo_tokenizer_close(t);
}

static void models(rondo_context *ctx)
{
    struct kit_config c = kit_defaults("llama");
    struct kit_model *m = kit_folder(&c, 12);
    rondo_model *out, *model = NULL;
    rondo_lm *lm;
    rondo_model_desc d, good = RONDO_MODEL_DESC_INIT;
    rondo_lm_desc ld;
    good.no_tokenizer = 1;
    NEEDS_OUTPUT(rondo_model_open(NULL, ctx, scratch_dir, &good));
    LEAVES_NULL(RONDO_EINVAL, out, rondo_model_open(&out, NULL, scratch_dir, &good));
    LEAVES_NULL(RONDO_EINVAL, out, rondo_model_open(&out, ctx, NULL, &good));
    LEAVES_NULL(RONDO_EIO, out, rondo_model_open(&out, ctx, scratch_path("none"), &good));
    LEAVES_NULL(RONDO_EIO, out, rondo_model_open(&out, ctx, scratch_dir, NULL));   /* no tokenizer there */
#define WRONG(code, field, value)                                       \
    d = good;                                                           \
    d.field = value;                                                    \
    diag("%s is %s", #field, #value);                                   \
    LEAVES_NULL(code, out, rondo_model_open(&out, ctx, scratch_dir, &d))
    WRONG(RONDO_EINVAL, struct_size, 1);
    WRONG(RONDO_EINVAL, tp_rank, -1);
    WRONG(RONDO_EINVAL, weights, 99);
    WRONG(RONDO_EINVAL, threads, -1);
    WRONG(RONDO_EINVAL, no_weights, 3);
    WRONG(RONDO_EINVAL, no_weights, -1);
#undef WRONG
    LEAVES_NULL_WITHOUT_MEMORY(out, rondo_model_open(&out, ctx, scratch_dir, &good), model = out);
    if (model) {
        NEEDS_OUTPUT(rondo_lm_create(NULL, ctx, model, NULL));
        LEAVES_NULL(RONDO_EINVAL, lm, rondo_lm_create(&lm, NULL, model, NULL));
        LEAVES_NULL(RONDO_EINVAL, lm, rondo_lm_create(&lm, ctx, NULL, NULL));
#define WRONG(code, field, value)                                       \
    ld = (rondo_lm_desc)RONDO_LM_DESC_INIT;                             \
    ld.field = value;                                                   \
    diag("%s is %s", #field, #value);                                   \
    LEAVES_NULL(code, lm, rondo_lm_create(&lm, ctx, model, &ld))
        WRONG(RONDO_EINVAL, struct_size, 1);
        WRONG(RONDO_EINVAL, kv_type, 9);
        WRONG(RONDO_EINVAL, layout, 9);
        WRONG(RONDO_EINVAL, algorithm, 9);
        WRONG(RONDO_ENOTSUP, arithmetic, RONDO_ARITHMETIC_BF16_TILE);
        WRONG(RONDO_ENOTSUP, level, RONDO_NATIVE);
        WRONG(RONDO_EINVAL, leaf, 9);
        WRONG(RONDO_EINVAL, chunk, -1);
        WRONG(RONDO_EINVAL, batch_tokens, -1);
        WRONG(RONDO_ENOTSUP, reserved, 1);
#undef WRONG
        LEAVES_NULL_WITHOUT_MEMORY(lm, rondo_lm_create(&lm, ctx, model, NULL), rondo_lm_destroy(lm));
    }
    rondo_model_close(model);
    kit_free(m);
}

static void simple(void)
{
    rondo_sampling s = RONDO_SAMPLING_INIT, wrong = RONDO_SAMPLING_INIT;
    char *text;
    s.max_tokens = 2;
    wrong.temperature = -1;
    NEEDS_OUTPUT(rondo_lm_generate(kjv, 1, "And", &s, NULL));
    LEAVES_NULL(RONDO_EINVAL, text, rondo_lm_generate(NULL, 1, "And", &s, &text));
    LEAVES_NULL(RONDO_EINVAL, text, rondo_lm_generate(kjv, -1, "And", &s, &text));
    LEAVES_NULL(RONDO_EINVAL, text, rondo_lm_generate(kjv, 1, NULL, &s, &text));
    LEAVES_NULL(RONDO_EINVAL, text, rondo_lm_generate(kjv, 1, "And", &wrong, &text));
    LEAVES_NULL(RONDO_EINVAL, text, rondo_lm_generate(kjv, 2, "And", &wrong, &text));
    wrong = s;
    wrong.reserved = 1;
    LEAVES_NULL(RONDO_ENOTSUP, text, rondo_lm_generate(kjv, 1, "And", &wrong, &text));
    LEAVES_NULL(RONDO_EFORMAT, text, rondo_lm_generate(kjv, 1, "\377", &s, &text));
    LEAVES_NULL(RONDO_EIO, text, rondo_lm_generate(scratch_path("none"), 1, "And", &s, &text));
    is_int(rondo_lm_generate(kjv, 1, "And", &s, &text), 0, "generates");
    ok(text && text != &outputs_poison, "and gives a text");
    rondo_lm_free(text);
}

/* What the events of one call gave. */
struct heard {
    char text[400];
    size_t bytes;
    int events, stop_at, finished;
};

static int hear(void *user, const rondo_lm_event *event)
{
    struct heard *h = user;
    if (h->bytes + event->text_bytes < sizeof h->text)
        memcpy(h->text + h->bytes, event->text, event->text_bytes);
    h->bytes += event->text_bytes;
    h->finished += event->finish != RONDO_RUNNING;
    return ++h->events == h->stop_at;
}

/* One call on any ranks: the same text, which is also what came piece by piece. */
static void one_call(void)
{
    rondo_lm_generate_desc d = RONDO_LM_GENERATE_DESC_INIT;
    rondo_sampling s = RONDO_SAMPLING_INIT;
    char *text, *first = NULL;
    static const int grids[][3] = { { 0, 0, 0 }, { 0, 3, 0 }, { 3, 0, 0 }, { 2, 2, 0 }, { 2, 2, 1 } };
    s.max_tokens = 12;
    d.sampling = &s;
    d.event = hear;
    for (size_t i = 0; i < sizeof grids / sizeof *grids; i++) {
        struct heard h = { .events = 0 };
        d.user = &h;
        d.tp = grids[i][0];
        d.cp = grids[i][1];
        d.spread = grids[i][2];
        text = NULL;
        int err = rondo_lm_generate_with(kjv, "And it came to pass", &d, &text);
        ok(!err && text && h.events == 12 && h.finished == 1 && h.bytes == strlen(text) && !memcmp(h.text, text, h.bytes) &&
           (!first || !strcmp(first, text)), "tp %d, cp %d%s: twelve events, and the text of all others", (int)d.tp, (int)d.cp, d.spread ? ", spread" : "");
        if (first)
            rondo_lm_free(text);
        else
            first = text;
    }
    rondo_lm_free(first);
    struct heard h = { .stop_at = 3 };
    d.user = &h;
    LEAVES_NULL(RONDO_ECANCELED, text, rondo_lm_generate_with(kjv, "And", &d, &text));
    is_int(h.events, 3, "an event function can stop it");
    d.event = NULL;
    d.tp = -1;
    LEAVES_NULL(RONDO_EINVAL, text, rondo_lm_generate_with(kjv, "And", &d, &text));
    static const int32_t many[][2] = { { 65536, 65536 }, { 65536, 32768 }, { 257, 256 }, { 1, 65537 }, { 65537, 0 }, { INT32_MAX, INT32_MAX } };
    for (size_t i = 0; i < sizeof many / sizeof *many; i++) {
        d.tp = many[i][0];
        d.cp = many[i][1];
        d.spread = 1;
        LEAVES_NULL(RONDO_EINVAL, text, rondo_lm_generate_with(kjv, "And", &d, &text));
        ok(strstr(rondo_error_text(), "65536") != NULL, "%s", rondo_error_text());
    }
    d.tp = d.cp = 0;
    d.spread = 2;
    LEAVES_NULL(RONDO_EINVAL, text, rondo_lm_generate_with(kjv, "And", &d, &text));
    d.spread = 0;
    d.logprobs = 101;
    LEAVES_NULL(RONDO_EINVAL, text, rondo_lm_generate_with(kjv, "And", &d, &text));
    d.logprobs = 0;
    d.reserved = 1;
    LEAVES_NULL(RONDO_ENOTSUP, text, rondo_lm_generate_with(kjv, "And", &d, &text));
    LEAVES_NULL(RONDO_EINVAL, text, rondo_lm_generate_with(NULL, "And", NULL, &text));
}

int main(void)
{
    rondo_hooks hooks = RONDO_HOOKS_INIT;
    rondo_context_desc d = RONDO_CONTEXT_DESC_INIT;
    rondo_context *ctx = NULL;
    hooks.allocate = outputs_take;
    hooks.release = outputs_give;
    d.threads = 1;
    snprintf(kjv, sizeof kjv, "%s/examples/kjv", getenv("srcdir") ? getenv("srcdir") : ".");
    scratch_make("lm-outputs");
    if (rondo_set_hooks(&hooks) || rondo_context_create(&ctx, &d))
        return 1;
    arrays();
    tokenizers();
    models(ctx);
    simple();
    one_call();
    rondo_context_destroy(ctx);
    scratch_remove();
    return done();
}
