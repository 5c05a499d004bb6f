#!/usr/bin/env python3
"""Writes t/golden: what Hugging Face's libraries say about examples/kjv, small models and more tokenizers, for rondo's tests.

    apt-get install bible-kjv && pip install torch transformers tokenizers safetensors
    python3 make_golden.py MODEL_DIR OUT_DIR
    python3 make_golden.py --families OUT_DIR           small random models of every family: t/golden/families
    python3 make_golden.py --forms OUT_DIR              a tokenizer as Qwen's, and normal forms: t/golden/tokenizers/qwen*
"""
import json
import os
import random
import subprocess
import sys

try:
    import torch
    import transformers
    from safetensors.torch import save_file
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import MistralForCausalLM
except ImportError as missing:
    sys.exit(print(__doc__.strip()) if {"-h", "--help"} & set(sys.argv) else "%s: %s; --help says what is needed" % (sys.argv[0], missing))

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


QWEN_PATTERN = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
# What normal forms are about: letters with and without marks, marks of many classes, Hangul whole and in parts, characters that become others,
# that are not composed again, that become many; and what is only in the way.
PARTS = ["aeouAEOUcnsz" * 2, "\u0300\u0301\u0302\u0303\u0308\u030a\u030c\u0323\u0327\u0328\u031b\u0345\u0334\u05b0\u05b4\u064b\u0651\u3099\u0f71\u0f72\u0f74\u1dce",
         "\u00e9\u00c5\u212b\u2126\u1e69\u01d5\u1ea5\u0958\u0959\ufb1d\u0344\u0340\u0374\u037e\u1f71\u0f73\u2adc\U0001d15e\ufb2c",
         "\u1100\u1112\u1161\u1175\u11a8\u11c2\uac00\ud7a3\uac01\u11a7", "\ufb01\u00bd\u2460\uff21\uff76\uff9e\ufdfa\u33a5\u2103\u00b5\u017f\u0132",
         "\u0915\u093c\u09c7\u09be\u0b47\u0b56\u1025\u102e\U00011131\U00011127", "\U0001f468\u200d\u2764\ufe0f\U0001f3fd", " \t\r\n.,!'0123456789-<>"]


def hostile():
    rng = random.Random(3)
    rows = ["A\u030a", "\u212b", "\u0041\u0328\u0301", "a\u0315\u0300\u05ae\u0062", "\u1100\u1161\u11a8 \uac00\u11a8 \u1100\uac00", "cafe\u0301's 12345\r\n\r\nE\u0301t\u00e9",
            "e" + "\u0301\u0323" * 60, "\u0301abc", " \u0301", "x" * 50 + "\u0308", "\ud558\u1161 \u1112\u1161\u11ab\u1100\u1173\u11af",
            "<|im_start|>A\u030a<|im_end|>\u0301", "\u0344 \u0958 \ufb1d", "na\u0131\u0308ve", "\u0001\u0300"]
    for _ in range(160):
        rows.append("".join(rng.choice(rng.choice(PARTS)) for _ in range(rng.randrange(1, 22))))
    return rows


def forms(out):
    """A byte-level tokenizer with Qwen's pattern and normalizer, trained on a few lines, and what each normal form makes of hostile texts."""
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN_PATTERN), "isolated"),
                                                 pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    lines = [t for t in TEXTS if len(t) < 200] + hostile() + ["In the beginning God created the heaven and the earth. Caf\u00e9 na\u00efve \u00c5ngstr\u00f6m \ud55c\uae00"] * 20
    tok.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=520, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tok.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    os.makedirs(f"{out}/qwen", exist_ok=True)
    tok.save(f"{out}/qwen/tokenizer.json", pretty=False)
    with open(f"{out}/qwen.json", "w") as f:
        json.dump({"tokenizer": "qwen/tokenizer.json", "vectors": vectors(tok, TEXTS + hostile())}, f, indent=0)
    rows = []
    for text in hostile():
        row = {"text": text}
        for name in ("NFC", "NFD", "NFKC", "NFKD"):
            row[name] = getattr(normalizers, name)().normalize_str(text)
        rows.append(row)
    with open(f"{out}/forms.json", "w") as f:
        json.dump({"forms": rows}, f, indent=0)


def vectors(tok, texts=TEXTS):
    rows = []
    for text in texts:
        ids = tok.encode(text).ids
        rows.append({"text": text, "ids": ids, "ids_no_special": tok.encode(text, add_special_tokens=False).ids,
                     "decoded": tok.decode(ids, skip_special_tokens=True)})
    return rows


# Name, class, what its configuration has besides, type of the weights, and whether config.json is to be in the style before transformers 5.
FAMILIES = [
    ("llama-odd", "Llama", dict(hidden_size=21, num_attention_heads=3, num_key_value_heads=1, head_dim=10, rms_norm_eps=1e-5), "bfloat16", True),
    ("llama-tied", "Llama", dict(tie_word_embeddings=True, attention_bias=True, mlp_bias=True), "float32", False),
    ("llama-linear", "Llama", dict(rope_parameters=dict(rope_type="linear", factor=3.0, rope_theta=5000.0)), "bfloat16", True),
    ("llama-dynamic", "Llama", dict(max_position_embeddings=64, rope_parameters=dict(rope_type="dynamic", factor=2.0, rope_theta=10000.0)), "float16", True),
    ("llama-llama3", "Llama", dict(num_key_value_heads=4, rope_parameters=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                                                           original_max_position_embeddings=32, rope_theta=500000.0)), "bfloat16", False),
    ("llama-yarn", "Llama", dict(rope_parameters=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32, rope_theta=10000.0)), "bfloat16", True),
    ("llama-yarn-mscale", "Llama", dict(rope_parameters=dict(rope_type="yarn", factor=8.0, original_max_position_embeddings=64, rope_theta=10000.0, mscale=0.8,
                                                         mscale_all_dim=0.4, truncate=False)), "bfloat16", False),
    ("mistral-window", "Mistral", dict(num_attention_heads=5, num_key_value_heads=5, head_dim=6, sliding_window=17), "bfloat16", True),
    ("mistral", "Mistral", dict(head_dim=12, sliding_window=None, tie_word_embeddings=True), "float16", False),
    ("qwen2", "Qwen2", dict(), "bfloat16", True),
    ("qwen2-tied-window", "Qwen2", dict(tie_word_embeddings=True, use_sliding_window=True, sliding_window=11, max_window_layers=0), "bfloat16", False),
    ("qwen2-defaults", "Qwen2", dict(num_attention_heads=4, num_key_value_heads=4, use_sliding_window=True, sliding_window=9, max_window_layers=2), "float32", True),
    ("qwen3", "Qwen3", dict(num_attention_heads=3, num_key_value_heads=3, head_dim=14), "bfloat16", True),
    ("qwen3-tied", "Qwen3", dict(tie_word_embeddings=True, head_dim=16, attention_bias=True,
                                 rope_parameters=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32, rope_theta=1000000.0)), "bfloat16", False),
]
TOKENS, KEEP = 96, [0, 1, 5, 16, 17, 31, 32, 63, 64, 95]


def old_style(path):
    """config.json as transformers 4 wrote it: rope_theta at the top, rope_scaling beside it, torch_dtype, no layer_types."""
    with open(path) as f:
        c = json.load(f)
    rope = c.pop("rope_parameters", None) or {}
    c["rope_theta"] = rope.pop("rope_theta", 10000.0)
    kind = rope.pop("rope_type", "default")
    c["rope_scaling"] = None if kind == "default" else {"type": kind, **rope}
    c["torch_dtype"] = c.pop("dtype", None)
    c.pop("layer_types", None)
    with open(path, "w") as f:
        json.dump(c, f, indent=1)


def double_norm(self, x):
    return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))


def families(out):
    """fp64 throughout, but for what the library defines in single precision: frequencies and angles of rope."""
    softmax = torch.nn.functional.softmax
    torch.nn.functional.softmax = lambda x, dim=None, dtype=None, **kw: softmax(x, dim=dim)
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(7)
    for name, kind, extra, dtype, old in FAMILIES:
        base = dict(hidden_size=24, intermediate_size=28, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=40,
                    max_position_embeddings=256, rms_norm_eps=1e-6, bos_token_id=1, eos_token_id=2, attn_implementation="eager")
        base.update(extra)
        folder = f"{out}/{name}"
        os.makedirs(folder, exist_ok=True)
        model = getattr(transformers, kind + "ForCausalLM")(getattr(transformers, kind + "Config")(**base))
        with torch.no_grad():
            for key, w in model.named_parameters():
                values = torch.randn(w.shape, generator=generator, dtype=torch.float64)
                w.copy_(1 + 0.125 * values if "norm" in key else 0.3 * values if w.dim() == 1 or "embed" in key or "head" in key else values * 0.9 * w.shape[1] ** -0.5)
        model.to(getattr(torch, dtype)).save_pretrained(folder)
        if os.path.exists(f"{folder}/generation_config.json"):
            os.unlink(f"{folder}/generation_config.json")
        model = type(model).from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
        for module in model.modules():
            if type(module).__name__.endswith("RMSNorm"):
                module.forward = double_norm.__get__(module)
        ids = torch.randint(0, 40, (1, TOKENS), generator=generator)
        with torch.no_grad():
            logits = model(ids).logits[0]
        assert logits.dtype == torch.float64 and torch.isfinite(logits).all()
        save_file({"tokens": ids[0].to(torch.int32), "positions": torch.tensor(KEEP, dtype=torch.int32), "logits": logits[KEEP].contiguous()},
                  f"{folder}/reference.safetensors")
        if old:
            old_style(f"{folder}/config.json")
            again = type(model).from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
            with torch.no_grad():
                worst = (again(ids).logits[0] - logits).abs().max()
            assert worst < 1e-4, (name, worst)
        print(name, "largest logit", round(float(logits.abs().max()), 2))


def main(model_dir, out):
    if model_dir == "--families":
        return families(out)
    if model_dir == "--forms":
        return forms(out)
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
    if len(sys.argv) < 3 or sys.argv[1] in ("-h", "--help"):
        print(__doc__.strip())
        sys.exit(len(sys.argv) < 2 or sys.argv[1] not in ("-h", "--help"))
    main(*sys.argv[1:3])
