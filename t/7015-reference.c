/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What `rondo verify` lets pass: a result inside of the bound, and nothing else. NaN, infinities and bounds that are no numbers are
 * where a comparison written the wrong way round passes everything.
 */
#include <math.h>
#include <stdarg.h>

#include "cli/problem.h"
#include "tap.h"

/* what reference.c uses of the program */
double widen(const void *data, int64_t index, int type)
{
    (void)type;
    return (double)((const float *)data)[index];
}

int fail(int code, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    vprintf(format, ap);
    va_end(ap);
    return code;
}

void *room(int64_t count, size_t size)
{
    return calloc((size_t)count, size);
}

/* One row of one head and one dimension: is `got` within `bound` of `want`, as an output and as a logarithm of a sum? */
static int passes(double got, double want, double bound)
{
    double none = 0.0, tight = 0.0;
    float number = (float)got, zero = 0.0f;
    struct problem p = { .q_rows = 1, .heads = 1, .value_dim = 1, .type = RONDO_F32 };
    struct result r = { .out = &number, .lse = &zero };
    p.out = &want, p.out_bound = &bound, p.lse = &none, p.lse_bound = &tight;
    result_compare(&p, &r);
    const int out = r.worst <= 1.0;
    r.out = &zero, r.lse = &number;
    p.out = &none, p.out_bound = &tight, p.lse = &want, p.lse_bound = &bound;
    result_compare(&p, &r);
    is_int(r.worst <= 1.0, out, "%g for %g within %g: outputs and sums are judged alike", got, want, bound);
    return out;
}

int main(void)
{
    ok(passes(1.0, 1.0, 0.0), "equal needs no bound");
    ok(passes(1.5, 1.0, 0.5), "on the bound passes");
    ok(!passes(1.75, 1.0, 0.5), "beyond it does not");
    ok(!passes(NAN, 1.0, 0.5), "NaN for a number does not");
    ok(!passes(INFINITY, 1.0, 0.5), "nor does infinity");
    ok(!passes(1.0, NAN, 0.5), "nor a number for NaN");
    ok(!passes(1.0, INFINITY, 0.5), "nor a number for infinity");
    ok(!passes(1.0, NAN, NAN), "nor a number for NaN where the bound is NaN");
    ok(!passes(1.0, 2.0, NAN), "a bound that is NaN lets nothing pass but equality");
    ok(!passes(INFINITY, 1.0, INFINITY), "an infinite one neither");
    ok(passes(NAN, NAN, NAN) && passes(-INFINITY, -INFINITY, 0.5), "NaN for NaN and infinity for infinity pass");
    return done();
}
