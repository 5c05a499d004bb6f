# SPDX-License-Identifier: BSD-2-Clause
"""Arrays in safetensors files, as numpy has them."""
import collections.abc
import ctypes

import numpy as np

from . import _arrays, _lm_structs, _structs
from ._library import check, invalid
from ._lm_model import folder_bytes, lib
from ._problem import whole

_TYPES = {1: np.float32, 3: np.float16, 4: np.float64, 5: np.int64, 6: np.int32, 7: np.int16, 8: np.int8, 9: np.uint64, 10: np.uint32,
          11: np.uint16, 12: np.uint8, 13: np.bool_}


class Arrays(collections.abc.Mapping):
    """The arrays of a safetensors file, by name: arrays["name"] reads one, as numpy has it. bfloat16 numbers are ml_dtypes.bfloat16 where that
    package is there, else their bits as uint16; an array of a type that is unknown here is its bytes."""

    def __init__(self, file):
        self._pointer, self._at = ctypes.c_void_p(), {}
        check(lib.rondo_arrays_open(ctypes.byref(self._pointer), folder_bytes("file", file)))
        for i in range(lib.rondo_arrays_count(self._pointer)):
            array = ctypes.cast(lib.rondo_arrays_at(self._pointer, i), ctypes.POINTER(_lm_structs.rondo_array))
            self._at[array.contents.name.decode(errors="replace")] = array

    def close(self):
        if self._pointer:
            lib.rondo_arrays_close(self._pointer)
        self._pointer, self._at = ctypes.c_void_p(), {}

    __del__ = close

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def __len__(self):
        return len(self._at)

    def __iter__(self):
        return iter(list(self._at))

    def __contains__(self, name):
        return name in self._at

    def shape(self, name):
        """The shape of an array, which need not be read for that."""
        array = self._at[name].contents
        return tuple(array.shape[:array.dims])

    def dtype(self, name):
        """The type that numpy has it in; uint8 where it is its bytes."""
        number = self._at[name].contents.type
        return _arrays._bf16() if number == _structs.BF16 else np.dtype(_TYPES.get(number, np.uint8))

    def rows(self, name, first, count):
        """Rows [first, first + count) of an array along its first dimension."""
        shape = self.shape(name)
        if not shape or self._at[name].contents.type == _lm_structs.ARRAY_TYPES["OTHER"]:
            raise invalid("%s has no rows that are known here; read it whole" % name)
        first = whole("first", first, 0, shape[0])
        count = whole("count", count, 0, shape[0] - first)
        return self._read(name, (count,) + shape[1:], first)

    def __getitem__(self, name):
        array = self._at[name].contents
        return self._read(name, (array.bytes,) if array.type == _lm_structs.ARRAY_TYPES["OTHER"] else self.shape(name), 0)

    def _read(self, name, shape, row):
        if not self._pointer:
            raise invalid("this file is closed; open it again")
        data = np.empty(shape, self.dtype(name))
        step = data.nbytes // shape[0] if shape and shape[0] else 0
        check(lib.rondo_arrays_read(self._pointer, self._at[name], row * step, data.nbytes, data.ctypes.data))
        return data
