#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Ranks on three hosts with nothing but TCP between them (contrib/hosts): the bits of one rank, over links of any speed; and what only
# one of the hosts has - standard input, the folder of a result, a model, the MPI module.
. "$srcdir/t/hosts.sh"
. "$srcdir/t/shell.sh"

model=$srcdir/examples/kjv ids=$srcdir/t/golden/kjv/mark.ids

hash_in() { sed -n 's/.*"hash": *"\([0-9a-f]\{16\}\)".*/\1/p' "$1"; }
same() { # text, want, command...: the command's report has that hash
    same_text=$1 same_want=$2
    shift 2
    if "$@" >"$scratch/out" 2>"$scratch/err" && [ -n "$same_want" ] && [ "$(hash_in "$scratch/out")" = "$same_want" ]; then
        pass "$same_text"
    else
        flunk "$same_text: want hash $same_want"
        head -5 "$scratch/out" "$scratch/err" | sed 's/^/# /'
    fi
}
received() { bash "$hosts" on "$1" sed -n 's/^ *eth0: *\([0-9]*\).*/\1/p' /proc/net/dev; }

# ---- attend: 512 positions, 4 query heads, 2 of keys, size 32; numbers are the logits of a model, again and again ----
logits=$srcdir/t/golden/kjv/logits.safetensors
header='{"q":{"dtype":"F32","shape":[1,512,4,32],"data_offsets":[0,262144]},"k":{"dtype":"F32","shape":[1,512,2,32],"data_offsets":'
header=$header'[262144,393216]},"v":{"dtype":"F32","shape":[1,512,2,32],"data_offsets":[393216,524288]}}'
{
    printf '\000\001\000\000\000\000\000\000%-256s' "$header"
    for i in 1 2 3 4 5 6 7; do tail -c 80000 "$logits"; done | head -c 524288
} >"$scratch/in.safetensors"
"$program" attend "$scratch/in.safetensors" -o "$scratch/one.safetensors" --causal --json --quiet >"$scratch/one" 2>"$scratch/err"
one=$(hash_in "$scratch/one")
for how in "" "--layout striped --algorithm pass-q" "--layout contiguous --algorithm pass-kv --isa scalar"; do
    # shellcheck disable=SC2086  # words
    same "attend on 3 hosts ${how:-by default}: the bits of one rank" "$one" \
        mpi 3 "$program" attend "$scratch/in.safetensors" -o "$scratch/three.safetensors" --causal --json --quiet $how
    ok "attend on 3 hosts ${how:-by default}: the same file" cmp "$scratch/one.safetensors" "$scratch/three.safetensors"
done
cores=$(($(nproc) / 3))
[ "$cores" -gt 0 ] || cores=1
ok "hosts that are on one machine share its cores out: $cores for each rank" grep -q "\"threads\": $cores\b" "$scratch/out"
bytes=$(received 3)
same "5 ranks on 3 hosts" "$one" mpi 5 "$program" attend "$scratch/in.safetensors" -o "$scratch/five.safetensors" --causal --json --quiet
ok "messages went over the network" test "$(($(received 3) - bytes))" -gt 100000
if bash "$hosts" rate 50mbit 2>"$scratch/err"; then
    same "3 hosts with slow links" "$one" \
        mpi 3 "$program" attend "$scratch/in.safetensors" -o "$scratch/slow.safetensors" --causal --json --quiet
    bash "$hosts" rate none
else
    skip 1 "this kernel limits no rates"
fi

# ---- messages over TCP, of up to 131,072 bytes here: Open MPI's go in pieces of which it does not ask first; both ends cut them alike ----
cat >"$scratch/longest.c" <<'EOF'
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
static int longest;
int MPI_Isend(const void *at, int count, MPI_Datatype type, int to, int tag, MPI_Comm comm, MPI_Request *request)
{
    if (count > longest)
        longest = count;
    return PMPI_Isend(at, count, type, to, tag, comm, request);
}
int MPI_Finalize(void)
{
    FILE *f = fopen(getenv("LONGEST"), "a");
    if (f) {
        fprintf(f, "%d\n", longest);
        fclose(f);
    }
    return PMPI_Finalize();
}
EOF
in_pieces() { # text, the longest message: at most, at least; words of mpirun and of env
    pieces_text=$1 pieces_most=$2 pieces_least=$3
    shift 3
    rm -f "$scratch/longest"
    same "$pieces_text: the bits of one rank" "$one" mpi 3 "$@" LD_PRELOAD="$scratch/longest.so" LONGEST="$scratch/longest" \
        "$program" attend "$scratch/in.safetensors" -o "$scratch/three.safetensors" --causal --json --quiet --layout contiguous --algorithm pass-kv
    longest=$(sort -n "$scratch/longest" | tail -1)
    ok "$pieces_text: of $pieces_least to $pieces_most bytes (${longest:-none})" \
        test "${longest:-0}" -le "$pieces_most" -a "${longest:-0}" -ge "$pieces_least"
}
compiler=${MPICC:-mpicc}
case $(readelf -d "$builddir/.libs/rondo_mpi.so" | grep NEEDED) in
*libmpich*) kind=mpich ;;
*libmpi.so*) kind=openmpi ;;
*) kind=other ;;
esac
if command -v "mpicc.$kind" >/dev/null; then compiler=mpicc.$kind; fi
if $compiler -shared -fPIC "$scratch/longest.c" -o "$scratch/longest.so" 2>"$scratch/err"; then
    if [ $kind = openmpi ]; then
        in_pieces "messages over TCP" 65536 50000 env
        in_pieces "messages over TCP that asks from 20,000 bytes" 20000 15000 --mca btl_tcp_eager_limit 20000 env
    fi
    in_pieces "RONDO_MPI_PIECE=1000000" 1000000 87000 env RONDO_MPI_PIECE=1000000
    # shellcheck disable=SC2016  # the rank's own shell sets it
    in_pieces "RONDO_MPI_PIECE of one rank" 1000 1000 env sh -c \
        'if [ "${OMPI_COMM_WORLD_RANK:-$PMI_RANK}" = 1 ]; then export RONDO_MPI_PIECE=1000; fi; exec env "$@"' sh
else
    flunk "a program that counts messages compiles"
    sed 's/^/# /' "$scratch/err"
fi

# ---- a language model ----
"$program" score -m "$model" --ids "$ids" --limit 400 --json --quiet >"$scratch/one" 2>"$scratch/err"
one=$(hash_in "$scratch/one")
same "score on 3 hosts: the bits of one rank" "$one" mpi 3 "$program" score -m "$model" --ids "$ids" --limit 400 --json --quiet
"$program" generate -m "$model" -p 'In those days' -n 20 --json --quiet >"$scratch/one" 2>"$scratch/err"
same "generate on 3 hosts: the bits of one rank" "$(hash_in "$scratch/one")" \
    mpi 3 "$program" generate -m "$model" -p 'In those days' -n 20 --json --quiet
for grid in "3 --tp 3" "6 --tp 3 --cp 2 --spread yes" "4 --tp 2"; do
    # shellcheck disable=SC2086  # words
    same "generate on 3 hosts, ${grid#* } on ${grid%% *} ranks: the bits of one rank" "$(hash_in "$scratch/one")" \
        mpi ${grid%% *} "$program" generate -m "$model" -p 'In those days' -n 20 --json --quiet ${grid#* }
done
mpi 3 "$program" verify --quick --transport mpi --json --quiet >"$scratch/out" 2>"$scratch/err"
ok "verify on 3 hosts" grep -q '"failed": 0' "$scratch/out"

# ---- what one host has and the others do not: an empty folder lies over theirs ----
mkdir "$scratch/h1" "$scratch/h1/results" "$scratch/h12" "$scratch/module"
for i in 2 3; do bash "$hosts" on $i mount -t tmpfs none "$scratch/h1"; done
bash "$hosts" on 3 mount -t tmpfs none "$scratch/h12"
bash "$hosts" on 2 mount -t tmpfs none "$scratch/module"

same "results, logits and timeline go to folders that rank 0 alone has" "$one" mpi 3 "$program" score -m "$model" --ids "$ids" --limit 400 \
    --json --quiet --logits "$scratch/h1/results/logits.safetensors" --trace "$scratch/h1/results/trace.json"
ok "they are there" test -s "$scratch/h1/results/logits.safetensors" -a -s "$scratch/h1/results/trace.json"
cp "$ids" "$scratch/h1/ids"
same "--ids of a file that rank 0 alone has" "$one" mpi 3 "$program" score -m "$model" --ids "$scratch/h1/ids" --limit 400 --json --quiet
from_stdin() { mpi 3 "$program" score -m "$model" --ids - --limit 400 --json --quiet <"$ids"; }
from_stdin >"$scratch/out" 2>"$scratch/err"
ok "--ids from standard input" test "$(hash_in "$scratch/out")" = "$one"

says() { # text, words that stand in the one sentence, command...: it fails
    says_text=$1 says_words=$2
    shift 2
    if "$@" >"$scratch/out" 2>"$scratch/err"; then flunk "$says_text: fails"; return; fi
    grep '^rondo: ' "$scratch/err" >"$scratch/sentences"
    if [ "$(wc -l <"$scratch/sentences")" -eq 1 ] && grep -q "$says_words" "$scratch/sentences"; then
        pass "$says_text"
    else
        flunk "$says_text: one sentence with \"$says_words\""
        sed 's/^/# /' "$scratch/err"
    fi
}
cp "$model"/* "$scratch/h12"
says "a model that h3 does not have" 'h12/.*(on rank 2, host h3)' mpi 3 "$program" score -m "$scratch/h12" --ids "$ids" --limit 400
cp "$scratch/in.safetensors" "$scratch/h12"
says "an input that h3 does not have" 'h12/in.*(on rank 2, host h3)' mpi 3 "$program" attend "$scratch/h12/in.safetensors" \
    -o "$scratch/none.safetensors"
ok "no result then" test ! -e "$scratch/none.safetensors"
says "a result in no folder" 'h1/none/x' mpi 3 "$program" score -m "$model" --ids "$ids" --limit 400 --logits "$scratch/h1/none/x"
cp "$builddir/.libs/rondo_mpi.so" "$scratch/module"
# MPICH's other processes would wait for it for ever
without_module() { mpi_seconds=15 RONDO_MODULE_PATH=$scratch/module mpi 3 "$program" score -m "$model" --ids "$ids" --limit 400; }
if [ -e "$(sed -n 's/^pkglibdir = //p' "$builddir/Makefile" | head -1)/rondo_mpi.so" ]; then
    skip 1 "a module is installed"
else
    without_module >"$scratch/out" 2>"$scratch/err"
    ok "an MPI module that h2 does not have: h2 says so" grep -q '^rondo: the module .*(on rank 1, host h2)$' "$scratch/err"
fi
finish
