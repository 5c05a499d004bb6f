/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The KV cache against a plain model: seats that come, grow and go at random, several at once. Every row stays what it was; what is
 * copied and what is held stay within what kv.c says of itself. Copies are counted from outside, by what has moved.
 */
#include <stdbool.h>

#include "lm/engine/kv.h"
#include "rondo.h"
#include "tap.h"

#define SEATS 24
#define LAYERS 2
#define WIDTH 3

static uint64_t state = 1;

static int64_t below(int64_t n)
{
    uint64_t z = (state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (int64_t)((z ^ (z >> 31)) % (uint64_t)n);
}

/* What every row holds: a function of the sequence, its row, the layer and whether it is a key. */
static float mark(int64_t sequence, int64_t row, int64_t layer, int value)
{
    return (float)((sequence * 7919 + row * 131 + layer * 17 + value * 5) % 1000003);
}

struct plain {                   /* of a seat */
    int64_t sequence, rows;
};

static struct rondo_kv kv;
static struct plain seats[SEATS];

static void write_rows(int64_t seat, int64_t from, int64_t to)
{
    for (int64_t layer = 0; layer < LAYERS; layer++)
        for (int64_t row = from; row < to; row++)
            for (int i = 0; i < WIDTH; i++) {
                const int64_t at = (kv.runs[seat].first + row) * WIDTH + i;
                ((float *)kv.keys[layer])[at] = mark(seats[seat].sequence, row, layer, 0);
                ((float *)kv.values[layer])[at] = mark(seats[seat].sequence, row, layer, 1);
            }
}

static int64_t wrong_rows(int64_t seat)
{
    int64_t wrong = 0;
    for (int64_t layer = 0; layer < LAYERS; layer++)
        for (int64_t row = 0; row < seats[seat].rows; row++)
            for (int i = 0; i < WIDTH; i++) {
                const int64_t at = (kv.runs[seat].first + row) * WIDTH + i;
                wrong += ((const float *)kv.keys[layer])[at] != mark(seats[seat].sequence, row, layer, 0);
                wrong += ((const float *)kv.values[layer])[at] != mark(seats[seat].sequence, row, layer, 1);
            }
    return wrong;
}

/* Runs lie in the slabs and apart from each other, in the order that the table gives; sums are right. */
static bool sound(void)
{
    int64_t end = 0, capacity = 0, taken = 0;
    for (int64_t i = 0; i < kv.taken; i++) {
        const struct rondo_kv_run *run = &kv.runs[kv.order[i]];
        if (run->first < end || run->capacity < 1 || run->used > run->capacity)
            return false;
        end = run->first + run->capacity;
        capacity += run->capacity;
    }
    for (int64_t s = 0; s < SEATS; s++)
        taken += kv.runs[s].capacity > 0;
    return end <= kv.rows && capacity == kv.capacity && taken == kv.taken;
}

struct sums {
    int64_t appended, copied, layouts, moved, sequences;
    int64_t wrong, unsound, beyond, loose;   /* all 0 */
    int64_t most, most_used;                 /* rows of the slabs; rows that hold keys */
};

/* Grows the seats of the list; counts what that moved. */
static void grow(struct sums *sums, const struct rondo_kv_wish *wishes, int64_t count, int64_t *reserved)
{
    struct rondo_kv_run before[SEATS];
    const void *slab = kv.keys[0];
    const int64_t rows = kv.rows;
    memcpy(before, kv.runs, sizeof before);
    if (rondo__kv_reserve(&kv, wishes, count)) {
        sums->wrong++;
        return;
    }
    const bool anew = kv.keys[0] != slab || kv.rows != rows;
    sums->layouts += anew;
    for (int64_t s = 0; s < SEATS; s++) {
        const bool moves = before[s].used > 0 && (anew || kv.runs[s].first != before[s].first);
        bool named = false;
        for (int64_t i = 0; i < count; i++)
            named |= wishes[i].seat == s;
        sums->copied += moves ? before[s].used : 0;
        sums->moved += moves && !anew;
        sums->unsound += moves && !anew && !named;   /* only who grows may move alone */
    }
    int64_t used = 0, live = 0, most = 0;
    for (int64_t i = 0; i < count; i++) {
        struct rondo_kv_run *run = &kv.runs[wishes[i].seat];
        const int64_t old = seats[wishes[i].seat].rows;
        sums->appended += wishes[i].rows - old;
        const bool grew = run->capacity != before[wishes[i].seat].capacity;
        sums->loose += run->capacity < wishes[i].rows || (grew && run->capacity > wishes[i].limit && run->capacity > wishes[i].rows);
        run->used = seats[wishes[i].seat].rows = wishes[i].rows;
        write_rows(wishes[i].seat, old, wishes[i].rows);
    }
    for (int64_t s = 0; s < SEATS; s++) {
        used += seats[s].rows;
        live += seats[s].rows > 0;
        if (kv.runs[s].capacity > most)
            most = kv.runs[s].capacity;
        sums->beyond += kv.runs[s].capacity > seats[s].rows + seats[s].rows / 8 + 64;
    }
    sums->unsound += !sound();
    *reserved = kv.capacity > *reserved ? kv.capacity : *reserved;
    sums->beyond += kv.capacity > used + used / 8 + 64 * live;
    sums->beyond += kv.rows > *reserved + *reserved / 4 + 1 || kv.rows > 4 * kv.capacity + 1024;
    sums->most = kv.rows > sums->most ? kv.rows : sums->most;
    sums->most_used = used > sums->most_used ? used : sums->most_used;
}

/* Many rounds: of each some seats grow by 0 to `step` rows and one in `drops` of them goes. */
static struct sums play(uint64_t seed, int rounds, int64_t step, int64_t drops)
{
    struct sums sums = { 0 };
    int64_t reserved = 0;
    state = seed;
    memset(seats, 0, sizeof seats);
    if (rondo__kv_open(&kv, RONDO_F32, LAYERS, WIDTH * sizeof(float)) || rondo__kv_seats(&kv, SEATS / 2) || rondo__kv_seats(&kv, SEATS)) {
        sums.wrong++;
        return sums;
    }
    for (int round = 0; round < rounds; round++) {
        struct rondo_kv_wish wishes[SEATS];
        int64_t count = 0;
        for (int64_t s = 0; s < SEATS; s++) {
            if (below(3))
                continue;
            if (seats[s].rows == 0)
                seats[s].sequence = ++sums.sequences;
            const int64_t rows = seats[s].rows + below(step + 1);
            wishes[count++] = (struct rondo_kv_wish){ s, rows, 0, below(4) ? INT64_MAX : rows + below(20) };
        }
        grow(&sums, wishes, count, &reserved);
        const int64_t gone = below(SEATS);
        if (below(drops) == 0) {
            rondo__kv_drop(&kv, gone);
            seats[gone].rows = 0;
            sums.unsound += !sound();
        }
        for (int64_t s = 0; s < SEATS; s++)
            sums.wrong += wrong_rows(s);
    }
    rondo__kv_close(&kv);
    return sums;
}

static void random_life(void)
{
    static const struct {
        int64_t step, drops;
    } kinds[] = { { 1, 8 }, { 1, 1 }, { 7, 2 }, { 40, 1 }, { 300, 1 }, { 2000, 1 }, { 3, 200 } };
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        const struct sums s = play(k + 1, long_tests() ? 3000 : 300, kinds[k].step, kinds[k].drops);
        diag("by %lld rows, one in %lld goes: %lld rows appended, %lld copied, %lld layouts, %lld moved alone, %lld of %lld rows used at most",
             (long long)kinds[k].step, (long long)kinds[k].drops, (long long)s.appended, (long long)s.copied, (long long)s.layouts,
             (long long)s.moved, (long long)s.most_used, (long long)s.most);
        ok(s.wrong == 0, "growing by %lld: every row is what was written", (long long)kinds[k].step);
        ok(s.unsound == 0, "... runs lie apart, and who does not grow stays");
        ok(s.beyond == 0, "... no run, and no slab, is larger than kv.c says");
        ok(s.loose == 0, "... none goes beyond its limit");
        ok(s.copied <= 9 * (s.appended + 64 * s.sequences), "... few rows are copied for each that is appended");
    }
}

/* One long sequence among many: the others are not touched while it grows, and it copies itself a constant number of times. */
static void one_grows(void)
{
    struct sums sums = { 0 };
    int64_t reserved = 0;
    memset(seats, 0, sizeof seats);
    is_int(rondo__kv_open(&kv, RONDO_F32, LAYERS, WIDTH * sizeof(float)) || rondo__kv_seats(&kv, SEATS), 0, "a cache");
    for (int64_t s = 0; s < SEATS; s++) {
        const struct rondo_kv_wish first = { s, 500, 0, INT64_MAX };
        seats[s].sequence = s;
        grow(&sums, &first, 1, &reserved);
    }
    const int64_t before = sums.copied;
    for (int64_t rows = 501; rows <= 20000; rows++) {
        const struct rondo_kv_wish wish = { 3, rows, 0, INT64_MAX };
        grow(&sums, &wish, 1, &reserved);
    }
    int64_t wrong = sums.wrong;
    for (int64_t s = 0; s < SEATS; s++)
        wrong += wrong_rows(s);
    diag("%lld rows copied while one sequence grew by 19500 beside %d of 500", (long long)(sums.copied - before), SEATS - 1);
    ok(wrong == 0 && sums.unsound == 0 && sums.beyond == 0, "one grows to 20,000 rows, one by one: all is intact");
    ok(sums.copied - before <= 12 * 19500, "... and copied linearly");
    rondo__kv_close(&kv);
}

/* Sequences of nearly one length come and go, so that holes never quite fit: a layout must leave enough for some time. */
static void coming_and_going(void)
{
    struct sums sums = { 0 };
    int64_t reserved = 0;
    memset(seats, 0, sizeof seats);
    state = 9;
    is_int(rondo__kv_open(&kv, RONDO_F32, LAYERS, WIDTH * sizeof(float)) || rondo__kv_seats(&kv, SEATS), 0, "a cache");
    for (int round = 0; round < 3000; round++) {
        const int64_t seat = round < SEATS ? round : below(SEATS), rows = 100 + round / 30 + below(3);
        const struct rondo_kv_wish wish = { seat, rows, 0, rows };
        rondo__kv_drop(&kv, seat);
        seats[seat] = (struct plain){ round, 0 };
        grow(&sums, &wish, 1, &reserved);
    }
    int64_t wrong = sums.wrong;
    for (int64_t s = 0; s < SEATS; s++)
        wrong += wrong_rows(s);
    diag("3,000 sequences of 100 to 200 rows: %lld rows appended, %lld copied in %lld layouts", (long long)sums.appended,
         (long long)sums.copied, (long long)sums.layouts);
    ok(wrong == 0 && sums.unsound == 0 && sums.beyond == 0, "3,000 sequences come and go: all is intact");
    ok(sums.copied <= 4 * sums.appended, "... and few rows are copied for each that is appended");
    rondo__kv_close(&kv);
}

/* What a large sequence held is given back once it has gone, also where a small one stays. */
static void giving_back(void)
{
    struct sums sums = { 0 };
    int64_t reserved = 0;
    memset(seats, 0, sizeof seats);
    is_int(rondo__kv_open(&kv, RONDO_F32, LAYERS, WIDTH * sizeof(float)) || rondo__kv_seats(&kv, SEATS), 0, "a cache");
    const struct rondo_kv_wish first[2] = { { 0, 100000, 0, 100000 }, { 1, 10, 0, INT64_MAX } }, next = { 1, 11, 0, INT64_MAX };
    grow(&sums, first, 2, &reserved);
    ok(kv.rows >= 100010, "a large sequence and a small one");
    rondo__kv_drop(&kv, 0);
    seats[0].rows = 0;
    grow(&sums, &next, 1, &reserved);
    ok(kv.rows <= 1024 + 4 * 100, "... the large one gone, its rows go back (%lld stay)", (long long)kv.rows);
    ok(sums.wrong == 0 && sums.unsound == 0 && wrong_rows(1) == 0, "... and the small one is intact");
    rondo__kv_close(&kv);
}

/* A prompt that comes in chunks takes its rows once; a cache for one sequence holds nothing ahead of what it can need. */
static void chunks(void)
{
    struct sums sums = { 0 };
    int64_t reserved = 0;
    memset(seats, 0, sizeof seats);
    is_int(rondo__kv_open(&kv, RONDO_F32, LAYERS, WIDTH * sizeof(float)) || rondo__kv_seats(&kv, SEATS), 0, "a cache");
    for (int64_t rows = 100; rows <= 5000; rows += 100) {
        const struct rondo_kv_wish wish = { 0, rows, 5000, 5128 };
        grow(&sums, &wish, 1, &reserved);
    }
    is_int(sums.copied, 0, "a prompt of 5,000 tokens in chunks of 100: nothing is copied");
    is_int(kv.rows, 5000, "... and nothing is held beyond it");
    for (int64_t rows = 5001; rows <= 5128; rows++) {
        const struct rondo_kv_wish wish = { 0, rows, 5000, 5128 };
        grow(&sums, &wish, 1, &reserved);
    }
    is_int(kv.capacity, 5128, "its new tokens: as many rows as there can be");
    is_int(wrong_rows(0), 0, "... and all intact");
    rondo__kv_drop(&kv, 0);
    is_int((int64_t)rondo__kv_bytes(&kv), 0, "the last one gone, nothing is held");
    const struct rondo_kv_wish none = { 1, 0, 0, 10 };
    is_int(rondo__kv_reserve(&kv, &none, 1), 0, "a rank without keys");
    ok(kv.rows == 1 && kv.keys[0] && kv.capacity == 0, "... has an address to show");
    const struct rondo_kv_wish vast = { 1, INT64_MAX / 4, 0, INT64_MAX };
    is_int(rondo__kv_reserve(&kv, &vast, 1), RONDO_ENOMEM, "more rows than there can be");
    ok(kv.rows == 0 && kv.taken == 0 && kv.capacity == 0, "... leave an empty cache");
    rondo__kv_close(&kv);
}

int main(void)
{
    random_life();
    one_grows();
    coming_and_going();
    giving_back();
    chunks();
    return done();
}
