#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# contrib/mutate, which takes minutes, still fits the source: each mutation finds the place that it edits.
. "$srcdir/t/shell.sh"

command -v perl >/dev/null || skip_all "perl is not installed"
ok "each mutation finds its place" env TMPDIR="$scratch" "$srcdir/contrib/mutate" --check
ok "there are at least twelve" test "$("$srcdir/contrib/mutate" --list | wc -l)" -ge 12
finish
