# SPDX-License-Identifier: BSD-2-Clause
"""The layers and their gradients on numpy's arrays: formulas in double precision, places, strides, ranks, and what is refused."""
import numpy as np

import rondo
from rondo import _arrays
from kit import done, far, numbers, ok, refused, same

B, T, IN, OUT = 2, 150, 40, 24
x, w, bias, dy = numbers(1, B, T, IN), numbers(2, OUT, IN), numbers(3, OUT), numbers(4, B, T, OUT)
X, W, DY = (a.astype(np.float64) for a in (x, w, dy))
flat = lambda a: a.reshape(-1, a.shape[-1])

# ---- linear ----
y = rondo.linear(x, w, bias)
ok(y.shape == (B, T, OUT) and y.dtype == np.float32 and far(y, X @ W.T + bias) < 1e-4, "linear(): x W^T + bias")
layer = rondo.Linear(w)
ok(same(layer(x, bias), y) and layer.bytes >= w.nbytes, "Linear keeps packed weights, with the same bits")
room = np.full((B, T, 3 * OUT), 7, np.float32)
got = layer(x, bias, out=room[..., OUT:2 * OUT])
ok(got.base is room and same(np.ascontiguousarray(got), y) and (room[..., :OUT] == 7).all() and (room[..., 2 * OUT:] == 7).all(), "out inside of another array")
ok(far(layer(x, out=room[..., :OUT], accumulate=True), 7 + X @ W.T) < 1e-4, "accumulate")
ok(far(rondo.Linear(w, dtype="bf16")(x), X @ W.T) < 0.5 and far(rondo.Linear(w, dtype="q8")(x), X @ W.T) < 0.5, "weights stored in bf16 and q8")
ok(far(layer.dx(dy), DY @ W) < 1e-4, "dx = dy W")
dw, db = rondo.linear_dw(dy, x), rondo.token_sum(dy)
ok(far(dw, flat(DY).T @ flat(X)) < 1e-3 and far(db, flat(DY).sum(0)) < 1e-3, "dW and the bias's gradient are sums over tokens")
tokens = rondo.Tokens([T, T])
ok(tokens.rows == 2 * T and same(rondo.linear_dw(dy, x, tokens), dw) and same(rondo.linear_dw(flat(dy), flat(x), tokens), dw), "[B, T] is B sequences of T tokens")
ok(not same(rondo.linear_dw(flat(dy), flat(x)), dw) and far(rondo.linear_dw(flat(dy), flat(x)), dw.astype(float)) < 1e-3, "and not one sequence, whose leaves are others")
order = np.random.default_rng(5).permutation(2 * T)
spans = [[[(int(p), 1, 1, int(r)) for r, at in enumerate(order) for s, p in [divmod(int(at), T)] if s == q] for q in range(2)]]
ok(same(rondo.linear_dw(flat(dy)[order], flat(x)[order], rondo.Tokens(spans=spans)), dw), "rows in any order, as Tokens' spans say")
more = np.ones_like(dw)
ok(far(rondo.linear_dw(dy, x, out=more, accumulate=True), 1 + dw.astype(float)) < 1e-4, "dW onto what is there")

copies, plain = [], _arrays.View.copy
_arrays.View.copy = lambda self: copies.append(1) or plain(self)
wide = numbers(6, B, T, 2 * IN)
for what, expected, part in (("columns of wider rows", 0, wide[..., IN:]), ("rows of one batch", 0, wide[0, :, :IN]), ("every other row", 0, wide[0, ::2, :IN]),
                             ("rows backwards", 1, x[:, ::-1]), ("every other column", 1, wide[..., ::2]), ("batches apart", 1, wide[:, :9, :IN]),
                             ("one row", 0, x[0, 0]), ("no row", 0, x[:, :0])):
    del copies[:]
    ok(len(copies) == 0 and same(layer(part), layer(part.copy())) and len(copies) == expected, "%s: %s, the same bits" % (what, "copied" if expected else "in place"))
_arrays.View.copy = plain

# ---- norms, rotations, units ----
g = numbers(7, IN)
n = rondo.rmsnorm(x, g, 1e-5)
root = np.sqrt((X * X).mean(-1, keepdims=True) + 1e-5)
ok(far(n, X / root * g) < 1e-5, "rmsnorm()")
d = numbers(8, B, T, IN)
dx, dg = rondo.rmsnorm_backward(d, x, g, 1e-5)
unit = X / root
ok(far(dx, (d * g - unit * (d * g * unit).mean(-1, keepdims=True)) / root) < 1e-4 and far(dg, flat(d * unit).sum(0)) < 1e-3, "its gradients")
again = x.copy()
ok(rondo.rmsnorm(again, g, 1e-5, out=again) is again and same(again, n), "in place")
onto = np.ones_like(x)
ok(far(rondo.rmsnorm_backward(d, x, g, 1e-5, out=onto, accumulate=True)[0], 1 + dx.astype(float)) < 1e-5, "dx onto what is there")

H, D = 3, 10
heads = numbers(9, B, T, H, D)
angle = np.arange(T)[:, None] * 0.1 ** np.arange(4)
table = np.concatenate([np.cos(angle), np.sin(angle)], -1).astype(np.float32)
c, s = (a[:, None, :].astype(np.float64) for a in (table[:, :4], table[:, 4:]))
turned = rondo.rope(heads, table)
want = heads.astype(np.float64)
want[..., :4], want[..., 4:8] = heads[..., :4] * c - heads[..., 4:8] * s, heads[..., 4:8] * c + heads[..., :4] * s
ok(far(turned, want) < 1e-5 and same(turned[..., 8:].copy(), heads[..., 8:].copy()), "rope() turns the first of a head's numbers")
ok(far(rondo.rope_backward(turned, table), heads.astype(float)) < 1e-5, "rope_backward() turns back")
ok(same(rondo.rope(heads, np.stack([table, table])), turned), "a table for each batch")
fused = numbers(10, B, T, 3, H, D)
whole = fused.copy()
rondo.rope(fused[:, :, 1], table, out=fused[:, :, 1])
ok(same(fused[:, :, 1].copy(), rondo.rope(whole[:, :, 1], table)) and same(fused[:, :, ::2].copy(), whole[:, :, ::2].copy()), "in place inside of q, k and v")
first = np.ascontiguousarray(heads.transpose(0, 2, 1, 3))
ok(same(np.ascontiguousarray(rondo.rope(first.transpose(0, 2, 1, 3), table)), turned), "heads before tokens")

gate, up, dm = numbers(11, B, T, 9), numbers(12, B, T, 9), numbers(13, B, T, 9)
G = gate.astype(np.float64)
sig = 1 / (1 + np.exp(-G))
ok(far(rondo.swiglu(gate, up), G * sig * up) < 1e-5, "swiglu()")
a, b = rondo.swiglu_backward(dm, gate, up)
ok(far(a, dm * up * sig * (1 + G * (1 - sig))) < 1e-5 and far(b, dm * G * sig) < 1e-5, "its gradients")
p, q = gate.copy(), up.copy()
rondo.swiglu_backward(dm, p, q, dgate=p, dup=q)
ok(same((p, q), (a, b)), "in place")

# ---- embeddings and losses ----
WORDS = 17
ids = np.random.default_rng(14).integers(0, WORDS - 1, (B, T))
words = numbers(15, WORDS, OUT)
ok(same(rondo.embedding(ids, words), words[ids]), "embedding()")
de = rondo.embedding_dw(dy, ids, WORDS)
want = np.zeros((WORDS, OUT))
np.add.at(want, ids.ravel(), flat(DY))
ok(far(de, want) < 1e-4 and not de[WORDS - 1].any(), "its gradient: the sum over the tokens that name a row")
ok(same(rondo.embedding_dw(dy, ids, WORDS, first=5, count=4), de[5:9]), "some rows of it")
labels = np.where(np.arange(B * T).reshape(B, T) % 7, ids, -100)
loss = rondo.cross_entropy(dy, labels)
logp = DY - np.log(np.exp(DY).sum(-1, keepdims=True))
want = np.where(labels < 0, 0, -np.take_along_axis(logp, np.maximum(labels, 0)[..., None], -1)[..., 0])
ok(loss.dtype == np.float64 and far(loss, want) < 1e-5, "cross_entropy()")
total, count = rondo.token_loss(loss, labels)
ok(abs(total - want.sum()) < 1e-3 and count == (labels >= 0).sum(), "token_loss(): their sum and number")
soft = np.exp(logp)
np.put_along_axis(soft, np.maximum(labels, 0)[..., None], np.take_along_axis(soft, np.maximum(labels, 0)[..., None], -1) - 1, -1)
soft[labels < 0] = 0
ok(far(rondo.cross_entropy_backward(dy, labels, 1 / count), soft / count) < 1e-6, "its gradient, of the mean")
by = numbers(16, B, T)
ok(far(rondo.cross_entropy_backward(dy, labels, by), soft * by[..., None]) < 1e-6, "of losses of which each has its own")

# ---- ranks ----
tall, sums, table_sum, mean = (rondo.linear_dw(dy[0], x[0]), rondo.token_sum(dy[0]), rondo.embedding_dw(dy[0], ids[0], WORDS),
                               rondo.token_loss(loss[0], labels[0]))
norm_sum = rondo.rmsnorm_backward(d[0], x[0], g)[1]


def shared(context):
    plan = rondo.Plan(context, tokens=T, heads=1, head_dim=8, causal=True, layout="zigzag")
    at, team, tokens = plan.positions(), rondo.Team(context), rondo.Tokens.of(plan)
    part = rondo.linear_dw(dy[0][at], x[0][at], tokens, team=team, context=context)
    return (team.gather(part, OUT), rondo.token_sum(dy[0][at], tokens, team=team), rondo.embedding_dw(dy[0][at], ids[0][at], WORDS, tokens=tokens, team=team),
            rondo.token_loss(loss[0][at], labels[0][at], tokens, team=team), rondo.rmsnorm_backward(d[0][at], x[0][at], g, tokens=tokens, team=team, context=context)[1])


for ranks in (1, 2, 3):
    parts = rondo.run(ranks, shared)
    ok(all(same(r[:2], (tall, sums)) and r[3] == mean and same(r[4], norm_sum) for r in parts) and same(np.concatenate([r[2] for r in parts]), table_sum),
       "sums over the tokens of %d ranks: the bits of one" % ranks)
with rondo.Context(isa="scalar", threads=2) as context:
    ok(same(rondo.linear(x, w, bias, context=context), y) and same(rondo.linear_dw(dy, x, context=context), dw) and
       same(rondo.rmsnorm(x, g, 1e-5, context=context), n), "a context of the caller's, of another instruction set: the same bits")

# ---- refusals ----
refused("rows of another width", ["x", "40"], lambda: layer(x[..., 1:]))
refused("numbers of double precision", ["x", "float64"], lambda: layer(X))
refused("half numbers", ["x", "f16", "float32"], lambda: layer(x.astype(np.float16)))
refused("an out of another shape", ["out"], lambda: layer(x, out=np.empty((B, T, OUT + 1), np.float32)))
refused("an out that cannot be written through", ["out", "strides"], lambda: layer(x, out=np.empty((B, T, 2 * OUT), np.float32)[..., ::2]))
refused("accumulate without out", ["accumulate"], lambda: layer(x, accumulate=True))
refused("rows that do not pair", ["dy", "rows"], lambda: rondo.linear_dw(dy[0], x))
refused("more tokens than rows", ["tokens", "rows"], lambda: rondo.linear_dw(dy[0], x[0], tokens))
refused("lengths and spans", ["lengths or spans"], lambda: rondo.Tokens([3], spans=spans))
refused("a leaf of two parts", ["belongs whole"], lambda: rondo.Tokens(spans=[[[(0, 5, 1, 0)]], [[(5, 5, 1, 0)]]]))
refused("a token of two rows", ["position"], lambda: rondo.Tokens(spans=[[[(0, 5, 1, 0), (4, 1, 1, 5)]]]))
refused("ids that no row has", ["ids", "0 to 16"], lambda: rondo.embedding(ids + WORDS, words))
refused("labels that are no class", ["label"], lambda: rondo.cross_entropy(dy, labels + 100))
refused("labels with fractions", ["labels", "whole"], lambda: rondo.cross_entropy(dy, labels.astype(float)))
refused("a table of odd width", ["table", "even"], lambda: rondo.rope(heads, table[:, :7]))
refused("no level", ["level"], lambda: rondo.Linear(w, level="careless"))
refused("weights of one dimension", ["weight", "[out, in]"], lambda: rondo.Linear(w[0]))
refused("a team that is none", ["team"], lambda: rondo.token_sum(x, team=3), TypeError)
refused("an array for a type", ["dtype"], lambda: rondo.Linear(w, dtype=np.ones(2)))
refused("no weights of a norm", ["weight", "NoneType"], lambda: rondo.rmsnorm(x, None), TypeError)
refused("lists", ["x", "list"], lambda: layer([[1.0] * IN]), TypeError)
done()
