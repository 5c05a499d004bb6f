# SPDX-License-Identifier: BSD-2-Clause
"""Ranks from Python: run(), contexts, plans, schedules; several threads at once, Control-C, what stays in memory."""
import gc
import os
import signal
import threading
import time

import numpy as np

import rondo
from rondo import _ranks
from kit import done, inputs, numbers, ok, refused, same

HEADS, KV, D = 4, 2, 16
shape = dict(tokens=[300, 0, 70], keys=[300, 5, 150], heads=HEADS, kv_heads=KV, head_dim=D, causal=True)
TOKENS, KEYS = 370, 455
q, k, v = numbers(1, TOKENS, HEADS, D), numbers(2, KEYS, KV, D), numbers(3, KEYS, KV, D)
starts = [0, 300, 300, 370], [0, 300, 305, 455]
want, want_lse = rondo.attention_varlen(q, k, v, *starts, causal=True, return_lse=True)

# ---- bodies ----

ok(rondo.run(5, lambda c: (c.rank, c.ranks)) == [(i, 5) for i in range(5)], "run() returns what each rank returned, in order")
ok(rondo.run(3, lambda c: c.broadcast(np.full(4, c.rank), root=2).tolist()) == [[2] * 4] * 3, "broadcast")
info = rondo.run(2, lambda c: (c.threads, c.isa, c.transport, c.device), threads=2, isa="scalar")
ok(info == [(2, "scalar", "threads", "cpu")] * 2, "a context says what runs")


def fails(kind, rank):
    def body(c):
        if c.rank == rank:
            raise kind("by rank %d" % rank)
        c.barrier()   # must not wait for ever
    return body


for kind in (ZeroDivisionError, KeyError, SystemExit, StopIteration):
    try:
        rondo.run(3, fails(kind, 1))
        ok(False, "%s of a body comes home" % kind.__name__)
    except kind as failure:
        ok("by rank 1" in str(failure), "%s of a body comes home, and nobody waits for that rank" % kind.__name__)
refused("what the library says on one rank", ["head_dim"], lambda: rondo.run(3, lambda c: rondo.Plan(c, tokens=4, heads=1, head_dim=0 if c.rank == 2 else 4)))
refused("ranks that disagree", ["rank"], lambda: rondo.run(3, lambda c: rondo.Plan(c, tokens=4 + c.rank // 2, heads=1, head_dim=4)(
    *[np.zeros((rondo.Plan(c, tokens=4 + c.rank // 2, heads=1, head_dim=4).q_rows, 1, 4), np.float32)] * 3)), rondo.Error)
kept = []
rondo.run(2, lambda c: kept.append((c, rondo.Plan(c, tokens=4, heads=1, head_dim=4))))
refused("a context after run()", ["closed"], lambda: kept[0][0].barrier())
refused("a plan after run()", ["closed"], lambda: kept[0][1].spans())
for what, more in (("no list of owners", dict(layout="custom")), ("owners of another layout", dict(layout="zigzag", owners=[0])),
                   ("too few owners", dict(layout="custom", owners=[0])), ("a negative owner", dict(layout="custom", owners=[0, -1])),
                   ("an owner that is not there", dict(layout="custom", owners=[0, 2]))):
    refused(what, ["owner"], lambda: rondo.run(2, lambda c: rondo.Plan(c, tokens=200, heads=1, head_dim=4, **more)))
refused("no ranks", ["ranks"], lambda: rondo.run(0, lambda c: None))
refused("more ranks than there can be", ["1024"], lambda: rondo.run(1025, lambda c: None))
ok(rondo.run(2, lambda c: rondo.run(2, lambda d: 10 * c.rank + d.rank)) == [[0, 1], [10, 11]], "run() inside of run()")

# ---- plans ----


def by_plan(c, **more):
    with rondo.Plan(c, **shape, **more) as plan:
        rows = [plan.take(q), plan.take(k, keys=True), plan.take(v, keys=True)]
        out, lse = plan(*rows, return_lse=True)
        again = plan(*rows)
        stats = c.comm()
        data = sum(x["bytes"] for name, x in stats["by_operation"].items() if name != "agree")
        positions = [plan.positions(s) for s in range(3)]
        held = [len(plan.positions(s, keys=True)) for s in range(3)]
        return dict(out=out, lse=lse, again=again, positions=positions, held=held, plan=plan, sent=data, operations=plan.operations())


leaves = sum(-(-n // 128) for n in shape.get("keys", shape["tokens"]))
for ranks in (1, 2, 3, 5):
    for more in (dict(), dict(layout="striped", algorithm="pass-q"), dict(layout="contiguous", algorithm="halo"),
                 dict(layout="custom", owners=[(7 * i + 1) % 5 % ranks for i in range(leaves)])):
        found = rondo.run(ranks, lambda c: by_plan(c, **more))
        out, lse, again = np.full_like(want, 7), np.full_like(want_lse, 7), np.full_like(want, 7)
        for r in found:
            at = np.concatenate([starts[0][s] + r["positions"][s] for s in range(3)])
            out[at], lse[:, at], again[at] = r["out"], r["lse"].T, r["again"]
        ok(same((out, lse, again), (want, want_lse, want)), "plans on %d ranks, %s: the bits of attention_varlen(), twice" % (ranks, more or "as they choose"))
        plan = found[0]["plan"]
        with rondo.Schedule(ranks, **shape, **more) as schedule:
            ranks_of = [schedule.rank(r) for r in range(ranks)]
            ok((schedule.algorithm, schedule.layout, schedule.flops, schedule.bytes, schedule.visible_pairs, schedule.hash, schedule.imbalance) ==
               (plan.algorithm, plan.layout, plan.flops, plan.bytes_total, plan.visible_pairs, plan.hash, plan.imbalance) and
               [x.workspace_bytes for x in ranks_of] == [r["plan"].workspace_bytes for r in found] and
               [schedule.operations(r) for r in range(ranks)] == [r["operations"] for r in found], "the schedule of %d ranks says what the plans say" % ranks)
        ok(sum(r["sent"] for r in found) == 2 * plan.bytes_total == 2 * sum(x.bytes for x in ranks_of), "what ranks send is what the plan states")
    with rondo.Schedule(ranks, **shape, backward=True) as schedule:
        asked = rondo.run(ranks, lambda c: rondo.Plan(c, **shape, gradients=True))[0]
        ok((schedule.algorithm, schedule.messages, schedule.bytes) ==
           (asked.backward_algorithm, asked.backward_messages_total, asked.backward_bytes_total), "of gradients, too, on %d ranks" % ranks)


def spread(c):
    plan = rondo.Plan(c, **shape, dtype="f32")
    root = c.ranks - 1
    here = c.rank == root
    rows = [plan.scatter(x if here else None, x.shape[1], D, keys=i > 0, root=root) for i, x in enumerate((q, k, v))]
    same_rows = same(tuple(rows), (plan.take(q), plan.take(k, keys=True), plan.take(v, keys=True)))
    out = np.zeros((plan.q_rows, HEADS, D), np.float32)
    plan(*rows, out=out)
    whole = plan.gather(out, root=root)
    shared = np.zeros_like(want)
    plan.put(out, shared)
    return same_rows, whole, shared


found = rondo.run(3, spread)
ok(all(f[0] for f in found) and found[0][1] is None and same(found[2][1], want), "scatter() and gather(): the rows and results of one rank that has all")
ok(same(sum(f[2] for f in found), want), "put(): each rank writes its own rows")
with rondo.Context() as alone, rondo.Plan(alone, **shape) as plan:
    refused("q of another rank's shape", ["q", "[370, 4, 16]"], lambda: plan(q[1:], k, v))
    refused("lse of nothing", ["return_attn_probs"], lambda: plan(q, k, v, return_attn_probs=True))
    refused("slopes that were not planned", ["alibi_slopes"], lambda: plan(q, k, v, alibi_slopes=np.zeros(HEADS, np.float32)))
    refused("a sequence that is not there", ["3"], lambda: plan.spans(3))
    refused("an array of other tokens", ["370"], lambda: plan.take(q[1:]))
    refused("an unknown keyword", ["spiral"], lambda: rondo.Plan(alone, **shape, spiral=1), TypeError)
    terms = dict(alibi=True, sinks=True, bias_heads=HEADS, probs=True, dropout_p=0.2)
    with rondo.Plan(alone, tokens=[20, 20], heads=HEADS, kv_heads=KV, head_dim=D, **terms) as full:
        a, b, c = inputs(2, 20, 20, HEADS, KV, D, D)
        slopes, sinks, bias = numbers(7, HEADS), numbers(8, HEADS), numbers(9, 2, HEADS, 20, 20)
        got = full(*(x.reshape(40, -1, D) for x in (a, b, c)), alibi_slopes=slopes, sinks=sinks, bias=np.ascontiguousarray(bias.transpose(0, 2, 1, 3)).reshape(40, HEADS, 20),
                   seed=3, return_lse=True, return_attn_probs=True)
        ref = rondo.attention(a, b, c, alibi_slopes=slopes, sinks=sinks, bias=bias, dropout_p=0.2, seed=3, return_lse=True, return_attn_probs=True)
        ok(same(tuple(x.reshape(y.shape) for x, y in zip((got[0], got[1].reshape(2, 20, HEADS).transpose(0, 2, 1).copy(), got[2].reshape(2, 20, HEADS, 20).transpose(0, 2, 1, 3).copy()), ref)), ref),
           "a plan with slopes, sinks, bias, probabilities and dropout: the bits of attention()")
with rondo.Context() as alone:
    at_end = rondo.Plan(alone, **shape)
refused("a plan of a context that was closed", ["closed"], lambda: at_end(q, k, v))

# ---- many threads ----

a, b, c = inputs(1, 300, 300, 4, 2, 16, 16)
one = rondo.attention(a, b, c, causal=True, return_lse=True)
found = []


def many(n):
    for _ in range(5):
        found.append(same(rondo.attention(a, b, c, causal=True, return_lse=True, ranks=1 + n % 3, threads=1), one))


pool = [threading.Thread(target=many, args=(n,)) for n in range(6)]
for t in pool:
    t.start()
for t in pool:
    t.join()
ok(len(found) == 30 and all(found), "six threads of Python at once, each with ranks of its own")

long = np.zeros((1, 1 << 15, 8, 64), np.float32)   # several tens of seconds for one processor
worker = threading.Thread(target=lambda: rondo.attention(long[:, :6000], long[:, :6000], long[:, :6000], threads=1))
ticks = 0
worker.start()
while worker.is_alive():
    time.sleep(0.001)
    ticks += 1
ok(ticks >= 10, "Python runs on while the library computes")

# ---- Control-C ----

lse = np.zeros((1, 8, 1 << 15), np.float32)
for name, call in (
        ("attention() on one rank", lambda: rondo.attention(long, long, long, threads=1)),
        ("attention() on 3 ranks", lambda: rondo.attention(long, long, long, ranks=3, threads=1)),
        ("attention_backward() on 2 ranks", lambda: rondo.attention_backward(long, long, long, long, long, lse, ranks=2, threads=1)),
        ("a plan inside of run()", lambda: rondo.run(2, lambda c: rondo.Plan(c, tokens=1 << 15, heads=8, head_dim=64)(*[long[0, :1 << 14]] * 3))),
        ("a body that asks", lambda: rondo.run(2, lambda c: [time.sleep(0.01) for _ in range(3000) if not rondo.stopping(c)]))):
    timer = threading.Timer(0.15, os.kill, (os.getpid(), signal.SIGINT))
    began, heard = time.monotonic(), False
    timer.start()
    try:
        call()
    except KeyboardInterrupt:
        heard = True
    ok(heard and time.monotonic() - began < 10 and threading.active_count() <= 2, "Control-C ends %s, and no thread stays" % name)
    timer.join()
ok(same(rondo.attention(a, b, c, causal=True, return_lse=True, ranks=2), one), "afterwards all is as before")

# ---- what stays ----


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


x = numbers(1, 1, 3, 1, 4)
bad = np.zeros((1, 3, 1, 4), np.float64)


def once(ranks):
    rondo.attention(x, x, x, causal=True, return_lse=True, ranks=ranks)
    rondo.Schedule(2, tokens=9, heads=1, head_dim=4)
    rondo.run(ranks, lambda c: [rondo.Plan(c, tokens=9, heads=1, head_dim=4) for _ in range(2)] and None)
    try:
        rondo.attention(x, bad, x)
    except rondo.Error:
        pass
    try:
        rondo.attention(x, x, x, dropout_p=1.5)
    except rondo.Error:
        pass


if os.path.exists("/proc/self/statm"):
    calls = 10000 if os.environ.get("RONDO_TEST_LONG") else 400
    for ranks, count in ((1, calls), (3, calls // 10)):
        for _ in range(200):
            once(ranks)
        gc.collect()
        before, objects = resident(), len(gc.get_objects())
        for _ in range(count):
            once(ranks)
        gc.collect()
        ok(resident() - before < (2 << 20) and len(gc.get_objects()) - objects < 100, "%d calls on %d ranks, and failures, leave nothing" % (count, ranks))
if hasattr(os, "fork"):
    child = os.fork()
    if not child:
        os._exit(0 if same(rondo.attention(a, b, c, causal=True, return_lse=True, ranks=2), one) else 1)
    ok(os.waitpid(child, 0)[1] == 0, "a child of fork() computes the same")
done()
