#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# What is configured out is not installed: its headers, pages, examples and pkg-config files; and is in the tarball all the same.
# jansson and PCRE2 that pkg-config finds and that do not link are a sentence of configure. Builds nothing.
. "$srcdir/t/shell.sh"
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES
LC_ALL=C; export LC_ALL

[ ! -e "$srcdir/config.status" ] || skip_all "the source folder itself is configured, so that it cannot be configured elsewhere"

configured() { # folder, options...
    mkdir -p "$scratch/$1"
    parts_folder=$1
    shift
    (cd "$scratch/$parts_folder" && "$srcdir/configure" -q --prefix=/r CC="$CC" CXX="$CXX" CFLAGS="$CFLAGS" "$@") >"$scratch/configure.out" 2>&1
}
installed() { # folder: which files `make install` would put in place, beside what is compiled
    (cd "$scratch/$1" && $MAKE install-data DESTDIR="$scratch/$1/dest") >"$scratch/install.out" 2>&1 || sed 's/^/# /' "$scratch/install.out"
    (cd "$scratch/$1/dest/r" && find . -type f) | sort >"$scratch/$1.files"
}
mpi='rondo_mpi|03-mpi|rondo-hosts\.7'
lm='rondo_lm|rondo_model|rondo_tokenizer|rondo_text|rondo_arrays?_|04-lm|08-tp-model'
cli='/man1/'

ok "configure without parts" configured core --cache-file="$scratch/cache" --without-mpi --without-lm
installed core
for header in $(core_headers); do ok "$header is installed" grep -qx "./include/$header" "$scratch/core.files"; done
ok "the manual is" grep -q '/rondo_attention_create.3$' "$scratch/core.files"
grep -E "$mpi|$lm|$cli" "$scratch/core.files" >"$scratch/found"
empty "nothing of MPI, of language models or of the program is" "$scratch/found"
(cd "$scratch/core" && $MAKE uninstall DESTDIR="$scratch/core/dest") >/dev/null 2>&1
find "$scratch/core/dest" -type f >"$scratch/left"
empty "make uninstall leaves nothing" "$scratch/left"

if [ -f "$builddir/librondo_lm.la" ]; then
    ok "configure without the program" configured lm --cache-file="$scratch/cache" --without-mpi --with-lm --disable-cli
    installed lm
    ok "language models have their header and pages" sh -c "grep -q rondo_lm.h '$scratch/lm.files' && grep -q rondo_model_open.3 '$scratch/lm.files'"
    grep -E "$mpi|$cli" "$scratch/lm.files" >"$scratch/found"
    empty "nothing of MPI or of the program is installed" "$scratch/found"
    comm -13 "$scratch/core.files" "$scratch/lm.files" | grep -vE "$lm" >"$scratch/found"
    empty "what language models add is theirs" "$scratch/found"

    # the folder of .pc files of another machine: here a library that is nowhere
    mkdir -p "$scratch/pc"
    printf 'Name: jansson\nDescription: x\nVersion: 2.14\nLibs: -lrondo_no_such_library\n' >"$scratch/pc/jansson.pc"
    printf 'Name: libpcre2-8\nDescription: x\nVersion: 10.42\nLibs: -lpcre2-8\n' >"$scratch/pc/libpcre2-8.pc"
    PKG_CONFIG_LIBDIR=$scratch/pc
    export PKG_CONFIG_LIBDIR
    configured refused --without-mpi --with-lm
    ok "a jansson that does not link is refused" test $? != 0
    ok "with a sentence" grep -q 'error: --with-lm, but: no (jansson, as .* does not link for .*PKG_CONFIG_LIBDIR' "$scratch/configure.out"
    unset PKG_CONFIG_LIBDIR
else
    skip 6 "librondo_lm was not built"
fi
# the tarball does not depend on what was configured
for folder in core ${RONDO:+full}; do
    make_folder=$scratch/$folder
    [ "$folder" = core ] || make_folder=$builddir
    (cd "$make_folder" && $MAKE distdir distdir="$scratch/$folder.dist") >"$scratch/dist.out" 2>&1 || sed 's/^/# /' "$scratch/dist.out"
    (cd "$scratch/$folder.dist" && find . -type f) | sort >"$scratch/$folder.names"
done
ok "a tarball of the core alone has all headers and pages" test "$(grep -cxE '\./include/rondo(_mpi|_lm|_layers)?\.h|\./man/rondo(_model_open\.3|_mpi_attach\.3|-attend\.1)|\./examples/0[34]-[a-z]*\.c' "$scratch/core.names")" = 9
if [ -n "$RONDO" ]; then compare "and what that of a whole build has" "$scratch/full.names" "$scratch/core.names"; else skip 1 "the program rondo was not built"; fi
finish
