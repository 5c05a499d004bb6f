/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The options that commands share, and what follows from them: which transport will run. A value that names something known
 * which this version does not have is refused by its name.
 */
#include "cli/cli.h"

#include <stdlib.h>
#include <string.h>

struct common common;

/* The place of the word among those known, or -1 with the sentence kept. */
static int choose(const struct option *o, const char *text, const char *const *known, const char *const *later)
{
    char shown[SHOWN_NAME];
    return choose_word(shown_name(o, shown), text, known, later);
}

static int choose_transport(const struct option *o, const char *text)
{
    static const char *const known[] = { "threads", "mpi", "nccl", NULL };
    const int i = choose(o, text, known, NULL);
    common.transport = i < 0 ? NULL : known[i];
    return i < 0 ? EXIT_USAGE : 0;
}

/* One of them, or a list for ranks, whose entries the library looks at (rondo_context_create(3)). */
static int choose_device(const struct option *o, const char *text)
{
    static const char *const known[] = { "cpu", "cuda", NULL };
    const bool list = strpbrk(text, ":,") != NULL;
    const int i = list ? 0 : choose(o, text, known, NULL);
    common.device = i < 0 ? NULL : list ? text : known[i];
    return i < 0 ? EXIT_USAGE : 0;
}

bool devices_listed(void)
{
    return common.device && strpbrk(common.device, ":,");
}

static int choose_isa(const struct option *o, const char *text)
{
    static const char *const known[] = { "auto", "scalar", "avx2", "avx512", "neon", NULL }, *const later[] = { "amx", "sve", NULL };
    const int i = choose(o, text, known, later);
    common.isa = i < 0 ? NULL : known[i];
    return i < 0 ? EXIT_USAGE : 0;
}

static int choose_numerics(const struct option *o, const char *text)
{
    static const char *const known[] = { "strict", "fast", NULL }, *const later[] = { "native", NULL };
    static const int levels[] = { RONDO_STRICT, RONDO_FAST };
    const int i = choose(o, text, known, later);
    common.level = i < 0 ? RONDO_STRICT : levels[i];
    return i < 0 ? EXIT_USAGE : 0;
}

int common_strict(void)
{
    return common.level == RONDO_STRICT ? 0 : fail(EXIT_USAGE, "--numerics fast is a level of attend, generate, score, bench linear and bench "
                                                               "generate; all else is strict");
}

int attention_level(int kv_type)
{
    return kv_type == RONDO_BF16 || kv_type == RONDO_F16 ? common.level : RONDO_STRICT;
}

static int choose_arithmetic(const struct option *o, const char *text)
{
    static const char *const known[] = { "f32", "f64", "bf16-hopper", NULL }, *const later[] = { "bf16-dot", "bf16-tile", NULL };
    static const int arithmetics[] = { RONDO_ARITHMETIC_F32, RONDO_ARITHMETIC_F64, RONDO_ARITHMETIC_BF16_HOPPER };
    const int i = choose(o, text, known, later);
    common.arithmetic = i < 0 ? RONDO_ARITHMETIC_F32 : arithmetics[i];
    return i < 0 ? EXIT_USAGE : 0;
}

int common_f32(const char *command)
{
    return common.arithmetic == RONDO_ARITHMETIC_F32 ? 0 : fail(EXIT_USAGE, "--arithmetic %s is one of attend, verify and bench attention; %s computes in f32",
                                                                rondo_arithmetic_name(common.arithmetic), command);
}

static int choose_layout(const struct option *o, const char *text)
{
    static const char *const known[] = { "contiguous", "zigzag", "striped", "snake", "document", NULL };
    static const int layouts[] = { RONDO_CONTIGUOUS, RONDO_ZIGZAG, RONDO_STRIPED, RONDO_SNAKE, RONDO_DOCUMENT };
    const int i = choose(o, text, known, NULL);
    common.layout = i < 0 ? 0 : layouts[i];
    return i < 0 ? EXIT_USAGE : 0;
}

static int choose_algorithm(const struct option *o, const char *text)
{
    static const char *const known[] = { "auto", "pass-kv", "pass-q", "all-gather", "all-to-all", "reduce", "halo", "mesh", NULL };
    static const int algorithms[] = { RONDO_ALGORITHM_AUTO, RONDO_PASS_KV, RONDO_PASS_Q, RONDO_ALL_GATHER, RONDO_ALL_TO_ALL, RONDO_REDUCE,
                                      RONDO_HALO, RONDO_MESH };
    const int i = choose(o, text, known, NULL);
    common.algorithm = i < 0 ? 0 : algorithms[i];
    return i < 0 ? EXIT_USAGE : 0;
}

static int choose_grid(const struct option *o, const char *text)
{
    struct list two = { NULL, 0 };
    const struct option as_list = { .name = o->name, .to = &two, .low = 1, .high = 4096 };
    int code = option_list(&as_list, text);
    if (!code && two.count != 2)
        code = fail(EXIT_USAGE, "--grid %s: two whole numbers A,B are expected, whose product is the number of ranks", text);
    for (int i = 0; i < 2 && !code; i++)
        common.grid[i] = (int32_t)two.at[i];
    free(two.at);
    return code;
}

int grid_check(int64_t ranks)
{
    if (!common.grid[0])
        return 0;
    if (common.algorithm != RONDO_MESH && common.algorithm != RONDO_ALL_TO_ALL)
        return fail(EXIT_USAGE, "--grid %d,%d goes with --algorithm mesh or all-to-all; add one of them, or leave --grid out", (int)common.grid[0],
                    (int)common.grid[1]);
    if ((int64_t)common.grid[0] * common.grid[1] != ranks)
        return fail(EXIT_USAGE, "--grid %d,%d has %lld ranks and there are %lld; the product must be the number of ranks", (int)common.grid[0],
                    (int)common.grid[1], (long long)common.grid[0] * common.grid[1], (long long)ranks);
    return 0;
}

static int choose_progress(const struct option *o, const char *text)
{
    static const char *const known[] = { "auto", "always", "never", NULL };
    const int i = choose(o, text, known, NULL);
    common.progress = i < 0 ? 0 : i;
    return i < 0 ? EXIT_USAGE : 0;
}

static int choose_spread(const struct option *o, const char *text)
{
    static const char *const known[] = { "auto", "yes", "no", NULL };
    const int i = choose(o, text, known, NULL);
    common.spread = i < 0 ? 0 : i;
    return i < 0 ? EXIT_USAGE : 0;
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
    { "tp", 0, OPTION_INT, "N", "tensor-parallel ranks (default 1); cp x tp ranks in all", &common.tp, 1, 4096, NULL },
    { "spread", 0, OPTION_CALL, "auto|yes|no", "context-parallel ranks share the linear layers too, instead of each having them (auto: where they "
      "do not fit otherwise)", NULL, 0, 0, choose_spread },
    { "weights", 0, OPTION_CALL, "f32|bf16|f16|q8", "type that linear layers are held in (default: as the files have them)", &common.weights, 0, 0,
      option_number_type },
    { "ranks", 0, OPTION_REFUSED, "N", "a language model runs on cp x tp ranks; write --cp N", NULL, 0, 0, NULL },
    { NULL, 0, OPTION_FLAG, NULL, NULL, NULL, 0, 0, NULL },
};
const struct option options_machine[] = {
    { "transport", 0, OPTION_CALL, "threads|mpi|nccl", "what ranks are (default threads; mpi under mpirun); nccl: either, with a card each",
      NULL, 0, 0, choose_transport },
    { "device", 0, OPTION_CALL, "cpu|cuda|LIST", "what computes (default cpu); cuda:0-3,cpu: dealt out to ranks", NULL, 0, 0, choose_device },
    { "threads", 0, OPTION_INT, "N", "threads inside one rank (default: cores shared out evenly)", &common.threads, 1, 4096, NULL },
    { "isa", 0, OPTION_CALL, "NAME", "auto, scalar, avx2, avx512 or neon", NULL, 0, 0, choose_isa },
    { "numerics", 0, OPTION_CALL, "strict|fast", "level of the numerics contract; fast: linear layers by OpenBLAS, or, with attention, NVIDIA's libraries", NULL, 0, 0, choose_numerics },
    { "arithmetic", 0, OPTION_CALL, "NAME", "f32, or, with attend, verify and bench attention, f64 or bf16-hopper: the orders of cards' matrix units", NULL, 0, 0, choose_arithmetic },
    { "layout", 0, OPTION_CALL, "NAME", "contiguous, zigzag, striped, snake or document", NULL, 0, 0, choose_layout },
    { "algorithm", 0, OPTION_CALL, "NAME", "auto (default), pass-kv, pass-q, all-gather, all-to-all, reduce, halo or mesh", NULL, 0, 0,
      choose_algorithm },
    { "grid", 0, OPTION_CALL, "A,B", "A*B ranks; mesh: queries by keys; all-to-all: ranks of a group by groups", NULL, 0, 0, choose_grid },
    { "trace", 0, OPTION_TEXT, "FILE", "write a timeline of all ranks (Chrome trace JSON)", &common.trace, 0, 0, NULL },
    { NULL, 0, OPTION_FLAG, NULL, NULL, NULL, 0, 0, NULL },
};

static bool number_of(const char *name, int *out)
{
    const char *text = name ? getenv(name) : NULL;
    int64_t x;
    if (!text || parse_int(text, 0, 1 << 24, &x))
        return false;
    *out = (int)x;
    return true;
}

/* Of SLURM a step's tasks count, whom srun started; SLURM_NTASKS is the allocation's, and set in its shell too, where one process
 * runs. */
const char *mpi_environment(int *rank, int *size)
{
    static const char *const ranks[] = { "OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", NULL };
    static const char *const sizes[] = { "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", NULL };
    int i = 0, k = 0;
    while (ranks[i] && !number_of(ranks[i], rank))
        i++;
    if (!ranks[i])
        *rank = 0;
    while (sizes[k] && (!number_of(sizes[k], size) || *size < 1))
        k++;
    if (sizes[k])
        return sizes[k];
    /* An mpirun inside of a step starts more than that has tasks, in a name space of its own. */
    const char *space = getenv("PMIX_NAMESPACE");
    const bool step = !ranks[i] || (!strcmp(ranks[i], "PMIX_RANK") && space && !strncmp(space, "slurm", 5));
    if (step && number_of("SLURM_STEP_NUM_TASKS", size) && *size > 0) {
        if (*size > 1)
            number_of("SLURM_PROCID", rank);
        return "SLURM_STEP_NUM_TASKS";
    }
    *size = ranks[i] ? 0 : 1;
    return ranks[i];
}

/* A device that is known and not here ends the command before it has said anything. */
static int find_device(void)
{
    const char *name;
    int usable = 1;
    for (int i = 0; common.device && (name = rondo_device_name(i, strcmp(common.device, "cpu") ? &usable : NULL)); i++)
        if (!strcmp(name, common.device))
            return usable ? 0 : fail(EXIT_USAGE, "--device %s: %s", name, rondo_error_text());
    return 0;
}

/* The same of NCCL, over what the ranks will be. */
static int find_transport(void)
{
    const char *name, *wanted = common.mpi ? "nccl_mpi" : "nccl";
    int usable = 1;
    for (int i = 0; common.nccl && (name = rondo_transport_name(i, NULL)); i++)
        if (!strcmp(name, wanted) && rondo_transport_name(i, &usable) && !usable)
            return fail(EXIT_USAGE, "--transport nccl: %s", rondo_error_text());
    if (common.nccl && (!common.device || !strcmp(common.device, "cpu")))
        return fail(EXIT_USAGE, "--transport nccl moves between graphics cards; give each rank one, as --device cuda:0-3 does for four");
    return 0;
}

int common_settle(void)
{
    int rank, size;
    const char *variable = mpi_environment(&rank, &size);
    if (common.transport && !strcmp(common.transport, "threads") && size > 1)
        return fail(EXIT_USAGE, "--transport threads under mpirun would run the same work in %d processes (%s); leave it out or give "
                    "--transport mpi", size, variable);
    if (common.transport && !strcmp(common.transport, "threads") && size == 0)
        return fail(EXIT_USAGE, "--transport threads, but %s says that this process is rank %d of several, which would all run the same work; "
                    "leave it out or give --transport mpi, or unset %s where it runs alone", variable, rank, variable);
    /* MPICH takes the number from there and ends the program without it; other libraries would see one process. */
    if (!common.transport && size == 0 && !strcmp(variable, "PMI_RANK"))
        return fail(EXIT_USAGE, "PMI_RANK says that this process is rank %d of several, but PMI_SIZE does not say how many; start it with the "
                    "mpirun of the MPI that rondo was built with, unset PMI_RANK where it runs alone, or give --transport mpi where MPI "
                    "knows the number", rank);
    common.nccl = common.transport && !strcmp(common.transport, "nccl");
    common.mpi = common.transport && !common.nccl ? !strcmp(common.transport, "mpi") : size != 1;
    if (common.quiet && common.progress == 1)
        return fail(EXIT_USAGE, "--quiet and --progress always exclude each other; give one of them");
    if (common.quiet)
        common.progress = 2;
    const int code = find_device();
    return code ? code : find_transport();
}
