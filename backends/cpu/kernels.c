/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Puts an instruction set's table of kernels together: the scalar spec first, then what is faster. The one place that knows which builds
 * there are; device.c asks it once for each device.
 */
#include "backends/cpu/cpu.h"

/* What one build has; NULL where it has nothing of its own. */
struct build {
    const struct rondo_cpu_attention *attention[RONDO_CPU_ARITHMETICS];
    const struct rondo_cpu_linear *linear[RONDO_CPU_ARITHMETICS];
    const struct rondo_cpu_packing *packing;
    const struct rondo_cpu_elementwise *elementwise;
    const struct rondo_cpu_gradient *gradient;
    const struct rondo_cpu_backward *backward;
    const struct rondo_cpu_delta *delta, *delta_chunk;
    const struct rondo_cpu_entropy *entropy;
    const struct rondo_cpu_delta_backward *delta_backward;
};

#define BUILD(name)                                                                                                                        \
    static const struct build name##_build = { { [RONDO_ARITHMETIC_F32] = &rondo__cpu_attention_##name,                                    \
                                                 [RONDO_ARITHMETIC_F64] = &rondo__cpu_attention_f64_##name,                                \
                                                 [RONDO_ARITHMETIC_BF16_HOPPER] = &rondo__cpu_attention_hopper_##name },                   \
                                               { [RONDO_ARITHMETIC_F32] = &rondo__cpu_linear_##name },                                     \
                                               &rondo__cpu_packing_##name, &rondo__cpu_elementwise_##name,                                \
                                               &rondo__cpu_gradient_##name, &rondo__cpu_backward_##name, &rondo__cpu_delta_##name,            \
                                               &rondo__cpu_delta_chunk_##name,                                                            \
                                               &rondo__cpu_entropy_##name, &rondo__cpu_delta_backward_##name };
BUILD(soft)
#ifdef RONDO_CPU_HAVE_FMA
BUILD(fma)
#endif
#ifdef RONDO_CPU_HAVE_AVX2
BUILD(avx2)
#endif
#ifdef RONDO_CPU_HAVE_AVX512
BUILD(avx512)
#endif
#ifdef RONDO_CPU_HAVE_NEON
BUILD(neon)
#endif

static void take(struct rondo_cpu_kernels *out, const struct build *b)
{
    const struct rondo_cpu_elementwise *from = b->elementwise;
    struct rondo_cpu_elementwise *to = &out->elementwise;
    for (int i = 0; i < RONDO_CPU_ARITHMETICS; i++) {
        out->attention[i] = b->attention[i] ? b->attention[i] : out->attention[i];
        out->linear[i] = b->linear[i] ? b->linear[i] : out->linear[i];
    }
    out->packing = b->packing ? b->packing : out->packing;
    out->gradient = b->gradient ? b->gradient : out->gradient;
    if (b->backward) {
        const struct rondo_cpu_backward *was = &out->backward, *is = b->backward;
        out->backward = (struct rondo_cpu_backward){ is->bytes ? is->bytes : was->bytes, is->run ? is->run : was->run,
                                                     is->bias ? is->bias : was->bias,
                                                     is->bias_bytes ? is->bias_bytes : was->bias_bytes, is->sums ? is->sums : was->sums,
                                                     is->join ? is->join : was->join };
    }
    out->delta = b->delta ? b->delta : out->delta;
    out->delta_chunk = b->delta_chunk ? b->delta_chunk : out->delta_chunk;
    out->entropy = b->entropy ? b->entropy : out->entropy;
    out->delta_backward = b->delta_backward ? b->delta_backward : out->delta_backward;
    if (!from)
        return;
    to->rmsnorm = from->rmsnorm ? from->rmsnorm : to->rmsnorm;
    to->rope = from->rope ? from->rope : to->rope;
    to->swiglu = from->swiglu ? from->swiglu : to->swiglu;
    to->convert = from->convert ? from->convert : to->convert;
    to->convert_rows = from->convert_rows ? from->convert_rows : to->convert_rows;
    to->logsumexp = from->logsumexp ? from->logsumexp : to->logsumexp;
    to->short_conv = from->short_conv ? from->short_conv : to->short_conv;
    to->sigmoid_mul = from->sigmoid_mul ? from->sigmoid_mul : to->sigmoid_mul;
}

void rondo__cpu_kernels(struct rondo_cpu_kernels *out, int isa)
{
    static const struct build *const faster[RONDO_CPU_ISAS] = {
#ifdef RONDO_CPU_HAVE_AVX2
        [RONDO_CPU_AVX2] = &avx2_build,
#endif
#ifdef RONDO_CPU_HAVE_AVX512
        [RONDO_CPU_AVX512] = &avx512_build,
#endif
#ifdef RONDO_CPU_HAVE_NEON
        [RONDO_CPU_NEON] = &neon_build,
#endif
    };
    *out = (struct rondo_cpu_kernels){ .attention = { NULL } };
    take(out, &soft_build);
#ifdef RONDO_CPU_HAVE_FMA
    if (isa != RONDO_CPU_SOFT && rondo__cpu_fma_usable())
        take(out, &fma_build);
#endif
    if (faster[isa])
        take(out, faster[isa]);
}
