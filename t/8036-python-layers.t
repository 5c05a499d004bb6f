#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# The layers around attention, and their gradients, from Python on numpy arrays.
. "$srcdir/t/shell.sh"
. "$srcdir/t/python.sh"
python_for numpy
"$python" "$srcdir/t/python/layers.py"
