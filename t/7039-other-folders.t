#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# MPI processes whose folders, on hosts of their own, are not the same model: told at once, by all, with the rank.
. "$srcdir/t/shell.sh"
[ -n "$RONDO" ] || skip_all "the program was not built"
has_mpi || skip_all "built without MPI"
mkdir "$scratch/here" "$scratch/there"
for file in config.json tokenizer.json model.safetensors; do
    cp "$srcdir/examples/kjv/$file" "$scratch/here" && cp "$srcdir/examples/kjv/$file" "$scratch/there" || exit 1
done
seq 1 60 >"$scratch/ids"
score() {
    # shellcheck disable=SC2086  # $MPIRUN may carry options
    timeout 60 $MPIRUN -n 2 "$RONDO" score -m "$scratch/here" --ids "$scratch/ids" --cp 3 --transport mpi --json : \
        -n 1 "$RONDO" score -m "$scratch/there" --ids "$scratch/ids" --cp 3 --transport mpi --json >"$scratch/out" 2>"$scratch/err" </dev/null
}
score
ok "the same model in two places: exit 0" test $? = 0
ok "... with the hash of one rank" sh -c "'$RONDO' score -m '$scratch/here' --ids '$scratch/ids' --json | grep -q \"\$(grep '\"hash\"' '$scratch/out')\""

# One other page in the middle, as a copy that went wrong has: the second half of the file is another one's.
size=$(wc -c <"$scratch/there/model.safetensors")
half=$((size / 2 / 4096))
dd if=/dev/zero of="$scratch/there/model.safetensors" bs=4096 seek=$half count=$half conv=notrunc 2>"$scratch/dd"
score
code=$?
ok "half of the file is another one on the third rank: exit 5 ($code)" test $code = 5
ok "... one sentence tells it" test "$(grep -c "ranks disagree on the model's files" "$scratch/err")" = 1
ok "... and names that rank" grep -q "rank 2 has [0-9a-f]* where rank\|where rank 2 has" "$scratch/err"
finish
