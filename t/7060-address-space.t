#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Limits on address space (ulimit -v), as batch systems and shared hosts set them: a small model runs within 4 GiB however large the
# stacks are that the same host allows, and many ranks take little more than their stacks.
. "$srcdir/t/shell.sh"
[ -n "$RONDO" ] || skip_all "the program was not built"
case $SANITIZE_CFLAGS in *address* | *thread*) skip_all "a sanitizer reserves the address space itself" ;; esac
(ulimit -v 4194304) 2>/dev/null || skip_all "ulimit -v does not work here"
kjv=$srcdir/examples/kjv
[ -r "$kjv/config.json" ] || skip_all "no model lies in $kjv"

# within KIB STACK ARGUMENT...: the hash of a run under these limits
within() {
    limit=$1 stack=$2
    shift 2
    (ulimit -s "$stack" && ulimit -v "$limit" && exec "$RONDO" generate -m "$kjv" -p 'In those days' -n 3 "$@" --json) >"$scratch/out" 2>"$scratch/err"
    code=$?
    sed -n 's/^  "hash": "\(.*\)",/\1/p' "$scratch/out" >"$scratch/hash"
}

"$RONDO" generate -m "$kjv" -p 'In those days' -n 3 --json | sed -n 's/^  "hash": "\(.*\)",/\1/p' >"$scratch/want"
for stack in 8192 1048576 unlimited; do
    (ulimit -s $stack) 2>/dev/null || { skip 2 "ulimit -s $stack is not allowed"; continue; }
    for ways in "--cp 4 --threads 2" "--cp 16 --threads 1"; do
        # shellcheck disable=SC2086
        within 4194304 $stack $ways
        ok "$ways within 4 GiB, stacks of $stack KiB (exit $code: $(cat "$scratch/err"))" cmp "$scratch/want" "$scratch/hash"
    done
done
within 1048576 8192 --cp 64 --threads 1
ok "64 ranks within 1 GiB (exit $code: $(cat "$scratch/err"))" cmp "$scratch/want" "$scratch/hash"
# texts that never end, where a file is expected: refused, and not read until nothing is left
endless() {
    (ulimit -v 1048576 && exec timeout 60 "$RONDO" "$@") >"$scratch/out" 2>"$scratch/err"
    code=$?
    ok "rondo $*: exit 4, a sentence" sh -c "test $code = 4 && grep -q '^rondo: /dev/zero has more than [0-9]* bytes' '$scratch/err'"
}
if [ -c /dev/zero ]; then
    endless tokenize -m "$kjv" -f /dev/zero
    endless score -m "$kjv" --ids /dev/zero
    endless generate -m "$kjv" -n 1 -f /dev/zero
else
    skip 3 "there is no /dev/zero"
fi
finish
