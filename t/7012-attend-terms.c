/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo attend with all that a score may be and all that may hide a key: bias, slopes, sinks, a cap, dropout, masks, documents, windows and
 * lengths, batched and packed, heads first and last, against a formula in double precision written from the manual page; what must
 * be equal to the bit; probabilities; and each kind of bad input.
 */
#include <math.h>
#include <stdbool.h>

#include "program.h"
#include "rondo_lm.h"
#include "t/tensor_file.h"

/* ---- files ---- */

/* The bytes of a tensor in a file; NULL where it has none of that many bytes. free() it. */
static void *read_tensor(const char *name, const char *tensor, uint64_t bytes)
{
    char path[1024];
    rondo_arrays *f = NULL;
    void *data = NULL;
    snprintf(path, sizeof path, "%s/%s", scratch_dir, name);
    if (!rondo_arrays_open(&f, path)) {
        const rondo_array *a = rondo_arrays_find(f, tensor);
        if (a && a->bytes == bytes && (data = malloc(bytes + 1)) != NULL && rondo_arrays_read(f, a, 0, bytes, data)) {
            free(data);
            data = NULL;
        }
    }
    rondo_arrays_close(f);
    return data;
}

static int tensors_in(const char *name)
{
    char path[1024];
    rondo_arrays *f = NULL;
    snprintf(path, sizeof path, "%s/%s", scratch_dir, name);
    const int n = rondo_arrays_open(&f, path) ? -1 : (int)rondo_arrays_count(f);
    rondo_arrays_close(f);
    return n;
}

static uint32_t draw(uint64_t i, uint32_t stream)
{
    uint32_t r[4];
    const uint32_t counter[4] = { (uint32_t)i, (uint32_t)(i >> 32), stream, 0 }, key[2] = { 5, 6 };
    rondo_philox(r, counter, key);
    return r[0];
}

static float *numbers(int64_t count, uint32_t stream)
{
    float *x = malloc((size_t)(count + 1) * sizeof *x);
    for (int64_t i = 0; i < count; i++)
        x[i] = ((float)draw((uint64_t)i, stream) * 0x1p-32f - 0.5f) * 4.0f;
    return x;
}

/* ---- one set of arrays, seen as two sequences of a batch or as packed sequences ---- */

enum { B = 2, TQ = 70, TK = 300, H = 4, G = 2, D = 24, V = 16, SEQUENCES = 4 };
static float *q, *k, *v, *bias, *slopes, *sinks;
static unsigned char *mask;
static int32_t *documents;
static const int32_t lengths[B] = { 300, 150 }, cu_q[SEQUENCES + 1] = { 0, 25, 25, 60, 70 }, cu_k[SEQUENCES + 1] = { 0, 160, 170, 190, 300 };

static void make(void)
{
    q = numbers((int64_t)B * TQ * H * D, 0);
    k = numbers((int64_t)B * TK * G * D, 1);
    v = numbers((int64_t)B * TK * G * V, 2);
    bias = numbers((int64_t)B * H * TQ * TK, 3);
    slopes = numbers(H, 4);
    sinks = numbers(H, 5);
    mask = malloc((size_t)B * H * TQ * TK);
    documents = malloc((size_t)B * TK * sizeof *documents);
    for (int64_t i = 0; i < B * H * TQ * TK; i++) {
        const int64_t key = i % TK, row = i / TK;
        /* blocks of keys that a group of queries sees all or nothing of, and a ragged rest */
        const uint32_t block = draw((uint64_t)(row / 16 * 8 + key / 40), 6) % 4;
        mask[i] = block == 0 ? 0 : block == 1 ? 1 : draw((uint64_t)i, 7) & 1 ? 200 : 0;
        if (draw((uint64_t)i, 8) % 16 == 0)
            bias[i] = -INFINITY;
    }
    for (int64_t i = 0, document = 7; i < B * TK; i++) {
        if (draw((uint64_t)i, 9) % 45 == 0)
            document = (int64_t)(draw((uint64_t)i, 10) % 5) - 2;   /* numbers come again: then it is the same document */
        documents[i] = (int32_t)document;
    }
    slopes[1] = 0.0f;
    sinks[2] = -INFINITY;
}

enum { CAUSAL = 1, WINDOW = 2, SCALE = 4, CAP = 8, DROP = 16, LENGTHS = 32, DOCUMENTS = 64, SHARED_DOCUMENTS = 128, SLOPES = 256, SINKS = 512,
       MASK = 1024, MASK_HEADS = 2048, MASK_BATCH = 4096, BIAS = 8192, BIAS_HEADS = 16384, BIAS_BATCH = 32768, PACKED = 65536, PROBS = 1 << 17 };

struct view {                       /* of a case: where a sequence's rows and numbers are */
    int flags;
    int64_t sequences, tq, tk, q_first, k_first;
};

static void place(struct view *w, int64_t s)
{
    if (w->flags & PACKED) {
        w->q_first = cu_q[s], w->tq = cu_q[s + 1] - cu_q[s];
        w->k_first = cu_k[s], w->tk = cu_k[s + 1] - cu_k[s];
    } else {
        w->q_first = s * TQ, w->tq = TQ;
        w->k_first = s * TK, w->tk = w->flags & LENGTHS ? lengths[s] : TK;
    }
}

/* Element of bias or mask. */
static int64_t element(const struct view *w, int64_t s, int64_t i, int64_t h, int64_t j, int by_batch, int by_head)
{
    if (w->flags & PACKED)
        return ((by_head ? h : 0) * TQ + w->q_first + i) * TK + w->k_first + j;
    return (((by_batch ? s : 0) * (by_head ? H : 1) + (by_head ? h : 0)) * TQ + i) * TK + j;
}

static int sees(const struct view *w, int64_t s, int64_t i, int64_t h, int64_t j)
{
    const int f = w->flags;
    const int64_t at = i + w->tk - w->tq;
    if (((f & CAUSAL) && j > at) || ((f & WINDOW) && (j < at - 90 || j > at + 15)))
        return 0;
    if (f & (DOCUMENTS | SHARED_DOCUMENTS)) {
        const int32_t *d = documents + (f & DOCUMENTS ? w->k_first : f & PACKED ? w->k_first : 0);
        if (at < 0 || d[j] != d[at])
            return 0;
    }
    if ((f & MASK) && !mask[element(w, s, i, h, j, f & MASK_BATCH, f & MASK_HEADS)])
        return 0;
    return !(f & BIAS) || !isinf(bias[element(w, s, i, h, j, f & BIAS_BATCH, f & BIAS_HEADS)]);
}

static int dropped(int64_t s, int64_t at, int64_t h, int64_t j)
{
    const uint32_t counter[4] = { (uint32_t)(j / 4), (uint32_t)(uint64_t)at, (uint32_t)h | (uint32_t)(((uint64_t)at >> 32 & 0xff) << 24), (uint32_t)s };
    const uint32_t key[2] = { 77, 0 };
    uint32_t r[4];
    rondo_philox(r, counter, key);
    return r[j % 4] < 1288490189u;   /* 0.3 * 2^32 */
}

static void formula(const struct view *w, int64_t s, int64_t i, int64_t h, double *out, double *lse, double *probs)
{
    const int f = w->flags;
    const int64_t at = i + w->tk - w->tq;
    double x[TK], most = -INFINITY, sum = 0;
    for (int d = 0; d < V; d++)
        out[d] = 0;
    for (int64_t j = 0; j < w->tk; j++) {
        probs[j] = 0;
        x[j] = 0;
        if (!sees(w, s, i, h, j))
            continue;
        for (int d = 0; d < D; d++)
            x[j] += (double)q[((w->q_first + i) * H + h) * D + d] * (double)k[((w->k_first + j) * G + h / (H / G)) * D + d];
        x[j] *= f & SCALE ? 0.4 : 1.0 / sqrt(D);
        if (f & CAP)
            x[j] = 1.5 * tanh(x[j] / 1.5);
        if (f & SLOPES)
            x[j] -= (double)slopes[h] * fabs((double)(at - j));
        if (f & BIAS)
            x[j] += (double)bias[element(w, s, i, h, j, f & BIAS_BATCH, f & BIAS_HEADS)];
        most = fmax(most, x[j]);
    }
    *lse = -INFINITY;
    if (most == -INFINITY)
        return;
    if (f & SINKS)
        most = fmax(most, (double)sinks[h]);
    for (int64_t j = 0; j < w->tk; j++)
        if (sees(w, s, i, h, j))
            sum += probs[j] = exp(x[j] - most);
    if (f & SINKS)
        sum += exp((double)sinks[h] - most);
    for (int64_t j = 0; j < w->tk; j++) {
        probs[j] /= sum;
        for (int d = 0; d < V && !((f & DROP) && dropped(s, at, h, j)); d++)
            out[d] += probs[j] * (double)v[((w->k_first + j) * G + h / (H / G)) * V + d] / (f & DROP ? 0.7 : 1.0);
    }
    *lse = most + log(sum);
}

/* ---- cases ---- */

#define LIST_MOST 12
static int list_of(struct tensor *t, int f)
{
    const int packed = f & PACKED;
    int n = 0;
    if (packed) {
        t[n++] = (struct tensor){ "q", RONDO_ARRAY_F32, 3, { TQ, H, D }, q };
        t[n++] = (struct tensor){ "k", RONDO_ARRAY_F32, 3, { TK, G, D }, k };
        t[n++] = (struct tensor){ "v", RONDO_ARRAY_F32, 3, { TK, G, V }, v };
        t[n++] = (struct tensor){ "cu_seqlens_q", RONDO_ARRAY_I32, 1, { SEQUENCES + 1 }, cu_q };
        t[n++] = (struct tensor){ "cu_seqlens_k", RONDO_ARRAY_I32, 1, { SEQUENCES + 1 }, cu_k };
    } else {
        t[n++] = (struct tensor){ "q", RONDO_ARRAY_F32, 4, { B, TQ, H, D }, q };
        t[n++] = (struct tensor){ "k", RONDO_ARRAY_F32, 4, { B, TK, G, D }, k };
        t[n++] = (struct tensor){ "v", RONDO_ARRAY_F32, 4, { B, TK, G, V }, v };
    }
    if (f & LENGTHS)
        t[n++] = (struct tensor){ "lengths_k", RONDO_ARRAY_I32, 1, { B }, lengths };
    if (f & DOCUMENTS)
        t[n++] = packed ? (struct tensor){ "documents", RONDO_ARRAY_I32, 1, { TK }, documents }
                        : (struct tensor){ "documents", RONDO_ARRAY_I32, 2, { B, TK }, documents };
    if (f & SHARED_DOCUMENTS)
        t[n++] = (struct tensor){ "documents", RONDO_ARRAY_I32, 1, { TK }, documents };
    if (f & SLOPES)
        t[n++] = (struct tensor){ "alibi", RONDO_ARRAY_F32, 1, { H }, slopes };
    if (f & SINKS)
        t[n++] = (struct tensor){ "sinks", RONDO_ARRAY_F32, 1, { H }, sinks };
    if (f & MASK) {
        const int64_t heads = f & MASK_HEADS ? H : 1;
        t[n++] = packed ? (struct tensor){ "mask", RONDO_ARRAY_U8, 3, { heads, TQ, TK }, mask }
                        : (struct tensor){ "mask", f & MASK_HEADS ? RONDO_ARRAY_BOOL : RONDO_ARRAY_U8, 4, { f & MASK_BATCH ? B : 1, heads, TQ, TK }, mask };
    }
    if (f & BIAS) {
        const int64_t heads = f & BIAS_HEADS ? H : 1;
        t[n++] = packed ? (struct tensor){ "bias", RONDO_ARRAY_F32, 3, { heads, TQ, TK }, bias }
                        : (struct tensor){ "bias", RONDO_ARRAY_F32, 4, { f & BIAS_BATCH ? B : 1, heads, TQ, TK }, bias };
    }
    return n;
}

static const char *words_of(int f)
{
    static char text[160];
    snprintf(text, sizeof text, "%s%s%s%s%s%s", f & CAUSAL ? "--causal " : "", f & WINDOW ? "--window 90,15 " : "", f & SCALE ? "--scale 0.4 " : "",
             f & CAP ? "--softcap 1.5 " : "", f & DROP ? "--dropout 0.3 --seed 77 " : "", f & PROBS ? "--probs " : "");
    return text;
}

static int64_t rows_of(int f)
{
    return f & PACKED ? TQ : B * TQ;
}

static int64_t probs_width(int f)
{
    return f & PACKED ? 160 : TK;
}

static void against_formula(const char *name, const char *file, int f)
{
    const int64_t rows = rows_of(f), width = probs_width(f);
    float *out = read_tensor(file, "out", (uint64_t)(rows * H * V) * 4), *lse = read_tensor(file, "lse", (uint64_t)(rows * H) * 4);
    float *probs = f & PROBS ? read_tensor(file, "probs", (uint64_t)(rows * H * width) * 4) : NULL;
    struct view w = { f, f & PACKED ? SEQUENCES : B, 0, 0, 0, 0 };
    double worst = 0, worst_lse = 0, worst_probs = 0;
    if (!ok(out && lse && (probs || !(f & PROBS)) && tensors_in(file) == 2 + !!(f & PROBS), "%s: the file has what it should, in its shape, and no more",
            name)) {
        diag("%s", program_err);
        free(out), free(lse), free(probs);
        return;
    }
    for (int64_t s = 0; s < w.sequences; s++) {
        place(&w, s);
        for (int64_t i = 0; i < w.tq; i++)
            for (int64_t h = 0; h < H; h++) {
                double want[V], want_lse, want_probs[TK];
                const int64_t block = f & PACKED ? h * TQ + w.q_first + i : (s * H + h) * TQ + i;
                formula(&w, s, i, h, want, &want_lse, want_probs);
                for (int d = 0; d < V; d++)
                    worst = worse(worst, fabs((double)out[((w.q_first + i) * H + h) * V + d] - want[d]));
                worst_lse = worse(worst_lse, (double)lse[block] == want_lse ? 0 : isinf(want_lse) ? INFINITY : fabs((double)lse[block] - want_lse));
                for (int64_t j = 0; probs && j < width; j++)
                    worst_probs = worse(worst_probs, fabs((double)probs[block * width + j] - (j < w.tk ? want_probs[j] : 0)));
            }
    }
    ok(worst < 2e-5 && worst_lse < 3e-5 && worst_probs < 1e-5, "%s agrees with the formula (%.2g, %.2g, %.2g)", name, worst, worst_lse, worst_probs);
    free(out);
    free(lse);
    free(probs);
}

/* One rank against the formula; then other ways to do the same, with one hash. */
static void one_case(const char *name, int f)
{
    static const char *const ways[] = {
        "--ranks 3 --layout snake --algorithm pass-kv", "--ranks 4 --algorithm pass-q --layout striped", "--ranks 2 --layout contiguous --threads 2",
        "--ranks 5 --isa scalar --algorithm reduce", "--ranks 3 --algorithm all-to-all", "--ranks 6 --algorithm mesh --grid 3,2 --layout snake",
        "--ranks 4 --algorithm all-gather --layout zigzag", "--ranks 3 --algorithm halo --layout contiguous", "--ranks 4 --algorithm all-to-all --grid 2,2",
        "--ranks 5 --algorithm mesh --layout striped", "--ranks 7 --algorithm pass-q",
    };
    enum { WAYS = sizeof ways / sizeof *ways };
    static int turn;
    struct tensor list[LIST_MOST];
    char want[32];
    write_tensors("in", list, list_of(list, f));
    const int first = rondo("", "attend in -o one --json %s", words_of(f));
    if (!ok(first == 0, "%s: runs", name))
        diag("%s", program_err);
    snprintf(want, sizeof want, "%s", program_text("hash"));
    against_formula(name, "one", f);
    for (int i = 0; i < 2; i++) {
        const char *way = ways[turn++ % WAYS];
        const int code = rondo("", "attend in -o many --json %s %s", words_of(f), way);
        char line[2200];
        snprintf(line, sizeof line, "cmp -s '%s/one' '%s/many'", scratch_dir, scratch_dir);
        if (!ok(!code && strlen(want) == 16 && !strcmp(program_text("hash"), want) && !system(line), "%s, %s: the same hash and file", name, way))
            diag("exit %d, %s, want %s: %s", code, program_text("hash"), want, program_err);
    }
}

static void cases(void)
{
    one_case("softcap", CAUSAL | CAP);
    one_case("slopes", CAUSAL | SLOPES);
    one_case("slopes, no other mask", SLOPES | SCALE);
    one_case("sinks", CAUSAL | SINKS);
    one_case("bias", BIAS | BIAS_HEADS | BIAS_BATCH);
    one_case("one bias for all", CAUSAL | BIAS);
    one_case("bias by head", CAUSAL | BIAS | BIAS_HEADS);
    one_case("bias by batch", BIAS | BIAS_BATCH | LENGTHS);
    one_case("dropout", CAUSAL | DROP);
    one_case("mask", MASK | MASK_HEADS | MASK_BATCH);
    one_case("one mask for all", CAUSAL | MASK);
    one_case("mask by head", CAUSAL | MASK | MASK_HEADS | WINDOW);
    one_case("mask by batch", MASK | MASK_BATCH | LENGTHS);
    one_case("documents", DOCUMENTS | CAUSAL);
    one_case("documents alike in the batch", SHARED_DOCUMENTS | LENGTHS);
    one_case("documents in a window", DOCUMENTS | WINDOW);
    one_case("probabilities", CAUSAL | PROBS | LENGTHS);
    one_case("all at once", CAUSAL | WINDOW | SCALE | CAP | DROP | LENGTHS | DOCUMENTS | SLOPES | SINKS | MASK | MASK_HEADS | BIAS | BIAS_BATCH | PROBS);
    one_case("packed: softcap, slopes, sinks, dropout", PACKED | CAUSAL | CAP | SLOPES | SINKS | DROP);
    one_case("packed: bias", PACKED | BIAS);
    one_case("packed: bias by head", PACKED | CAUSAL | BIAS | BIAS_HEADS | PROBS);
    one_case("packed: mask", PACKED | MASK | WINDOW);
    one_case("packed: mask by head and documents", PACKED | MASK | MASK_HEADS | DOCUMENTS);
    one_case("packed: documents", PACKED | DOCUMENTS | CAUSAL | SINKS);
}

/* ---- what must be equal ---- */

static char kept[32];

static void keep(const char *options, const struct tensor *list, int n)
{
    write_tensors("in", list, n);
    if (rondo("", "attend in -o one --json %s", options))
        diag("%s: %s", options, program_err);
    snprintf(kept, sizeof kept, "%s", program_text("hash"));
}

static void same(const char *what, const char *options, const struct tensor *list, int n)
{
    write_tensors("in", list, n);
    const int code = rondo("", "attend in -o two --json --ranks 3 %s", options);
    if (!ok(!code && strlen(kept) == 16 && !strcmp(kept, program_text("hash")), "%s", what))
        diag("exit %d, %s, want %s: %s", code, program_text("hash"), kept, program_err);
}

/* [.., T, H, D] to [.., H, T, D]; or heads in another order. */
static float *turned(const float *x, int64_t batch, int64_t tokens, int64_t heads, int64_t dim, const int *order)
{
    float *y = malloc((size_t)(batch * tokens * heads * dim) * sizeof *y);
    for (int64_t b = 0; b < batch; b++)
        for (int64_t t = 0; t < tokens; t++)
            for (int64_t h = 0; h < heads; h++)
                memcpy(y + (order ? (b * tokens + t) * heads + h : (b * heads + h) * tokens + t) * dim,
                       x + ((b * tokens + t) * heads + (order ? order[h] : h)) * dim, (size_t)dim * sizeof *y);
    return y;
}

static void heads_first(void)
{
    for (int f = CAUSAL | SINKS | BIAS | BIAS_HEADS | LENGTHS | MASK | PROBS; f; f = f & PACKED ? 0 : (f & ~LENGTHS) | PACKED) {
        struct tensor list[LIST_MOST], other[LIST_MOST];
        const int64_t batch = f & PACKED ? 1 : B, skip = f & PACKED ? 0 : 1, rows = rows_of(f);
        const int n = list_of(list, f);
        memcpy(other, list, sizeof list);
        for (int i = 0; i < 3; i++) {
            const int64_t *s = list[i].shape + skip;
            other[i].data = turned(list[i].data, batch, s[0], s[1], s[2], NULL);
            other[i].shape[skip] = s[1];
            other[i].shape[skip + 1] = s[0];
        }
        keep(words_of(f), list, n);
        char options[200];
        snprintf(options, sizeof options, "%s --heads-first --threads 1", words_of(f));
        same(f & PACKED ? "heads first, packed: the same hash" : "heads first: the same hash", options, other, n);
        float *a = read_tensor("one", "out", (uint64_t)(rows * H * V) * 4), *b = read_tensor("two", "out", (uint64_t)(rows * H * V) * 4);
        float *want = a ? turned(a, batch, rows / batch, H, V, NULL) : NULL;
        ok(want && b && !memcmp(want, b, (size_t)(rows * H * V) * 4), "out is stored so too");
        free(a), free(b), free(want);
        const uint64_t bytes = (uint64_t)(rows * H * probs_width(f)) * 4;
        a = read_tensor("one", "probs", bytes), b = read_tensor("two", "probs", bytes);
        ok(a && b && !memcmp(a, b, bytes), "probs keep their shape");
        free(a), free(b);
        for (int i = 0; i < 3; i++)
            free((void *)(uintptr_t)other[i].data);
    }
    refuses(3, "[batch, heads, tokens, head size]", "attend packed3 -o none --heads-first");
}

static void properties(void)
{
    struct tensor list[LIST_MOST];
    int n = list_of(list, CAUSAL);
    keep("--causal", list, n);
    same("a window as wide as the keys is none", "--causal --window 300,0", list, n);
    same("dropout 0 is none", "--causal --dropout 0 --seed 9", list, n);
    same("with probabilities the hash is that without", "--causal --probs", list, n);
    float *none = calloc((size_t)B * H * TQ * TK, sizeof *none), no_sinks[H] = { -INFINITY, -INFINITY, -INFINITY, -INFINITY };
    list[n] = (struct tensor){ "sinks", RONDO_ARRAY_F32, 1, { H }, no_sinks };
    same("sinks of -infinity are none", "--causal", list, n + 1);
    n = list_of(list, MASK | MASK_HEADS | MASK_BATCH);
    keep("", list, n);
    for (int64_t i = 0; i < B * H * TQ * TK; i++)
        none[i] = mask[i] ? 0.0f : -INFINITY;
    list[n - 1] = (struct tensor){ "bias", RONDO_ARRAY_F32, 4, { B, H, TQ, TK }, none };
    same("a bias of 0 and -infinity is a mask", "", list, n);
    free(none);
    /* what a mask hides may hold anything */
    n = list_of(list, MASK | CAUSAL);
    float *dirty = malloc((size_t)B * TK * G * D * sizeof *dirty);
    unsigned char *blind = malloc((size_t)TQ * TK);
    memcpy(dirty, k, (size_t)B * TK * G * D * sizeof *dirty);
    for (int64_t i = 0; i < TQ * TK; i++)
        blind[i] = i % TK % 7 != 3;
    list[n - 1].data = blind;
    keep("--causal", list, n);
    for (int64_t j = 0; j < B * TK; j++)
        for (int64_t d = 0; d < G * D && j % TK % 7 == 3; d++)
            dirty[j * G * D + d] = d % 2 ? NAN : INFINITY;
    list[1].data = dirty;
    same("NaN and infinity in hidden keys reach nobody", "--causal", list, n);
    free(dirty);
    free(blind);
    /* a cap beyond all scores */
    n = list_of(list, CAUSAL);
    keep("--causal", list, n);
    ok(!rondo("", "attend in -o two --causal --softcap 1e6"), "a cap of a million runs");
    const uint64_t bytes = (uint64_t)B * TQ * H * V * 4;
    float *a = read_tensor("one", "out", bytes), *b = read_tensor("two", "out", bytes);
    double worst = a && b ? 0 : INFINITY;
    for (uint64_t i = 0; a && b && i < bytes / 4; i++)
        worst = worse(worst, fabs((double)a[i] - (double)b[i]));
    ok(worst < 2e-6, "a cap of a million is next to none (%.2g)", worst);
    free(a), free(b);
}

/* Heads in another order, with all that they have: results in that order. */
static void permuted(void)
{
    static const int order[H] = { 2, 0, 3, 1 };
    struct tensor list[LIST_MOST];
    int n = list_of(list, CAUSAL | SLOPES | SINKS | BIAS | BIAS_HEADS);
    float *kk = numbers((int64_t)B * TK * H * D, 21), *vv = numbers((int64_t)B * TK * H * V, 22), *copies[6];
    list[1].data = kk, list[1].shape[2] = H;
    list[2].data = vv, list[2].shape[2] = H;
    keep("--causal", list, n);
    copies[0] = turned(q, B, TQ, H, D, order), copies[1] = turned(kk, B, TK, H, D, order), copies[2] = turned(vv, B, TK, H, V, order);
    copies[3] = turned(slopes, 1, 1, H, 1, order), copies[4] = turned(sinks, 1, 1, H, 1, order);
    copies[5] = turned(bias, 1, 1, H, (int64_t)TQ * TK, order);
    for (int i = 0; i < 6; i++)
        list[i].data = copies[i];
    write_tensors("in", list, n);
    ok(!rondo("", "attend in -o two --causal --ranks 3 --algorithm pass-q"), "heads in another order run");
    const uint64_t bytes = (uint64_t)B * TQ * H * V * 4;
    float *a = read_tensor("one", "out", bytes), *b = read_tensor("two", "out", bytes), *want = a ? turned(a, B, TQ, H, V, order) : NULL;
    ok(want && b && !memcmp(want, b, bytes), "and give their results in that order");
    free(a), free(b), free(want), free(kk), free(vv);
    for (int i = 0; i < 6; i++)
        free(copies[i]);
}

/* Documents of whole nodes of the tree are sequences of their own, to the bit; other ones within rounding. */
static void documents_are_sequences(void)
{
    enum { T = 640 };
    static const int32_t whole[4] = { 0, 256, 512, 640 }, ragged[4] = { 0, 100, 333, 640 };
    float *x = numbers((int64_t)T * H * D, 31), *y = numbers((int64_t)T * G * D, 32), *z = numbers((int64_t)T * G * V, 33);
    for (int pass = 0; pass < 2; pass++) {
        const int32_t *cu = pass ? ragged : whole;
        int32_t ids[T];
        for (int i = 0; i < T; i++)
            ids[i] = i < cu[1] ? 4 : i < cu[2] ? 9 : 1;
        const struct tensor packed[5] = { { "q", RONDO_ARRAY_F32, 3, { T, H, D }, x }, { "k", RONDO_ARRAY_F32, 3, { T, G, D }, y },
                                          { "v", RONDO_ARRAY_F32, 3, { T, G, V }, z }, { "cu_seqlens_q", RONDO_ARRAY_I32, 1, { 4 }, cu },
                                          { "cu_seqlens_k", RONDO_ARRAY_I32, 1, { 4 }, cu } };
        const struct tensor one[4] = { { "q", RONDO_ARRAY_F32, 4, { 1, T, H, D }, x }, { "k", RONDO_ARRAY_F32, 4, { 1, T, G, D }, y },
                                       { "v", RONDO_ARRAY_F32, 4, { 1, T, G, V }, z }, { "documents", RONDO_ARRAY_I32, 1, { T }, ids } };
        write_tensors("in", packed, 5);
        write_tensors("in2", one, 4);
        ok(!rondo("", "attend in -o one --causal --ranks 2") && !rondo("", "attend in2 -o two --causal --ranks 3"), "documents and packed sequences run");
        const uint64_t bytes = (uint64_t)T * H * V * 4;
        float *a = read_tensor("one", "out", bytes), *b = read_tensor("two", "out", bytes);
        double worst = a && b ? 0 : INFINITY;
        for (uint64_t i = 0; a && b && i < bytes / 4; i++)
            worst = worse(worst, fabs((double)a[i] - (double)b[i]));
        if (pass)
            ok(worst < 2e-6, "documents that begin anywhere are sequences within rounding (%.2g)", worst);
        else
            ok(a && b && !memcmp(a, b, bytes), "documents of whole nodes are packed sequences, to the bit");
        free(a), free(b);
    }
    free(x), free(y), free(z);
}

/* With values of 1 an output is the part of the weights that is kept, divided by 1 - P: 1 on average. */
static void dropout_mean(void)
{
    struct tensor list[LIST_MOST];
    const int n = list_of(list, 0);
    const uint64_t count = (uint64_t)B * TQ * H * V;
    float *ones = malloc((size_t)B * TK * G * V * sizeof *ones);
    double sum = 0;
    char hashes[4][32];
    for (int64_t i = 0; i < B * TK * G * V; i++)
        ones[i] = 1.0f;
    list[2].data = ones;
    write_tensors("in", list, n);
    for (int seed = 0; seed < 4; seed++) {
        rondo("", "attend in -o one --json --dropout 0.4 --seed %d", seed);
        snprintf(hashes[seed], sizeof hashes[seed], "%s", program_text("hash"));
        float *out = read_tensor("one", "out", count * 4);
        for (uint64_t i = 0; out && i < count; i += V)
            sum += (double)out[i];
        free(out);
    }
    const double mean = sum / (4.0 * B * TQ * H);
    ok(mean > 0.99 && mean < 1.01, "what dropout keeps is all, on average (%.4f)", mean);
    ok(strcmp(hashes[0], hashes[1]) && strcmp(hashes[1], hashes[2]) && strcmp(hashes[0], hashes[3]), "another seed drops others");
    rondo("", "attend in -o one --json --dropout 0.4");
    ok(!strcmp(program_text("hash"), hashes[0]), "the seed is 0 by default");
    free(ones);
}

/* Processes map the file each for itself, and rank 0 writes what all have. */
static void under_mpi(void)
{
    const char *mpirun = getenv("MPIRUN");
    const int f = CAUSAL | CAP | SLOPES | SINKS | MASK | MASK_HEADS | BIAS | BIAS_HEADS | DOCUMENTS | DROP | PROBS;
    struct tensor list[LIST_MOST];
    char before[1100], line[2200];
    if (!mpirun || !*mpirun) {
        skip(2, "no mpirun");
        return;
    }
    keep(words_of(f), list, list_of(list, f));
    snprintf(before, sizeof before, "%s -n 3", mpirun);
    const int code = rondo(before, "attend in -o two --json %s --algorithm mesh </dev/null", words_of(f));
    if (!ok(!code && strlen(kept) == 16 && !strcmp(program_text("hash"), kept), "3 MPI processes give the same hash"))
        diag("exit %d: %s %s", code, program_out, program_err);
    snprintf(line, sizeof line, "cmp -s '%s/one' '%s/two'", scratch_dir, scratch_dir);
    is_int(system(line), 0, "and the same file");
}

/* What ran is told. */
static void reported(void)
{
    struct tensor list[LIST_MOST];
    write_tensors("in", list, list_of(list, CAUSAL));
    rondo("", "attend in -o one --json --causal --ranks 6 --algorithm mesh --grid 3,2 --dropout 0.25 --seed 11 --layout document");
    json_t *r = program_json();
    const json_t *grid = json_object_get(r, "grid");
    ok(json_integer_value(json_array_get(grid, 0)) == 3 && json_integer_value(json_array_get(grid, 1)) == 2 && !strcmp(program_text("algorithm"), "mesh") &&
       !strcmp(program_text("layout"), "document"), "algorithm, grid and layout");
    ok(json_number_value(json_object_get(r, "imbalance")) >= 1 && json_integer_value(json_object_get(r, "seed")) == 11 &&
       json_real_value(json_object_get(r, "dropout")) > 0.24, "imbalance, dropout and seed");
    json_decref(r);
    rondo("", "attend in -o one --json --causal --ranks 3 --algorithm halo");
    r = program_json();
    ok(r && !json_object_get(r, "grid") && !json_object_get(r, "seed"), "and only where there are some");
    json_decref(r);
}

/* ---- refusals ---- */

static void bad_input(void)
{
    struct tensor list[LIST_MOST];
    int n = list_of(list, 0), p;
    const float bad_slope[H] = { 1, NAN, 1, 1 }, bad_sink[H] = { 1, 1, INFINITY, 1 };
    const struct {
        const char *word;
        struct tensor t;
    } cases[] = {
        { "[1 or 2, 1 or 4, 70, 300] is expected", { "bias", RONDO_ARRAY_F32, 4, { 2, 4, 300, 70 }, bias } },
        { "'bias' is [2, 2, 70, 300]", { "bias", RONDO_ARRAY_F32, 4, { 2, 2, 70, 300 }, bias } },
        { "'bias' is [4, 70, 300]", { "bias", RONDO_ARRAY_F32, 3, { 4, 70, 300 }, bias } },
        { "'bias' is F16; F32", { "bias", RONDO_ARRAY_F16, 4, { 1, 1, 70, 300 }, bias } },
        { "'mask' is F32; U8 or BOOL", { "mask", RONDO_ARRAY_F32, 4, { 1, 1, 70, 300 }, bias } },
        { "'mask' is [1, 1, 70, 299]", { "mask", RONDO_ARRAY_U8, 4, { 1, 1, 70, 299 }, mask } },
        { "'mask' is [70, 300]", { "mask", RONDO_ARRAY_BOOL, 2, { 70, 300 }, mask } },
        { "'mask' is [3, 1, 70, 300]", { "mask", RONDO_ARRAY_U8, 4, { 3, 1, 70, 300 }, mask } },
        { "'documents'", { "documents", RONDO_ARRAY_I32, 1, { 70 }, documents } },
        { "'documents'", { "documents", RONDO_ARRAY_I32, 2, { 1, 300 }, documents } },
        { "'documents'", { "documents", RONDO_ARRAY_I64, 1, { 300 }, documents } },
        { "'documents'", { "documents", RONDO_ARRAY_I32, 3, { 1, 2, 300 }, documents } },
        { "'alibi' is no vector [4]", { "alibi", RONDO_ARRAY_F32, 1, { 2 }, slopes } },
        { "'alibi' is no vector [4]", { "alibi", RONDO_ARRAY_BF16, 1, { 4 }, slopes } },
        { "entry 1 of 'alibi' is", { "alibi", RONDO_ARRAY_F32, 1, { H }, bad_slope } },
        { "'sinks' is no vector [4]", { "sinks", RONDO_ARRAY_F32, 2, { 1, 4 }, sinks } },
        { "entry 2 of 'sinks' is inf", { "sinks", RONDO_ARRAY_F32, 1, { H }, bad_sink } },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        list[n] = cases[i].t;
        write_tensors("bad", list, n + 1);
        refuses(3, cases[i].word, "attend bad -o none --ranks 2");
    }
    p = list_of(list, PACKED);
    list[p] = (struct tensor){ "bias", RONDO_ARRAY_F32, 4, { 1, 1, TQ, TK }, bias };
    write_tensors("bad", list, p + 1);
    refuses(3, "[1 or 4, 70, 300] is expected", "attend bad -o none");
    list[p] = (struct tensor){ "documents", RONDO_ARRAY_I32, 2, { 1, TK }, documents };
    write_tensors("bad", list, p + 1);
    refuses(3, "no vector [300]", "attend bad -o none");
    write_tensors("packed3", list, 3);   /* three dimensions, and no starts */
    /* more probabilities than there can be room for */
    enum { LONG = 1 << 21 };
    unsigned short *halves = calloc(LONG, sizeof *halves);
    const struct tensor longer[3] = { { "q", RONDO_ARRAY_F16, 4, { 1, LONG, 1, 1 }, halves }, { "k", RONDO_ARRAY_F16, 4, { 1, LONG, 1, 1 }, halves },
                                      { "v", RONDO_ARRAY_F16, 4, { 1, LONG, 1, 1 }, halves } };
    write_tensors("long", longer, 3);
    free(halves);
    refuses(4, "16384.00 GiB", "attend long -o none --probs");
    write_tensors("in", list, list_of(list, 0));
    const int code = rondo("sh -c 'ulimit -f 1000 && exec \"$0\" \"$@\"'", "attend in -o none --probs");   /* 0.5 MB; the probabilities are 0.7 */
    ok(code == 4 && one_sentence() && strstr(program_err, "the disk of none has room for"), "no room on the disk: exit 4, before anything is computed");
    ok(!exists("none") && files_like("none") == 0, "no refusal leaves a file behind");
}

/* Nothing to see or nobody who looks: arrays without elements come and go too. */
static void nothing(void)
{
    static const struct { const char *name; int64_t tq, tk; bool packed; } with[] = {
        { "no keys", 3, 0, false }, { "no queries", 0, 3, false }, { "no keys, packed", 3, 0, true }, { "neither, packed", 0, 0, true },
    };
    float room[3 * 8] = { 1 };
    for (int i = 0; i < (int)(sizeof with / sizeof *with); i++) {
        const int64_t tq = with[i].tq, tk = with[i].tk;
        const int64_t starts_q[2] = { 0, tq }, starts_k[2] = { 0, tk };
        struct tensor list[7] = { { "q", RONDO_ARRAY_F32, 4, { 1, tq, 2, 4 }, room }, { "k", RONDO_ARRAY_F32, 4, { 1, tk, 1, 4 }, room },
                                  { "v", RONDO_ARRAY_F32, 4, { 1, tk, 1, 4 }, room }, { "do", RONDO_ARRAY_F32, 4, { 1, tq, 2, 4 }, room },
                                  { "bias", RONDO_ARRAY_F32, 4, { 1, 2, tq, tk }, room },
                                  { "cu_seqlens_q", RONDO_ARRAY_I64, 1, { 2 }, starts_q }, { "cu_seqlens_k", RONDO_ARRAY_I64, 1, { 2 }, starts_k } };
        for (int t = 0; t < 5 && with[i].packed; t++) {
            list[t].dims = 3;
            memmove(list[t].shape, list[t].shape + 1, 3 * sizeof *list[t].shape);
        }
        write_tensors("nothing", list, with[i].packed ? 7 : 5);
        for (int ranks = 1; ranks <= 3; ranks += 2) {
            char options[128];
            snprintf(options, sizeof options, "attend nothing -o out --probs --ranks %d", ranks);
            const int code = rondo("", options);
            void *out = read_tensor("out", "out", (uint64_t)tq * 8 * sizeof(float)), *probs = read_tensor("out", "probs", 0);
            float *lse = read_tensor("out", "lse", (uint64_t)tq * 2 * sizeof(float));
            bool empty = !code && out && lse && probs && tensors_in("out") == 7;
            for (int64_t r = 0; r < 2 * tq && empty; r++)
                empty = lse[r] == -INFINITY;
            ok(empty, "%s on %d ranks, with a bias, probabilities and gradients%s%s", with[i].name, ranks, code ? ": " : "", code ? program_err : "");
            free(out), free(probs), free(lse);
        }
    }
}

int main(void)
{
    if (!getenv("RONDO") || !*getenv("RONDO"))
        return skip_all("the program was not built");
    scratch_make("7012-attend-terms");
    make();
    nothing();
    bad_input();
    cases();
    heads_first();
    properties();
    permuted();
    documents_are_sequences();
    dropout_mean();
    reported();
    under_mpi();
    free(q), free(k), free(v), free(bias), free(slopes), free(sinks), free(mask), free(documents);
    scratch_remove();
    return done();
}
