#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Processes that know their rank and not how many there are: they join, or they refuse with a code. Never do several run alone, all
# with the same work and the same output. And a binding that leaves a rank fewer cores than threads is told.
. "$srcdir/t/shell.sh"

[ -n "$RONDO" ] || skip_all "the program is not built"
# nothing of the test's own surroundings
for name in $(env | sed -n 's/^\(OMPI_COMM_WORLD[A-Z_]*\|PMIX*_[A-Z_]*\|SLURM_[A-Z_]*\|MPI_LOCAL[A-Z]*\)=.*/\1/p'); do unset "$name"; done
unset RONDO_TEST_HOOK
said() { grep -q "$1" "$scratch/err"; }
run() { "$@" >"$scratch/out" 2>"$scratch/err"; }
verify() { run env "$@" "$RONDO" verify --quick --tokens 64 --ranks 1,2 --json; }

# ---- alone
verify SLURM_JOB_ID=7 SLURM_NTASKS=4 SLURM_NPROCS=4 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NNODES=2
ok "in an allocation's shell it runs alone" test $? = 0
verify SLURM_STEP_NUM_TASKS=1 SLURM_PROCID=0 SLURM_STEP_ID=0 SLURM_NTASKS=4
ok "in a step of one task it runs alone" test $? = 0
verify SLURM_STEP_NUM_TASKS=1 SLURM_PROCID=0 PMIX_RANK=0 PMIX_NAMESPACE=slurm.pmix.7.0
ok "also where PMIx gives it a rank" test $? = 0

# ---- several, of whom this process sees only itself: whatever this build has, none may run
for made in "PMIX_RANK=0" "PMIX_RANK=1" "PMI_RANK=0" "PMI_RANK=1" "OMPI_COMM_WORLD_RANK=1" "SLURM_STEP_NUM_TASKS=2 SLURM_PROCID=0" \
    "SLURM_STEP_NUM_TASKS=2 SLURM_PROCID=1" "SLURM_STEP_NUM_TASKS=1 SLURM_PROCID=0 PMIX_RANK=1 PMIX_NAMESPACE=prterun-a-1@1"; do
    # shellcheck disable=SC2086
    verify RONDO_MODULE_PATH="$scratch" $made
    status=$?
    ok "$made: refused without MPI" test $status = 2
    # shellcheck disable=SC2086
    run env $made "$RONDO" verify --quick --transport threads
    status=$?
    ok "$made: refused with threads (exit $status)" test $status = 2
    # rank 0 speaks for all of them where all have the same to say
    case $made in *RANK=1* | *PROCID=1*) ;; *) ok "and the variable is named" said "${made%%=*}" ;; esac
done

# ---- mpirun
module=$builddir/.libs/rondo_mpi.so
if [ -z "$SANITIZE_CFLAGS" ] && [ -e "$module" ] && [ -n "$MPIRUN" ]; then
    # MPI itself may then set the variables of a rank
    run timeout -k 5 60 "$RONDO" verify --quick --tokens 64 --ranks 1 --transport mpi --json
    status=$?
    ok "--transport mpi without mpirun is one rank (exit $status)" test $status = 0
    ok "and reports" grep -q '"transport": *"mpi"' "$scratch/out"
    kind=other
    case $(readelf -d "$module" 2>/dev/null | grep NEEDED) in
    *libmpich*) kind=mpich foreign=openmpi ;;
    *libmpi.so*) kind=openmpi foreign=mpich ;;
    esac
    mpirun=$MPIRUN
    if command -v "mpirun.$kind" >/dev/null; then mpirun=mpirun.$kind; fi
    sizes="-u OMPI_COMM_WORLD_SIZE -u OMPI_COMM_WORLD_RANK -u PMI_SIZE -u MPI_LOCALNRANKS"
    # shellcheck disable=SC2086
    run timeout -k 5 60 $mpirun -n 2 env $sizes "$RONDO" verify --quick --ranks 1,2 --json
    status=$?
    if [ $kind = mpich ]; then   # which cannot start without PMI_SIZE
        ok "$kind: two processes that do not know their number refuse (exit $status)" test $status = 2
        ok "$kind: and say why" said "PMI_SIZE does not say how many"
        ok "$kind: and report nothing" test ! -s "$scratch/out"
    else
        ok "$kind: two processes that do not know their number join (exit $status)" test $status = 0
        ok "$kind: and report once" test "$(grep -c '"numerics"' "$scratch/out")" = 1
        ok "$kind: as two ranks" grep -q '"ranks": *2' "$scratch/out"
    fi
    # shellcheck disable=SC2086
    run timeout -k 5 60 $mpirun -n 2 env $sizes RONDO_MODULE_PATH="$scratch" "$RONDO" verify --quick --ranks 1,2
    status=$?
    ok "$kind: without the module they refuse (exit $status)" test $status = 2
    if command -v "mpirun.$foreign" >/dev/null; then
        # shellcheck disable=SC2086
        run timeout -k 5 60 "mpirun.$foreign" -n 2 env $sizes "$RONDO" verify --quick
        status=$?
        ok "started by $foreign's mpirun, which $kind does not understand, they refuse (exit $status)" test $status != 0
        ok "and say so" said "see each other\|sees none of the others\|does not say how many"
        ok "and report nothing" test ! -s "$scratch/out"
    else
        skip 3 "no second MPI"
    fi
    if command -v taskset >/dev/null && [ "$(nproc)" -gt 1 ]; then
        run timeout -k 5 60 "$mpirun" -n 2 taskset -c 0 "$RONDO" verify --quick --ranks 2 --threads 3
        status=$?
        ok "$kind: three threads on one core work" test $status = 0
        ok "$kind: and are warned of, once" test "$(grep -c 'warning: rank 0 has 3 threads, .* 1 core;.*--threads 1' "$scratch/err")" = 1
        run timeout -k 5 60 "$mpirun" -n 2 "$RONDO" verify --quick --ranks 2 --threads 1
        ok "$kind: where there is nothing to warn of, nothing is said" test "$(grep -c warning "$scratch/err")" = 0
    else
        skip 3 "no taskset, or one core"
    fi
else
    skip 12 "no MPI module, or no mpirun"
fi
finish
