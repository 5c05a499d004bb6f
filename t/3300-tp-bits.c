/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Layers that ranks share: sums of parts, gathered rows, looked up rows and swapped columns have the bits that one rank makes of the whole,
 * on 1 to 9 ranks, however the leaves, the columns and the table are dealt out, for few rows and many, called once and again.
 */
#include "tp.h"

static void grid(int division)
{
    static const int64_t rows[] = { 0, 1, 2, 4, 5, 30, 300 };
    for (int ranks = 1; ranks <= TP_RANKS; ranks++) {
        int good = 1;
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            static const int types[] = { RONDO_F32, RONDO_BF16, RONDO_F16 };
            struct tp_case c = { .ranks = ranks, .division = division, .rows = rows[i], .few = 4, .in = 61, .out = 37,
                                 .leaves = i % 3 == 0 ? 16 : i % 3 == 1 ? 5 : 1, .type = types[i % 3], .table_type = types[(i + 1) % 3],
                                 .tied = i % 2 == 1, .calls = rows[i] < 100 ? 6 : 2 };
            tp_case_make(&c);
            int err = rondo_run_threads(ranks, tp_body, &c);
            if (err || c.wrong)
                diag("%d ranks, %lld rows, %d leaves: wrong %d; %s", ranks, (long long)rows[i], (int)c.leaves, c.wrong, err ? rondo_error_text() : "");
            good &= !err && !c.wrong;
            tp_case_free(&c);
        }
        ok(good, "%d ranks, leaves dealt out %s: the bits of one", ranks, division_names[division]);
    }
}

int main(void)
{
    for (int division = 0; division < DIVISIONS; division++)
        grid(division);
    return done();
}
