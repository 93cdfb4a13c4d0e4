/* SPDX-License-Identifier: GPL-2.0-or-later */
/* clshmctl rmfabric: removes a fabric's directory, unless a partition uses it. The work is done in fabrics.c. */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>

#include "src/lib/path.h"
#include "src/tools/clshmctl.h"
#include "src/tools/fabrics.h"
#include "src/util/cleanup.h"

struct input {
    struct tool *tool;
    const char *name;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct input *input = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = input->tool;
        return 0;
    case ARGP_KEY_ARG:
        if (state->arg_num > 0)
            argp_error(state, "%s: too many arguments", arg);
        input->name = arg;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static void print_json(const char *path)
{
    json_t *root = json_pack("{s:s}", "removed", path);

    json_dumpf(root, stdout, JSON_INDENT(2));
    json_decref(root);
    puts("");
}

static int report(const struct tool *tool, const char *path, enum fabrics_state state, unsigned part)
{
    switch (state) {
    case FABRICS_NONE:
        if (tool->json)
            print_json(path);
        else
            printf("fabric %s is gone\n", path);
        return TOOL_DONE;
    case FABRICS_UNUSED:
        break;
    case FABRICS_USED:
        tool_error(path, EBUSY, "partition %u uses it, or processes that attach its segments do", part);
        tool_hint("clshmctl -p NAME shutdown");
        return TOOL_FAILED;
    case FABRICS_FOREIGN:
        tool_error(path, EINVAL, "this is not a fabric");
        return TOOL_FAILED;
    case FABRICS_FAILED:
        break;
    }
    tool_error(path, errno, "cannot remove it");
    return TOOL_FAILED;
}

int cmd_rmfabric(struct tool *tool, int argc, char **argv)
{
    static const struct argp_child children[] = {{.argp = &tool_argp}, {0}};
    static const struct argp argp = {
        .parser = parse,
        .args_doc = "[NAME]",
        .doc = "Remove a fabric. Refused while a partition, or a process that attaches its segments, is there.",
        .children = children,
    };
    struct input input = {.tool = tool};
    CLEANUP_FREE char *path = NULL;
    enum fabrics_state state;
    unsigned part = 0;

    argp_parse(&argp, argc, argv, 0, NULL, &input);
    path = tool_fabric_path(tool, input.name);
    if (path == NULL) {
        tool_error(input.name != NULL     ? input.name
                   : tool->fabric != NULL ? tool->fabric
                                          : "fabric",
                   errno, "%s", path_strerror(errno));
        return TOOL_USAGE;
    }
    state = fabrics_look(path, &part);
    if (state == FABRICS_NONE) {
        tool_error(path, ENOENT, "there is no such fabric");
        return TOOL_FAILED;
    }
    if (state == FABRICS_UNUSED)
        state = fabrics_remove(path, &part);
    return report(tool, path, state, part);
}
