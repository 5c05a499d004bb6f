#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Programs of before keep compiling unchanged and say what they said: t/old has the README's and the examples of 0.1.0 and one in C++.
. "$srcdir/t/shell.sh"

# shellcheck disable=SC2086
build() { # program, source, libraries
    build_to=$1 build_from=$2
    shift 2
    ok "$(basename "$build_from") compiles" $CC -std=c11 -D_POSIX_C_SOURCE=200809L -pedantic -Wall -Wextra -Werror -I"$srcdir/include" $mpi_cflags \
        "$srcdir/t/old/$build_from" -o "$scratch/$build_to" -L"$builddir/.libs" -Wl,-rpath,"$builddir/.libs" "$@" $OPENMP_CFLAGS -lm
}
mpi_cflags=''
if [ ! -f "$builddir/.libs/librondo.so" ] || [ -n "$SANITIZE_CFLAGS" ]; then skip_all "no shared librondo was built, or one with sanitizers"; fi
build readme 00-readme.c -lrondo
ok "and runs" sh -c "'$scratch/readme' | grep -c 'holds 16384 queries' | grep -qx 4"
build single 01-single.c -lrondo
ok "and runs" "$scratch/single"
build threads 02-threads.c -lrondo
"$scratch/threads" >"$scratch/out" 2>&1
printf '1 rank: done\n2 ranks: the same bits\n3 ranks: the same bits\n5 ranks: the same bits\n' >"$scratch/want"
compare "and says what it said" "$scratch/want" "$scratch/out"
mpi_cflags=$(echo "$MPI_CFLAGS" | sed 's/-I/-isystem /g')
# shellcheck disable=SC2086
if printf '#include <mpi.h>\n' | $CC $mpi_cflags -E - >/dev/null 2>&1; then
    ok "03-mpi.c compiles" $CC -std=c11 -pedantic -Wall -Wextra -Werror -I"$srcdir/include" $mpi_cflags -c "$srcdir/t/old/03-mpi.c" -o "$scratch/mpi.o"
else
    skip 1 "no mpi.h"
fi
mpi_cflags=''
if [ -f "$builddir/.libs/librondo_lm.so" ]; then
    build lm 04-lm.c -lrondo_lm -lrondo
    ok "and runs" sh -c "'$scratch/lm' '$srcdir/examples/kjv' 2 | grep -c '^16 new tokens, hash [0-9a-f]\{16\}\$' | grep -qx 2"
else
    skip 2 "librondo_lm was not built"
fi
if [ -n "$CXX" ] && command -v ${CXX%% *} >/dev/null; then
    # shellcheck disable=SC2086
    ok "05-style.cc compiles" $CXX -std=c++11 -pedantic -Wall -Werror -I"$srcdir/include" "$srcdir/t/old/05-style.cc" -o "$scratch/style" \
        -L"$builddir/.libs" -Wl,-rpath,"$builddir/.libs" -lrondo $OPENMP_CFLAGS
    ok "and runs" "$scratch/style"
else
    skip 2 "no C++ compiler"
fi
finish
