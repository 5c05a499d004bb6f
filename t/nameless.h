/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A file system without files that have no name (O_TMPFILE): for the test and for all that it starts from now on, for good. What cannot be
 * done there is done by names. Used by 6000 and 7031.
 */
#ifndef RONDO_T_NAMELESS_H
#define RONDO_T_NAMELESS_H

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#if defined __linux__ && defined O_TMPFILE
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif

/* False: not to be had here. */
static int nameless_refuse(void)
{
#if defined __linux__ && defined O_TMPFILE && defined SECCOMP_MODE_FILTER && defined __NR_openat
    const int second = __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__ ? 4 : 0;   /* the lower half of an argument */
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_openat, 0, 4),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2]) + (unsigned)second),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, (unsigned)O_TMPFILE),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)O_TMPFILE, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EOPNOTSUPP),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = { sizeof code / sizeof *code, code };
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
        return 0;
    const int fd = open(".", O_TMPFILE | O_WRONLY, 0600);
    return fd < 0 && errno == EOPNOTSUPP;
#else
    return 0;
#endif
}

#endif
