/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Hardware as a text: a JSON object of the fields of rondo_hardware, as rondo-plan(1) lists them and `rondo bench --calibrate` writes them. Read
 * here, by a reader of this one form that needs no library, as plans read it too ($RONDO_HARDWARE); what is not known is refused by its name,
 * as is what comes twice, and every sentence says in which line. Numbers are read the same in every locale and on every machine.
 *
 *   object   { "field": value, ... }      value: a number, true, false, a text (name), or a list of lists of numbers (attention_rates)
 */
#include "plan/plan.h"

#include <errno.h>
#include <stdio.h>

/* A file of this form has about a kilobyte. */
#define BYTES_MOST ((size_t)1 << 16)
#define NAME_MOST 40

enum form { REAL, WHOLE, TEXT, SWITCH, TABLE };
#define AT(member) offsetof(rondo_hardware, member)
static const struct field {
    const char *name;
    size_t at;
    enum form form;
    bool needed;
} fields[] = {
    { "name", 0, TEXT, false },
    { "peak_flops", AT(peak_flops), REAL, false },
    { "attention_flops", AT(attention_flops), REAL, false },
    { "gemm_flops", AT(gemm_flops), REAL, false },
    { "memory_bandwidth", AT(memory_bandwidth), REAL, true },
    { "link_bandwidth", AT(link_bandwidth), REAL, true },
    { "link_latency", AT(link_latency), REAL, false },
    { "all_to_all_bandwidth", AT(all_to_all_bandwidth), REAL, false },
    { "all_to_all_latency", AT(all_to_all_latency), REAL, false },
    { "overhead", AT(overhead), REAL, false },
    { "memory_bytes", AT(memory_bytes), REAL, false },
    { "local_bandwidth", AT(local_bandwidth), REAL, false },
    { "local_latency", AT(local_latency), REAL, false },
    { "operation_latency", AT(operation_latency), REAL, false },
    { "skew", AT(skew), REAL, false },
    { "node_ranks", AT(node_ranks), WHOLE, false },
    { "node_links", AT(node_links), WHOLE, false },
    { "cores", AT(cores), REAL, false },
    { "core_ranks", AT(core_ranks), WHOLE, false },
    { "core_slowest", AT(core_slowest), REAL, false },
    { "core_slice", AT(core_slice), REAL, false },
    { "core_turn", AT(core_turn), REAL, false },
    { "join_bandwidth", AT(join_bandwidth), REAL, false },
    { "delta_flops", AT(delta_flops), REAL, false },
    { "delta_backward_flops", AT(delta_backward_flops), REAL, false },
    { "link_burst", AT(link_burst), REAL, false },
    { "link_inward", AT(link_inward), REAL, false },
    { "link_work", AT(link_work), REAL, false },
    { "local_work", AT(local_work), REAL, false },
    { "attention_edge", AT(attention_edge), REAL, false },
    { "attention_rates", 0, TABLE, false },
    { "attention_rows", 1, TABLE, false },
    { "delta_rates", 2, TABLE, false },
    { "in_place", AT(in_place), SWITCH, false },
};
#define FIELDS (sizeof fields / sizeof *fields)

/* Lists of lists of a size and what it has; of a TABLE's field `at` is which of these. What they may be is looked at where all fields are. */
#define ROOM(member) (sizeof((rondo_hardware *)0)->member / sizeof(int64_t))
static const struct table {
    const char *line;                   /* in words */
    size_t room, sizes, values[2];      /* values: offsets; the second one 0 where there is but one */
    struct field size, value;
} tables[] = {
    { "a pair of a head size and its FLOP/s", ROOM(attention_dims), AT(attention_dims), { AT(attention_rates), 0 },
      { "attention_rates, of a head's size,", 0, WHOLE, true }, { "attention_rates", 0, REAL, true } },
    { "a pair of a number of rows and a part of the rate", ROOM(row_counts), AT(row_counts), { AT(row_parts), 0 },
      { "attention_rows, of a number of rows,", 0, WHOLE, true }, { "attention_rows", 0, REAL, true } },
    { "a list of a state's size and the FLOP/s of the rule and its gradients", ROOM(delta_dims), AT(delta_dims),
      { AT(delta_rates), AT(delta_backward_rates) }, { "delta_rates, of a state's size,", 0, WHOLE, true }, { "delta_rates", 0, REAL, true } },
};

/* ---- the form ---- */

struct text {
    const char *where, *at, *end;      /* where: the file's name, for sentences */
    int line;
};

static int wrong(const struct text *t, const char *expected)
{
    if (t->at == t->end)
        return rondo__fail(RONDO_EFORMAT, "%s: line %d: the file ends where %s should be; hardware is a JSON object of fields", t->where, t->line,
                           expected);
    const unsigned char c = (unsigned char)*t->at;
    if (c > 32 && c < 127)
        return rondo__fail(RONDO_EFORMAT, "%s: line %d: there is '%c' where %s should be; hardware is a JSON object of fields", t->where, t->line, c,
                           expected);
    return rondo__fail(RONDO_EFORMAT, "%s: line %d: there is a byte 0x%02x where %s should be; hardware is a JSON object of fields", t->where, t->line,
                       c, expected);
}

static void skip_space(struct text *t)
{
    for (; t->at < t->end && (*t->at == ' ' || *t->at == '\t' || *t->at == '\n' || *t->at == '\r'); t->at++)
        t->line += *t->at == '\n';
}

/* The next sign, if it is this one. */
static bool take(struct text *t, char sign)
{
    skip_space(t);
    if (t->at == t->end || *t->at != sign)
        return false;
    t->at++;
    return true;
}

static int expect(struct text *t, char sign, const char *called)
{
    return take(t, sign) ? 0 : wrong(t, called);
}

static bool is_digit(const struct text *t)
{
    return t->at < t->end && *t->at >= '0' && *t->at <= '9';
}

/* Its bytes as they stand; with an escape none of our names can be meant, and of other texts nothing is used. */
static int read_text(struct text *t, const char **begin, size_t *bytes)
{
    int err = expect(t, '"', "a quotation mark");
    *begin = t->at;
    for (; !err && t->at < t->end && *t->at != '"'; t->at++) {
        if ((unsigned char)*t->at < 32)
            return wrong(t, "the rest of a text");
        if (*t->at != '\\')
            continue;
        int more = t->end - t->at > 1 && t->at[1] == 'u' ? 4 : 0;   /* digits of an escape */
        if (++t->at == t->end || !strchr("\"\\/bfnrtu", *t->at) || !*t->at)
            return wrong(t, "an escape");
        for (; more; more--)
            if (++t->at == t->end || !strchr("0123456789abcdefABCDEF", *t->at) || !*t->at)
                return wrong(t, "one of four hexadecimal digits");
    }
    *bytes = (size_t)(t->at - *begin);
    return err ? err : expect(t, '"', "the end of a text");
}

/* x * 10^power: exact where both are (all that has up to 15 digits and a power of at most 22), else a few roundings off, on every machine alike. */
static double scaled(double x, int power)
{
    for (; power > 0; power -= power > 22 ? 22 : power) {
        double ten = 1.0;
        for (int i = 0; i < (power > 22 ? 22 : power); i++)
            ten *= 10.0;
        x *= ten;
    }
    for (; power < 0; power += power < -22 ? 22 : -power) {
        double ten = 1.0;
        for (int i = 0; i < (power < -22 ? 22 : -power); i++)
            ten *= 10.0;
        x /= ten;
    }
    return x;
}

/* *whole: neither a fraction nor an exponent. Numbers too large become infinite, which no field takes. */
static int read_number(struct text *t, double *value, bool *whole)
{
    uint64_t digits = 0;
    int power = 0, exponent = 0, sign = 1;
    const bool minus = take(t, '-');
    if (!is_digit(t))
        return wrong(t, "a number");
    *whole = true;
    const bool zero = *t->at == '0';
    for (int n = 0; is_digit(t); t->at++, n++) {
        if (n == 1 && zero)
            return wrong(t, "the end of a number that begins with 0");
        if (digits < 100000000000000000u)
            digits = digits * 10 + (uint64_t)(*t->at - '0');
        else
            power += power < 1000;
    }
    if (t->at < t->end && *t->at == '.') {
        t->at++;
        *whole = false;
        if (!is_digit(t))
            return wrong(t, "a digit");
        for (; is_digit(t); t->at++)
            if (digits < 100000000000000000u && power > -1000) {
                digits = digits * 10 + (uint64_t)(*t->at - '0');
                power--;
            }
    }
    if (t->at < t->end && (*t->at == 'e' || *t->at == 'E')) {
        t->at++;
        *whole = false;
        if (t->at < t->end && (*t->at == '+' || *t->at == '-'))
            sign = *t->at++ == '-' ? -1 : 1;
        if (!is_digit(t))
            return wrong(t, "a digit");
        for (; is_digit(t); t->at++)
            exponent = exponent < 1000 ? exponent * 10 + (*t->at - '0') : exponent;
    }
    while (digits && digits % 10 == 0 && digits >= (uint64_t)1 << 53) {
        digits /= 10;
        power++;
    }
    *value = (minus ? -1.0 : 1.0) * (digits ? scaled((double)digits, power + sign * exponent) : 0.0);
    return 0;
}

/* ---- fields ---- */

static int read_real(struct text *t, const struct field *f, void *to)
{
    double value = 0.0;
    bool whole = false;
    skip_space(t);
    const int line = t->line;
    if (t->at < t->end && !is_digit(t) && *t->at != '-')
        return rondo__fail(RONDO_EFORMAT, "%s: line %d: %s takes a%s number", t->where, line, f->name, f->form == WHOLE ? " whole" : "");
    int err = read_number(t, &value, &whole);
    if (err)
        return err;
    if (f->form == WHOLE && (!whole || value > 9007199254740992.0 || value < -9007199254740992.0))
        return rondo__fail(RONDO_EFORMAT, "%s: line %d: %s takes a whole number", t->where, line, f->name);
    /* 0 stands for a default in the structure; in a file the field is left out for that */
    if (!(value >= 0.0 && value <= 1e30) || (value == 0.0 && (f->needed || f->form == WHOLE)))
        return rondo__fail(RONDO_EFORMAT, "%s: line %d: %s is %g; it takes a number %s, at most 1e30", t->where, line, f->name, value,
                           f->needed || f->form == WHOLE ? "above 0" : "from 0 on");
    if (f->form == WHOLE)
        *(int64_t *)to = (int64_t)value;
    else
        *(double *)to = value;
    return 0;
}

static int read_switch(struct text *t, const struct field *f, int32_t *to)
{
    static const char *const words[] = { "false", "true" };
    skip_space(t);
    for (int i = 0; i < 2; i++) {
        const size_t n = strlen(words[i]);
        if ((size_t)(t->end - t->at) >= n && !memcmp(t->at, words[i], n)) {
            t->at += n;
            *to = i;
            return 0;
        }
    }
    return rondo__fail(RONDO_EFORMAT, "%s: line %d: %s takes true or false", t->where, t->line, f->name);
}

static int read_table(struct text *t, const struct field *f, rondo_hardware *h)
{
    const struct table *table = &tables[f->at];
    char list[100];
    size_t n = 0;
    snprintf(list, sizeof list, "a list of which each part is %s", table->line);
    int err = expect(t, '[', list);
    do {
        if (!err && n == table->room)
            return rondo__fail(RONDO_EFORMAT, "%s: line %d: %s takes 1 to %zu times %s", t->where, t->line, f->name, table->room, table->line);
        if (!err)
            err = expect(t, '[', table->line);
        if (!err)
            err = read_real(t, &table->size, (char *)h + table->sizes + n * sizeof(int64_t));
        for (int i = 0; i < 2 && !err && table->values[i]; i++) {
            err = expect(t, ',', "a comma");
            if (!err)
                err = read_real(t, &table->value, (char *)h + table->values[i] + n * sizeof(double));
        }
        if (!err)
            err = expect(t, ']', "its end");
        n++;
    } while (!err && take(t, ','));
    return err ? err : expect(t, ']', "a comma, or the end of the list");
}

/* The field that a name is one or two letters off: ", did you mean ...?"; else nothing. */
static const char *hint(const char *name, size_t bytes, char *room, size_t room_bytes)
{
    unsigned row[NAME_MOST + 1], least = 3;
    room[0] = 0;
    for (size_t f = 0; f < FIELDS && bytes <= NAME_MOST; f++) {
        const char *other = fields[f].name;
        for (unsigned j = 0; j <= bytes; j++)
            row[j] = j;
        for (size_t i = 0; other[i]; i++) {   /* letters to change, leave out or put in */
            unsigned corner = row[0]++;
            for (size_t j = 0; j < bytes; j++) {
                const unsigned change = corner + (other[i] != name[j]), in = row[j] + 1, out = row[j + 1] + 1;
                corner = row[j + 1];
                row[j + 1] = change < in ? change < out ? change : out : in < out ? in : out;
            }
        }
        if (row[bytes] < least) {
            least = row[bytes];
            snprintf(room, room_bytes, ", did you mean %s?", other);
        }
    }
    return room;
}

static int read_field(struct text *t, rondo_hardware *h, bool seen[FIELDS])
{
    const char *name, *ignored;
    char near[80], shown[NAME_MOST + 1] = "";
    size_t bytes, i = 0, length;
    int err = read_text(t, &name, &bytes);
    if (err)
        return err;
    while (i < FIELDS && (strlen(fields[i].name) != bytes || memcmp(fields[i].name, name, bytes)))
        i++;
    for (size_t k = 0; k < NAME_MOST && k < bytes; k++)   /* a file's bytes are not for terminals */
        shown[k] = name[k] > 31 && name[k] < 127 ? name[k] : '?';
    if (i == FIELDS)
        return rondo__fail(RONDO_EFORMAT, "%s: line %d: '%s' is no field of hardware%s; rondo-plan(1) lists them", t->where, t->line, shown,
                           hint(name, bytes, near, sizeof near));
    if (seen[i])
        return rondo__fail(RONDO_EFORMAT, "%s: line %d: %s comes for the second time; leave one of them out", t->where, t->line, fields[i].name);
    seen[i] = true;
    err = expect(t, ':', "a colon");
    if (err)
        return err;
    void *const to = (char *)h + fields[i].at;
    switch (fields[i].form) {
    case TEXT:
        skip_space(t);
        if (t->at < t->end && *t->at != '"')
            return rondo__fail(RONDO_EFORMAT, "%s: line %d: %s takes a text", t->where, t->line, fields[i].name);
        return read_text(t, &ignored, &length);
    case SWITCH:
        return read_switch(t, &fields[i], to);
    case TABLE:
        return read_table(t, &fields[i], h);
    default:
        return read_real(t, &fields[i], to);
    }
}

int rondo__hardware_parse(const char *where, const char *text, size_t bytes, rondo_hardware *hardware)
{
    struct text t = { where, text, text + bytes, 1 };
    rondo_hardware h = RONDO_HARDWARE_INIT, complete;
    bool seen[FIELDS] = { false };
    int err = expect(&t, '{', "an opening brace");
    if (!err && !take(&t, '}')) {
        do
            err = read_field(&t, &h, seen);
        while (!err && take(&t, ','));
        if (!err)
            err = expect(&t, '}', "a comma, or the closing brace");
    }
    skip_space(&t);
    if (!err && t.at < t.end)
        err = wrong(&t, "the end of the file");
    for (size_t i = 0; i < FIELDS && !err; i++)
        if (fields[i].needed && !seen[i])
            err = rondo__fail(RONDO_EFORMAT, "%s: %s is missing; rondo-plan(1) lists the fields of hardware", where, fields[i].name);
    if (!err && h.peak_flops == 0.0 && (h.gemm_flops == 0.0 || h.attention_flops == 0.0))
        err = rondo__fail(RONDO_EFORMAT, "%s: peak_flops is missing; give it, or gemm_flops and attention_flops", where);
    if (!err && rondo__hardware_complete(&complete, &h)) {
        char sentence[512];
        snprintf(sentence, sizeof sentence, "%s", rondo_error_text());
        err = rondo__fail(RONDO_EFORMAT, "%s: %s", where, sentence);
    }
    if (!err)
        *hardware = h;
    return err;
}

/* ---- the file ---- */

static int read_file(const char *path, rondo_hardware *h)
{
    char names[RONDO_HARDWARE_NAMES];
    errno = 0;
    FILE *f = fopen(path, "rb");
    if (!f)
        return rondo__fail(RONDO_EIO, "%s cannot be opened (%s), nor is it hardware known by name; %s are", path, strerror(errno),
                           rondo__hardware_names(names));
    char *text = rondo__alloc(BYTES_MOST + 1);
    const size_t bytes = text ? fread(text, 1, BYTES_MOST + 1, f) : 0;
    int err = 0;
    if (!text)
        err = rondo__fail(RONDO_ENOMEM, "no memory to read %s", path);
    else if (ferror(f))
        err = rondo__fail(RONDO_EIO, "%s cannot be read: %s", path, strerror(errno));
    else if (bytes > BYTES_MOST)
        err = rondo__fail(RONDO_EFORMAT, "%s has more than %zu bytes; hardware is a JSON object of fields", path, BYTES_MOST);
    fclose(f);
    if (!err)
        err = rondo__hardware_parse(path, text, bytes, h);
    rondo__free(text);
    return err;
}

int rondo_hardware_read(const char *name, rondo_hardware *hardware)
{
    rondo_hardware h = RONDO_HARDWARE_INIT;
    const char *known;
    if (!name || !hardware)
        return rondo__fail(RONDO_EINVAL, "rondo_hardware_read: name or hardware is NULL");
    for (int i = 0; (known = rondo_hardware_name(i)); i++)
        if (!strcmp(name, known))
            return rondo_hardware_find(name, hardware);
    const int err = read_file(name, &h);
    return err ? err : rondo__info_copy(hardware, &h, sizeof h, "rondo_hardware");
}
