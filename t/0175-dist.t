#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# The tarball of one commit is the same whoever makes it and when: the order, owners, modes and dates of its files are fixed.
. "$srcdir/t/shell.sh"
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES SOURCE_DATE_EPOCH TAR_OPTIONS XZ_OPT
LC_ALL=C TZ=UTC; export LC_ALL TZ

case $(tar --version 2>/dev/null) in *GNU*) ;; *) skip_all "tar is not GNU tar" ;; esac
command -v xz >/dev/null || skip_all "xz is not installed"
cd "$builddir" || exit 1
name=t/scratch/0175-dist/rondo
tarball() { # umask, variables...: makes $name.tar.xz, packed quickly
    tarball_umask=$1
    shift
    (umask "$tarball_umask" && $MAKE dist-xz distdir="$name" XZ_OPT=-1 "$@") >"$scratch/dist.out" 2>&1 || sed 's/^/# /' "$scratch/dist.out"
}

tarball 022
mv "$name.tar.xz" "$scratch/first.xz"
ok "make dist" test -s "$scratch/first.xz"
tar --full-time -tvJf "$scratch/first.xz" >"$scratch/list"
ok "the model is in it" grep -q 'examples/kjv/model.safetensors' "$scratch/list"
date -u -d "@$(git -C "$srcdir" log -1 --format=%ct 2>/dev/null || date -r "$srcdir/VERSION" +%s)" '+%Y-%m-%d %H:%M:%S' >"$scratch/want"
awk '{ print $4 " " $5 }' "$scratch/list" | sort -u >"$scratch/dates"
compare "all files have the commit's date" "$scratch/want" "$scratch/dates"
awk '$2 != "0/0" || $1 !~ /^[-d]rw.r-.r-.$/' "$scratch/list" >"$scratch/found"
empty "no owner, no mode of the one who made it" "$scratch/found"

SOURCE_DATE_EPOCH=1000000000
export SOURCE_DATE_EPOCH
tarball 022
mv "$name.tar.xz" "$scratch/second.xz"
# as if cloned again: its files have other dates (all one, so that none seems out of date), and the one who makes it other habits
mkdir "$scratch/again" && tar -xJf "$scratch/second.xz" -C "$scratch/again" --strip-components=4
find "$scratch/again" -exec touch -d '2000-01-01' {} + && chmod -R go-rwx "$scratch/again"
tarball 077 srcdir="$scratch/again" top_srcdir="$scratch/again"
ok "made again of other copies of the files, the same bytes" cmp "$scratch/second.xz" "$name.tar.xz"
tar --full-time -tvJf "$scratch/second.xz" | awk '{ print $4 " " $5 }' | sort -u >"$scratch/dates"
echo '2001-09-09 01:46:40' >"$scratch/want"
compare "SOURCE_DATE_EPOCH says another date" "$scratch/want" "$scratch/dates"
finish
