/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The input of `rondo attend`: opens the file and checks each tensor of it before anything runs. A tensor that is known but
 * cannot be honoured yet, or not known at all, refuses the file: no result may look as if it had taken part.
 */
#include "cli/attend.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

const char *attend_type_name(int type)
{
    static const char *const names[] = { "?", "F32", "BF16", "F16", "F64", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL" };
    return type > 0 && type < RONDO_ARRAY_OTHER ? names[type] : "a type unknown here";
}

static int check_names(const struct attend_input *in, const char *path)
{
    static const char *const used[] = { "q", "k", "v", "cu_seqlens_q", "cu_seqlens_k", "lengths_k", "bias", "alibi", "sinks", "mask", "documents", "do" };
    for (int64_t i = 0; i < rondo_arrays_count(in->file); i++) {
        const char *name = rondo_arrays_at(in->file, i)->name;
        bool known = false;
        for (size_t j = 0; j < sizeof used / sizeof *used; j++)
            known = known || !strcmp(name, used[j]);
        if (!known)
            return fail(EXIT_INPUT, "%s: a tensor '%s' has no meaning here; q, k, v, cu_seqlens_q, cu_seqlens_k, lengths_k, bias, alibi, sinks, "
                        "mask, documents and do have", path, name);
    }
    return 0;
}

static int check_shapes(struct attend_input *in, const char *path)
{
    const rondo_array *three[3] = { in->q, in->k, in->v };
    static const char *const names[3] = { "q", "k", "v" };
    const int dims = in->packed ? 3 : 4;
    for (int i = 0; i < 3; i++) {
        if (!three[i])
            return fail(EXIT_INPUT, "%s has no tensor '%s'; q, k and v are needed", path, names[i]);
        if (three[i]->type != RONDO_ARRAY_F32 && three[i]->type != RONDO_ARRAY_BF16 && three[i]->type != RONDO_ARRAY_F16)
            return fail(EXIT_INPUT, "%s: '%s' is %s; F32, BF16 or F16 is expected", path, names[i], attend_type_name(three[i]->type));
        if (three[i]->type != three[0]->type)
            return fail(EXIT_INPUT, "%s: '%s' is %s and 'q' is %s; all three must have one type", path, names[i], attend_type_name(three[i]->type),
                        attend_type_name(three[0]->type));
        if (three[i]->dims != dims)
            return fail(EXIT_INPUT, "%s: '%s' has %d dimensions; %s [%s%s, head size]%s", path, names[i], three[i]->dims,
                        in->packed ? "with cu_seqlens_q and cu_seqlens_k three are expected" : "four are expected", in->packed ? "" : "batch, ",
                        in->heads_first ? "heads, tokens" : "tokens, heads", in->packed ? "" : ", or three with cu_seqlens_q and cu_seqlens_k");
    }
    const int skip = in->packed ? 0 : 1, token = in->heads_first, head = !in->heads_first;
    const int64_t *q = in->q->shape + skip, *k = in->k->shape + skip, *v = in->v->shape + skip;
    if (!in->packed) {
        in->batch = in->q->shape[0];
        if (in->k->shape[0] != in->batch || in->v->shape[0] != in->batch)
            return fail(EXIT_INPUT, "%s: the batch sizes of q, k and v are %" PRId64 ", %" PRId64 " and %" PRId64 "; they must be equal", path,
                        in->batch, in->k->shape[0], in->v->shape[0]);
    } else {
        in->batch = 1;
    }
    in->type = in->q->type;
    in->q_rows = q[token];
    in->heads = q[head];
    in->head_dim = q[2];
    in->k_rows = k[token];
    in->kv_heads = k[head];
    in->value_dim = v[2];
    if (v[token] != k[token] || v[head] != k[head])
        return fail(EXIT_INPUT, "%s: k has %" PRId64 " tokens and %" PRId64 " heads, v has %" PRId64 " and %" PRId64 "; they must be equal", path,
                    k[token], k[head], v[token], v[head]);
    if (k[2] != q[2])
        return fail(EXIT_INPUT, "%s: the head size of q is %" PRId64 ", that of k is %" PRId64 "; they must be equal", path, q[2], k[2]);
    if (in->heads < 1 || in->kv_heads < 1 || in->heads % in->kv_heads)
        return fail(EXIT_INPUT, "%s: q has %" PRId64 " heads and k has %" PRId64 "; a multiple of k's (from 1 on) is expected for q", path,
                    in->heads, in->kv_heads);
    if (in->head_dim < 1 || in->value_dim < 1)
        return fail(EXIT_INPUT, "%s: the head sizes of q and v are %" PRId64 " and %" PRId64 "; at least 1 is expected", path, in->head_dim,
                    in->value_dim);
    return 0;
}

/* A vector of whole numbers of either width. *out: free() it. */
static int read_integers(struct attend_input *in, const char *path, const rondo_array *a, int64_t **out)
{
    const int64_t n = a->shape[0];
    const size_t size = a->type == RONDO_ARRAY_I64 ? 8 : 4;
    unsigned char *raw = room(n, size);
    int64_t *list = room(n, sizeof *list);
    int code = 0;
    if (!raw || !list)
        code = fail(EXIT_ROOM, "%s: not enough memory for the %" PRId64 " entries of '%s'", path, n, a->name);
    if (!code)
        code = fail_library(rondo_arrays_read(in->file, a, 0, a->bytes, raw), STAGE_INPUT);
    for (int64_t i = 0; i < n && !code; i++) {
        int32_t narrow;
        if (size == 8) {
            memcpy(&list[i], raw + 8 * i, 8);
        } else {
            memcpy(&narrow, raw + 4 * i, 4);
            list[i] = narrow;
        }
    }
    free(raw);
    if (code)
        free(list);
    else
        *out = list;
    return code;
}

static int read_starts(struct attend_input *in, const char *path, const char *name, int64_t rows, int64_t **out, int64_t *count)
{
    const rondo_array *a = rondo_arrays_find(in->file, name);
    if ((a->type != RONDO_ARRAY_I32 && a->type != RONDO_ARRAY_I64) || a->dims != 1 || a->shape[0] < 1)
        return fail(EXIT_INPUT, "%s: '%s' is no vector [sequences + 1] of I32 or I64", path, name);
    int code = read_integers(in, path, a, out);
    if (code)
        return code;
    *count = a->shape[0] - 1;
    const int64_t *x = *out;
    if (x[0] != 0)
        return fail(EXIT_INPUT, "%s: '%s' begins with %" PRId64 "; 0 is expected", path, name, x[0]);
    for (int64_t i = 0; i < *count; i++)
        if (x[i + 1] < x[i])
            return fail(EXIT_INPUT, "%s: '%s' falls from %" PRId64 " to %" PRId64 " at entry %" PRId64 "; it must not fall", path, name, x[i],
                        x[i + 1], i + 1);
    if (x[*count] != rows)
        return fail(EXIT_INPUT, "%s: '%s' ends with %" PRId64 "; the tensor's %" PRId64 " rows are expected", path, name, x[*count], rows);
    return 0;
}

static int allocate(struct attend_input *in, const char *path, int64_t sequences)
{
    /* No sequence at all runs as one without tokens; the result has the right (empty) shape. */
    in->sequences = sequences > 0 ? sequences : 1;
    int64_t **four[4] = { &in->tokens, &in->cached, &in->q_first, &in->k_first };
    for (int i = 0; i < 4; i++) {
        *four[i] = room(in->sequences, sizeof **four[i]);
        if (!*four[i])
            return fail(EXIT_ROOM, "%s: not enough memory for %" PRId64 " sequences", path, in->sequences);
        memset(*four[i], 0, (size_t)in->sequences * sizeof **four[i]);
    }
    return 0;
}

static int sequences_packed(struct attend_input *in, const char *path)
{
    int64_t *qs = NULL, *ks = NULL, nq = 0, nk = 0;
    int code = read_starts(in, path, "cu_seqlens_q", in->q_rows, &qs, &nq);
    if (!code)
        code = read_starts(in, path, "cu_seqlens_k", in->k_rows, &ks, &nk);
    if (!code && nq != nk)
        code = fail(EXIT_INPUT, "%s: cu_seqlens_q has %" PRId64 " sequences and cu_seqlens_k %" PRId64 "; they must be equal", path, nq, nk);
    if (!code)
        code = allocate(in, path, nq);
    for (int64_t s = 0; s < nq && !code; s++) {
        in->q_first[s] = qs[s];
        in->k_first[s] = ks[s];
        in->tokens[s] = qs[s + 1] - qs[s];
        in->cached[s] = ks[s + 1] - ks[s] - in->tokens[s];
    }
    free(qs);
    free(ks);
    return code;
}

static int sequences_batched(struct attend_input *in, const char *path)
{
    const rondo_array *lengths = rondo_arrays_find(in->file, "lengths_k");
    int64_t *keys = NULL;
    int code = 0;
    if (lengths) {
        if (lengths->type != RONDO_ARRAY_I32 || lengths->dims != 1 || lengths->shape[0] != in->batch)
            return fail(EXIT_INPUT, "%s: 'lengths_k' is no vector [%" PRId64 "] of I32", path, in->batch);
        code = read_integers(in, path, lengths, &keys);
    }
    if (!code)
        code = allocate(in, path, in->batch);
    for (int64_t b = 0; b < in->batch && !code; b++) {
        const int64_t n = keys ? keys[b] : in->k_rows;
        if (n < 0 || n > in->k_rows) {
            code = fail(EXIT_INPUT, "%s: entry %" PRId64 " of 'lengths_k' is %" PRId64 "; 0 to %" PRId64 " (the tokens of k) is expected", path, b,
                        n, in->k_rows);
            break;
        }
        in->q_first[b] = b * in->q_rows;
        in->k_first[b] = b * in->k_rows;
        in->tokens[b] = in->q_rows;
        in->cached[b] = n - in->q_rows;
    }
    free(keys);
    return code;
}

int attend_open(struct attend_input *in, const char *path, bool heads_first)
{
    memset(in, 0, sizeof *in);
    in->path = path;
    in->heads_first = heads_first;
    int code = fail_library(rondo_arrays_open(&in->file, path), STAGE_INPUT);
    if (code)
        return code;
    code = check_names(in, path);
    const bool starts_q = rondo_arrays_find(in->file, "cu_seqlens_q") != NULL, starts_k = rondo_arrays_find(in->file, "cu_seqlens_k") != NULL;
    in->packed = starts_q || starts_k;
    in->q = rondo_arrays_find(in->file, "q");
    in->k = rondo_arrays_find(in->file, "k");
    in->v = rondo_arrays_find(in->file, "v");
    in->dout = rondo_arrays_find(in->file, "do");
    if (!code && starts_q != starts_k)
        code = fail(EXIT_INPUT, "%s has '%s' and no '%s'; packed sequences need both", path, starts_q ? "cu_seqlens_q" : "cu_seqlens_k",
                    starts_q ? "cu_seqlens_k" : "cu_seqlens_q");
    if (!code && in->packed && rondo_arrays_find(in->file, "lengths_k"))
        code = fail(EXIT_INPUT, "%s has both 'lengths_k' and packed sequences; their lengths stand in cu_seqlens_k", path);
    if (!code)
        code = check_shapes(in, path);
    if (!code)
        code = in->packed ? sequences_packed(in, path) : sequences_batched(in, path);
    for (int64_t s = 0; s < in->sequences && !code; s++)
        if (in->cached[s] + in->tokens[s] > in->keys_most)
            in->keys_most = in->cached[s] + in->tokens[s];
    if (!code)
        code = attend_open_terms(in);
    if (code)
        attend_close(in);
    return code;
}

void attend_close(struct attend_input *in)
{
    attend_close_terms(in);
    rondo_arrays_close(in->file);
    free(in->tokens);
    free(in->cached);
    free(in->q_first);
    free(in->k_first);
    memset(in, 0, sizeof *in);
}
