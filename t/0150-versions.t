#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# One version: VERSION, the header, the pkg-config files, NEWS, the library and the program say the same; so do the numerics'.
. "$srcdir/t/shell.sh"

version=$(sed -n 1p "$srcdir/VERSION")
numerics=$(sed -n 's/^#define RONDO_NUMERICS \([0-9]*\).*/\1/p' "$srcdir/include/rondo.h")
ok "VERSION has a version" expr "$version" : '[0-9][0-9]*\.[0-9][0-9]*\.[0-9][0-9]*$'
ok "VERSION has libtool's current:revision:age" expr "$(sed -n 2p "$srcdir/VERSION")" : '[0-9][0-9]*:[0-9][0-9]*:[0-9][0-9]*$'
ok "rondo.h says $version" grep -q "^#define RONDO_VERSION_STRING \"$version\"" "$srcdir/include/rondo.h"
ok "rondo.pc says $version" grep -q "^Version: $version\$" "$builddir/lib/rondo.pc"
ok "rondo_lm.pc says $version and needs that rondo" grep -q "^Requires: rondo = $version\$" "$builddir/lm/rondo_lm.pc"
# Whom to write to: AC_INIT has the address, all else repeats it.
address=$(sed -n 's/^#define PACKAGE_BUGREPORT "\(.*\)"/\1/p' "$builddir/rondo_config.h")
ok "there is an address" expr "$address" : '[^@ ][^@ ]*@[^@ ][^@ ]*$'
for file in "$srcdir/AUTHORS" "$srcdir/README" "$srcdir/man/rondo.1" "$builddir/lib/rondo.pc" "$builddir/lm/rondo_lm.pc"; do
    ok "$(basename "$file") has it" grep -qF "$address" "$file"
done
ok "README says where weaknesses are reported" grep -q '"security" in the subject' "$srcdir/README"
ok "NEWS begins with $version" sh -c "head -n 1 '$srcdir/NEWS' | grep -q '^rondo $version'"
ok "rondo-numerics(7) describes version $numerics" grep -q "contract, version $numerics\\b" "$srcdir/man/rondo-numerics.7"
printf '#include <rondo.h>\n#include <stdio.h>\nint main(void) { printf("%%s %%d\\n", rondo_version(), rondo_numerics_version()); return 0; }\n' >"$scratch/v.c"
if [ -f "$builddir/.libs/librondo.so" ]; then
    # shellcheck disable=SC2086
    ok "a program links" $CC $CFLAGS $SANITIZE_CFLAGS -I"$srcdir/include" "$scratch/v.c" -o "$scratch/v" -L"$builddir/.libs" -lrondo
    LD_LIBRARY_PATH=$builddir/.libs "$scratch/v" >"$scratch/got"
    echo "$version $numerics" >"$scratch/want"
    compare "the library says $version, numerics $numerics" "$scratch/want" "$scratch/got"
    for lib in librondo librondo_lm; do
        [ -f "$builddir/.libs/$lib.so" ] || { skip 1 "$lib was not built"; continue; }
        current=$(sed -n 2p "$srcdir/VERSION" | awk -F: '{ print $1 - $3 }')
        ok "$lib has soname $lib.so.$current" sh -c "readelf -d '$builddir/.libs/$lib.so' | grep -q 'SONAME.*\\[$lib.so.$current\\]'"
    done
else
    skip 4 "no shared library was built"
fi
# A librondo of another version: it has everything under the names of this one, but its private functions may do otherwise.
if [ -f "$builddir/.libs/librondo.so" ] && [ -f "$builddir/.libs/librondo_lm.so" ] && [ -z "$SANITIZE_CFLAGS" ]; then
    soname=$(readelf -d "$builddir/.libs/librondo.so" | sed -n 's/.*SONAME.*\[\(.*\)\].*/\1/p')
    nm -D --defined-only "$builddir/.libs/librondo.so" | awk '$2 == "T" { sub("@.*", "", $3); print "void " $3 "(void) {}" }' >"$scratch/other.c"
    echo '#include <rondo_lm.h>
int main(void) { rondo_lm_free(0); return 0; }' >"$scratch/lm.c"
    # shellcheck disable=SC2086
    $CC $CFLAGS -I"$srcdir/include" "$scratch/lm.c" -o "$scratch/lm" -L"$builddir/.libs" -lrondo_lm -lrondo
    for other in "$version" 999.0.0; do
        mkdir -p "$scratch/$other"
        ln -sf "$builddir"/.libs/librondo_lm.so* "$scratch/$other/"
        sed "s/^RONDO_PRIVATE_$version/RONDO_PRIVATE_$other/" "$builddir/lib/librondo.map" >"$scratch/other.map"
        # shellcheck disable=SC2086
        ok "a stand-in for librondo $other" $CC $CFLAGS -w -fPIC -shared -Wl,-soname,"$soname" -Wl,--version-script="$scratch/other.map" \
            "$scratch/other.c" -o "$scratch/$other/$soname"
        LD_LIBRARY_PATH=$scratch/$other "$scratch/lm" >"$scratch/said" 2>&1
        echo $? >"$scratch/code-$other"
    done
    ok "librondo_lm loads with librondo $version" grep -qx 0 "$scratch/code-$version"
    ok "and with no other" sh -c "! grep -qx 0 '$scratch/code-999.0.0'"
    ok "and says which it needs" grep -q "RONDO_PRIVATE_$version" "$scratch/said"
else
    skip 5 "no shared libraries were built, or with sanitizers"
fi
if [ -n "$RONDO" ]; then
    ok "rondo --version" sh -c "'$RONDO' --version | grep -q '^rondo $version '"
else
    skip 1 "the program rondo was not built"
fi
finish
