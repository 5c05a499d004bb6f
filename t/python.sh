# SPDX-License-Identifier: BSD-2-Clause
# What tests of the package rondo for Python have in common: . "$srcdir/t/shell.sh" first. python_for MODULE... finds a Python that has these
# modules and can open the library (PYTHON in the environment, python3 else), or skips the test; it is then in $python.
# shellcheck shell=sh disable=SC2154  # srcdir and builddir come from the makefile

python_for() {
    python=${PYTHON:-python3}
    command -v "$python" >/dev/null || skip_all "$python is not installed"
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
    for module; do
        "$python" -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$module') is None)" || skip_all "$python has no $module"
    done
}
