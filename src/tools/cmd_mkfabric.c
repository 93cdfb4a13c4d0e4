/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * clshmctl mkfabric: the geometry of a fabric is chosen here, once. fabric_local_ops.format() makes the files; this
 * file checks what it is told and says what was made.
 */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "src/fabric/area/area.h"
#include "src/fabric/ops.h"
#include "src/lib/path.h"
#include "src/tools/clshmctl.h"
#include "src/tools/fabrics.h"
#include "src/tools/parse.h"
#include "src/util/cleanup.h"

enum { OPT_PARTITIONS = 0x100, OPT_SLOTS, OPT_GRANULE, OPT_HEARTBEAT, OPT_GROUP, OPT_MODE };

/* What the help says. */
static_assert(FABRIC_PARTS_MAX == 64 && AREA_PARTS_DEFAULT == 16, "partitions");
static_assert(FABRIC_SLOTS_MIN == 64 && FABRIC_SLOTS_MAX == 32768 && AREA_SLOTS_DEFAULT == 4096, "slots");

static const struct argp_option options[] = {
    {"partitions", OPT_PARTITIONS, "N", 0, "Room for N partitions, 1 to 64 (default 16)", 0},
    {"slots", OPT_SLOTS, "N", 0, "Segments on each partition, a power of two from 64 to 32768 (default 4096)", 0},
    {"granule", OPT_GRANULE, "SIZE", 0,
     "Segments are mapped in multiples of this power of two (default: the page size)", 0},
    {"heartbeat", OPT_HEARTBEAT, "MS", 0, "Interval of the heartbeats, 1 to 60000 (default 200)", 0},
    {"group", OPT_GROUP, "GROUP", 0, "Group of the fabric's directory; its members' daemons may join", 0},
    {"mode", OPT_MODE, "MODE", 0, "Mode of the fabric's directory, octal (default 0700, with --group 2770)", 0},
    {0}};

struct input {
    struct tool *tool;
    const char *name;
    struct fabric_format format;
};

static bool power_of_two(uint64_t n)
{
    return n != 0 && (n & (n - 1)) == 0;
}

static void parse_granule(struct argp_state *state, const char *arg, uint32_t *out)
{
    uint64_t value = 0;
    int r = parse_size(arg, &value);

    if (r == 0 && (value < FABRIC_PAGE || value > 1u << 30 || !power_of_two(value)))
        r = ERANGE;
    if (r != 0)
        tool_bad_argument(state, arg, r, "a power of two from 4K to 1G");
    *out = (uint32_t)value;
}

static void parse_count(struct argp_state *state, const char *arg, uint32_t min, uint32_t max, bool power,
                        const char *expected, uint32_t *out)
{
    uint64_t value = 0;
    int r = parse_number(arg, min, max, &value);

    if (r == 0 && power && !power_of_two(value))
        r = EINVAL;
    if (r != 0)
        tool_bad_argument(state, arg, r, expected);
    *out = (uint32_t)value;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct input *input = state->input;
    struct fabric_format *f = &input->format;
    int r;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = input->tool;
        return 0;
    case OPT_PARTITIONS:
        parse_count(state, arg, 1, FABRIC_PARTS_MAX, false, "a number of partitions from 1 to 64", &f->parts);
        return 0;
    case OPT_SLOTS:
        parse_count(state, arg, FABRIC_SLOTS_MIN, FABRIC_SLOTS_MAX, true, "a power of two from 64 to 32768", &f->slots);
        return 0;
    case OPT_GRANULE:
        parse_granule(state, arg, &f->granule);
        return 0;
    case OPT_HEARTBEAT:
        parse_count(state, arg, 1, 60000, false, "milliseconds from 1 to 60000", &f->heartbeat_ms);
        return 0;
    case OPT_GROUP:
        r = parse_group(arg, &f->group);
        if (r != 0)
            tool_bad_argument(state, arg, r, "a group");
        return 0;
    case OPT_MODE:
        r = parse_mode(arg, 02777, &f->mode);
        if (r == 0 && (f->mode & 0700) != 0700)
            r = ERANGE;
        if (r != 0)
            tool_bad_argument(state, arg, r, "an octal mode up to 2777 that gives its owner rwx");
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

static int report(const struct input *input, const char *name, const char *path)
{
    if (input->tool->json) {
        json_t *root = json_pack("{s:s s:s}", "fabric", name, "path", path);
        int r = json_dumpf(root, stdout, JSON_INDENT(2));

        json_decref(root);
        puts("");
        return r == 0 ? TOOL_DONE : TOOL_FAILED;
    }
    printf("fabric %s is at %s\nnext: clshmctl -f %s -p NAME startup\n", name, path,
           input->name != NULL ? input->name : name);
    return TOOL_DONE;
}

int cmd_mkfabric(struct tool *tool, int argc, char **argv)
{
    static const struct argp_child children[] = {{.argp = &tool_argp}, {0}};
    static const struct argp argp = {
        .options = options,
        .parser = parse,
        .args_doc = "[NAME]",
        .doc = "Make a fabric that partitions of this kernel may join. NAME is a name, or a directory to be made; "
               "without it the one of -f or of the environment.",
        .children = children,
    };
    struct input input = {.tool = tool, .format = {.group = -1}};
    CLEANUP_FREE char *path = NULL;
    const char *name;
    unsigned part;
    int r;

    argp_parse(&argp, argc, argv, 0, NULL, &input);
    path = tool_fabric_path(tool, input.name);
    name = path != NULL ? fabrics_name(path) : NULL;
    if (name == NULL) {
        r = path != NULL ? EINVAL : errno;
        tool_error(input.name != NULL     ? input.name
                   : tool->fabric != NULL ? tool->fabric
                                          : "fabric",
                   r, "%s", path_strerror(r));
        return TOOL_USAGE;
    }
    if (input.format.group >= 0 && input.format.mode == 0)
        input.format.mode = 02770;
    input.format.path = path;
    input.format.name = name;
    r = fabrics_look(path, &part) == FABRICS_NONE ? fabric_local_ops.format(&input.format) : EEXIST;
    if (r != 0) {
        tool_error(path, r, r == EEXIST ? "it is there already" : "cannot make a fabric here");
        if (r == EEXIST)
            tool_hint("clshmctl rmfabric %s", input.name != NULL ? input.name : path);
        return TOOL_FAILED;
    }
    return report(&input, name, path);
}
