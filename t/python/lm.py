# SPDX-License-Identifier: BSD-2-Clause
"""Language models from Python, on the shipped model; with the program's reports in a folder it is compared with these."""
import gc
import json
import os
import signal
import sys
import threading
import time
import warnings

import numpy as np

import rondo
import rondo.lm as lm
from kit import done, ok, refused, same, skip

kjv, folder = sys.argv[1:]
HASH = "1f04904ebe0338ee"   # of 20 tokens behind this
BEGIN = "In the beginning"
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "lm.ids")) as file:
    IDS = [int(x) for x in file.read().split()]
parts = lm.Parts(kjv, tp=1)
grid = lm.Parts(kjv, tp=2, cp=2, spread=True, threads=1)
two = lm.Parts(kjv, tp=2, cp=1, threads=1)

# ---- one call ----

one = lm.generate(kjv, BEGIN, max_tokens=20)
ok((one.hash, one.finish, len(one.tokens), one.prompt_tokens, one.logprobs) == (HASH, "length", 20, 6, None), "generate(): the known hash")
for which in (dict(tp=2, cp=1), dict(cp=2), dict(tp=2, cp=2, spread=True, layout="striped", chunk=2), dict(tp=3, shares=[1, 2, 1])):
    ok(lm.generate(kjv, BEGIN, max_tokens=20, threads=1, **which) == one, "and of the ranks %s, and all the rest" % which)
ok(lm.generate(parts, parts.tokenizer.encode(BEGIN), max_tokens=20) == one and
   lm.generate(grid, np.array(grid.tokenizer.encode(BEGIN)), max_tokens=20) == one, "Parts that stay open, and token ids")
prompts = [BEGIN, b"And it came to pass", IDS]
options = dict(max_tokens=16, temperature=0.8, top_k=50, top_p=0.9, repetition_penalty=1.1, seed=7, stop="God", kv_type="bf16", logprobs=3)
batch = lm.generate(parts, prompts, **options)
if os.path.exists(os.path.join(folder, "score.json")):
    with open(os.path.join(folder, "generate.json")) as file:
        report = json.load(file)
    told = [[{"token": p.token, "logprob": p.logprob, "top": [{"token": t, "logprob": x} for t, x in p.top]} for p in r.logprobs] for r in batch]
    ok([r.hash for r in batch] == report["hashes"] and [r.text for r in batch] == report["text"] and [r.tokens for r in batch] == report["tokens"] and
       [r.finish for r in batch] == report["finish"], "a batch of three prompts, drawn: what the program says")
    ok(told == report["logprobs"], "and its log probabilities")
    with open(os.path.join(folder, "score.json")) as file:
        report = json.load(file)
    with open(os.path.join(folder, "text"), "rb") as file:
        text = file.read()
    scored, limited = lm.score(parts, text, logits=True), lm.score(two, text, limit=9, logits=True)
    ok((scored.hash, scored.tokens, scored.nll) == (report["hash"], report["tokens"], report["nll"]) and abs(scored.perplexity - report["perplexity"]) < 1e-9,
       "score(): what the program says")
    with lm.Arrays(os.path.join(folder, "logits.safetensors")) as arrays:
        want = arrays["logits"]
        ok(list(arrays) == ["logits"] and arrays.shape("logits") == scored.logits.shape and same(scored.logits, want) and
           same(arrays.rows("logits", 3, 4), want[3:7]), "and its logits, which Arrays reads")
    ok(same(limited.logits, want[:9]) and limited.tokens == 9, "the first tokens alone, on two ranks")
    rows = []
    ok(lm.score(grid, text, logits=lambda at, row: rows.append((at, row))).hash == scored.hash and [at for at, _ in rows] == list(range(len(want))) and
       same(np.stack([row for _, row in rows]), want), "to a function, row by row, on four ranks")
else:
    skip("what the program says", "it was not built")
ok(lm.generate(two, prompts, **options) == batch and lm.generate(grid, prompts, **options) == batch, "the batch on 2 and on 2 x 2 ranks")
plain = [lm.generate(parts, p, **options) for p in prompts]
ok(plain == batch, "and one by one")

ok(lm.generate(parts, BEGIN, max_tokens=20, temperature=2, top_p=0) == lm.generate(parts, BEGIN, max_tokens=20, temperature=2, top_k=1) == one and
   lm.generate(parts, BEGIN, max_tokens=20, temperature=2, min_p=1) == one, "drawing from the likeliest token alone")
ok(all(lm.generate(grid, BEGIN, max_tokens=20, **how) == one for how in (dict(batch_tokens=3), dict(layout="snake"), dict(algorithm="pass-kv"))),
   "how it runs changes nothing")
ok(lm.generate(grid, BEGIN, max_tokens=20, interleave=True).hash != one.hash == lm.generate(parts, BEGIN, max_tokens=20, interleave=True).hash,
   "but where tokens take turns on context-parallel ranks")
others = [lm.generate(parts, BEGIN, max_tokens=20, **how).hash for how in (dict(seed=1, temperature=1), dict(seed=2, temperature=1), dict(kv_type="q8"))] + [
    lm.generate(kjv, BEGIN, max_tokens=20, **how).hash for how in (dict(weights="q8"), dict(weights="q8", group=64), dict(weights="f32"))]
ok(len({one.hash, *others[:5]}) == 6 and others[5] == one.hash, "seeds and types do, but where they hold the same numbers")
ok(lm.generate(parts, IDS, max_tokens=4, leaf=32).hash != lm.generate(parts, IDS, max_tokens=4).hash, "so do leaves")
ok(lm.generate(parts, b"In \xff", max_tokens=2, lossy=True).prompt_tokens == len(parts.tokenizer.encode("In \ufffd")) and
   lm.generate(parts, parts.tokenizer.piece(1), max_tokens=2, plain=True).prompt_tokens > 2, "prompts that are no UTF-8, or spell special tokens")
with warnings.catch_warnings(record=True) as heard:
    warnings.simplefilter("always")
    lm.generate(grid, [BEGIN, IDS], max_tokens=32763, stop=[",", " "])
    ok([str(w.message).split(",")[0] for w in heard] == ["32769 tokens", "32771 tokens"], "more tokens than a model was made for: a warning, of rank 0")
warnings.simplefilter("ignore")   # what never ends is more

# ---- text as it comes ----

found = lm.stream(grid, BEGIN, max_tokens=20)
pieces = list(found)
ok("".join(pieces) == one.text and [p.token for p in pieces] == one.tokens and [p.finish for p in pieces] == [None] * 19 + ["length"] and
   found.result() == one and all(p.id == 0 and isinstance(p, str) for p in pieces), "a stream's pieces make the text, and it has the result")
with lm.stream(kjv, prompts, threads=1, **options) as found:
    pieces = list(found)
    ok(["".join(p for p in pieces if p.id == i) for i in range(3)] == [r.text for r in batch] and found.result() == batch and
       pieces[0].top == batch[pieces[0].id].logprobs[0].top, "of three prompts each piece says whose it is")
for how in ("close()", "with", "letting it go", "break of a loop"):
    began = time.monotonic()
    found = lm.stream(kjv, BEGIN, tp=2, threads=1, max_tokens=10**6, ignore_eos=True)
    first = next(found)
    if how == "close()":
        found.close()
    elif how == "with":
        with found:
            pass
    elif how == "letting it go":
        del found
        while threading.active_count() > 1 and time.monotonic() - began < 60:
            time.sleep(0.01)
    else:
        for piece in found:
            break
        found.close()
        ok(list(found) == [], "a stream that was closed has nothing more")
        refused("its result", ["closed"], found.result)
    ok(first and threading.active_count() == 1, "%s ends an endless stream, and no thread stays" % how)

found, read = lm.stream(parts, BEGIN, max_tokens=20), []
closed = lm.stream(parts, BEGIN, max_tokens=10**6, ignore_eos=True)
readers = [threading.Thread(target=lambda: read.extend(found), daemon=True) for _ in range(3)]
readers += [threading.Thread(target=lambda: list(closed), daemon=True) for _ in range(3)]
for reader in readers:
    reader.start()
closed.close()
for reader in readers:
    reader.join(60)
ok(not any(reader.is_alive() for reader in readers) and len(read) == 20, "threads that read one stream share its pieces, and all hear of its end")

# ---- functions of the caller's ----

banned, seen = one.tokens[0], []


def ban(id, position, row):
    seen.append((id, position, row.shape, row.dtype))
    row[banned] = -np.inf


def ban_other(id, position, row):
    other = row.copy()
    other[banned] = -np.inf
    return other


less = lm.generate(parts, BEGIN, max_tokens=4, logits=ban)
ok(banned not in less.tokens and seen == [(0, 6 + i, (2048,), np.float32) for i in range(4)], "logits may be changed before each draw")
ok(lm.generate(grid, BEGIN, max_tokens=4, logits=ban_other) == less, "or others returned, on the ranks that draw")


def fails(*unused):
    raise ZeroDivisionError("on purpose")


for where in (parts, grid):
    for name, call in (("logits", lambda: lm.generate(where, BEGIN, logits=fails)), ("progress", lambda: lm.generate(where, BEGIN, progress=fails)),
                       ("a stream's logits", lambda: list(lm.stream(where, BEGIN, logits=fails))),
                       ("a score's logits", lambda: lm.score(where, BEGIN, logits=fails))):
        refused("what %s raises comes home from %d ranks" % (name, where.ranks), ["on purpose"], call, ZeroDivisionError)
refused("what reading a model's progress raises", ["on purpose"], lambda: lm.Model(kjv, progress=fails), ZeroDivisionError)
refused("a function that returns nonsense", ["logits returned", "2048"], lambda: lm.generate(parts, BEGIN, logits=lambda id, at, row: row[:7]))
refused("NaN", ["position 5", "not numbers", "logits function"], lambda: lm.generate(parts, BEGIN, logits=lambda id, at, row: row * np.nan), rondo.Error)
refused("one that returns complex numbers", ["logits returned", "complex"], lambda: lm.generate(parts, BEGIN, logits=lambda id, at, row: row * 1j))
for name, call in (("step()", lambda own: own.step()), ("submit()", lambda own: own.submit(BEGIN)), ("score()", lambda own: own.score(BEGIN)),
                   ("release()", lambda own: own.release(0)), ("close()", lambda own: own.close()), ("its context's close()", lambda own: own.context.close())):
    def inside(context):
        with lm.LM(context, parts.of(context), logits=lambda id, at, row: call(mine[0])) as own:
            mine.append(own)
            own.generate(BEGIN, max_tokens=3)

    mine = []
    refused("an LM's %s from what it calls" % name, ["has not returned"], lambda: rondo.run(1, inside))
told = []
lm.generate(grid, IDS, max_tokens=1, progress=lambda *x: told.append(x))
ok(told and told[-1] == (len(IDS), len(IDS)), "progress is told of the prompt")

# ---- ranks of one's own ----


def serve(context):
    """Texts that come and go between steps."""
    with lm.LM(context, grid.of(context), logprobs=1) as mine:
        first = mine.submit(BEGIN, max_tokens=20)
        events = mine.step()
        second = mine.submit(IDS, max_tokens=3)
        while mine.live:
            events += mine.step()
        results = [mine.query(id) for id in (first, second)]
        mine.release(first)
        try:
            mine.query(first)
        except rondo.InvalidError as failure:
            return results, events, mine.counters(), str(failure), mine.score(IDS)


found = rondo.run(4, serve, threads=1)
results, events, counters, text, score = found[2]
ok(all(f[0] == results for f in found) and results[0][:5] == one[:5] and len(results[1].tokens) == 3 and
   "".join(e for e in events if e.id == 0) == one.text, "LM: a text that comes between two steps, and every rank knows all")
ok("released" in text and counters.prefill_tokens == 6 + len(IDS) and counters.steps >= 20 and counters.decode_algorithm == "pass-q" and counters.kv_bytes > 0,
   "what was released is refused; counters")
ok(all(f[4].hash == score.hash == lm.score(parts, IDS).hash for f in found), "score() of an LM")
refused("Parts of other ranks", ["3 ranks", "2 x 2"], lambda: rondo.run(3, lambda c: grid.of(c)))
refused("ranks that ask different things", ["rank"], lambda: rondo.run(2, lambda c: lm.LM(c, two.of(c)).submit(IDS[:4 + c.rank])), rondo.Error)
with rondo.Context(threads=1) as alone, lm.Model.of(alone, kjv, weights="bf16") as model:
    left = lm.LM(alone, model)
    model.close()
    ok(left.generate([grid.tokenizer.encode(BEGIN)] * 2, max_tokens=20) == [one] * 2, "LM.generate(), whose model is closed and stays until it ends")
    refused("another LM of it", ["closed"], lambda: lm.LM(alone, model))
    del left
    last = lm.LM(alone, parts.of(alone))
    ok(not model._pointer, "and no longer")
refused("an LM whose context is closed", ["closed"], last.step)
refused("a model that is closed", ["closed"], lambda: model.tokenizer)
refused("ranks that tp does not divide", ["tp is 2", "3 ranks"], lambda: rondo.run(3, lambda c: lm.Model.of(c, kjv, tp=2)))

# ---- tokenizers and models ----

with lm.Tokenizer(kjv) as tokenizer:
    text = "In the beginning God created the h\u00e9aven \U0001f30d\n"
    ids = tokenizer.encode(text)
    flow = tokenizer.stream()
    ok(tokenizer.decode(ids) == text and "".join([flow.push(i) for i in ids] + [flow.end()]) == text and tokenizer.encode(text.encode()) == ids and
       tokenizer.encode(text, special=False) == ids[1:] == tokenizer.encode(text)[1:], "a tokenizer: to ids and back, at once and token by token")
    bos = tokenizer.piece(ids[0])
    ok(tokenizer.id(bos) == ids[0] and tokenizer.is_special(ids[0]) and not tokenizer.is_special(ids[1]) and tokenizer.id("no such piece") is None and
       tokenizer.piece(10**6) is None and len(tokenizer) == 2048 and tokenizer.decode(ids, special=True) == bos + text and
       tokenizer.encode(bos, special=False) == [ids[0]] and len(tokenizer.encode(bos, special=False, plain=True)) > 1, "pieces, special tokens and plain text")
    refused("a text that is no UTF-8", ["UTF-8"], lambda: tokenizer.encode(b"In \xff"), rondo.Error)
    refused("half a pair of surrogates", ["UTF-8"], lambda: tokenizer.encode("In \ud800"), rondo.Error)
    ok("\ufffd" in tokenizer.decode(tokenizer.encode(b"In \xff", lossy=True)), "which lossy=True takes")
    refused("a text that has ended", ["ended"], lambda: flow.push(3))
refused("a tokenizer that is closed", ["closed"], lambda: tokenizer.size)
info, need = lm.info(kjv), lm.estimate(kjv, tp=2, tokens=1000, memory=1 << 30)
ok((info.architecture, info.layers, info.heads, info.vocabulary, info.window, info.bos, info.eos, info.tied) ==
   ("MistralForCausalLM", 4, 4, 2048, None, 0, (1,), False) and parts.info[:11] == info[:11], "info()")
ok(need.kv_token_bytes == 4 * 2 * 2 * 64 * 4 and need.all_kv_bytes == 1000 * need.kv_token_bytes and need.fit == (1, 1) and
   0.99 < need.weight_bytes / two.info.weight_bytes < 1.01, "estimate()")
with lm.Arrays(os.path.join(kjv, "model.safetensors")) as arrays:
    kinds = {arrays.dtype(name).itemsize for name in arrays}
    ok(len(arrays) > 30 and kinds == {2} and sum(arrays[name].size for name in arrays) == info.parameters, "Arrays: the parameters of the model")
refused("an array that is not there", ["lm"], lambda: lm.Arrays(os.path.join(kjv, "model.safetensors"))["lm"], KeyError)
refused("a file that is a folder", ["plain file"], lambda: lm.Arrays(kjv), rondo.Error)

# ---- bad input ----

for what, words, call in (
        ("a folder that is not there", ["nowhere"], lambda: lm.generate("/nowhere", BEGIN)),
        ("a folder that is a number", ["folder", "7"], lambda: lm.generate(7, BEGIN)),
        ("no prompt", ["prompt is empty"], lambda: lm.generate(parts, [])),
        ("a prompt that is a number", ["prompt", "int"], lambda: lm.generate(parts, 7)),
        ("a prompt of fractions", ["prompt[1]", "float64"], lambda: lm.generate(parts, [BEGIN, [0.5]])),
        ("a prompt without a token", ["one token"], lambda: lm.generate(parts, [[]])),
        ("an id that the model has not", ["2048", "2047"], lambda: lm.generate(parts, [1, 2048])),
        ("an id below 0", ["-1"], lambda: lm.generate(parts, [1, -1])),
        ("a stop text that is empty", ["stop[1]"], lambda: lm.generate(parts, BEGIN, stop=["a", ""])),
        ("a temperature below 0", ["temperature"], lambda: lm.generate(grid, BEGIN, temperature=-1)),
        ("top_p above 1", ["top_p"], lambda: lm.generate(parts, BEGIN, top_p=1.5)),
        ("too many logprobs", ["logprobs", "100"], lambda: lm.generate(kjv, BEGIN, logprobs=101)),
        ("an unknown type", ["kv_type", "q8"], lambda: lm.generate(kjv, BEGIN, kv_type="f8")),
        ("an unknown layout", ["layout", "zigzag"], lambda: lm.generate(kjv, BEGIN, layout="spiral")),
        ("logits that are no function", ["logits", "int"], lambda: lm.generate(kjv, BEGIN, logits=3)),
        ("ranks for Parts", ["tp", "Parts"], lambda: lm.generate(parts, BEGIN, tp=2)),
        ("no ranks", ["tp is 0"], lambda: lm.Parts(kjv, tp=0)),
        ("too many ranks", ["1024"], lambda: lm.Parts(kjv, tp=64, cp=64)),
        ("shares of other ranks", ["shares", "[2]"], lambda: lm.Parts(kjv, tp=2, shares=[1.0])),
        ("one token to score", ["two"], lambda: lm.score(parts, [5])),
        ("a text without a tokenizer", ["tokenizer"], lambda: lm.generate(kjv, BEGIN, tokenizer=False)),
        ("a model without weights", ["no_weights"], lambda: lm.LM(rondo.Context(), lm.Model(kjv, no_weights=1))),
        ("no context", ["context"], lambda: lm.LM(None, None))):
    refused(what, words, call, rondo.Error)
for call in (lm.generate, lm.stream, lm.score):
    refused("an unknown keyword of %s()" % call.__name__, ["tempature"], lambda: call(kjv, BEGIN, tempature=1), TypeError)
refused("a keyword of generate() for score()", ["seed"], lambda: lm.score(kjv, BEGIN, seed=1), TypeError)

# ---- Control-C, what stays ----

long = IDS * 3000


def on_main():
    with rondo.Context() as alone, lm.LM(alone, parts.of(alone)) as mine:
        mine.generate(long)


endless = dict(max_tokens=10**6, ignore_eos=True)
for name, call in (("generate() while it reads", lambda: lm.generate(two, long)), ("generate() while it says", lambda: lm.generate(two, BEGIN, **endless)),
                   ("score() with logits", lambda: lm.score(parts, long, logits=lambda at, row: None)),
                   ("a stream", lambda: list(lm.stream(two, BEGIN, **endless))), ("an LM on the main thread", on_main)):
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    began, heard = time.monotonic(), False
    timer.start()
    try:
        call()
    except KeyboardInterrupt:
        heard = True
    timer.join()
    while threading.active_count() > 1 and time.monotonic() - began < 60:
        time.sleep(0.01)
    ok(heard and threading.active_count() == 1, "Control-C ends %s, and no thread stays" % name)
ok(lm.generate(two, BEGIN, max_tokens=20) == one, "afterwards all is as before")


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def once():
    lm.generate(two, BEGIN, max_tokens=1, logprobs=2, stop="xyz", logits=lambda *x: None)
    lm.stream(parts, BEGIN, max_tokens=2).close()
    parts.tokenizer.decode(parts.tokenizer.encode(BEGIN * 20))
    for bad in ([9999], ["x", "\ud800"]):
        try:
            lm.generate(parts, bad)
        except rondo.Error:
            pass


if os.path.exists("/proc/self/statm"):
    for what, call, warm, count, most in (("calls, and failures,", once, 60, 150, 4), ("models", lambda: lm.generate(kjv, BEGIN, max_tokens=1), 2, 8, 16)):
        for _ in range(warm):
            call()
        gc.collect()
        before, objects = resident(), len(gc.get_objects())
        for _ in range(count):
            call()
        gc.collect()
        ok(resident() - before < (most << 20) and len(gc.get_objects()) - objects < 100, "%d %s leave nothing" % (count, what))
for one_of in (parts, grid, two):
    one_of.close()
refused("Parts that are closed", ["closed"], lambda: lm.generate(parts, BEGIN))
done()
