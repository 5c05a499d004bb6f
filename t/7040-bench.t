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
    ok "$text: a fraction" sh -c "sed -n 's/.*\"fraction\": \\([0-9.e-]*\\).*/\\1/p' '$scratch/out' | awk '{ bad += !(\$1 >= 0 && \$1 < 100); some += \$1 > 0 } END { exit bad || !some }'"
    ok "$text: every row has every field" sh -c "rows=\$(grep -c '\"what\": ' '$scratch/out'); for key in isa arithmetic ceiling ceiling_rate fraction cpu_seconds
        do test \$(grep -Ec \"^      \\\"\$key\\\": [^n]\" '$scratch/out') = \$rows || { echo \$key; exit 1; }; done"
    moved=$(grep -c '"comm": ' "$scratch/out")
}
row "attention" gflops attention --tokens 300 --heads 4 --kv-heads 2 --head-dim 32 --causal --threads 1
ok "one rank moves nothing" test "$moved" = 0
row "attention in bf16 on 2 ranks" gflops attention --tokens 256 --heads 2 --kv-heads 1 --head-dim 64 --type bf16 --ranks 2 --window 50,0
ok "two ranks: comm" test "$moved" = 1
ok "comm counts messages, bytes and operations" sh -c "grep -A4 '\"comm\": ' '$scratch/out' | tr -d '\n' | grep -Eq '\"messages\": [1-9].*\"bytes\": [1-9].*\"by_operation\": [{]'"
for extra in "--packed 60" "--documents 50" "--lengths" "--window 40,0"; do
    # shellcheck disable=SC2086
    row "attention, $extra" gflops attention --tokens 300 --heads 4 --kv-heads 2 --head-dim 32 --causal --threads 1 $extra
    word=${extra%% *}
    ok "the report says so" grep -q "\"${word#--}\": " "$scratch/out"
done
row "decode" gbytes attention --decode --cached 2000 --heads 4 --kv-heads 2 --head-dim 32
row "linear" gflops linear --rows 17 --in 256 --out 128 --type bf16
ok "more than 16 rows: against multiplying" grep -q '"ceiling": "fma"' "$scratch/out"
row "gradients of attention" gflops attention --tokens 64 --heads 2 --kv-heads 1 --head-dim 16 --causal --backward
ok "... and what both passes take of memory" sh -c "grep -A20 '\"what\": \"memory\"' '$scratch/out' | grep -q '\"stated_bytes\": [1-9]'"
ok "... of gradients" sh -c "test \$(grep -c '\"backward\": true' '$scratch/out') = 1"
for shape in "--tokens 3000 --heads 4 --kv-heads 1" "--tokens 700 --heads 4 --kv-heads 2 --ranks 2 --threads 1" "--tokens 1500 --packed 300 --heads 4 --bias"; do
    if [ -n "$SANITIZE_CFLAGS" ]; then   # which keep memory of their own beside
        skip 2 "built with sanitizers"
        continue
    fi
    # shellcheck disable=SC2086  # words
    "$RONDO" bench attention --backward --head-dim 64 --causal $shape --repeat 1 --check >"$scratch/out" 2>"$scratch/err"
    ok "gradients, $shape: what their plan states of memory is what the system gives" test $? = 0
    ok "gradients, $shape: judged" grep -q 'stated and measured memory' "$scratch/out"
done
"$RONDO" bench attention --backward --tokens 64 --decode >"$scratch/out" 2>"$scratch/err"
ok "--backward --decode: exit 2" test $? = 2
row "a layer's gradient by its input" gflops linear --rows 17 --in 256 --out 128 --type bf16 --dx
row "a layer's gradient by its weights" gflops linear --rows 300 --in 256 --out 128 --dw
row "linear of few rows" gbytes linear --rows 16 --in 256 --out 128 --type bf16
ok "up to 16 rows: against reading memory" grep -q '"ceiling": "dram"' "$scratch/out"
ok "the bytes are those of the weights, read once" sh -c "sed -n 's/.*\"\(seconds\|gbytes\)\": \([0-9.e-]*\).*/\1 \2/p' '$scratch/out' |
    awk '{ last[\$1] = \$2 } \$1 == \"gbytes\" { bytes = \$2 * 1e9 * last[\"seconds\"] } END { exit !(bytes > 65536 * .99 && bytes < 65536 * 1.01) }'"
row "transport" gbytes transport --size 65536
ok "transport: comm" test "$moved" = 1
ok "transport: a size in each of its rows, 0 for a barrier" sh -c "test \$(grep -c '\"size\": 65536' '$scratch/out') = 2 && test \$(grep -c '\"size\": 0' '$scratch/out') = 1"
[ -d "$srcdir/examples/kjv" ] && row "generate" gflops generate -m "$srcdir/examples/kjv" --prompt 32 --tokens 4
[ -d "$srcdir/examples/kjv" ] && row "load" gbytes load -m "$srcdir/examples/kjv" --threads 2
row "the delta rule" gflops kda --tokens 200 --heads 2 --head-dim 32 --ranks 1
ok "... against what its instructions allow, too" grep -q '"mix_fraction"' "$scratch/out"
row "the delta rule on two ranks" gflops kda --tokens 200 --heads 2 --head-dim 32 --ranks 2
ok "... in three ways, against one" sh -c "test \$(grep -c '\"ceiling\": \"one-rank\"' '$scratch/out') = 3"
row "a step of the delta rule" gbytes kda --decode --sequences 2 --heads 2 --head-dim 32
ok "against updating memory" grep -q '"ceiling": "update"' "$scratch/out"
row "gradients of the delta rule" gflops kda --backward --tokens 200 --heads 2 --head-dim 32
"$RONDO" bench kda --backward --check >"$scratch/out" 2>"$scratch/err"
ok "kda --backward --check: exit 2" test $? = 2
"$RONDO" bench linear --rows 4 --in 64 --out 64 --repeat 1 >"$scratch/out" 2>"$scratch/err"
ok "a line for people" grep -q '^linear .* GB/s .* of dram ' "$scratch/out"
if command -v gnuplot >/dev/null; then
    "$RONDO" bench linear --rows 4 --in 64 --out 64 --repeat 1 --plot "$scratch/a b.svg" >"$scratch/out" 2>&1
    ok "--plot draws" grep -q '<svg' "$scratch/a b.svg"
    "$RONDO" bench transport --size 4096 --repeat 1 --plot "$scratch/t.svg" >"$scratch/out" 2>&1
    ok "--plot draws what has a ceiling" sh -c "grep -q all-gather '$scratch/t.svg' && grep -q 'part of the ceiling' '$scratch/t.svg' && ! grep -q barrier '$scratch/t.svg'"
else
    "$RONDO" bench linear --repeat 1 --plot "$scratch/a.svg" >"$scratch/out" 2>&1
    ok "--plot without gnuplot: exit 2" test $? = 2
fi

# Marks: what has none says so.
small="--rows 4 --in 64 --out 64 --repeat 1"
none() { # text, arguments...
    text=$1
    shift
    "$RONDO" bench "$@" --repeat 1 --check >"$scratch/out" 2>"$scratch/err"
    ok "$text --check: exit 0" test $? = 0
    ok "$text --check: says that nothing was judged" grep -q 'nothing was judged' "$scratch/out"
    "$RONDO" bench "$@" --repeat 1 --check --json >"$scratch/out" 2>"$scratch/err"
    ok "$text --check: no marks, and no pass" sh -c "grep -q '\"marks\": 0' '$scratch/out' && grep -q '\"pass\": null' '$scratch/out'"
}
none linear linear --rows 4 --in 64 --out 64
none transport transport --size 1000 --ranks 3
"$RONDO" bench attention --tokens 64 --threads 1 --check >"$scratch/out" 2>"$scratch/err"
ok "attention of another shape --check: exit 2" test $? = 2
ok "attention of another shape --check: one sentence" grep -q '^rondo: .* no mark for this shape' "$scratch/err"
[ -d "$srcdir/examples/kjv" ] && none generate generate -m "$srcdir/examples/kjv" --prompt 8 --tokens 2
[ -d "$srcdir/examples/kjv" ] && none load load -m "$srcdir/examples/kjv"

# Files that cannot be written are found before anything is measured, and nothing but a regular file is ever replaced.
refused() { # wanted exit code, text, arguments...
    want=$1 text=$2
    shift 2
    # shellcheck disable=SC2086
    "$RONDO" bench linear $small "$@" >"$scratch/out" 2>"$scratch/err"
    ok "$text: exit $want" test $? = "$want"
    empty "$text: nothing was measured" "$scratch/out"
    ok "$text: one sentence" test "$(grep -c '^rondo: ' "$scratch/err") $(wc -l <"$scratch/err" | tr -d ' ')" = "1 1"
}
mkdir "$scratch/folder" "$scratch/folder.svg"
mkfifo "$scratch/pipe" "$scratch/pipe.svg"
wrong() { # word, arguments...
    word=$1
    shift
    "$RONDO" bench attention "$@" >"$scratch/out" 2>"$scratch/err"
    ok "attention $*: exit 2" test $? = 2
    ok "attention $*: says '$word'" sh -c "test \$(wc -l <'$scratch/err') = 1 && grep -q -- '$word' '$scratch/err'"
}
wrong "give one of them" --packed 50 --cached 10
wrong "give one of them" --packed 50 --lengths
wrong "give one of them" --decode --packed 5
wrong "of its own" --terms --alibi
wrong "leave out --device cuda" --device cuda
wrong "of its own" --terms --causal
wrong "one thread" --terms --ranks 2
wrong "one thread" --terms --layout snake
wrong "from 0 to 0.999" --dropout 1
wrong "from 1 to" --packed 0
refused 3 "--calibrate in no folder" --calibrate "$scratch/none/c.json"
refused 3 "--calibrate where no file can be made" --calibrate "$scratch/$(printf '%0300d' 1)"
refused 2 "--calibrate of a folder" --calibrate "$scratch/folder"
refused 2 "--calibrate of a pipe" --calibrate "$scratch/pipe"
if command -v gnuplot >/dev/null; then
    refused 3 "--plot in no folder" --plot "$scratch/none/p.svg"
    refused 2 "--plot of a folder" --plot "$scratch/folder.svg"
    refused 2 "--plot of a pipe" --plot "$scratch/pipe.svg"
    refused 2 "--plot and --calibrate of one file" --plot "$scratch/one.svg" --calibrate "$scratch/one.svg"
    : >"$scratch/real.svg"
    ln -s real.svg "$scratch/link.svg"
    # shellcheck disable=SC2086
    "$RONDO" bench linear $small --quiet --plot "$scratch/link.svg" >"$scratch/out" 2>"$scratch/err"
    ok "--plot through a link: drawn" grep -q '<svg' "$scratch/real.svg"
    ok "--plot through a link: the link stays" test -h "$scratch/link.svg"
    empty "--plot: gnuplot is not heard" "$scratch/err"
fi
ok "the pipes are pipes" sh -c "test -p '$scratch/pipe' && test -p '$scratch/pipe.svg'"
mkdir "$scratch/bin"
printf '#!/bin/sh\ncat >/dev/null\necho first >&2\necho "no such terminal" >&2\nexit 1\n' >"$scratch/bin/gnuplot"
chmod +x "$scratch/bin/gnuplot"
# shellcheck disable=SC2086
PATH=$scratch/bin:$PATH "$RONDO" bench linear $small --plot "$scratch/failed.svg" >"$scratch/out" 2>"$scratch/err"
ok "gnuplot fails: exit 4" test $? = 4
ok "gnuplot fails: its reason in one sentence" sh -c "test \$(wc -l <'$scratch/err') = 1 && grep -q '^rondo: .*no such terminal' '$scratch/err'"
ok "gnuplot fails: nothing is left" sh -c "! ls '$scratch' | grep -q 'failed[.]svg'"

# shellcheck disable=SC2086
"$RONDO" bench linear $small --calibrate "$scratch/machine.json" --json >"$scratch/out" 2>"$scratch/err"
ok "--calibrate with a kind: exit 0" test $? = 0
ok "--calibrate with a kind: the hardware file" grep -q '"link_bandwidth": [0-9]' "$scratch/machine.json"
ok "--calibrate with a kind: rates of heads of several sizes" grep -q '"attention_rates"' "$scratch/machine.json"
ok "the file is hardware" sh -c "'$RONDO' plan choose --new 512 --cached 0 --ranks 2 --hardware '$scratch/machine.json' --json >'$scratch/out2'"
"$RONDO" bench attention --tokens 128 --heads 2 --kv-heads 2 --head-dim 64 --repeat 1 --ranks 2 --hardware "$scratch/machine.json" --json >"$scratch/out2"
ok "a run beside its prediction" sh -c "grep -q '\"predicted_seconds\": [0-9]' '$scratch/out2' && grep -q '\"error\"' '$scratch/out2'"
ok "and what is predicted at the pace of its cores" sh -c "grep -q '\"pace_error\": [-0-9]' '$scratch/out2' && grep -q '\"pace\": [0-9]' '$scratch/out2'"
"$RONDO" bench kda --tokens 64 --heads 2 --head-dim 16 --repeat 1 --ranks 2 --cp columns --hardware "$scratch/machine.json" --json >"$scratch/out2"
ok "the delta rule: predicted, at the pace of its cores too" sh -c "grep -q predicted_seconds '$scratch/out2' && grep -q pace_error '$scratch/out2'"
ok "the file has its rate" grep -q '"delta_backward_flops": [0-9]' "$scratch/machine.json"
ok "and tables of rows and of states" sh -c "grep -q '\"attention_rows\"' '$scratch/machine.json' && grep -q '\"delta_rates\"' '$scratch/machine.json'"
"$RONDO" bench kda --check --hardware h100 >/dev/null 2>"$scratch/err"
ok "a prediction and marks of the delta rule: exit 2" test $? = 2
"$RONDO" bench attention --tokens 64 --type bf16 --hardware h100 >/dev/null 2>"$scratch/err"
ok "a prediction of what is no F32: exit 2" test $? = 2
ok "a prediction of what is no F32: says so" grep -q '^rondo: --hardware predicts' "$scratch/err"
"$RONDO" bench attention --tokens 64 --repeat 1 --hardware "$scratch/none.json" >/dev/null 2>"$scratch/err"
ok "a prediction on no hardware: exit 3" test $? = 3
ok "a prediction on no hardware: names it" grep -q 'none[.]json' "$scratch/err"
ok "--calibrate with a kind: its row first" sh -c "grep '\"what\": ' '$scratch/out' | head -1 | grep -q linear && grep -q '\"calibrate\"' '$scratch/out'"

if [ -c /dev/full ]; then # as stdout only: it must never be the name of a file to be replaced
    for what in "transport --size 1000" "attention --tokens 64" "attention --tokens 64 --json"; do
        # shellcheck disable=SC2086
        "$RONDO" bench $what --repeat 1 >/dev/full 2>"$scratch/err"
        ok "$what, no room on stdout: exit 4" test $? = 4
        ok "$what, no room on stdout: says so" grep -q 'No space left on device' "$scratch/err"
    done
else
    skip 6 "there is no /dev/full"
fi
finish
