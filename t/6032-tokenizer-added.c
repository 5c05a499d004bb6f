/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Added tokens: which there are, of all the files that declare them, which ids they get, how they take white space, and what is
 * told where files contradict each other. The expected ids and texts are those of Hugging Face's tokenizers 0.23 and, where there
 * is a tokenizer_config.json, of transformers 5.24. And ids without a token, which models come to.
 */
#include "rondo_lm.h"
#include "t/tap.h"
#include "t/scratch.h"

#define PLAIN "'a':0,'b':1,' ':2,'<':3,'>':4,'x':5,'a ':6,'<s>':7"
#define HOLE PLAIN ",'c':20"

static char told[4096];      /* warnings, one a line */

static void on_log(void *user, int level, const char *sentence)
{
    (void)user;
    size_t n = strlen(told);
    if (level <= RONDO_LOG_WARNING)
        snprintf(told + n, sizeof told - n, "%s\n", sentence);
}

static void quotes(char *text)
{
    for (; *text; text++)
        if (*text == '\'')
            *text = '"';
}

static rondo_tokenizer *open_folder(const char *file, const char *config)
{
    char copy[4096];
    rondo_tokenizer *t = NULL;
    snprintf(copy, sizeof copy, "%s", file);
    quotes(copy);
    scratch_text("tokenizer.json", copy);
    unlink(scratch_path("tokenizer_config.json"));
    if (config) {
        snprintf(copy, sizeof copy, "%s", config);
        quotes(copy);
        scratch_text("tokenizer_config.json", copy);
    }
    told[0] = 0;
    if (rondo_tokenizer_open(&t, scratch_dir))
        diag("%s", rondo_error_text());
    return t;
}

/* "8|<p>|lrs;9|<q>|": id, text, flags */
static void added_json(const char *list, char *to, size_t room)
{
    size_t n = 0;
    for (const char *p = list; *p; p += *p == ';') {
        const size_t all = strcspn(p, ";"), id = strcspn(p, "|"), text = strcspn(p + id + 1, "|");
        const char *flags = p + id + text + 2;
        const size_t count = all - id - text - 2;
        n += (size_t)snprintf(to + n, room - n, "%s{'id':%.*s,'content':'%.*s','single_word':false,'lstrip':%s,'rstrip':%s,'normalized':false,'special':%s}",
                              n ? "," : "", (int)id, p, (int)text, p + id + 1, memchr(flags, 'l', count) ? "true" : "false",
                              memchr(flags, 'r', count) ? "true" : "false", memchr(flags, 's', count) ? "true" : "false");
        p += all;
    }
    to[n] = 0;
}

static void ids_text(const int32_t *ids, int64_t count, char *to, size_t room)
{
    size_t n = 0;
    to[0] = 0;
    for (int64_t i = 0; i < count; i++)
        n += (size_t)snprintf(to + n, room - n, "%s%d", i ? " " : "", ids[i]);
}

static void test_ids(void)
{
    static const struct {
        const char *what, *vocabulary, *added, *config, *text, *ids, *decoded;
    } rows[] = {
        { "a hole before the id", PLAIN, "300|<p>|",
          NULL, "a<p>b", "0 8 1", "a<p>b" },
        { "ids in the order of the list", PLAIN, "9|<p>|;8|<q>|",
          NULL, "<p><q>", "8 9", "<p><q>" },
        { "an id that the vocabulary uses", PLAIN, "1|<p>|;1|<q>|",
          NULL, "a<p>b<q>", "0 8 1 9", "a<p>b<q>" },
        { "a token of the vocabulary keeps its id", PLAIN, "99|<s>|s;8|<p>|",
          NULL, "<s>a<p>", "7 0 8", "a<p>" },
        { "the vocabulary has a hole", HOLE, "21|<p>|;22|<q>|",
          NULL, "c<p><q>", "20 9 10", "c<p><q>" },
        { "after a hole", HOLE, "20|c|;21|<p>|",
          NULL, "c<p>", "20 9", "c<p>" },
        { "twice with one id", PLAIN, "8|<p>|;8|<p>|",
          NULL, "a<p>b", "0 8 1", "a<p>b" },
        { "twice, and the last flags count", PLAIN, "8|<p>|;8|<p>|l;9|<q>|",
          NULL, "a <p><q>", "0 8 9", "a<p><q>" },
        { "twice with two ids", PLAIN, "8|<p>|;9|<p>|;10|<q>|",
          NULL, "<p><q>", "8 9", "<p><q>" },
        { "special once is special", PLAIN, "8|<p>|s;8|<p>|",
          NULL, "a<p>b", "0 8 1", "ab" },
        { "the empty text", PLAIN, "8||;9|<p>|",
          NULL, "a<p>b", "0 8 1", "a<p>b" },
        { "white space that strips both sides", PLAIN, "2| |lr",
          NULL, "a   b a", "0 2 1 2 0", "a b a" },
        { "white space that strips to the right", PLAIN, "2| |r",
          NULL, "a   b", "0 2 2 2 1", "a   b" },
        { "white space that strips to the left", PLAIN, "2| |l",
          NULL, "a   b", "0 2 2 2 1", "a   b" },
        { "two in one run", PLAIN, "8|<p>|lr;2| |",
          NULL, "a <p>  b", "0 2 8 2 2 1", "a <p>  b" },
        { "declared in tokenizer_config.json alone", PLAIN, "8|<p>|",
          "{'added_tokens_decoder':{'8':{'content':'<p>'},'9':{'content':'<q>','special':true}}}", "a<q><p>", "0 9 8", "a<p>" },
        { "in the order of its numbers", PLAIN, "",
          "{'added_tokens_decoder':{'10':{'content':'<q>'},'9':{'content':'<p>'}}}", "<p><q>", "8 9", "<p><q>" },
        { "whose flags count", PLAIN, "8|<p>|",
          "{'added_tokens_decoder':{'8':{'content':'<p>','rstrip':true}}}", "<p>  a", "8 0", "<p>a" },
        { "with a number of its own", PLAIN, "8|<p>|",
          "{'added_tokens_decoder':{'500':{'content':'<q>'}}}", "<q>", "9", "<q>" },
        { "after a hole, in a call of its own", HOLE, "20|c|;21|<p>|",
          "{'added_tokens_decoder':{'22':{'content':'<q>'},'23':{'content':'<r>'}}}", "c<p><q><r>", "20 9 21 22", "c<p><q><r>" },
        { "parts that no list has", PLAIN, "",
          "{'pad_token':'<pad>','bos_token':'<s>','eos_token':{'__type':'AddedToken','content':'</s>','lstrip':true,'single_word':false}}", "<s>a </s><pad>", "7 0 8 9", "a" },
        { "additional special tokens", PLAIN, "",
          "{'additional_special_tokens':['<p>','<q>']}", "a<q><p>", "0 9 8", "a" },
        { "an additional one that is no special one in its list", PLAIN, "8|<p>|;9|<q>|", "{'added_tokens_decoder':{},'additional_special_tokens':['<p>'],'pad_token':'<q>'}",
          "a<p><q>", "0 8 9", "a<p><q>" },
        { "a part that the list knows", PLAIN, "8|<p>|", "{'pad_token':'<p>'}", "a<p>b", "0 8 1", "ab" },
        { "one id for two in a hole: the last one has it", HOLE ",'<p>':10", "1|<x>|;9|<p>|", NULL, "c<p><x>", "20 10 3 5 4", "c<p><x>" },
        { "a part of its own name", PLAIN, "",
          "{'image_token':'<i>'}", "a<i>b", "0 8 1", "ab" },
        { "a length past all integers", PLAIN, "",
          "{'model_max_length':1000000000000000019884624838656,'pad_token':'<p>'}", "a<p>", "0 8", "a" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char added[2048], file[4096], got[256];
        int32_t *ids = NULL;
        int64_t count = 0;
        char *back = NULL;
        size_t bytes = 0;
        added_json(rows[i].added, added, sizeof added);
        snprintf(file, sizeof file, "{'added_tokens':[%s],'decoder':{'type':'Fuse'},'model':{'type':'BPE','vocab':{%s},'merges':[['a',' ']]}}", added,
                 rows[i].vocabulary);
        rondo_tokenizer *t = open_folder(file, rows[i].config);
        int err = t ? rondo_tokenizer_encode(t, rows[i].text, strlen(rows[i].text), 0, &ids, &count) : RONDO_EFORMAT;
        ids_text(ids, err ? 0 : count, got, sizeof got);
        ok(!err && !strcmp(got, rows[i].ids), "%s: %s", rows[i].what, got);
        if (!err)
            err = rondo_tokenizer_decode(t, ids, count, 0, &back, &bytes);
        ok(!err && !strcmp(back, rows[i].decoded), "and back: %s", back ? back : rondo_error_text());
        int names = 0;
        for (int64_t k = 0; k < count; k++)
            names += rondo_tokenizer_piece(t, ids[k]) && rondo_tokenizer_id(t, rondo_tokenizer_piece(t, ids[k])) == ids[k];
        ok(t && names == count, "each has a name, by which it is found");
        rondo_lm_free(back);
        rondo_lm_free(ids);
        rondo_tokenizer_close(t);
    }
}

#define MODEL "'model':{'type':'BPE','vocab':{" PLAIN ",'</s>':8},'merges':[]}"
#define TEMPLATE(before, after) "'post_processor':{'type':'TemplateProcessing','single':[" before "{'Sequence':{'id':'A','type_id':0}}" after "],'pair':[]," \
    "'special_tokens':{'<s>':{'id':'<s>','ids':[7],'tokens':['<s>']},'</s>':{'id':'</s>','ids':[8],'tokens':['</s>']}}}"
#define BOS "{'SpecialToken':{'id':'<s>','type_id':0}},"
#define EOS ",{'SpecialToken':{'id':'</s>','type_id':0}}"
#define PARTS "'bos_token':'<s>','eos_token':'</s>'"

static void test_told(void)
{
    static const struct {
        const char *file, *config, *says;
    } rows[] = {
        { "{" TEMPLATE(BOS, "") "," MODEL "}", "{" PARTS ",'add_bos_token':true,'add_eos_token':false}", NULL },
        { "{" TEMPLATE(BOS, "") "," MODEL "}", "{" PARTS ",'add_bos_token':false}", "add_bos_token is false" },
        { "{" TEMPLATE(BOS, "") "," MODEL "}", "{" PARTS ",'add_eos_token':true}", "add_eos_token is true" },
        { "{" TEMPLATE("", EOS) "," MODEL "}", "{" PARTS ",'add_eos_token':false}", "add_eos_token is false" },
        { "{" TEMPLATE(BOS, EOS) "," MODEL "}", "{" PARTS ",'add_bos_token':true,'add_eos_token':true}", NULL },
        { "{" MODEL "}", "{" PARTS ",'add_bos_token':true}", "add_bos_token is true" },
        { "{" MODEL "}", "{" PARTS ",'add_bos_token':null,'add_eos_token':null}", NULL },
        { "{" MODEL "}", "{'add_bos_token':true}", "add_bos_token is true" },
        { "{" TEMPLATE(BOS, "") "," MODEL "}", "{'add_bos_token':true}", NULL },
        { "{'added_tokens':[{'id':9,'content':'<p>','single_word':false,'lstrip':false,'rstrip':false,'normalized':false,'special':false}]," MODEL "}", NULL, NULL },
        { "{'added_tokens':[{'id':90,'content':'<p>','single_word':false,'lstrip':false,'rstrip':false,'normalized':false,'special':false}]," MODEL "}", NULL,
          "\"<p>\" is said to have id 90, but gets 9" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        rondo_tokenizer *t = open_folder(rows[i].file, rows[i].config);
        const char *end = strchr(told, '\n');
        ok(t && (rows[i].says ? end && !end[1] && strstr(told, rows[i].says) != NULL : !*told), "%s: %s",
           rows[i].says ? "told once" : "nothing to tell", told);
        rondo_tokenizer_close(t);
    }
    rondo_tokenizer *t = open_folder("{" MODEL "}", "{'added_tokens_decoder':{'x':{'content':'<p>'}}}");
    ok(!t && strstr(rondo_error_text(), "added_tokens_decoder"), "a key that is no number: %s", rondo_error_text());
    t = open_folder("{" MODEL "}", "{'added_tokens_decoder':{'9':'<p>'}}");
    ok(!t && strstr(rondo_error_text(), "a string"), "a token that is no object: %s", rondo_error_text());
    t = open_folder("{" MODEL "}", "{'added_tokens_decoder':[]}");
    ok(!t && strstr(rondo_error_text(), "an array"), "a list: %s", rondo_error_text());
    t = open_folder("{" MODEL "}", "{'bos_token':");
    ok(!t && strstr(rondo_error_text(), "JSON"), "damaged: %s", rondo_error_text());
}

/* special_tokens_map.json and added_tokens.json count where tokenizer_config.json has no added_tokens_decoder. */
static void test_older(void)
{
    scratch_text("special_tokens_map.json", "{\"pad_token\": {\"content\": \"<p>\", \"lstrip\": true, \"rstrip\": false, \"normalized\": false, \"single_word\": false}}");
    scratch_text("added_tokens.json", "{\"<r>\": 10, \"<q>\": 9}");
    rondo_tokenizer *t = open_folder("{" MODEL "}", "{'pad_token':'<o>'}");
    ok(t && rondo_tokenizer_id(t, "<q>") == 9 && rondo_tokenizer_id(t, "<r>") == 10 && rondo_tokenizer_id(t, "<p>") == 11 && rondo_tokenizer_id(t, "<o>") == -1,
       "older files are read");
    ok(rondo_tokenizer_is_special(t, 11) && !rondo_tokenizer_is_special(t, 9) && rondo_tokenizer_size(t) == 12, "what plays a part is special");
    rondo_tokenizer_close(t);
    t = open_folder("{" MODEL "}", "{'added_tokens_decoder':{}}");
    ok(t && rondo_tokenizer_id(t, "<q>") == -1, "unless the newer one says all");
    rondo_tokenizer_close(t);
    unlink(scratch_path("special_tokens_map.json"));
    unlink(scratch_path("added_tokens.json"));
}

static void test_no_token(void)
{
    rondo_tokenizer *t = open_folder("{'decoder':{'type':'Fuse'},'model':{'type':'BPE','vocab':{" HOLE "},'merges':[]}}", NULL);
    const int32_t ids[] = { 0, 9, 1, 21, 2147483647, 20 };
    char *text = NULL;
    size_t bytes = 0;
    ok(t && !rondo_tokenizer_decode(t, ids, 6, RONDO_DECODE_SPECIAL, &text, &bytes) && !strcmp(text, "abc") && bytes == 3, "ids without a token give nothing");
    ok(!rondo_tokenizer_piece(t, 9) && !rondo_tokenizer_piece(t, 21), "and have no name");
    rondo_lm_free(text);
    rondo_tokenizer_close(t);
}

static int open_once(void)
{
    rondo_tokenizer *t = NULL;
    int err = rondo_tokenizer_open(&t, scratch_dir);
    rondo_tokenizer_close(t);
    return err;
}

int main(void)
{
    rondo_hooks hooks = RONDO_HOOKS_INIT;
    hooks.log = on_log;
    scratch_make("6032");
    ok(!rondo_set_hooks(&hooks), "warnings are listened to");
    test_ids();
    test_told();
    test_older();
    test_no_token();
    rondo_tokenizer_close(open_folder("{" TEMPLATE(BOS, "") "," MODEL "}", "{" PARTS ",'added_tokens_decoder':{'9':{'content':'<p>'},'10':{'content':'<q>'}}}"));
    fail_each_allocation("a folder with both files", open_once);
    scratch_remove();
    return done();
}
