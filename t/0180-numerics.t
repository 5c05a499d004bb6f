#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Where bits are promised, no function of libm, no fast-math, no flushing, no atomics on floats: in the sources, in the flags and in
# the symbols of the objects.
. "$srcdir/t/shell.sh"
LC_ALL=C; export LC_ALL
libm='expf?|exp2f?|expm1f?|logf?|log2f?|log10f?|log1pf?|powf?|sinf?|cosf?|tanf?|tanhf?|sqrtf?|fmaf?|rintf?|nearbyintf?|roundf?|floorf?|ceilf?|truncf?|ldexpf?|scalbnf?|frexpf?|erff?|cbrtf?|hypotf?'

find "$srcdir/lib" "$srcdir/lm" "$srcdir/backends" -name '*.[ch]' -exec grep -nE "\\b($libm)[[:space:]]*\\(|<math\\.h>|<tgmath\\.h>|<fenv\\.h>" {} + |
    sed -E 's|/\*.*\*/||; s|"([^"\\]\|\\.)*"|""|g' | grep -vE '^[^:]*:[0-9]+:[[:space:]]*(\*|/\*|//)|->log\(' | grep -vE '"[^"]*$' |
    grep -E "[^_a-z.>]($libm)[[:space:]]*\\(|math\\.h|fenv\\.h" >"$scratch/found"
empty "no function of libm is called" "$scratch/found"
grep -nE -e '-ffast-math|-Ofast|-march=native|-mtune=native|-funsafe|-fassociative|-ffinite-math|-ffp-contract=(fast|on)|-freciprocal' -r \
    "$srcdir/configure.ac" "$srcdir/Makefile.am" "$srcdir/m4/rondo.m4" "$srcdir/lib" "$srcdir/lm" "$srcdir/backends" "$srcdir/cli" |
    grep -vE '\.[ch]:[0-9]+:.*(#error|\*)' >"$scratch/found"
empty "no flag that lets the compiler change results" "$scratch/found"
grep -rnE 'FLUSH_ZERO|DENORMALS_ZERO|fesetround|#[[:space:]]*pragma[[:space:]]+(STDC FP_CONTRACT ON|GCC optimize|clang fp)|omp.*\b(reduction|simd)\b' "$srcdir/lib" "$srcdir/lm" "$srcdir/backends" --include='*.[ch]' >"$scratch/found"
empty "no flushing, no contraction, no reductions by OpenMP" "$scratch/found"
if [ -f "$builddir/.libs/librondo_inner.a" ]; then
    for archive in librondo_inner librondo_lm_inner; do
        [ -f "$builddir/.libs/$archive.a" ] && nm -u "$builddir/.libs/$archive.a" 2>/dev/null
    done | awk '{ print $NF }' | grep -xE "$libm" | sort -u >"$scratch/found"
    empty "no object refers to libm" "$scratch/found"
else
    skip 1 "no archive to look into"
fi
flags=$(sed -n 's/^NUMERICS_CFLAGS = *//p' "$builddir/Makefile")
ok "contraction is off: $flags" expr " $flags " : '.* -ffp-contract=off '
finish
