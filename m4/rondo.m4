# SPDX-License-Identifier: BSD-2-Clause
# Why: the probes that configure.ac needs, so that it reads as a list of decisions. No macro archive is needed.

# RONDO_ADD_CFLAGS(VARIABLE, FLAGS): puts those flags into VARIABLE that the compiler takes without a complaint.
AC_DEFUN([RONDO_ADD_CFLAGS], [
    AC_SUBST([$1])
    for rondo_flag in $2; do
        AC_MSG_CHECKING([whether $CC takes $rondo_flag])
        rondo_save_CFLAGS=$CFLAGS; CFLAGS="$CFLAGS -Werror $rondo_flag"
        AC_COMPILE_IFELSE([AC_LANG_PROGRAM], [AC_MSG_RESULT([yes]); $1="$$1 $rondo_flag"], [AC_MSG_RESULT([no])])
        CFLAGS=$rondo_save_CFLAGS
    done])

# RONDO_C11: puts the compiler into C11 where it would be older; code that needs more than POSIX 2008 says so itself.
AC_DEFUN([RONDO_C11], [
    AC_SUBST([STD_CFLAGS], [-std=c11])
    AC_SUBST([STD_CPPFLAGS], [-D_POSIX_C_SOURCE=200809L])
    AC_MSG_CHECKING([whether $CC takes -std=c11, C11 atomics and GNU statement attributes])
    rondo_save_CFLAGS=$CFLAGS; CFLAGS="$CFLAGS $STD_CFLAGS"
    AC_COMPILE_IFELSE([AC_LANG_PROGRAM([[
        #include <stdatomic.h>
        #include <stdint.h>
        #ifndef __GNUC__
        #error GNU C is needed for vector extensions
        #endif
        static _Atomic uint64_t a;
        static _Thread_local int t;
        typedef float vf __attribute__((vector_size(16)));]],
        [[vf v = { 1, 2, 3, 4 }; v = v + v; atomic_store(&a, (uint64_t)v[0]); t = 1; return t == 0;]])],
        [AC_MSG_RESULT([yes])],
        [AC_MSG_RESULT([no]); AC_MSG_ERROR([a C11 compiler with GNU vector extensions is needed (gcc 9 or clang 11, or newer)])])
    CFLAGS=$rondo_save_CFLAGS])

# RONDO_FLT_EVAL: float arithmetic must be done in float. 32-bit x86 needs SSE for that; on s390x gcc widens floats to double in
# ISO C modes, in memory of an old FLT_EVAL_METHOD, unless told that the fast way will do, which there is the exact one. (Where
# the hardware itself is wider, x87, that flag does not change what the compiler reports, so the probe is not deceived.)
AC_DEFUN([RONDO_FLT_EVAL], [
    AC_MSG_CHECKING([whether float arithmetic is done in float])
    rondo_flt=no
    for rondo_flag in "" "-fexcess-precision=fast" "-msse2 -mfpmath=sse"; do
        rondo_save_CFLAGS=$CFLAGS; CFLAGS="$CFLAGS $STD_CFLAGS $rondo_flag"
        AC_COMPILE_IFELSE([AC_LANG_PROGRAM([[
            #include <float.h>
            _Static_assert(FLT_EVAL_METHOD == 0, "x87");
            _Static_assert(FLT_RADIX == 2 && FLT_MANT_DIG == 24 && DBL_MANT_DIG == 53, "IEEE");]])],
            [rondo_flt=yes; NUMERICS_CFLAGS="$NUMERICS_CFLAGS $rondo_flag"])
        CFLAGS=$rondo_save_CFLAGS
        test $rondo_flt = yes && break
    done
    AC_MSG_RESULT([$rondo_flt${rondo_flag:+ ($rondo_flag)}])
    AS_IF([test $rondo_flt = no], [AC_MSG_ERROR([this compiler computes floats in another precision: the numerics contract cannot hold])])])

# RONDO_VERSION_SCRIPT: does the linker take a GNU version script?
AC_DEFUN([RONDO_VERSION_SCRIPT], [
    AC_MSG_CHECKING([whether the linker takes --version-script])
    echo 'V { global: main; local: *; };' >conftest.map
    rondo_save_LDFLAGS=$LDFLAGS; LDFLAGS="$LDFLAGS -Wl,--version-script=conftest.map"
    AC_LINK_IFELSE([AC_LANG_PROGRAM], [rondo_map=yes], [rondo_map=no])
    LDFLAGS=$rondo_save_LDFLAGS; rm -f conftest.map
    AC_MSG_RESULT([$rondo_map])
    AM_CONDITIONAL([VERSION_SCRIPT], [test $rondo_map = yes])
    AC_MSG_CHECKING([whether the linker takes --no-undefined])
    rondo_save_LDFLAGS=$LDFLAGS; LDFLAGS="$LDFLAGS -Wl,--no-undefined"
    AC_LINK_IFELSE([AC_LANG_PROGRAM], [rondo_noundef=yes], [rondo_noundef=no])
    LDFLAGS=$rondo_save_LDFLAGS
    AC_MSG_RESULT([$rondo_noundef])
    # a sanitizer's runtime is found in the program only
    AS_IF([test $rondo_noundef = yes && test "$enable_sanitizers" = no], [NO_UNDEFINED=-Wl,--no-undefined])
    AC_SUBST([NO_UNDEFINED])])

# RONDO_LM_LINKS(NAME, VARIABLE, INCLUDES, BODY): does a program link with what pkg-config said? In a cross build a pkg-config that
# was told nothing answers for the machine that builds. Where not, rondo_lm says so, and is an error where --with-lm was asked for.
AC_DEFUN([RONDO_LM_LINKS], [
    AS_IF([test "$rondo_lm" = yes], [
        AC_MSG_CHECKING([whether $1 links with $$2_LIBS])
        rondo_save_CFLAGS=$CFLAGS; rondo_save_LIBS=$LIBS
        CFLAGS="$CFLAGS $$2_CFLAGS"; LIBS="$$2_LIBS $LIBS"
        AC_LINK_IFELSE([AC_LANG_PROGRAM([[$3]], [[$4]])], [AC_MSG_RESULT([yes])], [
            AC_MSG_RESULT([no])
            rondo_lm="no ($1, as $PKG_CONFIG finds it, does not link for $host: PKG_CONFIG_LIBDIR should name the folder of .pc files for $host, or $2_CFLAGS and $2_LIBS be given)"])
        CFLAGS=$rondo_save_CFLAGS; LIBS=$rondo_save_LIBS])])

# RONDO_UTF8PROC: HAVE_UTF8PROC, rondo_utf8proc (yes, or no and why), UTF8PROC_REQUIRES for rondo_lm.pc.
AC_DEFUN([RONDO_UTF8PROC], [
    rondo_utf8proc=no
    AS_IF([test "$with_utf8proc" != no && test "$rondo_lm" = yes], [
        PKG_CHECK_MODULES([UTF8PROC], [libutf8proc >= 2.1], [
            AC_MSG_CHECKING([whether utf8proc links with $UTF8PROC_LIBS])
            rondo_save_CFLAGS=$CFLAGS; rondo_save_LIBS=$LIBS
            CFLAGS="$CFLAGS $UTF8PROC_CFLAGS"; LIBS="$UTF8PROC_LIBS $LIBS"
            AC_LINK_IFELSE([AC_LANG_PROGRAM([[#include <utf8proc.h>]], [[return utf8proc_normalize_utf32(0, 0, UTF8PROC_COMPOSE) != 0;]])],
                [AC_MSG_RESULT([yes]); rondo_utf8proc=yes],
                [AC_MSG_RESULT([no]); rondo_utf8proc="no (utf8proc, as $PKG_CONFIG finds it, does not link for $host)"])
            CFLAGS=$rondo_save_CFLAGS; LIBS=$rondo_save_LIBS],
            [rondo_utf8proc="no (utf8proc not found: package libutf8proc-dev)"])])
    AS_IF([test "$rondo_utf8proc" = yes], [
        AC_DEFINE([HAVE_UTF8PROC], [1], [Tokenizers have Unicode normal forms.])
        UTF8PROC_REQUIRES=libutf8proc], [
        AS_IF([test "$with_utf8proc" != no && test "$with_utf8proc" != auto], [AC_MSG_ERROR([--with-utf8proc, but: $rondo_utf8proc])])
        UTF8PROC_CFLAGS= UTF8PROC_LIBS= UTF8PROC_REQUIRES=])
    AC_SUBST([UTF8PROC_REQUIRES])])

# RONDO_ISAS: conditionals and flags of each build of the CPU device. Flags are for those files alone: nothing that
# they compile may run before the probe in backends/cpu/isa.c, which is built without them.
AC_DEFUN([RONDO_ISA_], [
    AC_MSG_CHECKING([whether $CC can build for $1])
    rondo_save_CFLAGS=$CFLAGS; CFLAGS="$CFLAGS -Werror $2"
    AC_LINK_IFELSE([AC_LANG_PROGRAM([[#include <$4>]], [[$3]])], [rondo_isa=yes; rondo_isas="$rondo_isas $1"], [rondo_isa=no])
    CFLAGS=$rondo_save_CFLAGS
    AC_MSG_RESULT([$rondo_isa])])
AC_DEFUN([RONDO_ISAS], [
    ISA_FMA_CFLAGS="-mfma"
    ISA_AVX2_CFLAGS="-mavx2 -mfma -mf16c"
    ISA_AVX512_CFLAGS="-mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c"
    rondo_isas= rondo_have_fma=no rondo_have_avx2=no rondo_have_avx512=no rondo_have_neon=no
    AS_CASE([$host_cpu], [x86_64*|amd64*|i?86*], [
        RONDO_ISA_([fma], [$ISA_FMA_CFLAGS], [volatile __m128 a = _mm_setzero_ps(); a = _mm_fmadd_ss(a, a, a);], [immintrin.h])
        rondo_have_fma=$rondo_isa
        RONDO_ISA_([avx2], [$ISA_AVX2_CFLAGS],
            [volatile __m256 a = _mm256_setzero_ps(); a = _mm256_fmadd_ps(a, a, a); a = _mm256_cvtph_ps(_mm256_cvtps_ph(a, 0));], [immintrin.h])
        rondo_have_avx2=$rondo_isa
        RONDO_ISA_([avx512], [$ISA_AVX512_CFLAGS],
            [volatile __m512 a = _mm512_setzero_ps(); a = _mm512_fmadd_ps(a, a, a); a = _mm512_scalef_ps(a, a);], [immintrin.h])
        rondo_have_avx512=$rondo_isa],
        [aarch64|arm64*], [
        RONDO_ISA_([neon], [], [volatile float32x4_t a = vdupq_n_f32(1.0f); a = vrndnq_f32(vfmaq_f32(a, a, a));], [arm_neon.h])
        rondo_have_neon=$rondo_isa])
    AC_SUBST([ISA_FMA_CFLAGS])
    AC_SUBST([ISA_AVX2_CFLAGS])
    AC_SUBST([ISA_AVX512_CFLAGS])
    AM_CONDITIONAL([ISA_FMA], [test $rondo_have_fma = yes])
    AM_CONDITIONAL([ISA_AVX2], [test $rondo_have_avx2 = yes])
    AM_CONDITIONAL([ISA_AVX512], [test $rondo_have_avx512 = yes])
    AM_CONDITIONAL([ISA_NEON], [test $rondo_have_neon = yes])])

# RONDO_WITH_OPENBLAS: --with-openblas=auto|yes|no. Level fast opens it when a program first asks for that level, so that librondo needs it neither
# to be linked nor to be loaded: what is looked for here is whether it is there, and by which name it will be opened.
AC_DEFUN([RONDO_WITH_OPENBLAS], [
    AC_ARG_WITH([openblas], [AS_HELP_STRING([--with-openblas=auto|yes|no],
        [level fast of the numerics: linear layers by OpenBLAS, opened at run time (default: auto)])], [], [with_openblas=auto])
    AS_CASE([$with_openblas], [auto|yes|no], [], [AC_MSG_ERROR([--with-openblas takes auto, yes or no, not "$with_openblas"])])
    rondo_openblas=no
    AS_IF([test "$with_openblas" != no], [
        PKG_CHECK_MODULES([OPENBLAS], [openblas], [], [OPENBLAS_LIBS=-lopenblas])
        AC_MSG_CHECKING([whether OpenBLAS links with $OPENBLAS_LIBS])
        rondo_save_LIBS=$LIBS; LIBS="$OPENBLAS_LIBS $LIBS"
        AC_LINK_IFELSE([AC_LANG_PROGRAM([[void cblas_sgemm(void); void openblas_set_num_threads(int);]],
            [[cblas_sgemm(); openblas_set_num_threads(1);]])], [rondo_openblas=yes])
        LIBS=$rondo_save_LIBS
        AC_MSG_RESULT([$rondo_openblas])
        AS_IF([test $rondo_openblas = no && test "$with_openblas" = yes],
            [AC_MSG_ERROR([--with-openblas, but no program can be linked with OpenBLAS (package libopenblas-dev)])])])
    AS_CASE([$host_os], [darwin*], [rondo_openblas_name=libopenblas.dylib], [rondo_openblas_name=libopenblas.so.0])
    AS_IF([test $rondo_openblas = yes], [AC_DEFINE_UNQUOTED([RONDO_OPENBLAS], ["$rondo_openblas_name"], [The OpenBLAS that level fast opens.])])])

# RONDO_MPI: --with-mpi=auto|yes|no|WRAPPER. The wrapper (mpicc) is asked for its flags, which both Open MPI and MPICH tell
# with -show; we compile with our own compiler, so that libtool and all other flags stay as they are. Only flags that
# find headers and libraries are taken over.
AC_DEFUN([RONDO_MPI], [
    AC_ARG_WITH([mpi], [AS_HELP_STRING([--with-mpi=auto|yes|no|MPICC],
        [build the MPI transport, a loadable module (default: auto); MPICC is the compiler wrapper of the MPI to use])],
        [], [with_mpi=auto])
    rondo_mpi=no MPICC_FOUND=
    # a module is a shared object
    AS_IF([test "$enable_shared" = no], [
        AS_CASE([$with_mpi], [auto], [with_mpi=no], [no], [],
            [AC_MSG_ERROR([--with-mpi=$with_mpi needs a shared object for the module, but --disable-shared was given])])])
    AS_CASE([$with_mpi],
        [no], [],
        [yes|auto], [AC_PATH_PROGS([MPICC_FOUND], [${MPICC-mpicc} mpicc mpicc.openmpi mpicc.mpich])],
        [*/*], [AS_IF([test -x "$with_mpi"], [MPICC_FOUND=$with_mpi], [AC_MSG_ERROR([--with-mpi: no program $with_mpi])])],
        [AC_PATH_PROG([MPICC_FOUND], [$with_mpi])
         AS_IF([test -z "$MPICC_FOUND"], [AC_MSG_ERROR([--with-mpi: no program $with_mpi in PATH])])])
    AS_IF([test -n "$MPICC_FOUND"], [
        MPI_CFLAGS= MPI_LIBS=
        rondo_skip=yes
        for rondo_word in `$MPICC_FOUND -show 2>/dev/null`; do
            AS_IF([test $rondo_skip = yes], [rondo_skip=no; continue])
            AS_CASE([$rondo_word],
                [-I*|-D*], [MPI_CFLAGS="$MPI_CFLAGS $rondo_word"],
                [-L*|-l*|-Wl,-rpath*|-pthread], [MPI_LIBS="$MPI_LIBS $rondo_word"])
        done
        AC_MSG_CHECKING([whether an MPI program links as $MPICC_FOUND would])
        rondo_save_CFLAGS=$CFLAGS; rondo_save_LIBS=$LIBS
        CFLAGS="$CFLAGS $MPI_CFLAGS"; LIBS="$MPI_LIBS $LIBS"
        AC_LINK_IFELSE([AC_LANG_PROGRAM([[#include <mpi.h>
            #if MPI_VERSION < 3
            #error MPI 3 is needed
            #endif]], [[return MPI_Init_thread(0, 0, MPI_THREAD_SERIALIZED, 0);]])],
            [rondo_mpi="yes ($MPICC_FOUND)"])
        CFLAGS=$rondo_save_CFLAGS; LIBS=$rondo_save_LIBS
        AC_MSG_RESULT([${rondo_mpi%% *}])])
    AS_IF([test "$rondo_mpi" = no && test "$with_mpi" != no && test "$with_mpi" != auto],
        [AC_MSG_ERROR([--with-mpi=$with_mpi, but no MPI program can be built (packages libopenmpi-dev or libmpich-dev)])])
    # The starter that belongs to the wrapper, for the tests: mpicc.mpich -> mpirun.mpich
    MPIRUN=
    AS_IF([test "$rondo_mpi" != no], [
        rondo_dir=`AS_DIRNAME(["$MPICC_FOUND"])`
        rondo_name=`basename "$MPICC_FOUND" | sed 's/mpicc/mpirun/; s/mpigcc/mpirun/'`
        AC_PATH_PROGS([MPIRUN], [$rondo_name mpirun mpiexec], [], [$rondo_dir:$PATH])])
    AS_IF([test "$rondo_mpi" = no], [rondo_mpi_word=no], [rondo_mpi_word=yes])
    AC_SUBST([MPI_CFLAGS])
    AC_SUBST([MPI_LIBS])
    AC_SUBST([MPIRUN])
    AM_CONDITIONAL([WITH_MPI], [test "$rondo_mpi" != no])])

# RONDO_CUDA: whether the module for graphics cards can be built, and with what its kernels are compiled. Sets CUDA_CLANG or CUDA_NVCC,
# rondo_cuda (for the summary) and the conditionals WITH_CUDA and CUDA_BY_NVCC. Nothing of CUDA's is needed for clang's way.
AC_DEFUN([RONDO_CUDA], [
AC_ARG_WITH([cuda], [AS_HELP_STRING([--with-cuda], [build the module for graphics cards (needs clang, to compile kernels to PTX; takes a minute or two)])],
    [], [with_cuda=no])
AC_ARG_WITH([nvcc], [AS_HELP_STRING([--with-nvcc], [compile kernels by CUDA's nvcc, to machine code of cards beside PTX (CUDA_GENCODE: for which)])],
    [], [with_nvcc=no])
AC_ARG_VAR([CUDA_GENCODE], [nvcc's options that name cards])
: "${CUDA_GENCODE:=-gencode arch=compute_80,code=sm_80 -gencode arch=compute_90,code=sm_90 -gencode arch=compute_100,code=sm_100 -gencode arch=compute_80,code=compute_80}"
rondo_cuda=no
AS_IF([test "$with_nvcc" != no], [with_cuda=yes])
AS_IF([test "$with_cuda" != no && test "$with_nvcc" != no], [
    AS_IF([test "$with_nvcc" = yes], [AC_PATH_PROG([CUDA_NVCC], [nvcc], [], [$PATH:/usr/local/cuda/bin])], [CUDA_NVCC=$with_nvcc])
    AS_IF([test -n "$CUDA_NVCC" && test -x "$CUDA_NVCC"], [rondo_cuda="yes (kernels by $CUDA_NVCC)"], [AC_MSG_ERROR([--with-nvcc, but there is no nvcc])])])
AS_IF([test "$with_cuda" != no && test "$with_nvcc" = no], [
    AC_PATH_PROGS([CUDA_CLANG], [clang-19 clang-18 clang-17 clang-16 clang-15 clang-14 clang])
    AS_IF([test -n "$CUDA_CLANG"], [
        AC_CACHE_CHECK([whether $CUDA_CLANG makes PTX], [rondo_cv_clang_ptx], [
            cat >conftest.cu <<'_RONDO'
extern "C" __attribute__((global)) void f(float *p) { *p = __nvvm_fma_rn_f(*p, *p, 1.0f); }
_RONDO
            rondo_cv_clang_ptx=no
            AS_IF([$CUDA_CLANG -x cuda -nocudainc -nocudalib --cuda-device-only --cuda-gpu-arch=sm_80 -Xclang -target-feature -Xclang +ptx70 -S -o conftest.ptx conftest.cu >&AS_MESSAGE_LOG_FD 2>&1 && grep 'fma.rn.f32' conftest.ptx >/dev/null], [rondo_cv_clang_ptx=yes])
            rm -f conftest.cu conftest.ptx])
        AS_IF([test "$rondo_cv_clang_ptx" = yes], [rondo_cuda="yes (kernels by $CUDA_CLANG)"])])
    AS_IF([test "$rondo_cuda" = no], [AC_MSG_ERROR([--with-cuda needs a clang that makes PTX (package clang), or --with-nvcc])])])
AM_CONDITIONAL([WITH_CUDA], [case "$rondo_cuda" in yes*) true ;; *) false ;; esac])
AM_CONDITIONAL([CUDA_BY_NVCC], [test -n "$CUDA_NVCC"])
])
