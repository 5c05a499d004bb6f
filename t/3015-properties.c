/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What must hold of masks and terms whatever the numbers are: two ways to say one thing give one result, NaN and infinity in what is hidden
 * reach nothing, a row that sees nothing is (0, -infinity), probabilities add up. Each on one rank and on several, by turns with all
 * algorithms and layouts. Where bits are compared nothing else can hide behind a bound.
 */
#include "t/attention.h"

static const int algorithms[] = { RONDO_PASS_KV, RONDO_PASS_Q, RONDO_ALL_GATHER, RONDO_ALL_TO_ALL, RONDO_REDUCE, RONDO_HALO, RONDO_MESH };
#define ALGORITHMS ((int)(sizeof algorithms / sizeof *algorithms))

/* The n-th way to run something: one rank, then each algorithm. */
static struct setup way(int n)
{
    if (n == 0)
        return (struct setup){ .ranks = 1 };
    return (struct setup){ .ranks = 1 + n, .layout = 1 + n % 5, .algorithm = algorithms[n % ALGORITHMS], .strided = n % 2 };
}
#define WAYS 8

static int run(const struct problem *p, int n, struct result *r)
{
    const struct setup s = way(n);
    hook_use(n % 3 == 1 ? "copy" : NULL);
    const int err = solve(p, &s, r);
    hook_use(NULL);
    if (err)
        diag("%d ranks, %s, %s: %s", s.ranks, rondo_layout_name(s.layout), rondo_algorithm_name(s.algorithm), rondo_error_text());
    return err;
}

static size_t out_bytes(const struct problem *p)
{
    return (size_t)(p->heads * p->value_dim) * rondo_type_size(p->out_type);
}

/* Both problems have one result, bit for bit, whatever way they are run. */
static void one_result(const char *what, const struct problem *a, const struct problem *b)
{
    int same = 1;
    for (int n = 0; n < WAYS && same; n++) {
        struct result x = { 0 }, y = { 0 };
        same = !run(a, n, &x) && !run(b, (3 * n) % WAYS, &y);
        same = same && !memcmp(x.out, y.out, (size_t)a->q_rows * out_bytes(a)) && !memcmp(x.lse, y.lse, (size_t)(a->q_rows * a->heads) * sizeof *x.lse);
        if (!same)
            diag("the way %d", n);
        result_free(&x);
        result_free(&y);
    }
    ok(same, "%s", what);
}

/* ---- two ways to say one thing ---- */

/* bias: 0 where a key is to be seen, -infinity elsewhere. A bias of 0 leaves each score as it is. */
static void bias_is_mask(void)
{
    static const struct problem kinds[] = {
        { .tokens = { 90 }, .cached = { 31 }, .heads = 4, .kv_heads = 2, .head_dim = 16, .leaf = 8, .mask = 4, .bias = 4 },
        { .tokens = { 70 }, .cached = { 10 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .leaf = 16, .mask = 1, .mask_kind = 1, .bias = 1, .sinks = 1,
          .causal = 1, .alibi = 1 },
        { .sequences = 2, .tokens = { 40, 33 }, .cached = { -9, 20 }, .heads = 2, .kv_heads = 2, .head_dim = 16, .leaf = 8, .mask = 1, .bias = 2,
          .softcap = 2.0, .dropout = 0.1 },
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        struct problem a = kinds[i], b = kinds[i];
        a.seed = b.seed = 31 + (uint32_t)i;
        a.bias = 0;
        problem_data(&a);
        b.mask = 0;
        problem_data(&b);
        for (int64_t row = 0; row < b.q_rows; row++)
            for (int64_t h = 0; h < b.bias; h++)
                for (int64_t k = 0; k < b.most_keys; k++)
                    b.bias_of[(row * b.bias + h) * b.most_keys + k] =
                        a.visible[(row * a.mask + (a.mask > 1 ? h : 0)) * a.most_keys + k] ? 0.0f : -INFINITY;
        one_result(i == 0 ? "a bias of minus infinity is a mask" : i == 1 ? "... beside causal, ALiBi and sinks" : "... beside softcap and dropout", &a, &b);
        problem_free(&a);
        problem_free(&b);
    }
    /* a whole mask of any other kind, too: here causal and a window */
    struct problem a = { .tokens = { 77 }, .cached = { 20 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .leaf = 8, .causal = 1, .windowed = 1, .left = 19,
                         .right = -1 }, b = a, c = a;
    b.causal = b.windowed = c.causal = c.windowed = 0;
    b.left = b.right = c.left = c.right = 0;
    b.bias = c.mask = 1;
    problem_data(&a);
    problem_data(&b);
    problem_data(&c);
    for (int64_t i = 0; i < a.q_rows; i++)
        for (int64_t k = 0; k < a.most_keys; k++) {
            c.visible[i * a.most_keys + k] = (uint8_t)(sees(&a, 0, i, 0, k) * (1 + k % 255));
            b.bias_of[i * a.most_keys + k] = sees(&a, 0, i, 0, k) ? 0.0f : -INFINITY;
        }
    one_result("a causal window is a bias of minus infinity", &a, &b);
    one_result("a causal window is a boolean mask", &a, &c);
    problem_free(&a);
    problem_free(&b);
    problem_free(&c);
}

static void wide_window(void)
{
    struct problem a = { .sequences = 2, .tokens = { 90, 55 }, .cached = { 31, -7 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .leaf = 8 }, b = a;
    problem_data(&a);
    problem_data(&b);
    b.windowed = 1;
    b.left = b.right = b.most_keys;
    one_result("a window as wide as all keys is none", &a, &b);
    b.left = b.right = INT64_MAX;
    one_result("... and so is the widest there is", &a, &b);
    a.causal = b.causal = 1;
    b.left = b.most_keys;
    b.right = -1;
    one_result("... beside causal", &a, &b);
    b.causal = 0;
    b.right = 0;
    one_result("a window that ends with the query is causal", &a, &b);
    problem_free(&a);
    problem_free(&b);
}

/* The keys of a document that begins with a leaf have the leaves of a sequence of its own, and where that leaf is the first under a node of the
 * tree that has room for all of the document, the same tree. Elsewhere leaves are cut differently, and the result is the same but for rounding. */
static void documents_are_sequences(int aligned, int causal)
{
    static const int64_t lengths[2][8] = { { 64, 27, 8, 6, 16, 60, 3, 0 }, { 13, 40, 1, 30, 22, 17, 9, 12 } };
    static const int64_t begins[2][8] = { { 0, 64, 96, 104, 112, 128, 192, 200 }, { 0, 13, 53, 54, 84, 106, 123, 132 } };
    struct problem a = { .sequences = 8, .heads = 4, .kv_heads = 2, .head_dim = 16, .leaf = 8, .causal = causal, .alibi = 1, .sinks = 1, .softcap = 3.0,
                         .windowed = 1, .left = 21, .right = 5 }, b = a;
    b.sequences = 1;
    b.documents = 1;
    b.tokens[0] = begins[aligned ? 0 : 1][7] + lengths[aligned ? 0 : 1][7];
    memcpy(a.tokens, lengths[aligned ? 0 : 1], sizeof a.tokens);
    a.seed = b.seed = 47;
    problem_data(&a);
    problem_data(&b);
    /* row of each of b's positions in a; keys between documents are a document that nobody asks about */
    int64_t *of = malloc((size_t)b.kv_rows * sizeof *of);
    for (int64_t k = 0; k < b.kv_rows; k++) {
        of[k] = -1;
        b.document[k] = 99;
        for (int64_t s = 0; s < 8; s++) {
            const int64_t at = k - begins[aligned ? 0 : 1][s];
            if (at < 0 || at >= a.tokens[s])
                continue;
            of[k] = a.kv_first[s] + at;
            b.document[k] = (int32_t)s;
        }
    }
    const size_t q_row = (size_t)(a.heads * a.head_dim) * 4, k_row = (size_t)(a.kv_heads * a.head_dim) * 4;
    for (int64_t k = 0; k < b.kv_rows; k++)
        if (of[k] >= 0) {
            memcpy((char *)b.q + (size_t)k * q_row, (char *)a.q + (size_t)of[k] * q_row, q_row);
            memcpy((char *)b.k + (size_t)k * k_row, (char *)a.k + (size_t)of[k] * k_row, k_row);
            memcpy((char *)b.v + (size_t)k * k_row, (char *)a.v + (size_t)of[k] * k_row, k_row);
        }
    int same = 1;
    double worst = 0.0;
    for (int n = 0; n < WAYS && same; n++) {
        struct result x = { 0 }, y = { 0 };
        same = !run(&a, n, &x) && !run(&b, n, &y);
        if (same && !aligned) {   /* the documents' results by the sequences' oracle */
            for (int64_t k = 0; k < b.kv_rows; k++)
                if (of[k] >= 0) {
                    memcpy(x.out + (size_t)of[k] * out_bytes(&a), y.out + (size_t)k * out_bytes(&a), out_bytes(&a));
                    memcpy(x.lse + of[k] * a.heads, y.lse + k * a.heads, (size_t)a.heads * sizeof *x.lse);
                }
            worst = fmax(worst, worst_error(&a, &x, NULL));
        }
        for (int64_t k = 0; k < b.kv_rows && same && aligned; k++)
            same = of[k] < 0 || (!memcmp(x.out + (size_t)of[k] * out_bytes(&a), y.out + (size_t)k * out_bytes(&a), out_bytes(&a)) &&
                                 !memcmp(x.lse + of[k] * a.heads, y.lse + k * a.heads, (size_t)a.heads * sizeof *x.lse));
        result_free(&x);
        result_free(&y);
    }
    if (aligned)
        ok(same, "documents on nodes of the tree are packed sequences, bit for bit%s", causal ? "" : ", not causal");
    else
        ok(same && worst <= 1.0, "documents anywhere are packed sequences%s: %.3f of the bound", causal ? "" : ", not causal", worst);
    free(of);
    problem_free(&a);
    problem_free(&b);
}

/* Heads of the second problem are those of the first in another order, KV heads and all that belongs to a head with them. */
static void heads_move(void)
{
    static const int kv_to[3] = { 2, 0, 1 };
    enum { GROUP = 2 };
    struct problem a = { .tokens = { 70 }, .cached = { 25 }, .heads = 6, .kv_heads = 3, .head_dim = 16, .value_dim = 8, .leaf = 8, .causal = 1, .alibi = 1,
                         .sinks = 1, .bias = 6, .mask = 6, .softcap = 4.0 }, b = a;
    int to[6];
    problem_data(&a);
    problem_data(&b);
    for (int h = 0; h < 6; h++)   /* and within a group the other way round */
        to[h] = kv_to[h / GROUP] * GROUP + (GROUP - 1 - h % GROUP);
    for (int h = 0; h < 6; h++) {
        b.slope[to[h]] = a.slope[h];
        b.sink[to[h]] = a.sink[h];
        for (int64_t row = 0; row < a.q_rows; row++) {
            memcpy((float *)b.q + (row * 6 + to[h]) * 16, (float *)a.q + (row * 6 + h) * 16, 16 * sizeof(float));
            memcpy(b.bias_of + (row * 6 + to[h]) * a.most_keys, a.bias_of + (row * 6 + h) * a.most_keys, (size_t)a.most_keys * sizeof(float));
            memcpy(b.visible + (row * 6 + to[h]) * a.most_keys, a.visible + (row * 6 + h) * a.most_keys, (size_t)a.most_keys);
        }
    }
    for (int g = 0; g < 3; g++)
        for (int64_t row = 0; row < a.kv_rows; row++) {
            memcpy((float *)b.k + (row * 3 + kv_to[g]) * 16, (float *)a.k + (row * 3 + g) * 16, 16 * sizeof(float));
            memcpy((float *)b.v + (row * 3 + kv_to[g]) * 8, (float *)a.v + (row * 3 + g) * 8, 8 * sizeof(float));
        }
    int same = 1;
    for (int n = 0; n < WAYS && same; n++) {
        struct result x = { 0 }, y = { 0 };
        same = !run(&a, n, &x) && !run(&b, (5 * n) % WAYS, &y);
        for (int64_t row = 0; row < a.q_rows && same; row++)
            for (int h = 0; h < 6 && same; h++)
                same = !memcmp((float *)(void *)x.out + (row * 6 + h) * 8, (float *)(void *)y.out + (row * 6 + to[h]) * 8, 8 * sizeof(float)) &&
                       !memcmp(x.lse + row * 6 + h, y.lse + row * 6 + to[h], sizeof(float));
        result_free(&x);
        result_free(&y);
    }
    ok(same, "heads in another order give results in that order");
    problem_free(&a);
    problem_free(&b);
}

/* c * tanh(x / c) with a large c: of x the part (x/c)^2 / 3, which is nothing, and the roundings of tanh and two products, at most 12u of |x|, where
 * the bound has (D + 3)u of a sum that is at least |x|. */
static void large_softcap(void)
{
    struct problem a = { .tokens = { 60 }, .cached = { 31 }, .heads = 2, .kv_heads = 1, .head_dim = 24, .leaf = 8, .causal = 1 };
    struct result r = { 0 };
    a.softcap = 1e7;
    problem_data(&a);
    const int err = run(&a, 3, &r);
    a.softcap = 0.0;
    const double worst = err ? INFINITY : worst_error(&a, &r, NULL), most = (double)(a.head_dim + 15) / (double)(a.head_dim + 3);
    ok(worst <= most, "a softcap of 10^7 is none but for rounding: %.3f of the bound, at most %.3f", worst, most);
    result_free(&r);
    problem_free(&a);
}

/* ---- dropout ---- */

static void no_dropout(void)
{
    struct problem a = { .tokens = { 60 }, .cached = { 31 }, .heads = 4, .kv_heads = 2, .head_dim = 16, .leaf = 8, .causal = 1 }, b = a;
    problem_data(&a);
    problem_data(&b);
    b.dropout = 1e-12;   /* rounds to no weight out of 2^32 */
    one_result("a dropout of next to 0 is none", &a, &b);
    problem_free(&a);
    problem_free(&b);
}

/* Each seed gives sum(z w v) / (1 - P) where z is 0 with probability P: its mean is sum(w v), its variance P / (1 - P) sum(w^2 v^2). So the mean of S
 * seeds is off by less than 6 sqrt(variance / S), but for one element in a billion; and if all elements are as they should be, the squares of
 * what they are off by, over their variances, have a mean near 1. */
static void dropout_mean(void)
{
    enum { SEEDS = 200, DIM = 4 };
    const double P = 0.3;
    struct problem p = { .tokens = { 24 }, .cached = { 16 }, .heads = 2, .kv_heads = 1, .head_dim = 8, .value_dim = DIM, .leaf = 8, .causal = 1, .probs = 1 };
    struct result plain = { 0 }, r = { 0 };
    problem_data(&p);
    const int64_t count = p.q_rows * p.heads * DIM;
    double *sum = calloc((size_t)count, sizeof *sum), worst = 0.0, squares = 0.0;
    int fine = !run(&p, 0, &plain), same_lse = 1, same_probs = 1;
    p.dropout = P;
    for (int i = 0; i < SEEDS && fine; i++) {
        p.drop_seed = 1000003u * (uint64_t)(i + 1) << (i % 3 * 16);
        fine = !run(&p, i % 50 ? 0 : 2 + i / 50, &r);
        for (int64_t j = 0; j < count && fine; j++)
            sum[j] += (double)((float *)(void *)r.out)[j];
        same_lse = same_lse && fine && !memcmp(plain.lse, r.lse, (size_t)(p.q_rows * p.heads) * sizeof *r.lse);
        same_probs = same_probs && fine && !memcmp(plain.probs, r.probs, (size_t)(p.q_rows * p.heads * p.most_keys) * sizeof *r.probs);
        result_free(&r);
    }
    for (int64_t j = 0; j < count && fine; j++) {
        const int64_t row = j / DIM;
        double variance = 0.0;
        for (int64_t k = 0; k < p.kv_rows; k++) {
            const double term = (double)plain.probs[row * p.most_keys + k] * (double)((float *)p.v)[k * DIM + j % DIM];
            variance += P / (1.0 - P) * term * term;
        }
        const double off = (sum[j] / SEEDS - (double)((float *)(void *)plain.out)[j]) / sqrt(variance / SEEDS + 1e-12);
        worst = fmax(worst, fabs(off));
        squares += off * off / (double)count;
    }
    ok(fine && worst < 6.0, "dropout's mean over seeds is the result without it: off by %.2f standard deviations at most", worst);
    ok(fine && squares > 0.5 && squares < 1.6, "... and its variance is as it should be: %.2f", squares);
    ok(same_lse, "... lse is that without dropout");
    ok(same_probs, "... and so are probabilities");
    free(sum);
    result_free(&plain);
    problem_free(&p);
}

/* ---- what is hidden ---- */

static int hidden_by_all(const struct problem *p, int64_t s, int64_t i, int64_t h, const uint8_t *poisoned)
{
    for (int64_t k = 0; k < p->kv_first[s + 1] - p->kv_first[s]; k++)
        if (poisoned[p->kv_first[s] + k] && sees(p, s, i, h, k) && bias_at(p, s, i, h, k) > -INFINITY)
            return 0;
    return 1;
}

/* The same with NaN and infinity in some keys and values: rows that see none of these have the same bits. */
static void nothing_leaks(const char *what, struct problem *p)
{
    static const double poison[] = { (double)NAN, (double)INFINITY, -(double)INFINITY, 3e38 };
    uint8_t *poisoned = calloc((size_t)p->kv_rows + 1, 1);
    int same = 1;
    int64_t safe = 0, rows = 0;
    struct result clean = { 0 };
    for (int64_t k = 0; k < p->kv_rows; k++)
        poisoned[k] = k % 23 == 11 || (k > 60 && k < 66);
    for (int64_t s = 0; s < p->sequences; s++)   /* what an even row would see of them is hidden in that row */
        for (int64_t i = 0; i < p->tokens[s]; i += 2)
            for (int64_t k = 0; k < p->kv_first[s + 1] - p->kv_first[s]; k++)
                for (int64_t h = 0; h < p->heads && poisoned[p->kv_first[s] + k]; h++) {
                    if (p->mask && h < p->mask)
                        p->visible[((p->q_first[s] + i) * p->mask + h) * p->most_keys + k] = 0;
                    if (p->bias && h < p->bias)
                        p->bias_of[((p->bias_row[s] + i) * p->bias + h) * p->most_keys + k] = -INFINITY;
                }
    same = !run(p, 0, &clean);
    for (int64_t k = 0; k < p->kv_rows; k++) {
        for (int64_t j = 0; j < p->kv_heads * p->head_dim && poisoned[k]; j++)
            put_number(p->k, p->kv_type, k * p->kv_heads * p->head_dim + j, poison[(k + j / 5) % 4]);
        for (int64_t j = 0; j < p->kv_heads * p->value_dim && poisoned[k]; j++)
            put_number(p->v, p->kv_type, k * p->kv_heads * p->value_dim + j, poison[(k / 2 + j) % 3]);
    }
    for (int n = 0; n < WAYS && same; n++) {
        struct result r = { 0 };
        same = !run(p, n, &r);
        for (int64_t s = 0; s < p->sequences; s++)
            for (int64_t i = 0; i < p->tokens[s] && same; i++)
                for (int64_t h = 0; h < p->heads && same; h++) {
                    const int64_t row = (p->q_first[s] + i) * p->heads + h;
                    const size_t bytes = out_bytes(p) / (size_t)p->heads;
                    rows++;
                    if (!hidden_by_all(p, s, i, h, poisoned))
                        continue;
                    safe++;
                    same = !memcmp(r.out + (size_t)row * bytes, clean.out + (size_t)row * bytes, bytes) && !memcmp(r.lse + row, clean.lse + row, 4) &&
                           (!p->probs || !memcmp(r.probs + row * p->most_keys, clean.probs + row * p->most_keys, (size_t)p->most_keys * 4));
                    if (!same)
                        diag("the way %d: sequence %lld, query %lld, head %lld", n, (long long)s, (long long)i, (long long)h);
                }
        result_free(&r);
    }
    ok(same && safe * 10 > rows && safe < rows, "what is hidden does not leak: %s (%lld of %lld rows)", what, (long long)safe, (long long)rows);
    result_free(&clean);
    free(poisoned);
}

/* Rows that see nothing, and others beside them. */
static void nothing_seen(const char *what, struct problem *p)
{
    int64_t empty = 0, rows = 0;
    int right = 1;
    for (int n = 0; n < WAYS && right; n++) {
        struct result r = { 0 };
        right = !run(p, n, &r);
        for (int64_t s = 0; s < p->sequences && right; s++)
            for (int64_t i = 0; i < p->tokens[s]; i++)
                for (int64_t h = 0; h < p->heads; h++) {
                    const int64_t row = (p->q_first[s] + i) * p->heads + h, keys = p->kv_first[s + 1] - p->kv_first[s];
                    int any = 0;
                    for (int64_t k = 0; k < keys && !any; k++)
                        any = sees(p, s, i, h, k) && bias_at(p, s, i, h, k) > -INFINITY;
                    rows++;
                    empty += !any;
                    if (any)
                        continue;
                    right &= r.lse[row] == -INFINITY;
                    for (int64_t d = 0; d < p->value_dim; d++) {
                        const double x = get_number(r.out, p->out_type, row * p->value_dim + d);
                        right &= x == 0.0 && !signbit(x);
                    }
                    for (int64_t k = 0; k < p->most_keys && p->probs; k++)
                        right &= r.probs[row * p->most_keys + k] == 0.0f;
                }
        result_free(&r);
    }
    ok(right && empty > 0 && empty < rows, "a row that sees nothing is (0, -infinity): %s (%lld of %lld rows)", what, (long long)empty, (long long)rows);
}

static const struct {
    const char *what;
    struct problem p;
    int empty;                /* it has rows that see nothing */
} masks[] = {
    { "causal", { .tokens = { 70 }, .cached = { -20 }, .causal = 1 }, 1 },
    { "a window", { .tokens = { 60 }, .cached = { -20 }, .windowed = 1, .left = 6, .right = 4 }, 1 },
    { "a window about the query", { .tokens = { 90 }, .windowed = 1, .left = 2, .right = 7 }, 0 },
    { "several sequences", { .sequences = 3, .tokens = { 40, 20, 50 }, .cached = { -8, 30, -30 }, .causal = 1 }, 1 },
    { "documents", { .tokens = { 90 }, .cached = { -15 }, .documents = 20 }, 1 },
    { "documents that come back", { .tokens = { 90 }, .cached = { -15 }, .documents = -9, .windowed = 1, .left = 30, .right = 30 }, 1 },
    { "a boolean mask", { .tokens = { 70 }, .cached = { 20 }, .mask = 1 }, 1 },
    { "a boolean mask of blocks, for each head", { .tokens = { 80 }, .causal = 1, .mask = 4, .mask_kind = 1 }, 1 },
    { "a boolean mask on documents that come back", { .tokens = { 70 }, .cached = { 20 }, .documents = -20, .mask = 1 }, 1 },
    { "a bias", { .tokens = { 70 }, .cached = { 20 }, .bias = 1 }, 1 },
    { "a bias for each head, causal", { .tokens = { 60 }, .cached = { 30 }, .causal = 1, .bias = 4, .alibi = 1, .softcap = 2.0 }, 1 },
};

static void hidden(void)
{
    for (size_t i = 0; i < sizeof masks / sizeof *masks; i++)
        for (int variant = 0; variant < 2; variant++) {
            struct problem p = masks[i].p;
            p.heads = 4;
            p.kv_heads = 2;
            p.head_dim = 16;
            p.value_dim = variant ? 11 : 16;
            p.leaf = 8;
            p.sinks = variant;
            p.probs = !variant;
            p.seed = 90 + (uint32_t)i;
            p.kv_type = variant ? RONDO_BF16 : RONDO_F32;
            problem_data(&p);
            if (masks[i].empty) {   /* of masks that could show something to every row, some rows show nothing */
                for (int64_t row = 0; row < p.q_rows; row += 1 + row % 5)
                    for (int64_t h = 0; h < 4; h++) {
                        if (p.mask && h < p.mask)
                            memset(p.visible + (row * p.mask + h) * p.most_keys, 0, (size_t)p.most_keys);
                        for (int64_t k = 0; k < p.most_keys && p.bias && h < p.bias; k++)
                            p.bias_of[(row * p.bias + h) * p.most_keys + k] = -INFINITY;
                    }
                char name[128];
                snprintf(name, sizeof name, "%s%s", masks[i].what, variant ? ", with sinks" : "");
                nothing_seen(name, &p);
            }
            nothing_leaks(masks[i].what, &p);
            problem_free(&p);
        }
}

/* ---- probabilities ---- */

/* Each is a weight over the sum of all, sink included: they add up to 1 less the sink's. The sum that they are divided by has chains of a leaf and a
 * tree, the product and the reciprocal a rounding each; lse, which gives the sink's share here, two and its own. */
static void probabilities_add_up(int sinks)
{
    const double u = 0x1p-24;
    struct problem p = { .tokens = { 80 }, .cached = { 40 }, .heads = 4, .kv_heads = 2, .head_dim = 16, .leaf = 8, .causal = 1, .probs = 1, .sinks = sinks,
                         .bias = 1, .mask = 4, .dropout = 0.2 };
    double worst = 0.0;
    int fine = 1;
    problem_data(&p);
    for (int n = 0; n < WAYS && fine; n++) {
        struct result r = { 0 };
        fine = !run(&p, n, &r);
        for (int64_t row = 0; row < p.q_rows * p.heads && fine; row++) {
            const double lse = (double)r.lse[row], sink = sinks ? (double)p.sink[row % p.heads] : -INFINITY;
            const double share = sink > -INFINITY ? exp(sink - lse) : 0.0, want = lse == -INFINITY ? 0.0 : 1.0 - share;
            double sum = 0.0;
            for (int64_t k = 0; k < p.most_keys; k++)
                sum += (double)r.probs[row * p.most_keys + k];
            const double bound = want > 0.0 ? (8 + 2 * 5 + 6) * u + (share > 0.0 ? share * (4 + 2 * fabs(lse) + 2 * fabs(sink)) * u : 0.0) : 0.0;
            const double ratio = bound > 0.0 ? fabs(sum - want) / bound : sum == 0.0 ? 0.0 : INFINITY;
            worst = worse(worst, ratio);
        }
        result_free(&r);
    }
    ok(fine && worst <= 1.0, "probabilities of a row add up to 1%s: %.3f of the bound", sinks ? " less the sink's" : "", worst);
    problem_free(&p);
}

int main(void)
{
    bias_is_mask();
    wide_window();
    for (int causal = 0; causal < 2; causal++) {
        documents_are_sequences(1, causal);
        documents_are_sequences(0, causal);
    }
    heads_move();
    large_softcap();
    no_dropout();
    dropout_mean();
    hidden();
    probabilities_add_up(0);
    probabilities_add_up(1);
    return done();
}
