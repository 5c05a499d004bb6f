# SPDX-License-Identifier: BSD-2-Clause
"""Language models: folders as downloaded from Hugging Face, on one rank or on tp x cp ranks, with the bits of one.

    import rondo.lm

    print(rondo.lm.generate("examples/kjv", "In the beginning", max_tokens=40).text)
    for piece in rondo.lm.stream("examples/kjv", "In the beginning", tp=2, cp=2):
        print(piece, end="", flush=True)

generate(), stream() and score() run ranks that are threads of this process, and take a folder, or Parts of one that stay open between calls.
Model and LM are for ranks of one's own: inside of rondo.run(), or one process each under mpirun, with rondo.Context("mpi"); there texts may
come and go between steps. info() and estimate() say what a model is and takes, before it is read. The hash of a Result or a Score is what
`rondo generate` and `rondo score` report, and no number of ranks changes it. It needs librondo_lm, which is looked for beside librondo, or
the file that RONDO_LM_LIBRARY names.
"""
import atexit
import ctypes
import inspect
import os
import queue
import threading

from . import _structs
from ._library import Error, check, error, invalid
from ._library import lib as _rondo
from ._lm_arrays import Arrays
from ._lm_model import Estimate, Model, ModelInfo, TextStream, Tokenizer, callback, estimate, info
from ._lm_model import path as library
from ._lm_run import LM, Counters, Event, Logprob, Result, Score, lm_desc, prompt_ids, prompt_lists, sampling
from ._problem import flag, whole
from ._ranks import Context, Stop, _launch, describe, interruptible

__all__ = ["generate", "stream", "score", "Parts", "Stream", "Model", "LM", "Tokenizer", "TextStream", "Arrays", "info", "estimate", "Event", "Result",
           "Score", "Logprob", "Counters", "ModelInfo", "Estimate", "library"]

_RANKS = 1024   # that can be threads


def _numbers(text):
    """How many numbers "0-3,5" has; 0 where it is something else, which the library will say."""
    ends = [part.split("-") for part in text.split(",")]
    return sum(int(end[-1]) - int(end[0]) + 1 for end in ends) if all(0 < len(end) < 3 and all(x.isdigit() for x in end) for end in ends) else 0


def _chosen(device):
    """How many tensor-parallel ranks where nobody says so: as many as the devices listed, else one for each memory node whose cores this process
    may use, so that weights lie beside the cores that read them, as rondo_lm_generate(3) has it."""
    if device is not None and (":" in device or "," in device):
        return max(1, sum(max(1, _numbers(entry.partition(":")[2])) for entry in device.split(",")))
    nodes, mine = 0, os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    for node in range(256):
        try:
            with open("/sys/devices/system/node/node%d/cpulist" % node) as file:
                spans = [span.split("-") for span in file.read().strip().split(",") if span]
        except (OSError, ValueError):
            continue
        nodes += any(int(span[0]) <= core <= int(span[-1]) for span in spans for core in mine)
    return max(1, nodes)


class Parts:
    """A model's parts for tp x cp ranks that are threads of this process, each opened once: generate(), stream() and score() take them in place
    of a folder, and so does a body of rondo.run(), by of(context).

    tp: tensor-parallel ranks, which share the layers; cp: context-parallel ranks, which share the positions of texts. None: the other is
    given, and it is 1; both None: a tensor-parallel rank for each of the devices listed, or for each memory node. spread: context-parallel
    ranks share the linear layers too. threads: inside of each rank (0: the cores shared out evenly). weights, group, level, shares,
    tokenizer and progress as Model() takes them; isa, device and deadline as rondo.Context() does, a list such as "cuda:0-3" dealing
    devices out to ranks.
    """

    def __init__(self, folder, *, tp=None, cp=None, spread=False, weights=None, group=0, level=None, shares=None, threads=0, isa=None, device=None,
                 deadline=None, tokenizer=True, progress=None):
        self._models = []
        self._desc = describe(None, threads, isa, device, deadline)
        self.folder, self.level, self.spread = folder, level, bool(flag("spread", spread))
        self.tp = whole("tp", tp, 1, _RANKS) if tp is not None else _chosen(device) if cp is None else 1
        self.cp = whole("cp", cp, 1, _RANKS) if cp is not None else 1
        self.ranks = self.tp * self.cp
        if self.ranks > _RANKS:
            raise invalid("tp %d and cp %d make %d ranks; at most %d can be threads" % (self.tp, self.cp, self.ranks, _RANKS))
        listed = device is not None and (":" in device or "," in device)
        self._each = self.spread or listed   # a rank's weights are where it computes
        callback("progress", progress)
        options = dict(tp_ranks=self.tp, shares=shares, weights=weights, group=group, level=level, tokenizer=tokenizer)
        stop = Stop()
        interruptible(lambda: self._open(isa, device, listed, options, progress, stop), stop)

    def _open(self, isa, device, listed, options, progress, stop):
        count = self.ranks if self._each else self.tp
        for i in range(count):
            if stop.asked:
                raise error(_structs.ERRORS["ECANCELED"], "Control-C came before part %d of %d was read" % (i, count))
            t, c = (i // self.cp, i % self.cp) if self._each else (i, 0)
            desc, pointer = describe(None, 0, isa, device), ctypes.c_void_p()   # read one after the other, each by all cores
            desc.device_index = c * self.tp + t if listed else 0
            check(_rondo.rondo_context_create(ctypes.byref(pointer), ctypes.byref(desc)))
            with Context._of(pointer.value, None, owned=True) as context:
                told = None if progress is None else lambda done, total: progress(i * (total // count) + done // count, total)
                self._models.append(Model(self.folder, context=context, tp_rank=t, cp_rank=c if self.spread else 0,
                                          cp_ranks=self.cp if self.spread else 1, progress=told, **options))

    def of(self, context):
        """The Model of a context's rank."""
        if context.ranks != self.ranks:
            raise invalid("the context has %d ranks; these parts are of %d x %d" % (context.ranks, self.tp, self.cp))
        return self._any(context.rank % self.tp * self.cp + context.rank // self.tp if self._each else context.rank % self.tp)

    def _any(self, i=0):
        if not self._models:
            raise invalid("these parts are closed; open them again")
        return self._models[i]

    @property
    def info(self):
        """What the model is: a ModelInfo."""
        return self._any().info

    @property
    def tokenizer(self):
        """Its Tokenizer; None: opened without one."""
        return self._any().tokenizer

    def close(self):
        """Gives their memory back; what runs them still runs on, and gives it back at its end."""
        while self._models:
            self._models.pop().close()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def __repr__(self):
        return "<rondo.lm.Parts %d x %d of %s>" % (self.tp, self.cp, self.folder)


_parameters = lambda function, *but: {name: p for name, p in inspect.signature(function).parameters.items() if name not in but}
_DRAWN = _parameters(sampling)
_RUN = _parameters(lm_desc, "level")
_OPEN = _parameters(Parts, "folder", "progress")
_GENERATE = {**_DRAWN, **_RUN, **_OPEN}
_SCORE = {**_parameters(lm_desc, "level", "logits", "logprobs"), **_OPEN}


def _takes(keywords):
    """So that help() shows what the keywords of a function may be, which stand where they are read."""
    def mark(function):
        own = [p for p in inspect.signature(function).parameters.values() if p.kind != p.VAR_KEYWORD]
        function.__signature__ = inspect.Signature(own + [p.replace(kind=p.KEYWORD_ONLY) for p in keywords.values()])
        return function
    return mark


class _Job:
    """A model's parts, opened here or given, and what LMs on their ranks are made with. All keywords are looked at before a model is read."""

    def __init__(self, model, may, keywords):
        self.own = not isinstance(model, Parts)
        for name in keywords:
            if name not in may:
                raise TypeError("there is no keyword %s here" % name)
            if name in _OPEN and not self.own:
                raise invalid("%s is given with Parts, which are open already; give it to Parts()" % name)
        taken = lambda which: {name: value for name, value in keywords.items() if name in which}
        self.sampling, self.run = sampling(**taken(_DRAWN)), taken(_RUN)
        lm_desc(**self.run)
        self.progress = self.run.pop("progress", None)
        self.parts = Parts(model, **taken(_OPEN)) if self.own else model
        if self.run.get("kv_type") in ("bf16", "f16"):   # of others no attention but strict has anything
            self.run["level"] = self.parts.level

    def launch(self, body, stop):
        """body(lm) on every rank; what rank 0's returned."""
        parts, run, progress = self.parts, self.run, self.progress

        def rank(context):
            with LM(context, parts.of(context), progress=progress if context.rank == 0 else None, **run) as lm:
                return body(lm)

        return _launch(parts.ranks, parts._desc, rank, stop)[0]

    def close(self):
        if self.own:
            self.parts.close()


def _asked(model, prompt, plain, lossy, keywords):
    """A job, the prompts' ids, and whether they came as a list."""
    job = _Job(model, _GENERATE, keywords)
    try:
        return (job,) + prompt_lists(prompt, job.parts, plain, lossy)
    except BaseException:
        job.close()
        raise


@_takes(_GENERATE)
def generate(model, prompt, *, plain=False, lossy=False, **keywords):
    """A model continues a text, or a list of texts at once: a Result, or a list of them.

    model: a folder, which is opened for the call, or Parts. prompt: a text (str, or bytes of UTF-8), a list of token ids, or a list of
    these. The keywords, of which none but weights, group, kv_type, leaf, level and interleave has a part in the bits of the model:

      max_tokens=128, temperature=0.0, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0, seed=0, stop=(), ignore_eos=False, plain=False,
      lossy=False                      what is said, as LM.submit() takes them
      tp, cp, spread, weights, group, level, shares, threads, isa, device, deadline, tokenizer
                                       by which ranks, as Parts() takes them; with a folder
      kv_type, layout, algorithm, leaf, interleave, chunk, batch_tokens, logits, logprobs, progress
                                       how, as LM() takes them; progress is told by rank 0
    """
    job, lists, several = _asked(model, prompt, plain, lossy, keywords)
    stop = Stop()
    try:
        results = interruptible(lambda: job.launch(lambda lm: lm._generate(lists, job.sampling, None), stop), stop)
    finally:
        job.close()
    return results if several else results[0]


@_takes(_SCORE)
def score(model, text, *, plain=False, lossy=False, logits=False, limit=None, **keywords):
    """How well a model predicts a text of two tokens or more (str, bytes of UTF-8, or a list of token ids): a Score.

    logits=True: with all logits, a float32 array [tokens, vocabulary]; a function is called as logits(position, row) for each position
    instead. limit: the first so many tokens only. The other keywords are those of generate() which do not say what is said.
    """
    if not callable(logits):
        logits = bool(flag("logits", logits))
    limit = None if limit is None else whole("limit", limit, 1)
    job, stop = _Job(model, _SCORE, keywords), Stop()
    try:
        ids = prompt_ids("text", text, job.parts, plain, lossy)[:limit]
        return interruptible(lambda: job.launch(lambda lm: lm._score(ids, logits), stop), stop)
    finally:
        job.close()


# ---- text as it comes ----


class _End:
    def __init__(self, results, failure):
        self.results, self.failure = results, failure


_running = {}   # the thread behind each stream that has not ended, and what stops it


def _feed(items, stop, work, close):
    """The thread behind a stream: it knows nothing of the stream, which may go at any time."""
    try:
        end = _End(work(items.put, stop), None)
    except BaseException as failure:
        end = _End(None, failure)
    try:
        close()
    finally:
        items.put(end)
        del _running[threading.current_thread()]


@atexit.register
def _stop_all():
    """No thread may be in the library when Python goes."""
    for thread, stop in list(_running.items()):
        stop.asked = True
        thread.join()


class Stream:
    """Text as it comes: an iterator of Events, which are pieces of text (str) with an `id`, that of their prompt in the list, and a `token`. The
    ranks run ahead of whoever reads. What fails on a rank, also in a function of the caller's, is raised by the iteration.

    close() stops the ranks and returns when they have ended; so do the end of a `with` block, Control-C while an event is waited for, and
    letting the stream go.
    """

    def __init__(self, work, close, several):
        self._items, self._stop, self._several, self._end, self._closed = queue.SimpleQueue(), Stop(), several, None, False
        self._thread = threading.Thread(target=_feed, args=(self._items, self._stop, work, close), name="rondo", daemon=True)
        _running[self._thread] = self._stop
        self._thread.start()

    def __iter__(self):
        return self

    def __next__(self):
        if self._end is not None or self._closed:
            raise StopIteration
        try:
            item = self._items.get()
        except BaseException:   # Control-C
            self._finish()
            raise
        if not isinstance(item, _End):
            return item
        self._items.put(item)   # for other threads that wait
        self._thread.join()
        if self._closed:
            raise StopIteration
        self._end = item
        if item.failure is not None:
            raise item.failure
        raise StopIteration

    def result(self):
        """Waits for the end, and gives what generate() gives: a Result, or a list of them."""
        for _ in self:
            pass
        if self._end is None or self._end.failure is not None:
            raise invalid("the stream %s, so that there is no result" % ("was closed before its end" if self._end is None else "failed"))
        return self._end.results if self._several else self._end.results[0]

    def _finish(self):
        """Stops the ranks; what failed before they heard of it, or None."""
        self._stop.asked, self._closed = True, True
        self._thread.join()
        failure = None
        while self._end is None and failure is None:
            try:
                item = self._items.get_nowait()
            except queue.Empty:
                break
            if isinstance(item, _End):
                self._items.put(item)   # for threads that wait
                failure = item.failure
                break
        stopped = isinstance(failure, Error) and failure.code == _structs.ERRORS["ECANCELED"]
        return None if stopped else failure

    def close(self):
        """Stops the ranks, if they run still, and returns when they have ended. What failed on them and was not raised yet is raised here."""
        failure = self._finish() if self._end is None and not self._closed else None
        if failure is not None:
            raise failure

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind is None:
            self.close()
        elif not self._closed:
            self._finish()

    def __del__(self):
        if hasattr(self, "_stop"):
            self._stop.asked = True


@_takes(_GENERATE)
def stream(model, prompt, *, plain=False, lossy=False, **keywords):
    """The same as generate(), with the same keywords, as an iterator of the text while it comes: a Stream. The model is open when it returns.

        for piece in rondo.lm.stream("examples/kjv", "In the beginning", stop="."):
            print(piece, end="", flush=True)
    """
    job, lists, several = _asked(model, prompt, plain, lossy, keywords)

    def work(put, stop):
        return job.launch(lambda lm: lm._generate(lists, job.sampling, put if lm.context.rank == 0 else None), stop)

    return Stream(work, job.close, several)
