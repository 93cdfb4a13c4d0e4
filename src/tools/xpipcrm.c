/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * xpipcrm: removes segments by id or key, in ipcrm(1)'s manner, through libclshm. All of the command line is read before
 * anything is removed; what fails is said, and the rest is removed all the same.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "include/xp_shm.h"
#include "src/tools/parse.h"
#include "src/tools/segments.h"
#include "src/tools/tools.h"
#include "src/util/cleanup.h"

static const struct argp_option options[] = {
    {"shmem-id", 'm', "ID", 0, "Remove the segment with this id", 0},
    {"shmem-key", 'M', "KEY", 0, "Remove the segment with this key", 0},
    {"all", 'a', NULL, 0, "Remove all segments that the caller owns, on all partitions", 0},
    {"verbose", 'v', NULL, 0, "Say what is removed", 0},
    {0}};

struct target {
    bool by_key;
    int32_t value;
    const char *text;
};

struct input {
    struct tool tool;
    struct target *target;
    size_t n;
    bool all, verbose;
    size_t removed, failed;
};

static void add(struct argp_state *state, struct input *input, bool by_key, const char *arg)
{
    struct target *more = reallocarray(input->target, input->n + 1, sizeof(*more));
    struct target target = {.by_key = by_key, .text = arg};
    uint64_t id = 0;
    int r = by_key ? parse_key(arg, &target.value) : parse_number(arg, 0, INT32_MAX, &id);

    if (more == NULL)
        argp_failure(state, TOOL_FAILED, ENOMEM, "%s", arg);
    input->target = more;
    if (r != 0)
        tool_bad_argument(state, arg, r, by_key ? "a key" : "a segment's id");
    if (by_key && target.value == IPC_PRIVATE)
        argp_error(state, "%s: private segments have no key; remove them by their id", arg);
    if (!by_key)
        target.value = (int32_t)id;
    input->target[input->n++] = target;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct input *input = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &input->tool;
        return 0;
    case 'm':
    case 'M':
        add(state, input, key == 'M', arg);
        return 0;
    case 'a':
        input->all = true;
        return 0;
    case 'v':
        input->verbose = true;
        return 0;
    case ARGP_KEY_ARG:
        add(state, input, false, arg);
        return 0;
    case ARGP_KEY_END:
        if (input->n == 0 && !input->all)
            argp_error(state, "which segments?");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static void failed(struct input *input, const char *object, int error)
{
    tool_error(object, error, "%s",
               error == EPERM || error == EACCES    ? "it is not yours"
               : error == EINVAL || error == ENOENT ? "no such segment"
               : error == EHOSTDOWN                 ? "the partition that hosts it does not answer"
                                                    : "cannot be removed");
    input->failed++;
}

/* @listed: it was there a moment ago, so that it is no failure if it is gone. */
static void remove_id(struct input *input, int32_t id, const char *object, bool listed)
{
    if (xp_shmctl(id, IPC_RMID, NULL) != 0) {
        if (!listed || (errno != EINVAL && errno != EIDRM))
            failed(input, object, errno);
        return;
    }
    input->removed++;
    if (input->verbose)
        printf("removed segment %d\n", id);
}

static void remove_target(struct input *input, const struct target *target)
{
    int id = target->value;

    if (target->by_key && (id = xp_shmget(target->value, 0, 0)) < 0)
        failed(input, target->text, errno);
    else
        remove_id(input, id, target->text, false);
}

/* What the caller owns or made; a segment that went meanwhile is no failure. */
static int remove_all(struct input *input, struct tool_conn *conn)
{
    CLEANUP(segments_deinit) struct segments s = {.n = 0};
    int r = segments_list(&s, conn);

    if (r != 0)
        return (int)tool_failed(conn, "segments", r, "the daemon did not say which there are");
    for (size_t i = 0; i < s.n; i++) {
        const struct fabric_stat *stat = &s.segment[i].stat.stat;
        char object[16];

        if ((stat->uid != geteuid() && stat->cuid != geteuid()) || (stat->mode & SHM_DEST) != 0)
            continue;
        snprintf(object, sizeof(object), "%d", s.segment[i].stat.shmid);
        remove_id(input, s.segment[i].stat.shmid, object, true);
    }
    return TOOL_DONE;
}

static int remove_them(struct input *input)
{
    CLEANUP_CONN struct tool_conn *conn = NULL;
    enum tool_status status = tool_connect(&input->tool, &conn); /* so that an absent daemon is said once */
    int r = TOOL_DONE;

    if (status != TOOL_DONE)
        return (int)status;
    for (size_t i = 0; i < input->n; i++)
        remove_target(input, &input->target[i]);
    if (input->all)
        r = remove_all(input, conn);
    if (input->tool.json)
        printf("{\"removed\": %zu, \"failed\": %zu}\n", input->removed, input->failed);
    return r == TOOL_DONE && input->failed > 0 ? TOOL_FAILED : r;
}

int main(int argc, char **argv)
{
    static const struct argp_child children[] = {{.argp = &tool_argp}, {0}};
    static const struct argp argp = {
        .options = options,
        .parser = parse,
        .args_doc = "[ID...]",
        .doc = "Remove shared memory segments of the fabric. One that is still attached goes with its last detach.",
        .children = children,
    };
    struct input input = {.n = 0};
    int status;

    tool_init(argv);
    argp_parse(&argp, argc, argv, 0, NULL, &input);
    tool_export(&input.tool);
    status = remove_them(&input);
    free(input.target);
    return tool_finish(status);
}
