/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Whether a model fits, before hours of reading it end in nothing: what this machine has left against what the parts on it need
 * (rondo_model_estimate()), and by how many ranks it would fit (called by lm_common.c); and how many tokens can be cached beside it
 * (generate_requests.c).
 */
#include "cli/lm_common.h"

/* false: a folder that cannot be read, which whoever opens it will say better. */
static bool estimate(const struct models *m, const char *dir, int kv_type, int64_t tokens, int64_t sequences, bool spread, uint64_t memory, rondo_estimate *out)
{
    rondo_estimate_desc d = RONDO_ESTIMATE_DESC_INIT;
    *out = (rondo_estimate)RONDO_ESTIMATE_INIT;
    d.tp_ranks = m->tp;
    d.cp_ranks = m->cp;
    d.spread = spread;
    d.weights = common.weights;
    d.kv_type = kv_type;
    d.tokens = tokens;
    d.sequences = sequences;
    d.memory = memory;
    return !rondo_model_estimate(dir, &d, out);
}

/* What the ranks of this machine need. Threads of a process share parts that are the same. */
static uint64_t needed(const struct models *m, const rondo_estimate *e, bool weights, bool keys)
{
    const uint64_t ranks = m->own ? (uint64_t)ranks_here() : 1;
    const uint64_t part = m->own ? e->weight_bytes : e->all_weight_bytes, kv = m->own ? e->kv_bytes + e->state_bytes : e->all_kv_bytes + e->all_state_bytes;
    return ranks * ((weights ? part : 0) + (keys ? kv : 0));
}

static int too_little(const rondo_estimate *e, bool cache, bool smaller, uint64_t need, uint64_t left)
{
    char way[128] = "no number of ranks up to 1024 would do";
    if (e->fit_tp)
        snprintf(way, sizeof way, "ranks on machines like this one would hold it with --tp %d --cp %d", (int)e->fit_tp, (int)e->fit_cp);
    return fail(EXIT_ROOM, "%s would take %.3g GB on this machine, which has %.3g GB left; %s%s", cache ? "the KV cache" : "the model",
                (double)need * 1e-9, (double)left * 1e-9, way,
                !smaller ? "" : cache ? ", or --kv-type q8, which needs least" : ", or --weights q8, which needs least");
}

int memory_check(struct models *m, const char *dir, int kv_type, int64_t tokens, int64_t sequences)
{
    const uint64_t space = space_memory(), left = space ? space : 1;
    const bool loaded = m->at != NULL;
    rondo_estimate e;
    bool known = estimate(m, dir, kv_type, tokens, sequences, m->spread, left, &e);
    int code = 0;
    if (m->own && !loaded && m->cp > 1 && common.spread == 0) {   /* the same on all processes: rank 0 says it */
        uint8_t spread = known && needed(m, &e, true, true) > left;
        code = ranks_bytes(&spread, sizeof spread);
        m->spread = spread != 0;
        known = estimate(m, dir, kv_type, tokens, sequences, m->spread, left, &e);
    }
    if (!code && known && needed(m, &e, !loaded, true) > left)
        code = too_little(&e, loaded, loaded ? kv_type != RONDO_Q8 : common.weights != RONDO_Q8, needed(m, &e, !loaded, true), left);
    return ranks_together(code);
}

/* What the engine takes of it (lm/engine/kv.c): runs are ahead of their keys by an eighth and 64 rows, slabs of all runs by a quarter, and the
 * slab that is laid out anew is there twice. A part is left to what a pass needs. */
#define KEPT 0.6
#define AHEAD_ROWS 80

int64_t memory_tokens(const struct models *m, const char *dir, int kv_type, int64_t sequences)
{
    const int64_t sample = (int64_t)1 << 20;
    const uint64_t left = space_memory();
    rondo_estimate keys, states;
    if (left == UINT64_MAX || !estimate(m, dir, kv_type, sample, 0, m->spread, 0, &keys) ||
        !estimate(m, dir, kv_type, 0, sequences, m->spread, 0, &states))
        return INT64_MAX;
    const double token = (double)needed(m, &keys, false, true) / (double)sample;
    const double tokens = (KEPT * (double)left - (double)needed(m, &states, false, true)) / (token > 0 ? token : 1e-9) - AHEAD_ROWS * (double)sequences;
    return tokens >= 9e18 ? INT64_MAX : tokens > 0 ? (int64_t)tokens : 0;
}
