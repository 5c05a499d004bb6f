/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The device "cuda" on the fake driver: the delta rule, token by token and in chunks - outputs, states, maps, bounds, folds, gradients -
 * against the cpu device bit for bit, for random forms, sizes, types, strides and data; plans on one rank and on several, by all ways,
 * against those of the cpu device; what it has no kernel for is refused.
 */
#define DRAW_STREAM 2219
#include "card_layers.h"
#include "t/delta_ranks.h"

/* Numbers of a type, between -1 and 1, or what `kind` has. */
static void *typed(int64_t count, int type, enum kind kind)
{
    float *from = numbers(count, kind);
    char *to = block((size_t)count * rondo_type_size(type) + 4);
    for (int64_t i = 0; i < count; i++)
        rondo__put_element(to, i, type, from[i]);
    free(from);
    return to;
}

static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

static void blocks(void)
{
    const struct rondo_device_ops *cpu = &rondo__cpu_device;
    const int rounds = long_tests() ? 1500 : 150;
    int wrong = 0;
    for (int i = 0; i < rounds; i++) {
        const int kd = below(3) ? 64 << below(2) : 1 + (int)below(below(3) ? 40 : 140), vd = 1 + (int)below(below(2) ? 20 : 90);
        const int key_heads = 1 + (int)below(2), heads = key_heads * (1 + (int)below(2));
        const int64_t rows = 1 + below(below(3) ? 20 : 150), pad = below(3);
        const enum kind kind = below(3) ? PLAIN : any_kind();
        struct rondo_delta_form f = { .key_dim = kd, .value_dim = vd, .type = RONDO_F32 + (int)below(3), .gate_type = RONDO_F32 + (int)below(3),
                                      .beta_type = RONDO_F32 + (int)below(3), .out_type = RONDO_F32 + (int)below(3), .gate = (int)below(3), .beta = (int)below(3),
                                      .norm = (int)below(2), .gate_dim = below(2) ? kd : 1, .lower_bound = -5.0f, .scale = 0.3f,
                                      .chunk = below(4) ? 0 : 16 << below(3) };
        struct rondo_delta_rows part, part_card;
        const int64_t k_row = key_heads * kd + pad, v_row = heads * vd + pad, g_row = heads * f.gate_dim + pad;
        const size_t out_bytes = (size_t)(rows * v_row) * rondo_type_size(f.out_type);
        part.q = (struct rondo_rows){ typed(rows * k_row, f.type, kind), k_row, kd };
        part.k = (struct rondo_rows){ typed(rows * k_row, f.type, kind), k_row, kd };
        part.v = (struct rondo_rows){ typed(rows * v_row, f.type, kind), v_row, vd };
        part.g = (struct rondo_rows){ typed(rows * g_row, f.gate_type, kind), g_row, f.gate_dim };
        part.beta = (struct rondo_rows){ typed(rows * (heads + pad), f.beta_type, kind), heads + pad, 1 };
        part.out = (struct rondo_rows){ block(out_bytes + 4), v_row, vd };
        void *out_card = twin(part.out.data, out_bytes + 4);
        float *a_log = below(2) ? numbers(heads, PLAIN) : NULL, *dt_bias = below(2) ? numbers(heads * f.gate_dim, PLAIN) : NULL;
        const int count = 1 + (int)below(6);
        const int64_t stride = most(kd, vd) + below(4), each = stride * kd;
        float *states = numbers(2 * count * each, below(4) ? PLAIN : kind), *states_card = twin(states, (size_t)(2 * count * each) * 4 + 4);
        float *places[1] = { states };
        struct rondo_delta_block list[6];
        memset(list, 0, sizeof list);
        int taken[4] = { 0 };
        for (int n = 0; n < count; n++) {
            const int way = (int)below(4), head = (int)below(heads), first = (int)below(vd), bound = way == RONDO_DELTA_BOUND;
            const int map_first = (int)below(kd);
            struct rondo_delta_block *b = list + n;
            b->kind = way;
            if (way == RONDO_DELTA_FORWARD && taken[head]++)
                b->kind = RONDO_DELTA_STATE;   /* outputs of a head are written once */
            b->row = below(rows);
            b->rows = below(6) ? 1 + below(rows - b->row) : 0;
            b->head = head;
            b->key_head = head / (heads / key_heads);
            b->of = head;
            b->column = b->kind == RONDO_DELTA_MAP ? map_first : first;
            b->columns = bound ? 1 : 1 + (int)below((b->kind == RONDO_DELTA_MAP ? kd - map_first : vd - first));
            b->from = (struct rondo_delta_state){ below(4) ? 0 : -1, 0, 2 * n * each, stride };
            const int there = below(6) || b->kind >= RONDO_DELTA_MAP, second = !(b->kind < RONDO_DELTA_MAP && below(2));
            b->to = (struct rondo_delta_state){ there ? 0 : -1, 0, (2 * n + second) * each, stride };
        }
        struct rondo_delta_run run = { .form = &f, .parts = &part, .blocks = list, .states = places, .a_log = a_log, .dt_bias = dt_bias, .count = count,
                                       .part_count = 1, .state_count = 1, .tolerance = below(3) ? 0.0 : 0.5 };
        int right = cpu->delta(devices[0], NULL, &run, NULL) == 0;
        float *places_card[1] = { card_of(states_card) };
        part_card = part;
        part_card.q.data = card_of(part.q.data);
        part_card.k.data = card_of(part.k.data);
        part_card.v.data = card_of(part.v.data);
        part_card.g.data = card_of(part.g.data);
        part_card.beta.data = card_of(part.beta.data);
        part_card.out.data = card_of(out_card);
        run.parts = &part_card;
        run.states = places_card;
        run.a_log = card_of(a_log);
        run.dt_bias = card_of(dt_bias);
        const int err = card_ops->delta(card, NULL, &run, NULL);
        memset(list, 0xff, sizeof list);   /* lists have been read */
        memset(&part_card, 0xff, sizeof part_card);
        right &= equal(err, states, states_card, (size_t)(2 * count * each) * 4) && !memcmp(part.out.data, out_card, out_bytes);
        if (!right)
            diag("%d by %d, %lld rows, gate %d of %d, beta %d, norm %d, chunk %d", kd, vd, (long long)rows, f.gate, f.gate_dim, f.beta, f.norm, f.chunk);
        wrong += !right;
        void *all[] = { part.q.data, part.k.data, part.v.data, part.g.data, part.beta.data, part.out.data, out_card, a_log, dt_bias, states, states_card };
        for (size_t n = 0; n < sizeof all / sizeof *all; n++)
            free(all[n]);
    }
    is_int(wrong, 0, "outputs, states, maps and bounds have the definition's bits, %d random runs", rounds);
}

static void folds(void)
{
    const struct rondo_device_ops *cpu = &rondo__cpu_device;
    const int rounds = long_tests() ? 500 : 60;
    int wrong = 0;
    for (int i = 0; i < rounds; i++) {
        const int kd = 1 + (int)below(70), count = 1 + (int)below(4);
        const int64_t stride = kd + below(5), each = stride * kd;
        float *states = numbers(4 * count * each, any_kind()), *twins = twin(states, (size_t)(4 * count * each) * 4 + 4), *places[1] = { states };
        struct rondo_delta_fold list[4];
        for (int n = 0; n < count; n++) {
            struct rondo_delta_state at[4];
            for (int k = 0; k < 4; k++)
                at[k] = (struct rondo_delta_state){ 0, 0, (4 * n + k) * each, stride };
            list[n] = (struct rondo_delta_fold){ at[0], at[1], at[2], at[3], 1 + (int)below(kd), 0 };
        }
        int right = cpu->delta_fold(devices[0], NULL, kd, list, count, places, 1) == 0;
        float *places_card[1] = { card_of(twins) };
        right &= equal(card_ops->delta_fold(card, NULL, kd, list, count, places_card, 1), states, twins, (size_t)(4 * count * each) * 4);
        wrong += !right;
        free(states);
        free(twins);
    }
    is_int(wrong, 0, "folds have the definition's bits");
}

/* Gradients of blocks of a key head's heads, each place of a state given or not; keys that are not normalised make states grow, so for a few tokens. */
static void gradients(void)
{
    const struct rondo_device_ops *cpu = &rondo__cpu_device;
    const int rounds = long_tests() ? 400 : 30;
    int wrong = 0;
    for (int i = 0; i < rounds; i++) {
        const int kd = below(3) ? 1 + (int)below(below(3) ? 40 : 140) : 32 << below(3), vd = 1 + (int)below(below(2) ? 20 : 150);
        const int key_heads = 1 + (int)below(2), group = 1 + (int)below(3), heads = key_heads * group;
        const int64_t rows = 1 + below(below(3) ? 20 : 250), pad = below(3), begins = below(3);
        struct rondo_delta_form f = { .key_dim = kd, .value_dim = vd, .type = RONDO_F32 + (int)below(3), .gate_type = RONDO_F32 + (int)below(3),
                                      .beta_type = RONDO_F32 + (int)below(3), .out_type = RONDO_F32 + (int)below(3), .gate = (int)below(3), .beta = (int)below(3),
                                      .norm = rows > 20 || below(2), .gate_dim = below(2) ? kd : 1, .lower_bound = -5.0f, .scale = 0.3f };
        const int64_t dims[6] = { kd, kd, vd, f.gate_dim, 1, vd }, numbers_of[6] = { key_heads, key_heads, heads, heads, heads, heads };
        const int in[6] = { f.type, f.type, f.type, f.gate_type, f.beta_type, f.out_type };
        struct rondo_delta_backward_run run = { .form = &f, .group = group, .state_count = 1, .accumulate = (int)below(2), .q_type = RONDO_F32 + (int)below(3),
                                                .k_type = RONDO_F32 + (int)below(3), .v_type = RONDO_F32 + (int)below(3), .g_type = RONDO_F32 + (int)below(3),
                                                .beta_type = RONDO_F32 + (int)below(3), .count = heads };
        const int out[6] = { run.q_type, run.k_type, run.v_type, run.g_type, run.beta_type, RONDO_F32 };
        struct rondo_delta_rows given, made, given_card, made_card;
        struct rondo_rows *const of[6] = { &given.q, &given.k, &given.v, &given.g, &given.beta, &given.out };
        struct rondo_rows *const to[6] = { &made.q, &made.k, &made.v, &made.g, &made.beta, &made.out };
        void *twins[6];
        size_t bytes[6];
        for (int n = 0; n < 6; n++) {
            const int64_t row = numbers_of[n] * dims[n] + pad;
            *of[n] = (struct rondo_rows){ typed((rows + begins) * row, in[n], PLAIN), row, dims[n] };
            *to[n] = (struct rondo_rows){ typed((rows + begins) * row, out[n], PLAIN), row, dims[n] };
            bytes[n] = (size_t)((rows + begins) * row) * rondo_type_size(out[n]);
            twins[n] = twin(to[n]->data, bytes[n] + 4);
        }
        float *a_log = below(2) ? numbers(heads, PLAIN) : NULL, *dt_bias = below(2) ? numbers(heads * f.gate_dim, PLAIN) : NULL;
        const int64_t stride = vd + below(4), state = stride * kd, sums = f.gate_dim + 1, each = 3 * state + 5 * sums;
        float *states = numbers(heads * each, PLAIN), *states_card = twin(states, (size_t)(heads * each) * 4 + 4), *places[1] = { states };
        struct rondo_delta_backward_block list[6];
        const int64_t position = below(300), length = position + rows + (below(2) ? below(200) : 0);
        for (int n = 0; n < heads; n++) {
            const int64_t at = n * each;
            const bool in_place = below(2);
            list[n] = (struct rondo_delta_backward_block){
                .row = begins, .rows = rows, .position = position, .length = length, .head = n, .key_head = n / group, .of = n, .result = (int)below(2),
                .state = { below(4) ? 0 : -1, 0, at, stride }, .end = { below(4) ? 0 : -1, 0, at + state, stride },
                .begin = { below(4) ? 0 : -1, 0, at + (in_place ? 1 : 2) * state, stride }, .open = { below(4) ? 0 : -1, 0, at + 3 * state, 0 },
                .left = { below(4) ? 0 : -1, 0, at + 3 * state + sums, 0 }, .leaves = { below(4) ? 0 : -1, 0, at + 3 * state + 2 * sums, sums }
            };
        }
        run.rows = &given;
        run.results = &made;
        run.blocks = list;
        run.states = places;
        run.a_log = a_log;
        run.dt_bias = dt_bias;
        int right = cpu->delta_backward(devices[0], NULL, &run, NULL) == 0;
        float *places_card[1] = { card_of(states_card) };
        given_card = given;
        made_card = made;
        struct rondo_rows *const of_card[6] = { &given_card.q, &given_card.k, &given_card.v, &given_card.g, &given_card.beta, &given_card.out };
        struct rondo_rows *const to_card[6] = { &made_card.q, &made_card.k, &made_card.v, &made_card.g, &made_card.beta, &made_card.out };
        for (int n = 0; n < 6; n++) {
            of_card[n]->data = card_of(of[n]->data);
            to_card[n]->data = card_of(twins[n]);
        }
        run.rows = &given_card;
        run.results = &made_card;
        run.states = places_card;
        run.a_log = card_of(a_log);
        run.dt_bias = card_of(dt_bias);
        const int err = card_ops->delta_backward(card, NULL, &run, NULL);
        memset(list, 0xff, sizeof list);   /* lists have been read */
        right &= equal(err, states, states_card, (size_t)(heads * each) * 4);
        for (int n = 0; n < 6; n++) {
            if (right && memcmp(to[n]->data, twins[n], bytes[n]))
                diag("array %d differs", n);
            right &= !memcmp(to[n]->data, twins[n], bytes[n]);
        }
        if (!right)
            diag("%d by %d, %lld rows, gate %d of %d, beta %d, norm %d", kd, vd, (long long)rows, f.gate, f.gate_dim, f.beta, f.norm);
        wrong += !right;
        for (int n = 0; n < 6; n++) {
            free(of[n]->data);
            free(to[n]->data);
            free(twins[n]);
        }
        free(a_log);
        free(dt_bias);
        free(states);
        free(states_card);
    }
    is_int(wrong, 0, "gradients have the definition's bits, %d random runs", rounds);
}

static int on(const char *device, int ranks, struct job *j)
{
    setenv("RONDO_TEST_DEVICE", device, 1);
    const int err = rondo_launch(ranks, NULL, body, j);
    if (err)
        diag("%s, %d ranks, %s: %s", device, ranks, rondo_delta_way_name(j->way), rondo_error_text());
    return err;
}

/* Packed sequences, one of them empty, with checkpoints and arrays with holes; the arrays are the host's. */
static void plans(void)
{
    static const struct {
        int ranks, way;
        int64_t tile;
        double tolerance;
    } ways[] = { { 1, RONDO_DELTA_SERIAL, 0, 0.0 }, { 2, RONDO_DELTA_SERIAL, 0, 0.0 }, { 3, RONDO_DELTA_PIPELINE, 0, 0.0 }, { 3, RONDO_DELTA_COLUMNS, 0, 0.0 },
                 { 1, RONDO_DELTA_AFFINE, 32, 0.0 }, { 2, RONDO_DELTA_AFFINE, 32, 1e-6 } };
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        struct delta_case c = { .heads = 4, .key_heads = 2, .key_dim = i % 2 ? 64 : 20, .value_dim = 36, .gate_dim = i % 3 ? i % 2 ? 64 : 20 : 1, .sequences = 3,
                                .rows = 128, .cu = { 0, 70, 70, 128 }, .gate = (int)i % 3, .beta = (int)(i + 1) % 3, .norm = 1, .type = RONDO_F32 + (int)i % 3,
                                .lower_bound = -5.0, .scale = 0.2 };
        struct job cpu = { .c = &c, .points = { 0, 32, 70, 102 }, .point_count = 4, .entries = 1, .packed = true, .holes = i % 2 == 0, .way = ways[i].way,
                           .tile = ways[i].tile, .tolerance = ways[i].tolerance }, own = cpu;
        delta_draw(&c, -1.0, 0.0, true);
        room(&cpu);
        room(&own);
        ok(!on("cpu", 1, &cpu) && !on("cuda", ways[i].ranks, &own) && same(&cpu, &own), "%d ranks, %s: the card has the processor's bits", ways[i].ranks,
           rondo_delta_way_name(ways[i].way));
        job_free(&cpu);
        job_free(&own);
        delta_free(&c);
    }
}

static void refused(void)
{
    struct rondo_delta_form f = { .key_dim = 600, .value_dim = 16, .type = RONDO_F32, .gate_type = RONDO_F32, .beta_type = RONDO_F32, .out_type = RONDO_F32,
                                  .gate_dim = 600, .chunk = 64 };
    const struct rondo_delta_run run = { .form = &f };
    int err = card_ops->delta(card, NULL, &run, NULL);
    ok(err == RONDO_ENOTSUP && strstr(rondo_error_text(), "bytes of shared memory"), "chunks of keys that are too large: %s", rondo_error_text());
    f.chunk = 0;
    f.key_dim = 4000;
    err = card_ops->delta(card, NULL, &run, NULL);
    ok(err == RONDO_ENOTSUP && strstr(rondo_error_text(), "bytes of shared memory"), "states that are too large: %s", rondo_error_text());
}

int main(void)
{
    const char *why = card_open();
    if (why)
        return skip_all("%s", why);
    find_devices();
    card_begin();
    blocks();
    folds();
    gradients();
    plans();
    refused();
    card_detach();
    card_end();
    drop_devices();
    return done();
}
