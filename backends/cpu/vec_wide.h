/* SPDX-License-Identifier: BSD-2-Clause
 *
 * More of the vector vocabulary (vec.h): doubles and whole numbers, for attention_units.h.
 *
 * vd: VL / 2 doubles. vd_from_floats, vd_to_floats: from and to floats in memory, the latter rounded to nearest even.
 * vi: VL whole numbers of 32 bits. vi_cut: floats below 2^31 in magnitude, toward zero. vi_sum: a + b as a float, toward zero too; lanes of *beyond are
 * set where the sum is not, which some sets do that have no more than 32 bits for it.
 * vf_keep: the bits of x that m has; vf_less_bits: m less the bits of x.
 */
#ifndef RONDO_CPU_VEC_WIDE_H
#define RONDO_CPU_VEC_WIDE_H

#include "backends/cpu/vec.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-conversion"

#if defined(RONDO_ISA_avx512)

typedef __m512d vd;
VEC vd vd_zero(void) { return _mm512_setzero_pd(); }
VEC vd vd_set1(double x) { return _mm512_set1_pd(x); }
VEC vd vd_load(const double *p) { return _mm512_loadu_pd(p); }
VEC void vd_store(double *p, vd x) { _mm512_storeu_pd(p, x); }
VEC vd vd_add(vd a, vd b) { return _mm512_add_pd(a, b); }
VEC vd vd_fma(vd a, vd b, vd c) { return _mm512_fmadd_pd(a, b, c); }
VEC vd vd_from_floats(const float *p) { return _mm512_cvtps_pd(_mm256_loadu_ps(p)); }
VEC void vd_to_floats(float *p, vd x) { _mm256_storeu_ps(p, _mm512_cvtpd_ps(x)); }
VEC vm vm_or(vm a, vm b) { return (vm)(a | b); }
typedef __m512i vi;
VEC vi vi_zero(void) { return _mm512_setzero_si512(); }
VEC vi vi_add(vi a, vi b) { return _mm512_add_epi32(a, b); }
VEC vi vi_cut(vf x) { return _mm512_cvttps_epi32(x); }
VEC vf vi_sum(vi a, vi b, vm *beyond)
{
    const __m512i sum = _mm512_add_epi32(a, b);
    *beyond = (vm)(*beyond | _mm512_movepi32_mask(_mm512_ternarylogic_epi32(a, b, sum, 0x42)));   /* it has another sign than both */
    return _mm512_cvt_roundepi32_ps(sum, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
}
VEC vf vf_keep(vf x, uint32_t m) { return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32((int)m))); }
VEC vf vf_less_bits(uint32_t m, vf x) { return _mm512_castsi512_ps(_mm512_sub_epi32(_mm512_set1_epi32((int)m), _mm512_castps_si512(x))); }

#elif defined(RONDO_ISA_avx2)

typedef __m256d vd;
VEC vd vd_zero(void) { return _mm256_setzero_pd(); }
VEC vd vd_set1(double x) { return _mm256_set1_pd(x); }
VEC vd vd_load(const double *p) { return _mm256_loadu_pd(p); }
VEC void vd_store(double *p, vd x) { _mm256_storeu_pd(p, x); }
VEC vd vd_add(vd a, vd b) { return _mm256_add_pd(a, b); }
VEC vd vd_fma(vd a, vd b, vd c) { return _mm256_fmadd_pd(a, b, c); }
VEC vd vd_from_floats(const float *p) { return _mm256_cvtps_pd(_mm_loadu_ps(p)); }
VEC void vd_to_floats(float *p, vd x) { _mm_storeu_ps(p, _mm256_cvtpd_ps(x)); }
VEC vm vm_or(vm a, vm b) { return _mm256_or_ps(a, b); }
typedef __m256i vi;
VEC vi vi_zero(void) { return _mm256_setzero_si256(); }
VEC vi vi_add(vi a, vi b) { return _mm256_add_epi32(a, b); }
VEC vi vi_cut(vf x) { return _mm256_cvttps_epi32(x); }
VEC vf vi_sum(vi a, vi b, vm *beyond)
{
    (void)beyond;
    const __m256d kept = _mm256_castsi256_pd(_mm256_set1_epi64x(-((int64_t)1 << 29)));   /* 24 bits of a double that is no subnormal */
    __m128 half[2];
    UNROLL
    for (int i = 0; i < 2; i++) {
        const __m256d x = _mm256_cvtepi32_pd(i ? _mm256_extracti128_si256(a, 1) : _mm256_castsi256_si128(a));
        const __m256d y = _mm256_cvtepi32_pd(i ? _mm256_extracti128_si256(b, 1) : _mm256_castsi256_si128(b));
        half[i] = _mm256_cvtpd_ps(_mm256_and_pd(_mm256_add_pd(x, y), kept));
    }
    return _mm256_insertf128_ps(_mm256_castps128_ps256(half[0]), half[1], 1);
}
VEC vf vf_keep(vf x, uint32_t m) { return _mm256_and_ps(x, _mm256_castsi256_ps(_mm256_set1_epi32((int)m))); }
VEC vf vf_less_bits(uint32_t m, vf x) { return _mm256_castsi256_ps(_mm256_sub_epi32(_mm256_set1_epi32((int)m), _mm256_castps_si256(x))); }

#elif defined(RONDO_ISA_neon)

typedef float64x2_t vd;
VEC vd vd_zero(void) { return vdupq_n_f64(0.0); }
VEC vd vd_set1(double x) { return vdupq_n_f64(x); }
VEC vd vd_load(const double *p) { return vld1q_f64(p); }
VEC void vd_store(double *p, vd x) { vst1q_f64(p, x); }
VEC vd vd_add(vd a, vd b) { return vaddq_f64(a, b); }
VEC vd vd_fma(vd a, vd b, vd c) { return vfmaq_f64(c, a, b); }
VEC vd vd_from_floats(const float *p) { return vcvt_f64_f32(vld1_f32(p)); }
VEC void vd_to_floats(float *p, vd x) { vst1_f32(p, vcvt_f32_f64(x)); }
VEC vm vm_or(vm a, vm b) { return vorrq_u32(a, b); }
typedef int32x4_t vi;
VEC vi vi_zero(void) { return vdupq_n_s32(0); }
VEC vi vi_add(vi a, vi b) { return vaddq_s32(a, b); }
VEC vi vi_cut(vf x) { return vcvtq_s32_f32(x); }
VEC vf vi_sum(vi a, vi b, vm *beyond)
{
    (void)beyond;
    const uint64x2_t kept = vdupq_n_u64(~(((uint64_t)1 << 29) - 1));   /* 24 bits of a double that is no subnormal */
    const float64x2_t x = vcvtq_f64_s64(vaddl_s32(vget_low_s32(a), vget_low_s32(b)));
    const float64x2_t y = vcvtq_f64_s64(vaddl_s32(vget_high_s32(a), vget_high_s32(b)));
    return vcombine_f32(vcvt_f32_f64(vreinterpretq_f64_u64(vandq_u64(vreinterpretq_u64_f64(x), kept))),
                        vcvt_f32_f64(vreinterpretq_f64_u64(vandq_u64(vreinterpretq_u64_f64(y), kept))));
}
VEC vf vf_keep(vf x, uint32_t m) { return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(x), vdupq_n_u32(m))); }
VEC vf vf_less_bits(uint32_t m, vf x) { return vreinterpretq_f32_u32(vsubq_u32(vdupq_n_u32(m), vreinterpretq_u32_f32(x))); }

#endif

#pragma GCC diagnostic pop

#endif
