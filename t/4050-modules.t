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
        d.transport = *argv[1] ? argv[1] : NULL;
    if (argc > 2)
        d.device = argv[2];
    int err = rondo_context_create(&ctx, &d), usable = 0;
    printf("%s: %s\n", rondo_error_name(err), rondo_error_text());
    for (int i = 0; rondo_transport_name(i, &usable); i++)
        printf("%s=%d\n", rondo_transport_name(i, NULL), usable);
    for (int i = 0; rondo_device_name(i, &usable); i++)
        printf("%s=%d\n", rondo_device_name(i, NULL), usable);
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
# the same for a device
cat >"$scratch/device.c" <<'EOF'
#include "core/device.h"
#include "core/transport.h"
#ifndef ABI
#define ABI RONDO_DEVICE_ABI
#endif
#ifndef NAME
#define NAME "cuda"
#endif
#ifndef HERE
#define HERE 1
#endif
static const struct rondo_services *host;
static void connect(const struct rondo_services *services) { host = services; }
static int probe(void) { return HERE; }
static int attach(struct rondo_device **out, const struct rondo_device_desc *desc)
{
    (void)desc;
    *out = 0;
    return host->fail(RONDO_EDEVICE, "the grid is down");
}
static const struct rondo_device_ops table = { .size = sizeof table, .abi = ABI, .name = NAME, .probe = probe, .attach = attach };
extern const struct rondo_module rondo_module_entry;
RONDO_API const struct rondo_module rondo_module_entry = { RONDO_MODULE_ABI, RONDO_VERSION_STRING, &table, 0, connect };
EOF
# shellcheck disable=SC2086
ok "a program compiles" $CC -I"$srcdir/include" "$scratch/ask.c" -o "$scratch/ask" -L"$builddir/.libs" -Wl,-rpath,"$builddir/.libs" -lrondo $OPENMP_CFLAGS
unset RONDO_TEST_HOOK
mkdir -p "$scratch/folder" "$scratch/empty"

says() { # text, pattern, transport, device: what ask prints first must match
    says_text=$1 says_pattern=$2
    shift 2
    "$scratch/ask" "$@" >"$scratch/said" 2>&1
    if head -1 "$scratch/said" | grep -q -- "$says_pattern"; then pass "$says_text"; else flunk "$says_text"; sed 's/^/# /' "$scratch/said"; fi
}
compile() { # source, module, compiler options
    compile_from=$1 compile_to=$2
    shift 2
    $CC -shared -fPIC -fvisibility=hidden -I"$srcdir/include" -I"$srcdir/lib" "$@" "$scratch/$compile_from" -o "$scratch/folder/$compile_to"
}
make_module() { compile module.c rondo_pigeon.so "$@"; }
make_device() { compile device.c rondo_cuda.so "$@"; }

RONDO_MODULE_PATH=$scratch/empty
export RONDO_MODULE_PATH
says "an unknown transport lists those that exist" "RONDO_EINVAL: there is no transport 'pigeon'; known are: threads, mpi" pigeon
if [ ! -e /usr/local/lib/rondo/rondo_mpi.so ]; then
    says "a missing MPI module is named, with what to install" "RONDO_ENOTSUP: the module rondo_mpi.so is not in .*empty or .*install" mpi
    ok "and not usable" grep -q '^mpi=0$' "$scratch/said"
else
    skip 2 "a rondo is installed in the default place"
fi
if [ ! -e /usr/local/lib/rondo/rondo_cuda.so ]; then
    says "a missing device is named, with what there is" "RONDO_ENOTSUP: the module rondo_cuda.so is not in .*empty or .*cpu" "" cuda
    ok "and not usable" grep -q '^cuda=0$' "$scratch/said"
else
    skip 2 "a rondo is installed in the default place"
fi
says "an unknown device lists those that exist" "RONDO_EINVAL: there is no device 'abacus'; known are: cpu, cuda" "" abacus
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
make_device
says "a device's module is found, and opened" "RONDO_EDEVICE: the grid is down" "" cuda
ok "it is listed, and usable" grep -q '^cuda=1$' "$scratch/said"
if [ -n "$RONDO" ]; then
    ok "rondo info shows it" sh -c "'$RONDO' info | grep -q '^devices  *cpu cuda\$'"
else
    skip 1 "the program rondo was not built"
fi
make_device -DHERE=0
says "a device that this machine lacks is refused" "RONDO_ENOTSUP: device cuda cannot be used on this machine" "" cuda
ok "and not usable" grep -q '^cuda=0$' "$scratch/said"
make_device -DABI=77u
says "another device interface is refused" "RONDO_ENOTSUP: device cuda has interface 77" "" cuda
ok "and not usable either" grep -q '^cuda=0$' "$scratch/said"
make_device -DNAME='"abacus"'
says "a module with another device in it does not count" "RONDO_ENOTSUP: the module rondo_cuda.so is not in" "" cuda
finish
