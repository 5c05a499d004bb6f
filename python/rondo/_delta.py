# SPDX-License-Identifier: BSD-2-Clause
"""kda() and kda_backward(): the gated delta rule (Kimi Delta Attention, arXiv:2510.26692; with one gate a head Gated DeltaNet) on whole arrays, on any
number of ranks in this process. The keywords are flash-linear-attention's.

Tokens of all sequences are rows one behind the other, of which each rank has a run: it is used where it lies, in the caller's arrays.
"""
import ctypes

import numpy as np

from . import _arrays, _structs
from ._library import check, invalid, lib, name_of, number_of
from ._plan import Told
from ._problem import flag, lengths, real, whole
from ._ranks import Context, Stop, _launch, describe, interruptible

WAYS = {lib.rondo_delta_way_name(i).decode(): i for i in range(16) if lib.rondo_delta_way_name(i)}


def _tensor(array):
    """Of a dense numpy array of float32."""
    t = _structs.rondo_tensor(data=array.ctypes.data, type=_structs.F32, dims=array.ndim)
    step = 1
    for i in reversed(range(array.ndim)):
        t.shape[i], t.stride[i] = array.shape[i], step
        step *= max(1, array.shape[i])
    return t


def _small(name, given, shape, want):
    """States and parameters as dense float32, which they must be."""
    array = _arrays.as_numpy(name, given, "f", "float32")
    if array.dtype != np.float32 or array.shape != shape:
        raise invalid("%s is %s of shape %s; float32 of shape %s is expected" % (name, array.dtype.name, list(array.shape), want))
    return np.ascontiguousarray(array)


class Problem:
    """The arguments of kda(), checked."""

    def __init__(self, q, k, v, g, beta, scale, initial_state, output_final_state, l2norm, gate_in_kernel, beta_in_kernel, allow_neg_eigval,
                 lower_bound, a_log, dt_bias, cu_seqlens, checkpoints, way, tile, chunk, dtype):
        views = []
        for name, array, dims in (("q", q, 4), ("k", k, 4), ("v", v, 4), ("g", g, 4), ("beta", beta, 3)):
            bits = dtype if getattr(array, "dtype", None) == np.uint16 else None
            views.append(_arrays.view(name, array, bits))
            if len(views[-1].shape) != dims or views[-1].shape[:2] != views[0].shape[:2]:
                raise invalid("%s has the shape %s; [batch, tokens, heads%s] is expected, with the batch and tokens of q"
                              % (name, list(views[-1].shape), ", head size" if dims == 4 else ""))
        (self.batch, self.tokens, key_heads, key_dim), (heads, value_dim) = views[0].shape, views[2].shape[2:]
        if views[1].shape != views[0].shape or views[1].type != views[0].type or views[2].type != views[0].type:
            raise invalid("q is %s of shape %s, k %s of shape %s, v %s; q and k must be alike, and v of their type" % (
                _arrays.NAMES[views[0].type], list(views[0].shape), _arrays.NAMES[views[1].type], list(views[1].shape),
                _arrays.NAMES[views[2].type]))
        gate_dim = views[3].shape[3]
        if self.batch < 1 or key_heads < 1 or heads < 1 or heads % key_heads or views[3].shape[2] != heads or views[4].shape[2] != heads:
            raise invalid("q has %d heads, v %d, g %d and beta %d in a batch of %d; as many for v, g and beta, a multiple of q's, and a batch "
                          "from 1 on are expected" % (key_heads, heads, views[3].shape[2], views[4].shape[2], self.batch))
        if key_dim < 1 or value_dim < 1 or gate_dim not in (1, key_dim):
            raise invalid("the head sizes of q, v and g are %d, %d and %d; at least 1, and for g that of q or 1 are expected"
                          % (key_dim, value_dim, gate_dim))
        self.like, self.views, self.starts = views[0], views, None
        if cu_seqlens is not None:
            self.starts = lengths("cu_seqlens", cu_seqlens)
            if self.batch != 1 or len(self.starts) < 2 or self.starts[0] or self.starts[-1] != self.tokens or \
                    (np.diff(self.starts) < 0).any():
                raise invalid("cu_seqlens is given with a batch of %d and %d tokens; with a batch of 1 it must begin with 0, never fall, and end "
                              "with the tokens" % (self.batch, self.tokens))
        self.sequences = self.batch if self.starts is None else len(self.starts) - 1
        gates = flag("use_gate_in_kernel", gate_in_kernel)
        if not gates and (a_log is not None or dt_bias is not None or lower_bound is not None):
            raise invalid("A_log, dt_bias or lower_bound is given, which are of gates that are computed here; set use_gate_in_kernel, or leave "
                          "them out")
        if flag("allow_neg_eigval", allow_neg_eigval) and not flag("use_beta_sigmoid_in_kernel", beta_in_kernel):
            raise invalid("allow_neg_eigval is True, which doubles the sigmoid that is computed here; set use_beta_sigmoid_in_kernel too")
        self.desc = _structs.rondo_delta_desc(
            heads=heads, key_heads=key_heads, key_dim=key_dim, value_dim=value_dim, gate_dim=gate_dim, sequences=self.sequences,
            tokens=self.tokens if self.starts is None else 0, type=views[0].type, gate_type=views[3].type, beta_type=views[4].type,
            gate=0 if not gates else 1 if lower_bound is None else 2,
            lower_bound=0.0 if lower_bound is None else real("lower_bound", lower_bound),
            beta=0 if not flag("use_beta_sigmoid_in_kernel", beta_in_kernel) else 2 if allow_neg_eigval else 1,
            norm=flag("use_qk_l2norm_in_kernel", l2norm), way=number_of("way", WAYS, way),
            tile=0 if tile is None else whole("tile", tile, 1), chunk=0 if chunk is None else whole("chunk", chunk, 1, 64),
            scale=0.0 if scale is None else real("scale", scale),
            final_state=flag("output_final_state", output_final_state), initial_state=int(initial_state is not None))
        if scale is not None and self.desc.scale == 0.0:
            raise invalid("scale is 0, with which out is 0; None for 1/sqrt(K), or another number is expected")
        if self.starts is not None:
            self.desc.cu_seqlens = _arrays.pointer(self.starts)
        self.points = lengths("checkpoints", checkpoints) if checkpoints is not None else None
        if self.points is not None and len(self.points):
            self.desc.checkpoints, self.desc.checkpoint_count = _arrays.pointer(self.points), len(self.points)
        state = (heads, key_dim, value_dim)
        shape = "[%d, %d, %d, %d]" % ((self.sequences,) + state)
        self.initial = None if initial_state is None else _small("initial_state", initial_state, (self.sequences,) + state, shape)
        self.a_log = None if a_log is None else _small("A_log", a_log, (heads,), "[%d]" % heads)
        self.flat = dt_bias is not None and tuple(np.shape(dt_bias)) == (heads * gate_dim,)
        if self.flat:
            dt_bias = dt_bias.reshape(heads, gate_dim)
        self.dt_bias = None if dt_bias is None else _small("dt_bias", dt_bias, (heads, gate_dim), "[%d, %d]" % (heads, gate_dim))
        self.final = np.zeros((self.sequences,) + state, np.float32) if self.desc.final_state else None
        entries = self.batch if self.starts is None else 1
        self.states = None if self.points is None else np.zeros((len(self.points), entries) + state, np.float32)
        self.inputs = [self._rows(n, x) for n, x in zip(("q", "k", "v", "g", "beta"), views)]
        self.out = _arrays.empty(self.like, (self.batch, self.tokens, heads, value_dim), self.like.type)
        self.work = 7.0 * self.batch * self.tokens * heads * key_dim * value_dim

    def _rows(self, name, v):
        """Rows of all batches, one behind the other."""
        axes = (0, 1, 2, 3 if len(v.shape) == 4 else None)
        rows = _arrays.rows(name, v, axes)
        if (rows.first != np.arange(len(rows.first)) * self.tokens).any():
            rows = _arrays.rows(name, v.copy(), axes)
        return rows

    def run(self, context, stop=None):
        """This rank's part. stop: a Stop, for who may interrupt it."""
        self._planned(context, stop, self._execute)

    def _planned(self, context, stop, body):
        """body(plan, info, io) with the inputs in io."""
        plan, info, io = ctypes.c_void_p(), _structs.rondo_delta_info(), _structs.rondo_delta_io()
        check(lib.rondo_delta_create(ctypes.byref(plan), context.pointer, ctypes.byref(self.desc)))
        try:
            check(lib.rondo_delta_query(plan, ctypes.byref(info)))
            for name, rows in zip(("q", "k", "v", "g", "beta"), self.inputs):
                setattr(io, name, rows.run(info.first_row, info.rows))
            for name, array in (("a_log", self.a_log), ("dt_bias", self.dt_bias), ("initial_state", self.initial)):
                if array is not None:
                    setattr(io, name, _tensor(array))
            if stop is not None:
                io.progress = stop.progress
            body(plan, info, io)
        finally:
            lib.rondo_delta_destroy(plan)

    def _execute(self, plan, info, io):
        io.out = _arrays.rows("out", self.out, (0, 1, 2, 3), output=True).run(info.first_row, info.rows)
        if self.final is not None:
            io.final_state = _tensor(self.final)
        if self.desc.checkpoint_count:
            io.checkpoints = _tensor(self.states.reshape((-1,) + self.states.shape[2:]))
        check(lib.rondo_delta_execute(plan, ctypes.byref(io)))

    def results(self):
        found = [self.final] + ([] if self.states is None else [self.states])
        if self.like.torch:
            import torch
            found = [None if x is None else torch.from_numpy(x) for x in found]
        return tuple([self.out.array] + found)


class Gradients:
    """Those of a problem, from dout and dfinal_state (None: 0)."""

    def __init__(self, problem, dout, dfinal_state, dtype):
        self.problem = p = problem
        d = p.desc
        given = _arrays.view("dout", dout, dtype if getattr(dout, "dtype", None) == np.uint16 else None)
        shape = (p.batch, p.tokens, d.heads, d.value_dim)
        if given.shape != shape or given.type != p.like.type:
            raise invalid("dout is %s of shape %s; %s of shape %s is expected, as out is" % (
                _arrays.NAMES[given.type], list(given.shape), _arrays.NAMES[p.like.type], list(shape)))
        self.dout = p._rows("dout", given)
        state = (p.sequences, d.heads, d.key_dim, d.value_dim)
        d.gradients, d.final_state = 1, int(dfinal_state is not None)
        self.dfinal = None if dfinal_state is None else _small("dfinal_state", dfinal_state, state, list(state))
        self.rows = [_arrays.empty(v, v.shape, v.type) for v in p.views]
        self.dinitial = None if p.initial is None else np.zeros(state, np.float32)
        self.da_log, self.ddt_bias = (None if x is None else np.zeros_like(x) for x in (p.a_log, p.dt_bias))

    def run(self, context, stop=None):
        self.problem._planned(context, stop, lambda plan, info, io: self._back(context, plan, info, io))

    def _back(self, context, plan, info, io):
        of = _structs.rondo_delta_gradients()
        of.dout = self.dout.run(info.first_row, info.rows)
        for name, v in zip(("dq", "dk", "dv", "dg", "dbeta"), self.rows):
            rows = _arrays.rows(name, v, (0, 1, 2, 3 if len(v.shape) == 4 else None), output=True)
            setattr(of, name, rows.run(info.first_row, info.rows))
        others = []   # each rank makes the whole sums; those of rank 0 are kept
        for name, array in (("da_log", self.da_log), ("ddt_bias", self.ddt_bias)):
            if array is not None:
                others.append(array if context.rank == 0 else np.empty_like(array))
                setattr(of, name, _tensor(others[-1]))
        for name, array in (("dfinal_state", self.dfinal), ("dinitial_state", self.dinitial)):
            if array is not None:
                setattr(of, name, _tensor(array))
        check(lib.rondo_delta_backward(plan, ctypes.byref(io), ctypes.byref(of)))

    def results(self):
        bias = self.ddt_bias.ravel() if self.problem.flat else self.ddt_bias
        found = [x for x in (self.dinitial, self.da_log, bias) if x is not None]
        if self.problem.like.torch:
            import torch
            found = [torch.from_numpy(x) for x in found]
        return tuple([v.array for v in self.rows] + found)


def _on_ranks(problem, run, ranks, threads, isa, factor=1):
    """run(context, stop) on each rank."""
    stop, ranks = Stop(), whole("ranks", ranks, 1, 1024)

    def alone():
        with Context(threads=threads, isa=isa) as context:
            run(context, stop)

    if ranks == 1:
        alone() if problem.work * factor < 1e9 else interruptible(alone, stop)
    else:
        desc = describe(None, threads, isa)
        interruptible(lambda: _launch(ranks, desc, lambda context: run(context, stop), stop), stop)


def kda(q, k, v, g, beta, *, scale=None, initial_state=None, output_final_state=False, use_qk_l2norm_in_kernel=False,
        use_gate_in_kernel=False, use_beta_sigmoid_in_kernel=False, allow_neg_eigval=False, lower_bound=None, A_log=None, dt_bias=None,
        cu_seqlens=None, checkpoints=None, dtype=None, ranks=1, way=None, tile=None, chunk=None,
        threads=0, isa=None):
    """The gated delta rule on q, k [B,T,H,K], v [B,T,HV,V], g [B,T,HV,K] (or [B,T,HV,1]: one gate a head) and beta [B,T,HV]; HV is a
    multiple of H.

    Returns out [B,T,HV,V] and the final state [N,HV,K,V] in float32, None unless output_final_state; with checkpoints, a rising list of
    positions, also the states behind so many tokens, [P,B,HV,K,V]. A step decays the state by exp(g), writes beta (v - k S) at k and
    reads it by q * scale (None: K ** -0.5). With cu_seqlens B is 1 and N sequences are packed; else N is B. initial_state is [N,HV,K,V]
    in float32.

    use_gate_in_kernel: g is raw, and the gate is -exp(A_log) softplus(g + dt_bias) or, with lower_bound, lower_bound sigmoid(exp(A_log)
    (g + dt_bias)); A_log [HV] and dt_bias [HV,K] may be left out. use_beta_sigmoid_in_kernel: beta is a logit, of which allow_neg_eigval
    takes twice the sigmoid. use_qk_l2norm_in_kernel divides q and k by sqrt(sum of squares + 1e-6). dtype "bf16": uint16 numbers are
    bfloat16's bits.

    ranks threads of this process share the tokens, in the way that `way` says ("serial", "columns", "pipeline", None: the plan's choice), each on
    `threads` threads; none of these changes a bit. The way "affine" is exact too, and has bits of its own, which depend on `tile` (None:
    4096 tokens), and not on ranks. chunk, 16, 32 or 64, computes the same in chunks of so many tokens from each sequence's first on, which has
    bits of its own, too; tiles are whole chunks, and checkpoints lie between them. Gradients, of no tiles and chunks: kda_backward(), and autograd by rondo.torch.kda().
    """
    problem = Problem(q, k, v, g, beta, scale, initial_state, output_final_state, use_qk_l2norm_in_kernel, use_gate_in_kernel,
                      use_beta_sigmoid_in_kernel, allow_neg_eigval, lower_bound, A_log, dt_bias, cu_seqlens, checkpoints, way, tile,
                      chunk, dtype)
    _on_ranks(problem, problem.run, ranks, threads, isa)
    return problem.results()


def kda_backward(dout, q, k, v, g, beta, *, dfinal_state=None, scale=None, initial_state=None, use_qk_l2norm_in_kernel=False,
                 use_gate_in_kernel=False, use_beta_sigmoid_in_kernel=False, allow_neg_eigval=False, lower_bound=None, A_log=None,
                 dt_bias=None, cu_seqlens=None, dtype=None, ranks=1, way=None, threads=0, isa=None):
    """Gradients of a loss with respect to what kda() was given, as it was given, from those with respect to its out (dout) and, where
    dfinal_state is given, its final states: dq, dk, dv, dg, dbeta, each of the shape and type of its own, then dinitial_state, dA_log and
    ddt_bias, in float32, where initial_state, A_log and dt_bias are given. All else as kda() was given it; ranks, way and threads may be
    others, and change no bit.
    """
    problem = Problem(q, k, v, g, beta, scale, initial_state, False, use_qk_l2norm_in_kernel, use_gate_in_kernel, use_beta_sigmoid_in_kernel,
                      allow_neg_eigval, lower_bound, A_log, dt_bias, cu_seqlens, None, way, None, None, dtype)
    gradients = Gradients(problem, dout, dfinal_state, dtype)
    _on_ranks(problem, gradients.run, ranks, threads, isa, 4)
    return gradients.results()


class KdaSchedule(Told):
    """What `ranks` ranks would do for kda(), or backward=True: for its gradients, told before there are any. tokens: of one sequence, or of each of
    several. What is decided: way."""

    def __init__(self, ranks, *, tokens, heads, key_dim, key_heads=None, value_dim=None, way="auto", initial_state=False, output_final_state=False,
                 tile=None, chunk=None, dtype="f32", transport="threads", backward=False):
        starts = np.concatenate([[0], np.cumsum(lengths("tokens", [tokens] if hasattr(tokens, "__index__") else tokens))]).astype(np.int64)
        heads, key_dim = whole("heads", heads, 1), whole("key_dim", key_dim, 1)
        kind = number_of("dtype", _arrays.TYPES, dtype)
        delta = _structs.rondo_delta_desc(
            heads=heads, key_heads=heads if key_heads is None else whole("key_heads", key_heads, 1), key_dim=key_dim,
            value_dim=key_dim if value_dim is None else whole("value_dim", value_dim, 1), sequences=len(starts) - 1,
            cu_seqlens=_arrays.pointer(starts), type=kind, out_type=kind, way=number_of("way", WAYS, way),
            tile=0 if tile is None else whole("tile", tile, 1), chunk=0 if chunk is None else whole("chunk", chunk, 1, 64),
            initial_state=flag("initial_state", initial_state), final_state=flag("output_final_state", output_final_state),
            gradients=flag("backward", backward))
        desc = _structs.rondo_schedule_desc(ranks=whole("ranks", ranks, 1, 2**31 - 1), transport=transport.encode(), backward=flag("backward", backward))
        self._pointer = ctypes.c_void_p()
        check(lib.rondo_schedule_delta(ctypes.byref(self._pointer), ctypes.byref(desc), ctypes.byref(delta)))
        self.way = name_of(WAYS, self._ask().delta_way)
