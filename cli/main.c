/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The rondo program: finds the command, runs it, prints the one sentence of a failure, and returns its exit code.
 */
#include "cli/cli.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <string.h>
#include <time.h>
#include <unistd.h>

static const struct command *const commands[] = { &command_attend, &command_kda, &command_generate, &command_score, &command_tokenize, &command_verify,
                                                  &command_bench, &command_plan, &command_info };
/* Known by name, so that a user learns that it is no slip of the pen. */
static const char *const later[] = { "serve" };

static int program_help(FILE *to)
{
    fprintf(to, "Usage: rondo COMMAND [OPTION]...\n\n"
                "Exact attention over long contexts on many ranks; the bits of the answer do not depend on how the work was\n"
                "laid out.\n\nCommands:\n");
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        fprintf(to, "  %-10s %.*s\n", commands[i]->name, (int)strcspn(commands[i]->about, "\n"), commands[i]->about);
    fprintf(to, "\n'rondo COMMAND --help' lists a command's options; the manual is rondo(1).\n");
    return to == stdout ? output_check() : EXIT_USAGE;
}

static int dispatch(int argc, char **argv)
{
    if (argc < 2) {
        int rank, size;
        mpi_environment(&rank, &size);
        return rank ? EXIT_USAGE : program_help(stderr);
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || (!strcmp(argv[1], "help") && argc == 2))
        return program_help(stdout);
    if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V")) {
        printf("rondo %s (numerics contract %d)\n", rondo_version(), rondo_numerics_version());
        return output_check();
    }
    if (!strcmp(argv[1], "help") && argc == 3) {   /* of a command */
        static char ask[] = "--help";
        char *swapped[] = { argv[0], argv[2], ask, NULL };
        return dispatch(3, swapped);
    }
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (!strcmp(argv[1], commands[i]->name))
            return commands[i]->run(commands[i], argc - 1, argv + 1);
    for (size_t i = 0; i < sizeof later / sizeof *later; i++)
        if (!strcmp(argv[1], later[i]))
            return fail(EXIT_USAGE, "the command '%s' is not part of this version; 'rondo --help' lists those that are", argv[1]);
    struct near near = { argv[1], strlen(argv[1]), NULL, 0 };
    char hint[NEAR_HINT];
    if (argv[1][0] == '-') {
        near.typed += strspn(argv[1], "-");
        near.length = strlen(near.typed);
        near_try(&near, "help");
        near_try(&near, "version");
        return fail(EXIT_USAGE, "unknown option '%s' before a command%s; 'rondo --help' lists the commands", argv[1], near_hint(&near, "--", hint));
    }
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        near_try(&near, commands[i]->name);
    return fail(EXIT_USAGE, "unknown command '%s'%s; 'rondo --help' lists the commands", argv[1], near_hint(&near, "", hint));
}

/* glibc gives threads arenas of their own, up to 8 a core of the machine, and reserves 64 MiB of address space for each: more than a
 * limit (ulimit -v) may allow. Ranks allocate seldom while they work; a few arenas serve them all. */
static void limit_address_space(void)
{
#ifdef M_ARENA_MAX
    mallopt(M_ARENA_MAX, 4);
#endif
}

int main(int argc, char **argv)
{
    limit_address_space();
    program_began = now();
    signals_install();
    warnings_listen();
    int code = dispatch(argc, argv);
    progress_end();
    if (!code)
        code = output_check();
    /* In an MPI run every process comes here with the same code; the sentence is printed once, unless they lost each other. */
    int rank, size;
    mpi_environment(&rank, &size);
    if (code && code != EXIT_DIFFERS && *fail_text() && (rank == 0 || ranks_apart())) {
        fflush(stdout);
        say_line(fail_text(), "");
    }
    /* mpirun ends the others as soon as one process fails: the one that has something to say goes first. Who failed before it could
     * tell the others speaks after that, if it still can: then rank 0 waits for it, and knows nothing. */
    if (code && (rank || ranks_apart())) {
        char host[64] = "", where[96];
        nanosleep(&(struct timespec){ ranks_apart() ? 0 : 1, ranks_apart() ? 300000000 : 0 }, NULL);
        if (rank && ranks_alone() && *fail_text() && !gethostname(host, sizeof host - 1)) {
            snprintf(where, sizeof where, " (on rank %d, host %s)", rank, host);
            say_line(fail_text(), where);
        }
    }
    return code;
}
