/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Plans of attention by NVIDIA's cuDNN, where it is installed, for cards that are not there: that it takes the graphs of backends/cuda/dnn_graph.c for
 * attention, for compute capabilities 8.0 and 9.0. What it is told of a card are the numbers that a card tells of itself. Nothing is executed.
 */
#include "backends/cuda/dnn_graph.c"

#include <dlfcn.h>

#include "tap.h"

enum { CARD = 38, CARD_JSON = 2702, TYPE_CHARACTER = 24 };
static struct rondo__cudnn dnn;

static dnn_thing card_of(int capability, int shared)
{
    char json[1024];
    dnn_thing card = NULL;
    const int bytes = snprintf(json, sizeof json,
        "{\"maxGridSize\":[2147483647,65535,65535],\"maxBlockSize\":[1024,1024,64],\"regsPerBlock\":65536,\"multiProcessorCount\":108,\"warpSize\":32,"
        "\"maxSharedMemoryPerBlock\":49152,\"maxSharedMemoryPerBlockOptin\":%d,\"reservedSharedMemoryPerBlock\":1024,\"maxRegistersPerSM\":65536,"
        "\"maxCtasPerSM\":32,\"maxThreadsPerBlock\":1024,\"maxThreadsPerSM\":2048,\"pciDeviceId\":0,\"isTccDriver\":0,\"supportCoopLaunch\":1,"
        "\"totalGlobalMem\":85000000000,\"smClockRateKHz\":1410000,\"memClockRateKHz\":1593000,\"l2CacheSize\":41943040,\"cudaDeviceId\":0,"
        "\"deviceVer\":%d,\"driverVer\":13000,\"deviceName\":\"a card\"}", shared, capability);
    int status = dnn.cudnnBackendCreateDescriptor(CARD, &card);
    if (!status)
        status = dnn.cudnnBackendSetAttribute(card, CARD_JSON, TYPE_CHARACTER, bytes, json);
    if (!status)
        status = dnn.cudnnBackendFinalize(card);
    return status ? NULL : card;
}

static struct rondo__dnn_shape shape_of(int type, int32_t heads, int32_t kv_heads, int32_t dim, int32_t value_dim, int causal, int64_t rows, int64_t keys)
{
    return (struct rondo__dnn_shape){ .type = type, .heads = heads, .kv_heads = kv_heads, .head_dim = dim, .value_dim = value_dim, .causal = causal,
                                      .rows = rows, .keys = keys, .q_row = heads * dim, .q_head = dim, .k_row = kv_heads * dim, .k_head = dim,
                                      .v_row = kv_heads * value_dim, .v_head = value_dim, .out_row = heads * value_dim, .out_head = value_dim, .stats_row = heads,
                                      .stats_head = 1 };
}

int main(void)
{
    static const struct {
        const char *what;
        int capability;
    } cases[] = { { "causal", 900 }, { "bottom-right", 900 }, { "full, F16, other heads", 900 }, { "causal, heads of 192 and 128", 900 }, { "bottom-right", 800 } };
    const struct rondo__dnn_shape shapes[] = {
        shape_of(RONDO_BF16, 32, 8, 128, 128, 1, 8192, 8192), shape_of(RONDO_BF16, 32, 8, 128, 128, 1, 1000, 5001), shape_of(RONDO_F16, 4, 4, 64, 64, 0, 100, 500),
        shape_of(RONDO_BF16, 8, 8, 192, 128, 1, 300, 300), shape_of(RONDO_BF16, 32, 8, 128, 128, 1, 1000, 5001),
    };
    char path[4096];
    const char *build = getenv("builddir");
    snprintf(path, sizeof path, "%s/t/fake/plans/.libs/libcuda.so.1", build ? build : ".");
    if (!dlopen(path, RTLD_NOW | RTLD_GLOBAL))       /* cuDNN asks for libcuda.so.1, and gets what is open by that name */
        return skip_all("the driver of this test was not built");
    if (!dlopen("libnvrtc.so.13", RTLD_NOW) && !dlopen("libnvrtc.so.12", RTLD_NOW))
        return skip_all("there is no NVRTC on this machine");
    void *library = dlopen("libcudnn_graph.so.9", RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return skip_all("there is no cuDNN on this machine");
#define X(type, name, arguments) *(void **)(void *)&dnn.name = dlsym(library, #name);
    RONDO_CUDNN(X)
#undef X
    if (!dnn.cudnnGetVersion || dnn.cudnnGetVersion() < 91002)
        return skip_all("the cuDNN on this machine is older than 9.10.2");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct rondo__dnn_plan plan;
        dnn_thing card = card_of(cases[i].capability, cases[i].capability == 800 ? 166912 : 232448);
        if (!card) {
            skip(1, "this cuDNN (%zu) does not take the description of a card", dnn.cudnnGetVersion());
            continue;
        }
        const int status = rondo__dnn_make(&dnn, NULL, card, shapes + i, &plan);
        ok(!status && plan.plan, "compute capability %d, %s: cuDNN %zu has a plan%s%s", cases[i].capability, cases[i].what, dnn.cudnnGetVersion(),
           status ? ", not " : "", status ? dnn.cudnnGetErrorString(status) : "");
        rondo__dnn_forget(&dnn, &plan);
        (void)dnn.cudnnBackendDestroyDescriptor(card);
    }
    return done();
}
