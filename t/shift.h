/* SPDX-License-Identifier: BSD-2-Clause
 *
 * For the tests of communication: messages that say who sent them, and the commonest transfer: bytes to the rank so many further on,
 * bytes from the one so many before; either may be nothing.
 */
#ifndef RONDO_T_SHIFT_H
#define RONDO_T_SHIFT_H

#include "core/internal.h"

/* What does not hold, or a call that fails, ends a body on all ranks. */
#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            rondo__fail(RONDO_EDEVICE, "line %d, rank %d: %s does not hold", __LINE__, ctx->rank, #condition);         \
            return rondo__collective_failed(ctx, RONDO_EDEVICE);                                                       \
        }                                                                                                              \
    } while (0)
#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        int err_ = (call);                                                                                             \
        if (err_)                                                                                                      \
            return rondo__collective_failed(ctx, err_);                                                                \
    } while (0)

/* What a message holds follows from who sent it, to whom, and which it is: any that is mixed up shows. */
static inline unsigned char byte_of(int from, int to, int number, size_t i)
{
    return (unsigned char)rondo__mix64((uint64_t)from * 1000003u + (uint64_t)to * 10007u + (uint64_t)number * 101u + i);
}

static inline void fill(unsigned char *p, size_t n, int from, int to, int number)
{
    for (size_t i = 0; i < n; i++)
        p[i] = byte_of(from, to, number, i);
}

static inline int differs(const unsigned char *p, size_t n, int from, int to, int number)
{
    for (size_t i = 0; i < n; i++)
        if (p[i] != byte_of(from, to, number, i))
            return 1;
    return 0;
}

struct shift {
    struct rondo__transfer transfer;
    struct rondo_part part[2];
    void *room;
};

static inline struct rondo_part part_to(int peer, const void *memory, size_t bytes)
{
    return (struct rondo_part){ .memory = (void *)(uintptr_t)memory, .bytes = bytes, .peer = peer };
}

static inline struct rondo_part part_from(int peer, void *memory, size_t bytes)
{
    return (struct rondo_part){ .memory = memory, .bytes = bytes, .peer = peer, .receives = 1 };
}

static inline struct rondo__step step_named(const char *what)
{
    return (struct rondo__step){ what, 0, 0 };
}

static inline int group_start(rondo_context *ctx, struct rondo__transfer *t, struct rondo_part *parts, int count, int operation,
                              struct rondo__step step)
{
    *t = (struct rondo__transfer){ .group = { .parts = parts, .count = count }, .step = step, .operation = operation };
    return rondo__transfer_start(ctx, t);
}

static inline int shift_start(rondo_context *ctx, struct shift *s, int distance, const void *send, size_t send_bytes, void *recv,
                              size_t recv_bytes, int operation, struct rondo__step step)
{
    int count = 0;
    s->room = recv;
    if (recv_bytes)
        s->part[count++] = part_from((ctx->rank - distance + ctx->ranks) % ctx->ranks, recv, recv_bytes);
    if (send_bytes)
        s->part[count++] = part_to((ctx->rank + distance) % ctx->ranks, send, send_bytes);
    return group_start(ctx, &s->transfer, s->part, count, operation, step);
}

static inline int shift_finish(rondo_context *ctx, struct shift *s, const void **where)
{
    int err = rondo__transfer_finish(ctx, &s->transfer);
    if (!err && where)
        *where = s->transfer.group.count && s->part[0].receives ? s->part[0].where : s->room;
    return err;
}

/* Everything to everybody as one group: block d (0..N-1) of `send` goes to rank (rank + d) mod N, block d of the result came from
 * (rank - d) mod N. Block 0 is not moved. */
#define EXCHANGE_RANKS 64
static inline int exchange(rondo_context *ctx, const void *const *send, const size_t *send_bytes, void *const *recv,
                           const size_t *recv_bytes, const void **where, struct rondo__step step)
{
    struct rondo__transfer t;
    struct rondo_part parts[2 * EXCHANGE_RANKS];
    int count = 0, of[2 * EXCHANGE_RANKS], n = ctx->ranks, me = ctx->rank;
    where[0] = send[0];
    for (int d = 1; d < n; d++) {
        if (send_bytes[d])
            parts[count++] = part_to((me + d) % n, send[d], send_bytes[d]);
        of[count] = d;
        if (recv_bytes[d])
            parts[count++] = part_from((me - d + n) % n, recv[d], recv_bytes[d]);
        else
            where[d] = recv[d];
    }
    int err = group_start(ctx, &t, parts, count, RONDO_OP_ALL_TO_ALL, step);
    if (!err)
        err = rondo__transfer_finish(ctx, &t);
    for (int i = 0; i < count && !err; i++)
        if (parts[i].receives)
            where[of[i]] = parts[i].where;
    return err;
}

#endif
