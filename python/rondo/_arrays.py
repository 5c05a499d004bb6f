# SPDX-License-Identifier: BSD-2-Clause
"""Arrays of numpy and of torch as the library takes them: an address, a type, strides that count elements.

A view is used in place where the library can address it: numbers of a head side by side, all other strides positive and multiples of the
element, batches a whole number of rows apart. An input that is not so is copied once; an output that is not so is refused, for what is
written into a copy would be lost.
"""
import ctypes

import numpy as np

from . import _structs
from ._library import invalid

TYPES = {"f32": _structs.F32, "bf16": _structs.BF16, "f16": _structs.F16}
NAMES = {number: name for name, number in TYPES.items()}
SIZES = {_structs.F32: 4, _structs.BF16: 2, _structs.F16: 2}
_nothing = (ctypes.c_double * 8)()   # what arrays without elements point to


def type_named(what, name):
    """The number of "f32", "bf16" or "f16"; None: 0."""
    if name is None:
        return 0
    if not isinstance(name, str) or name not in TYPES:
        raise invalid("%s is %r; it must be None, \"f32\", \"bf16\" or \"f16\"" % (what, name))
    return TYPES[name]


def _bf16():
    """numpy's type of bfloat16 numbers, which the package ml_dtypes brings; without it their bits, as uint16."""
    try:
        import ml_dtypes
    except ImportError:
        return np.dtype(np.uint16)
    return np.dtype(ml_dtypes.bfloat16)


class View:
    """An array of the caller's and what the library needs to know of it. strides is None where they are no multiples of the element."""
    __slots__ = ("array", "torch", "address", "type", "shape", "strides", "writable")

    def copy(self):
        """The same numbers, side by side."""
        if self.torch:
            import torch
            return view("", self.array.clone(memory_format=torch.contiguous_format))
        return view("", self.array.copy(order="C"), NAMES[self.type])


def is_torch(array):
    return type(array).__module__.split(".")[0] == "torch" or any(t.__module__.split(".")[0] == "torch" for t in type(array).__mro__)


def view(name, array, dtype=None):
    """The view of an array; dtype "bf16" says that uint16 numbers are the bits of bfloat16."""
    if isinstance(array, np.ndarray):
        return _numpy_view(name, array, dtype)
    if is_torch(array):
        return _torch_view(name, array, dtype)
    raise TypeError("%s is a %s; a numpy array or a torch tensor is expected" % (name, type(array).__name__))


def _typed(name, found, kind, dtype):
    if not found:
        raise invalid("%s is of type %s; float32, float16 or bfloat16 of this machine's order of bytes is expected, "
                      "or uint16 with dtype=\"bf16\"" % (name, kind))
    if dtype is not None and type_named("dtype", dtype) != found:
        raise invalid("%s is of type %s, but dtype is %r; leave it out, or convert the array" % (name, kind, dtype))
    return found


def _unmasked(name, array):
    if isinstance(array, np.ma.MaskedArray):
        raise invalid("%s is a masked array, whose mask would be ignored; fill it, or give its data" % name)


def _numpy_view(name, array, dtype):
    _unmasked(name, array)
    self, kind = View(), array.dtype
    found = 0
    if kind.isnative:
        found = {"float32": _structs.F32, "float16": _structs.F16, "bfloat16": _structs.BF16}.get(kind.name, 0)
        if kind == np.uint16 and dtype == "bf16":
            found = _structs.BF16
    self.type = _typed(name, found, kind.str if not kind.isnative else kind.name, dtype)
    size = kind.itemsize
    self.array, self.torch, self.shape, self.writable = array, False, array.shape, array.flags.writeable
    self.address = array.__array_interface__["data"][0] if array.size else ctypes.addressof(_nothing)
    whole = all(s % size == 0 for s in array.strides) and (not array.size or self.address % size == 0)
    self.strides = tuple(s // size for s in array.strides) if whole else None
    return self


def _torch_view(name, array, dtype):
    import torch
    self = View()
    found = {torch.float32: _structs.F32, torch.float16: _structs.F16, torch.bfloat16: _structs.BF16}.get(array.dtype, 0)
    if array.device.type != "cpu" or array.layout != torch.strided:
        raise invalid("%s is a tensor of %s, %s; dense tensors of the cpu are expected" % (name, array.device, array.layout))
    self.type = _typed(name, found, str(array.dtype), dtype)
    if array.requires_grad and torch.is_grad_enabled():
        raise invalid("%s requires a gradient, which is lost here; call rondo.torch's function of the same name, or compute under "
                      "torch.no_grad()" % name)
    if array.is_conj() or array.is_neg():
        array = array.resolve_conj().resolve_neg()
    self.array, self.torch, self.shape, self.strides, self.writable = array.detach(), True, tuple(array.shape), array.stride(), True
    self.address = array.data_ptr() if array.numel() else ctypes.addressof(_nothing)
    if self.address % SIZES[self.type]:
        self.strides = None
    return self


def empty(like, shape, kind):
    """A new array of a kind, of the sort that `like` (a view) is; a view of it."""
    if like.torch:
        import torch
        types = {_structs.F32: torch.float32, _structs.F16: torch.float16, _structs.BF16: torch.bfloat16}
        return view("", torch.empty(shape, dtype=types[kind]))
    dtype = {_structs.F32: np.dtype(np.float32), _structs.F16: np.dtype(np.float16)}.get(kind)
    if dtype is None:
        dtype = like.array.dtype if like.type == kind else _bf16()
    return view("", np.empty(shape, dtype), NAMES[kind])


def empty_like(v):
    """A new array of the type and the order of dimensions of a view, without gaps."""
    if v.torch:
        import torch
        return view("", torch.empty_like(v.array, memory_format=torch.preserve_format))
    if v.strides is None or min(v.strides, default=0) < 0:
        return view("", np.empty(v.shape, v.array.dtype), NAMES[v.type])
    order = sorted(range(len(v.shape)), key=lambda a: -v.strides[a])
    return view("", np.empty([v.shape[a] for a in order], v.array.dtype).transpose(np.argsort(order)), NAMES[v.type])


def as_numpy(name, array, kinds, want):
    """Small arrays (slopes, lengths, masks) as numpy arrays, whatever they were; `kinds` are the letters of dtype.kind that may be."""
    if is_torch(array):
        if array.device.type != "cpu" or str(array.layout) != "torch.strided":
            raise invalid("%s is a tensor of %s; a dense tensor of the cpu is expected" % (name, array.device))
        import torch
        if array.requires_grad and torch.is_grad_enabled():
            raise invalid("%s requires a gradient, which is lost here; compute under torch.no_grad(), or detach it" % name)
        try:
            array = array.detach().numpy()
        except TypeError:   # a type that numpy does not have
            raise invalid("%s is of type %s; %s is expected" % (name, array.dtype, want)) from None
    _unmasked(name, array)
    array = np.asarray(array)
    if array.dtype.kind not in kinds:
        raise invalid("%s is of type %s; %s is expected" % (name, array.dtype.name, want))
    return array


def pointer(array, kind=ctypes.c_int64):
    """What a structure's field is given for a numpy array, which must be kept as long."""
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))


class Rows:
    """An array [batch, tokens, heads, dim], packed [tokens, heads, dim] or without dim, as rows: sequence s begins in row first[s], a row
    is `row` elements behind the one before, a head `head`."""
    __slots__ = ("view", "address", "type", "heads", "dim", "row", "head", "first", "count")

    def tensor(self):
        """All of it."""
        return self._tensor(self.address, self.count)

    def run(self, first, count):
        """Rows [first, first + count)."""
        return self._tensor(self.address + first * self.row * SIZES[self.type], count)

    def sequence(self, s, tokens):
        """The rows of one sequence."""
        return self._tensor(self.address + int(self.first[s]) * self.row * SIZES[self.type], tokens)

    def _tensor(self, address, rows):
        t = _structs.rondo_tensor(data=address, type=self.type, dims=3 if self.dim is not None else 2)
        t.shape[0], t.shape[1], t.stride[0], t.stride[1] = rows, self.heads, self.row, self.head
        if self.dim is not None:
            t.shape[2], t.stride[2] = self.dim, 1
        return t


def _addressed(v, axes, starts):
    """(row, head, first) of a view whose axes (batch or None, tokens, heads, dim or None) are given, or None where it cannot be used in
    place."""
    if v.strides is None:
        return None
    batch, tokens, heads, dim = axes
    size = [v.shape[a] if a is not None else 1 for a in axes]
    step = [v.strides[a] if a is not None else 0 for a in axes]
    if 0 in size:
        return max(1, size[2] * size[3]), max(1, size[3]), list(starts) if starts is not None else [0] * max(1, size[0])
    if size[3] > 1 and step[3] != 1:
        return None
    head = step[2] if size[2] > 1 else max(1, size[3])
    row = step[1] if size[1] > 1 else (step[0] if size[0] > 1 and step[0] > 0 else max(1, size[2] * head))
    if head < 1 or row < 1:
        return None
    if starts is not None:
        return row, head, starts
    if size[0] > 1 and (step[0] < 0 or step[0] % row):
        return None
    return row, head, [b * (step[0] // row) if size[0] > 1 else 0 for b in range(size[0])]


def rows(name, v, axes, starts=None, output=False):
    """An array as rows; starts: where packed sequences begin. An input that cannot be used in place is copied, an output refused."""
    if output and not v.writable:
        raise invalid("%s is read-only; an array that can be written is expected" % name)
    where = _addressed(v, axes, starts)
    if where is None and output:
        raise invalid("%s has strides that results cannot be written through; the last dimension must be dense, the other strides positive "
                      "multiples of the element, and batches whole rows apart" % name)
    if where is None:
        v = v.copy()
        where = _addressed(v, axes, starts)
    self = Rows()
    self.view, self.address, self.type = v, v.address, v.type
    self.heads, self.dim = v.shape[axes[2]], v.shape[axes[3]] if axes[3] is not None else None
    self.row, self.head = where[0], where[1]
    self.first = np.asarray(where[2], dtype=np.int64)
    tokens = v.shape[axes[1]]
    self.count = int(self.first.max()) + tokens if starts is None and len(self.first) else tokens
    return self


def dense_rows(data, kind, count, heads, dim=None):
    """Rows side by side in a numpy array of bytes."""
    self = Rows()
    self.view, self.type, self.heads, self.dim = data, kind, heads, dim
    self.address = data.ctypes.data if data.size else ctypes.addressof(_nothing)
    self.head = max(1, dim) if dim is not None else 1
    self.row = max(1, heads * self.head)
    self.first, self.count = None, count
    return self
