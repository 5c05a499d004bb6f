/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What exists: the devices and transports that are compiled in, one line each, and those in loadable modules, which are
 * opened when somebody asks for them by name. A module is rondo_<name>.so in a folder of $RONDO_MODULE_PATH, or else in the
 * folder beside this library (in the build tree), its subfolder rondo (an installation that was moved), or the folder that
 * configure chose. Modules stay open for the life of the process: MPI does not survive being unloaded.
 * Called by context.c, launch.c and `rondo info`.
 */
#define _GNU_SOURCE   /* dladdr */
#include "core/internal.h"

#include <dlfcn.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#ifndef RONDO_MODULE_DIR
#define RONDO_MODULE_DIR "/usr/local/lib/rondo"
#endif

extern const struct rondo_device_ops rondo__cpu_device;
extern const struct rondo_transport_ops rondo__threads_transport;

static const struct rondo_device_ops *const devices[] = { &rondo__cpu_device };
static const struct rondo_transport_ops *const transports[] = { &rondo__threads_transport };

/* Names of modules, and what to say where one is missing. */
struct known {
    const char *name, *advice;
};
static const struct known known_devices[] = {
    { "cuda", "build rondo with --with-cuda, or install the package of rondo's CUDA module, or compute on \"cpu\"; where you have the module" },
};
static const struct known known_transports[] = {
    { "mpi", "install an MPI library (Open MPI or MPICH, with its development files) and build rondo with it, or install "
             "the package of rondo's MPI module, or" },
    { "nccl", "build rondo with --with-cuda, or install the package of rondo's CUDA module, or move with \"threads\"; where you have the module" },
    { "nccl_mpi", "build rondo with --with-cuda and an MPI library, or install the package of rondo's CUDA module, or move with \"mpi\"; "
                  "where you have the module" },
};

#define COUNT(array) ((int)(sizeof(array) / sizeof(array)[0]))
#define NAME_BYTES 32
#define PATH_BYTES 4096
#define LIST_BYTES 256

/* ---- modules ---- */

/* Names go into file names: nothing but a word. */
static bool is_word(const char *name)
{
    size_t n = strlen(name);
    if (n == 0 || n >= NAME_BYTES)
        return false;
    for (size_t i = 0; i < n; i++)
        if (!((name[i] >= 'a' && name[i] <= 'z') || (name[i] >= '0' && name[i] <= '9') || name[i] == '_'))
            return false;
    return true;
}

static bool exists_in(char path[PATH_BYTES], const char *folder, size_t folder_bytes, const char *name)
{
    if (folder_bytes == 0 || folder_bytes > PATH_BYTES / 2)
        return false;
    int n = snprintf(path, PATH_BYTES, "%.*s/rondo_%s.so", (int)folder_bytes, folder, name);
    return n > 0 && n < PATH_BYTES && access(path, R_OK) == 0;
}

static int fail(int code, const char *sentence)
{
    return rondo__fail(code, "%s", sentence);
}

static const struct rondo_services services = {
    sizeof services, fail, rondo_error_text, rondo__alloc_zero, rondo__free, rondo__now, rondo__cores, rondo__env_piece,
    &rondo__cpu_device, rondo__transport_find, rondo__env_mpi_cuda,
};

/* The folder that this library was loaded from, and its subfolder: so a build works where it lies, and an installation where
 * it was moved to. Only where the user names no folders. */
static bool beside(char folder[PATH_BYTES / 2])
{
    Dl_info info;
    if (!dladdr(&services, &info) || !info.dli_fname)
        return false;
    const char *slash = strrchr(info.dli_fname, '/');
    if (!slash || slash - info.dli_fname > PATH_BYTES / 4)
        return false;
    snprintf(folder, PATH_BYTES / 2, "%.*s", (int)(slash - info.dli_fname), info.dli_fname);
    return true;
}

static bool find_beside(char path[PATH_BYTES], const char *name)
{
    char folder[PATH_BYTES / 2];
    if (!beside(folder))
        return false;
    if (exists_in(path, folder, strlen(folder), name))
        return true;
    strcat(folder, "/rondo");
    return exists_in(path, folder, strlen(folder), name);
}

static void add_folder(char *text, size_t bytes, size_t *used, const char *folder)
{
    const int n = snprintf(*used < bytes ? text + *used : NULL, *used < bytes ? bytes - *used : 0, "%s%s", *used ? ":" : "", folder);
    *used += n > 0 ? (size_t)n : 0;
}

static bool find_file(char path[PATH_BYTES], const char *name)
{
    const char *folders = rondo__env_module_path();
    if (!folders && find_beside(path, name))
        return true;
    while (folders) {
        const char *colon = strchr(folders, ':');
        size_t n = colon ? (size_t)(colon - folders) : strlen(folders);
        if (exists_in(path, folders, n, name))
            return true;
        folders = colon ? colon + 1 : NULL;
    }
    return exists_in(path, RONDO_MODULE_DIR, strlen(RONDO_MODULE_DIR), name);
}

/* One after the other, as modules keep what they are given the first time; a module may look for another one meanwhile. */
static void connect_module(const struct rondo_module *module)
{
    static atomic_flag busy = ATOMIC_FLAG_INIT;
    static _Thread_local int inside;
    while (!inside && atomic_flag_test_and_set_explicit(&busy, memory_order_acquire))
        sched_yield();
    inside++;
    module->connect(&services);
    if (!--inside)
        atomic_flag_clear_explicit(&busy, memory_order_release);
}

/* *out stays NULL where there is no such file; then nothing is recorded and 0 returned. */
static int open_module(const struct rondo_module **out, const char *name)
{
    char path[PATH_BYTES];
    *out = NULL;
    if (!is_word(name) || !find_file(path, name))
        return 0;
    /* Global: Open MPI's plugins expect to find its symbols in the global scope. dlopen counts repeated opens itself. */
    void *library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
    if (!library) {
        const char *why = dlerror();
        return rondo__fail(RONDO_ENOTSUP, "module %s cannot be opened: %s", path, why ? why : "no reason given");
    }
    const struct rondo_module *module = dlsym(library, "rondo_module_entry");
    if (!module)
        return rondo__fail(RONDO_ENOTSUP, "%s is no rondo module: it exports no rondo_module_entry", path);
    if (module->abi != RONDO_MODULE_ABI)
        return rondo__fail(RONDO_ENOTSUP, "module %s has interface %u, this library has %u; install the module of rondo %s", path,
                           module->abi, RONDO_MODULE_ABI, RONDO_VERSION_STRING);
    if (!module->version || strcmp(module->version, RONDO_VERSION_STRING) != 0)
        return rondo__fail(RONDO_ENOTSUP, "module %s was built for rondo %s, this library is %s; install the matching module", path,
                           module->version ? module->version : "(unknown)", RONDO_VERSION_STRING);
    if (module->connect)
        connect_module(module);
    *out = module;
    return 0;
}

static int check_transport(const struct rondo_transport_ops **out, const struct rondo_transport_ops *ops, const char *name)
{
    if (ops->abi != RONDO_TRANSPORT_ABI || ops->size < sizeof *ops)
        return rondo__fail(RONDO_ENOTSUP, "transport %s has interface %u of %zu bytes, this library needs %u of %zu; install the "
                           "module of rondo %s", name, ops->abi, ops->size, RONDO_TRANSPORT_ABI, sizeof *ops, RONDO_VERSION_STRING);
    *out = ops;
    return 0;
}

static int check_device(const struct rondo_device_ops **out, const struct rondo_device_ops *ops, const char *name)
{
    if (ops->abi != RONDO_DEVICE_ABI)
        return rondo__fail(RONDO_ENOTSUP, "device %s has interface %u, this library needs %u; install the module of rondo %s", name,
                           ops->abi, RONDO_DEVICE_ABI, RONDO_VERSION_STRING);
    *out = ops;
    return 0;
}

/* ---- by name ---- */

static void list(char text[LIST_BYTES], const char *(*name_of)(int, int *))
{
    size_t used = 0;
    text[0] = 0;
    const char *name;
    for (int i = 0; (name = name_of(i, NULL)); i++) {
        int n = snprintf(text + used, LIST_BYTES - used, "%s%s", i ? ", " : "", name);
        if (n < 0 || (size_t)n >= LIST_BYTES - used)
            return;
        used += (size_t)n;
    }
}

/* A module that is known and missing gets a sentence of its own; for other names, what there is. */
static int not_found(const char *kind, const char *name, const struct known *known, int count, const char *(*name_of)(int, int *))
{
    char names[LIST_BYTES];
    for (int i = 0; i < count; i++)
        if (strcmp(known[i].name, name) == 0) {
            const char *path = rondo__env_module_path();
            return rondo__fail(RONDO_ENOTSUP, "the module rondo_%s.so is not in %s%s%s; %s set RONDO_MODULE_PATH to its folder", name,
                               path ? path : "", path ? " or " : "", RONDO_MODULE_DIR, known[i].advice);
        }
    list(names, name_of);
    return rondo__fail(RONDO_EINVAL, "there is no %s '%s'; known are: %s", kind, name, names);
}

int rondo__device_find(const struct rondo_device_ops **out, const char *name)
{
    *out = NULL;
    for (int i = 0; i < COUNT(devices); i++)
        if (strcmp(devices[i]->name, name) == 0)
            return check_device(out, devices[i], name);
    const struct rondo_module *module;
    int err = open_module(&module, name);
    if (err)
        return err;
    if (module && module->device && strcmp(module->device->name, name) == 0)
        return check_device(out, module->device, name);
    return not_found("device", name, known_devices, COUNT(known_devices), rondo_device_name);
}

int rondo__transport_find(const struct rondo_transport_ops **out, const char *name)
{
    *out = NULL;
    for (int i = 0; i < COUNT(transports); i++)
        if (strcmp(transports[i]->name, name) == 0)
            return check_transport(out, transports[i], name);
    const struct rondo_module *module;
    int err = open_module(&module, name);
    if (err)
        return err;
    if (module && module->transport && strcmp(module->transport->name, name) == 0)
        return check_transport(out, module->transport, name);
    return not_found("transport", name, known_transports, COUNT(known_transports), rondo_transport_name);
}

/* ---- by index ---- */

const char *rondo_device_name(int index, int *usable)
{
    if (index >= 0 && index < COUNT(devices)) {
        if (usable)
            *usable = devices[index]->probe() == 1;
        return devices[index]->name;
    }
    index -= COUNT(devices);
    if (index < 0 || index >= COUNT(known_devices))
        return NULL;
    if (usable) {
        const struct rondo_device_ops *ops;
        *usable = rondo__device_find(&ops, known_devices[index].name) == 0 && ops->probe() == 1;
    }
    return known_devices[index].name;
}

const char *rondo_transport_name(int index, int *usable)
{
    if (index >= 0 && index < COUNT(transports)) {
        if (usable)
            *usable = transports[index]->probe() == 1;
        return transports[index]->name;
    }
    index -= COUNT(transports);
    if (index < 0 || index >= COUNT(known_transports))
        return NULL;
    if (usable) {
        const struct rondo_transport_ops *ops;
        *usable = rondo__transport_find(&ops, known_transports[index].name) == 0 && ops->probe() == 1;
    }
    return known_transports[index].name;
}

const char *rondo_transport_library(int index)
{
    const struct rondo_transport_ops *ops;
    int usable = 0;
    const char *name = rondo_transport_name(index, &usable);
    if (!name)
        return NULL;
    return usable && rondo__transport_find(&ops, name) == 0 && ops->library ? ops->library() : "";
}

size_t rondo_module_path(char *text, size_t bytes)
{
    const char *named = rondo__env_module_path();
    size_t used = 0;
    char folder[PATH_BYTES / 2];
    if (bytes)
        text[0] = 0;
    if (named)
        add_folder(text, bytes, &used, named);
    if (!named && beside(folder)) {
        add_folder(text, bytes, &used, folder);
        strcat(folder, "/rondo");
        add_folder(text, bytes, &used, folder);
    }
    add_folder(text, bytes, &used, RONDO_MODULE_DIR);
    return used;
}

const char *rondo_isa_name(int index, int *usable)
{
    int here = 0;
    const char *name = index < 0 ? NULL : devices[0]->isa(index, &here);
    if (usable)
        *usable = name && here;
    return name;
}
