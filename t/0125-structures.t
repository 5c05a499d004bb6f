#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# What the headers fix the manual repeats: each public structure stands in one page, field by field with its types; and of each
# function that gives a pointer the page says, and a test sees, that it is NULL after a failure.
. "$srcdir/t/shell.sh"
LC_ALL=C; export LC_ALL

# a file in one line, without comments
in_a_line() { tr '\n\t' '  ' <"$1" | sed 's,/\*[^*]*\*\**\([^/*][^*]*\*\**\)*/, ,g'; }
structures() { in_a_line "$1" | grep -o 'typedef struct [a-z0-9_]* {[^}]*} [a-z0-9_]*;' | sed 's/  */ /g'; }
headers=$(core_headers | sed "s|^|$srcdir/include/|" | tr '\n' ' ')
[ ! -f "$srcdir/include/rondo_lm.h" ] || headers="$headers$srcdir/include/rondo_lm.h"

for header in $headers; do structures "$header"; done >"$scratch/declared"
for page in "$srcdir"/man/*.3; do
    sed -n '/^\.Bd -literal/,/^\.Ed/{ /^\./!p; }' "$page" >"$scratch/literal"
    structures "$scratch/literal" | sed "s/^/$(basename "$page") /"
done >"$scratch/shown"
ok "there are structures" test "$(wc -l <"$scratch/declared")" -gt 15
while read -r declaration; do
    name=$(echo "$declaration" | cut -d ' ' -f 3)
    echo "$declaration" | tr ';{' '\n\n' >"$scratch/want"
    sed -n "s/^[^ ]* \(typedef struct $name {.*\)/\1/p" "$scratch/shown" | tr ';{' '\n\n' >"$scratch/got"
    compare "$name: a page shows its fields and their types, once" "$scratch/want" "$scratch/got"
done <"$scratch/declared"
sed 's/^[^ ]* typedef struct \([^ ]*\).*/\1/' "$scratch/shown" | sort >"$scratch/names"
cut -d ' ' -f 3 "$scratch/declared" | sort | comm -13 - "$scratch/names" >"$scratch/extra"
empty "the manual shows no other structure" "$scratch/extra"

# function, parameter
for header in $headers; do
    in_a_line "$header" | grep -o 'RONDO_API [^;]*;' | grep '\*\*' | sed 's/^[^(]*[ *]\(rondo_[a-z0-9_]*\)(.*\*\*\([a-z_]*\).*/\1 \2/'
done >"$scratch/outputs"
ok "there are functions that give a pointer" test "$(wc -l <"$scratch/outputs")" -gt 12
while read -r function output; do
    page=$(grep -lE "^\\.Nm $function( ,)?\$" "$srcdir"/man/*.3)
    sed -n '/^\.Sh RETURN VALUES/,/^\.Sh EXAMPLES/p' "$page" | tr '\n' ' ' | grep -E "\\.Fa [^.]*\*$output( [^.]*|[^.]*\.Fa [^.]*)\\.Dv NULL" >"$scratch/said"
    ok "$(basename "$page"): *$output is NULL after a failure of $function" test -s "$scratch/said"
    grep -E "LEAVES_NULL\(.*$function\(" "$srcdir/t/4060-outputs.c" "$srcdir/t/6111-lm-outputs.c" >"$scratch/tried"
    ok "$function: a test sees it" test -s "$scratch/tried"
done <"$scratch/outputs"
finish
