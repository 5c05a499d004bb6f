#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# mandoc finds nothing to warn about in the manual.
. "$srcdir/t/shell.sh"

MANDOC=${MANDOC:-mandoc}
command -v "$MANDOC" >/dev/null || skip_all "mandoc is not installed"
for page in "$srcdir"/man/*.[1-9]; do
    ok "$(basename "$page")" "$MANDOC" -Tlint -Wwarning "$page"
done
finish
