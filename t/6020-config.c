/* SPDX-License-Identifier: BSD-2-Clause
 *
 * config.json and generation_config.json: families' defaults, old and new style, all rope types, and what must be refused with
 * the field's name. The expected values are those of Hugging Face's transformers.
 */
#include <jansson.h>

#include "core/internal.h"
#include "lm/model/config.h"
#include "rondo_lm.h"
#include "t/tap.h"
#include "t/scratch.h"

static struct rondo_config c;

/* Writes config.json made of `text` (single quotes stand for double ones) and reads it. */
static int read_text(const char *text)
{
    char copy[4096];
    snprintf(copy, sizeof copy, "%s", text);
    for (char *p = copy; *p; p++)
        if (*p == '\'')
            *p = '"';
    scratch_text("config.json", copy);
    memset(&c, 0x55, sizeof c);
    return rondo__config_read(&c, scratch_dir);
}

#define MISTRAL "{'architectures':['MistralForCausalLM'],'model_type':'mistral','hidden_size':64,'intermediate_size':128,'num_hidden_layers':2," \
                "'num_attention_heads':8,'vocab_size':100"
#define LLAMA "{'architectures':['LlamaForCausalLM'],'model_type':'llama','hidden_size':64,'intermediate_size':128,'num_hidden_layers':2," \
              "'num_attention_heads':8,'vocab_size':100"

#define QWEN2 "{'architectures':['Qwen2ForCausalLM'],'model_type':'qwen2','hidden_size':64,'intermediate_size':128,'num_hidden_layers':2," \
              "'num_attention_heads':8,'num_key_value_heads':8,'vocab_size':100"
#define QWEN3 "{'architectures':['Qwen3ForCausalLM'],'model_type':'qwen3','hidden_size':64,'intermediate_size':128,'num_hidden_layers':2," \
              "'num_attention_heads':8,'num_key_value_heads':4,'vocab_size':100"

static int close_to(double x, double y)
{
    double d = x - y;
    return d < 1e-14 * (y < 0 ? -y : y) && -d < 1e-14 * (y < 0 ? -y : y);
}

static void test_defaults(void)
{
    is_int(read_text("{'model_type':'mistral'}"), 0, "a Mistral of which only the type is given: %s", rondo_error_text());
    ok(c.family == RONDO_FAMILY_MISTRAL && !strcmp(c.architecture, "MistralForCausalLM"), "the family");
    ok(c.hidden == 4096 && c.intermediate == 14336 && c.layers == 32 && c.heads == 32 && c.kv_heads == 8 && c.head_dim == 128 &&
       c.vocabulary == 32000 && c.max_positions == 131072 && c.window == 4096 && !c.tied && !c.qkv_bias && !c.o_bias && !c.mlp_bias && !c.qk_norm, "its shape");
    ok(c.rms_eps == 1e-6 && c.rope.theta == 10000.0 && c.rope.kind == RONDO_ROPE_DEFAULT && c.rope.dim == 128 && c.rope.factor == 1.0 &&
       c.rope.attention_factor == 1.0, "its numbers");
    ok(c.bos == 1 && c.eos_count == 1 && c.eos[0] == 2, "its tokens");
    is_int(read_text("{'architectures':['LlamaForCausalLM']}"), 0, "a Llama of which only the architecture is given");
    ok(c.family == RONDO_FAMILY_LLAMA && c.hidden == 4096 && c.intermediate == 11008 && c.kv_heads == 32 && c.max_positions == 2048 &&
       c.window == 0, "its shape");

    is_int(read_text(MISTRAL ",'num_key_value_heads':null,'sliding_window':null,'head_dim':null,'bos_token_id':null,'eos_token_id':null}"), 0,
           "Mistral with nulls");
    ok(c.kv_heads == 8 && c.window == 0 && c.head_dim == 8 && c.bos == -1 && c.eos_count == 0, "mean: all heads, no window, no tokens");
    is_int(read_text(LLAMA ",'num_key_value_heads':2,'head_dim':10,'eos_token_id':[7,8,9],'bos_token_id':3,'tie_word_embeddings':true,"
                     "'attention_bias':true,'mlp_bias':true,'rms_norm_eps':1e-5,'hidden_act':'silu','sliding_window':null,'pretraining_tp':1}"), 0,
           "Llama with everything: %s", rondo_error_text());
    ok(c.kv_heads == 2 && c.head_dim == 10 && c.eos_count == 3 && c.eos[0] == 7 && c.eos[2] == 9 && c.bos == 3 && c.tied && c.qkv_bias && c.o_bias &&
       c.mlp_bias && c.rms_eps == 1e-5, "is read");
    is_int(read_text(MISTRAL ",'sliding_window':17,'layer_types':['sliding_attention','sliding_attention']}"), 0, "a window for all layers");
    is_int(c.window, 17, "is there");
    is_int(read_text(MISTRAL ",'sliding_window':null,'layer_types':['full_attention','full_attention']}"), 0, "full attention for all layers");
    is_int(read_text(LLAMA ",'quantization_config':null,'num_experts':null,'use_qk_norm':false,'something_new':{'a':1}}"), 0,
           "unset and unknown fields are no matter");
}

static void test_qwen(void)
{
    is_int(read_text("{'model_type':'qwen2'}"), 0, "a Qwen2 of which only the type is given: %s", rondo_error_text());
    ok(c.family == RONDO_FAMILY_QWEN2 && !strcmp(c.architecture, "Qwen2ForCausalLM") && c.hidden == 4096 && c.intermediate == 22016 && c.layers == 32 &&
       c.heads == 32 && c.kv_heads == 32 && c.head_dim == 128 && c.vocabulary == 151936 && c.max_positions == 32768 && c.window == 0 && !c.tied &&
       c.rms_eps == 1e-6 && c.rope.theta == 10000.0, "its shape");
    ok(c.qkv_bias && !c.o_bias && !c.mlp_bias && !c.qk_norm, "biases of q, k and v");
    ok(c.bos == -1 && c.eos_count == 0, "its tokens");
    is_int(read_text("{'architectures':['Qwen3ForCausalLM'],'num_attention_heads':64,'num_key_value_heads':8}"), 0, "a Qwen3: %s", rondo_error_text());
    ok(c.family == RONDO_FAMILY_QWEN3 && c.head_dim == 128 && c.intermediate == 22016 && c.heads == 64 && !c.qkv_bias && !c.o_bias && c.qk_norm,
       "its shape, and norms of q and k");
    is_int(read_text(QWEN3 ",'attention_bias':true,'head_dim':32,'tie_word_embeddings':true}"), 0, "Qwen3 with biases");
    ok(c.qkv_bias && c.o_bias && c.qk_norm && c.head_dim == 32 && c.kv_heads == 4 && c.tied, "is read");
    is_int(read_text(QWEN2 ",'sliding_window':40,'max_window_layers':1,'use_sliding_window':false}"), 0, "a window that is not used");
    is_int(c.window, 0, "is none");
    is_int(read_text(QWEN2 ",'sliding_window':40,'max_window_layers':0,'use_sliding_window':true}"), 0, "a window from layer 0 on");
    is_int(c.window, 40, "is all layers'");
    is_int(read_text(QWEN3 ",'sliding_window':40,'max_window_layers':2,'use_sliding_window':true}"), 0, "a window from the layer after the last on");
    is_int(c.window, 0, "is none");
    is_int(read_text(QWEN3 ",'use_sliding_window':true,'max_window_layers':0}"), 0, "a window of no width given");
    is_int(c.window, 4096, "is 4096 wide");
    is_int(read_text(QWEN3 ",'use_sliding_window':true,'max_window_layers':1,'sliding_window':null}"), 0, "no width at all");
    is_int(c.window, 0, "is no window");
    is_int(read_text(QWEN3 ",'use_sliding_window':true,'sliding_window':9,'layer_types':['sliding_attention','sliding_attention']}"), 0, "listed windows");
    is_int(c.window, 9, "go before max_window_layers");
    is_int(read_text(QWEN2 ",'use_sliding_window':true,'max_window_layers':0,'sliding_window':9,'layer_types':['full_attention','full_attention']}"), 0,
           "no listed windows");
    is_int(c.window, 0, "go before it too");
}

/* As compressed-tensors writes it; `weights` and `more` are further fields of the group's weights and of the whole. */
#define INT8(weights, more) LLAMA ",'quantization_config':{'quant_method':'compressed-tensors','format':'int-quantized','ignore':['lm_head']," \
    "'config_groups':{'group_0':{'targets':['Linear'],'input_activations':null,'output_activations':null,'weights':{'num_bits':8,'type':'int'" weights \
    "}}},'kv_cache_scheme':null" more "}}"

static void test_quant(void)
{
    is_int(read_text(INT8(",'strategy':'channel','symmetric':true,'dynamic':false,'group_size':null,'actorder':null", "")), 0,
           "weights of 8 bits with a scale a channel: %s", rondo_error_text());
    ok(c.int8, "may come");
    is_int(read_text(INT8(",'strategy':'group','group_size':128", ",'sparsity_config':{'format':'dense'},'transform_config':{}")), 0, "or in groups: %s",
           rondo_error_text());
    is_int(read_text(LLAMA ",'quantization_config':null}"), 0, "no quantization");
    ok(!c.int8, "is none");
}

static void test_rope(void)
{
    is_int(read_text(LLAMA ",'rope_theta':500000.0,'rope_scaling':null}"), 0, "old style");
    ok(c.rope.kind == RONDO_ROPE_DEFAULT && c.rope.theta == 500000.0, "theta");
    is_int(read_text(LLAMA ",'rope_theta':5,'rope_parameters':{'rope_theta':1000000,'rope_type':'default'}}"), 0, "new style");
    ok(c.rope.theta == 1e6, "its theta goes before");
    is_int(read_text(LLAMA ",'rope_theta':7.5,'rope_scaling':{'type':'linear','factor':4}}"), 0, "linear, old name");
    ok(c.rope.kind == RONDO_ROPE_LINEAR && c.rope.factor == 4.0 && c.rope.theta == 7.5, "is read");
    is_int(read_text(LLAMA ",'max_position_embeddings':4096,'rope_scaling':{'type':'dynamic','rope_type':'dynamic','factor':2.0}}"), 0, "dynamic");
    ok(c.rope.kind == RONDO_ROPE_DYNAMIC && c.rope.factor == 2.0 && c.rope.original_max_positions == 4096, "grows from max_position_embeddings");
    is_int(read_text(LLAMA ",'max_position_embeddings':131072,'rope_theta':500000.0,'rope_scaling':{'factor':8.0,'low_freq_factor':1.0,"
                     "'high_freq_factor':4.0,'original_max_position_embeddings':8192,'rope_type':'llama3'}}"), 0, "llama3");
    ok(c.rope.kind == RONDO_ROPE_LLAMA3 && c.rope.factor == 8.0 && c.rope.low_freq_factor == 1.0 && c.rope.high_freq_factor == 4.0 &&
       c.rope.original_max_positions == 8192 && c.rope.attention_factor == 1.0, "is read");
    is_int(read_text(MISTRAL ",'rope_parameters':{'rope_type':'yarn','rope_theta':10000,'factor':16,'original_max_position_embeddings':4096}}"), 0, "yarn");
    ok(c.rope.kind == RONDO_ROPE_YARN && c.rope.beta_fast == 32.0 && c.rope.beta_slow == 1.0 && c.rope.truncate &&
       close_to(c.rope.attention_factor, 1.2772588722239781), "with its defaults: %.17g", c.rope.attention_factor);
    is_int(read_text(MISTRAL ",'max_position_embeddings':65536,'rope_scaling':{'rope_type':'yarn','factor':null,'original_max_position_embeddings':4096,"
                     "'beta_fast':40,'beta_slow':2,'truncate':false,'mscale':0.7,'mscale_all_dim':0.4,'finetuned':true}}"), 0, "yarn with all: %s",
           rondo_error_text());
    ok(c.rope.factor == 16.0 && c.rope.beta_fast == 40.0 && c.rope.beta_slow == 2.0 && !c.rope.truncate &&
       close_to(c.rope.attention_factor, 1.1940812105567846 / 1.1109035488895912), "is read: %.17g", c.rope.attention_factor);
    is_int(read_text(MISTRAL ",'rope_scaling':{'rope_type':'yarn','factor':4,'attention_factor':0.5}}"), 0, "yarn with attention_factor");
    ok(c.rope.attention_factor == 0.5 && c.rope.original_max_positions == 131072, "is read; the original length defaults to the largest");
    is_int(read_text(LLAMA ",'original_max_position_embeddings':512,'rope_scaling':{'rope_type':'yarn','factor':1,'original_max_position_embeddings':64}}"), 0,
           "the original length at the top");
    ok(c.rope.original_max_positions == 512 && c.rope.attention_factor == 1.0, "goes before");
    is_int(read_text(LLAMA ",'head_dim':20,'partial_rotary_factor':0.5}"), 0, "a part of the head");
    is_int(c.rope.dim, 10, "turns");
    is_int(read_text(LLAMA ",'rope_scaling':{'type':'linear','factor':2},'rope_parameters':{'type':'linear','factor':2}}"), 0, "both styles that agree");
    for (int i = 0; i < 6; i++)
        ok(!strcmp(rondo__rope_name(i), (const char *[]){ "default", "linear", "dynamic", "llama3", "yarn", "unknown" }[i]), "name %d", i);
}

/* Fields that change nothing, as people's files have them. */
static void test_harmless(void)
{
    is_int(read_text(LLAMA ",'sliding_window':32768,'use_sliding_window':false,'max_window_layers':28}"), 0, "a window that is not used: %s",
           rondo_error_text());
    is_int(c.window, 0, "is none");
    is_int(read_text(LLAMA ",'sliding_window':0,'use_sliding_window':false}"), 0, "whatever its width");
    is_int(read_text(LLAMA ",'embedding_multiplier':1.0,'residual_multiplier':1,'num_experts':0,'final_logit_softcapping':0.0,'qk_norm':false,"
                     "'cross_attention_layers':[],'quantization_config':{},'rotary_pct':1.0}"), 0, "multipliers of 1, counts of 0, nothing: %s", rondo_error_text());
    is_int(read_text(LLAMA ",'eos_token_id':-1}"), 0, "no end, in the old spelling");
    is_int(c.eos_count, 0, "is none");
    static const struct {
        const char *what, *text;
        int kind;
    } both[] = {
        { "type and rope_type", "'rope_theta':5e5,'rope_scaling':{'type':'linear','factor':8},'rope_parameters':{'rope_type':'linear','factor':8.0,'rope_theta':500000}",
          RONDO_ROPE_LINEAR },
        { "a theta in one alone", "'rope_scaling':{'type':'linear','factor':8},'rope_parameters':{'rope_type':'linear','factor':8.0,'rope_theta':500000}", RONDO_ROPE_LINEAR },
        { "default and theta alone", "'rope_theta':5e5,'rope_scaling':{'rope_type':'default'},'rope_parameters':{'rope_theta':500000.0}", RONDO_ROPE_DEFAULT },
        { "one of them empty", "'rope_theta':5e5,'rope_scaling':{},'rope_parameters':{'rope_type':'linear','factor':8}", RONDO_ROPE_LINEAR },
        { "one of them null", "'rope_theta':5e5,'rope_scaling':null,'rope_parameters':{'rope_type':'linear','factor':8}", RONDO_ROPE_LINEAR },
        { "defaults spelled out", "'rope_scaling':{'type':'yarn','factor':8,'original_max_position_embeddings':64},'rope_parameters':{'rope_type':'yarn','factor':8,"
          "'original_max_position_embeddings':64,'beta_fast':32,'beta_slow':1.0,'truncate':true,'rope_theta':5e5}", RONDO_ROPE_YARN },
    };
    for (size_t i = 0; i < sizeof both / sizeof both[0]; i++) {
        char text[2048];
        snprintf(text, sizeof text, "%s,%s}", LLAMA, both[i].text);
        is_int(read_text(text), 0, "both styles of rope, %s: %s", both[i].what, rondo_error_text());
        ok(c.rope.kind == both[i].kind && c.rope.theta == 500000.0 && c.rope.factor == (both[i].kind ? 8.0 : 1.0), "are read as one");
    }
    is_int(read_text(LLAMA ",'head_dim':16,'rope_scaling':{'type':'linear','factor':8},'rope_parameters':{'rope_type':'linear','factor':8,"
                     "'partial_rotary_factor':0.25}}"), 0, "a part of the head, said in one style");
    is_int(c.rope.dim, 4, "turns");
}

/* ---- what is told ---- */

static char told[4096];

static void on_log(void *user, int level, const char *sentence)
{
    (void)user;
    size_t n = strlen(told);
    if (level <= RONDO_LOG_WARNING)
        snprintf(told + n, sizeof told - n, "%s\n", sentence);
}

static void test_told(void)
{
    rondo_hooks hooks = RONDO_HOOKS_INIT;
    hooks.log = on_log;
    ok(!rondo_set_hooks(&hooks), "warnings are listened to");
    is_int(read_text(LLAMA ",'use_cache':true,'id2label':{'0':'A'},'_attn_implementation':'sdpa','pad_token_id':-1,'is_llama_config':true,"
                     "'qk_scale':null,'z_loss':0,'rope_interleaved':false}"), 0, "bookkeeping: %s", rondo_error_text());
    ok(!*told, "is nothing to tell: %s", told);
    is_int(read_text(LLAMA ",'qk_scale':8.5,'value_residual':true}"), 0, "fields that nobody knows");
    const char *end = strchr(told, '\n');
    ok(end && !end[1] && strstr(told, "\"qk_scale\"") && strstr(told, "\"value_residual\"") && strstr(told, "config.json"), "are told, all at once: %s", told);
    told[0] = 0;
    char many[4000] = LLAMA;
    for (int i = 0; i < 100; i++)
        snprintf(many + strlen(many), sizeof many - strlen(many), ",'nobody_knows_%d':1", i);
    snprintf(many + strlen(many), sizeof many - strlen(many), "}");
    is_int(read_text(many), 0, "many");
    end = strchr(told, '\n');
    ok(end && !end[1] && strstr(told, "..."), "are cut: %s", told);
    told[0] = 0;
    is_int(read_text(LLAMA ",'rope_scaling':{'type':'linear','factor':2,'beta_fast':32}}"), 0, "a rope parameter of another type");
    ok(strstr(told, "beta_fast") != NULL, "is told: %s", told);
    ok(!rondo_set_hooks(NULL), "no more");
}

static void test_generation(void)
{
    scratch_text("generation_config.json", "{\"eos_token_id\":[5,6],\"do_sample\":true,\"temperature\":0.6,\"top_p\":0.9,\"top_k\":50,"
                 "\"max_length\":4096,\"transformers_version\":\"4.42\"}");
    is_int(read_text(LLAMA ",'eos_token_id':2}"), 0, "with a generation_config.json");
    ok(c.eos_count == 2 && c.eos[0] == 5 && c.eos[1] == 6, "its list of ends counts");
    scratch_text("generation_config.json", "{\"eos_token_id\":null,\"top_k\":null}");
    ok(!read_text(LLAMA ",'eos_token_id':3}") && c.eos_count == 1 && c.eos[0] == 3, "null there leaves config.json's");
    static const char *const counts[] = { "-1", "0", "50.0", "50", "-1.0", "null" };
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        char text[64];
        snprintf(text, sizeof text, "{\"top_k\":%s}", counts[i]);
        scratch_text("generation_config.json", text);
        is_int(read_text(LLAMA "}"), 0, "top_k %s", counts[i]);
    }
    static const char *const bad[] = { "{\"top_k\":-2}", "", "[]", "{\"eos_token_id\":\"</s>\"}", "{\"top_p\":2}", "{\"top_k\":1.5}", "{\"temperature\":-1}", "{\"do_sample\":1}",
                                       "{\"eos_token_id\":[1,null]}" };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        scratch_text("generation_config.json", bad[i]);
        is_int(read_text(LLAMA "}"), RONDO_EFORMAT, "damaged: %s", rondo_error_text());
    }
    unlink(scratch_path("generation_config.json"));
}

static void test_refused(void)
{
    static const struct {
        int code;
        const char *text, *says;
    } bad[] = {
        { RONDO_EFORMAT, "", "JSON" },
        { RONDO_EFORMAT, "[1]", "an object is needed" },
        { RONDO_EFORMAT, "{}", "model_type" },
        { RONDO_EFORMAT, LLAMA ",'vocab_size':100}", "duplicate" },
        { RONDO_EFORMAT, "{'architectures':[]}", "architectures" },
        { RONDO_EFORMAT, "{'architectures':'LlamaForCausalLM'}", "architectures" },
        { RONDO_EFORMAT, "{'architectures':['LlamaForCausalLM','MistralForCausalLM']}", "architectures" },
        { RONDO_EFORMAT, "{'architectures':['LlamaForCausalLM'],'model_type':'mistral'}", "model_type" },
        { RONDO_ENOTSUP, "{'architectures':['GemmaForCausalLM'],'model_type':'gemma'}", "GemmaForCausalLM" },
        { RONDO_ENOTSUP, "{'architectures':['LlamaForSequenceClassification'],'model_type':'llama'}", "LlamaForSequenceClassification" },
        { RONDO_ENOTSUP, "{'model_type':'mixtral'}", "mixtral" },
        { RONDO_EFORMAT, LLAMA ",'num_key_value_heads':3}", "num_key_value_heads" },
        { RONDO_EFORMAT, LLAMA ",'num_key_value_heads':0}", "num_key_value_heads" },
        { RONDO_EFORMAT, LLAMA ",'num_key_value_heads':-8}", "num_key_value_heads" },
        { RONDO_EFORMAT, LLAMA ",'num_key_value_heads':16}", "num_key_value_heads" },
        { RONDO_EFORMAT, "{'model_type':'llama','hidden_size':0}", "hidden_size" },
        { RONDO_EFORMAT, "{'model_type':'llama','hidden_size':1e3}", "hidden_size" },
        { RONDO_EFORMAT, "{'model_type':'llama','hidden_size':'4096'}", "hidden_size" },
        { RONDO_EFORMAT, "{'model_type':'llama','hidden_size':null}", "hidden_size" },
        { RONDO_EFORMAT, "{'model_type':'llama','hidden_size':9223372036854775807}", "hidden_size" },
        { RONDO_EFORMAT, "{'model_type':'llama','hidden_size':92233720368547758070}", "JSON" },
        { RONDO_EFORMAT, "{'model_type':'llama','hidden_size':100}", "hidden_size" },
        { RONDO_EFORMAT, "{'model_type':'llama','num_hidden_layers':1000000}", "num_hidden_layers" },
        { RONDO_EFORMAT, "{'model_type':'llama','num_attention_heads':0}", "num_attention_heads" },
        { RONDO_EFORMAT, "{'model_type':'llama','vocab_size':0}", "vocab_size" },
        { RONDO_EFORMAT, "{'model_type':'llama','intermediate_size':-1}", "intermediate_size" },
        { RONDO_EFORMAT, "{'model_type':'llama','head_dim':0}", "head_dim" },
        { RONDO_EFORMAT, "{'model_type':'llama','head_dim':63}", "head_dim" },
        { RONDO_EFORMAT, "{'model_type':'llama','hidden_size':1048576,'num_attention_heads':1,'num_key_value_heads':1}", "head" },
        { RONDO_EFORMAT, "{'model_type':'llama','max_position_embeddings':0}", "max_position_embeddings" },
        { RONDO_EFORMAT, LLAMA ",'rms_norm_eps':0}", "rms_norm_eps" },
        { RONDO_EFORMAT, LLAMA ",'rms_norm_eps':-1e-5}", "rms_norm_eps" },
        { RONDO_EFORMAT, LLAMA ",'rms_norm_eps':'1e-5'}", "rms_norm_eps" },
        { RONDO_EFORMAT, LLAMA ",'rms_norm_eps':NaN}", "JSON" },
        { RONDO_EFORMAT, LLAMA ",'tie_word_embeddings':1}", "tie_word_embeddings" },
        { RONDO_EFORMAT, LLAMA ",'eos_token_id':'2'}", "eos_token_id" },
        { RONDO_EFORMAT, LLAMA ",'eos_token_id':[-2]}", "eos_token_id" },
        { RONDO_EFORMAT, LLAMA ",'bos_token_id':-2}", "bos_token_id" },
        { RONDO_EFORMAT, LLAMA ",'bos_token_id':[1]}", "bos_token_id" },
        { RONDO_ENOTSUP, LLAMA ",'hidden_act':'gelu'}", "gelu" },
        { RONDO_EFORMAT, LLAMA ",'hidden_act':3}", "hidden_act" },
        { RONDO_ENOTSUP, LLAMA ",'quantization_config':{'bits':4}}", "quantization_config" },
        { RONDO_EFORMAT, LLAMA ",'quantization_config':7}", "quantization_config" },
        { RONDO_ENOTSUP, LLAMA ",'quantization_config':{'quant_method':'gptq','bits':8}}", "gptq" },
        { RONDO_ENOTSUP, LLAMA ",'quantization_config':{'quant_method':'compressed-tensors','format':'pack-quantized'}}", "pack-quantized" },
        { RONDO_ENOTSUP, LLAMA ",'quantization_config':{'quant_method':'compressed-tensors','format':'int-quantized'}}", "config_groups" },
        { RONDO_ENOTSUP, INT8(",'strategy':'tensor'", ""), "tensor" },
        { RONDO_ENOTSUP, INT8("", ""), "strategy" },
        { RONDO_ENOTSUP, INT8(",'strategy':'channel','symmetric':false", ""), "zero points" },
        { RONDO_ENOTSUP, INT8(",'strategy':'channel','dynamic':true", ""), "dynamic" },
        { RONDO_ENOTSUP, INT8(",'strategy':'group','actorder':'group'", ""), "actorder" },
        { RONDO_ENOTSUP, INT8(",'strategy':'channel'", ",'sparsity_config':{'format':'sparse-24-bitmask'}"), "sparsity_config" },
        { RONDO_ENOTSUP, LLAMA ",'quantization_config':{'quant_method':'compressed-tensors','format':'int-quantized','config_groups':{'g':{'weights':"
                         "{'num_bits':4,'type':'int','strategy':'channel'}}}}}", "num_bits" },
        { RONDO_ENOTSUP, LLAMA ",'quantization_config':{'quant_method':'compressed-tensors','format':'int-quantized','config_groups':{'g':{'weights':"
                         "{'num_bits':8,'type':'float','strategy':'channel'}}}}}", "float" },
        { RONDO_ENOTSUP, LLAMA ",'quantization_config':{'quant_method':'compressed-tensors','format':'int-quantized','config_groups':{'g':{'weights':"
                         "{'num_bits':8,'type':'int','strategy':'channel'},'input_activations':{'dynamic':false}}}}}", "input_activations" },
        { RONDO_ENOTSUP, LLAMA ",'quantization_config':{'quant_method':'compressed-tensors','format':'int-quantized','config_groups':{'g':{}}}}", "weights" },
        { RONDO_ENOTSUP, LLAMA ",'num_local_experts':8}", "num_local_experts" },
        { RONDO_ENOTSUP, LLAMA ",'rotary_pct':0.25}", "rotary_pct" },
        { RONDO_ENOTSUP, LLAMA ",'residual_multiplier':0.5}", "residual_multiplier" },
        { RONDO_EFORMAT, LLAMA ",'rope_scaling':{'type':'linear','factor':2,'rope_theta':7},'rope_parameters':{'rope_type':'linear','factor':2,'rope_theta':5}}",
          "differ" },
        { RONDO_EFORMAT, LLAMA ",'rope_scaling':{'type':'linear','factor':2},'rope_parameters':{'rope_type':'default'}}", "differ" },
        { RONDO_ENOTSUP, LLAMA ",'sliding_window':100}", "sliding_window" },
        { RONDO_ENOTSUP, MISTRAL ",'attention_bias':true}", "attention_bias" },
        { RONDO_ENOTSUP, MISTRAL ",'mlp_bias':true}", "mlp_bias" },
        { RONDO_ENOTSUP, QWEN2 ",'use_sliding_window':true,'max_window_layers':1}", "max_window_layers" },
        { RONDO_ENOTSUP, QWEN3 ",'use_sliding_window':true,'layer_types':['full_attention','sliding_attention']}", "layer_types[1]" },
        { RONDO_EFORMAT, QWEN3 ",'layer_types':['sliding_attention','sliding_attention']}", "use_sliding_window" },
        { RONDO_ENOTSUP, QWEN3 ",'layer_types':['linear_attention','linear_attention']}", "linear_attention" },
        { RONDO_ENOTSUP, QWEN2 ",'mlp_bias':true}", "mlp_bias" },
        { RONDO_EFORMAT, QWEN2 ",'max_window_layers':null}", "max_window_layers" },
        { RONDO_EFORMAT, "{'architectures':['Qwen2ForCausalLM'],'model_type':'qwen3'}", "model_type" },
        { RONDO_ENOTSUP, "{'architectures':['Qwen2MoeForCausalLM']}", "Qwen2MoeForCausalLM" },
        { RONDO_ENOTSUP, "{'architectures':['Qwen3MoeForCausalLM'],'model_type':'qwen3_moe'}", "Qwen3MoeForCausalLM" },
        { RONDO_EFORMAT, MISTRAL ",'sliding_window':0}", "sliding_window" },
        { RONDO_EFORMAT, MISTRAL ",'sliding_window':[4096,null]}", "sliding_window" },
        { RONDO_ENOTSUP, MISTRAL ",'use_sliding_window':false}", "use_sliding_window" },
        { RONDO_ENOTSUP, MISTRAL ",'layer_types':['sliding_attention','full_attention']}", "layer_types" },
        { RONDO_EFORMAT, MISTRAL ",'layer_types':['sliding_attention']}", "layer_types" },
        { RONDO_ENOTSUP, LLAMA ",'rope_scaling':{'type':'longrope','short_factor':[1],'long_factor':[1]}}", "longrope" },
        { RONDO_ENOTSUP, LLAMA ",'rope_scaling':{'type':'su'}}", "\"su\"" },
        { RONDO_ENOTSUP, LLAMA ",'rope_scaling':{'type':'mrope','mrope_section':[1]}}", "mrope" },
        { RONDO_ENOTSUP, LLAMA ",'rope_scaling':{'type':'default','mrope_section':[1]}}", "mrope_section" },
        { RONDO_EFORMAT, LLAMA ",'rope_scaling':{'type':'linear','rope_type':'yarn','factor':2}}", "differ" },
        { RONDO_EFORMAT, LLAMA ",'rope_scaling':{'type':'linear','factor':2},'rope_parameters':{'type':'linear','factor':3}}", "differ" },
        { RONDO_EFORMAT, LLAMA ",'rope_scaling':{'type':'linear'}}", "factor" },
        { RONDO_EFORMAT, LLAMA ",'rope_scaling':{'type':'linear','factor':0}}", "factor" },
        { RONDO_EFORMAT, LLAMA ",'rope_scaling':{'type':'linear','factor':'2'}}", "factor" },
        { RONDO_EFORMAT, LLAMA ",'rope_scaling':{'type':'linear','factor':1e300}}", "factor" },
        { RONDO_EFORMAT, LLAMA ",'rope_scaling':'linear'}", "rope_scaling" },
        { RONDO_EFORMAT, LLAMA ",'rope_scaling':{'type':4}}", "type" },
        { RONDO_EFORMAT, LLAMA ",'rope_theta':0}", "rope_theta" },
        { RONDO_EFORMAT, LLAMA ",'rope_theta':1}", "rope_theta" },
        { RONDO_EFORMAT, LLAMA ",'rope_theta':-10000}", "rope_theta" },
        { RONDO_EFORMAT, LLAMA ",'partial_rotary_factor':0}", "partial_rotary_factor" },
        { RONDO_EFORMAT, LLAMA ",'partial_rotary_factor':1.5}", "partial_rotary_factor" },
        { RONDO_EFORMAT, LLAMA ",'partial_rotary_factor':0.4}", "partial_rotary_factor" },
        { RONDO_EFORMAT, LLAMA ",'rope_scaling':{'rope_type':'llama3','factor':8,'low_freq_factor':4,'high_freq_factor':1}}", "low_freq_factor" },
        { RONDO_EFORMAT, LLAMA ",'rope_scaling':{'rope_type':'llama3','factor':8,'low_freq_factor':1}}", "high_freq_factor" },
        { RONDO_EFORMAT, LLAMA ",'rope_scaling':{'rope_type':'llama3','factor':8,'low_freq_factor':1,'high_freq_factor':4,"
                         "'original_max_position_embeddings':0}}", "original_max_position_embeddings" },
        { RONDO_EFORMAT, LLAMA ",'rope_scaling':{'rope_type':'yarn','factor':2,'beta_fast':1,'beta_slow':8}}", "beta_fast" },
        { RONDO_EFORMAT, LLAMA ",'rope_scaling':{'rope_type':'yarn','factor':2,'attention_factor':-1}}", "attention_factor" },
        { RONDO_EFORMAT, LLAMA ",'head_dim':2,'rope_scaling':{'rope_type':'dynamic','factor':2}}", "dynamic" },
        { RONDO_ENOTSUP, LLAMA ",'rope_parameters':{'full_attention':{'rope_type':'default'}}}", "full_attention" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        is_int(read_text(bad[i].text), bad[i].code, "%.90s", bad[i].text[0] ? bad[i].text + (strlen(bad[i].text) > 160 ? 150 : 0) : "nothing");
        ok(strstr(rondo_error_text(), bad[i].says) && strstr(rondo_error_text(), "config.json") && !strchr(rondo_error_text(), '\n') &&
           c.layers == 0x5555555555555555, "the sentence, and nothing filled: %s", rondo_error_text());
    }
    unlink(scratch_path("config.json"));
    is_int(rondo__config_read(&c, scratch_dir), RONDO_EIO, "no file: %s", rondo_error_text());
}

/* Every cut of a real file, and bytes turned over: a code or a configuration in range. */
static void test_damaged(void)
{
    size_t n;
    char *good = scratch_read(source_path("examples/kjv/config.json"), &n);
    scratch_write("config.json", good, n);
    is_int(rondo__config_read(&c, scratch_dir), 0, "the shipped model's: %s", rondo_error_text());
    ok(c.family == RONDO_FAMILY_MISTRAL && c.head_dim == 64 && c.heads == 4 && c.kv_heads == 2 && c.window == 0 && c.rope.theta == 1e6 &&
       c.vocabulary == 2048 && c.bos == 0 && c.eos_count == 1 && c.eos[0] == 1 && c.rms_eps == 1e-5, "is read");
    int wrong = 0;
    size_t end = n;
    while (end && good[end - 1] != '}')
        end--;
    for (size_t cut = 0; cut < end; cut++) {
        scratch_write("config.json", good, cut);
        wrong += rondo__config_read(&c, scratch_dir) != RONDO_EFORMAT;
    }
    is_int(wrong, 0, "cut after any byte it is refused");
    uint64_t state = 7;
    char *bad = malloc(n);
    for (int r = 0; r < 4000; r++) {
        memcpy(bad, good, n);
        for (int k = 0; k < 2; k++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            bad[(state >> 33) % n] = "0123456789-.e\",:{}[]nt"[(state >> 20) % 22];
        }
        scratch_write("config.json", bad, n);
        int err = rondo__config_read(&c, scratch_dir);
        if (err ? err != RONDO_EFORMAT && err != RONDO_ENOTSUP
                : c.heads < 1 || c.heads % c.kv_heads || c.head_dim < 1 || c.rope.dim > c.head_dim || c.rope.dim % 2 || !(c.rope.theta > 1.0) ||
                      !(c.rope.attention_factor > 0.0))
            wrong++;
    }
    is_int(wrong, 0, "with bytes turned over it is refused or in range");
    free(bad);
    free(good);
}

int main(void)
{
    scratch_make("6020");
    test_defaults();
    test_qwen();
    test_quant();
    test_rope();
    test_generation();
    test_harmless();
    test_told();
    test_refused();
    test_damaged();
    scratch_remove();
    return done();
}
