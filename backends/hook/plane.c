/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The hook's mode `plane`: a data plane for transports that have none, over an endpoint of its own that is split off the wrapped one.
 * Called by hook.c. It serves any device: a group waits until the stream has come to it and moves what lies in the device's memory
 * through the host. When the call returns messages have come, but what goes to the device's memory comes there when the stream says, so that
 * who does not wait for the stream is too early. The call can wait inside because every rank puts the groups of one plane into its streams
 * in an order in which each of them can be finished before the next is begun: that is what the checker of schedules proves.
 */
#include "backends/hook/hook.h"

struct rondo__hook_plane {
    const struct rondo_transport_ops *ops;
    struct rondo_endpoint *ep;
    struct rondo__hook_copy *copy;     /* where the transport beneath shows memory in place: data planes never do */
    const struct rondo_device_ops *device_ops;
    struct rondo_device *dev;
    struct rondo_event *event;
    struct rondo_part *parts;          /* grow with the largest group */
    char *staging;                     /* pinned, or copies would not wait for their stream */
    size_t parts_room, staging_room;
};

int rondo__hook_plane_open(struct rondo__hook_plane **out, const struct rondo_transport_ops *ops, struct rondo_endpoint *ep,
                           const struct rondo_device_ops *device_ops, struct rondo_device *dev, int *peer)
{
    struct rondo__hook_plane *p = rondo__alloc_zero(1, sizeof *p);
    if (!p)
        return rondo__fail(RONDO_ENOMEM, "no memory for the test hook's data plane");
    p->ops = ops;
    p->device_ops = device_ops;
    p->dev = dev;
    int err = device_ops->event_new(dev, &p->event);
    if (err) {
        rondo__free(p);
        return err;
    }
    static const struct rondo__hook_settings copies = { .copy = true };
    err = ops->split(ep, 0, ops->rank(ep), &p->ep, peer);
    if (!err && ops->in_place)
        err = rondo__hook_copy_new(&p->copy, &copies, ops, p->ep, peer);
    if (err) {
        rondo__hook_plane_close(p);
        return err;
    }
    *out = p;
    return 0;
}

void rondo__hook_plane_close(struct rondo__hook_plane *p)
{
    if (!p)
        return;
    rondo__hook_copy_free(p->copy);
    if (p->ep)
        p->ops->leave(p->ep);
    (void)p->device_ops->event_wait(p->dev, p->event, NULL);
    p->device_ops->event_free(p->dev, p->event);
    rondo__free(p->parts);
    if (p->staging)
        p->device_ops->memory_free(p->dev, RONDO_MEMORY_PINNED, p->staging, p->staging_room);
    rondo__free(p);
}

void rondo__hook_plane_quiesce(struct rondo__hook_plane *p, double seconds)
{
    if (p->copy)
        rondo__hook_copy_quiesce(p->copy, seconds);
    p->ops->quiesce(p->ep, seconds);
}

/* ---- one group ---- */

static bool on_device(const struct rondo__hook_plane *p, const void *memory)
{
    return !p->device_ops->unified && p->device_ops->memory_kind(p->dev, memory) == RONDO_MEMORY_DEVICE;
}

/* Room for the parts, and in the host's memory for those that lie in the device's. */
static int prepare(struct rondo__hook_plane *p, const struct rondo_part *parts, int32_t count)
{
    size_t bytes = 0, most;
    bool fits = rondo__mul((size_t)count, sizeof *parts, &most);
    for (int32_t i = 0; i < count && fits; i++)
        if (on_device(p, parts[i].memory))
            fits = rondo__add(bytes, parts[i].bytes, &bytes) && rondo__add(bytes, 63, &bytes);
    if (fits && most > p->parts_room) {
        rondo__free(p->parts);
        p->parts = rondo__alloc(most);
        p->parts_room = p->parts ? most : 0;
        fits = p->parts != NULL;
    }
    if (fits && bytes > p->staging_room) {
        void *room = NULL;
        if (p->staging)
            p->device_ops->memory_free(p->dev, RONDO_MEMORY_PINNED, p->staging, p->staging_room);
        fits = !p->device_ops->memory_new(p->dev, RONDO_MEMORY_PINNED, bytes, &room);
        p->staging = fits ? room : NULL;
        p->staging_room = fits ? bytes : 0;
    }
    if (!fits)
        return rondo__fail(RONDO_ENOMEM, "no memory for %d messages in the test hook's data plane", (int)count);
    char *at = p->staging;
    for (int32_t i = 0; i < count; i++) {
        p->parts[i] = parts[i];
        if (!on_device(p, parts[i].memory))
            continue;
        p->parts[i].memory = at;
        at += (parts[i].bytes + 63) & ~(size_t)63;
    }
    return 0;
}

/* Puts copies of what lies in the device's memory into the stream; what is sent must be there, so that is waited for. */
static int stage(struct rondo__hook_plane *p, struct rondo_stream *stream, const struct rondo_part *parts, int32_t count, int32_t receives)
{
    int err = 0;
    for (int32_t i = 0; i < count && !err; i++) {
        if (parts[i].receives != receives || parts[i].memory == p->parts[i].memory)
            continue;
        void *to = receives ? parts[i].memory : p->parts[i].memory, *from = receives ? p->parts[i].memory : parts[i].memory;
        err = p->device_ops->copy(p->dev, stream, to, from, parts[i].bytes);
    }
    if (!err)
        err = p->device_ops->event_record(p->dev, stream, p->event);
    return err || receives ? err : p->device_ops->event_wait(p->dev, p->event, NULL);
}

int rondo__hook_plane_start(struct rondo__hook_plane *p, struct rondo_stream *stream, const struct rondo_part *parts, int32_t count,
                            double seconds, int *peer)
{
    int err = p->device_ops->event_wait(p->dev, p->event, NULL);   /* the staging is the group's before */
    if (!err)
        err = prepare(p, parts, count);
    if (!err)
        err = stage(p, stream, parts, count, 0);
    if (err)
        return err;
    struct rondo_transfer group = { .parts = p->parts, .count = count };
    err = p->copy ? rondo__hook_copy_start(p->copy, &group) : p->ops->start(p->ep, &group);
    if (!err)
        err = p->copy ? rondo__hook_copy_finish(p->copy, &group, seconds, peer) : p->ops->finish(p->ep, &group, seconds, peer);
    return err ? err : stage(p, stream, parts, count, 1);
}
