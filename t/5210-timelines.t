#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Timelines of ranks on three hosts whose clocks began at other times: rank 0's is the common one. Clocks are shifted by time
# namespaces; what must overlap are the times of all ranks, and no message may be there before it was sent.
. "$srcdir/t/hosts.sh"
. "$srcdir/t/shell.sh"

model=$srcdir/examples/kjv ids=$srcdir/t/golden/kjv/mark.ids

# who has no such namespaces has one clock
unshare --time --fork --monotonic 1000 true 2>/dev/null || skip_all "no time namespaces here"
cat >"$scratch/shifted" <<'END'
#!/bin/sh
case $(hostname) in
h1) exec unshare --time --fork --monotonic 300 "$@" ;;
h2) exec unshare --time --fork --monotonic 86400 "$@" ;;
*) exec "$@" ;;
esac
END
chmod +x "$scratch/shifted"

# rank, begin, end (in us) and peer of each event
events() {
    sed -n 's/^{"name":.*"cat":"\([^"]*\)".*"pid":\([0-9]*\),.*"ts":\([0-9.]*\),"dur":\([0-9.]*\),"args":{"peer":\(-*[0-9]*\),.*/\2 \3 \4 \5 \1/p' "$1" |
        awk '{ $3 += $2; print }'
}
# What the timeline says: "RANKS OVERLAP SPAN EARLY": ranks with events; the part of the whole span, in percent, in which all have begun
# and none has ended; the span in seconds, rounded up; and how many shifts were over before the sender's began, by more than is allowed.
judge() { # trace
    apart=$(sed -n 's/.*"apart":\([0-9.]*\).*/\1/p' "$1")
    events "$1" | awk -v apart="${apart:-0}" '
        !($1 in first) || $2 < first[$1] { first[$1] = $2 }
        $3 > last[$1] { last[$1] = $3 }
        $5 == "shift" { begin[$1, ++sent[$1]] = $2 }                  # to peer
        $5 == "wait" && $6 == "shift" { end[$1, ++got[$1]] = $3; from[$1, got[$1]] = $4 }
        END {
            for (r in first) {
                ranks++
                if (all == "" || first[r] < all) all = first[r]
                if (first[r] > common) common = first[r]
                if (last[r] > over) over = last[r]
                if (least == "" || last[r] < least) least = last[r]
                # in a ring every rank sends and receives as often as the others, in the same order
                for (i = 1; i <= got[r]; i++)
                    if (end[r, i] + apart + 1 < begin[from[r, i], i]) early++
            }
            span = over - all
            overlap = span > 0 && least > common ? int(100 * (least - common) / span) : 0
            print ranks + 0, overlap, int(span / 1e6) + 1, early + 0
        }'
}

for n in 3 4; do
    mpi $n "$scratch/shifted" "$program" score -m "$model" --ids "$ids" --trace "$scratch/trace" --quiet >"$scratch/out" 2>"$scratch/err"
    ok "$n ranks: exit 0" test $? = 0
    judge "$scratch/trace" >"$scratch/verdict"
    read -r ranks overlap span early <"$scratch/verdict"
    ok "$n ranks: events of all" test "$ranks" -eq $n
    ok "$n ranks: the whole lies within a minute ($span s)" test "$span" -lt 60
    ok "$n ranks: they work at the same time ($overlap % of it)" test "$overlap" -ge 50
    ok "$n ranks: nothing arrives before it was sent" test "$early" -eq 0
    ok "$n ranks: the timeline says how far they may be apart" grep -q '"apart":[0-9]*[.][0-9]' "$scratch/trace"
done
# many runs in one command, some with fewer ranks than there are
mpi 3 "$scratch/shifted" "$program" verify --tokens 200 --isa auto --transport mpi --trace "$scratch/trace" --quiet >"$scratch/out" 2>"$scratch/err"
ok "verify: exit 0" test $? = 0
judge "$scratch/trace" >"$scratch/verdict"
read -r ranks overlap span early <"$scratch/verdict"
ok "verify: all ranks within a minute" test "$ranks $((span < 60))" = "3 1"

"$program" score -m "$model" --ids "$ids" --cp 3 --trace "$scratch/trace" --quiet >"$scratch/out" 2>"$scratch/err"
judge "$scratch/trace" >"$scratch/verdict"
read -r ranks overlap span early <"$scratch/verdict"
ok "threads, which share a clock: the same holds" test "$ranks $((overlap >= 50)) $((span < 60)) $early" = "3 1 1 0"
finish
