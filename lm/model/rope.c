/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Rotary position embedding (Su et al. 2021) with the context extensions that model folders ask for: linear
 * (Chen et al. 2023), dynamic NTK, llama3 and YaRN (Peng et al. 2023), as Hugging Face's modeling_rope_utils.py defines
 * them. Called by engine/ (frequencies once per sequence, tables once per pass).
 *
 * Frequencies are small float programs, step by step as the reference runs them in fp32: models were trained with these very
 * roundings, and an angle multiplies the last bit of a frequency by the position. Powers are rondo_pow() in double, rounded
 * once to float. The angle is the float product position * frequency, as in the reference; cosine and sine of that float are
 * taken in double, multiplied by the attention factor and rounded once. So a table is a function of the position alone.
 *
 * The kind dynamic makes the base grow with the length of the text: rondo__rope_length() says for which length a position
 * rotates. As in the reference a prompt rotates as a whole, for its length, and every token generated after it for its own position;
 * keys stay in the cache as they were rotated. So a position's table depends on the prompt's length and on nothing else: not on
 * how the prompt is cut into chunks, not on how many tokens are to come, not on the ranks.
 */
#include "lm/model/rope.h"

#include "rondo.h"

#define TWO_PI 6.283185307179586476925286766559

static float power(float base, float exponent)
{
    return (float)rondo_pow((double)base, (double)exponent);
}

/* Rounding down without libm; the argument is clamped to where an int64_t is exact. */
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

int64_t rondo__rope_length(const struct rondo_rope_config *rope, int64_t prompt, int64_t position)
{
    if (rope->kind != RONDO_ROPE_DYNAMIC)
        return 0;
    const int64_t length = position < prompt ? prompt : position + 1;
    return length > rope->original_max_positions ? length : rope->original_max_positions;
}

/* The base that fits a text of so many tokens (NTK-aware scaling); up to M it stays. */
static float dynamic_base(const struct rondo_rope_config *rope, int64_t length)
{
    if (length <= rope->original_max_positions)
        return (float)rope->theta;
    const float m = (float)rope->original_max_positions, n = (float)length;
    const float factor = (float)rope->factor, stretch = factor * n / m - (float)(rope->factor - 1.0);
    return (float)rope->theta * power(stretch, (float)((double)rope->dim / ((double)rope->dim - 2.0)));
}

static float llama3(const struct rondo_rope_config *rope, float f)
{
    const float original = (float)rope->original_max_positions, factor = (float)rope->factor;
    const float wavelength = (float)TWO_PI / f;
    if (wavelength < (float)((double)rope->original_max_positions / rope->high_freq_factor))
        return f;
    if (wavelength > (float)((double)rope->original_max_positions / rope->low_freq_factor))
        return f / factor;
    float smooth = (original / wavelength - (float)rope->low_freq_factor) / (float)(rope->high_freq_factor - rope->low_freq_factor);
    return (1.0f - smooth) * f / factor + smooth * f;
}

/* YaRN: the dimension at which a full turn happens `rotations` times over the original context. */
static double correction(const struct rondo_rope_config *rope, double rotations)
{
    double x = (double)rope->dim * rondo_log((double)rope->original_max_positions / (rotations * TWO_PI)) / (2.0 * rondo_log(rope->theta));
    return clamp(x, -1e9, 1e9);
}

struct ramp {
    double low, high;   /* dimensions between which interpolation sets in */
};

static struct ramp yarn_ramp(const struct rondo_rope_config *rope)
{
    struct ramp r = { correction(rope, rope->beta_fast), correction(rope, rope->beta_slow) };
    if (rope->truncate) {
        r.low = round_down(r.low);
        r.high = -round_down(-r.high);
    }
    r.low = r.low > 0.0 ? r.low : 0.0;
    r.high = r.high < (double)rope->dim - 1.0 ? r.high : (double)rope->dim - 1.0;
    if (r.low == r.high)
        r.high += 0.001;
    return r;
}

/* p: the wavelength over 2 pi, before scaling */
static float yarn(const struct rondo_rope_config *rope, struct ramp r, int32_t i, float p)
{
    float x = ((float)i - (float)r.low) / (float)(r.high - r.low);
    float keep = 1.0f - (x > 0.0f ? x < 1.0f ? x : 1.0f : 0.0f);
    return 1.0f / ((float)rope->factor * p) * (1.0f - keep) + 1.0f / p * keep;
}

void rondo__rope_frequencies(const struct rondo_rope_config *rope, int64_t length, float *inv_freq)
{
    const float base = rope->kind == RONDO_ROPE_DYNAMIC && rope->dim > 2 ? dynamic_base(rope, length) : (float)rope->theta;
    const struct ramp ramp = rope->kind == RONDO_ROPE_YARN ? yarn_ramp(rope) : (struct ramp){ 0.0, 1.0 };
    for (int32_t i = 0; i < rope->dim / 2; i++) {
        const float p = power(base, (float)(2 * i) / (float)rope->dim), f = 1.0f / p;
        switch (rope->kind) {
        case RONDO_ROPE_LINEAR:
            inv_freq[i] = f / (float)rope->factor;
            break;
        case RONDO_ROPE_LLAMA3:
            inv_freq[i] = llama3(rope, f);
            break;
        case RONDO_ROPE_YARN:
            inv_freq[i] = yarn(rope, ramp, i, p);
            break;
        default:
            inv_freq[i] = f;
            break;
        }
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
