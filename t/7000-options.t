#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# The program's outside: help of every command, exit codes of wrong use, options that are known and not yet here refused by name,
# nothing abbreviated, nothing ignored.
. "$srcdir/t/shell.sh"
[ -n "$RONDO" ] || skip_all "the program was not built"

# says WANT WORD ARGUMENT...: this exit code, one sentence on stderr with the word, nothing on stdout
says() {
    want=$1 word=$2
    shift 2
    "$RONDO" "$@" >"$scratch/out" 2>"$scratch/err" </dev/null
    got=$?
    if [ "$got" = "$want" ] && [ ! -s "$scratch/out" ] && [ "$(wc -l <"$scratch/err")" = 1 ] && grep -q "^rondo: " "$scratch/err" &&
        grep -qe "$word" "$scratch/err"; then
        pass "rondo $*: exit $want, says '$word'"
    else
        flunk "rondo $*: exit $want, says '$word'"
        echo "# exit $got"
        sed 's/^/# /' "$scratch/out" "$scratch/err"
    fi
}

"$RONDO" --help >"$scratch/out" 2>"$scratch/err"
ok "--help: exit 0" test $? = 0
empty "on stdout alone" "$scratch/err"
ok "--help names the commands" grep -q "  attend " "$scratch/out"
for command in attend generate score tokenize verify bench info; do
    "$RONDO" $command --help >"$scratch/out" 2>"$scratch/err"
    ok "$command --help: exit 0" test $? = 0
    empty "$command --help: on stdout alone" "$scratch/err"
    ok "$command --help: begins with its usage" sh -c "head -1 '$scratch/out' | grep -q '^Usage: rondo $command'"
    says 2 "unknown option '--no-such-option'" $command --no-such-option
done
"$RONDO" plan run --help >"$scratch/out"
ok "help: a long list of values is whole" grep -q -e '--algorithm pass-kv|pass-q|all-gather|all-to-all|reduce|halo|mesh$' "$scratch/out"
for kind in attention linear transport generate load; do
    ok "bench $kind --help" "$RONDO" bench $kind --help
done
"$RONDO" --version >"$scratch/out" 2>&1
ok "--version" grep -q "^rondo [0-9]*\.[0-9]*\.[0-9]* (numerics contract [0-9]*)" "$scratch/out"
"$RONDO" >"$scratch/out" 2>"$scratch/err"
ok "no command: exit 2" test $? = 2
empty "and nothing on stdout" "$scratch/out"

says 2 "unknown command 'frobnicate'" frobnicate
# what is no text for a terminal: control characters, halves of UTF-8, surrogates, overlong forms; characters stay
"$RONDO" "$(printf 'a\033[31m\nb\177\377\302\233\342\202c\355\240\200\340\200\200 \303\251\342\202\254\360\237\230\200')" >"$scratch/out" 2>"$scratch/err"
printf '%s\n' "rondo: unknown command 'a\\x1b[31m\\x0ab\\x7f\\xff\\xc2\\x9b\\xe2\\x82c\\xed\\xa0\\x80\\xe0\\x80\\x80 $(printf '\303\251\342\202\254\360\237\230\200')'; 'rondo --help' lists the commands" >"$scratch/want"
compare "an odd word stands in one line, escaped" "$scratch/want" "$scratch/err"
says 2 "no output file" kda x.safetensors
says 2 "did you mean run" plan runs
says 2 "'serve' is not part" serve -m x
says 2 "unknown option '--json'" --json

# shortened and misspelt options, values missing or too many
says 2 "unknown option '--quic'" verify --quic
says 2 "unknown option '-x'" verify -x
says 2 "takes no value" verify --quick=1
says 2 "needs a value" verify --tokens
says 2 "needs a value" verify --tokens --quick
says 2 "whole number" verify --tokens 12x
says 2 "whole number" verify --tokens ''
says 2 "whole number" verify --tokens 0
says 2 "whole number" verify --tokens 99999999999999999999
says 2 "given twice" verify --tokens 1 --tokens 1
says 2 "given twice" verify --isa auto --isa auto
says 2 "no whole number" verify --ranks 1,,2
says 2 "no whole number" verify --ranks 1,x
says 2 "takes options only" verify quick
says 2 "exclude each other" verify --quick --full
says 2 "go together" verify -m examples/kjv
says 2 "multiple" verify --heads 6 --kv-heads 4
says 2 "multiple" bench attention --heads 6 --kv-heads 4

says 2 "given twice" verify --device cpu --device cpu
says 2 "given twice" verify --numerics strict --arithmetic f32 --numerics strict

# mistyped: the neighbour's name, and none where none is near
says 2 "unknown option '--rank' (did you mean --ranks?)" attend x -o y --rank 3
says 2 "unknown option '--rank' (did you mean --ranks?)" generate -m x -p y --rank 3
says 2 "(did you mean --temperature?)" generate -m x -p y --temprature 1
says 2 "(did you mean --temperature?)" generate -m x -p y --temp=1
says 2 "(did you mean --lossy?)" score -m x -f y --lsosy
says 2 "unknown option '-json' (did you mean --json?)" info -json
says 2 "unknown option '-output' (did you mean --output?)" attend x -output y
says 2 "(did you mean --help?)" attend --hepl
says 2 "unknown option '--vresion' before a command (did you mean --version?)" --vresion
says 2 "unknown command 'genrate' (did you mean generate?)" genrate -m x
says 2 "bench attenton is not known (did you mean attention?)" bench attenton
says 2 "zigzg is not known (did you mean zigzag?); contiguous, zigzag, striped, snake and document are" attend x -o y --layout zigzg
says 2 "(did you mean avx512?)" attend x -o y --isa avx-512
says 2 "(did you mean pass-kv?)" score -m x -f y --algorithm passkv
says 2 "(did you mean bf16?)" generate -m x -p y --kv-type bf61
says 2 "(did you mean threads?)" attend x -o y --transport thread
says 2 "(did you mean never?)" info --progress nevr
"$RONDO" generate --no-such-option >"$scratch/out" 2>"$scratch/err"
ok "what is near nothing gets no neighbour" sh -c "! grep -q 'did you mean' '$scratch/err'"
ok "help COMMAND is COMMAND --help" sh -c "'$RONDO' help score | head -1 | grep -q '^Usage: rondo score'"

# known, not here: each by its name
says 2 "nccl" verify --transport nccl
says 2 "cuda" verify --device cuda
says 2 "amx" verify --isa amx
says 2 "sve" verify --isa sve
says 2 "native" verify --numerics native
says 2 "fast" verify --numerics fast
says 2 "all else is strict" plan --numerics fast
says 2 "all else is strict" bench attention --numerics fast
# ... where linear layers are computed: by OpenBLAS, and reported so, or refused for the want of it
"$RONDO" bench linear --numerics fast --rows 40 --in 64 --out 64 --repeat 1 --json >"$scratch/report" 2>"$scratch/err"; code=$?
case $("$RONDO" info) in
    *--with-openblas=yes*) ok "bench linear --numerics fast says so" grep -q '"mode": *"fast"' "$scratch/report" ;;
    *) ok "bench linear --numerics fast is refused without OpenBLAS" expr $code = 2 '&' "$(grep -c fast "$scratch/err")" ;;
esac
says 2 "bf16-dot" verify --arithmetic bf16-dot
says 2 "bf16-tile" verify --arithmetic bf16-tile
says 2 "verify with -m computes in f32" verify -m x -f y --arithmetic f64
for command in "plan schedule" "kda x -o y" "bench linear" "bench" "generate -m x -p y" "score -m x -f y"; do
    says 2 "is one of attend, verify and bench attention; .*computes in f32" $command --arithmetic bf16-hopper
done
for option in check terms backward "hardware host"; do
    says 2 "leave out --arithmetic f64, or --${option%% *}" bench attention --arithmetic f64 --$option
done
says 2 "goes with --algorithm mesh" attend x -o y --grid 2,2 --ranks 4
says 2 "--cp" attend x -o y --cp 2
says 2 "--tp 0" generate -m x -p y --tp 0
says 2 "1024" score -m x -f y --tp 100 --cp 100
says 2 "1024" generate -m "$srcdir/examples/kjv" -p y --tp 1025
says 2 "--json" generate -m x -p y --logprobs 3
says 2 "maybe" generate -m x -p y --spread maybe
says 2 "--ranks" generate -m x -p y --ranks 2
says 2 "--session" generate -m x -p y --session z
says 2 "--chat" generate -m x -p y --chat
says 2 "q4" generate -m x -p y --kv-type q4
# not known at all
says 2 "no such\|not known" verify --transport pigeons
says 2 "not known" verify --device abacus
says 2 "not known" verify --layout spiral
says 2 "not known" verify --algorithm guess
says 2 "(did you mean all-gather?)" verify --algorithm allgather

# what a score is, and what goes together
says 2 "1e-37 to 1e38" attend x -o y --softcap 0
says 2 "1e-37 to 1e38" attend x -o y --softcap -3
says 2 "1e-37 to 1e38" attend x -o y --softcap inf
says 2 "1e-37 to 1e38" attend x -o y --softcap nan
says 2 "from 0 to below 1" attend x -o y --dropout 1
says 2 "from 0 to below 1" attend x -o y --dropout -0.1
says 2 "from 0 to below 1" attend x -o y --dropout nan
says 2 "0 to 2^64 - 1" attend x -o y --dropout 0.1 --seed -1
says 2 "0 to 2^64 - 1" attend x -o y --dropout 0.1 --seed 18446744073709551616
says 2 "is not given" attend x -o y --seed 1
says 2 "takes no value" attend x -o y --probs=1
says 2 "takes no value" attend x -o y --heads-first=no
for command in "attend x -o y" "plan schedule --tokens 64 --heads 2 --kv-heads 1 --head-dim 8" "bench attention --tokens 64"; do
    # shellcheck disable=SC2086
    {
        says 2 "6 ranks and there are 4" $command --ranks 4 --algorithm mesh --grid 2,3
        says 2 "two whole numbers A,B" $command --ranks 4 --algorithm mesh --grid 4
        says 2 "two whole numbers A,B" $command --ranks 4 --algorithm mesh --grid 2,2,1
        says 2 "no whole number from 1" $command --ranks 4 --algorithm mesh --grid 0,4
        says 2 "no whole number from 1" $command --ranks 4 --algorithm mesh --grid 2,x
        says 2 "goes with --algorithm mesh" $command --ranks 4 --algorithm pass-kv --grid 2,2
    }
done
says 2 "the number of ranks" verify --quick --ranks 2,3 --algorithm mesh --grid 2,2
says 2 "leave out --grid" verify -m "$srcdir/examples/kjv" -f "$srcdir/README" --algorithm mesh --grid 2,2
says 2 "leave --grid out" generate -m "$srcdir/examples/kjv" -p y --algorithm mesh --grid 1,1
says 2 "leave --grid out" score -m "$srcdir/examples/kjv" -f "$srcdir/README" --algorithm mesh --grid 1,1
says 2 "not known" verify --progress sometimes
says 2 "not known" generate -m x -p y --kv-interleave 2

# what a command needs
says 2 "add -m" generate -p hello
says 2 "add -p" generate -m x
says 2 "one of" score -m x
says 2 "one of" score -m x -f y --ids z
says 2 "add -m" tokenize
says 2 "0 to 2^64" generate -m x -p y --seed -1
says 2 "number" generate -m x -p y --temperature -1
says 2 "number" generate -m x -p y --temperature inf
says 2 "number" generate -m x -p y --top-p 1.5
says 2 "number" generate -m x -p y --top-k x
says 2 "0.001" generate -m x -p y --repetition-penalty 0
says 2 "character" generate -m x -p y --stop ''
says 2 "it can be read once" generate -m x -f - -f -
says 2 "whole number" generate -m x -p y -n 0
says 2 "ids are read" generate -m x --prompt-ids y --lossy
says 2 "ids are read" generate -m x --prompt-ids y --plain
says 2 "from 1 to 1000000000000" generate -m x -p y -n 9000000000000000000
says 3 "no-such-folder" generate -m no-such-folder -p y
says 3 "no-such-folder" tokenize -m no-such-folder
says 3 "no-such-file" score -m no-such-folder -f no-such-file
says 2 "png or .svg" bench transport --plot picture.gif
says 2 "not known" bench everything
says 2 "--repeat" bench transport --repeat 0
says 2 "leave out the shape" bench attention --check --tokens 5
says 2 "leave out --ranks" bench linear --ranks 4

# info
"$RONDO" info --json >"$scratch/out" 2>"$scratch/err"
ok "info --json: exit 0" test $? = 0
ok "info names the scalar program" grep -q '"scalar"' "$scratch/out"
for word in '"compiler": "[a-zA-Z].* [0-9]' '"jansson": "[0-9]' '"pcre2": "[0-9]' '"module_path": "/'; do
    ok "info has $word" grep -q "$word" "$scratch/out"
done
if grep -A1 '"name": "mpi"' "$scratch/out" | grep -q '"usable": true'; then
    ok "info names the MPI library" grep -q '"mpi": "[A-Za-z].*[0-9]\.[0-9]' "$scratch/out"
else
    skip 1 "no MPI here"
fi
RONDO_MODULE_PATH=/some/where:/else "$RONDO" info >"$scratch/info" 2>&1
ok "the folders of modules are those that are searched" grep -q '^modules from  */some/where:/else:/' "$scratch/info"
ok "info --quiet says nothing" sh -c "test -z \"\$('$RONDO' info --quiet)\""

# files: what a command reads, or writes otherwise, is not written over; what is no regular file is not replaced
kjv=$srcdir/examples/kjv
echo "In the beginning God created the heaven" >"$scratch/text"
mkdir -p "$scratch/model"
cp "$kjv"/*.json "$scratch/model/"
says 2 "both name" score -m "$kjv" -f "$scratch/text" --logits "$scratch/one" --trace "$scratch/one"
says 2 "is the input itself" score -m "$kjv" -f "$scratch/text" --trace "$scratch/text"
says 2 "is the input itself" generate -m "$kjv" -f "$scratch/text" --trace "$scratch/model/../text"
says 2 "is a file of the model" score -m "$scratch/model" -f "$scratch/text" --trace "$scratch/model/config.json"
says 2 "is a file of the model" score -m "$scratch/model" -f "$scratch/text" --logits "$scratch/model/model.safetensors"
says 2 "is no regular file" generate -m "$kjv" -f "$scratch/text" --trace "$scratch"
says 2 "is the input itself" attend "$scratch/text" -o "$scratch/text"
says 2 "is the input itself" attend "$scratch/text" -o "$scratch/out.st" --trace "$scratch/text"
says 3 "cannot be created" verify --quick --trace "$scratch/nowhere/trace"
says 2 "is empty" score -m "$kjv" -f "$scratch/text" --logits ""
ok "the text is as it was" grep -q "^In the beginning God" "$scratch/text"

# ranges of options, and what decoding runs
says 2 "1e-06 to 1e+06" generate -m "$kjv" -p x --temperature 1e-30
says 2 "0 to 1e+06" generate -m "$kjv" -p x --temperature 1e30
says 2 "0 to 1000" generate -m "$kjv" -p x --repetition-penalty 1e30
says 2 "of size 1e-37 to 1e38" attend x -o y --scale 0
for algorithm in pass-kv pass-q; do
    "$RONDO" generate -m "$kjv" -p "In the" -p "And" -n 3 --cp 3 --algorithm $algorithm --json >"$scratch/$algorithm" 2>&1
    ok "generate --algorithm $algorithm decodes so" test "$(grep -c "\"algorithm\": \"$algorithm\"" "$scratch/$algorithm")" = 2
done
ok "with the same bits" test "$(grep '"hash"' "$scratch/pass-kv")" = "$(grep '"hash"' "$scratch/pass-q")"

# what every report carries
for report in "info" "info -m $kjv" "tokenize -m $kjv -f $scratch/text" "verify --quick"; do
    # shellcheck disable=SC2086
    "$RONDO" $report --json >"$scratch/report" 2>/dev/null
    missing=
    for field in rondo numerics isa device transport ranks seconds; do grep -q "\"$field\":" "$scratch/report" || missing="$missing $field"; done
    ok "$report --json lacks nothing:$missing" test -z "$missing"
done
ok "verify tells what moved" grep -q '"by_operation"' "$scratch/report"

# a text longer than the model was made for is read, with a word about it; a limit on files is a full disk
# (clang's OpenMP runtime keeps a file of a kilobyte, and does not survive a lower limit)
sed 's/"max_position_embeddings": *[0-9]*/"max_position_embeddings": 4/' "$kjv/config.json" >"$scratch/model/config.json"
cp "$kjv/model.safetensors" "$scratch/model/"
ok "score of a long text" sh -c "'$RONDO' score -m '$scratch/model' -f '$scratch/text' >/dev/null 2>'$scratch/err'"
ok "with a warning" grep -q "made for 4 (max_position_embeddings)" "$scratch/err"
(ulimit -f 8 && exec "$RONDO" score -m "$kjv" -f "$scratch/text" --logits "$scratch/limited") >"$scratch/out" 2>"$scratch/err"
ok "a file that may not grow: exit 4" test $? = 4
ok "and nothing stays" sh -c "! ls '$scratch'/limited* 2>/dev/null"

# stdout that cannot be written: exit 4
if [ -w /dev/full ]; then
    "$RONDO" info >/dev/full 2>"$scratch/err"
    ok "a full disk under stdout: exit 4" test $? = 4
    "$RONDO" --help >/dev/full 2>"$scratch/err"
    ok "also for --help" test $? = 4
else
    skip 2 "no /dev/full"
fi
finish
