#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Tensor parallelism, and gradients that ranks share, over MPI: at several rank counts, and as the test hook makes it, the bits that one rank makes. Skipped where there is no
# mpirun or no MPI module.
scratch=$builddir/t/scratch/3350.$$
if [ -z "$MPIRUN" ] || [ ! -e "$builddir/rondo_mpi.la" ]; then
    echo "1..0 # SKIP built without MPI"
    exit 0
fi
mkdir -p "$scratch"
trap 'rm -rf "$scratch"' EXIT
n=0
for case in 1: 2: 3: 5: 3:plane 3:space,defer 2:plane,space,defer +3: +4: +2:plane,space,defer; do
    ranks=${case%%:*} hook=${case#*:} program=$builddir/t/3300-tp-bits.t of=layers
    case $ranks in +*) ranks=${ranks#+} program=$builddir/t/3610-gradient-ranks.t of=gradients ;; esac
    n=$((n + 1))
    # $MPIRUN may carry options
    RONDO_TEST_HOOK=$hook $MPIRUN -n "$ranks" "$program" mpi > "$scratch/out" 2> "$scratch/error" < /dev/null
    status=$?
    if [ $status -eq 0 ] && [ "$(cat "$scratch/out")" = "$ranks ranks: the bits of one" ]; then
        echo "ok $n - $of, $ranks MPI ranks, hook \"$hook\": the bits of one rank"
    else
        echo "not ok $n - $of, $ranks MPI ranks, hook \"$hook\": the bits of one rank (status $status)"
        head -5 "$scratch/out" "$scratch/error" | sed 's/^/# /'
    fi
done
echo "1..$n"
