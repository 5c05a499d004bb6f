#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# contrib/mutate, which takes half an hour, still fits the source: each mutation finds the place that it edits, and the tests that it names are there.
. "$srcdir/t/shell.sh"

command -v perl >/dev/null || skip_all "perl is not installed"
ok "each mutation finds its place" env TMPDIR="$scratch" "$srcdir/contrib/mutate" --check
ok "there are at least sixty of rules" test "$("$srcdir/contrib/mutate" --rules --list | wc -l)" -ge 60
ok "there are at least eighty of sharing the work out" test "$("$srcdir/contrib/mutate" --defects --list | wc -l)" -ge 80
finish
