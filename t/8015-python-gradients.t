#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Gradients of attention from Python on numpy arrays.
. "$srcdir/t/shell.sh"
. "$srcdir/t/python.sh"
python_for numpy
"$python" "$srcdir/t/python/gradients.py" "$scratch"
