#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# rondo info -m: a model is described without its weights, so one of 32 GB in a second and with memory for a hundredth of it; and what
# is wrong with a file that its header shows is still refused.
. "$srcdir/t/shell.sh"
[ -n "$RONDO" ] || skip_all "the program was not built"
kjv=$srcdir/examples/kjv
field() { sed -n "s/^$1  *//p" "$scratch/out"; }

"$RONDO" info -m "$kjv" >"$scratch/out" 2>"$scratch/err"
ok "the shipped model: exit 0" test $? = 0
empty "... and nothing is said besides" "$scratch/err"
ok "... its parameters" test "$(field parameters)" = 4196608
ok "... and tokens" test "$(field tokens)" = 2048
"$RONDO" score -m "$kjv" -f "$srcdir/COPYING" --limit 20 --json >"$scratch/score" 2>&1
held=$(sed -n 's/.*"weight_bytes_per_rank": \([0-9]*\).*/\1/p' "$scratch/score")
ok "... and, within 1 %, the memory that its weights take ($(field weight_bytes), $held)" \
    awk "BEGIN { exit !($held > 0 && $(field weight_bytes) > .99 * $held && $(field weight_bytes) <= $held) }"

# A folder whose weights are a hole: [vocabulary, hidden] twice, and one layer.
hidden=16384 mlp=65536 ids=131072
mkdir "$scratch/large"
cat >"$scratch/large/config.json" <<EOF
{ "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": $hidden, "intermediate_size": $mlp, "num_hidden_layers": 1,
  "num_attention_heads": 128, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": $ids, "max_position_embeddings": 4096,
  "rms_norm_eps": 1e-5, "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": [2, 7], "torch_dtype": "float32" }
EOF
tensors() {
    cat <<EOF
lm_head.weight $ids $hidden
model.embed_tokens.weight $ids $hidden
model.layers.0.input_layernorm.weight $hidden
model.layers.0.mlp.down_proj.weight $hidden $mlp
model.layers.0.mlp.gate_proj.weight $mlp $hidden
model.layers.0.mlp.up_proj.weight $mlp $hidden
model.layers.0.post_attention_layernorm.weight $hidden
model.layers.0.self_attn.k_proj.weight 1024 $hidden
model.layers.0.self_attn.o_proj.weight $hidden $hidden
model.layers.0.self_attn.q_proj.weight $hidden $hidden
model.layers.0.self_attn.v_proj.weight 1024 $hidden
model.norm.weight $hidden
EOF
}
weights() { # bytes missing at the end: writes the file
    tensors | awk '{ n = $2 * ($3 ? $3 : 1) * 4
                     printf "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[%d%s],\"data_offsets\":[%.0f,%.0f]}", (NR > 1 ? "," : "{"), $1, $2, ($3 ? "," $3 : ""), at, at + n
                     at += n }
                   END { printf "}" }' >"$scratch/header"
    while [ $(($(wc -c <"$scratch/header") % 8)) != 0 ]; do printf ' ' >>"$scratch/header"; done
    n=$(wc -c <"$scratch/header")
    all=$(tensors | awk '{ all += $2 * ($3 ? $3 : 1) * 4 } END { printf "%.0f", all }')
    { # shellcheck disable=SC2059  # the length, lowest byte first
        printf "$(printf '\\%03o\\%03o\\0\\0\\0\\0\\0\\0' $((n % 256)) $((n / 256)))"; cat "$scratch/header"; } >"$scratch/large/model.safetensors"
    truncate -s $((8 + n + all - $1)) "$scratch/large/model.safetensors"
}
if ! weights 0 2>/dev/null || [ "$(du -k "$scratch/large/model.safetensors" | cut -f1)" -gt 100 ]; then
    rm -rf "$scratch/large"
    skip 8 "files here have no holes"
    finish
fi
limit='ulimit -v 400000'
if [ -n "$SANITIZE_CFLAGS" ]; then limit=:; fi   # which want address space of their own
sh -c "$limit; exec timeout 60 '$RONDO' info -m '$scratch/large'" >"$scratch/out" 2>"$scratch/err"
ok "32 GB in 400 MB of address space: exit 0" test $? = 0
empty "... and nothing is said besides" "$scratch/err"
ok "... parameters" test "$(field parameters)" = "$(tensors | awk '{ all += $2 * ($3 ? $3 : 1) } END { printf "%.0f", all }')"
ok "... bytes" test "$(field weight_bytes)" = "$(tensors | awk '{ all += $2 * ($3 ? $3 : 1) * 4 } END { printf "%.0f", all }')"
ok "... end tokens" sh -c "tr -s ' \\n' ' ' <'$scratch/out' | grep -q 'eos 2 7 '"

refused() { # text, what it says
    sh -c "$limit; exec timeout 60 '$RONDO' info -m '$scratch/large'" >"$scratch/out" 2>"$scratch/err"
    ok "$1: exit 3" test $? = 3
    ok "... in one sentence: $(cut -c1-100 "$scratch/err")" sh -c "grep -q '$2' '$scratch/err' && test \$(wc -l <'$scratch/err') = 1"
}
weights 1
refused "a byte less than the header says" "model.safetensors"
weights 0
sed -i 's/"hidden_size": 16384/"hidden_size": 8192/' "$scratch/large/config.json"
refused "other shapes than the configuration's" 'lm_head.weight\|embed_tokens.weight'
finish
