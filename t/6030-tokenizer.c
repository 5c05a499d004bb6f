/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Tokenizers against vectors made by Hugging Face's library (byte-level, SentencePiece-like and Metaspace files), and what must
 * hold for any text: decoding gives a byte-level text back, the stream gives what decoding gives, long words take no
 * quadratic time. Small files made here reach the steps that the three do not have.
 */
#include <jansson.h>

#include "core/internal.h"
#include "rondo_lm.h"
#include "t/tap.h"
#include "t/scratch.h"

static uint64_t state = 1;
static uint32_t next_random(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}

static const char *const names[] = { "byte-level", "sentencepiece-like", "metaspace" };
static rondo_tokenizer *tokenizers[3];

static void open_all(void)
{
    for (int i = 0; i < 3; i++) {
        char name[256];
        snprintf(name, sizeof name, i ? "t/golden/tokenizers/%s" : "examples/kjv", names[i]);
        if (!ok(!rondo_tokenizer_open(&tokenizers[i], source_path(name)), "%s opens", names[i])) {
            diag("%s", rondo_error_text());
            exit(done());
        }
    }
}

static int same_ids(const int32_t *ids, int64_t count, const json_t *want)
{
    if (count != (int64_t)json_array_size(want))
        return 0;
    for (int64_t i = 0; i < count; i++)
        if (ids[i] != json_integer_value(json_array_get(want, (size_t)i)))
            return 0;
    return 1;
}

static void show_ids(const char *what, const int32_t *ids, int64_t count)
{
    char text[400];
    size_t n = 0;
    for (int64_t i = 0; i < count && n < sizeof text - 16; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, " %d", (int)ids[i]);
    diag("%s: %lld ids%s", what, (long long)count, text);
}

/* Decoded through the stream, one id at a time; every piece must be whole characters. */
static char *through_stream(const rondo_tokenizer *t, const int32_t *ids, int64_t count, uint32_t flags, size_t *bytes)
{
    rondo_text_stream *s = NULL;
    char *all = calloc(1, 1);
    *bytes = 0;
    if (rondo_text_stream_create(&s, t, flags))
        return all;
    for (int64_t i = 0; i <= count; i++) {
        const char *text;
        size_t n;
        if (rondo_text_stream_push(s, i < count ? ids[i] : -1, &text, &n))
            break;
        if (n && (((unsigned char)text[0] & 0xc0) == 0x80 || text[n] != 0))
            break;
        char *more = realloc(all, *bytes + n + 1);
        if (!more)
            break;
        all = more;
        memcpy(all + *bytes, text, n + 1);
        *bytes += n;
    }
    rondo_text_stream_destroy(s);
    return all;
}

static void test_vectors(void)
{
    for (int k = 0; k < 3; k++) {
        char name[256];
        json_error_t error;
        snprintf(name, sizeof name, "t/golden/tokenizers/%s.json", names[k]);
        json_t *root = json_load_file(source_path(name), JSON_ALLOW_NUL, &error), *row;
        size_t i;
        ok(json_array_size(json_object_get(root, "vectors")) > 20, "%s has its vectors", names[k]);
        json_array_foreach(json_object_get(root, "vectors"), i, row) {
            const json_t *text = json_object_get(row, "text"), *decoded = json_object_get(row, "decoded");
            int32_t *ids = NULL, *plain = NULL;
            int64_t count = 0, plain_count = 0;
            char *back = NULL;
            size_t bytes = 0;
            int err = rondo_tokenizer_encode(tokenizers[k], json_string_value(text), json_string_length(text), RONDO_ENCODE_SPECIAL, &ids, &count);
            if (!ok(!err && same_ids(ids, count, json_object_get(row, "ids")), "%s, text %zu", names[k], i))
                show_ids(err ? rondo_error_text() : "got", ids, count);
            err = rondo_tokenizer_encode(tokenizers[k], json_string_value(text), json_string_length(text), 0, &plain, &plain_count);
            ok(!err && same_ids(plain, plain_count, json_object_get(row, "ids_no_special")), "without the post-processor");
            err = rondo_tokenizer_decode(tokenizers[k], ids, count, 0, &back, &bytes);
            if (!ok(!err && bytes == json_string_length(decoded) && !memcmp(back, json_string_value(decoded), bytes), "and back"))
                diag("%s", err ? rondo_error_text() : back);
            size_t stream_bytes;
            char *streamed = through_stream(tokenizers[k], ids, count, 0, &stream_bytes);
            ok(stream_bytes == bytes && !memcmp(streamed, back ? back : "", bytes), "the same as a stream");
            free(streamed);
            rondo_lm_free(back);
            rondo_lm_free(ids);
            rondo_lm_free(plain);
        }
        json_decref(root);
    }
}

static size_t put_character(char *to, uint32_t c)
{
    if (c < 0x80) {
        to[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        to[0] = (char)(0xc0 | c >> 6);
        to[1] = (char)(0x80 | (c & 0x3f));
        return 2;
    }
    if (c < 0x10000) {
        to[0] = (char)(0xe0 | c >> 12);
        to[1] = (char)(0x80 | (c >> 6 & 0x3f));
        to[2] = (char)(0x80 | (c & 0x3f));
        return 3;
    }
    to[0] = (char)(0xf0 | c >> 18);
    to[1] = (char)(0x80 | (c >> 12 & 0x3f));
    to[2] = (char)(0x80 | (c >> 6 & 0x3f));
    to[3] = (char)(0x80 | (c & 0x3f));
    return 4;
}

/* A text of random characters from several corners of Unicode, in runs. */
static size_t random_text(char *to, size_t characters)
{
    static const uint32_t ranges[][2] = { { 0x61, 26 },  { 0x20, 95 },    { 0x20, 1 },      { 0x09, 5 },      { 0xc0, 500 },  { 0x2000, 80 },
                                          { 0x4e00, 2000 }, { 0x600, 200 }, { 0x1f600, 80 }, { 0x300, 60 }, { 0, 0x7f }, { 0x30, 10 } };
    size_t n = 0;
    while (characters) {
        const uint32_t *r = ranges[next_random() % (sizeof ranges / sizeof ranges[0])];
        size_t run = 1 + next_random() % 6;
        for (; run && characters; run--, characters--)
            n += put_character(to + n, r[0] + next_random() % r[1]);
    }
    return n;
}

static void test_properties(void)
{
    int wrong_text = 0, wrong_stream = 0, wrong_split = 0;
    long rounds = long_tests() ? 20000 : 600;
    char text[2000];
    for (long r = 0; r < rounds; r++) {
        size_t n = random_text(text, next_random() % 120);
        for (int k = 0; k < 3; k++) {
            int32_t *ids = NULL, *again = NULL;
            int64_t count = 0, again_count = 0;
            char *back = NULL;
            size_t bytes = 0, stream_bytes = 0;
            if (rondo_tokenizer_encode(tokenizers[k], text, n, RONDO_ENCODE_PLAIN, &ids, &count) ||
                rondo_tokenizer_decode(tokenizers[k], ids, count, RONDO_DECODE_SPECIAL, &back, &bytes)) {
                diag("%s", rondo_error_text());
                wrong_text++;
                break;
            }
            if (k == 0 && (bytes != n || memcmp(back, text, n)))
                wrong_text++;
            char *streamed = through_stream(tokenizers[k], ids, count, RONDO_DECODE_SPECIAL, &stream_bytes);
            wrong_stream += stream_bytes != bytes || memcmp(streamed, back, bytes);
            free(streamed);
            /* ids in any order are a text too: valid UTF-8, the same as a stream */
            for (int64_t i = 0; i < count; i++)
                ids[i] = (int32_t)(next_random() % (uint32_t)rondo_tokenizer_size(tokenizers[k]));
            rondo_lm_free(back);
            if (rondo_tokenizer_decode(tokenizers[k], ids, count, 0, &back, &bytes) ||
                rondo_tokenizer_encode(tokenizers[k], back, bytes, 0, &again, &again_count))
                wrong_text++;
            streamed = through_stream(tokenizers[k], ids, count, 0, &stream_bytes);
            wrong_split += stream_bytes != bytes || memcmp(streamed, back, bytes);
            free(streamed);
            rondo_lm_free(again);
            rondo_lm_free(back);
            rondo_lm_free(ids);
        }
    }
    is_int(wrong_text, 0, "%ld random texts: byte-level gives each back, and any ids give UTF-8", rounds);
    is_int(wrong_stream, 0, "the stream gives what decoding gives");
    is_int(wrong_split, 0, "for ids in any order too");
}

static void test_flags_and_errors(void)
{
    const rondo_tokenizer *t = tokenizers[0];
    int32_t *ids = (int32_t *)(uintptr_t)8;
    int64_t count = 7;
    static const struct {
        const char *text;
        size_t bytes;
        const char *at;
    } bad[] = {
        { "ab\xff", 3, "byte 2" },           { "\x80", 1, "byte 0" },       { "a\xc3", 2, "byte 1" },       { "\xc0\x80", 2, "byte 0" },
        { "x\xed\xa0\x80", 4, "byte 1" },    { "\xf4\x90\x80\x80", 4, "byte 0" }, { "caf\xc3\xa9 \xe4\xb8", 8, "byte 6" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        is_int(rondo_tokenizer_encode(t, bad[i].text, bad[i].bytes, 0, &ids, &count), RONDO_EFORMAT, "invalid UTF-8 is refused");
        ok(strstr(rondo_error_text(), bad[i].at) && !ids && !count, "with its place: %s", rondo_error_text());
    }
    static const char lossy[] = "a\xf0\x9f\x98" "b\xff\xfe" "c\xe4\xb8";
    char *back = NULL;
    size_t bytes = 0;
    ok(!rondo_tokenizer_encode(t, lossy, sizeof lossy - 1, RONDO_ENCODE_LOSSY, &ids, &count) &&
       !rondo_tokenizer_decode(t, ids, count, 0, &back, &bytes), "or replaced where the caller asks for it");
    ok(back && !strcmp(back, "a\xef\xbf\xbd" "b\xef\xbf\xbd\xef\xbf\xbd" "c\xef\xbf\xbd"), "one U+FFFD for each part of a character: %s", back);
    rondo_lm_free(ids);
    rondo_lm_free(back);

    ok(!rondo_tokenizer_encode(t, "a<s>b", 5, RONDO_ENCODE_PLAIN, &ids, &count) && count == 5, "a special token's spelling can be text: %lld",
       (long long)count);
    ok(!rondo_tokenizer_decode(t, ids, count, 0, &back, &bytes) && !strcmp(back, "a<s>b"), "and comes back");
    rondo_lm_free(ids);
    rondo_lm_free(back);
    const int32_t special[] = { 0, 66, 1 };
    ok(!rondo_tokenizer_decode(t, special, 3, 0, &back, &bytes) && !strcmp(back, "a") && bytes == 1, "special tokens are left out");
    rondo_lm_free(back);
    ok(!rondo_tokenizer_decode(t, special, 3, RONDO_DECODE_SPECIAL, &back, &bytes) && !strcmp(back, "<s>a</s>"), "or shown");
    rondo_lm_free(back);
    ok(!rondo_tokenizer_encode(t, NULL, 0, 0, &ids, &count) && ids && count == 0, "no text gives no ids");
    rondo_lm_free(ids);
    ok(!rondo_tokenizer_decode(t, NULL, 0, 0, &back, &bytes) && back && !*back && !bytes, "no ids give no text");
    rondo_lm_free(back);

    is_int(rondo_tokenizer_size(t), 2048, "size");
    ok(!strcmp(rondo_tokenizer_piece(t, 0), "<s>") && rondo_tokenizer_id(t, "<s>") == 0 && rondo_tokenizer_is_special(t, 0) &&
       !rondo_tokenizer_is_special(t, 66) && !rondo_tokenizer_piece(t, 2048) && !rondo_tokenizer_piece(t, -1) &&
       rondo_tokenizer_id(t, "no such piece") == -1, "pieces and ids");
    const int32_t none[] = { 66, -1 };
    is_int(rondo_tokenizer_decode(t, none, 2, 0, &back, &bytes), RONDO_EINVAL, "an id that is none: %s", rondo_error_text());
    is_int(rondo_tokenizer_encode(t, "a", 1, 8, &ids, &count), RONDO_EINVAL, "a flag that is none");
    is_int(rondo_tokenizer_encode(NULL, "a", 1, 0, &ids, &count), RONDO_EINVAL, "no tokenizer");
    is_int(rondo_tokenizer_decode(t, none, -1, 0, &back, &bytes), RONDO_EINVAL, "a negative count");
    rondo_tokenizer *missing;
    is_int(rondo_tokenizer_open(&missing, scratch_dir), RONDO_EIO, "no file: %s", rondo_error_text());
}

static void test_long_words(void)
{
    enum { N = 1000000 };
    char *text = malloc(N);
    static const char *const what[] = { "one letter", "spaces", "random letters", "one Chinese character", "digits", "punctuation", "newlines" };
    for (int c = 0; c < 7; c++) {
        for (int i = 0; i < N; i++)
            text[i] = c == 0 ? 'z' : c == 1 ? ' ' : c == 2 ? (char)('a' + next_random() % 26) : c == 3 ? "\xe4\xb8\xad"[i % 3]
                    : c == 4 ? (char)('0' + next_random() % 10) : c == 5 ? '!' : '\n';
        for (int k = 0; k < 3; k++) {
            int32_t *ids = NULL;
            int64_t count = 0;
            char *back = NULL;
            size_t bytes = 0, n = c == 3 ? N - N % 3 : N;
            double begin = rondo__now();
            int err = rondo_tokenizer_encode(tokenizers[k], text, n, 0, &ids, &count);
            if (!err)
                err = rondo_tokenizer_decode(tokenizers[k], ids, count, 0, &back, &bytes);
            double seconds = rondo__now() - begin;
            /* the others put a space before the text, and their decoder takes one away */
            size_t want = n - (c == 1 && k == 2);
            ok(!err && bytes == want && !memcmp(back, text, want), "%s: a megabyte of %s and back", names[k], what[c]);
            if (err)
                diag("%s", rondo_error_text());
            ok(seconds < 10, "in %.2f s", seconds);
            rondo_lm_free(back);
            rondo_lm_free(ids);
        }
    }
    free(text);
}

/* ---- small files for single steps ---- */

/* A byte-level vocabulary is not needed for these: letters, space, U+2581, and what `more` adds. */
#define VOCAB "'a':0,'b':1,'c':2,' ':3,'ab':4,'\xe2\x96\x81':5,'\xe2\x96\x81" "a':6,'<unk>':7,'1':8,'A':9,'-':10,'\\u00e9':11"
#define MODEL "'model':{'type':'BPE','unk_token':'<unk>','vocab':{" VOCAB "},'merges':['a b',['\xe2\x96\x81','a']]}"

static rondo_tokenizer *small(const char *text)
{
    char copy[8192];
    rondo_tokenizer *t = NULL;
    snprintf(copy, sizeof copy, "%s", text);
    for (char *p = copy; *p; p++)
        if (*p == '\'')
            *p = '"';
    scratch_text("tokenizer.json", copy);
    if (rondo_tokenizer_open(&t, scratch_dir))
        diag("%s", rondo_error_text());
    return t;
}

/* The pieces of a text, with a bar between them. */
static const char *pieces(const rondo_tokenizer *t, const char *text, uint32_t flags)
{
    static char out[1000];
    int32_t *ids = NULL;
    int64_t count = 0;
    size_t n = 0;
    out[0] = 0;
    if (!t || rondo_tokenizer_encode(t, text, strlen(text), flags, &ids, &count))
        return rondo_error_text();
    for (int64_t i = 0; i < count && n < sizeof out - 100; i++)
        n += (size_t)snprintf(out + n, sizeof out - n, "%s%s", i ? "|" : "", rondo_tokenizer_piece(t, ids[i]));
    rondo_lm_free(ids);
    return out;
}

static void test_steps(void)
{
    static const struct {
        const char *what, *file, *text, *pieces;
    } rows[] = {
        { "no pre-tokenizer", "{" MODEL "}", "ab a", "ab| |a" },
        { "the unknown, each for itself", "{" MODEL "}", "xya", "<unk>|<unk>|a" },
        { "isolated", "{'pre_tokenizer':{'type':'Split','pattern':{'String':'b'},'behavior':'Isolated','invert':false}," MODEL "}", "abab", "a|b|a|b" },
        { "removed", "{'pre_tokenizer':{'type':'Split','pattern':{'String':'b'},'behavior':'Removed','invert':false}," MODEL "}", "abab", "a|a" },
        { "removed, inverted", "{'pre_tokenizer':{'type':'Split','pattern':{'Regex':'b+'},'behavior':'Removed','invert':true}," MODEL "}", "abba", "b|b" },
        { "merged with the one before", "{'pre_tokenizer':{'type':'Split','pattern':{'String':'b'},'behavior':'MergedWithPrevious','invert':false}," MODEL "}",
          "abbab", "ab|b|ab" },
        { "merged with the next", "{'pre_tokenizer':{'type':'Split','pattern':{'String':'a'},'behavior':'MergedWithNext','invert':false}," MODEL "}",
          "abaab", "ab|a|ab" },
        { "contiguous", "{'pre_tokenizer':{'type':'Split','pattern':{'String':'a'},'behavior':'Contiguous','invert':false}," MODEL "}", "baab", "b|a|a|b" },
        { "contiguous, of several letters", "{'pre_tokenizer':{'type':'Split','pattern':{'Regex':'[ab]'},'behavior':'Contiguous','invert':false}," MODEL "}",
          "abcabab", "ab|c|ab|ab" },
        { "a word that no merge gives", "{'model':{'type':'BPE','vocab':{'a':0,'b':1,'ba':2},'merges':[]}}", "ba", "b|a" },
        { "a word that is looked up whole", "{'model':{'type':'BPE','ignore_merges':true,'vocab':{'a':0,'b':1,'ba':2},'merges':[]}}", "ba", "ba" },
        { "metaspace", "{'pre_tokenizer':{'type':'Metaspace','replacement':'\xe2\x96\x81','prepend_scheme':'always','split':true}," MODEL "}", "a a",
          "\xe2\x96\x81" "a|\xe2\x96\x81" "a" },
        { "metaspace, old style", "{'pre_tokenizer':{'type':'Metaspace','replacement':'\xe2\x96\x81','add_prefix_space':false}," MODEL "}", "a a",
          "a|\xe2\x96\x81" "a" },
        { "white space", "{'pre_tokenizer':{'type':'WhitespaceSplit'}," MODEL "}", " ab \t a", "ab|a" },
        { "words", "{'pre_tokenizer':{'type':'Whitespace'}," MODEL "}", "ab-- a", "ab|-|-|a" },
        { "digits", "{'pre_tokenizer':{'type':'Digits','individual_digits':true}," MODEL "}", "a11", "a|1|1" },
        { "replace by a pattern", "{'normalizer':{'type':'Replace','pattern':{'Regex':'x+'},'content':'ab'}," MODEL "}", "xxxaxb", "ab|a|ab|b" },
        { "replace by nothing", "{'normalizer':{'type':'Replace','pattern':{'String':'x'},'content':''}," MODEL "}", "axb", "ab" },
        { "all replaced by nothing", "{'normalizer':{'type':'Replace','pattern':{'String':'x'},'content':''}," MODEL "}", "xx", "" },
        { "strip", "{'normalizer':{'type':'Strip','strip_left':true,'strip_right':true}," MODEL "}", " \xc2\xa0 a \xe3\x80\x80", "a" },
        { "an added token", "{'added_tokens':[{'id':20,'content':'xyz','single_word':false,'lstrip':true,'rstrip':true,'normalized':false,'special':false}],"
          MODEL "}", "a  xyz b", "a|xyz|b" },
        { "the longest added token", "{'added_tokens':[{'id':20,'content':'xy','single_word':false,'lstrip':false,'rstrip':false,'normalized':false,'special':false},"
          "{'id':21,'content':'xyz','single_word':false,'lstrip':false,'rstrip':false,'normalized':false,'special':false}]," MODEL "}", "axyzxyb", "a|xyz|xy|b" },
        { "a token that must be a word", "{'added_tokens':[{'id':20,'content':'cc','single_word':true,'lstrip':false,'rstrip':false,'normalized':false,'special':false}],"
          MODEL "}", "cca cc-cc acc", "c|c|a| |cc|-|cc| |a|c|c" },
        { "a token of the normalized text", "{'normalizer':{'type':'Replace','pattern':{'String':'x'},'content':'c'},'added_tokens':[{'id':20,'content':'xx',"
          "'single_word':false,'lstrip':false,'rstrip':false,'normalized':true,'special':false}]," MODEL "}", "acxb", "a|xx|b" },
        { "classes of the pattern language", "{'pre_tokenizer':{'type':'Split','pattern':{'Regex':'[^\\\\s\\\\d-]+'},'behavior':'Isolated','invert':false}," MODEL "}",
          "ab1ab-ab", "ab|1|ab|-|ab" },
        { "without case", "{'pre_tokenizer':{'type':'Split','pattern':{'Regex':'(?i:a)'},'behavior':'Isolated','invert':false}," MODEL "}", "cAab", "c|A|a|b" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        rondo_tokenizer *t = small(rows[i].file);
        const char *got = pieces(t, rows[i].text, 0);
        ok(!strcmp(got, rows[i].pieces), "%s: %s", rows[i].what, got);
        rondo_tokenizer_close(t);
    }
    rondo_tokenizer *t = small("{'post_processor':{'type':'Sequence','processors':[{'type':'ByteLevel','add_prefix_space':true,'trim_offsets':true},"
                               "{'type':'TemplateProcessing','single':[{'SpecialToken':{'id':'b','type_id':0}},{'Sequence':{'id':'A','type_id':0}},"
                               "{'SpecialToken':{'id':'c','type_id':0}}],'pair':[],'special_tokens':{'b':{'id':'b','ids':[1],'tokens':['b']},"
                               "'c':{'id':'c','ids':[2,0],'tokens':['c','a']}}}]}," MODEL "}");
    ok(!strcmp(pieces(t, "ab", RONDO_ENCODE_SPECIAL), "b|ab|c|a"), "a template: %s", pieces(t, "ab", RONDO_ENCODE_SPECIAL));
    rondo_tokenizer_close(t);
    t = small("{'model':{'vocab':{'a':0},'merges':[]}}");
    int32_t *ids;
    int64_t count;
    is_int(rondo_tokenizer_encode(t, "b", 1, 0, &ids, &count), RONDO_EFORMAT, "a character that nothing stands for: %s", rondo_error_text());
    rondo_tokenizer_close(t);
}

static void test_decoders(void)
{
    static const struct {
        const char *what, *decoder, *text;
    } rows[] = {
        { "none", "null", "ab \xe2\x96\x81" "a <0xE4> <0xB8> a" },
        { "fuse", "{'type':'Fuse'}", "ab\xe2\x96\x81" "a<0xE4><0xB8>a" },
        { "metaspace", "{'type':'Metaspace','replacement':'\xe2\x96\x81','prepend_scheme':'always','split':true}", "ab a<0xE4><0xB8>a" },
        { "bytes that are no character", "{'type':'ByteFallback'}", "ab\xe2\x96\x81" "a\xef\xbf\xbd\xef\xbf\xbd" "a" },
        { "a suffix", "{'type':'BPEDecoder','suffix':'a'}", " b\xe2\x96\x81 <0xE4><0xB8>" },
        { "strip token by token", "{'type':'Strip','content':'a','start':1,'stop':1}", "b\xe2\x96\x81<0xE4><0xB8>" },
        { "strip the whole", "{'type':'Sequence','decoders':[{'type':'Fuse'},{'type':'Strip','content':'a','start':3,'stop':2}]}",
          "b\xe2\x96\x81" "a<0xE4><0xB8>" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char file[2000];
        snprintf(file, sizeof file, "{'decoder':%s,'model':{'vocab':{'ab':0,'\xe2\x96\x81" "a':1,'<0xE4>':2,'<0xB8>':3,'a':4},'merges':[]}}", rows[i].decoder);
        rondo_tokenizer *t = small(file);
        char *text = NULL;
        size_t bytes = 0, stream_bytes = 0;
        const int32_t ids[] = { 0, 1, 2, 3, 4 };
        int err = t ? rondo_tokenizer_decode(t, ids, 5, 0, &text, &bytes) : RONDO_EFORMAT;
        ok(!err && !strcmp(text, rows[i].text), "decoder %s: %s", rows[i].what, text ? text : rondo_error_text());
        char *streamed = t ? through_stream(t, ids, 5, 0, &stream_bytes) : NULL;
        ok(streamed && text && !strcmp(streamed, text), "the same as a stream");
        free(streamed);
        rondo_lm_free(text);
        rondo_tokenizer_close(t);
    }
    /* Stripping ends at the first other character, though more of them come at the start of a later token */
    rondo_tokenizer *t = small("{'decoder':{'type':'Sequence','decoders':[{'type':'Fuse'},{'type':'Strip','content':'a','start':3,'stop':0}]},"
                               "'model':{'vocab':{'a':0,'b':1},'merges':[]}}");
    char *stripped = NULL;
    size_t left = 0;
    ok(t && !rondo_tokenizer_decode(t, (const int32_t[]){ 0, 1, 0, 0 }, 4, 0, &stripped, &left) && !strcmp(stripped, "baa"), "strip, then no more: %s",
       stripped ? stripped : "");
    rondo_lm_free(stripped);
    rondo_tokenizer_close(t);

    /* What is held back, and when */
    rondo_text_stream *s = NULL;
    const char *text;
    size_t n;
    ok(!rondo_text_stream_create(&s, tokenizers[0], 0), "a stream");
    const int32_t chinese[] = { 162, 118, 257 };      /* one character of three bytes */
    size_t lengths[3];
    for (int i = 0; i < 3; i++) {
        int err = rondo_text_stream_push(s, chinese[i], &text, &n);
        lengths[i] = err ? 99 : n;
    }
    ok(lengths[0] == 0 && lengths[1] == 0 && lengths[2] == 3 && !memcmp(text, "\xe4\xb8\xad", 4), "a character comes when it is whole");
    ok(!rondo_text_stream_push(s, chinese[0], &text, &n) && n == 0, "a first byte is held");
    ok(!rondo_text_stream_push(s, -1, &text, &n) && n == 3 && !memcmp(text, "\xef\xbf\xbd", 4), "at the end it is a replacement");
    ok(!rondo_text_stream_push(s, chinese[0], &text, &n) && !rondo_text_stream_push(s, 66, &text, &n) && !strcmp(text, "\xef\xbf\xbd" "a"),
       "or when something else comes");
    is_int(rondo_text_stream_push(s, -2, &text, &n), RONDO_EINVAL, "an id that is none");
    ok(!rondo_text_stream_push(s, 999999, &text, &n) && n == 0, "an id without a token gives nothing");
    rondo_text_stream_destroy(s);
    rondo_text_stream_destroy(NULL);
}

int main(void)
{
    scratch_make("6030");
    open_all();
    test_vectors();
    test_flags_and_errors();
    test_steps();
    test_decoders();
    test_properties();
    test_long_words();
    for (int i = 0; i < 3; i++)
        rondo_tokenizer_close(tokenizers[i]);
    rondo_tokenizer_close(NULL);
    scratch_remove();
    return done();
}
