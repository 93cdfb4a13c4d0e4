/* SPDX-License-Identifier: GPL-2.0-or-later */
/* clshmctl evict: finds a partition by its name or number, and has the daemon declare it dead. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "src/tools/clshmctl.h"
#include "src/tools/parse.h"

enum { OPT_FORCE = 0x100, OPT_FENCED };

static const struct argp_option options[] = {
    {"force", OPT_FORCE, NULL, 0, "Although it still beats", 0},
    {"fenced", OPT_FENCED, NULL, 0, "You vouch that it cannot write to shared memory any more: it is off, or cut off",
     0},
    {0}};

struct input {
    struct tool *tool;
    const char *part;
    uint32_t flags;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct input *input = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = input->tool;
        return 0;
    case OPT_FORCE:
        input->flags |= CLSHMD_EVICT_FORCE;
        return 0;
    case OPT_FENCED:
        input->flags |= CLSHMD_EVICT_FENCED;
        return 0;
    case ARGP_KEY_ARG:
        if (state->arg_num > 0)
            argp_error(state, "%s: too many arguments", arg);
        input->part = arg;
        return 0;
    case ARGP_KEY_NO_ARGS:
        argp_error(state, "which partition?");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* A partition by its name, else by its number. @return FABRIC_PARTS_MAX: none. */
static uint32_t find(const struct clshmd_status_reply *s, const char *text)
{
    uint64_t number;

    for (uint32_t i = 0; i < FABRIC_PARTS_MAX; i++)
        if (s->part[i].state != CLSHMD_PART_ABSENT && strncmp(s->part[i].name, text, FABRIC_NAME_MAX) == 0)
            return i;
    return parse_number(text, 0, FABRIC_PARTS_MAX - 1, &number) == 0 ? (uint32_t)number : FABRIC_PARTS_MAX;
}

static int refused(const struct tool_conn *conn, const struct input *input, uint32_t part, int r)
{
    char arguments[64];

    switch (r) {
    case EBUSY:
        tool_error(input->part, r, "it still beats");
        snprintf(arguments, sizeof(arguments), "evict %u --force", part);
        tool_hint_command(input->tool, "clshmctl", arguments);
        return TOOL_FAILED;
    case EINVAL:
        tool_error(input->part, r, "no such partition is there, or it is this one");
        return TOOL_FAILED;
    case EPERM:
        tool_error(input->part, r, "only root and the daemon's owner may evict");
        return TOOL_FAILED;
    default:
        return (int)tool_failed(conn, input->part, r, "cannot evict it");
    }
}

static int evict(struct input *input)
{
    CLEANUP_CONN struct tool_conn *conn = NULL;
    struct clshmd_status_reply known;
    struct clshmd_evict request = {.flags = input->flags};
    enum tool_status status = tool_connect(input->tool, &conn);
    int r;

    if (status != TOOL_DONE)
        return status;
    r = tool_call(conn, CLSHMD_STATUS, NULL, 0, &known, sizeof(known));
    if (r != 0)
        return tool_failed(conn, "status", r, "the daemon did not say");
    request.part = find(&known, input->part);
    if (request.part == FABRIC_PARTS_MAX) {
        tool_error(input->part, ENOENT, "no such partition");
        tool_hint_command(input->tool, "clshmctl", "status");
        return TOOL_FAILED;
    }
    r = tool_call(conn, CLSHMD_EVICT, &request, sizeof(request), NULL, 0);
    if (r != 0)
        return refused(conn, input, request.part, r);
    if (input->tool->json)
        printf("{\"evicted\": %u}\n", request.part);
    else
        printf("partition %u is declared dead\n", request.part);
    return TOOL_DONE;
}

int cmd_evict(struct tool *tool, int argc, char **argv)
{
    static const struct argp_child children[] = {{.argp = &tool_argp}, {0}};
    static const struct argp argp = {
        .options = options,
        .parser = parse,
        .args_doc = "PARTITION",
        .doc = "Declare a partition dead, by its name or number: its attachments no longer count, its memory is out of "
               "reach, its keys and ids become free. If it still runs, it finds out, drops everything and joins anew.",
        .children = children,
    };
    struct input input = {.tool = tool};

    argp_parse(&argp, argc, argv, 0, NULL, &input);
    return evict(&input);
}
