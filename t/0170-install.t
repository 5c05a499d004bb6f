#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# make install into a staging folder; the examples build outside the tree against it with pkg-config, shared and static; make
# uninstall leaves nothing.
. "$srcdir/t/shell.sh"
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES

command -v pkg-config >/dev/null || skip_all "pkg-config is not installed"
dest=$scratch/dest
cd "$builddir" || exit 1
# libtool links librondo_lm once more as it installs, and moves the one of this build away meanwhile
$MAKE -npq TEST_LOGS="t/0170-install.log t/9999-other.log" 2>/dev/null | grep '^t/0170-install\.log:' >"$scratch/order"
ok "this test runs when all others are through" grep -q 't/9999-other\.log' "$scratch/order"
ok "make install" $MAKE install DESTDIR="$dest"
variable() { sed -n "s|^$1=||p" lib/rondo.pc; }
prefix=$(variable prefix)
expand() { variable "$1" | sed "s|\${exec_prefix}|$(variable exec_prefix | sed "s|\${prefix}|$prefix|")|; s|\${prefix}|$prefix|"; }
libdir=$dest$(expand libdir) includedir=$dest$(expand includedir)
mandir=$(find "$dest" -type d -name man3)
PKG_CONFIG_LIBDIR=$libdir/pkgconfig:$(pkg-config --variable pc_path pkg-config)
PKG_CONFIG_SYSROOT_DIR=$dest
export PKG_CONFIG_LIBDIR PKG_CONFIG_SYSROOT_DIR

for header in $(core_headers); do ok "$header is installed" test -f "$includedir/$header"; done
ok "the manual is installed, other names too" test -f "$mandir/rondo_attention_execute.3" -a -f "$mandir/rondo_attention_destroy.3"
for page in "$mandir"/*.3; do
    case $(head -n 1 "$page") in .so*) target=$(sed 's|^\.so man3/||' "$page"); [ -f "$mandir/$target" ] || echo "$page -> $target" ;; esac
done >"$scratch/dangling"
empty "each name refers to a page that is there" "$scratch/dangling"

examples=$(find "$dest" -type d -name examples)
# shellcheck disable=SC2086  # flags are words
for example in 01-single 02-threads 07-tp-block; do
    src=$examples/$example.c
    if [ -f "$libdir/librondo.so" ]; then
        ok "$example builds against the shared library" $CC $CFLAGS $SANITIZE_CFLAGS "$src" -o "$scratch/shared" $(pkg-config --cflags --libs rondo) -lm
        ok "$example runs" env LD_LIBRARY_PATH="$libdir" "$scratch/shared"
    else
        skip 2 "no shared library"
    fi
    if [ -f "$libdir/librondo.a" ]; then
        ok "$example builds against the static library" $CC $CFLAGS $SANITIZE_CFLAGS "$src" -o "$scratch/static" \
            $(pkg-config --static --cflags --libs rondo | sed "s|-lrondo\\b|$libdir/librondo.a|") -lm
        ok "$example runs" "$scratch/static"
    else
        skip 2 "no static library"
    fi
done
# shellcheck disable=SC2086
if [ -f "$libdir/librondo_lm.so" ]; then
    ok "the language model of the examples builds against the shared libraries" $CC $CFLAGS $SANITIZE_CFLAGS "$examples/04-lm.c" -o "$scratch/lm" $(pkg-config --cflags --libs rondo_lm)
    ok "and runs" env LD_LIBRARY_PATH="$libdir" "$scratch/lm" "$srcdir/examples/kjv"
else
    skip 2 "no shared librondo_lm"
fi
# shellcheck disable=SC2086
if [ -f "$libdir/librondo_lm.a" ]; then
    ok "it builds against the static libraries" $CC $CFLAGS $SANITIZE_CFLAGS "$examples/04-lm.c" -o "$scratch/lm" \
        $(PKG_CONFIG_SYSROOT_DIR='' pkg-config --static --cflags --libs rondo_lm |
            sed "s|-I$(expand includedir)|-I$includedir|g; s|-L$(expand libdir)||g; s|-lrondo_lm\\b|$libdir/librondo_lm.a|; s|-lrondo\\b|$libdir/librondo.a|")
    ok "and runs" "$scratch/lm" "$srcdir/examples/kjv"
else
    skip 2 "no static librondo_lm"
fi
program=$(find "$dest" -type f -path '*/bin/rondo')
if [ -n "$program" ] && [ -n "$(find "$libdir" -name rondo_mpi.so)" ] && [ -f "$libdir/librondo.so" ]; then
    # into another place than configured
    env -u RONDO_MODULE_PATH LD_LIBRARY_PATH="$libdir" "$program" info >"$scratch/info"
    grep '^transports' "$scratch/info" | grep -v ' mpi (not here)' >"$scratch/transports"
    ok "the program that was installed finds its MPI module" grep -q ' mpi' "$scratch/transports"
else
    skip 1 "no program or no MPI module was built"
fi
unset PKG_CONFIG_SYSROOT_DIR
ok "make uninstall" $MAKE uninstall DESTDIR="$dest"
find "$dest" -type f -o -type l >"$scratch/left"
empty "nothing is left" "$scratch/left"
finish
