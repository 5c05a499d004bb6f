#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# A host falls off the network in the middle of the work: within the deadline, and three seconds to come to an end, every other rank has
# returned with exit code 5 and said whom it waited for, and where in the work. Also when it is rank 0's host, and mpirun's.
. "$srcdir/t/hosts.sh"
. "$srcdir/t/shell.sh"

deadline=5 limit=8
export RONDO_DEADLINE=$deadline
unset RONDO_TEST_HOOK

# What runs as a rank: its words and its end go to files, by the host's name. It stays then, since mpirun ends the others when one has
# ended.
cat >"$scratch/rank" <<'END'
#!/bin/sh
to=$1 me=$(hostname)
shift
"$@" >"$to/out.$me" 2>"$to/err.$me"
echo "$? $(date +%s.%N)" >"$to/new.$me"
mv "$to/new.$me" "$to/end.$me"
exec sleep 60
END
chmod +x "$scratch/rank"
seconds_between() { awk "BEGIN { printf \"%.1f\", $2 - $1 }"; }
wait_for() { # seconds, command...
    tries=$(($1 * 20))
    shift
    until "$@"; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || return 1
        sleep 0.05
    done
}
others_ended() {
    for i in 1 2 3; do [ $i = "$cut" ] || [ -e "$to/end.h$i" ] || return 1; done
}

# Context-parallel ranks wait for each other in attention, tensor-parallel ones in each linear layer.
for how in "3 --cp 3" "1 --cp 3" "2 --tp 3"; do
    cut=${how%% *} grid=${how#* }
    to=$scratch/cut$cut
    mkdir "$to"
    # shellcheck disable=SC2086  # words
    timeout -k 5 100 bash "$hosts" --mpirun "${MPIRUN%% *}" mpi 3 "$scratch/rank" "$to" "$program" generate -m "$srcdir/examples/kjv" \
        -p 'In those days' -n 100000 --ignore-eos --threads 1 --quiet $grid >"$to/mpirun" 2>&1 &
    launcher=$!
    ok "$grid, host $cut: the ranks are at work" wait_for 60 test -s "$to/out.h1"
    sleep 0.5
    began=$(date +%s.%N)
    bash "$hosts" cut $cut
    ok "$grid, host $cut is cut off: the others return" wait_for 40 others_ended
    for i in 1 2 3; do
        [ $i = $cut ] && continue
        read -r status ended 2>/dev/null <"$to/end.h$i" || status=none ended=0
        took=$(seconds_between "$began" "$ended")
        ok "$grid, host $cut is cut off: rank $((i - 1)) ends with exit code 5 ($status)" test "$status" = 5
        ok "... within $deadline + 3 s ($took s)" awk "BEGIN { exit !($took > $deadline - 1 && $took < $limit) }"
        ok "... and names the rank and the step" grep -q "^rondo: .*rank $((cut - 1)) .*step [a-z]" "$to/err.h$i"
        ok "... in one line" test "$(wc -l <"$to/err.h$i")" -eq 1
        sed 's/^/# /' "$to/err.h$i"
    done
    bash "$hosts" mend $cut
    kill "$launcher" 2>/dev/null
    wait "$launcher" 2>/dev/null
done
finish
