#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# What the libraries export: the public functions, under their version, as the reviewed lists in t/symbols/ say. A new function is
# added there by hand, so that nothing becomes an interface by accident. Static libraries must not pollute other names.
. "$srcdir/t/shell.sh"
LC_ALL=C; export LC_ALL
version=$(sed -n 1p "$srcdir/VERSION")

check() { # library, headers...
    lib=$1; shift
    for header in "$@"; do public_functions "$srcdir/include/$header"; done | sort >"$scratch/declared"
    grep -v '^#' "$srcdir/t/symbols/$lib" >"$scratch/reviewed"
    sed 's/@.*//' "$scratch/reviewed" >"$scratch/names"
    compare "$lib: the reviewed list has what the header declares" "$scratch/declared" "$scratch/names"
    if [ -f "$builddir/.libs/$lib.so" ]; then
        nm -D --defined-only --with-symbol-versions "$builddir/.libs/$lib.so" >"$scratch/nm"
        awk '$2 == "T" && $3 !~ /^rondo__/ { sub("@@", "@", $3); print $3 }' "$scratch/nm" | sort >"$scratch/exported"
        compare "$lib.so exports the reviewed list" "$scratch/reviewed" "$scratch/exported"
        awk '$2 != "T" && $2 != "A"' "$scratch/nm" >"$scratch/data"
        empty "$lib.so exports no data" "$scratch/data"
        awk -v node="@@RONDO_PRIVATE_$version" '$3 ~ /^rondo__/ && substr($3, length($3) - length(node) + 1) != node' "$scratch/nm" >"$scratch/private"
        empty "$lib.so: private functions are under RONDO_PRIVATE_$version only" "$scratch/private"
    else
        skip 3 "no shared $lib was built"
    fi
    if [ -f "$builddir/.libs/$lib.a" ]; then
        nm -g --defined-only "$builddir/.libs/$lib.a" 2>/dev/null | awk 'NF == 3 && $3 !~ /^_*rondo_/ && $3 !~ /^(__asan|__odr|__sanitizer|_GLOBAL|__x86\.get_pc_thunk)/' >"$scratch/foreign"
        empty "$lib.a defines names that begin with rondo_ only" "$scratch/foreign"
    else
        skip 1 "no static $lib was built"
    fi
}
# shellcheck disable=SC2046  # names are words
check librondo $(core_headers)
if [ -f "$builddir/librondo_lm.la" ]; then check librondo_lm rondo_lm.h; else skip 5 "librondo_lm was not built"; fi
finish
