/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What the device "cuda" does when a process attaches a card first: it compares each kernel with the definition. On the fake driver one bit of what a
 * launch wrote is changed, for each launch in turn, or kernels flush subnormal numbers: the card is refused, then and later. Failures of
 * the driver in that are told, leave nothing behind, and are no verdict. The matrix unit is looked at when a program wants it first; one that
 * differs is not used, and the card is for all else.
 */
#include <sys/wait.h>
#include <unistd.h>

#include "card.h"

static const char *left(void)
{
    static const char *const things[] = { "contexts", "modules", "streams", "events", "blocks", "pinned", "pending" };
    for (size_t i = 0; i < sizeof things / sizeof things[0]; i++)
        if (card_count(things[i]))
            return things[i];
    return NULL;
}

/* In a process of its own, as each of them looks at a card once: what `check` returns. */
static int apart(const char *settings, int (*check)(void))
{
    int status = 0;
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        setenv("RONDO_FAKE_CUDA", settings, 1);
        if (card_open())
            _exit(255);
        const int code = check();
        fflush(stdout);
        _exit(code);
    }
    return child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status) ? 255 : WEXITSTATUS(status);
}

static int launches(void)
{
    if (card_attach() || card_count("launches") > 200)
        return 255;
    const long long once = card_count("launches");
    card_detach();
    if (card_attach() || card_count("launches") != once)
        return 255;
    card_detach();
    return left() ? 255 : (int)once;
}

static int calls(void)
{
    const int err = card_attach();
    return err || card_count("calls") > 2540 ? 255 : (int)(card_count("calls") / 10);
}

/* 0: refused, and again when the card is in order. */
static int refused(void)
{
    char said[600];
    if (card_attach() != RONDO_EDEVICE || left())
        return 1;
    snprintf(said, sizeof said, "%s", rondo_error_text());
    if (!strstr(said, "graphics card 0 (Fake card 0) does not give the bits of rondo-numerics(7), and is not used: of ")) {
        diag("%s", said);
        return 2;
    }
    card_set("");
    int (*init)(unsigned) = NULL;
    *(void **)(void *)&init = dlsym(RTLD_DEFAULT, "cuInit");
    if (!init || init(0) || card_attach() != RONDO_EDEVICE || strcmp(said, rondo_error_text()) || left())
        return 3;
    return 0;
}

/* 0: a code and a sentence, nothing is left, and the next time the card is taken. */
static int failed(void)
{
    const int err = card_attach();
    if (!err || !rondo_error_text()[0] || strstr(rondo_error_text(), "does not give") || left())
        return err ? 1 : 0;
    card_set("");
    int (*init)(unsigned) = NULL;
    *(void **)(void *)&init = dlsym(RTLD_DEFAULT, "cuInit");
    return !init || init(0) || card_attach() ? 2 : 0;
}

/* A program without work. */
static int program(int arithmetic)
{
    static const struct rondo_mask_kind none = { .name = "none" };
    const struct rondo_program_desc d = { .heads = 1, .kv_heads = 1, .head_dim = 8, .value_dim = 8, .q_type = RONDO_F32, .kv_type = RONDO_F32, .out_type = RONDO_F32,
                                          .leaf_size = 32, .arithmetic = arithmetic, .node_width = 10, .mask = { .kind = &none } };
    struct rondo_program *p = NULL;
    const int err = card_ops->program_new(card, &p, &d);
    if (p)
        card_ops->program_free(card, p);
    return err;
}

static int arithmetic;     /* whose unit it is about */

static int launches_of_unit(void)
{
    if (card_attach())
        return 255;
    const long long before = card_count("launches");
    if (program(RONDO_ARITHMETIC_F32) || card_count("launches") != before || program(arithmetic))
        return 255;
    const long long once = card_count("launches") - before;
    if (program(arithmetic) || card_count("launches") != before + once)
        return 255;
    card_detach();
    return left() ? 255 : (int)once;
}

static int unit_refused(void)
{
    char said[600];
    if (card_attach())
        return 1;
    if (program(arithmetic) != RONDO_EDEVICE)
        return 2;
    snprintf(said, sizeof said, "%s", rondo_error_text());
    const int other = arithmetic == RONDO_ARITHMETIC_F64 ? RONDO_ARITHMETIC_BF16_HOPPER : RONDO_ARITHMETIC_F64;
    if (!strstr(said, "does not give the bits of rondo-numerics(7), and is not used for it: of arithmetic ") || !strstr(said, rondo_arithmetic_name(arithmetic))) {
        diag("%s", said);
        return 3;
    }
    if (program(arithmetic) != RONDO_EDEVICE || strcmp(said, rondo_error_text()) || program(RONDO_ARITHMETIC_F32) ||
        program(other))
        return 4;
    card_detach();
    return left() ? 5 : 0;
}

/* On a card of compute capability 8.0. */
static int without_unit(void)
{
    return card_attach() || program(RONDO_ARITHMETIC_BF16_HOPPER) != RONDO_ENOTSUP || !strstr(rondo_error_text(), "compute capability 9.0") || program(RONDO_ARITHMETIC_F32) ||
           program(RONDO_ARITHMETIC_F64);
}

int main(void)
{
    char settings[64];
    const int all = apart("", launches), tens = apart("", calls);
    if (all == 255) {
        const char *why = card_open();
        if (why)
            return skip_all("%s", why);
    }
    ok(all > 30 && all < 255, "a card is looked at once for a process, with %d launches", all);
    const int step = long_tests() ? 1 : 2;
    int seen = 0, strange = 0, tried = 0;
    for (int n = 1; n <= all && all < 255; n += step) {
        tried++;
        snprintf(settings, sizeof settings, "flip=%d:%d", n, 20);
        const int code = apart(settings, refused);
        seen += code == 0;
        if (code)
            diag("launch %d with one bit changed: %d", n, code);
    }
    is_int(seen, tried, "one bit changed in what one of them wrote, of %d in turn: the card is refused, and stays so", tried);
    ok(apart("ftz", refused) == 0, "so is one that flushes subnormal numbers");
    for (arithmetic = RONDO_ARITHMETIC_F64; arithmetic <= RONDO_ARITHMETIC_BF16_HOPPER; arithmetic++) {
        const int of_unit = apart("", launches_of_unit);
        ok(of_unit > 5 && of_unit < 255, "%s: its unit is looked at when a program wants it, once, with %d launches", rondo_arithmetic_name(arithmetic), of_unit);
        for (int n = seen = tried = 0; n < of_unit && of_unit < 255; n += step) {
            tried++;
            snprintf(settings, sizeof settings, "flip=%d:%d", all + n + 1, 20);
            const int code = apart(settings, unit_refused);
            seen += code == 0;
            if (code)
                diag("launch %d with one bit changed: %d", all + n + 1, code);
        }
        is_int(seen, tried, "  one bit changed, in %d of them in turn: such programs are refused, and stay so, others are not", tried);
    }
    ok(apart("cc=80", without_unit) == 0, "  a card that has no such unit says so");
    for (int n = 1; n < tens && tens < 255; n += 4 * step) {
        snprintf(settings, sizeof settings, "call=%d", 10 * n);
        const int code = apart(settings, failed);
        strange += code != 0;
        if (code)
            diag("call %d fails: %d", 10 * n, code);
    }
    ok(tens > 3 && tens < 255 && !strange, "a call of the driver that fails, some of them in turn: a code, nothing is left, and the next time it is taken");
    return done();
}
