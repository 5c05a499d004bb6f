#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# What a run of a layer moves and computes, over MPI: at several rank counts, and as the test hook makes it, the transport counts what was planned,
# and the devices of all ranks together the FLOPs. Skipped where there is no mpirun or no MPI module.
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
    flops=$(awk '/^planned/ { n++; planned = $2; sum += $4; other += $2 != planned } END { print n, other + 0, (planned > 0 && planned == sum) }' "$scratch/out")
    if [ $status -eq 0 ] && [ "$(grep -v '^planned' "$scratch/out")" = "$tp x $cp ranks: 42 as counted" ] && [ "$flops" = "$((tp * cp)) 0 1" ]; then
        echo "ok $n - $tp x $cp MPI ranks, hook \"$hook\": as counted"
    else
        echo "not ok $n - $tp x $cp MPI ranks, hook \"$hook\": as counted (status $status)"
        head -5 "$scratch/out" "$scratch/error" | sed 's/^/# /'
    fi
done
echo "1..$n"
