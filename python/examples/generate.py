# SPDX-License-Identifier: BSD-2-Clause
"""A model continues a text on 1, 2 x 1, 1 x 2 and 2 x 2 ranks, with the same bits; then it must not use a letter.

    python3 python/examples/generate.py [FOLDER]     a model's folder; by itself the one in examples/kjv
"""
import os
import sys

import numpy as np

import rondo.lm

here = os.path.dirname(os.path.abspath(__file__))
folder = sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "..", "..", "examples", "kjv")
prompt, hashes = "In the beginning", set()

for tp, cp in (1, 1), (2, 1), (1, 2), (2, 2):
    print("%d x %d ranks: %s" % (tp, cp, prompt), end="")
    text = rondo.lm.stream(folder, prompt, tp=tp, cp=cp, max_tokens=20)
    for piece in text:
        print(piece, end="", flush=True)
    print("  (hash %s)" % text.result().hash)
    hashes.add(text.result().hash)
assert len(hashes) == 1

with rondo.lm.Parts(folder, tp=2, cp=1) as parts:   # open between calls
    spelled = [parts.tokenizer.piece(i) or "" for i in range(parts.info.vocabulary)]
    with_e = np.array(["e" in piece for piece in spelled])

    def without_e(id, position, logits):
        logits[with_e] = -np.inf

    print("without an e: %s%s" % (prompt, rondo.lm.generate(parts, prompt, max_tokens=20, logits=without_e).text))
