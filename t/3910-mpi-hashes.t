#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Attention over MPI: the hashes that threads give, at several rank counts. Skipped where there is no mpirun or no MPI module.
program=$builddir/t/3900-hashes.t
scratch=$builddir/t/scratch/3910.$$
if [ -z "$MPIRUN" ] || [ ! -e "$builddir/rondo_mpi.la" ]; then
    echo "1..0 # SKIP built without MPI"
    exit 0
fi
mkdir -p "$scratch"
trap 'rm -rf "$scratch"' EXIT

"$program" threads 1 > "$scratch/one" 2> "$scratch/error"
count=$(sort -u "$scratch/one" | wc -l)
if [ "$count" -gt 1 ]; then echo "ok 1 - hashes of one rank"; else echo "not ok 1 - hashes of one rank"; sed 's/^/# /' "$scratch/error"; fi
n=1
for ranks in 1 2 3 4 7; do
    n=$((n + 1))
    # $MPIRUN may carry options
    $MPIRUN -n $ranks "$program" mpi > "$scratch/mpi" 2> "$scratch/error"
    status=$?
    if [ $status -eq 0 ] && [ "$(sort -u "$scratch/mpi")" = "$(sort -u "$scratch/one")" ]; then
        echo "ok $n - $ranks MPI ranks: the same hashes"
    else
        echo "not ok $n - $ranks MPI ranks: the same hashes (status $status)"
        head -5 "$scratch/mpi" "$scratch/error" | sed 's/^/# /'
    fi
done
echo "1..$n"
