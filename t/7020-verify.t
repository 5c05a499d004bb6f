#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# rondo verify: green here, its report holds together, the run of the paper reads as it should, and MPI gives the same hashes.
. "$srcdir/t/shell.sh"
[ -n "$RONDO" ] || skip_all "the program was not built"

"$RONDO" verify --quick >"$scratch/out" 2>"$scratch/err"
ok "verify --quick: exit 0" test $? = 0
empty "nothing on stderr" "$scratch/err"
ok "four check marks for the paper's run" test "$(grep -c 'SUCCESS' "$scratch/out")" = 4
ok "no failure" sh -c "! grep -q 'FAIL' '$scratch/out'"
ok "the last line counts" sh -c "tail -1 '$scratch/out' | grep -q '^[0-9]* passed, 0 failed'"
# signs beyond ASCII are for locales that have them
LC_ALL=C "$RONDO" verify --quick >"$scratch/plain" 2>&1
ok "LC_ALL=C: plain ASCII" sh -c "! LC_ALL=C grep -q '[^ -~]' '$scratch/plain' && grep -qF '[ok] SUCCESS' '$scratch/plain'"
LC_ALL=xx_XX.UTF-8 "$RONDO" verify --tokens 64 --heads 2 --ranks 2 >"$scratch/signs" 2>&1
ok "a UTF-8 locale, installed or not: signs" grep -q "$(printf '\342\234\205') [0-9]* of [0-9]* runs the same bits" "$scratch/signs"
cat >"$scratch/want" <<END
  Rank 0 indices: [ 0,  1,  2,  3,  4,  5,  6,  7, 56, 57, 58, 59, 60, 61, 62, 63]
  Rank 1 indices: [ 8,  9, 10, 11, 12, 13, 14, 15, 48, 49, 50, 51, 52, 53, 54, 55]
  Rank 2 indices: [16, 17, 18, 19, 20, 21, 22, 23, 40, 41, 42, 43, 44, 45, 46, 47]
  Rank 3 indices: [24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39]
END
grep indices "$scratch/out" >"$scratch/got"
compare "the paper's shards" "$scratch/want" "$scratch/got"
cat >"$scratch/want" <<END
1.0% pass-Q pass-Q
5.0% pass-Q pass-Q
10.0% pass-Q pass-Q
12.5% pass-Q pass-KV
15.0% pass-KV pass-KV
50.0% pass-KV pass-KV
100.0% pass-KV pass-KV
END
sed -n 's/^  Miss Rate: *\([0-9.]*%\) .*-> Choose: \([a-zA-Z-]*\).*Algorithm 5: \([a-zA-Z-]*\)$/\1 \2 \3/p' "$scratch/out" >"$scratch/got"
compare "Algorithm 1 as printed, Algorithm 5 turns one row earlier" "$scratch/want" "$scratch/got"
cat >"$scratch/want" <<END
[R0: 16, R1: 16, R2: 16, R3: 16] (Total: 64)
[R0: 17, R1: 16, R2: 16, R3: 16] (Total: 65)
[R0: 17, R1: 17, R2: 16, R3: 16] (Total: 66)
[R0: 17, R1: 17, R2: 17, R3: 16] (Total: 67)
[R0: 17, R1: 17, R2: 17, R3: 17] (Total: 68)
END
sed -n 's/.*KV cache state: //p' "$scratch/out" >"$scratch/got"
compare "the states of decoding with balanced KV" "$scratch/want" "$scratch/got"
grep '^hash [0-9a-f]* ' "$scratch/out" >"$scratch/hashes"
ok "each problem has a hash" test "$(wc -l <"$scratch/hashes")" = "$(($(grep -c 'runs the same bits' "$scratch/out") + 2))"

"$RONDO" verify --quick --json >"$scratch/out" 2>"$scratch/err"
ok "verify --quick --json: exit 0" test $? = 0
ok "nothing failed" grep -q '^  "failed": 0' "$scratch/out"
passed=$(sed -n 's/^  "passed": \([0-9]*\).*/\1/p' "$scratch/out")
ok "as many cases pass as are counted" test "$(grep -c '"pass": true' "$scratch/out")" = "$passed"
ok "every case has a hash, an error and a bound" sh -c "test \$(grep -c '\"hash\":' '$scratch/out') = $passed &&
    test \$(grep -c '\"max_error\": [0-9]' '$scratch/out') = $passed && test \$(grep -c '\"bound\": [0-9]' '$scratch/out') = $passed"

"$RONDO" verify --tokens 200 --heads 3 --kv-heads 1 --head-dim 20 --ranks 1,2,6 >"$scratch/out" 2>&1
ok "a problem of one's own" test $? = 0
for arithmetic in f64 bf16-hopper; do
    "$RONDO" verify --arithmetic $arithmetic --tokens 200 --heads 2 --kv-heads 1 --head-dim 20 --ranks 1,3 --json >"$scratch/out" 2>&1
    ok "in $arithmetic" test $? = 0
    ok "which the report says" grep -q "\"arithmetic\": \"$arithmetic\"" "$scratch/out"
done
# many ranks, each of which has a leaf: one hash, and messages and bytes as schedules have them that nobody ran
many() {
    ranks=$1
    shift
    "$RONDO" verify --quick --ranks "$ranks" --tokens $((8 * ranks)) --leaf 8 --heads 1 --head-dim 16 --layout zigzag --threads 1 --json "$@" \
        >"$scratch/out" 2>"$scratch/err"
    ok "$ranks ranks, threads of one process" test $? = 0
    ok "one hash" test "$(sed -n 's/^      "hash": //p' "$scratch/out" | sort -u | wc -l)" = 1
    for what in messages bytes; do
        sed -n "s/^      \"$what\": //p" "$scratch/out" >"$scratch/got"
        sed -n "s/^      \"planned_$what\": //p" "$scratch/out" >"$scratch/want"
        compare "$what" "$scratch/want" "$scratch/got"
    done
}
many 64
ok "by most algorithms" test "$(grep '"algorithm"' "$scratch/out" | sort -u | wc -l)" -ge 5
ok "which sent something" grep -q '^      "messages": [1-9]' "$scratch/out"
if [ -n "$RONDO_TEST_LONG" ]; then
    many 1024 --algorithm pass-kv   # three minutes of a core, 4.5 GB
    ok "each to each other" grep -q '^      "messages": 1047552' "$scratch/out"
else
    skip 5 "RONDO_TEST_LONG is not set"
fi
"$RONDO" verify --turns 100,1,30,1,1 --heads 2 --head-dim 16 --ranks 3 --layout snake --algorithm pass-q --isa scalar --threads 1 \
    >"$scratch/out" 2>&1
ok "turns, with everything chosen" test $? = 0
"$RONDO" verify --tokens 64 --ranks 2 --trace "$scratch/trace.json" >"$scratch/out" 2>&1
ok "with a trace" test $? = 0
ok "the trace has events of both ranks" sh -c "grep -q '\"tid\":0' '$scratch/trace.json' && grep -q '\"tid\":1' '$scratch/trace.json'"
"$RONDO" verify --tokens 64 --ranks 2 --progress always >"$scratch/out" 2>"$scratch/err"
ok "a meter when asked for" test $? = 0

if has_mpi; then
    under_mpi 3 "$RONDO" verify --quick --transport mpi >"$scratch/out" 2>"$scratch/err"
    ok "verify --quick on 3 MPI processes: exit 0" test $? = 0
    grep '^hash [0-9a-f]* ' "$scratch/out" >"$scratch/got"
    compare "the same hashes as without MPI" "$scratch/hashes" "$scratch/got"
else
    skip 2 "built without MPI"
fi
finish
