#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# contrib/make_model: folders of any shape that the program reads, with sane numbers in them, the same each time.
. "$srcdir/t/shell.sh"
[ -n "$RONDO" ] || skip_all "the program was not built"
python=$(command -v python3) || skip_all "python3 is not installed"
make="$python $srcdir/contrib/make_model"
tiny='--layers 3 --hidden 48 --intermediate 80 --heads 6 --kv-heads 2 --head-dim 10 --vocabulary 90'

folder() { # name, options...
    folder=$scratch/$1
    shift
    # shellcheck disable=SC2086
    ok "$(basename "$folder") is written" $make $tiny "$@" "$folder"
    seq 0 40 >"$scratch/ids"
    "$RONDO" score -m "$folder" --ids "$scratch/ids" --json >"$scratch/out" 2>"$scratch/err"
    ok "... and read" test $? = 0
    empty "... without a warning" "$scratch/err"
    # A model that knows nothing: a likelihood of about 1 / 90, ln 90 = 4.5, made worse by how much its logits vary.
    ok "... and its numbers are sane" sh -c "sed -n 's/.*\"nll\": \\([0-9.e-]*\\).*/\\1/p' '$scratch/out' | awk '{ n++; bad += !(\$1 > 4 && \$1 < 30) } END { exit bad || n != 1 }'"
}
folder mistral
folder again
for file in config.json model.safetensors.index.json model-00001-of-00001.safetensors; do
    ok "$file is the same each time" cmp "$scratch/mistral/$file" "$scratch/again/$file"
done
folder sharded --shard-bytes 20000 --seed 2
ok "... in more than two files" test "$(find "$scratch/sharded" -name 'model-*.safetensors' | wc -l)" -gt 2
ok "... other numbers of another seed" sh -c "! cmp -s '$scratch/mistral/model-00001-of-00001.safetensors' '$scratch/sharded/model-00001-of-00001.safetensors'"
folder windowed --window 7 --type f32
folder llama --family llama --tied --type f16 --rope-theta 500000
folder qwen2 --family qwen2 --window 9
folder qwen3 --family qwen3 --tied
folder kimi --family kimi_linear --layers 5 --kda-heads 3 --kda-dim 12
for grid in "--cp 2" "--tp 2" "--cp 2 --tp 3"; do
    # shellcheck disable=SC2086
    "$RONDO" score -m "$scratch/kimi" --ids "$scratch/ids" --chunk 5 $grid --json >"$scratch/other" 2>"$scratch/err"
    ok "... has one hash with $grid" sh -c "grep '\"hash\"' '$scratch/out' >'$scratch/a'; grep '\"hash\"' '$scratch/other' | cmp - '$scratch/a'"
done
echo 3 1 4 >"$scratch/prompt"
"$RONDO" generate -m "$scratch/kimi" --ids --prompt-ids "$scratch/prompt" -n 4 --cp 2 --json >"$scratch/out" 2>"$scratch/err"
ok "... generates, and tells its states" sh -c "grep -q state_bytes_per_rank '$scratch/out'"
"$RONDO" plan run -m "$scratch/kimi" --tokens 100 --cached 0 --batch 1 --world 2 >"$scratch/out" 2>"$scratch/err"
ok "... and has no plan: exit 2" test $? = 2
ok "... in a sentence" grep -q 'Kimi Delta Attention' "$scratch/err"
ok "... says what it is" sh -c "'$RONDO' info -m '$scratch/qwen3' | grep -q 'architecture *Qwen3ForCausalLM'"

refused() { # text, exit code, what it says, arguments...
    text=$1 code=$2 says=$3
    shift 3
    $make "$@" >"$scratch/out" 2>"$scratch/err"
    ok "$text: exit $code" test $? = "$code"
    ok "... in one sentence" sh -c "grep -q '$says' '$scratch/err' && test \$(wc -l <'$scratch/err') = 1"
}
refused "a folder that is there" 3 "is there already" "$scratch/qwen3"
refused "heads that do not divide" 2 "kv-heads must divide heads" --kv-heads 3 "$scratch/none"
refused "more than the disk has" 4 "bytes free" --layers 1 --hidden 1000000 --intermediate 100000000 "$scratch/none"
ok "nothing is left of what failed" test ! -e "$scratch/none"
finish
