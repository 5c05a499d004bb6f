# SPDX-License-Identifier: BSD-2-Clause
# The test kit for scripts: . "$srcdir/t/shell.sh". TAP on stdout, as tap.h does it for C.
#     ok "what must hold" command...     compare "what must be equal" file1 file2     skip N "why"     finish
#     has_mpi || skip_all "why"          under_mpi RANKS command...
# public_functions HEADER lists the functions that a public header declares; core_headers the headers of librondo, by name.
# shellcheck shell=sh disable=SC2154  # srcdir and builddir come from the makefile

tap_count=0 tap_failed=0
scratch=$builddir/t/scratch/$(basename "$0" .t)
rm -rf "$scratch"
mkdir -p "$scratch" || exit 1
trap 'rm -rf "$scratch"' EXIT

pass() { tap_count=$((tap_count + 1)); echo "ok $tap_count - $*"; }
flunk() { tap_count=$((tap_count + 1)); tap_failed=$((tap_failed + 1)); echo "not ok $tap_count - $*"; }
ok() { # text, command...: its output is shown where it fails
    tap_text=$1
    shift
    if "$@" >"$scratch/ok.out" 2>&1; then pass "$tap_text"; else flunk "$tap_text"; sed 's/^/# /' "$scratch/ok.out"; fi
}
empty() { # text, file: where it is not, its lines are shown
    if [ ! -s "$2" ]; then pass "$1"; else flunk "$1"; sed 's/^/# /' "$2"; fi
}
compare() { # text, want, got: equal and not empty
    if [ -s "$2" ] && diff -u "$2" "$3" >"$scratch/diff.out"; then pass "$1"; else flunk "$1"; sed 's/^/# /' "$scratch/diff.out"; fi
}
skip() { # count, why
    tap_skip=$1
    while [ "$tap_skip" -gt 0 ]; do tap_count=$((tap_count + 1)) tap_skip=$((tap_skip - 1)); echo "ok $tap_count # SKIP $2"; done
}
skip_all() { echo "1..0 # SKIP $*"; exit 0; }
finish() { echo "1..$tap_count"; [ "$tap_failed" = 0 ]; exit; }

has_mpi() { [ -n "$MPIRUN" ] && [ -e "$builddir/rondo_mpi.la" ]; }
under_mpi() { # ranks, command...
    # shellcheck disable=SC2086  # $MPIRUN may carry options
    $MPIRUN -n "$@" </dev/null
}

# rondo.h and the parts of it that it includes
core_headers() { echo rondo.h; sed -n 's/^#include "\(rondo_[a-z]*\.h\)"$/\1/p' "$srcdir/include/rondo.h"; }
public_functions() { sed -n 's/^RONDO_API .*[ *]\(rondo_[a-z0-9_]*\)(.*/\1/p' "$1" | LC_ALL=C sort; }
