/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What the libraries have to say short of failing: a field that has no effect, a tensor that nobody uses. They never print; they
 * tell a log, and here is who listens. Each warning becomes one line on stderr, from rank 0, once in a run however often the same
 * folder is opened; --quiet keeps it back. Sentences of other levels are for those who embed the libraries.
 */
#include "cli/cli.h"

#include <pthread.h>
#include <string.h>

#define TOLD_MAX 64

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;   /* any thread of the libraries may have something to say */
static uint64_t told[TOLD_MAX];                            /* by their hashes */
static int told_count;

static uint64_t sentence_hash(const char *text)
{
    uint64_t h = 0xcbf29ce484222325u;   /* FNV-1a: two warnings that meet cost one of them */
    for (; *text; text++)
        h = (h ^ (unsigned char)*text) * 0x100000001b3u;
    return h;
}

static void on_sentence(void *user, int level, const char *sentence)
{
    (void)user;
    if (level > RONDO_LOG_WARNING || common.quiet || !ranks_first())
        return;
    const uint64_t hash = sentence_hash(sentence);
    pthread_mutex_lock(&lock);
    int i = 0;
    while (i < told_count && told[i] != hash)
        i++;
    if (i == told_count) {
        if (told_count < TOLD_MAX)
            told[told_count++] = hash;
        warn_user("warning: %s", sentence);
    }
    pthread_mutex_unlock(&lock);
}

void warnings_listen(void)
{
    rondo_hooks hooks = RONDO_HOOKS_INIT;
    hooks.log = on_sentence;
    if (rondo_set_hooks(&hooks))
        warn_user("warning: %s", rondo_error_text());
}
