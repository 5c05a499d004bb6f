/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What the commands that run a language model share (lm_common.h).
 */
#include "cli/lm_common.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static rondo_context *model_context;   /* lives as long as the model */

static int read_here(const char *path, char **text, size_t *bytes)
{
    const bool standard = !strcmp(path, "-");
    FILE *f = standard ? stdin : fopen(path, "rb");
    const char *name = standard ? "stdin" : path;
    size_t space = 65536, n = 0;
    char *data = f ? malloc(space) : NULL;
    if (!f)
        return fail(EXIT_INPUT, "%s cannot be read: %s", name, strerror(errno));
    while (data) {
        n += fread(data + n, 1, space - n - 1, f);
        if (n + 1 < space)
            break;
        char *more = space > SIZE_MAX / 4 ? NULL : realloc(data, space * 2);
        if (!more) {
            free(data);
            data = NULL;
        } else {
            data = more;
            space *= 2;
        }
    }
    const int error = data && ferror(f) ? errno : 0;
    if (!standard)
        fclose(f);
    if (!data)
        return fail(EXIT_ROOM, "not enough memory for %s", name);
    if (error) {
        free(data);
        return fail(EXIT_INPUT, "%s cannot be read: %s", name, strerror(error));
    }
    data[n] = 0;
    *text = data;
    *bytes = n;
    return 0;
}

int text_read(const char *path, char **text, size_t *bytes)
{
    int code = ranks_first() ? read_here(path, text, bytes) : 0;
    code = ranks_together(code);
    uint64_t size = *bytes;
    if (!code)
        code = ranks_bytes(&size, sizeof size);
    if (code)
        return code;
    if (!ranks_first()) {
        *text = size < SIZE_MAX ? malloc((size_t)size + 1) : NULL;
        *bytes = (size_t)size;
    }
    code = ranks_together(*text ? 0 : fail(EXIT_ROOM, "not enough memory for %s", path));
    if (!code)
        code = ranks_bytes(*text, *bytes);
    if (!code)
        (*text)[*bytes] = 0;
    return code;
}

int ids_parse(const char *where, const char *text, size_t bytes, int32_t **ids, int64_t *count)
{
    const char *p = text, *end = text + bytes;
    int64_t n = 0, space = 1024;
    int32_t *list = malloc((size_t)space * sizeof *list);
    static const char blank[] = " \t\r\n\v\f";
    while (list) {
        char word[16];
        int64_t id;
        while (p < end && *p && strchr(blank, *p))
            p++;
        if (p == end)
            break;
        size_t length = 0;
        while (p + length < end && p[length] && !strchr(blank, p[length]))
            length++;
        snprintf(word, sizeof word, "%.*s", length < sizeof word ? (int)length : 15, p);
        if (!length || length > 10 || parse_int(word, 0, INT32_MAX, &id)) {
            free(list);
            return fail(EXIT_INPUT, "%s: '%s' at byte %zu is no token id; whole numbers separated by white space are expected", where, word,
                        (size_t)(p - text));
        }
        if (n == space) {
            int32_t *more = realloc(list, (size_t)(space *= 2) * sizeof *list);
            if (!more)
                free(list);
            list = more;
            if (!list)
                break;
        }
        list[n++] = (int32_t)id;
        p += length;
    }
    if (!list)
        return fail(EXIT_ROOM, "%s: not enough memory for the token ids", where);
    *ids = list;
    *count = n;
    return 0;
}

static void on_weights(void *user, uint64_t done, uint64_t total)
{
    (void)user;
    progress_set(done, total);
}

int model_open(rondo_model **model, const char *dir, enum model_text text)
{
    rondo_context_desc desc = RONDO_CONTEXT_DESC_INIT;
    rondo_model_desc model_desc = RONDO_MODEL_DESC_INIT;
    desc.isa = common.isa;
    desc.threads = (int32_t)common.threads;
    model_desc.progress = on_weights;
    model_desc.no_tokenizer = text == MODEL_IDS;
    model_desc.threads = (int32_t)common.threads;
    progress_begin("reading the model");
    int code = fail_library(rondo_context_create(&model_context, &desc), STAGE_OPTIONS);
    if (!code)
        code = fail_library(rondo_model_open(model, model_context, dir, &model_desc), STAGE_INPUT);
    progress_end();
    return ranks_together(code);
}

void model_close(rondo_model *model)
{
    rondo_model_close(model);
    rondo_context_destroy(model_context);
    model_context = NULL;
}

void lm_warn_length(const rondo_model_info *info, int64_t tokens)
{
    if (info->max_positions > 0 && tokens > info->max_positions)
        warn_user("warning: %lld tokens, but the model was made for %lld (max_position_embeddings); beyond them it may be at a loss",
                  (long long)tokens, (long long)info->max_positions);
}

int lm_ranks_check(void)
{
    if (common.grid[0])
        return fail(EXIT_USAGE, "--grid: a language model's ranks are arranged as its plans choose; leave --grid out");
    if (common.mpi && common.cp && common.cp != ranks_world())
        return fail(EXIT_USAGE, "--cp %lld does not fit the %d processes of this run; start it as mpirun -n %lld rondo ..., or leave --cp out",
                    (long long)common.cp, ranks_world(), (long long)common.cp);
    return 0;
}

json_t *json_text(const char *text, size_t bytes)
{
    json_t *s = json_stringn(text, bytes);
    char *clean = s ? NULL : malloc(bytes * 3 + 1);
    size_t n = 0;
    for (size_t i = 0; clean && i < bytes;) {
        size_t length = 1;
        const unsigned char c = (unsigned char)text[i];
        const size_t want = c < 0x80 ? 1 : c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;
        while (length < want && i + length < bytes && ((unsigned char)text[i + length] & 0xc0) == 0x80)
            length++;
        json_t *one = length == want ? json_stringn(text + i, length) : NULL;
        memcpy(clean + n, one ? text + i : "\xef\xbf\xbd", one ? length : 3);
        n += one ? length : 3;
        i += one ? length : 1;
        json_decref(one);
    }
    if (clean)
        s = json_stringn(clean, n);
    free(clean);
    return s;
}
