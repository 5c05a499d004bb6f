#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Ranks from Python that are threads of the process.
. "$srcdir/t/shell.sh"
. "$srcdir/t/python.sh"
python_for numpy
"$python" "$srcdir/t/python/ranks.py" "$scratch"
