/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo info: what this build is and what it can use on this machine; with -m, what a model folder holds.
 */
#include "cli/lm_common.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#ifdef __GLIBC__
#include <gnu/libc-version.h>
#endif

static const char *model_dir;

static const struct option own_options[] = {
    { "model", 'm', OPTION_TEXT, "DIR", "describe a model folder instead", &model_dir, 0, 0, NULL },
    { NULL, 0, OPTION_FLAG, NULL, NULL, NULL, 0, 0, NULL },
};

static json_t *names(const char *(*name)(int index, int *usable))
{
    json_t *list = json_array();
    int usable = 0;
    for (int i = 0; name(i, &usable); i++) {
        json_t *one = json_object();
        json_object_set_new(one, "name", json_string(name(i, &usable)));
        json_object_set_new(one, "usable", json_boolean(usable));
        json_array_append_new(list, one);
    }
    return list;
}

/* The first value of a key of /proc/cpuinfo, or "". */
static void cpu_name(char *text, size_t room_bytes)
{
    char line[512];
    FILE *f = fopen("/proc/cpuinfo", "r");
    text[0] = 0;
    while (f && fgets(line, sizeof line, f)) {
        const char *colon = strchr(line, ':');
        if (colon && !strncmp(line, "model name", 10)) {
            snprintf(text, room_bytes, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
            break;
        }
    }
    if (f)
        fclose(f);
}

static json_t *topology(void)
{
    json_t *t = json_object();
    char name[128];
    cpu_name(name, sizeof name);
    json_object_set_new(t, "cpu", json_string(name));
    json_object_set_new(t, "cores", json_integer(sysconf(_SC_NPROCESSORS_ONLN)));
    json_object_set_new(t, "memory_bytes", json_integer((json_int_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE)));
    json_object_set_new(t, "page_bytes", json_integer(sysconf(_SC_PAGESIZE)));
    return t;
}

/* What compiled the program; __VERSION__ of clang names it, that of gcc is a number. */
static const char *compiler(void)
{
#if defined(__clang__)
    return __VERSION__;
#elif defined(__GNUC__)
    return "gcc " __VERSION__;
#else
    return "unknown";
#endif
}

/* Versions of what runs, not of what was compiled with, where a library tells. */
static json_t *libraries(void)
{
    json_t *l = json_object();
    char text[64] = "";
#ifdef __GLIBC__
    snprintf(text, sizeof text, "glibc %s", gnu_get_libc_version());
    json_object_set_new(l, "libc", json_string(text));
#endif
#if JANSSON_VERSION_HEX >= 0x020d00
    json_object_set_new(l, "jansson", json_string(jansson_version_str()));
#else
    json_object_set_new(l, "jansson", json_string(JANSSON_VERSION));
#endif
    if (pcre2_config(PCRE2_CONFIG_VERSION, NULL) <= (int)sizeof text && pcre2_config(PCRE2_CONFIG_VERSION, text) > 0)
        json_object_set_new(l, "pcre2", json_string(text));
    for (int i = 0; rondo_transport_name(i, NULL); i++) {
        const char *library = rondo_transport_library(i);
        if (*library)
            json_object_set_new(l, rondo_transport_name(i, NULL), json_string(library));
    }
    return l;
}

static void set_module_path(json_t *r)
{
    const size_t bytes = rondo_module_path(NULL, 0) + 1;
    char *text = room((int64_t)bytes, 1);
    if (text)
        rondo_module_path(text, bytes);
    json_object_set_new(r, "module_path", text ? json_text(text, strlen(text)) : json_null());
    free(text);
}

static void print_names(const char *what, const json_t *list)
{
    size_t i;
    json_t *one;
    printf("%-20s", what);
    json_array_foreach((json_t *)(uintptr_t)list, i, one)
        printf(" %s%s", json_string_value(json_object_get(one, "name")), json_is_true(json_object_get(one, "usable")) ? "" : " (not here)");
    printf("\n");
}

static int info_build(void)
{
    json_t *r = report_new();
    json_object_set_new(r, "build", json_string(rondo_build_options()));
    json_object_set_new(r, "compiler", json_string(compiler()));
    json_object_set_new(r, "libraries", libraries());
    set_module_path(r);
    json_object_set_new(r, "numerics_version", json_integer(rondo_numerics_version()));
    json_object_set_new(r, "devices", names(rondo_device_name));
    json_object_set_new(r, "transports", names(rondo_transport_name));
    json_object_set_new(r, "isas", names(rondo_isa_name));
    int code = report_alone(r);
    json_object_set_new(r, "topology", topology());
    if (code || common.json || common.quiet) {
        if (!code)
            return report_print(r);
        json_decref(r);
        return code;
    }
    printf("rondo %s, numerics contract %d\n", rondo_version(), rondo_numerics_version());
    printf("%-20s %s\n", "build", rondo_build_options());
    printf("%-20s %s\n", "compiler", compiler());
    const char *key;
    json_t *value;
    json_object_foreach(json_object_get(r, "libraries"), key, value)
        printf("%-20s %s\n", key, json_string_value(value));
    printf("%-20s %s\n", "modules from", json_string_value(json_object_get(r, "module_path")));
    print_names("devices", json_object_get(r, "devices"));
    print_names("transports", json_object_get(r, "transports"));
    print_names("instruction sets", json_object_get(r, "isas"));
    const json_t *t = json_object_get(r, "topology");
    printf("%-20s %s, %d threads by default\n", "chosen", json_string_value(json_object_get(r, "isa")),
           (int)json_integer_value(json_object_get(r, "threads")));
    printf("%-20s %s, %d cores, %.1f GiB\n", "machine", json_string_value(json_object_get(t, "cpu")),
           (int)json_integer_value(json_object_get(t, "cores")), (double)json_integer_value(json_object_get(t, "memory_bytes")) / 1073741824.0);
    json_decref(r);
    return output_check();
}

static int info_model(void)
{
    rondo_context *ctx = NULL;
    rondo_model *model = NULL;
    rondo_context_desc desc = RONDO_CONTEXT_DESC_INIT;
    rondo_model_desc model_desc = RONDO_MODEL_DESC_INIT;
    rondo_model_info info = RONDO_MODEL_INFO_INIT;
    char tokenizer_json[PATH_MAX];
    int code = fail_library(rondo_context_create(&ctx, &desc), STAGE_OPTIONS);
    /* weights without a tokenizer are a model too (rondo score --ids) */
    const int n = snprintf(tokenizer_json, sizeof tokenizer_json, "%s/tokenizer.json", model_dir);
    model_desc.no_tokenizer = n > 0 && (size_t)n < sizeof tokenizer_json && access(tokenizer_json, F_OK) && errno == ENOENT;
    model_desc.no_weights = 1;   /* a large model is described as quickly as a small one */
    if (!code)
        code = fail_library(rondo_model_open(&model, ctx, model_dir, &model_desc), STAGE_INPUT);
    if (!code)
        code = fail_library(rondo_model_query(model, &info), STAGE_INPUT);
    if (!code) {
        json_t *r = report_new(), *eos = json_array();
        const struct {
            const char *name;
            int64_t value;
        } numbers[] = {
            { "layers", info.layers }, { "hidden", info.hidden }, { "intermediate", info.intermediate }, { "heads", info.heads },
            { "kv_heads", info.kv_heads }, { "head_dim", info.head_dim }, { "vocabulary", info.vocabulary },
            { "max_positions", info.max_positions }, { "window", info.window }, { "parameters", (int64_t)info.parameters },
            { "weight_bytes", (int64_t)info.weight_bytes }, { "bos", info.bos },
        };
        json_object_set_new(r, "model", json_string(model_dir));
        json_object_set_new(r, "architecture", json_string(info.architecture));
        json_object_set_new(r, "rope", json_string(info.rope));
        for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
            json_object_set_new(r, numbers[i].name, json_integer(numbers[i].value));
        const struct {
            const char *name;
            int64_t value;
        } linear[] = { { "kda_layers", info.kda_layers }, { "kda_heads", info.kda_heads }, { "kda_head_dim", info.kda_head_dim },
                       { "short_conv", info.conv_taps }, { "no_rope", info.no_rope } };
        for (size_t i = 0; i < sizeof linear / sizeof *linear && info.kda_layers; i++)
            json_object_set_new(r, linear[i].name, json_integer(linear[i].value));
        json_object_set_new(r, "tied", json_boolean(info.tied));
        for (int64_t i = 0; i < info.eos_count; i++)
            json_array_append_new(eos, json_integer(info.eos[i]));
        json_object_set_new(r, "eos", eos);
        const rondo_tokenizer *tokenizer = rondo_model_tokenizer(model);
        json_object_set_new(r, "tokens", json_integer(tokenizer ? rondo_tokenizer_size(tokenizer) : 0));
        code = report_alone(r);
        if (!code)
            code = report_print(r);
        else
            json_decref(r);
    }
    rondo_model_close(model);
    rondo_context_destroy(ctx);
    return code;
}

static int info_command(const struct command *self, int argc, char **argv)
{
    const struct option *const tables[OPTION_TABLES] = { own_options, options_output, NULL, NULL };
    int operands = 0;
    bool help;
    int code = options_parse(self, tables, argc, argv, NULL, 0, &operands, &help);
    if (code || help)
        return code;
    if ((code = common_settle()) != 0)
        return code;
    if (!ranks_first())
        return 0;   /* under mpirun one of the processes tells it */
    return model_dir ? info_model() : info_build();
}

const struct command command_info = {
    "info", "info [-m DIR] [OPTION]...",
    "Prints what this build is and what it can use here; or describes a model.\n"
    "Version, configure options, instruction sets, devices, transports, topology and the version of the numerics contract.",
    info_command,
};
