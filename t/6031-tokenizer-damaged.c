/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Damaged and hostile tokenizer.json files: a code and one sentence each. What cannot be done right is refused by name, patterns that
 * would run for ever end with a code, and wherever an allocation fails it is RONDO_ENOMEM with nothing lost.
 */
#include "core/internal.h"
#include "rondo_lm.h"
#include "t/tap.h"
#include "t/scratch.h"

#define VOCAB "{'a':0,'b':1,'ab':2,'<unk>':3,'<':4}"
#define MODEL "'model':{'type':'BPE','vocab':" VOCAB ",'merges':['a b']}"
#define PRE(text) "{'pre_tokenizer':" text "," MODEL "}"
#define NORM(text) "{'normalizer':" text "," MODEL "}"
#define POST(text) "{'post_processor':" text "," MODEL "}"
#define DEC(text) "{'decoder':" text "," MODEL "}"
#define ADDED(text) "{'added_tokens':[" text "]," MODEL "}"
#define SPLIT(pattern) PRE("{'type':'Split','pattern':" pattern ",'behavior':'Isolated','invert':false}")
#define REGEX(pattern) SPLIT("{'Regex':'" pattern "'}")
#define FLAGS "'single_word':false,'lstrip':false,'rstrip':false,'normalized':false,'special':false"

enum { F = RONDO_EFORMAT, S = RONDO_ENOTSUP };
static const struct {
    int code;
    const char *text, *says;
} damaged[] = {
    { F, "", "JSON" },
    { F, "[]", "an object is needed" },
    { F, "{}", "model" },
    { F, "{'model':null}", "model" },
    { F, "{'model':[]}", "model" },
    { F, "{" MODEL "," MODEL "}", "duplicate" },
    { S, "{'version':'2.0'," MODEL "}", "version" },
    { S, "{'truncation':{'max_length':512}," MODEL "}", "truncation" },
    { S, "{'padding':{'strategy':'BatchLongest'}," MODEL "}", "padding" },
    { F, "{'added_tokens':{}," MODEL "}", "added_tokens" },
    { S, "{'model':{'type':'Unigram','vocab':[['a',0.0]]}}", "Unigram" },
    { S, "{'model':{'type':'WordPiece','vocab':{}}}", "WordPiece" },
    { S, "{'model':{'type':7,'vocab':{},'merges':[]}}", "type" },
    { F, "{'model':{'type':'BPE','merges':[]}}", "vocab" },
    { F, "{'model':{'type':'BPE','vocab':[],'merges':[]}}", "vocab" },
    { F, "{'model':{'type':'BPE','vocab':{}}}", "merges" },
    { F, "{'model':{'type':'BPE','vocab':{'a':-1},'merges':[]}}", "id" },
    { F, "{'model':{'type':'BPE','vocab':{'a':1.0},'merges':[]}}", "id" },
    { F, "{'model':{'type':'BPE','vocab':{'a':4194304},'merges':[]}}", "id" },
    { F, "{'model':{'type':'BPE','vocab':{'a':99999999999999999999},'merges':[]}}", "JSON" },
    { F, "{'model':{'type':'BPE','vocab':{'a':0,'b':0},'merges':[]}}", "same id" },
    { F, "{'model':{'type':'BPE','vocab':{'a':0,'a':1},'merges':[]}}", "duplicate" },
    { F, "{'model':{'type':'BPE','vocab':" VOCAB ",'merges':['ab']}}", "merge 0" },
    { F, "{'model':{'type':'BPE','vocab':" VOCAB ",'merges':['a b','a  b']}}", "merge 1" },
    { F, "{'model':{'type':'BPE','vocab':" VOCAB ",'merges':['a c']}}", "merge 0" },
    { F, "{'model':{'type':'BPE','vocab':" VOCAB ",'merges':['b a']}}", "merge 0" },
    { F, "{'model':{'type':'BPE','vocab':" VOCAB ",'merges':[['a']]}}", "merge 0" },
    { F, "{'model':{'type':'BPE','vocab':" VOCAB ",'merges':[['a','b','c']]}}", "merge 0" },
    { F, "{'model':{'type':'BPE','vocab':" VOCAB ",'merges':[['a',1]]}}", "merge 0" },
    { F, "{'model':{'type':'BPE','vocab':" VOCAB ",'merges':[7]}}", "merge 0" },
    { F, "{'model':{'type':'BPE','unk_token':'none','vocab':" VOCAB ",'merges':[]}}", "unk_token" },
    { F, "{'model':{'type':'BPE','unk_token':3,'vocab':" VOCAB ",'merges':[]}}", "unk_token" },
    { F, "{'model':{'type':'BPE','fuse_unk':1,'vocab':" VOCAB ",'merges':[]}}", "fuse_unk" },
    { S, "{'model':{'type':'BPE','dropout':0.1,'vocab':" VOCAB ",'merges':[]}}", "dropout" },
    { S, "{'model':{'type':'BPE','continuing_subword_prefix':'##','vocab':" VOCAB ",'merges':[]}}", "continuing_subword_prefix" },
    { S, "{'model':{'type':'BPE','end_of_word_suffix':'</w>','vocab':" VOCAB ",'merges':[]}}", "end_of_word_suffix" },
    { S, "{'model':{'type':'BPE','new_idea':true,'vocab':" VOCAB ",'merges':[]}}", "new_idea" },
    { F, ADDED("7"), "content" },
    { F, ADDED("{}"), "content" },
    { F, ADDED("{'content':'x'," FLAGS "}"), "id" },
    { F, ADDED("{'id':-1,'content':'x'," FLAGS "}"), "id" },
    { F, ADDED("{'id':4294967296,'content':'x'," FLAGS "}"), "id" },
    { F, ADDED("{'id':9,'content':'x'}"), "single_word" },
    { F, ADDED("{'id':9,'content':'x','single_word':0,'lstrip':false,'rstrip':false,'normalized':false,'special':false}"), "single_word" },
    { S, ADDED("{'id':9,'content':'x','color':'red'," FLAGS "}"), "color" },
    { F, NORM("7"), "normalizer" },
    { F, NORM("{}"), "normalizer" },
    { S, NORM("{'type':'NFX'}"), "NFX" },
    { S, NORM("{'type':'Lowercase'}"), "Lowercase" },
    { S, NORM("{'type':'Precompiled','precompiled_charsmap':''}"), "Precompiled" },
    { S, NORM("{'type':'Sequence','normalizers':[{'type':'Prepend','prepend':'x'},{'type':'Nmt'}]}"), "Nmt" },
    { F, NORM("{'type':'Sequence'}"), "Sequence" },
    { F, NORM("{'type':'Prepend'}"), "Prepend" },
    { F, NORM("{'type':'Replace','pattern':{'String':'a'}}"), "Replace" },
    { F, NORM("{'type':'Replace','pattern':{},'content':'a'}"), "Replace" },
    { F, NORM("{'type':'Replace','pattern':{'String':''},'content':'a'}"), "empty" },
    { F, NORM("{'type':'Strip','strip_left':true}"), "strip_right" },
    { S, PRE("{'type':'BertPreTokenizer'}"), "BertPreTokenizer" },
    { S, PRE("{'type':'Punctuation','behavior':'Isolated'}"), "Punctuation" },
    { S, PRE("{'type':'UnicodeScripts'}"), "UnicodeScripts" },
    { F, PRE("{'type':'Split','pattern':{'String':'a'},'behavior':'Sideways','invert':false}"), "Sideways" },
    { F, PRE("{'type':'Split','pattern':{'String':'a'},'behavior':'Removed'}"), "invert" },
    { F, SPLIT("'a'"), "pattern" },
    { F, SPLIT("{'String':'a','Regex':'a'}"), "pattern" },
    { F, PRE("{'type':'ByteLevel'}"), "add_prefix_space" },
    { S, PRE("{'type':'ByteLevel','add_prefix_space':false,'speed':9}"), "speed" },
    { F, PRE("{'type':'Metaspace'}"), "replacement" },
    { F, PRE("{'type':'Metaspace','replacement':'__'}"), "replacement" },
    { F, PRE("{'type':'Metaspace','replacement':'_','prepend_scheme':'last'}"), "last" },
    { F, PRE("{'type':'Metaspace','replacement':'_','prepend_scheme':'always','add_prefix_space':false}"), "disagree" },
    { F, PRE("{'type':'Digits'}"), "individual_digits" },
    { F, REGEX("("), "pattern" },
    { S, REGEX("a)"), "parenthesis" },
    { F, REGEX("*a"), "pattern" },
    { S, REGEX("[a"), "bracket" },
    { S, REGEX("[a[b]]"), "brackets within" },
    { S, REGEX("[[:alpha:]]"), "brackets within" },
    { S, REGEX("[a-z&&b]"), "&&" },
    { S, REGEX("[]a]"), "brackets" },
    { S, REGEX("\\\\bword"), "\\b" },
    { S, REGEX("(a)\\\\1"), "\\1" },
    { S, REGEX("\\\\p{Emoji}"), "Emoji" },
    { S, REGEX("\\\\pL"), "\\p" },
    { S, REGEX("\\\\p{L"), "\\p" },
    { S, REGEX("(?<name>a)"), "group" },
    { S, REGEX("(?m:a)"), "group" },
    { S, REGEX("(?#remark)"), "group" },
    { S, REGEX("(*UTF8)a"), "group" },
    { S, REGEX("a{2}+"), "{..}+" },
    { S, REGEX("a{2}?"), "{n}?" },
    { S, REGEX("(?i:stop)"), "without regard to case" },
    { S, REGEX("(?i:\xc3\xa9)"), "without regard to case" },
    { S, REGEX("(?i:a(?:s|t)ff)"), "without regard to case" },
    { S, REGEX("\\\\xff"), "\\x" },
    { S, REGEX("\\\\x{110000}"), "\\x" },
    { S, REGEX("\\\\ud800"), "\\u" },
    { S, REGEX("a\\\\"), "backslash" },
    { F, REGEX("(?<=a*)b"), "pattern" },
    { F, REGEX("(?:a{65535}){65535}"), "pattern" },
    { S, POST("{'type':'BertProcessing','sep':['b',1],'cls':['a',0]}"), "BertProcessing" },
    { S, POST("{'type':'RobertaProcessing'}"), "RobertaProcessing" },
    { F, POST("{'type':'TemplateProcessing'}"), "TemplateProcessing" },
    { F, POST("{'type':'TemplateProcessing','single':[],'special_tokens':{}}"), "sequence A" },
    { F, POST("{'type':'TemplateProcessing','single':[{'Sequence':{'id':'B'}}],'special_tokens':{}}"), "sequence A" },
    { F, POST("{'type':'TemplateProcessing','single':[{'Sequence':{'id':'A'}},{'Sequence':{'id':'A'}}],'special_tokens':{}}"), "sequence A" },
    { F, POST("{'type':'TemplateProcessing','single':[{'SpecialToken':{'id':'q'}},{'Sequence':{'id':'A'}}],'special_tokens':{}}"), "\"q\"" },
    { F, POST("{'type':'TemplateProcessing','single':[{'SpecialToken':{'id':'q'}},{'Sequence':{'id':'A'}}],'special_tokens':{'q':{'ids':[77]}}}"), "\"q\"" },
    { F, POST("{'type':'TemplateProcessing','single':[{'Other':1}],'special_tokens':{}}"), "piece" },
    { S, DEC("{'type':'WordPiece','prefix':'##','cleanup':true}"), "WordPiece" },
    { S, DEC("{'type':'CTC'}"), "CTC" },
    { F, DEC("{'type':'Strip','content':'ab','start':1,'stop':0}"), "Strip" },
    { F, DEC("{'type':'Strip','content':'a','start':-1,'stop':0}"), "Strip" },
    { F, DEC("{'type':'BPEDecoder','suffix':''}"), "suffix" },
    { F, DEC("{'type':'Replace','content':'a'}"), "Replace" },
    { F, DEC("{'type':'Metaspace','replacement':''}"), "replacement" },
    { S, DEC("{'type':'Sequence','decoders':[{'type':'Fuse'},{'type':'ByteFallback'}]}"), "after Fuse" },
    { F, DEC("{'type':'Sequence','decoders':{}}"), "decoders" },
};

static const char *write_file(const char *text)
{
    static char copy[4096];
    snprintf(copy, sizeof copy, "%s", text);
    for (char *p = copy; *p; p++)
        if (*p == '\'')
            *p = '"';
    return scratch_text("tokenizer.json", copy);
}

static void test_table(void)
{
    for (size_t i = 0; i < sizeof damaged / sizeof damaged[0]; i++) {
        rondo_tokenizer *t = (rondo_tokenizer *)(uintptr_t)8;
        write_file(damaged[i].text);
        is_int(rondo_tokenizer_open(&t, scratch_dir), damaged[i].code, "%.100s", damaged[i].text[0] ? damaged[i].text : "nothing");
        ok(!t && strstr(rondo_error_text(), damaged[i].says) && strstr(rondo_error_text(), "tokenizer.json") && !strpbrk(rondo_error_text(), "\n\x1b"),
           "the sentence: %s", rondo_error_text());
    }
}

/* Sequences within sequences, as deep as the JSON library goes. */
static void test_depth(void)
{
    static const char *const kinds[][3] = { { "normalizer", "normalizers" }, { "pre_tokenizer", "pretokenizers" }, { "decoder", "decoders" },
                                            { "post_processor", "processors" } };
    char *text = malloc(200000);
    for (int k = 0; k < 4; k++) {
        size_t n = (size_t)sprintf(text, "{\"%s\":", kinds[k][0]);
        for (int i = 0; i < 500; i++)
            n += (size_t)sprintf(text + n, "{\"type\":\"Sequence\",\"%s\":[", kinds[k][1]);
        for (int i = 0; i < 500; i++)
            n += (size_t)sprintf(text + n, "]}");
        sprintf(text + n, ",\"model\":{\"vocab\":{},\"merges\":[]}}");
        scratch_text("tokenizer.json", text);
        rondo_tokenizer *t;
        int err = rondo_tokenizer_open(&t, scratch_dir);
        ok(err == RONDO_ENOTSUP || err == RONDO_EFORMAT, "%s nested 500 deep: %s", kinds[k][0], rondo_error_text());
    }
    free(text);
}

/* Patterns whose matching would take for ever end, with a code and the pattern's name. */
static void test_patterns(void)
{
    static const char *const slow[] = { "(?:a+)+b", "(?:a|aa)+b", "(?:a*)*b", "(?:(?:a+)+)+b", "(?=(?:a+)+b)a" };
    char text[64];
    memset(text, 'a', sizeof text);
    memcpy(text + 60, "<b<b", 4);      /* b is there, so that its absence is no short cut */
    int limited = 0;
    for (size_t i = 0; i < sizeof slow / sizeof slow[0]; i++) {
        char file[1000];
        rondo_tokenizer *t = NULL;
        int32_t *ids;
        int64_t count;
        snprintf(file, sizeof file, REGEX("%s"), slow[i]);
        write_file(file);
        ok(!rondo_tokenizer_open(&t, scratch_dir), "the pattern %s opens", slow[i]);
        double begin = rondo__now();
        int err = rondo_tokenizer_encode(t, text, sizeof text, 0, &ids, &count);
        ok((err == RONDO_ENOTSUP && strstr(rondo_error_text(), "pattern")) || !err, "and ends: %s", err ? rondo_error_text() : "matched");
        ok(rondo__now() - begin < 10, "soon");
        limited += err != 0;
        if (!err)
            rondo_lm_free(ids);
        rondo_tokenizer_close(t);
    }
    ok(limited > 2, "most of them by the limit");
}

static uint64_t state = 20261121;
static uint32_t next_random(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}

/* Opens, and where that works, uses it: nothing may crash, and what comes out are ids below the size and whole texts. */
static int try_all(void)
{
    static const char text[] = "And it came to pass, <s> caf\xc3\xa9 \xe4\xb8\xad  don't 123\n";
    rondo_tokenizer *t = NULL;
    int err = rondo_tokenizer_open(&t, scratch_dir);
    if (err)
        return err == RONDO_EFORMAT || err == RONDO_ENOTSUP ? 0 : 1;
    int32_t *ids = NULL;
    int64_t count = 0;
    int wrong = 0;
    if (!rondo_tokenizer_encode(t, text, sizeof text - 1, RONDO_ENCODE_SPECIAL, &ids, &count)) {
        char *back = NULL;
        size_t bytes;
        for (int64_t i = 0; i < count; i++)
            wrong |= ids[i] < 0 || ids[i] >= rondo_tokenizer_size(t) || !rondo_tokenizer_piece(t, ids[i]);
        wrong |= rondo_tokenizer_decode(t, ids, count, 0, &back, &bytes) != 0;
        rondo_lm_free(back);
    }
    rondo_lm_free(ids);
    rondo_tokenizer_close(t);
    return wrong;
}

static void test_damaged(const char *path, const char *name)
{
    size_t n, end;
    char *good = scratch_read(path, &n), *bad = malloc(n);
    for (end = n; end && good[end - 1] != '}'; end--)
        ;
    int wrong = 0;
    for (size_t cut = 0; cut < end; cut += cut < 600 || end - cut < 300 ? 1 : 4999) {
        rondo_tokenizer *t;
        scratch_write("tokenizer.json", good, cut);
        wrong += rondo_tokenizer_open(&t, scratch_dir) != RONDO_EFORMAT;
    }
    is_int(wrong, 0, "%s: cut off it is refused", name);
    /* The components stand in the first and last bytes; bytes turned over among the vocabulary are many and alike. */
    int rounds = long_tests() ? 20000 : 300;
    for (int r = 0; r < rounds; r++) {
        memcpy(bad, good, n);
        for (uint32_t flips = 1 + next_random() % 3; flips; flips--) {
            size_t at = r % 4 ? next_random() % 2200 : next_random() % n;
            bad[at % n] = next_random() % 3 ? "\"{}[]:,0129-+*?(|)\\ ufnt"[next_random() % 24] : (char)(unsigned char)(next_random() & 0xff);
        }
        scratch_write("tokenizer.json", bad, n);
        if (try_all()) {
            diag("round %d: %s", r, rondo_error_text());
            wrong++;
        }
    }
    is_int(wrong, 0, "%s: %d files with bytes turned over are refused, or work", name, rounds);
    free(good);
    free(bad);
}

/* ---- failing allocations ---- */

static int use_everything(void)
{
    rondo_tokenizer *t = NULL;
    int32_t *ids = NULL;
    int64_t count = 0;
    char *text = NULL;
    size_t bytes;
    int err = rondo_tokenizer_open(&t, scratch_dir);
    if (!err)
        err = rondo_tokenizer_encode(t, "ab aabb x\xff<x>b", 13, RONDO_ENCODE_SPECIAL | RONDO_ENCODE_LOSSY, &ids, &count);
    if (!err)
        err = rondo_tokenizer_decode(t, ids, count, 0, &text, &bytes);
    rondo_lm_free(ids);
    rondo_lm_free(text);
    rondo_tokenizer_close(t);
    return err;
}

static void test_allocations(void)
{
    write_file("{'added_tokens':[{'id':9,'content':'<x>','single_word':true,'lstrip':true,'rstrip':false,'normalized':true,'special':false}],"
               "'normalizer':{'type':'Replace','pattern':{'Regex':'x+'},'content':'b'},'pre_tokenizer':{'type':'Sequence','pretokenizers':["
               "{'type':'Metaspace','replacement':'_','prepend_scheme':'first'},{'type':'Split','pattern':{'Regex':'(?:a|b)+'},'behavior':'Isolated',"
               "'invert':false}]},'post_processor':{'type':'TemplateProcessing','single':[{'SpecialToken':{'id':'a'}},{'Sequence':{'id':'A'}}],'pair':[],"
               "'special_tokens':{'a':{'id':'a','ids':[0],'tokens':['a']}}},'decoder':{'type':'Sequence','decoders':[{'type':'Replace','pattern':{'String':'_'},"
               "'content':' '},{'type':'ByteFallback'},{'type':'Fuse'},{'type':'Strip','content':' ','start':1,'stop':0}]},"
               "'model':{'type':'BPE','unk_token':'<unk>','vocab':" VOCAB ",'merges':['a b']}}");
    fail_each_allocation("opening, encoding, decoding", use_everything);
}

int main(void)
{
    char path[1024];
    scratch_make("6031");
    test_table();
    test_depth();
    test_patterns();
    test_allocations();
    test_damaged(source_path("examples/kjv/tokenizer.json"), "byte-level");
    snprintf(path, sizeof path, "%s", source_path("t/golden/tokenizers/sentencepiece-like/tokenizer.json"));
    test_damaged(path, "sentencepiece-like");
    scratch_remove();
    return done();
}
