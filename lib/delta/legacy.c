/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo_delta_legacy(): when FlashKDA's fwd_cp (github.com/MoonshotAI/FlashKDA, pull request 9) would cut sequences into segments, and how. Its
 * planner, _calc_cp_seqs, takes a segment to be as long as fills a card of so many multiprocessors; its test of convergence takes A_log, the gain
 * inside of a gate, for a rate of decay. Both are as they stand there: what they overlook is said in rondo-kda(7), and what is right instead is a
 * certificate.
 */
#include "delta/delta.h"

#include <stddef.h>

#define CHUNK 16                   /* tokens */
#define MULTIPROCESSORS 132        /* where nobody says */
#define FEWEST 4                   /* chunks of a segment */
#define DECAYED (-5.0)

/* 2^round(log2(3 sqrt(work / sm))), halves to even, at least FEWEST: 2^k with 2^(2k - 1) <= 9 work / sm <= 2^(2k + 1). */
static int64_t chunks_of(double work, double sm)
{
    int k = 2;
    for (double most = 32.0 * sm; k < 50 && (k % 2 ? most <= 9.0 * work : most < 9.0 * work); most *= 4.0)
        k++;
    return (int64_t)1 << k;
}

static int64_t up(int64_t n, int64_t by) { return n / by + (n % by != 0); }

int rondo_delta_legacy(rondo_delta_desc *desc, int auto_cp, int64_t multiprocessors, const float *a_log, rondo_delta_cut *cut)
{
    struct rondo__delta_design p;
    rondo_delta_desc plain;
    rondo_delta_cut found = RONDO_DELTA_CUT_INIT;
    int64_t all = 0, most = 0, wide;
    if (!desc)
        return rondo__fail(RONDO_EINVAL, "rondo_delta_legacy: the descriptor is NULL");
    if (multiprocessors < 0)
        return rondo__fail(RONDO_EINVAL, "rondo_delta_legacy: %lld multiprocessors; it takes 1 or more, 0 is %d", (long long)multiprocessors,
                           MULTIPROCESSORS);
    if (desc->struct_size < offsetof(rondo_delta_desc, tile) + sizeof desc->tile)
        return rondo__fail(RONDO_EINVAL, "rondo_delta_legacy: the descriptor has %zu bytes, which are too few for a tile; one of this version is expected",
                           desc->struct_size);
    const int64_t sm = multiprocessors ? multiprocessors : MULTIPROCESSORS;
    int err = rondo__desc_copy(&plain, sizeof plain, desc, "rondo_delta_desc");
    if (err)
        return err;
    plain.way = RONDO_DELTA_SERIAL;
    plain.tile = 0;
    plain.shares = NULL;
    err = rondo__delta_design(&p, &plain, 1);
    for (int64_t n = 0; n < p.desc.sequences && !err; n++) {
        const int64_t chunks = up(p.cu[n + 1] - p.cu[n], CHUNK);
        all += chunks;
        most = chunks > most ? chunks : most;
    }
    const int64_t m = chunks_of((double)p.desc.heads * (double)all, (double)sm);
    found.segment = CHUNK * m;
    for (int64_t n = 0; n < p.desc.sequences && !err; n++) {
        const int64_t tokens = p.cu[n + 1] - p.cu[n], last = tokens % found.segment ? tokens % found.segment : tokens ? found.segment : 0;
        found.segments += up(tokens, found.segment);
        found.shortest = last && (!found.shortest || last < found.shortest) ? last : found.shortest;
    }
    /* Be H <= SM / 4 with Be = all / most */
    found.fits = !err && most && rondo__mul64(all, p.desc.heads, &wide) && (double)wide <= (double)(sm / 4) * (double)most;
    found.fits = found.fits && (p.packed || p.desc.sequences == 1);
    float gain = a_log && !err ? a_log[0] : 0.0f;
    for (int64_t h = 0; h < p.desc.heads && a_log && !err; h++)
        gain = a_log[h] > gain || a_log[h] != a_log[h] ? a_log[h] : gain;
    found.converges = (double)found.shortest * (double)gain < DECAYED;
    if (!err && cut)
        err = rondo__info_copy(cut, &found, sizeof found, "rondo_delta_cut");
    if (!err) {
        const bool cuts = auto_cp && found.fits && found.converges;
        desc->way = cuts ? RONDO_DELTA_LEGACY : RONDO_DELTA_SERIAL;
        desc->tile = cuts ? found.segment : 0;
    }
    rondo__delta_design_free(&p);
    return err;
}
