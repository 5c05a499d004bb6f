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
grep -rnlE '\b(cblas_|openblas_)' "$srcdir/lib" "$srcdir/lm" "$srcdir/backends" --include='*.[ch]' | sed "s,^$srcdir/,," | grep -vx 'backends/cpu/fast\.c' >"$scratch/found"
empty "nobody calls a BLAS but level fast" "$scratch/found"
# the linked libraries (objects under -flto are no machine code yet, and name functions that no code calls), or the archives
if [ -f "$builddir/.libs/librondo.so" ]; then kind=so option=-D; else kind=a option=''; fi
for library in librondo librondo_lm; do
    file=$builddir/.libs/$library.$kind
    if [ ! -f "$file" ]; then skip 2 "$library was not built"; continue; fi
    if [ $kind = a ] && readelf -S "$file" 2>/dev/null | grep -q '\.gnu\.lto_'; then skip 2 "$library.a holds no machine code"; continue; fi
    nm $option -u "$file" 2>/dev/null | awk '{ sub(/@.*/, "", $NF); print $NF }' | sort -u >"$scratch/names"
    ok "$library refers to the C library" grep -qx memcpy "$scratch/names"
    grep -xE "$libm" "$scratch/names" >"$scratch/found"
    empty "and not to libm" "$scratch/found"
done
flags=$(sed -n 's/^NUMERICS_CFLAGS = *//p' "$builddir/Makefile")
ok "contraction is off: $flags" expr " $flags " : '.* -ffp-contract=off '
finish
