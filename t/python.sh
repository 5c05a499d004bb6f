# SPDX-License-Identifier: BSD-2-Clause
# What tests of the package rondo for Python have in common: . "$srcdir/t/shell.sh" first. python_for MODULE... finds a Python that has these
# modules and can open the library, or skips the test; it is then in $python. PYTHON in the environment is the only one that is asked, else
# python3 and the system's, for which distributions have packages.
# shellcheck shell=sh disable=SC2154  # srcdir and builddir come from the makefile

python_has() { # python, modules...
    python_asked=$1
    shift
    "$python_asked" -c 'import importlib.util, sys
sys.exit(any(importlib.util.find_spec(module) is None for module in sys.argv[1:]))' "$@" 2>"$scratch/modules"
}

python_for() {
    for python in ${PYTHON:-python3 /usr/bin/python3}; do
        command -v "$python" >/dev/null && python_has "$python" "$@" && break
    done
    command -v "$python" >/dev/null || skip_all "there is no Python: $python"
    python_has "$python" "$@" || skip_all "$python lacks one of these modules: $*"
    [ -z "$SANITIZE_CFLAGS" ] || skip_all "the library was built with sanitizers, which Python was not"
    RONDO_LIBRARY=$builddir/.libs/librondo.so.0
    [ -f "$RONDO_LIBRARY" ] || skip_all "there is no shared library"
    PYTHONPATH=$srcdir/python PYTHONDONTWRITEBYTECODE=1
    export RONDO_LIBRARY PYTHONPATH PYTHONDONTWRITEBYTECODE
    # the kind of machine of an ELF file: class, order of bytes, number
    "$python" -c 'import sys
kind = [(lambda h: (h[4:6], h[18:20]))(open(p, "rb").read(20)) for p in sys.argv[1:]]
sys.exit(kind[0] != kind[1])' "$RONDO_LIBRARY" "$("$python" -c 'import sys; print(sys.executable)')" 2>"$scratch/kind" ||
        skip_all "the library is of another kind of machine than $python"
}
