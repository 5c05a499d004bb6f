#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# The layers around attention from Python on torch's tensors, with gradients, on one rank and on several.
. "$srcdir/t/shell.sh"
. "$srcdir/t/python.sh"
python_for numpy torch
"$python" "$srcdir/t/python/tensor_layers.py"
