# SPDX-License-Identifier: BSD-2-Clause
"""rondo's attention on torch's tensors of the CPU, as operators that autograd may meet.

attention() and attention_varlen() are those of the package, with ranks that are threads of this process; execute() runs a Plan on the rows of
one rank, as under mpirun. Keywords, shapes and results are theirs. Tensors are used where they lie, as arrays are.
"""
import torch

from . import _attention
from ._library import error
from ._structs import ERRORS

__all__ = ["attention", "attention_varlen", "execute"]


class _Forward(torch.autograd.Function):
    """Computes outside of autograd; what comes out remembers that there is no way back."""

    @staticmethod
    def forward(ctx, call, *tensors):
        return call(*tensors)

    @staticmethod
    def backward(ctx, *unused):
        raise error(ERRORS["ENOTSUP"], "this version of rondo has no gradients of attention; compute under torch.no_grad(), or detach its inputs")


def _needs(name, tensor):
    if tensor is not None and not isinstance(tensor, torch.Tensor):
        raise TypeError("%s is a %s; a torch tensor is expected" % (name, type(tensor).__name__))
    return tensor


def _apply(function, q, k, v, *more, sinks=None, bias=None, **options):
    tensors = [_needs(n, t) for n, t in (("q", q), ("k", k), ("v", v), ("sinks", sinks), ("bias", bias))]
    return _Forward.apply(lambda q, k, v, sinks, bias: function(q, k, v, *more, sinks=sinks, bias=bias, **options), *tensors)


def attention(q, k, v, **options):
    """rondo.attention() on tensors: q [B,Tq,H,D], k [B,Tk,Hkv,D], v [B,Tk,Hkv,Dv] and its keywords."""
    return _apply(_attention.attention, q, k, v, **options)


def attention_varlen(q, k, v, cu_seqlens_q, cu_seqlens_k, **options):
    """rondo.attention_varlen() on tensors: packed q [Tq,H,D], k [Tk,Hkv,D], v [Tk,Hkv,Dv] and its keywords."""
    return _apply(_attention.attention_varlen, q, k, v, cu_seqlens_q, cu_seqlens_k, **options)


def execute(plan, q, k, v, **options):
    """plan(q, k, v, ...) on tensors: the rows of the plan's rank."""
    return _apply(plan, q, k, v, **options)
