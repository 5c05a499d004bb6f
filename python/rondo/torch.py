# SPDX-License-Identifier: BSD-2-Clause
"""rondo's attention on torch's tensors of the CPU, as operators of autograd.

attention() and attention_varlen() are those of the package, with ranks that are threads of this process; execute() runs a Plan on the
rows of one rank, as under mpirun; linear(), rmsnorm(), rope(), swiglu(), embedding() and cross_entropy() are the layers around it, and
parallelize() makes all of a module of torch's own. Keywords, shapes and results are theirs. Tensors are used where they lie, as arrays are. q, k, v, bias
and sinks have gradients, and so has lse among the results; the bits of gradients depend on ranks and layout as little as those of results
do. `algorithm` and `grid` are the forward pass's; those of backward are backward_algorithm and
backward_grid (None: the plan's choice).
"""
import functools

import torch
from torch.autograd.function import once_differentiable

from . import _attention, _delta, _layers
from ._library import invalid

__all__ = ["attention", "attention_varlen", "cross_entropy", "embedding", "execute", "kda", "linear", "parallelize", "rmsnorm", "rope", "swiglu"]


def _once(backward):
    """A backward() whose results have no gradients: asking for them is an error. once_differentiable alone sees that only where the incoming
    gradients have a history; of a loss linear in the results they have none, and a penalty on dq would be a constant, without a word."""
    inner = once_differentiable(lambda ctx, history, *gradients: backward(ctx, *gradients))

    @functools.wraps(backward)
    def wrapped(ctx, *gradients):
        return inner(ctx, torch.zeros((), requires_grad=torch.is_grad_enabled()), *gradients)
    return wrapped


class _Operator(torch.autograd.Function):
    """forward(q, k, v, sinks, bias) gives out, lse and perhaps probabilities; backward(dout, q, k, v, out, lse, dlse, sinks, bias,
    whether bias has a gradient) gives dq, dk, dv, then dbias, if so, and dsinks where there are sinks."""

    @staticmethod
    def forward(ctx, forward, backward, q, k, v, sinks, bias):
        results = forward(q, k, v, sinks, bias)
        ctx.way = backward
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(q, k, v, sinks, bias, *results[:2])
        ctx.mark_non_differentiable(*results[2:])
        return results

    @staticmethod
    @_once
    def backward(ctx, dout, dlse=None, *unused):
        q, k, v, sinks, bias, out, lse = ctx.saved_tensors
        if dout is None and dlse is None:
            return (None,) * 7
        dout = torch.zeros_like(out) if dout is None else dout
        found = list(ctx.way(dout, q, k, v, out, lse, dlse, sinks, bias, ctx.needs_input_grad[6]))
        dsinks = found.pop() if sinks is not None else None
        dbias = found.pop() if ctx.needs_input_grad[6] else None
        return (None, None, *found, dsinks, dbias)


def _apply(forward, backward, q, k, v, more, sinks, bias, options, way):
    for name, tensor in (("q", q), ("k", k), ("v", v), ("sinks", sinks), ("bias", bias)):
        if not isinstance(tensor, torch.Tensor) and (tensor is not None or name in "qkv"):
            raise TypeError("%s is a %s; a torch tensor is expected" % (name, type(tensor).__name__))
    wanted = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (q, k, v, sinks, bias))
    if not wanted:
        return forward(q, k, v, *more, sinks=sinks, bias=bias, **options)
    if options.get("out") is not None:
        raise invalid("out is given, which autograd would not see; leave it out, or compute under torch.no_grad()")
    if options.get("arithmetic") not in (None, "f32"):
        raise invalid("arithmetic is %r, which has no gradients; leave it out, or compute under torch.no_grad()" % (options["arithmetic"],))
    slopes = options.get("alibi_slopes")
    if isinstance(slopes, torch.Tensor) and slopes.requires_grad:
        raise invalid("alibi_slopes requires a gradient, and there is none with respect to slopes; detach it")
    return_lse = options.pop("return_lse", False)
    back = {n: x for n, x in options.items() if n not in ("out", "return_attn_probs", "algorithm", "grid", "arithmetic")}
    back.update(way)
    results = _Operator.apply(
        lambda q, k, v, sinks, bias: forward(q, k, v, *more, sinks=sinks, bias=bias, return_lse=True, **options),
        lambda dout, q, k, v, out, lse, dlse, sinks, bias, needed: backward(
            dout, q, k, v, out, lse, *more, dlse=dlse, sinks=sinks, bias=bias, bias_gradient=needed, **back),
        q, k, v, sinks, bias)
    results = results[:1] + (results[1:] if return_lse else results[2:])
    return results[0] if len(results) == 1 else results


def attention(q, k, v, *, sinks=None, bias=None, backward_algorithm=None, backward_grid=None, **options):
    """rondo.attention() on tensors: q [B,Tq,H,D], k [B,Tk,Hkv,D], v [B,Tk,Hkv,Dv] and its keywords."""
    return _apply(_attention.attention, _attention.attention_backward, q, k, v, (), sinks, bias, options,
                  {"algorithm": backward_algorithm, "grid": backward_grid})


def attention_varlen(q, k, v, cu_seqlens_q, cu_seqlens_k, *, sinks=None, bias=None, backward_algorithm=None, backward_grid=None, **options):
    """rondo.attention_varlen() on tensors: packed q [Tq,H,D], k [Tk,Hkv,D], v [Tk,Hkv,Dv] and its keywords."""
    return _apply(_attention.attention_varlen, _attention.attention_varlen_backward, q, k, v, (cu_seqlens_q, cu_seqlens_k), sinks, bias,
                  options, {"algorithm": backward_algorithm, "grid": backward_grid})


def execute(plan, q, k, v, *, sinks=None, bias=None, **options):
    """plan(q, k, v, ...) on tensors: the rows of the plan's rank. Gradients are of a plan that was made with gradients=True; backward is
    collective like the plan, so all ranks call it in the same order."""
    return _apply(plan, plan.backward, q, k, v, (), sinks, bias, options, {})


class _Delta(torch.autograd.Function):
    """forward(options, q, k, v, g, beta, initial_state, A_log, dt_bias) gives out, the final states or None, and perhaps checkpoints."""

    @staticmethod
    def forward(ctx, options, backward_way, q, k, v, g, beta, initial, a_log, dt_bias):
        results = _delta.kda(q, k, v, g, beta, initial_state=initial, A_log=a_log, dt_bias=dt_bias, **options)
        ctx.options = {n: x for n, x in options.items() if n not in ("output_final_state", "checkpoints", "tile")}
        ctx.options["way"] = backward_way
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(q, k, v, g, beta, initial, a_log, dt_bias)
        ctx.mark_non_differentiable(*results[2:])
        return results

    @staticmethod
    @_once
    def backward(ctx, dout, dfinal=None, *unused):
        q, k, v, g, beta, initial, a_log, dt_bias = ctx.saved_tensors
        if dout is None and dfinal is None:
            return (None,) * 10
        dout = torch.zeros_like(v) if dout is None else dout
        found = list(_delta.kda_backward(dout, q, k, v, g, beta, dfinal_state=dfinal, initial_state=initial, A_log=a_log, dt_bias=dt_bias, **ctx.options))
        rest = found[5:]
        more = [None if x is None else rest.pop(0).to(x.dtype) for x in (initial, a_log, dt_bias)]
        return (None, None, *found[:5], *more)


def kda(q, k, v, g, beta, *, initial_state=None, A_log=None, dt_bias=None, backward_way=None, **options):
    """rondo.kda() on tensors: q, k [B,T,H,K], v [B,T,HV,V], g [B,T,HV,K or 1], beta [B,T,HV] and its keywords; gives out, the final
    state or None and, with checkpoints, these. All tensors have gradients, and so have out and the final state among the results;
    `way` is the forward pass's, and backward_way (None: the plan's choice) of backward."""
    tensors = (("q", q), ("k", k), ("v", v), ("g", g), ("beta", beta), ("initial_state", initial_state), ("A_log", A_log), ("dt_bias", dt_bias))
    for name, tensor in tensors:
        if not isinstance(tensor, torch.Tensor) and (tensor is not None or name in ("q", "k", "v", "g", "beta")):
            raise TypeError("%s is a %s; a torch tensor is expected" % (name, type(tensor).__name__))
    return _Delta.apply(options, backward_way, *(tensor for _, tensor in tensors))


# ---- layers ----

def _tensors(**named):
    for name, tensor in named.items():
        if not isinstance(tensor, torch.Tensor):
            raise TypeError("%s is a %s; a torch tensor is expected" % (name, type(tensor).__name__))


def _of(team):
    return None if team is None else team.context


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, leaves, tokens, team):
        ctx.layer, ctx.more = _layers.Linear(weight, leaves=leaves, context=_of(team)), (tokens, team)
        ctx.save_for_backward(x, weight)   # the weights too, so that torch sees where they were changed
        return ctx.layer(x, bias, context=_of(team))

    @staticmethod
    @_once
    def backward(ctx, dy):
        (x, weight), (tokens, team), needed = ctx.saved_tensors, ctx.more, ctx.needs_input_grad
        dx = ctx.layer.dx(dy, context=_of(team)) if needed[0] else None
        dw = _layers.linear_dw(dy, x, tokens, team=team) if needed[1] else None
        if dw is not None and team is not None:
            dw = team.gather(dw, weight.shape[0])
        return dx, dw, _layers.token_sum(dy, tokens, team=team) if needed[2] else None, None, None, None


def linear(x, weight, bias=None, *, leaves=0, tokens=None, team=None):
    """x W^T + bias: x [..., in], weight [out, in], bias [out]. The gradients of weight and bias are sums over tokens, [B, T, in] being B sequences;
    `tokens` says otherwise, and with a `team` they are sums over the tokens of all its ranks, the same on each. Collective then, as backward is."""
    _tensors(x=x, weight=weight, **({} if bias is None else {"bias": bias}))
    return _Linear.apply(x, weight, bias, leaves, tokens, team)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, eps, tokens, team):
        ctx.more = eps, tokens, team
        ctx.save_for_backward(x, weight)
        return _layers.rmsnorm(x, weight, eps, context=_of(team))

    @staticmethod
    @_once
    def backward(ctx, dy):
        eps, tokens, team = ctx.more
        dx, dw = _layers.rmsnorm_backward(dy, *ctx.saved_tensors, eps, tokens=tokens, team=team, context=_of(team))
        return dx, dw, None, None, None


def rmsnorm(x, weight, eps=1e-6, *, tokens=None, team=None):
    """rondo.rmsnorm() on tensors; tokens and team as in linear()."""
    _tensors(x=x, weight=weight)
    return _Norm.apply(x, weight, eps, tokens, team)


class _Turn(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, table):
        ctx.save_for_backward(table)
        return _layers.rope(x, table)

    @staticmethod
    @_once
    def backward(ctx, dy):
        return _layers.rope_backward(dy, *ctx.saved_tensors), None


def rope(x, table):
    """rondo.rope() on tensors; the table has no gradient."""
    _tensors(x=x, table=table)
    if table.requires_grad:
        raise invalid("table requires a gradient, and there is none with respect to angles; detach it")
    return _Turn.apply(x, table)


class _Unit(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate, up):
        ctx.save_for_backward(gate, up)
        return _layers.swiglu(gate, up)

    @staticmethod
    @_once
    def backward(ctx, dy):
        return _layers.swiglu_backward(dy, *ctx.saved_tensors)


def swiglu(gate, up):
    """rondo.swiglu() on tensors."""
    _tensors(gate=gate, up=up)
    return _Unit.apply(gate, up)


class _Words(torch.autograd.Function):
    @staticmethod
    def forward(ctx, ids, weight, tokens, team):
        ctx.more = weight.shape[0], tokens, team
        ctx.save_for_backward(ids)
        return _layers.embedding(ids, weight)

    @staticmethod
    @_once
    def backward(ctx, dy):
        words, tokens, team = ctx.more
        dw = _layers.embedding_dw(dy, *ctx.saved_tensors, words, tokens=tokens, team=team)
        return None, dw if team is None else team._shares(dw, words, dy.shape[-1]), None, None


def embedding(ids, weight, *, tokens=None, team=None):
    """rondo.embedding() on tensors; tokens and team as in linear()."""
    _tensors(ids=ids, weight=weight)
    return _Words.apply(ids, weight, tokens, team)


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, labels, ignore_index, leaves, reduction, tokens, team):
        loss = _layers.cross_entropy(logits, labels, ignore_index=ignore_index, leaves=leaves, context=_of(team))
        ctx.more = ignore_index, leaves, _of(team)
        ctx.save_for_backward(logits, labels)
        ctx.by = 1.0
        if reduction == "none":
            return loss
        total, count = _layers.token_loss(loss, labels, tokens, ignore_index=ignore_index, team=team)
        if reduction == "mean":
            ctx.by = 1.0 / count if count else float("nan")
            total = total / count if count else float("nan")
        return torch.tensor(total, dtype=torch.float64)

    @staticmethod
    @_once
    def backward(ctx, dloss):
        ignore_index, leaves, context = ctx.more
        logits, labels = ctx.saved_tensors
        dx = _layers.cross_entropy_backward(logits, labels, dloss * ctx.by, ignore_index=ignore_index, leaves=leaves, context=context)
        return dx, None, None, None, None, None, None


def cross_entropy(logits, labels, *, ignore_index=-100, reduction="mean", leaves=0, tokens=None, team=None):
    """The loss of logits [..., classes], float64: of each row with reduction "none", their "sum" over tokens, or the "mean" over those whose label is
    not ignore_index; tokens and team as in linear()."""
    _tensors(logits=logits, labels=labels)
    if reduction not in ("none", "sum", "mean"):
        raise invalid("reduction is %r; it must be \"none\", \"sum\" or \"mean\"" % (reduction,))
    return _Loss.apply(logits, labels, ignore_index, leaves, reduction, tokens, team)


from ._parallel import parallelize   # noqa: E402, which uses what is above
