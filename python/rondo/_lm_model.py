# SPDX-License-Identifier: BSD-2-Clause
"""Model folders as Python has them: tokenizers, what a model is and needs, one part of its weights; and what all of rondo.lm reads arguments
by."""
import ctypes
import os
import signal
import threading
from collections import namedtuple

import numpy as np

from . import _arrays, _lm_structs, _structs
from ._library import LEVELS, check, invalid, number_of, open_lm
from ._problem import flag, whole
from ._ranks import Context

lib, path = open_lm(_lm_structs.FUNCTIONS)

_lock = threading.RLock()   # over who uses which model; of the same thread, for what is collected meanwhile
WEIGHTS = {"f32": _structs.F32, "bf16": _structs.BF16, "f16": _structs.F16, "q8": _structs.Q8}


def folder_bytes(name, value):
    """A file's name for the library."""
    try:
        text = os.fsencode(value)
    except TypeError:
        raise invalid("%s is %r; the name of a file or folder is expected" % (name, value)) from None
    if b"\0" in text:
        raise invalid("%s has a zero byte in it; the name of a file or folder is expected" % name)
    return text


def text_bytes(name, value):
    """A text in UTF-8; half a pair of surrogates goes on to the library, which refuses it with its place."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise invalid("%s is a %s; a text is expected" % (name, type(value).__name__))


def ids_array(name, value):
    """A list of token ids as dense int32."""
    try:
        array = np.asarray(value) if isinstance(value, (list, tuple, range)) else _arrays.as_numpy(name, value, "iu", "a list of token ids")
    except ValueError:   # lists of several lengths
        raise invalid("%s is no list of token ids" % name) from None
    if array.dtype.kind not in "iu" and array.size:   # numpy makes float64 of an empty list
        raise invalid("%s is of type %s; a list of token ids, which are whole numbers, is expected" % (name, array.dtype.name))
    if array.ndim != 1:
        raise invalid("%s has the shape %s; a list of token ids is expected" % (name, list(array.shape)))
    if array.size and (array.min() < 0 or array.max() > 2**31 - 1):
        raise invalid("%s has ids from %d to %d; a token's id is from 0 to 2^31 - 1" % (name, array.min(), array.max()))
    return np.ascontiguousarray(array, dtype=np.int32)


def token(name, value):
    return whole(name, value, 0, 2**31 - 1)


def callback(name, value):
    if value is not None and not callable(value):
        raise invalid("%s is a %s; None or a function is expected" % (name, type(value).__name__))
    return value


class Calls:
    """Functions of the caller's for the library to call. What one of them raises cannot pass through C: it is kept, the library is asked to
    stop, and it is raised behind the call. So is Control-C on Python's main thread, whose handler would raise where a function begins, outside
    of all that it tries: while the library runs the handler waits. What is called is not called again before it returned, by such a function
    or another thread: the library would change what it works on."""

    def __init__(self):
        self.failure, self.signal, self.running = None, None, False

    def idle(self):
        if self.running:
            raise invalid("a call of this LM has not returned; what it calls, and other threads, may only query() and count it meanwhile")

    def guard(self, work):
        def call(*arguments):
            try:
                self._handle()
                work(*arguments)
                return 0
            except BaseException as failure:
                self.failure = self.failure or failure
                return 1
        return call

    def _handle(self):
        held, self.signal = self.signal, None
        if held is not None:
            handler, arguments = held
            handler(*arguments)

    def call(self, function, *arguments):
        """function(*arguments), a function of the library's, and its code checked."""
        self.idle()
        main = threading.get_ident() == threading.main_thread().ident   # current_thread() would note ranks' threads down for ever
        handler = signal.getsignal(signal.SIGINT) if main else None
        if callable(handler):
            signal.signal(signal.SIGINT, lambda *given: setattr(self, "signal", (handler, given)))
        try:
            self.running = True
            code = function(*arguments)
            failure, self.failure = self.failure, None
        finally:
            self.running = False
            if callable(handler):
                signal.signal(signal.SIGINT, handler)
        self._handle()
        if failure is not None:
            try:
                raise failure
            finally:
                del failure
        return check(code)


# ---- tokenizers ----


class Tokenizer:
    """The tokenizer of a model's folder (tokenizer.json): text to token ids and back. It may be used by many threads at once."""

    def __init__(self, folder):
        self._pointer, self._model = ctypes.c_void_p(), None
        check(lib.rondo_tokenizer_open(ctypes.byref(self._pointer), folder_bytes("folder", folder)))

    @classmethod
    def _of(cls, model, pointer):
        self = cls.__new__(cls)
        self._pointer, self._model = ctypes.c_void_p(pointer), model
        return self

    @property
    def pointer(self):
        if self._model is not None:
            self._model.pointer
        if not self._pointer:
            raise invalid("this tokenizer is closed; open it again")
        return self._pointer

    def close(self):
        """Ends it; a model's own ends with the model."""
        if self._pointer and self._model is None:
            lib.rondo_tokenizer_close(self._pointer)
            self._pointer = ctypes.c_void_p()

    __del__ = close

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    @property
    def size(self):
        """All ids are below it."""
        return lib.rondo_tokenizer_size(self.pointer)

    def __len__(self):
        return self.size

    def encode(self, text, *, special=True, plain=False, lossy=False):
        """The ids of a text (str, or bytes of UTF-8), as a list. special: with BOS and others as the file says; plain: a special token's
        spelling in the text is text; lossy: invalid UTF-8 becomes U+FFFD, else it is refused with its place."""
        return self._encode("text", text, special, plain, lossy).tolist()

    def _encode(self, name, text, special, plain, lossy):
        data, ids, count = text_bytes(name, text), ctypes.POINTER(ctypes.c_int32)(), ctypes.c_int64()
        flags = flag("special", special) * _lm_structs.ENCODE_SPECIAL | flag("plain", plain) * _lm_structs.ENCODE_PLAIN | \
            flag("lossy", lossy) * _lm_structs.ENCODE_LOSSY
        check(lib.rondo_tokenizer_encode(self.pointer, data, len(data), flags, ctypes.byref(ids), ctypes.byref(count)))
        try:
            return np.frombuffer(ctypes.string_at(ids, 4 * count.value), np.int32)
        finally:
            lib.rondo_lm_free(ids)

    def decode(self, ids, *, special=False):
        """The text of token ids; special: special tokens too, which are left out else. An id without a token stands for no text."""
        array, text, size = ids_array("ids", ids), ctypes.c_void_p(), ctypes.c_size_t()
        flags = flag("special", special) * _lm_structs.DECODE_SPECIAL
        check(lib.rondo_tokenizer_decode(self.pointer, array.ctypes.data, len(array), flags, ctypes.byref(text), ctypes.byref(size)))
        try:
            return ctypes.string_at(text, size.value).decode(errors="replace")
        finally:
            lib.rondo_lm_free(text)

    def piece(self, id):
        """A token as the file spells it; None: no token has this id."""
        piece = lib.rondo_tokenizer_piece(self.pointer, token("id", id))
        return None if piece is None else piece.decode(errors="replace")

    def id(self, piece):
        """The id of a token by its spelling; None: there is none."""
        data = text_bytes("piece", piece)
        found = -1 if b"\0" in data else lib.rondo_tokenizer_id(self.pointer, data)
        return None if found < 0 else found

    def is_special(self, id):
        """Whether the file calls a token special."""
        return bool(lib.rondo_tokenizer_is_special(self.pointer, token("id", id)))

    def stream(self, *, special=False):
        """A TextStream: text as its tokens come."""
        return TextStream(self, special=special)


class TextStream:
    """Text as its tokens come, of which a token may be a part of a character: push(id) gives the characters that no later token can change,
    end() what was held back. All pieces together are what decode() gives. By one thread at a time."""

    def __init__(self, tokenizer, *, special=False):
        self._pointer, self.tokenizer = ctypes.c_void_p(), tokenizer
        flags = flag("special", special) * _lm_structs.DECODE_SPECIAL
        check(lib.rondo_text_stream_create(ctypes.byref(self._pointer), tokenizer.pointer, flags))

    def _push(self, id):
        self.tokenizer.pointer   # must be there still
        if not self._pointer:
            raise invalid("this text has ended; make another stream")
        text, size = ctypes.c_void_p(), ctypes.c_size_t()
        check(lib.rondo_text_stream_push(self._pointer, id, ctypes.byref(text), ctypes.byref(size)))
        return ctypes.string_at(text, size.value).decode(errors="replace") if size.value else ""

    def push(self, id):
        """Takes the next token; the text that can be shown now, which may be empty."""
        return self._push(token("id", id))

    def end(self):
        """Ends the text: what was held back."""
        rest = self._push(-1)
        self.close()
        return rest

    def close(self):
        if self._pointer:
            lib.rondo_text_stream_destroy(self._pointer)
        self._pointer = ctypes.c_void_p()

    __del__ = close


# ---- models ----

ModelInfo = namedtuple("ModelInfo", "architecture rope layers hidden intermediate heads kv_heads head_dim vocabulary max_positions window "
                       "parameters weight_bytes bos eos tied qk_norm kda_layers kda_heads kda_head_dim conv_taps no_rope")
ModelInfo.__doc__ = """What a model is. parameters are the whole model's; weight_bytes are held in memory by this part, or about what it would
hold. window and bos may be None, eos is a tuple of ids; kda_layers of the layers are Kimi Delta Attention (rondo-kda(7))."""

Estimate = namedtuple("Estimate", "weight_bytes kv_bytes state_bytes all_weight_bytes all_kv_bytes all_state_bytes kv_token_bytes fit")
Estimate.__doc__ = """Memory, in bytes: of weights, cached keys and values, and states, of the rank that has most and of all ranks together;
keys and values of one token. fit: the fewest (tp, cp) ranks of the memory asked for that hold it; None: it was not asked, or none do."""


def _shares(given, tp):
    if given is None:
        return None
    array = _arrays.as_numpy("shares", np.asarray(given) if isinstance(given, (list, tuple)) else given, "iuf", "a list of numbers")
    if array.shape != (tp,):
        raise invalid("shares has the shape %s; [%d], a number for each tensor-parallel rank, is expected" % (list(array.shape), tp))
    return (ctypes.c_double * tp)(*array)


class Model:
    """The weights of a model's folder, as downloaded from Hugging Face, or one rank's part of them; with its tokenizer.

    Whole by itself. tp_rank of tp_ranks: a tensor-parallel part; cp_rank of cp_ranks: where context-parallel ranks share the linear layers
    too. Model.of(context, folder, tp=...) opens the part that a rank of a context needs. Ranks of one process may share a model that is the
    same for them; it may be used by many threads at once.

    context is one on the device that will run it, needed only now (None: the processor). weights: what linear layers are held in, "f32",
    "bf16", "f16" or "q8" (then `group` inputs share a scale), None: as the files have them. level "fast": linear layers within a bound instead
    of to the bit. shares: how much of the layers each tensor-parallel rank has. tokenizer=False: the folder needs none. no_weights=1: only what
    the configuration and the files' headers say, to ask, not to run; 2: not even these headers. progress(done, total) is told bytes.
    """

    def __init__(self, folder, *, context=None, tp_rank=0, tp_ranks=1, cp_rank=0, cp_ranks=1, shares=None, weights=None, group=0, level=None,
                 threads=0, tokenizer=True, no_weights=0, progress=None):
        self._pointer, self._used, self._closed, self.folder = ctypes.c_void_p(), set(), False, folder
        name, calls, most = folder_bytes("folder", folder), Calls(), 2**31 - 1
        if context is not None and not isinstance(context, Context):
            raise invalid("context is a %s; None or a rondo.Context is expected" % type(context).__name__)
        desc = _lm_structs.rondo_model_desc(
            tp_rank=whole("tp_rank", tp_rank, 0, most), tp_ranks=whole("tp_ranks", tp_ranks, 1, most), cp_rank=whole("cp_rank", cp_rank, 0, most),
            cp_ranks=whole("cp_ranks", cp_ranks, 1, most), weights=number_of("weights", WEIGHTS, weights), group=whole("group", group, 0, most),
            level=number_of("level", LEVELS, level), threads=whole("threads", threads, 0, most), no_tokenizer=int(not flag("tokenizer", tokenizer)),
            no_weights=whole("no_weights", no_weights, 0, 2), shares=_shares(shares, tp_ranks))
        if callback("progress", progress):
            desc.progress = _lm_structs.Reading(calls.guard(lambda user, done, total: progress(done, total)))
        own = Context(threads=threads) if context is None else None
        try:
            calls.call(lib.rondo_model_open, ctypes.byref(self._pointer), (own or context).pointer, name, ctypes.byref(desc))
        finally:
            if own is not None:
                own.close()
        self._learn()

    @classmethod
    def of(cls, context, folder, *, tp=1, spread=False, **options):
        """The part of the rank of a context whose ranks are tp x cp: rank r is tensor-parallel rank r % tp of context-parallel rank r / tp.
        spread: context-parallel ranks share the linear layers too. Other keywords as Model() takes them."""
        tp, spread = whole("tp", tp, 1, 2**31 - 1), flag("spread", spread)
        if context.ranks % tp:
            raise invalid("tp is %d, which does not divide the %d ranks; ranks are tp x cp" % (tp, context.ranks))
        return cls(folder, context=context, tp_rank=context.rank % tp, tp_ranks=tp, cp_rank=context.rank // tp if spread else 0,
                   cp_ranks=context.ranks // tp if spread else 1, **options)

    def _learn(self):
        i = _lm_structs.rondo_model_info()
        check(lib.rondo_model_query(self._pointer, ctypes.byref(i)))
        text = lambda name: (getattr(i, name) or b"").decode(errors="replace")
        plain = {name: getattr(i, name) for name in ModelInfo._fields if name not in ("architecture", "rope", "eos")}
        plain.update(window=i.window or None, bos=i.bos if i.bos >= 0 else None, tied=bool(i.tied), qk_norm=bool(i.qk_norm), no_rope=bool(i.no_rope))
        self.info = ModelInfo(architecture=text("architecture"), rope=text("rope"), eos=tuple(i.eos[:i.eos_count]), **plain)

    @property
    def tokenizer(self):
        """Its Tokenizer; None: opened without one."""
        pointer = lib.rondo_model_tokenizer(self.pointer)
        return Tokenizer._of(self, pointer) if pointer else None

    @property
    def pointer(self):
        if self._closed:
            raise invalid("this model is closed; open it again")
        return self._pointer

    def close(self):
        """Gives its memory back, or, while LMs run it, lets the last of them do so."""
        self._closed = True
        self._end(None)

    def _begin(self, lm):
        with _lock:
            self._used.add(lm)

    def _end(self, lm):
        with _lock:
            self._used.discard(lm)
            if self._closed and self._pointer and not self._used:
                lib.rondo_model_close(self._pointer)
                self._pointer = ctypes.c_void_p()

    __del__ = close

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def __repr__(self):
        return "<rondo.lm.Model %s, %d layers, %s>" % (self.info.architecture, self.info.layers, self.folder)


def info(folder):
    """What the model of a folder is, a ModelInfo, from its configuration and the headers of its files alone."""
    with Model(folder, tokenizer=False, no_weights=1, threads=1) as model:
        return model.info


def estimate(folder, *, tp=1, cp=1, spread=False, weights=None, group=0, kv_type=None, shares=None, tokens=0, sequences=0, memory=0, ranks=0):
    """What a model takes in memory on tp x cp ranks with `tokens` tokens cached at the same time, of `sequences` sequences whose states layers
    of Kimi Delta Attention hold: an Estimate, from the configuration and the headers of the files alone. memory: what each rank has, for
    `fit`, among at most `ranks` ranks (0: 1024)."""
    most = 2**31 - 1
    tp, out = whole("tp", tp, 1, most), _lm_structs.rondo_estimate()
    desc = _lm_structs.rondo_estimate_desc(
        tp_ranks=tp, cp_ranks=whole("cp", cp, 1, most), spread=flag("spread", spread), weights=number_of("weights", WEIGHTS, weights),
        group=whole("group", group, 0, most), kv_type=number_of("kv_type", WEIGHTS, kv_type), shares=_shares(shares, tp),
        tokens=whole("tokens", tokens, 0), sequences=whole("sequences", sequences, 0), memory=whole("memory", memory, 0, 2**64 - 1),
        ranks=whole("ranks", ranks, 0, most))
    check(lib.rondo_model_estimate(folder_bytes("folder", folder), ctypes.byref(desc), ctypes.byref(out)))
    fit = (out.fit_tp, out.fit_cp) if out.fit_tp else None
    return Estimate(fit=fit, **{name: getattr(out, name) for name in Estimate._fields if name != "fit"})
