/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * clshmctl getcfg, maxpgs, maxdpgs, timeout: one request, CONFIG, which sets what is named and answers with everything.
 */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "proto/driver.h"
#include "src/tools/clshmctl.h"
#include "src/tools/parse.h"

struct setting {
    const char *name;
    uint32_t bit; /* CLSHMD_SET_* */
    uint64_t min, max;
    const char *expected;
    const char *doc;
};

static const struct setting maxpgs = {
    "maxpgs",
    CLSHMD_SET_MAXPGS,
    0,
    UINT64_MAX,
    "a number of granules, 0 for no limit",
    "Set the most granules of memory that segments on this partition may have; 0: no limit."};
static const struct setting maxdpgs = {"maxdpgs",
                                       CLSHMD_SET_MAXDPGS,
                                       1,
                                       DRIVER_RING_PAGES_MAX,
                                       "a number of pages from 1 to 1024",
                                       "Set the pages of the ring by which the driver tells the daemon of events."};
static const struct setting timeout = {
    "timeout",
    CLSHMD_SET_TIMEOUT,
    0,
    60000,
    "milliseconds from 10 to 60000, 0 for never",
    "Set how long the daemon sleeps before it looks for messages of the driver and of other partitions, where nothing can wake it; 0: for ever."};

struct input {
    struct tool *tool;
    const struct setting *setting; /* NULL: getcfg */
    uint64_t value;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct input *input = state->input;
    int r;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = input->tool;
        return 0;
    case ARGP_KEY_ARG:
        if (input->setting == NULL || state->arg_num > 0)
            argp_error(state, "%s: too many arguments", arg);
        r = parse_number(arg, input->setting->min, input->setting->max, &input->value);
        if (r != 0)
            tool_bad_argument(state, arg, r, input->setting->expected);
        return 0;
    case ARGP_KEY_NO_ARGS:
        if (input->setting != NULL)
            argp_error(state, "%s needs %s", input->setting->name, input->setting->expected);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* A number, or null for no limit. */
static json_t *json_limit(uint64_t value)
{
    return value == 0 || value > INT64_MAX ? json_null() : json_integer((json_int_t)value);
}

static int print_json(const struct clshmd_config_reply *c)
{
    uint64_t max_bytes;
    bool limited = c->maxpgs != 0 && !__builtin_mul_overflow(c->maxpgs, c->granule, &max_bytes);
    json_t *root =
        json_pack("{s:o s:i s:o s:i s:i s:s s:o s:o s:o s:o s:o s:o}", "maxpgs", json_limit(c->maxpgs), "granule",
                  (int)c->granule, "max_bytes", json_limit(limited ? max_bytes : 0), "maxdpgs", (int)c->maxdpgs,
                  "timeout_ms", (int)c->timeout_ms, "uids", c->uids == 0 ? "same" : "squash", "max_segments",
                  json_limit(c->max_segments), "max_segments_uid", json_limit(c->max_segments_uid), "max_bytes_uid",
                  json_limit(c->max_bytes_uid), "max_attachments_uid", json_limit(c->max_attachments_uid),
                  "max_clients_uid", json_limit(c->max_clients_uid), "max_keys_uid", json_limit(c->max_keys_uid));
    int r =
        root == NULL || json_object_set_new(root, "file", c->file[0] != '\0' ? json_string(c->file) : json_null()) != 0;

    r = r || json_dumpf(root, stdout, JSON_INDENT(2)) != 0;
    json_decref(root);
    puts("");
    return r ? TOOL_FAILED : TOOL_DONE;
}

static void print_limit(const char *name, uint64_t value, const char *what)
{
    if (value == 0)
        printf("%-20s none\n", name);
    else
        printf("%-20s %" PRIu64 " %s\n", name, value, what);
}

static void print_text(const struct clshmd_config_reply *c)
{
    char text[TEXT_SIZE_MAX];
    uint64_t bytes;

    if (c->maxpgs == 0)
        printf("%-20s no limit\n", "maxpgs");
    else if (__builtin_mul_overflow(c->maxpgs, c->granule, &bytes))
        printf("%-20s %" PRIu64 " granules of %" PRIu32 " bytes\n", "maxpgs", c->maxpgs, c->granule);
    else
        printf("%-20s %" PRIu64 " granules of %" PRIu32 " bytes: %" PRIu64 " bytes (%s)\n", "maxpgs", c->maxpgs,
               c->granule, bytes, format_size(bytes, text));
    printf("%-20s %" PRIu32 " pages\n", "maxdpgs", c->maxdpgs);
    printf("%-20s %" PRIu32 " ms\n", "timeout", c->timeout_ms);
    printf("%-20s %s\n", "uids", c->uids == 0 ? "same" : "squash");
    print_limit("max_segments", c->max_segments, "segments");
    print_limit("max_segments_uid", c->max_segments_uid, "segments of one user");
    print_limit("max_bytes_uid", c->max_bytes_uid, "bytes of one user");
    print_limit("max_attachments_uid", c->max_attachments_uid, "attached segments of one user");
    print_limit("max_clients_uid", c->max_clients_uid, "processes of one user");
    print_limit("max_keys_uid", c->max_keys_uid, "reserved keys of one user");
    printf("%-20s %s\n", "file", c->file[0] != '\0' ? c->file : "none was read");
}

static int config(struct input *input)
{
    CLEANUP_CONN struct tool_conn *conn = NULL;
    const struct setting *s = input->setting;
    struct clshmd_config request = {.set = s != NULL ? s->bit : 0};
    struct clshmd_config_reply reply;
    enum tool_status status = tool_connect(input->tool, &conn);
    int r;

    if (status != TOOL_DONE)
        return status;
    request.maxpgs = request.set == CLSHMD_SET_MAXPGS ? input->value : 0;
    request.maxdpgs = request.set == CLSHMD_SET_MAXDPGS ? (uint32_t)input->value : 0;
    request.timeout_ms = request.set == CLSHMD_SET_TIMEOUT ? (uint32_t)input->value : 0;
    r = tool_call(conn, CLSHMD_CONFIG, &request, sizeof(request), &reply, sizeof(reply));
    if (r == EINVAL && s != NULL) {
        tool_error(s->name, r, "%" PRIu64 ": expected %s", input->value, s->expected);
        return TOOL_FAILED;
    }
    if (r != 0)
        return (int)tool_failed(conn, s != NULL ? s->name : "getcfg", r,
                                r == EPERM ? "only root and the daemon's owner may change it" : "the daemon refused");
    tool_clean(reply.file, sizeof(reply.file));
    if (input->tool->json)
        return print_json(&reply);
    print_text(&reply);
    return TOOL_DONE;
}

static int run(struct tool *tool, int argc, char **argv, const struct setting *setting)
{
    static const struct argp_child children[] = {{.argp = &tool_argp}, {0}};
    const struct argp argp = {
        .parser = parse,
        .args_doc = setting == NULL       ? NULL
                    : setting == &timeout ? "MS"
                                          : "N",
        .doc = setting == NULL ? "Show the configuration of this partition's daemon." : setting->doc,
        .children = children,
    };
    struct input input = {.tool = tool, .setting = setting};

    argp_parse(&argp, argc, argv, 0, NULL, &input);
    return config(&input);
}

int cmd_getcfg(struct tool *tool, int argc, char **argv)
{
    return run(tool, argc, argv, NULL);
}

int cmd_maxpgs(struct tool *tool, int argc, char **argv)
{
    return run(tool, argc, argv, &maxpgs);
}

int cmd_maxdpgs(struct tool *tool, int argc, char **argv)
{
    return run(tool, argc, argv, &maxdpgs);
}

int cmd_timeout(struct tool *tool, int argc, char **argv)
{
    return run(tool, argc, argv, &timeout);
}
