# SPDX-License-Identifier: BSD-2-Clause
"""attention() and attention_varlen(): whole arrays in, whole arrays out, on any number of ranks in this process."""
import ctypes

import numpy as np

from . import _arrays
from ._library import ARITHMETICS, invalid, lib, number_of
from ._plan import Core, Shared
from ._problem import Arrays, Way, flag, whole
from ._ranks import Context, Stop, _launch, describe, interruptible

# Less work than this is over before Control-C could be missed: one rank does it on the calling thread.
SHORT = 2e8


def on_ranks(arrays, body, ranks, threads, isa, factor=1):
    """body(context, core, stop) on each rank, with a plan of its own; the results."""
    ranks, stop = whole("ranks", ranks, 1, 1024), Stop()

    def planned(context):
        core = Core(context, arrays.problem)
        try:
            return body(context, core, stop)
        finally:
            core.close()

    if ranks == 1:
        def alone():
            with Context(threads=threads, isa=isa) as context:
                return [planned(context)]
        p = arrays.problem
        work = float((p.tokens.astype(float) * p.keys).sum()) * p.heads * (p.head_dim + p.value_dim)
        return alone() if work * factor < SHORT else interruptible(alone, stop)
    desc = describe(None, threads, isa)
    return interruptible(lambda: _launch(ranks, desc, planned, stop), stop)


def compute(arrays, *, out=None, lse=None, probs=None, ranks=1, threads=0, isa=None):
    """Executes the problem of Arrays into rows that are there."""
    on_ranks(arrays, lambda context, core, stop: Shared(core, arrays).run(out, lse, probs, stop), ranks, threads, isa)


def _return(arrays, dout, out, lse, dlse, bias_gradient, ranks, threads, isa):
    way = Way(arrays, dout, out, lse, dlse, bias_gradient, whole("ranks", ranks, 1, 1024))

    def body(context, core, stop):
        dsinks = None if way.dsinks is None else (way.dsinks if context.rank == 0 else np.zeros_like(way.dsinks))
        Shared(core, arrays).run_backward(way, dsinks, stop)

    on_ranks(arrays, body, ranks, threads, isa, 2.5)
    return way.results(arrays.like)


def _attend(arrays, out, return_lse, return_attn_probs, ranks, threads, isa):
    result, out_rows = arrays.out(out)
    results, lse_rows, probs_rows = [result], None, None
    if flag("return_lse", return_lse):
        lse, lse_rows = arrays.by_query((), False)
        results.append(lse)
    if arrays.problem.probs:
        probs, probs_rows = arrays.by_query((arrays.probs_keys,), True)
        probs[...] = 0
        results.append(probs)
        if not probs_rows.count * arrays.probs_keys:   # nothing to ask the library for
            arrays.problem.probs, probs_rows = 0, None
    compute(arrays, out=out_rows, lse=lse_rows, probs=probs_rows, ranks=ranks, threads=threads, isa=isa)
    return results[0] if len(results) == 1 else tuple(results)


def attention(q, k, v, *, causal=False, window_size=(-1, -1), softmax_scale=None, softcap=0.0, alibi_slopes=None, dropout_p=0.0, seed=0,
              sinks=None, bias=None, mask=None, documents=None, lengths_k=None, heads_first=False, dtype=None, out_dtype=None, out=None,
              return_lse=False, return_attn_probs=False, ranks=1, layout=None, algorithm=None, grid=None, arithmetic=None, threads=0, isa=None):
    """Exact attention of q [B,Tq,H,D] to k [B,Tk,Hkv,D] and v [B,Tk,Hkv,Dv]; the result is [B,Tq,H,Dv].

    Arrays are numpy arrays or torch tensors of float32, float16 or bfloat16, all of one type; with dtype="bf16" uint16 numbers are
    bfloat16's bits. heads_first: they are [B,H,T,D]. They are used in place where their last dimension is dense and their other strides
    are positive.

    Query i stands at key position i + Tk - Tq. causal hides keys after it; window_size (left, right) those before it by more than left or
    after it by more than right, -1 being open. A score is q.k times softmax_scale (None: 1/sqrt(D)), then softcap * tanh(score /
    softcap), minus alibi_slopes[h] * distance, plus bias [1|B,1|H,Tq,Tk]. mask [1|B,1|H,Tq,Tk] has 0 where a key is hidden; documents
    [B,Tk] or [Tk] are numbers, and a query sees its own document only; keys beyond lengths_k[b] are padding; sinks [H] are one extra
    logit for each head. dropout_p drops weights by a mask that depends on seed and positions only.

    return_lse: also the natural log of the sum of exponentials, float32 [B,H,Tq]; return_attn_probs: also the probabilities, before
    dropout, float32 [B,H,Tq,Tk]. Results come in this order: out, lse, probabilities. out: an array to write into.

    ranks: that many threads of this process share the sequence; layout ("contiguous", "zigzag", "striped", "snake", "document"),
    algorithm ("pass-kv", "pass-q", "all-gather", "all-to-all", "reduce", "halo", "mesh") and grid say how, None being the plan's choice;
    threads: of each rank, 0 being the cores shared out evenly. None of these changes a bit of any result. arithmetic ("f32", "f64",
    "bf16-hopper"; None is f32) does: it says in which order leaves are summed, by rule 17 of rondo-numerics(7).
    """
    arrays = Arrays(q, k, v, lengths_k=lengths_k, heads_first=heads_first, dtype=dtype, out_dtype=out_dtype, alibi_slopes=alibi_slopes,
                    sinks=sinks, bias=bias, mask=mask, documents=documents, seed=seed, causal=causal, window_size=window_size,
                    softmax_scale=softmax_scale, softcap=softcap, dropout_p=dropout_p, probs=return_attn_probs, layout=layout,
                    algorithm=algorithm, grid=grid, arithmetic=arithmetic)
    return _attend(arrays, out, return_lse, return_attn_probs, ranks, threads, isa)


def attention_varlen(q, k, v, cu_seqlens_q, cu_seqlens_k, *, causal=False, window_size=(-1, -1), softmax_scale=None, softcap=0.0,
                     alibi_slopes=None, dropout_p=0.0, seed=0, sinks=None, bias=None, mask=None, documents=None, heads_first=False,
                     dtype=None, out_dtype=None, out=None, return_lse=False, return_attn_probs=False, ranks=1, layout=None, algorithm=None,
                     grid=None, arithmetic=None, threads=0, isa=None):
    """The same of packed sequences: q [Tq,H,D], k [Tk,Hkv,D], v [Tk,Hkv,Dv], of which sequence s has rows cu_seqlens[s] to
    cu_seqlens[s+1] - 1.

    bias and mask are [1|H,Tq,Tk], of which only what lies within a sequence is read; documents are [Tk]; lse is [H,Tq] and probabilities
    are [H,Tq,longest sequence's keys].
    """
    arrays = Arrays(q, k, v, cu_seqlens_q, cu_seqlens_k, heads_first=heads_first, dtype=dtype, out_dtype=out_dtype,
                    alibi_slopes=alibi_slopes, sinks=sinks, bias=bias, mask=mask, documents=documents, seed=seed, causal=causal,
                    window_size=window_size, softmax_scale=softmax_scale, softcap=softcap, dropout_p=dropout_p, probs=return_attn_probs,
                    layout=layout, algorithm=algorithm, grid=grid, arithmetic=arithmetic)
    return _attend(arrays, out, return_lse, return_attn_probs, ranks, threads, isa)


def attention_backward(dout, q, k, v, out=None, lse=None, *, dlse=None, causal=False, window_size=(-1, -1), softmax_scale=None, softcap=0.0,
                       alibi_slopes=None, dropout_p=0.0, seed=0, sinks=None, bias=None, mask=None, documents=None, lengths_k=None,
                       heads_first=False, dtype=None, out_dtype=None, bias_gradient=True, ranks=1, layout=None, algorithm=None, grid=None,
                       threads=0, isa=None):
    """Gradients of a loss with respect to what attention() was given, from that with respect to its out (dout) and, where dlse is given,
    lse: dq, dk, dv, each of the shape and type of its own, then dbias (unless bias_gradient is False) and dsinks where bias and sinks are
    given. All else as attention() was given it; ranks, layout, algorithm, grid and threads may be others, and change no bit.

    out and lse are attention()'s results; where both are None they are made once more, with 2(D+Dv) more FLOPs a pair.
    """
    arrays = Arrays(q, k, v, lengths_k=lengths_k, heads_first=heads_first, dtype=dtype, out_dtype=out_dtype, alibi_slopes=alibi_slopes,
                    sinks=sinks, bias=bias, mask=mask, documents=documents, seed=seed, causal=causal, window_size=window_size,
                    softmax_scale=softmax_scale, softcap=softcap, dropout_p=dropout_p, layout=layout, algorithm=algorithm, grid=grid)
    return _return(arrays, dout, out, lse, dlse, bias_gradient, ranks, threads, isa)


def attention_varlen_backward(dout, q, k, v, out, lse, cu_seqlens_q, cu_seqlens_k, *, dlse=None, causal=False, window_size=(-1, -1),
                              softmax_scale=None, softcap=0.0, alibi_slopes=None, dropout_p=0.0, seed=0, sinks=None, bias=None, mask=None,
                              documents=None, heads_first=False, dtype=None, out_dtype=None, bias_gradient=True, ranks=1, layout=None,
                              algorithm=None, grid=None, threads=0, isa=None):
    """The same of attention_varlen()."""
    arrays = Arrays(q, k, v, cu_seqlens_q, cu_seqlens_k, heads_first=heads_first, dtype=dtype, out_dtype=out_dtype,
                    alibi_slopes=alibi_slopes, sinks=sinks, bias=bias, mask=mask, documents=documents, seed=seed, causal=causal,
                    window_size=window_size, softmax_scale=softmax_scale, softcap=softcap, dropout_p=dropout_p, layout=layout,
                    algorithm=algorithm, grid=grid)
    return _return(arrays, dout, out, lse, dlse, bias_gradient, ranks, threads, isa)


# Kinds and sizes of numbers whose bits are hashed as they are: floats, whole numbers, and what ml_dtypes has of 16 bits.
_HASHED = {(kind, size) for kind in "fiu" for size in (2, 4, 8)} | {("V", 2)}


def hash(*arrays, leaf=128, arithmetic=None):
    """16 hex digits over the bits of arrays, each in row-major order, one behind the other: equal hashes mean equal bits.

    hash(out, lse) of attention()'s results is what `rondo attend` reports; gradients follow as attention_backward() gives them. The shape that it is
    closed with is the first array's; leaf and arithmetic are mixed in.
    """
    if not arrays:
        raise invalid("there is no array to hash; give one or more")
    total, first = ctypes.c_uint64(0), 0
    for i, array in enumerate(arrays):
        if not isinstance(array, np.ndarray) or (array.dtype.kind, array.dtype.itemsize) not in _HASHED:
            array = _arrays.view("arrays[%d]" % i, array).array
            if _arrays.is_torch(array):
                import torch
                array = array.contiguous().view(torch.int16 if array.element_size() == 2 else torch.int32).numpy()
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
        lib.rondo_hash_add(ctypes.byref(total), array.ctypes.data, array.dtype.itemsize, first, array.size)
        first += array.size
    shape = arrays[0].shape
    closed = lib.rondo_hash_close(total, number_of("arithmetic", ARITHMETICS, arithmetic), leaf, (ctypes.c_int64 * max(1, len(shape)))(*shape), len(shape))
    return "%016x" % closed
