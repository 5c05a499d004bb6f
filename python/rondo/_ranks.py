# SPDX-License-Identifier: BSD-2-Clause
"""Contexts - one is one rank - and what runs a function on many of them.

Control-C. Python tells its main thread of a signal, and only between steps of its own, so the main thread must not wait inside the
library. Ranks therefore run on other threads while the main thread waits in Python; when it is interrupted it sets a flag, at which the
ranks' progress functions ask their executions to stop, and raises KeyboardInterrupt when all have returned. On a thread that is not the
main one nothing of this is needed: it runs rank 0 itself.
"""
import ctypes
import threading
import weakref

import numpy as np

from . import _structs
from ._library import OPERATIONS, check, error, invalid, lib, text
from ._problem import real, whole


class Stop:
    """Whether somebody asked to stop, as a progress function of the library."""

    def __init__(self):
        self.asked = False
        self.progress = _structs.Progress(lambda user, done: 1 if self.asked else 0)


def _text(name, value):
    if value is None:
        return None
    if not isinstance(value, str) or "\0" in value:
        raise invalid("%s is %r; None or a name is expected" % (name, value))
    return value.encode()


def describe(transport=None, threads=0, isa=None, device=None, deadline=0.0):
    """The descriptor of contexts."""
    return _structs.rondo_context_desc(
        device=_text("device", device), transport=_text("transport", transport), isa=_text("isa", isa),
        threads=whole("threads", threads, 0, 2**31 - 1), deadline=0.0 if deadline is None else real("deadline", deadline))


class Context:
    """One rank: a device that computes and a transport that moves bytes.

    Context() is one rank alone; Context("mpi") joins the processes that mpirun started, one rank each, and is collective, as close() is.
    Inside of run() each rank is given its own. A context is used by one thread at a time. With `with` it is closed at the end.
    """

    def __init__(self, transport=None, *, threads=0, isa=None, device=None, deadline=None):
        self._pointer, self._owned, self.stop = ctypes.c_void_p(), True, None
        self._plans, self._dropped = weakref.WeakSet(), []
        desc = describe(transport, threads, isa, device, deadline)
        check(lib.rondo_context_create(ctypes.byref(self._pointer), ctypes.byref(desc)))
        self._learn()

    @classmethod
    def _of(cls, pointer, stop, owned=False):
        self = cls.__new__(cls)
        self._pointer, self._owned, self.stop = ctypes.c_void_p(pointer), owned, stop
        self._plans, self._dropped = weakref.WeakSet(), []
        self._learn()
        return self

    def _learn(self):
        info = _structs.rondo_context_info()
        check(lib.rondo_context_query(self._pointer, ctypes.byref(info)))
        self.rank, self.ranks, self.threads = info.rank, info.ranks, info.threads
        self.device, self.transport, self.isa = info.device.decode(), info.transport.decode(), info.isa.decode()
        self.transfer_memory = ("host", "pinned", "device")[info.transfer_memory]

    @property
    def pointer(self):
        if not self._pointer:
            raise invalid("this context is closed; make another one")
        return self._pointer

    def close(self):
        """Ends the context and its plans. Collective over its ranks."""
        for plan in list(self._plans):
            plan.close()
        self.sweep()
        if self._pointer and self._owned:
            lib.rondo_context_destroy(self._pointer)
        self._pointer = ctypes.c_void_p()

    def sweep(self):
        """Ends plans and teams that nobody refers to any more. Python may find them on any thread, and they are ended by their context's."""
        while self._dropped:
            destroy, pointer = self._dropped.pop()
            destroy(pointer)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind is not None and self._pointer and self._owned:   # the others must not wait for this rank
            sentence = "rank %d raised %s" % (self.rank, kind.__name__)
            lib.rondo_context_revoke(self._pointer, _structs.ERRORS["ECANCELED"], sentence.encode())
        self.close()

    def __del__(self):
        if getattr(self, "_owned", False) and self._pointer and self.ranks == 1:   # of several, close() is collective and the caller's
            self.close()

    def __repr__(self):
        return "<rondo.Context rank %d of %d, %s, %s>" % (self.rank, self.ranks, self.transport, self.isa)

    def barrier(self):
        """Waits until all ranks have come here."""
        check(lib.rondo_barrier(self.pointer))

    def broadcast(self, array, root=0):
        """Fills a dense array on every rank with that of rank `root`; returns it."""
        if not isinstance(array, np.ndarray) or not array.flags.c_contiguous or not array.flags.writeable or array.dtype.hasobject:
            raise invalid("array is no dense numpy array that can be written")
        check(lib.rondo_broadcast(self.pointer, array.ctypes.data, array.nbytes, whole("root", root, 0, 2**31 - 1)))
        return array

    def comm(self):
        """What this rank sent since the context was made: {"messages", "bytes", "by_operation", "wait_seconds"}; agreement counts as
        `agree`."""
        stats = _structs.rondo_comm_stats()
        check(lib.rondo_comm_query(self.pointer, ctypes.byref(stats)))
        by = {name: {"messages": stats.messages[i], "bytes": stats.bytes[i]} for i, name in enumerate(OPERATIONS) if stats.messages[i]}
        return {"messages": sum(x["messages"] for x in by.values()), "bytes": sum(x["bytes"] for x in by.values()), "by_operation": by,
                "wait_seconds": stats.wait_seconds}


def _launch(ranks, desc, body, stop):
    """Runs body(context) on every rank; the results, by rank. The first exception that is not merely the echo of another is raised."""
    results, failures = [None] * ranks, []
    done = [False] * ranks

    def one(pointer, unused):
        context = None
        try:
            context = Context._of(pointer, stop)
            results[context.rank] = body(context)
            done[context.rank] = True
            return 0
        except BaseException as failure:   # nothing may leave a function that C called
            failures.append(failure)
            code = getattr(failure, "code", None)
            return code if isinstance(code, int) and -2**31 < code < 0 else _structs.ERRORS["ECANCELED"]
        finally:
            if context is not None:
                context.close()

    callback = _structs.Body(one)
    code = lib.rondo_launch(ranks, ctypes.byref(desc), callback, None)
    sentence = text() if code else ""
    echo = _structs.ERRORS["EPEER"]
    if failures:
        raise next((f for f in failures if getattr(f, "code", None) != echo), failures[0])
    if code:
        raise error(code, sentence)
    if not all(done):   # interrupted before the first line of `one`
        raise KeyboardInterrupt
    return results


class _Worker(threading.Thread):
    def __init__(self, work):
        super().__init__(name="rondo", daemon=True)
        self.work, self.result, self.failure, self.ended = work, None, None, threading.Event()

    def run(self):
        try:
            self.result = self.work()
        except BaseException as failure:
            self.failure = failure
        finally:
            self.work = None   # may hold what refers to this thread
            self.ended.set()


def interruptible(work, stop):
    """The result of work(), which runs on another thread where this one is Python's main thread, so that Control-C is heard."""
    if threading.current_thread() is not threading.main_thread():
        return work()
    worker = _Worker(work)
    try:
        worker.start()
        worker.ended.wait()
    except BaseException:
        stop.asked = True
        if worker.ident is not None:
            worker.ended.wait()   # a second Control-C ends this wait; what the ranks use is theirs until they return
        raise
    worker.join()
    if worker.failure is not None:
        try:
            raise worker.failure
        finally:
            del worker
    return worker.result


def run(ranks, body, *, threads=0, isa=None, device=None, deadline=None):
    """Runs body(context) on `ranks` ranks, which are threads of this process, and returns what each returned, in their order.

    The bodies run at the same time, each on a thread of its own: a body must make the same collective calls as the others. Where one
    raises, the others' waits end and its exception is raised here. After Control-C executions stop and rondo.stopping(context) is true.
    """
    ranks, stop = whole("ranks", ranks, 1, 1024), Stop()
    desc = describe(None, threads, isa, device, deadline)
    return interruptible(lambda: _launch(ranks, desc, body, stop), stop)


def stopping(context):
    """Whether Control-C was pressed while run() runs; a body that computes for long without the library asks now and then, and
    returns."""
    return context.stop is not None and context.stop.asked
