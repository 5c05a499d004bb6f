/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The input of `rondo kda`: opens the file and checks each tensor of it before anything runs. A tensor that is not known refuses the file: no
 * result may look as if it had taken part.
 */
#include "cli/kda.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static int check_names(const struct kda_input *in)
{
    static const char *const used[] = { "q", "k", "v", "g", "beta", "cu_seqlens", "initial_state", "A_log", "dt_bias", "do", "dstate" };
    for (int64_t i = 0; i < rondo_arrays_count(in->file); i++) {
        const char *name = rondo_arrays_at(in->file, i)->name;
        bool known = false;
        for (size_t j = 0; j < sizeof used / sizeof *used; j++)
            known = known || !strcmp(name, used[j]);
        if (!known)
            return fail(EXIT_INPUT, "%s: a tensor '%s' has no meaning here; q, k, v, g, beta, cu_seqlens, initial_state, A_log, dt_bias, do and "
                                    "dstate have",
                        in->path, name);
    }
    return 0;
}

static bool is_number(const rondo_array *a)
{
    return a->type == RONDO_ARRAY_F32 || a->type == RONDO_ARRAY_BF16 || a->type == RONDO_ARRAY_F16;
}

/* One of the five that are always there, of `dims` dimensions. */
static int check_one(const struct kda_input *in, const rondo_array *a, const char *name, int dims, const char *shape)
{
    if (!a)
        return fail(EXIT_INPUT, "%s has no tensor '%s'; q, k, v, g and beta are needed", in->path, name);
    if (!is_number(a))
        return fail(EXIT_INPUT, "%s: '%s' is of another type than F32, BF16 or F16", in->path, name);
    if (a->dims != dims)
        return fail(EXIT_INPUT, "%s: '%s' has %d dimensions; %s is expected", in->path, name, a->dims, shape);
    return 0;
}

static int check_shapes(struct kda_input *in)
{
    static const char *const names[] = { "q", "k", "v", "g", "beta" };
    const rondo_array *five[] = { in->q, in->k, in->v, in->g, in->beta };
    int code = 0;
    for (int i = 0; i < 5 && !code; i++)
        code = check_one(in, five[i], names[i], i == 4 ? 3 : 4, i == 4 ? "[batch, tokens, heads]" : "[batch, tokens, heads, size]");
    if (code)
        return code;
    if (in->k->type != in->q->type || in->v->type != in->q->type)
        return fail(EXIT_INPUT, "%s: q, k and v are of different types; all three must have one", in->path);
    in->batch = in->q->shape[0];
    in->tokens = in->q->shape[1];
    for (int i = 1; i < 5; i++)
        if (five[i]->shape[0] != in->batch || five[i]->shape[1] != in->tokens)
            return fail(EXIT_INPUT, "%s: '%s' has %" PRId64 " x %" PRId64 " tokens and q %" PRId64 " x %" PRId64 "; they must be equal", in->path,
                        names[i], five[i]->shape[0], five[i]->shape[1], in->batch, in->tokens);
    in->key_heads = in->q->shape[2];
    in->key_dim = in->q->shape[3];
    in->heads = in->v->shape[2];
    in->value_dim = in->v->shape[3];
    in->gate_dim = in->g->shape[3];
    if (in->batch < 1)
        return fail(EXIT_INPUT, "%s: the batch is %" PRId64 "; at least 1 is expected", in->path, in->batch);
    if (in->k->shape[2] != in->key_heads || in->k->shape[3] != in->key_dim)
        return fail(EXIT_INPUT, "%s: k has %" PRId64 " heads of %" PRId64 " and q %" PRId64 " of %" PRId64 "; they must be equal", in->path,
                    in->k->shape[2], in->k->shape[3], in->key_heads, in->key_dim);
    if (in->key_heads < 1 || in->heads < 1 || in->heads % in->key_heads)
        return fail(EXIT_INPUT, "%s: v has %" PRId64 " heads and q %" PRId64 "; a multiple of q's (from 1 on) is expected for v", in->path, in->heads,
                    in->key_heads);
    if (in->g->shape[2] != in->heads || in->beta->shape[2] != in->heads)
        return fail(EXIT_INPUT, "%s: g has %" PRId64 " heads, beta %" PRId64 " and v %" PRId64 "; they must be equal", in->path, in->g->shape[2],
                    in->beta->shape[2], in->heads);
    if (in->key_dim < 1 || in->key_dim > 512 || in->value_dim < 1 || in->value_dim > 512)
        return fail(EXIT_INPUT, "%s: the head sizes of q and v are %" PRId64 " and %" PRId64 "; 1 to 512 are expected", in->path, in->key_dim,
                    in->value_dim);
    if (in->gate_dim != in->key_dim && in->gate_dim != 1)
        return fail(EXIT_INPUT, "%s: g has %" PRId64 " channels; those of q, here %" PRId64 ", or 1 are expected", in->path, in->gate_dim, in->key_dim);
    return 0;
}

static int read_starts(struct kda_input *in, const rondo_array *a)
{
    const size_t size = a->type == RONDO_ARRAY_I64 ? 8 : 4;
    if ((a->type != RONDO_ARRAY_I32 && a->type != RONDO_ARRAY_I64) || a->dims != 1 || a->shape[0] < 2)
        return fail(EXIT_INPUT, "%s: 'cu_seqlens' is no vector [sequences + 1], of 1 sequence at least, of I32 or I64", in->path);
    if (in->batch != 1)
        return fail(EXIT_INPUT, "%s: the batch is %" PRId64 " and there are cu_seqlens; with these it must be 1", in->path, in->batch);
    in->sequences = a->shape[0] - 1;
    in->cu = room(a->shape[0], sizeof *in->cu);
    char *raw = room(a->shape[0], size);
    int code = in->cu && raw ? fail_library(rondo_arrays_read(in->file, a, 0, a->bytes, raw), STAGE_INPUT)
                             : fail(EXIT_ROOM, "%s: not enough memory for %" PRId64 " sequences", in->path, in->sequences);
    for (int64_t i = 0; i <= in->sequences && !code; i++) {
        int32_t narrow;
        if (size == 8) {
            memcpy(&in->cu[i], raw + 8 * i, 8);
        } else {
            memcpy(&narrow, raw + 4 * i, 4);
            in->cu[i] = narrow;
        }
        if (in->cu[i] < (i ? in->cu[i - 1] : 0) || (!i && in->cu[0]) || (i == in->sequences && in->cu[i] != in->tokens))
            code = fail(EXIT_INPUT, "%s: entry %" PRId64 " of 'cu_seqlens' is %" PRId64 "; it must begin with 0, not fall, and end with the %" PRId64
                        " tokens", in->path, i, in->cu[i], in->tokens);
    }
    free(raw);
    return code;
}

/* One that need not be there. */
static int check_extra(const struct kda_input *in, const rondo_array *a, const char *name, int dims, const int64_t *shape, bool f32_only)
{
    bool same = !a || a->dims == dims;
    for (int i = 0; i < dims && a && same; i++)
        same = a->shape[i] == shape[i];
    if (!same || (a && (f32_only ? a->type != RONDO_ARRAY_F32 : !is_number(a)))) {
        char text[128] = "";
        for (int i = 0; i < dims; i++)
            snprintf(text + strlen(text), sizeof text - strlen(text), "%s%" PRId64, i ? ", " : "", shape[i]);
        return fail(EXIT_INPUT, "%s: '%s' is not [%s] of %s", in->path, name, text, f32_only ? "F32" : "F32, BF16 or F16");
    }
    return 0;
}

int kda_open(struct kda_input *in, const char *path, int gate)
{
    *in = (struct kda_input){ .path = path };
    int code = fail_library(rondo_arrays_open(&in->file, path), STAGE_INPUT);
    if (code)
        return code;
    in->q = rondo_arrays_find(in->file, "q");
    in->k = rondo_arrays_find(in->file, "k");
    in->v = rondo_arrays_find(in->file, "v");
    in->g = rondo_arrays_find(in->file, "g");
    in->beta = rondo_arrays_find(in->file, "beta");
    in->initial = rondo_arrays_find(in->file, "initial_state");
    in->a_log = rondo_arrays_find(in->file, "A_log");
    in->dt_bias = rondo_arrays_find(in->file, "dt_bias");
    in->dout = rondo_arrays_find(in->file, "do");
    in->dstate = rondo_arrays_find(in->file, "dstate");
    const rondo_array *starts = rondo_arrays_find(in->file, "cu_seqlens");
    code = check_names(in);
    if (!code)
        code = check_shapes(in);
    in->sequences = in->batch;
    if (!code && starts)
        code = read_starts(in, starts);
    const int64_t state[] = { in->sequences, in->heads, in->key_dim, in->value_dim }, bias[] = { in->heads, in->gate_dim };
    if (!code)
        code = check_extra(in, in->initial, "initial_state", 4, state, true);
    if (!code)
        code = check_extra(in, in->a_log, "A_log", 1, bias, false);
    if (!code)
        code = check_extra(in, in->dt_bias, "dt_bias", 2, bias, false);
    if (!code)
        code = check_extra(in, in->dout, "do", 4, in->v->shape, false);
    if (!code && in->dout && in->dout->type != in->q->type)
        code = fail(EXIT_INPUT, "%s: 'do' has another type than q, k, v and so out; all of them must have one", path);
    if (!code)
        code = check_extra(in, in->dstate, "dstate", 4, state, true);
    if (!code && in->dstate && !in->dout)
        code = fail(EXIT_INPUT, "%s: 'dstate' goes with 'do', the gradient of out, which may be of zeros; add that, or leave it out", path);
    if (!code && gate == RONDO_GATE_LOG && (in->a_log || in->dt_bias))
        code = fail(EXIT_INPUT, "%s: '%s' is of gates that are computed; give --gate softplus or --gate bounded, or leave it out", path,
                    in->a_log ? "A_log" : "dt_bias");
    if (code)
        kda_close(in);
    return code;
}

void kda_close(struct kda_input *in)
{
    rondo_arrays_close(in->file);
    free(in->cu);
    *in = (struct kda_input){ .path = NULL };
}
