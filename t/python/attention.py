# SPDX-License-Identifier: BSD-2-Clause
"""rondo.attention() and attention_varlen() on numpy arrays: against double precision, over ranks, in place, and what is refused."""
import pickle
import sys
import os
import subprocess
import json

import numpy as np

import rondo
from rondo import _arrays, _plan
from kit import done, far, inputs, numbers, ok, reference, refused, safetensors, same, skip

B, TQ, TK, H, G, D, V = 2, 37, 150, 4, 2, 12, 8
q, k, v = inputs(B, TQ, TK, H, G, D, V)
rng = np.random.default_rng(9)
slopes, sinks = numbers(5, H), numbers(6, H)
bias, mask = numbers(7, B, H, TQ, TK), rng.random((1, H, TQ, TK)) < 0.7
documents = np.sort(rng.integers(0, 4, (B, TK)), axis=1).astype(np.int32)
everything = dict(return_lse=True, return_attn_probs=True)

# ---- what the keywords mean ----

cases = [
    ("nothing said", {}), ("causal", dict(causal=True)), ("window_size", dict(window_size=(20, 3))), ("one open side", dict(window_size=(-1, 0))),
    ("softmax_scale", dict(softmax_scale=0.3)), ("a negative scale", dict(softmax_scale=-0.3)), ("softcap", dict(softcap=2.5)),
    ("alibi_slopes", dict(alibi_slopes=slopes)), ("sinks", dict(sinks=sinks)), ("bias", dict(bias=bias)),
    ("a bias for all heads and batches", dict(bias=bias[:1, :1])), ("mask", dict(mask=mask)),
    ("a mask of uint8 for all heads", dict(mask=mask[:, :1].astype(np.uint8) * 3)), ("documents", dict(documents=documents, causal=True)),
    ("documents alike in all batches", dict(documents=documents[0].astype(np.int64))), ("lengths_k", dict(lengths_k=[140, 20], causal=True)),
    ("all of it", dict(causal=True, window_size=(90, -1), softmax_scale=0.2, softcap=4.0, alibi_slopes=slopes, sinks=sinks, bias=bias, mask=mask,
                       documents=documents, lengths_k=np.array([150, 30]))),
]
for name, options in cases:
    got = rondo.attention(q, k, v, **options, **everything)
    worst = max(far(g, w) for g, w in zip(got, reference(q, k, v, **options)))
    ok(worst < 2e-5, "%s: out, lse and probabilities agree with the formula (%.1g)" % (name, worst))

# ---- the bits are those of one rank ----

LONG = 700   # several leaves for each rank, so that the rows of some do not lie side by side
lq, lk, lv = inputs(B, LONG - 60, LONG, H, G, D, V, seed=11)
options = dict(causal=True, softcap=4.0, alibi_slopes=slopes, sinks=sinks, bias=numbers(7, 1, 1, LONG - 60, LONG), lengths_k=[LONG, 400],
               documents=np.sort(rng.integers(0, 3, LONG)).astype(np.int32), **everything)
one = rondo.attention(lq, lk, lv, **options)
placed = []
plain_place = _plan.Shared._place
_plan.Shared._place = lambda self, rows, keys, *more, **zero: placed.append(self.held[keys][1] is None) or plain_place(self, rows, keys, *more, **zero)
bad = [(n, layout, algorithm) for n in (2, 3, 5) for layout in (None, "contiguous", "zigzag", "snake", "striped", "document")
       for algorithm in (None, "pass-kv", "pass-q", "all-gather", "reduce", "halo")
       if (layout is None or algorithm is None) and not same(rondo.attention(lq, lk, lv, ranks=n, layout=layout, algorithm=algorithm, **options), one)]
_plan.Shared._place = plain_place
ok(any(placed) and not all(placed), "some ranks use arrays in place, some have their rows apart")
ok(not bad, "2, 3 and 5 ranks, layouts and algorithms: the bits of one rank")
ok(same(rondo.attention(lq, lk, lv, ranks=6, algorithm="mesh", grid=(2, 3), **options), one), "a mesh of 2 by 3 ranks: the same bits")
ok(same(rondo.attention(lq, lk, lv, threads=3, isa="scalar", **options), one), "scalar instructions and three threads: the same bits")
for name in ("f64", "bf16-hopper"):
    small = dict(options, arithmetic=name, lengths_k=None, bias=None, documents=None)
    other = rondo.attention(lq[:, :9], lk[:, :200], lv[:, :200], **small)
    ok(same(rondo.attention(lq[:, :9], lk[:, :200], lv[:, :200], ranks=2, **small), other) and
       not same(rondo.attention(lq[:, :9], lk[:, :200], lv[:, :200], **dict(small, arithmetic="f32")), other), "arithmetic %s: bits of its own on 1 and 2 ranks" % name)
dropped = rondo.attention(q, k, v, dropout_p=0.4, seed=2**64 - 1, **everything)
ok(all(same(rondo.attention(q, k, v, dropout_p=0.4, seed=2**64 - 1, ranks=n, **everything), dropped) for n in (2, 3)), "dropout: one mask on 1, 2 and 3 ranks")
plain = rondo.attention(q, k, v, **everything)
ok(same(dropped[1:], plain[1:]) and not same(dropped[0], plain[0]), "dropout: lse and probabilities are without it, out is with it")
ok(not same(rondo.attention(q, k, v, dropout_p=0.4, seed=5), dropped[0]), "another seed, another mask")

# ---- packed ----

starts_q, starts_k = np.array([0, 10, 10, 47], np.int32), [0, 60, 75, 200]
pq, pk, pv = (numbers(n, rows, heads, dim) for n, rows, heads, dim in ((21, 47, H, D), (22, 200, G, D), (23, 200, G, V)))
pbias, pdocuments = numbers(24, H, 47, 200), np.sort(rng.integers(0, 5, 200)).astype(np.int32)
packed = dict(causal=True, bias=pbias, documents=pdocuments, window_size=(40, -1))
out, lse, probs = rondo.attention_varlen(pq, pk, pv, starts_q, starts_k, **packed, **everything)
worst = 0
for s in range(3):
    a, b, c, d = starts_q[s], starts_q[s + 1], starts_k[s], starts_k[s + 1]
    o, l, p = reference(pq[None, a:b], pk[None, c:d], pv[None, c:d], causal=True, window_size=(40, -1), bias=pbias[None, :, a:b, c:d], documents=pdocuments[c:d])
    worst = max(worst, far(out[a:b], o[0]), far(lse[:, a:b], l[0]), far(probs[:, a:b, :d - c], p[0]), float(np.abs(probs[:, a:b, d - c:]).max(initial=0)))
ok(worst < 2e-5, "packed sequences, one of them without queries, agree with the formula (%.1g)" % worst)
ok(out.shape == (47, H, V) and lse.shape == (H, 47) and probs.shape == (H, 47, 125), "packed results have the shapes of rondo attend's")
ok(all(same(rondo.attention_varlen(pq, pk, pv, starts_q, starts_k, ranks=n, layout=layout, **packed, **everything), (out, lse, probs))
       for n in (2, 3, 4) for layout in (None, "document", "zigzag")), "packed: the same bits on 2, 3 and 4 ranks")
turned = rondo.attention_varlen(*(np.ascontiguousarray(x.transpose(1, 0, 2)) for x in (pq, pk, pv)), starts_q, starts_k, heads_first=True, ranks=2, **packed)
ok(same(np.ascontiguousarray(turned.transpose(1, 0, 2)), out), "packed, heads first: the same bits")

# ---- types ----

half = [x.astype(np.float16) for x in (q, k, v)]
got = rondo.attention(*half, causal=True, return_lse=True)
want = reference(*half, causal=True)
ok(got[0].dtype == np.float16 and far(got[0], want[0]) < 2e-3 and far(got[1], want[1]) < 2e-5, "float16 in and out")
wide = rondo.attention(*half, causal=True, out_dtype="f32")
ok(wide.dtype == np.float32 and far(wide, want[0]) < 2e-5 and same(wide.astype(np.float16), got[0]), "out_dtype")
bits = [(x.view(np.uint32) >> 16).astype(np.uint16) for x in (q, k, v)]   # cut, which gives bfloat16 numbers
cut = [(x.astype(np.uint32) << 16).view(np.float32) for x in bits]
got = rondo.attention(*bits, causal=True, dtype="bf16")
want = reference(*cut, causal=True)[0]
ok(got.dtype == np.uint16 and far((got.astype(np.uint32) << 16).view(np.float32), want) < 1.6e-2, "bits of bfloat16 as uint16")
try:
    import ml_dtypes
except ImportError:
    skip("bfloat16 of ml_dtypes", "it is not installed")
else:
    typed = rondo.attention(*(x.view(ml_dtypes.bfloat16) for x in bits), causal=True)
    ok(typed.dtype == ml_dtypes.bfloat16 and typed.tobytes() == got.tobytes(), "bfloat16 of ml_dtypes: the same bits")

# ---- arrays as they lie ----

copies = []
plain_copy = _arrays.View.copy
_arrays.View.copy = lambda self: copies.append(1) or plain_copy(self)


def lies(what, expected, a, b, c, **more):
    del copies[:]
    got = rondo.attention(a, b, c, causal=True, **more)
    want = rondo.attention(*(x.copy(order="C") for x in (a, b, c)), causal=True, **{n: x for n, x in more.items() if n not in ("ranks", "layout")})
    ok(same(got, want) and len(copies) == expected, "%s: %s, the same bits" % (what, "in place" if not expected else "%d copied" % expected))


fused = numbers(31, B, 50, 3, H, D)
lies("q, k and v inside of one array", 0, fused[:, :, 0], fused[:, :, 1], fused[:, :, 2])
lies("the same on ranks", 0, fused[:, :, 0], fused[:, :, 1], fused[:, :, 2], ranks=3, layout="contiguous")
turned = [numbers(n, B, h, 50, D).transpose(0, 2, 1, 3) for n, h in ((32, H), (33, G), (34, G))]
lies("[B,H,T,D] seen as [B,T,H,D]", 0, *turned)
lies("the same on 3 ranks in zigzag", 0, *turned, ranks=3, layout="zigzag")
lies("every other token", 0, *(x[:, ::2] for x in turned))
lies("every other head and batch", 0, *(numbers(n, 3, 50, 4, D)[::2, :, ::2] for n in (35, 36, 37)))
lies("a batch that is one array", 0, *(np.broadcast_to(x, (3,) + x.shape[1:]) for x in (turned[0][:1], turned[1][:1], turned[2][:1])))
lies("tokens before batches", 3, *(numbers(n, 50, 3, 2, D).transpose(1, 0, 2, 3) for n in (38, 39, 40)))
lies("one token of each", 0, *(numbers(n, 50, 3, 2, D).transpose(1, 0, 2, 3)[:, 7:8] for n in (38, 39, 40)))
lies("backwards", 3, *(x[:, ::-1] for x in turned))
lies("only q backwards in a head", 1, q[..., ::-1], k, v)
lies("every other number of a head", 1, numbers(41, B, TQ, H, 2 * D)[..., ::2], k, v)
lies("heads that are one", 1, q, k, np.broadcast_to(v[:, :, :1], v.shape))
lies("v of rows elsewhere than k's", 2, q, k, numbers(42, B, TK + 5, G, V)[:, :TK])
raw = np.zeros(q.nbytes + 1, np.uint8)
raw[1:] = q.view(np.uint8).ravel()
lies("an odd address", 1, raw[1:].view(np.float32).reshape(q.shape), k, v)
record = np.zeros((B, TQ, H, D), np.dtype([("x", "f4"), ("y", "u1")]))
record["x"] = q
lies("strides that are no multiples of the element", 1, record["x"], k, v)
locked = q.copy()
locked.flags.writeable = False
lies("input that is read-only", 0, locked, k, v)
_arrays.View.copy = plain_copy

# ---- results where they are wanted ----

want = rondo.attention(q, k, v, causal=True)
room = np.full((B, H, TQ, V), 7, np.float32)
for ranks in (1, 3):
    room[:] = 7
    given = rondo.attention(q, k, v, causal=True, out=room.transpose(0, 2, 1, 3), ranks=ranks)
    ok(same(np.ascontiguousarray(room.transpose(0, 2, 1, 3)), want) and np.shares_memory(given, room), "out: written in place, %d ranks" % ranks)
wider = np.full((B, TQ + 2, H, V + 3), 7, np.float32)
rondo.attention(q, k, v, causal=True, out=wider[:, :TQ, :, :V])
ok(same(np.ascontiguousarray(wider[:, :TQ, :, :V]), want) and (wider[:, TQ:] == 7).all() and (wider[..., V:] == 7).all(), "out: a part of an array, and no other number of it")
frozen = np.zeros_like(want)
frozen.flags.writeable = False
refused("out that is read-only", ["out", "read-only"], lambda: rondo.attention(q, k, v, out=frozen))
refused("out of another shape", ["out", "[2, 37, 4, 8]"], lambda: rondo.attention(q, k, v, out=want[:, 1:].copy()))
refused("out of another type", ["out", "f16", "f32"], lambda: rondo.attention(q, k, v, out=want.astype(np.float16)))
refused("out backwards", ["out", "strides"], lambda: rondo.attention(q, k, v, out=want.copy()[:, ::-1]))
refused("out that is q's memory", ["out"], lambda: rondo.attention(fused[:, :, 0], fused[:, :, 1], fused[:, :, 2], out=fused[:, :, 1]))

# ---- nothing ----

for shape in ((0, 5, 9), (2, 0, 9), (2, 5, 0), (0, 0, 0)):
    b, tq, tk = shape
    o, l = rondo.attention(numbers(1, b, tq, H, D), numbers(2, b, tk, G, D), numbers(3, b, tk, G, V), ranks=2, return_lse=True)
    ok(o.shape == (b, tq, H, V) and l.shape == (b, H, tq) and (tk or (not o.any() and (l == -np.inf).all())), "no batch, no queries, no keys: %s" % (shape,))
e = np.zeros((0, H, D), np.float32)
o, l, p = rondo.attention_varlen(e, e[:, :G], np.zeros((0, G, V), np.float32), [0], [0], **everything)
ok(o.shape == (0, H, V) and l.shape == (H, 0) and p.shape == (H, 0, 0), "no sequence at all")

# ---- refused ----

r = lambda what, names, *a, **o: refused(what, names, lambda: rondo.attention(*a, **o))
r("three dimensions", ["q", "[37, 4, 12]"], q[0], k, v)
r("float64", ["k", "float64"], q, k.astype(np.float64), v)
r("uint16 without a type", ["uint16", "dtype"], *bits)
r("another order of bytes", ["q", "order of bytes"], q.astype(q.dtype.newbyteorder()), k, v)
r("a type that is not the array's", ["dtype"], q, k, v, dtype="bf16")
r("two types", ["one type"], q, k.astype(np.float16), v)
r("batches", ["batch"], q, k[:1], v)
r("tokens of k and v", ["149"], q, k[:, 1:], v)
r("head sizes", ["head size"], q[..., 1:], k, v)
r("heads that do not divide", ["heads"], q[:, :, :3], k, v)
r("no heads", ["heads"], q[:, :, :0], k, v)
r("head size 0", ["head sizes"], q[..., :0], k[..., :0], v)
r("a layout", ["layout", "zigzag"], q, k, v, layout="spiral")
r("the custom layout", ["owners"], q, k, v, layout="custom")
r("an algorithm", ["algorithm", "pass-kv"], q, k, v, algorithm=3)
r("an arithmetic", ["arithmetic", "bf16-hopper"], q, k, v, arithmetic="f16")
refused("an arithmetic that is not computed", ["bf16-dot"], lambda: rondo.attention(q, k, v, arithmetic="bf16-dot"), rondo.Error)
r("window_size of one number", ["window_size"], q, k, v, window_size=5)
r("window_size of a fraction", ["window_size[0]"], q, k, v, window_size=(2.5, 0))
r("window_size below -1", ["window_size[1]"], q, k, v, window_size=(1, -2))
r("softmax_scale 0", ["softmax_scale"], q, k, v, softmax_scale=0)
r("softcap of no number", ["softcap"], q, k, v, softcap="x")
r("softcap below 0", ["softcap"], q, k, v, softcap=-1.0)
r("dropout_p 1", ["dropout"], q, k, v, dropout_p=1.0)
r("a seed of nothing", ["seed"], q, k, v, seed=4)
r("a negative seed", ["seed"], q, k, v, dropout_p=0.1, seed=-1)
r("causal of no truth", ["causal"], q, k, v, causal="yes")
r("slopes of a batch", ["alibi_slopes", "[4]"], q, k, v, alibi_slopes=np.zeros((B, H), np.float32))
r("slopes of float64", ["alibi_slopes", "float32"], q, k, v, alibi_slopes=np.zeros(H))
r("a bias of another shape", ["bias", "[1 or 2, 1 or 4, 37, 150]"], q, k, v, bias=bias[..., 1:])
r("a mask of numbers", ["mask", "bool"], q, k, v, mask=bias)
r("documents of another length", ["documents", "150"], q, k, v, documents=documents[:, 1:])
r("lengths_k beyond k", ["lengths_k", "151"], q, k, v, lengths_k=[151, 3])
r("lengths_k of one", ["lengths_k", "[2]"], q, k, v, lengths_k=[3])
r("no ranks", ["ranks"], q, k, v, ranks=0)
r("ranks of a fraction", ["ranks"], q, k, v, ranks=1.5)
r("negative threads", ["threads"], q, k, v, threads=-1)
r("an instruction set", ["instruction set", "mmx"], q, k, v, isa="mmx")
r("a grid for what has none", ["grid"], q, k, v, ranks=2, algorithm="pass-kv", grid=(1, 2))
refused("a list", ["q", "list"], lambda: rondo.attention(q.tolist(), k, v), TypeError)
refused("an unknown keyword", ["dropout"], lambda: rondo.attention(q, k, v, dropout=0.1), TypeError)
refused("starts that fall", ["cu_seqlens_q"], lambda: rondo.attention_varlen(pq, pk, pv, [0, 20, 10, 47], starts_k))
refused("starts that end early", ["cu_seqlens_k", "200"], lambda: rondo.attention_varlen(pq, pk, pv, starts_q, [0, 60, 75, 199]))
refused("starts of other numbers of sequences", ["sequences"], lambda: rondo.attention_varlen(pq, pk, pv, starts_q, [0, 200]))
refused("starts of fractions", ["cu_seqlens_q"], lambda: rondo.attention_varlen(pq, pk, pv, [0, 10.5, 47], starts_k))
try:
    rondo.attention(q, k, v, dropout_p=1.0)
except rondo.Error as failure:
    again = pickle.loads(pickle.dumps(failure))
    ok(failure.name == "RONDO_EINVAL" and isinstance(failure, ValueError) and type(again) is type(failure) and str(again) == str(failure) and
       again.code == failure.code, "an error has code, name and sentence, and can be sent to other processes")

# ---- the program says the same hash ----

program, scratch = os.environ.get("RONDO"), sys.argv[1]


if program:
    for name, arrays in (("float32", (q, k, v)), ("float16", half)):
        safetensors(scratch + "/in.safetensors", **dict(zip("qkv", arrays)))
        ran = subprocess.run([program, "attend", scratch + "/in.safetensors", "-o", scratch + "/out.safetensors", "--causal", "--ranks", "2", "--json"],
                             stdout=subprocess.PIPE, check=True)
        ok(json.loads(ran.stdout)["hash"] == rondo.hash(*rondo.attention(*arrays, causal=True, return_lse=True, ranks=3)), "hash() is what rondo attend reports, %s" % name)
else:
    skip("hash() is what rondo attend reports", "the program is not built")
a = numbers(50, 4, 6)
ok(rondo.hash(a) == rondo.hash(np.asfortranarray(a)) and rondo.hash(a) != rondo.hash(a.T) and rondo.hash(a) != rondo.hash(a.reshape(6, 4)), "hash() is of numbers and shape, not of strides")
ok(rondo.hash(a.astype(">f4")) == rondo.hash(a), "nor of the order of bytes")
refused("objects to hash", ["arrays[0]", "object"], lambda: rondo.hash(a.astype(object)))
refused("a mask that would be ignored", ["k", "masked"], lambda: rondo.attention(q, np.ma.masked_array(k, k > 0), v))
refused("slopes with a mask", ["alibi_slopes", "masked"], lambda: rondo.attention(q, k, v, alibi_slopes=np.ma.masked_array(np.ones(q.shape[2], np.float32), True)))
refused("an array for a flag", ["causal", "True or False"], lambda: rondo.attention(q, k, v, causal=np.ones(3)))
done()
