/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo attend with `do`: the gradients in its file are the library's, bit for bit (t/3500 has these against an oracle), batched, packed and
 * heads first, on one rank and on several, with one hash; padding has gradients of 0; what there are no gradients for is refused.
 */
#include "program.h"
#include "rondo_lm.h"
#include "t/backward.h"
#include "t/tensor_file.h"

/* Whether an array of a file has these bytes. */
static int holds(const char *name, const char *array, const void *want, size_t bytes)
{
    char path[1024];
    rondo_arrays *f = NULL;
    snprintf(path, sizeof path, "%s/%s", scratch_dir, name);
    char *got = malloc(bytes + 1);
    const rondo_array *a = rondo_arrays_open(&f, path) ? NULL : rondo_arrays_find(f, array);
    const int same = a && a->bytes == bytes && !rondo_arrays_read(f, a, 0, bytes, got) && !memcmp(got, want, bytes);
    rondo_arrays_close(f);
    free(got);
    return same;
}

/* [heads, rows, dim] of [rows, heads, dim], batch by batch. */
static float *turned(const void *from, int64_t batch, int64_t rows, int64_t heads, int64_t dim)
{
    const float *x = from;
    float *y = malloc((size_t)(batch * rows * heads * dim + 1) * sizeof *y);
    for (int64_t b = 0; b < batch; b++)
        for (int64_t i = 0; i < rows; i++)
            for (int64_t h = 0; h < heads; h++)
                memcpy(y + ((b * heads + h) * rows + i) * dim, x + ((b * rows + i) * heads + h) * dim, (size_t)dim * sizeof *y);
    return y;
}

static char hash[64];

/* Runs it, on one rank first, and says whether the hash stays. */
static int runs(const char *file, const char *words)
{
    char line[512];
    snprintf(line, sizeof line, "attend %s -o result %s --json", file, words);
    if (rondo("", "%s", line)) {
        diag("%s", program_err);
        return 0;
    }
    if (!strstr(words, "--ranks") && !strstr(words, "--heads-first"))
        snprintf(hash, sizeof hash, "%s", program_text("hash"));
    return *hash && !strcmp(hash, program_text("hash"));
}

/* The same of processes. */
static void under_mpi(const char *file)
{
    static const char *const ways[] = { "pass-kv", "mesh", "all-to-all" };
    const char *mpirun = getenv("MPIRUN");
    char before[1100];
    for (int i = 0; i < 3; i++) {
        if (!mpirun || !*mpirun) {
            skip(1, "no mpirun");
            continue;
        }
        snprintf(before, sizeof before, "%s -n %d", mpirun, i == 1 ? 4 : 2);
        const int code = rondo(before, "attend %s -o result --json --causal --algorithm %s </dev/null", file, ways[i]);
        if (!ok(!code && !strcmp(hash, program_text("hash")) && !strcmp(program_text("backward_algorithm"), ways[i]), "MPI processes by %s: the same hash", ways[i]))
            diag("exit %d: %s %s", code, program_out, program_err);
    }
}

static void batched(void)
{
    struct problem p = { .sequences = 2, .tokens = { 140, 140 }, .cached = { 60, 60 }, .heads = 4, .kv_heads = 2, .head_dim = 8, .value_dim = 6,
                         .causal = 1, .bias = 1, .sinks = 1, .seed = 61 };
    struct backward_setup s = { .ranks = 1 };
    struct gradients g;
    static const char *const ways[] = { "--causal", "--causal --ranks 3 --algorithm all-gather --layout zigzag", "--causal --ranks 2 --algorithm halo --threads 2",
                                        "--causal --ranks 3 --algorithm pass-kv", "--causal --ranks 2 --algorithm pass-q --layout snake", "--causal --ranks 4 --algorithm mesh",
                                        "--causal --ranks 2 --algorithm all-to-all",
                                        "--causal --ranks 5 --layout striped --algorithm all-gather" };
    problem_data(&p);
    ok(!solve_backward(&p, &s, &g), "the library");
    const int64_t B = 2, Q = 140, K = 200;
    const struct tensor list[] = { { "q", RONDO_ARRAY_F32, 4, { B, Q, 4, 8 }, p.q }, { "k", RONDO_ARRAY_F32, 4, { B, K, 2, 8 }, p.k },
                                   { "v", RONDO_ARRAY_F32, 4, { B, K, 2, 6 }, p.v }, { "do", RONDO_ARRAY_F32, 4, { B, Q, 4, 6 }, g.dout },
                                   { "bias", RONDO_ARRAY_F32, 4, { B, 1, Q, K }, p.bias_of }, { "sinks", RONDO_ARRAY_F32, 1, { 4 }, p.sink } };
    write_tensors("batched", list, 6);
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        const int same = runs("batched", ways[i]);
        ok(same && holds("result", "out", g.out, (size_t)(B * Q * 4 * 6 * 4)) && holds("result", "dq", g.dq, tensor_bytes(list)) &&
           holds("result", "dk", g.dk, tensor_bytes(list + 1)) && holds("result", "dv", g.dv, tensor_bytes(list + 2)) &&
           holds("result", "dbias", g.dbias, tensor_bytes(list + 4)) && holds("result", "dsinks", g.dsinks, 16), "batched, %s", ways[i]);
    }
    ok(!strcmp(program_text("backward_algorithm"), "all-gather"), "the report says how gradients came");
    under_mpi("batched");
    float *q = turned(p.q, B, Q, 4, 8), *k = turned(p.k, B, K, 2, 8), *v = turned(p.v, B, K, 2, 6), *o = turned(g.dout, B, Q, 4, 6);
    float *dq = turned(g.dq, B, Q, 4, 8), *dk = turned(g.dk, B, K, 2, 8), *dv = turned(g.dv, B, K, 2, 6);
    const struct tensor outside[] = { { "q", RONDO_ARRAY_F32, 4, { B, 4, Q, 8 }, q }, { "k", RONDO_ARRAY_F32, 4, { B, 2, K, 8 }, k },
                                      { "v", RONDO_ARRAY_F32, 4, { B, 2, K, 6 }, v },
                                      { "do", RONDO_ARRAY_F32, 4, { B, 4, Q, 6 }, o }, list[4], list[5] };
    write_tensors("outside", outside, 6);
    ok(runs("outside", "--causal --heads-first --ranks 2") && holds("result", "dq", dq, tensor_bytes(list)) &&
       holds("result", "dk", dk, tensor_bytes(list + 1)) && holds("result", "dv", dv, tensor_bytes(list + 2)),
       "heads first: the same hash, gradients as their inputs lie");
    const struct tensor plain[] = { list[0], list[1], list[2], list[3] };   /* without a bias rings will do */
    static const char *const rings[] = { "--causal", "--causal --ranks 3 --algorithm pass-kv --layout zigzag", "--causal --ranks 2 --algorithm pass-q --threads 2" };
    write_tensors("plain", plain, 4);
    int same = 1;
    for (int i = 0; i < 3; i++)
        same &= runs("plain", rings[i]) && !strcmp(program_text("backward_algorithm"), i == 0 ? "all-gather" : i == 1 ? "pass-kv" : "pass-q");
    ok(same, "by rings: the same hash");
    float *all[] = { q, k, v, o, dq, dk, dv };
    for (int i = 0; i < 7; i++)
        free(all[i]);
    gradients_free(&g);
    problem_free(&p);
}

static void packed(void)
{
    struct problem p = { .sequences = 3, .tokens = { 50, 0, 31 }, .cached = { 0, 7, -11 }, .heads = 2, .kv_heads = 1, .head_dim = 8, .causal = 1,
                         .q_type = RONDO_BF16, .kv_type = RONDO_BF16, .seed = 62 };
    struct backward_setup s = { .ranks = 1, .types = { RONDO_BF16, RONDO_BF16, RONDO_BF16 } };
    struct gradients g;
    const int32_t cu_q[4] = { 0, 50, 50, 81 }, cu_k[4] = { 0, 50, 57, 77 };
    problem_data(&p);
    ok(!solve_backward(&p, &s, &g), "the library, bf16");
    const struct tensor list[] = { { "q", RONDO_ARRAY_BF16, 3, { 81, 2, 8 }, p.q }, { "k", RONDO_ARRAY_BF16, 3, { 77, 1, 8 }, p.k },
                                   { "v", RONDO_ARRAY_BF16, 3, { 77, 1, 8 }, p.v }, { "do", RONDO_ARRAY_BF16, 3, { 81, 2, 8 }, g.dout },
                                   { "cu_seqlens_q", RONDO_ARRAY_I32, 1, { 4 }, cu_q }, { "cu_seqlens_k", RONDO_ARRAY_I32, 1, { 4 }, cu_k } };
    write_tensors("packed", list, 6);
    for (int ranks = 1; ranks < 5; ranks += 3) {
        char words[40];
        snprintf(words, sizeof words, ranks > 1 ? "--causal --ranks %d" : "--causal", ranks);
        ok(runs("packed", words) && holds("result", "dq", g.dq, tensor_bytes(list)) && holds("result", "dk", g.dk, tensor_bytes(list + 1)) &&
           holds("result", "dv", g.dv, tensor_bytes(list + 2)), "packed, bf16, %d ranks", ranks);
    }
    gradients_free(&g);
    problem_free(&p);
}

/* Padding: the second entry has 20 keys of 60. */
static void padded(void)
{
    struct problem p = { .sequences = 2, .tokens = { 60, 60 }, .heads = 1, .kv_heads = 1, .head_dim = 8, .seed = 63 };
    const int32_t lengths[2] = { 60, 20 };
    struct backward_setup s = { .ranks = 1 };
    struct gradients g;
    problem_data(&p);
    ok(!solve_backward(&p, &s, &g), "the library, whole");
    const struct tensor list[] = { { "q", RONDO_ARRAY_F32, 4, { 2, 60, 1, 8 }, p.q }, { "k", RONDO_ARRAY_F32, 4, { 2, 60, 1, 8 }, p.k },
                                   { "v", RONDO_ARRAY_F32, 4, { 2, 60, 1, 8 }, p.v }, { "do", RONDO_ARRAY_F32, 4, { 2, 60, 1, 8 }, g.dout },
                                   { "lengths_k", RONDO_ARRAY_I32, 1, { 2 }, lengths } };
    write_tensors("padded", list, 5);
    ok(runs("padded", "") && runs("padded", "--ranks 3"), "lengths: one hash");
    char path[1024];
    rondo_arrays *f = NULL;
    float dk[2 * 60 * 8] = { 1 };
    int zero = 1, some = 0;
    snprintf(path, sizeof path, "%s/result", scratch_dir);
    if (!rondo_arrays_open(&f, path))
        zero = !rondo_arrays_read(f, rondo_arrays_find(f, "dk"), 0, sizeof dk, dk);
    rondo_arrays_close(f);
    for (int i = 0; i < 40 * 8; i++)
        zero &= dk[(60 + 20) * 8 + i] == 0.0f;
    for (int i = 0; i < 20 * 8; i++)
        some |= dk[60 * 8 + i] != 0.0f;
    ok(zero && some && !memcmp(dk, g.dk, 60 * 8 * 4), "padding has gradients of 0, the rest has its own");
    gradients_free(&g);
    problem_free(&p);
}

/* One bias for all sequences, whose rows lie on other ranks in one than in another where lengths differ. */
static void shared(void)
{
    enum { B = 3, Q = 270, K = 300, H = 4 };   /* several leaves: who has keys looks at rows of the bias that are not its own */
    float *of[5] = { malloc(B * Q * H * 8 * 4), malloc(B * K * 2 * 8 * 4), malloc(B * K * 2 * 8 * 4), malloc(B * Q * H * 8 * 4), malloc(H * Q * K * 4) };
    const int64_t counts[5] = { B * Q * H * 8, B * K * 2 * 8, B * K * 2 * 8, B * Q * H * 8, H * Q * K };
    static const char *const names[5] = { "q", "k", "v", "do", "bias" };
    static const char *const ways[] = { "--causal", "--causal --ranks 2", "--causal --ranks 3 --layout zigzag --algorithm pass-q",
                                        "--causal --ranks 4 --layout striped --algorithm all-to-all --grid 2,2" };
    int32_t lengths[B] = { 300, 141, 175 };
    uint64_t seed = 5;
    struct tensor list[6];
    for (int i = 0; i < 5; i++) {
        const int64_t heads = i == 1 || i == 2 ? 2 : H, rows = i == 1 || i == 2 ? K : Q;
        for (int64_t j = 0; j < counts[i]; j++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            of[i][j] = (float)((double)(seed >> 40) / (1 << 24) - 0.5);
        }
        list[i] = (struct tensor){ names[i], RONDO_ARRAY_F32, 4, { B, rows, heads, 8 }, of[i] };
    }
    list[5] = (struct tensor){ "lengths_k", RONDO_ARRAY_I32, 1, { B }, lengths };
    for (int heads = 1; heads <= H; heads += H - 1)
        for (int some = 0; some < 2; some++) {
            list[4] = (struct tensor){ "bias", RONDO_ARRAY_F32, 4, { 1, heads, Q, K }, of[4] };
            write_tensors("shared", list, 5 + some);
            for (int i = 0; i < 4; i++)
                ok(runs("shared", ways[i]), "one bias of %d heads for all sequences%s, %s", heads, some ? " of several lengths" : "", ways[i]);
        }
    for (int i = 0; i < 5; i++)
        free(of[i]);
}

int main(void)
{
    if (!getenv("RONDO") || !*getenv("RONDO"))
        return skip_all("the program was not built");
    scratch_make("7013-attend-do");
    batched();
    shared();
    packed();
    padded();
    scratch_remove();
    return done();
}
