# SPDX-License-Identifier: BSD-2-Clause
"""rondo.kda() and its gradients on numpy arrays and, where it is there, torch's tensors: against double precision, over ranks, in place, and what
is refused."""
import json
import os
import subprocess
import sys

import numpy as np

import rondo
from kit import done, far, numbers, ok, refused, safetensors, same, skip

B, T, H, HV, K, V = 2, 150, 2, 4, 12, 8


def made(seed, batch=B, tokens=T, gate_dim=K):
    q, k, v = numbers(seed, batch, tokens, H, K), numbers(seed + 1, batch, tokens, H, K), numbers(seed + 2, batch, tokens, HV, V)
    return q, k, v, numbers(seed + 3, batch, tokens, HV, gate_dim), numbers(seed + 4, batch, tokens, HV)


def reference(q, k, v, g, beta, *, scale=None, initial_state=None, use_qk_l2norm_in_kernel=False, use_gate_in_kernel=False,
              use_beta_sigmoid_in_kernel=False, allow_neg_eigval=False, lower_bound=None, A_log=None, dt_bias=None, checkpoints=(), **unused):
    """The rule as rondo-kda(7) states it, a step at a time, in double precision: out, final states, checkpoints."""
    q, k, v, g, beta = (np.asarray(x, np.float64) for x in (q, k, v, g, beta))
    if use_qk_l2norm_in_kernel:
        q, k = (x / np.sqrt((x * x).sum(-1, keepdims=True) + 1e-6) for x in (q, k))
    if use_gate_in_kernel:
        gain = 1.0 if A_log is None else np.exp(np.asarray(A_log, np.float64))[:, None]
        x = g + (0 if dt_bias is None else np.asarray(dt_bias, np.float64).reshape(v.shape[2], -1))
        g = -gain * np.log1p(np.exp(x)) if lower_bound is None else lower_bound / (1 + np.exp(-gain * x))
    if use_beta_sigmoid_in_kernel:
        beta = (2 if allow_neg_eigval else 1) / (1 + np.exp(-beta))
    group, scale = v.shape[2] // q.shape[2], q.shape[3] ** -0.5 if scale is None else scale
    out, points = np.zeros(v.shape), np.zeros((len(checkpoints), v.shape[0], v.shape[2], q.shape[3], v.shape[3]))
    state = np.zeros(points.shape[1:]) if initial_state is None else np.array(initial_state, np.float64)
    for t in range(q.shape[1] + 1):
        for i, p in enumerate(checkpoints):
            if p == t:
                points[i] = state
        if t == q.shape[1]:
            return out, state, points
        key, query = k[:, t].repeat(group, 1), q[:, t].repeat(group, 1)
        state = state * np.exp(g[:, t])[..., None]
        write = beta[:, t][..., None] * (v[:, t] - np.einsum("bhk,bhkv->bhv", key, state))
        state = state + key[..., None] * write[:, :, None]
        out[:, t] = scale * np.einsum("bhk,bhkv->bhv", query, state)


raw = made(1)
plain = raw[:3] + (-np.abs(raw[3]), np.abs(raw[4]) / 4)
initial, gain, shift = numbers(11, B, HV, K, V), numbers(12, HV), numbers(13, HV, K)
norm = dict(use_qk_l2norm_in_kernel=True)
computed = dict(norm, use_gate_in_kernel=True, use_beta_sigmoid_in_kernel=True)
cases = [
    ("as given", plain, norm), ("scale", plain, dict(norm, scale=0.7)), ("an initial state", plain, dict(norm, initial_state=initial)),
    ("a softplus gate", raw, dict(computed, A_log=gain, dt_bias=shift)), ("a bounded gate", raw, dict(computed, lower_bound=-5.0, A_log=gain, dt_bias=shift.ravel())),
    ("gates without A_log and dt_bias", raw, computed), ("beta to 2", raw, dict(computed, allow_neg_eigval=True, lower_bound=-3.0)),
    ("one gate a head", made(21, gate_dim=1), computed), ("q and k as they are", tuple(x / 4 for x in plain[:2]) + plain[2:], {}),
    ("all of it", raw, dict(computed, A_log=gain, dt_bias=shift, initial_state=initial, scale=0.4, checkpoints=[0, 1, 77, T])),
]
for name, arrays, options in cases:
    got = rondo.kda(*arrays, output_final_state=True, **options)
    want = reference(*arrays, **options)
    worst = max(far(x, y) for x, y in zip(got, want))
    ok(worst < 5e-5 and len(got) == (3 if "checkpoints" in options else 2), "%s: agrees with the rule (%.1g)" % (name, worst))
options = dict(cases[-1][2], output_final_state=True)
one = rondo.kda(*raw, **options)
ok(rondo.kda(*raw)[1] is None, "no final state unless asked for")
ok(all(same(rondo.kda(*raw, ranks=n, way=way, **options), one) for n in (2, 3, 7) for way in (None, "serial", "pipeline")), "2, 3 and 7 ranks, each way: the bits of one")
affine = rondo.kda(*raw, way="affine", tile=32, **options)
ok(all(same(rondo.kda(*raw, ranks=n, way="affine", tile=32, **options), affine) for n in (2, 3, 7)), "by an affine scan: bits of its own, on any ranks")
ok(max(far(x, y) for x, y in zip(affine, one)) < 1e-5, "which are near those of one walk")
chunked = rondo.kda(*raw, chunk=32, **dict(options, checkpoints=[0, 32, 96, T]))
ok(all(same(rondo.kda(*raw, ranks=n, chunk=32, way=way, **dict(options, checkpoints=[0, 32, 96, T])), chunked) for n in (2, 3) for way in (None, "columns")),
   "in chunks: bits of its own, on any ranks")
ok(max(far(x, y) for x, y in zip(chunked[:2], one)) < 1e-5 and not same(chunked[0], one[0]), "which are near those of one walk")
ok(same(rondo.kda(*raw, threads=3, isa="scalar", **options), one), "scalar instructions and three threads: the same bits")
starts = [0, 40, 40, T]
packed = tuple(x[:1] for x in raw)
two = dict(options, cu_seqlens=starts, initial_state=numbers(14, 3, HV, K, V), checkpoints=[40, 100])
got = [rondo.kda(*packed, ranks=n, **two) for n in (1, 2, 5)]
ok(same(got[0], got[1]) and same(got[0], got[2]), "packed sequences: the same bits on 1, 2 and 5 ranks")
worst = 0
for s, (a, b) in enumerate(zip(starts, starts[1:])):
    want = reference(*(x[:, a:b] for x in packed), **dict(options, initial_state=two["initial_state"][s:s + 1], checkpoints=[60]))
    worst = max(worst, far(got[0][0][:, a:b], want[0]), far(got[0][1][s:s + 1], want[1]), far(got[0][2][1], want[2][0]) if s == 2 else 0)
ok(worst < 5e-5, "and they agree with the rule, an empty one too (%.1g)" % worst)
half = tuple(x.astype(np.float16) for x in raw)
got = [rondo.kda(*half, ranks=n, **computed)[0] for n in (1, 3)]
ok(got[0].dtype == np.float16 and same(got[0], got[1]) and far(got[0], reference(*half, **computed)[0]) < 5e-3, "float16")
ok(same(rondo.kda(*half[:3], *raw[3:], **computed)[0], rondo.kda(*half[:3], *raw[3:], ranks=2, **computed)[0]), "gates of float32 beside them")
want = rondo.kda(*raw, **computed)[0]
fused = np.concatenate([raw[0], raw[1]], axis=3)
ok(same(rondo.kda(fused[..., :K], fused[..., K:], raw[2].transpose(0, 2, 1, 3).copy().transpose(0, 2, 1, 3), np.asfortranarray(raw[3]), raw[4][:, ::-1][:, ::-1],
                  ranks=2, **computed)[0], want), "arrays in any order of dimensions")
none = rondo.kda(*(x[:, :0] for x in raw), ranks=2, initial_state=initial, output_final_state=True)
ok(none[0].shape == (B, 0, HV, V) and same(none[1], initial), "no tokens: the final state is the initial one")

# ---- gradients ----

dout, dfinal = numbers(15, B, T, HV, V), numbers(16, B, HV, K, V)


def slopes(arrays, options, dfinal_state):
    """By differences of the loss along a direction of each argument, in double precision."""
    every = dict(zip(("q", "k", "v", "g", "beta"), arrays), **{n: options[n] for n in ("initial_state", "A_log", "dt_bias") if n in options})
    rest = {n: x for n, x in options.items() if n not in every}

    def loss(**changed):
        out, state, _ = reference(**dict(every, **changed), **rest)
        return (out * dout).sum() + (0 if dfinal_state is None else (state * dfinal_state).sum())

    for i, (name, x) in enumerate(every.items()):
        way = np.random.default_rng(90 + i).uniform(-1, 1, np.shape(x))
        yield name, way, (loss(**{name: x + 1e-5 * way}) - loss(**{name: x - 1e-5 * way})) / 2e-5


for name, arrays, options in cases:
    options = {n: x for n, x in options.items() if n != "checkpoints"}
    final = dfinal if "initial_state" in options else None
    got = rondo.kda_backward(dout, *arrays, dfinal_state=final, **options)
    found = list(slopes(arrays, options, final))
    bad = [n for (n, way, want), d in zip(found, got) if abs((d.astype(float) * way).sum() - want) > 2e-4 * (np.abs(d * way).sum() + 1e-3)]
    ok(not bad and len(found) == len(got) and all(d.shape == np.shape(w) for (_, w, _), d in zip(found, got)),
       "%s: gradients are those of differences %s" % (name, bad))
options = dict(cases[-1][2])
options.pop("checkpoints")
one_back = rondo.kda_backward(dout, *raw, dfinal_state=dfinal, **options)
ok(all(same(rondo.kda_backward(dout, *raw, dfinal_state=dfinal, ranks=n, way=way, **options), one_back) for n in (2, 3, 7) for way in (None, "serial")),
   "gradients on 2, 3 and 7 ranks: the bits of one")
got = [rondo.kda_backward(dout[:1], *packed, cu_seqlens=starts, ranks=n, **computed) for n in (1, 4)]
ok(same(got[0], got[1]), "of packed sequences, too")
got = rondo.kda_backward(dout.astype(np.float16), *half, ranks=2, **computed)
ok(all(x.dtype == np.float16 for x in got) and max(far(x, y) / np.abs(y).max() for x, y in zip(got, rondo.kda_backward(dout, *raw, **computed))) < 5e-3, "in float16")

r = lambda what, names, *a, **o: refused(what, names, lambda: rondo.kda(*a, **o))
r("beta of four dimensions", ["beta", "[batch, tokens, heads]"], *raw[:4], raw[3])
r("k unlike q", ["q and k"], raw[0], raw[1][..., 1:], *raw[2:])
r("heads that do not divide", ["heads"], *raw[:2], *(x[:, :, :3] for x in raw[2:]))
r("channels of g", ["head sizes"], *raw[:3], raw[3][..., :5], raw[4])
r("float64", ["g", "float64"], *raw[:3], raw[3].astype(float), raw[4])
r("a chunk of 24", ["chunk is 24", "16, 32 and 64"], *raw, chunk=24)
r("a checkpoint inside a chunk", ["checkpoints[0] is 40", "inside a chunk"], *raw, chunk=32, checkpoints=[40])
r("A_log of no gate", ["A_log", "use_gate_in_kernel"], *raw, A_log=gain)
r("allow_neg_eigval of no sigmoid", ["use_beta_sigmoid_in_kernel"], *raw, allow_neg_eigval=True)
r("lower_bound above 0", ["lower_bound"], *raw, **dict(computed, lower_bound=1.0))
r("A_log of another shape", ["A_log", "[4]"], *raw, **dict(computed, A_log=gain[1:]))
r("an initial state of another shape", ["initial_state", "[2, 4, 12, 8]"], *raw, initial_state=initial[:1])
r("checkpoints that fall", ["checkpoint"], *raw, checkpoints=[5, 3])
r("cu_seqlens with a batch", ["cu_seqlens", "batch of 2"], *raw, cu_seqlens=starts)
r("a way", ["way", "pipeline"], *raw, way="columnar")
r("a tile of no affine scan", ["tile"], *raw, way="pipeline", tile=32)
r("a tile of 0", ["tile"], *raw, way="affine", tile=0)
r("scale 0", ["scale"], *raw, scale=0.0)
refused("dout of another shape", ["dout", "[2, 150, 4, 8]"], lambda: rondo.kda_backward(dout[..., 1:], *raw))
refused("dfinal_state of another shape", ["dfinal_state"], lambda: rondo.kda_backward(dout, *raw, dfinal_state=dfinal[1:]))
ok(all(same(x, y) for x, y in zip(rondo.kda_backward(dout, *raw, ranks=2, way="affine"), rondo.kda_backward(dout, *raw))), "gradients of an affine scan are those of all ways")

program, scratch = os.environ.get("RONDO"), sys.argv[1]
if program:
    safetensors(scratch + "/in.safetensors", **dict(zip(("q", "k", "v", "g", "beta", "A_log", "initial_state"), raw + (gain, initial))))
    ran = subprocess.run([program, "kda", scratch + "/in.safetensors", "-o", scratch + "/out.safetensors", "--ranks", "2", "--json", "--gate", "softplus",
                          "--beta", "sigmoid", "--l2norm"], stdout=subprocess.PIPE, check=True)
    got = rondo.kda(*raw, output_final_state=True, initial_state=initial, A_log=gain, ranks=3, **computed)
    ok(json.loads(ran.stdout)["hash"] == rondo.hash(*got, leaf=0), "hash() is what rondo kda reports")
    safetensors(scratch + "/in.safetensors", **dict(zip(("q", "k", "v", "g", "beta", "A_log", "initial_state", "do"), raw + (gain, initial, dout))))
    ran = subprocess.run([program, "kda", scratch + "/in.safetensors", "-o", scratch + "/out.safetensors", "--ranks", "3", "--json", "--gate", "softplus",
                          "--beta", "sigmoid", "--l2norm"], stdout=subprocess.PIPE, check=True)
    back = rondo.kda_backward(dout, *raw, initial_state=initial, A_log=gain, ranks=2, **computed)
    ok(json.loads(ran.stdout)["hash"] == rondo.hash(*got, *back, leaf=0), "... with gradients, too")
else:
    skip("hash() is what rondo kda reports", "the program is not built")
with rondo.KdaSchedule(3, tokens=[40, 0, 60], heads=HV, key_heads=H, key_dim=K, value_dim=V, way="columns") as told:
    ranks = [told.rank(r) for r in range(3)]
    ok(told.ranks == 3 and told.way == "columns" and told.messages == sum(r.messages for r in ranks) > 0 and told.bytes == sum(r.bytes for r in ranks)
       and all(len(told.operations(r)) == ranks[r].operations for r in range(3)), "KdaSchedule: what three ranks would do")
with rondo.KdaSchedule(2, tokens=100, heads=HV, key_dim=K) as told, rondo.KdaSchedule(2, tokens=100, heads=HV, key_dim=K, backward=True) as back:
    ok(told.way in ("columns", "pipeline") and back.flops > 2 * told.flops, "... and which way they would take, and for gradients")
refused("KdaSchedule: key heads that do not divide heads", ["heads"], lambda: rondo.KdaSchedule(2, tokens=9, heads=4, key_heads=3, key_dim=4))
try:
    import torch
except ImportError:
    skip("torch's tensors", "there is no torch")
else:
    tensors = [torch.from_numpy(x) for x in raw]
    got = rondo.kda(*tensors, ranks=2, output_final_state=True, initial_state=torch.from_numpy(initial), **computed)
    ok(same(tuple(x.numpy() for x in got), rondo.kda(*raw, output_final_state=True, initial_state=initial, **computed)), "torch's tensors: the same bits")
    low = [x.bfloat16() for x in tensors]
    ok(torch.equal(rondo.kda(*low, ranks=2, **computed)[0], rondo.kda(*low, **computed)[0]), "bfloat16: one rank and two")
    r("a gradient", ["q", "gradient"], tensors[0].clone().requires_grad_(), *tensors[1:])
    import rondo.torch
    leaves = [x.clone().requires_grad_() for x in tensors + [torch.from_numpy(x) for x in (initial, gain, shift)]]
    out, final, points = rondo.torch.kda(*leaves[:5], initial_state=leaves[5], A_log=leaves[6], dt_bias=leaves[7], output_final_state=True, scale=0.4,
                                         ranks=3, checkpoints=[3], **computed)
    ((out * torch.from_numpy(dout)).sum() + (final * torch.from_numpy(dfinal)).sum()).backward()
    ok(not points.requires_grad and same(tuple(x.grad.numpy() for x in leaves), one_back), "rondo.torch.kda(): autograd gets the gradients of kda_backward()")
    few = [tensors[0].clone().requires_grad_()] + tensors[1:]
    rondo.torch.kda(*few, **computed)[0].sum().backward()
    ok(same(few[0].grad.numpy(), rondo.kda_backward(np.ones_like(dout), *raw, **computed)[0]), "... of one of them, with the loss of out alone")
done()
