/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo attend, from file to file: the result against a formula in double precision, one hash for every number of ranks, layout,
 * algorithm and thread count, and each kind of bad input with its exit code, one sentence and no file.
 */
#include <math.h>
#include <signal.h>

#include "program.h"
#include "rondo_lm.h"
#include "t/tensor_file.h"

static struct tensor t(const char *name, int type, const void *data, int dims, int64_t a, int64_t b, int64_t c, int64_t d)
{
    return (struct tensor){ name, type, dims, { a, b, c, d }, data };
}

static float *numbers(int64_t count, uint32_t stream)
{
    float *x = malloc((size_t)(count + 1) * sizeof *x);
    for (int64_t i = 0; i < count; i++) {
        uint32_t r[4];
        const uint32_t counter[4] = { (uint32_t)i, stream, 7, 0 }, key[2] = { 3, 4 };
        rondo_philox(r, counter, key);
        x[i] = ((float)r[0] * 0x1p-32f - 0.5f) * 4.0f;
    }
    return x;
}

enum { B = 2, TQ = 37, TK = 150, H = 4, G = 2, D = 24, V = 16 };
static float *q, *k, *v;

/* Query i of batch b, keys [0, keys): causal, bottom-right. */
static void formula(int64_t b, int64_t i, int64_t h, int64_t keys, double *out, double *lse)
{
    double most = -INFINITY, sum = 0, w[TK];
    for (int d = 0; d < V; d++)
        out[d] = 0;
    for (int64_t j = 0; j < keys && j <= i + keys - TQ; j++) {
        w[j] = 0;
        for (int d = 0; d < D; d++)
            w[j] += (double)q[((b * TQ + i) * H + h) * D + d] * (double)k[((b * TK + j) * G + h / (H / G)) * D + d];
        w[j] /= sqrt(D);
        most = fmax(most, w[j]);
    }
    for (int64_t j = 0; j < keys && j <= i + keys - TQ; j++) {
        w[j] = exp(w[j] - most);
        sum += w[j];
        for (int d = 0; d < V; d++)
            out[d] += w[j] * (double)v[((b * TK + j) * G + h / (H / G)) * V + d];
    }
    for (int d = 0; d < V && sum > 0; d++)
        out[d] /= sum;
    *lse = sum > 0 ? most + log(sum) : -INFINITY;
}

static void check_result(const char *name, const int64_t keys[B])
{
    char path[1024];
    rondo_arrays *f = NULL;
    snprintf(path, sizeof path, "%s/%s", scratch_dir, name);
    if (!ok(rondo_arrays_open(&f, path) == 0, "%s can be opened", name))
        return;
    const rondo_array *out = rondo_arrays_find(f, "out"), *lse = rondo_arrays_find(f, "lse");
    const int shapes = out && lse && out->dims == 4 && out->shape[0] == B && out->shape[1] == TQ && out->shape[2] == H && out->shape[3] == V &&
                       lse->dims == 3 && lse->shape[0] == B && lse->shape[1] == H && lse->shape[2] == TQ;
    ok(shapes, "out is [B,Tq,H,Dv] and lse [B,H,Tq]");
    float *o = malloc(B * TQ * H * V * 4), *l = malloc(B * TQ * H * 4);
    double worst = 0;
    if (shapes && !rondo_arrays_read(f, out, 0, B * TQ * H * V * 4, o) && !rondo_arrays_read(f, lse, 0, B * TQ * H * 4, l))
        for (int64_t b = 0; b < B; b++)
            for (int64_t i = 0; i < TQ; i++)
                for (int64_t h = 0; h < H; h++) {
                    double want[V], want_lse, got_lse = (double)l[(b * H + h) * TQ + i];
                    formula(b, i, h, keys[b], want, &want_lse);
                    for (int d = 0; d < V; d++)
                        worst = worse(worst, fabs((double)o[((b * TQ + i) * H + h) * V + d] - want[d]));
                    worst = worse(worst, got_lse == want_lse ? 0 : isinf(want_lse) ? INFINITY : fabs(got_lse - want_lse));
                }
    else
        worst = INFINITY;
    ok(worst < 1e-5, "%s agrees with the formula (%.2g)", name, worst);
    free(o);
    free(l);
    rondo_arrays_close(f);
}

static void results(void)
{
    const int32_t lengths[B] = { 150, 20 };
    const int64_t all[B] = { TK, TK }, some[B] = { 150, 20 };
    struct tensor list[4] = { t("q", RONDO_ARRAY_F32, q, 4, B, TQ, H, D), t("k", RONDO_ARRAY_F32, k, 4, B, TK, G, D),
                              t("v", RONDO_ARRAY_F32, v, 4, B, TK, G, V), t("lengths_k", RONDO_ARRAY_I32, lengths, 1, B, 0, 0, 0) };
    write_tensors("plain", list, 3);
    write_tensors("lengths", list, 4);
    is_int(rondo("", "attend plain -o out --causal"), 0, "attend runs");
    check_result("out", all);
    is_int(rondo("", "attend lengths -o out2 --causal --ranks=3 --json"), 0, "with lengths_k, on 3 ranks");
    check_result("out2", some);
    json_t *r = program_json();
    ok(r && json_integer_value(json_object_get(r, "ranks")) == 3 && json_is_object(json_object_get(r, "comm")) &&
       json_integer_value(json_object_get(json_object_get(r, "comm"), "bytes")) > 0, "the report tells ranks and what moved");
    ok(json_integer_value(json_object_get(json_object_get(r, "numerics"), "version")) == rondo_numerics_version() &&
       json_integer_value(json_object_get(json_object_get(r, "numerics"), "leaf")) == 128, "and the numerics");
    ok(json_integer_value(json_object_get(r, "visible_pairs")) > 0 && json_number_value(json_object_get(r, "flops")) > 0 &&
       json_integer_value(json_object_get(r, "peak_bytes_per_rank")) > 0, "and the cost");
    json_decref(r);
}

static void hashes(void)
{
    static const char *const layouts[] = { "contiguous", "zigzag", "striped", "snake" }, *const algorithms[] = { "pass-kv", "pass-q", "auto" };
    static const char *const masks[] = { "--causal", "", "--window 20,3", "--causal --window=-1,-1 --scale 0.3 --out-type bf16" };
    for (size_t m = 0; m < sizeof masks / sizeof *masks; m++) {
        char want[32];
        int same = 1, runs = 0;
        rondo("", "attend lengths -o one --json %s", masks[m]);
        snprintf(want, sizeof want, "%s", program_text("hash"));
        ok(strlen(want) == 16, "one rank, '%s': hash %s", masks[m], want);
        for (int ranks = 1; ranks <= 37; ranks += ranks < 5 ? 2 : 32)
            for (int l = 0; l < 4; l++) {
                const int a = (l + ranks / 2) % 3;
                const int code = rondo("", "attend lengths -o many --json %s --ranks %d --layout %s --algorithm %s --threads %d", masks[m], ranks,
                                       layouts[l], algorithms[a], 1 + l % 2);
                const int good = code == 0 && !strcmp(program_text("hash"), want);
                if (!good)
                    diag("%d ranks, %s, %s: exit %d, %s %s", ranks, layouts[l], algorithms[a], code, program_text("hash"), program_err);
                same = same && good;
                runs++;
            }
        ok(same, "%d other settings give the same hash", runs);
        char line[4096];
        snprintf(line, sizeof line, "cmp -s '%s/one' '%s/many'", scratch_dir, scratch_dir);
        is_int(system(line), 0, "and the same file, byte for byte");
    }
    rondo("RONDO_ISA=scalar", "attend lengths -o many --json --causal --ranks 2");
    char scalar[32];
    snprintf(scalar, sizeof scalar, "%s", program_text("hash"));
    ok(!strcmp(program_text("isa"), "scalar"), "RONDO_ISA is what runs");
    rondo("", "attend lengths -o many --json --causal --isa auto");
    ok(!strcmp(program_text("hash"), scalar), "the scalar program gives the same hash as %s", program_text("isa"));
}

static void packed(void)
{
    const int64_t starts_q[4] = { 0, 5, 5, TQ }, starts_k[4] = { 0, 60, 70, TK };
    const int32_t starts_q32[4] = { 0, 5, 5, TQ };
    struct tensor list[5] = { t("q", RONDO_ARRAY_F32, q, 3, TQ, H, D, 0), t("k", RONDO_ARRAY_F32, k, 3, TK, G, D, 0),
                              t("v", RONDO_ARRAY_F32, v, 3, TK, G, V, 0), t("cu_seqlens_q", RONDO_ARRAY_I64, starts_q, 1, 4, 0, 0, 0),
                              t("cu_seqlens_k", RONDO_ARRAY_I64, starts_k, 1, 4, 0, 0, 0) };
    char want[32];
    write_tensors("packed", list, 5);
    list[3] = t("cu_seqlens_q", RONDO_ARRAY_I32, starts_q32, 1, 4, 0, 0, 0);
    write_tensors("packed32", list, 5);
    is_int(rondo("", "attend packed -o p1 --json --causal"), 0, "packed sequences run, an empty one among them");
    snprintf(want, sizeof want, "%s", program_text("hash"));
    is_int(rondo("", "attend packed32 -o p2 --json --causal --ranks 4"), 0, "also with I32, on 4 ranks");
    ok(strlen(want) == 16 && !strcmp(program_text("hash"), want), "with the same hash");
}

static void bad_input(void)
{
    const int64_t down[3] = { 0, 20, 10 }, from_one[3] = { 1, 5, TQ }, good_k[3] = { 0, 60, TK }, good_q[3] = { 0, 20, TQ };
    const int32_t long_k[B] = { 151, 3 }, negative_k[B] = { 5, -1 };
    const struct tensor tq = t("q", RONDO_ARRAY_F32, q, 4, B, TQ, H, D), tk = t("k", RONDO_ARRAY_F32, k, 4, B, TK, G, D);
    const struct tensor tv = t("v", RONDO_ARRAY_F32, v, 4, B, TK, G, V), pq = t("q", RONDO_ARRAY_F32, q, 3, TQ, H, D, 0);
    const struct tensor pk = t("k", RONDO_ARRAY_F32, k, 3, TK, G, D, 0), pv = t("v", RONDO_ARRAY_F32, v, 3, TK, G, V, 0);
    const struct tensor ck = t("cu_seqlens_k", RONDO_ARRAY_I64, good_k, 1, 3, 0, 0, 0), cq = t("cu_seqlens_q", RONDO_ARRAY_I64, good_q, 1, 3, 0, 0, 0);
    const struct {
        const char *word;
        struct tensor list[5];
        int count;
    } cases[] = {
        { "no tensor 'v'", { tq, tk }, 2 },
        { "F32, BF16 or F16", { t("q", RONDO_ARRAY_F64, q, 4, 1, TQ, H, D), tk, tv }, 3 },
        { "one type", { tq, t("k", RONDO_ARRAY_F16, k, 4, B, TK, G, D), tv }, 3 },
        { "dimensions", { pq, tk, tv }, 3 },
        { "batch", { tq, t("k", RONDO_ARRAY_F32, k, 4, 1, TK, G, D), tv }, 3 },
        { "multiple", { tq, t("k", RONDO_ARRAY_F32, k, 4, B, 50, 3, D), t("v", RONDO_ARRAY_F32, v, 4, B, 50, 3, 4) }, 3 },
        { "head size", { tq, t("k", RONDO_ARRAY_F32, k, 4, B, TK, G, 8), tv }, 3 },
        { "tokens", { tq, tk, t("v", RONDO_ARRAY_F32, v, 4, B, 99, G, V) }, 3 },
        { "'do' is not of the shape", { tq, tk, tv, t("do", RONDO_ARRAY_F32, q, 4, B, TQ, H, V + 1) }, 4 },
        { "'do' is F16", { tq, tk, tv, t("do", RONDO_ARRAY_F16, q, 4, B, TQ, H, V) }, 4 },
        { "surprise", { tq, tk, tv, t("surprise", RONDO_ARRAY_F32, q, 1, 3, 0, 0, 0) }, 4 },
        { "151", { tq, tk, tv, t("lengths_k", RONDO_ARRAY_I32, long_k, 1, B, 0, 0, 0) }, 4 },
        { "-1", { tq, tk, tv, t("lengths_k", RONDO_ARRAY_I32, negative_k, 1, B, 0, 0, 0) }, 4 },
        { "I32", { tq, tk, tv, t("lengths_k", RONDO_ARRAY_I64, good_k, 1, B, 0, 0, 0) }, 4 },
        { "cu_seqlens_k", { pq, pk, pv, cq }, 4 },
        { "falls", { pq, pk, pv, t("cu_seqlens_q", RONDO_ARRAY_I64, down, 1, 3, 0, 0, 0), ck }, 5 },
        { "begins", { pq, pk, pv, t("cu_seqlens_q", RONDO_ARRAY_I64, from_one, 1, 3, 0, 0, 0), ck }, 5 },
        { "ends", { pq, pk, pv, t("cu_seqlens_q", RONDO_ARRAY_I64, down, 1, 2, 0, 0, 0), ck }, 5 },
        { "three", { tq, tk, tv, cq, ck }, 5 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_tensors("bad", cases[i].list, cases[i].count);
        refuses(3, cases[i].word, "attend bad -o none --ranks 2");
    }
    refuses(3, "nothing-here", "attend nothing-here -o none");
    rondo("", "info");
    refuses(3, "stdout", "attend stdout -o none");
    refuses(3, "no-folder", "attend plain -o no-folder/none --ranks 2");
    ok(!exists("none") && files_like("none") == 0, "no refusal leaves a file behind");
}

static void wrong_use(void)
{
    refuses(2, "input", "attend");
    refuses(2, "-o", "attend plain");
    refuses(2, "itself", "attend plain -o ./plain");
    refuses(2, "regular", "attend plain -o /dev/null");
    refuses(2, "window", "attend plain -o none --window 3");
    refuses(2, "window", "attend plain -o none --window -2,3");
    refuses(2, "scale", "attend plain -o none --scale nan");
    refuses(2, "scale", "attend plain -o none --scale 0");
    refuses(2, "ranks", "attend plain -o none --ranks 0");
    refuses(2, "ranks", "attend plain -o none --ranks 4x");
    refuses(2, "ranks", "attend plain -o none --ranks");
    refuses(2, "twice", "attend plain -o none --ranks 2 --ranks 3");
    refuses(2, "--rank", "attend plain -o none --rank 2");
    refuses(2, "operand", "attend plain lengths -o none");
    refuses(2, "q8", "attend plain -o none --out-type q8");
    ok(!exists("none"), "no wrong use leaves a file behind");
}

/* No sequence, no query, no key: results of the right shape, the same on any number of ranks. */
static void empty(void)
{
    const int64_t zero = 0;
    const struct tensor none[3] = { t("q", RONDO_ARRAY_F32, q, 4, 0, 5, H, D), t("k", RONDO_ARRAY_F32, k, 4, 0, 7, G, D), t("v", RONDO_ARRAY_F32, v, 4, 0, 7, G, V) };
    const struct tensor no_query[3] = { t("q", RONDO_ARRAY_F32, q, 4, B, 0, H, D), t("k", RONDO_ARRAY_F32, k, 4, B, 7, G, D), t("v", RONDO_ARRAY_F32, v, 4, B, 7, G, V) };
    const struct tensor no_key[3] = { t("q", RONDO_ARRAY_F32, q, 4, B, 5, H, D), t("k", RONDO_ARRAY_F32, k, 4, B, 0, G, D), t("v", RONDO_ARRAY_F32, v, 4, B, 0, G, V) };
    const struct tensor no_row[5] = { t("q", RONDO_ARRAY_F32, q, 3, 0, H, D, 0), t("k", RONDO_ARRAY_F32, k, 3, 0, G, D, 0), t("v", RONDO_ARRAY_F32, v, 3, 0, G, V, 0),
                                      t("cu_seqlens_q", RONDO_ARRAY_I64, &zero, 1, 1, 0, 0, 0), t("cu_seqlens_k", RONDO_ARRAY_I64, &zero, 1, 1, 0, 0, 0) };
    const struct {
        const char *what;
        const struct tensor *list;
        int count;
    } cases[] = { { "no sequence", none, 3 }, { "no query", no_query, 3 }, { "no key", no_key, 3 }, { "packed nothing", no_row, 5 } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char hash[32];
        write_tensors("empty", cases[i].list, cases[i].count);
        const int code = rondo("", "attend empty -o e1 --causal --json");
        snprintf(hash, sizeof hash, "%s", program_text("hash"));
        ok(code == 0 && rondo("", "attend empty -o e3 --causal --json --ranks 3") == 0 && !strcmp(program_text("hash"), hash), "%s: runs, alone and on 3 ranks",
           cases[i].what);
    }
}

/* A transport that fails at its n-th call: exit code 5, one sentence, no file. */
static void broken_transport(void)
{
    int good = 1;
    for (int n = 1; n <= 40; n += 3) {
        char before[64];
        snprintf(before, sizeof before, "RONDO_TEST_HOOK=fail:%d:1", n);
        const int code = rondo(before, "attend plain -o broken --ranks 3");
        if (!(code == 5 && one_sentence() && !program_out[0]) && !(code == 0 && exists("broken"))) {
            diag("call %d: exit %d, %s", n, code, program_err);
            good = 0;
        }
        if (code == 0)
            break;
        good = good && files_like("broken") == 0;
    }
    ok(good, "a transport that fails: exit code 5, one sentence, no file");
}

/* A signal in the middle of the work: the exit code that shells give for it, no output, no temporary. */
static void interrupted(void)
{
    enum { LONG = 6000 };
    float *big = numbers((int64_t)LONG * 8 * 64, 9);
    struct tensor list[3] = { t("q", RONDO_ARRAY_F32, big, 4, 1, LONG, 8, 64), t("k", RONDO_ARRAY_F32, big, 4, 1, LONG, 8, 64),
                              t("v", RONDO_ARRAY_F32, big, 4, 1, LONG, 8, 64) };
    write_tensors("big", list, 3);
    free(big);
    static const struct {
        const char *name;
        int code;
    } signals[] = { { "INT", 130 }, { "TERM", 143 }, { "HUP", 129 } };
    const char *mpirun = getenv("MPIRUN");
    for (int i = 0; i < 3; i++) {
        char before[1200];
        for (int ranks = 1; ranks <= 2; ranks++) {
            snprintf(before, sizeof before, "timeout --preserve-status -s %s 0.4", signals[i].name);
            is_int(rondo(before, "attend big -o cut --isa scalar --threads 1 --ranks %d", ranks), signals[i].code, "SIG%s ends %d rank%s with its code",
                   signals[i].name, ranks, ranks > 1 ? "s" : "");
        }
        if (mpirun && *mpirun) {
            snprintf(before, sizeof before, "%s -n 2 timeout --preserve-status -s %s 2", mpirun, signals[i].name);
            is_int(rondo(before, "attend big -o cut --isa scalar --threads 1"), signals[i].code, "MPI processes too");
        } else {
            skip(1, "no mpirun");
        }
        /* nohup: what is ignored stays so (inside of timeout, which has its child heed the signal that it sends) */
        snprintf(before, sizeof before, "timeout --preserve-status -s %s 0.1 sh -c 'trap \"\" %s; exec \"$0\" \"$@\"'", signals[i].name, signals[i].name);
        is_int(rondo(before, "attend big -o kept --isa scalar --threads 1 --causal --window 500,0"), 0, "one that is ignored does not");
    }
    ok(files_like("cut") == 0, "no file is left behind");
    /* the meter moves while one computation runs */
    for (int ranks = 1; ranks <= 2; ranks++) {
        rondo("timeout -s INT 3", "attend big -o cut --isa scalar --threads 1 --ranks %d --progress always", ranks);
        int moved = 0, fell = 0;
        double last = -1.0;
        for (const char *p = program_err; (p = strstr(p, "attend: ")) != NULL; p++) {
            double percent;
            if (sscanf(p, "attend: %lf %%", &percent) == 1) {
                moved += percent > last;
                fell += percent < last;
                last = percent;
            }
        }
        ok(moved >= 3 && !fell, "%d rank%s: the meter moves (%d times, to %.1f %%)", ranks, ranks > 1 ? "s" : "", moved, last);
    }
}

static void under_mpi(void)
{
    const char *mpirun = getenv("MPIRUN");
    char want[32], before[1100];
    if (!mpirun || !*mpirun) {
        skip(4, "no mpirun");
        return;
    }
    rondo("", "attend lengths -o one --json --causal");
    snprintf(want, sizeof want, "%s", program_text("hash"));
    snprintf(before, sizeof before, "%s -n 3", mpirun);
    const int code = rondo(before, "attend lengths -o many --json --causal </dev/null");
    if (!ok(code == 0 && !strcmp(program_text("hash"), want), "3 MPI processes give the same hash"))
        diag("exit %d: %s %s", code, program_out, program_err);
    ok(!strcmp(program_text("transport"), "mpi"), "and say that they were MPI's");
    ok(rondo(before, "attend plain -o none --ranks 2 </dev/null") == 2 && strstr(program_err, "mpirun"), "--ranks must fit mpirun's number");
    ok(rondo(before, "attend plain -o none --transport threads </dev/null") == 2 && strstr(program_err, "--transport mpi"),
       "threads in each of several processes are refused");
}

int main(void)
{
    if (!getenv("RONDO") || !*getenv("RONDO"))
        return skip_all("the program was not built");
    scratch_make("7010-attend");
    q = numbers((int64_t)B * TQ * H * D, 0);
    k = numbers((int64_t)B * TK * G * D, 1);
    v = numbers((int64_t)B * TK * G * V, 2);
    results();
    hashes();
    packed();
    bad_input();
    wrong_use();
    empty();
    broken_transport();
    interrupted();
    under_mpi();
    free(q);
    free(k);
    free(v);
    scratch_remove();
    return done();
}
