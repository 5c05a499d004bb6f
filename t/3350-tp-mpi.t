#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Tensor parallelism, and gradients that ranks share, over MPI: at several rank counts, and as the test hook makes it, the bits that one rank
# makes.
. "$srcdir/t/shell.sh"
has_mpi || skip_all "built without MPI"

for case in 1: 2: 3: 5: 3:plane 3:space,defer 2:plane,space,defer +3: +4: +2:plane,space,defer; do
    ranks=${case%%:*} hook=${case#*:} program=$builddir/t/3300-tp-bits.t of=layers
    case $ranks in +*) ranks=${ranks#+} program=$builddir/t/3610-gradient-ranks.t of=gradients ;; esac
    echo "$ranks ranks: the bits of one" >"$scratch/want"
    RONDO_TEST_HOOK=$hook under_mpi "$ranks" "$program" mpi >"$scratch/out" 2>"$scratch/error" || cat "$scratch/error" >>"$scratch/out"
    compare "$of, $ranks MPI ranks, hook \"$hook\": the bits of one rank" "$scratch/want" "$scratch/out"
done
finish
