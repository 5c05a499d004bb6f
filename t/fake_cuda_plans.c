/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A libcuda.so.1 for t/2221: what cuDNN asks of a driver while it makes plans for a card that it was told of, of which there is none here. Whatever is
 * compiled can be loaded, nothing can be run.
 */
#define EXPORT(name, arguments) \
    __attribute__((visibility("default"))) int name arguments; \
    int name arguments

enum { NO_DEVICE = 100 };
static int anything;

EXPORT(cuInit, (unsigned flags))
{
    (void)flags;
    return NO_DEVICE;
}
EXPORT(cuDriverGetVersion, (int *version))
{
    *version = 13000;
    return 0;
}
EXPORT(cuDeviceGetCount, (int *count))
{
    *count = 0;
    return NO_DEVICE;
}
EXPORT(cuGetErrorString, (int code, const char **text))
{
    (void)code;
    *text = "there is no card";
    return 0;
}

/* What gives out something puts it first. */
#define GIVES(name) \
    EXPORT(name, (void **out)) \
    { \
        *out = &anything; \
        return 0; \
    }
GIVES(cuLibraryLoadData)
GIVES(cuLibraryLoadFromFile)
GIVES(cuLibraryGetKernel)
GIVES(cuLibraryGetModule)
GIVES(cuKernelGetFunction)
GIVES(cuModuleLoadData)
GIVES(cuModuleGetFunction)

#define DOES(name) \
    EXPORT(name, (void)) { return 0; }
DOES(cuLibraryUnload)
DOES(cuKernelSetAttribute)
DOES(cuKernelGetAttribute)
DOES(cuFuncSetAttribute)
DOES(cuModuleUnload)
DOES(cuGetErrorName)
DOES(cuCtxGetCurrent)
DOES(cuCtxGetLimit)
DOES(cuCtxPopCurrent)
DOES(cuCtxPushCurrent)
DOES(cuStreamGetCtx)
DOES(cuLinkCreate)
DOES(cuLinkAddData)
DOES(cuLinkComplete)
DOES(cuLinkDestroy)
DOES(cuLaunchKernel)
DOES(cuLaunchKernelEx)
DOES(cuLaunchCooperativeKernel)
DOES(cuDeviceGet)
DOES(cuOccupancyMaxPotentialClusterSize)
