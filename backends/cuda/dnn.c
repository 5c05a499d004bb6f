/* SPDX-License-Identifier: BSD-2-Clause
 *
 * cuDNN for a device: the library, opened once for the process, a handle, and the plans that were made, by their shape: making one compiles a
 * kernel, for some tenths of a second. Called by fast.c.
 */
#include "backends/cuda/dnn.h"

#include <pthread.h>
#include <stdio.h>

#include "backends/foreign.h"

#define LEAST_VERSION 91002            /* 9.10.0 and 9.10.1 are known for wrong results */
enum { KEPT = 64 };

struct way {
    struct rondo__dnn_shape shape;
    struct rondo__dnn_plan plan;       /* plan.plan NULL: there is none */
    bool kept;
};
struct rondo__cuda_dnn {
    dnn_handle handle;
    int32_t next;
    struct way way[KEPT];
};

static struct rondo__cudnn dnn;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int found;                      /* 0, or RONDO_ENOTSUP with this: */
static char why[256];

static void open_library(void)
{
    static const char *const files[] = { "libcudnn_graph.so.9", "libcudnn.so.9", NULL };
    static const struct rondo__foreign_name names[] = {
#define X(type, name, arguments) { #name, offsetof(struct rondo__cudnn, name) },
        RONDO_CUDNN(X)
#undef X
    };
    const char *lacks, *file = rondo__foreign_open(files, names, sizeof names / sizeof *names, &dnn, &lacks);
    found = RONDO_ENOTSUP;
    if (!file || lacks) {
        if (!file)
            snprintf(why, sizeof why, "attention of level fast on the cuda device needs cuDNN, and neither libcudnn_graph.so.9 nor libcudnn.so.9 can be "
                                      "opened; use level strict");
        else
            snprintf(why, sizeof why, "the %s on this machine has no function %s; attention of level fast on the cuda device needs cuDNN 9.10.2 or newer",
                     file, lacks);
        return;
    }
    const size_t version = dnn.cudnnGetVersion();
    if (version < LEAST_VERSION)
        snprintf(why, sizeof why, "the %s on this machine is version %zu; attention of level fast on the cuda device needs %d or newer", file, version,
                 LEAST_VERSION);
    else
        found = 0;
}

static int check(const struct rondo_device *dev, int status, const char *what)
{
    if (status == DNN_OK)
        return 0;
    const char *text = dnn.cudnnGetErrorString(status);
    char more[160] = "";
    dnn.cudnnGetLastErrorString(more, sizeof more);
    more[sizeof more - 1] = '\0';
    more[strcspn(more, "\n")] = '\0';
    return rondo__cuda_fail(status == DNN_NO_HOST_MEMORY || status == DNN_NO_DEVICE_MEMORY ? RONDO_ENOMEM : RONDO_EDEVICE,
                            "%s by cuDNN on graphics card %d: %s (status %d)%s%s", what, (int)dev->index, text ? text : "no reason given", status,
                            *more ? ": " : "", more);
}

int rondo__cuda_dnn_open(struct rondo_device *dev)
{
    pthread_once(&once, open_library);
    if (found)
        return rondo__cuda_fail(found, "%s", why);
    if (dev->dnn)
        return 0;
    struct rondo__cuda_dnn *d = rondo__cuda_alloc(1, sizeof *d);
    if (!d)
        return rondo__cuda_fail(RONDO_ENOMEM, "no memory for what level fast keeps");
    int err = check(dev, dnn.cudnnCreate(&d->handle), "a handle");
    if (err)
        rondo__cuda_free(d);
    else
        dev->dnn = d;
    return err;
}

void rondo__cuda_dnn_close(struct rondo_device *dev)
{
    struct rondo__cuda_dnn *d = dev->dnn;
    if (!d)
        return;
    for (int i = 0; i < KEPT; i++)
        rondo__dnn_forget(&dnn, &d->way[i].plan);
    (void)dnn.cudnnDestroy(d->handle);
    dev->dnn_stream = NULL;
    rondo__cuda_free(d);
    dev->dnn = NULL;
}

int rondo__cuda_dnn_find(struct rondo_device *dev, const struct rondo__dnn_shape *shape, struct rondo__dnn_plan **way)
{
    struct rondo__cuda_dnn *d = dev->dnn;
    struct way *w = NULL;
    *way = NULL;
    for (int i = 0; i < KEPT && !w; i++)
        if (d->way[i].kept && !memcmp(&d->way[i].shape, shape, sizeof *shape))
            w = d->way + i;
    if (!w) {
        w = d->way + d->next;
        int err = w->kept ? rondo__cuda_sync(dev) : 0;     /* its kernel may still run */
        if (err)
            return err;
        rondo__dnn_forget(&dnn, &w->plan);
        w->kept = false;
        const int status = rondo__dnn_make(&dnn, d->handle, NULL, shape, &w->plan);
        if (status)
            rondo__dnn_forget(&dnn, &w->plan);
        if (status && !rondo__dnn_refuses(status))
            return check(dev, status, "a plan of attention");
        w->shape = *shape;
        w->kept = true;
        d->next = (d->next + 1) % KEPT;
    }
    *way = w->plan.plan ? &w->plan : NULL;
    return 0;
}

int rondo__cuda_dnn_run(struct rondo_device *dev, cu_stream stream, struct rondo__dnn_plan *way, const struct rondo__dnn_shape *shape,
                        const struct rondo__dnn_data *data)
{
    struct rondo__cuda_dnn *d = dev->dnn;
    int err = way->workspace ? rondo__cuda_grow(dev, &dev->workspace, way->workspace, "workspace of cuDNN") : 0;
    if (!err && stream != dev->dnn_stream) {
        err = check(dev, dnn.cudnnSetStream(d->handle, stream), "a stream");
        dev->dnn_stream = err ? NULL : stream;
    }
    return err ? err : check(dev, rondo__dnn_execute(&dnn, d->handle, way, shape, data, (void *)(uintptr_t)dev->workspace.memory), "attention");
}
