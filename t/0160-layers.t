#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# What depends on what: libraries need what they say, folders include what they may, and code for newer processors stays in the
# files that are chosen at run time.
. "$srcdir/t/shell.sh"
LC_ALL=C; export LC_ALL

command -v readelf >/dev/null || skip_all "readelf is not installed"
needed() { readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'; }
only() { # text, file, pattern of what may be needed
    if [ -n "$SANITIZE_CFLAGS" ] || [ ! -f "$2" ]; then skip 1 "$1: not built, or with sanitizers"; return; fi
    needed "$2" | grep -vE "^($3)\\.so" >"$scratch/needed"
    empty "$1" "$scratch/needed"
}
native() { # object: it or, under -flto, the machine code that its other language becomes
    case $(readelf -S "$1" 2>/dev/null) in
        *.gnu.lto_*)   # shellcheck disable=SC2086  # flags are words
            $CC $CFLAGS -r -nostdlib -flinker-output=nolto-rel "$1" -o "$scratch/native.o" && echo "$scratch/native.o" ;;
        *) echo "$1" ;;
    esac
}
libc='libc|ld-linux[-a-z0-9_]*|ld-musl[-a-z0-9_]*|ld64|libpthread|libdl'
only "librondo.so needs libc and the OpenMP runtime only (no libm)" "$builddir/.libs/librondo.so" "$libc|libgomp|libomp"
only "librondo_lm.so needs jansson, PCRE2 and utf8proc besides" "$builddir/.libs/librondo_lm.so" "$libc|librondo|libjansson|libpcre2-8|libutf8proc|libgomp|libomp"
only "rondo_mpi.so needs MPI and not librondo" "$builddir/.libs/rondo_mpi.so" "$libc|libmpi|libmpich|libopen-rte|libopen-pal|libopen_mpi|libmpi_abi"
for module in cuda nccl nccl_mpi; do
    only "rondo_$module.so needs nothing of CUDA's or NCCL's, nor librondo" "$builddir/.libs/rondo_$module.so" "$libc|libm"
done

# #include lines by folder: arrows point cli -> lm -> lib <- backends
includes() { # folder...: file:line
    for folder in "$@"; do find "$srcdir/$folder" -name '*.[ch]' -exec grep -nE '^[[:space:]]*#[[:space:]]*include' {} +; done
}
includes lib lm | grep -E '[<"](.*backends/|backends|pthread|mpi|cuda|nccl|omp|threads)[./a-z_]*\.h[>"]' >"$scratch/found"
empty "lib/ and lm/ include no backend, no thread library, no MPI, no OpenMP" "$scratch/found"
grep -rnE '\b(pthread_[a-z_]+|MPI_[A-Za-z_]+|cuda[A-Z][A-Za-z]+|omp_[a-z_]+)[[:space:]]*\(|#[[:space:]]*pragma[[:space:]]+omp' "$srcdir/lib" "$srcdir/lm" --include='*.[ch]' >"$scratch/found"
empty "lib/ and lm/ call none of them either" "$scratch/found"
includes lib | grep -E '"(lm|cli)/|rondo_lm\.h|jansson|pcre2|utf8proc' >"$scratch/found"
empty "lib/ includes nothing of lm/ or cli/" "$scratch/found"
includes backends | grep -E '"(lm|cli)/|rondo_lm\.h|jansson|pcre2|utf8proc' >"$scratch/found"
empty "backends/ include nothing of lm/ or cli/" "$scratch/found"
{
    includes lm/tokenizer | grep -E '"(lm/)?(model|engine)/'
    includes lm/model | grep -E '"(lm/)?engine/'
    grep -nE '^[[:space:]]*#[[:space:]]*include[[:space:]]*"(lm/)?(tokenizer|model|engine)/' "$srcdir"/lm/*.[ch]
    includes lm | grep '"' | grep -vE '"(rondo(_lm|_config)?\.h|core/internal\.h|lm/(tokenizer|model|engine)/[a-z_]+\.h|lm/files\.h)"'
} >"$scratch/found"
empty "rooms of lm/: engine/ includes model/, model/ includes tokenizer/, none the other way, each by its whole path" "$scratch/found"
for room in tokenizer model engine; do   # a declaration of one's own would pass the line above: rooms are held by what their objects ask for, too
    for o in "$builddir/lm/$room"/*.o "$builddir/lm/$room"/.libs/*.o; do [ -f "$o" ] && nm -g "$(native "$o")"; done >"$scratch/$room"
    awk '$2 ~ /[TDBR]/ { print $3 }' "$scratch/$room" | sort -u >"$scratch/$room.has"
    awk '$1 == "U" { print $2 }' "$scratch/$room" | sort -u >"$scratch/$room.asks"
done
{
    comm -12 "$scratch/tokenizer.asks" "$scratch/model.has"
    comm -12 "$scratch/tokenizer.asks" "$scratch/engine.has"
    comm -12 "$scratch/model.asks" "$scratch/engine.has"
} >"$scratch/found"
if [ -s "$scratch/tokenizer.has" ] && [ -s "$scratch/engine.asks" ]; then
    empty "the same of functions: no room calls one that is above it" "$scratch/found"
else
    skip 1 "no objects of lm/ here"
fi
includes cli | grep -E '"(lib|lm|core|backends|layout|attention|plan|schedule|tensor)/' >"$scratch/found"
empty "cli/ uses public headers only" "$scratch/found"
find "$srcdir/lib" "$srcdir/lm" -name '*.c' -exec grep -nE '\b(printf|fprintf|puts|perror|exit|abort|signal|sigaction|setlocale|fesetround|fesetenv)[[:space:]]*\(' {} + |
    grep -vE '^[^:]*:[0-9]+:[[:space:]]*(\*|/\*|//)' >"$scratch/found"
empty "libraries never print, exit, abort, or change signals, locale or floating-point mode" "$scratch/found"
grep -nE '\b(malloc|calloc|realloc|free|aligned_alloc|posix_memalign|strdup)[[:space:]]*\(' -r "$srcdir/lib" "$srcdir/lm" "$srcdir/backends" --include='*.[ch]' |
    grep -vE 'core/memory\.c|^[^:]*:[0-9]+:[[:space:]]*(\*|/\*)|->free\(|free\(real\)' >"$scratch/found"
# (what realpath() gives goes back with free())
empty "memory is taken through the hooks" "$scratch/found"
grep -rnE '\b__u?int128(_t)?\b' "$srcdir/lib" "$srcdir/lm" "$srcdir/cli" "$srcdir/backends" --include='*.[ch]' >"$scratch/found"
empty "no integers of 128 bits, which machines of 32 bits do not have" "$scratch/found"

# instructions
machine=$(LC_ALL=C readelf -h "$builddir"/backends/cpu/librondo_cpu_base_la-isa.o "$builddir"/backends/cpu/.libs/librondo_cpu_base_la-isa.o 2>/dev/null |
    sed -n 's/^ *Machine: *//p' | head -n 1)   # what was built for, which need not be what runs the test
case $machine,$CFLAGS,$CC in
    *-march=* | *-mavx* | *-mfma*) skip 3 "the compiler was told to use newer instructions everywhere" ;;
    *X86-64,* | *80386,*)
        if command -v objdump >/dev/null; then
            objects=$builddir/backends/cpu   # a build without static libraries has those for shared ones only
            ls "$objects"/librondo_cpu_soft_la-*.o >/dev/null 2>&1 || objects=$objects/.libs
            ls "$objects"/librondo_cpu_soft_la-*.o >/dev/null 2>&1
            ok "the definition was built without FMA hardware" test $? = 0
            for o in "$objects"/librondo_cpu_soft_la-*.o "$objects"/librondo_cpu_base_la-*.o; do
                objdump -d "$(native "$o")" >"$scratch/code"
                grep -q '>:$' "$scratch/code" || echo "$(basename "$o"): no code can be read"
                grep -E 'v(f|fn)m(add|sub)|%[yz]mm' "$scratch/code" | sed "s,^,$(basename "$o"): ,"
            done >"$scratch/found"
            head -n 5 "$scratch/found" >"$scratch/some"
            empty "files built for every processor hold no FMA and no AVX" "$scratch/some"
            for o in "$objects"/librondo_cpu_avx2_la-*.o "$objects"/librondo_cpu_avx512_la-*.o "$objects"/librondo_cpu_fma_la-*.o; do
                [ -f "$o" ] && nm -g --defined-only "$(native "$o")" | awk '$2 ~ /[TtWVu]/' | grep -vE '\.c\.[0-9a-f]{8}$|asan|odr|__x86\.get_pc_thunk' | sed "s,^,$(basename "$o"): ,"
            done >"$scratch/found"
            # (what ends in .c.01234567 is a mark of -flto; get_pc_thunk, which position-independent code of 32 bits shares, holds two instructions that any of them has)
            empty "files built for newer processors export tables, no function" "$scratch/found"
        else
            skip 3 "no objdump"
        fi ;;
    *) skip 3 "not x86" ;;
esac
finish
