#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Ranks as MPI processes: the tests of 4000-ranks.t under mpirun, failures, programs that use MPI themselves. With the MPI that
# rondo was built with, and with Open MPI and MPICH wherever both are installed: the module is small enough to be built here.
. "$srcdir/t/shell.sh"

own_module=$builddir/.libs/rondo_mpi.so
# whoever configured --without-mpi wants none of it here either, and the system's mpicc may be for another machine than ours
[ -e "$own_module" ] || skip_all "rondo was built without MPI"
[ -z "$SANITIZE_CFLAGS" ] || skip_all "MPI libraries and sanitizers do not mix"

# library of a module: openmpi, mpich or other
kind_of() {
    case $(readelf -d "$1" 2>/dev/null | grep NEEDED) in
    *libmpich*) echo mpich ;;
    *libmpi.so*) echo openmpi ;;
    *) echo other ;;
    esac
}

# MPI's own messages about lost or unmatched messages after failures are no test output
run() { # text, ranks, program...: every line of the program's TAP must be ok
    run_text=$1 run_ranks=$2
    shift 2
    # shellcheck disable=SC2086  # $mpirun may carry options
    timeout -k 5 60 $mpirun -n "$run_ranks" "$@" >"$scratch/run.out" 2>"$scratch/run.err"
    run_status=$?
    if [ $run_status = 0 ] && grep -q '^1\.\.' "$scratch/run.out" && ! grep -q '^not ok' "$scratch/run.out"; then
        pass "$kind, $run_ranks processes: $run_text"
    else
        flunk "$kind, $run_ranks processes: $run_text (exit $run_status)"
        grep -v '^ok' "$scratch/run.out" | head -20 | sed 's/^/# /'
        head -30 "$scratch/run.err" | sed 's/^/# /'
    fi
}

suite() { # $kind, $mpirun, $compiler ("" = none) are set; RONDO_MODULE_PATH leads to the module
    RONDO_TEST_TRANSPORT=mpi
    export RONDO_TEST_TRANSPORT RONDO_MODULE_PATH
    for n in 1 2 3 5; do run "every kind of communication" $n "$builddir/t/4000-ranks.t"; done
    for n in 1 2 4; do run "groups of messages" $n "$builddir/t/4070-transfers.t"; done
    RONDO_MPI_PIECE=7
    export RONDO_MPI_PIECE
    run "messages in pieces of 7 bytes" 3 "$builddir/t/4000-ranks.t"
    unset RONDO_MPI_PIECE
    RONDO_TEST_HOOK=reorder:1,delay:2
    export RONDO_TEST_HOOK
    run "delayed and reordered" 3 "$builddir/t/4000-ranks.t"
    unset RONDO_TEST_HOOK
    for n in 2 3; do run "failures" $n "$builddir/t/5001-mpi-failures.t"; done
    if [ -z "$compiler" ] || ! $compiler -std=c99 -I"$srcdir/include" -I"$srcdir/t" "$srcdir/t/5010-attach.c" -o "$scratch/attach" \
        -L"$builddir/.libs" -Wl,-rpath,"$builddir/.libs" -lrondo $OPENMP_CFLAGS >"$scratch/compile" 2>&1; then
        flunk "$kind: a program with rondo_mpi.h compiles"
        sed 's/^/# /' "$scratch/compile"
        return
    fi
    for n in 1 2 5; do run "a program that uses MPI itself" $n "$scratch/attach"; done
}

tested=
if [ -e "$own_module" ] && [ -n "$MPIRUN" ]; then
    kind=$(kind_of "$own_module") mpirun=$MPIRUN RONDO_MODULE_PATH=$builddir/.libs compiler=${MPICC:-mpicc}
    if command -v "mpicc.$kind" >/dev/null; then compiler=mpicc.$kind; fi
    if command -v "mpirun.$kind" >/dev/null; then mpirun=mpirun.$kind; fi
    suite
    tested=$kind
fi
for kind in openmpi mpich; do
    if [ "$kind" = "$tested" ] || ! command -v "mpicc.$kind" >/dev/null || ! command -v "mpirun.$kind" >/dev/null; then continue; fi
    mpirun=mpirun.$kind compiler=mpicc.$kind RONDO_MODULE_PATH=$scratch/$kind
    mkdir -p "$RONDO_MODULE_PATH"
    # shellcheck disable=SC2086
    if $compiler -std=c11 -D_POSIX_C_SOURCE=200809L -O2 -fPIC -shared -fvisibility=hidden -I"$srcdir/include" -I"$srcdir/lib" -I"$srcdir" \
        "$srcdir"/backends/mpi/*.c -o "$RONDO_MODULE_PATH/rondo_mpi.so" >"$scratch/compile" 2>&1; then
        suite
    else
        flunk "$kind: the module compiles"
        sed 's/^/# /' "$scratch/compile"
    fi
    tested="$tested $kind"
done
[ -n "$tested" ] || skip_all "no MPI module, or no mpirun"
finish
