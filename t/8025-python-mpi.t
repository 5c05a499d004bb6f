#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Ranks from Python that are MPI processes: each has its own rows, and the bits are those of one rank, gradients too.
. "$srcdir/t/shell.sh"
. "$srcdir/t/python.sh"
has_mpi || skip_all "built without MPI"
python_for numpy
PYTHONPATH=$PYTHONPATH:$srcdir/t/python
cat >"$scratch/one.py" <<'END'
import rondo
from kit import numbers
arrays, starts = [numbers(n, 277, h, 16) for n, h in ((1, 4), (2, 2), (3, 2))], [0, 200, 277]
out, lse = rondo.attention_varlen(*arrays, starts, starts, causal=True, return_lse=True)
print(rondo.hash(out, lse, *rondo.attention_varlen_backward(out, *arrays, out, lse, starts, starts, causal=True)))
END
"$python" "$scratch/one.py" >"$scratch/one"
for run in 1 3 "3 pass-kv" "2 pass-q" "4 mesh"; do
    ranks=${run%% *}
    echo "$ranks mpi $(cat "$scratch/one")" >"$scratch/want"
    # shellcheck disable=SC2086  # words
    under_mpi $ranks "$python" "$srcdir/t/python/mpi.py" ${run#"$ranks"} >"$scratch/got" 2>"$scratch/err" || sed 's/^/# /' "$scratch/err"
    compare "$run processes: the hash of one rank, of results and gradients" "$scratch/want" "$scratch/got"
done
under_mpi 2 "$python" "$srcdir/t/python/mpi.py" fail >"$scratch/got" 2>"$scratch/err"
status=$?
ok "a process that fails: the run does" test "$status" != 0
ok "and its exception is told" grep -q 'ZeroDivisionError: on purpose' "$scratch/err"
ok "to the other rank too" grep -q 'rondo.*Error: .*rank 1 raised ZeroDivisionError' "$scratch/err"
ok "nobody has a result" test ! -s "$scratch/got"
finish
