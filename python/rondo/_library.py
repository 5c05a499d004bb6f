# SPDX-License-Identifier: BSD-2-Clause
"""Finds and opens librondo, and turns its codes into exceptions.

Looked for in this order, and the first that is there is taken: the file that RONDO_LIBRARY names; a library beside this package; where
the package is used from the source tree, that of its builds (build/, or the folder that RONDO_MODULE_PATH names); what the loader finds;
what pkg-config says. librondo_lm is the file that RONDO_LM_LIBRARY names, else that beside librondo; it is opened by rondo.lm alone.
Functions are called through ctypes.CDLL, which lets go of Python's lock while they run.
"""
import ctypes
import glob
import os
import subprocess

from . import _structs

SONAME, LM_SONAME = "librondo.so.0", "librondo_lm.so.0"


class Error(RuntimeError):
    """What the library refused or failed at. `code` is the number (RONDO_EINVAL is -1), `name` its name; the text is one sentence:
    what was wrong, where, and what would be accepted."""

    def __init__(self, code, sentence):
        super().__init__(sentence)
        self.code = code
        self.name = _names.get(code, "RONDO_ERROR %d" % code)

    def __reduce__(self):
        return (_rebuild, (self.code, str(self)))


class InvalidError(Error, ValueError):
    """RONDO_EINVAL: an argument, option or combination that cannot be."""


class NoMemoryError(Error, MemoryError):
    """RONDO_ENOMEM."""


class DeadlineError(Error, TimeoutError):
    """RONDO_ETIMEDOUT: a wait for another rank passed its deadline."""


_names = {value: "RONDO_" + name for name, value in _structs.ERRORS.items()}
_kinds = {_structs.ERRORS["EINVAL"]: InvalidError, _structs.ERRORS["ENOMEM"]: NoMemoryError, _structs.ERRORS["ETIMEDOUT"]: DeadlineError}


def error(code, sentence):
    """The exception of a code."""
    return _kinds.get(code, Error)(code, sentence)


_rebuild = error


def invalid(sentence):
    return error(_structs.ERRORS["EINVAL"], sentence)


def _candidates():
    here = os.path.dirname(os.path.abspath(__file__))
    named = os.environ.get("RONDO_LIBRARY")
    if named:
        yield named, True
        return
    for path in sorted(glob.glob(os.path.join(here, "librondo.so*"))):
        yield path, False
    source = os.path.dirname(os.path.dirname(here))
    if os.path.exists(os.path.join(source, "include", "rondo.h")):
        folders = os.environ.get("RONDO_MODULE_PATH", "").split(":") + [os.path.join(source, "build", ".libs")]
        for folder in folders:
            path = os.path.join(folder, SONAME)
            if folder and os.path.exists(path):
                yield path, False
    yield SONAME, False
    try:
        found = subprocess.run(["pkg-config", "--variable=libdir", "rondo"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        return
    folder = found.stdout.decode(errors="replace").strip()
    if found.returncode == 0 and folder:
        yield os.path.join(folder, SONAME), False


def _open():
    why = ""
    for path, must in _candidates():
        try:
            return ctypes.CDLL(path), path
        except OSError as failure:
            why = why or str(failure)
            if must:
                break
    raise ImportError("librondo cannot be opened (%s); set RONDO_LIBRARY to its file, such as /usr/local/lib/%s" % (why, SONAME))


def _declare(library, where, functions, variable):
    """Tells ctypes what functions of a library take and return."""
    for name, (result, arguments) in functions.items():
        try:
            function = getattr(library, name)
        except AttributeError:
            raise ImportError("%s has no %s: it is older than this package; set %s to a newer one" % (where, name, variable)) from None
        function.restype, function.argtypes = result, arguments


lib, path = _open()
_declare(lib, path, _structs.FUNCTIONS, "RONDO_LIBRARY")
if lib.rondo_numerics_version() != _structs.NUMERICS:
    raise ImportError("%s has version %d of the numerics contract, this package knows %d; use those of one release"
                      % (path, lib.rondo_numerics_version(), _structs.NUMERICS))


def open_lm(functions):
    """librondo_lm, whose file and librondo's are of one build, and where it was found."""
    named, folder = os.environ.get("RONDO_LM_LIBRARY"), os.path.dirname(path)
    where = named or os.path.join(folder, LM_SONAME)   # without a folder it is the loader's to find, as librondo was
    if not named and folder and not os.path.exists(where):
        where = next(iter(sorted(glob.glob(os.path.join(glob.escape(folder), "librondo_lm.so*")))), where)
    try:
        library = ctypes.CDLL(where)
    except OSError as failure:
        without = "--with-lm=no" in lib.rondo_build_options().decode().split()
        raise ImportError("librondo_lm, which runs language models, cannot be opened (%s): %s" % (
            failure, "%s was built without it; build rondo where jansson and PCRE2 are installed" % path if without and not named else
            "set RONDO_LM_LIBRARY to its file, such as /usr/local/lib/%s" % LM_SONAME)) from None
    _declare(library, where, functions, "RONDO_LM_LIBRARY")
    return library, where


def text():
    """The sentence about the calling thread's last failure."""
    return lib.rondo_error_text().decode(errors="replace")


def check(code):
    """Raises what a negative code says; returns the others, which are results."""
    if code < 0:
        raise error(code, text() or lib.rondo_error_string(code).decode())
    return code


def _list(name_of):
    """{name: number} of a kind of which the library has the names."""
    names = {}
    for number in range(64):
        name = name_of(number)
        if name:
            names[name.decode().lower()] = number
    return names


LAYOUTS = _list(lib.rondo_layout_name)
ALGORITHMS = _list(lib.rondo_algorithm_name)
ARITHMETICS = _list(lib.rondo_arithmetic_name)
LEVELS = _list(lib.rondo_level_name)
OPERATIONS = [lib.rondo_operation_name(i).decode() for i in range(_structs.OP_COUNT)]


def number_of(kind, names, value):
    """The number of a name; None is the default, 0."""
    if value is None:
        return 0
    if not isinstance(value, str) or value.lower() not in names:
        raise invalid("%s is %r; it must be None or one of %s" % (kind, value, ", ".join(sorted(names))))
    return names[value.lower()]


def name_of(names, number):
    return next((name for name, value in names.items() if value == number), str(number))
