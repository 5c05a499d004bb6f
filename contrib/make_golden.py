#!/usr/bin/env python3
"""Writes t/golden: what Hugging Face's libraries say about examples/kjv and two more tokenizers, for rondo's tests.

    apt-get install bible-kjv && pip install torch transformers tokenizers safetensors
    python3 make_golden.py MODEL_DIR OUT_DIR
"""
import json
import os
import subprocess
import sys

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import MistralForCausalLM

TEXTS = ["", " ", "a", "In the beginning", "  two  spaces  ", "tab\tand\nnewline\r\n", "don't we'll I'M", "1234567 3.14", "x=y+1; // z", "caf\u00e9 na\u00efve",
         "e\u0301 combining", "\u4e2d\u6587\u5b57", "\u0645\u0631\u062d\u0628\u0627", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "<s> in text </s>", "a<s>b", "\u2581 meta \u2581",
         "\u00a0nbsp\u00a0", "z" * 3000, " " * 700, "And it came to pass, that the LORD spake.\nGe1:2 And", "\x00\x01", "\ufeffbom", "\ue000"]


def sentencepiece_like(lines, metaspace):
    tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    byte_tokens = [f"<0x{b:02X}>" for b in range(256)]
    if metaspace:
        tok.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="first", split=False)
        tok.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    else:
        tok.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
        tok.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    train_pre, tok.pre_tokenizer = tok.pre_tokenizer, pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always", split=True)
    tok.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=1200, special_tokens=["<unk>", "<s>", "</s>"] + byte_tokens, show_progress=False))
    data = json.loads(tok.to_str())
    data["added_tokens"] = [t for t in data["added_tokens"] if not t["content"].startswith("<0x")]
    tok = Tokenizer.from_str(json.dumps(data))
    tok.pre_tokenizer = train_pre
    tok.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    return tok


def vectors(tok):
    rows = []
    for text in TEXTS:
        ids = tok.encode(text).ids
        rows.append({"text": text, "ids": ids, "ids_no_special": tok.encode(text, add_special_tokens=False).ids,
                     "decoded": tok.decode(ids, skip_special_tokens=True)})
    return rows


def main(model_dir, out):
    os.makedirs(f"{out}/kjv", exist_ok=True)
    os.makedirs(f"{out}/tokenizers", exist_ok=True)
    verses = subprocess.run(["bible", "-f", "gen1:1-rev22:21"], capture_output=True, text=True, check=True).stdout.split("\n")
    mark = "\n".join(v for v in verses if v.startswith("Mark")) + "\n"
    tok = Tokenizer.from_file(f"{model_dir}/tokenizer.json")
    lines = verses[:6000] + ["caf\u00e9 \u4e2d\u6587 x=1; {y}"] * 20
    for name, t in (("byte-level", tok), ("sentencepiece-like", sentencepiece_like(lines, False)), ("metaspace", sentencepiece_like(lines, True))):
        if t is not tok:
            os.makedirs(f"{out}/tokenizers/{name}", exist_ok=True)
            t.save(f"{out}/tokenizers/{name}/tokenizer.json")
        with open(f"{out}/tokenizers/{name}.json", "w") as f:
            json.dump({"tokenizer": "the model's" if t is tok else f"{name}/tokenizer.json", "vectors": vectors(t)}, f, indent=0)

    torch.set_num_threads(1)
    model = MistralForCausalLM.from_pretrained(model_dir, dtype=torch.float32, attn_implementation="eager").eval().double()
    ids = tok.encode(mark).ids[:2048]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double()
    logp = torch.log_softmax(logits[:-1], -1)
    nll = -logp[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
    keep = [0, 1, 63, 127, 128, 129, 511, 1023, 1024, 2046, 2047]
    save_file({"positions": torch.tensor(keep), "logits": logits[keep].float()}, f"{out}/kjv/logits.safetensors")
    prompt, chosen, margins = tok.encode("\n".join(mark.split("\n")[:40]) + "\n").ids, [], []
    row = list(prompt)
    for _ in range(48):
        with torch.no_grad():
            last = model(torch.tensor([row])).logits[0, -1].double()
        top = torch.topk(last, 2)
        chosen.append(int(top.indices[0]))
        margins.append(round(float(top.values[0] - top.values[1]), 4))
        row.append(chosen[-1])
    json.dump({"text": "bible -f 'mark1:1-16:20', first 2048 tokens with BOS", "tokens": len(ids), "nll": float(nll.mean()), "ids_head": ids[:64],
               "greedy": {"prompt": "the first 40 verses of Mark, each with its newline", "prompt_tokens": len(prompt), "tokens": chosen, "margins": margins,
                          "text": tok.decode(chosen)},
               "made_by": "float64 weights and activations, eager attention; the library keeps RMSNorm, rope and softmax in float32",
               "tolerance": "logits 1e-3 absolute, nll 1e-5; greedy tokens exact while the margin is above 0.01"}, open(f"{out}/kjv/reference.json", "w"), indent=1)


if __name__ == "__main__":
    main(*sys.argv[1:3])
