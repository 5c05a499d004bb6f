# SPDX-License-Identifier: BSD-2-Clause
"""Gradients of attention on numpy arrays: against double precision, over ranks, in arrays as they lie, and what is refused."""
import json
import os
import subprocess
import sys

import numpy as np

import rondo
from kit import done, far, inputs, numbers, ok, reference_gradients, refused, safetensors, same, skip

B, TQ, TK, H, G, D, V = 2, 37, 150, 4, 2, 12, 8
q, k, v = inputs(B, TQ, TK, H, G, D, V)
dout, dlse = numbers(31, B, TQ, H, V), numbers(32, B, H, TQ)
rng = np.random.default_rng(9)
slopes, sinks = numbers(5, H), numbers(6, H)
bias, mask = numbers(7, B, H, TQ, TK), rng.random((1, H, TQ, TK)) < 0.7
documents = np.sort(rng.integers(0, 4, (B, TK)), axis=1).astype(np.int32)


def gradients(q, k, v, dout, dlse=None, ranks=1, layout=None, algorithm=None, grid=None, **options):
    out, lse = rondo.attention(q, k, v, return_lse=True, **options)
    return rondo.attention_backward(dout, q, k, v, out, lse, dlse=dlse, ranks=ranks, layout=layout, algorithm=algorithm, grid=grid, **options)


cases = [
    ("nothing said", {}), ("dlse", dict(dlse=dlse)), ("causal", dict(causal=True)), ("window_size", dict(window_size=(20, 3))),
    ("softmax_scale", dict(softmax_scale=0.3)), ("softcap", dict(softcap=2.5)), ("alibi_slopes", dict(alibi_slopes=slopes)),
    ("sinks", dict(sinks=sinks)), ("sinks and dlse", dict(sinks=sinks, dlse=dlse)), ("bias", dict(bias=bias)),
    ("a bias for all heads", dict(bias=np.ascontiguousarray(bias[:, :1]))), ("a bias for all batches", dict(bias=bias[:1])), ("mask", dict(mask=mask)),
    ("documents", dict(documents=documents, causal=True)), ("lengths_k", dict(lengths_k=[140, 20], causal=True)),
    ("all of it", dict(causal=True, window_size=(90, -1), softmax_scale=0.2, softcap=4.0, alibi_slopes=slopes, sinks=sinks, bias=bias, mask=mask,
                       documents=documents, lengths_k=np.array([150, 30]), dlse=dlse))]
for name, options in cases:
    got = gradients(q, k, v, dout, **options)
    want = reference_gradients(dout, q, k, v, **options)
    want = want[:3] + ((want[3],) if "bias" in options else ()) + ((want[4],) if "sinks" in options else ())
    worst = max(far(g, w) / max(1.0, np.abs(w).max()) for g, w in zip(got, want))
    ok(len(got) == len(want) and worst < 2e-5, "%s: gradients agree with the formula (%.1g)" % (name, worst))
hidden = gradients(q, k, v, dout, lengths_k=[140, 20])
ok(not hidden[1][0, 140:].any() and not hidden[1][1, 20:].any() and not hidden[2][1, 20:].any(), "what nobody sees has gradients of exactly 0")

# out is linear in v, so that the sum of dout * out is that of dv * v only where both passes draw the same weights
dropped = rondo.attention(q, k, v, dropout_p=0.4, seed=11)
dv = gradients(q, k, v, dout, dropout_p=0.4, seed=11)[2]
ok(abs((dout * dropped).sum(dtype=float) - (dv * v).sum(dtype=float)) < 1e-3 < abs((dout * rondo.attention(q, k, v)).sum(dtype=float) - (dv * v).sum(dtype=float)),
   "dropout: backward drops the weights that forward dropped")

# ---- ranks ----

LONG = 700
lq, lk, lv = inputs(1, LONG - 60, LONG, H, G, D, V, seed=11)
ldout = numbers(12, 1, LONG - 60, H, V)
options = dict(causal=True, softcap=4.0, sinks=sinks, bias=numbers(7, 1, 1, LONG - 60, LONG), documents=np.sort(rng.integers(0, 3, LONG)).astype(np.int32),
               dlse=numbers(13, 1, H, LONG - 60), dropout_p=0.2, seed=5)
one = gradients(lq, lk, lv, ldout, **options)
bad = [(n, layout) for n in (2, 3, 5) for layout in (None, "contiguous", "zigzag", "striped") if not same(gradients(lq, lk, lv, ldout, ranks=n, layout=layout, **options), one)]
ok(not bad, "2, 3 and 5 ranks, layouts: the bits of one rank" + "".join(" %s" % (x,) for x in bad))
bad = [way for way in (("all-gather", None), ("all-to-all", (2, 2)), ("all-to-all", (4, 1)), ("pass-kv", None), ("pass-q", None), ("mesh", (4, 1)))
       if not same(gradients(lq, lk, lv, ldout, ranks=4, algorithm=way[0], grid=way[1], **options), one)]
ok(not bad, "4 ranks, with a bias for all heads, by each algorithm" + "".join(" %s" % (x,) for x in bad))
three = inputs(3, 260, 300, H, G, D, V, seed=31)
shares = dict(causal=True, lengths_k=[300, 141, 290], bias=numbers(32, 1, H, 260, 300))
shared = [gradients(*three, numbers(33, 3, 260, H, V), ranks=n, algorithm=way, **shares) for n, way in ((1, None), (2, None), (3, "pass-q"), (4, "pass-kv"))]
ok(all(same(x, shared[0]) for x in shared), "one bias for sequences of several lengths: the same bits on 1 to 4 ranks")
starts_q, starts_k = [0, 300, 300, 640], [0, 310, 320, 700]
packed = (lq[0], lk[0], lv[0])
pout, plse = rondo.attention_varlen(*packed, starts_q, starts_k, causal=True, return_lse=True)
got = [rondo.attention_varlen_backward(ldout[0], *packed, pout, plse, starts_q, starts_k, causal=True, ranks=n) for n in (1, 2, 4)]
ok(same(got[1], got[0]) and same(got[2], got[0]), "packed sequences: the same bits on 1, 2 and 4 ranks")
worst = 0
for s in range(3):
    a, b, c, d = starts_q[s], starts_q[s + 1], starts_k[s], starts_k[s + 1]
    want = reference_gradients(ldout[:, a:b], lq[:, a:b], lk[:, c:d], lv[:, c:d], causal=True)
    worst = max(worst, far(got[0][0][a:b], want[0][0]), far(got[0][1][c:d], want[1][0]), far(got[0][2][c:d], want[2][0]))
ok(worst < 1e-4, "and they agree with the formula (%.1g)" % worst)


lbias, ldlse = numbers(51, LONG - 60, 1, LONG), numbers(52, 1, H, LONG - 60)


def by_plan(c):
    plan = rondo.Plan(c, tokens=LONG - 60, keys=LONG, heads=H, kv_heads=G, head_dim=D, value_dim=V, causal=True, sinks=True, bias_heads=1, gradients=True)
    rows = plan.take(lq[0]), plan.take(lk[0], keys=True), plan.take(lv[0], keys=True)
    terms = dict(sinks=sinks, bias=lbias)
    out, lse = plan(*rows, **terms, return_lse=True)
    before = c.comm()["by_operation"]
    mine = np.ascontiguousarray(ldlse[0].T[plan.positions()])
    dq, dk, dv, dbias, dsinks = plan.backward(plan.take(ldout[0]), *rows, out, lse, dlse=mine, **terms)
    after = c.comm()["by_operation"]
    sent = sum(after[n]["bytes"] - before.get(n, {"bytes": 0})["bytes"] for n in after if n != "agree")
    return plan.positions(), plan.positions(keys=True), dq, dk, dv, dsinks, sent, plan, dbias


want = gradients(lq, lk, lv, ldout, causal=True, sinks=sinks, dlse=ldlse, bias=np.ascontiguousarray(lbias.transpose(1, 0, 2))[None])
for ranks in (1, 3):
    whole = [np.zeros_like(x[0]) for x in want[:3]]
    found = rondo.run(ranks, by_plan)
    for r in found:
        whole[0][r[0]], whole[1][r[1]], whole[2][r[1]] = r[2:5]
    ok(all(same(w, x[0]) for w, x in zip(whole, want)) and all(same(r[5], want[4]) for r in found) and
       same(sum(r[8] for r in found).reshape(want[3].shape), want[3]), "a plan's own rows on %d ranks: the same bits" % ranks)
    ok(sum(r[6] for r in found) == found[0][7].backward_bytes_total and found[0][7].backward_flops > found[0][7].flops, "and what they send is what the plan states")

# ---- as they lie ----

fused = numbers(41, B, 50, 3, H, D)
a, b, c = fused[:, :, 0], fused[:, :, 1], fused[:, :, 2]
g = numbers(42, B, H, 50, D).transpose(0, 2, 1, 3)
want = gradients(*(np.ascontiguousarray(x) for x in (a, b, c, g)), causal=True)
ok(all(same(gradients(a, b, c, g, causal=True, ranks=n), want) for n in (1, 3)), "slices of one array, and dout with heads first")
turned = [np.ascontiguousarray(x.transpose(0, 2, 1, 3)) for x in (a, b, c, g)]
ok(all(same(tuple(np.ascontiguousarray(x.transpose(0, 2, 1, 3)) for x in gradients(*turned, causal=True, heads_first=True, ranks=n)), want) for n in (1, 2)), "heads first")
longer = [np.concatenate([x, x], axis=1)[:, :50] for x in (a, b, c, g)]
ok(all(same(gradients(*longer, causal=True, ranks=n), want) for n in (1, 2)), "parts of longer arrays")
ok(same(gradients(a[:, ::-1][:, ::-1], b[..., ::-1][..., ::-1], c, np.broadcast_to(g[:, :1], g.shape), causal=True),
        gradients(a, b, c, np.broadcast_to(g[:, :1], g.shape).copy(), causal=True)), "dout that is one row")
half = gradients(*(x.astype(np.float16) for x in (a, b, c, g)), causal=True)
ok(all(x.dtype == np.float16 and far(x, w) < 0.02 for x, w in zip(half, reference_gradients(*(x.astype(np.float16) for x in (g, a, b, c)), causal=True))), "float16")
ok([x.shape for x in gradients(a[:0], b[:0], c[:0], g[:0])] == [(0, 50, H, D)] * 3 and [x.shape for x in gradients(a[:, :0], b, c, g[:, :0], ranks=2)][1] == b.shape, "no batch, no queries")

# ---- refused ----

out, lse = rondo.attention(q, k, v, return_lse=True)
back = lambda **change: rondo.attention_backward(**{**dict(dout=dout, q=q, k=k, v=v, out=out, lse=lse), **change})
refused("dout of another shape", ["dout", "[2, 37, 4, 8]"], lambda: back(dout=dout[:, 1:]))
refused("dout of another type", ["dout", "f16"], lambda: back(dout=dout.astype(np.float16)))
refused("lse of another plan", ["lse", "[2, 4, 37]"], lambda: back(lse=lse[:, :2]))
refused("no lse", ["lse is None"], lambda: back(lse=None))
refused("no out", ["out is None"], lambda: back(out=None))
kept = back(dlse=lse)
ok(all(same(back(out=None, lse=None, dlse=lse, ranks=n), kept) for n in (1, 3)), "out and lse made once more")
with rondo.Context() as alone, rondo.Plan(alone, tokens=9, heads=1, head_dim=4, gradients=True) as plan:
    x = numbers(7, 9, 1, 4)
    y, z = plan(x, x, x, return_lse=True)
    ok(same(plan.backward(x, x, x, x, None, None), plan.backward(x, x, x, x, y, z)) and plan.backward_recompute_bytes > 0, "by a plan too")
refused("dlse of another type", ["dlse"], lambda: back(dlse=lse.astype(np.float16)))
with rondo.Context() as alone, rondo.Plan(alone, tokens=9, heads=1, head_dim=4) as plan:
    x = np.zeros((9, 1, 4), np.float32)
    refused("gradients of a plan without them", ["gradients"], lambda: plan.backward(x, x, x, x, x, x[:, :, 0].copy()))

# ---- the program says the same hash ----

program, scratch = os.environ.get("RONDO"), sys.argv[1]
if program:
    safetensors(scratch + "/in.safetensors", q=q, k=k, v=v, bias=bias, sinks=sinks, do=dout)
    ran = subprocess.run([program, "attend", scratch + "/in.safetensors", "-o", scratch + "/out.safetensors", "--causal", "--ranks", "2", "--json"],
                         stdout=subprocess.PIPE, check=True)
    out, lse = rondo.attention(q, k, v, causal=True, bias=bias, sinks=sinks, return_lse=True)
    back = rondo.attention_backward(dout, q, k, v, out, lse, causal=True, bias=bias, sinks=sinks, ranks=3)
    ok(json.loads(ran.stdout)["hash"] == rondo.hash(out, lse, *back), "hash() is what rondo attend reports of gradients too")
else:
    skip("hash() is what rondo attend reports of gradients too", "the program is not built")
done()
