#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Attention from Python on torch's tensors, with gradients; and the README's example, which trains.
. "$srcdir/t/shell.sh"
. "$srcdir/t/python.sh"
python_for numpy torch
"$python" "$srcdir/python/examples/train.py" >"$scratch/losses" 2>&1
status=$?
"$python" "$srcdir/t/python/tensors.py" "$status" "$scratch/losses"
