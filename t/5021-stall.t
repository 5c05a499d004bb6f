#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# A rank that stalls costs the others one deadline and a little more, not one for each thing that comes after; they name it and
# the step, and end by themselves. Timed is each process's own end: mpirun may wait for the one that is stopped.
. "$srcdir/t/shell.sh"

module=$builddir/.libs/rondo_mpi.so
[ -z "$SANITIZE_CFLAGS" ] || skip_all "MPI libraries and sanitizers do not mix"
[ -e "$module" ] && [ -n "$MPIRUN" ] || skip_all "no MPI module, or no mpirun"
kind=other
case $(readelf -d "$module" 2>/dev/null | grep NEEDED) in
*libmpich*) kind=mpich ;;
*libmpi.so*) kind=openmpi ;;
esac
mpirun=$MPIRUN
if command -v "mpirun.$kind" >/dev/null; then mpirun=mpirun.$kind; fi
unset RONDO_TEST_HOOK

# What mpirun starts: runs the command, and writes its number, its end and its last words down.
cat >"$scratch/rank" <<'END'
#!/bin/sh
where=$1 rank=${OMPI_COMM_WORLD_RANK:-${PMIX_RANK:-$PMI_RANK}}
shift
"$@" 2>"$where/err.$rank" &
echo $! >"$where/pid.new.$rank"
mv "$where/pid.new.$rank" "$where/pid.$rank"
wait $!
status=$?
echo "$status $(date +%s.%N)" >"$where/end.new.$rank"
mv "$where/end.new.$rank" "$where/end.$rank"
# mpirun ends the others as soon as one has failed: not before they have ended by themselves
sleep 2
exit $status
END
chmod +x "$scratch/rank"

start() { # deadline, command...
    RONDO_DEADLINE=$1 limit=$(($1 + 3))
    export RONDO_DEADLINE
    shift
    rm -rf "$scratch/run"
    mkdir "$scratch/run"
    # shellcheck disable=SC2086  # $mpirun may carry options
    timeout -k 5 90 $mpirun -n 3 "$scratch/rank" "$scratch/run" "$@" >"$scratch/run/out" 2>"$scratch/run/mpirun" &
    started=$!
}
stopped() { case $(sed 's/.*) //' "/proc/$(cat "$scratch/run/pid.$1" 2>/dev/null)/stat" 2>/dev/null) in T*) true ;; *) false ;; esac; }
others_ended() {
    for other in 0 1 2; do [ "$other" = "$1" ] || [ -e "$scratch/run/end.$other" ] || return 1; done
}
wait_for() { # seconds, command...
    tries=$(($1 * 20))
    shift
    while ! "$@"; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || return 1
        sleep 0.05
    done
}
judge() { # text, victim, pattern of the sentence: after rank `victim` was stopped at $began
    wait_for 60 others_ended "$2"
    problems=
    for other in 0 1 2; do
        [ "$other" = "$2" ] && continue
        read -r status ended 2>/dev/null <"$scratch/run/end.$other" || status=none ended=0
        took=$(awk "BEGIN { printf \"%.2f\", $ended - $began }")
        [ "$status" = 5 ] || problems="$problems; rank $other ended with $status"
        awk "BEGIN { exit !($took < $limit) }" || problems="$problems; rank $other took $took s"
        grep -q "$3" "$scratch/run/err.$other" || problems="$problems; rank $other does not say whom it waited for, and where"
    done
    kill -KILL "$(cat "$scratch/run/pid.$2")" 2>/dev/null
    wait "$started"
    if [ -z "$problems" ]; then
        pass "$kind: $1 (rank $other after $took s)"
    else
        flunk "$kind: $1$problems"
        for other in 0 1 2; do sed "s/^/# rank $other: /" "$scratch/run/err.$other"; done
        head -5 "$scratch/run/mpirun" | sed 's/^/# /'
    fi
}

victim=0 seconds=5
for step in barrier agreement all-gather broadcast ring; do
    start $seconds "$builddir/t/5020-mpi-stall.t" $step $victim
    wait_for 30 stopped $victim
    began=$(date +%s.%N)
    judge "rank $victim stops before step $step" $victim "rank $victim did not answer rank [0-2] within $seconds s in step $step"
    seconds=1 victim=$(((victim + 1) % 3))
done

# the program, at whatever place it happens to be
if [ -n "$RONDO" ]; then
    for victim in 0 2; do
        start 2 "$RONDO" verify --full --threads 1
        limit=7   # it computes, besides
        wait_for 30 test -s "$scratch/run/pid.$victim"
        sleep 1.5
        kill -STOP "$(cat "$scratch/run/pid.$victim")"
        began=$(date +%s.%N)
        judge "rank $victim of rondo verify stops" $victim "^rondo: .*rank $victim did not answer rank [0-2] within 2 s in step [a-z]"
    done
else
    skip 2 "the program is not built"
fi
finish
