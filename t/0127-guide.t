#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# What rondo-guide(7) and rondo-troubleshooting(7) show is what the program says: each command of the guide on the shipped model that needs no
# mpirun gives the hash that stands below it, the table of hashes is right, and so is the plan of a decode step.
. "$srcdir/t/shell.sh"
LC_ALL=C; export LC_ALL

[ -n "$RONDO" ] || skip_all "the program is not built"
kjv=$srcdir/examples/kjv

# command, hash; a command goes on behind a backslash
awk '/^\.Bd/ { inside = 1; next } /^\.Ed/ { inside = 0; command = "" } !inside { next }
    { gsub(/\\e/, "\\"); gsub(/\\&/, "") }
    more { command = command " " $0; more = 0 } /^\$ / { command = substr($0, 3) }
    command ~ /\\$/ { sub(/\\$/, "", command); more = 1; next }
    command ~ /^rondo generate -m examples\/kjv/ && match($0, /hash [0-9a-f]+/) { print substr($0, RSTART + 5, RLENGTH - 5) "\t" command; command = "" }' \
    "$srcdir/man/rondo-guide.7" >"$scratch/commands"
ok "the guide shows commands and hashes" test "$(wc -l <"$scratch/commands")" -ge 3
while IFS="$(printf '\t')" read -r hash command; do
    (cd "$srcdir" && eval "\"\$RONDO\" ${command#rondo }") >"$scratch/out" 2>&1 </dev/null
    ok "$command" grep -q "hash $hash\$" "$scratch/out"
done <"$scratch/commands"

sed -n '/^The shipped model and/,/^\.Ed/s/^  \([a-z-].*[^ ]\)  *\([0-9a-f]\{16\}\)$/\2 \1/p' "$srcdir/man/rondo-troubleshooting.7" >"$scratch/table"
ok "the table of hashes is there" test "$(wc -l <"$scratch/table")" -ge 5
while read -r hash options; do
    case $options in "as it comes"*) options='--tp 3 --cp 2' ;; *", on any grid") options="${options%%,*} --tp 2 --cp 3 --spread yes" ;; esac
    # shellcheck disable=SC2086  # several words
    "$RONDO" generate -m "$kjv" -p 'In those days' -n 12 $options >"$scratch/out" 2>&1 </dev/null
    ok "In those days $options" grep -q "hash $hash\$" "$scratch/out"
done <"$scratch/table"

# what a step of decoding on 2 ranks moves in attention
"$RONDO" plan schedule --tokens 1 --cached 4096 --ranks 2 --heads 16 --kv-heads 4 --head-dim 128 --causal --totals >"$scratch/plan"
for word in algorithm messages bytes flops visible_pairs; do
    grep "^$word  " "$scratch/plan" >"$scratch/want"
    grep "^$word  " "$srcdir/man/rondo-guide.7" >"$scratch/got"
    compare "a decode step's $word" "$scratch/want" "$scratch/got"
done
finish
