# SPDX-License-Identifier: BSD-2-Clause
"""The layers around attention, and their gradients, on arrays of numpy and tensors of torch: linear layers, RMSNorm, rotations, gated units,
embeddings, cross-entropy.

Rows are what stands before the last dimension: [..., width]. Arrays are float32; one whose rows lie a fixed distance apart is used where it
lies, another input is copied, another output refused. Sums over tokens - the gradients of weights - are in the order of Tokens, which says
where each row's token stands; a Team makes them over the tokens of all ranks.
"""
import ctypes
import os
import threading

import numpy as np

from . import _arrays, _structs
from ._library import LEVELS, check, invalid, lib, number_of
from ._problem import flag, lengths, real, whole
from ._ranks import Context

_own = threading.local()


def _context(context):
    """The caller's, or one rank that this thread keeps."""
    if context is None:
        context, process = getattr(_own, "context", (None, 0))
        if process != os.getpid():   # a process that was forked has not the threads
            if context is not None:
                context._owned = False
            context = Context()
            _own.context = context, os.getpid()
    elif not isinstance(context, Context):
        raise TypeError("context is a %s; a Context is expected" % type(context).__name__)
    return context.pointer


class _Matrix:
    """An array [..., width] as rows, `stride` elements apart. lead: the dimensions before the last."""
    __slots__ = ("view", "address", "rows", "width", "stride", "lead")


def _rows_apart(v):
    """How many elements a view's rows are apart, or None where that is not one number, or positive, or the last dimension has gaps."""
    if 0 in v.shape:
        return max(1, v.shape[-1])
    if v.strides is None or (v.shape[-1] > 1 and v.strides[-1] != 1):
        return None
    stride, rows = None, 1
    for size, step in zip(v.shape[-2::-1], v.strides[-2::-1]):
        if size == 1:
            continue
        if stride is None:
            stride = step
        elif step != stride * rows:
            return None
        rows *= size
    if stride is None:
        return max(1, v.shape[-1])
    return stride if stride >= v.shape[-1] else None


def _matrix(name, array, width=None, *, lead=None, dense=False, output=False):
    v = _arrays.view(name, array)
    if v.type != _structs.F32:
        raise invalid("%s is %s; layers compute on float32" % (name, _arrays.NAMES[v.type]))
    if len(v.shape) < 1 or (width is not None and v.shape[-1] != width):
        raise invalid("%s has the shape %s; [..., %s] is expected" % (name, list(v.shape), "width" if width is None else width))
    if lead is not None and tuple(v.shape[:-1]) != tuple(lead):
        raise invalid("%s has the shape %s; %s is expected" % (name, list(v.shape), list(lead) + [v.shape[-1]]))
    if output and not v.writable:
        raise invalid("%s is read-only; an array that can be written is expected" % name)
    stride = _rows_apart(v)
    if stride is None or (dense and stride != max(1, v.shape[-1])):
        if output:
            raise invalid("%s has strides that results cannot be written through; its rows must be dense%s" %
                          (name, " and side by side" if dense else " and a fixed distance apart"))
        v = v.copy()
        stride = max(1, v.shape[-1])
    self = _Matrix()
    self.view, self.address, self.width, self.stride, self.lead = v, v.address, v.shape[-1], stride, tuple(v.shape[:-1])
    self.rows = int(np.prod(self.lead, dtype=np.int64))
    return self


def _result(name, given, like, shape, dense=False):
    """What is written: the caller's array, or a new one of the sort that `like` is."""
    if given is None:
        given = _arrays.empty(like.view, tuple(shape), _structs.F32).array
    elif _arrays.is_torch(given) != like.view.torch:
        raise TypeError("%s is a %s; an array of the sort that the others are is expected" % (name, type(given).__name__))
    return given, _matrix(name, given, shape[-1], lead=shape[:-1], dense=dense, output=True)


def _vector(name, array, size):
    """A dense vector's matrix, or None."""
    if array is None:
        return None
    m = _matrix(name, array, size, lead=())
    return m


def _address(m):
    return None if m is None else m.address


def _numbers(name, array, lead):
    """Labels and ids as dense int32; lead: the shape that they must have."""
    found = _arrays.as_numpy(name, array, "iu", "whole numbers")
    if tuple(found.shape) != tuple(lead):
        raise invalid("%s has the shape %s; %s is expected" % (name, list(found.shape), list(lead)))
    if found.size and (int(found.max()) > 2**31 - 1 or int(found.min()) < -2**31):
        raise invalid("%s has numbers of more than 32 bits" % name)
    return np.asarray(found, np.int32, order="C")


# ---- which tokens stand in the rows ----

class Tokens:
    """Where the tokens of rows stand, for sums over them: rondo_tokens_create(3). The bits of a sum follow from which tokens there are, and
    not from how they are shared out.

    Tokens(lengths): whole sequences, one behind the other. Tokens(spans=..., part=r): spans[part][sequence] is a list of Spans, whose `row`
    counts from the part's first row on; the rows of this one are those of `part`. Tokens.of(plan) has the query tokens of a Plan, its
    context's rank being the part.
    """

    def __init__(self, lengths_of=None, *, spans=None, part=0):
        self._pointer = ctypes.c_void_p()
        if (lengths_of is None) == (spans is None):
            raise invalid("Tokens takes lengths or spans; give one of them")
        if spans is None:
            if not isinstance(part, int) or part:
                raise invalid("part is %r without spans; leave it out" % (part,))
            own = np.ascontiguousarray(lengths("lengths", np.atleast_1d(_arrays.as_numpy("lengths", lengths_of, "iu", "whole numbers"))))
            desc = _structs.rondo_tokens_desc(sequences=len(own), lengths=_arrays.pointer(own), parts=1)
            self.parts = 1
        else:
            sequences = {len(of) for of in spans}
            if len(sequences) != 1 or not min(sequences):
                raise invalid("spans has parts of %s sequences; a list for each sequence is expected in every part" % sorted(sequences))
            flat = [s for of in spans for sequence in of for s in sequence]
            own = (_structs.rondo_span * max(1, len(flat)))(*[_structs.rondo_span(*(int(n) for n in s)) for s in flat])
            counts = np.array([len(sequence) for of in spans for sequence in of], np.int64)
            desc = _structs.rondo_tokens_desc(sequences=sequences.pop(), spans=ctypes.addressof(own), span_counts=_arrays.pointer(counts),
                                              parts=len(spans), part=whole("part", part, 0, max(0, len(spans) - 1)))
            self.parts = len(spans)
        check(lib.rondo_tokens_create(ctypes.byref(self._pointer), ctypes.byref(desc)))

    @classmethod
    def of(cls, plan):
        parts = []
        for rank in range(plan.context.ranks):
            row, mine = 0, []
            for sequence in range(len(plan.problem.tokens)):
                spans = plan.spans(sequence, False, rank)
                mine.append([(s.first, s.count, s.step, row + s.row) for s in spans])
                row += sum(s.count for s in spans)
            parts.append(mine)
        return cls(spans=parts, part=plan.context.rank)

    @property
    def pointer(self):
        return self._pointer

    @property
    def rows(self):
        """How many rows arrays must have."""
        return lib.rondo_tokens_rows(self._pointer)

    def __del__(self):
        if getattr(self, "_pointer", None):
            lib.rondo_tokens_destroy(self._pointer)


def _tokens(tokens, m):
    """What was given, or, of [T, width], one sequence, and of [B, ..., T, width] as many as there are."""
    if tokens is None:
        tokens = Tokens([m.lead[-1] if m.lead else 1] * int(np.prod(m.lead[:-1], dtype=np.int64))) if m.rows else Tokens([0])
    if not isinstance(tokens, Tokens):
        raise TypeError("tokens is a %s; Tokens is expected" % type(tokens).__name__)
    if tokens.rows > m.rows:
        raise invalid("tokens have %d rows and the arrays %d; there must be a row for each token" % (tokens.rows, m.rows))
    return tokens


class Team:
    """The ranks of a context as those that share tokens or weights' gradients: rondo_tp_create(3). All calls are collective."""

    def __init__(self, context):
        if not isinstance(context, Context):
            raise TypeError("context is a %s; a Context is expected" % type(context).__name__)
        self._pointer, self.context = ctypes.c_void_p(), context
        context.sweep()
        check(lib.rondo_tp_create(ctypes.byref(self._pointer), context.pointer, None))
        context._plans.add(self)

    @property
    def pointer(self):
        if not self._pointer:
            raise invalid("this team is closed, or its context is; make another one")
        return self._pointer

    def close(self):
        if self._pointer:
            lib.rondo_tp_destroy(self._pointer)
        self._pointer = ctypes.c_void_p()

    def __del__(self):
        if getattr(self, "_pointer", None):
            self.context._dropped.append((lib.rondo_tp_destroy, self._pointer))

    def rows(self, rows, rank=None):
        """The first of `rows` rows that a rank keeps, and how many; rank None: this one."""
        first, count = ctypes.c_int64(), ctypes.c_int64()
        rank = self.context.rank if rank is None else whole("rank", rank, 0, 2**31 - 1)
        check(lib.rondo_tp_rows(self.pointer, whole("rows", rows, 0), rank, ctypes.byref(first), ctypes.byref(count)))
        return first.value, count.value

    def gather(self, kept, rows, *, out=None):
        """All `rows` rows from what each rank keeps of them, [count, width]."""
        m = _matrix("kept", kept, dense=True)
        first, count = self.rows(rows)
        if m.rows != count:
            raise invalid("kept has %d rows; this rank keeps %d of %d" % (m.rows, count, rows))
        out, o = _result("out", out, m, (rows, m.width), dense=True)
        check(lib.rondo_tp_gather(self.pointer, rows, m.width, m.address, o.address))
        return out


    def _shares(self, part, total, width):
        """All rows of what each rank has its share of, as rondo_share() gives it."""
        m, sizes = _matrix("part", part, width, dense=True), (ctypes.c_size_t * self.context.ranks)()
        for rank in range(self.context.ranks):
            begin, count = share(total, self.context.ranks, rank)
            sizes[rank] = 4 * count * width
        out, o = _result("out", None, m, (total, width), dense=True)
        check(lib.rondo_all_gather(self.context.pointer, m.address, o.address, sizes))
        return out


def share(total, parts, index):
    """Of `total` things dealt to `parts` in runs: the first of part `index`, and how many."""
    begin, count = ctypes.c_int64(), ctypes.c_int64()
    check(lib.rondo_share(total, parts, None, index, ctypes.byref(begin), ctypes.byref(count)))
    return begin.value, count.value


def _team(team):
    if not isinstance(team, Team):
        raise TypeError("team is a %s; a Team is expected" % type(team).__name__)
    return team.pointer


# ---- linear layers ----

class Linear:
    """y = x W^T with weights [out, in], packed once: rondo_linear_create(3). dtype "f32", "bf16", "f16" or "q8" is how they are stored, None:
    as they come. The sum over inputs has `leaves` leaves, 0: one for each 512. level "fast" gives up the bits for speed."""

    def __init__(self, weight, *, dtype=None, leaves=0, group=0, level=None, context=None):
        self._pointer = ctypes.c_void_p()
        v = _arrays.view("weight", weight)
        if len(v.shape) != 2:
            raise invalid("weight has the shape %s; [out, in] is expected" % list(v.shape))
        if v.strides is None or v.strides[1] != 1 or v.strides[0] != v.shape[1]:
            v = v.copy()
        kind = _structs.Q8 if isinstance(dtype, str) and dtype == "q8" else _arrays.type_named("dtype", dtype) or v.type
        self.outputs, self.inputs = v.shape
        pointer = _context(context)
        desc = _structs.rondo_linear_desc(out=self.outputs, type=kind, leaves=whole("leaves", leaves, 0, 2**31 - 1),
                                          group=whole("group", group, 0, 2**31 - 1), level=number_of("level", LEVELS, level))
        setattr(desc, "in", self.inputs)
        check(lib.rondo_linear_create(ctypes.byref(self._pointer), pointer, ctypes.byref(desc)))
        check(lib.rondo_linear_load_from(self._pointer, 0, self.outputs, v.type, v.address, None))

    def __del__(self):
        if getattr(self, "_pointer", None):
            lib.rondo_linear_destroy(self._pointer)

    @property
    def bytes(self):
        """Of the packed weights."""
        return lib.rondo_linear_bytes(self._pointer)

    def __call__(self, x, bias=None, *, out=None, accumulate=False, context=None):
        """x [..., in] -> [..., out]; bias [out] is added once. accumulate: onto what out has."""
        m, b = _matrix("x", x, self.inputs), _vector("bias", bias, self.outputs)
        if flag("accumulate", accumulate) and out is None:
            raise invalid("accumulate is True without out; there is nothing to add to")
        out, y = _result("out", out, m, m.lead + (self.outputs,))
        check(lib.rondo_linear_execute(self._pointer, _context(context), m.rows, m.address, m.stride, y.address, y.stride, _address(b),
                                       int(bool(accumulate))))
        return out

    def dx(self, dy, *, leaves=0, out=None, accumulate=False, context=None):
        """dy [..., out] -> dx [..., in]: rondo_linear_dx(3), whose sum over outputs has `leaves` leaves."""
        m = _matrix("dy", dy, self.outputs)
        if flag("accumulate", accumulate) and out is None:
            raise invalid("accumulate is True without out; there is nothing to add to")
        out, y = _result("out", out, m, m.lead + (self.inputs,))
        check(lib.rondo_linear_dx(self._pointer, _context(context), m.rows, m.address, m.stride, whole("leaves", leaves, 0, 2**31 - 1),
                                  y.address, y.stride, int(bool(accumulate))))
        return out


def linear(x, weight, bias=None, *, leaves=0, out=None, accumulate=False, context=None):
    """x W^T + bias of weights that are used once; Linear keeps them packed."""
    return Linear(weight, leaves=leaves, context=context)(x, bias, out=out, accumulate=accumulate, context=context)


def _summed(name, given, like, shape, accumulate):
    if flag("accumulate", accumulate) and given is None:
        raise invalid("accumulate is True without %s; there is nothing to add to" % name)
    return _result(name, given, like, shape)


def linear_dw(dy, x, tokens=None, *, out=None, accumulate=False, team=None, context=None):
    """dW [out, in], the sum over tokens of dy [..., out] and x [..., in]: rondo_linear_dw(3). tokens None: [B, T, width] are B sequences.

    team: over the tokens of all its ranks, part r of `tokens` being rank r's; each rank gets the rows team.rows(out) of dW.
    """
    d, m = _matrix("dy", dy), _matrix("x", x)
    if m.rows != d.rows:
        raise invalid("dy has %d rows and x %d; they must be equal" % (d.rows, m.rows))
    tokens, add = _tokens(tokens, m), flag("accumulate", accumulate)
    kept = d.width if team is None else _kept(team, d.width)
    out, w = _summed("out", out, d, (kept, m.width), accumulate)
    if team is None:
        check(lib.rondo_linear_dw(_context(context), tokens.pointer, d.width, d.address, d.stride, m.width, m.address, m.stride, w.address, w.stride, add))
    else:
        check(lib.rondo_tp_linear_dw(_team(team), tokens.pointer, d.width, d.address, d.stride, m.width, m.address, m.stride, w.address, w.stride, add))
    return out


def _kept(team, rows):
    _team(team)
    return team.rows(rows)[1]


def token_sum(x, tokens=None, *, out=None, accumulate=False, team=None, context=None):
    """[dim], the sum over tokens of x [..., dim]: a bias's gradient, of x = dy. tokens and team as in linear_dw(); every rank gets all."""
    m = _matrix("x", x)
    tokens, add = _tokens(tokens, m), flag("accumulate", accumulate)
    out, s = _summed("out", out, m, (m.width,), accumulate)
    if team is None:
        check(lib.rondo_token_sum(_context(context), tokens.pointer, m.width, m.address, m.stride, s.address, add))
    else:
        check(lib.rondo_tp_token_sum(_team(team), tokens.pointer, m.width, m.address, m.stride, s.address, add))
    return out


# ---- norms, rotations, gated units ----

def rmsnorm(x, weight, eps=1e-6, *, out=None, context=None):
    """x / sqrt(mean(x^2) + eps) * weight, of rows [..., dim]; out may be x."""
    m = _matrix("x", x, dense=True)
    w = _matrix("weight", weight, m.width, lead=())
    out, y = _result("out", out, m, m.lead + (m.width,), dense=True)
    check(lib.rondo_rmsnorm(_context(context), m.rows, m.width, m.address, w.address, real("eps", eps), y.address))
    return out


def rmsnorm_backward(dy, x, weight, eps=1e-6, *, tokens=None, out=None, accumulate=False, team=None, context=None):
    """dx and dweight of rmsnorm(). out: of dx, may be x or dy; accumulate: dx onto what it has. tokens and team as in linear_dw(), for dweight."""
    m = _matrix("x", x, dense=True)
    d, w = _matrix("dy", dy, m.width, lead=m.lead, dense=True), _matrix("weight", weight, m.width, lead=())
    out, o = _summed("out", out, m, m.lead + (m.width,), accumulate)
    if o.stride != max(1, m.width):
        raise invalid("out has strides that results cannot be written through; its rows must be dense and side by side")
    terms = _arrays.empty(m.view, m.lead + (m.width,), _structs.F32)
    check(lib.rondo_rmsnorm_dx(_context(context), m.rows, m.width, m.address, w.address, real("eps", eps), d.address, o.address, terms.address,
                               flag("accumulate", accumulate)))
    return out, token_sum(terms.array, tokens, team=team, context=context)


def _turn(function, name, x, table, out, context):
    v = _arrays.view(name, x)
    if v.type != _structs.F32 or len(v.shape) < 3:
        raise invalid("%s is %s of shape %s; float32 [..., T, heads, head size] is expected" % (name, _arrays.NAMES[v.type], list(v.shape)))
    lead, rows, heads, size = v.shape[:-3], v.shape[-3], v.shape[-2], v.shape[-1]
    t = _arrays.view("table", table)
    if t.type != _structs.F32 or len(t.shape) < 2 or t.shape[-1] > size or t.shape[-1] % 2 or t.shape[:-1] not in ((rows,), lead + (rows,)):
        raise invalid("table is %s of shape %s; float32 [%d, even, up to %d], or that of each batch, is expected: half of it cosines, then sines"
                      % (_arrays.NAMES[t.type], list(t.shape), rows, size))
    if out is None:
        out = v.copy().array
    elif out is not x:
        if tuple(out.shape) != tuple(v.shape):
            raise invalid("out has the shape %s; %s is expected" % (list(out.shape), list(v.shape)))
        if v.torch:
            out.copy_(v.array)
        else:
            out[...] = v.array
    o = _arrays.view("out", out)
    if o.type != _structs.F32 or not o.writable:
        raise invalid("out is %s%s; float32 that can be written is expected" % (_arrays.NAMES[o.type], "" if o.writable else ", read-only"))
    axes = (range(len(o.shape) - 3, len(o.shape)))
    row, head, dim = (o.strides[a] for a in axes) if o.strides is not None else (0, 0, 0)
    head = head if heads > 1 else max(1, size)
    row = row if rows > 1 else max(1, heads * head)
    if (size > 1 and dim != 1) or head < size or row < 1:
        raise invalid("out has strides that results cannot be written through; a head's numbers must be side by side, the other strides positive")
    pointer = _context(context)
    for at in np.ndindex(*lead):
        one = _matrix("table", t.array if len(t.shape) == 2 else t.array[at], dense=True)
        where = o.address + 4 * sum(i * s for i, s in zip(at, o.strides))
        check(function(pointer, rows, heads, one.width, where, row, head, one.address))
    return out


def rope(x, table, *, out=None, context=None):
    """Turns pairs (i, i + dim/2) of each head of x [..., T, heads, head size] by table [T, dim], or one for each batch: dim/2 cosines, then dim/2
    sines, float32. out may be x."""
    return _turn(lib.rondo_rope, "x", x, table, out, context)


def rope_backward(dy, table, *, out=None, context=None):
    """The turn back, of a gradient; out may be dy."""
    return _turn(lib.rondo_rope_dx, "dy", dy, table, out, context)


def swiglu(gate, up, *, out=None, context=None):
    """silu(gate) * up, element by element; out may be gate or up."""
    g = _matrix("gate", gate, dense=True)
    u = _matrix("up", up, g.width, lead=g.lead, dense=True)
    out, y = _result("out", out, g, g.lead + (g.width,), dense=True)
    check(lib.rondo_swiglu(_context(context), g.rows * g.width, g.address, u.address, y.address))
    return out


def swiglu_backward(dy, gate, up, *, dgate=None, dup=None, context=None):
    """dgate and dup of swiglu(); where given they may each be gate, up or dy."""
    g = _matrix("gate", gate, dense=True)
    u, d = _matrix("up", up, g.width, lead=g.lead, dense=True), _matrix("dy", dy, g.width, lead=g.lead, dense=True)
    dgate, a = _result("dgate", dgate, g, g.lead + (g.width,), dense=True)
    dup, b = _result("dup", dup, g, g.lead + (g.width,), dense=True)
    check(lib.rondo_swiglu_dx(_context(context), g.rows * g.width, g.address, u.address, d.address, a.address, b.address))
    return dgate, dup


# ---- embeddings and the loss ----

def embedding(ids, weight):
    """Rows ids of a table [words, width]."""
    w = _matrix("weight", weight)
    if len(w.lead) != 1:
        raise invalid("weight has the shape %s; [words, width] is expected" % (list(w.lead) + [w.width]))
    names = _arrays.as_numpy("ids", ids, "iu", "whole numbers")
    if names.size and (int(names.min()) < 0 or int(names.max()) >= w.rows):
        raise invalid("ids has %d; the table has rows 0 to %d" % (int(names.min()) if int(names.min()) < 0 else int(names.max()), w.rows - 1))
    if w.view.torch:
        import torch
        return w.view.array[torch.from_numpy(np.ascontiguousarray(names, np.int64))]
    return w.view.array[names]


def embedding_dw(dy, ids, words, *, first=0, count=None, tokens=None, out=None, accumulate=False, team=None, context=None):
    """The table's gradient: row r is the sum over the tokens that name r of rows of dy [..., width]: rondo_lookup_dw(3). Rows [first, first +
    count) of `words`; with a team, which has the tokens of all ranks, rows rondo_share() gives this rank of them: first and count are left out."""
    d = _matrix("dy", dy)
    names = _numbers("ids", ids, d.lead)
    words, first = whole("words", words, 1), whole("first", first, 0)
    tokens, add = _tokens(tokens, d), flag("accumulate", accumulate)
    if team is None:
        count = words - first if count is None else whole("count", count, 0)
        out, w = _summed("out", out, d, (count, d.width), accumulate)
        check(lib.rondo_lookup_dw(_context(context), tokens.pointer, names.ctypes.data, words, first, count, d.width, d.address, d.stride, w.address,
                                  w.stride, add))
        return out
    if first or count is not None:
        raise invalid("first or count is given with a team, which shares the rows out; leave them out")
    pointer = _team(team)
    table = _structs.rondo_tp_table(total=words, width=d.width)
    out, w = _summed("out", out, d, (share(words, team.context.ranks, team.context.rank)[1], d.width), accumulate)
    check(lib.rondo_tp_lookup_dw(pointer, tokens.pointer, ctypes.byref(table), names.ctypes.data, d.address, d.stride, w.address, w.stride, add))
    return out


def _entropy(logits, labels, ignore_index, leaves):
    x = _matrix("logits", logits)
    names = _numbers("labels", labels, x.lead)
    io = _structs.rondo_cross_entropy_io(rows=x.rows, classes=x.width, leaves=whole("leaves", leaves, 0, 2**31 - 1),
                                         ignore=whole("ignore_index", ignore_index, -2**31, 2**31 - 1), labels=names.ctypes.data,
                                         logits=x.address, stride=x.stride)
    return x, names, io


def cross_entropy(logits, labels, *, ignore_index=-100, leaves=0, context=None):
    """The loss of each row of logits [..., classes], float64 [...]: log(sum(exp(x))) - x[label]; 0 where the label is ignore_index."""
    x, names, io = _entropy(logits, labels, ignore_index, leaves)
    loss = np.zeros(x.lead, np.float64)
    io.loss = loss.ctypes.data
    check(lib.rondo_cross_entropy(_context(context), ctypes.byref(io)))
    if x.view.torch:
        import torch
        return torch.from_numpy(loss)
    return loss


def cross_entropy_backward(logits, labels, dloss=1.0, *, ignore_index=-100, leaves=0, out=None, accumulate=False, context=None):
    """dlogits, of a loss whose gradient by each row's is dloss, one number or [...]; out may be logits, unless accumulate."""
    x, names, io = _entropy(logits, labels, ignore_index, leaves)
    by = np.asarray(_arrays.as_numpy("dloss", dloss, "fiu", "a number, or one for each row"), np.float32, order="C")
    if by.ndim and tuple(by.shape) != x.lead:
        raise invalid("dloss has the shape %s; one number or %s is expected" % (list(by.shape), list(x.lead)))
    out, y = _summed("out", out, x, x.lead + (x.width,), accumulate)
    io.dloss, io.dloss_stride = by.ctypes.data, 1 if by.ndim else 0
    io.dx, io.dx_stride, io.add = y.address, y.stride, flag("accumulate", accumulate)
    check(lib.rondo_cross_entropy(_context(context), ctypes.byref(io)))
    return out


def token_loss(loss, labels, tokens=None, *, ignore_index=-100, team=None):
    """(sum, count): rows' losses [...] added up in the order of their tokens, in float64, and how many have another label than ignore_index."""
    found = np.asarray(_arrays.as_numpy("loss", loss, "f", "float64"), np.float64, order="C")
    names = _numbers("labels", labels, found.shape)
    if tokens is None:
        lead = found.shape
        tokens = Tokens([lead[-1] if lead else 1] * int(np.prod(lead[:-1], dtype=np.int64))) if found.size else Tokens([0])
    if not isinstance(tokens, Tokens):
        raise TypeError("tokens is a %s; Tokens is expected" % type(tokens).__name__)
    if tokens.rows > found.size:
        raise invalid("tokens have %d rows and loss %d; there must be a row for each token" % (tokens.rows, found.size))
    total, count = ctypes.c_double(), ctypes.c_int64()
    ignore = whole("ignore_index", ignore_index, -2**31, 2**31 - 1)
    if team is None:
        check(lib.rondo_token_loss(tokens.pointer, found.ctypes.data, names.ctypes.data, ignore, ctypes.byref(total), ctypes.byref(count)))
    else:
        check(lib.rondo_tp_token_loss(_team(team), tokens.pointer, found.ctypes.data, names.ctypes.data, ignore, ctypes.byref(total),
                                      ctypes.byref(count)))
    return total.value, count.value
