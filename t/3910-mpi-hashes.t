#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Attention over MPI: the hashes that threads give, at several rank counts.
. "$srcdir/t/shell.sh"
has_mpi || skip_all "built without MPI"
program=$builddir/t/3900-hashes.t

hashes() { if "$@" >"$scratch/all" 2>"$scratch/error"; then sort -u "$scratch/all"; else cat "$scratch/error"; fi; }

hashes "$program" threads 1 >"$scratch/one"
ok "hashes of one rank" test "$(wc -l <"$scratch/one")" -gt 1
for ranks in 1 2 3 4 7; do
    hashes under_mpi $ranks "$program" mpi >"$scratch/mpi"
    compare "$ranks MPI ranks: the same hashes" "$scratch/one" "$scratch/mpi"
done
finish
