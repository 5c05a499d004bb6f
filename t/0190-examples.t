#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# The example programs run and say what they should; the MPI one gives one hash for every number of processes.
. "$srcdir/t/shell.sh"

ok "attention on one rank agrees with the formula" "$builddir/examples/01-single"
"$builddir/examples/02-threads" >"$scratch/threads" 2>&1
ok "a ring of threads runs" test $? = 0
printf '1 rank: done\n2 ranks: the same bits\n3 ranks: the same bits\n5 ranks: the same bits\n' >"$scratch/want"
compare "and gives the same bits on 1, 2, 3 and 5 ranks" "$scratch/want" "$scratch/threads"
# layers that ranks share: by default 4 ranks, uneven shares, more ranks than there are KV heads; a share of the weights, and one hash
for example in 05-tp-attention 06-tp-swiglu 07-tp-block; do
    for tp in '' 3 12; do
        # shellcheck disable=SC2086  # perhaps no word
        "$builddir/examples/$example" $tp >"$scratch/out" 2>&1
        ok "$example on ${tp:-4} ranks: equal" sh -c "test $? = 0 && tail -n 1 '$scratch/out' | grep -qx equal && grep -q '^tp=${tp:-4}: ' '$scratch/out'"
        sed -n 's/^tp=.* on rank 0, hash //p' "$scratch/out" >"$scratch/hashes"
        ok "two hashes are shown, the same ones" sh -c "test \$(wc -l <'$scratch/hashes') = 2 && test \$(sort -u '$scratch/hashes' | wc -l) = 1"
        ok "and a rank holds less than half of the weights" \
            sh -c "set -- \$(sed -n 's/^tp=.*: \([0-9]*\) bytes.*/\1/p' '$scratch/out'); test \$# = 2 && test \"\$2\" -lt \$((\$1 / 2))"
    done
    "$builddir/examples/$example" 0 >"$scratch/out" 2>&1
    ok "no ranks: how it is called" sh -c "test $? = 2 && grep -q '^usage: ' '$scratch/out'"
done
# the planner alone: 70,553,706,496 weights of 2 bytes over 8 chips, norms on each of them
"$builddir/examples/09-planner" >"$scratch/out" 2>&1
ok "the planner alone" test $? = 0
ok "says what a prefill takes" grep -q '^tp=8 cp=4: .* takes [0-9.]* s: fits$' "$scratch/out"
ok "finds what fits, and sends least" grep -q '^the least is sent with tp=2 cp=16$' "$scratch/out"
ok "and derives it" grep -q '^weight_memory_per_chip = .* = [0-9]*$' "$scratch/out"
"$builddir/examples/09-planner" 131072 2 1000 >"$scratch/out" 2>&1
ok "or that nothing fits" grep -qx 'no way fits' "$scratch/out"
"$builddir/examples/09-planner" -5 >"$scratch/out" 2>&1
ok "and no tokens are a sentence" sh -c "test $? = 1 && grep -q seq_len '$scratch/out'"
if [ -x "$builddir/examples/04-lm" ]; then
    "$builddir/examples/04-lm" "$srcdir/examples/kjv" 1 >"$scratch/one" 2>&1
    ok "a language model continues a batch" test $? = 0
    ok "and shows both texts and their hashes" sh -c "grep -c '^16 new tokens, hash [0-9a-f]\{16\}\$' '$scratch/one' | grep -qx 2 && grep -q '^In the beginning.' '$scratch/one'"
    "$builddir/examples/04-lm" "$srcdir/examples/kjv" 3 >"$scratch/many" 2>&1
    compare "which are the same on 3 ranks" "$scratch/one" "$scratch/many"
    # folder, tensor-parallel ranks, context-parallel ranks: a share of 1 / tp of the weights, and one hash
    for grid in '4 1' '3 2'; do
        # shellcheck disable=SC2086  # two words
        "$builddir/examples/08-tp-model" "$srcdir/examples/kjv" $grid >"$scratch/out" 2>&1
        ok "a model on tp x cp = $grid ranks: equal" test $? = 0
        sed -n 's/^tp=.* on rank 0, hash //p' "$scratch/out" >"$scratch/hashes"
        ok "two hashes are shown, the same ones" sh -c "test \$(wc -l <'$scratch/hashes') = 2 && test \$(sort -u '$scratch/hashes' | wc -l) = 1"
        ok "and a rank holds less than half of the weights" \
            sh -c "set -- \$(sed -n 's/^tp=.*: \([0-9]*\) bytes.*/\1/p' '$scratch/out'); test \$# = 2 && test \"\$2\" -lt \$((\$1 / 2))"
    done
    (cd "$srcdir" && "$builddir/examples/08-tp-model") >"$scratch/out" 2>&1
    ok "without arguments: the shipped model on 4 ranks" sh -c "grep -q '^tp=4 cp=1: ' '$scratch/out' && tail -n 1 '$scratch/out' | grep -qx equal"
    "$builddir/examples/08-tp-model" "$srcdir/examples" >"$scratch/out" 2>&1
    ok "a folder without a model is a sentence" sh -c "test $? = 1 && grep -q 'config.json' '$scratch/out'"
else
    skip 11 "librondo_lm was not built"
fi
if [ -x "$builddir/examples/03-mpi" ] && [ -n "$MPIRUN" ]; then
    # (the module is found beside the library, without being told where)
    env -u RONDO_MODULE_PATH "$builddir/examples/03-mpi" >"$scratch/out" 2>&1
    ok "a process of its own, without mpirun" test $? = 0
    sed -n 's/.*hash //p' "$scratch/out" >"$scratch/one"
    for n in 2 3; do
        under_mpi $n "$builddir/examples/03-mpi" >"$scratch/out" 2>&1
        ok "$n MPI processes" grep "^$n processes: hash [0-9a-f]*" "$scratch/out"
        sed -n 's/.*hash //p' "$scratch/out" >"$scratch/many"
        compare "give the hash of one" "$scratch/one" "$scratch/many"
    done
else
    skip 5 "the MPI module was not built"
fi
# what lies in contrib says what it is for, also where the packages are not installed that it needs
for script in "$srcdir"/contrib/*; do
    case $(head -n 1 "$script" 2>/dev/null) in "#!/usr/bin/env python3") command -v python3 >/dev/null || continue ;; "#!"*) ;; *) continue ;; esac
    "$script" --help >"$scratch/out" 2>"$scratch/err" </dev/null
    ok "contrib/${script##*/} --help" sh -c "test $? = 0 && test \$(wc -l <'$scratch/out') -ge 3 && ! test -s '$scratch/err'"
done
finish
