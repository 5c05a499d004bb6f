/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Rotary position embedding (Su et al. 2021) with the context extensions that Llama and Mistral folders ask for: linear
 * (Chen et al. 2023), dynamic NTK, llama3 and YaRN (Peng et al. 2023), as Hugging Face's modeling_rope_utils.py defines
 * them. Called by batch.c (frequencies, once per sequence) and forward.c (tables, once per pass).
 *
 * Frequencies are computed in double with rondo's own elementary functions and rounded once to float; the angle is the
 * float product position * frequency, as in the reference, which works in fp32; cosine and sine of that float are taken in
 * double, multiplied by the attention factor and rounded once. So a table is a function of the position alone.
 *
 * The kind dynamic makes the base grow with the length of the sequence. Keys that were rotated earlier would then stand in
 * the cache with another base, and the result would depend on how the prompt was cut into pieces. rondo fixes the base of a
 * sequence once, from the length that the sequence can reach: prompt plus max_tokens (for a score, its tokens). So every
 * chunking, batch and rank count gives the same bits; a single pass over n tokens equals the reference's.
 */
#include "rope.h"

#include "rondo.h"

#define TWO_PI 6.283185307179586476925286766559

/* Rounding down and up without libm; the arguments are clamped to where an int64_t is exact. */
static double round_down(double x)
{
    double n = (double)(int64_t)x;
    return n > x ? n - 1.0 : n;
}

static double clamp(double x, double low, double high)
{
    if (!(x >= low))   /* NaN too */
        return low;
    return x > high ? high : x;
}

/* The dimension at which a full turn happens `rotations` times over the original context. */
static double correction(const struct rondo_rope_config *rope, double rotations)
{
    double x = (double)rope->dim * rondo_log((double)rope->original_max_positions / (rotations * TWO_PI)) / (2.0 * rondo_log(rope->theta));
    return clamp(x, -1e9, 1e9);
}

static double llama3(const struct rondo_rope_config *rope, double f)
{
    double original = (double)rope->original_max_positions;
    double wavelength = TWO_PI / f;
    if (wavelength < original / rope->high_freq_factor)
        return f;
    if (wavelength > original / rope->low_freq_factor)
        return f / rope->factor;
    double smooth = (original / wavelength - rope->low_freq_factor) / (rope->high_freq_factor - rope->low_freq_factor);
    return (1.0 - smooth) * f / rope->factor + smooth * f;
}

void rondo__rope_frequencies(const struct rondo_rope_config *rope, int64_t length, float *inv_freq)
{
    double dim = rope->dim, base = rope->theta, low = 0.0, high = 0.0;
    if (rope->kind == RONDO_ROPE_DYNAMIC && rope->dim > 2) {
        double m = (double)rope->original_max_positions;
        double n = (double)length > m ? (double)length : m;
        base *= rondo_pow(rope->factor * n / m - (rope->factor - 1.0), dim / (dim - 2.0));
    }
    if (rope->kind == RONDO_ROPE_YARN) {
        low = correction(rope, rope->beta_fast);
        high = correction(rope, rope->beta_slow);
        if (rope->truncate) {
            low = round_down(low);
            high = -round_down(-high);
        }
        low = low > 0.0 ? low : 0.0;
        high = high < dim - 1.0 ? high : dim - 1.0;
        if (low == high)
            high += 0.001;
    }
    for (int32_t i = 0; i < rope->dim / 2; i++) {
        double f = 1.0 / rondo_pow(base, 2.0 * i / dim);
        switch (rope->kind) {
        case RONDO_ROPE_LINEAR:
            f /= rope->factor;
            break;
        case RONDO_ROPE_LLAMA3:
            f = llama3(rope, f);
            break;
        case RONDO_ROPE_YARN: {
            double ramp = clamp(((double)i - low) / (high - low), 0.0, 1.0);
            f = f / rope->factor * ramp + f * (1.0 - ramp);
            break;
        }
        default:
            break;
        }
        inv_freq[i] = (float)f;
    }
}

void rondo__rope_table(const struct rondo_rope_config *rope, const float *inv_freq, int64_t first, int64_t step, int64_t count,
                       float *table)
{
    int32_t half = rope->dim / 2;
    for (int64_t r = 0; r < count; r++, table += rope->dim) {
        float position = (float)(first + r * step);
        for (int32_t i = 0; i < half; i++) {
            double angle = (double)(position * inv_freq[i]);
            table[i] = (float)(rondo_cos(angle) * rope->attention_factor);
            table[half + i] = (float)(rondo_sin(angle) * rope->attention_factor);
        }
    }
}
