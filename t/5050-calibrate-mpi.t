#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# bench --calibrate under mpirun: each core of the machine is measured by one rank, all cores are, and who is not asked sleeps. What it finds is
# not looked at: that is the machine's.
. "$srcdir/t/shell.sh"
has_mpi || skip_all "built without MPI"
[ -z "$SANITIZE_CFLAGS" ] || skip_all "MPI libraries and sanitizers do not mix"
for n in 2 3; do
    # shellcheck disable=SC2086  # $MPIRUN may carry options
    for try in 1 2 3; do
        timeout -k 5 120 $MPIRUN -n $n "$RONDO" bench --calibrate "$scratch/$n.json" --repeat 1 --json >"$scratch/out" 2>"$scratch/err" </dev/null
        status=$?
        # other tests on these cores make steps longer than any turn of the ranks' does, or those of few keys longer than those of many: then it was
        # not the ranks that were measured
        tr -d ' \n' <"$scratch/out" | sed -n 's/.*"crowd_seconds":\[\([0-9.e+,-]*\)\].*/\1/p' >"$scratch/steps"
        if [ $status != 0 ] || { ! tr -d ' \n' <"$scratch/$n.json" | grep -q '"core_turn":\(0*\.001\|1e-0*3\)[,}]' &&
                                 awk '{ split($0, t, ",") } END { exit t[2] < t[1] }' "$scratch/steps"; }; then break; fi
        echo "# try $try: the cores were somebody else's"
    done
    ok "$n processes: exit 0" test $status = 0
    tr -d ' \n' <"$scratch/out" >"$scratch/line"
    shares=$(sed 's/.*"rank_cores":\[\([0-9,]*\)\].*/\1/' "$scratch/line")
    cores=$(tr -d ' \n' <"$scratch/$n.json" | sed 's/.*"node_ranks":\([0-9]*\).*/\1/')
    together=$(tr -d ' \n' <"$scratch/$n.json" | sed 's/.*"cores":\([0-9.e+]*\).*/\1/')
    echo "# cores of each rank $shares, of the machine $cores, which do $together times what one does"
    ok "$n processes: each core is one rank's" test "$(echo "$shares" | tr , '\n' | awk '{ n += $1 } END { print n, NR }')" = "$cores $n"
    ok "$n processes: shared out evenly" test "$(echo "$shares" | tr , '\n' | awk -v n=$n -v c="$cores" '$1 < 1 && n <= c' | wc -l)" = 0
    ok "$n processes: what all do is no more than so many cores can" awk -v t="$together" -v c="$cores" 'BEGIN { exit !(t > 0 && t <= c) }'
    idle=$(sed 's/.*"idle_cpu":\([0-9.e+-]*\).*/\1/' "$scratch/line")
    echo "# a waiting rank took $idle of a core"
    if [ "$n" -gt "$cores" ]; then
        steps=$(sed 's/.*"crowd_seconds":\[\([0-9.e+,-]*\)\].*/\1/' "$scratch/line")
        turn=$(tr -d ' \n' <"$scratch/$n.json" | sed -n 's/.*"core_turn":\([0-9.e+-]*\).*/\1/p')
        echo "# steps of decoding of more ranks than cores took $steps s; a turn ${turn:-0} s"
        ok "$n processes on $cores cores: a step of more keys takes longer" awk -v s="$steps" 'BEGIN { split(s, t, ","); exit !(t[1] > 0 && t[2] > t[1]) }'
        ok "$n processes on $cores cores: turns cost less than a millisecond" awk -v t="${turn:-0}" 'BEGIN { exit !(t >= 0 && t < 1e-3) }'
    else
        ok "$n processes: each has a core, and no turns" sh -c "! grep -q 'crowd_seconds' '$scratch/line'"
    fi
    ok "$n processes: who waits sleeps" awk -v i="$idle" 'BEGIN { exit !(i >= 0 && i < 0.4) }'
done
finish
