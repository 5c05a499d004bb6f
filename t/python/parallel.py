# SPDX-License-Identifier: BSD-2-Clause
"""rondo.torch.parallelize(): a module written for torch alone learns on ranks as on one, to the last bit; what would be wrong is refused."""
import copy
import math
import weakref

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

import rondo
import rondo.torch
from kit import done, ok, refused

torch.manual_seed(1)
torch.set_num_threads(1)
WORDS, WIDTH, HEADS, KV_HEADS, TEXT, BATCH = 19, 16, 4, 2, 300, 2
DIM = WIDTH // HEADS


class Norm(nn.Module):
    """As models write it that do not use nn.RMSNorm."""
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.before, self.after, self.of_heads = Norm(WIDTH), nn.LayerNorm(WIDTH), nn.RMSNorm(DIM)
        self.q, self.k, self.v = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, KV_HEADS * DIM), nn.Linear(WIDTH, KV_HEADS * DIM, bias=False)
        self.back, self.up, self.down = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.drop, self.shift = nn.Dropout(0.0), nn.Parameter(torch.randn(WIDTH) * 0.1)

    def turned(self, x, at):
        angle = at[..., None, None] * torch.tensor([1.0, 0.1])
        a, b = x.chunk(2, -1)
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)

    def forward(self, x, at):
        h = self.before(x)
        q, k, v = (layer(h).unflatten(-1, (-1, DIM)) for layer in (self.q, self.k, self.v))
        q, k = self.turned(self.of_heads(q), at), self.turned(self.of_heads(k), at)
        heads = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)), is_causal=True, enable_gqa=True)
        x = x + self.drop(self.back(heads.transpose(1, 2).flatten(2)) + self.shift)
        return x + self.down(F.gelu(self.up(self.after(x))))


class Model(nn.Module):
    def __init__(self, again=False):
        super().__init__()
        self.words, self.norm, self.head = nn.Embedding(WORDS, WIDTH, padding_idx=0), nn.RMSNorm(WIDTH), nn.Linear(WIDTH, WORDS, bias=False)
        self.layers, self.again = nn.ModuleList([Layer(), Layer()]), again

    def forward(self, ids, position_ids, labels=None):
        x = self.words(ids)
        for layer in self.layers:
            x = checkpoint(layer, x, position_ids, use_reentrant=False) if self.again else layer(x, position_ids)
        logits = self.head(self.norm(x))
        return logits if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())


first = Model()
text = torch.randint(WORDS, (BATCH, TEXT + 1))
ids, labels = text[:, :-1], torch.where(torch.rand(BATCH, TEXT) < 0.1, -100, text[:, 1:])
places = torch.arange(TEXT).expand(BATCH, -1)


def learn(context, layout="zigzag", again=False, steps=3, inside=False):
    model = copy.deepcopy(first)
    model.again = again
    p = rondo.torch.parallelize(model, context, tokens=TEXT, sequences=BATCH, layout=layout)
    descent, losses = torch.optim.SGD(model.parameters(), lr=0.05), []
    for step in range(steps):
        loss = p(ids, labels=labels) if inside else p.loss(p(ids), labels)
        descent.zero_grad()
        loss.backward()
        if step == 0:
            gradients = [x.grad.clone() for x in model.parameters()]
        descent.step()
        losses.append(loss.item())
    with torch.no_grad():
        logits = p.gather(p(ids))
    return losses, rondo.hash(logits, *(x.detach() for x in model.parameters())), gradients, logits


one = rondo.run(1, learn)[0]
wide = copy.deepcopy(first).double()
loss = wide(ids, places, labels)
loss.backward()
far = max(float((a.double() - x.grad).abs().max() / (x.grad.abs().max() + 1e-3)) for a, x in zip(one[2], wide.parameters()))
ok(abs(one[0][0] - loss.item()) < 1e-5 and far < 2e-4, "one rank: loss and gradients as torch's in double precision (%.1e)" % far)
ok(one[0][-1] < one[0][0] < math.log(WORDS) * 2, "it learns: %s" % " ".join("%.4f" % x for x in one[0]))
for ranks, layout in ((2, "zigzag"), (3, "contiguous"), (4, "striped")):
    every = rondo.run(ranks, lambda c: learn(c, layout))
    ok(all(r[:2] == one[:2] for r in every), "%d ranks, %s: the same losses, logits and weights, to the last bit" % (ranks, layout))
ok(all(r[:2] == one[:2] for r in rondo.run(2, lambda c: learn(c, again=True))), "layers that backward computes again: the same")
inside = rondo.run(3, lambda c: learn(c, inside=True))
ok(all(r[1] == inside[0][1] for r in inside) and abs(inside[0][0][0] - one[0][0]) < 1e-6, "the loss inside of the module is over all ranks' tokens")


def alone(work):
    """work(p) with a parallelized module on one rank."""
    def body(context):
        with rondo.torch.parallelize(copy.deepcopy(first), context, tokens=TEXT, sequences=BATCH) as p:
            return work(p)
    return rondo.run(1, body)[0]


def masked(context):
    class Windowed(nn.Module):
        def forward(self, x):
            q = x.unflatten(-1, (2, 8)).transpose(1, 2)
            return F.scaled_dot_product_attention(q, q, q, attn_mask=torch.ones(1, dtype=torch.bool))
    p = rondo.torch.parallelize(Windowed(), context, tokens=TEXT, sequences=BATCH, causal=True, window_size=(40, 0))
    return p.gather(p(x).transpose(1, 2))


x = torch.randn(BATCH, TEXT, 16)
seen = (torch.arange(TEXT)[:, None] - torch.arange(TEXT)).clamp(-1, 41).unsqueeze(0)
heads = x.unflatten(-1, (2, 8)).transpose(1, 2).double()
want = F.scaled_dot_product_attention(heads, heads, heads, attn_mask=(seen >= 0) & (seen <= 40)).transpose(1, 2)
got = [rondo.run(n, masked)[0] for n in (1, 3)]
ok(torch.equal(*got) and float((got[0] - want).abs().max()) < 1e-5, "causal and window_size hold in place of a module's masks")
ok(alone(lambda p: torch.equal(p.gather(p.take(ids)), ids)), "gather() is the way back of take()")
ok(rondo.run(3, lambda c: torch.equal(*(lambda p: (p.gather(p.take(ids)), ids))(rondo.torch.parallelize(copy.deepcopy(first), c, tokens=TEXT, sequences=BATCH))))
   == [True] * 3, "on three ranks too")


def closed(context):
    model = copy.deepcopy(first)
    p = rondo.torch.parallelize(model, context, tokens=TEXT, sequences=BATCH)
    try:
        rondo.torch.parallelize(model, context, tokens=TEXT)
    except rondo.InvalidError as failure:
        sentence = str(failure)
    p.close()
    again = torch.equal(model(ids[:, :7], places[:, :7]), first(ids[:, :7], places[:, :7]))
    return sentence, again


sentence, again = rondo.run(1, closed)[0]
ok("already" in sentence, "a module that is parallelized already: refused")
ok(again, "close() gives the module back")


def let_go(context):
    """What still refers to it when the thread ends would end it when no Python can run."""
    with rondo.torch.parallelize(nn.Linear(WIDTH, WIDTH), context, tokens=TEXT) as module:
        module(torch.randn(1, TEXT, WIDTH)).sum().backward()
    return weakref.ref(module)


ok(all(ref() is None for ref in rondo.run(2, let_go)), "one that is closed is gone before its thread ends")


class Odd(nn.Module):
    def __init__(self, way):
        super().__init__()
        self.way, self.weight, self.conv, self.drop = way, nn.Parameter(torch.randn(16, 16)), nn.Conv1d(16, 16, 3), nn.Dropout(0.5)
        self.many = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x):
        return self.way(self, x)


def odd(way, **more):
    return lambda: rondo.run(1, lambda c: rondo.torch.parallelize(Odd(way), c, tokens=TEXT, sequences=BATCH, **more)(x))


def by_hand(m, x):
    return F.softmax(x @ x.transpose(1, 2), -1) @ x


refused("a product that is not known", ["matmul", "weight"], odd(lambda m, x: x @ m.weight))
refused("a transposed parameter", ["weight"], odd(lambda m, x: x @ m.weight.t()))
refused("dropout", ["dropout", "eval"], odd(lambda m, x: m.drop(x)))
refused("a convolution", ["conv1d"], odd(lambda m, x: m.conv(x.transpose(1, 2))))
refused("torch's own attention layer", ["multi_head"], odd(lambda m, x: m.many(x, x, x)))
refused("attention by hand", ["softmax", "scaled_dot_product_attention"], odd(by_hand))
refused("a mean over tokens", ["mean", "gather"], odd(lambda m, x: x.mean(1)))
refused("a sum of all", ["sum", "gather"], odd(lambda m, x: x.sum()))
for way in (lambda x: x.roll(1, 1), lambda x: x.sort(1).values, lambda x: x.diff(dim=1), lambda x: F.normalize(x, dim=1), lambda x: F.normalize(x),
            lambda x: x.norm(dim=1), lambda x: x.flip(2, 1), lambda x: torch.sum(x, (1, 2)), lambda x: x.var(True), lambda x: x.topk(3, 1).values,
            lambda x: F.softmax(x, 1), lambda x: torch.cumsum(x, dim=1)):
    refused("other functions over tokens", ["gather"], odd(lambda m, x, way=way: way(x)))
inside = odd(lambda m, x: [x.roll(1, 2), x.sort(-1).values, x.diff(), F.normalize(x, dim=-1), x.norm(2, -1), x.flip(2), torch.sum(x, (2,)), x.var(-1, True),
                           x.topk(3).values, F.softmax(x, dim=-1), x.max(-1, keepdim=True).values, torch.max(x, x.new_zeros(1))])()[0]
alike = [x.roll(1, 2), x.sort(-1).values, x.diff(), F.normalize(x, dim=-1), x.norm(2, -1), x.flip(2), torch.sum(x, (2,)), x.var(-1, True),
         x.topk(3).values, F.softmax(x, dim=-1), x.max(-1, keepdim=True).values, torch.max(x, x.new_zeros(1))]
ok(all(torch.equal(a, b) for a, b in zip(inside, alike)), "the same inside of tokens are torch's")
refused("a mask", ["attn_mask", "causal"], odd(lambda m, x: F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None], attn_mask=torch.ones(1))))
refused("keys of another length", ["key", "shape"], odd(lambda m, x: F.scaled_dot_product_attention(x[:, None], x[:, None, :5], x[:, None, :5])))
refused("rows that are no tokens", ["linear", "rows"], odd(lambda m, x: F.linear(x[:, :5], m.weight)))
for window in ((5, 0), 5, None):
    refused("a window of %s without causal" % (window,), ["window_size", "causal"], odd(lambda m, x: x, window_size=window))
refused("causal that is no bool", ["causal", "'no'"], odd(lambda m, x: x, causal="no"))
refused("no tokens", ["tokens"], lambda: rondo.run(1, lambda c: rondo.torch.parallelize(copy.deepcopy(first), c, tokens=0)))
refused("another layout", ["layout"], lambda: rondo.run(2, lambda c: rondo.torch.parallelize(copy.deepcopy(first), c, tokens=TEXT, layout="none")))
refused("what is no module", ["module"], lambda: rondo.run(1, lambda c: rondo.torch.parallelize(F.relu, c, tokens=5)), TypeError)
ok(torch.equal(odd(lambda m, x: (x.mean(-1), x.sum(-1, keepdim=True), x.softmax(-1), x.max(-1).values)[0])()[0], x.mean(-1)), "sums inside of a token are torch's")
done()
