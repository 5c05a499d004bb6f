#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Language models from Python on MPI processes; the example; where librondo_lm is found.
. "$srcdir/t/shell.sh"
. "$srcdir/t/python.sh"
[ -f "$builddir/.libs/librondo_lm.so.0" ] || skip_all "built without librondo_lm"
python_for numpy
kjv=$srcdir/examples/kjv there=$builddir/.libs/librondo_lm.so.0
mkdir "$scratch/alone"
cp "$RONDO_LIBRARY" "$scratch/alone"
RONDO_LIBRARY=$scratch/alone/librondo.so.0 "$python" -c 'import rondo.lm' >"$scratch/without" 2>&1
ok "without librondo_lm a sentence says what to do" grep -q '^ImportError: librondo_lm.*cannot be opened.*set RONDO_LM_LIBRARY to its file' "$scratch/without"
RONDO_LIBRARY=$scratch/alone/librondo.so.0 RONDO_LM_LIBRARY=$there "$python" -c 'import rondo.lm; print(rondo.lm.library)' >"$scratch/named" 2>&1
echo "$there" >"$scratch/want"
compare "RONDO_LM_LIBRARY names it" "$scratch/want" "$scratch/named"
LD_LIBRARY_PATH=$builddir/.libs RONDO_LIBRARY=librondo.so.0 "$python" -c 'import rondo.lm; print(rondo.lm.library)' >"$scratch/found" 2>&1
echo librondo_lm.so.0 >"$scratch/want"
compare "where the loader found librondo it finds librondo_lm" "$scratch/want" "$scratch/found"
"$python" "$srcdir/python/examples/generate.py" >"$scratch/example" 2>&1
ok "the example says the same on 1, 2 and 4 ranks" test "$(grep -c 'ranks: In the beginning, .*hash 1f04904ebe0338ee' "$scratch/example")" = 4
has_mpi || finish
cat >"$scratch/rank.py" <<'END_OF_RANK'
import sys, rondo, rondo.lm
with rondo.Context("mpi", threads=1, deadline=60) as context:
    with rondo.lm.LM(context, rondo.lm.Model.of(context, sys.argv[1], tp=2)) as lm:
        result = lm.generate("In the beginning", max_tokens=20)
        if context.rank == 1 and len(sys.argv) > 2:
            raise ZeroDivisionError("on purpose")
        score = lm.score(result.tokens)
    if context.rank == 0:
        print(result.hash, score.tokens)
END_OF_RANK
under_mpi 2 "$python" "$scratch/rank.py" "$kjv" >"$scratch/got" 2>"$scratch/err" || sed 's/^/# /' "$scratch/err"
echo "1f04904ebe0338ee 20" >"$scratch/want"
compare "two tensor-parallel processes: the hash of one rank" "$scratch/want" "$scratch/got"
under_mpi 2 "$python" "$scratch/rank.py" "$kjv" fail >"$scratch/got" 2>"$scratch/err"
ok "one that fails is heard by the other" grep -q 'rondo.*Error: .*rank 1 raised ZeroDivisionError' "$scratch/err"
finish
