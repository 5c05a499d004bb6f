#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# The manual is part of each function: all have a page, each synopsis says what the header says, and each example compiles.
. "$srcdir/t/shell.sh"
LC_ALL=C; export LC_ALL
flags="-std=c11 -D_POSIX_C_SOURCE=200809L -pedantic -Wall -Wextra -Werror -I$srcdir/include"

for header in $(core_headers) rondo_lm.h; do public_functions "$srcdir/include/$header"; done >"$scratch/unsorted"
sed -n 's/^static inline .*[ *]\(rondo_[a-z0-9_]*\)(.*/\1/p' "$srcdir/include/rondo_mpi.h" >>"$scratch/unsorted"
sort "$scratch/unsorted" >"$scratch/functions"
for page in "$srcdir"/man/*.3; do
    awk '/^\.Sh NAME/ { inside = 1; next } /^\.Sh / { exit } inside && /^\.Nm / { print $2 }' "$page"
done | sort >"$scratch/names"
compare "each public function is in the NAME of exactly one page" "$scratch/functions" "$scratch/names"

mpi_cflags=$(echo "$MPI_CFLAGS" | sed 's/-I/-isystem /g')
printf '#include <mpi.h>\n' | $CC $mpi_cflags -E - >/dev/null 2>&1 && have_mpi=1 || have_mpi=
for page in "$srcdir"/man/*.3; do
    name=$(basename "$page")
    if [ "$name" = rondo_mpi_attach.3 ] && [ -z "$have_mpi" ]; then skip 3 "no mpi.h"; continue; fi
    # .In, .Ft, .Fn and .Fo/.Fa/.Fc of the SYNOPSIS become declarations, which must not conflict with the header's
    awk '
        function unquote(s) { gsub(/^ +| +$/, "", s); gsub(/"/, "", s); return s }
        function split_args(s,   out, rest) {   # words, or "quoted words"
            out = ""
            while (match(s, /"[^"]*"|[^ "]+/)) { rest = substr(s, RSTART, RLENGTH); gsub(/"/, "", rest); out = out (out == "" ? "" : ", ") rest; s = substr(s, RSTART + RLENGTH) }
            return out
        }
        /^\.Sh SYNOPSIS/ { inside = 1; next } /^\.Sh / { inside = 0 }
        !inside { next }
        /^\.In / { print "#include <" $2 ">" }
        /^\.Ft / { type = unquote(substr($0, 5)) }
        /^\.Fn / { line = substr($0, 5); match(line, /^[^ ]+/); fn = substr(line, 1, RLENGTH); print type " " fn "(" split_args(substr(line, RLENGTH + 1)) ");" }
        /^\.Fo / { fn = $2; args = "" }
        /^\.Fa / { args = args (args == "" ? "" : ", ") unquote(substr($0, 5)) }
        /^\.Fc/  { print type " " fn "(" args ");" }' "$page" >"$scratch/synopsis.c"
    [ "$name" != rondo_mpi_attach.3 ] || sed -i 's/^int/static inline int/' "$scratch/synopsis.c"
    grep -o 'rondo_[a-z0-9_]*(' "$scratch/synopsis.c" | tr -d '(' | sort >"$scratch/in-synopsis"
    awk '/^\.Sh NAME/ { inside = 1; next } /^\.Sh / { exit } inside && /^\.Nm / { print $2 }' "$page" | sort >"$scratch/in-name"
    compare "$name: SYNOPSIS and NAME have the same functions" "$scratch/in-name" "$scratch/in-synopsis"
    ok "$name: the SYNOPSIS says what the header says" $CC $flags $mpi_cflags -c "$scratch/synopsis.c" -o "$scratch/unit.o"
    # the literal display in EXAMPLES
    awk '/^\.Sh EXAMPLES/ { inside = 1; next } /^\.Sh / { inside = 0 }
        inside && /^\.Bd -literal/ { code = 1; next } inside && /^\.Ed/ { code = 0 }
        inside && code { gsub(/\\e/, "\\"); gsub(/\\&/, ""); print }' "$page" >"$scratch/example.c"
    if [ -s "$scratch/example.c" ]; then
        ok "$name: the example compiles" $CC $flags $mpi_cflags -Wno-missing-prototypes -c "$scratch/example.c" -o "$scratch/unit.o"
    else
        flunk "$name: has no example"
    fi
done

awk '/^In your program/ { inside = 1 } /^    cc program/ { exit } inside && /^    / { print substr($0, 5) } inside && /^$/ { print }' "$srcdir/README" >"$scratch/readme.c"
ok "the README's program is there" grep -q 'int main' "$scratch/readme.c"
ok "and compiles" $CC $flags -c "$scratch/readme.c" -o "$scratch/unit.o"

# the commands: each has a page, and the page has each option that --help shows, and no other
if [ -n "$RONDO" ]; then
    help_of() { # words before --help: what it prints, in $scratch/text
        ok "rondo $*${1:+ }--help succeeds" sh -c '"$@" --help >"$0" && grep -q "^Usage: rondo" "$0"' "$scratch/text" "$RONDO" "$@"
    }
    help_of
    sed -n '/^Commands:/,/^$/s/^  \([a-z]*\) .*/\1/p' "$scratch/text" >"$scratch/commands"
    ls "$srcdir"/man/rondo-*.1 | sed 's/.*rondo-\(.*\)\.1$/\1/' | sort >"$scratch/pages"
    sort "$scratch/commands" >"$scratch/sorted"
    compare "each command of --help has a page, and each page a command" "$scratch/sorted" "$scratch/pages"
    while read -r command; do
        page=$srcdir/man/rondo-$command.1
        kinds=''
        [ "$command" != plan ] || kinds='schedule cost choose run replay'
        [ "$command" != bench ] || kinds='attention linear transport generate kda'
        : >"$scratch/texts"
        for kind in '' $kinds; do
            # shellcheck disable=SC2086  # no kind, no word
            help_of "$command" $kind
            cat "$scratch/text" >>"$scratch/texts"
        done
        sed -n '/^Options:/,/^Exit codes/p' "$scratch/texts" | grep -E '^  -' | grep -oE -- '--[a-z][a-z0-9-]*' | sort -u >"$scratch/help"
        ok "rondo $command --help shows options" test -s "$scratch/help"
        { cat "$page"; sed -n '/^\.Ss Common options/,/^\.Ss Reports/p' "$srcdir/man/rondo.1"; } |
            grep -E '^\.It Fl' | grep -oE -- 'Fl -[a-z][a-z0-9-]+' | sed 's/^Fl /-/' | sort -u >"$scratch/manual"
        echo --help >>"$scratch/manual"
        sort -o "$scratch/manual" "$scratch/manual"
        comm -23 "$scratch/help" "$scratch/manual" >"$scratch/missing"
        empty "rondo-$command(1) has every option of --help" "$scratch/missing"
        sed -n '/^\.Sh DESCRIPTION/,/^\.Sh /p' "$page" | grep -E '^\.It Fl' | grep -oE -- 'Fl -[a-z][a-z0-9-]+' | sed 's/^Fl /-/' | sort -u >"$scratch/own"
        comm -13 "$scratch/help" "$scratch/own" >"$scratch/extra"
        empty "rondo-$command(1) lists no option that --help does not have" "$scratch/extra"
    done <"$scratch/commands"
else
    skip 1 "the program rondo was not built"
fi
finish
