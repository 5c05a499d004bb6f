/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What the commands that run a language model share (lm_common.h).
 */
#include "cli/lm_common.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* As many ranks the transport "threads" can start, which would say so itself, but not before all their parts were read. */
#define THREADS_MOST 1024

/* A text comes into memory as a whole, and its ids and what makes them take several times as much: a device that never ends is refused
 * before the machine is full of it. */
static size_t text_most(void)
{
    const uint64_t most = space_memory() / 8, least = (uint64_t)1 << 20;
    return most < least ? (size_t)least : most > SIZE_MAX / 8 ? SIZE_MAX / 8 : (size_t)most;
}

static int read_here(const char *path, char **text, size_t *bytes)
{
    const bool standard = !strcmp(path, "-");
    FILE *f = standard ? stdin : fopen(path, "rb");
    const char *name = standard ? "stdin" : path;
    const size_t most = text_most();
    size_t space = 65536, n = 0;
    char *data = f ? malloc(space) : NULL;
    if (!f)
        return fail(EXIT_INPUT, "%s cannot be read: %s", name, strerror(errno));
    while (data) {
        n += fread(data + n, 1, space - n - 1, f);
        if (n + 1 < space || n > most)
            break;
        char *more = realloc(data, space * 2);
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
    if (n > most) {
        free(data);
        return fail(EXIT_ROOM, "%s has more than %zu bytes, an eighth of the memory that is left here; give a shorter text", name, most);
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
        snprintf(word, sizeof word, "%.*s", length ? length < sizeof word ? (int)length : 15 : 4, length ? p : "\\x00");
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

int ids_check(const char *where, const int32_t *ids, int64_t count, const rondo_model_info *info)
{
    for (int64_t i = 0; i < count; i++)
        if (ids[i] >= info->vocabulary)
            return fail(EXIT_INPUT, "%s: the id %d at place %lld is not in the model's vocabulary; ids below %lld are expected", where, ids[i],
                        (long long)i, (long long)info->vocabulary);
    return 0;
}

/* ---- the model ---- */

struct reading {
    int32_t part, parts;
};

static void on_weights(void *user, uint64_t done, uint64_t total)
{
    const struct reading *r = user;
    const uint64_t n = (uint64_t)r->parts;
    progress_set((uint64_t)r->part * (total / n) + done / n, total);
}

/* Part i of those that are opened here; of a rank's own, i is 0. */
static void describe(const struct models *m, int32_t i, rondo_model_desc *d)
{
    const int32_t rank = m->own ? ranks_rank() % (m->tp * m->cp) : 0;   /* one that is left over takes no part */
    const int32_t t = m->own ? rank % m->tp : m->each ? i / m->cp : i, c = m->own ? rank / m->tp : m->each ? i % m->cp : 0;
    d->tp_ranks = m->tp;
    d->tp_rank = t;
    d->cp_ranks = m->spread ? m->cp : 0;
    d->cp_rank = m->spread ? c : 0;
    d->weights = common.weights;
    d->level = common.level;
}

/* A context of the device on which part i will be used; where all ranks have one device it is made once. */
static int context_for(const struct models *m, int32_t i, rondo_context **ctx)
{
    rondo_context_desc desc = RONDO_CONTEXT_DESC_INIT;
    const int32_t t = i / m->cp, c = i % m->cp;
    if (*ctx && !devices_listed())
        return 0;
    rondo_context_destroy(*ctx);
    *ctx = NULL;
    desc.device = common.device;
    desc.device_index = !devices_listed() ? 0 : m->own ? ranks_rank() : c * m->tp + t;
    desc.isa = common.isa;
    desc.threads = m->own ? (int32_t)common.threads : 0;   /* read one after the other, each by all cores */
    return fail_library(rondo_context_create(ctx, &desc), STAGE_OPTIONS);
}

static int open_for(struct models *m, const char *dir, enum model_text text, bool meter)
{
    rondo_context *ctx = NULL;     /* the models keep what they need of its device */
    struct reading reading = { 0, 1 };
    m->each = m->spread || devices_listed();   /* a rank's weights are where it computes */
    m->count = m->own ? 1 : m->each ? m->tp * m->cp : m->tp;
    m->at = room(m->count, sizeof *m->at);
    reading.parts = m->count;
    if (m->at)
        memset(m->at, 0, (size_t)m->count * sizeof *m->at);
    if (meter)
        progress_begin("reading the model");
    int code = m->at ? context_for(m, 0, &ctx) : fail(EXIT_ROOM, "not enough memory for %d parts of a model", m->count);
    for (int32_t i = 0; i < m->count && !code; i++) {
        rondo_model_desc d = RONDO_MODEL_DESC_INIT;
        d.progress = meter ? on_weights : NULL;
        d.user = &reading;
        d.no_tokenizer = text == MODEL_IDS;
        reading.part = i;
        describe(m, i, &d);
        if (i)
            code = context_for(m, i, &ctx);
        if (!code)
            code = fail_library(rondo_model_open(&m->at[i], ctx, dir, &d), STAGE_INPUT);
    }
    rondo_context_destroy(ctx);
    if (meter)
        progress_end();
    return ranks_together(code);
}

static struct models ranks_of(int tp, int cp, bool spread)
{
    return (struct models){ .tp = tp, .cp = cp, .spread = spread && cp > 1, .own = ranks_world() > 1 };
}

int models_open_quietly(struct models *m, const char *dir, int tp, int cp, bool spread)
{
    *m = ranks_of(tp, cp, spread);
    return open_for(m, dir, MODEL_IDS, false);
}

int models_open(struct models *m, const char *dir, enum model_text text, int kv_type)
{
    *m = ranks_of(common.tp ? (int)common.tp : 1, common.cp ? (int)common.cp : 1, common.spread == 1);
    const int code = memory_check(m, dir, kv_type, 0, 0);
    return code ? code : open_for(m, dir, text, true);
}

void models_close(struct models *m)
{
    for (int32_t i = 0; i < m->count && m->at; i++)
        rondo_model_close(m->at[i]);
    free(m->at);
    *m = (struct models){ .count = 0 };
}

const rondo_model *models_any(const struct models *m)
{
    return m->at ? m->at[0] : NULL;
}

const rondo_model *models_of(const struct models *m, const rondo_context *ctx)
{
    const int32_t rank = rondo_context_rank(ctx), t = rank % m->tp, c = rank / m->tp;
    return m->at[m->own ? 0 : m->each ? t * m->cp + c : t];
}

void report_grid(json_t *report, const struct models *m)
{
    rondo_model_info info = RONDO_MODEL_INFO_INIT;
    json_object_set_new(report, "tp", json_integer(m->tp));
    json_object_set_new(report, "cp", json_integer(m->cp));
    json_object_set_new(report, "spread", json_boolean(m->spread));
    if (!rondo_model_query(models_any(m), &info))
        json_object_set_new(report, "weight_bytes_per_rank", json_integer((json_int_t)info.weight_bytes));
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
    const int64_t world = ranks_world();
    if (common.mpi && common.tp && world % common.tp)
        return fail(EXIT_USAGE, "--tp %lld does not divide the %d processes of this run; cp x tp ranks are expected", (long long)common.tp, (int)world);
    if (common.mpi && common.cp && world % common.cp)
        return fail(EXIT_USAGE, "--cp %lld does not fit the %d processes of this run; start it as mpirun -n %lld rondo ..., or leave --cp out",
                    (long long)common.cp, (int)world, (long long)(common.cp * (common.tp ? common.tp : 1)));
    if (common.mpi && common.cp && common.tp && common.cp * common.tp != world)
        return fail(EXIT_USAGE, "--tp %lld and --cp %lld make %lld ranks, and there are %d processes; start it as mpirun -n %lld rondo ...",
                    (long long)common.tp, (long long)common.cp, (long long)(common.tp * common.cp), (int)world, (long long)(common.tp * common.cp));
    if (common.mpi) {   /* what is left open follows from the other, and by itself ranks are context-parallel */
        const int64_t tp = common.tp ? common.tp : common.cp ? world / common.cp : 1;
        common.cp = world / tp;
        common.tp = tp;
    }
    const int64_t tp = common.tp ? common.tp : 1, cp = common.cp ? common.cp : 1;
    if (!common.mpi && tp * cp > THREADS_MOST)
        return fail(EXIT_USAGE, "--tp %lld and --cp %lld make %lld ranks; at most %d can be threads, and more are started by mpirun", (long long)tp,
                    (long long)cp, (long long)(tp * cp), THREADS_MOST);
    return 0;
}

/* How many bytes the character at p has; *good false: so many that are none, of what may be the beginning of one (Unicode, 3.9: maximal
 * subparts). */
static size_t character(const unsigned char *p, size_t bytes, bool *good)
{
    const unsigned char a = *p;
    const size_t want = a < 0x80 ? 1 : a < 0xc2 ? 0 : a < 0xe0 ? 2 : a < 0xf0 ? 3 : a < 0xf5 ? 4 : 0;
    unsigned char low = a == 0xe0 ? 0xa0 : a == 0xf0 ? 0x90 : 0x80, high = a == 0xed ? 0x9f : a == 0xf4 ? 0x8f : 0xbf;
    size_t n = 1;
    for (; n < want && n < bytes && p[n] >= low && p[n] <= high; n++) {
        low = 0x80;
        high = 0xbf;
    }
    *good = n == want;
    return n;
}

char *text_clean(const char *text, size_t bytes, size_t *clean_bytes)
{
    char *clean = bytes < SIZE_MAX / 4 ? malloc(bytes * 3 + 1) : NULL;
    size_t n = 0;
    for (size_t i = 0; clean && i < bytes;) {
        bool good;
        const size_t length = character((const unsigned char *)text + i, bytes - i, &good);
        memcpy(clean + n, good ? text + i : "\xef\xbf\xbd", good ? length : 3);
        n += good ? length : 3;
        i += length;
    }
    if (clean)
        clean[n] = 0;
    *clean_bytes = n;
    return clean;
}

json_t *json_text(const char *text, size_t bytes)
{
    json_t *s = json_stringn(text, bytes);
    size_t n = 0;
    char *clean = s ? NULL : text_clean(text, bytes, &n);
    if (clean)
        s = json_stringn(clean, n);
    free(clean);
    return s;
}
