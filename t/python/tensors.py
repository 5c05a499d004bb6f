# SPDX-License-Identifier: BSD-2-Clause
"""rondo.torch: tensors in place, all their types, and what autograd is told."""
import sys
import warnings

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

# ---- gradients ----

with open(sys.argv[2]) as file:
    lines = file.read().splitlines()
losses = [line.split(" ranks: ")[-1] for line in lines[:4]]
ok(sys.argv[1] == "0" and [line.split()[0] for line in lines] == ["1", "2", "3", "4", "equal,"] and len(set(losses)) == 1 and len(losses[0].split()) == 5 and
   len(set(losses[0].split())) == 5, "the example trains, with the same losses on 1, 2, 3 and 4 ranks")

torch.set_num_threads(1)


def leaves(*given):
    return [x.detach().clone().requires_grad_() for x in given]


def gradients(function, dout, *inputs):
    """What backward leaves in copies of the inputs."""
    copies = leaves(*inputs)
    function(*copies).backward(dout)
    return tuple(x.grad for x in copies)


dout = torch.from_numpy(numbers(31, B, TQ, H, V))
on = lambda n, **more: gradients(lambda q, k, v: rondo.torch.attention(q, k, v, causal=True, ranks=n, **more), dout, q, k, v)
one = on(1)
doubles = gradients(lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(
    q.transpose(1, 2), k.transpose(1, 2).repeat_interleave(H // G, 1), v.transpose(1, 2).repeat_interleave(H // G, 1),
    attn_mask=torch.ones(TQ, TK, dtype=torch.bool).tril(TK - TQ)).transpose(1, 2), dout.double(), q.double(), k.double(), v.double())
ok(all((x - y).abs().max() < 1e-5 for x, y in zip(one, doubles)), "the gradients of torch's own attention in double precision")
ok(equal(on(2), one) and equal(on(3, layout="contiguous"), one) and equal(on(4, algorithm="pass-q"), one), "2, 3 and 4 ranks: the bits of one")

warnings.filterwarnings("ignore", "Input #. requires gradient and is not a double precision")
small = leaves(torch.randn(1, 6, 2, 4), torch.randn(1, 9, 1, 4), torch.randn(1, 9, 1, 3), torch.randn(2), torch.randn(1, 2, 6, 9))
for ranks in (1, 2):
    # differences of float32 numbers over steps of 0.01: an error of second order of some 1e-3, besides that of rounding over the step
    good = torch.autograd.gradcheck(lambda q, k, v, sinks, bias: rondo.torch.attention(q, k, v, sinks=sinks, bias=bias, causal=True, softcap=3.0, return_lse=True, ranks=ranks),
                                    small, eps=1e-2, atol=5e-3, rtol=1e-2, nondet_tol=0.0, raise_exception=False)
    ok(good, "gradcheck of out and lse with respect to q, k, v, sinks and bias, %d ranks, without any difference between two runs" % ranks)
half = [x.bfloat16() for x in (q, k, v)]
found = [gradients(lambda q, k, v: rondo.torch.attention(q, k, v, causal=True, ranks=n), dout.bfloat16(), *half) for n in (1, 3)]
ok(equal(*found) and found[0][0].dtype == torch.bfloat16 and (found[0][2].double() - doubles[2]).abs().max() < 0.1 * doubles[2].abs().max(), "bfloat16: one rank and three")
wide, = leaves(torch.randn(B, 30, 3, H, D))
rondo.torch.attention(*wide.unbind(2), ranks=2).sum().backward()
apart = gradients(lambda *x: rondo.torch.attention(*x), torch.ones(B, 30, H, D), *wide.detach().unbind(2))
ok(equal(wide.grad, torch.stack(apart, 2)), "slices of one tensor, and the gradient of a sum")
a, b, c = leaves(q, k, v)
out, lse = rondo.torch.attention(a, b, c, return_lse=True)
lse.sum().backward(retain_graph=True)
ok(a.grad.abs().max() > 0 and not c.grad.any(), "the gradient of lse alone")
first = a.grad.clone()
lse.sum().backward()
ok(equal(a.grad, first + first), "gradients are added by autograd, and the graph may be kept")
a, b, c = leaves(q, k, v)
rondo.torch.attention(a, b.detach(), c, dropout_p=0.3, seed=7, return_attn_probs=True)[0].sum().backward()
dropped, plain = rondo.attention(q, k, v, dropout_p=0.3, seed=7).sum(), rondo.attention(q, k, v).sum()
ok(abs((c.grad * v).sum() - dropped) < 1e-2 < abs((c.grad * v).sum() - plain), "backward drops the weights that forward dropped")
ok(a.grad is not None and b.grad is None and c.grad is not None, "only what asks for a gradient has one; dropout and probabilities beside")
x, = leaves(q[0, :, :, :])
starts = torch.tensor([0, 20, 37])
grads = [gradients(lambda x: rondo.torch.attention_varlen(x, x, x, starts, starts, causal=True, ranks=n), torch.ones_like(x), x) for n in (1, 3)]
ok(equal(*grads), "attention_varlen(): one rank and three")


def plan_step(c):
    plan = rondo.Plan(c, tokens=30, heads=H, head_dim=D, causal=True, gradients=True)
    rows = leaves(*(plan.take(x, keys=i > 0) for i, x in enumerate(wide.detach()[0].unbind(1))))
    rondo.torch.execute(plan, *rows).sum().backward()
    return [plan.put(r.grad, torch.zeros(30, H, D), keys=i > 0) for i, r in enumerate(rows)]


whole = gradients(lambda q, k, v: rondo.torch.attention(q, k, v, causal=True), torch.ones(1, 30, H, D), *wide.detach()[:1].unbind(2))
ok(all(equal(tuple(sum(r[i] for r in found) for i in range(3)), tuple(x[0] for x in whole)) for found in (rondo.run(n, plan_step) for n in (1, 3))),
   "execute(): a plan's own rows on 1 and 3 ranks have the same gradients")
p, = leaves(q)
refused("out where a gradient is wanted", ["out", "autograd"], lambda: rondo.torch.attention(p, k, v, out=torch.zeros(B, TQ, H, V)))
refused("an arithmetic where a gradient is wanted", ["f64", "gradients"], lambda: rondo.torch.attention(p, k, v, arithmetic="f64"))
refused("slopes with a gradient", ["alibi_slopes"], lambda: rondo.torch.attention(p, k, v, alibi_slopes=torch.rand(H, requires_grad=True)))
split = gradients(lambda q, k, v: rondo.torch.attention(q, k, v, causal=True, ranks=4, backward_algorithm="all-to-all", backward_grid=(2, 2)),
                  torch.ones(1, 30, H, D), *wide.detach()[:1].unbind(2))
ok(equal(split, whole), "backward on a grid of its own: the same gradients")
refused("an algorithm that backward does not have", ["reduce"], lambda: rondo.torch.attention(p, k, v, ranks=2, backward_algorithm="reduce").sum().backward(), rondo.Error)
refused("gradients of gradients", ["once_differentiable"], lambda: torch.autograd.grad(
    rondo.torch.attention(p, k, v).square().sum(), p, create_graph=True)[0].sum().backward(), RuntimeError)
refused("gradients of gradients of a loss that is linear in the results", ["once_differentiable"], lambda: torch.autograd.grad(
    rondo.torch.attention(p, k, v).sum(), p, create_graph=True)[0].square().sum().backward(), RuntimeError)
done()
