#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# The gated delta rule from Python.
. "$srcdir/t/shell.sh"
. "$srcdir/t/python.sh"
python_for numpy
"$python" "$srcdir/t/python/delta.py" "$scratch"
