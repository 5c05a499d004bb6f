#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# The example programs run and say what they should; the MPI one gives one hash for every number of processes.
. "$srcdir/t/shell.sh"

ok "attention on one rank agrees with the formula" "$builddir/examples/01-single"
"$builddir/examples/02-threads" >"$scratch/threads" 2>&1
ok "a ring of threads runs" test $? = 0
printf '1 rank: done\n2 ranks: the same bits\n3 ranks: the same bits\n5 ranks: the same bits\n' >"$scratch/want"
compare "and gives the same bits on 1, 2, 3 and 5 ranks" "$scratch/want" "$scratch/threads"
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
