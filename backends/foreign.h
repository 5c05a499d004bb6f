/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Libraries of others that a module opens when it first needs them, by the names of their files, with a table of their functions: CUDA's driver, cuBLASLt,
 * cuDNN, NCCL. What is missing is for the caller's sentence; that it is done once is the caller's pthread_once().
 */
#ifndef RONDO_FOREIGN_H
#define RONDO_FOREIGN_H

#include <dlfcn.h>
#include <stddef.h>
#include <string.h>

struct rondo__foreign_name {
    const char *name;
    size_t at;               /* in the table, where its address goes */
};

/* The first of the files, a list that NULL ends, that can be opened; NULL: none can. *lacks: a function that it does not have, or NULL: the table is
 * full. */
static inline const char *rondo__foreign_open(const char *const *files, const struct rondo__foreign_name *names, size_t count, void *table,
                                              const char **lacks)
{
    void *library = NULL, *function;
    *lacks = NULL;
    while (*files && !(library = dlopen(*files, RTLD_NOW | RTLD_LOCAL)))
        files++;
    for (size_t i = 0; i < count && library && !*lacks; i++) {
        function = dlsym(library, names[i].name);
        memcpy((char *)table + names[i].at, &function, sizeof function);
        *lacks = function ? NULL : names[i].name;
    }
    return *files;
}

#endif
