# SPDX-License-Identifier: BSD-2-Clause
# For tests on several hosts (contrib/hosts): . "$srcdir/t/hosts.sh" as the first thing, before shell.sh. The test is run again beside
# three hosts, which go when it ends in any way, or skipped with the reason; then $hosts is the script, $program the program by its real
# name, and mpi N COMMAND... runs ranks. The variables of test_mpi_environment that say where messages go are for one machine.
# shellcheck shell=sh disable=SC2154  # srcdir and builddir come from the makefile
# shellcheck disable=SC2034  # used by the tests

skip_hosts() { echo "1..0 # SKIP $*"; exit 0; }

hosts=$srcdir/contrib/hosts
if [ "${1-}" != beside-hosts ]; then
    [ -n "$RONDO" ] || skip_hosts "built without the program"
    if [ -z "$MPIRUN" ] || [ ! -e "$builddir/.libs/rondo_mpi.so" ]; then skip_hosts "built without MPI"; fi
    [ -z "$SANITIZE_CFLAGS" ] || skip_hosts "MPI libraries and sanitizers do not mix"
    command -v bash >/dev/null || skip_hosts "no bash"
    why=$(bash "$hosts" run 3 true 2>&1) || skip_hosts "$why"
    exec bash "$hosts" run 3 "$0" beside-hosts
fi

# the wrapper that libtool makes links the program anew where it must; not by several ranks at once, and not on the way of a signal
"$RONDO" --version >/dev/null
program=$builddir/.libs/rondo
if [ -x "$program" ]; then
    LD_LIBRARY_PATH=$builddir/.libs${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    export LD_LIBRARY_PATH
else
    program=$RONDO
fi
# No run outlasts a minute, or $mpi_seconds. $MPIRUN may carry options; its first word is the program.
mpi() { timeout -k 5 "${mpi_seconds:-60}" bash "$hosts" --mpirun "${MPIRUN%% *}" mpi "$@"; }
