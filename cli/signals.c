/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Interrupts. Nothing of ours lies on disk until a result is being written, so a signal may end the program at once, except
 * while an output file is being written: then the flag is seen at the next piece and the writer ends in order, with a sentence. That may come too
 * late (mpirun kills a second after its signal), so where such a file has a name, the handler itself removes it. Either way the exit code is 128 and
 * the signal's number, as shells say it of a program that a signal ended: 130 SIGINT, 143 SIGTERM, 129 SIGHUP.
 */
#include "cli/cli.h"

#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

static volatile sig_atomic_t held, pending, doomed;
static char doomed_name[4096];   /* a longer one cannot be opened */

static void on_signal(int number)
{
    if (doomed)
        unlink(doomed_name);
    if (!held || pending) {
        progress_break();
        _exit(EXIT_SIGNAL + number);
    }
    pending = number;
}

/* ---- files that are looked at as memory ---- */

#define WATCHED 4
static struct {
    uintptr_t begin, end;
    const char *path;
} watched[WATCHED];

static void say(const char *text)
{
    if (write(STDERR_FILENO, text, strlen(text)) < 0)
        return;   /* nobody is left to be told */
}

static void on_bus(int number, siginfo_t *info, void *unused)
{
    (void)unused;
    for (int i = 0; i < WATCHED; i++)
        if (watched[i].path && (uintptr_t)info->si_addr >= watched[i].begin && (uintptr_t)info->si_addr < watched[i].end) {
            progress_break();
            say("rondo: ");
            say(watched[i].path);
            say(" became shorter, or can no longer be read, while it was in use; it must stay as it is meanwhile\n");
            _exit(EXIT_INPUT);
        }
    signal(number, SIG_DFL);   /* something else: it happens again, and ends the program as it always did */
}

void signals_watch(const void *map, size_t bytes, const char *path)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    sigemptyset(&action.sa_mask);
    action.sa_sigaction = on_bus;
    action.sa_flags = SA_SIGINFO;
    for (int i = 0; i < WATCHED; i++)
        if (!watched[i].path) {
            watched[i].begin = (uintptr_t)map;
            watched[i].end = (uintptr_t)map + bytes;
            watched[i].path = path;
            sigaction(SIGBUS, &action, NULL);
            return;
        }
}

void signals_unwatch(const void *map)
{
    for (int i = 0; i < WATCHED; i++)
        if (watched[i].path && watched[i].begin == (uintptr_t)map)
            watched[i].path = NULL;
}

void signals_install(void)
{
    static const int numbers[] = { SIGINT, SIGTERM, SIGHUP };
    struct sigaction action;
    memset(&action, 0, sizeof action);
    sigemptyset(&action.sa_mask);
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART;
    /* a file that grows beyond a limit is a full disk: the write fails, and says so */
    signal(SIGXFSZ, SIG_IGN);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        struct sigaction old;
        /* what nohup ignores stays ignored */
        if (!sigaction(numbers[i], NULL, &old) && old.sa_handler != SIG_IGN)
            sigaction(numbers[i], &action, NULL);
    }
}

void signals_file(const char *name)
{
    doomed = 0;
    if (!name || strlen(name) >= sizeof doomed_name)
        return;
    strcpy(doomed_name, name);
    doomed = 1;
    if (pending)   /* it came between the file and its name here */
        unlink(doomed_name);
}

void signals_hold(void)
{
    held = held + 1;
}

void signals_release(void)
{
    held = held - 1;
}

bool signals_pending(void)
{
    return pending != 0;
}

int signals_exit_code(void)
{
    return EXIT_SIGNAL + (pending ? pending : SIGINT);
}
