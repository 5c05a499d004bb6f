#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Language models from Python: the tokens, texts and hashes of the program on any ranks, text as it comes, functions of the caller's.
. "$srcdir/t/shell.sh"
. "$srcdir/t/python.sh"
[ -f "$builddir/.libs/librondo_lm.so.0" ] || skip_all "built without librondo_lm"
python_for numpy
kjv=$srcdir/examples/kjv
if [ -n "$RONDO" ]; then
    head -c 700 "$kjv/README" >"$scratch/text"
    "$RONDO" generate -m "$kjv" -p 'In the beginning' -p 'And it came to pass' --prompt-ids "$srcdir/t/python/lm.ids" -n 16 --temperature 0.8 --top-k 50 \
        --top-p 0.9 --repetition-penalty 1.1 --seed 7 --stop God --kv-type bf16 --logprobs 3 --json >"$scratch/generate.json" || exit
    "$RONDO" score -m "$kjv" -f "$scratch/text" --chunk 50 --logits "$scratch/logits.safetensors" --json >"$scratch/score.json" || exit
fi
"$python" "$srcdir/t/python/lm.py" "$kjv" "$scratch"
