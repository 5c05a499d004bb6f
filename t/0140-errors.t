#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# The manual's list of codes is the header's: names, numbers and texts.
. "$srcdir/t/shell.sh"

sed -n 's/^ *F(\(E[A-Z]*\), \(-[0-9]*\), "\(.*\)").*/RONDO_\1 \2 \3/p' "$srcdir/include/rondo.h" >"$scratch/header"
awk '
    /^\.Sh ERRORS/ { inside = 1 } /^\.Sh THREAD/ { inside = 0 }
    inside && /^\.It Dv/ { name = $3; number = $5; getline; sub(/\.$/, ""); print name " " number " " $0 }' \
    "$srcdir/man/rondo_error_text.3" >"$scratch/manual"
ok "the header has codes" test "$(wc -l <"$scratch/header")" -ge 11
compare "rondo_error_text(3) has the codes of rondo.h" "$scratch/header" "$scratch/manual"
cut -d' ' -f2 "$scratch/header" | sort -n | uniq -d >"$scratch/twice"
empty "no number is used twice" "$scratch/twice"
for page in "$srcdir"/man/*.[137] "$srcdir/README" "$srcdir/HACKING"; do
    grep -oE '\bRONDO_E[A-Z]+\b' "$page" | grep -vx 'RONDO_ERROR_MAP\|RONDO_ENCODE\|RONDO_EXP'
done | sort -u >"$scratch/used"
cut -d' ' -f1 "$scratch/header" | sort -u >"$scratch/known"
comm -23 "$scratch/used" "$scratch/known" >"$scratch/unknown"
empty "no document names a code that does not exist" "$scratch/unknown"
finish
