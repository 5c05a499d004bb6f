# SPDX-License-Identifier: BSD-2-Clause
"""rondo.torch: tensors in place, all their types, and what autograd is told."""
import numpy as np
import torch

import rondo
import rondo.torch
from rondo import _arrays
from kit import done, far, inputs, numbers, ok, reference, refused, same

torch.manual_seed(1)
B, TQ, TK, H, G, D, V = 2, 37, 150, 4, 2, 12, 8
arrays = inputs(B, TQ, TK, H, G, D, V)
q, k, v = (torch.from_numpy(x) for x in arrays)
want = rondo.attention(*arrays, causal=True, return_lse=True)


def equal(a, b):
    a, b = (x if isinstance(x, tuple) else (x,) for x in (a, b))
    return len(a) == len(b) and all(x.dtype == y.dtype and torch.equal(x, y) for x, y in zip(a, b))


got = rondo.torch.attention(q, k, v, causal=True, return_lse=True, ranks=3)
ok(same(tuple(x.numpy() for x in got), want), "tensors: the bits of numpy's arrays")
ok(isinstance(rondo.attention(q, k, v), torch.Tensor), "attention() takes tensors too, and gives tensors")
for dtype, tolerance in ((torch.float16, 2e-3), (torch.bfloat16, 1.6e-2)):
    half = [x.to(dtype) for x in (q, k, v)]
    got = [rondo.torch.attention(*half, causal=True, ranks=n) for n in (1, 2)]
    ok(got[0].dtype == dtype and equal(*got) and far(got[0].float().numpy(), reference(*(x.double().numpy() for x in half), causal=True)[0]) < tolerance,
       "%s: agrees with the formula, one rank and two" % dtype)
    ok(rondo.hash(got[0]) == rondo.hash(got[1]) != rondo.hash(half[0]), "%s: hash() of tensors" % dtype)
sdpa = torch.nn.functional.scaled_dot_product_attention(*(x.transpose(1, 2).repeat_interleave(H // x.shape[2], 1) for x in (q, k, v))).transpose(1, 2)
ok((rondo.torch.attention(q, k, v) - sdpa).abs().max() < 1e-5, "what torch's own attention gives")

copies = []
plain = _arrays.View.copy
_arrays.View.copy = lambda self: copies.append(1) or plain(self)
fused = torch.randn(B, 30, 3, H, D, dtype=torch.bfloat16)
first = torch.randn(3, B, H, 30, D)
for what, expected, x in (("slices of one tensor", 0, fused.unbind(2)), ("heads before tokens", 0, first.transpose(2, 3).unbind(0)),
                          ("tokens before batches", 3, torch.randn(3, 30, B, H, D).transpose(1, 2).unbind(0)),
                          ("a batch that is one tensor", 0, torch.randn(3, 1, 30, H, D).expand(3, B, 30, H, D).unbind(0)),
                          ("every other number", 3, torch.randn(3, B, 30, H, 2 * D)[..., ::2].unbind(0))):
    del copies[:]
    got = rondo.torch.attention(*x, ranks=2, layout="contiguous")
    ok(len(copies) == expected and equal(got, rondo.torch.attention(*(y.contiguous() for y in x))), "%s: %s, the same bits" % (what, "copied" if expected else "in place"))
del copies[:]
turned = rondo.torch.attention(*first, heads_first=True)
ok(not copies and equal(turned.transpose(1, 2), rondo.torch.attention(*first.transpose(2, 3))), "heads_first")
_arrays.View.copy = plain
room = torch.zeros(B, H, TQ, V)
rondo.torch.attention(q, k, v, causal=True, out=room.transpose(1, 2))
ok(torch.equal(room.transpose(1, 2), torch.from_numpy(want[0])), "out")
starts = torch.tensor([0, 10, 37], dtype=torch.int32)
ok(equal(rondo.torch.attention_varlen(q[0], k[0, :37], v[0, :37], starts, starts, causal=True, ranks=2)[10:],
         rondo.torch.attention(q[:1, 10:], k[:1, 10:37], v[:1, 10:37], causal=True)[0]), "attention_varlen(), starts as tensors")
terms = dict(alibi_slopes=torch.rand(H), mask=torch.rand(B, 1, TQ, TK) < 0.8, documents=torch.zeros(TK, dtype=torch.int64), lengths_k=torch.tensor([150, 40]))
ok(far(rondo.torch.attention(q, k, v, **terms).numpy(), reference(*arrays, **{n: x.numpy() for n, x in terms.items()})[0]) < 2e-5, "slopes, mask, documents and lengths as tensors")
ok(rondo.torch.attention(q[:0], k[:0], v[:0]).shape == (0, TQ, H, V) and rondo.torch.attention(q[:, :0], k, v, ranks=2).shape == (B, 0, H, V), "tensors of nothing")


def by_plan(c):
    plan = rondo.Plan(c, tokens=30, heads=H, head_dim=D, dtype="bf16")
    return plan.positions(), rondo.torch.execute(plan, *(plan.take(x, keys=i > 0) for i, x in enumerate(fused[0].unbind(1))))


whole = torch.zeros(30, H, D, dtype=torch.bfloat16)
for at, rows in rondo.run(3, by_plan):
    whole[torch.from_numpy(at)] = rows
ok(equal(whole, rondo.torch.attention(*fused[:1].unbind(2))[0]), "execute(): the rows of each rank of a plan")

refused("float64", ["q", "float64"], lambda: rondo.torch.attention(q.double(), k.double(), v.double()))
refused("a tensor of another device", ["meta"], lambda: rondo.torch.attention(q.to("meta"), k, v))
refused("numpy's array", ["k", "ndarray"], lambda: rondo.torch.attention(q, arrays[1], v), TypeError)
refused("a sparse tensor", ["sparse"], lambda: rondo.attention(q.to_sparse(), k, v))
refused("a gradient that would be lost", ["q", "requires a gradient", "rondo.torch"], lambda: rondo.attention(q.clone().requires_grad_(), k, v))
with torch.no_grad():
    ok(equal(rondo.torch.attention(q.clone().requires_grad_(), k, v, causal=True), torch.from_numpy(want[0])), "under no_grad()")
if not hasattr(rondo, "attention_backward"):
    refused("gradients", ["no gradients"], lambda: rondo.torch.attention(q.clone().requires_grad_(), k, v).sum().backward(), rondo.Error)
done()
