#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Attention from Python on torch's tensors.
. "$srcdir/t/shell.sh"
. "$srcdir/t/python.sh"
python_for numpy torch
"$python" "$srcdir/t/python/tensors.py"
