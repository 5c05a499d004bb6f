/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Sized structures across the library's border. A caller compiled against an older header gives fewer bytes: the rest is
 * zero, which means "as before". One compiled against a newer header gives more: what we do not know must be zero, else
 * the call asks for something that this library cannot do, and is refused rather than half obeyed.
 */
#include "core/internal.h"

/* Larger than any structure can honestly be: catches a forgotten _INIT before garbage is walked. */
#define LARGEST 4096

static int size_of(const void *theirs, const char *name, size_t *size)
{
    if (!theirs)
        return rondo__fail(RONDO_EINVAL, "%s: the pointer is NULL", name);
    memcpy(size, theirs, sizeof *size);
    if (*size < sizeof(size_t) || *size > LARGEST)
        return rondo__fail(RONDO_EINVAL, "%s: struct_size is %zu; initialise the structure with its _INIT macro", name, *size);
    return 0;
}

int rondo__desc_copy(void *ours, size_t our_size, const void *theirs, const char *name)
{
    size_t size = 0;
    int err = size_of(theirs, name, &size);
    if (err)
        return err;
    memset(ours, 0, our_size);
    memcpy(ours, theirs, size < our_size ? size : our_size);
    for (size_t i = our_size; i < size; i++)
        if (((const unsigned char *)theirs)[i])
            return rondo__fail(RONDO_ENOTSUP, "%s: it uses a field that rondo %s does not know; leave it zero or use a newer library",
                               name, RONDO_VERSION_STRING);
    memcpy(ours, &our_size, sizeof our_size);
    return 0;
}

int rondo__info_copy(void *theirs, const void *ours, size_t our_size, const char *name)
{
    size_t size = 0;
    int err = size_of(theirs, name, &size);
    if (err)
        return err;
    size_t n = size < our_size ? size : our_size;
    memcpy((char *)theirs + sizeof size, (const char *)ours + sizeof size, n - sizeof size);
    if (size > n)
        memset((char *)theirs + n, 0, size - n);
    return 0;
}

int rondo__reserved(int32_t value, const char *function)
{
    return value ? rondo__fail(RONDO_ENOTSUP, "%s: reserved is %d; it must be 0", function, (int)value) : 0;
}
