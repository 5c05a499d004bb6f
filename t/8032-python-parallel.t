#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Modules of torch that learn on several ranks as they are.
. "$srcdir/t/shell.sh"
. "$srcdir/t/python.sh"
python_for numpy torch
"$python" "$srcdir/t/python/parallel.py"
