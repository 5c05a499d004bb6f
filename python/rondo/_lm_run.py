# SPDX-License-Identifier: BSD-2-Clause
"""A rank that runs a language model: LM, what its steps bring, and what is asked of a text that is to be continued.

Where Control-C is to be heard it is so between steps and by the library's progress function inside of them; what a function of the caller's
raises comes out of the step in which it did (Calls of _lm_model.py).
"""
import ctypes
import math
import sys
import warnings
from collections import namedtuple

import numpy as np

from . import _lm_structs, _structs
from ._library import ALGORITHMS, LAYOUTS, LEVELS, check, error, invalid, name_of, number_of
from ._lm_model import WEIGHTS, Calls, Model, callback, ids_array, lib, text_bytes
from ._problem import flag, real, whole
from ._ranks import Context

Logprob = namedtuple("Logprob", "token logprob top")
Logprob.__doc__ = """A new token's id, the natural logarithm of its probability by the model's logits alone, and the likeliest tokens at its
place, likeliest first, as pairs (id, logprob)."""

Result = namedtuple("Result", "text tokens finish hash prompt_tokens logprobs")
Result.__doc__ = """What a sequence came to: the new text, without stop texts; its token ids; finish, "length", "eos" or "stop" (None: it runs
still); the hash of the logits of each new token, 16 hex digits, which no layout of ranks changes; how many tokens the prompt had; and,
where they were asked for, a Logprob for each token."""

Score = namedtuple("Score", "tokens nll perplexity hash logits")
Score.__doc__ = """How well a model predicts a text: its number of tokens; nll, the mean negative log likelihood in nats of all but the first;
perplexity, exp(nll); the hash of all logits; and the logits [tokens, vocabulary], on rank 0 where they were asked for."""

Counters = namedtuple("Counters", "prefill_tokens decode_tokens prefill_seconds decode_seconds prefill_algorithm decode_algorithm kv_bytes "
                      "workspace_bytes first_tokens first_seconds steps step_sequences decode_bytes state_bytes prefill_chosen_by "
                      "decode_chosen_by prefill_predicted decode_predicted")
Counters.__doc__ = """What an LM has done, and holds, as rondo_lm_count(3) says it; algorithms by name (None: no pass ran), predicted seconds by
the name of the algorithm."""

_FINISH = {0: None, 1: "length", 2: "eos", 3: "stop"}
_CHOSEN = ("caller", "rule", "time", "before")


class Event(str):
    """A new token of a sequence: the text that may be shown now (what may become a stop text is held back, so it may be empty), and, as
    attributes, the sequence's `id`; the `token` (None: it ended without one); `finish`, None while it runs, else "length", "eos" or "stop";
    with logprobs its `logprob` and the likeliest tokens `top`, as those of Logprob."""
    __slots__ = ("id", "token", "finish", "logprob", "top")

    def __repr__(self):
        return "<rondo.lm.Event %d: %s%s>" % (self.id, str.__repr__(self), ", " + self.finish if self.finish else "")


def _event(e, logprobs):
    self = Event(ctypes.string_at(e.text, e.text_bytes).decode(errors="replace") if e.text_bytes else "")
    self.id, self.token, self.finish = e.id, e.token if e.token >= 0 else None, _FINISH[e.finish]
    told = logprobs and e.token >= 0
    self.logprob = e.logprob if told else None
    self.top = [(t.token, t.logprob) for t in e.top[:logprobs] if t.token >= 0] if told else None
    return self


def sampling(*, max_tokens=128, temperature=0.0, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0, seed=0, stop=(), ignore_eos=False):
    """A rondo_sampling, as keywords say it."""
    stops = [stop] if isinstance(stop, (str, bytes)) else stop
    try:
        stops = [text_bytes("stop[%d]" % i, text) for i, text in enumerate(stops)]
    except TypeError:
        raise invalid("stop is %r; a text or a list of texts is expected" % (stop,)) from None
    for i, text in enumerate(stops):
        if not text or b"\0" in text:
            raise invalid("stop[%d] is %s; a text of at least one character is expected" % (i, "empty" if not text else "a text with a zero byte"))
    top_p = real("top_p", top_p)
    s = _lm_structs.rondo_sampling(
        max_tokens=whole("max_tokens", max_tokens, 0), temperature=real("temperature", temperature), top_k=whole("top_k", top_k, 0),
        top_p=top_p if top_p != 0 else sys.float_info.min,   # a 0 is "off" there; every token reaches this
        min_p=real("min_p", min_p), repetition_penalty=real("repetition_penalty", repetition_penalty), seed=whole("seed", seed, 0, 2**64 - 1),
        ignore_eos=flag("ignore_eos", ignore_eos), stops=(ctypes.c_char_p * len(stops))(*stops) if stops else None, stop_count=len(stops))
    if repetition_penalty == 0:
        raise invalid("repetition_penalty is 0; a number from 0.001 to 1000 is expected, 1 being off")
    return s


def lm_desc(kv_type=None, layout=None, algorithm=None, level=None, leaf=0, interleave=False, chunk=0, batch_tokens=0, logits=None, logprobs=0,
            progress=None):
    """A rondo_lm_desc, as keywords say it; its functions are checked and not yet set."""
    callback("logits", logits), callback("progress", progress)
    return _lm_structs.rondo_lm_desc(
        kv_type=number_of("kv_type", WEIGHTS, kv_type), layout=number_of("layout", LAYOUTS, layout),
        algorithm=number_of("algorithm", ALGORITHMS, algorithm), level=number_of("level", LEVELS, level), leaf=whole("leaf", leaf, 0, 2**31 - 1),
        interleave=flag("interleave", interleave), chunk=whole("chunk", chunk, 0), batch_tokens=whole("batch_tokens", batch_tokens, 0),
        logprobs=whole("logprobs", logprobs, 0, _lm_structs.LOGPROBS))


def is_text(prompt):
    return isinstance(prompt, (str, bytes, bytearray, memoryview))


def prompt_ids(name, prompt, model, plain=False, lossy=False):
    """The ids of a prompt that is a text or a list of ids. model: a Model or Parts."""
    if not is_text(prompt):
        return ids_array(name, prompt)
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise invalid("%s is a text, and the model was opened without its tokenizer; give token ids" % name)
    return tokenizer._encode(name, prompt, True, plain, lossy)


class LM:
    """A language model that runs on the rank of a context: texts are submitted, and each step() brings every one of them a token.

    All ranks of the context make the same calls with the same arguments, of which each has the part of the model that Model.of() opens; the
    bits are those of one rank, and do not depend on what else is in the batch. query(), release() and counters() are each rank's own.

    kv_type: what keys and values are cached in, "f32", "f16", "bf16" or "q8"; layout and algorithm: as attention() takes them; level: of
    attention; leaf; interleave: new keys go to ranks token by token, with bits that depend on cp; chunk: read prompts in chunks of so many tokens; batch_tokens: of all
    texts together in a pass at most (0: 8192). logprobs: with each token the so many likeliest ones. progress(done, total) is told tokens of
    prompts, as this rank sees them.

    logits(id, position, row) is called before each draw, on the rank that draws (any, so that all ranks give a function that does the same):
    row is a float32 array of the vocabulary's logits, for it to change, or it returns another one. The hash has them unchanged.

    What progress or logits raise comes out of the call in which they did; after that, as after each step that failed, the LM can only be
    closed, on all ranks. They, and other threads, may query() and count meanwhile, and call nothing else of the LM.
    """

    def __init__(self, context, model, *, kv_type=None, layout=None, algorithm=None, level=None, leaf=0, interleave=False, chunk=0, batch_tokens=0,
                 logits=None, logprobs=0, progress=None):
        self._pointer, self.context, self.model, self._calls = ctypes.c_void_p(), context, None, Calls()
        if not isinstance(context, Context) or not isinstance(model, Model):
            raise invalid("%s; LM(context, model) takes a rondo.Context and a rondo.lm.Model" % (
                "context is a %s" % type(context).__name__ if not isinstance(context, Context) else "model is a %s" % type(model).__name__))
        desc = self._desc = lm_desc(kv_type, layout, algorithm, level, leaf, interleave, chunk, batch_tokens, logits, logprobs, progress)
        self.live, self.logprobs = 0, desc.logprobs
        self._events, self._likely = (_lm_structs.rondo_lm_event * 8)(), {}
        desc.progress = _lm_structs.Progress(self._calls.guard(_progress(context, progress)))
        if logits is not None:
            desc.logits = _lm_structs.Logits(self._calls.guard(_logits(logits)))
        context.sweep()
        check(lib.rondo_lm_create(ctypes.byref(self._pointer), context.pointer, model.pointer, ctypes.byref(desc)))
        self.model = model
        model._begin(self._pointer.value)
        context._plans.add(self)

    @property
    def pointer(self):
        if not self._pointer:
            raise invalid("this LM is closed, or its context is; make another one")
        return self._pointer

    def close(self):
        """Ends it; by the context's thread."""
        if self._pointer:
            self._calls.idle()
            lib.rondo_lm_destroy(self._pointer)
            self.model._end(self._pointer.value)
        self._pointer = ctypes.c_void_p()

    def __del__(self):
        if self._pointer:
            self.context._dropped.append((_Destroy(self.model, self._desc), self._pointer))

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def __repr__(self):
        return "<rondo.lm.LM rank %d of %d, %d live>" % (self.context.rank, self.context.ranks, self.live)

    # ---- texts to continue ----

    def submit(self, prompt, *, plain=False, lossy=False, max_tokens=128, temperature=0.0, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0,
               seed=0, stop=(), ignore_eos=False):
        """Adds a text (str, bytes of UTF-8, or a list of token ids) that is to be continued, at any time; its id, which counts from 0. Collective.

        At most max_tokens new tokens, or up to one of the texts `stop`, which is not part of the result, or, without ignore_eos, to the
        model's end token. temperature 0: always the likeliest token; else one is drawn by `seed`, among the top_k likeliest (0: all), those
        that together reach top_p, and those of at least min_p times the likeliest's probability, after repetition_penalty divided the score
        of what has been said. plain: special tokens spelled in the text are text; lossy: invalid UTF-8 becomes U+FFFD instead of an
        error."""
        s = sampling(max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=repetition_penalty,
                     seed=seed, stop=stop, ignore_eos=ignore_eos)
        self.pointer
        return self._submit(prompt_ids("prompt", prompt, self.model, plain, lossy), s)

    def _warn(self, tokens):
        most = self.model.info.max_positions
        if self.context.rank == 0 and 0 < most < tokens:
            warnings.warn("%d tokens, but the model was made for %d (max_position_embeddings); beyond them it may be at a loss" % (tokens, most),
                          stacklevel=3)

    def _submit(self, ids, s):
        self._calls.idle()
        self._warn(len(ids) + s.max_tokens)
        id = ctypes.c_int64()
        check(lib.rondo_lm_submit(self.pointer, ids.ctypes.data, len(ids), ctypes.byref(s), ctypes.byref(id)))
        self.live += 1
        if self.logprobs:
            self._likely[id.value] = []
        return id.value

    def step(self):
        """One pass: chunks of prompts, or a new token of every text that lives; a list of Events, empty where only prompts were read.
        Collective."""
        if len(self._events) < self.live:
            self._events = (_lm_structs.rondo_lm_event * (2 * self.live))()
        _go_on(self.context)
        live = ctypes.c_int64()
        count = self._calls.call(lib.rondo_lm_step, self.pointer, self._events, len(self._events), ctypes.byref(live))
        self.live = live.value
        events = [_event(e, self.logprobs) for e in self._events[:count]]
        for e in events:
            if e.top is not None:
                self._likely[e.id].append(Logprob(e.token, e.logprob, e.top))
        return events

    def events(self):
        """Steps until no text lives, and yields the Events as they come. Collective."""
        while self.live:
            yield from self.step()

    def query(self, id):
        """What a text has come to so far: a Result."""
        s = _lm_structs.rondo_lm_status()
        check(lib.rondo_lm_query(self.pointer, whole("id", id, 0), ctypes.byref(s)))
        text = ctypes.string_at(s.text, s.text_bytes).decode(errors="replace") if s.text_bytes else ""
        likely = list(self._likely[id]) if self.logprobs else None
        return Result(text, s.tokens[:s.new_tokens], _FINISH[s.finish], "%016x" % s.hash, s.prompt_tokens, likely)

    def release(self, id):
        """Forgets a text that has ended: all that was still kept of it."""
        self._calls.idle()
        check(lib.rondo_lm_release(self.pointer, whole("id", id, 0)))
        self._likely.pop(id, None)

    def generate(self, prompts, *, plain=False, lossy=False, **options):
        """Continues a text, or all of a list of texts, to the end: a Result, or a list of them. Keywords as submit() takes them. Collective."""
        self.pointer
        lists, several = prompt_lists(prompts, self.model, plain, lossy)
        found = self._generate(lists, sampling(**options), None)
        return found if several else found[0]

    def _generate(self, lists, s, tell):
        numbers = [self._submit(ids, s) for ids in lists]
        for event in self.events():
            if tell is not None:
                tell(event)
        results = [self.query(id) for id in numbers]
        for id in numbers:
            self.release(id)
        return results

    # ---- texts to score ----

    def score(self, text, *, plain=False, lossy=False, logits=False):
        """How well the model predicts a text (or a list of token ids) of two tokens or more: a Score. logits=True: with the logits [tokens,
        vocabulary] on rank 0, None on others; a function is called on rank 0 as logits(position, row) for each position instead, with a
        float32 array. Collective."""
        self.pointer
        return self._score(prompt_ids("text", text, self.model, plain, lossy), logits)

    def _score(self, ids, logits):
        self._warn(len(ids))
        keep, take = None, None
        words = self.model.info.vocabulary
        if not callable(logits) and not flag("logits", logits):
            logits = None
        elif self.context.rank == 0 and callable(logits):
            take = lambda user, row, data: logits(row, np.array(_floats(data, words)))
        elif self.context.rank == 0:
            keep = np.empty((len(ids), words), np.float32)
            take = lambda user, row, data: ctypes.memmove(keep[row].ctypes.data, data, 4 * words)
        function = _lm_structs.Row(self._calls.guard(_watched(self.context, take))) if take is not None else None
        out = _lm_structs.rondo_score()
        _go_on(self.context)
        self._calls.call(lib.rondo_lm_score, self.pointer, ids.ctypes.data, len(ids), function, None, ctypes.byref(out))
        return Score(out.tokens, out.nll, math.exp(out.nll) if out.nll < 709 else math.inf, "%016x" % out.hash, keep)

    def counters(self):
        """What it has done and holds, on this rank: Counters."""
        c = _lm_structs.rondo_lm_counters()
        check(lib.rondo_lm_count(self.pointer, ctypes.byref(c)))
        found = {name: getattr(c, name) for name in Counters._fields}
        for kind in ("prefill", "decode"):
            number, by = found[kind + "_algorithm"], found[kind + "_chosen_by"]
            found[kind + "_algorithm"] = name_of(ALGORITHMS, number) if number else None
            found[kind + "_chosen_by"] = _CHOSEN[by] if number and by < len(_CHOSEN) else None
            seconds = found[kind + "_predicted"]
            found[kind + "_predicted"] = {name: seconds[i] for name, i in ALGORITHMS.items() if i < len(seconds) and seconds[i] > 0}
        return Counters(**found)


class _Destroy:
    """What ends an LM that nobody refers to any more: on its context's thread, and before its model, and its functions, go."""

    def __init__(self, model, desc):
        self.model, self.desc = model, desc

    def __call__(self, pointer):
        lib.rondo_lm_destroy(pointer)
        self.model._end(pointer.value)


def prompt_lists(prompts, model, plain, lossy):
    """The ids of one prompt or of a list of them, and whether it was a list."""
    if is_text(prompts) or getattr(prompts, "ndim", 0) == 1 or (isinstance(prompts, (list, tuple, range)) and len(prompts) and
                                                                hasattr(prompts[0], "__index__")):
        return [prompt_ids("prompt", prompts, model, plain, lossy)], False
    try:
        prompts = list(prompts)
    except TypeError:
        raise invalid("prompt is a %s; a text, a list of token ids, or a list of these is expected" % type(prompts).__name__) from None
    if not prompts:
        raise invalid("prompt is empty; a text, a list of token ids, or a list of these is expected")
    return [prompt_ids("prompt[%d]" % i, prompt, model, plain, lossy) for i, prompt in enumerate(prompts)], True


def _floats(address, count):
    return np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(ctypes.c_float)), (count,))


def _go_on(context):
    if context.stop is not None and context.stop.asked:
        raise error(_structs.ERRORS["ECANCELED"], "rank %d was asked to stop" % context.rank)


def _watched(context, work):
    def call(*arguments):
        _go_on(context)
        work(*arguments)
    return call


def _progress(context, told):
    return _watched(context, lambda user, done, total: told(done, total) if told is not None else None)


def _logits(function):
    def call(user, id, position, data, count):
        row = _floats(data, count)
        given = row.copy()   # the function may keep it
        found = function(id, position, given)
        if found is None:
            found = given
        elif np.shape(found) != (count,):
            raise invalid("logits returned %s; None or the %d logits are expected" % (
                "an array of shape %s" % list(np.shape(found)) if np.ndim(found) else "a %s" % type(found).__name__, count))
        elif not np.can_cast(np.asarray(found).dtype, np.float64, "same_kind"):
            raise invalid("logits returned numbers of type %s; real ones are expected" % np.asarray(found).dtype.name)
        row[:] = found
    return call
