# SPDX-License-Identifier: BSD-2-Clause
"""rondo.torch's layers: gradients as torch's own in double precision, and a model that learns on ranks with rows of their own."""
import sys

import torch
import torch.nn.functional as F

import rondo
import rondo.torch as layers
from kit import done, ok, refused

torch.manual_seed(1)
torch.set_num_threads(1)
B, T, IN, OUT, WORDS = 2, 140, 24, 18, 23


def leaf(*shape):
    return torch.randn(*shape, requires_grad=True)


def agree(what, ours, theirs, *inputs, tolerance=2e-5):
    """Results and gradients of ours on float32 and of theirs on the same numbers in double precision."""
    wide = [x.detach().double().requires_grad_(x.requires_grad) if x.is_floating_point() else x for x in inputs]
    a, b = ours(*inputs), theirs(*wide)
    by = torch.randn(b.shape, dtype=torch.float64)
    got = torch.autograd.grad((a.double() * by).sum(), [x for x in inputs if x.requires_grad])
    want = torch.autograd.grad((b * by).sum(), [x for x in wide if x.requires_grad])
    far = max(float((x.double() - y).detach().abs().max() / (1 + y.detach().abs().max())) for x, y in zip((a, *got), (b, *want)))
    ok(a.shape == b.shape and far < tolerance, "%s: results and gradients as torch's (%.1e)" % (what, far))


def norm(x, w):
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w


angle = torch.arange(T)[:, None] * 0.1 ** torch.arange(4)
table = torch.cat([angle.cos(), angle.sin()], -1)


def turn(x, t):
    a, b, c, s = x[..., :4], x[..., 4:8], t[:, None, :4], t[:, None, 4:]
    return torch.cat([a * c - b * s, b * c + a * s, x[..., 8:]], -1)


ids = torch.randint(WORDS, (B, T))
labels = torch.where(torch.rand(B, T) < 0.1, -100, torch.randint(OUT, (B, T)))
agree("linear()", layers.linear, F.linear, leaf(B, T, IN), leaf(OUT, IN), leaf(OUT))
agree("linear() without bias", layers.linear, F.linear, leaf(T, IN), leaf(OUT, IN))
agree("columns of a wider tensor", lambda x, w: layers.linear(x[..., 5:], w), lambda x, w: F.linear(x[..., 5:], w), leaf(B, T, IN + 5), leaf(OUT, IN))
agree("rmsnorm()", layers.rmsnorm, norm, leaf(B, T, IN), leaf(IN))
agree("rope()", layers.rope, turn, leaf(B, T, 3, 10), table)
agree("swiglu()", layers.swiglu, lambda g, u: F.silu(g) * u, leaf(B, T, 7), leaf(B, T, 7))
agree("embedding()", layers.embedding, lambda i, w: w[i], ids, leaf(WORDS, IN))
for reduction in ("none", "sum", "mean"):
    agree("cross_entropy(), " + reduction, lambda x, y: layers.cross_entropy(x, y, reduction=reduction),
          lambda x, y: F.cross_entropy(x.flatten(0, 1), y.flatten(), reduction=reduction).reshape((B, T) if reduction == "none" else ()), leaf(B, T, OUT), labels)

x, w = leaf(B, T, IN), leaf(OUT, IN)
y = layers.linear(x, w)
with torch.no_grad():
    w.add_(1)
try:
    y.sum().backward()
    ok(False, "weights that changed before backward are noticed")
except RuntimeError as failure:
    ok("inplace" in str(failure) or "in-place" in str(failure), "weights that changed before backward are noticed")
w = leaf(OUT, IN)
layers.linear(x.detach(), w).sum().backward()
ok(w.grad is not None and x.grad is None, "only what is asked for has gradients")
with torch.no_grad():
    ok(not layers.linear(x, w).requires_grad, "none under no_grad()")

# ---- a model whose tokens are shared out: each rank has rows of its own, and all have the same weights ----

HEADS, WIDTH, TEXT = 2, 16, 384


class Toy:
    def __init__(self):
        same = torch.Generator().manual_seed(2)   # each rank's own
        shapes = [(WORDS, WIDTH)] + [(WIDTH,), (3 * WIDTH, WIDTH), (3 * WIDTH,), (WIDTH, WIDTH), (WIDTH,), (2 * WIDTH, WIDTH), (WIDTH, WIDTH)] * 2 + [(WORDS, WIDTH)]
        self.all = [(torch.randn(s, generator=same) * (s[-1] ** -0.5 if len(s) > 1 else 1)).requires_grad_() for s in shapes]

    def loss(self, plan, team, tokens, ids, labels, table):
        more = {"tokens": tokens, "team": team}
        words, *rest, head = self.all
        x = layers.embedding(ids, words, **more)
        for n1, w1, b1, w2, n2, w3, w4 in (rest[:7], rest[7:]):
            q, k, v = layers.linear(layers.rmsnorm(x, n1, **more), w1, b1, **more).unflatten(-1, (3, HEADS, WIDTH // HEADS)).unbind(-3)
            q, k = (layers.rope(each, table) for each in (q, k))
            x = x + layers.linear(layers.execute(plan, q, k, v).flatten(-2), w2, **more)
            gate, up = layers.linear(layers.rmsnorm(x, n2, **more), w3, **more).chunk(2, -1)
            x = x + layers.linear(layers.swiglu(gate, up), w4, **more)
        return layers.cross_entropy(layers.linear(x, head, **more), labels, **more)


half = torch.randint(WORDS, (TEXT // 2,))
text = torch.cat([half, half, half[:1]])
turns = torch.arange(TEXT)[:, None] * 0.3 ** torch.arange(4)
turns = torch.cat([turns.cos(), turns.sin()], -1)


def learn(context, layout):
    plan = rondo.Plan(context, tokens=TEXT, heads=HEADS, head_dim=WIDTH // HEADS, causal=True, gradients=True, layout=layout)
    at, team, tokens, toy, losses = torch.from_numpy(plan.positions()), rondo.Team(context), rondo.Tokens.of(plan), Toy(), []
    for _ in range(4):
        loss = toy.loss(plan, team, tokens, text[:-1][at], text[1:][at], turns[at])
        for p, g in zip(toy.all, torch.autograd.grad(loss, toy.all)):
            p.data -= 0.05 * g
        losses.append(loss.item())
    return losses, rondo.hash(*(p.detach() for p in toy.all))


one = rondo.run(1, lambda c: learn(c, None))[0]
ok(one[0][-1] < one[0][0], "a model of rondo's layers learns: %s" % " ".join("%.4f" % x for x in one[0]))
for ranks, layout in ((2, "zigzag"), (3, "contiguous"), (4, "striped")):
    ok(all(r == one for r in rondo.run(ranks, lambda c: learn(c, layout))), "%d ranks, each with rows of its own, %s: the same losses and weights, to the last bit" % (ranks, layout))

refused("double precision", ["x", "float64"], lambda: layers.linear(x.double(), w.double()))
refused("an array", ["x", "ndarray"], lambda: layers.linear(x.detach().numpy(), w), TypeError)
refused("angles with a gradient", ["table"], lambda: layers.rope(leaf(T, 3, 10), table.clone().requires_grad_()))
refused("another reduction", ["reduction"], lambda: layers.cross_entropy(leaf(T, OUT), labels[0], reduction="most"))
refused("a gradient that would be lost", ["weight", "requires a gradient"], lambda: rondo.linear(x, w))
refused("gradients of gradients", ["once_differentiable"], lambda: torch.autograd.grad(
    layers.rmsnorm(x, leaf(IN)).sum(), x, create_graph=True)[0].square().sum().backward(), RuntimeError)
done()
