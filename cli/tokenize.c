/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo tokenize: text to token ids and back.
 */
#include "cli/lm_common.h"

#include <stdlib.h>
#include <string.h>

static struct {
    const char *model, *file;
    bool decode, no_special, special, pieces, lossy, plain;
} options;

static const struct option own_options[] = {
    { "model", 'm', OPTION_TEXT, "DIR", "the folder with tokenizer.json", &options.model, 0, 0, NULL },
    { "file", 'f', OPTION_TEXT, "FILE", "read this instead of stdin (- is stdin)", &options.file, 0, 0, NULL },
    { "decode", 0, OPTION_FLAG, NULL, "from ids to text (special tokens leave no trace)", &options.decode, 0, 0, NULL },
    { "special", 0, OPTION_FLAG, NULL, "with --decode: show special tokens too", &options.special, 0, 0, NULL },
    { "no-special", 0, OPTION_FLAG, NULL, "without BOS and EOS", &options.no_special, 0, 0, NULL },
    { "pieces", 0, OPTION_FLAG, NULL, "show the pieces, one a line, after their ids", &options.pieces, 0, 0, NULL },
    { "lossy", 0, OPTION_FLAG, NULL, "invalid UTF-8 becomes U+FFFD instead of an error", &options.lossy, 0, 0, NULL },
    { "plain", 0, OPTION_FLAG, NULL, "special tokens spelled in the text are text", &options.plain, 0, 0, NULL },
    { NULL, 0, OPTION_FLAG, NULL, NULL, NULL, 0, 0, NULL },
};

static int show_ids(const rondo_tokenizer *t, const int32_t *ids, int64_t count)
{
    if (common.json) {
        json_t *r = report_new(), *list = json_array(), *pieces = json_array();
        for (int64_t i = 0; i < count; i++) {
            const char *piece = rondo_tokenizer_piece(t, ids[i]);
            json_array_append_new(list, json_integer(ids[i]));
            json_array_append_new(pieces, json_text(piece ? piece : "", piece ? strlen(piece) : 0));
        }
        json_object_set_new(r, "tokens", json_integer(count));
        json_object_set_new(r, "ids", list);
        if (options.pieces)
            json_object_set(r, "pieces", pieces);
        json_decref(pieces);
        int code = report_alone(r);
        if (!code)
            return report_print(r);
        json_decref(r);
        return code;
    }
    for (int64_t i = 0; i < count; i++)
        if (options.pieces)
            printf("%d\t%s\n", ids[i], rondo_tokenizer_piece(t, ids[i]) ? rondo_tokenizer_piece(t, ids[i]) : "");
        else
            printf("%s%d", i ? " " : "", ids[i]);
    if (!options.pieces)
        putchar('\n');
    return output_check();
}

static int decode(const rondo_tokenizer *t, const char *where, const char *text, size_t bytes)
{
    int32_t *ids = NULL;
    int64_t count = 0;
    char *out = NULL;
    size_t out_bytes = 0;
    int code = ids_parse(where, text, bytes, &ids, &count);
    for (int64_t i = 0; i < count && !code; i++)
        if (ids[i] >= rondo_tokenizer_size(t))   /* a hole below it is no matter: models come to such ids, and they are no text */
            code = fail(EXIT_INPUT, "%s: the id %d at place %lld stands for no token; ids below %d are expected", where, ids[i],
                        (long long)i, rondo_tokenizer_size(t));
    if (!code && options.pieces)
        code = show_ids(t, ids, count);
    else if (!code) {
        code = fail_library(rondo_tokenizer_decode(t, ids, count, options.special ? RONDO_DECODE_SPECIAL : 0, &out, &out_bytes), STAGE_INPUT);
        if (!code && common.json) {
            json_t *r = report_new();
            json_object_set_new(r, "tokens", json_integer(count));
            json_object_set_new(r, "text", json_text(out, out_bytes));
            code = report_alone(r);
            if (!code)
                code = report_print(r);
            else
                json_decref(r);
        } else if (!code) {
            fwrite(out, 1, out_bytes, stdout);
            code = output_check();
        }
        rondo_lm_free(out);
    }
    free(ids);
    return code;
}

static int encode(const rondo_tokenizer *t, const char *where, const char *text, size_t bytes)
{
    const uint32_t flags = (options.no_special ? 0 : RONDO_ENCODE_SPECIAL) | (options.lossy ? RONDO_ENCODE_LOSSY : 0) |
                           (options.plain ? RONDO_ENCODE_PLAIN : 0);
    int32_t *ids = NULL;
    int64_t count = 0;
    const int error = rondo_tokenizer_encode(t, text, bytes, flags, &ids, &count);
    if (error)
        return fail_where(fail_library(error, STAGE_INPUT), where);
    const int code = show_ids(t, ids, count);
    rondo_lm_free(ids);
    return code;
}

static int tokenize_command(const struct command *self, int argc, char **argv)
{
    const struct option *const tables[OPTION_TABLES] = { own_options, options_output, NULL, NULL };
    rondo_tokenizer *tokenizer = NULL;
    int operands = 0;
    bool help;
    int code = options_parse(self, tables, argc, argv, NULL, 0, &operands, &help);
    if (code || help)
        return code;
    if (!options.model)
        return fail(EXIT_USAGE, "no model is given; add -m DIR");
    if (options.special && (!options.decode || options.no_special))
        return fail(EXIT_USAGE, "--special shows special tokens with --decode, and excludes --no-special");
    if ((options.lossy || options.plain) && options.decode)
        return fail(EXIT_USAGE, "--%s is about text that is read; with --decode ids are read", options.lossy ? "lossy" : "plain");
    if ((code = common_settle()) != 0)
        return code;
    if (!ranks_first())
        return 0;   /* under mpirun one of the processes does it */
    const char *path = options.file ? options.file : "-", *where = strcmp(path, "-") ? path : "stdin";
    char *text = NULL;
    size_t bytes = 0;
    code = fail_library(rondo_tokenizer_open(&tokenizer, options.model), STAGE_INPUT);
    if (!code)
        code = text_read(path, &text, &bytes);
    if (!code)
        code = options.decode ? decode(tokenizer, where, text, bytes) : encode(tokenizer, where, text, bytes);
    free(text);
    rondo_tokenizer_close(tokenizer);
    return code;
}

const struct command command_tokenize = {
    "tokenize", "tokenize -m DIR [-f FILE] [OPTION]...",
    "Turns text into token ids, and back.\n"
    "Reads stdin or FILE; prints the ids on one line.",
    tokenize_command,
};
