#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Loadable modules: found in the folders of RONDO_MODULE_PATH, and refused with a sentence where they are missing, damaged, of
# another version or of another interface.
. "$srcdir/t/shell.sh"

[ -z "$SANITIZE_CFLAGS" ] || skip_all "the test's modules are built without sanitizers"
cat >"$scratch/ask.c" <<'EOF'
#include <stdio.h>
#include <rondo.h>
int main(int argc, char **argv)
{
    rondo_context *ctx;
    rondo_context_desc d = RONDO_CONTEXT_DESC_INIT;
    if (argc > 1)
        d.transport = argv[1];
    int err = rondo_context_create(&ctx, &d), usable = 0;
    printf("%s: %s\n", rondo_error_name(err), rondo_error_text());
    for (int i = 0; rondo_transport_name(i, &usable); i++)
        printf("%s=%d\n", rondo_transport_name(i, NULL), usable);
    return 0;
}
EOF
# a module with one thing wrong, or with nothing wrong but that joining fails
cat >"$scratch/module.c" <<'EOF'
#include "core/transport.h"
#ifndef VERSION
#define VERSION RONDO_VERSION_STRING
#endif
#ifndef MODULE_ABI
#define MODULE_ABI RONDO_MODULE_ABI
#endif
#ifndef ABI
#define ABI RONDO_TRANSPORT_ABI
#endif
#ifndef SIZE
#define SIZE sizeof(struct rondo_transport_ops)
#endif
#ifndef NAME
#define NAME "pigeon"
#endif
static const struct rondo_services *host;
static void connect(const struct rondo_services *services) { host = services; }
static int probe(void) { return 1; }
static int join(struct rondo_endpoint **out, const struct rondo_boot *boot)
{
    (void)boot;
    *out = 0;
    return host->fail(RONDO_ENOTSUP, "the pigeon has flown");
}
static const struct rondo_transport_ops table = { .size = SIZE, .abi = ABI, .name = NAME, .probe = probe, .join = join };
#ifndef NO_ENTRY
extern const struct rondo_module rondo_module_entry;
RONDO_API const struct rondo_module rondo_module_entry = { MODULE_ABI, VERSION, 0, &table, connect };
#endif
EOF
# shellcheck disable=SC2086
ok "a program compiles" $CC -I"$srcdir/include" "$scratch/ask.c" -o "$scratch/ask" -L"$builddir/.libs" -Wl,-rpath,"$builddir/.libs" -lrondo $OPENMP_CFLAGS
unset RONDO_TEST_HOOK
mkdir -p "$scratch/folder" "$scratch/empty"

says() { # text, pattern, transport: what ask prints first must match
    says_text=$1 says_pattern=$2
    "$scratch/ask" "$3" >"$scratch/said" 2>&1
    if head -1 "$scratch/said" | grep -q -- "$says_pattern"; then pass "$says_text"; else flunk "$says_text"; sed 's/^/# /' "$scratch/said"; fi
}
make_module() { # compiler options
    # shellcheck disable=SC2086
    $CC -shared -fPIC -fvisibility=hidden -I"$srcdir/include" -I"$srcdir/lib" "$@" "$scratch/module.c" -o "$scratch/folder/rondo_pigeon.so"
}

RONDO_MODULE_PATH=$scratch/empty
export RONDO_MODULE_PATH
says "an unknown transport lists those that exist" "RONDO_EINVAL: there is no transport 'pigeon'; this build has: threads, mpi" pigeon
if [ ! -e /usr/local/lib/rondo/rondo_mpi.so ]; then
    says "a missing MPI module is named, with what to install" "RONDO_ENOTSUP: the module rondo_mpi.so is not in .*empty or .*install" mpi
    ok "and not usable" grep -q '^mpi=0$' "$scratch/said"
else
    skip 2 "a rondo is installed in the default place"
fi
RONDO_MODULE_PATH=$scratch/empty::/nonexistent:$scratch/folder
make_module
says "a module is found in a list of folders, and joined" "RONDO_ENOTSUP: the pigeon has flown" pigeon
make_module -DVERSION='"0.0.1"'
says "another version is refused" "RONDO_ENOTSUP: module .*rondo_pigeon.so was built for rondo 0.0.1, this library is .*matching" pigeon
make_module -DMODULE_ABI=99u
says "another module interface is refused" "RONDO_ENOTSUP: module .* has interface 99, this library has 1" pigeon
make_module -DABI=77u
says "another transport interface is refused" "RONDO_ENOTSUP: transport pigeon has interface 77" pigeon
make_module -DSIZE=16
says "a shorter table is refused" "RONDO_ENOTSUP: transport pigeon has interface [0-9]* of 16 bytes" pigeon
make_module -DNO_ENTRY
says "a library that is no module is refused" "RONDO_ENOTSUP: .* is no rondo module" pigeon
make_module -DNAME='"dove"'
says "a module with another transport in it does not count" "RONDO_EINVAL: there is no transport 'pigeon'" pigeon
echo "not a library" >"$scratch/folder/rondo_pigeon.so"
says "a file that is no library is refused" "RONDO_ENOTSUP: module .*rondo_pigeon.so cannot be opened" pigeon
finish
