#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Each public header stands alone, as C99 and as C++11, without a word from the compiler.
. "$srcdir/t/shell.sh"

for header in "$srcdir"/include/*.h; do
    name=$(basename "$header")
    system=''
    if [ "$name" = rondo_mpi.h ]; then   # mpi.h is not ours to keep clean
        system=$(echo "$MPI_CFLAGS" | sed 's/-I/-isystem /g')
        printf '#include <mpi.h>\n' | $CC $system -E - >/dev/null 2>&1 || { skip 5 "no mpi.h"; continue; }
    fi
    printf '#include <%s>\n#include <%s>\nint rondo_test_unit;\n' "$name" "$name" >"$scratch/unit.c"
    cp "$scratch/unit.c" "$scratch/unit.cc"
    for std in c99 c11; do
        ok "$name as $std" $CC -std=$std -pedantic -Wall -Wextra -Wstrict-prototypes -Wundef -Werror -I"$srcdir/include" $system -c "$scratch/unit.c" -o "$scratch/unit.o"
    done
    if [ -n "$CXX" ] && command -v ${CXX%% *} >/dev/null; then
        ok "$name as c++11" $CXX -std=c++11 -pedantic -Wall -Wextra -Wundef -Werror -I"$srcdir/include" $system -c "$scratch/unit.cc" -o "$scratch/unit.o"
    else
        skip 1 "no C++ compiler"
    fi
    # descriptors made in C++ too
    grep -o 'RONDO_[A-Z_]*_INIT\b' "$header" | sort -u | while read -r macro; do
        case $macro in *_TENSOR_INIT) continue ;; esac
        type=$(echo "${macro%_INIT}" | tr 'A-Z' 'a-z')
        echo "$type make_$type() { $type d = $macro; return d; }"
    done | { printf '#include <%s>\n' "$name"; cat; } >"$scratch/init.cc"
    sed 's/()/(void)/' "$scratch/init.cc" >"$scratch/init.c"
    ok "$name: each _INIT macro makes its struct in C99" $CC -std=c99 -pedantic -Wall -Wextra -Werror -I"$srcdir/include" $system -c "$scratch/init.c" -o "$scratch/init.o"
    if [ -n "$CXX" ] && command -v ${CXX%% *} >/dev/null; then
        ok "$name: and in C++11" $CXX -std=c++11 -pedantic -Wall -Wextra -Werror -I"$srcdir/include" $system -c "$scratch/init.cc" -o "$scratch/init.o"
    else
        skip 1 "no C++ compiler"
    fi
done
finish
