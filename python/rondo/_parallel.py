# SPDX-License-Identifier: BSD-2-Clause
"""A module of torch on several ranks, as it is: parallelize() deals the tokens out, and what the module calls of torch is computed by rondo
where it needs other ranks' tokens - attention, and gradients of weights, which are sums over tokens.

How. While a parallelized module or a part of it runs, functions of torch.nn.functional come here first (a TorchFunctionMode). Those that
this file knows are computed by rondo.torch; all others are torch's, on this rank's tokens. What cannot be right that way is refused: a
parameter that a function takes which is not known, sums over tokens, attention by hand. It is hooks on all parts of the module that switch
the mode on, so that parts which torch.utils.checkpoint runs again in backward are computed like the first time.
"""
import ctypes
import inspect
import threading

import torch
import torch.nn.functional as F
from torch.autograd import Function
from torch.overrides import TorchFunctionMode

from . import _layers
from . import torch as layers
from ._library import check, invalid, lib
from ._plan import Plan
from ._problem import flag, whole
from ._ranks import Context

_DTYPES = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}


def _name(function):
    return getattr(function, "__name__", str(function))


# ---- gradients that rondo.torch has no operator for ----

def _per_token(terms, width, sums):
    """The sum over tokens, and over what else stands before the last dimension, of [B, n, ..., width] or [rows, width]."""
    each = terms.shape[2:].numel() if terms.dim() > 2 else width
    found = _layers.token_sum(terms.reshape(sums["tokens"].rows, each), **sums)
    return found.reshape(-1, width).sum(0)


class _Scale(Function):
    @staticmethod
    def forward(ctx, x, weight, sums):
        ctx.sums = sums
        ctx.save_for_backward(x, weight)
        return x * weight

    @staticmethod
    @layers._once
    def backward(ctx, dy):
        x, weight = ctx.saved_tensors
        needed = ctx.needs_input_grad
        return dy * weight if needed[0] else None, _per_token(dy * x, len(weight), ctx.sums) if needed[1] else None, None


class _Shift(Function):
    @staticmethod
    def forward(ctx, x, bias, sums):
        ctx.width, ctx.sums = len(bias), sums
        return x + bias

    @staticmethod
    @layers._once
    def backward(ctx, dy):
        return dy, _per_token(dy, ctx.width, ctx.sums) if ctx.needs_input_grad[1] else None, None


class _Unnamed(Function):
    """A table of which one row has no gradient."""
    @staticmethod
    def forward(ctx, weight, row):
        ctx.row = row
        return weight.view_as(weight)

    @staticmethod
    @layers._once
    def backward(ctx, dy):
        dy = dy.clone()
        dy[ctx.row] = 0
        return dy, None


# ---- functions of torch, as they are computed here ----

def _linear(owner, function, input, weight, bias=None):
    if torch.is_grad_enabled() and (weight.requires_grad or bias is not None and bias.requires_grad):
        owner._rows("linear", input)
    return layers.linear(input, weight, bias, **owner.sums)


def _embedding(owner, function, input, weight, padding_idx=None, max_norm=None, norm_type=2.0, scale_grad_by_freq=False, sparse=False):
    for name, given in (("max_norm", max_norm), ("scale_grad_by_freq", scale_grad_by_freq), ("sparse", sparse)):
        if given:
            raise invalid("embedding has %s = %r; tables without it are computed on ranks" % (name, given))
    if torch.is_grad_enabled() and weight.requires_grad:
        owner._rows("embedding", input.unsqueeze(-1))
        if padding_idx is not None:
            weight = _Unnamed.apply(weight, padding_idx)
    return layers.embedding(input, weight, **owner.sums)


def _one_width(name, shape):
    if len(shape) != 1:
        raise invalid("%s is over the last %d dimensions; one is computed on ranks" % (name, len(shape)))


def _rms_norm(owner, function, input, normalized_shape, weight=None, eps=None):
    _one_width("rms_norm", normalized_shape)
    eps = torch.finfo(input.dtype).eps if eps is None else eps
    if weight is not None and owner._is_rows(input):
        return layers.rmsnorm(input, weight, eps, **owner.sums)
    y = layers.rmsnorm(input, torch.ones(normalized_shape), eps)   # of each head
    return y if weight is None else _scaled(owner, y, weight)


def _layer_norm(owner, function, input, normalized_shape, weight=None, bias=None, eps=1e-5):
    _one_width("layer_norm", normalized_shape)
    y = F.layer_norm(input, normalized_shape, None, None, eps)
    y = y if weight is None else _scaled(owner, y, weight)
    return y if bias is None else _shifted(owner, y, bias)


def _scaled(owner, x, weight):
    owner._lead("a product with a vector", x)
    return _Scale.apply(x, weight, owner.sums)


def _shifted(owner, x, bias):
    owner._lead("a sum with a vector", x)
    return _Shift.apply(x, bias, owner.sums)


def _with_vector(operator):
    """x * w or x + w, where w is a parameter [width] and x has rows of this width; None: something else."""
    def way(owner, function, a, b, *rest, **more):
        for x, w in ((a, b), (b, a)):
            if owner._owns(w) and w.dim() == 1 and not rest and not more and isinstance(x, torch.Tensor) and not owner._owns(x) and \
               x.dim() > 1 and x.shape[-1] == w.shape[0] and torch.is_grad_enabled():
                return operator(owner, x, w)
        return owner._torch(function, (a, b) + rest, more)
    return way


def _attention(owner, function, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    if dropout_p:
        raise invalid("scaled_dot_product_attention has dropout_p = %r; 0 is computed on ranks" % (dropout_p,))
    if owner.causal is None and attn_mask is not None:
        raise invalid("scaled_dot_product_attention has an attn_mask, which knows this rank's tokens only; give parallelize() causal, and "
                      "window_size if need be, which then hold in place of the module's masks")
    flat = query.dim() == 3
    q, k, v = ((t.unsqueeze(1) if flat else t) for t in (query, key, value))
    for name, t in (("query", q), ("key", k), ("value", v)):
        if t.dim() != 4 or t.shape[0] != owner.sequences or t.shape[2] != owner.rows:
            raise invalid("%s of scaled_dot_product_attention has the shape %s; [%d, heads, %d, head size], this rank's tokens, is expected"
                          % (name, list(t.shape), owner.sequences, owner.rows))
    if k.shape[1] != q.shape[1] and not enable_gqa:
        raise invalid("query has %d heads and key %d; without enable_gqa they must be equal" % (q.shape[1], k.shape[1]))
    plan = owner._plan(q, k, v, bool(is_causal) if owner.causal is None else owner.causal, scale)
    out = layers.execute(plan, *(t.transpose(1, 2).reshape(owner.sequences * owner.rows, t.shape[1], t.shape[3]) for t in (q, k, v)))
    out = out.reshape(owner.sequences, owner.rows, q.shape[1], v.shape[3]).transpose(1, 2)
    return out.squeeze(1) if flat else out


def _cross_entropy(owner, function, input, target, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean", label_smoothing=0.0):
    for name, given in (("weight", weight), ("size_average", size_average), ("reduce", reduce), ("label_smoothing", label_smoothing or None)):
        if given is not None:
            raise invalid("cross_entropy has %s; the loss without it is computed on ranks" % name)
    owner._rows("cross_entropy", input)
    loss = layers.cross_entropy(input, target, ignore_index=ignore_index, reduction=reduction, **owner.sums)
    return loss.to(input.dtype)


def _dropout(owner, function, input, p=0.5, training=True, inplace=False):
    if training and p:
        raise invalid("dropout of %r would be drawn by each rank for itself; set it to 0, or call eval()" % (p,))
    return input


def _dims(at=0, default=None):
    """Sums and the like, whose dimensions are the arguments from `at` on behind the input: not over sequences and tokens, unless of positions,
    ids or masks. default: where none are given; None: all."""
    def way(owner, function, input, *rest, **more):
        dims = next((more[name] for name in ("dim", "dims", "axis") if name in more), rest[at] if len(rest) > at else default)
        if isinstance(dims, bool):   # var(unbiased)
            dims = None
        if isinstance(dims, int):   # and flip(0, 1)
            dims = (dims,) + tuple(d for d in rest[at + 1:] if isinstance(d, int) and not isinstance(d, bool))
        floats = isinstance(input, torch.Tensor) and input.is_floating_point() and not isinstance(dims, torch.Tensor)
        if floats and input.dim() > 1 and tuple(input.shape[:2]) == (owner.sequences, owner.rows) and \
           (not isinstance(dims, (tuple, list)) or any(d % input.dim() < 2 for d in dims)):
            raise invalid("%s of shape %s goes over tokens, of which this rank has its own only; gather() the rows, outside of the module"
                          % (_name(function), list(input.shape)))
        return owner._torch(function, (input,) + rest, more)
    return way


def _softmax(owner, function, input, *rest, **more):
    dim = more.get("dim", rest[0] if rest else None)
    square = input.dim() > 2 and input.shape[0] in (owner.sequences, 1) and input.shape[-1] == owner.rows and input.shape[-2] == owner.rows
    if square and dim in (-1, input.dim() - 1) and owner.rows > 1:
        raise invalid("softmax of shape %s looks like attention by hand, which would see this rank's tokens only; "
                      "let the module call scaled_dot_product_attention" % list(input.shape))
    return _over_one(owner, function, input, *rest, **more)


_over_one = _dims()


def _refused(owner, function, *args, **more):
    raise invalid("%s is not computed on ranks: it would see this rank's tokens only" % _name(function))


def _handlers():
    table = {F.linear: _linear, F.embedding: _embedding, F.rms_norm: _rms_norm, F.layer_norm: _layer_norm, F.cross_entropy: _cross_entropy,
             F.scaled_dot_product_attention: _attention, F.dropout: _dropout}
    scaled, shifted = _with_vector(_scaled), _with_vector(_shifted)
    for names, way in ((("mul", "multiply", "__mul__", "__rmul__"), scaled), (("add", "__add__", "__radd__"), shifted),
                       (("softmax", "log_softmax"), _softmax),
                       (("mean", "sum", "prod", "amax", "amin", "var", "std", "cumsum", "cumprod", "flip", "argmax", "argmin", "logsumexp",
                         "max", "min", "median"), _over_one), (("sort", "argsort"), _dims(0, -1)), (("norm", "roll"), _dims(1)),
                       (("diff", "topk", "kthvalue"), _dims(1, -1)), (("normalize",), _dims(1, 1))):
        for name in names:
            for home in (torch, torch.Tensor, F):
                if hasattr(home, name):
                    table.setdefault(getattr(home, name), way)
    for home, names in ((F, ("multi_head_attention_forward", "batch_norm", "group_norm", "instance_norm", "local_response_norm", "conv1d",
                             "conv2d", "conv3d", "conv_transpose1d", "avg_pool1d", "max_pool1d", "interpolate", "ctc_loss")),
                        (torch, ("lstm", "gru", "rnn_tanh", "rnn_relu", "conv1d", "conv2d", "conv3d", "batch_norm", "group_norm",
                                 "_native_multi_head_attention", "_transformer_encoder_layer_fwd"))):
        for name in names:
            if hasattr(home, name):
                table[getattr(home, name)] = _refused
    return table


_HANDLERS = _handlers()


class _Mode(TorchFunctionMode):
    def __init__(self, parallel):
        super().__init__()
        self.parallel = parallel

    def __torch_function__(self, function, types, args=(), kwargs=None):
        way, kwargs = _HANDLERS.get(function), kwargs or {}
        if way is None:
            return self.parallel._torch(function, args, kwargs)
        return way(self.parallel, function, *args, **kwargs)


# ---- the module ----

class Parallel(torch.nn.Module):
    """What parallelize() makes of a module; see there. positions: [rows], where in its sequence each of this rank's tokens stands, the same
    in each of the `sequences`; sums: the keywords tokens and team of rondo.torch's layers, for losses of one's own."""

    def __init__(self, module, context, *, tokens, sequences=1, causal=None, window_size=(-1, -1), softcap=0.0, layout="zigzag", algorithm=None):
        super().__init__()
        if not isinstance(module, torch.nn.Module):
            raise TypeError("module is a %s; a torch.nn.Module is expected" % type(module).__name__)
        if not isinstance(context, Context):
            raise TypeError("context is a %s; a Context is expected" % type(context).__name__)
        if any("_rondo" in part.__dict__ for part in module.modules()):
            raise invalid("module has been parallelized already; close() that, or give each rank a copy (copy.deepcopy)")
        if causal is None and (window_size not in ((-1, -1), [-1, -1]) or softcap):
            raise invalid("window_size or softcap is given without causal; with causal they hold in place of the module's masks")
        self.module, self.context = module, context
        self.tokens, self.sequences = whole("tokens", tokens, 1), whole("sequences", sequences, 1)
        self.causal = causal if causal is None else bool(flag("causal", causal))
        self.options = {"window_size": window_size, "softcap": softcap, "algorithm": algorithm, "layout": "custom"}
        with Plan(context, tokens=self.tokens, heads=1, head_dim=8, causal=True, layout=layout) as one:
            self._all = [torch.from_numpy(one.positions(rank=r)) for r in range(context.ranks)]
            leaf = one.leaf
        owner = torch.empty(self.tokens, dtype=torch.int32)
        for rank, at in enumerate(self._all):
            owner[at] = rank
        self.options["owners"] = owner[::leaf].repeat(self.sequences)   # every sequence alike, so that rows are [sequences, rows]
        self.positions, self.rows = self._all[context.rank], len(self._all[context.rank])
        with Plan(context, tokens=[self.tokens] * self.sequences, heads=1, head_dim=8, causal=True, layout="custom",
                  owners=self.options["owners"]) as every:
            self.sums = {"tokens": _layers.Tokens.of(every), "team": _layers.Team(context)}
        self._plans, self._inside = {}, threading.local()
        self._mine = {id(x) for x in module.parameters()}
        self._names = {id(x): name for name, x in module.named_parameters()}
        self._hooks = []
        for part in module.modules():
            part.__dict__["_rondo"] = self.context
            self._hooks += [part.register_forward_pre_hook(self._enter), part.register_forward_hook(self._leave, always_call=True)]

    def close(self):
        """The module is as it was before; its plans end. By the context's thread."""
        for hook in self._hooks:
            hook.remove()
        for part in self.module.modules():
            part.__dict__.pop("_rondo", None)
        for plan in self._plans.values():
            plan.close()
        self._hooks, self._plans = [], {}

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    # ---- whole tensors and this rank's rows of them ----

    def take(self, tensor, dim=1):
        """This rank's tokens of a tensor that has all `tokens` of them along a dimension."""
        if not isinstance(tensor, torch.Tensor):
            raise TypeError("tensor is a %s; a torch tensor is expected" % type(tensor).__name__)
        if not -tensor.dim() <= dim < tensor.dim() or tensor.shape[dim] != self.tokens:
            raise invalid("tensor has the shape %s; %d tokens along dimension %d are expected" % (list(tensor.shape), self.tokens, dim))
        return tensor.index_select(dim, self.positions)

    def gather(self, rows):
        """[sequences, tokens, ...], on every rank, of [sequences, rows, ...]; without a gradient. Collective."""
        if not isinstance(rows, torch.Tensor) or rows.dim() < 2 or tuple(rows.shape[:2]) != (self.sequences, self.rows):
            raise invalid("rows is %s; this rank has [%d, %d, ...]" % (
                "of shape %s" % list(rows.shape) if isinstance(rows, torch.Tensor) else "a " + type(rows).__name__, self.sequences, self.rows))
        mine, more = rows.detach().contiguous(), tuple(rows.shape[2:])
        token = mine.element_size()
        for size in more:
            token *= size
        sizes = (ctypes.c_size_t * self.context.ranks)(*(self.sequences * len(at) * token for at in self._all))
        every = torch.empty((sum(len(at) for at in self._all) * self.sequences,) + more, dtype=rows.dtype)
        check(lib.rondo_all_gather(self.context.pointer, mine.data_ptr(), every.data_ptr(), sizes))
        result, begin = torch.empty((self.sequences, self.tokens) + more, dtype=rows.dtype), 0
        for at in self._all:
            result[:, at] = every[begin:begin + self.sequences * len(at)].reshape((self.sequences, len(at)) + more)
            begin += self.sequences * len(at)
        return result

    def loss(self, logits, labels, **options):
        """rondo.torch.cross_entropy() over the tokens of all ranks, the same on each: logits [sequences, rows, classes], labels of these rows
        or of all tokens. Collective, as backward is."""
        if isinstance(labels, torch.Tensor) and tuple(labels.shape) == (self.sequences, self.tokens):
            labels = self.take(labels)
        return layers.cross_entropy(logits, labels, **self.sums, **options)

    def forward(self, *args, **kwargs):
        """The module on this rank's tokens: of tensors [sequences, tokens, ...] it is given these rows, all else as it is; and position_ids
        if it takes them and the caller gives none. The result is the module's, of these rows."""
        if not self._hooks:
            raise invalid("this module is closed; parallelize it again")
        def cut(x):
            return self.take(x) if isinstance(x, torch.Tensor) and x.dim() > 1 and tuple(x.shape[:2]) == (self.sequences, self.tokens) else x
        if "position_ids" not in kwargs and "position_ids" in inspect.signature(self.module.forward).parameters:
            try:
                given = inspect.signature(self.module.forward).bind_partial(*args, **kwargs).arguments
            except TypeError:
                given = {}   # the call below says what is wrong with them
            if "position_ids" not in given:
                kwargs["position_ids"] = self.positions.expand(self.sequences, -1)
        return self.module(*(cut(x) for x in args), **{name: cut(x) for name, x in kwargs.items()})

    # ---- while it runs ----

    def _enter(self, *unused):
        inside = self._inside
        inside.depth = getattr(inside, "depth", 0) + 1
        if inside.depth == 1:
            inside.mode = _Mode(self)
            inside.mode.__enter__()

    def _leave(self, *unused):
        inside = self._inside
        inside.depth -= 1
        if inside.depth == 0:
            inside.__dict__.pop("mode").__exit__(None, None, None)   # what a thread still holds goes when it ends, when no Python can run

    def _owns(self, x):
        return isinstance(x, torch.nn.Parameter) and id(x) in self._mine

    def _torch(self, function, args, kwargs):
        """torch's own, on this rank's rows; but no parameter's gradient may come of it."""
        result = function(*args, **kwargs)
        if torch.is_grad_enabled():
            flat = [x for y in (*args, *kwargs.values()) for x in (y if isinstance(y, (tuple, list)) else (y,))]
            taken = next((x for x in flat if self._owns(x) and x.requires_grad), None)
            made = result if isinstance(result, (tuple, list)) else (result,)
            if taken is not None and any(isinstance(x, torch.Tensor) and x.requires_grad and x is not taken for x in made):
                raise invalid("%s takes the parameter %s, whose gradient would be of this rank's tokens only; linear, embedding, layer_norm, "
                              "rms_norm, and sums and products with a vector are computed on ranks" % (_name(function), self._names[id(taken)]))
        return result

    def _is_rows(self, x):
        """Whether x is [sequences, rows, width], or these rows as they follow one another."""
        lead = tuple(size for size in x.shape[:-1] if size != 1)
        both = tuple(size for size in (self.sequences, self.rows) if size != 1)
        count = self.sequences * self.rows
        return lead == both or lead == (() if count == 1 else (count,))

    def _rows(self, name, x):
        if not self._is_rows(x):
            raise invalid("%s is over rows of shape %s; gradients of weights are sums over tokens, [%d, %d] on this rank"
                          % (name, list(x.shape[:-1]), self.sequences, self.rows))

    def _lead(self, name, x):
        if not self._is_rows(x) and tuple(x.shape[:2]) != (self.sequences, self.rows):
            raise invalid("%s is over rows of shape %s; gradients of parameters are sums over tokens, [%d, %d, ...] on this rank"
                          % (name, list(x.shape[:-1]), self.sequences, self.rows))

    def _plan(self, q, k, v, causal, scale):
        if q.dtype not in _DTYPES or k.dtype != q.dtype or v.dtype != q.dtype:
            raise invalid("query, key and value are %s, %s and %s; float32, bfloat16 or float16, all alike, is expected" % (q.dtype, k.dtype, v.dtype))
        gradients = torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v))
        key = (q.shape[1], k.shape[1], q.shape[3], v.shape[3], q.dtype, causal, scale, gradients)
        if key not in self._plans:
            self._plans[key] = Plan(self.context, tokens=[self.tokens] * self.sequences, heads=q.shape[1], kv_heads=k.shape[1], head_dim=q.shape[3],
                                    value_dim=v.shape[3], dtype=_DTYPES[q.dtype], causal=causal, softmax_scale=scale, gradients=gradients,
                                    **self.options)
        return self._plans[key]


def parallelize(module, context, *, tokens, sequences=1, causal=None, window_size=(-1, -1), softcap=0.0, layout="zigzag", algorithm=None):
    """A module of torch that runs on the ranks of a context, each with its own of the `tokens` of every one of `sequences` sequences of the
    same length. All ranks have all weights, and call forward and backward in the same order; afterwards all have the same gradients, those
    of one rank to the last bit. Collective.

    The result is a module (Parallel). Called with whole tensors [sequences, tokens, ...] it gives the module this rank's rows of them, and
    `position_ids` where it takes them; what comes out is of these rows. A module that makes positions itself is to take `positions`, as it
    does not see where its tokens stand. loss() is the mean over the tokens of all ranks; cross_entropy inside of the module is so too.

    The module calls torch.nn.functional's linear, embedding, rms_norm, layer_norm and scaled_dot_product_attention, as the classes of
    torch.nn do, in float32, batch first; and what else it computes stays inside of each token. Dropout, convolutions, norms over tokens,
    attention by hand, masks and other uses of parameters are refused. Bits are those of one rank where torch's functions of single tokens
    have bits that do not depend on how many there are.

    causal None: as the module's calls of attention say, which have no masks. True or False: attention is so, with window_size and softcap
    as in attention(), whatever the calls say. layout and algorithm are those of Plan.
    """
    return Parallel(module, context, tokens=tokens, sequences=sequences, causal=causal, window_size=window_size, softcap=softcap, layout=layout,
                    algorithm=algorithm)
