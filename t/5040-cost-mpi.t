#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# What a run of a layer moves, over MPI: at several rank counts, and as the test hook makes it, the transport counts what was planned. Skipped
# where there is no mpirun or no MPI module.
program=$builddir/t/3085-cost-runs.t
scratch=$builddir/t/scratch/5040.$$
if [ -z "$MPIRUN" ] || [ ! -e "$builddir/rondo_mpi.la" ]; then
    echo "1..0 # SKIP built without MPI"
    exit 0
fi
mkdir -p "$scratch"
trap 'rm -rf "$scratch"' EXIT
n=0
for case in 1x1: 1x3: 2x1: 2x2: 4x1: 1x2:space,defer 2x2:plane; do
    grid=${case%%:*} hook=${case#*:}
    tp=${grid%x*} cp=${grid#*x}
    n=$((n + 1))
    # $MPIRUN may carry options
    RONDO_TEST_HOOK=$hook $MPIRUN -n $((tp * cp)) "$program" mpi "$tp" > "$scratch/out" 2> "$scratch/error" < /dev/null
    status=$?
    if [ $status -eq 0 ] && [ "$(cat "$scratch/out")" = "$tp x $cp ranks: 42 as counted" ]; then
        echo "ok $n - $tp x $cp MPI ranks, hook \"$hook\": as counted"
    else
        echo "not ok $n - $tp x $cp MPI ranks, hook \"$hook\": as counted (status $status)"
        head -5 "$scratch/out" "$scratch/error" | sed 's/^/# /'
    fi
done
echo "1..$n"
