#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# The example programs run and say what they should; the MPI one gives one hash for every number of processes.
. "$srcdir/t/shell.sh"

ok "attention on one rank agrees with the formula" "$builddir/examples/01-single"
"$builddir/examples/02-threads" >"$scratch/threads" 2>&1
ok "a ring of threads runs" test $? = 0
printf '1 rank: done\n2 ranks: the same bits\n3 ranks: the same bits\n5 ranks: the same bits\n' >"$scratch/want"
compare "and gives the same bits on 1, 2, 3 and 5 ranks" "$scratch/want" "$scratch/threads"
if [ -x "$builddir/examples/04-lm" ]; then
    "$builddir/examples/04-lm" "$srcdir/examples/kjv" 1 >"$scratch/one" 2>&1
    ok "a language model continues a batch" test $? = 0
    ok "and shows both texts and their hashes" sh -c "grep -c '^16 new tokens, hash [0-9a-f]\{16\}\$' '$scratch/one' | grep -qx 2 && grep -q '^In the beginning.' '$scratch/one'"
    "$builddir/examples/04-lm" "$srcdir/examples/kjv" 3 >"$scratch/many" 2>&1
    compare "which are the same on 3 ranks" "$scratch/one" "$scratch/many"
else
    skip 3 "librondo_lm was not built"
fi
if [ -x "$builddir/examples/03-mpi" ] && [ -n "$MPIRUN" ]; then
    # (the module is found beside the library, without being told where)
    env -u RONDO_MODULE_PATH "$builddir/examples/03-mpi" >"$scratch/out" 2>&1
    ok "a process of its own, without mpirun" test $? = 0
    sed -n 's/.*hash //p' "$scratch/out" >"$scratch/one"
    for n in 2 3; do
        "$MPIRUN" -n $n "$builddir/examples/03-mpi" >"$scratch/out" 2>&1 </dev/null
        ok "$n MPI processes" grep "^$n processes: hash [0-9a-f]*" "$scratch/out"
        sed -n 's/.*hash //p' "$scratch/out" >"$scratch/many"
        compare "give the hash of one" "$scratch/one" "$scratch/many"
    done
else
    skip 5 "the MPI module was not built"
fi
finish
