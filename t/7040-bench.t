#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# rondo bench: rows that hold together. Speeds are no test: on a busy machine a
# fraction may be anything above 0.
. "$srcdir/t/shell.sh"
[ -n "$RONDO" ] || skip_all "the program was not built"

row() { # text, wanted unit, arguments...
    text=$1 unit=$2
    shift 2
    "$RONDO" bench "$@" --repeat 1 --json >"$scratch/out" 2>"$scratch/err"
    ok "$text: exit 0" test $? = 0
    ok "$text: seconds, $unit, ceiling and CPU time" sh -c "for key in seconds $unit ceiling ceiling_rate fraction cpu_seconds isa arithmetic ranks threads
        do grep -q \"\\\"\$key\\\": \" '$scratch/out' || { echo no \$key; exit 1; }; done"
    ok "$text: a fraction" sh -c "sed -n 's/.*\"fraction\": \\([0-9.e-]*\\).*/\\1/p' '$scratch/out' | awk '{ bad += !(\$1 > 0 && \$1 < 100); n++ } END { exit bad || !n }'"
}
row "attention" gflops attention --tokens 300 --heads 4 --kv-heads 2 --head-dim 32 --causal --threads 1
row "attention in bf16 on 2 ranks" gflops attention --tokens 256 --heads 2 --kv-heads 1 --head-dim 64 --type bf16 --ranks 2 --window 50,0
row "decode" gbytes attention --decode --cached 2000 --heads 4 --kv-heads 2 --head-dim 32
row "linear" gflops linear --rows 16 --in 256 --out 128 --type bf16
row "transport" gbytes transport --size 65536
[ -d "$srcdir/examples/kjv" ] && row "generate" gflops generate -m "$srcdir/examples/kjv" --prompt 32 --tokens 4
"$RONDO" bench linear --rows 4 --in 64 --out 64 --repeat 1 >"$scratch/out" 2>"$scratch/err"
ok "a line for people" grep -q '^linear .* GFLOP/s' "$scratch/out"
if command -v gnuplot >/dev/null; then
    "$RONDO" bench linear --rows 4 --in 64 --out 64 --repeat 1 --plot "$scratch/a b.svg" >"$scratch/out" 2>&1
    ok "--plot draws" grep -q '<svg' "$scratch/a b.svg"
else
    "$RONDO" bench linear --repeat 1 --plot "$scratch/a.svg" >"$scratch/out" 2>&1
    ok "--plot without gnuplot: exit 2" test $? = 2
fi
finish
