/* SPDX-License-Identifier: BSD-2-Clause
 *
 * How messages are put on a machine: transfers that reach only some kinds of memory, transports that show a peer's memory instead of copying
 * it. What of a message needs a copy, a place, a fence or none of them is decided here and nowhere else. Called by the builders of
 * attention/algorithms/ through lower.c there, and by those of gradients, the delta rule and tensor parallelism.
 */
#include "schedule/schedule.h"

int32_t rondo__machine_compute_memory(const struct rondo__machine *machine)
{
    return machine->unified ? RONDO_MEMORY_HOST : RONDO_MEMORY_DEVICE;
}

int32_t rondo__machine_transfer_memory(const struct rondo__machine *machine)
{
    const int32_t kind = rondo__machine_compute_memory(machine);
    return machine->memories >> kind & 1 ? kind : RONDO_MEMORY_PINNED;
}

void rondo__schedule_arguments(struct rondo__schedule *s, const struct rondo__machine *machine)
{
    if (machine->unified)
        return;
    rondo__schedule_begin(s, RONDO_PACK, rondo__step_named("arguments"), -1);
    for (int32_t i = 0; i < s->buffers.count && !s->failed; i++) {
        struct rondo__buffer *buffer = rondo__buffer_at(s, i);
        if (buffer->owner != RONDO_OWNER_CALLER)
            continue;
        if (buffer->access == RONDO_ACCESS_INPUT)
            buffer->access = RONDO_ACCESS_BOTH;
        rondo__schedule_use(s, i, 0, buffer->bytes, true);
    }
    rondo__schedule_end(s);
}

int32_t rondo__schedule_arrival(struct rondo__schedule *s, const struct rondo__machine *machine, const char *name, int32_t index, size_t bytes)
{
    struct rondo__buffer buffer = { .name = name, .index = index, .owner = RONDO_OWNER_PLAN, .memory = rondo__machine_transfer_memory(machine),
                                    .tensor = -1, .bytes = bytes, .room = bytes, .home = -1, .over = -1 };
    if (machine->in_place) {
        buffer.owner = RONDO_OWNER_PEER;
        buffer.room = bytes < machine->eager ? bytes : machine->eager;
    }
    return rondo__buffer_add(s, buffer);
}

/* The same bytes in memory of another kind, at the same places. */
static int32_t twin(struct rondo__schedule *s, int32_t buffer, const char *name, int32_t memory)
{
    struct rondo__buffer t = *rondo__buffer_at(s, buffer);
    if (t.twin > 0)
        return t.twin;
    t.name = name;
    t.owner = RONDO_OWNER_PLAN;
    t.memory = memory;
    t.room = t.bytes;
    t.tensor = t.home = t.over = -1;
    t.spare = t.twin = 0;
    const int32_t made = rondo__buffer_add(s, t);
    rondo__buffer_at(s, buffer)->twin = made;
    return made;
}

static void copy_between(struct rondo__schedule *s, int32_t from, int32_t to, size_t at, size_t bytes, const char *what, int32_t group)
{
    rondo__schedule_begin(s, RONDO_PACK, rondo__step_named(what), group);
    rondo__schedule_copy(s, (struct rondo__copy){ .from = from, .to = to, .from_at = at, .to_at = at, .sequence = -1, .rows = (int64_t)bytes },
                         bytes);
    rondo__schedule_end(s);
}

int32_t rondo__schedule_sent(struct rondo__schedule *s, const struct rondo__machine *machine, int32_t buffer, size_t at, size_t bytes,
                             int32_t group)
{
    const int32_t reached = rondo__machine_transfer_memory(machine);
    if (s->failed || !bytes || rondo__buffer_at(s, buffer)->memory == reached || rondo__buffer_at(s, buffer)->memory == RONDO_MEMORY_HOST)
        return buffer;
    const int32_t other = twin(s, buffer, "to be sent", reached);
    copy_between(s, buffer, other, at, bytes, reached == RONDO_MEMORY_DEVICE ? "to the device" : "to the host", group);
    return other;
}

int32_t rondo__schedule_received(struct rondo__schedule *s, const struct rondo__machine *machine, int32_t buffer, size_t bytes, int32_t group)
{
    const int32_t used = rondo__machine_compute_memory(machine);
    if (s->failed || !bytes || rondo__buffer_at(s, buffer)->memory == used)
        return buffer;
    const int32_t other = twin(s, buffer, "received", used);
    copy_between(s, buffer, other, 0, bytes, "to the device", group);
    return other;
}

void rondo__schedule_fence(struct rondo__schedule *s, const struct rondo__machine *machine, struct rondo__step step)
{
    if (!machine->in_place)
        return;
    rondo__schedule_begin(s, RONDO_FENCE, step, -1);
    rondo__schedule_end(s);
}
