# SPDX-License-Identifier: BSD-2-Clause
"""What is to be computed, as keywords say it and as rondo_attention_desc has it.

One place reads the options of attention(), attention_varlen(), Plan and Schedule, so that each means the same everywhere, and each one
that cannot be honoured is refused by its name.
"""
import operator

import numpy as np

from . import _arrays, _structs
from ._library import ALGORITHMS, ARITHMETICS, LAYOUTS, invalid, number_of


def whole(name, value, least, most=2**63 - 1):
    try:
        number = operator.index(value)
    except TypeError:
        raise invalid("%s is %r; a whole number is expected" % (name, value)) from None
    if not least <= number <= most:
        raise invalid("%s is %d; %d %s is expected" % (name, number, least, "or more" if most >= 2**31 else "to %d" % most))
    return number


def real(name, value):
    try:
        return float(value)
    except (TypeError, ValueError):
        raise invalid("%s is %r; a number is expected" % (name, value)) from None


def flag(name, value):
    if not isinstance(value, (bool, np.bool_)) and not (isinstance(value, (int, float, np.number)) and value in (0, 1)):
        raise invalid("%s is %r; True or False is expected" % (name, value))
    return int(bool(value))


def lengths(name, value, sequences=None):
    """A list of whole numbers as int64, dense."""
    array = _arrays.as_numpy(name, value, "iuf", "a list of whole numbers")
    if array.size and array.dtype.kind == "f":   # numpy makes float64 of an empty list
        raise invalid("%s is of type %s; a list of whole numbers is expected" % (name, array.dtype.name))
    if array.ndim != 1 or (sequences is not None and len(array) != sequences):
        raise invalid("%s has the shape %s; [%s] is expected" % (name, list(array.shape), "sequences" if sequences is None else sequences))
    if array.size and array.dtype == np.uint64 and array.max() > 2**63 - 1:
        raise invalid("%s has an entry of %d; at most 2^63 - 1 is expected" % (name, array.max()))
    return np.ascontiguousarray(array, dtype=np.int64)


class Problem:
    """Keywords, checked. sequences of `tokens` queries over `keys` keys each, lists of whole numbers."""

    def __init__(self, *, heads, kv_heads, head_dim, value_dim, tokens, keys, kind, out_kind=0, causal=False, window_size=(-1, -1),
                 softmax_scale=None, softcap=0.0, dropout_p=0.0, alibi=False, sinks=False, bias_heads=0, probs=False, layout=None,
                 algorithm=None, grid=None, head_groups=0, leaf=0, gradients=False, arithmetic=None, owners=None):
        self.heads, self.kv_heads = whole("heads", heads, 1), whole("kv_heads", kv_heads, 1)
        self.head_dim, self.value_dim = whole("head_dim", head_dim, 1), whole("value_dim", value_dim, 1)
        self.tokens, self.keys, self.kind, self.out_kind = tokens, keys, kind, out_kind or kind
        self.cached = np.ascontiguousarray(keys - tokens)
        self.causal = flag("causal", causal)
        try:
            left, right = window_size
        except (TypeError, ValueError):
            raise invalid("window_size is %r; a pair (left, right) is expected, -1 for an open side" % (window_size,)) from None
        self.window = whole("window_size[0]", left, -1), whole("window_size[1]", right, -1)
        self.scale = 0.0 if softmax_scale is None else real("softmax_scale", softmax_scale)
        if softmax_scale is not None and self.scale == 0.0:
            raise invalid("softmax_scale is 0, with which all keys weigh the same; None for 1/sqrt(head_dim), or another number is "
                          "expected")
        self.softcap, self.dropout = real("softcap", softcap), real("dropout_p", dropout_p)
        self.alibi, self.sinks, self.bias_heads, self.probs = int(alibi), int(sinks), bias_heads, flag("probs", probs)
        self.layout, self.algorithm = number_of("layout", LAYOUTS, layout), number_of("algorithm", ALGORITHMS, algorithm)
        self.arithmetic = number_of("arithmetic", ARITHMETICS, arithmetic)
        self.grid = (0, 0)
        if grid is not None:
            try:
                a, b = grid
            except (TypeError, ValueError):
                raise invalid("grid is %r; None or a pair of whole numbers is expected" % (grid,)) from None
            self.grid = whole("grid[0]", a, 1, 2**31 - 1), whole("grid[1]", b, 1, 2**31 - 1)
        self.head_groups, self.leaf = whole("head_groups", head_groups, 0, 2**31 - 1), whole("leaf", leaf, 0, 2**31 - 1)
        self.owners = self._owners(layout, owners)
        self.documents = self.documents_first = None
        self.mask = self.mask_row = self.mask_key = None
        self.mask_heads, self.mask_strides, self.gradients = 0, (0, 0), flag("gradients", gradients)

    def _owners(self, layout, given):
        if (given is not None) != (layout == "custom"):
            raise invalid("layout is %r and owners are %s; \"custom\" and the rank of each leaf go together"
                          % (layout, "not given" if given is None else "given"))
        if given is None:
            return None
        found = _arrays.as_numpy("owners", given, "iu", "whole numbers")
        leaves = sum(-(-int(n) // (self.leaf or 128)) for n in self.keys)
        if found.shape != (leaves,) or (leaves and not 0 <= int(found.min()) <= int(found.max()) < 2**31):
            raise invalid("owners has the shape %s; the rank of each of %d leaves of keys, sequence after sequence, is expected"
                          % (list(found.shape), leaves))
        return np.ascontiguousarray(found if leaves else np.zeros(1), np.int32)

    def describe(self):
        """The descriptor. It points into arrays of this object."""
        d = _structs.rondo_attention_desc(
            heads=self.heads, kv_heads=self.kv_heads, head_dim=self.head_dim, value_dim=self.value_dim, sequences=len(self.tokens),
            causal=self.causal, windowed=int(self.window != (-1, -1)), scale=self.scale, q_type=self.kind, kv_type=self.kind,
            out_type=self.out_kind, layout=self.layout, algorithm=self.algorithm, leaf=self.leaf, head_groups=self.head_groups,
            softcap=self.softcap, alibi=self.alibi, bias=self.bias_heads, sinks=self.sinks, probs=self.probs, dropout=self.dropout,
            gradients=self.gradients, arithmetic=self.arithmetic)
        d.tokens_of, d.cached_of = _arrays.pointer(self.tokens), _arrays.pointer(self.cached)
        if d.windowed:
            d.window_left, d.window_right = self.window
        d.grid[0], d.grid[1] = self.grid
        if self.owners is not None:
            d.owners = _arrays.pointer(self.owners, _structs.c.c_int32)
        if self.documents is not None:
            d.documents = _arrays.pointer(self.documents, _structs.c.c_int32)
            d.documents_first = _arrays.pointer(self.documents_first)
        if self.mask is not None:
            d.mask = _arrays.pointer(self.mask, _structs.c.c_uint8)
            d.mask_heads = self.mask_heads
            d.mask_row_stride, d.mask_head_stride = self.mask_strides
            d.mask_row = _arrays.pointer(self.mask_row)
            if self.mask_key is not None:
                d.mask_key = _arrays.pointer(self.mask_key)
        return d


class Arrays:
    """q, k and v, batched or packed, and what comes with them: checked, and as rows."""

    def __init__(self, q, k, v, starts_q=None, starts_k=None, *, lengths_k=None, heads_first=False, dtype=None, out_dtype=None,
                 alibi_slopes=None, sinks=None, bias=None, mask=None, documents=None, seed=0, **options):
        views = [_arrays.view(name, x, dtype) for name, x in (("q", q), ("k", k), ("v", v))]
        self.packed, self.heads_first = starts_q is not None, flag("heads_first", heads_first)
        dims = 3 if self.packed else 4
        order = "heads, tokens" if self.heads_first else "tokens, heads"
        for name, x in zip("qkv", views):
            if len(x.shape) != dims:
                raise invalid("%s has the shape %s; [%s%s, head size] is expected"
                              % (name, list(x.shape), "" if self.packed else "batch, ", order))
            if x.type != views[0].type:
                raise invalid("%s is %s and q is %s; all three must have one type"
                              % (name, _arrays.NAMES[x.type], _arrays.NAMES[views[0].type]))
        skip = 0 if self.packed else 1
        token, head = (skip + 1, skip) if self.heads_first else (skip, skip + 1)
        self.axes = None if self.packed else 0, token, head, skip + 2
        self.q_shape, k_shape, v_shape = (x.shape for x in views)
        self.batch = 1 if self.packed else self.q_shape[0]
        if not self.packed and (k_shape[0] != self.batch or v_shape[0] != self.batch):
            raise invalid("the batch sizes of q, k and v are %d, %d and %d; they must be equal" % (self.batch, k_shape[0], v_shape[0]))
        if v_shape[token] != k_shape[token] or v_shape[head] != k_shape[head]:
            raise invalid("k has %d tokens and %d heads, v has %d and %d; they must be equal"
                          % (k_shape[token], k_shape[head], v_shape[token], v_shape[head]))
        if k_shape[-1] != self.q_shape[-1]:
            raise invalid("the head size of q is %d, that of k is %d; they must be equal" % (self.q_shape[-1], k_shape[-1]))
        heads, kv_heads = self.q_shape[head], k_shape[head]
        if heads < 1 or kv_heads < 1 or heads % kv_heads:
            raise invalid("q has %d heads and k has %d; a multiple of k's (from 1 on) is expected for q" % (heads, kv_heads))
        if self.q_shape[-1] < 1 or v_shape[-1] < 1:
            raise invalid("the head sizes of q and v are %d and %d; at least 1 is expected" % (self.q_shape[-1], v_shape[-1]))
        self.heads, self.q_rows, self.k_rows, self.value_dim = heads, self.q_shape[token], k_shape[token], v_shape[-1]
        if self.packed:
            tokens, keys, self.q_first, self.k_first = self._packed(starts_q, starts_k, lengths_k)
        else:
            tokens, keys, self.q_first, self.k_first = self._batched(lengths_k)
        self.probs_keys = int(keys.max()) if self.packed else self.k_rows
        at_q, at_k = (self.q_first, self.k_first) if self.packed else (None, None)
        self.q = _arrays.rows("q", views[0], self.axes, at_q)
        self.k = _arrays.rows("k", views[1], self.axes, at_k)
        self.v = _arrays.rows("v", views[2], self.axes, at_k)
        if (self.k.first != self.v.first).any():   # the library has one list of rows for both
            self.k = _arrays.rows("k", views[1].copy(), self.axes, at_k)
            self.v = _arrays.rows("v", views[2].copy(), self.axes, at_k)
        self.like = views[0]
        self.seed = whole("seed", seed, 0, 2**64 - 1)
        self.alibi = self._per_head("alibi_slopes", alibi_slopes)
        self.sinks = self._per_head("sinks", sinks)
        self.bias_by_row = False
        self.bias, bias_heads, self.bias_batch = self._square("bias", bias, "f", "float32", np.float32)
        self.problem = Problem(heads=heads, kv_heads=kv_heads, head_dim=self.q_shape[-1], value_dim=self.value_dim, tokens=tokens,
                               keys=keys, kind=views[0].type, out_kind=_arrays.type_named("out_dtype", out_dtype),
                               alibi=self.alibi is not None,
                               sinks=self.sinks is not None, bias_heads=bias_heads, **options)
        if self.problem.dropout == 0.0 and self.seed:
            raise invalid("seed is %d, but dropout_p is 0: nothing is drawn; leave it out" % self.seed)
        if mask is not None:
            self._mask(mask)
        if documents is not None:
            self._documents(documents)

    # ---- sequences ----

    def _starts(self, name, given, rows):
        starts = lengths(name, given)
        if not len(starts) or starts[0] != 0 or starts[-1] != rows or (np.diff(starts) < 0).any():
            raise invalid("%s is %s; it must begin with 0, never fall, and end with the %d tokens of the array"
                          % (name, starts.tolist() if len(starts) < 9 else "[%d, ..., %d]" % (starts[0], starts[-1]), rows))
        return starts

    def _packed(self, starts_q, starts_k, lengths_k):
        if lengths_k is not None:
            raise invalid("lengths_k is given with packed sequences, whose lengths stand in cu_seqlens_k; leave it out")
        qs, ks = self._starts("cu_seqlens_q", starts_q, self.q_rows), self._starts("cu_seqlens_k", starts_k, self.k_rows)
        if len(qs) != len(ks):
            raise invalid("cu_seqlens_q has %d sequences and cu_seqlens_k %d; they must be equal" % (len(qs) - 1, len(ks) - 1))
        if len(qs) == 1:   # no sequence at all runs as one without tokens
            qs = ks = np.zeros(2, np.int64)
        return np.diff(qs), np.diff(ks), np.ascontiguousarray(qs[:-1]), np.ascontiguousarray(ks[:-1])

    def _batched(self, lengths_k):
        count = max(1, self.batch)
        keys = np.full(count, self.k_rows if self.batch else 0, np.int64)
        if lengths_k is not None:
            given = lengths("lengths_k", lengths_k, self.batch)
            if len(given) and (given.min() < 0 or given.max() > self.k_rows):
                raise invalid("lengths_k has entries from %d to %d; 0 to %d (the tokens of k) is expected"
                              % (given.min(), given.max(), self.k_rows))
            keys[:len(given)] = given
        tokens = np.full(count, self.q_rows if self.batch else 0, np.int64)
        return tokens, keys, np.arange(count, dtype=np.int64) * self.q_rows, np.arange(count, dtype=np.int64) * self.k_rows

    # ---- what comes besides ----

    def _per_head(self, name, given):
        if given is None:
            return None
        array = _arrays.as_numpy(name, given, "f", "float32")
        if array.shape != (self.heads,):
            raise invalid("%s has the shape %s; [%d], a number for each head of q, is expected" % (name, list(array.shape), self.heads))
        if array.dtype != np.float32:
            raise invalid("%s is of type %s; float32 is expected" % (name, array.dtype.name))
        return np.ascontiguousarray(array)

    def _square(self, name, given, kinds, want, kind):
        """An array [1 or B, 1 or H, Tq, Tk], packed [1 or H, Tq, Tk], dense; its heads; whether it has batches."""
        if given is None:
            return None, 0, False
        array = _arrays.as_numpy(name, given, kinds, want)
        if array.dtype.itemsize != np.dtype(kind).itemsize:
            raise invalid("%s is of type %s; %s is expected" % (name, array.dtype.name, want))
        lead = 1 if self.packed else 2
        if array.ndim != lead + 2 or array.shape[-2:] != (self.q_rows, self.k_rows) or array.shape[-3] not in (1, self.heads) or \
                (lead == 2 and array.shape[0] not in (1, self.batch)):
            raise invalid("%s has the shape %s; [%s1 or %d, %d, %d] is expected" % (
                name, list(array.shape), "" if self.packed else "1 or %d, " % self.batch, self.heads, self.q_rows, self.k_rows))
        return np.ascontiguousarray(array).view(kind), array.shape[-3], lead == 2 and array.shape[0] > 1

    def square_rows(self, heads, batches, by_row=False):
        """Where each sequence's queries begin in such an array, and its keys; by_row: heads lie within rows."""
        if self.packed:
            return self.q_first, self.k_first
        count = len(self.q_first)
        return np.arange(count, dtype=np.int64) * ((1 if by_row else heads) * self.q_rows if batches else 0), None

    def _mask(self, given):
        p = self.problem
        p.mask, p.mask_heads, batches = self._square("mask", given, "bu", "bool or uint8", np.uint8)
        p.mask_row, p.mask_key = self.square_rows(p.mask_heads, batches)
        some = p.mask.size > 0
        p.mask_strides = self.k_rows if some else 0, self.q_rows * self.k_rows if some and p.mask_heads > 1 else 0
        if not some:
            p.mask = np.zeros(1, np.uint8)

    def _documents(self, given):
        array = _arrays.as_numpy("documents", given, "iu", "int32")
        shared = array.ndim == 1
        if not (1 <= array.ndim <= (1 if self.packed else 2)) or array.shape[-1] != self.k_rows or \
                (not shared and array.shape[0] != self.batch):
            raise invalid("documents has the shape %s; [%s%d], a number for each key, is expected"
                          % (list(array.shape), "" if self.packed else "%d, %d] or [" % (self.batch, self.k_rows), self.k_rows))
        if array.size and (array.min() < -2**31 or array.max() > 2**31 - 1):
            raise invalid("documents has entries from %d to %d; numbers of 32 bits are expected" % (array.min(), array.max()))
        p = self.problem
        p.documents = np.ascontiguousarray(array, dtype=np.int32)
        p.documents_first = np.zeros(len(self.k_first), np.int64) if shared and not self.packed else self.k_first
        if not p.documents.size:
            p.documents = np.zeros(1, np.int32)

    # ---- results ----

    def lead(self):
        return () if self.packed else (self.batch,)

    def out(self, given):
        """The array of the results, as a view and as rows."""
        shape = self.q_shape[:-1] + (self.value_dim,)
        if given is None:
            v = _arrays.empty(self.like, shape, self.problem.out_kind)
        else:
            v = _arrays.view("out", given, "bf16" if getattr(given, "dtype", None) == np.uint16 else None)
            if v.shape != shape or v.type != self.problem.out_kind:
                raise invalid("out is %s of shape %s; %s of shape %s is expected" % (
                    _arrays.NAMES[v.type], list(v.shape), _arrays.NAMES[self.problem.out_kind], list(shape)))
        return v.array if given is None else given, _arrays.rows("out", v, self.axes, self.q_first if self.packed else None, output=True)

    def by_query(self, shape, dim):
        """A new F32 array [.., H, Tq] or [.., H, Tq, keys]."""
        v = _arrays.empty(self.like, self.lead() + (self.heads, self.q_rows) + shape, _structs.F32)
        skip = 0 if self.packed else 1
        axes = None if self.packed else 0, skip + 1, skip, skip + 2 if dim else None
        return v.array, _arrays.rows("", v, axes, self.q_first if self.packed else None, output=True)


def recomputes(out, lse):
    """Whether out and lse, both None, are to be made once more."""
    if (out is None) != (lse is None):
        raise invalid("%s is None; out and lse are both given, or both None and made once more" % ("out" if out is None else "lse"))
    return out is None


def _over_sequences(each):
    """The tree of rule 13 of rondo-numerics(7) over sequences that share a bias: [1, ...] of [B, ...]."""
    step = 1
    while step < len(each):
        for s in range(0, len(each) - step, 2 * step):
            with np.errstate(all="ignore"):
                total = each[s] + each[s + step]
            each[s] = np.where(total == total, total, np.float32(np.nan))   # the canonical one
        step *= 2
    return each[:1].copy()


class Way:
    """The way back: Arrays' gradients and what they follow from, as rows. What shares a list of rows begins in the same ones."""

    def __init__(self, arrays, dout, out, lse, dlse=None, bias_gradient=True, ranks=1):
        a = arrays
        a.problem.gradients = 1
        skip = 0 if a.packed else 1
        by_query = None if a.packed else 0, skip + 1, skip, None
        of_out = a.q_shape[:-1] + (a.value_dim,)
        of_lse = a.lead() + (a.heads, a.q_rows)
        self.recompute = recomputes(out, lse)
        both = [] if self.recompute else [("out", out, of_out, a.problem.out_kind)]
        self.out, self.dout = ([None] + self._given(a, both + [("dout", dout, of_out, a.problem.out_kind)], a.axes))[-2:]
        pair = [] if self.recompute else [("lse", lse, of_lse, _structs.F32)]
        pair = self._given(a, pair + ([("dlse", dlse, of_lse, _structs.F32)] if dlse is not None else []), by_query)
        self.lse = None if self.recompute else pair[0]
        self.dlse = pair[-1] if dlse is not None else None
        self.dq, = self._made(a, ("q",), a.q_first)
        self.dk, self.dv = self._made(a, ("k", "v"), a.k_first)
        bias_gradient = flag("bias_gradient", bias_gradient) and a.bias is not None
        self.summed = bias_gradient and ranks > 1 and not a.packed and a.batch > 1 and not a.bias_batch
        if self.summed:   # rows of one bias for all sequences are on one rank here and on another there: each has its own, and these are summed
            a.bias, a.bias_batch = np.repeat(a.bias, a.batch, axis=0), True
        if bias_gradient and a.bias_batch and a.problem.bias_heads > 1 and a.bias.size:
            # rows of [B,H,Tq,Tk] and heads of it lie in each other, which is no shape of a result: [B,Tq,H,Tk]
            a.bias, a.bias_by_row = np.ascontiguousarray(a.bias.transpose(0, 2, 1, 3)), True
        self.bias_by_row = a.bias_by_row
        self.dbias = np.zeros_like(a.bias) if bias_gradient else None
        self.dsinks = None if a.sinks is None else np.zeros(a.heads, np.float32)

    def _given(self, a, given, axes):
        at = a.q_first if a.packed else None
        views = []
        for name, array, shape, kind in given:
            v = _arrays.view(name, array, "bf16" if getattr(array, "dtype", None) == np.uint16 else None)
            if tuple(v.shape) != tuple(shape) or v.type != kind:
                raise invalid("%s is %s of shape %s; %s of shape %s is expected" % (
                    name, _arrays.NAMES[v.type], list(v.shape), _arrays.NAMES[kind], list(shape)))
            views.append(v)
        found = [_arrays.rows(x[0], v, axes, at) for x, v in zip(given, views)]
        if any((r.first != found[0].first).any() for r in found):
            found = [_arrays.rows(x[0], v.copy(), axes, at) for x, v in zip(given, views)]
        return found

    def _made(self, a, names, starts):
        """New arrays for the gradients of some that share a list; those that do not begin in the rows that theirs do are copied first."""
        at = starts if a.packed else None
        made = [_arrays.rows("d" + n, _arrays.empty_like(getattr(a, n).view), a.axes, at, output=True) for n in names]
        if any((made[i].first != getattr(a, n).first).any() or (made[i].first != made[0].first).any() for i, n in enumerate(names)):
            for i, n in enumerate(names):
                v = getattr(a, n).view.copy()
                setattr(a, n, _arrays.rows(n, v, a.axes, at))
                made[i] = _arrays.rows("d" + n, _arrays.empty(v, v.shape, v.type), a.axes, at, output=True)
        if names[0] == "k" and not a.packed and (a.problem.keys != a.k_rows).any():
            for r in made:
                r.view.array[...] = 0   # keys beyond lengths_k are of no sequence
        return made

    def results(self, like):
        """dq, dk, dv and, where there are a bias and sinks, their gradients."""
        if self.summed:
            self.dbias = _over_sequences(self.dbias)
        extra = [] if self.dbias is None else [np.ascontiguousarray(self.dbias.transpose(0, 2, 1, 3)) if self.bias_by_row else self.dbias]
        extra += [] if self.dsinks is None else [self.dsinks]
        if like.torch:
            import torch
            extra = [torch.from_numpy(x) for x in extra]
        return tuple([self.dq.view.array, self.dk.view.array, self.dv.view.array] + extra)
