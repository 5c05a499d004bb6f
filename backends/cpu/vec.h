/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The vector vocabulary. A kernel source written with it is compiled once per instruction set, with
 * RONDO_ISA_avx2 (-mavx2 -mfma -mf16c), RONDO_ISA_avx512 (-mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma
 * -mf16c) or RONDO_ISA_neon (64-bit ARM, where it is part of the baseline) defined; adding an instruction set means
 * adding a block here and one in vec_wide.h, and these are the only files with intrinsics. Every operation gives, lane by lane, the bits of
 * its scalar namesake in num.h, except for the sign and payload of a NaN.
 *
 * vf: VL floats, VL being 4, 8 or 16. vm: one truth value a lane. VEC_REGISTERS: how many vectors the machine holds at
 * once, 16 or 32, which decides the shape of tiles. All functions are static, so that no code for a newer machine can
 * be shared with the baseline by the linker.
 */
#ifndef RONDO_CPU_VEC_H
#define RONDO_CPU_VEC_H

#ifdef RONDO_ISA_neon
#include <arm_neon.h>
#else
#include <immintrin.h>
#endif

#include "num.h"

#define VEC static inline __attribute__((always_inline, unused))

/* Before a loop of fixed length over vectors that shall stay in registers: compilers leave it a loop else, and its vectors in memory. */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

#define RONDO_GLUE2(a, b) a##b
#define RONDO_GLUE(a, b) RONDO_GLUE2(a, b)

/* without optimization gcc's intrinsics are macros, whose conversions of signs count as ours */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-conversion"

#if defined(RONDO_ISA_avx512)

#define RONDO_ISA_NAME avx512
#define VL 16
#define VEC_REGISTERS 32
typedef __m512 vf;
typedef __mmask16 vm;

VEC vf vf_zero(void) { return _mm512_setzero_ps(); }
VEC vf vf_set1(float x) { return _mm512_set1_ps(x); }
VEC vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
VEC void vf_store(float *p, vf x) { _mm512_storeu_ps(p, x); }
VEC vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
VEC vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
VEC vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
VEC vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
VEC vf vf_sqrt(vf a) { return _mm512_sqrt_ps(a); }
VEC vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
/* acc += a * b as vf_fma, in place: left to themselves the compilers overwrite a factor here and there, and
 * then spill */
VEC void vf_fma_into(vf *acc, vf a, vf b) { __asm__("vfmadd231ps %2, %1, %0" : "+v"(*acc) : "v"(a), "v"(b)); }
VEC vf vf_neg(vf a)
{
    return _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(a), _mm512_set1_epi32((int)0x80000000u)));
}
/* a > b ? a : b and a < b ? a : b, NaN and zeros included: exactly what the instructions do */
VEC vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
VEC vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
VEC vm vf_lt(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
VEC vm vf_ge(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
VEC vm vf_eq(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
VEC vm vf_is_nan(vf a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q); }
VEC vm vm_and(vm a, vm b) { return (vm)(a & b); }
/* lanes 0..n-1 */
VEC vm vm_first(int n) { return (vm)(n >= 16 ? 0xffffu : (1u << n) - 1u); }
VEC int vm_any(vm m) { return m != 0; }
VEC vf vf_select(vm m, vf yes, vf no) { return _mm512_mask_mov_ps(no, m, yes); }
/* the other lanes are 0 and not read */
/* -|x|, and the magnitude of x with the sign of s */
VEC vf vf_neg_abs(vf x)
{
    return _mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(x), _mm512_set1_epi32((int)0x80000000u)));
}
VEC vf vf_copysign(vf x, vf s)
{
    return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(_mm512_set1_epi32((int)0x80000000u), _mm512_castps_si512(s), _mm512_castps_si512(x), 0xca));
}
/* lane i from bit i, and back */
VEC vm vm_from_bits(uint32_t bits) { return (vm)bits; }
VEC uint32_t vm_to_bits(vm m) { return m; }
/* VL / 2 words of 64 bits. vw_mul: of the low halves; vw_below: of the low halves of even and odd lanes */
typedef __m512i vw;
VEC vw vw_set1(uint64_t x) { return _mm512_set1_epi64((int64_t)x); }
VEC vw vw_load(const uint64_t *p) { return _mm512_loadu_si512((const void *)p); }
VEC vw vw_mul(vw a, vw b) { return _mm512_mul_epu32(a, b); }
VEC vw vw_high(vw a) { return _mm512_shuffle_epi32(a, (_MM_PERM_ENUM)0xf5); }
VEC vw vw_xor3(vw a, vw b, vw c) { return _mm512_ternarylogic_epi32(a, b, c, 0x96); }
VEC vm vw_below(vw even, vw odd, uint32_t limit)
{
    return _mm512_cmplt_epu32_mask(_mm512_mask_shuffle_epi32(even, 0xaaaa, odd, (_MM_PERM_ENUM)0xa0), _mm512_set1_epi32((int)limit));
}
VEC vf vf_load_mask(const float *p, vm m) { return _mm512_maskz_loadu_ps(m, p); }
VEC void vf_store_mask(float *p, vm m, vf x) { _mm512_mask_storeu_ps(p, m, x); }
VEC vf vf_rint(vf x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
/* 2^e for whole e in [-126, 127] */
VEC vf vf_pow2(vf e) { return _mm512_scalef_ps(_mm512_set1_ps(1.0f), e); }
/* f = x - rint(x). An infinite x gives 0 here and NaN in num.h: vf_weight gives NaN or 0 for it all the same,
 * because e is NaN or -inf then. */
VEC void vf_split(vf x, vf *n, vf *f)
{
    *f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    *n = _mm512_sub_ps(x, *f);
}
/* p * 2^e for p in [1/2, 2) and whole e <= 127, 0 where e < -125; NaN where p is, e being NaN only there */
VEC vf vf_scale(vf p, vf e)
{
    /* the mask goes on e: Zen 4 takes twice as long over a masked scalef */
    __mmask16 tiny = _mm512_cmp_ps_mask(e, _mm512_set1_ps(-125.0f), _CMP_LT_OQ);
    return _mm512_scalef_ps(p, _mm512_mask_mov_ps(e, tiny, _mm512_set1_ps(-1000.0f)));
}
VEC vf vf_from_bf16(const uint16_t *p)
{
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p)), 16));
}
/* 2 * VL elements, of which every second one is in *even, the others in *odd */
VEC void vf_from_bf16_pairs(const uint16_t *p, vf *even, vf *odd)
{
    __m512i u = _mm512_loadu_si512((const void *)p);
    *even = _mm512_castsi512_ps(_mm512_slli_epi32(u, 16));
    *odd = _mm512_castsi512_ps(_mm512_and_si512(u, _mm512_set1_epi32((int)0xffff0000u)));
}
VEC vf vf_from_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
/* of words a and b: a's low half below b's, and their high halves likewise; bytes 0 and 2 of a and of b in turn, and bytes 1 and 3 */
VEC vf vf_low_halves(vf a, vf b) { return _mm512_castsi512_ps(_mm512_mask_blend_epi16(0xaaaaaaaau, _mm512_castps_si512(a), _mm512_slli_epi32(_mm512_castps_si512(b), 16))); }
VEC vf vf_high_halves(vf a, vf b) { return _mm512_castsi512_ps(_mm512_mask_blend_epi16(0xaaaaaaaau, _mm512_srli_epi32(_mm512_castps_si512(a), 16), _mm512_castps_si512(b))); }
VEC vf vf_low_bytes(vf a, vf b)
{
    const __m512i low = _mm512_set1_epi16(0xff);
    return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(low, _mm512_castps_si512(a), _mm512_slli_epi16(_mm512_castps_si512(b), 8), 0xca));
}
VEC vf vf_high_bytes(vf a, vf b)
{
    const __m512i low = _mm512_set1_epi16(0xff);
    return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(low, _mm512_srli_epi16(_mm512_castps_si512(a), 8), _mm512_castps_si512(b), 0xca));
}
/* whole numbers of at most 127 to 8 bits each */
VEC void vf_to_i8(int8_t *p, vf x) { _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(x))); }
VEC void vf_to_bf16(uint16_t *p, vf x)
{
    __m512i u = _mm512_castps_si512(x);
    __m512i r = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)),
                                 _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1)));
    r = _mm512_mask_mov_epi32(_mm512_srli_epi32(r, 16), vf_is_nan(x), _mm512_set1_epi32(0x7fc0));
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtepi32_epi16(r));
}
VEC void vf_to_f16(uint16_t *p, vf x)
{
    __m256i h = _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm256_storeu_si256((__m256i *)(void *)p,
                        _mm256_mask_mov_epi16(h, vf_is_nan(x), _mm256_set1_epi16(0x7e00)));
}
/* Words of 32 bits, of any kind, turned about: x[j] gets word j of VL rows; here half of them, of r[j][i], which has the same half of rows
 * 8j + i and 8j + i + 4. */
VEC void vf_turn_half(vf r[2][4], vf x[VL / 2])
{
    vf y[2][4];                       /* in block k the rows 4k to 4k + 3 */
    UNROLL
    for (int i = 0; i < 4; i++) {     /* immediates are constants also where nothing is unrolled */
        y[0][i] = _mm512_shuffle_f32x4(r[0][i], r[1][i], 0x88);
        y[1][i] = _mm512_shuffle_f32x4(r[0][i], r[1][i], 0xdd);
    }
    UNROLL
    for (int j = 0; j < 2; j++) {
        const __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(y[j][0], y[j][1])), b = _mm512_castps_pd(_mm512_unpackhi_ps(y[j][0], y[j][1]));
        const __m512d c = _mm512_castps_pd(_mm512_unpacklo_ps(y[j][2], y[j][3])), d = _mm512_castps_pd(_mm512_unpackhi_ps(y[j][2], y[j][3]));
        x[4 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
        x[4 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
        x[4 * j + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
        x[4 * j + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
    }
}
/* of rows that are in registers */
/* VL numbers: the sums of 16 lanes each, rows[i][lane], folded by 8, 4, 2 and 1 (C9) */
VEC vf vf_fold(const float *rows)
{
    vf by8[8], by4[4], by2[2];
    UNROLL
    for (int i = 0; i < 8; i++) {   /* of rows 4 apart, so that the last vector has them in order */
        const vf a = vf_load(rows + (i / 2 + i % 2 * 8) * 16), b = vf_load(rows + (i / 2 + i % 2 * 8 + 4) * 16);
        by8[i] = vf_add(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    }
    UNROLL
    for (int i = 0; i < 4; i++)
        by4[i] = vf_add(_mm512_shuffle_f32x4(by8[2 * i], by8[2 * i + 1], 0x88), _mm512_shuffle_f32x4(by8[2 * i], by8[2 * i + 1], 0xdd));
    UNROLL
    for (int i = 0; i < 2; i++)
        by2[i] = vf_add(_mm512_shuffle_ps(by4[2 * i], by4[2 * i + 1], 0x44), _mm512_shuffle_ps(by4[2 * i], by4[2 * i + 1], 0xee));
    return vf_add(_mm512_shuffle_ps(by2[0], by2[1], 0x88), _mm512_shuffle_ps(by2[0], by2[1], 0xdd));
}
VEC void vf_transpose(vf x[VL])
{
    vf r[2][2][4];
    UNROLL
    for (int j = 0; j < 2; j++)
        UNROLL
        for (int i = 0; i < 4; i++) {
            r[0][j][i] = _mm512_shuffle_f32x4(x[8 * j + i], x[8 * j + i + 4], 0x44);
            r[1][j][i] = _mm512_shuffle_f32x4(x[8 * j + i], x[8 * j + i + 4], 0xee);
        }
    vf_turn_half(r[0], x);
    vf_turn_half(r[1], x + 8);
}
/* of rows that lie `stride` bytes apart: a quarter of the way is gone by loading halves of them, which is not the shuffle unit's work */
VEC void vf_turn(const void *rows, int64_t stride, vf x[VL])
{
    UNROLL
    for (int h = 0; h < 2; h++) {
        vf r[2][4];
        UNROLL
        for (int i = 0; i < 4; i++)
            UNROLL
            for (int j = 0; j < 2; j++) {
                const float *first = (const float *)(const void *)((const char *)rows + (8 * j + i) * stride) + 8 * h;
                const float *second = (const float *)(const void *)((const char *)rows + (8 * j + i + 4) * stride) + 8 * h;
                r[j][i] = _mm512_castpd_ps(_mm512_insertf64x4(_mm512_castps_pd(_mm512_castps256_ps512(_mm256_loadu_ps(first))),
                                                              _mm256_castps_pd(_mm256_loadu_ps(second)), 1));
            }
        vf_turn_half(r, x + 8 * h);
    }
}
/* words that are pairs of bf16, the first ones in *even, the second ones in *odd */
VEC void vf_split_bf16(vf x, vf *even, vf *odd)
{
    const __m512i u = _mm512_castps_si512(x);
    *even = _mm512_castsi512_ps(_mm512_slli_epi32(u, 16));
    *odd = _mm512_castsi512_ps(_mm512_and_si512(u, _mm512_set1_epi32((int)0xffff0000u)));
}
/* *a0 *b0 *a1 *b1 ... of two vectors a and b, the first half in *a */
VEC void vf_zip(vf *a, vf *b)
{
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const vf first = _mm512_permutex2var_ps(*a, low, *b);
    *b = _mm512_permutex2var_ps(*a, _mm512_add_epi32(low, _mm512_set1_epi32(8)), *b);
    *a = first;
}
/* VL numbers of 8 bits */
VEC vf vf_from_i8(const int8_t *p) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p))); }
/* number 0, 1, 2 or 3 of words that are four */
VEC vf vf_byte(vf x, const int i)
{
    const __m512i u = _mm512_castps_si512(x);
    return _mm512_cvtepi32_ps(_mm512_srai_epi32(i == 3 ? u : _mm512_slli_epi32(u, (unsigned)(24 - 8 * i)), 24));
}

#elif defined(RONDO_ISA_avx2)

#define RONDO_ISA_NAME avx2
#define VL 8
#define VEC_REGISTERS 16
typedef __m256 vf;
typedef __m256 vm;

VEC vf vf_zero(void) { return _mm256_setzero_ps(); }
VEC vf vf_set1(float x) { return _mm256_set1_ps(x); }
VEC vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
VEC void vf_store(float *p, vf x) { _mm256_storeu_ps(p, x); }
VEC vf vf_add(vf a, vf b) { return _mm256_add_ps(a, b); }
VEC vf vf_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
VEC vf vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
VEC vf vf_div(vf a, vf b) { return _mm256_div_ps(a, b); }
VEC vf vf_sqrt(vf a) { return _mm256_sqrt_ps(a); }
VEC vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
VEC void vf_fma_into(vf *acc, vf a, vf b) { __asm__("vfmadd231ps %2, %1, %0" : "+x"(*acc) : "x"(a), "x"(b)); }
VEC vf vf_neg(vf a) { return _mm256_xor_ps(a, _mm256_set1_ps(-0.0f)); }
VEC vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }
VEC vf vf_min(vf a, vf b) { return _mm256_min_ps(a, b); }
VEC vm vf_lt(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
VEC vm vf_ge(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_GE_OQ); }
VEC vm vf_eq(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
VEC vm vf_is_nan(vf a) { return _mm256_cmp_ps(a, a, _CMP_UNORD_Q); }
VEC vm vm_and(vm a, vm b) { return _mm256_and_ps(a, b); }
VEC vm vm_first(int n)
{
    return _mm256_castsi256_ps(
        _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)));
}
VEC int vm_any(vm m) { return _mm256_movemask_ps(m) != 0; }
VEC vf vf_select(vm m, vf yes, vf no) { return _mm256_blendv_ps(no, yes, m); }
VEC vf vf_neg_abs(vf x) { return _mm256_or_ps(x, _mm256_set1_ps(-0.0f)); }
VEC vf vf_copysign(vf x, vf s)
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return _mm256_or_ps(_mm256_and_ps(sign, s), _mm256_andnot_ps(sign, x));
}
VEC vm vm_from_bits(uint32_t bits)
{
    const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int)bits), lane), lane));
}
VEC uint32_t vm_to_bits(vm m) { return (uint32_t)_mm256_movemask_ps(m); }
typedef __m256i vw;
VEC vw vw_set1(uint64_t x) { return _mm256_set1_epi64x((int64_t)x); }
VEC vw vw_load(const uint64_t *p) { return _mm256_loadu_si256((const __m256i *)(const void *)p); }
VEC vw vw_mul(vw a, vw b) { return _mm256_mul_epu32(a, b); }
VEC vw vw_high(vw a) { return _mm256_shuffle_epi32(a, 0xf5); }
VEC vw vw_xor3(vw a, vw b, vw c) { return _mm256_xor_si256(_mm256_xor_si256(a, b), c); }
VEC vm vw_below(vw even, vw odd, uint32_t limit)
{
    const __m256i top = _mm256_set1_epi32((int)0x80000000u);
    const __m256i x = _mm256_xor_si256(_mm256_blend_epi32(even, _mm256_shuffle_epi32(odd, 0xa0), 0xaa), top);
    return _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_xor_si256(_mm256_set1_epi32((int)limit), top), x));
}
VEC vf vf_load_mask(const float *p, vm m) { return _mm256_maskload_ps(p, _mm256_castps_si256(m)); }
VEC void vf_store_mask(float *p, vm m, vf x) { _mm256_maskstore_ps(p, _mm256_castps_si256(m), x); }
VEC vf vf_rint(vf x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
VEC vf vf_pow2(vf e)
{
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(e), _mm256_set1_epi32(127)), 23));
}
VEC void vf_split(vf x, vf *n, vf *f)
{
    *n = vf_rint(x);
    *f = _mm256_sub_ps(x, *n);
}
VEC vf vf_scale(vf p, vf e)
{
    /* added to the exponent field. A NaN e converts to 2^31, whose shift adds nothing: p stays (and is NaN)
     */
    __m256i q = _mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(_mm256_cvtps_epi32(e), 23));
    return _mm256_and_ps(_mm256_castsi256_ps(q), _mm256_cmp_ps(e, _mm256_set1_ps(-125.0f), _CMP_NLT_UQ));
}
VEC vf vf_from_bf16(const uint16_t *p)
{
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)), 16));
}
VEC void vf_from_bf16_pairs(const uint16_t *p, vf *even, vf *odd)
{
    __m256i u = _mm256_loadu_si256((const __m256i *)(const void *)p);
    *even = _mm256_castsi256_ps(_mm256_slli_epi32(u, 16));
    *odd = _mm256_castsi256_ps(_mm256_and_si256(u, _mm256_set1_epi32((int)0xffff0000u)));
}
VEC vf vf_from_f16(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}
VEC vf vf_low_halves(vf a, vf b) { return _mm256_castsi256_ps(_mm256_blend_epi16(_mm256_castps_si256(a), _mm256_slli_epi32(_mm256_castps_si256(b), 16), 0xaa)); }
VEC vf vf_high_halves(vf a, vf b) { return _mm256_castsi256_ps(_mm256_blend_epi16(_mm256_srli_epi32(_mm256_castps_si256(a), 16), _mm256_castps_si256(b), 0xaa)); }
VEC vf vf_low_bytes(vf a, vf b)
{
    return _mm256_castsi256_ps(_mm256_or_si256(_mm256_and_si256(_mm256_castps_si256(a), _mm256_set1_epi16(0xff)), _mm256_slli_epi16(_mm256_castps_si256(b), 8)));
}
VEC vf vf_high_bytes(vf a, vf b)
{
    return _mm256_castsi256_ps(_mm256_or_si256(_mm256_srli_epi16(_mm256_castps_si256(a), 8), _mm256_andnot_si256(_mm256_set1_epi16(0xff), _mm256_castps_si256(b))));
}
VEC void vf_to_i8(int8_t *p, vf x)
{
    const __m256i n = _mm256_cvtps_epi32(x), h = _mm256_packs_epi32(n, n), b = _mm256_packs_epi16(h, h);
    const uint32_t low = (uint32_t)_mm_cvtsi128_si32(_mm256_castsi256_si128(b)), high = (uint32_t)_mm_cvtsi128_si32(_mm256_extracti128_si256(b, 1));
    memcpy(p, &low, 4);
    memcpy(p + 4, &high, 4);
}
VEC void vf_to_bf16(uint16_t *p, vf x)
{
    __m256i u = _mm256_castps_si256(x);
    __m256i r = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)),
                                 _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1)));
    r = _mm256_blendv_epi8(_mm256_srli_epi32(r, 16), _mm256_set1_epi32(0x7fc0),
                           _mm256_castps_si256(vf_is_nan(x)));
    _mm_storeu_si128((__m128i *)(void *)p,
                     _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1)));
}
VEC void vf_to_f16(uint16_t *p, vf x)
{
    __m128i h = _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256i nan = _mm256_castps_si256(vf_is_nan(x));
    __m128i m = _mm_packs_epi32(_mm256_castsi256_si128(nan), _mm256_extracti128_si256(nan, 1));
    _mm_storeu_si128((__m128i *)(void *)p, _mm_blendv_epi8(h, _mm_set1_epi16(0x7e00), m));
}
VEC void vf_turn_half(vf r[4], vf x[VL / 2]) /* r[i] has the same half of rows i and i + 4 */
{
    const vf a = _mm256_unpacklo_ps(r[0], r[1]), b = _mm256_unpackhi_ps(r[0], r[1]);
    const vf c = _mm256_unpacklo_ps(r[2], r[3]), d = _mm256_unpackhi_ps(r[2], r[3]);
    x[0] = _mm256_shuffle_ps(a, c, 0x44);
    x[1] = _mm256_shuffle_ps(a, c, 0xee);
    x[2] = _mm256_shuffle_ps(b, d, 0x44);
    x[3] = _mm256_shuffle_ps(b, d, 0xee);
}
VEC vf vf_fold(const float *rows)
{
    vf by4[4], by2[2];
    UNROLL
    for (int i = 0; i < 4; i++) {
        const vf a = vf_add(vf_load(rows + i * 16), vf_load(rows + i * 16 + 8)), b = vf_add(vf_load(rows + (i + 4) * 16), vf_load(rows + (i + 4) * 16 + 8));
        by4[i] = vf_add(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
    }
    UNROLL
    for (int i = 0; i < 2; i++)
        by2[i] = vf_add(_mm256_shuffle_ps(by4[2 * i], by4[2 * i + 1], 0x44), _mm256_shuffle_ps(by4[2 * i], by4[2 * i + 1], 0xee));
    return vf_add(_mm256_shuffle_ps(by2[0], by2[1], 0x88), _mm256_shuffle_ps(by2[0], by2[1], 0xdd));
}
VEC void vf_transpose(vf x[VL])
{
    vf r[2][4];
    UNROLL
    for (int i = 0; i < 4; i++) {
        r[0][i] = _mm256_permute2f128_ps(x[i], x[i + 4], 0x20);
        r[1][i] = _mm256_permute2f128_ps(x[i], x[i + 4], 0x31);
    }
    vf_turn_half(r[0], x);
    vf_turn_half(r[1], x + 4);
}
VEC void vf_turn(const void *rows, int64_t stride, vf x[VL])
{
    UNROLL
    for (int h = 0; h < 2; h++) {
        vf r[4];
        UNROLL
        for (int i = 0; i < 4; i++) {
            const float *first = (const float *)(const void *)((const char *)rows + i * stride) + 4 * h;
            const float *second = (const float *)(const void *)((const char *)rows + (i + 4) * stride) + 4 * h;
            r[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(first)), _mm_loadu_ps(second), 1);
        }
        vf_turn_half(r, x + 4 * h);
    }
}
VEC void vf_split_bf16(vf x, vf *even, vf *odd)
{
    const __m256i u = _mm256_castps_si256(x);
    *even = _mm256_castsi256_ps(_mm256_slli_epi32(u, 16));
    *odd = _mm256_castsi256_ps(_mm256_and_si256(u, _mm256_set1_epi32((int)0xffff0000u)));
}
VEC void vf_zip(vf *a, vf *b)
{
    const vf low = _mm256_unpacklo_ps(*a, *b), high = _mm256_unpackhi_ps(*a, *b);
    *a = _mm256_permute2f128_ps(low, high, 0x20);
    *b = _mm256_permute2f128_ps(low, high, 0x31);
}
VEC vf vf_from_i8(const int8_t *p) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p))); }
VEC vf vf_byte(vf x, const int i)
{
    const __m256i u = _mm256_castps_si256(x);
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(i == 3 ? u : _mm256_slli_epi32(u, 24 - 8 * i), 24));
}

#elif defined(RONDO_ISA_neon)

#if !defined(__aarch64__) || defined(__AARCH64EB__)
#error "RONDO_ISA_neon is for 64-bit ARM, little-endian"
#endif

#define RONDO_ISA_NAME neon
#define VL 4
#define VEC_REGISTERS 32
typedef float32x4_t vf;
typedef uint32x4_t vm;

VEC vf vf_zero(void) { return vdupq_n_f32(0.0f); }
VEC vf vf_set1(float x) { return vdupq_n_f32(x); }
VEC vf vf_load(const float *p) { return vld1q_f32(p); }
VEC void vf_store(float *p, vf x) { vst1q_f32(p, x); }
VEC vf vf_add(vf a, vf b) { return vaddq_f32(a, b); }
VEC vf vf_sub(vf a, vf b) { return vsubq_f32(a, b); }
VEC vf vf_mul(vf a, vf b) { return vmulq_f32(a, b); }
VEC vf vf_div(vf a, vf b) { return vdivq_f32(a, b); }
VEC vf vf_sqrt(vf a) { return vsqrtq_f32(a); }
VEC vf vf_fma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }
VEC void vf_fma_into(vf *acc, vf a, vf b) { *acc = vfmaq_f32(*acc, a, b); }
VEC vf vf_neg(vf a) { return vnegq_f32(a); }
/* not fmax and fmin, which order zeros and treat NaN in another way */
VEC vf vf_max(vf a, vf b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
VEC vf vf_min(vf a, vf b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
VEC vm vf_lt(vf a, vf b) { return vcltq_f32(a, b); }
VEC vm vf_ge(vf a, vf b) { return vcgeq_f32(a, b); }
VEC vm vf_eq(vf a, vf b) { return vceqq_f32(a, b); }
VEC vm vf_is_nan(vf a) { return vmvnq_u32(vceqq_f32(a, a)); }
VEC vm vm_and(vm a, vm b) { return vandq_u32(a, b); }
VEC vm vm_first(int n)
{
    static const int32_t lane[4] = { 0, 1, 2, 3 };
    return vcltq_s32(vld1q_s32(lane), vdupq_n_s32(n));
}
VEC int vm_any(vm m) { return vmaxvq_u32(m) != 0; }
VEC vf vf_select(vm m, vf yes, vf no) { return vbslq_f32(m, yes, no); }
VEC vf vf_neg_abs(vf x) { return vnegq_f32(vabsq_f32(x)); }
VEC vf vf_copysign(vf x, vf s) { return vbslq_f32(vdupq_n_u32(0x80000000u), s, x); }
VEC vm vm_from_bits(uint32_t bits)
{
    static const uint32_t lane[4] = { 1, 2, 4, 8 };
    return vtstq_u32(vdupq_n_u32(bits), vld1q_u32(lane));
}
VEC uint32_t vm_to_bits(vm m)
{
    static const uint32_t lane[4] = { 1, 2, 4, 8 };
    return vaddvq_u32(vandq_u32(m, vld1q_u32(lane)));
}
typedef uint64x2_t vw;
VEC vw vw_set1(uint64_t x) { return vdupq_n_u64(x); }
VEC vw vw_load(const uint64_t *p) { return vld1q_u64(p); }
VEC vw vw_mul(vw a, vw b) { return vmull_u32(vmovn_u64(a), vmovn_u64(b)); }
VEC vw vw_high(vw a) { return vshrq_n_u64(a, 32); }
VEC vw vw_xor3(vw a, vw b, vw c) { return veorq_u64(veorq_u64(a, b), c); }
VEC vm vw_below(vw even, vw odd, uint32_t limit)
{
    const uint32x2x2_t x = vzip_u32(vmovn_u64(even), vmovn_u64(odd));
    return vcltq_u32(vcombine_u32(x.val[0], x.val[1]), vdupq_n_u32(limit));
}
VEC vf vf_load_mask(const float *p, vm m)
{
    uint32_t lane[4];
    float x[4];
    vst1q_u32(lane, m);
    for (int i = 0; i < 4; i++)
        x[i] = lane[i] ? p[i] : 0.0f;
    return vld1q_f32(x);
}
VEC void vf_store_mask(float *p, vm m, vf x)
{
    uint32_t lane[4];
    float y[4];
    vst1q_u32(lane, m);
    vst1q_f32(y, x);
    for (int i = 0; i < 4; i++)
        if (lane[i])
            p[i] = y[i];
}
VEC vf vf_rint(vf x) { return vrndnq_f32(x); }
VEC vf vf_pow2(vf e)
{
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(e), vdupq_n_s32(127)), 23));
}
VEC void vf_split(vf x, vf *n, vf *f)
{
    *n = vf_rint(x);
    *f = vsubq_f32(x, *n);
}
VEC vf vf_scale(vf p, vf e)
{
    /* added to the exponent field. A NaN e converts to 0: p stays (and is NaN) */
    int32x4_t q = vaddq_s32(vreinterpretq_s32_f32(p), vshlq_n_s32(vcvtnq_s32_f32(e), 23));
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_s32(q), vcltq_f32(e, vdupq_n_f32(-125.0f))));
}
VEC vf vf_from_bf16(const uint16_t *p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
VEC void vf_from_bf16_pairs(const uint16_t *p, vf *even, vf *odd)
{
    uint32x4_t u = vreinterpretq_u32_u16(vld1q_u16(p));
    *even = vreinterpretq_f32_u32(vshlq_n_u32(u, 16));
    *odd = vreinterpretq_f32_u32(vandq_u32(u, vdupq_n_u32(0xffff0000u)));
}
VEC vf vf_from_f16(const uint16_t *p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
VEC vf vf_low_halves(vf a, vf b) { return vreinterpretq_f32_u32(vsliq_n_u32(vreinterpretq_u32_f32(a), vreinterpretq_u32_f32(b), 16)); }
VEC vf vf_high_halves(vf a, vf b) { return vreinterpretq_f32_u32(vsriq_n_u32(vreinterpretq_u32_f32(b), vreinterpretq_u32_f32(a), 16)); }
VEC vf vf_low_bytes(vf a, vf b) { return vreinterpretq_f32_u16(vsliq_n_u16(vreinterpretq_u16_f32(a), vreinterpretq_u16_f32(b), 8)); }
VEC vf vf_high_bytes(vf a, vf b) { return vreinterpretq_f32_u16(vsriq_n_u16(vreinterpretq_u16_f32(b), vreinterpretq_u16_f32(a), 8)); }
VEC void vf_to_i8(int8_t *p, vf x)
{
    const int16x4_t h = vmovn_s32(vcvtnq_s32_f32(x));
    const uint32_t four = vget_lane_u32(vreinterpret_u32_s8(vmovn_s16(vcombine_s16(h, h))), 0);
    memcpy(p, &four, 4);
}
VEC void vf_to_bf16(uint16_t *p, vf x)
{
    uint32x4_t u = vreinterpretq_u32_f32(x);
    uint32x4_t r = vaddq_u32(vaddq_u32(u, vdupq_n_u32(0x7fff)), vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1)));
    vst1_u16(p, vmovn_u32(vbslq_u32(vf_is_nan(x), vdupq_n_u32(0x7fc0), vshrq_n_u32(r, 16))));
}
VEC void vf_to_f16(uint16_t *p, vf x)
{
    uint16x4_t h = vreinterpret_u16_f16(vcvt_f16_f32(x));
    vst1_u16(p, vbsl_u16(vmovn_u32(vf_is_nan(x)), vdup_n_u16(0x7e00), h));
}
VEC vf vf_fold(const float *rows)
{
    vf by4[4], by2[2];
    UNROLL
    for (int i = 0; i < 4; i++, rows += 16)
        by4[i] = vf_add(vf_add(vf_load(rows), vf_load(rows + 8)), vf_add(vf_load(rows + 4), vf_load(rows + 12)));
    UNROLL
    for (int i = 0; i < 2; i++)
        by2[i] = vf_add(vcombine_f32(vget_low_f32(by4[2 * i]), vget_low_f32(by4[2 * i + 1])),
                        vcombine_f32(vget_high_f32(by4[2 * i]), vget_high_f32(by4[2 * i + 1])));
    return vf_add(vuzp1q_f32(by2[0], by2[1]), vuzp2q_f32(by2[0], by2[1]));
}
VEC void vf_transpose(vf x[VL])
{
    const float32x4x2_t a = vtrnq_f32(x[0], x[1]), b = vtrnq_f32(x[2], x[3]);
    x[0] = vcombine_f32(vget_low_f32(a.val[0]), vget_low_f32(b.val[0]));
    x[1] = vcombine_f32(vget_low_f32(a.val[1]), vget_low_f32(b.val[1]));
    x[2] = vcombine_f32(vget_high_f32(a.val[0]), vget_high_f32(b.val[0]));
    x[3] = vcombine_f32(vget_high_f32(a.val[1]), vget_high_f32(b.val[1]));
}
VEC void vf_turn(const void *rows, int64_t stride, vf x[VL])
{
    UNROLL
    for (int i = 0; i < 4; i++)
        x[i] = vld1q_f32((const float *)(const void *)((const char *)rows + i * stride));
    vf_transpose(x);
}
VEC void vf_split_bf16(vf x, vf *even, vf *odd)
{
    const uint32x4_t u = vreinterpretq_u32_f32(x);
    *even = vreinterpretq_f32_u32(vshlq_n_u32(u, 16));
    *odd = vreinterpretq_f32_u32(vandq_u32(u, vdupq_n_u32(0xffff0000u)));
}
VEC void vf_zip(vf *a, vf *b)
{
    const float32x4x2_t z = vzipq_f32(*a, *b);
    *a = z.val[0];
    *b = z.val[1];
}
VEC vf vf_from_i8(const int8_t *p)
{
    const int8_t four[8] = { p[0], p[1], p[2], p[3] };
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vld1_s8(four)))));
}
VEC vf vf_byte(vf x, const int i)
{
    const int32x4_t u = vreinterpretq_s32_f32(x);
    return vcvtq_f32_s32(vshrq_n_s32(vshlq_s32(u, vdupq_n_s32(24 - 8 * i)), 24));
}

#else
#error "compile with -DRONDO_ISA_avx2, -DRONDO_ISA_avx512 or -DRONDO_ISA_neon"
#endif

/* to[i * ld + j] = element i of row j: four rows of four */
#if defined(__SSE__)
VEC void vec_transpose4(const float *row0, const float *row1, const float *row2, const float *row3, float *to, int64_t ld)
{
    __m128 a = _mm_loadu_ps(row0), b = _mm_loadu_ps(row1), c = _mm_loadu_ps(row2), d = _mm_loadu_ps(row3);
    _MM_TRANSPOSE4_PS(a, b, c, d);
    _mm_storeu_ps(to, a);
    _mm_storeu_ps(to + ld, b);
    _mm_storeu_ps(to + 2 * ld, c);
    _mm_storeu_ps(to + 3 * ld, d);
}
#elif defined(RONDO_ISA_neon)
VEC void vec_transpose4(const float *row0, const float *row1, const float *row2, const float *row3, float *to, int64_t ld)
{
    float32x4x2_t a = vtrnq_f32(vld1q_f32(row0), vld1q_f32(row1)), b = vtrnq_f32(vld1q_f32(row2), vld1q_f32(row3));
    vst1q_f32(to, vcombine_f32(vget_low_f32(a.val[0]), vget_low_f32(b.val[0])));
    vst1q_f32(to + ld, vcombine_f32(vget_low_f32(a.val[1]), vget_low_f32(b.val[1])));
    vst1q_f32(to + 2 * ld, vcombine_f32(vget_high_f32(a.val[0]), vget_high_f32(b.val[0])));
    vst1q_f32(to + 3 * ld, vcombine_f32(vget_high_f32(a.val[1]), vget_high_f32(b.val[1])));
}
#else
VEC void vec_transpose4(const float *row0, const float *row1, const float *row2, const float *row3, float *to, int64_t ld)
{
    for (int i = 0; i < 4; i++, to += ld) {
        to[0] = row0[i];
        to[1] = row1[i];
        to[2] = row2[i];
        to[3] = row3[i];
    }
}
#endif

#pragma GCC diagnostic pop

/* ---- the same for all instruction sets ---- */

#define RONDO_ISA_TABLE(what) RONDO_GLUE(rondo__cpu_##what##_, RONDO_ISA_NAME)

VEC vf vf_exp2_rest(vf f)
{
    vf p = vf_fma(vf_set1(RONDO_EXP2_C6), f, vf_set1(RONDO_EXP2_C5));
    p = vf_fma(p, f, vf_set1(RONDO_EXP2_C4));
    p = vf_fma(p, f, vf_set1(RONDO_EXP2_C3));
    p = vf_fma(p, f, vf_set1(RONDO_EXP2_C2));
    return vf_fma(p, f, vf_set1(RONDO_EXP2_C1));
}
VEC vf vf_exp2_poly(vf f) { return vf_fma(vf_exp2_rest(f), f, vf_set1(1.0f)); }

/* C2 */
VEC vf vf_tanh(vf x)
{
    const vf y = vf_max(vf_set1(RONDO_TANH_MIN), vf_mul(vf_neg_abs(x), vf_set1(RONDO_TANH_C)));
    vf n, f;
    vf_split(y, &n, &f);
    const vf s = vf_pow2(n), m = vf_fma(s, vf_mul(vf_exp2_rest(f), f), vf_sub(s, vf_set1(1.0f)));
    return vf_copysign(vf_div(m, vf_add(m, vf_set1(2.0f))), x);
}

/* C3 and C4: the weight of a score x against the row's integer maximum m */
VEC vf vf_weight(vf x, vf m)
{
    vf n, f;
    vf_split(x, &n, &f);
    return vf_scale(vf_exp2_poly(f), vf_sub(n, m));
}

/* C5: d <= 0 */
VEC vf vf_merge_scale(vf d) { return vf_scale(vf_set1(1.0f), d); }

/* rondo__exp2: any x */
VEC vf vf_exp2(vf x)
{
    vf n, f;
    vf_split(x, &n, &f);
    vf y = vf_scale(vf_exp2_poly(f), vf_min(n, vf_set1(127.0f)));
    y = vf_select(vf_lt(vf_set1(127.0f), n), vf_set1(__builtin_inff()), y);
    return vf_select(vf_is_nan(x), x, y);
}

/* C14 */
VEC vf vf_exp(vf x)
{
    const vf c = vf_set1(RONDO_LOG2E_F), y = vf_max(vf_set1(RONDO_EXP_LEAST), x), n = vf_rint(vf_mul(y, c));
    const vf f = vf_fma(y, vf_set1(RONDO_LOG2E_LO), vf_fma(y, c, vf_neg(n)));
    vf e = vf_scale(vf_exp2_poly(f), vf_min(n, vf_set1(127.0f)));
    e = vf_select(vf_lt(vf_set1(127.0f), n), vf_set1(__builtin_inff()), e);
    return vf_select(vf_is_nan(x), x, e);
}
VEC vf vf_sigmoid(vf x)
{
    const vf one = vf_set1(1.0f);
    return vf_div(one, vf_add(one, vf_exp(vf_neg(x))));
}
VEC vf vf_softplus(vf x)
{
    const vf t = vf_exp(vf_neg_abs(x)), h = vf_div(t, vf_add(t, vf_set1(2.0f))), s = vf_add(h, h), w = vf_mul(h, h);
    vf r = vf_fma(vf_set1(0x1.111112p-4f), w, vf_set1(0x1.3b13b2p-4f));
    r = vf_fma(r, w, vf_set1(0x1.745d18p-4f));
    r = vf_fma(r, w, vf_set1(0x1.c71c72p-4f));
    r = vf_fma(r, w, vf_set1(0x1.24924ap-3f));
    r = vf_fma(r, w, vf_set1(0x1.99999ap-3f));
    r = vf_fma(r, w, vf_set1(0x1.555556p-2f));
    return vf_add(vf_max(x, vf_zero()), vf_fma(vf_mul(s, w), r, s));
}
VEC vf vf_delta_gate(int gate, vf x, vf bias, vf gain, vf bound)
{
    if (gate == RONDO_GATE_LOG)
        return x;
    x = vf_add(x, bias);
    return gate == RONDO_GATE_SOFTPLUS ? vf_neg(vf_mul(gain, vf_softplus(x))) : vf_mul(bound, vf_sigmoid(vf_mul(gain, x)));
}

VEC vf vf_canonical(vf x) { return vf_select(vf_is_nan(x), vf_set1(rondo__float(RONDO_NAN_BITS)), x); }

/* VL elements of type F32, BF16 or F16 from element i on, and back with one rounding (NaN becomes canonical)
 */
VEC vf vf_element(const void *p, int64_t i, int type)
{
    if (type == RONDO_F32)
        return vf_load((const float *)p + i);
    return type == RONDO_BF16 ? vf_from_bf16((const uint16_t *)p + i) : vf_from_f16((const uint16_t *)p + i);
}
VEC void vf_put_element(void *p, int64_t i, int type, vf x)
{
    if (type == RONDO_F32)
        vf_store((float *)p + i, vf_canonical(x));
    else if (type == RONDO_BF16)
        vf_to_bf16((uint16_t *)p + i, x);
    else
        vf_to_f16((uint16_t *)p + i, x);
}

/* Numbers [d, d + count) of a row of `dim`, as floats. */
VEC void widen_row(const void *row, int32_t d, int32_t count, int32_t dim, int type, float *to)
{
    int32_t i = 0;
    if (type == RONDO_Q8) {
        float scale;
        memcpy(&scale, (const char *)row + dim, sizeof scale);
        for (; i + VL <= count; i += VL)
            vf_store(to + i, vf_mul(vf_from_i8((const int8_t *)row + d + i), vf_set1(scale)));
        for (; i < count; i++)
            to[i] = (float)((const int8_t *)row)[d + i] * scale;
        return;
    }
    for (; i + VL <= count; i += VL)
        vf_store(to + i, vf_element(row, d + i, type));
    for (; i < count; i++)
        to[i] = rondo__element(row, d + i, type);
}

#endif
