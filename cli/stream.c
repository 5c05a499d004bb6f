/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The ceilings of memory that copy nothing. The first: loads and nothing else, as wide as this machine has them, whatever instruction set the ranks
 * use. Four streams go on side by side, and lines are asked for before their turn: one stream alone stands still where the machine's own
 * prefetching ends, at the end of a page. Written in assembly because a compiler may prove that nothing is done with what is loaded, and because
 * its loads would be as wide as its flags allow, which are those of the oldest machine.
 *
 * The second: each line is loaded and stored again where it was, straight on, which is how memory likes it best that is read and written in turns.
 * It is not what memcpy does, which may fetch the lines that it overwrites, or write past the caches: here it goes at half to all of this speed.
 */
#include "cli/bench.h"

#define STREAMS 4
#define STEP 256   /* bytes of a stream at a time: four lines, or two */

/* Runs `step` for each STEP bytes at p. */
#define EACH_STEP(step)                                                   \
    do {                                                                  \
        const size_t part = bytes / (STREAMS * STEP) * STEP;              \
        for (size_t i = 0; i < part; i += STEP)                           \
            for (size_t s = 0; s < STREAMS; s++) {                        \
                const char *p = memory + s * part + i;                    \
                step;                                                     \
            }                                                             \
    } while (0)

#if (defined(__x86_64__) || defined(__i386__)) && defined(__GNUC__)

#define FETCH "prefetcht0 1024(%0)\n\tprefetcht0 1088(%0)\n\tprefetcht0 1152(%0)\n\tprefetcht0 1216(%0)\n\t"
#define ZMM(at, r) "vmovdqa64 " #at "(%0), %%zmm" #r "\n\t"
#define YMM(at, r) "vmovdqa " #at "(%0), %%ymm" #r "\n\t"
#define XMM(at, r) "movdqa " #at "(%0), %%xmm" #r "\n\t"
#define HALF(WIDE, a, b, c, d) WIDE(a, 0) WIDE(b, 1) WIDE(c, 2) WIDE(d, 3)
#define LOADS(text) __asm__ volatile(FETCH text : : "r"(p) : "memory", "xmm0", "xmm1", "xmm2", "xmm3")
#define ZMM_BACK(at, r) "vmovdqa64 %%zmm" #r ", " #at "(%0)\n\t"
#define YMM_BACK(at, r) "vmovdqa %%ymm" #r ", " #at "(%0)\n\t"
#define XMM_BACK(at, r) "movdqa %%xmm" #r ", " #at "(%0)\n\t"
#define BACK(text) __asm__ volatile(text : : "r"(p) : "memory", "xmm0", "xmm1", "xmm2", "xmm3")
#define EACH_FOUR(bytes_, step)                                   \
    for (char *p = memory; p < memory + bytes; p += (bytes_))     \
    step
#define UPPER_HALVES_CLEAN() __asm__ volatile("vzeroupper" : : : "xmm0", "xmm1", "xmm2", "xmm3")

__attribute__((target("avx512f"))) static void loop_avx512(const char *memory, size_t bytes)
{
    EACH_STEP(LOADS(HALF(ZMM, 0, 64, 128, 192)));
    UPPER_HALVES_CLEAN();
}

static void loop_avx(const char *memory, size_t bytes)
{
    EACH_STEP(LOADS(HALF(YMM, 0, 32, 64, 96) HALF(YMM, 128, 160, 192, 224)));
    UPPER_HALVES_CLEAN();
}

static void loop_sse2(const char *memory, size_t bytes)
{
    EACH_STEP(LOADS(HALF(XMM, 0, 16, 32, 48) HALF(XMM, 64, 80, 96, 112) HALF(XMM, 128, 144, 160, 176) HALF(XMM, 192, 208, 224, 240)));
}

__attribute__((target("avx512f"))) static void back_avx512(char *memory, size_t bytes)
{
    EACH_FOUR(256, BACK(HALF(ZMM, 0, 64, 128, 192) HALF(ZMM_BACK, 0, 64, 128, 192)));
    UPPER_HALVES_CLEAN();
}

static void back_avx(char *memory, size_t bytes)
{
    EACH_FOUR(128, BACK(HALF(YMM, 0, 32, 64, 96) HALF(YMM_BACK, 0, 32, 64, 96)));
    UPPER_HALVES_CLEAN();
}

static void back_sse2(char *memory, size_t bytes)
{
    EACH_FOUR(64, BACK(HALF(XMM, 0, 16, 32, 48) HALF(XMM_BACK, 0, 16, 32, 48)));
}

static void back(char *memory, size_t bytes)
{
    if (__builtin_cpu_supports("avx512f"))
        back_avx512(memory, bytes);
    else if (__builtin_cpu_supports("avx"))
        back_avx(memory, bytes);
    else
        back_sse2(memory, bytes);
}

static void loop(const char *memory, size_t bytes)
{
    if (__builtin_cpu_supports("avx512f"))
        loop_avx512(memory, bytes);
    else if (__builtin_cpu_supports("avx"))
        loop_avx(memory, bytes);
    else
        loop_sse2(memory, bytes);
}

#else

typedef uint64_t vector __attribute__((vector_size(16), may_alias));

/* Any machine: vectors of the width that all with vectors have, into sums that the compiler has to keep. */
static void loop(const char *memory, size_t bytes)
{
    vector s0 = { 0 }, s1 = { 0 }, s2 = { 0 }, s3 = { 0 };
    volatile uint64_t keep;
    EACH_STEP({
        const vector *v = (const vector *)(const void *)p;
        __builtin_prefetch(p + 1024);
        __builtin_prefetch(p + 1152);
        s0 |= v[0] | v[4] | v[8] | v[12];
        s1 |= v[1] | v[5] | v[9] | v[13];
        s2 |= v[2] | v[6] | v[10] | v[14];
        s3 |= v[3] | v[7] | v[11] | v[15];
    });
    s0 |= s1 | s2 | s3;
    keep = s0[0] | s0[1];
    (void)keep;
}

static void back(char *memory, size_t bytes)
{
    for (vector *v = (vector *)(void *)memory; v < (vector *)(void *)(memory + bytes); v += 4) {
        const vector a = v[0], b = v[1], c = v[2], d = v[3];
        __asm__ volatile("" ::: "memory");   /* or they need not be stored */
        v[0] = a;
        v[1] = b;
        v[2] = c;
        v[3] = d;
    }
}

#endif

double read_loop(const char *memory, size_t bytes)
{
    loop(memory, bytes);
    return (double)(bytes / (STREAMS * STEP) * (STREAMS * STEP));
}

double update_loop(char *memory, size_t bytes)
{
    back(memory, bytes / STEP * STEP);
    return (double)(bytes / STEP * STEP);
}
