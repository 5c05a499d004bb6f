# SPDX-License-Identifier: BSD-2-Clause
"""Plans: one attention, laid out over ranks, made once and executed many times; and schedules, which say the same of ranks that need not
be there.

A plan speaks of a rank's own rows. rows() is where whole arrays in shared memory meet it: where a rank's rows of every sequence lie side
by side they are used as they are, else they are taken to memory of the rank, and results put back.
"""
import ctypes
from collections import namedtuple

import numpy as np

from . import _arrays, _structs
from ._library import ALGORITHMS, LAYOUTS, check, invalid, lib, name_of
from ._problem import Problem, flag, lengths, recomputes, whole

Span = namedtuple("Span", "first count step row")
Span.__doc__ = """`count` positions first, first + step, ...; `row` is where the first of them lies among the rank's rows of its
sequence."""

_i32 = ctypes.c_int32


def _line(write):
    """A text of the library's, written as snprintf() would."""
    size = check(write(None, 0))
    room = ctypes.create_string_buffer(size + 1)
    check(write(room, size + 1))
    return room.value.decode()


class Core:
    """A rondo_attention and its problem, for the rank of a context."""

    def __init__(self, context, problem):
        self._pointer, self.context, self.problem = ctypes.c_void_p(), context, problem
        context.sweep()
        desc = problem.describe()
        check(lib.rondo_attention_create(ctypes.byref(self._pointer), context.pointer, ctypes.byref(desc)))
        context._plans.add(self)
        self.info = _structs.rondo_attention_info()
        check(lib.rondo_attention_query(self._pointer, ctypes.byref(self.info)))

    @property
    def pointer(self):
        if not self._pointer:
            raise invalid("this plan is closed, or its context is; make another one")
        return self._pointer

    def close(self):
        if self._pointer:
            lib.rondo_attention_destroy(self._pointer)
        self._pointer = ctypes.c_void_p()

    def __del__(self):
        if self._pointer:
            self.context._dropped.append((lib.rondo_attention_destroy, self._pointer))

    def spans(self, sequence, keys, rank=-1):
        room = (_structs.rondo_span * 4)()
        count = check(lib.rondo_attention_spans(self.pointer, sequence, keys, rank, room, 4))
        if count > 4:
            room = (_structs.rondo_span * count)()
            check(lib.rondo_attention_spans(self.pointer, sequence, keys, rank, room, count))
        return [Span(s.first, s.count, s.step, s.row) for s in room[:count]]

    def held(self, keys):
        """Of this rank, by sequence: how many rows, and where they begin if they lie side by side in each; else None."""
        counts, firsts, beside = [], [], True
        for s in range(len(self.problem.tokens)):
            spans = self.spans(s, keys)
            counts.append(sum(x.count for x in spans))
            firsts.append(spans[0].first if spans else 0)
            beside = beside and all(x.step == 1 or x.count == 1 for x in spans) and \
                all(b.first == a.first + a.count for a, b in zip(spans, spans[1:]))
        return counts, firsts if beside else None

    def execute(self, io, stop=None):
        if stop is not None:
            io.progress = stop.progress
        check(lib.rondo_attention_execute(self.pointer, ctypes.byref(io), None))

    def backward(self, io, gradients, stop=None):
        if stop is not None:
            io.progress = stop.progress
        check(lib.rondo_attention_backward(self.pointer, ctypes.byref(io), ctypes.byref(gradients), None))

    def operation(self, index):
        return _line(lambda room, size: lib.rondo_attention_operation_text(self.pointer, index, room, size))


class Shared:
    """Executes a plan on whole arrays that all ranks of the process see."""

    def __init__(self, core, arrays):
        self.core, self.arrays = core, arrays
        self.kept, self.back = [], []
        self.held = [core.held(0), core.held(1)]
        self.io = _structs.rondo_attention_io()

    def _list(self, numbers):
        array = np.ascontiguousarray(numbers, dtype=np.int64)
        self.kept.append(array)
        return _arrays.pointer(array)

    def _place(self, rows, keys, copies, back, zero=False):
        """The tensor and its list of rows: of the whole array, or of this rank's rows of it."""
        counts, firsts = self.held[keys]
        if firsts is not None:
            return rows.tensor(), self._list(rows.first + np.asarray(firsts, np.int64))
        total, size = sum(counts), _arrays.SIZES[rows.type]
        data = np.empty(total * rows.heads * (1 if rows.dim is None else rows.dim) * size, np.uint8)
        self.kept.append(data)
        local = _arrays.dense_rows(data, rows.type, total, rows.heads, rows.dim).tensor()
        lengths_of = self.core.problem.keys if keys else self.core.problem.tokens
        for s, length in enumerate(lengths_of):
            if not counts[s]:
                continue
            whole_rows = rows.sequence(s, max(0, int(length)))
            if copies:
                check(lib.rondo_attention_take(self.core.pointer, s, keys, ctypes.byref(whole_rows), ctypes.byref(local), -1))
            if back:
                self.back.append((s, keys, whole_rows, local))
        if zero:
            data[:] = 0
        return local, None

    def run(self, out, lse, probs, stop):
        a, io = self.arrays, self.io
        io.q, io.q_row = self._place(a.q, 0, True, False)
        io.k, io.kv_row = self._place(a.k, 1, True, False)
        io.v, _ = self._place(a.v, 1, True, False)
        io.out, io.out_row = self._place(out, 0, False, True)
        if lse is not None:
            io.lse, io.lse_row = self._place(lse, 0, False, True)
        if probs is not None:
            io.probs, io.probs_row = self._place(probs, 0, False, True, zero=True)
        give_terms(io, a, self._list)
        self.core.execute(io, stop)
        self._put()

    def _put(self):
        for s, keys, whole_rows, local in self.back:
            check(lib.rondo_attention_put(self.core.pointer, s, keys, ctypes.byref(whole_rows), ctypes.byref(local), -1))

    def run_backward(self, w, dsinks, stop):
        """w: rows (and arrays) as Way names them; dsinks: of this rank, or None."""
        a, io, g = self.arrays, self.io, _structs.rondo_attention_gradients()
        io.q, io.q_row = self._place(a.q, 0, True, False)
        io.k, io.kv_row = self._place(a.k, 1, True, False)
        io.v, _ = self._place(a.v, 1, True, False)
        g.recompute = w.recompute
        g.dout, io.out_row = self._place(w.dout, 0, True, False)
        if w.dlse is not None:
            g.dlse, io.lse_row = self._place(w.dlse, 0, True, False)
        if not w.recompute:
            io.out, io.out_row = self._place(w.out, 0, True, False)
            io.lse, io.lse_row = self._place(w.lse, 0, True, False)
        g.dq, _ = self._place(w.dq, 0, False, True)
        g.dk, _ = self._place(w.dk, 1, False, True)
        g.dv, _ = self._place(w.dv, 1, False, True)
        give_terms(io, a, self._list)
        if w.dbias is not None:
            g.dbias = _structs.rondo_tensor.from_buffer_copy(io.bias)
            g.dbias.data = w.dbias.ctypes.data if w.dbias.size else io.bias.data
        if dsinks is not None:
            g.dsinks = _numbers(dsinks, [a.heads], [1])
        self.core.backward(io, g, stop)
        self._put()


def _numbers(array, shape, strides):
    t = _structs.rondo_tensor(data=array.ctypes.data, type=_structs.F32, dims=len(shape))
    for i, (size, step) in enumerate(zip(shape, strides)):
        t.shape[i], t.stride[i] = size, step
    return t


def give_terms(io, arrays, keep):
    """What an execution is given besides q, k, v and the room for results; keep(numbers) makes a list that stays."""
    if arrays.alibi is not None:
        io.alibi = _numbers(arrays.alibi, [arrays.heads], [1])
    if arrays.sinks is not None:
        io.sinks = _numbers(arrays.sinks, [arrays.heads], [1])
    if arrays.bias is not None:
        heads = arrays.problem.bias_heads
        row, key = arrays.square_rows(heads, arrays.bias_batch, arrays.bias_by_row)
        reach = arrays.q_rows if arrays.packed else int(row.max()) + arrays.q_rows
        strides = [heads * arrays.k_rows, arrays.k_rows] if arrays.bias_by_row else [arrays.k_rows, arrays.q_rows * arrays.k_rows]
        io.bias = _numbers(arrays.bias if arrays.bias.size else np.zeros(1, np.float32), [reach, heads, arrays.k_rows],
                           [max(1, x) for x in strides] + [1])
        io.bias_row = keep(row)
        if key is not None:
            io.bias_key = keep(key)
    io.seed = arrays.seed


class Plan:
    """Attention of known lengths on the ranks of a context, of which each has its own rows of q, k, v and the results.

    sequences: `tokens` and `keys` are of each, or lists of them; keys None: as many as tokens. Query i stands at key position i + keys -
    tokens. dtype, out_dtype: "f32", "bf16" or "f16". alibi, sinks, probs, gradients: whether they will be given or are wanted. owners, with
    layout "custom": the rank of each leaf of `leaf` (128) keys, sequence after sequence. The other keywords are those of attention(). The same plan is made on every rank; it costs nothing to ask it what it would do.

    The rank's rows are those of sequence 0, then of sequence 1 and so on; spans() says which positions they are, take() and put() copy
    between them and an array that has all, scatter() and gather() do so where only one rank has it.
    """

    def __init__(self, context, *, tokens, heads, head_dim, keys=None, kv_heads=None, value_dim=None, dtype="f32", out_dtype=None,
                 alibi=False, sinks=False, probs=False, **options):
        several = not hasattr(tokens, "__index__")
        tokens = lengths("tokens", tokens if several else [tokens])
        keys = tokens.copy() if keys is None else lengths("keys", keys if not hasattr(keys, "__index__") else [keys], len(tokens))
        if not len(tokens):
            tokens = keys = np.zeros(1, np.int64)
        if tokens.min() < 0 or keys.min() < 0:
            raise invalid("tokens or keys has a negative entry; lengths from 0 on are expected")
        self.problem = make_problem(tokens, keys, heads, head_dim, kv_heads, value_dim, dtype, out_dtype, alibi, sinks, probs, options)
        self._core = Core(context, self.problem)
        self.context = context
        info = self._core.info
        self.q_rows, self.kv_rows = info.q_rows, info.kv_rows
        self.algorithm, self.layout = name_of(ALGORITHMS, info.algorithm), name_of(LAYOUTS, info.layout)
        self.leaf, self.head_groups = info.leaf, info.head_groups
        self.grid = tuple(info.grid) if info.grid[0] else None
        self.workspace_bytes, self.device_bytes, self.plan_bytes, self.pack_bytes = \
            info.workspace_bytes, info.device_bytes, info.plan_bytes, info.pack_bytes
        self.messages, self.bytes = info.messages, info.bytes
        self.messages_total, self.bytes_total = info.messages_total, info.bytes_total
        self.visible_pairs, self.visible_pairs_here = info.visible_pairs, info.visible_pairs_here
        self.flops, self.imbalance, self.hash = info.flops, info.imbalance, info.hash
        self.backward_algorithm = name_of(ALGORITHMS, info.backward_algorithm) if self.problem.gradients else None
        self.backward_workspace_bytes, self.backward_pack_bytes = info.backward_workspace_bytes, info.backward_pack_bytes
        self.backward_messages, self.backward_bytes = info.backward_messages, info.backward_bytes
        self.backward_messages_total, self.backward_bytes_total = info.backward_messages_total, info.backward_bytes_total
        self.backward_flops, self.backward_recompute_bytes = info.backward_flops, info.backward_recompute_bytes

    def close(self):
        """Ends the plan; by the context's thread."""
        self._core.close()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def __repr__(self):
        return "<rondo.Plan %s, %s, %d queries and %d keys of rank %d of %d>" % (
            self.algorithm, self.layout, self.q_rows, self.kv_rows, self.context.rank, self.context.ranks)

    def spans(self, sequence=0, keys=False, rank=None):
        """Which queries (keys: key positions) of a sequence a rank holds, as Spans, ascending; rank None: this one."""
        rank = -1 if rank is None else whole("rank", rank, 0, 2**31 - 1)
        return self._core.spans(whole("sequence", sequence, 0), flag("keys", keys), rank)

    def positions(self, sequence=0, keys=False, rank=None):
        """The same as a list of numbers, in the order of the rank's rows: whole[positions] are its rows."""
        spans = self.spans(sequence, keys, rank)
        return np.concatenate([np.arange(s.count, dtype=np.int64) * s.step + s.first for s in spans] or [np.zeros(0, np.int64)])

    def operations(self):
        """What this rank does, one line an operation."""
        return [self._core.operation(i) for i in range(self._core.info.operations)]

    # ---- between whole arrays and the rank's rows ----

    def _parts(self, keys):
        p = self.problem
        return [int(max(0, n)) for n in (p.keys if keys else p.tokens)]

    def _pair(self, array, keys, rows, fill):
        """An array [all rows, heads, dim] or None, and this rank's rows of it."""
        count = self.kv_rows if keys else self.q_rows
        parts = self._parts(keys)
        whole_rows = None
        if array is not None:
            v = _arrays.view("array", array, _bits(array))
            if len(v.shape) != 3 or v.shape[0] != sum(parts):
                raise invalid("array has the shape %s; [%d, heads, head size] is expected: all sequences' rows, one behind the other"
                              % (list(v.shape), sum(parts)))
            whole_rows = _arrays.rows("array", v, (None, 0, 1, 2), np.cumsum([0] + parts[:-1]), output=not fill)
        own = _arrays.view("rows", rows, _bits(rows)) if rows is not None else None
        if own is not None and (len(own.shape) != 3 or own.shape[0] != count):
            raise invalid("rows has the shape %s; [%d, heads, head size] is expected" % (list(own.shape), count))
        return whole_rows, own, parts, count

    def _each(self, call, keys, whole_rows, own, parts, *root):
        nothing = _structs.rondo_tensor()
        local = own.tensor()
        for s, length in enumerate(parts):
            tensor = whole_rows.sequence(s, length) if whole_rows is not None else nothing
            check(call(self._core.pointer, s, int(keys), *root, ctypes.byref(tensor), ctypes.byref(local), -1))

    def take(self, array, keys=False):
        """This rank's rows of an array [all rows, heads, head size] that it sees; keys: it is k's or v's."""
        keys = flag("keys", keys)
        whole_rows, _, parts, count = self._pair(array, keys, None, True)
        v = whole_rows.view
        own = _arrays.empty(v, (count,) + tuple(v.shape[1:]), v.type)
        self._each(lib.rondo_attention_take, keys, whole_rows, _arrays.rows("rows", own, (None, 0, 1, 2), [0], output=True), parts)
        return own.array

    def put(self, rows, array, keys=False):
        """Writes this rank's rows into an array [all rows, heads, head size] that it sees."""
        keys = flag("keys", keys)
        whole_rows, own, parts, _ = self._pair(array, keys, rows, False)
        self._each(lib.rondo_attention_put, keys, whole_rows, _arrays.rows("rows", own, (None, 0, 1, 2), [0]), parts)
        return array

    def scatter(self, array, heads, dim, keys=False, root=0, dtype="f32"):
        """This rank's rows, [rows, heads, dim], of an array that only rank `root` has (others give None). Collective."""
        keys, here = flag("keys", keys), self.context.rank == root
        if here and array is None:
            raise invalid("array is None on rank %d, which is to have it" % root)
        kind = _arrays.type_named("dtype", dtype)
        whole_rows, _, parts, count = self._pair(array if here else None, keys, None, True)
        if here and (tuple(whole_rows.view.shape[1:]) != (heads, dim) or whole_rows.type != kind):
            raise invalid("array is %s of shape %s; %s of [.., %d, %d] is expected" % (
                _arrays.NAMES[whole_rows.type], list(whole_rows.view.shape), dtype, heads, dim))
        like = whole_rows.view if here else _arrays.view("", np.empty(0, np.float32))
        own = _arrays.empty(like, (count, heads, dim), kind)
        self._each(lib.rondo_attention_scatter, keys, whole_rows, _arrays.rows("rows", own, (None, 0, 1, 2), [0], output=True), parts, root)
        return own.array

    def gather(self, rows, keys=False, root=0):
        """On rank `root` the array [all rows, heads, head size] of which each rank has its rows; None on the others. Collective."""
        keys, here = flag("keys", keys), self.context.rank == root
        _, own, parts, _ = self._pair(None, keys, rows, True)
        result = _arrays.empty(own, (sum(parts),) + tuple(own.shape[1:]), own.type) if here else None
        whole_rows = _arrays.rows("array", result, (None, 0, 1, 2), np.cumsum([0] + parts[:-1]), output=True) if here else None
        self._each(lib.rondo_attention_gather, keys, whole_rows, _arrays.rows("rows", own, (None, 0, 1, 2), [0]), parts, root)
        return result.array if here else None

    # ---- execution ----

    def __call__(self, q, k, v, *, out=None, return_lse=False, return_attn_probs=False, alibi_slopes=None, sinks=None, bias=None, seed=0):
        """This rank's rows of the result, [q_rows, heads, value_dim], and lse [q_rows, heads] where return_lse, and probabilities
        [q_rows, heads, keys] where the plan was made with probs=True and return_attn_probs. Collective; nothing is allocated in the
        library from the second on."""
        p = self.problem
        given = self._given(q, k, v, alibi_slopes, sinks, bias, seed)
        io = given.io
        shape = (self.q_rows, p.heads, p.value_dim)
        if out is None:
            out = _arrays.empty(given.like, shape, p.out_kind).array
        io.out = given.own("out", out, shape, p.out_kind, output=True)
        results = [out]
        if flag("return_lse", return_lse):
            results.append(_arrays.empty(given.like, shape[:2], _structs.F32).array)
            io.lse = given.own("lse", results[-1], shape[:2], _structs.F32, output=True)
        if flag("return_attn_probs", return_attn_probs) != p.probs:
            raise invalid("return_attn_probs is %s, but the plan was made with probs=%s; they must agree"
                          % (return_attn_probs, bool(p.probs)))
        if p.probs:
            results.append(_arrays.empty(given.like, shape[:2] + (self._most_keys(),), _structs.F32).array)
            results[-1][...] = 0
            io.probs = given.own("probs", results[-1], results[-1].shape, _structs.F32, output=True)
        self._core.execute(io, self.context.stop)
        return results[0] if len(results) == 1 else tuple(results)

    def backward(self, dout, q, k, v, out, lse, *, dlse=None, alibi_slopes=None, sinks=None, bias=None, bias_gradient=True, seed=0):
        """Gradients with respect to this rank's rows of q, k and v, from those with respect to its rows of out and, where given, lse: dq,
        dk, dv; then dbias (unless bias_gradient is False), of which rows of this rank's queries are written and others 0, and dsinks, the
        whole sum on every rank, where there are a bias and sinks. out and lse may both be None, on all ranks: then they are made once more. For a plan
        that was made with gradients=True. Collective."""
        p = self.problem
        given = self._given(q, k, v, alibi_slopes, sinks, bias, seed)
        io, g = given.io, _structs.rondo_attention_gradients()
        shape = (self.q_rows, p.heads, p.value_dim)
        g.recompute = recomputes(out, lse)
        g.dout = given.own("dout", dout, shape, p.out_kind)
        if not g.recompute:
            io.out, io.lse = given.own("out", out, shape, p.out_kind), given.own("lse", lse, shape[:2], _structs.F32)
        if dlse is not None:
            g.dlse = given.own("dlse", dlse, shape[:2], _structs.F32)
        results = []
        for name, size in (("dq", (self.q_rows, p.heads, p.head_dim)), ("dk", (self.kv_rows, p.kv_heads, p.head_dim)),
                           ("dv", (self.kv_rows, p.kv_heads, p.value_dim))):
            results.append(_arrays.empty(given.like, size, p.kind).array)
            setattr(g, name, given.own(name, results[-1], size, p.kind, output=True))
        extra = []
        if p.bias_heads and flag("bias_gradient", bias_gradient):
            extra.append(np.zeros(self._bias_shape(), np.float32))
            g.dbias = _structs.rondo_tensor.from_buffer_copy(io.bias)
            if extra[-1].size:
                g.dbias.data = extra[-1].ctypes.data
        if p.sinks:
            extra.append(np.zeros(p.heads, np.float32))
            g.dsinks = _numbers(extra[-1], [p.heads], [1])
        self._core.backward(io, g, self.context.stop)
        if given.like.torch:
            import torch
            extra = [torch.from_numpy(x) for x in extra]
        return tuple(results + extra)

    def _most_keys(self):
        return int(max(0, self.problem.keys.max()))

    def _bias_shape(self):
        return int(self.problem.tokens.sum()), self.problem.bias_heads, self._most_keys()

    def _given(self, q, k, v, alibi_slopes, sinks, bias, seed):
        """This rank's inputs, checked, in a rondo_attention_io."""
        p, given = self.problem, _Given()
        io = given.io
        io.q = given.own("q", q, (self.q_rows, p.heads, p.head_dim), p.kind)
        given.like = given.kept[-1].view
        io.k = given.own("k", k, (self.kv_rows, p.kv_heads, p.head_dim), p.kind)
        io.v = given.own("v", v, (self.kv_rows, p.kv_heads, p.value_dim), p.kind)
        for name, array, wanted in (("alibi_slopes", alibi_slopes, p.alibi), ("sinks", sinks, p.sinks), ("bias", bias, p.bias_heads)):
            if (array is not None) != bool(wanted):
                raise invalid("%s is %sgiven, but the plan was made %s it"
                              % (name, "" if array is not None else "not ", "with" if wanted else "without"))
        io.seed = whole("seed", seed, 0, 2**64 - 1)
        if p.alibi:
            given.kept.append(_per_head("alibi_slopes", alibi_slopes, p.heads))
            io.alibi = _numbers(given.kept[-1], [p.heads], [1])
        if p.sinks:
            given.kept.append(_per_head("sinks", sinks, p.heads))
            io.sinks = _numbers(given.kept[-1], [p.heads], [1])
        if p.bias_heads:
            array, want = _arrays.as_numpy("bias", bias, "f", "float32"), self._bias_shape()
            if array.dtype != np.float32 or array.shape != want:
                raise invalid("bias is %s of shape %s; float32 of shape %s, a row for each query of all sequences, is expected"
                              % (array.dtype.name, list(array.shape), list(want)))
            given.kept.append(np.ascontiguousarray(array) if array.size else np.zeros(1, np.float32))
            io.bias = _numbers(given.kept[-1], want, [max(1, want[1] * want[2]), max(1, want[2]), 1])
        return given


class _Given:
    """Arrays of a rank's rows, kept as long as the structures that point to them."""

    def __init__(self):
        self.io, self.kept, self.like = _structs.rondo_attention_io(), [], None

    def own(self, name, array, shape, kind, output=False):
        v = _arrays.view(name, array, _bits(array))
        if tuple(v.shape) != tuple(shape) or v.type != kind:
            raise invalid("%s is %s of shape %s; this rank has %s of shape %s"
                          % (name, _arrays.NAMES[v.type], list(v.shape), _arrays.NAMES[kind], list(shape)))
        self.kept.append(_arrays.rows(name, v, (None, 0, 1, 2 if len(shape) > 2 else None), [0], output=output))
        return self.kept[-1].tensor()


def _bits(array):
    return "bf16" if getattr(array, "dtype", None) == np.uint16 else None


def _per_head(name, given, heads):
    array = _arrays.as_numpy(name, given, "f", "float32")
    if array.dtype != np.float32 or array.shape != (heads,):
        raise invalid("%s is %s of shape %s; float32 of shape [%d] is expected" % (name, array.dtype.name, list(array.shape), heads))
    return np.ascontiguousarray(array)


def make_problem(tokens, keys, heads, head_dim, kv_heads, value_dim, dtype, out_dtype, alibi, sinks, probs, options):
    known = ("causal", "window_size", "softmax_scale", "softcap", "dropout_p", "bias_heads", "layout", "algorithm", "grid", "head_groups",
             "leaf", "gradients", "arithmetic", "owners")
    for name in options:
        if name not in known:
            raise TypeError("there is no keyword %r here" % name)
    problem = Problem(heads=heads, kv_heads=heads if kv_heads is None else kv_heads, head_dim=head_dim,
                      value_dim=head_dim if value_dim is None else value_dim, tokens=tokens, keys=keys,
                      kind=_arrays.type_named("dtype", dtype or "f32"), out_kind=_arrays.type_named("out_dtype", out_dtype),
                      alibi=flag("alibi", alibi), sinks=flag("sinks", sinks), probs=probs, **options)
    whole("bias_heads", problem.bias_heads, 0)
    return problem


RankCost = namedtuple("RankCost", "operations messages bytes flops workspace_bytes pack_bytes")


class Told:
    """A schedule that is told, whatever of: its pointer in self._pointer."""

    _pointer = None

    def _ask(self):
        info = _structs.rondo_schedule_info()
        check(lib.rondo_schedule_query(self._pointer, ctypes.byref(info)))
        self.ranks, self.messages, self.bytes, self.flops, self.hash = info.ranks, info.messages, info.bytes, info.flops, info.hash
        return info

    def rank(self, rank):
        """What one rank does: operations (their number), messages and bytes that it sends, flops, workspace_bytes, pack_bytes."""
        info = _structs.rondo_schedule_rank_info()
        check(lib.rondo_schedule_rank(self._pointer, whole("rank", rank, 0, 2**31 - 1), ctypes.byref(info)))
        return RankCost(info.operations, info.messages, info.bytes, info.flops, info.workspace_bytes, info.pack_bytes)

    def operations(self, rank):
        """One line for each operation of a rank."""
        return [_line(lambda room, size, i=i: lib.rondo_schedule_operation_text(self._pointer, rank, i, room, size))
                for i in range(self.rank(rank).operations)]

    def close(self):
        if self._pointer:
            lib.rondo_schedule_destroy(self._pointer)
        self._pointer = ctypes.c_void_p()

    __del__ = close

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()


class Schedule(Told):
    """What `ranks` ranks would do, compute, send and hold, told before there are any. Keywords are those of Plan, what the ranks would be
    connected by ("threads", "mpi"), and backward=True: of gradients, instead of attention itself."""

    def __init__(self, ranks, *, tokens, heads, head_dim, keys=None, kv_heads=None, value_dim=None, dtype="f32", out_dtype=None,
                 alibi=False, sinks=False, probs=False, transport="threads", backward=False, **options):
        if backward:
            options = {**options, "gradients": True}
        tokens = lengths("tokens", [tokens] if hasattr(tokens, "__index__") else tokens)
        keys = tokens.copy() if keys is None else lengths("keys", [keys] if hasattr(keys, "__index__") else keys, len(tokens))
        self._pointer = ctypes.c_void_p()
        self.problem = make_problem(tokens, keys, heads, head_dim, kv_heads, value_dim, dtype, out_dtype, alibi, sinks, probs, options)
        desc = _structs.rondo_schedule_desc(ranks=whole("ranks", ranks, 1, 2**31 - 1), transport=transport.encode(), backward=bool(backward))
        attention = self.problem.describe()
        check(lib.rondo_schedule_create(ctypes.byref(self._pointer), ctypes.byref(desc), ctypes.byref(attention)))
        info = self._ask()
        self.algorithm, self.layout = name_of(ALGORITHMS, info.algorithm), name_of(LAYOUTS, info.layout)
        self.leaf, self.head_groups, self.grid = info.leaf, info.head_groups, tuple(info.grid) if info.grid[0] else None
        self.visible_pairs, self.imbalance = info.visible_pairs, info.imbalance
