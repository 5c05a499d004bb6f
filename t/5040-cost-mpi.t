#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# What a run of a layer moves and computes, over MPI: at several rank counts, and as the test hook makes it, the transport counts what was planned,
# and the devices of all ranks together the FLOPs.
. "$srcdir/t/shell.sh"
has_mpi || skip_all "built without MPI"

for case in 1x1: 1x3: 2x1: 2x2: 4x1: 1x2:space,defer 2x2:plane; do
    grid=${case%%:*} hook=${case#*:}
    tp=${grid%x*} cp=${grid#*x}
    RONDO_TEST_HOOK=$hook under_mpi $((tp * cp)) "$builddir/t/3085-cost-runs.t" mpi "$tp" >"$scratch/out" 2>"$scratch/error" ||
        cat "$scratch/error" >>"$scratch/out"
    # each rank tells the FLOPs that were planned of all, and its own
    awk '/^planned/ { n++; planned = $2; sum += $4; other += $2 != planned; next }
         { print }
         END { print n " ranks, " other + 0 " differ, " (planned > 0 && planned == sum ? "all" : sum " of " planned) " FLOPs" }' \
        "$scratch/out" >"$scratch/got"
    printf '%s x %s ranks: 42 as counted\n%s ranks, 0 differ, all FLOPs\n' "$tp" "$cp" $((tp * cp)) >"$scratch/want"
    compare "$tp x $cp MPI ranks, hook \"$hook\": as counted" "$scratch/want" "$scratch/got"
done
finish
