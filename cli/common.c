/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The options that commands share, and what follows from them: which transport will run. A value that names something known
 * which this version does not have is refused by its name.
 */
#include "cli/cli.h"

#include <stdlib.h>
#include <string.h>

struct common common;

static int choice_again(const struct option *o)
{
    return fail(EXIT_USAGE, "--%s is given twice; give it once", o->name);
}

static int choose_transport(const struct option *o, const char *text)
{
    if (common.transport)
        return choice_again(o);
    if (!strcmp(text, "nccl"))
        return fail(EXIT_USAGE, "--transport nccl is not part of this version; threads and mpi are");
    if (strcmp(text, "threads") && strcmp(text, "mpi"))
        return fail(EXIT_USAGE, "--transport %s is not known; threads and mpi are", text);
    common.transport = text;
    return 0;
}

static int choose_device(const struct option *o, const char *text)
{
    (void)o;
    if (!strcmp(text, "cuda"))
        return fail(EXIT_USAGE, "--device cuda is not part of this version; cpu is");
    return strcmp(text, "cpu") ? fail(EXIT_USAGE, "--device %s is not known; cpu is", text) : 0;
}

static int choose_isa(const struct option *o, const char *text)
{
    static const char *const known[] = { "auto", "scalar", "avx2", "avx512" };
    if (common.isa)
        return choice_again(o);
    if (!strcmp(text, "amx") || !strcmp(text, "neon"))
        return fail(EXIT_USAGE, "--isa %s is not part of this version; auto, scalar, avx2 and avx512 are", text);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(text, known[i])) {
            common.isa = known[i];
            return 0;
        }
    return fail(EXIT_USAGE, "--isa %s is not known; auto, scalar, avx2 and avx512 are", text);
}

static int choose_numerics(const struct option *o, const char *text)
{
    (void)o;
    if (!strcmp(text, "native") || !strcmp(text, "fast"))
        return fail(EXIT_USAGE, "--numerics %s is not part of this version; strict is", text);
    return strcmp(text, "strict") ? fail(EXIT_USAGE, "--numerics %s is not known; strict is", text) : 0;
}

static int choose_arithmetic(const struct option *o, const char *text)
{
    (void)o;
    if (!strcmp(text, "bf16-dot") || !strcmp(text, "bf16-tile"))
        return fail(EXIT_USAGE, "--arithmetic %s is not part of this version; f32 is", text);
    return strcmp(text, "f32") ? fail(EXIT_USAGE, "--arithmetic %s is not known; f32 is", text) : 0;
}

static int choose_layout(const struct option *o, const char *text)
{
    if (common.layout)
        return choice_again(o);
    for (int i = RONDO_CONTIGUOUS; i <= RONDO_SNAKE; i++)
        if (!strcmp(text, rondo_layout_name(i))) {
            common.layout = i;
            return 0;
        }
    return fail(EXIT_USAGE, "--layout %s is not known; contiguous, zigzag, striped and snake are", text);
}

static int choose_algorithm(const struct option *o, const char *text)
{
    static bool given;
    static const char *const later[] = { "all-gather", "all-to-all", "reduce" };
    if (given)
        return choice_again(o);
    given = true;
    for (size_t i = 0; i < sizeof later / sizeof *later; i++)
        if (!strcmp(text, later[i]))
            return fail(EXIT_USAGE, "--algorithm %s is not part of this version; auto, pass-kv and pass-q are", text);
    common.algorithm = !strcmp(text, "pass-kv") ? RONDO_PASS_KV : !strcmp(text, "pass-q") ? RONDO_PASS_Q : RONDO_ALGORITHM_AUTO;
    if (!common.algorithm && strcmp(text, "auto"))
        return fail(EXIT_USAGE, "--algorithm %s is not known; auto, pass-kv and pass-q are", text);
    return 0;
}

static int choose_progress(const struct option *o, const char *text)
{
    static const char *const known[] = { "auto", "always", "never" };
    if (common.progress_text)
        return choice_again(o);
    common.progress_text = text;
    for (int i = 0; i < 3; i++)
        if (!strcmp(text, known[i])) {
            common.progress = i;
            return 0;
        }
    return fail(EXIT_USAGE, "--progress %s is not known; auto, always and never are", text);
}

static int choose_tp(const struct option *o, const char *text)
{
    if (parse_int(text, 1, 65536, &common.tp))
        return fail(EXIT_USAGE, "--%s %s: a whole number from 1 is expected", o->name, text);
    if (common.tp > 1)
        return fail(EXIT_USAGE, "--tp %s: tensor parallelism is not part of this version; --tp 1 is, with any --cp", text);
    return 0;
}

const struct option options_output[] = {
    { "json", 0, OPTION_FLAG, NULL, "print one JSON object on stdout", &common.json, 0, 0, NULL },
    { "quiet", 0, OPTION_FLAG, NULL, "no summary, no warnings, no meter", &common.quiet, 0, 0, NULL },
    { "progress", 0, OPTION_CALL, "auto|always|never", "the meter on stderr (auto: on a terminal)", NULL, 0, 0, choose_progress },
    { NULL, 0, OPTION_FLAG, NULL, NULL, NULL, 0, 0, NULL },
};
const struct option options_ranks[] = {
    { "ranks", 0, OPTION_INT, "N", "context-parallel ranks (default 1; under mpirun its processes)", &common.ranks, 1, 4096, NULL },
    { "cp", 0, OPTION_REFUSED, "N", "goes with language models; here it is --ranks N", NULL, 0, 0, NULL },
    { "tp", 0, OPTION_REFUSED, "N", "goes with language models; here it is --ranks N", NULL, 0, 0, NULL },
    { NULL, 0, OPTION_FLAG, NULL, NULL, NULL, 0, 0, NULL },
};
const struct option options_lm_ranks[] = {
    { "cp", 0, OPTION_INT, "N", "context-parallel ranks (default 1; under mpirun its processes)", &common.cp, 1, 4096, NULL },
    { "tp", 0, OPTION_CALL, "N", "tensor-parallel ranks: 1 in this version", NULL, 0, 0, choose_tp },
    { "ranks", 0, OPTION_REFUSED, "N", "a language model runs on cp x tp ranks; write --cp N", NULL, 0, 0, NULL },
    { NULL, 0, OPTION_FLAG, NULL, NULL, NULL, 0, 0, NULL },
};
const struct option options_machine[] = {
    { "transport", 0, OPTION_CALL, "threads|mpi", "what ranks are (default threads; mpi under mpirun)", NULL, 0, 0, choose_transport },
    { "device", 0, OPTION_CALL, "cpu", "what computes", NULL, 0, 0, choose_device },
    { "threads", 0, OPTION_INT, "N", "threads inside one rank (default: cores shared out evenly)", &common.threads, 1, 4096, NULL },
    { "isa", 0, OPTION_CALL, "NAME", "auto, scalar, avx2 or avx512", NULL, 0, 0, choose_isa },
    { "numerics", 0, OPTION_CALL, "strict", "level of the numerics contract", NULL, 0, 0, choose_numerics },
    { "arithmetic", 0, OPTION_CALL, "f32", "arithmetic of the numerics contract", NULL, 0, 0, choose_arithmetic },
    { "layout", 0, OPTION_CALL, "NAME", "contiguous, zigzag (default), striped or snake", NULL, 0, 0, choose_layout },
    { "algorithm", 0, OPTION_CALL, "NAME", "auto (default), pass-kv or pass-q", NULL, 0, 0, choose_algorithm },
    { "trace", 0, OPTION_TEXT, "FILE", "write a timeline of all ranks (Chrome trace JSON)", &common.trace, 0, 0, NULL },
    { NULL, 0, OPTION_FLAG, NULL, NULL, NULL, 0, 0, NULL },
};

static bool number_from(const char *const names[], int *out)
{
    for (; *names; names++) {
        const char *text = getenv(*names);
        int64_t x;
        if (text && !parse_int(text, 0, 1 << 24, &x)) {
            *out = (int)x;
            return true;
        }
    }
    return false;
}

void mpi_environment(int *rank, int *size)
{
    static const char *const sizes[] = { "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS", NULL };
    static const char *const ranks[] = { "OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "MPI_LOCALRANKID", NULL };
    *rank = 0;
    *size = 1;
    if (number_from(sizes, size) && *size > 1)
        number_from(ranks, rank);
    if (*size < 1)
        *size = 1;
}

int common_settle(void)
{
    int rank, size;
    mpi_environment(&rank, &size);
    if (common.transport && !strcmp(common.transport, "threads") && size > 1)
        return fail(EXIT_USAGE, "--transport threads under mpirun would run the same work in %d processes; leave it out or give "
                    "--transport mpi", size);
    common.mpi = common.transport ? !strcmp(common.transport, "mpi") : size > 1;
    if (common.quiet && common.progress == 1)
        return fail(EXIT_USAGE, "--quiet and --progress always exclude each other; give one of them");
    if (common.quiet)
        common.progress = 2;
    return 0;
}
